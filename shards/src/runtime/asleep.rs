//! Whether a core sleeps: the flag of its doorbell, and the one rule by which no wake-up is lost.
//!
//! The sleeper sets the flag, then looks at its queues; the caller fills a queue, then looks at the flag; a fence stands
//! between the two steps of each. So at least one of them sees what the other did. The flag is a type parameter so that a
//! test can try every interleaving of the code that runs.

use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An atomic flag, and a fence.
pub trait Flag {
    /// Reads it, in no order.
    fn load(&self) -> bool;
    /// Writes it, in no order.
    fn store(&self, value: bool);
    /// Takes it down; whether it was up.
    fn take(&self) -> bool;
    /// Orders everything before against everything behind, for all threads alike.
    fn fence();
}

impl Flag for AtomicBool {
    fn load(&self) -> bool {
        self.load(Ordering::Relaxed)
    }

    fn store(&self, value: bool) {
        self.store(value, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.swap(false, Ordering::Relaxed)
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Asleep<F>(F);

impl<F: Flag> Asleep<F> {
    /// The sleeper's first step: it looks at its queues after this.
    pub fn prepare(&self) {
        self.0.store(true);
        F::fence();
    }

    /// The sleeper is awake, and looks at its queues before it sleeps again.
    pub fn end(&self) {
        self.0.store(false);
    }

    /// The caller's second step, after it has filled a queue: whether it has to ring. One caller alone rings a sleeper.
    pub fn must_ring(&self) -> bool {
        F::fence();
        self.0.load() && self.0.take()
    }
}

#[cfg(test)]
mod tests;
