//! The heart: the one module that knows WAL, Raft and state together. Sans-IO.
//!
//! Invariant: nothing that has to be written is produced while the log cannot start a frame, so that all that gathered
//! meanwhile becomes one entry a partition and one frame a shard; nothing is answered before it is durable, committed
//! and applied.

mod alarms;
mod apply;
mod frame;
mod images;
pub mod io;
mod mail;
mod members;
mod open;
mod outbox;
mod reads;
mod replica_slot;
mod replicas;
mod screen;
mod turn;
mod waits;

use std::collections::VecDeque;

use corduroy_wal::device::Device;
use corduroy_wal::{BatchSeq, ReadToken, Space, Wal, WalEvent};
use hashbrown::HashMap;

use self::alarms::Alarms;
use self::apply::Applying;
use self::outbox::Outbox;
use self::replica_slot::Slot;
use self::replicas::{List, Replicas};
use crate::budget::Budget;
use crate::clock::{Clocks, Now};
use crate::detached::Detached;
use crate::entry::EntryOp;
use crate::fresh::FreshReads;
use crate::ids::{PartitionId, StorageId, Ticket};
use crate::letters::{Letter, Mail};
use crate::liveness::Liveness;
use crate::machine::{Kind, StateMachine};
use crate::options::{Bound, Pending, ShardOptions};
use crate::planted::{self, PlantedBug};
use crate::raft::proposals::Spare;
use crate::raft::requests::MemberRequests;
use crate::raft::retention::Retention;
use crate::raft::snapshot::transfers::Transfers;
use crate::room::{self, Room};
use crate::status::{Counters, ReplicaStatus, ShardStatus};
use crate::table::ReplicaIdx;

pub use self::io::{Input, Outputs, PeerMessage, Rejection, Reply, ShardError};

/// One shard: its WAL, its replicas, its state machine.
pub struct Shard<D: Device, M: StateMachine> {
    options: ShardOptions,
    wal: Wal<D>,
    machine: M,
    replicas: Replicas,
    outbox: Outbox<M::Outcome>,
    totals: Pending,
    spare: Spare,
    fresh: FreshReads,
    mail: Mail,
    liveness: Liveness,
    members: MemberRequests,
    transfers: Transfers,
    /// Reads of the log for other members, and whose they are.
    reads: HashMap<ReadToken, ReplicaIdx>,
    last_read: u64,
    /// Records on their way to the disk: the batch they ride in, whose they are, and their Ready's number.
    in_flight: VecDeque<(BatchSeq, ReplicaIdx, u64)>,
    /// Where the replicas stood that were taken off: their partitions' state stands there in this process.
    detached: HashMap<PartitionId, Detached>,
    events: Vec<WalEvent>,
    counters: Counters,
    clocks: Clocks,
    alarms: Alarms,
    now: Now,
    next_tick_ns: u64,
    room: Room,
    space: Space,
    jobs_ended: bool,
    /// Numbers of steps that can be done, kept for their memory.
    woken: Vec<(PartitionId, u64)>,
    left_over: bool,
    retention: Retention,
    /// Bytes of entries of all replicas that are held until they are applied.
    unapplied_bytes: usize,
    is_closing: bool,
    has_ended: bool,
    job_error: Option<M::Failure>,
}

impl<D: Device, M: StateMachine> std::fmt::Debug for Shard<D, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Takes an input in. Nothing is done with it before the next turn; refusals come out of that as well.
    pub fn handle(&mut self, input: Input<'_, M::JobDone>) {
        match input {
            Input::Request { ticket, partition, kind, op } => {
                if let Err(why) = self.accept(ticket, partition, kind, op) {
                    self.counters.refused += 1;
                    self.outbox.reject(ticket, why);
                }
            }
            Input::JobDone(done) => {
                self.jobs_ended = true;
                let error = self.machine.job_done(done).err();
                self.job_error = self.job_error.take().or(error);
            }
            Input::Members { ticket, partition, request } => self.members.ask(ticket, partition, request),
            Input::Message { partition, from, message } => {
                self.post(partition, from, Letter::Message(message));
            }
            Input::Unreachable { partition, to } => self.post(partition, to, Letter::Unreachable),
        }
    }

    fn post(&mut self, partition: PartitionId, storage: StorageId, letter: Letter) {
        let has_room = self.mail.push(partition, storage, letter, self.options.limits.mail_bytes);
        self.counters.refused_messages += u64::from(!has_room);
    }

    fn accept(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        kind: Kind,
        op: &[u8],
    ) -> Result<(), Rejection> {
        let idx = self.replicas.find(partition).ok_or(Rejection::NoPartition(partition))?;
        if self.is_closing {
            return Err(Rejection::ReplicaStopped(partition, "the shard is shutting down".to_owned()));
        }
        let slot = self.replicas.slot_mut(idx);
        if !slot.replica.is_ready()
            && let Some(error) = slot.replica.ready_error()
        {
            return Err(Rejection::from(&error));
        }
        if let Some(leader) = slot.replica.other_leader().filter(|_| kind != Kind::ReadAnywhere) {
            return Err(Rejection::NotLeader(partition, leader));
        }
        let room = self.options.limits.check_room(op.len(), slot.pending, self.totals);
        room.map_err(|bound| match bound {
            Bound::Operation(limit) => Rejection::TooLarge { bytes: op.len(), limit },
            Bound::Waiting(what) => Rejection::Overloaded(what),
        })?;
        let is_full = self.space == Space::Full || self.room.is_wanted();
        if kind == Kind::Write && is_full && !self.machine.takes_when_full(op) {
            return Err(room::refusal(&self.machine, partition));
        }
        slot.pending.add(op.len());
        self.totals.add(op.len());
        self.counters.requests += 1;
        match kind {
            Kind::Write => {
                let (op, entry_bytes) = (EntryOp::of_default(op), self.options.limits.entry_bytes);
                slot.batches.push_write(ticket, op, entry_bytes, &mut self.spare);
                slot.conns.add(ticket.conn);
                self.replicas.enqueue_on([List::Propose, List::Age], idx);
            }
            Kind::Read | Kind::ReadAnywhere => self.accept_read(idx, ticket, kind, op),
        }
        Ok(())
    }

    /// A read rides behind the writes of its connection, if there are any; else it runs in the next turn. In a group with several
    /// members it rides only in what is proposed after it came: once that is committed, no other leader has acknowledged
    /// anything that the read does not see. All else needs a round.
    fn accept_read(&mut self, idx: ReplicaIdx, ticket: Ticket, kind: Kind, op: &[u8]) {
        let slot = self.replicas.slot_mut(idx);
        let rides = slot.conns.may_hold(ticket.conn) && !planted::is(PlantedBug::ReadOvertakesWrite);
        let ride = match (slot.batches.open_mut(), slot.rows.back_mut()) {
            (Some(batch), _) if rides => Some(&mut batch.requests),
            (None, Some(row)) if rides && !slot.replica.has_peers() => Some(&mut row.requests),
            _ => None,
        };
        if let Some(requests) = ride {
            requests.push_read(ticket, op);
            slot.conns.add(ticket.conn);
        } else {
            self.fresh.push(idx, ticket, op, kind == Kind::ReadAnywhere);
        }
    }

    /// By how much stamps are ahead of the wall clock, in ms.
    #[must_use]
    pub fn ahead_ms(&self, now: Now) -> u64 {
        self.clocks.ahead_ms(now)
    }

    /// Answers a read at once, without a turn: by a replica that leads and has applied the first entry of its term, or needs
    /// no round for another reason ([`Kind::ReadAnywhere`]), if the state machine has the answer at hand, which it lends to `with`. `None`: hand it in as a request. Only for a connection that has no request
    /// without an outcome in the partition, so that the read overtakes nothing; what others have there is no hindrance.
    pub fn read_now<T>(
        &mut self,
        partition: PartitionId,
        conn: u64,
        (kind, op): (Kind, &[u8]),
        now: Now,
        with: impl FnOnce(M::View<'_>) -> T,
    ) -> Option<T> {
        debug_assert!(!self.holds(partition, conn), "a read of connection {conn} overtakes its own request");
        let idx = self.replicas.find(partition)?;
        let slot = self.replicas.slot_mut(idx);
        let clock_ms = match slot.replica.can_serve() || planted::is(PlantedBug::ReadAtOnceTooEarly) {
            true => self.clocks.read(&mut slot.clock, now),
            false => self.clock_at_once(idx, (kind, op), now)?,
        };
        let answer = self.machine.look(partition, op, clock_ms, with)?;
        self.counters.reads_direct += 1;
        Some(answer)
    }

    /// What a read is judged by that a replica with other members may answer at once.
    fn clock_at_once(&mut self, idx: ReplicaIdx, (kind, op): (Kind, &[u8]), now: Now) -> Option<u64> {
        let slot = self.replicas.slot_mut(idx);
        let entry = slot.replica.read_at_once(kind == Kind::ReadAnywhere, now.mono_ns);
        entry.filter(|entry| *entry <= slot.replica.applied())?;
        let (clock_ms, wall_ms) = (slot.logged_ms(), self.clocks.read(&mut slot.clock, now));
        if slot.replica.has_ready() {
            self.replicas.enqueue(List::Ready, idx);
        }
        let partition = self.replicas.slot(idx).partition;
        (!self.machine.rests_on_clock(partition, op, wall_ms)).then_some(clock_ms)
    }

    /// Whether a request of this connection for the partition has no outcome. Looks at all that wait there.
    #[must_use]
    pub fn holds(&self, partition: PartitionId, conn: u64) -> bool {
        let idx = self.replicas.find(partition);
        idx.is_some_and(|idx| self.replicas.slot(idx).holds(conn) || self.fresh.holds(idx, conn))
    }

    /// The state machine.
    #[must_use]
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// The state machine, for what is not part of any partition's history.
    pub const fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The log.
    #[must_use]
    pub const fn wal(&self) -> &Wal<D> {
        &self.wal
    }

    /// The log, for drivers and the simulator.
    pub const fn wal_mut(&mut self) -> &mut Wal<D> {
        &mut self.wal
    }

    /// The partition's replica.
    #[must_use]
    pub fn replica(&self, partition: PartitionId) -> Option<&crate::raft::replica::Replica> {
        self.replicas.find(partition).map(|idx| &self.replicas.slot(idx).replica)
    }

    /// The partition's replica, as it stands.
    #[must_use]
    pub fn replica_status(&self, partition: PartitionId) -> Option<ReplicaStatus> {
        self.replicas.find(partition).map(|idx| self.replicas.slot(idx).status())
    }

    /// The partitions whose replicas may have changed since this was asked last, those that have come or were taken off among them.
    pub fn take_changed(&mut self) -> Vec<PartitionId> {
        self.replicas.take_changed()
    }

    /// Its replicas.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaStatus> + '_ {
        self.replicas.iter().map(|(_, slot)| slot.status())
    }

    /// Everything about the shard and its replicas. Costs as much as there are replicas.
    #[must_use]
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            replicas: self.replicas().collect(),
            counters: self.counters,
            members: self.members.counts().clone(),
            pending_requests: self.totals.requests,
            pending_bytes: self.totals.bytes,
            space: self.space,
        }
    }

    /// The counters alone.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes no further requests; turn on until [`Shard::is_idle`].
    pub const fn close(&mut self) {
        self.is_closing = true;
    }

    /// Whether nothing waits: no request, no record on its way to the disk, no entry to apply. Costs as much as
    /// there are replicas.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.totals.requests == 0
            && self.outbox.replies.is_empty()
            && self.mail.is_empty()
            && self.members.is_empty()
            && self.in_flight.is_empty()
            && self.replicas.listed(List::Begin) == 0
            && self.replicas.listed(List::Ready) == 0
            && self.replicas.iter().all(|(_, slot)| slot.is_idle())
    }

    /// Has the log write down how far it is durable, so that a tail that is lost later is seen to be missing: for a shard at
    /// rest, and for one that is closed and idle. Turn on afterwards, as after any input.
    ///
    /// # Errors
    /// [`ShardError::Wal`]: a write of the log has failed, and the process must end.
    pub fn mark_end(&mut self) -> Result<(), ShardError> {
        Ok(self.wal.mark_end()?)
    }

    /// Whether nothing waits, and the log has written down that it ends here. Costs as much as there are replicas.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_idle() && self.wal.is_end_marked()
    }

    /// After a turn: compares all that is counted with the replicas.
    pub fn check(&self) {
        let in_flight = self.in_flight.iter().map(|(_, idx, _)| *idx);
        replica_slot::check_all(&self.replicas, self.totals, self.unapplied_bytes, in_flight);
    }

    fn applying(&mut self, idx: ReplicaIdx, budget: Budget) -> (Applying<'_, M>, &mut Slot) {
        let applying = Applying {
            machine: &mut self.machine,
            outbox: &mut self.outbox,
            totals: &mut self.totals,
            spare: &mut self.spare,
            counters: &mut self.counters,
            clocks: &mut self.clocks,
            now: self.now,
            budget,
            fetched: 0,
            outcome_bytes: self.options.limits.outcome_bytes,
        };
        (applying, self.replicas.slot_mut(idx))
    }
}
