//! The doorbell of a device: an eventfd that a runtime waits on, rung by the ring and by the helper thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// An eventfd. In blocking mode, so that a runtime's read of it through a ring waits instead of failing.
#[derive(Debug)]
pub(super) struct WakeFd(OwnedFd);

impl WakeFd {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Wakes whoever waits, now or next.
    pub(super) fn ring(&self) {
        // The count would have to pass 2^64 - 2 before this could block or fail.
        while rustix::io::write(&self.0, &1_u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Waits until it was rung since the last wait, or until `timeout`, and resets it. Whether it was rung.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout =
            Timespec::try_from(timeout).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => {
                rustix::io::read(&self.0, &mut [0_u8; 8])?;
                Ok(true)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for WakeFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost() {
        let wake = WakeFd::new().unwrap();
        assert!(!wake.wait(Duration::from_millis(1)).unwrap());
        wake.ring();
        wake.ring();
        assert!(wake.wait(Duration::from_secs(10)).unwrap());
        assert!(!wake.wait(Duration::from_millis(1)).unwrap());
    }
}
