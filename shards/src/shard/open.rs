//! How a shard and its replicas are opened, and taken off again.
//!
//! Invariant: a replica that cannot start is fenced, and the others go on; nothing is opened over a record that is on its way
//! to the disk.

use std::collections::VecDeque;

use corduroy_wal::Wal;
use corduroy_wal::device::Device;
use hashbrown::HashMap;

use super::alarms::Alarms;
use super::outbox::Outbox;
use super::replica_slot::Slot;
use super::replicas::{List, Replicas};
use super::{Shard, ShardError};
use crate::budget::Budget;
use crate::clock::{Clocks, Now};
use crate::detached::Detached;
use crate::entry::highest_stamp_ms;
use crate::fresh::FreshReads;
use crate::ids::PartitionId;
use crate::letters::Mail;
use crate::liveness::Liveness;
use crate::machine::StateMachine;
use crate::options::{Pending, ShardOptions};
use crate::planted::{self, PlantedBug};
use crate::raft::left::{Deletion, begin_anew, configuration_behind, is_note};
use crate::raft::proposals::Spare;
use crate::raft::replica::{Origin, Replica, StartOptions, StartedAs};
use crate::raft::requests::MemberRequests;
use crate::raft::retention::Retention;
use crate::raft::snapshot::finish::finish;
use crate::raft::snapshot::transfers::Transfers;
use crate::raft::start::find;
use crate::room::Room;
use crate::status::Counters;
use crate::table::ReplicaIdx;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Opens the replicas of `partitions`, each with where it comes from, over a log and a state machine that were opened
    /// before. Blocking: reads what the state machine has not persisted. A replica that cannot start is fenced; the others
    /// go on.
    ///
    /// # Errors
    /// [`ShardError::Wal`] if the log cannot be read, [`ShardError::ListedTwice`].
    pub fn open(
        options: ShardOptions,
        wal: Wal<D>,
        machine: M,
        partitions: &[(PartitionId, Origin)],
        seed: u64,
    ) -> Result<Self, ShardError> {
        let space = wal.space();
        let retention = Retention::opened(&wal, options.limits.kept_bytes);
        let options = options.fitted_to(wal.record_limit_bytes());
        let mut shard = Self {
            options,
            wal,
            machine,
            replicas: Replicas::default(),
            outbox: Outbox::default(),
            totals: Pending::default(),
            spare: Spare::default(),
            fresh: FreshReads::default(),
            mail: Mail::default(),
            liveness: Liveness::new(options.storage, options.images.process, options.group.beats_ns()),
            members: MemberRequests::default(),
            transfers: Transfers::new(options.images),
            reads: HashMap::new(),
            last_read: 0,
            in_flight: VecDeque::new(),
            detached: HashMap::new(),
            events: Vec::new(),
            counters: Counters::default(),
            clocks: Clocks::default(),
            alarms: Alarms::default(),
            now: Now::default(),
            next_tick_ns: 0,
            room: Room::default(),
            space,
            jobs_ended: false,
            woken: Vec::new(),
            left_over: false,
            retention,
            unapplied_bytes: 0,
            is_closing: false,
            has_ended: false,
            job_error: None,
        };
        shard.replicas.reserve(partitions.len());
        for (partition, origin) in partitions {
            if !shard.is_deleted(*partition, origin) {
                shard.open_replica(*partition, origin, seed)?;
            }
        }
        Ok(shard)
    }

    /// Takes a replica off the running shard: its log and its state stay, and nothing of the log is released meanwhile. Its
    /// requests get their outcomes with the next turn. Returns whether there was one.
    pub fn remove(&mut self, partition: PartitionId) -> bool {
        let Some(idx) = self.replicas.find(partition) else { return false };
        self.stop(idx, "it was taken off this shard".to_owned());
        let fresh = self.fresh.take(idx);
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        let why = slot.refusal();
        fresh.into_iter().for_each(|(ticket, bytes)| applying.reject(slot, ticket, bytes, why.clone()));
        assert_eq!(slot.pending, Pending::default(), "partition {partition}: every request has its outcome");
        self.alarms.forget(idx);
        let batch = self.in_flight.iter().rev().find(|(_, of, _)| *of == idx).map(|(batch, ..)| *batch);
        self.transfers.take_off(partition);
        let slot = self.replicas.remove(idx);
        if slot.replica.started_as() != StartedAs::Stopped {
            let Slot { cursor, clock, applied_stamp_ms: stamp_ms, .. } = slot;
            let applied = slot.replica.applied();
            self.detached.insert(partition, Detached { applied, stamp_ms, cursor, clock, batch });
        }
        true
    }

    /// Opens the replica of a partition on the running shard, as at a start; one that was taken off goes on where it stood.
    /// Blocking. Returns whether it did: not while a record of the one before is on its way to the disk. Turn, and ask again.
    ///
    /// # Errors
    /// As [`Shard::open`].
    pub fn add(&mut self, partition: PartitionId, origin: &Origin, seed: u64) -> Result<bool, ShardError> {
        if self.is_ending(partition) {
            return Ok(false);
        }
        let idx = self.open_replica(partition, origin, seed)?;
        self.alarms.ask(partition);
        if self.replicas.slot(idx).replica.is_running() {
            self.detached.remove(&partition);
            self.replicas.slot_mut(idx).replica.arm(self.now.mono_ns);
            self.replicas.enqueue_on([List::Watched, List::Unpersisted], idx);
        }
        Ok(true)
    }

    /// Deletes what the storage has of a replica that does not belong to its group any more, state and log, and takes it off if it
    /// is there. `next`: where the partition's next replica here comes from; [`Origin::Restart`]: there is none.
    ///
    /// # Errors
    /// [`ShardError::Wal`] if the log has failed.
    pub fn delete(&mut self, partition: PartitionId, next: &Origin) -> Result<Deletion, ShardError> {
        let log = self.wal.log_state(partition.log()).unwrap_or_default();
        let Some(members) = configuration_behind(&log, self.options.storage, next) else {
            return Ok(Deletion::Refused);
        };
        self.remove(partition);
        // Nothing is deleted beside an image that is being installed.
        let is_ending = self.is_ending(partition);
        if is_ending || !(self.machine.clear(partition) || planted::is(PlantedBug::LogBeforeState)) {
            return Ok(Deletion::UnderWay);
        }
        self.detached.remove(&partition);
        begin_anew(&mut self.wal, partition, &members)?;
        Ok(Deletion::Done)
    }

    /// Whether nothing is left of a replica but the note that its member was removed, and no other one joins.
    fn is_deleted(&self, partition: PartitionId, origin: &Origin) -> bool {
        let stands = (self.machine.persisted(partition), self.machine.is_inside_entry(partition));
        is_note(stands, self.wal.log_state(partition.log()).as_ref(), (self.options.storage, origin))
    }

    /// Whether a record of the replica that was taken off is on its way to the disk, or an image of it into the state.
    fn is_ending(&self, partition: PartitionId) -> bool {
        let batch = self.detached.get(&partition).and_then(|before| before.batch);
        batch.is_some_and(|batch| batch > self.wal.durable()) || self.transfers.is_installing(partition)
    }

    fn open_replica(
        &mut self,
        partition: PartitionId,
        origin: &Origin,
        seed: u64,
    ) -> Result<ReplicaIdx, ShardError> {
        if self.replicas.find(partition).is_some() {
            return Err(ShardError::ListedTwice(partition));
        }
        let persisted = self.machine.persisted(partition);
        // An image may have been installed since it was taken off.
        let before = self.detached.get(&partition).copied().filter(|before| before.applied >= persisted);
        finish(&mut self.wal, partition, self.machine.installed_image(partition).as_ref())?;
        let mut tail_stamp_ms = 0;
        let applied = before.map_or(persisted, |before| before.applied);
        let stands = (applied, self.machine.is_inside_entry(partition));
        let replica = match find(&mut self.wal, partition.log(), stands, self.options.reaches_peers)? {
            Ok(found) => {
                tail_stamp_ms = highest_stamp_ms(&found.tail);
                let seed = seed ^ partition.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let ShardOptions { replication, storage, reaches_peers, ref group, .. } = self.options;
                let start = StartOptions { replication, group, seed, storage, reaches_peers, origin };
                Replica::start(partition, found, start)
            }
            Err(why) => Replica::stopped(partition, &why),
        };
        let positions = self.retention.positions(&self.wal, partition.log(), &replica, persisted);
        let running = replica.is_running();
        if let Some(entry) = replica.removed_by() {
            self.outbox.removed.push((partition, entry));
        } else if let Some(why) = replica.ready_error() {
            self.outbox.fenced.push((partition, why.to_string()));
            self.counters.fenced += 1;
        }
        let stamp_ms = self.machine.persisted_stamp_ms(partition);
        // What is proposed before the tail is applied must not be stamped before it.
        let mut slot = Slot::new(replica, stamp_ms, tail_stamp_ms, positions);
        self.clocks.found(tail_stamp_ms.max(stamp_ms));
        if let Some(Detached { stamp_ms, cursor, clock, .. }) = before {
            (slot.applied_stamp_ms, slot.cursor, slot.clock) = (stamp_ms, cursor, clock);
        }
        assert!(slot.replica.last() >= slot.replica.applied(), "partition {partition} has lost entries");
        let idx = self.replicas.add(slot);
        self.recount(idx);
        if running {
            let low_water = self.replicas.slot(idx).positions.low_water();
            self.wal.release(partition.log(), low_water);
            self.replicas.slot_mut(idx).replica.release(low_water.next());
            self.machine.expect_replay(partition, self.replicas.slot(idx).replica.last());
            self.replicas.enqueue(List::Begin, idx);
        }
        Ok(idx)
    }
}
