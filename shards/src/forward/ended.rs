//! Connections whose clients have ended them, of which something is under way: what waits of these is not begun late, when
//! nobody reckons with it any more.
//!
//! Invariant: a connection is forgotten once nothing of it can be given back: when nothing is under way, or so long after it was
//! closed that any of its requests is too old to be sent.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its client sends no more; it may still read what comes. What can be sent without a delay is.
    Announced,
    /// It is closed, and nobody reads what comes: nothing more is sent.
    Closed,
    /// It is closed, and nothing of it was under way any more.
    Over,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Ended {
    conns: HashMap<u64, End>,
    /// Those that are closed and when to forget them, the first of them first.
    closed: VecDeque<(u64, u64)>,
}

impl Ended {
    /// A connection has ended, and is forgotten at that time if it is closed.
    pub fn note(&mut self, conn: u64, end: End, until_ns: u64, now_ns: u64) {
        while let Some((_, conn)) = self.closed.front().copied().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.closed.pop_front();
            self.conns.remove(&conn);
        }
        match end {
            End::Announced => _ = self.conns.insert(conn, end),
            End::Closed => {
                self.conns.insert(conn, end);
                self.closed.push_back((until_ns, conn));
            }
            End::Over => _ = self.conns.remove(&conn),
        }
    }

    /// Whether a connection has ended.
    pub fn holds(&self, conn: u64) -> bool {
        !self.conns.is_empty() && self.conns.contains_key(&conn)
    }
}
