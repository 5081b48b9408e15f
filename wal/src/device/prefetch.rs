//! Fetching what is needed soon into the processor's caches, many at a time.
//!
//! A turn meets hundreds of logs, each of whose memory was last touched some turns ago: one after the other, each wait
//! for memory costs a tenth of a microsecond, while a processor can wait for a dozen at once. Invariant: a hint alone,
//! which changes nothing but time.

#![allow(unsafe_code, reason = "the processor's instruction has no safe form")]

use std::collections::VecDeque;

/// Bytes that memory and caches exchange at a time.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// More of one value is not fetched: it would drive out what is needed first.
#[cfg(target_arch = "x86_64")]
const VALUE_BYTES_MAX: usize = 1024;

/// Has a value fetched, or the first KiB of it, and not what it points to. Does not wait for it.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    lines(std::ptr::from_ref(value).cast::<u8>(), size_of_val(value));
}

/// Has the oldest element of a queue fetched, or, if it is empty, the memory that the next one goes to, as far as that is known:
/// in a queue with room for one.
#[inline]
pub fn prefetch_front<T>(queue: &VecDeque<T>) {
    match queue.front() {
        Some(oldest) => prefetch(oldest),
        None => lines(queue.as_slices().0.as_ptr().cast::<u8>(), size_of::<T>()),
    }
}

/// Has memory fetched, whether there is something or not.
#[inline]
fn lines(start: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = start.wrapping_sub(start.addr() % LINE_BYTES);
        let end = start.addr() + bytes.clamp(1, VALUE_BYTES_MAX);
        for offset in (0..end - first.addr()).step_by(LINE_BYTES) {
            // SAFETY: the instruction reads nothing that could be seen, and faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(offset).cast::<i8>()) }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}
