//! Owns asking the processor for memory that is looked at soon. What another core wrote last takes a quarter of a
//! microsecond a line to come where the cores share no cache; lines that are asked for together come together.
#![allow(unsafe_code, reason = "the hint is an intrinsic on an address")]

/// The most lines of one value that are asked for: what a core can wait for at a time is a few more.
const LINES: usize = 8;
const LINE: usize = 64;

/// Has the value come to this core's cache, or its first bytes.
pub fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        for offset in (0..size_of_val(value)).step_by(LINE).take(LINES) {
            // SAFETY: a hint without effect on what the program does; the address is within the value.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _without_a_stable_hint = value;
}
