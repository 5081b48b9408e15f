//! A replica with everything that waits at it.
//!
//! Invariant: `pending` counts what came in and has no outcome; `conns` counts what of that stands in batches and
//! rows, so a read runs at once only if its connection has nothing before it.

use hashbrown::HashMap;

use super::alarms::NEVER;
use super::io::Rejection;
use super::replicas::Replicas;
use crate::clock::PartitionClock;
use crate::conns::ConnFilter;
use crate::entry::{self, Cursor};
use crate::fresh::FreshRead;
use crate::ids::PartitionId;
use crate::inbox::Batches;
use crate::machine::Wait;
use crate::options::Pending;
use crate::parked::{ParkedRead, ParkedReads};
use crate::raft::positions::{Position, Positions};
use crate::raft::proposals::{Proposals, Requests, Row as Proposed};
use crate::raft::replica::Replica;
use crate::status::ReplicaStatus;
use crate::table::{ReplicaIdx, Row};

/// What apply waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ApplyWait {
    /// What a step needs.
    Step(Wait),
    /// The parked reads of this connection, which come first.
    Reads(u64),
    /// An image that replaces the state.
    Image,
}

/// A replica and everything that waits at it.
pub(crate) struct Slot {
    pub partition: PartitionId,
    pub replica: Replica,
    pub batches: Batches,
    pub rows: Proposals,
    pub parked: ParkedReads,
    pub conns: ConnFilter,
    pub pending: Pending,
    pub cursor: Cursor,
    /// What apply waits for; it is not tried until that is there.
    pub apply_wait: Option<ApplyWait>,
    /// Never behind a stamp in the log, applied, proposed or found at the start.
    pub clock: PartitionClock,
    /// When its alarm goes off, and whether it has and an entry is to be proposed for it.
    pub alarm_ns: u64,
    /// See `alarm_ns`.
    pub wants_time: bool,
    /// The highest stamp applied, or of a committed entry that waits for reads.
    pub applied_stamp_ms: u64,
    pub positions: Positions,
    /// Bytes of unapplied entries as last counted into the shard's sum.
    pub counted_bytes: usize,
    /// The lists it stands on, a bit each.
    pub listed: u16,
}

/// An idle partition is to stay within 4 KiB, all its parts together.
const _: () = assert!(size_of::<Slot>() <= 376, "a replica's slot has grown");

impl Row for Slot {
    fn partition(&self) -> PartitionId {
        self.partition
    }

    fn queues(&mut self) -> &mut u16 {
        &mut self.listed
    }

    fn prefetch_parts(&self, depth: usize) {
        self.replica.prefetch(depth);
        self.batches.prefetch();
        self.rows.prefetch();
        self.conns.prefetch();
    }
}

impl Slot {
    /// `stamp_ms`: the highest stamp applied; `log_stamp_ms`: the highest in the log.
    pub fn new(replica: Replica, stamp_ms: u64, log_stamp_ms: u64, positions: Positions) -> Self {
        Self {
            partition: replica.partition(),
            replica,
            batches: Batches::default(),
            rows: Proposals::default(),
            parked: ParkedReads::default(),
            conns: ConnFilter::default(),
            pending: Pending::default(),
            cursor: Cursor::default(),
            apply_wait: None,
            clock: PartitionClock::last_at(log_stamp_ms.max(stamp_ms)),
            alarm_ns: NEVER,
            wants_time: false,
            applied_stamp_ms: stamp_ms,
            positions,
            counted_bytes: 0,
            listed: 0,
        }
    }

    /// Counts anew what is held until it is applied, in `all` of the shard too.
    pub fn recount(&mut self, all: &mut usize) {
        let bytes = self.replica.unapplied_bytes();
        assert!(*all >= self.counted_bytes, "{all} bytes of all, {} of one", self.counted_bytes);
        *all = *all - self.counted_bytes + bytes;
        self.counted_bytes = bytes;
    }

    /// Gives back the memory of empty queues: the replica goes to sleep.
    pub fn rest(&mut self) {
        self.replica.rest();
        self.batches.rest();
        self.rows.rest();
        self.conns.rest();
        if self.parked.is_empty() {
            self.parked = ParkedReads::default();
        }
    }

    /// Whether nothing waits for an outcome, for the disk or for apply. A fenced replica applies nothing any more.
    pub fn is_idle(&self) -> bool {
        self.pending.requests == 0
            && self.replica.unpersisted() == 0
            && (!self.replica.is_running() || self.replica.applied() == self.replica.committed())
    }

    /// Whether a request of this connection waits here. Looks at all of them, unless none of its counter does.
    pub fn holds(&self, conn: u64) -> bool {
        self.parked.holds(conn)
            || self.conns.may_hold(conn) && self.waiting().any(|requests| requests.holds(conn))
    }

    /// What stands in batches and rows.
    fn waiting(&self) -> impl Iterator<Item = &Requests> {
        let batches = self.batches.queue.iter().map(|batch| &batch.requests);
        batches.chain(self.rows.iter().map(|row| &row.requests))
    }

    /// The disk has finished a record: whose entries it brought is noted for those who wait for them.
    pub fn mark_durable(&mut self, now_ns: u64) {
        self.rows.mark_durable(self.replica.durable(), now_ns);
    }

    /// The payload of the entry that is opened next, if there is one and nothing keeps it from that.
    pub fn next_payload(&self) -> Option<&[u8]> {
        let is_due = self.apply_wait.is_none() && !self.cursor.is_open;
        let next = self.replica.applied().next();
        let entry = if is_due && next <= self.replica.committed() { self.replica.entry(next) } else { None };
        entry.map(|entry| &*entry.data)
    }

    /// The first operation of that entry.
    pub fn next_op(&self) -> Option<(PartitionId, &[u8])> {
        Some((self.partition, entry::first_op(self.next_payload()?)?))
    }

    /// The highest stamp of what is applied, in ms: an entry that is applied in part counts.
    pub fn logged_ms(&self) -> u64 {
        self.applied_stamp_ms.max(self.cursor.stamp_ms)
    }

    /// Whether parked reads may be tried.
    pub fn has_due_reads(&self) -> bool {
        self.parked.has_due() && self.replica.answers_parked()
    }

    /// Parks a read that comes behind all that its connection has under way.
    pub fn park(&mut self, read: FreshRead<'_>, now_ns: u64) {
        let may_hold = self.conns.may_hold(read.ticket.conn);
        let own = self.rows.back_mut().filter(|_| may_hold).map(|row| row.lsn);
        self.parked.park(&mut self.replica, own, now_ns, read);
    }

    /// Whether a step of it waits for whatever job ends next.
    pub fn waits_for_job(&self) -> bool {
        self.apply_wait == Some(ApplyWait::Step(Wait::Job))
            || self.parked.wait_for_job()
            || self.batches.front().is_some_and(|batch| batch.screening.waits_for_job())
    }

    /// A job has ended: what waits for whatever job that is may be tried.
    pub fn wake_for_job(&mut self) {
        self.apply_wait.take_if(|wait| *wait == ApplyWait::Step(Wait::Job));
        self.parked.wake_for_job();
        self.batches.front_mut().into_iter().for_each(|batch| batch.screening.wake_for_job());
    }

    /// What the state machine calls by this number is there: the step that waits for it may be tried.
    pub fn wake(&mut self, number: u64) {
        let is_read = self.parked.wake(number);
        if !is_read
            && self.apply_wait.take_if(|wait| *wait == ApplyWait::Step(Wait::Number(number))).is_none()
        {
            self.batches.front_mut().into_iter().for_each(|batch| batch.screening.wake(number));
        }
    }

    /// Whether a write of the next entry's row comes behind a parked read of its connection: then apply waits for that.
    /// Writes that were found not to are not looked at again, since no read of theirs is parked before the row is done; reads
    /// that come behind parked ones are parked when it is their turn. Those it waits for are judged by its stamp.
    pub fn waits_for_parked(&mut self, payload: &[u8]) -> bool {
        let Some(row) = self.rows.front().filter(|_| !self.parked.is_empty()) else { return false };
        let holds = |conn| self.parked.holds_before(conn, row.lsn);
        let Some((at, conn)) = row.requests.first_write_of(self.cursor.ahead as usize, holds) else {
            return false;
        };
        self.cursor.ahead = u32::try_from(at).expect("a row has far fewer than 4 billion requests");
        self.apply_wait = Some(ApplyWait::Reads(conn));
        self.applied_stamp_ms = self.applied_stamp_ms.max(entry::stamp_ms(payload).unwrap_or_default());
        self.parked.wake_before_entry(conn);
        true
    }

    /// A parked read of the connection has its outcome: apply may have waited for that.
    pub fn unpark(&mut self, conn: u64) {
        let is_before = |row: &Proposed| self.parked.holds_before(conn, row.lsn);
        if self.apply_wait == Some(ApplyWait::Reads(conn)) && !self.rows.front().is_some_and(is_before) {
            self.apply_wait = None;
        }
    }

    /// Stops the replica. Its log stays as it is. Returns the number of what apply has waited for.
    pub fn stop(&mut self, why: String) -> Option<u64> {
        self.replica.stop(why);
        self.wait_for(None)
    }

    /// Has apply wait for something else. Returns the number of what it has waited for.
    pub fn wait_for(&mut self, wait: Option<ApplyWait>) -> Option<u64> {
        match std::mem::replace(&mut self.apply_wait, wait) {
            Some(ApplyWait::Step(Wait::Number(number))) => Some(number),
            Some(ApplyWait::Step(Wait::Job) | ApplyWait::Reads(_) | ApplyWait::Image) | None => None,
        }
    }

    /// Why requests are turned away, if they are.
    pub fn refusal(&self) -> Rejection {
        match (self.replica.ready_error(), self.replica.other_leader()) {
            (Some(error), _) => Rejection::from(&error),
            (None, Some(leader)) => Rejection::NotLeader(self.partition, leader),
            (None, None) => Rejection::NoLeader(self.partition),
        }
    }

    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            released: self.positions.low_water(),
            pending_requests: self.pending.requests,
            pending_bytes: self.pending.bytes,
            pending_entries: self.rows.len(),
            ..ReplicaStatus::of(&self.replica)
        }
    }
}

impl Slot {
    /// Between two turns: compares what is counted with what waits.
    ///
    /// # Panics
    /// If a figure is not that of what waits.
    pub fn check(&self) {
        let partition = self.partition;
        let (mut waiting, mut conns) = (Pending::default(), ConnFilter::default());
        for requests in self.waiting() {
            waiting.requests += requests.rest().len();
            waiting.bytes += requests.bytes();
            requests.rest().for_each(|item| conns.add(item.ticket.conn));
        }
        assert!(self.conns.is_same(&conns), "partition {partition}: the connections of what waits");
        self.replica.check();
        self.rows.check();
        self.batches.check();
        self.positions.check();
        assert!(self.apply_wait.is_none() || self.replica.is_running(), "partition {partition}: apply waits");
        let is_open = self.cursor.is_open;
        assert!(is_open || self.cursor.left == 0, "partition {partition}: no entry is begun");
        assert!(
            !is_open || self.rows.front().is_none_or(|row| row.lsn > self.replica.applied()),
            "{partition}"
        );
        let persisted = self.positions.get(Position::Persisted);
        assert!(persisted >= Some(self.positions.low_water()), "partition {partition}: what is released");
        self.parked.check();
        self.parked.iter().flat_map(ParkedRead::requests).for_each(|(_, bytes)| waiting.add(bytes));
        assert_eq!(self.pending, waiting, "partition {partition}: requests without an outcome");
        let held = self.replica.unapplied_bytes();
        assert_eq!(self.counted_bytes, held, "partition {partition}: bytes held until they are applied");
        assert!(self.replica.is_running() || held == 0, "partition {partition} is fenced, and holds entries");
    }
}

/// Compares what a shard counts of all its replicas with what each counts; `in_flight`: records on their way to the disk, by
/// their replicas.
///
/// # Panics
/// If something is not theirs.
pub(crate) fn check_all(
    replicas: &Replicas,
    totals: Pending,
    unapplied_bytes: usize,
    in_flight: impl Iterator<Item = ReplicaIdx>,
) {
    replicas.check(|slot| slot.listed);
    let mut records: HashMap<ReplicaIdx, usize> = HashMap::new();
    in_flight.for_each(|idx| *records.entry(idx).or_default() += 1);
    let (mut pending, mut bytes) = (Pending::default(), 0);
    for (idx, slot) in replicas.iter() {
        slot.check();
        pending.requests += slot.pending.requests;
        pending.bytes += slot.pending.bytes;
        bytes += slot.counted_bytes;
        if slot.replica.is_running() {
            let known = records.get(&idx).copied().unwrap_or_default();
            assert_eq!(slot.replica.unpersisted(), known, "partition {}: records in flight", slot.partition);
        }
    }
    assert_eq!(totals, pending, "requests without an outcome");
    assert_eq!(unapplied_bytes, bytes, "bytes held until they are applied");
}
