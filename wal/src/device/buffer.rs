//! Memory as the disk wants it: aligned to [`BLOCK_BYTES`], reused, and known to the ring where it can be.
//!
//! Invariant: every byte of a buffer is initialised from its first moment, and its address never changes.

#![allow(unsafe_code, reason = "allocates aligned memory")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::BLOCK_BYTES;

/// Unregistered bytes that a pool keeps for reuse at most; more is given back to the allocator.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// The index of a buffer in the table of the ring that registered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Registration {
    /// The pool, so that a buffer handed to another device is not taken for one of its own.
    pub(super) pool: u32,
    /// Its index in the ring's table.
    pub(super) index: u16,
}

/// A piece of memory whose address and size are multiples of [`BLOCK_BYTES`].
pub struct AlignedBuffer {
    start: NonNull<u8>,
    bytes: usize,
    registration: Option<Registration>,
}

// SAFETY: the buffer owns its memory alone, like a `Box<[u8]>`; nothing in it is tied to a thread.
unsafe impl Send for AlignedBuffer {}
// SAFETY: a shared reference gives out `&[u8]` only.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// Zeroed memory of at least `min_bytes`, rounded up to whole blocks (one at least).
    #[must_use]
    pub fn zeroed(min_bytes: usize) -> Self {
        let bytes = min_bytes.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is not zero, as `bytes` is at least one block.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, bytes, registration: None }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, BLOCK_BYTES)
            .expect("a buffer's size fits the address space: it was allocated or is a caller's length")
    }

    pub(super) fn registration(&self) -> Option<Registration> {
        self.registration
    }

    pub(super) fn set_registration(&mut self, registration: Option<Registration>) {
        self.registration = registration;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points at `bytes` bytes that this buffer owns, initialised by `alloc_zeroed`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive. While the kernel uses the memory the
        // buffer itself is owned by the device, so nobody can hold this borrow.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer")
            .field("bytes", &self.bytes)
            .field("registration", &self.registration)
            .finish_non_exhaustive()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed nowhere else. If the memory is
        // registered with a ring, the kernel holds its pages by reference count, not by this mapping.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.bytes)) }
    }
}

/// Buffers that came back, waiting to be used again.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    free: Vec<AlignedBuffer>,
    /// Bytes of the unregistered ones in `free`.
    kept_bytes: usize,
}

impl BufferPool {
    /// A pool that starts with these buffers.
    pub(super) fn new(buffers: Vec<AlignedBuffer>) -> Self {
        let kept_bytes = buffers.iter().filter(|b| b.registration.is_none()).map(|b| b.len()).sum();
        Self { free: buffers, kept_bytes }
    }

    /// The smallest free buffer of `min_bytes` or more, or a new one of a power of two of blocks.
    pub(super) fn take(&mut self, min_bytes: usize) -> AlignedBuffer {
        let fit = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, b)| b.len() >= min_bytes)
            .min_by_key(|(_, b)| (b.len(), b.registration.is_none()))
            .map(|(index, _)| index);
        match fit {
            Some(index) => {
                let buffer = self.free.swap_remove(index);
                if buffer.registration.is_none() {
                    self.kept_bytes -= buffer.len();
                }
                buffer
            }
            None => AlignedBuffer::zeroed(min_bytes.max(BLOCK_BYTES).next_power_of_two()),
        }
    }

    /// Takes a buffer back; frees it where enough is kept already.
    pub(super) fn put(&mut self, buffer: AlignedBuffer) {
        if buffer.registration.is_none() {
            if self.kept_bytes + buffer.len() > KEPT_BYTES_MAX {
                return;
            }
            self.kept_bytes += buffer.len();
        }
        self.free.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_zeroed_and_whole_blocks() {
        for ask in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 << 20] {
            let buffer = AlignedBuffer::zeroed(ask);
            assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(buffer.len() % BLOCK_BYTES, 0);
            assert!(buffer.len() >= ask.max(1));
            assert!(buffer.iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn pool_reuses_the_smallest_fit() {
        let mut pool = BufferPool::default();
        let (small, large) = (pool.take(BLOCK_BYTES), pool.take(1 << 20));
        let (at_small, at_large) = (small.as_ptr(), large.as_ptr());
        pool.put(large);
        pool.put(small);
        assert_eq!(pool.take(100).as_ptr(), at_small);
        assert_eq!(pool.take(BLOCK_BYTES + 1).as_ptr(), at_large);
    }

    #[test]
    fn pool_does_not_hoard() {
        let mut pool = BufferPool::default();
        let many: Vec<_> = (0..20).map(|_| pool.take(1 << 20)).collect();
        many.into_iter().for_each(|b| pool.put(b));
        assert_eq!(pool.kept_bytes, KEPT_BYTES_MAX);
        assert_eq!(pool.free.len(), KEPT_BYTES_MAX >> 20);
    }
}
