//! What waits for the state machine, and goes on when that has what it needs.
//!
//! Invariant: a step is tried when it comes, and once more when what it waits for is there; so what jobs bring costs as
//! much as it is, whatever else waits.

use corduroy_wal::device::Device;

use super::Shard;
use super::replicas::{List, Replicas};
use crate::machine::StateMachine;
use crate::table::ReplicaIdx;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Has those tried that what has come is for.
    pub(super) fn wake(&mut self, has_job_ended: bool) {
        let mut woken = std::mem::take(&mut self.woken);
        self.machine.take_woken(&mut woken);
        for (partition, number) in woken.drain(..) {
            if let Some(idx) = self.replicas.find(partition) {
                self.replicas.slot_mut(idx).wake(number);
                go_on(&mut self.replicas, idx);
            }
        }
        self.woken = woken;
        for _ in 0..if has_job_ended { self.replicas.listed(List::Blocked) } else { 0 } {
            if let Some(idx) = self.replicas.next(List::Blocked) {
                self.replicas.slot_mut(idx).wake_for_job();
                go_on(&mut self.replicas, idx);
            }
        }
    }

    /// Has the parked reads of a replica tried that wait for nothing any more, or for nothing but `begins_to_serve`; where
    /// another one leads, all are turned away, and may be asked again there. So is what was to be proposed, where the lead was lost.
    pub(super) fn follow_reads(&mut self, idx: ReplicaIdx, begins_to_serve: bool) {
        if self.replicas.slot_mut(idx).replica.take_lost() {
            // It may lead again before its disk takes them: others may have led, and written, meanwhile.
            self.refuse_gathered(idx);
        }
        let slot = self.replicas.slot_mut(idx);
        if slot.parked.are_forsaken(&mut slot.replica) {
            self.refuse_reads(idx);
            self.replicas.enqueue(List::Apply, idx);
        } else if (begins_to_serve || slot.parked.reach(&slot.replica, slot.applied_stamp_ms))
            && slot.has_due_reads()
        {
            self.retry_parked(idx);
        } else if slot.parked.wait_for_stamp() && slot.replica.last() == slot.replica.applied() {
            slot.wants_time = true;
            self.left_over = true;
            self.replicas.enqueue(List::Propose, idx);
        }
    }
}

/// Puts a replica on the lists of what may be tried now.
fn go_on(replicas: &mut Replicas, idx: ReplicaIdx) {
    let slot = replicas.slot(idx);
    let lists = [
        (List::Due, slot.has_due_reads()),
        (List::Apply, slot.apply_wait.is_none()),
        (List::Propose, !slot.batches.is_empty()),
    ];
    enqueue(replicas, idx, lists);
}

/// Puts a replica, some of whose steps may have been tried in vain, on the lists of what has them tried again.
pub(crate) fn follow(replicas: &mut Replicas, idx: ReplicaIdx) {
    let slot = replicas.slot(idx);
    let lists = [
        (List::Due, slot.has_due_reads()),
        (List::Blocked, slot.waits_for_job()),
        (List::Ready, !slot.parked.is_empty() && slot.replica.has_ready()),
        (List::Propose, slot.wants_time),
    ];
    enqueue(replicas, idx, lists);
}

fn enqueue<const N: usize>(replicas: &mut Replicas, idx: ReplicaIdx, lists: [(List, bool); N]) {
    let wanted = lists.into_iter().filter(|(_, is_wanted)| *is_wanted);
    wanted.for_each(|(list, _)| replicas.enqueue(list, idx));
}
