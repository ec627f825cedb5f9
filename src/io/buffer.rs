//! Owns aligned memory that one writer appends to while others, on any thread, read slices of what
//! is already there. Slices keep the memory alive. Nothing here copies twice, zeroes or moves.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;

use super::copy::copy;
use super::huge_pages::{self, HUGE_PAGE, HugePage};
use super::prefetch::prefetch_range;

/// What direct I/O aligns to: positions, lengths and memory.
pub const BLOCK: usize = 4096;

/// Allocations of these sizes are kept for reuse: fresh ones cost a page fault for every 4 KiB.
const POOLED_BYTES: [usize; 3] = [256 << 10, 1 << 20, HUGE_PAGE];
const HUGE_POOL: usize = 2;
const POOLED_MAX: usize = 8;

thread_local! {
    /// How many huge pages the pool keeps.
    static KEPT: Cell<usize> = const { Cell::new(POOLED_MAX) };
    static POOLS: [RefCell<Vec<Allocation>>; 3] = const { [const { RefCell::new(Vec::new()) }; 3] };
}

fn pool_of(capacity: usize) -> Option<usize> {
    POOLED_BYTES.iter().position(|&pooled| pooled == capacity)
}

/// Memory aligned to [`BLOCK`]. The bytes that slices cover are initialised and never change again.
struct Allocation {
    memory: Memory,
    capacity: usize,
}

enum Memory {
    Heap(NonNull<u8>),
    HugePage(HugePage),
}

// SAFETY: the memory is owned, and what is shared of it is never written again (AppendBuffer).
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(capacity: usize) -> Allocation {
        if let Some(pool) = pool_of(capacity)
            && let Some(pooled) = POOLS.with(|pools| pools[pool].borrow_mut().pop())
        {
            return pooled;
        }
        let layout = Self::layout(capacity);
        let memory = match capacity {
            HUGE_PAGE => HugePage::map().map(Memory::HugePage),
            // SAFETY: capacity is not 0 (asserted by AppendBuffer).
            _ => NonNull::new(unsafe { alloc(layout) }).map(Memory::Heap),
        };
        let Some(memory) = memory else {
            handle_alloc_error(layout)
        };
        Allocation { memory, capacity }
    }

    fn start(&self) -> *mut u8 {
        match &self.memory {
            Memory::Heap(memory) => memory.as_ptr(),
            Memory::HugePage(page) => page.start(),
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK).expect("a capacity below isize::MAX")
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Memory::Heap(memory) = self.memory {
            // SAFETY: allocated with this layout, and nobody holds it any more.
            unsafe { dealloc(memory.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

/// An allocation that its last owner hands back to the pool of the thread it stands on.
struct Shared(Option<Allocation>);

impl Shared {
    fn start(&self) -> *mut u8 {
        self.0.as_ref().expect("present until dropped").start()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let allocation = self.0.take().expect("present until dropped");
        if let Some(pool) = pool_of(allocation.capacity) {
            // The pool may be gone while its thread ends: then the memory is simply freed.
            let _ = POOLS.try_with(|pools| {
                let most = match pool {
                    HUGE_POOL => KEPT.get(),
                    _ => POOLED_MAX,
                };
                let mut pool = pools[pool].borrow_mut();
                if pool.len() < most {
                    pool.push(allocation);
                }
            });
        }
    }
}

/// What a slice owns: a stretch of an allocation.
struct Stretch {
    allocation: Arc<Shared>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Stretch {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: AppendBuffer::slice checked that the range is initialised, and it never writes
        // below what it has shared.
        unsafe {
            std::slice::from_raw_parts(
                self.allocation.start().add(self.range.start),
                self.range.len(),
            )
        }
    }
}

/// An aligned buffer that grows at its end only.
///
/// ```
/// let mut buffer = coati::io::AppendBuffer::with_capacity(4096);
/// let range = buffer.append(b"hello");
/// buffer.patch(range.start, b"J");
/// let slice = buffer.slice(range);
/// buffer.append(b" world");
/// assert_eq!(&slice[..], b"Jello");
/// ```
pub struct AppendBuffer {
    allocation: Arc<Shared>,
    capacity: usize,
    length: usize,
    /// Bytes at the start whose content is not known yet (see `with_gap`).
    gap: usize,
    /// Everything below was sliced, so it never changes again.
    shared: Cell<usize>,
}

impl AppendBuffer {
    /// `capacity` is a multiple of [`BLOCK`], not 0.
    pub fn with_capacity(capacity: usize) -> AppendBuffer {
        AppendBuffer::with_gap(capacity, 0)
    }

    /// A buffer whose first `gap` bytes are filled in later, by `fill_gap`; until then they
    /// cannot be sliced.
    pub fn with_gap(capacity: usize, gap: usize) -> AppendBuffer {
        assert!(capacity > 0 && capacity.is_multiple_of(BLOCK) && gap <= capacity);
        AppendBuffer {
            allocation: Arc::new(Shared(Some(Allocation::new(capacity)))),
            capacity,
            length: gap,
            gap,
            shared: Cell::new(0),
        }
    }

    /// Whether a buffer of [`HUGE_PAGE`] can be had here without waiting for the page. Pages are readied by `huge_pages`.
    pub fn huge_page_is_ready() -> bool {
        POOLS.with(|pools| {
            let mut pool = pools[HUGE_POOL].borrow_mut();
            if pool.is_empty() {
                pool.extend(huge_pages::take().map(|page| Allocation {
                    memory: Memory::HugePage(page),
                    capacity: HUGE_PAGE,
                }));
            }
            !pool.is_empty()
        })
    }

    /// From now on this thread keeps as many bytes of huge pages that nobody uses, and a few at least: to have them back
    /// from the system is dear.
    pub fn keep_huge_pages(bytes: usize) {
        let most = (bytes / HUGE_PAGE).max(POOLED_MAX);
        if KEPT.replace(most) > most {
            POOLS.with(|pools| pools[HUGE_POOL].borrow_mut().truncate(most));
        }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.length
    }

    pub fn gap(&self) -> usize {
        self.gap
    }

    /// Copies `bytes` to the end; they must fit.
    pub fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        assert!(bytes.len() <= self.room());
        let start = self.length;
        self.write(start, bytes);
        self.length += bytes.len();
        // The next is likely as long, and after so many other buffers' that its place is in no cache.
        let ahead = bytes.len().min(self.room());
        prefetch_range(self.allocation.start().wrapping_add(self.length), ahead);
        start..self.length
    }

    /// Overwrites bytes that nobody was given yet.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        assert!(at >= self.shared.get().max(self.gap) && at + bytes.len() <= self.length);
        self.write(at, bytes);
    }

    /// Gives the gap its content, of exactly its length.
    pub fn fill_gap(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.gap);
        self.write(0, bytes);
        self.gap = 0;
    }

    /// The bytes of `range`, shared, not copied. They can no longer be patched.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start >= self.gap && range.start <= range.end && range.end <= self.length);
        if range.is_empty() {
            return Bytes::new();
        }
        self.shared.set(self.shared.get().max(range.end));
        Bytes::from_owner(Stretch {
            allocation: self.allocation.clone(),
            range,
        })
    }

    /// The bytes of `range`, to look at or copy; they may still be patched later.
    pub fn peek(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start >= self.gap && range.start <= range.end && range.end <= self.length);
        // SAFETY: the range is initialised, and nothing writes here while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.allocation.start().add(range.start), range.len()) }
    }

    /// A copy of what lies in `range` (less than a block), with zeroes up to a whole block: the last
    /// write of a log ends in one, because the kernel must not read memory that still grows.
    pub fn padded_block(&self, range: Range<usize>) -> Bytes {
        assert!(range.start >= self.gap && range.start <= range.end && range.end <= self.length);
        assert!(range.len() <= BLOCK);
        let mut block = AppendBuffer::with_capacity(BLOCK);
        // SAFETY: the range is initialised, and the two allocations differ.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.allocation.start().add(range.start), range.len())
        };
        block.append(bytes);
        block.append(&[0; BLOCK][range.len()..]);
        block.slice(0..BLOCK)
    }

    /// Where the kernel puts what it reads into an empty buffer.
    pub(super) fn start(&mut self) -> *mut u8 {
        assert_eq!(self.length, 0);
        self.allocation.start()
    }

    /// # Safety
    /// The first `length` bytes were written at [`AppendBuffer::start`].
    pub(super) unsafe fn set_len(&mut self, length: usize) {
        assert!(length <= self.capacity);
        self.length = length;
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        // SAFETY: in bounds (callers asserted), and no slice covers these bytes: slices end at
        // `shared` and start after the gap, writes go above the first or into the second.
        unsafe {
            copy(bytes.as_ptr(), self.allocation.start().add(at), bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_outlive_the_buffer_and_cross_threads() {
        let mut buffer = AppendBuffer::with_capacity(POOLED_BYTES[1]);
        let range = buffer.append(&[7; 5000]);
        let slice = buffer.slice(range);
        buffer.append(&[8; 5000]);
        drop(buffer);
        let sum = std::thread::spawn(move || slice.iter().map(|&byte| usize::from(byte)).sum());
        let sum: usize = sum.join().expect("no panic");
        assert_eq!(sum, 35_000);
    }

    #[test]
    fn more_than_the_pool_keeps_is_given_back() {
        for _ in 0..2 {
            let mut buffers: Vec<_> = (0..=POOLED_MAX)
                .map(|_| AppendBuffer::with_capacity(HUGE_PAGE))
                .collect();
            for buffer in &mut buffers {
                assert_eq!(buffer.start() as usize % HUGE_PAGE, 0);
                let range = buffer.append(&vec![7; HUGE_PAGE]);
                assert_eq!(buffer.slice(range)[HUGE_PAGE - 1], 7);
            }
        }
        let kept = || POOLS.with(|pools| pools[HUGE_POOL].borrow().len());
        assert_eq!(kept(), POOLED_MAX);
        AppendBuffer::keep_huge_pages((POOLED_MAX + 2) * HUGE_PAGE);
        let more = [0; POOLED_MAX + 3].map(|_| AppendBuffer::with_capacity(HUGE_PAGE));
        drop(more);
        assert_eq!(kept(), POOLED_MAX + 2);
        AppendBuffer::keep_huge_pages(0);
        assert_eq!(kept(), POOLED_MAX);
    }

    #[test]
    fn huge_pages_become_ready_once_one_was_asked_for() {
        huge_pages::start();
        let patience = 10_000;
        assert!((0..patience).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            AppendBuffer::huge_page_is_ready()
        }));
        AppendBuffer::with_capacity(HUGE_PAGE).append(&vec![7; HUGE_PAGE]);
    }

    #[test]
    fn memory_is_aligned_and_padded_with_zeroes() {
        let mut buffer = AppendBuffer::with_gap(2 * BLOCK, 10);
        buffer.append(b"data");
        buffer.fill_gap(b"0123456789");
        let block = buffer.padded_block(0..14);
        assert_eq!(block.as_ptr() as usize % BLOCK, 0);
        assert_eq!(&block[..14], b"0123456789data");
        assert!(block[14..].iter().all(|&byte| byte == 0));
        assert_eq!(buffer.slice(0..14).as_ptr() as usize % BLOCK, 0);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn shared_bytes_cannot_be_patched() {
        let mut buffer = AppendBuffer::with_capacity(BLOCK);
        let range = buffer.append(b"data");
        let _slice = buffer.slice(range);
        buffer.patch(0, b"x");
    }
}
