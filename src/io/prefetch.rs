//! Owns asking the processor for memory that is looked at soon. What another core wrote last takes a quarter of a
//! microsecond a line to come where the cores share no cache; lines that are asked for together come together.
#![allow(unsafe_code, reason = "the hint is an intrinsic on an address")]

/// The most lines that are asked for at a time: a core can wait for a few more.
const LINES: usize = 8;
const LINE: usize = 64;

/// Has the value come to this core's cache, or its first bytes.
pub fn prefetch<T: ?Sized>(value: &T) {
    prefetch_range(std::ptr::from_ref(value).cast(), size_of_val(value));
}

/// As [`prefetch`], of memory that may not be initialised, to be written.
pub(super) fn prefetch_range(first: *const u8, length: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..length).step_by(LINE).take(LINES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, without effect on what the program does whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(offset).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _without_a_stable_hint = (first, length);
}
