//! A shard on its core: the gate before it, when it is to be turned, and its figures.

use std::cell::{Cell, RefCell};

use corduroy_shards::{
    Input, Now, PartitionId, Rejection, ReplicaStatus, Reply, Shard, ShardId, StateMachine, Ticket,
};
use corduroy_wal::device::DiskDevice;

use super::gate::{Gate, Heavy, Intake};
use super::rest::Rest;
use super::tally::Tally;
use crate::node::facts::ShardFacts;
use crate::resp::SessionReply;
use crate::store::{LsmLevel, Store};

/// The state machine of the shards.
pub type Machine = Store<LsmLevel>;
/// A shard of this node.
pub type NodeShard = Shard<DiskDevice, Machine>;
/// A job on its way to the pool.
pub type Job = <Machine as StateMachine>::Job;
/// A job's result on its way back.
pub type JobDone = <Machine as StateMachine>::JobDone;

/// A shard on this core.
#[derive(Debug)]
pub struct Host {
    /// Its id.
    pub id: ShardId,
    /// The shard. Borrowed for one call at a time.
    pub shard: RefCell<NodeShard>,
    /// Something was put in since its last turn, or its log has news.
    pub dirty: Cell<bool>,
    /// When it wants to be turned at the latest, on the monotonic clock.
    pub wake_at_ns: Cell<Option<u64>>,
    /// When its log is at rest.
    pub rest: Rest,
    /// Since when writes wait for a flush of the state, on the monotonic clock; `None`: none does.
    flush_wait_since_ns: Cell<Option<u64>>,
    /// Where heavy requests wait for their turn.
    pub gate: RefCell<Gate>,
    /// What may wait there, bytes.
    waiting_bytes: usize,
    /// The replicas in sum.
    tally: RefCell<Tally>,
}

impl Host {
    /// Its figures now.
    pub fn facts(&self, now: Now) -> ShardFacts {
        let shard = self.shard.borrow();
        ShardFacts {
            id: self.id,
            counters: *shard.counters(),
            wal: shard.wal().stats(),
            store: shard.machine().stats(),
            groups: self.tally.borrow().groups().clone(),
            ahead_ms: shard.ahead_ms(now),
            has_space: shard.wal().space() == corduroy_wal::Space::Ok,
            sync: shard.wal().device().sync_mode(),
        }
    }

    /// Counts the replicas that may have changed since this was done last, those alone, as they stand now. `note` sees each of
    /// them; `None`: it is not there any more.
    pub fn gather(&self, mut note: impl FnMut(&NodeShard, PartitionId, Option<&ReplicaStatus>)) {
        let changed = self.shard.borrow_mut().take_changed();
        let (shard, mut tally) = (self.shard.borrow(), self.tally.borrow_mut());
        for partition in changed {
            let replica = shard.replica_status(partition);
            note(&shard, partition, replica.as_ref());
            tally.count(partition, replica);
        }
        debug_assert!(tally.is_of(shard.replicas()), "shard {}: the replicas in sum", self.id.0);
    }

    /// A shard that has just been opened: its first turn lets the replicas begin.
    pub fn new(id: ShardId, shard: NodeShard, waiting_bytes: usize) -> Self {
        Self {
            id,
            shard: RefCell::new(shard),
            dirty: Cell::new(true),
            wake_at_ns: Cell::new(None),
            rest: Rest::default(),
            tally: RefCell::default(),
            flush_wait_since_ns: Cell::new(None),
            gate: RefCell::default(),
            waiting_bytes,
        }
    }

    /// Whether a request has to wait for its turn: it is heavy, or one of its connection waits that came before it.
    #[inline]
    pub fn must_wait(&self, conn: u64, partition: PartitionId, op: &[u8]) -> bool {
        let is_behind = || {
            let gate = self.gate.borrow();
            !gate.is_idle() && gate.holds(conn)
        };
        self.shard.borrow().machine().weight(partition, op) > 0 || is_behind()
    }

    /// Takes a request that has to wait, to be let in when its turn comes.
    ///
    /// # Errors
    /// The refusal, if too many wait, or too much.
    pub fn hold(&self, now_ns: u64, heavy: Heavy) -> Result<(), (Ticket, SessionReply)> {
        self.dirty.set(true);
        self.gate.borrow_mut().push(now_ns, heavy, self.waiting_bytes).map_err(|heavy| {
            (heavy.ticket, Reply::Rejected(Rejection::Overloaded("heavy requests of the shard")))
        })
    }

    /// Lets heavy requests in, as many as may be in the shard; those that `is_wanted` says nobody waits for are dropped.
    /// Answers the refusals of those that have waited for too long.
    pub fn admit(&self, now_ns: u64, is_wanted: impl Fn(Ticket) -> bool) -> Vec<(Ticket, SessionReply)> {
        let mut gate = self.gate.borrow_mut();
        let mut late = Vec::new();
        if gate.is_idle() {
            return late;
        }
        for Heavy { ticket, .. } in gate.take_late(now_ns) {
            late.push((ticket, Reply::Rejected(Rejection::Overloaded("it was not done in time"))));
        }
        // A job that ends has this asked again: the flush that they wait for is one.
        let intake = {
            let shard = self.shard.borrow();
            let store = shard.machine();
            Intake { takes_writes: store.takes_heavy_writes(), flushes: store.flushes() }
        };
        let weigh = |heavy: &Heavy| self.shard.borrow().machine().weight(heavy.partition, &heavy.op);
        while let Some(Heavy { ticket, partition, kind, op }) = gate.next(intake, weigh) {
            if is_wanted(ticket) {
                self.shard.borrow_mut().handle(Input::Request { ticket, partition, kind, op: &op });
                self.dirty.set(true);
            } else {
                gate.done(ticket);
            }
        }
        late
    }

    /// Looks whether writes wait for a flush of the state; answers for how long they did, ns, when that ends.
    pub fn end_of_flush_wait(&self, now_ns: u64) -> Option<u64> {
        let waits = self.shard.borrow().machine().waits_for_flush() || self.gate.borrow().awaits_flush();
        match (waits, self.flush_wait_since_ns.get()) {
            (true, None) => self.flush_wait_since_ns.set(Some(now_ns)),
            (false, Some(since_ns)) => {
                self.flush_wait_since_ns.set(None);
                return Some(now_ns.saturating_sub(since_ns));
            }
            (true, Some(_)) | (false, None) => {}
        }
        None
    }

    /// A request has its outcome: if it was a heavy one, the next may come in.
    pub fn end(&self, ticket: Ticket) {
        let mut gate = self.gate.borrow_mut();
        if !gate.is_idle() && gate.done(ticket) {
            self.dirty.set(true);
        }
    }
}
