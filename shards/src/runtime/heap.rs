//! The heap: how much of it is in use, and what of it can be given back when there is time.

#![allow(unsafe_code, reason = "is the allocator")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// How far a thread's count may be ahead of what all can see.
const UNCOUNTED_MAX: i64 = 32 << 10;

static IN_USE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// What this thread allocated and freed since it was last added to [`IN_USE`].
    static UNCOUNTED: Cell<i64> = const { Cell::new(0) };
}

/// mimalloc, with a count of the bytes that are allocated: each thread keeps its own and adds it up now and then, so that
/// no two cores write to one counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted;

#[inline]
fn count(bytes: i64) {
    // A thread that is about to end may have lost its count already.
    let _ = UNCOUNTED.try_with(|uncounted| {
        let sum = uncounted.get() + bytes;
        if sum.abs() < UNCOUNTED_MAX {
            uncounted.set(sum);
        } else {
            uncounted.set(0);
            let in_use = IN_USE.fetch_add(sum, Relaxed) + sum;
            if in_use > PEAK.load(Relaxed) {
                PEAK.fetch_max(in_use, Relaxed);
            }
        }
    });
}

// SAFETY: every call is mimalloc's own with the layout's size and alignment; counting touches no memory of the caller's and
// allocates nothing.
unsafe impl GlobalAlloc for Counted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout is the caller's, which vouches for it.
        let pointer = unsafe { libmimalloc_sys::mi_malloc_aligned(layout.size(), layout.align()) };
        if !pointer.is_null() {
            count(layout.size() as i64);
        }
        pointer.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let pointer = unsafe { libmimalloc_sys::mi_zalloc_aligned(layout.size(), layout.align()) };
        if !pointer.is_null() {
            count(layout.size() as i64);
        }
        pointer.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller vouches that the pointer came from here and is not used again.
        unsafe { libmimalloc_sys::mi_free(pointer.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`; the new size is the caller's.
        let moved = unsafe { libmimalloc_sys::mi_realloc_aligned(pointer.cast(), size, layout.align()) };
        if !moved.is_null() {
            count(size as i64 - layout.size() as i64);
        }
        moved.cast()
    }
}

/// What the heap holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeapUse {
    /// Bytes allocated, up to 32 KiB a thread more or less. 0 where [`Counted`] is not the allocator.
    pub in_use: u64,
    /// The most there ever were.
    pub peak: u64,
    /// Bytes that the allocator has from the system.
    pub committed: u64,
}

/// How much of the heap is in use.
#[must_use]
pub fn in_use() -> HeapUse {
    let in_use = IN_USE.load(Relaxed).max(0) as u64;
    let peak = (PEAK.load(Relaxed).max(0) as u64).max(in_use);
    let [mut elapsed, mut user, mut system, mut rss, mut peak_rss, mut committed, mut most, mut faults] =
        [0; 8];
    // SAFETY: each pointer is to a `usize` of this frame, which the function writes once.
    unsafe {
        libmimalloc_sys::mi_process_info(
            &mut elapsed,
            &mut user,
            &mut system,
            &mut rss,
            &mut peak_rss,
            &mut committed,
            &mut most,
            &mut faults,
        );
    }
    HeapUse { in_use, peak, committed: committed as u64 }
}

/// Gives what this thread's heap holds free, and what threads that have ended left, back to the system. Takes from
/// microseconds to milliseconds, by how much there is. mimalloc does so by itself only beside other calls, so a core at
/// rest would keep what its last load, or the start, left behind. Without effect where mimalloc is not the allocator.
pub fn give_back() {
    // SAFETY: the function takes a flag and no memory; it may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted_until_it_is_freed() {
        let before = in_use().in_use;
        let layout = Layout::from_size_align(10 << 20, 64).unwrap();
        // SAFETY: the layout has a size; the pointer is freed with the layout that it last had, and only once.
        let after = unsafe {
            let pointer = Counted.alloc_zeroed(layout);
            assert!(!pointer.is_null() && (pointer as usize).is_multiple_of(64));
            let pointer = Counted.realloc(pointer, layout, 20 << 20);
            assert_eq!(*pointer, 0);
            let during = in_use();
            assert!(during.in_use >= before + (19 << 20) && during.peak >= during.in_use, "{during:?}");
            Counted.dealloc(pointer, Layout::from_size_align(20 << 20, 64).unwrap());
            in_use()
        };
        assert!(after.in_use < before + (1 << 20), "{after:?}");
    }
}
