//! Calls that took equally long, as all those of a batch do: counted together.
//!
//! Invariant: what is counted here is in the core's figures before the session's output leaves.

use super::Session;
use crate::resp::backend::Backend;
use crate::resp::latency::SlowEvent;

/// Calls of one command.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    entry: u16,
    calls: u64,
    /// Of each: carrying it out, and all until its reply.
    ran_ns: u64,
    took_ns: u64,
    /// That is enough for SLOWLOG.
    is_slow: bool,
}

impl Session {
    /// Counts a call that was answered. Returns whether it is one for SLOWLOG.
    #[inline]
    pub(super) fn count(&mut self, entry: u16, ran_ns: u64, took_ns: u64, backend: &dyn Backend) -> bool {
        let Tally { entry: last, calls, ran_ns: last_ran_ns, took_ns: last_took_ns, .. } = self.tally;
        if calls == 0 || (entry, ran_ns, took_ns) != (last, last_ran_ns, last_took_ns) {
            self.end_tally();
            let hub = &self.state.hub;
            let event = SlowEvent::of(self.table.entry(entry).traits.fast);
            hub.latency.note(event, took_ns, backend.now_ms());
            self.tally = Tally { entry, calls: 0, ran_ns, took_ns, is_slow: hub.slowlog.is_slow(took_ns) };
        }
        self.tally.calls += 1;
        self.tally.is_slow
    }

    /// Hands what was counted to the core's figures.
    pub(super) fn end_tally(&mut self) {
        let Tally { entry, calls, ran_ns, took_ns, .. } = std::mem::take(&mut self.tally);
        if calls == 0 {
            return;
        }
        self.count_calls(entry, calls, ran_ns.saturating_mul(calls), took_ns.saturating_mul(calls));
    }

    /// Adds calls of one command to the core's figures, with what all of them took.
    pub(super) fn count_calls(&self, entry: u16, calls: u64, ran_ns: u64, took_ns: u64) {
        let stats = self.stats();
        let command = stats.command(entry);
        command.add(calls, ran_ns, took_ns);
        if self.state.hub.tracks_latency() {
            command.keep_times(calls, ran_ns, took_ns);
        }
        stats.count_commands(calls);
    }
}
