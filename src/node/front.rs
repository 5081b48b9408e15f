//! The front of a core: its connections, what comes from them and what they are sent.
//!
//! In the order in which the parts know each other: `conn`, `conns`, `account`, `overdue` and `waits` (a connection, the
//! table of them, what they hold, their time limits), this file (who waits for what, opening and closing), `output` (sending),
//! `follow_up` (what is to be done once a session was given something), `input` (accepting and reading).
//!
//! Invariants: no borrow of a list or of the table is held across a call into a session. A connection that may have unread
//! input either stands on the list of those to read, or something is under way that has it looked at again: a reply, room in the socket,
//! the end of a congestion, the time limit of a slow reader.

mod account;
pub mod conn;
mod conns;
mod follow_up;
mod input;
mod output;
mod overdue;
mod waits;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use corduroy_shards::forward::End;
use corduroy_shards::runtime::{Ready, Socket};
use corduroy_shards::{Rejection, Reply};

use super::address::{Address, Ends};
use super::backend::Backing;
use super::core::{Core, core_of_conn};
use super::event::Event;
use super::hosts::Hosts;
use super::listen::{Doors, Listening};
use super::message::{Answer, Message};
use super::notify;
use super::shared::Phase;
use crate::resp::guesses::PER_SECOND;
use crate::resp::{Opening, Output, Session, Wish};
use account::Accounts;
use conn::Conn;
use conns::Conns;
use waits::Waits;

/// Bytes of the buffer that all connections of a core read into.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// See the file's head.
pub struct Front {
    core: Rc<Core>,
    hosts: Rc<Hosts>,
    doors: RefCell<Doors>,
    /// Its connections.
    pub conns: RefCell<Conns>,
    /// What all of them hold.
    accounts: Accounts,
    /// Connections that wait for a time.
    pub waits: Waits,
    /// Connections whose turns are long: whose share of work did not suffice, or which have more to read after such a turn.
    /// They go on in the next passes, as far as these go.
    unfinished: RefCell<VecDeque<Rc<Conn>>>,
    /// Connections closed in this pass because others said so.
    closings: Cell<usize>,
    /// Connections that have much to send, and wait for their turn.
    senders: RefCell<VecDeque<Rc<Conn>>>,
    /// One of them has its turn.
    is_senders_turn: Cell<bool>,
    /// What its connections have sent in this pass.
    pub sent_bytes: Cell<usize>,
    /// Connections to be followed up: their sessions got replies.
    to_follow_up: RefCell<Vec<Rc<Conn>>>,
    /// Connections whose sockets may be read.
    readable: RefCell<Vec<Rc<Conn>>>,
    /// What connections read into.
    buffer: RefCell<Vec<u8>>,
    /// When connections are to be looked at for their time limits.
    sweep_at_ns: Cell<Option<u64>>,
}

impl Front {
    /// Without connections; what they ask for goes to these hosts.
    pub fn new(core: Rc<Core>, hosts: Rc<Hosts>, listening: Vec<Listening>) -> Self {
        Self {
            doors: RefCell::new(Doors::new(listening)),
            conns: RefCell::new(Conns::new(core.index)),
            core,
            hosts,
            accounts: Accounts::default(),
            waits: Waits::default(),
            unfinished: RefCell::default(),
            closings: Cell::new(0),
            senders: RefCell::default(),
            is_senders_turn: Cell::new(false),
            sent_bytes: Cell::new(0),
            to_follow_up: RefCell::default(),
            readable: RefCell::default(),
            buffer: RefCell::new(vec![0; READ_BUFFER_BYTES]),
            sweep_at_ns: Cell::new(None),
        }
    }

    /// A pass begins: each has its bounds anew.
    pub fn begin_pass(&self) {
        self.sent_bytes.set(0);
        self.closings.set(0);
    }

    /// What a session of this connection works with.
    fn backing<'f>(&'f self, conn: &'f Conn) -> Backing<'f> {
        Backing { core: &self.core, hosts: &self.hosts, waited_at: &conn.waited_at }
    }

    // ---- Listening ----

    /// Starts to listen, and says so.
    ///
    /// # Errors
    /// The address, and what the system says.
    pub fn listen(&self) -> Result<(), (Address, io::Error)> {
        if let Some(address) = self.doors.borrow().watch(&self.core.poller)? {
            self.core.shared.say_ready(address.unwrap_or(self.core.config().listen));
        }
        Ok(())
    }

    /// Takes news of a listener.
    pub fn notice_door(&self, index: usize) {
        self.doors.borrow_mut().notice(index);
    }

    /// Stops accepting, and has every connection looked at: each ends as soon as it is quiet.
    pub fn begin_drain(&self) {
        self.doors.borrow_mut().close();
        self.conns.borrow().all().into_iter().for_each(|conn| self.want_follow_up(conn));
    }

    // ---- Who waits for what ----

    /// Has a connection read in the next pass.
    fn queue(&self, conn: &Rc<Conn>) {
        if !conn.is_queued.replace(true) {
            self.readable.borrow_mut().push(Rc::clone(conn));
        }
    }

    /// Has all read in the next pass: reading had stopped, and there may be no other event for what came.
    pub fn queue_all(&self) {
        self.conns.borrow().all().iter().for_each(|conn| self.queue(conn));
    }

    /// Has a connection go on when it is its turn among those whose turns are long.
    fn put_off(&self, conn: &Rc<Conn>) {
        if !conn.is_unfinished.replace(true) {
            self.unfinished.borrow_mut().push_back(Rc::clone(conn));
        }
    }

    /// Puts a connection on the list of those to be followed up.
    fn want_follow_up(&self, conn: Rc<Conn>) {
        if !conn.is_listed.replace(true) {
            self.to_follow_up.borrow_mut().push(conn);
        }
    }

    /// Whether a connection waits for nothing but its turn.
    pub fn has_more(&self) -> bool {
        !self.readable.borrow().is_empty()
            || !self.unfinished.borrow().is_empty()
            || !self.senders.borrow().is_empty()
    }

    /// When the next time limit is due, on the monotonic clock; `None` if none is.
    pub fn next_ns(&self) -> Option<u64> {
        self.sweep_at_ns.get().into_iter().chain(self.waits.next_ns()).min()
    }

    /// Has the time limits looked at within a second.
    fn want_sweep(&self) {
        if self.sweep_at_ns.get().is_none() {
            self.sweep_at_ns.set(Some(self.core.now().mono_ns + 1_000_000_000));
            self.core.wake();
        }
    }

    /// Follows a changed configuration: connections that are idle already may have to go, and nothing else would have them
    /// looked at.
    pub fn follow_config(&self) {
        if self.sweep_at_ns.get().is_none() {
            self.sweep_at_ns.set(Some(self.core.now().mono_ns));
        }
    }

    // ---- News ----

    /// Takes news of a connection's socket.
    pub fn notice(&self, id: u64, ready: Ready) {
        // It may have been closed since.
        let Some(conn) = self.conns.borrow().get(id) else { return };
        if ready.readable {
            conn.is_ending.set(conn.is_ending.get() || ready.ended);
            conn.has_input.set(true);
            self.queue(&conn);
        }
        // Whom it asked something of hears of that also where reading has stopped.
        if ready.ended || ready.writable && !conn.unsent.borrow().is_empty() {
            self.want_follow_up(conn);
        }
    }

    /// Hands an outcome to its session. The connection may be closed; then nobody wants it.
    pub fn deliver(&self, answer: Answer) {
        let Answer { ticket, reply, timing } = answer;
        let Some(conn) = self.conns.borrow().get(ticket.conn) else { return };
        let mut session = conn.session.borrow_mut();
        if conn.is_ending.get() && matches!(reply, Reply::Unknown | Reply::Rejected(Rejection::NoLeader(_))) {
            // Nobody is to be surprised by what else it had asked for.
            session.end_after_replies();
        }
        session.reply(ticket, reply, &timing, &self.backing(&conn));
        drop(session);
        self.want_follow_up(conn);
    }

    /// Whether this connection of the core is open.
    pub fn is_open(&self, conn: u64) -> bool {
        self.conns.borrow().get(conn).is_some()
    }

    /// Has a connection of this core looked at in this pass or the next.
    pub fn look(&self, conn: u64) {
        if let Some(conn) = self.conns.borrow().get(conn) {
            self.want_follow_up(conn);
            self.core.wake();
        }
    }

    /// Has a connection of any core looked at.
    fn look_anywhere(&self, conn: u64) {
        let core = core_of_conn(conn);
        if core == self.core.index {
            self.look(conn)
        } else {
            self.hosts.links.post(core, Message::Look { conn })
        }
    }

    /// Does what a session wants.
    fn fulfil(&self, wish: &Wish) {
        match wish {
            Wish::Look { conn } => self.look_anywhere(*conn),
            Wish::ReportGuesses(report) => tracing::warn!(
                "wrong password from {}: {} so far; more than {PER_SECOND} a second have to wait",
                report.source,
                report.wrong
            ),
            Wish::ShutDown => {
                tracing::info!("asked to stop by a client");
                notify::say("STOPPING=1");
                self.core.shared.set_phase(Phase::Draining);
            }
        }
    }

    /// Does what the session of a connection wants since it was asked last.
    fn fulfil_all(&self, conn: &Conn) {
        let wishes = conn.session.borrow_mut().take_wishes();
        wishes.iter().for_each(|wish| self.fulfil(wish));
    }

    // ---- Opening and closing ----

    /// Takes a new socket in.
    pub fn open(&self, socket: Socket, ends: &Ends) {
        let core = &self.core;
        let Some(id) = self.conns.borrow_mut().reserve() else {
            self.refuse(&socket);
            return;
        };
        if let Err(error) = core.poller.watch_both(&socket, Event::Conn(id).token()) {
            tracing::warn!(%error, "a connection cannot be watched and is closed");
            self.conns.borrow_mut().release(id);
            self.refuse(&socket);
            return;
        }
        let opening =
            Opening { conn: id, core: core.index, peer: ends.peer(), local: ends.local(), fd: socket.fd() };
        let now = core.tick();
        let waited_at = Default::default();
        let backing = Backing { core, hosts: &self.hosts, waited_at: &waited_at };
        let session = Session::new(&core.shared.hub, opening, &backing);
        let conn = Rc::new(Conn::new(id, socket, session, now.mono_ns));
        self.conns.borrow_mut().insert(Rc::clone(&conn));
        self.publish_count();
        if core.config().idle_timeout_s > 0 {
            self.want_sweep();
        }
        // Its first request may have come with it.
        self.queue(&conn);
    }

    /// Sends a client the error that there is no room for it.
    fn refuse(&self, socket: &Socket) {
        let shared = &self.core.shared;
        shared.refused.fetch_add(1, Ordering::Relaxed);
        // It fits into any socket's buffer; if not, the client sees the connection close.
        let _ = socket.try_send(b"-ERR max number of clients reached\r\n");
        shared.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends a connection now. Outcomes still to come have nobody to go to.
    pub fn close(&self, conn: &Conn) {
        if conn.is_closed.replace(true) {
            return;
        }
        conn.socket.shutdown();
        self.fulfil_all(conn);
        self.leave(conn);
        // Lists of this pass may hold the connection a while longer, but nothing that it has to say or do.
        let mut session = conn.session.borrow_mut();
        self.waits.forget(session.waits_until_ns(), conn.id);
        let may_wait = session.may_await_heavy() || (self.hosts.forwards() && session.in_flight() > 0);
        if may_wait || conn.end_known_at.get().is_some() {
            let end = if session.in_flight() > 0 { End::Closed } else { End::Over };
            self.hosts.end_conn(conn.id, end, &conn.waited_at);
        }
        session.abandon();
        drop(session);
        *conn.unsent.borrow_mut() = Output::default();
        self.conns.borrow_mut().remove(conn.id);
        self.core.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.publish_count();
        // The driver may be waiting for the last one.
        self.core.wake();
    }

    /// A connection that is closed holds nothing any more.
    fn leave(&self, conn: &Conn) {
        let ledger = &self.core.shared.ledger;
        self.accounts.close(&conn.account);
        self.share_out(conn);
        self.accounts.publish(ledger);
        ledger.end_leaving(conn.session.borrow().client().end());
    }

    /// Notes a connection's part of the large values that it holds, by how many hold each now.
    fn share_out(&self, conn: &Conn) {
        let others_bytes = self.accounts.others_bytes(&conn.account);
        conn.session.borrow().client().leave_to_others(others_bytes);
    }

    /// Says where something may wait of a connection that its client has ended, unless that is known.
    fn announce_end(&self, conn: &Conn) {
        let cores = Some(conn.waited_at.bits());
        if conn.is_ending.get()
            && self.hosts.forwards()
            && conn.session.borrow().in_flight() > 0
            && conn.end_known_at.replace(cores) != cores
        {
            self.hosts.end_conn(conn.id, End::Announced, &conn.waited_at);
        }
    }

    fn publish_count(&self) {
        self.core.facts().connections.store(self.conns.borrow().len(), Ordering::Relaxed);
    }
}
