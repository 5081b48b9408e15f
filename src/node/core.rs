//! One core's state: its shards, its connections, its ends of the mesh.
//!
//! Invariant: everything here is touched by one thread, and no borrow is held across an `await` or across a call into a
//! session (which calls back). What cannot be sent to another core now waits in `outbox`, in order; while anything waits
//! there, no more is read from this core's sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use corduroy_shards::routing::FIRST_DATA;
use corduroy_shards::runtime::{Endpoint, Full, Poller};
use corduroy_shards::{Input, Kind, Now, PartitionId, Rejection, Reply, ShardId, StageStamps, Ticket};

use super::clock::{mono_ns, wall_ms};
use super::facts::bump;
use super::front::conn::Conn;
use super::front::conns::Conns;
use super::front::waits::Waits;
use super::hosts::gate::Heavy;
use super::hosts::host::{Host, JobDone, NodeShard};
use super::hosts::jobs::Jobs;
use super::ledger::{COUNTED_OUTCOME_BYTES, Count, Pins};
use super::listen::{self, Listening};
use super::message::{CoreSet, Message};
use super::options::{sync_mode, waiting_bytes};
use super::shared::{Shared, lock};
use crate::config::Config;
use crate::resp::SessionReply;
use crate::store::op::may_wait;

/// Bytes of the buffer that all connections of a core read into.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Where a partition lives.
#[derive(Clone, Copy, Debug)]
enum Place {
    Here(usize),
    There(usize),
}

/// See the file's head.
pub struct Core {
    /// Its number.
    pub index: usize,
    /// What all cores see.
    pub shared: Arc<Shared>,
    /// Its shards.
    pub hosts: Vec<Host>,
    /// Where each partition lives, in the order of the partitions.
    places: Vec<Place>,
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
    /// How long it took to carry out the request whose outcome is being handed to its session.
    pub ran_ns: Cell<u64>,
    /// Connections that wait for a time.
    pub waits: Waits,
    /// Outcomes decided here, without a shard.
    pub decided: RefCell<Vec<(Ticket, SessionReply)>>,
    /// Its connections.
    pub conns: RefCell<Conns>,
    /// What all of them hold.
    pub count: Count,
    /// The large values that they hold.
    pub pins: Pins,
    /// Connections whose turns are long: whose share of work did not suffice, or which have more to read after such a turn.
    /// They go on in the next passes, as far as these go.
    pub unfinished: RefCell<VecDeque<Rc<Conn>>>,
    /// Connections closed in this pass because others said so.
    pub closings: Cell<usize>,
    /// Connections that have much to send, and wait for their turn.
    pub senders: RefCell<VecDeque<Rc<Conn>>>,
    /// One of them has its turn.
    pub is_senders_turn: Cell<bool>,
    /// Shards were not turned since too many outcomes are under way to other cores.
    pub is_held_back: Cell<bool>,
    /// What its connections have sent in this pass.
    pub sent_bytes: Cell<usize>,
    /// Connections to be settled: their sessions got replies.
    pub unsettled: RefCell<Vec<Rc<Conn>>>,
    /// Connections whose sockets may be read.
    pub readable: RefCell<Vec<Rc<Conn>>>,
    /// Given up to refuse a connection when there is no descriptor left.
    pub spare_fd: RefCell<Option<OwnedFd>>,
    /// What it listens on.
    pub listening: RefCell<Vec<Listening>>,
    /// What it sleeps on.
    pub poller: Poller,
    /// Something came up that another pass has to look at.
    is_woken: Cell<bool>,
    /// What connections read into.
    pub buffer: RefCell<Vec<u8>>,
    /// Jobs of its shards; each brings the shard's index and its result.
    pub jobs: Jobs<(usize, JobDone)>,
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
        listening: Vec<Listening>,
    ) -> io::Result<Rc<Self>> {
        let poller = Poller::new()?;
        let index = mesh.core();
        let waiting_bytes = waiting_bytes(&shared);
        let hosts: Vec<Host> =
            shards.into_iter().map(|(id, shard)| Host::new(id, shard, waiting_bytes)).collect();
        let places = shared.layout.partitions().map(|partition| {
            let shard = shared.layout.shard_of(partition);
            let here = hosts.iter().position(|host| Some(host.id) == shard);
            let core = shared.layout.core_of(partition).expect("it is one of the layout's");
            here.map_or(Place::There(core), Place::Here)
        });
        let places = places.collect();
        let config = shared.config();
        Ok(Rc::new(Self {
            index,
            hosts,
            places,
            outbox: RefCell::new((0..mesh.cores()).map(|_| VecDeque::new()).collect()),
            outbox_len: Cell::new(0),
            held_back: Cell::new(false),
            mesh: RefCell::new(mesh),
            stages: Cell::new(None),
            ran_ns: Cell::new(0),
            waits: Waits::default(),
            decided: RefCell::default(),
            conns: RefCell::new(Conns::new(index)),
            count: Count::default(),
            pins: Pins::default(),
            unfinished: RefCell::default(),
            closings: Cell::new(0),
            senders: RefCell::default(),
            is_senders_turn: Cell::new(false),
            is_held_back: Cell::new(false),
            sent_bytes: Cell::new(0),
            unsettled: RefCell::default(),
            readable: RefCell::default(),
            spare_fd: RefCell::new(listen::spare_descriptor()),
            listening: RefCell::new(listening),
            poller,
            is_woken: Cell::new(false),
            buffer: RefCell::new(vec![0; READ_BUFFER_BYTES]),
            jobs: Jobs::new(),
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
        let at = partition.0.checked_sub(FIRST_DATA.0)?;
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
                if may_wait(op) {
                    self.conns.borrow().get(ticket.conn).inspect(|conn| conn.waited_at.add(core));
                }
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
        if host.must_wait(ticket.conn, partition, op) {
            let held = host.hold(self.now().mono_ns, Heavy { ticket, partition, kind, op: op.into() });
            self.decided.borrow_mut().extend(held.err());
            self.wake();
            return;
        }
        host.shard.borrow_mut().handle(Input::Request { ticket, partition, kind, op });
        host.dirty.set(true);
        self.wake();
    }

    /// Lets heavy requests into a shard, whose turn it is.
    pub fn admit(&self, host: &Host, now: Now) {
        let is_wanted = |ticket: Ticket| {
            core_of_conn(ticket.conn) != self.index || self.conns.borrow().get(ticket.conn).is_some()
        };
        let late = host.admit(now.mono_ns, is_wanted);
        if !late.is_empty() {
            self.decided.borrow_mut().extend(late);
            self.wake();
        }
    }

    /// Drops what waits of a closed connection before the shards of this node: here and on the other cores, as far as
    /// anything may.
    pub fn drop_heavy(&self, conn: u64, waited_at: &CoreSet) {
        self.forget_heavy(conn);
        let cores = self.outbox.borrow().len();
        (0..cores)
            .filter(|core| *core != self.index && waited_at.may_hold(*core))
            .for_each(|core| self.post(core, Message::Closed { conn }));
    }

    fn forget_heavy(&self, conn: u64) {
        self.hosts.iter().for_each(|host| host.gate.borrow_mut().forget(conn));
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
            Message::Reply { ticket, reply, ran_ns, stages, bytes } => {
                self.ran_ns.set(ran_ns.into());
                self.deliver(ticket, reply, stages.map(|stages| *stages));
                if bytes > 0 && self.shared.ledger.take_outcome(bytes) {
                    self.shared.bells.iter().for_each(|bell| bell.ring());
                }
            }
            Message::Look { conn } => self.look(conn),
            Message::Closed { conn } => self.forget_heavy(conn),
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
            let bytes = match &reply {
                Reply::Done { outcome, .. } => outcome.cost_bytes(),
                Reply::Rejected(_) | Reply::Unknown => 0,
            };
            let bytes = if bytes < COUNTED_OUTCOME_BYTES { 0 } else { bytes };
            if bytes > 0 {
                self.shared.ledger.send_outcome(bytes);
            }
            let ran_ns = u32::try_from(self.ran_ns.get()).unwrap_or(u32::MAX);
            let stages = stages.map(Box::new);
            self.post(core, Message::Reply { ticket, reply, ran_ns, stages, bytes })
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
        let facts = self.hosts.iter().map(|host| host.facts(self.now())).collect();
        if let Some(mine) = self.shared.facts.get(self.index) {
            *lock(&mine.shards) = facts;
        }
        self.published_ns.set(self.now().mono_ns);
        self.unpublished.set(false);
    }
}

/// The core of a connection, from its number.
pub fn core_of_conn(conn: u64) -> usize {
    (conn >> 48) as usize
}
