//! The heap of a core's thread, in so far as it must be told when there is time to give memory back.

/// Gives what this thread's heap holds free, and what threads that have ended left, back to the system. Takes from
/// microseconds to milliseconds, by how much there is. mimalloc does so by itself only beside other calls, so a core at
/// rest would keep what its last load, or the start, left behind. Without effect where mimalloc is not the allocator.
pub fn give_back() {
    // SAFETY: the function takes a flag and no memory; it may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
