//! Owns the checksum of batches and snapshots: CRC-32C, with the widest instructions the processor has.

use crc_fast::{CrcAlgorithm, checksum};

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("32 bits")
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn agrees_with_the_standard_and_with_another_implementation() {
        // The check value of the catalogue of CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> = (0..70_000_u32)
            .map(|n| (n.wrapping_mul(n) % 251) as u8)
            .collect();
        for length in (0..600).chain([4095, 4096, 65_537, 69_990]) {
            for start in [0, 1, 7] {
                let piece = &bytes[start..start + length];
                assert_eq!(crc32c(piece), crc32c::crc32c(piece), "{length} bytes");
            }
        }
    }
}
