//! How connections come up, replace each other and end, and what becomes of the messages that wait for them.

use bytes::Bytes;
use hashbrown::HashSet;

use super::{Conn, Peers, Session, Stage};
use crate::ids::NodeId;
use crate::net::frame::{FrameReader, FrameWriter, Lane};
use crate::net::handshake::{PeerInfo, Side};
use crate::net::hello::{CoreId, Epoch};
use crate::net::known::Standing;
use crate::net::link::{Failure, Link, LinkKey, LinkState, Waiting};
use crate::net::output::{ConnId, Dropped, Ending, NS_PER_MS, Output, Passed};
use crate::net::refusal::Refusal;

/// Messages that have to find their way anew.
type Rerouted = Vec<(Lane, Waiting)>;

impl Peers {
    /// Both sides have accepted each other.
    pub(super) fn handshake_done(&mut self, conn: ConnId, info: PeerInfo, received: Bytes, now_ns: u64) {
        self.counters.handshakes += 1;
        if info.our_core == self.core {
            return self.install(conn, info, received, now_ns);
        }
        self.conns.remove(&conn).expect("it had a handshake");
        let core = info.our_core;
        let passed = Box::new(Passed { info, received });
        self.outputs.push_back(Output::Pass { conn, core, passed });
    }

    /// Takes over a connection that another core of this node has accepted.
    ///
    /// # Panics
    /// If it is for another core than this one.
    pub fn adopt(&mut self, passed: Passed, now_ns: u64) -> ConnId {
        let Passed { info, received } = passed;
        assert!(
            info.our_core == self.core,
            "a connection for core {} came to {}",
            info.our_core.0,
            self.core.0
        );
        // It is dialling for the moment in which it has neither a link nor a session.
        let conn = self.insert(Conn { key: None, stage: Stage::Dialling, since_ns: now_ns });
        self.install(conn, info, received, now_ns);
        conn
    }

    /// Another core has seen this process of a node.
    pub fn seen(&mut self, node: NodeId, epoch: Epoch, now_ns: u64) {
        match self.known.standing(node, epoch) {
            Standing::Newer => {
                let waiting = self.supersede(node, epoch, now_ns);
                waiting.into_iter().for_each(|(lane, waiting)| self.send(waiting, lane, now_ns));
            }
            Standing::Twin(known) => self.silence(node, epoch, known, now_ns),
            Standing::Same | Standing::Older(_) => {}
        }
    }

    /// The incarnation of a founder that was first heard of is kept durably.
    pub fn met(&mut self, node: NodeId, incarnation: u64) {
        self.known.met(node, incarnation);
    }

    /// A handshake came to a refusal.
    pub(super) fn refuse(&mut self, conn: ConnId, refusal: Refusal, now_ns: u64) {
        if let Refusal::FirstContact { node, incarnation } = refusal {
            self.outputs.push_back(Output::Meet { node, incarnation });
        }
        if let Refusal::TwoProcesses { node, found, known } = refusal {
            self.silence(node, found, known, now_ns);
            self.outputs.push_back(Output::Seen { node, epoch: found });
        }
        self.end(conn, refusal.into(), now_ns);
    }

    /// Two processes are the same start of a node: neither is heard until there is a newer one.
    fn silence(&mut self, node: NodeId, found: Epoch, known: Epoch, now_ns: u64) {
        self.known.note_twice(node);
        for conn in self.connections_of(node) {
            self.end(conn, Refusal::TwoProcesses { node, found, known }.into(), now_ns);
        }
    }

    /// Those that frames go on.
    fn connections_of(&self, node: NodeId) -> Vec<ConnId> {
        let is_theirs = |conn: &Conn| matches!(&conn.stage, Stage::Up(session) if session.node == node);
        self.conns.iter().filter(|(_, conn)| is_theirs(conn)).map(|(id, _)| *id).collect()
    }

    /// A newer process of a node has come: whatever is connected to older ones ends, and what waits for the node waits for
    /// the new one; but where that has another data folder, what waits is for nobody that is there.
    fn supersede(&mut self, node: NodeId, epoch: Epoch, now_ns: u64) -> Rerouted {
        let before = self.known.newest(node);
        let has_lost_its_data = before.is_some_and(|before| before.incarnation != epoch.incarnation);
        self.known.supersede(node, epoch);
        self.shards.remove(&node);
        let mut waiting = Rerouted::new();
        for (key, link) in self.links.iter_mut().filter(|(key, _)| key.node == node) {
            waiting.extend(link.take_all().into_iter().map(|waiting| (key.lane, waiting)));
        }
        for conn in self.connections_of(node) {
            self.end(conn, Ending::Superseded { newest: epoch }, now_ns);
        }
        // The cores of the new process are others.
        self.links.retain(|key, link| key.node != node || link.state.conn().is_some());
        self.forget_removed();
        if has_lost_its_data {
            waiting.drain(..).for_each(|(_, waiting)| self.drop_message(waiting, Dropped::ConnectionLost));
        }
        waiting
    }

    /// Makes a connection whose handshake is done the one of its link, unless that has a better one.
    fn install(&mut self, conn: ConnId, info: PeerInfo, received: Bytes, now_ns: u64) {
        let (node, epoch, lane) = (info.node, info.epoch, info.outgoing.lane);
        let mut waiting = match self.known.standing(node, epoch) {
            Standing::Older(newest) => return self.end(conn, Ending::Superseded { newest }, now_ns),
            Standing::Twin(known) => {
                return self.refuse(conn, Refusal::TwoProcesses { node, found: epoch, known }, now_ns);
            }
            Standing::Same => Rerouted::new(),
            Standing::Newer => {
                let waiting = self.supersede(node, epoch, now_ns);
                self.outputs.push_back(Output::Seen { node, epoch });
                waiting
            }
        };
        self.known.note_done(node, epoch);
        self.links.iter_mut().filter(|(key, _)| key.node == node).for_each(|(_, link)| link.wait_no_more());
        let mut shards = info.shards.clone();
        shards.sort_unstable();
        let is_news = self.shards.insert(node, shards).is_none();
        let is_theirs = lane == Lane::Requests && info.side == Side::Accepting;
        let key = LinkKey { node, core: info.core, lane, is_theirs };
        let made_for = self.conns.get(&conn).and_then(|conn| conn.key).filter(|made_for| *made_for != key);
        if let Some(made_for) = made_for {
            waiting.extend(self.leave_link(conn, made_for));
        }
        if is_news {
            waiting.extend(self.take_unrouted(node, now_ns));
        }
        if self.is_worse(conn, &info, key, now_ns) {
            self.end(conn, Ending::Replaced, now_ns);
        } else {
            self.take_link(conn, key, &info, now_ns);
        }
        for (lane, waiting) in waiting {
            // A node that says a shard is of a core, and has no such core, would be dialled again and again.
            if made_for.is_some() && self.route(waiting.to, lane, waiting.message.is_answer()) == made_for {
                self.drop_message(waiting, Dropped::NoShard);
            } else {
                self.send(waiting, lane, now_ns);
            }
        }
        self.received_frames(conn, received, now_ns);
    }

    /// The link that a connection was made for leads to another core than was thought: it is given up, and what waits there
    /// has to find its way.
    fn leave_link(&mut self, conn: ConnId, made_for: LinkKey) -> Rerouted {
        match self.links.get_mut(&made_for) {
            Some(link) if link.state.conn() == Some(conn) => {
                let waiting = link.take_all().into_iter().map(|waiting| (made_for.lane, waiting)).collect();
                self.links.remove(&made_for);
                self.forget_removed();
                waiting
            }
            Some(_) | None => Rerouted::new(),
        }
    }

    /// What waits for a node of which it was not known where its shards are. Connections for requests that are being made to any core
    /// of it are given up: the one that is made instead may lead to the same core, and one of the two would end, whatever was written
    /// to it.
    fn take_unrouted(&mut self, node: NodeId, now_ns: u64) -> Rerouted {
        let mut waiting = Rerouted::new();
        let mut given_up = Vec::new();
        for (key, link) in self.links.iter_mut().filter(|(key, _)| key.node == node) {
            waiting.extend(link.take_all().into_iter().map(|waiting| (key.lane, waiting)));
            let is_early = matches!(link.state, LinkState::Dialling(_) | LinkState::Handshaking(_));
            let is_any = key.lane == Lane::Requests && key.core == CoreId::ANY;
            given_up.extend(link.state.conn().filter(|_| is_early && is_any));
        }
        given_up.into_iter().for_each(|conn| self.end(conn, Ending::Replaced, now_ns));
        waiting
    }

    /// Whether the link has a connection that is rather kept than this one.
    fn is_worse(&self, conn: ConnId, info: &PeerInfo, key: LinkKey, now_ns: u64) -> bool {
        let LinkState::Up(old) = self.link(key) else { return false };
        let Some(Conn { stage: Stage::Up(session), since_ns, .. }) = self.conns.get(&old) else {
            return false;
        };
        assert!(old != conn, "a connection comes up once");
        // Made from both sides at once, they must agree on one. Later, whoever makes another has lost the one before.
        let window_ms = self.options.dial_ms + self.options.handshake_ms;
        let is_at_once = now_ns < since_ns + window_ms * NS_PER_MS;
        let dialler = |side| if side == Side::Dialling { self.local.node } else { info.node };
        is_at_once && dialler(info.side) < dialler(session.side)
    }

    fn take_link(&mut self, conn: ConnId, key: LinkKey, info: &PeerInfo, now_ns: u64) {
        let body_bytes = self.local.limits.frame_bytes();
        let session = Session {
            node: info.node,
            epoch: info.epoch,
            side: info.side,
            version: info.outgoing.version,
            writer: FrameWriter::new(info.outgoing),
            reader: FrameReader::new(info.incoming, body_bytes),
            writing_since_ns: None,
            members: Vec::new(),
            owed: HashSet::new(),
        };
        let stage = Stage::Up(Box::new(session));
        self.conns.insert(conn, Conn { key: Some(key), stage, since_ns: now_ns });
        let link = self.links.entry(key).or_insert_with(Link::new);
        let old = std::mem::replace(&mut link.state, LinkState::Up(conn)).conn().filter(|old| *old != conn);
        let is_up = |conn| matches!(self.conns.get(&conn), Some(Conn { stage: Stage::Up(_), .. }));
        // One that is being made from here goes on where it is the one to be kept.
        if let Some(old) = old.filter(|old| is_up(*old) || info.node > self.local.node) {
            self.end(old, Ending::Replaced, now_ns);
        }
        self.note_due(key);
    }

    /// Ends a connection from here.
    pub(super) fn end(&mut self, conn: ConnId, why: Ending, now_ns: u64) {
        let Some(ended) = self.conns.remove(&conn) else { return };
        self.counters.count_ending(&why);
        let node = match &ended.stage {
            Stage::Up(session) => Some(session.node),
            // What one says of itself counts once it is proved.
            Stage::Handshaking(_) | Stage::Dialling => ended.key.map(|key| key.node),
        };
        self.outputs.push_back(Output::Close { conn, node, why: why.clone() });
        self.unlink(conn, ended, Some(&why), now_ns);
    }

    /// A connection is there no more; `why` it was ended from here.
    pub(super) fn unlink(&mut self, conn: ConnId, ended: Conn, why: Option<&Ending>, now_ns: u64) {
        let failure = match (why, &ended.stage) {
            (Some(Ending::Replaced | Ending::Superseded { .. }), _) => None,
            (Some(Ending::Refused(refusal)), _) if refusal.passes() => Some(Failure::NotMade),
            (Some(Ending::Refused(_)), _) => Some(Failure::Refused),
            (
                Some(Ending::Frame(_) | Ending::NotMade { .. } | Ending::Stalled { .. } | Ending::Crowded)
                | None,
                stage,
            ) => match stage {
                Stage::Up(_) => Some(Failure::Lost { up_since_ns: ended.since_ns }),
                Stage::Dialling | Stage::Handshaking(_) => Some(Failure::NotMade),
            },
        };
        let Some(key) = ended.key else { return };
        if let Some(link) = self.links.get_mut(&key).filter(|link| link.state.conn() == Some(conn)) {
            let unsent = link.take_all();
            match failure {
                Some(failure) => link.back_off(failure, &self.options, &mut self.numbers, now_ns),
                None => link.state = LinkState::Idle,
            }
            for waiting in unsent {
                self.drop_message(waiting, Dropped::ConnectionLost);
            }
        }
        // What waited is reported before: of that it is certain that it was not sent.
        let Stage::Up(session) = ended.stage else { return };
        if key.lane == Lane::Requests {
            let requests = session.owed.into_iter().collect();
            self.outputs.push_back(Output::Severed { node: key.node, requests });
            return;
        }
        for (partition, storage) in session.members {
            self.drop_replicas(partition, storage, Dropped::ConnectionLost);
        }
    }
}
