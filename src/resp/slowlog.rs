//! SLOWLOG: the last commands that took longer than a limit, with the times of their stages. One for the node.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::StageTimes;

/// One slow command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowCommand {
    /// Its number, given by [`SlowLog::add`].
    pub id: u64,
    /// When it was answered, seconds since 1970.
    pub at_s: u64,
    /// From parsing to the reply, µs.
    pub took_us: u64,
    /// Its name and the start of its arguments.
    pub args: Vec<Vec<u8>>,
    /// The client's address.
    pub addr: String,
    /// The client's name.
    pub name: String,
    /// Where the time went, if the node knows.
    pub stages: Option<StageTimes>,
}

/// The log. Recording locks it, so only slow commands pay.
#[derive(Debug)]
pub struct SlowLog {
    slower_than_us: AtomicI64,
    max_len: AtomicU64,
    next_id: AtomicU64,
    entries: Mutex<VecDeque<SlowCommand>>,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            slower_than_us: AtomicI64::new(10_000),
            max_len: AtomicU64::new(128),
            next_id: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Whether a command that took so long belongs in the log.
    #[inline]
    pub fn is_slow(&self, took_ns: u64) -> bool {
        let limit = self.slower_than_us.load(Relaxed);
        limit >= 0 && took_ns / 1000 >= limit as u64
    }

    /// Records a command; the oldest goes if the log is full.
    pub fn add(&self, mut command: SlowCommand) {
        command.id = self.next_id.fetch_add(1, Relaxed);
        let mut entries = self.lock();
        entries.push_front(command);
        entries.truncate(self.max_len.load(Relaxed) as usize);
    }

    /// The newest `count`, newest first.
    pub fn newest(&self, count: usize) -> Vec<SlowCommand> {
        self.lock().iter().take(count).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all.
    pub fn reset(&self) {
        self.lock().clear();
    }

    /// The limit in µs (negative: nothing is slow) and the longest length.
    pub fn settings(&self) -> (i64, u64) {
        (self.slower_than_us.load(Relaxed), self.max_len.load(Relaxed))
    }

    /// Sets the limit in µs; negative: record nothing; 0: everything.
    pub fn set_slower_than_us(&self, limit: i64) {
        self.slower_than_us.store(limit, Relaxed);
    }

    /// Sets the longest length.
    pub fn set_max_len(&self, len: u64) {
        self.max_len.store(len, Relaxed);
        self.lock().truncate(len as usize);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<SlowCommand>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(took_us: u64) -> SlowCommand {
        SlowCommand {
            id: 0,
            at_s: 1,
            took_us,
            args: vec![],
            addr: String::new(),
            name: String::new(),
            stages: None,
        }
    }

    #[test]
    fn keeps_the_newest_up_to_its_length() {
        let log = SlowLog::default();
        log.set_max_len(2);
        (1..=3).for_each(|took_us| log.add(command(took_us)));
        let kept: Vec<_> = log.newest(10).iter().map(|entry| (entry.id, entry.took_us)).collect();
        assert_eq!(kept, [(2, 3), (1, 2)]);
        log.set_max_len(1);
        assert_eq!(log.len(), 1);
        log.reset();
        assert!(log.is_empty());
    }

    #[test]
    fn limits() {
        let log = SlowLog::default();
        assert!(!log.is_slow(9_999_999) && log.is_slow(10_000_000));
        log.set_slower_than_us(0);
        assert!(log.is_slow(0));
        log.set_slower_than_us(-1);
        assert!(!log.is_slow(u64::MAX));
    }
}
