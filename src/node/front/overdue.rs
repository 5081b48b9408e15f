//! The time limits of connections: half-sent requests, unread replies, idleness. Looked at once a second, while any has one.

use std::rc::Rc;

use super::conn::{Conn, close};
use crate::config::Config;
use crate::node::core::Core;

/// A request that keeps arriving must bring so many bytes in each `timeout.partial_ms`.
const PARTIAL_MIN_BYTES: u64 = 64 << 10;

/// Keeps the time since when a request has been arriving, and counts what came of it.
pub fn watch_partial(core: &Core, conn: &Conn) {
    let came_bytes = conn.came_bytes.take();
    // What is kept while the client does not take its replies may well be whole.
    let is_midway = conn.unsent_bytes() == 0 && conn.session.borrow().is_midway();
    let partial = is_midway.then(|| {
        let (since_ns, before) = conn.partial.get().unwrap_or((core.now().mono_ns, 0));
        (since_ns, before + came_bytes)
    });
    if partial.is_some() {
        want_sweep(core);
    }
    conn.partial.set(partial);
}

/// Closes a connection whose reader is too slow.
pub fn check_backlog(core: &Rc<Core>, conn: &Rc<Conn>) {
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

/// Has the time limits looked at within a second.
pub fn want_sweep(core: &Core) {
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
