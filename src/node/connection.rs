//! A connection: a socket, its session, and when to read, write and close.
//!
//! What has come is read in the next pass, one buffer a connection and pass; what the session has to say is sent at the
//! end of the read or pass that produced it, with one send. A full socket keeps the rest until there is room. Reading
//! stops while the session wants no more (too much in flight or unread) or the core is congested: that is the
//! back-pressure to the client.
//!
//! Invariant: a connection that may have unread input either stands on the core's list of those to read, or something is
//! under way that settles it: a reply, room in the socket, the end of a congestion, the time limit of a slow reader.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use corduroy_shards::runtime::{Ready, Socket};

use super::core::{Core, bump};
use super::event::Event;
use super::shared::Phase;
use crate::config::Config;
use crate::resp::{Opening, Session};

/// Bits of a connection's number for its place in the table; those above, up to the core's, count reuses of the place.
const PLACE_BITS: u32 = 16;

/// A request that keeps arriving must bring so many bytes in each `timeout.partial_ms`.
const PARTIAL_MIN_BYTES: u64 = 64 << 10;

/// One connection.
pub struct Conn {
    /// Its number; never reused.
    pub id: u64,
    socket: Socket,
    /// Its session. Borrowed for one call at a time.
    pub session: RefCell<Session>,
    /// On the core's list of connections to settle.
    pub is_listed: Cell<bool>,
    /// On the core's list of connections to read.
    is_queued: Cell<bool>,
    /// The socket may hold something unread.
    has_input: Cell<bool>,
    /// The end has been announced: reading goes on until it is reached, for no other event tells of it.
    is_ending: Cell<bool>,
    is_closed: Cell<bool>,
    /// The client will send no more, and all it sent is read.
    has_ended: Cell<bool>,
    /// What a full socket did not take, until all of it is sent.
    unsent: RefCell<Unsent>,
    last_input_ns: Cell<u64>,
    /// Since when a request has been arriving, and how much since.
    partial: Cell<Option<(u64, u64)>>,
    /// Bytes read that `partial` does not count yet.
    came_bytes: Cell<u64>,
    over_soft_since_ns: Cell<Option<u64>>,
    /// What it has to send, as last counted into the core's sum.
    counted_bytes: Cell<usize>,
}

/// Output taken from the session, and how much of it is sent.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// The connections of a core, by number.
pub struct Conns {
    core: usize,
    places: Vec<(u32, Option<Rc<Conn>>)>,
    free: Vec<usize>,
    count: usize,
}

impl Conns {
    /// None yet.
    pub fn new(core: usize) -> Self {
        Self { core, places: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// A number for a new connection; `None` if the core has no place left.
    fn reserve(&mut self) -> Option<u64> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < 1 << PLACE_BITS => {
                self.places.push((0, None));
                self.places.len() - 1
            }
            None => return None,
        };
        let (uses, _) = self.places.get_mut(place)?;
        *uses = uses.wrapping_add(1);
        Some((self.core as u64) << 48 | u64::from(*uses) << PLACE_BITS | place as u64)
    }

    /// Gives a number back that was never used.
    fn release(&mut self, id: u64) {
        self.free.push(place_of(id));
    }

    fn insert(&mut self, conn: Rc<Conn>) {
        let (_, slot) = self.places.get_mut(place_of(conn.id)).expect("it was reserved");
        *slot = Some(conn);
        self.count += 1;
    }

    /// The connection of this number, if it is still open.
    pub fn get(&self, id: u64) -> Option<Rc<Conn>> {
        let (_, conn) = self.places.get(place_of(id))?;
        conn.as_ref().filter(|conn| conn.id == id).cloned()
    }

    fn remove(&mut self, id: u64) {
        if let Some((_, slot)) = self.places.get_mut(place_of(id))
            && slot.as_ref().is_some_and(|conn| conn.id == id)
        {
            *slot = None;
            self.free.push(place_of(id));
            self.count -= 1;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<Conn>> {
        self.places.iter().filter_map(|(_, conn)| conn.clone()).collect()
    }
}

fn place_of(id: u64) -> usize {
    (id & ((1 << PLACE_BITS) - 1)) as usize
}

/// Takes a new socket in.
pub fn open(core: &Rc<Core>, socket: Socket, peer: Option<SocketAddr>) {
    let name = |address: Option<SocketAddr>| address.map_or_else(|| "?:0".into(), |a| a.to_string());
    let Some(id) = core.conns.borrow_mut().reserve() else {
        refuse(core, &socket);
        return;
    };
    if let Err(error) = core.poller.watch_both(&socket, Event::Conn(id).token()) {
        tracing::warn!(%error, "a connection cannot be watched and is closed");
        core.conns.borrow_mut().release(id);
        refuse(core, &socket);
        return;
    }
    let opening = Opening {
        conn: id,
        core: core.index,
        peer: name(peer),
        local: name(socket.local_addr().ok()),
        fd: socket.fd(),
    };
    core.tick();
    let session = Session::new(&core.shared.hub, opening, &**core);
    let conn = Rc::new(Conn {
        id,
        socket,
        session: RefCell::new(session),
        is_listed: Cell::new(false),
        is_queued: Cell::new(false),
        has_input: Cell::new(true),
        is_ending: Cell::new(false),
        is_closed: Cell::new(false),
        has_ended: Cell::new(false),
        unsent: RefCell::default(),
        last_input_ns: Cell::new(core.now().mono_ns),
        partial: Cell::new(None),
        came_bytes: Cell::new(0),
        over_soft_since_ns: Cell::new(None),
        counted_bytes: Cell::new(0),
    });
    core.conns.borrow_mut().insert(Rc::clone(&conn));
    publish_count(core);
    if core.config().idle_timeout_s > 0 {
        want_sweep(core);
    }
    // Its first request may have come with it.
    queue(core, &conn);
}

/// Tells a client that there is no room for it.
pub fn refuse(core: &Core, socket: &Socket) {
    core.shared.refused.fetch_add(1, Ordering::Relaxed);
    // It fits into any socket's buffer; if not, the client sees the connection close.
    let _ = socket.try_send(b"-ERR max number of clients reached\r\n");
    core.shared.connections.fetch_sub(1, Ordering::Relaxed);
}

/// Takes news of a connection's socket.
pub fn notice(core: &Rc<Core>, id: u64, ready: Ready) {
    // It may have been closed since.
    let Some(conn) = core.conns.borrow().get(id) else { return };
    if ready.readable {
        conn.is_ending.set(conn.is_ending.get() || ready.ended);
        conn.has_input.set(true);
        queue(core, &conn);
    }
    if ready.writable && !conn.unsent.borrow().rest().is_empty() {
        core.unsettle(conn);
    }
}

/// Has a connection read in the next pass.
pub fn queue(core: &Core, conn: &Rc<Conn>) {
    if !conn.is_queued.replace(true) {
        core.readable.borrow_mut().push(Rc::clone(conn));
    }
}

/// Reads what has come, one buffer of each connection, and sends what can be answered at once.
pub fn read_all(core: &Rc<Core>) {
    let mut readable = core.readable.take();
    for conn in readable.drain(..) {
        conn.is_queued.set(false);
        if conn.may_read(core) {
            read(core, &conn);
        }
    }
    // Reading may have listed others; the emptied list is kept for its memory.
    let mut listed = core.readable.borrow_mut();
    if listed.is_empty() {
        *listed = readable;
    }
}

fn read(core: &Rc<Core>, conn: &Rc<Conn>) {
    let mut buffer = core.buffer.borrow_mut();
    match conn.socket.try_recv(&mut buffer) {
        Ok(0) => conn.has_ended.set(true),
        Ok(count) => {
            conn.has_input.set(count == buffer.len() || conn.is_ending.get());
            take_input(core, conn, buffer.get(..count).unwrap_or_default());
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.has_input.set(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(_) => {
            close(core, conn);
            return;
        }
    }
    drop(buffer);
    settle(core, conn);
}

fn take_input(core: &Rc<Core>, conn: &Rc<Conn>, bytes: &[u8]) {
    let now = core.tick();
    let mut session = conn.session.borrow_mut();
    session.input(bytes, &**core);
    conn.last_input_ns.set(now.mono_ns);
    conn.came_bytes.set(conn.came_bytes.get() + bytes.len() as u64);
    if let Some(facts) = core.shared.facts.get(core.index) {
        bump(&facts.input_bytes, bytes.len() as u64);
    }
}

/// Keeps the time since when a request has been arriving, and counts what came of it.
fn watch_partial(core: &Core, conn: &Conn) {
    let came_bytes = conn.came_bytes.take();
    let partial = conn.session.borrow().is_midway().then(|| {
        let (since_ns, before) = conn.partial.get().unwrap_or((core.now().mono_ns, 0));
        (since_ns, before + came_bytes)
    });
    if partial.is_some() {
        want_sweep(core);
    }
    conn.partial.set(partial);
}

impl Conn {
    fn may_read(&self, core: &Core) -> bool {
        self.has_input.get()
            && !self.has_ended.get()
            && !self.is_closed.get()
            && !core.is_congested()
            && core.shared.phase() == Phase::Serving
            && self.wants_read()
    }

    /// Also reads from a client that takes no replies, up to a limit.
    fn wants_read(&self) -> bool {
        let session = self.session.borrow();
        session.wants_read() || (self.unsent_bytes() > 0 && session.holds_more_input())
    }

    /// Nothing under way and nothing left to send.
    fn is_quiet(&self) -> bool {
        let session = self.session.borrow();
        self.unsent_bytes() == 0 && session.output().is_empty() && session.in_flight() == 0
    }

    fn unsent_bytes(&self) -> usize {
        self.unsent.borrow().rest().len()
    }

    /// Sends what an earlier send left over; whether nothing is left.
    fn send_rest(&self, core: &Core) -> io::Result<bool> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.rest().is_empty() {
            match self.try_send(core, unsent.rest())? {
                0 => return Ok(false),
                sent => unsent.sent += sent,
            }
        }
        // One huge reply must not pin its memory for the life of the connection.
        *unsent = Unsent::default();
        Ok(true)
    }

    /// Sends what the socket takes; 0 if it is full.
    fn try_send(&self, core: &Core, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.try_send(bytes) {
                Ok(sent) => {
                    if let Some(facts) = core.shared.facts.get(core.index) {
                        bump(&facts.output_bytes, sent as u64);
                    }
                    return Ok(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends what there is to send, closes what is to be closed, and lets reading go on. To be called whenever the session was
/// given something.
pub fn settle(core: &Rc<Core>, conn: &Rc<Conn>) {
    if conn.is_closed.get() {
        return;
    }
    if conn.session.borrow().is_aborted() || flush(core, conn).is_err() {
        close(core, conn);
        return;
    }
    let is_done = {
        let session = conn.session.borrow();
        session.should_close() && session.output().is_empty() && conn.unsent_bytes() == 0
    };
    let is_leaving = conn.has_ended.get() || core.shared.phase() > Phase::Serving;
    if is_done || (is_leaving && conn.is_quiet()) {
        close(core, conn);
        return;
    }
    // What was half a request may lie among what was kept while the session was paused.
    watch_partial(core, conn);
    count_output(core, conn);
    check_backlog(core, conn);
    if conn.may_read(core) {
        queue(core, conn);
    }
}

/// Sends as long as the socket takes everything and the session goes on with what it had kept back.
fn flush(core: &Rc<Core>, conn: &Rc<Conn>) -> io::Result<()> {
    if conn.unsent_bytes() > 0 {
        if !conn.send_rest(core)? {
            return Ok(());
        }
        conn.session.borrow_mut().resume(&**core);
    }
    loop {
        let mut session = conn.session.borrow_mut();
        if session.output().is_empty() {
            return Ok(());
        }
        let sent = conn.try_send(core, session.output())?;
        if sent < session.output().len() {
            let mut unsent = conn.unsent.borrow_mut();
            session.take_output(&mut unsent.bytes);
            unsent.sent = sent;
            return Ok(());
        }
        session.output_written(sent);
        session.resume(&**core);
    }
}

/// Counts what a connection has to send, and what was read beyond it; closes those with the most while all together have too much.
fn count_output(core: &Rc<Core>, conn: &Conn) {
    let session = conn.session.borrow();
    let unsent_bytes = conn.unsent_bytes();
    let input_bytes = if unsent_bytes > 0 { session.held_input_bytes() } else { 0 };
    let bytes = unsent_bytes + session.output().len() + session.held_bytes() + input_bytes;
    drop(session);
    let before = conn.counted_bytes.replace(bytes);
    core.output_bytes.set(core.output_bytes.get() + bytes - before);
    while core.output_bytes.get() as u64 > core.config().output_core_bytes.0 {
        let most = core.conns.borrow().all().into_iter().max_by_key(|conn| conn.counted_bytes.get());
        let Some(most) = most else { return };
        let (conn, backlog) = (most.id, most.counted_bytes.get());
        tracing::warn!(conn, backlog, "closing a connection: it holds the most of too much unread output");
        close(core, &most);
    }
}

/// Closes a connection whose reader is too slow.
fn check_backlog(core: &Rc<Core>, conn: &Rc<Conn>) {
    let backlog = conn.unsent_bytes() + conn.session.borrow().output().len();
    if backlog == 0 {
        conn.over_soft_since_ns.set(None);
        return;
    }
    let config = core.config();
    let now_ns = core.now().mono_ns;
    let backlog = backlog as u64;
    if backlog <= config.output_soft_bytes.0 {
        conn.over_soft_since_ns.set(None);
    } else {
        let since = conn.over_soft_since_ns.get().unwrap_or(now_ns);
        conn.over_soft_since_ns.set(Some(since));
        let is_long = now_ns - since > config.output_soft_ms.0.saturating_mul(1_000_000);
        if backlog > config.output_hard_bytes.0 || is_long {
            tracing::warn!(conn = conn.id, backlog, "closing a connection that does not read its replies");
            close(core, conn);
            return;
        }
    }
    want_sweep(core);
}

/// Ends a connection now. Outcomes still to come have nobody to go to.
pub fn close(core: &Rc<Core>, conn: &Rc<Conn>) {
    if conn.is_closed.replace(true) {
        return;
    }
    conn.socket.shutdown();
    core.output_bytes.set(core.output_bytes.get() - conn.counted_bytes.take());
    core.conns.borrow_mut().remove(conn.id);
    core.shared.connections.fetch_sub(1, Ordering::Relaxed);
    publish_count(core);
    // The driver may be waiting for the last one.
    core.wake();
}

fn publish_count(core: &Core) {
    if let Some(facts) = core.shared.facts.get(core.index) {
        facts.connections.store(core.conns.borrow().len(), Ordering::Relaxed);
    }
}

/// Has the time limits looked at within a second.
fn want_sweep(core: &Core) {
    if core.sweep_at_ns.get().is_none() {
        core.sweep_at_ns.set(Some(core.now().mono_ns + 1_000_000_000));
        core.wake();
    }
}

/// Looks at all connections' time limits, and goes on doing so while any has one.
pub fn sweep(core: &Rc<Core>) {
    core.sweep_at_ns.set(None);
    let config = core.config();
    // Closing changes the table, so it must not be borrowed meanwhile.
    let conns = core.conns.borrow().all();
    for conn in conns {
        if is_overdue(&config, &conn, core.now().mono_ns) {
            close(core, &conn);
            continue;
        }
        check_backlog(core, &conn);
        if conn.partial.get().is_some() || config.idle_timeout_s > 0 {
            want_sweep(core);
        }
    }
}

fn is_overdue(config: &Config, conn: &Conn, now_ns: u64) -> bool {
    let idle_ns = now_ns.saturating_sub(conn.last_input_ns.get());
    let idle_limit_ns = config.idle_timeout_s.saturating_mul(1_000_000_000);
    if idle_limit_ns > 0 && idle_ns > idle_limit_ns && conn.is_quiet() {
        return true;
    }
    let Some((since_ns, bytes)) = conn.partial.get() else { return false };
    let limit_ns = config.partial_timeout_ms.0.saturating_mul(1_000_000);
    if limit_ns == 0 || now_ns.saturating_sub(since_ns) <= limit_ns {
        return false;
    }
    // A large request on a slow line makes progress; one byte a minute does not.
    conn.partial.set(Some((now_ns, 0)));
    bytes < PARTIAL_MIN_BYTES
}
