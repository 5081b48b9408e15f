//! The connections of one core to the cores of other nodes: what is to be sent goes in, and what is to be done comes out.
//!
//! Invariant: for a core of a peer and a lane there is at most one connection that frames are sent on, and while it has not
//! taken a frame there is none behind that, so a turn's messages are one frame and what waits is bounded. What cannot be
//! sent is dropped, counted and reported, and never more than that: a group goes on whatever becomes of a connection. Of a
//! node, only the newest process that was seen is heard.
//!
//! ```text
//!             queue()              connected()               both accept                 written()
//!   idle ---------------> dialling ----------> handshaking ----------------> up <-----------------> writes a frame
//!    ^                       |                      |      accepted(), adopt() ^                          |
//!    |  the wait is over     | closed()             | refused, closed()        |  closed(), a bad frame,  |
//!    +---- backing off <-----+----------------------+--------------------------+--- stalled --------------+
//! ```
//!
//! Both sides may send on a connection, whichever made it. If both make one at the same time, that of the node with the
//! higher id stays. But requests go on a connection that their node has made, and answers come back on it: else what had been
//! written to the one that ends would be lost, and nobody would know what became of it.

mod connect;
mod greet;
mod requests;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use corduroy_wal::mix::SplitMix64;
use hashbrown::HashSet;
use raft::eraftpb::Message;

use super::beats;
use super::frame::{FrameReader, FrameWriter, Lane};
use super::handshake::{Handshake, Local, Outcome, Side};
use super::hello::{CoreId, Epoch, Nonce, SHARDS_MAX, ShardCore};
use super::known::Known;
use super::link::{Link, LinkKey, LinkState, Waiting};
use super::message::{Outgoing, Unsendable};
use super::output::{ConnId, Dropped, Ending, NS_PER_MS, Output, PeerCounters, PeerOptions, To};
use super::parcel::{Parcel, Writable};
use super::refusal::Refusal;
use super::request::RequestId;
use super::split::cut;
use crate::ids::{NodeId, PartitionId, StorageId};

/// A connection, however far it is.
#[derive(Debug)]
struct Conn {
    /// The link that it is for: of one that was made from here at once, else as soon as it is up.
    key: Option<LinkKey>,
    stage: Stage,
    since_ns: u64,
}

#[derive(Debug)]
enum Stage {
    Dialling,
    Handshaking(Box<Handshake>),
    Up(Box<Session>),
}

/// A connection on which frames are sent.
#[derive(Debug)]
struct Session {
    node: NodeId,
    epoch: Epoch,
    side: Side,
    /// Of frames.
    version: u8,
    writer: FrameWriter,
    reader: FrameReader,
    /// Since when the connection has had a frame of which it has taken nothing more.
    writing_since_ns: Option<u64>,
    /// For whose replicas the messages of that frame are, by their storages.
    members: Vec<(PartitionId, StorageId)>,
    /// Requests that were written to it, and not answered on it.
    owed: HashSet<RequestId>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Peers {
    local: Local,
    core: CoreId,
    options: PeerOptions,
    links: BTreeMap<LinkKey, Link>,
    conns: BTreeMap<ConnId, Conn>,
    /// Where the shards of other nodes are, in order, as far as it was heard of their newest process.
    shards: BTreeMap<NodeId, Vec<ShardCore>>,
    known: Known,
    /// Links with messages that the next flush looks at.
    due: Vec<LinkKey>,
    outputs: VecDeque<Output>,
    counters: PeerCounters,
    numbers: SplitMix64,
    next_conn: u64,
}

impl Peers {
    /// Those of a core of this node.
    ///
    /// # Panics
    /// If the node has no such core, or more shards than a hello takes; or if frames may be longer than peers take them.
    #[must_use]
    pub fn new(local: Local, core: CoreId, options: PeerOptions) -> Self {
        assert!(core.0 < local.cores && local.cores < CoreId::ANY.0, "core {} of {}", core.0, local.cores);
        assert!(local.shards.len() <= SHARDS_MAX, "a node of {} shards", local.shards.len());
        assert!(local.shards.iter().all(|at| at.core.0 < local.cores), "a shard of a core that is not there");
        assert!(options.frame_bytes <= local.limits.frame_bytes(), "frames of {} bytes", options.frame_bytes);
        let known = Known::of(local.founders.clone());
        Self {
            local,
            known,
            core,
            numbers: SplitMix64::new(options.seed),
            options,
            links: BTreeMap::new(),
            conns: BTreeMap::new(),
            shards: BTreeMap::new(),
            due: Vec::new(),
            outputs: VecDeque::new(),
            counters: PeerCounters::default(),
            next_conn: 0,
        }
    }

    /// What is to be done next, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> &PeerCounters {
        &self.counters
    }

    /// What the link to a core of a peer is about.
    #[must_use]
    pub fn link(&self, key: LinkKey) -> LinkState {
        self.links.get(&key).map_or(LinkState::Idle, |link| link.state)
    }

    // ---- What is to be sent ----

    /// Has a message sent with the next frame to the core that owns the shard. What there is no room or no way for is
    /// reported as [`Output::Unreachable`].
    ///
    /// # Errors
    /// [`Unsendable`]: no peer would take it, and it is dropped.
    pub fn queue(
        &mut self,
        to: To,
        lane: Lane,
        partition: PartitionId,
        mut message: Message,
        now_ns: u64,
    ) -> Result<(), Unsendable> {
        self.counters.count_queued(&message);
        loop {
            let part = cut(&mut message, self.options.frame_bytes);
            let is_last = part.is_none();
            let part = Outgoing::new(partition, part.unwrap_or_else(|| std::mem::take(&mut message)));
            let part = part.inspect_err(|_| self.counters.count_drop(Dropped::Unsendable))?;
            if part.bytes() > self.local.limits.frame_bytes() {
                self.drop_message(Waiting { to, message: Parcel::Replica(part) }, Dropped::TooLong);
            } else {
                self.send(Waiting { to, message: Parcel::Replica(part) }, lane, now_ns);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn drop_message(&mut self, waiting: Waiting, why: Dropped) {
        let Waiting { to, message } = waiting;
        match message {
            Parcel::Replica(message) => self.drop_replicas(message.partition(), to.storage, why),
            Parcel::Forwarded(forwarded) => {
                self.counters.count_drop(why);
                self.outputs.push_back(Output::Unsent { node: to.node, forwarded });
            }
        }
    }

    /// A message for the member on that storage is dropped.
    fn drop_replicas(&mut self, partition: PartitionId, to: StorageId, why: Dropped) {
        self.counters.count_drop(why);
        self.outputs.push_back(Output::Unreachable { partition, to });
    }

    /// The link to the core that owns the shard that something is for; `None`: the node has no such shard.
    fn route(&self, to: To, lane: Lane, is_theirs: bool) -> Option<LinkKey> {
        let core = match self.shards.get(&to.node) {
            None => CoreId::ANY,
            Some(shards) => {
                let at = shards.binary_search_by_key(&(to.storage, to.shard), |at| (at.storage, at.shard));
                shards.get(at.ok()?)?.core
            }
        };
        Some(LinkKey { node: to.node, core, lane, is_theirs })
    }

    fn send(&mut self, waiting: Waiting, lane: Lane, now_ns: u64) {
        let Some(key) = self.route(waiting.to, lane, waiting.message.is_answer()) else {
            return self.drop_message(waiting, Dropped::NoShard);
        };
        if key.is_theirs && !matches!(self.link(key), LinkState::Up(_)) {
            // Who has lost the connection that its request came on does not wait for the answer any more.
            return self.drop_message(waiting, Dropped::ConnectionLost);
        }
        let link = self.links.entry(key).or_insert_with(Link::new);
        link.is_wanted = true;
        if link.is_backing_off(&waiting.message, now_ns) {
            return self.drop_message(waiting, Dropped::BackingOff);
        }
        match link.state {
            LinkState::Idle | LinkState::BackingOff { .. } => self.dial(key, now_ns),
            LinkState::Dialling(_) | LinkState::Handshaking(_) | LinkState::Up(_) => {}
        }
        let link = self.links.get_mut(&key).expect("it was just found");
        if !link.has_room(waiting.message.bytes(), &self.options) {
            return self.drop_message(waiting, Dropped::QueueFull);
        }
        link.push(waiting);
        self.note_due(key);
    }

    /// The next flush looks at the link, if it may send there and there is something to send.
    fn note_due(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(&key)
            && matches!(link.state, LinkState::Up(_))
            && !(link.is_empty() || link.is_due)
        {
            link.is_due = true;
            self.due.push(key);
        }
    }

    /// Gives each connection that has taken its last frame the next one: all that waits for it, as far as a frame takes it.
    /// To be called once a turn.
    pub fn flush(&mut self, now_ns: u64) {
        let may_send = self.known.has_met_all();
        for key in std::mem::take(&mut self.due) {
            let Some(link) = self.links.get_mut(&key) else { continue };
            link.is_due = false;
            let LinkState::Up(conn) = link.state else { continue };
            let Some(Conn { stage: Stage::Up(session), .. }) = self.conns.get_mut(&conn) else { continue };
            (0..link.drop_newer(session.version)).for_each(|_| self.counters.count_drop(Dropped::TooNew));
            if link.is_empty() || session.writing_since_ns.is_some() {
                continue;
            }
            if !may_send {
                for waiting in link.take_all() {
                    self.drop_message(waiting, Dropped::NotMet);
                }
                continue;
            }
            let (messages, members) = link.take_frame(&self.options, session.version);
            let bytes = session.writer.write(&messages);
            session.owed.extend(messages.iter().filter_map(Parcel::request));
            session.writing_since_ns = Some(now_ns);
            session.members = members;
            self.counters.frames_sent += 1;
            self.counters.messages_sent += messages.len() as u64;
            self.counters.bytes_sent += bytes.len() as u64;
            self.outputs.push_back(Output::Write { conn, bytes });
        }
    }

    // ---- What becomes of connections ----

    /// A connection that was asked for is made. The nonce is drawn for it.
    pub fn connected(&mut self, conn: ConnId, nonce: Nonce, now_ns: u64) {
        let Some(found) = self.conns.get_mut(&conn) else { return };
        let (Stage::Dialling, Some(key)) = (&found.stage, found.key) else {
            panic!("connection {} was made twice", conn.0)
        };
        let wanted = (key.node, key.core);
        let (handshake, bytes) = Handshake::dial(&self.local, self.core, wanted, key.lane, nonce, now_ns);
        (found.stage, found.since_ns) = (Stage::Handshaking(Box::new(handshake)), now_ns);
        if let Some(link) = self.links.get_mut(&key)
            && link.state == LinkState::Dialling(conn)
        {
            link.state = LinkState::Handshaking(conn);
        }
        self.outputs.push_back(Output::Write { conn, bytes: bytes.into() });
    }

    /// Somebody connects. `None`: there are as many connections as may be, and this one is to be closed. The nonce is drawn
    /// for it. Where as many as may have proved nothing yet, the oldest of those goes: so strangers keep nobody out.
    pub fn accepted(&mut self, nonce: Nonce, now_ns: u64) -> Option<ConnId> {
        let is_unproved = |conn: &Conn| conn.key.is_none() && matches!(conn.stage, Stage::Handshaking(_));
        let mut unproved = self.conns.iter().filter(|(_, conn)| is_unproved(conn)).map(|(id, _)| *id);
        // They are in the order in which they came.
        if let Some(oldest) = unproved.next()
            && unproved.count() + 1 >= self.options.strangers
        {
            self.end(oldest, Ending::Crowded, now_ns);
        }
        if self.conns.len() >= self.options.connections {
            self.counters.not_accepted += 1;
            return None;
        }
        self.counters.accepted += 1;
        let handshake = Box::new(Handshake::accept(self.core, nonce, now_ns));
        Some(self.insert(Conn { key: None, stage: Stage::Handshaking(handshake), since_ns: now_ns }))
    }

    fn insert(&mut self, conn: Conn) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(id, conn);
        id
    }

    /// The connection has taken some of what it was given: its time for a frame begins anew.
    pub fn progressed(&mut self, conn: ConnId, now_ns: u64) {
        let Some(Conn { stage: Stage::Up(session), .. }) = self.conns.get_mut(&conn) else { return };
        if let Some(since_ns) = &mut session.writing_since_ns {
            *since_ns = now_ns;
        }
    }

    /// The connection has taken all that it was given so far.
    pub fn written(&mut self, conn: ConnId) {
        let Some(Conn { key: Some(key), stage: Stage::Up(session), .. }) = self.conns.get_mut(&conn) else {
            return;
        };
        session.writing_since_ns = None;
        session.members.clear();
        let key = *key;
        self.note_due(key);
    }

    /// Bytes came on a connection.
    pub fn received(&mut self, conn: ConnId, bytes: Bytes, now_ns: u64) {
        match self.conns.get_mut(&conn).map(|found| &mut found.stage) {
            // What was under way when it was closed here.
            None => {}
            Some(Stage::Dialling) => panic!("bytes came on connection {}, which was not made yet", conn.0),
            Some(Stage::Handshaking(handshake)) => {
                let step = handshake.received(&bytes, &self.local, &self.known);
                if !step.write.is_empty() {
                    self.outputs.push_back(Output::Write { conn, bytes: step.write.into() });
                }
                match step.outcome {
                    Outcome::Waits => {}
                    Outcome::Done(info, received) => self.handshake_done(conn, *info, received, now_ns),
                    Outcome::Refused(refusal) => self.refuse(conn, refusal, now_ns),
                }
            }
            Some(Stage::Up(_)) => self.received_frames(conn, bytes, now_ns),
        }
    }

    fn received_frames(&mut self, conn: ConnId, bytes: Bytes, now_ns: u64) {
        let is_heard = self.known.has_met_all();
        let Some(Conn { stage: Stage::Up(session), .. }) = self.conns.get_mut(&conn) else { return };
        self.counters.bytes_received += bytes.len() as u64;
        session.reader.push(bytes);
        let error = loop {
            let frame = match session.reader.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => break error,
            };
            self.counters.frames_received += 1;
            let (node, counters) = (session.node, &mut self.counters);
            let mut take = |output| {
                if is_heard {
                    self.outputs.push_back(output);
                }
            };
            let taken = match session.reader.lane() {
                Lane::Requests => frame.into_forwarded().try_for_each(|forwarded| {
                    forwarded.map(|forwarded| {
                        counters.count_forwarded(&forwarded, true);
                        if forwarded.is_end() {
                            session.owed.remove(&forwarded.id());
                        }
                        take(Output::Forwarded { node, forwarded });
                    })
                }),
                Lane::Liveness | Lane::Log | Lane::Bulk => frame.into_messages().try_for_each(|message| {
                    message.map(|(partition, message)| {
                        counters.messages_received += 1;
                        for (partition, message) in beats::apart(partition, message) {
                            counters.count_received(&message);
                            take(Output::Deliver { node, partition, message: Box::new(message) });
                        }
                    })
                }),
            };
            if let Err(error) = taken {
                break error;
            }
        };
        self.end(conn, Ending::Frame(error), now_ns);
    }

    /// The connection is closed by the other side or the network, or could not be made.
    pub fn closed(&mut self, conn: ConnId, now_ns: u64) {
        if let Some(closed) = self.conns.remove(&conn) {
            self.counters.lost += 1;
            self.unlink(conn, closed, None, now_ns);
        }
    }

    /// Ends what takes too long, and the waits that are over.
    pub fn tick(&mut self, now_ns: u64) {
        let late: Vec<_> =
            self.conns.iter().filter_map(|(id, conn)| Some((*id, self.overdue(conn, now_ns)?))).collect();
        for (conn, why) in late {
            self.end(conn, why, now_ns);
        }
        self.links.retain(|_, link| {
            if matches!(link.state, LinkState::BackingOff { until_ns, .. } if until_ns <= now_ns) {
                link.state = LinkState::Idle;
            }
            link.is_wanted || link.state != LinkState::Idle
        });
        self.forget_removed();
    }

    /// Links were removed: the next flush does not look for them.
    fn forget_removed(&mut self) {
        self.due.retain(|key| self.links.contains_key(key));
    }

    /// When a connection is late, and how long it may take until then.
    fn deadline(&self, conn: &Conn) -> Option<(u64, u64)> {
        let (since_ns, after_ms) = match &conn.stage {
            Stage::Dialling => (conn.since_ns, self.options.dial_ms),
            Stage::Handshaking(handshake) => (handshake.began_ns(), self.options.handshake_ms),
            Stage::Up(session) => (session.writing_since_ns?, self.options.stall_ms),
        };
        Some((since_ns + after_ms * NS_PER_MS, after_ms))
    }

    fn overdue(&self, conn: &Conn, now_ns: u64) -> Option<Ending> {
        let (_, after_ms) = self.deadline(conn).filter(|(at_ns, _)| *at_ns <= now_ns)?;
        Some(match conn.stage {
            Stage::Dialling => Ending::NotMade { after_ms },
            Stage::Handshaking(_) => Ending::Refused(Refusal::TimedOut { after_ms }),
            Stage::Up(_) => Ending::Stalled { after_ms },
        })
    }

    /// When the next [`Peers::tick`] has something to do.
    #[must_use]
    pub fn next_tick_ns(&self) -> Option<u64> {
        let deadlines = self.conns.values().filter_map(|conn| self.deadline(conn)).map(|(at_ns, _)| at_ns);
        let waits = self.links.values().filter_map(|link| match link.state {
            LinkState::BackingOff { until_ns, .. } => Some(until_ns),
            LinkState::Idle | LinkState::Dialling(_) | LinkState::Handshaking(_) | LinkState::Up(_) => None,
        });
        deadlines.chain(waits).min()
    }

    /// Compares links and connections.
    ///
    /// # Panics
    /// If they contradict each other.
    pub fn check(&self) {
        for (key, link) in &self.links {
            link.check(*key, &self.options);
            let stage = link.state.conn().map(|conn| {
                let conn = self
                    .conns
                    .get(&conn)
                    .unwrap_or_else(|| panic!("{key:?} has a connection that is not there"));
                assert_eq!(conn.key, Some(*key), "the connection of {key:?}");
                &conn.stage
            });
            let fits = match link.state {
                LinkState::Idle | LinkState::BackingOff { .. } => stage.is_none(),
                LinkState::Dialling(_) => matches!(stage, Some(Stage::Dialling)),
                LinkState::Handshaking(_) => matches!(stage, Some(Stage::Handshaking(_))),
                LinkState::Up(_) => matches!(stage, Some(Stage::Up(_))),
            };
            assert!(fits, "{key:?} is {:?}, and its connection is not", link.state);
            assert_eq!(
                self.due.iter().filter(|due| *due == key).count(),
                usize::from(link.is_due),
                "{key:?}"
            );
        }
        assert!(self.due.iter().all(|key| self.links.contains_key(key)), "a link is due that is not there");
        for (id, conn) in &self.conns {
            let Stage::Up(session) = &conn.stage else { continue };
            let key = conn.key.expect("a connection that is up has a link");
            assert_eq!(self.link(key), LinkState::Up(*id), "two connections are up for {key:?}");
            assert_eq!(self.known.heard(session.node), Some(session.epoch), "another process is heard");
            assert_eq!(session.members.is_empty(), session.writing_since_ns.is_none(), "a frame under way");
            session.reader.check_invariants(true);
        }
    }
}
