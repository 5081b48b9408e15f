//! Tests of the store as a whole: a driver that runs its jobs, and helpers to write ops shortly.

mod at_hand;
mod bounds;
mod commands;
mod damage;
mod expiry;
mod faulty;
mod fixtures;
mod images;
mod large;
mod levels;
mod listings;
mod model;
mod ops;
mod prefetch;
mod refused;
mod screening;
mod space;
mod upkeep;
mod watch;

use corduroy_shards::{Applied, KeyspaceId, PartitionId, StateMachine, Step, Urgency};
use corduroy_wal::{Lsn, Term};

use super::*;

pub(super) const P: PartitionId = PartitionId(7);

/// A folder of nobody, or of this owner.
pub(super) const ADOPT: Binding = Binding { owner: [0; OWNER_BYTES], may_adopt: true };

pub(super) fn options() -> Options {
    Options::with_memory(64 << 20, HashSeed([3, 4]))
}

/// A store with a driver: it keeps the log, runs the jobs, and can be crashed.
pub(super) struct Driver<L: DiskLevel> {
    pub(super) store: Store<L>,
    disk: L,
    options: Options,
    log: Vec<(Applied, Vec<Vec<u8>>)>,
    held: Vec<Job<L>>,
    steps: u32,
    /// Jobs wait until asked for, or until an op is blocked.
    pub(super) hold_jobs: bool,
    pub(super) now_ms: u64,
    /// The store has announced an alarm that did not go off yet.
    is_alarmed: bool,
    next: std::collections::BTreeMap<PartitionId, u64>,
}

impl<L: DiskLevel> Driver<L> {
    pub(super) fn new(disk: L, options: Options) -> Self {
        let store = Store::open(disk.clone(), options, &[]).expect("opens");
        Self {
            store,
            disk,
            options,
            log: Vec::new(),
            held: Vec::new(),
            steps: 0,
            hold_jobs: false,
            now_ms: 1_000_000,
            is_alarmed: false,
            next: std::collections::BTreeMap::new(),
        }
    }

    /// Upkeep and jobs until nothing is left to do.
    pub(super) fn settle(&mut self) {
        loop {
            let more = self.store.maintain(1_000_000);
            if !self.run_jobs() && !more {
                return self.check();
            }
        }
    }

    pub(super) fn take_jobs(&mut self) {
        self.store.take_jobs(&mut self.held);
    }

    pub(super) fn held_jobs(&self) -> usize {
        self.held.len()
    }

    /// Runs one held job, chosen by `pick`.
    pub(super) fn run_a_job(&mut self, pick: usize) {
        self.take_jobs();
        if !self.held.is_empty() {
            let job = self.held.remove(pick % self.held.len());
            let done = Store::<L>::run_job(job);
            self.store.job_done(done).expect("job");
            self.check_now_and_then();
        }
    }

    fn run_jobs(&mut self) -> bool {
        self.take_jobs();
        let ran = !self.held.is_empty();
        for job in std::mem::take(&mut self.held) {
            let done = Store::<L>::run_job(job);
            self.store.job_done(done).expect("job");
        }
        ran
    }

    /// The invariants, at every step of a short history; less often in a long one.
    fn check_now_and_then(&mut self) {
        self.steps += 1;
        if self.steps < 500 || self.steps.is_multiple_of(101) {
            self.check();
        }
    }

    /// The invariants; those of both levels where the disk one can be read.
    pub(super) fn check(&self) {
        self.store.check();
        match self.store.check_below() {
            Ok(()) | Err(DiskError::Damaged { .. } | DiskError::Io { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn unblock(&mut self) {
        let more = self.store.maintain(100_000);
        assert!(self.run_jobs() || more, "blocked, and nothing will change that");
    }

    fn apply_entry(&mut self, at: &Applied, ops: &[Vec<u8>]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for op in ops {
            loop {
                match self.store.apply(at, op) {
                    Step::Done(outcome) => break outcomes.push(outcome),
                    Step::Passed => break,
                    Step::Blocked(_) => self.unblock(),
                    Step::Unreadable(why) => panic!("{why}"),
                }
            }
        }
        self.store.end_entry(at);
        let partition = &self.store.partitions[&at.partition];
        assert!(partition.alarm_ms > partition.clock_ms, "an alarm that is past is none");
        self.check_now_and_then();
        if !self.hold_jobs {
            self.store.maintain(20_000);
            self.run_jobs();
        }
        outcomes
    }

    /// One entry.
    pub(super) fn entry(&mut self, partition: PartitionId, ops: &[Op<'_>]) -> Vec<Outcome> {
        let next = self.next.entry(partition).or_insert(0);
        *next += 1;
        let at = Applied::first(partition, Lsn(*next), Term(1), self.now_ms);
        let ops: Vec<Vec<u8>> = ops.iter().map(bytes).collect();
        self.log.push((at, ops.clone()));
        self.apply_entry(&at, &ops)
    }

    /// The version that the only op of the next entry gives what it changes.
    pub(super) fn next_version(&self) -> u64 {
        (self.next.get(&P).copied().unwrap_or(0) + 1) << 20
    }

    /// What the shard does when an alarm of the store goes off: time passes, and an entry without operations says so.
    /// Returns the number of entries that were wanted until this time.
    pub(super) fn pass_until(&mut self, until_ms: u64) -> u32 {
        let mut entries = 0;
        loop {
            self.settle();
            let mut alarms = Vec::new();
            self.store.take_alarms(&mut alarms);
            assert!(alarms.iter().all(|id| *id == P), "{alarms:?}");
            if !alarms.is_empty() {
                self.is_alarmed = true;
            }
            let at_ms = self.store.alarm_ms(P).filter(|at_ms| self.is_alarmed && *at_ms <= until_ms);
            let Some(at_ms) = at_ms else { break };
            self.now_ms = self.now_ms.max(at_ms);
            self.entry(P, &[]);
            entries += 1;
            assert!(entries < 10_000, "there is no end to them");
        }
        self.now_ms = until_ms;
        entries
    }

    pub(super) fn read_in(&mut self, partition: PartitionId, op: &Op<'_>) -> Outcome {
        let op = bytes(op);
        loop {
            match self.store.read(partition, &op, self.now_ms) {
                Step::Done(outcome) => return outcome,
                Step::Blocked(_) => self.unblock(),
                Step::Passed => unreachable!("reads are never passed over"),
                Step::Unreadable(why) => panic!("{why}"),
            }
        }
    }

    pub(super) fn run_in(&mut self, partition: PartitionId, op: &Op<'_>) -> Outcome {
        if op.is_write() {
            self.entry(partition, std::slice::from_ref(op)).remove(0)
        } else {
            self.read_in(partition, op)
        }
    }

    pub(super) fn run(&mut self, op: &Op<'_>) -> Outcome {
        self.run_in(P, op)
    }

    /// A full flush.
    pub(super) fn flush(&mut self) {
        self.store.want_flush(Urgency::Soon);
        self.settle();
    }

    /// Loses all memory, and replays the log above what is persisted.
    pub(super) fn crash(&mut self) {
        self.held.clear();
        self.store = Store::open(self.disk.clone(), self.options, &[]).expect("opens");
        self.is_alarmed = false;
        self.check();
        for (at, ops) in self.log.clone() {
            if at.lsn > self.store.persisted(at.partition) {
                self.apply_entry(&at, &ops);
            }
        }
    }
}

pub(super) fn bytes(op: &Op<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    op.encode(&mut out);
    out
}

pub(super) fn set<'a>(key: &'a str, value: &'a str) -> Op<'a> {
    Op::Set {
        key: key.as_bytes(),
        value: value.as_bytes(),
        when: SetWhen::Always,
        expiry: Expiry::Clear,
        reply: SetReply::Ok,
    }
}

pub(super) fn get(key: &str) -> Op<'_> {
    Op::Get { key: key.as_bytes() }
}

/// A value as an answer: a share of it if it is large.
pub(super) fn bulk(text: &str) -> Outcome {
    let bytes = text.as_bytes().to_vec();
    match bytes.len() {
        0..65_536 => Outcome::Bulk(bytes),
        len => Outcome::Shared(SharedBytes::new(std::sync::Arc::new(bytes), 0..len)),
    }
}

/// Scans to the end, page by page, calling `between` after each page.
pub(super) fn scan_all<L: DiskLevel>(
    driver: &mut Driver<L>,
    count: u64,
    mut between: impl FnMut(&mut Driver<L>),
) -> Vec<Vec<u8>> {
    let (mut cursor, mut all) = (0, Vec::new());
    loop {
        let page = driver.run(&Op::Scan { cursor, count, pattern: None, kind: None });
        let Outcome::Scan { cursor: next, keys } = page else { panic!("{page:?}") };
        all.extend(keys);
        if next == 0 {
            return all;
        }
        assert!(next > cursor && next < 1 << CURSOR_BITS);
        cursor = next;
        between(driver);
    }
}
