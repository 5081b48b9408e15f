//! Waiting for room on a full disk: the state machine is told now and then to look again.

use crate::machine::StateMachine;

/// How often the state machine looks, in ns.
const LOOK_EVERY_NS: u64 = 500_000_000;

/// Whether the state machine waits for room, and when it is to look next.
#[derive(Debug, Default)]
pub(crate) struct Room {
    look_at_ns: Option<u64>,
}

impl Room {
    /// Whether the state machine waits for room.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.look_at_ns.is_some()
    }

    /// When to come back: for this or at `other`, whichever is sooner.
    pub(crate) fn wake_by(&self, other: Option<u64>) -> Option<u64> {
        self.look_at_ns.into_iter().chain(other).min()
    }

    /// Lets the state machine try again if it is time.
    pub(crate) fn look<M: StateMachine>(&mut self, machine: &mut M, now_ns: u64) {
        if self.look_at_ns.is_some_and(|at| at <= now_ns) {
            machine.retry();
        }
        let at = self.look_at_ns.filter(|at| *at > now_ns).unwrap_or(now_ns + LOOK_EVERY_NS);
        self.look_at_ns = machine.is_out_of_room().then_some(at);
    }
}
