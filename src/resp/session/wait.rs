//! Pauses of a connection, with which nothing else of the core waits: WAIT for more copies than what is acknowledged has for
//! certain, answered when its time is over, and attempts at the password beyond what a source may try.

use super::{Backend, Entry, Refusal, Session, Turn};
use crate::resp::commands::args::integer;

/// A time that never comes.
const NEVER: u64 = u64::MAX;

/// See the file's head.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    until_ns: u64,
    /// Of a WAIT; else of a request that is carried out then.
    is_wait: bool,
}

/// WAIT's arguments: copies to wait for, and for how long, ms; 0: for ever.
pub fn arguments(args: &[&[u8]], now_ms: u64) -> Result<(i64, u64), Refusal> {
    let [_, replicas, timeout] = args else { return Err(Refusal::SYNTAX) };
    let replicas = integer(replicas)?;
    let timeout =
        integer(timeout).map_err(|_| Refusal::new("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(Refusal::new("ERR timeout is negative"));
    }
    if timeout > i64::MAX - now_ms as i64 {
        return Err(Refusal::new("ERR timeout is out of range"));
    }
    Ok((replicas, timeout as u64))
}

/// How many other nodes have, for certain, all that a connection was answered. Whether more of them do is not asked.
pub fn copies(backend: &dyn Backend) -> i64 {
    backend.topology().map_or(0, |topology| topology.copies() as i64)
}

impl Session {
    /// Answers with the number of copies: at once if as many as are wanted are certain, else when the time is over.
    pub(super) fn wait(&mut self, entry: &'static Entry, args: &[&[u8]], backend: &dyn Backend) {
        self.count_local(entry.index, backend);
        match arguments(args, backend.now_ms()) {
            Err(refusal) => self.emit(Some(entry.index), |_, out| out.error(&refusal.0)),
            Ok((replicas, _)) if replicas <= copies(backend) => {
                self.emit(Some(entry.index), |_, out| out.int(copies(backend)));
            }
            Ok((_, timeout_ms)) => {
                let until_ns = backend.mono_ns().saturating_add(timeout_ms.saturating_mul(1_000_000));
                let until_ns = if timeout_ms == 0 { NEVER } else { until_ns };
                self.pause = Some(Pause { until_ns, is_wait: true });
                self.state.hub.add_blocked(true);
                self.state.client.set_blocked(true);
            }
        }
    }

    /// Whether an attempt at the password may be looked at. If not now, the connection is paused, and the request to be
    /// given again then.
    pub(super) fn guess(&mut self, backend: &dyn Backend) -> Turn {
        let turn = self.state.guess(backend);
        if let Turn::At(until_ns) = turn {
            self.pause = Some(Pause { until_ns, is_wait: false });
        }
        turn
    }

    /// When [`Session::end_wait`] is to be called, on the clock of [`Backend::mono_ns`]; `None` if it is not paused.
    #[must_use]
    pub fn waits_until_ns(&self) -> Option<u64> {
        self.pause.map(|pause| pause.until_ns)
    }

    /// Ends a pause whose time is over, and goes on with what came behind it.
    pub fn end_wait(&mut self, now_ns: u64, backend: &dyn Backend) {
        let Some(pause) = self.pause.filter(|pause| pause.until_ns <= now_ns) else { return };
        self.forget_wait();
        if pause.is_wait {
            self.emit(None, |_, out| out.int(copies(backend)));
        } else {
            self.state.may_guess = true;
            self.stalled = self.in_flight > 0;
        }
        self.resume(backend);
    }

    /// Waits no more.
    pub(super) fn forget_wait(&mut self) {
        if self.pause.take().is_some_and(|pause| pause.is_wait) {
            self.state.hub.add_blocked(false);
            self.state.client.set_blocked(false);
        }
    }
}
