//! What is to be done with a connection once its session was given something: sending, closing, counting, reading on; and
//! who has to go when a time is over or there is no room.

use std::rc::Rc;

use super::Front;
use super::conn::Conn;
use super::output::PASS_SEND_BYTES;
use super::overdue::{Backlog, backlog, is_overdue, watch_partial};
use crate::node::core::core_of_conn;
use crate::node::shared::Phase;

/// Connections that a core closes in a pass because others said so.
const PASS_CLOSINGS: usize = 256;

impl Front {
    /// Sends what there is to send, closes what is to be closed, and lets reading go on. To be called whenever the session
    /// was given something.
    pub(super) fn follow_up(&self, conn: &Rc<Conn>) {
        if conn.is_closed.get() {
            return;
        }
        if conn.session.borrow().is_aborted() {
            // Many may be closed by one command; those who are not have to be served meanwhile.
            if self.closings.get() < PASS_CLOSINGS {
                self.closings.set(self.closings.get() + 1);
                self.close(conn);
            } else {
                self.want_follow_up(Rc::clone(conn));
                self.core.wake();
            }
            return;
        }
        if self.send_all(conn).is_err() {
            self.close(conn);
            return;
        }
        self.fulfil_all(conn);
        let is_done = {
            let session = conn.session.borrow();
            session.should_close() && session.output().is_empty() && conn.unsent_bytes() == 0
        };
        let is_leaving = conn.has_ended.get() || self.core.shared.phase() > Phase::Serving;
        if is_done || (is_leaving && conn.is_quiet()) {
            self.close(conn);
            return;
        }
        self.announce_end(conn);
        // What was half a request may lie among what was kept while the session was paused.
        if watch_partial(conn, self.core.now().mono_ns) {
            self.want_sweep();
        }
        if let Some(until_ns) = conn.session.borrow().waits_until_ns() {
            self.waits.note(until_ns, conn.id);
        }
        self.count(conn);
        self.check_backlog(conn);
        if conn.session.borrow().is_unfinished() && !conn.is_closed.get() {
            self.put_off(conn);
        } else if self.may_read(conn) {
            self.queue(conn);
        }
    }

    /// Whether a connection's socket is to be read.
    pub(super) fn may_read(&self, conn: &Conn) -> bool {
        conn.has_input.get()
            && !conn.has_ended.get()
            && !conn.is_closed.get()
            && !self.hosts.links.is_congested()
            && self.core.shared.phase() == Phase::Serving
            && conn.wants_read()
    }

    /// Follows up on those whose sessions got something in this pass.
    pub fn follow_up_all(&self) {
        let mut conns = self.to_follow_up.take();
        for conn in conns.drain(..) {
            conn.is_listed.set(false);
            self.follow_up(&conn);
        }
        // Following up may have listed others; the emptied list is kept for its memory.
        let mut listed = self.to_follow_up.borrow_mut();
        if listed.is_empty() {
            *listed = conns;
        }
    }

    /// Lets connections go on that have much to send, one after the other, as far as the pass goes: those that get no turn
    /// are the first in the next one.
    pub fn send_on_all(&self) {
        self.is_senders_turn.set(true);
        // Who comes back here has sent as much as a turn is: this ends.
        while self.sent_bytes.get() < PASS_SEND_BYTES {
            let Some(conn) = self.senders.borrow_mut().pop_front() else { break };
            conn.is_sender.set(false);
            self.follow_up(&conn);
        }
        self.is_senders_turn.set(false);
    }

    /// Answers those whose WAIT is over.
    pub fn end_due_waits(&self) {
        let now_ns = self.core.now().mono_ns;
        while let Some(id) = self.waits.take_due(now_ns) {
            let Some(conn) = self.conns.borrow().get(id) else { continue };
            conn.session.borrow_mut().end_wait(now_ns, &self.backing(&conn));
            self.follow_up(&conn);
        }
    }

    // ---- Time limits ----

    /// Closes a connection whose reader is too slow.
    fn check_backlog(&self, conn: &Conn) {
        match backlog(conn, || self.core.config(), self.core.now().mono_ns) {
            Backlog::None => {}
            Backlog::Some => self.want_sweep(),
            Backlog::TooMuch(backlog) => {
                tracing::warn!(
                    conn = conn.id,
                    backlog,
                    "closing a connection that does not read its replies"
                );
                self.close(conn);
            }
        }
    }

    /// Looks at all connections' time limits when that is due, and goes on doing so while any has one.
    pub fn sweep_if_due(&self, now_ns: u64) {
        if self.sweep_at_ns.get().is_none_or(|at_ns| at_ns > now_ns) {
            return;
        }
        self.sweep_at_ns.set(None);
        let config = self.core.config();
        // Closing changes the table, so it must not be borrowed meanwhile.
        let conns = self.conns.borrow().all();
        for conn in conns {
            if is_overdue(&config, &conn, self.core.now().mono_ns) {
                self.close(&conn);
                continue;
            }
            self.check_backlog(&conn);
            if conn.partial.get().is_some() || config.idle_timeout_s > 0 {
                self.want_sweep();
            }
        }
    }

    // ---- Room ----

    /// Counts what a connection holds, and makes room if all of them hold too much.
    fn count(&self, conn: &Conn) {
        let (accounts, ledger) = (&self.accounts, &self.core.shared.ledger);
        if conn.account.follow(conn.shares_mark()) {
            accounts.count_values(&conn.account, conn.large_values());
            self.share_out(conn);
        }
        accounts.count(&conn.account, conn.held_bytes());
        if accounts.is_to_publish(ledger) {
            accounts.publish(ledger);
            self.make_room();
            accounts.note_unmet(ledger);
        }
    }

    /// Closes the connections that hold the most, until the others are within the limit.
    fn make_room(&self) {
        let ledger = &self.core.shared.ledger;
        let wanted = ledger.wanted_room();
        if wanted == 0 {
            return;
        }
        // Other clients have come and left since the others were counted.
        let conns = self.conns.borrow().all();
        conns.iter().filter(|conn| conn.account.holds_values()).for_each(|conn| self.share_out(conn));
        for (client, bytes) in self.core.shared.hub.clients.largest(wanted) {
            let bytes = bytes.max(1);
            // Before the promise, for its end may come at once.
            ledger.begin_leaving(bytes);
            if !client.promise(bytes) {
                ledger.end_leaving(bytes);
                continue;
            }
            ledger.count_evicted();
            tracing::warn!(
                id = client.id,
                addr = client.addr,
                bytes,
                limit = ledger.limit(),
                "closing a connection: it holds the most, and all clients together hold more than memory.clients_bytes"
            );
            let is_here = core_of_conn(client.conn) == self.core.index;
            let here = if is_here { self.conns.borrow().get(client.conn) } else { None };
            match here {
                Some(conn) => self.close(&conn),
                None => self.look_anywhere(client.conn),
            }
        }
    }
}
