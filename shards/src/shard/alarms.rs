//! Alarms of the state machine: entries that carry nothing but a time.
//!
//! A partition's state may have something to do at a time, though no request ever comes: keys expire. What "now" means
//! in apply is what entries are stamped with, so the leader logs an entry without operations then. Alarms go off on a
//! grid: those of many partitions share a turn and a frame, and one partition's are at least as far apart. Invariant: a
//! partition without an alarm costs nothing, and one with it nothing until then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use corduroy_wal::device::Device;

use super::Shard;
use super::replicas::List;
use crate::ids::PartitionId;
use crate::machine::StateMachine;
use crate::table::ReplicaIdx;

/// Alarms go off at multiples of this, on the monotonic clock.
const GRID_NS: u64 = 500_000_000;
/// No alarm.
pub(crate) const NEVER: u64 = u64::MAX;

/// When which replica's alarm goes off. One that was set anew since has an entry that is not its present one.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    queue: BinaryHeap<Reverse<(u64, ReplicaIdx)>>,
    sooner: Vec<PartitionId>,
}

impl Alarms {
    /// When the next one goes off.
    pub fn next_ns(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// The partition has a new replica, which has no alarm yet.
    pub fn ask(&mut self, partition: PartitionId) {
        self.sooner.push(partition);
    }

    /// The replica is taken off.
    pub fn forget(&mut self, idx: ReplicaIdx) {
        self.queue.retain(|Reverse((_, of))| *of != idx);
    }
}

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Sets the alarms that the state machine wants sooner than before.
    pub(super) fn follow_alarms(&mut self) {
        self.machine.take_alarms(&mut self.alarms.sooner);
        for partition in std::mem::take(&mut self.alarms.sooner) {
            let Some(idx) = self.replicas.find(partition) else { continue };
            if let Some(at_ms) = self.machine.alarm_ms(partition) {
                self.set_alarm(idx, at_ms);
            }
        }
    }

    /// Has the replicas whose alarm goes off propose an entry, if the state machine still wants one and nothing else is
    /// on its way that moves the clock as well.
    pub(super) fn ring_alarms(&mut self) {
        let now_ns = self.now.mono_ns;
        while let Some(Reverse((at_ns, idx))) =
            self.alarms.queue.peek().copied().filter(|Reverse((at_ns, _))| *at_ns <= now_ns)
        {
            self.alarms.queue.pop();
            let slot = self.replicas.slot_mut(idx);
            if slot.alarm_ns != at_ns {
                continue;
            }
            slot.alarm_ns = NEVER;
            if !slot.replica.is_running() {
                continue;
            }
            let Some(at_ms) = self.machine.alarm_ms(slot.partition) else { continue };
            // Once it is applied, the state machine says what it wants next; until then this is another try.
            let in_ms = self.set_alarm(idx, at_ms);
            let slot = self.replicas.slot_mut(idx);
            let is_quiet = slot.replica.last() == slot.replica.applied() && slot.batches.is_empty();
            if in_ms == 0 && is_quiet && slot.replica.can_propose() {
                slot.wants_time = true;
                self.replicas.enqueue(List::Propose, idx);
            }
        }
    }

    /// Sets a replica's alarm to a time by its clock. Returns how far off that is, in ms.
    fn set_alarm(&mut self, idx: ReplicaIdx, at_ms: u64) -> u64 {
        let slot = self.replicas.slot_mut(idx);
        let in_ms = at_ms.saturating_sub(self.clocks.read(&mut slot.clock, self.now));
        let at_ns = self.now.mono_ns.saturating_add(in_ms.saturating_mul(1_000_000));
        // Behind all of the grid: nothing goes off in the centuries that it takes to get there.
        let at_ns = (at_ns / GRID_NS + 1).saturating_mul(GRID_NS);
        assert!(at_ns > self.now.mono_ns, "an alarm goes off at {at_ns}, which is past");
        if at_ns < slot.alarm_ns {
            slot.alarm_ns = at_ns;
            self.alarms.queue.push(Reverse((at_ns, idx)));
        }
        in_ms
    }
}
