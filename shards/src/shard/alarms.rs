//! Alarms of the state machine: entries that carry nothing but a time.
//!
//! A partition's state may have something to do at a time, though no request ever comes: keys expire. What "now" means
//! in apply is what entries are stamped with, so the leader logs an entry without operations then. Alarms go off on a
//! grid: those of many partitions share a turn and a frame, and one partition's are at least as far apart. Invariant: a
//! partition without an alarm costs nothing, and one with it nothing until then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::machine::StateMachine;
use super::replicas::{List, Replicas};
use crate::clock::{Clocks, Now};
use crate::ids::PartitionId;

/// Alarms go off at multiples of this, on the monotonic clock.
const GRID_NS: u64 = 500_000_000;
/// No alarm.
pub(crate) const NEVER: u64 = u64::MAX;

/// When which replica's alarm goes off. One that was set anew since has an entry that is not its present one.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    queue: BinaryHeap<Reverse<(u64, u32)>>,
    sooner: Vec<PartitionId>,
}

impl Alarms {
    /// When the next one goes off.
    pub fn next_ns(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// Sets the alarms that the state machine wants sooner than before.
    pub fn follow<M: StateMachine>(
        &mut self,
        replicas: &mut Replicas,
        machine: &mut M,
        clocks: &mut Clocks,
        now: Now,
    ) {
        machine.take_alarms(&mut self.sooner);
        for partition in std::mem::take(&mut self.sooner) {
            let Some(idx) = replicas.find(partition) else { continue };
            let slot = replicas.slot_mut(idx);
            if let Some(at_ms) = machine.alarm_ms(partition) {
                let in_ms = at_ms.saturating_sub(clocks.read(&mut slot.clock, now));
                self.set(idx, &mut slot.alarm_ns, now, in_ms);
            }
        }
    }

    /// Has the replicas whose alarm goes off propose an entry, if the state machine still wants one and nothing else is
    /// on its way that moves the clock as well.
    pub fn ring<M: StateMachine>(
        &mut self,
        replicas: &mut Replicas,
        machine: &mut M,
        clocks: &mut Clocks,
        now: Now,
    ) {
        while let Some(Reverse((at_ns, idx))) =
            self.queue.peek().copied().filter(|Reverse((at_ns, _))| *at_ns <= now.mono_ns)
        {
            self.queue.pop();
            let slot = replicas.slot_mut(idx);
            if slot.alarm_ns != at_ns {
                continue;
            }
            slot.alarm_ns = NEVER;
            if !slot.replica.is_running() {
                continue;
            }
            let Some(at_ms) = machine.alarm_ms(slot.partition) else { continue };
            let in_ms = at_ms.saturating_sub(clocks.read(&mut slot.clock, now));
            // Once it is applied, the state machine says what it wants next; until then this is another try.
            self.set(idx, &mut slot.alarm_ns, now, in_ms);
            let is_quiet = slot.replica.last() == slot.replica.applied() && slot.batches.is_empty();
            if in_ms == 0 && is_quiet && slot.replica.can_propose() {
                slot.wants_time = true;
                replicas.enlist(List::Propose, idx);
            }
        }
    }

    fn set(&mut self, idx: u32, alarm_ns: &mut u64, now: Now, in_ms: u64) {
        let at_ns = now.mono_ns.saturating_add(in_ms.saturating_mul(1_000_000));
        // Behind all of the grid: nothing goes off in the centuries that it takes to get there.
        let at_ns = (at_ns / GRID_NS + 1).saturating_mul(GRID_NS);
        if at_ns < *alarm_ns {
            *alarm_ns = at_ns;
            self.queue.push(Reverse((at_ns, idx)));
        }
    }
}
