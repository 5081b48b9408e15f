//! What a store does by itself, in slices: freeing flushed keyspaces, flushes, the removal of expired rows and of
//! tombstones that have done their work, eviction.
//!
//! Slices are measured in rows, not by a clock: the same calls do the same work everywhere.

use std::collections::BTreeMap;

use std::collections::VecDeque;

use corduroy_shards::{Applied, PartitionId};

use super::sweep::Sweeps;
use crate::store::disk::{DiskError, DiskLevel};
use crate::store::jobs::{BlindCounts, Done, Failed, Job, Loaded, Task};
use crate::store::lookups::Want;
use crate::store::lookups::stored::Keyspace;
use crate::store::memory::ledger::Capture;
use crate::store::memory::meta::PartitionMeta;
use crate::store::memory::partition::Partition;
use crate::store::memory::row::{BELOW, Encoding, NO_EXPIRY, Row, Stamp, TOMBSTONE, UNKNOWN};
use crate::store::memory::table::find_row;
use crate::store::state::Store;

/// What one row costs in a slice, roughly.
const UNIT_NS: u64 = 50;

/// So many percent of haste make a slice as much longer as it is: eleven times at the most.
const HASTE: u64 = 10;

/// See the file's head.
#[derive(Default)]
pub(in crate::store) struct Upkeep {
    /// Partitions to be walked for expired rows and spent tombstones, the first one from `walk_hash` on.
    pub(in crate::store) walks: VecDeque<PartitionId>,
    walk_hash: u64,
    /// All partitions: the eviction hand goes round them.
    ids: Vec<PartitionId>,
    hand: usize,
    hand_hash: u64,
    /// The clock hand has come round twice and found nothing.
    stuck: bool,
    /// Whole rounds since it last found something.
    idle_rounds: u32,
    /// Partitions whose rows are still to be read into memory after a start.
    pub(in crate::store) cold: VecDeque<PartitionId>,
    /// Searches for expired rows below.
    pub(in crate::store) sweeps: Sweeps,
    /// Partitions that want an entry sooner than was announced to the shard.
    pub(in crate::store) alarms: Vec<PartitionId>,
    /// How far the first of them has got.
    pub(in crate::store) warming: Option<super::warm::Warming>,
    /// Key ranges of flushed keyspaces, for the next compaction.
    pub(in crate::store) dead: Vec<(Vec<u8>, Vec<u8>)>,
    /// A compaction is under way.
    compacting: bool,
    /// The room that the disk level has, as far as is known.
    pub(in crate::store) space: super::space::Space,
    /// How far what lies below was compared with what was written.
    pub(in crate::store) verifying: super::verify::Verifying,
}

impl Upkeep {
    pub(in crate::store) fn add_partition(&mut self, id: PartitionId) {
        self.ids.push(id);
    }

    /// Whether a walk of the partition is under way that has yet to come to this hash.
    pub(in crate::store) fn is_ahead_of_walk(&self, id: PartitionId, hash: u64) -> bool {
        self.walk_hash > 0 && self.walks.front() == Some(&id) && hash >= self.walk_hash
    }
}

impl<L: DiskLevel> Store<L> {
    /// A slice of work. Returns whether more is left.
    pub(in crate::store) fn upkeep_slice(&mut self, budget_ns: u64) -> bool {
        let mut units = (budget_ns / UNIT_NS).max(16);
        units = self.ledger.free_detached(units);
        self.freeze_if_due();
        let haste = self.haste();
        // The log says so again as long as it is.
        self.upkeep.space.is_log_full = false;
        self.disk.hurry(haste);
        units += units * u64::from(haste.flush.max(self.haste_to_evict())) / HASTE;
        units = self.capture_slice(units);
        units = self.walk_slice(units);
        units = self.evict_slice(units);
        self.warm();
        self.sweep_on();
        self.age_subsequences(self.pins.jobs_ended);
        let gathers = self.gather_slice(self.pins.jobs_ended);
        self.pins.next_round();
        units == 0 || gathers
    }

    /// Freezes a point of every touched partition, if a flush is due and may start. A point may lie between two ops
    /// of an entry: a restart is handed that entry again, and goes on behind what is done.
    pub(in crate::store) fn freeze_if_due(&mut self) {
        let due = self.flush_wanted || self.ledger.dirty_bytes >= self.options.flush_bytes;
        if !due || self.ledger.has_running_flush() || !self.has_room_to_flush() {
            return;
        }
        if self.images.is_installing() || self.is_inside_awaited_entry() {
            return;
        }
        self.flush_wanted = false;
        let mut ids = std::mem::take(&mut self.touched);
        if ids.is_empty() {
            return;
        }
        ids.sort_unstable();
        let mut frozen = Vec::with_capacity(ids.len());
        for id in ids {
            let partition = self.partitions.get_mut(&id).expect("a touched partition exists");
            partition.touched = false;
            partition.unknown_hashes = Vec::new();
            let installed = self.images.installed(id).cloned().map(Box::new);
            frozen.push((id, PartitionMeta { installed, ..partition.meta() }));
        }
        self.upkeep.space.freeze();
        self.ledger.epoch += 1;
        self.ledger.capture = Some(Capture { partitions: frozen, ..Capture::default() });
    }

    /// Changed rows, with those on their way below, at which an entry's ops wait: more at a start, when requests wait for
    /// what was in memory before.
    pub(in crate::store) fn max_waiting_bytes(&self, at: &Applied) -> usize {
        let is_replay =
            self.partitions.get(&at.partition).is_some_and(|partition| at.lsn <= partition.replay_to);
        if is_replay {
            self.options.max_dirty_bytes.max(self.options.memory_bytes)
        } else {
            self.options.max_dirty_bytes
        }
    }

    /// Copies frozen rows; the last slice makes the job.
    fn capture_slice(&mut self, mut units: u64) -> u64 {
        while units > 0 {
            let Some(capture) = &mut self.ledger.capture else { return units };
            let Some((id, meta)) = capture.partitions.get(capture.next_partition) else {
                if !self.ledger.detached.is_empty() {
                    units = self.ledger.free_detached(units);
                    continue;
                }
                self.finish_capture();
                return units;
            };
            let (id, flush_version, hash) = (*id, meta.flush_version, capture.next_hash);
            let partition = self.partitions.get_mut(&id).expect("a frozen partition exists");
            units = units.saturating_sub(1);
            let end = if partition.flush_version == flush_version && partition.table.page(hash).is_some() {
                let (end, page) = (partition.table.page_end(hash), partition.table.page_mut(hash));
                if !self.ledger.capture_page(id, flush_version, page, &mut units) {
                    return 0;
                }
                end
            } else {
                u64::MAX
            };
            let capture = self.ledger.capture.as_mut().expect("it was there above");
            match end.checked_add(1) {
                Some(next) => capture.next_hash = next,
                None => (capture.next_partition, capture.next_hash) = (capture.next_partition + 1, 0),
            }
        }
        units
    }

    fn finish_capture(&mut self) {
        let capture = self.ledger.capture.take().expect("only called while capturing");
        let (rows, metas) = (capture.rows, capture.partitions);
        let deletes = self.upkeep.space.deletes_captured;
        let task = Task::Flush { seed: self.seed, deletes, rows, metas };
        self.jobs.push(Job { disk: self.disk.clone(), task });
    }

    /// Takes a job's result.
    pub(in crate::store) fn take_done(&mut self, done: Done) {
        self.upkeep.stuck = false;
        self.pins.jobs_ended = true;
        match done {
            Done::Failed { keyspace, failed, asked, why } => self.take_failed(keyspace, failed, asked, why),
            Done::Loaded { rows, failed, left, asked } => {
                self.lookups.answered(asked);
                self.take_loaded(rows, failed, left);
            }
            Done::Page { page, asked } => {
                self.lookups.answered(asked);
                let want = match &page.pattern {
                    Some(pattern) => Want::Matches { pattern: pattern.clone() },
                    None => Want::Range { from: page.from },
                };
                self.loads.end_question(page.partition, want);
                self.lookups.keep(page, asked, self.ledger.completed, &self.ledger.listings);
            }
            Done::Warmed { keyspace, from, to, rows, asked } => {
                self.lookups.answered(asked);
                self.put_warmed(keyspace, from, to, &rows);
            }
            Done::ExpiredBelow { keyspace, found, asked } => {
                self.lookups.answered(asked);
                self.put_expired(keyspace, &found);
            }
            Done::Resolved { keyspace, keys, epoch } => {
                self.loads.end_question(keyspace.partition, Want::Unknown);
                if epoch == self.ledger.epoch {
                    self.put_resolved(keyspace, &keys);
                }
            }
            Done::Flushed { metas, counts, rows, room } => {
                self.upkeep.space.has_flushed();
                self.upkeep.verifying.has_tables();
                self.take_room(room);
                self.end_flush(metas, counts, rows);
                self.flush_has_ended();
            }
            Done::NoRoom { rows, metas, room, why } => {
                self.upkeep.space.stalled = why.map(Into::into);
                self.take_room(room);
                self.undo_flush(rows, &metas);
                self.flush_has_ended();
            }
            Done::Looked { room } => self.looked(room),
            Done::Verified { is_round } => self.upkeep.verifying.ended(is_round),
            Done::Image(done) => self.take_image_done(done),
            Done::Subsequence { number, outcome } => self.ledger.subsequences.done(number, outcome),
            Done::Nothing => {}
            Done::Compacted { more, room } => {
                self.take_room(room);
                self.upkeep.compacting = false;
                if more || !self.upkeep.dead.is_empty() {
                    self.compact();
                }
            }
        }
    }

    /// Something could not be read. Ops that want it are answered with that; what the store does by itself stops there.
    fn take_failed(&mut self, keyspace: Keyspace, failed: Failed, asked: u32, why: DiskError) {
        match failed {
            Failed::Want(want) => {
                if want != Want::Unknown {
                    self.lookups.answered(asked);
                }
                self.loads.end_question(keyspace.partition, want.clone());
                self.lookups.fail(keyspace.partition, want, why.into());
            }
            Failed::Warm => {
                self.lookups.answered(asked);
                self.upkeep.warming = None;
                self.upkeep.cold.pop_front();
            }
            Failed::Expired => {
                self.lookups.answered(asked);
                self.fail_sweep(keyspace);
            }
        }
    }

    /// What was frozen is on the media.
    fn end_flush(
        &mut self,
        metas: Vec<(PartitionId, PartitionMeta)>,
        counts: BTreeMap<Keyspace, BlindCounts>,
        rows: u64,
    ) {
        self.ledger.end_flush();
        self.ledger.totals.flushes += 1;
        self.ledger.totals.flushed_rows += rows;
        self.lookups.age(self.ledger.completed, &self.ledger.listings);
        for (keyspace, count) in counts {
            let partition = self.partitions.get_mut(&keyspace.partition);
            if let Some(partition) =
                partition.filter(|partition| partition.flush_version == keyspace.flush_version)
            {
                partition.unknown -= count.resolved;
                self.ledger.keys.sub(&mut partition.keys, count.existed);
                self.ledger.expiring.sub(&mut partition.expiring, count.expiring);
            }
        }
        for (id, PartitionMeta { applied, flush_version, clock_ms, .. }) in metas {
            let partition = self.partitions.get_mut(&id).expect("a frozen partition exists");
            partition.persisted = applied;
            partition.persisted_clock_ms = clock_ms;
            let flushed = partition.persisted_flush_version != flush_version;
            partition.persisted_flush_version = flush_version;
            partition.walks += 1;
            self.upkeep.walks.push_back(id);
            if flushed {
                self.note_dead(id, flush_version);
            }
        }
        self.compact();
    }

    /// A partition, if it still is in that keyspace.
    pub(in crate::store) fn partition_of(&mut self, keyspace: Keyspace) -> Option<&mut Partition> {
        let partition = self.partitions.get_mut(&keyspace.partition).map(Box::as_mut);
        partition.filter(|partition| partition.flush_version == keyspace.flush_version)
    }

    pub(in crate::store) fn compact(&mut self) {
        if !self.upkeep.compacting {
            self.upkeep.compacting = true;
            let dead = std::mem::take(&mut self.upkeep.dead);
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Compact { dead } });
        }
    }

    /// Puts a loaded row into memory, unless memory knows better; a key that is not below becomes a clean tombstone.
    /// `flags`: what eviction is to make of it, FRESH or REFERENCED.
    pub(in crate::store) fn put_loaded(&mut self, keyspace: Keyspace, loaded: &Loaded, flags: u8) {
        let Some(partition) = self.partition_of(keyspace) else { return };
        let Loaded { hash, key, value } = loaded;
        let page = partition.table.page_mut(*hash);
        if page.is_complete() || page.find(*hash, key).is_some() {
            return;
        }
        let row = match value {
            Some((stamp, value)) => {
                partition.min_expire_ms = partition.min_expire_ms.min(stamp.expire_at_ms);
                Row::new(*hash, key, value, *stamp, 0, BELOW | flags)
            }
            None => {
                let stamp = Stamp { version: 0, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
                Row::new(*hash, key, b"", stamp, 0, TOMBSTONE | flags)
            }
        };
        let cost = row.cost_bytes();
        partition.table.insert(row);
        self.ledger.used_bytes += cost;
    }

    /// Makes the counts of blind writes exact.
    fn put_resolved(&mut self, keyspace: Keyspace, keys: &[(u64, Vec<u8>, Option<Stamp>)]) {
        let partition = self.partitions.get_mut(&keyspace.partition);
        let Some(partition) = partition.filter(|partition| partition.flush_version == keyspace.flush_version)
        else {
            return;
        };
        for (hash, key, below) in keys {
            let page = partition.table.page_mut(*hash);
            let Some(row) = find_row(&mut page.rows, *hash, key).filter(|row| row.has(UNKNOWN)) else {
                continue;
            };
            row.clear(UNKNOWN);
            partition.unknown -= 1;
            if let Some(stamp) = below {
                self.ledger.keys.sub(&mut partition.keys, 1);
                let expires = stamp.expire_at_ms != NO_EXPIRY;
                self.ledger.expiring.sub(&mut partition.expiring, expires.into());
            }
        }
    }

    /// Walks queued partitions, page by page: expired rows are removed, spent tombstones dropped.
    fn walk_slice(&mut self, mut units: u64) -> u64 {
        let safe = self.lookups.safe_epoch(self.ledger.completed);
        while units > 0 {
            let Some(id) = self.upkeep.walks.front().copied() else { break };
            let hash = self.upkeep.walk_hash;
            let partition = self.partitions.get_mut(&id).expect("a queued partition exists");
            if hash == 0 {
                partition.min_expire_ms = NO_EXPIRY;
            }
            if partition.table.page(hash).is_none() {
                self.end_walk(id);
                continue;
            }
            let end = partition.table.page_end(hash);
            let expired = self.ledger.totals.expired;
            units = units.saturating_sub(1 + partition.walk_page(&mut self.ledger, hash, safe));
            if self.ledger.totals.expired > expired {
                self.upkeep.space.deletes = true;
                partition.touch(&mut self.touched);
            }
            self.upkeep.walk_hash = match end.checked_add(1) {
                Some(next) => next,
                None => {
                    self.end_walk(id);
                    0
                }
            };
        }
        units
    }

    /// Has a partition walked for expired rows and spent tombstones.
    pub(in crate::store) fn queue_walk(&mut self, id: PartitionId) {
        let partition = self.partitions.get_mut(&id).expect("only called for partitions that there are");
        partition.walks += 1;
        self.upkeep.walks.push_back(id);
    }

    /// The first walk of the queue is done: it is known when the next row expires.
    fn end_walk(&mut self, id: PartitionId) {
        self.upkeep.walks.pop_front();
        self.upkeep.walk_hash = 0;
        let partition = self.partitions.get_mut(&id).expect("a queued partition exists");
        partition.walks -= 1;
        self.announce(id);
    }

    /// Has the next freeze take a point of a partition.
    pub(in crate::store) fn touch(&mut self, id: PartitionId) {
        let partition = self.partitions.get_mut(&id).expect("only called for partitions that there are");
        partition.touch(&mut self.touched);
    }

    /// Notes that a partition's keyspaces before this one may go from below.
    pub(in crate::store) fn note_dead(&mut self, id: PartitionId, flush_version: u64) {
        if flush_version > 0 {
            self.upkeep.dead.push((
                crate::store::disk::format::row_key(id, 0, 0, b""),
                crate::store::disk::format::row_key(id, flush_version, 0, b""),
            ));
        }
    }

    /// When a partition wants an entry; the shard takes it, so it is not announced again.
    pub(in crate::store) fn take_alarm(&mut self, id: PartitionId) -> Option<u64> {
        let partition = self.partitions.get_mut(&id)?;
        let wanted_at_ms = partition.wanted_at_ms();
        partition.alarm_ms = wanted_at_ms.unwrap_or(NO_EXPIRY);
        wanted_at_ms
    }

    /// Announces to the shard a partition that wants an entry sooner than was announced before.
    pub(in crate::store) fn announce(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if let Some(at_ms) = partition.wanted_at_ms().filter(|at_ms| *at_ms < partition.alarm_ms) {
            partition.alarm_ms = at_ms;
            self.upkeep.alarms.push(id);
        }
    }

    /// Drops clean rows while memory is over its budget: those not used since the hand last came by.
    fn evict_slice(&mut self, mut units: u64) -> u64 {
        let safe = self.lookups.safe_epoch(self.ledger.completed);
        while units > 0 && !self.upkeep.stuck {
            let over = self.ledger.held_bytes() > self.options.memory_bytes;
            if !over {
                break;
            }
            let Some(id) = self.upkeep.ids.get(self.upkeep.hand).copied() else {
                self.upkeep.hand = 0;
                self.upkeep.idle_rounds += 1;
                if self.upkeep.idle_rounds > 2 {
                    // All that is left is changed or on its way below: a flush makes it droppable.
                    self.upkeep.idle_rounds = 0;
                    self.upkeep.stuck = true;
                    self.flush_wanted |= self.ledger.dirty_bytes > 0;
                }
                continue;
            };
            let hash = self.upkeep.hand_hash;
            let partition = self.partitions.get_mut(&id).expect("a partition never goes");
            units = units.saturating_sub(1);
            let mut end = u64::MAX;
            if partition.table.page(hash).is_some() {
                end = partition.table.page_end(hash);
                let pins = &self.pins;
                let is_held = |row: u64| pins.holds(id, row);
                let (looked_at, evicted) = partition.evict_page(&mut self.ledger, hash, safe, is_held);
                units = units.saturating_sub(looked_at);
                if evicted {
                    self.upkeep.idle_rounds = 0;
                    self.announce(id);
                }
            }
            match end.checked_add(1) {
                Some(next) => self.upkeep.hand_hash = next,
                None => (self.upkeep.hand, self.upkeep.hand_hash) = (self.upkeep.hand + 1, 0),
            }
        }
        units
    }
}
