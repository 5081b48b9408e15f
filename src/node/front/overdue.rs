//! The time limits of connections: half-sent requests, unread replies, idleness. Looked at once a second, while any has one.

use std::rc::Rc;

use super::conn::Conn;
use crate::config::Config;

/// A request that keeps arriving must bring so many bytes in each `timeout.partial_ms`.
const PARTIAL_MIN_BYTES: u64 = 64 << 10;

/// What a client has yet to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backlog {
    /// Nothing.
    None,
    /// No more than it may.
    Some,
    /// So many bytes: too many, or too many for too long.
    TooMuch(u64),
}

/// Keeps the time since when a request has been arriving, and counts what came of it. Returns whether one is.
pub fn watch_partial(conn: &Conn, now_ns: u64) -> bool {
    let came_bytes = conn.came_bytes.take();
    // What is kept while the client does not take its replies may well be whole.
    let is_midway = conn.unsent_bytes() == 0 && conn.session.borrow().is_midway();
    let partial = is_midway.then(|| {
        let (since_ns, before) = conn.partial.get().unwrap_or((now_ns, 0));
        (since_ns, before + came_bytes)
    });
    conn.partial.set(partial);
    partial.is_some()
}

/// Keeps the time since when a client has had much to read. Asks for the configuration only if there is anything.
pub fn backlog(conn: &Conn, config: impl FnOnce() -> Rc<Config>, now_ns: u64) -> Backlog {
    let backlog = conn.unsent_bytes() + conn.session.borrow().output().len();
    if backlog == 0 {
        conn.over_soft_since_ns.set(None);
        return Backlog::None;
    }
    let config = config();
    let backlog = backlog as u64;
    if backlog <= config.output_soft_bytes.0 {
        conn.over_soft_since_ns.set(None);
        return Backlog::Some;
    }
    let since_ns = conn.over_soft_since_ns.get().unwrap_or(now_ns);
    conn.over_soft_since_ns.set(Some(since_ns));
    let is_long = now_ns - since_ns > config.output_soft_ms.0.saturating_mul(1_000_000);
    if backlog > config.output_hard_bytes.0 || is_long { Backlog::TooMuch(backlog) } else { Backlog::Some }
}

/// Whether a connection has been idle, or a request has been arriving, for longer than it may.
pub fn is_overdue(config: &Config, conn: &Conn, now_ns: u64) -> bool {
    let idle_ns = now_ns.saturating_sub(conn.last_input_ns.get());
    let idle_limit_ns = config.idle_timeout_s.saturating_mul(1_000_000_000);
    let waits = conn.session.borrow().waits_until_ns().is_some();
    if idle_limit_ns > 0 && idle_ns > idle_limit_ns && conn.is_quiet() && !waits {
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
