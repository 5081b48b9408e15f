//! The hosts of a core: its shards, the jobs that they have with the pool, and the way to the shards of other cores.
//!
//! Invariant: they know no connection but by its number. A request is handed on, and its one outcome comes as an [`Answer`]:
//! of a shard from its turn, of a request that no shard may take from [`Hosts::take_decided`], of another core's shard as a
//! message. Whoever drives the core brings it to its session.

pub mod forward;
pub mod gate;
pub mod host;
mod jobs;
mod leads;
mod left;
pub mod links;
mod members;
mod nodes;
mod replicas;
mod rest;
mod tally;
mod transfers;
pub mod turn;

pub use members::Either;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use corduroy_shards::forward::{End, Request, Taken};
use corduroy_shards::ids::NodeId;
use corduroy_shards::raft::replica::Replica;
use corduroy_shards::routing::FIRST_DATA;
use corduroy_shards::runtime::{Endpoint, pool};
use corduroy_shards::{
    Input, Kind, Now, PartitionId, RaftMessage, Rejection, Reply, ShardId, StateMachine, StorageId, Ticket,
};
use smallvec::SmallVec;

use super::core::{Core, core_of_conn};
use super::founding::saved_members;
use super::identity::process_number;
use super::ledger::COUNTED_OUTCOME_BYTES;
use super::message::{Answer, CoreSet, Message};
use super::options::{sync_mode, waiting_bytes};
use super::shared::lock;
use crate::resp::SessionReply;
use crate::resp::members::MemberCommand;
use crate::store::{Looked, PREFETCH_KEYS};
use forward::Forward;
use gate::Heavy;
use host::{Host, Job, JobDone, Machine, NodeShard};
use jobs::Jobs;
use leads::LeadLog;
use left::Left;
use links::Links;
use members::Members;
use transfers::Transfers;

/// How often figures are published while there is something to do.
const PUBLISH_EVERY_NS: u64 = 100_000_000;

/// Where a partition is.
#[derive(Clone, Copy, Debug)]
enum Home {
    /// In the shard of this index here.
    Here(usize),
    /// On another core.
    There(usize),
}

/// See the file's head.
pub struct Hosts {
    core: Rc<Core>,
    all: Vec<Host>,
    /// Where each partition is, in the order of the partitions.
    homes: Vec<Home>,
    /// The way to the other cores.
    pub links: Links,
    /// What goes to other nodes, if there are any.
    forward: Option<Forward>,
    /// Outcomes decided here, without a shard.
    decided: RefCell<Vec<(Ticket, SessionReply)>>,
    /// Jobs of the shards; each brings the shard's index and its result.
    pub(super) jobs: Jobs<(usize, JobDone)>,
    /// Shards were not turned since too many outcomes are under way to other cores.
    pub(super) is_held_back: Cell<bool>,
    transfers: Transfers,
    members: Members,
    leads: LeadLog,
    left: Left,
    /// When the figures were published, and whether something happened since.
    published_ns: Cell<u64>,
    unpublished: Cell<bool>,
}

impl Hosts {
    /// The shards of a core, opened, and its ends of the rings.
    pub fn new(core: Rc<Core>, mesh: Endpoint<Message>, shards: Vec<(ShardId, NodeShard)>) -> Self {
        let shared = &core.shared;
        let waiting_bytes = waiting_bytes(shared);
        let all: Vec<Host> =
            shards.into_iter().map(|(id, shard)| Host::new(id, shard, waiting_bytes)).collect();
        let homes = shared.layout.partitions().map(|partition| {
            let shard = shared.layout.shard_of(partition);
            let here = all.iter().position(|host| Some(host.id) == shard);
            let there = shared.layout.core_of(partition).expect("it is one of the layout's");
            here.map_or(Home::There(there), Home::Here)
        });
        Self {
            homes: homes.collect(),
            all,
            links: Links::new(Rc::clone(&core), mesh),
            forward: shared.peers().map(|_| Forward::new(NodeId(shared.identity.node), process_number())),
            decided: RefCell::default(),
            jobs: Jobs::new(),
            is_held_back: Cell::new(false),
            transfers: Transfers::default(),
            members: Members::default(),
            leads: LeadLog::default(),
            left: Left::default(),
            published_ns: Cell::new(0),
            unpublished: Cell::new(true),
            core,
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Host] {
        &self.all
    }

    /// The core that they are on.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Whether the groups of all partitions here are on the disk, with this node among their members: of a node that is alone they
    /// need not be, and elsewhere they are after the first start. One that was taken along and cannot be started is not waited for:
    /// it did not serve before either, and the others do.
    pub fn are_founded(&self) -> bool {
        let shared = &self.core.shared;
        let identity = &shared.identity;
        if identity.founders.is_empty() || identity.joins() || identity.is_founded() {
            return true;
        }
        let was_alone = identity.former.is_some();
        self.all.iter().all(|host| {
            let shard = host.shard.borrow();
            let wal = shard.wal();
            let is_stopped =
                |partition| shard.replica(partition).is_some_and(|replica| !replica.is_running());
            let is_saved = |partition| {
                let members = saved_members(wal, partition);
                members.is_some_and(|members| members.member_on(StorageId(identity.storage)).is_some())
            };
            // A log that was kept without Raft has no members until its first record with it.
            let is_there = |partition: PartitionId| was_alone && is_stopped(partition) || is_saved(partition);
            wal.in_flight() == 0 && shared.layout.partitions_of(host.id).all(is_there)
        })
    }

    /// Transfers what they lead to other nodes; to be called until it returns that this is over.
    pub fn transfer_leads(&self) -> bool {
        self.transfers.go_on(&self.core, &self.all)
    }

    fn home(&self, partition: PartitionId) -> Option<Home> {
        let index = partition.0.checked_sub(FIRST_DATA.0)?;
        self.homes.get(usize::try_from(index).ok()?).copied()
    }

    /// The shard of a partition, if that is here.
    fn host_of(&self, partition: PartitionId) -> Option<&Host> {
        let Some(Home::Here(index)) = self.home(partition) else { return None };
        Some(self.all.get(index).expect("homes name shards of this core"))
    }

    /// Carries a GET out at once, if its partition is on this core and has the answer in memory: see
    /// [`Backend::get_now`](crate::resp::Backend::get_now).
    pub fn read_now(
        &self,
        partition: PartitionId,
        conn: u64,
        read: (Kind, &[u8]),
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool {
        let Some(Home::Here(index)) = self.home(partition) else { return false };
        let Some(host) = self.all.get(index) else { return false };
        let mut shard = host.shard.borrow_mut();
        let read = shard.read_now(partition, conn, read, self.core.now(), |Looked { value, read_bytes }| {
            with(value);
            read_bytes
        });
        let Some(read_bytes) = read else { return false };
        // No turn does it.
        self.unpublished.set(true);
        if read_bytes > 0 && shard.machine().wants_turn() {
            host.dirty.set(true);
            self.core.wake();
        }
        true
    }

    /// Has the CPU fetch the rows of keys that are here, [`PREFETCH_KEYS`] at most.
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = (PartitionId, &'k [u8])>) {
        let here = keys.filter_map(|(partition, key)| match self.home(partition)? {
            Home::Here(index) => Some((index, partition, key)),
            Home::There(_) => None,
        });
        let here: SmallVec<[(usize, PartitionId, &[u8]); PREFETCH_KEYS]> = here.collect();
        for (index, host) in self.all.iter().enumerate() {
            let shard = host.shard.borrow();
            // What takes a round is read later, and the shard has it fetched then.
            let reads_now = |partition| {
                self.forward.is_none() || shard.replica(partition).is_some_and(Replica::may_read_at_once)
            };
            let its_own = here.iter().filter(|(at, partition, _)| *at == index && reads_now(*partition));
            shard.machine().prefetch_keys(its_own.map(|(_, partition, key)| (*partition, *key)));
        }
    }

    /// Hands a request to its partition's shard, here or on another core. Its outcome comes in a later pass. Returns the
    /// other core, if it went there.
    pub fn request(&self, request: Request<'_>) -> Option<usize> {
        let Request { ticket, partition, kind, may_redirect, op } = request;
        match self.home(partition) {
            Some(Home::Here(index)) => self.request_here(index, request),
            Some(Home::There(core)) => {
                let op = op.into();
                self.links.post(core, Message::Request { ticket, partition, kind, may_redirect, op });
                return Some(core);
            }
            None => self.decide(ticket, Rejection::NoPartition(partition)),
        }
        None
    }

    /// Takes a request that another core has sent here.
    pub fn take_request(&self, request: Request<'_>) {
        match self.home(request.partition) {
            Some(Home::Here(index)) => self.request_here(index, request),
            Some(Home::There(_)) | None => {
                self.decide(request.ticket, Rejection::NoPartition(request.partition));
            }
        }
    }

    fn request_here(&self, index: usize, request: Request<'_>) {
        if let Some(forward) = &self.forward
            && self.take_forwarded(forward, request) == Taken::Yes
        {
            return;
        }
        let Request { ticket, partition, kind, op, .. } = request;
        self.run_here(index, ticket, partition, kind, op);
    }

    fn run_here(&self, index: usize, ticket: Ticket, partition: PartitionId, kind: Kind, op: &[u8]) {
        let host = self.all.get(index).expect("homes name shards of this core");
        self.core.wake();
        if MemberCommand::is_one(op) {
            return self.ask_members(index, ticket, partition, op);
        }
        if host.must_wait(ticket.conn, partition, op) {
            let held = host.hold(self.core.now().mono_ns, Heavy { ticket, partition, kind, op: op.into() });
            self.decided.borrow_mut().extend(held.err());
            return;
        }
        host.shard.borrow_mut().handle(Input::Request { ticket, partition, kind, op });
        host.dirty.set(true);
    }

    /// Hands a message of a peer to the replica that it is for. One for another core is dropped: the peer looks for it here,
    /// and Raft sends what matters again.
    pub fn take_peer_message(&self, partition: PartitionId, from: NodeId, message: Box<RaftMessage>) {
        if self.hears(partition, from, &message) {
            self.hand_in(partition, Input::Message { partition, from: StorageId(from.0), message });
        }
    }

    /// A message to the member of a group on that storage was not sent.
    pub fn report_unreachable(&self, partition: PartitionId, to: StorageId) {
        self.hand_in(partition, Input::Unreachable { partition, to });
    }

    fn hand_in(&self, partition: PartitionId, input: Input<'_, JobDone>) {
        if let Some(Home::Here(index)) = self.home(partition)
            && let Some(host) = self.all.get(index)
        {
            host.shard.borrow_mut().handle(input);
            host.dirty.set(true);
        }
    }

    fn decide(&self, ticket: Ticket, why: Rejection) {
        self.decide_reply(ticket, Reply::Rejected(why));
    }

    fn decide_reply(&self, ticket: Ticket, reply: SessionReply) {
        self.decided.borrow_mut().push((ticket, reply));
        self.core.wake();
    }

    /// What was decided without a shard.
    pub fn take_decided(&self) -> Vec<(Ticket, SessionReply)> {
        self.decided.take()
    }

    /// Lets heavy requests into the shards, whose turn it is; those of connections that `is_open` does not know are dropped.
    pub fn admit(&self, now: Now, is_open: impl Fn(u64) -> bool) {
        for host in &self.all {
            let late = host.admit(now.mono_ns, |ticket| is_open(ticket.conn));
            if !late.is_empty() {
                self.decided.borrow_mut().extend(late);
                self.core.wake();
            }
        }
    }

    /// A connection of this core has ended: gives up what waits of it here and on the other cores, as far as anything may.
    pub fn end_conn(&self, conn: u64, end: End, waited_at: &CoreSet) {
        self.note_ended(conn, end);
        (0..self.links.cores())
            .filter(|core| *core != self.core.index && waited_at.may_hold(*core))
            .for_each(|core| self.links.post(core, Message::Ended { conn, end }));
    }

    /// A connection has ended: gives up what waits of it here. What waits for its turn before a shard goes on until the
    /// connection is closed: its client may read what comes.
    pub fn note_ended(&self, conn: u64, end: End) {
        if end != End::Announced {
            self.all.iter().for_each(|host| host.gate.borrow_mut().forget(conn));
        }
        if let Some(forward) = &self.forward {
            forward.forwarder.borrow_mut().end_conn(conn, end, self.core.now().mono_ns);
            self.core.wake();
        }
    }

    /// Whether requests may wait for leaders on other nodes.
    pub const fn forwards(&self) -> bool {
        self.forward.is_some()
    }

    /// Sends an outcome to its connection's core, which is another one.
    pub fn send(&self, answer: Answer) {
        let Answer { ticket, reply, timing } = answer;
        let slowlog = &self.core.shared.hub.slowlog;
        let stages = timing
            .stages
            .filter(|stages| slowlog.may_be_slow(stages.applied_ns.saturating_sub(stages.queued_ns)));
        let bytes = match &reply {
            Reply::Done { outcome, .. } => outcome.cost_bytes(),
            Reply::Rejected(_) | Reply::Unknown => 0,
        };
        let bytes = if bytes < COUNTED_OUTCOME_BYTES { 0 } else { bytes };
        if bytes > 0 {
            self.core.shared.ledger.send_outcome(bytes);
        }
        let ran_ns = u32::try_from(timing.ran_ns).unwrap_or(u32::MAX);
        let stages = stages.map(Box::new);
        let core = core_of_conn(ticket.conn);
        self.links.post(core, Message::Reply { ticket, reply, ran_ns, stages, bytes })
    }

    /// Hands a changed configuration on to the shards: log writes from the next one on.
    pub fn follow_config(&self) {
        let mode = sync_mode(self.core.config().wal_sync);
        for host in &self.all {
            host.shard.borrow_mut().wal_mut().device_mut().set_sync_mode(mode);
        }
        self.unpublished.set(true);
    }

    // ---- Jobs ----

    /// Takes a job of a shard, to be handed to the pool.
    pub(super) fn add_job(&self, index: usize, job: Job) {
        let kind = if job.is_short() { pool::Kind::Short } else { pool::Kind::Long };
        self.jobs.add(kind, Arc::clone(self.links.bell()), move || (index, Machine::run_job(job)));
    }

    /// Hands waiting jobs to the pool, as many as both have room for.
    pub fn start_jobs(&self) {
        if self.jobs.has_waiting()
            && let Some(pool) = self.core.shared.pool()
        {
            self.jobs.start(|kind, task| pool.submit(kind, task));
        }
    }

    /// Hands finished jobs to their shards.
    pub fn take_jobs_done(&self) {
        while let Some((index, done)) = self.jobs.take_done() {
            if let Some(host) = self.all.get(index) {
                host.shard.borrow_mut().handle(Input::JobDone(done));
                host.dirty.set(true);
            }
        }
    }

    // ---- Sleep ----

    /// Says to the doorbell that the core is about to sleep, and looks once more at what it rings for.
    pub fn may_sleep(&self) -> bool {
        self.links.bell().prepare_sleep();
        let is_held = !self.is_held_back.get() || self.core.shared.ledger.is_full();
        self.links.is_empty() && !self.jobs.has_done() && is_held
    }

    /// The next time at which they are to be turned or have something to do, on the monotonic clock; `None` if there is none.
    pub fn next_ns(&self) -> Option<u64> {
        let times = self.all.iter().flat_map(|host| {
            [host.wake_at_ns.get(), host.gate.borrow().late_ns(), host.rest.next_ns()].into_iter().flatten()
        });
        let publish = self.unpublished.get().then(|| self.published_ns.get() + PUBLISH_EVERY_NS);
        times.chain(publish).chain(self.forward_next_ns()).chain(self.left_next_ns()).min()
    }

    /// Whether something waits for room that nobody announces: in another core's ring, or with the pool.
    pub fn needs_retry(&self) -> bool {
        self.links.is_congested() || self.jobs.has_waiting()
    }

    // ---- Figures ----

    /// Has figures published within a while: something has changed beside the shards.
    pub fn want_publishing(&self) {
        self.unpublished.set(true);
    }

    /// Publishes their figures, if something happened since that was done last and it is time to.
    /// Returns whether it was.
    pub fn publish_if_due(&self, now: Now) -> bool {
        let is_due =
            self.unpublished.get() && now.mono_ns.saturating_sub(self.published_ns.get()) >= PUBLISH_EVERY_NS;
        if is_due {
            self.publish();
        }
        is_due
    }

    /// Publishes their figures, for the other cores to read.
    pub fn publish(&self) {
        let now = self.core.now();
        let is_shown = !self.core.shared.known.is_empty();
        for host in &self.all {
            host.gather(|shard, partition, replica| {
                if is_shown {
                    self.publish_leader(shard, partition, replica);
                }
            });
        }
        if let Some(forward) = &self.forward {
            *lock(&self.core.facts().forwarded) = forward.counters();
        }
        let facts = self.all.iter().map(|host| host.facts(now)).collect();
        *lock(&self.core.facts().shards) = facts;
        self.published_ns.set(now.mono_ns);
        // What is logged in sum has to be some time.
        self.unpublished.set(self.leads.flush(now.mono_ns));
    }
}
