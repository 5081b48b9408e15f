//! SLOWLOG: the last commands that took longer than a limit, with the times of their stages. One for the node.

mod brief;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use corduroy_shards::StageStamps;

pub use brief::{Brief, BriefIndex, Briefs};

/// Where the time of a logged request went: each stage from the end of the one before, in µs. As fine as turns are: a stage
/// ends when a turn sees it done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTimes {
    /// From parsing until a turn of its shard took it in: waiting for that core.
    pub queued_us: u64,
    /// Until it was proposed: waiting for the log to take a frame.
    pub proposed_us: u64,
    /// Until its frame was durable: the disk.
    pub durable_us: u64,
    /// Until it was committed and its turn to be applied came: the majority, and entries before it.
    pub applied_us: u64,
    /// Until its reply reached its session: carrying it out, and the way back.
    pub replied_us: u64,
}

impl StageTimes {
    /// Of a request parsed and answered at these times, on the clock of the stamps. A stamp that is missing, or from before
    /// the request (it joined others), makes a stage of no length.
    #[must_use]
    pub fn of(started_ns: u64, stamps: &StageStamps, replied_ns: u64) -> Self {
        let mut at_ns = started_ns;
        let mut until = |end_ns: u64| {
            let from_ns = at_ns;
            at_ns = from_ns.max(end_ns);
            // In whole µs since the start, so that the stages add up to the whole.
            (at_ns - started_ns) / 1000 - (from_ns - started_ns) / 1000
        };
        Self {
            queued_us: until(stamps.queued_ns.min(replied_ns)),
            proposed_us: until(stamps.proposed_ns.min(replied_ns)),
            durable_us: until(stamps.durable_ns.min(replied_ns)),
            applied_us: until(stamps.applied_ns.min(replied_ns)),
            replied_us: until(replied_ns),
        }
    }

    /// The stages in order, with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("queued_us", self.queued_us),
            ("proposed_us", self.proposed_us),
            ("durable_us", self.durable_us),
            ("applied_us", self.applied_us),
            ("replied_us", self.replied_us),
        ]
    }
}

/// One slow command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowCommand {
    /// Its number, given by [`SlowLog::add`].
    pub id: u64,
    /// When it was answered, seconds since 1970.
    pub at_s: u64,
    /// From parsing to the reply, µs.
    pub took_us: u64,
    /// Its arguments as they are shown, the name first.
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
    entries: Mutex<Entries>,
}

/// The entries, and what they take.
#[derive(Debug, Default)]
struct Entries {
    newest_first: VecDeque<SlowCommand>,
    bytes: usize,
}

/// What all entries may take, however many are wanted and however long their arguments are; the oldest go first.
const MAX_BYTES: usize = 16 << 20;

impl SlowCommand {
    fn held_bytes(&self) -> usize {
        let args: usize = self.args.iter().map(|arg| arg.capacity() + size_of::<Vec<u8>>()).sum();
        size_of::<Self>() + args + self.addr.capacity() + self.name.capacity()
    }
}

impl Entries {
    fn push(&mut self, command: SlowCommand, max_len: u64) {
        self.bytes += command.held_bytes();
        self.newest_first.push_front(command);
        self.truncate(max_len);
    }

    fn truncate(&mut self, max_len: u64) {
        while self.newest_first.len() as u64 > max_len || self.bytes > MAX_BYTES {
            let Some(oldest) = self.newest_first.pop_back() else { return };
            self.bytes -= oldest.held_bytes();
        }
    }
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
    /// Whether anything can be slow enough to be recorded.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.slower_than_us.load(Relaxed) >= 0
    }

    /// Whether a command that took so long belongs in the log.
    #[inline]
    pub fn is_slow(&self, took_ns: u64) -> bool {
        let limit = self.slower_than_us.load(Relaxed);
        limit >= 0 && took_ns / 1000 >= limit as u64
    }

    /// Whether a request that has taken so long by the time it is applied may turn out to be slow: an eighth of the limit,
    /// since time passes before and after as well. Stages travel between cores for such requests only.
    #[inline]
    pub fn may_be_slow(&self, took_ns: u64) -> bool {
        self.is_slow(took_ns.saturating_mul(8))
    }

    /// Records a command; the oldest goes if the log is full.
    pub fn add(&self, mut command: SlowCommand) {
        command.id = self.next_id.fetch_add(1, Relaxed);
        self.lock().push(command, self.max_len.load(Relaxed));
    }

    /// The newest `count`, newest first.
    pub fn newest(&self, count: usize) -> Vec<SlowCommand> {
        self.lock().newest_first.iter().take(count).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().newest_first.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all.
    pub fn reset(&self) {
        *self.lock() = Entries::default();
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
        self.lock().truncate(len);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
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
    fn long_entries_do_not_add_up() {
        let log = SlowLog::default();
        log.set_max_len(1_000_000);
        for _ in 0..100 {
            log.add(SlowCommand { args: vec![vec![b'x'; 1 << 20]], ..command(1) });
        }
        assert!((1..=16).contains(&log.len()), "{} entries of 1 MiB", log.len());
        assert_eq!(log.newest(1).first().map(|entry| entry.id), Some(99));
        log.set_max_len(0);
        assert_eq!((log.len(), log.lock().bytes), (0, 0));
    }

    #[test]
    fn stages_add_up_whatever_is_missing() {
        let stamps = |queued_ns, proposed_ns, durable_ns, applied_ns| StageStamps {
            queued_ns,
            proposed_ns,
            durable_ns,
            applied_ns,
        };
        let us = |stamps: &StageStamps| {
            let times = StageTimes::of(10_500, stamps, 100_000);
            let stages = times.named().map(|(_, us)| us);
            assert_eq!(stages.iter().sum::<u64>(), 89);
            stages
        };
        assert_eq!(us(&stamps(11_500, 13_600, 53_500, 60_500)), [1, 2, 40, 7, 39]);
        // It joined others that were queued before it came; and it was not seen to become durable.
        assert_eq!(us(&stamps(9_000, 20_500, 0, 30_500)), [0, 10, 0, 10, 69]);
        // The session's clock was read before the turn's.
        assert_eq!(us(&stamps(11_500, 13_500, 50_500, 100_900)), [1, 2, 37, 49, 0]);
    }

    #[test]
    fn limits() {
        let log = SlowLog::default();
        assert!(!log.is_slow(9_999_999) && log.is_slow(10_000_000));
        log.set_slower_than_us(0);
        assert!(log.is_slow(0) && log.may_be_slow(0));
        log.set_slower_than_us(100);
        assert!(log.may_be_slow(12_500) && !log.may_be_slow(12_400));
        log.set_slower_than_us(-1);
        assert!(!log.is_slow(u64::MAX));
    }
}
