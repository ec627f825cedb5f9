//! Owns huge pages that are ready for whoever needs one. The first touch of one clears all of it: 0.1 ms of a core, and some
//! milliseconds in a virtual machine whose host must find the memory first. So a thread of its own touches them.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Condvar, Mutex, PoisonError, TryLockError};

use super::{BLOCK, process};

/// Its bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// So many are ready of each memory node, once the first was asked for.
const READY: usize = 4;

/// By memory node: the pages that are ready.
static STOCKS: Mutex<BTreeMap<u32, Stock>> = Mutex::new(BTreeMap::new());
static ASKED: Condvar = Condvar::new();

#[derive(Default)]
struct Stock {
    pages: Vec<HugePage>,
    wanted: usize,
}

/// Memory of one huge page, or of as many small ones where the system has none to give.
pub(super) struct HugePage(NonNull<u8>);

// SAFETY: it owns its memory.
unsafe impl Send for HugePage {}

/// Begins to have pages ready, from a thread that may run wherever this one may; without, there are none.
pub fn start() {
    let prepared = std::thread::Builder::new().name("huge-pages".into());
    // Whoever finds none ready does without.
    if let Err(error) = prepared.spawn(prepare) {
        tracing::warn!(%error, "no huge pages: cannot start the thread that prepares them");
    }
}

/// One that is ready and near, if there is; asks for more. Never waits.
pub(super) fn take() -> Option<HugePage> {
    let mut stocks = match STOCKS.try_lock() {
        Ok(stocks) => stocks,
        Err(TryLockError::Poisoned(stocks)) => stocks.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    let stock = stocks.entry(process::memory_node()).or_default();
    stock.wanted = READY;
    ASKED.notify_one();
    stock.pages.pop()
}

fn prepare() {
    if let Err(error) = process::be_nice() {
        tracing::debug!(%error, "huge pages are prepared at the priority of all else");
    }
    let mut stocks = STOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let lacks = |stock: &Stock| stock.pages.len() < stock.wanted;
        let lacking = stocks.iter().find(|(_, stock)| lacks(stock));
        let Some(node) = lacking.map(|(node, _)| *node) else {
            stocks = ASKED.wait(stocks).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(stocks);
        let page = HugePage::touched(node);
        stocks = STOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        let stock = stocks.entry(node).or_default();
        match page {
            Some(page) => stock.pages.push(page),
            None => stock.wanted = 0, // Until somebody asks again.
        }
    }
}

impl HugePage {
    /// Past the allocator, whose heap is of small pages: with huge ones an idle broker would hold more memory.
    pub(super) fn map() -> Option<HugePage> {
        // SAFETY: a new mapping of twice the size holds an aligned stretch, which is kept; what lies before and behind it
        // is given back. Whether the advice is taken changes nothing but speed.
        unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                2 * HUGE_PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if start == libc::MAP_FAILED {
                return None;
            }
            let before = start.align_offset(HUGE_PAGE);
            let page = start.byte_add(before);
            if before > 0 {
                libc::munmap(start, before);
            }
            libc::munmap(page.byte_add(HUGE_PAGE), HUGE_PAGE - before);
            libc::madvise(page, HUGE_PAGE, libc::MADV_HUGEPAGE);
            NonNull::new(page.cast()).map(HugePage)
        }
    }

    /// Touched by writes: a request to the kernel for all of it would keep other threads from mapping memory meanwhile.
    fn touched(node: u32) -> Option<HugePage> {
        let page = HugePage::map()?;
        if let Err(error) = process::prefer_memory_of(node) {
            tracing::debug!(%error, node, "huge pages come from any memory node");
        }
        for at in (0..HUGE_PAGE).step_by(BLOCK) {
            // SAFETY: it lies within, and nobody else has the page.
            unsafe { page.0.add(at).write_volatile(0) };
        }
        Some(page)
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        // SAFETY: `map` made it, and nobody holds it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), HUGE_PAGE) };
    }
}
