//! Owns which partition a record goes to: by its key as Java's producer does it, or in runs without one.

use crate::io::entropy::Random;

/// The partition that Java's default partitioner chooses for a key, so that both send equal keys to one place.
pub fn partition_of_key(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

/// MurmurHash2 with the seed of Kafka's `Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// For records without a key: stays with one partition for a batch's worth of bytes, then picks another, so that
/// batches fill (KIP-480, KIP-794).
#[derive(Debug)]
pub struct Sticky {
    random: Random,
    current: usize,
    bytes_left: usize,
}

impl Sticky {
    pub fn new(seed: u64) -> Sticky {
        Sticky {
            random: Random::new(seed),
            current: 0,
            bytes_left: 0,
        }
    }

    /// The partition of the current run, while a record of `bytes` still belongs to it.
    pub fn stay(&mut self, bytes: usize) -> Option<usize> {
        self.bytes_left = self.bytes_left.checked_sub(bytes)?;
        Some(self.current)
    }

    /// Begins a run of `run_bytes` with one of `candidates`, of which there is at least one.
    pub fn switch(&mut self, candidates: &[usize], run_bytes: usize) -> usize {
        let index = self.random.below(candidates.len() as u64) as usize;
        self.current = candidates[index];
        self.bytes_left = run_bytes;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_javas() {
        let cases: [(&str, i32); 6] = [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58897971,
            ),
            ("abc", 479470107),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text}");
        }
    }

    #[test]
    fn keyless_records_come_in_runs_over_all_candidates() {
        let mut sticky = Sticky::new(7);
        let chosen: Vec<usize> = (0..1000)
            .map(|_| {
                sticky
                    .stay(10)
                    .unwrap_or_else(|| sticky.switch(&[0, 2, 3], 90))
            })
            .collect();
        for run in chosen.chunks(10) {
            assert!(run.iter().all(|partition| *partition == run[0]));
        }
        for candidate in [0, 2, 3] {
            assert!(chosen.contains(&candidate));
        }
        assert!(!chosen.contains(&1));
    }
}
