//! WAIT: a connection that waits for copies which nobody makes here is answered when its time is over. Until then it is
//! paused, and nothing of the core waits with it.

use super::{Backend, Entry, Refusal, Session};
use crate::resp::commands::args::integer;

/// A time that never comes.
const NEVER: u64 = u64::MAX;

/// What WAIT was told: copies to wait for, and for how long, ms; 0: for ever.
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

impl Session {
    /// Answers with the number of copies, now or when the time is over.
    pub(super) fn wait(&mut self, entry: &'static Entry, args: &[&[u8]], backend: &dyn Backend) {
        self.count_local(entry.index, backend);
        match arguments(args, backend.now_ms()) {
            Err(refusal) => self.emit(Some(entry.index), |_, out| out.error(&refusal.0)),
            Ok((replicas, _)) if replicas <= 0 => self.emit(Some(entry.index), |_, out| out.int(0)),
            Ok((_, timeout_ms)) => {
                let until_ns = backend.mono_ns().saturating_add(timeout_ms.saturating_mul(1_000_000));
                self.waits_until_ns = Some(if timeout_ms == 0 { NEVER } else { until_ns });
                self.hub.add_blocked(true);
                self.client.set_blocked(true);
            }
        }
    }

    /// When [`Session::end_wait`] is to be called, on the clock of [`Backend::mono_ns`]; `None` if it does not wait.
    #[must_use]
    pub fn waits_until_ns(&self) -> Option<u64> {
        self.waits_until_ns
    }

    /// Answers a WAIT whose time is over, and goes on with what came behind it.
    pub fn end_wait(&mut self, now_ns: u64, backend: &dyn Backend) {
        if self.waits_until_ns.is_some_and(|until_ns| until_ns <= now_ns) {
            self.forget_wait();
            self.emit(None, |_, out| out.int(0));
            self.resume(backend);
        }
    }

    /// Waits no more.
    pub(super) fn forget_wait(&mut self) {
        if self.waits_until_ns.take().is_some() {
            self.hub.add_blocked(false);
            self.client.set_blocked(false);
        }
    }
}
