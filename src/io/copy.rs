//! Owns copies into memory that nobody reads soon. An ordinary copy first fetches each line of the
//! destination only to overwrite it; at 64 KiB a piece into the tail caches, which are larger than any
//! processor cache, that is half of its time.
#![allow(unsafe_code, reason = "streaming stores are intrinsics on raw memory")]

/// Below this the destination may well be read at once, and the fence costs more than it saves.
const STREAMED_BYTES_LEAST: usize = 16 << 10;

/// Copies as `ptr::copy_nonoverlapping` does, past the caches where that pays.
///
/// # Safety
/// `source` is readable and `target` writable for `length` bytes, and they do not overlap.
pub(super) unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
    #[cfg(target_arch = "x86_64")]
    if length >= STREAMED_BYTES_LEAST && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: as the caller promised; the processor has the instructions.
        return unsafe { streamed(source, target, length) };
    }
    // SAFETY: as the caller promised.
    unsafe { std::ptr::copy_nonoverlapping(source, target, length) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn streamed(source: *const u8, target: *mut u8, length: usize) {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    const VECTOR: usize = size_of::<__m256i>();
    const LINE_PAIR: usize = 4 * VECTOR;

    let mut at = target.align_offset(VECTOR).min(length);
    // SAFETY: every access lies within `length` bytes of both; stores go to multiples of a vector.
    unsafe {
        std::ptr::copy_nonoverlapping(source, target, at);
        while at + LINE_PAIR <= length {
            for vector in 0..4 {
                let offset = at + vector * VECTOR;
                let bytes = _mm256_loadu_si256(source.add(offset).cast());
                _mm256_stream_si256(target.add(offset).cast(), bytes);
            }
            at += LINE_PAIR;
        }
        std::ptr::copy_nonoverlapping(source.add(at), target.add(at), length - at);
    }
    // Streamed stores are ordered with nothing: other threads must see them before what follows.
    _mm_sfence();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_at_every_alignment_and_length() {
        let source: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
        for offset in 0..70 {
            for length in [
                0,
                1,
                5,
                STREAMED_BYTES_LEAST,
                20_000 + offset,
                33_000 - 7 * offset,
            ] {
                let mut target = vec![0xee; length + offset + 1];
                // SAFETY: both have `length` bytes from there on.
                unsafe {
                    copy(
                        source[offset..].as_ptr(),
                        target[offset..].as_mut_ptr(),
                        length,
                    )
                };
                assert!(target[..offset].iter().all(|&byte| byte == 0xee));
                assert_eq!(target[offset..][..length], source[offset..][..length]);
                assert_eq!(target[offset + length], 0xee);
            }
        }
    }
}
