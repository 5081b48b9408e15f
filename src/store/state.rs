//! The state machine: all partitions of one shard, in two levels.
//!
//! Walk of a write: the shard hands over committed ops one by one; each runs against the rows in memory, or blocks
//! until a job has loaded what it needs; when enough rows are dirty a flush takes them below, with every
//! partition's applied LSN in the same atomic step, and the log up to there may go. Invariant: what `persisted` says
//! is exactly what a restart finds.

use std::convert::Infallible;

use corduroy_shards::image::{CONTENT_BYTES_MAX, Header, ImageAsk, ImageEvent};
use corduroy_shards::{
    Applied, KeyspaceId, PartitionId, Prepared, StateMachine, Step, Unreadable, Urgency, Wait,
};
use corduroy_wal::Lsn;
use corduroy_wal::mix::IdHash;
use hashbrown::HashMap;

use super::disk::{DiskError, DiskLevel};
use super::exec::{Exec, Run, Stop};
use super::hash::HashSeed;
use super::jobs::{Job, JobDone};
use super::lookups::Lookups;
use super::op::{ErrorKind, Op, Outcome};
use super::restore;
use crate::store::exec::prepare::{unknown_keyspace, unknown_op, version_goes_back};
use crate::store::flush::images::Images;
use crate::store::flush::upkeep::Upkeep;
use crate::store::lookups::at_hand::{AtHand, Looked};
use crate::store::lookups::loads::Loads;
use crate::store::lookups::pins::Pins;
use crate::store::memory::ledger::Ledger;
use crate::store::memory::partition::{Found, Partition};

/// Limits of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Rows in memory; above it, those that the disk level has are dropped.
    pub memory_bytes: usize,
    /// Changed rows at which a flush starts.
    pub flush_bytes: usize,
    /// Changed rows, with those on their way below, at which writes wait for the flush.
    pub max_dirty_bytes: usize,
    /// The longest value. Longer results are refused with `StringTooLong`.
    pub max_value_bytes: usize,
    /// The most keys that KEYS returns.
    pub max_keys_reply: usize,
    /// The bytes of values or keys in an answer above which it becomes an error.
    pub max_reply_bytes: usize,
    /// Jobs that read keys from the disk level at a time, each some.
    pub load_jobs: usize,
    /// Rows, or as much work, that KEYS looks at before others are served.
    pub gather_rows: u64,
    /// Bytes of rows in a chunk of an image: the same on all nodes, and the default but in small worlds.
    pub image_chunk_bytes: usize,
    /// The hash's secret for a store that is created; an existing one keeps its own. Give all nodes of a cluster the
    /// same, so that SCAN's cursors mean the same everywhere.
    pub hash_seed: HashSeed,
}

impl Options {
    /// Options for a memory budget; the other limits follow from it.
    #[must_use]
    pub fn with_memory(memory_bytes: usize, hash_seed: HashSeed) -> Self {
        let flush_bytes = (memory_bytes / 16 * 5).min(64 << 20);
        Self {
            memory_bytes,
            flush_bytes,
            max_dirty_bytes: (memory_bytes / 8 * 5).min(flush_bytes * 4),
            max_value_bytes: super::exec::MAX_VALUE_BYTES,
            max_keys_reply: 1_000_000,
            max_reply_bytes: 112 << 20,
            load_jobs: 4,
            gather_rows: 4096,
            image_chunk_bytes: CONTENT_BYTES_MAX,
            hash_seed,
        }
    }
}

/// What memory knows of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup<'s> {
    /// The value.
    Value(&'s [u8]),
    /// The key does not exist.
    Absent,
    /// It may exist below: run the op through [`StateMachine::read`].
    Unknown,
}

/// See the file's head.
pub struct Store<L> {
    pub(super) disk: L,
    pub(super) options: Options,
    pub(super) seed: HashSeed,
    /// Boxed, since the table is never full.
    pub(super) partitions: HashMap<PartitionId, Box<Partition>, IdHash>,
    pub(super) ledger: Ledger,
    pub(super) lookups: Lookups,
    pub(super) loads: Loads,
    pub(super) upkeep: Upkeep,
    pub(super) pins: Pins,
    pub(super) at_hand: AtHand,
    pub(super) images: Images,
    /// Jobs to be started.
    pub(super) jobs: Vec<Job<L>>,
    /// Partitions changed since the last freeze.
    pub(super) touched: Vec<PartitionId>,
    /// The log wants its segments back.
    pub(super) flush_wanted: bool,
    /// An op of an entry waits for a flush, since changes outran it.
    waits_for_flush: bool,
    /// What the last op moved of values beyond its own bytes and its outcome's.
    moved_bytes: usize,
}

impl<L: DiskLevel> Store<L> {
    /// Opens the state as the last flush left it. Blocks. `expected`: the partitions that there may be state of, looked
    /// for one by one where damage keeps them from being listed.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    pub fn open(disk: L, options: Options, expected: &[PartitionId]) -> Result<Self, DiskError> {
        let seed = restore::seed(&disk)?.unwrap_or(options.hash_seed);
        let found = restore::partitions(&disk, expected)?;
        let mut store = Self {
            disk,
            options,
            seed,
            partitions: HashMap::default(),
            ledger: Ledger::default(),
            lookups: Lookups::default(),
            loads: Loads::default(),
            upkeep: Upkeep::default(),
            pins: Pins::default(),
            at_hand: AtHand::new(options.memory_bytes),
            images: Images::default(),
            jobs: Vec::new(),
            touched: Vec::new(),
            flush_wanted: false,
            waits_for_flush: false,
            moved_bytes: 0,
        };
        store.take_room(store.disk.room()?);
        for (id, meta) in found {
            store.partitions.insert(id, Box::new(Partition::restored(id, &meta)));
            store.ledger.include(&meta);
            store.upkeep.add_partition(id);
            store.upkeep.verifying.has_tables();
            store.note_dead(id, meta.flush_version);
            if meta.keys > 0 {
                store.upkeep.cold.push_back(id);
            }
            store.images.note_installed(id, meta.installed);
            store.announce(id);
        }
        Ok(store)
    }

    /// The partitions that there is any state of.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.keys().copied().collect()
    }

    /// Whether entries wait for a flush to end, since their changes outran it.
    #[must_use]
    pub fn waits_for_flush(&self) -> bool {
        self.waits_for_flush && self.has_running_write()
    }

    /// Looks for a key in memory.
    #[must_use]
    pub fn get(&self, partition: PartitionId, key: &[u8], now_ms: u64) -> Lookup<'_> {
        let Some(partition) = self.partitions.get(&partition) else { return Lookup::Absent };
        let now_ms = now_ms.max(partition.clock_ms);
        if key.len() > super::exec::MAX_KEY_BYTES {
            return Lookup::Absent;
        }
        match partition.find(self.seed.hash(key), key, now_ms) {
            Found::Live(row) => Lookup::Value(row.value()),
            Found::Absent => Lookup::Absent,
            Found::Unknown => Lookup::Unknown,
        }
    }

    /// Runs an op, decoded from `bytes`, in a partition. `at`: of the entry, for writes.
    fn run(
        &mut self,
        id: PartitionId,
        bytes: &[u8],
        op: &Op<'_>,
        now_ms: u64,
        at: Option<&Applied>,
    ) -> Step<Outcome> {
        let outcome = loop {
            match self.try_op(id, op, now_ms, at) {
                Ok(outcome) => break outcome,
                Err(Stop::Error(kind)) => break Outcome::Error(kind),
                Err(Stop::Blocked) => {
                    if let Some(step) = self.blocked(id, bytes, at.is_some()) {
                        return step;
                    }
                }
            }
        };
        if at.is_some() {
            self.lookups.release(id);
            self.lookups.refused_looks = 0;
        }
        let seed = self.seed;
        self.pins.release(id, || seed.hash(bytes));
        Step::Done(outcome)
    }

    fn try_op(&mut self, id: PartitionId, op: &Op<'_>, now_ms: u64, at: Option<&Applied>) -> Run {
        let upkeep = &mut self.upkeep;
        let partition = self.partitions.entry(id).or_insert_with(|| {
            upkeep.add_partition(id);
            Box::new(Partition::new(id))
        });
        if let Some(Applied { lsn, .. }) = at {
            assert!(*lsn > partition.applied, "partition {id}: entry {lsn} was applied already");
        }
        let mut exec = Exec {
            now_ms: now_ms.max(partition.clock_ms),
            version: at.map_or(0, |at| partition.version(at.version_lsn)),
            partition,
            ledger: &mut self.ledger,
            lookups: &mut self.lookups,
            options: &self.options,
            seed: self.seed,
            committed: false,
            grown_bytes: 0,
            moved_bytes: 0,
            preparing: false,
            known: None,
        };
        let result = exec.run(op);
        self.moved_bytes = exec.moved_bytes;
        result
    }

    /// A partition; one of which nothing is stored is made.
    pub(super) fn partition_mut(&mut self, id: PartitionId) -> &mut Partition {
        let upkeep = &mut self.upkeep;
        self.partitions.entry(id).or_insert_with(|| {
            upkeep.add_partition(id);
            Box::new(Partition::new(id))
        })
    }
}

impl<L: DiskLevel> StateMachine for Store<L> {
    type Outcome = Outcome;
    /// Of GET alone.
    type View<'m>
        = Looked<'m>
    where
        Self: 'm;
    type Job = Job<L>;
    type JobDone = JobDone;
    type Failure = Infallible;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<Outcome> {
        // Writes outrun the flush: its completion lets them go on, also in the middle of an entry, however much
        // its ops make of few bytes. Where a flush has no room, nothing waits for it: there it needs deletes.
        self.waits_for_flush = false;
        let waiting_bytes = self.ledger.dirty_bytes + self.ledger.captured_bytes;
        if waiting_bytes > self.options.max_dirty_bytes && waiting_bytes > self.max_waiting_bytes(at) {
            self.freeze_if_due();
            if self.has_running_write() {
                self.lookups.still_held(at.partition, self.ledger.completed);
                self.pins.still_wanted(at.partition);
                self.waits_for_flush = true;
                return Step::Blocked(Wait::Job);
            }
        }
        if let Some(partition) = self.partitions.get_mut(&at.partition) {
            if partition.passes_over(at.lsn) {
                return Step::Passed;
            }
            if at.version_lsn <= partition.source_lsn {
                return Step::Unreadable(version_goes_back(at.version_lsn, partition.source_lsn));
            }
        }
        if at.keyspace != KeyspaceId::DEFAULT {
            return Step::Unreadable(unknown_keyspace(at.keyspace));
        }
        let decoded = Op::decode(op);
        let step = match &decoded {
            Ok(decoded) => self.run(at.partition, op, decoded, at.stamp_ms, Some(at)),
            Err(_) => Step::Done(Outcome::Error(ErrorKind::BadOp)),
        };
        // Other replicas may know it, so it must not be passed over here.
        let step = match step {
            Step::Done(Outcome::Error(ErrorKind::BadOp)) => Step::Unreadable(unknown_op()),
            known => known,
        };
        if matches!(step, Step::Done(_))
            && let Some(partition) = self.partitions.get_mut(&at.partition)
        {
            partition.ops_in_entry += 1;
            partition.clock_ms = partition.clock_ms.max(at.stamp_ms);
            partition.touch(&mut self.touched);
            // One that found nothing to delete makes no room.
            let is_idle = matches!(step, Step::Done(Outcome::Int(0) | Outcome::Nil));
            self.upkeep.space.deletes |= !is_idle && decoded.is_ok_and(|op| op.frees_space());
        }
        step
    }

    fn end_entry(&mut self, at: &Applied) {
        let partition = self.partition_mut(at.partition);
        assert!(at.lsn > partition.applied, "partition {}: entry {} ended twice", at.partition, at.lsn);
        assert!(
            partition.ops_in_entry >= partition.ops_below,
            "partition {}: ops of entry {} are missing",
            at.partition,
            at.lsn
        );
        if partition.ops_in_entry > 0 {
            partition.source_lsn = at.version_lsn;
        }
        (partition.ops_in_entry, partition.ops_below) = (0, 0);
        let before = std::mem::replace(&mut partition.applied, at.lsn);
        partition.clock_ms = partition.clock_ms.max(at.stamp_ms);
        self.images.applied(at.partition);
        self.flush_wanted |= self.images.awaits(at.partition, before, at.lsn);
        self.touch(at.partition);
        self.sweep_if_due(at.partition);
        self.look_if_due();
        self.announce(at.partition);
        self.freeze_if_due();
    }

    fn read(&mut self, partition: PartitionId, op: &[u8], now_ms: u64) -> Step<Outcome> {
        match Op::decode(op) {
            Ok(decoded) if !decoded.is_write() => self.run(partition, op, &decoded, now_ms, None),
            // A transaction of reads only changes nothing, so it needs no entry.
            Ok(decoded @ (Op::Multi { ops, .. } | Op::MarkedMulti { ops, .. }))
                if ops.iter().all(|op| Op::decode(op).is_ok_and(|op| !op.is_write())) =>
            {
                self.run(partition, op, &decoded, now_ms, None)
            }
            Ok(_) | Err(_) => Step::Done(Outcome::Error(ErrorKind::BadOp)),
        }
    }

    fn rests_on_clock(&self, partition: PartitionId, op: &[u8], now_ms: u64) -> bool {
        self.may_answer_otherwise(partition, op, now_ms)
    }

    fn look<T>(
        &mut self,
        partition: PartitionId,
        op: &[u8],
        now_ms: u64,
        with: impl FnOnce(Looked<'_>) -> T,
    ) -> Option<T> {
        let Ok(Op::Get { key }) = Op::decode(op) else { return None };
        if key.len() > super::exec::MAX_KEY_BYTES {
            return Some(with(Looked { value: None, read_bytes: 0 }));
        }
        self.look_at_hand(partition, key, now_ms, with)
    }

    fn prefetch<'o>(&self, ops: impl Iterator<Item = (PartitionId, &'o [u8])>) -> usize {
        self.prefetch_rows(ops)
    }

    fn persisted(&self, partition: PartitionId) -> Lsn {
        self.partitions.get(&partition).map_or(Lsn::ZERO, |partition| partition.persisted)
    }

    fn maintain(&mut self, budget_ns: u64) -> bool {
        self.upkeep_slice(budget_ns)
    }

    fn take_jobs(&mut self, jobs: &mut Vec<Job<L>>) {
        self.start_loads();
        self.at_hand.next_turn();
        jobs.append(&mut self.jobs);
    }

    fn take_woken(&mut self, woken: &mut Vec<(PartitionId, u64)>) {
        self.loads.take_woken(woken);
    }

    fn abandon(&mut self, number: u64) {
        self.loads.abandon(number);
    }

    fn run_job(job: Job<L>) -> JobDone {
        job.run()
    }

    /// Whatever the disk refuses, the store goes on: it answers with that, or tries again.
    fn job_done(&mut self, done: JobDone) -> Result<(), Infallible> {
        self.take_done(done.0);
        self.wake_ops();
        Ok(())
    }

    fn prepare(&mut self, partition: PartitionId, op: &[u8]) -> Prepared {
        match Op::decode(op) {
            Ok(decoded) => self.prepare_op(partition, op, &decoded),
            Err(_) => Prepared::Unreadable(unknown_op()),
        }
    }

    fn may_need_reads(&self, partition: PartitionId) -> bool {
        let found = self.partitions.get(&partition);
        found.is_some_and(|found| !found.table.is_all_complete() || self.is_about_to_evict())
    }

    fn want_flush(&mut self, urgency: Urgency) {
        self.upkeep.space.is_log_full = urgency == Urgency::Now;
        // One that is under way releases the log, too.
        self.flush_wanted |= !self.ledger.has_running_flush();
        self.freeze_if_due();
    }

    fn expect_replay(&mut self, id: PartitionId, last: Lsn) {
        let partition = self.partition_mut(id);
        partition.replay_to = partition.replay_to.max(last);
    }

    fn is_out_of_room(&self) -> bool {
        self.is_short_of_room()
    }

    fn wants_retry(&self) -> bool {
        self.lookups.has_refusals()
    }

    fn retry(&mut self) {
        self.lookups.retry_refused();
        self.look();
    }

    fn stalled_by(&self) -> Option<Unreadable> {
        self.upkeep.space.stalled.clone()
    }

    fn verify_in_ns(&self) -> Option<u64> {
        self.upkeep.verifying.in_ns()
    }

    fn verify(&mut self) {
        self.verify_piece();
    }

    fn ask_image(&mut self, ask: ImageAsk) {
        self.ask_of_images(ask);
    }

    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>) {
        events.append(&mut self.images.events);
    }

    fn clear(&mut self, partition: PartitionId) -> bool {
        self.clear_partition(partition)
    }

    fn installed_image(&self, partition: PartitionId) -> Option<Header> {
        self.installed_header(partition)
    }

    fn is_light(&self, partition: PartitionId, op: &[u8]) -> bool {
        self.brings_little(partition, op)
    }

    fn take_alarms(&mut self, partitions: &mut Vec<PartitionId>) {
        partitions.append(&mut self.upkeep.alarms);
    }

    fn alarm_ms(&mut self, id: PartitionId) -> Option<u64> {
        self.take_alarm(id)
    }

    fn step_bytes(&mut self, outcome: &Outcome) -> usize {
        outcome.copied_bytes() + std::mem::take(&mut self.moved_bytes)
    }

    fn takes_when_full(&self, op: &[u8]) -> bool {
        let decoded = Op::decode(op);
        decoded.is_ok_and(|op| op.frees_space() && (!self.is_overfull() || matches!(op, Op::Flush)))
    }

    fn is_inside_entry(&self, partition: PartitionId) -> bool {
        self.partitions.get(&partition).is_some_and(|partition| partition.is_inside_entry())
    }

    fn persisted_stamp_ms(&self, partition: PartitionId) -> u64 {
        self.partitions.get(&partition).map_or(0, |partition| partition.persisted_clock_ms)
    }
}
