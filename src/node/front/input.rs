//! What comes in: connections, and what clients send.
//!
//! What has come is read in the next pass, one buffer a connection and pass. Reading stops while the session wants no more
//! (too much in flight or unread) or the core is congested: that is the back-pressure to the client.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Front;
use super::conn::Conn;
use crate::node::facts::bump;
use crate::node::listen::Arrival;
use crate::node::shared::Phase;

/// Work that a connection may do in a pass; shared out where several have more to do than that, down to the least.
const PASS_UNITS: u32 = 8192;
const PASS_UNITS_MIN: u32 = 256;
/// Work of a pass for all connections whose turns are long; the others are served in each pass.
const PASS_LONG_UNITS: u32 = 16_384;
/// A turn of so much work is long.
const LONG_UNITS: u32 = 512;

impl Front {
    /// Accepts what waits, some at a time. Answers when to look again, on the monotonic clock, if any still wait.
    pub fn accept_all(&self) -> Option<u64> {
        if self.core.shared.phase() != Phase::Serving {
            return None;
        }
        self.doors.borrow_mut().accept_all(self.core.now().mono_ns, |arrival| self.admit(arrival))
    }

    /// Takes a connection in, if there is room for one more.
    fn admit(&self, arrival: Arrival) {
        let before = self.core.shared.connections.fetch_add(1, Ordering::Relaxed);
        match arrival {
            Arrival::Client(socket, ends) if before < self.core.config().max_clients => {
                self.open(socket, &ends)
            }
            Arrival::Client(socket, _) | Arrival::OneTooMany(socket) => self.refuse(&socket),
        }
    }

    /// Reads what has come, one buffer of each connection, and sends what can be answered at once. Those whose turns are
    /// long wait until it is their turn among their like.
    pub fn read_all(&self) {
        let mut readable = self.readable.take();
        for conn in readable.drain(..) {
            conn.is_queued.set(false);
            if conn.is_long.get() {
                self.put_off(&conn);
            } else if self.may_read(&conn) {
                self.read(&conn, self.units());
            }
        }
        // Reading may have listed others; the emptied list is kept for its memory.
        let mut listed = self.readable.borrow_mut();
        if listed.is_empty() {
            *listed = readable;
        }
    }

    fn read(&self, conn: &Rc<Conn>, units: u32) {
        let mut buffer = self.buffer.borrow_mut();
        let wanted = conn.session.borrow().read_max_bytes().min(buffer.len());
        match conn.socket.try_recv(buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => conn.has_ended.set(true),
            Ok(count) => {
                conn.has_input.set(count == wanted || conn.is_ending.get());
                self.take_input(conn, buffer.get(..count).unwrap_or_default(), units);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.has_input.set(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.close(conn);
                return;
            }
        }
        drop(buffer);
        self.follow_up(conn);
    }

    fn take_input(&self, conn: &Conn, bytes: &[u8], units: u32) {
        let now = self.core.tick();
        let mut session = conn.session.borrow_mut();
        session.begin_turn(units);
        session.input(bytes, &self.backing(conn));
        conn.is_long.set(session.worked() >= LONG_UNITS.min(units));
        conn.last_input_ns.set(now.mono_ns);
        conn.came_bytes.set(conn.came_bytes.get() + bytes.len() as u64);
        let facts = self.core.facts();
        bump(&facts.input_bytes, bytes.len() as u64);
        bump(&facts.reads, 1);
    }

    /// A connection's share of the work of a pass.
    fn units(&self) -> u32 {
        let sharing = u32::try_from(self.unfinished.borrow().len()).unwrap_or(u32::MAX);
        (PASS_UNITS / sharing.saturating_add(1)).max(PASS_UNITS_MIN)
    }

    /// Lets connections go on whose turns are long, one after the other, as far as the work of a pass goes. None of those
    /// that are listed meanwhile: their turn comes in the next pass.
    pub fn go_on_all(&self) {
        let units = self.units();
        let listed = self.unfinished.borrow().len();
        let mut left = PASS_LONG_UNITS;
        for _ in 0..listed {
            let Some(conn) = self.unfinished.borrow_mut().pop_front() else { break };
            conn.is_unfinished.set(false);
            if !conn.is_closed.get() {
                left = left.saturating_sub(self.go_on(&conn, units));
            }
            if left == 0 {
                break;
            }
        }
    }

    /// Lets one go on: with what it holds, else with what has come. Returns the work that it took.
    fn go_on(&self, conn: &Rc<Conn>, units: u32) -> u32 {
        conn.is_long.set(false);
        let mut session = conn.session.borrow_mut();
        session.begin_turn(units);
        // What the socket did not take goes first.
        if conn.unsent_bytes() == 0 && !session.is_aborted() {
            session.resume(&self.backing(conn));
        }
        let worked = session.worked();
        drop(session);
        if worked == 0 && self.may_read(conn) {
            self.read(conn, units);
        } else {
            conn.is_long.set(worked >= LONG_UNITS.min(units));
            self.follow_up(conn);
        }
        conn.session.borrow().worked()
    }
}
