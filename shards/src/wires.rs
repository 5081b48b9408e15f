//! The sockets of a core to its peers: carries out what [`Peers`] wants to have done, and reports to it what becomes of that.
//!
//! Invariant: a connection that `Peers` knows has a socket here, from its dial, its acceptance or its adoption until it is
//! closed. What a socket does not take waits in its order, what comes is handed on in its order, and nothing is tried twice
//! without an event of the poller. What is due is done by [`Wires::turn`] and [`Wires::flush`]; nobody waits in between.

mod complaints;
mod news;
mod nodes;
#[cfg(test)]
mod tests;
mod wire;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use raft::eraftpb::Message;

use crate::ids::{NodeId, PartitionId};
use crate::net::{
    ConnId, CoreId, Epoch, Forwarded, LinkKey, LinkState, Nonce, Output, Passed, PeerCounters, Peers, To,
    Unsendable, lane_of,
};
use crate::runtime::{Listener, Poller, Ready, Socket};
use complaints::Complaints;
pub use news::{Moved, News, WireOptions};
use wire::{Sent, Stage, Wire};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes that one connection brings in a turn, before others are read.
const TURN_READ_BYTES: usize = 1 << 20;
/// Connections accepted in a turn.
const ACCEPT_MAX: u32 = 32;
/// How long to wait after a connection could not be accepted: out of descriptors, most of all.
const ACCEPT_AGAIN_NS: u64 = 100_000_000;
/// How long what was to be written before a connection is closed may take.
const LINGER_NS: u64 = 1_000_000_000;

/// See the file's head.
#[derive(Debug)]
pub struct Wires {
    peers: Peers,
    addresses: HashMap<NodeId, SocketAddr>,
    token: fn(ConnId) -> u64,
    listener: Listener,
    /// Connections may be waiting to be accepted, from this time on.
    accept_at_ns: Option<u64>,
    wires: HashMap<ConnId, Wire>,
    /// How long a machine may acknowledge nothing before its connections are lost.
    silence: Duration,
    /// Those that the next turn reads.
    readable: Vec<ConnId>,
    /// How many are being closed.
    closing: usize,
    news: Vec<News>,
    buffer: Vec<u8>,
    /// Where nonces come from.
    random: File,
    complaints: Complaints,
}

impl Wires {
    /// Those of a core that accepts connections by this listener.
    ///
    /// # Errors
    /// What the system says of its source of random numbers.
    pub fn new(options: WireOptions, listener: Listener) -> io::Result<Self> {
        let WireOptions { local, core, peers, addresses, token } = options;
        let silence = Duration::from_millis(peers.stall_ms);
        Ok(Self {
            peers: Peers::new(local, core, peers),
            addresses,
            token,
            listener,
            accept_at_ns: None,
            wires: HashMap::new(),
            silence,
            readable: Vec::new(),
            closing: 0,
            news: Vec::new(),
            buffer: vec![0; READ_BYTES],
            random: File::open("/dev/urandom")?,
            complaints: Complaints::default(),
        })
    }

    /// Has the poller report connections that come.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&mut self, poller: &Poller, token: u64) -> io::Result<()> {
        poller.watch_input(&self.listener, token)?;
        self.accept_at_ns = Some(0);
        Ok(())
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> &PeerCounters {
        self.peers.counters()
    }

    /// Connections now, however far they are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.wires.len()
    }

    /// What the link to a core of a peer is about.
    #[must_use]
    pub fn link(&self, key: LinkKey) -> LinkState {
        self.peers.link(key)
    }

    // ---- Events ----

    /// Connections may be waiting to be accepted.
    pub fn notice_listener(&mut self) {
        self.accept_at_ns.get_or_insert(0);
    }

    /// Takes news of a connection's socket.
    pub fn notice(&mut self, conn: ConnId, ready: Ready, poller: &Poller, now_ns: u64) {
        // It may have been closed since.
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        if wire.stage == Stage::Dialling {
            // A socket that is not connected yet reports that it has ended.
            if ready.writable {
                self.dialled(conn, now_ns);
            }
        } else if ready.writable && !wire.unsent.is_empty() {
            self.send(conn, now_ns);
        }
        if let Some(wire) = self.wires.get_mut(&conn)
            && ready.readable
            && wire.stage == Stage::Open
        {
            wire.has_ended |= ready.ended;
            if !std::mem::replace(&mut wire.is_listed, true) {
                self.readable.push(conn);
            }
        }
        self.act(poller, now_ns);
    }

    fn dialled(&mut self, conn: ConnId, now_ns: u64) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        match wire.socket.connected() {
            Ok(()) => {
                wire.stage = Stage::Open;
                let nonce = self.nonce();
                self.peers.connected(conn, nonce, now_ns);
            }
            Err(error) => {
                self.complaints.unreachable(conn, &error, now_ns);
                self.lose(conn, now_ns);
            }
        }
    }

    /// Accepts and reads what has come, looks at what takes too long, and does what follows. Call it once a turn; what it
    /// brought is in [`Wires::take_news`].
    pub fn turn(&mut self, poller: &Poller, now_ns: u64) {
        if self.accept_at_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            self.accept(poller, now_ns);
        }
        for conn in std::mem::take(&mut self.readable) {
            self.read(conn, poller, now_ns);
        }
        if self.peers.next_tick_ns().is_some_and(|at_ns| at_ns <= now_ns) {
            self.peers.tick(now_ns);
            self.act(poller, now_ns);
        }
        if self.closing > 0 {
            let late = |wire: &Wire| matches!(wire.stage, Stage::Closing { until_ns } if until_ns <= now_ns);
            self.wires.retain(|_, wire| !late(wire));
            self.recount_closing();
        }
    }

    fn recount_closing(&mut self) {
        let closing = self.wires.values().filter(|wire| matches!(wire.stage, Stage::Closing { .. }));
        self.closing = closing.count();
    }

    /// Whether the next turn has something to do at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.readable.is_empty() || !self.news.is_empty()
    }

    /// When the next turn has something to do at the latest.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let closing = self.wires.values().filter_map(|wire| match wire.stage {
            Stage::Closing { until_ns } => Some(until_ns),
            Stage::Dialling | Stage::Open => None,
        });
        let closing = if self.closing > 0 { closing.min() } else { None };
        [self.peers.next_tick_ns(), self.accept_at_ns, closing].into_iter().flatten().min()
    }

    /// What has come since it was taken last, in order.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn accept(&mut self, poller: &Poller, now_ns: u64) {
        self.accept_at_ns = Some(now_ns);
        for _ in 0..ACCEPT_MAX {
            match self.listener.try_accept() {
                Ok((socket, _)) => {
                    let nonce = self.nonce();
                    // What comes beyond is closed.
                    if let Some(conn) = self.peers.accepted(nonce, now_ns) {
                        self.watch(conn, Wire::new(socket, Stage::Open), poller, now_ns);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_at_ns = None;
                    return;
                }
                // The peer gave up while it waited.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection of a peer could not be accepted");
                    self.accept_at_ns = Some(now_ns + ACCEPT_AGAIN_NS);
                    return;
                }
            }
        }
    }

    fn watch(&mut self, conn: ConnId, wire: Wire, poller: &Poller, now_ns: u64) {
        // One that is closed already fails here, and is found out at reading.
        let _ = wire.socket.give_up_after(self.silence);
        if let Err(error) = poller.watch_both(&wire.socket, (self.token)(conn)) {
            tracing::warn!(%error, "a connection to a peer cannot be watched and is closed");
            self.complaints.lost(conn, now_ns);
            return self.peers.closed(conn, now_ns);
        }
        let before = self.wires.insert(conn, wire);
        assert!(before.is_none(), "connection {} has two sockets", conn.0);
    }

    /// Reads what has come on a connection, as far as its turn goes.
    fn read(&mut self, conn: ConnId, poller: &Poller, now_ns: u64) {
        let mut left = TURN_READ_BYTES;
        // Whatever came may have the connection closed, or handed to another core.
        while let Some(wire) = self.wires.get_mut(&conn).filter(|wire| wire.stage == Stage::Open) {
            if left == 0 {
                return self.readable.push(conn);
            }
            wire.is_listed = false;
            match wire.socket.try_recv(&mut self.buffer) {
                Ok(0) => {
                    self.complaints.lost(conn, now_ns);
                    self.lose(conn, now_ns);
                }
                Ok(count) => {
                    left = left.saturating_sub(count);
                    let is_all = count < self.buffer.len() && !wire.has_ended;
                    wire.is_listed = !is_all;
                    let bytes = Bytes::copy_from_slice(self.buffer.get(..count).unwrap_or_default());
                    self.peers.received(conn, bytes, now_ns);
                    self.act(poller, now_ns);
                    if is_all {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.complaints.lost(conn, now_ns);
                    self.lose(conn, now_ns);
                }
            }
        }
        self.act(poller, now_ns);
    }

    // ---- What goes out ----

    /// Has a message sent with the next flush, on the lane of its kind. What cannot be sent is reported.
    ///
    /// # Errors
    /// [`Unsendable`]: no peer would take it, and it is dropped.
    pub fn queue(
        &mut self,
        to: To,
        partition: PartitionId,
        message: Message,
        now_ns: u64,
    ) -> Result<(), Unsendable> {
        let lane = lane_of(&message);
        self.peers.queue(to, lane, partition, message, now_ns)
    }

    /// Has a request of a client or an answer sent with the next flush.
    ///
    /// # Errors
    /// The same, if there is no room for it now.
    pub fn forward(&mut self, to: To, forwarded: Forwarded, now_ns: u64) -> Result<(), Forwarded> {
        self.peers.forward(to, forwarded, now_ns)
    }

    /// Sends what was queued: one frame a connection.
    pub fn flush(&mut self, poller: &Poller, now_ns: u64) {
        // A connection that has taken its frame may have the next one at once.
        loop {
            self.peers.flush(now_ns);
            if !self.act(poller, now_ns) {
                return;
            }
        }
    }

    /// Takes a connection that another core has accepted.
    pub fn adopt(&mut self, moved: Moved, poller: &Poller, now_ns: u64) {
        let Moved { socket, passed, unsent } = moved;
        let conn = self.peers.adopt(*passed, now_ns);
        self.watch(conn, Wire { unsent, ..Wire::new(socket, Stage::Open) }, poller, now_ns);
        self.act(poller, now_ns);
    }

    /// Another core has seen this process of a node.
    pub fn seen(&mut self, node: NodeId, epoch: Epoch, poller: &Poller, now_ns: u64) {
        self.peers.seen(node, epoch, now_ns);
        self.act(poller, now_ns);
    }

    /// This incarnation of a founder is kept durably: from now on its messages are taken, and no other incarnation's.
    pub fn met(&mut self, node: NodeId, incarnation: u64) {
        self.peers.met(node, incarnation);
    }

    /// Ends all connections: the node stops.
    pub fn close(&mut self) {
        self.wires.values().for_each(|wire| wire.socket.shutdown());
        self.wires.clear();
        self.readable.clear();
        self.accept_at_ns = None;
        self.closing = 0;
    }

    /// Does what `Peers` wants. Returns whether something was written.
    fn act(&mut self, poller: &Poller, now_ns: u64) -> bool {
        let mut has_written = false;
        while let Some(output) = self.peers.next_output() {
            match output {
                Output::Dial { conn, node, .. } => self.dial(conn, node, poller, now_ns),
                Output::Write { conn, bytes } => {
                    if let Some(wire) = self.wires.get_mut(&conn) {
                        wire.unsent.push_back(bytes);
                        has_written |= self.send(conn, now_ns);
                    }
                }
                Output::Close { conn, node, why } => {
                    let address = node.and_then(|node| self.addresses.get(&node));
                    self.complaints.ended(conn, node, address, &why, now_ns);
                    self.close_slowly(conn, now_ns);
                }
                Output::Pass { conn, core, passed } => self.pass(conn, core, passed, poller),
                Output::Deliver { node, partition, message } => {
                    self.news.push(News::Message { node, partition, message });
                }
                Output::Unreachable { partition, to } => self.news.push(News::Unreachable { partition, to }),
                Output::Forwarded { node, forwarded } => self.news.push(News::Forwarded { node, forwarded }),
                Output::Unsent { node, forwarded } => self.news.push(News::Unsent { node, forwarded }),
                Output::Severed { node, requests } => self.news.push(News::Severed { node, requests }),
                Output::Meet { node, incarnation } => self.news.push(News::Meet { node, incarnation }),
                Output::Seen { node, epoch } => self.news.push(News::Seen { node, epoch }),
            }
        }
        has_written
    }

    fn dial(&mut self, conn: ConnId, node: NodeId, poller: &Poller, now_ns: u64) {
        let address = self.addresses.get(&node).copied();
        let address = address.ok_or_else(|| io::Error::other("nobody knows its address"));
        self.complaints.dialled(conn, node, address.as_ref().ok());
        match address.and_then(Socket::dial) {
            Ok(socket) => self.watch(conn, Wire::new(socket, Stage::Dialling), poller, now_ns),
            Err(error) => {
                self.complaints.unreachable(conn, &error, now_ns);
                self.peers.closed(conn, now_ns);
            }
        }
    }

    /// Sends what waits on a connection. Returns whether all is sent.
    fn send(&mut self, conn: ConnId, now_ns: u64) -> bool {
        let Some(wire) = self.wires.get_mut(&conn) else { return false };
        match (wire.send(), wire.stage) {
            (Ok(Sent { is_all: true, .. }), Stage::Open) => {
                self.peers.written(conn);
                true
            }
            (Ok(Sent { bytes, is_all: false }), Stage::Open) => {
                if bytes > 0 {
                    self.peers.progressed(conn, now_ns);
                }
                false
            }
            (Ok(Sent { is_all: true, .. }) | Err(_), Stage::Closing { .. }) => {
                self.wires.remove(&conn);
                self.closing -= 1;
                false
            }
            (Ok(_), _) => false,
            (Err(_), _) => {
                self.complaints.lost(conn, now_ns);
                self.lose(conn, now_ns);
                false
            }
        }
    }

    /// A connection was closed by the other side or the network, or could not be made.
    fn lose(&mut self, conn: ConnId, now_ns: u64) {
        if self.wires.remove(&conn).is_some() {
            self.peers.closed(conn, now_ns);
        }
    }

    /// Closes a connection once what was written to it is sent.
    fn close_slowly(&mut self, conn: ConnId, now_ns: u64) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        if wire.unsent.is_empty() || wire.stage == Stage::Dialling {
            wire.socket.shutdown();
            self.wires.remove(&conn);
        } else {
            wire.stage = Stage::Closing { until_ns: now_ns + LINGER_NS };
            self.closing += 1;
        }
    }

    fn pass(&mut self, conn: ConnId, core: CoreId, passed: Box<Passed>, poller: &Poller) {
        let Some(Wire { socket, unsent, .. }) = self.wires.remove(&conn) else { return };
        poller.forget(&socket).expect("it was watched since it was accepted");
        let moved = Box::new(Moved { socket, passed, unsent });
        self.news.push(News::Moved { core, moved });
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = Nonce::default();
        self.random.read_exact(&mut nonce).expect("the kernel's random numbers never end");
        nonce
    }

    /// Compares sockets and connections.
    ///
    /// # Panics
    /// If they contradict each other.
    pub fn check(&self) {
        self.peers.check();
        let closing = self.wires.values().filter(|wire| matches!(wire.stage, Stage::Closing { .. })).count();
        assert_eq!(closing, self.closing, "connections that are being closed");
        for (conn, wire) in &self.wires {
            let is_listed = self.readable.contains(conn);
            assert_eq!(wire.is_listed && wire.stage == Stage::Open, is_listed, "connection {}", conn.0);
        }
    }
}
