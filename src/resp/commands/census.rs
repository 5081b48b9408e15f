//! CLIENT LIST and CLIENT KILL over many connections: some in a turn, while others are served in between.
//!
//! Connections are visited in the order in which they came, up to the one that was the newest at the beginning: each that is
//! open all the time is visited once.

use super::client::{Filter, describe_to};
use crate::resp::backend::Wish;
use crate::resp::clients::Client;
use crate::resp::conn::ConnState;
use crate::resp::reply::Writer;

/// Connections visited at a time.
const STEP: usize = 256;
/// Work that they are, in requests.
pub const UNITS_A_STEP: u32 = 1024;

/// What is done with each connection that a visit is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// It is described.
    List,
    /// It is closed. `replies_count`: the reply is how many were.
    Kill {
        /// See there.
        replies_count: bool,
    },
}

/// A visit to all connections, under way.
#[derive(Debug)]
pub struct Census {
    visit: Visit,
    filter: Filter,
    /// The next connection's number, and the last one's.
    next: u64,
    last: u64,
    index: u16,
    text: String,
    killed: i64,
    kills_me: bool,
}

impl Census {
    /// A visit to those that the filter names.
    pub fn new(conn: &ConnState, visit: Visit, filter: Filter, index: u16) -> Self {
        let (next, last) = filter.range(conn.hub.clients.last_id());
        Self { visit, filter, next, last, index, text: String::new(), killed: 0, kills_me: false }
    }

    /// Visits the next few. Returns whether there may be more.
    pub fn step(&mut self, conn: &mut ConnState, now_ms: u64) -> bool {
        let clients = conn.hub.clients.some_from(self.next, self.last, STEP);
        let me = conn.client.id;
        for client in &clients {
            if !self.filter.hits(client, me, now_ms) {
                continue;
            }
            match self.visit {
                Visit::List => {
                    describe_to(client, &mut self.text, now_ms);
                    self.text.push('\n');
                }
                Visit::Kill { .. } => self.kill(client, conn),
            }
        }
        match clients.last() {
            Some(client) if clients.len() == STEP && client.id < self.last => {
                self.next = client.id + 1;
                true
            }
            _ => false,
        }
    }

    fn kill(&mut self, client: &Client, conn: &mut ConnState) {
        // One that was closed before is about to end: it is not closed again.
        if client.is_killed() {
            return;
        }
        self.killed += 1;
        if client.id == conn.client.id {
            self.kills_me = true;
        } else {
            client.kill();
            conn.wish(Wish::Look { conn: client.conn });
        }
    }

    /// The reply, once all are visited.
    pub fn answer(&self, conn: &mut ConnState, out: &mut Writer<'_>) {
        if self.kills_me {
            conn.close_after_replies();
        }
        match (self.visit, self.killed) {
            (Visit::List, _) => out.verbatim(&self.text),
            (Visit::Kill { replies_count: true }, killed) => out.int(killed),
            (Visit::Kill { replies_count: false }, 0) => out.error("ERR No such client"),
            (Visit::Kill { replies_count: false }, _) => out.ok(),
        }
    }

    /// The command's index in the table of commands.
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// What it holds in memory.
    pub fn held_bytes(&self) -> usize {
        self.text.capacity() + self.filter.held_bytes()
    }
}
