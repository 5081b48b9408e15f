//! What is done by time alone, since nothing else may ever turn an idle shard: waiting for room on a full disk, or for what the
//! system refuses, which log and state machine are asked now and then to look at again; and reading what nobody reads, to
//! find damage. Invariants: only the room has a say in what is taken in; while the state machine is short of room, the
//! log keeps none in spare that it can do without.

use corduroy_wal::Wal;
use corduroy_wal::device::Device;

use crate::ids::PartitionId;
use crate::machine::StateMachine;
use crate::rejection::Rejection;

/// How often they look, in ns.
const LOOK_EVERY_NS: u64 = 500_000_000;

/// Who waits for room, and when all who wait are to look next.
#[derive(Debug, Default)]
pub(crate) struct Room {
    is_machine_waiting: bool,
    look_at_ns: Option<u64>,
    /// When the state machine goes on verifying.
    verify_at_ns: Option<u64>,
}

/// Why a write for the partition is refused while log or state are full.
pub(crate) fn refusal<M: StateMachine>(machine: &M, partition: PartitionId) -> Rejection {
    machine.stalled_by().map_or(Rejection::DiskFull, |why| Rejection::unreadable(partition, why))
}

impl Room {
    /// Whether the state machine waits for room.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.is_machine_waiting
    }

    /// When to come back: for this or at `other`, whichever is sooner.
    pub(crate) fn wake_by(&self, other: Option<u64>) -> Option<u64> {
        self.look_at_ns.into_iter().chain(self.verify_at_ns).chain(other).min()
    }

    /// Lets log and state machine try again if it is time. Returns whether the state machine has become short of room, or has
    /// room again.
    pub(crate) fn look<D: Device, M: StateMachine>(
        &mut self,
        wal: &mut Wal<D>,
        machine: &mut M,
        now_ns: u64,
    ) -> bool {
        if self.look_at_ns.is_some_and(|at| at <= now_ns) {
            machine.retry();
            wal.retry_slots();
        }
        if self.verify_at_ns.take_if(|at| *at <= now_ns).is_some() {
            machine.verify();
        }
        let verify_at_ns = machine.verify_in_ns().map(|in_ns| now_ns.saturating_add(in_ns));
        self.verify_at_ns = verify_at_ns.map(|at| self.verify_at_ns.map_or(at, |before| before.min(at)));
        let was_waiting = std::mem::replace(&mut self.is_machine_waiting, machine.is_out_of_room());
        wal.keep_few_spares(self.is_machine_waiting);
        let is_log_waiting = wal.is_short_of_slots() || wal.is_waiting_for_room();
        let at = self.look_at_ns.filter(|at| *at > now_ns).unwrap_or(now_ns + LOOK_EVERY_NS);
        let is_waiting = self.is_machine_waiting || is_log_waiting || machine.wants_retry();
        self.look_at_ns = is_waiting.then_some(at);
        assert!(self.look_at_ns.is_none_or(|at| at > now_ns), "the next look is past");
        was_waiting != self.is_machine_waiting
    }
}
