//! A core's doorbell: an eventfd that is written only while the core sleeps.
//!
//! Protocol. The sleeper: `prepare_sleep`, then look at every queue once more, then wait on the descriptor (or stay
//! awake by `awake`). The caller: put the message into its queue, then `ring`. Either the sleeper's second look sees
//! the message or the caller sees the flag: no wake-up is lost, and a core that is awake costs its callers one load.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::asleep::Asleep;

/// One core's doorbell; shared by all who may wake it.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
    asleep: Asleep<AtomicBool>,
    wakes: AtomicU64,
}

impl Doorbell {
    /// A doorbell of a core that is awake.
    ///
    /// # Errors
    /// What the system says; out of descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, asleep: Asleep::default(), wakes: AtomicU64::new(0) })
    }

    /// The descriptor to wait on; each ring is an edge, read or not.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The owner is about to sleep; it must look at its queues once more after this.
    pub fn prepare_sleep(&self) {
        self.asleep.prepare();
    }

    /// The owner is awake, and looks at its queues before it sleeps again.
    pub fn awake(&self) {
        self.asleep.end();
    }

    /// Wakes the owner if it sleeps. Call after the message is in its queue.
    pub fn ring(&self) {
        if self.asleep.must_ring() {
            self.ring_always();
        }
    }

    /// Writes the descriptor whether or not the owner sleeps.
    pub fn ring_always(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        // It can only fail after 2^64 - 2 rings: no process runs that long.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// How often the descriptor was written.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let bell = Doorbell::new().expect("eventfd");
        bell.ring();
        assert_eq!(bell.wakes(), 0);
        bell.prepare_sleep();
        bell.ring();
        bell.ring();
        assert_eq!(bell.wakes(), 1);
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(bell.fd(), &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
        bell.prepare_sleep();
        bell.awake();
        bell.ring();
        assert_eq!(bell.wakes(), 1);
    }
}
