//! Connections that wait in WAIT, by when their time is over; those that end before are taken off.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// The waits of a core, the next to end first: when, and the connection's number.
#[derive(Debug, Default)]
pub struct Waits(RefCell<BTreeSet<(u64, u64)>>);

impl Waits {
    /// Takes note of the wait of a connection; it may be known already.
    pub fn note(&self, until_ns: u64, conn: u64) {
        // One without an end needs no clock: only the client ends it.
        if until_ns != u64::MAX {
            self.0.borrow_mut().insert((until_ns, conn));
        }
    }

    /// Forgets the wait of a connection that is closed, if it has one.
    pub fn forget(&self, until_ns: Option<u64>, conn: u64) {
        if let Some(until_ns) = until_ns {
            self.0.borrow_mut().remove(&(until_ns, conn));
        }
    }

    /// When the next one is over, on the monotonic clock.
    pub fn next_ns(&self) -> Option<u64> {
        self.0.borrow().first().map(|(until_ns, _)| *until_ns)
    }

    /// Takes the connection whose wait is over first, if any is.
    pub fn take_due(&self, now_ns: u64) -> Option<u64> {
        let mut waits = self.0.borrow_mut();
        if waits.first()?.0 > now_ns {
            return None;
        }
        waits.pop_first().map(|(_, conn)| conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_a_wait_that_its_connection_does_not_outlive() {
        let waits = Waits::default();
        for conn in 0..1000 {
            waits.note(5000 - conn, conn);
            waits.note(u64::MAX, conn);
        }
        assert_eq!(waits.next_ns(), Some(4001));
        assert_eq!((waits.take_due(4001), waits.take_due(4001)), (Some(999), None));
        for conn in 0..1000 {
            waits.forget(Some(5000 - conn), conn);
            waits.forget(Some(u64::MAX), conn);
            waits.forget(None, conn);
        }
        assert_eq!((waits.next_ns(), waits.0.borrow().len()), (None, 0));
    }
}
