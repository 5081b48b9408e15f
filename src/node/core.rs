//! One core's state: its shards, its connections, its ends of the mesh.
//!
//! Invariant: everything here is touched by one thread, and no borrow is held across an `await` or across a call into a
//! session (which calls back). What cannot be sent to another core now waits in `outbox`, in order; while anything waits
//! there, no more is read from this core's sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use corduroy_shards::runtime::pool::Task;
use corduroy_shards::runtime::ring::{RingReceiver, RingSender, ring};
use corduroy_shards::runtime::{Endpoint, Full, Poller};
use corduroy_shards::{Counters, Groups};
use corduroy_shards::{
    Input, Kind, Now, PartitionId, Rejection, Reply, Shard, ShardId, StageStamps, StateMachine, Ticket,
};
use corduroy_wal::WalStats;
use corduroy_wal::device::{DiskDevice, SyncMode};

use super::connection::{Conn, Conns};
use super::listen::Listening;
use super::message::Message;
use super::shared::{Shared, lock, wall_ms};
use crate::config::{Config, WalSync};
use crate::resp::SessionReply;
use crate::store::{LsmLower, Store, StoreStats};

/// The state machine of the shards.
pub type Machine = Store<LsmLower>;
/// A shard of this node.
pub type NodeShard = Shard<DiskDevice, Machine>;
/// A job on its way to the pool.
pub type Job = <Machine as StateMachine>::Job;
/// A job's result on its way back.
pub type JobDone = <Machine as StateMachine>::JobDone;

/// Jobs of a core that may be under way at a time.
pub const MAX_JOBS: usize = 64;

/// Replicas of a shard that are listed one by one for INFO.
pub const MAX_GROUPS: usize = 64;

/// Bytes of the buffer that all connections of a core read into.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// A shard on this core.
#[derive(Debug)]
pub struct Host {
    /// Which.
    pub id: ShardId,
    /// The shard. Borrowed for one call at a time.
    pub shard: RefCell<NodeShard>,
    /// Something was put in since its last turn, or its log has news.
    pub dirty: Cell<bool>,
    /// When it wants to be turned at the latest, on the monotonic clock.
    pub wake_at_ns: Cell<Option<u64>>,
}

/// A shard's figures for INFO.
#[derive(Clone, Debug)]
pub struct ShardFacts {
    /// Which.
    pub id: ShardId,
    /// Of the heart.
    pub counters: Counters,
    /// Of the log.
    pub wal: WalStats,
    /// Of the state.
    pub store: StoreStats,
    /// Of the replicas.
    pub groups: Groups,
    /// Whether the log has room.
    pub has_space: bool,
    /// How its writes are made durable now.
    pub sync: SyncMode,
}

/// Where a partition lives.
#[derive(Clone, Copy, Debug)]
enum Place {
    Here(usize),
    There(usize),
}

/// Jobs between this core and the pool.
pub struct Jobs {
    /// Waiting for the pool to take them.
    pub waiting: RefCell<VecDeque<Task>>,
    /// With the pool.
    pub under_way: Cell<usize>,
    /// Where results come back.
    pub done: RingReceiver<(usize, JobDone)>,
    /// Given to each job.
    pub sender: Arc<RingSender<(usize, JobDone)>>,
}

/// See the file's head.
pub struct Core {
    /// Its number.
    pub index: usize,
    /// What all cores see.
    pub shared: Arc<Shared>,
    /// Its shards.
    pub hosts: Vec<Host>,
    /// Where each partition lives, by its place in the plan.
    places: Vec<Place>,
    first_partition: u64,
    /// Its ends of the rings.
    pub mesh: RefCell<Endpoint<Message>>,
    /// What other cores' rings had no room for.
    outbox: RefCell<Vec<VecDeque<Message>>>,
    outbox_len: Cell<usize>,
    /// Something has waited for room since the connections were last told to read on. Those that were settled meanwhile
    /// were not, even if there was room again before the pass ended.
    pub held_back: Cell<bool>,
    /// When the request passed its stages whose outcome is being handed to its session.
    pub stages: Cell<Option<StageStamps>>,
    /// Outcomes decided here, without a shard.
    pub decided: RefCell<Vec<(Ticket, SessionReply)>>,
    /// Its connections.
    pub conns: RefCell<Conns>,
    /// What all of them have to send and have not sent.
    pub output_bytes: Cell<usize>,
    /// Connections to be settled: their sessions got replies.
    pub unsettled: RefCell<Vec<Rc<Conn>>>,
    /// Connections whose sockets may be read.
    pub readable: RefCell<Vec<Rc<Conn>>>,
    /// What it listens on.
    pub listening: RefCell<Vec<Listening>>,
    /// What it sleeps on.
    pub poller: Poller,
    /// Something came up that another pass has to look at.
    is_woken: Cell<bool>,
    /// What connections read into.
    pub buffer: RefCell<Vec<u8>>,
    /// Jobs.
    pub jobs: Jobs,
    /// The configuration as of `config_version`.
    pub config: RefCell<Rc<Config>>,
    config_version: Cell<u64>,
    now: Cell<Now>,
    /// When connections are to be looked at for their time limits.
    pub sweep_at_ns: Cell<Option<u64>>,
    /// When the figures were published, and whether something happened since.
    pub published_ns: Cell<u64>,
    /// See `published_ns`.
    pub unpublished: Cell<bool>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("index", &self.index).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Core {
    /// A core with its shards opened.
    ///
    /// # Errors
    /// What the system says: out of descriptors.
    pub fn new(
        shared: Arc<Shared>,
        mesh: Endpoint<Message>,
        shards: Vec<(ShardId, NodeShard)>,
    ) -> io::Result<Rc<Self>> {
        let poller = Poller::new()?;
        let index = mesh.core();
        let hosts: Vec<Host> = shards
            .into_iter()
            .map(|(id, shard)| Host {
                id,
                shard: RefCell::new(shard),
                // The first turn lets the replicas begin.
                dirty: Cell::new(true),
                wake_at_ns: Cell::new(None),
            })
            .collect();
        let places = shared.plan.partitions().iter().map(|&partition| {
            let shard = shared.plan.shard_of(partition);
            let here = hosts.iter().position(|host| Some(host.id) == shard);
            let core = shared.plan.core_of(partition).expect("it is in the plan");
            here.map_or(Place::There(core), Place::Here)
        });
        let places = places.collect();
        let first_partition = shared.plan.partitions().first().map_or(0, |first| first.0);
        let (sender, done) = ring(MAX_JOBS);
        let config = shared.config();
        Ok(Rc::new(Self {
            index,
            hosts,
            places,
            first_partition,
            outbox: RefCell::new((0..mesh.cores()).map(|_| VecDeque::new()).collect()),
            outbox_len: Cell::new(0),
            held_back: Cell::new(false),
            mesh: RefCell::new(mesh),
            stages: Cell::new(None),
            decided: RefCell::default(),
            conns: RefCell::new(Conns::new(index)),
            output_bytes: Cell::new(0),
            unsettled: RefCell::default(),
            readable: RefCell::default(),
            listening: RefCell::default(),
            poller,
            is_woken: Cell::new(false),
            buffer: RefCell::new(vec![0; READ_BUFFER_BYTES]),
            jobs: Jobs {
                waiting: RefCell::default(),
                under_way: Cell::new(0),
                done,
                sender: Arc::new(sender),
            },
            config: RefCell::new(Rc::new(config)),
            config_version: Cell::new(shared.version()),
            now: Cell::new(Now { mono_ns: mono_ns(shared.started), wall_ms: wall_ms() }),
            sweep_at_ns: Cell::new(None),
            published_ns: Cell::new(0),
            unpublished: Cell::new(true),
            shared,
        }))
    }

    /// Has the driver make another pass before it sleeps.
    pub fn wake(&self) {
        self.is_woken.set(true);
    }

    /// Whether another pass was asked for; takes the wish.
    pub fn take_woken(&self) -> bool {
        self.is_woken.replace(false)
    }

    /// The time, as of the last look at the clock.
    pub fn now(&self) -> Now {
        self.now.get()
    }

    /// Looks at the clock.
    pub fn tick(&self) -> Now {
        let now = Now { mono_ns: mono_ns(self.shared.started), wall_ms: wall_ms() };
        self.now.set(now);
        now
    }

    /// The configuration, refreshed if another core changed it.
    pub fn config(&self) -> Rc<Config> {
        let version = self.shared.version();
        if self.config_version.replace(version) != version {
            *self.config.borrow_mut() = Rc::new(self.shared.config());
            // Connections that are idle already may have to go; nothing else would have them looked at.
            if self.sweep_at_ns.get().is_none() {
                self.sweep_at_ns.set(Some(self.now().mono_ns));
            }
        }
        Rc::clone(&self.config.borrow())
    }

    fn place(&self, partition: PartitionId) -> Option<Place> {
        let at = partition.0.checked_sub(self.first_partition)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// The shard of a partition, if it is on this core.
    pub fn host_of(&self, partition: PartitionId) -> Option<&Host> {
        match self.place(partition)? {
            Place::Here(at) => self.hosts.get(at),
            Place::There(_) => None,
        }
    }

    /// Hands a request to its partition's shard, here or on another core. Its outcome comes in a later pass.
    pub fn request(&self, ticket: Ticket, partition: PartitionId, kind: Kind, op: &[u8]) {
        match self.place(partition) {
            Some(Place::Here(at)) => self.request_here(at, ticket, partition, kind, op),
            Some(Place::There(core)) => {
                self.post(core, Message::Request { ticket, partition, kind, op: op.into() })
            }
            None => {
                self.decided.borrow_mut().push((ticket, Reply::Rejected(Rejection::NoPartition(partition))));
                self.wake();
            }
        }
    }

    fn request_here(&self, at: usize, ticket: Ticket, partition: PartitionId, kind: Kind, op: &[u8]) {
        let host = self.hosts.get(at).expect("places name shards of this core");
        host.shard.borrow_mut().handle(Input::Request { ticket, partition, kind, op });
        host.dirty.set(true);
        self.wake();
    }

    /// Sends to another core, or keeps what its ring has no room for.
    pub fn post(&self, core: usize, message: Message) {
        self.wake();
        let mut outbox = self.outbox.borrow_mut();
        let waiting = outbox.get_mut(core).expect("there is a queue for each core");
        if waiting.is_empty() {
            match self.mesh.borrow_mut().send(core, message) {
                Ok(()) => {
                    self.shared.facts.get(self.index).inspect(|facts| bump(&facts.hops, 1));
                    return;
                }
                Err(Full(message)) => waiting.push_back(message),
            }
        } else {
            waiting.push_back(message);
        }
        self.outbox_len.set(self.outbox_len.get() + 1);
        self.held_back.set(true);
    }

    /// Whether something waits for room in another core's ring; then nothing more is read from sockets.
    pub fn is_congested(&self) -> bool {
        self.outbox_len.get() > 0
    }

    /// Sends what waits and has room now, and wakes the cores that were sent something.
    pub fn flush_mesh(&self) {
        let mut mesh = self.mesh.borrow_mut();
        if self.is_congested() {
            let mut sent = 0;
            for (core, waiting) in self.outbox.borrow_mut().iter_mut().enumerate() {
                while let Some(message) = waiting.pop_front() {
                    if let Err(Full(message)) = mesh.send(core, message) {
                        waiting.push_front(message);
                        break;
                    }
                    sent += 1;
                }
            }
            self.outbox_len.set(self.outbox_len.get() - sent);
            self.shared.facts.get(self.index).inspect(|facts| bump(&facts.hops, sent as u64));
        }
        mesh.flush();
    }

    /// Takes a message from another core.
    pub fn receive(&self, message: Message) {
        match message {
            Message::Request { ticket, partition, kind, op } => match self.place(partition) {
                Some(Place::Here(at)) => self.request_here(at, ticket, partition, kind, &op),
                _ => self.answer(ticket, Reply::Rejected(Rejection::NoPartition(partition)), None),
            },
            Message::Reply { ticket, reply, stages } => {
                self.deliver(ticket, reply, stages.map(|stages| *stages));
            }
            Message::Look { conn } => self.look(conn),
        }
    }

    /// Brings an outcome to its connection's core.
    pub fn answer(&self, ticket: Ticket, reply: SessionReply, stages: Option<StageStamps>) {
        let core = core_of_conn(ticket.conn);
        if core == self.index {
            self.deliver(ticket, reply, stages)
        } else {
            let slowlog = &self.shared.hub.slowlog;
            let stages = stages
                .filter(|stages| slowlog.may_be_slow(stages.applied_ns.saturating_sub(stages.queued_ns)));
            self.post(core, Message::Reply { ticket, reply, stages: stages.map(Box::new) })
        }
    }

    /// Hands an outcome to its session. The connection may be gone; then nobody wants it.
    fn deliver(&self, ticket: Ticket, reply: SessionReply, stages: Option<StageStamps>) {
        let Some(conn) = self.conns.borrow().get(ticket.conn) else { return };
        self.stages.set(stages);
        conn.session.borrow_mut().reply(ticket, reply, self);
        self.unsettle(conn);
    }

    /// Has a connection looked at in this pass or the next.
    pub fn look(&self, conn: u64) {
        if let Some(conn) = self.conns.borrow().get(conn) {
            self.unsettle(conn);
            self.wake();
        }
    }

    /// Puts a connection on the list of those to be settled.
    pub fn unsettle(&self, conn: Rc<Conn>) {
        if !conn.is_listed.replace(true) {
            self.unsettled.borrow_mut().push(conn);
        }
    }

    /// Hands a changed configuration on to the shards: log writes from the next one on.
    pub fn follow_config(&self) {
        let mode = sync_mode(self.config().wal_sync);
        for host in &self.hosts {
            host.shard.borrow_mut().wal_mut().device_mut().set_sync_mode(mode);
        }
        self.unpublished.set(true);
    }

    /// This core's figures, for the other cores to read.
    pub fn publish(&self) {
        let facts = self.hosts.iter().map(Host::facts).collect();
        if let Some(mine) = self.shared.facts.get(self.index) {
            *lock(&mine.shards) = facts;
        }
        self.published_ns.set(self.now().mono_ns);
        self.unpublished.set(false);
    }
}

impl Host {
    fn facts(&self) -> ShardFacts {
        let shard = self.shard.borrow();
        ShardFacts {
            id: self.id,
            counters: *shard.counters(),
            wal: shard.wal().stats(),
            store: shard.machine().stats(),
            groups: Groups::gather(shard.replicas(), MAX_GROUPS),
            has_space: shard.wal().space() == corduroy_wal::Space::Ok,
            sync: shard.wal().device().sync_mode(),
        }
    }
}

/// A setting in the log's own words.
pub fn sync_mode(mode: WalSync) -> SyncMode {
    match mode {
        WalSync::Auto => SyncMode::Auto,
        WalSync::Dsync => SyncMode::Dsync,
        WalSync::Linked => SyncMode::Linked,
        WalSync::Inline => SyncMode::Inline,
    }
}

/// The core of a connection, from its number.
pub fn core_of_conn(conn: u64) -> usize {
    (conn >> 48) as usize
}

/// The monotonic clock, in ns since the node started.
pub fn mono_ns(started: Instant) -> u64 {
    started.elapsed().as_nanos() as u64
}

/// Adds to a counter that only its core writes: no locked instruction is needed.
pub fn bump(counter: &std::sync::atomic::AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
