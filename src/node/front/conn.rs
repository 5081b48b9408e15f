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
use std::rc::Rc;
use std::sync::atomic::Ordering;

use corduroy_shards::runtime::{Ready, Socket};

use super::overdue::{check_backlog, want_sweep, watch_partial};
use crate::node::address::Ends;
use crate::node::core::Core;
use crate::node::event::Event;
use crate::node::facts::bump;
use crate::node::ledger::{self, Counted};
use crate::node::message::CoreSet;
use crate::node::shared::Phase;
use crate::resp::output::SharesMark;
use crate::resp::{Opening, Output, Session};

/// Work that a connection may do in a pass; shared out where several have more to do than that, down to the least.
const PASS_UNITS: u32 = 8192;
const PASS_UNITS_MIN: u32 = 256;
/// Work of a pass for all connections whose turns are long; the others are served in each pass.
const PASS_LONG_UNITS: u32 = 16_384;
/// A turn of so much work is long.
const LONG_UNITS: u32 = 512;
/// Connections that a core closes in a pass because others said so.
const PASS_CLOSINGS: usize = 256;
/// Bytes that the connections of a core send in a pass, before those that have much to send wait for the next one; and
/// those of one of them, before others of its like send.
const PASS_SEND_BYTES: usize = 1 << 20;
const TURN_SEND_BYTES: usize = 256 << 10;
/// Who has no more than this to send does not wait.
const SHORT_SEND_BYTES: usize = 64 << 10;
/// Memory for output that a connection keeps when it has none.
const SPARE_OUTPUT_BYTES: usize = 256 << 10;

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
    /// On the core's list of connections whose turns are long.
    is_unfinished: Cell<bool>,
    /// Its last turn was long.
    is_long: Cell<bool>,
    /// On the core's list of connections that have much to send.
    is_sender: Cell<bool>,
    /// The socket may hold something unread.
    has_input: Cell<bool>,
    /// The end has been announced: reading goes on until it is reached, for no other event tells of it.
    is_ending: Cell<bool>,
    is_closed: Cell<bool>,
    /// The client will send no more, and all it sent is read.
    has_ended: Cell<bool>,
    /// What a full socket did not take, until all of it is sent.
    unsent: RefCell<Output>,
    pub(in crate::node) last_input_ns: Cell<u64>,
    /// Since when a request has been arriving, and how much since.
    pub(in crate::node) partial: Cell<Option<(u64, u64)>>,
    /// Bytes read that `partial` does not count yet.
    pub(in crate::node) came_bytes: Cell<u64>,
    pub(in crate::node) over_soft_since_ns: Cell<Option<u64>>,
    /// What it holds, as last counted into the core's sum.
    pub(in crate::node) counted: Counted,
    /// The cores before whose shards something of it may have waited.
    pub(in crate::node) waited_at: CoreSet,
}

/// How far sending came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// The socket is full.
    Full,
    /// Others send first: it goes on in the next pass.
    Later,
}

/// Takes a new socket in.
pub fn open(core: &Rc<Core>, socket: Socket, ends: &Ends) {
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
    let opening =
        Opening { conn: id, core: core.index, peer: ends.peer(), local: ends.local(), fd: socket.fd() };
    core.tick();
    let session = Session::new(&core.shared.hub, opening, &**core);
    let conn = Rc::new(Conn {
        id,
        socket,
        session: RefCell::new(session),
        is_listed: Cell::new(false),
        is_queued: Cell::new(false),
        is_unfinished: Cell::new(false),
        is_long: Cell::new(false),
        is_sender: Cell::new(false),
        has_input: Cell::new(true),
        is_ending: Cell::new(false),
        is_closed: Cell::new(false),
        has_ended: Cell::new(false),
        unsent: RefCell::default(),
        last_input_ns: Cell::new(core.now().mono_ns),
        partial: Cell::new(None),
        came_bytes: Cell::new(0),
        over_soft_since_ns: Cell::new(None),
        counted: Counted::default(),
        waited_at: CoreSet::default(),
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
    if ready.writable && !conn.unsent.borrow().is_empty() {
        core.unsettle(conn);
    }
}

/// Has a connection read in the next pass.
pub fn queue(core: &Core, conn: &Rc<Conn>) {
    if !conn.is_queued.replace(true) {
        core.readable.borrow_mut().push(Rc::clone(conn));
    }
}

/// Reads what has come, one buffer of each connection, and sends what can be answered at once. Those whose turns are long
/// wait until it is their turn among their like.
pub fn read_all(core: &Rc<Core>) {
    let mut readable = core.readable.take();
    for conn in readable.drain(..) {
        conn.is_queued.set(false);
        if conn.is_long.get() {
            put_off(core, &conn);
        } else if conn.may_read(core) {
            read(core, &conn, units(core));
        }
    }
    // Reading may have listed others; the emptied list is kept for its memory.
    let mut listed = core.readable.borrow_mut();
    if listed.is_empty() {
        *listed = readable;
    }
}

fn read(core: &Rc<Core>, conn: &Rc<Conn>, units: u32) {
    let mut buffer = core.buffer.borrow_mut();
    let wanted = conn.session.borrow().read_max_bytes().min(buffer.len());
    match conn.socket.try_recv(buffer.get_mut(..wanted).unwrap_or_default()) {
        Ok(0) => conn.has_ended.set(true),
        Ok(count) => {
            conn.has_input.set(count == wanted || conn.is_ending.get());
            take_input(core, conn, buffer.get(..count).unwrap_or_default(), units);
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

fn take_input(core: &Rc<Core>, conn: &Rc<Conn>, bytes: &[u8], units: u32) {
    let now = core.tick();
    let mut session = conn.session.borrow_mut();
    session.begin_turn(units);
    session.input(bytes, &**core);
    conn.is_long.set(session.worked() >= LONG_UNITS.min(units));
    conn.last_input_ns.set(now.mono_ns);
    conn.came_bytes.set(conn.came_bytes.get() + bytes.len() as u64);
    if let Some(facts) = core.shared.facts.get(core.index) {
        bump(&facts.input_bytes, bytes.len() as u64);
        bump(&facts.reads, 1);
    }
}

/// A connection's share of the work of a pass.
fn units(core: &Core) -> u32 {
    let sharing = u32::try_from(core.unfinished.borrow().len()).unwrap_or(u32::MAX);
    (PASS_UNITS / sharing.saturating_add(1)).max(PASS_UNITS_MIN)
}

/// Has a connection go on when it is its turn among those whose turns are long.
fn put_off(core: &Core, conn: &Rc<Conn>) {
    if !conn.is_unfinished.replace(true) {
        core.unfinished.borrow_mut().push_back(Rc::clone(conn));
    }
}

/// Lets connections go on whose turns are long, one after the other, as far as the work of a pass goes. None of those that
/// are listed meanwhile: their turn comes in the next pass.
pub fn go_on_all(core: &Rc<Core>) {
    let units = units(core);
    let listed = core.unfinished.borrow().len();
    let mut left = PASS_LONG_UNITS;
    for _ in 0..listed {
        let Some(conn) = core.unfinished.borrow_mut().pop_front() else { break };
        conn.is_unfinished.set(false);
        if !conn.is_closed.get() {
            left = left.saturating_sub(go_on(core, &conn, units));
        }
        if left == 0 {
            break;
        }
    }
}

/// Lets one go on: with what it holds, else with what has come. Returns the work that it took.
fn go_on(core: &Rc<Core>, conn: &Rc<Conn>, units: u32) -> u32 {
    conn.is_long.set(false);
    let mut session = conn.session.borrow_mut();
    session.begin_turn(units);
    // What the socket did not take goes first.
    if conn.unsent_bytes() == 0 && !session.is_aborted() {
        session.resume(&**core);
    }
    let worked = session.worked();
    drop(session);
    if worked == 0 && conn.may_read(core) {
        read(core, conn, units);
    } else {
        conn.is_long.set(worked >= LONG_UNITS.min(units));
        settle(core, conn);
    }
    conn.session.borrow().worked()
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

    /// Also reads from a client that takes no replies, up to a limit. Not from one that is about to be closed: nothing of
    /// what it sent since is to be done.
    fn wants_read(&self) -> bool {
        let session = self.session.borrow();
        if session.is_aborted() {
            return false;
        }
        let holds_back = self.unsent_bytes() > 0 || session.waits_until_ns().is_some();
        session.wants_read() || (holds_back && session.holds_more_input())
    }

    /// Nothing under way and nothing left to do or to send.
    pub(in crate::node) fn is_quiet(&self) -> bool {
        let session = self.session.borrow();
        self.unsent_bytes() == 0
            && session.output().is_empty()
            && session.in_flight() == 0
            && !session.is_unfinished()
    }

    /// Bytes that the socket did not take yet.
    pub(in crate::node) fn unsent_bytes(&self) -> usize {
        self.unsent.borrow().len()
    }

    /// Bytes of replies that were copied and not sent yet; large values are not.
    #[cfg(test)]
    pub(in crate::node) fn copied_bytes(&self) -> usize {
        self.unsent.borrow().copied_bytes() + self.session.borrow().output().copied_bytes()
    }

    /// Has the node see what it holds, and answers all of it.
    pub(in crate::node) fn held_bytes(&self) -> usize {
        let unsent = self.unsent.borrow().held_bytes();
        size_of::<Self>() + self.session.borrow_mut().publish_footprint(unsent)
    }

    /// Stands for the large values that it holds: asking costs the same however many they are.
    pub(in crate::node) fn shares_mark(&self) -> SharesMark {
        self.unsent.borrow().shares_mark() + self.session.borrow().shares_mark()
    }

    /// The large values that it holds: of each the whole that it is a part of, and how long that is.
    pub(in crate::node) fn large_values(&self) -> Vec<(usize, usize)> {
        let (unsent, session) = (self.unsent.borrow(), self.session.borrow());
        let all = unsent.shares().chain(session.shares());
        all.map(|value| (value.whole(), value.held_len())).collect()
    }

    /// What it may send now: whoever has much to send waits for those of its like that came before it, and for the next
    /// pass when this one has sent enough.
    fn share_to_send(&self, core: &Core, output: &Output) -> usize {
        if output.len() <= SHORT_SEND_BYTES {
            return output.len();
        }
        if !core.is_senders_turn.get() && !core.senders.borrow().is_empty() {
            return 0;
        }
        PASS_SEND_BYTES.saturating_sub(core.sent_bytes.get())
    }

    /// Sends as much as the socket takes, and it may send in this turn.
    fn send(&self, core: &Core, output: &mut Output, turn_bytes: &mut usize) -> io::Result<Sent> {
        let share = self.share_to_send(core, output);
        let mut left = if output.len() <= SHORT_SEND_BYTES { share } else { share.min(*turn_bytes) };
        while !output.is_empty() {
            if left == 0 {
                return Ok(Sent::Later);
            }
            let front = output.front();
            match self.try_send(core, front.get(..left).unwrap_or(front))? {
                0 => return Ok(Sent::Full),
                sent => {
                    left -= sent;
                    *turn_bytes = turn_bytes.saturating_sub(sent);
                    core.sent_bytes.set(core.sent_bytes.get() + sent);
                    output.advance(sent);
                }
            }
        }
        // One huge reply must not pin its memory for the life of the connection.
        output.shrink(SPARE_OUTPUT_BYTES);
        Ok(Sent::All)
    }

    /// Sends what the socket takes; 0 if it is full.
    fn try_send(&self, core: &Core, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.try_send(bytes) {
                Ok(sent) => {
                    if let Some(facts) = core.shared.facts.get(core.index) {
                        bump(&facts.output_bytes, sent as u64);
                        bump(&facts.writes, 1);
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
    if conn.session.borrow().is_aborted() {
        // Many may be closed by one command; those who are not have to be served meanwhile.
        if core.closings.get() < PASS_CLOSINGS {
            core.closings.set(core.closings.get() + 1);
            close(core, conn);
        } else {
            core.unsettle(Rc::clone(conn));
            core.wake();
        }
        return;
    }
    if flush(core, conn).is_err() {
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
    core.waits.note(conn);
    ledger::count(core, conn);
    check_backlog(core, conn);
    if conn.session.borrow().is_unfinished() && !conn.is_closed.get() {
        put_off(core, conn);
    } else if conn.may_read(core) {
        queue(core, conn);
    }
}

/// Sends as long as the socket takes everything and the session goes on with what it had kept back.
fn flush(core: &Rc<Core>, conn: &Rc<Conn>) -> io::Result<()> {
    let (mut sent, mut turn_bytes) = (Sent::All, TURN_SEND_BYTES);
    if conn.unsent_bytes() > 0 {
        sent = conn.send(core, &mut conn.unsent.borrow_mut(), &mut turn_bytes)?;
        if sent == Sent::All {
            conn.session.borrow_mut().resume(&**core);
        }
    }
    while sent == Sent::All {
        let mut session = conn.session.borrow_mut();
        if session.output().is_empty() {
            return Ok(());
        }
        sent = conn.send(core, session.output_mut(), &mut turn_bytes)?;
        if sent == Sent::All {
            session.resume(&**core);
        } else {
            *conn.unsent.borrow_mut() = session.take_output();
        }
    }
    if sent == Sent::Later && !conn.is_sender.replace(true) {
        core.senders.borrow_mut().push_back(Rc::clone(conn));
    }
    Ok(())
}

/// Lets connections go on that have much to send, one after the other, as far as the pass goes: those that get no turn are
/// the first in the next one.
pub fn send_on_all(core: &Rc<Core>) {
    core.is_senders_turn.set(true);
    // Who comes back here has sent as much as a turn is: this ends.
    while core.sent_bytes.get() < PASS_SEND_BYTES {
        let Some(conn) = core.senders.borrow_mut().pop_front() else { break };
        conn.is_sender.set(false);
        settle(core, &conn);
    }
    core.is_senders_turn.set(false);
}

/// Ends a connection now. Outcomes still to come have nobody to go to.
pub fn close(core: &Rc<Core>, conn: &Rc<Conn>) {
    if conn.is_closed.replace(true) {
        return;
    }
    conn.socket.shutdown();
    ledger::leave(core, conn);
    // Lists of this pass may hold the connection a while longer, but nothing that it has to say or do.
    if let Ok(mut session) = conn.session.try_borrow_mut() {
        core.waits.forget(session.waits_until_ns(), conn.id);
        if session.may_await_heavy() {
            core.drop_heavy(conn.id, &conn.waited_at);
        }
        session.abandon();
    }
    *conn.unsent.borrow_mut() = Output::default();
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
