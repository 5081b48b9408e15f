//! Who belongs to groups: requests about that, and replicas that do not any more.
//!
//! Invariant: a replica that was removed applies the entry that did it, and nothing behind it.

use corduroy_wal::device::Device;

use super::replicas::List;
use super::{Outputs, Shard};
use crate::machine::StateMachine;
use crate::table::ReplicaIdx;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Carries out what was asked since the last turn.
    pub(super) fn change_members(&mut self) {
        let (lag_most, deadline_ns) = (self.options.group.lag_entries, self.deadline_ns());
        for asked in self.members.take_asked() {
            let idx = self.replicas.find(asked.1);
            let replica = idx.map(|idx| &mut self.replicas.slot_mut(idx).replica);
            let begun = self.members.begin(asked, replica, lag_most, deadline_ns);
            if let Some(idx) = idx
                && self.fence_on_fault(idx, begun).is_some()
            {
                self.recount(idx);
                self.replicas.enqueue_on([List::Ready, List::Watched], idx);
            }
        }
    }

    /// What a replica with other members, or without the lead, has applied may have changed who they are, and who may lead.
    pub(super) fn follow_members(&mut self, idx: ReplicaIdx) {
        let slot = self.replicas.slot_mut(idx);
        if slot.replica.is_removed() {
            let (partition, lsn) = (slot.partition, slot.replica.applied());
            self.stop(idx, format!("entry {lsn} has removed it from its group"));
            return self.outbox.removed.push((partition, lsn));
        }
        if slot.replica.awaits_election() {
            self.replicas.enqueue(List::Begin, idx);
        }
        self.replicas.enqueue(List::Watched, idx);
        if self.replicas.slot(idx).replica.has_ready() {
            self.left_over = true;
            self.replicas.enqueue(List::Ready, idx);
        }
    }

    /// Hands out the outcomes of what was asked.
    pub(super) fn end_member_requests(&mut self, out: &mut Outputs<M>) {
        let (replicas, now_ns) = (&self.replicas, self.now.mono_ns);
        let replica = |partition| replicas.find(partition).map(|idx| &replicas.slot(idx).replica);
        self.members.look(now_ns, replica);
        self.members.take_outcomes(&mut out.members);
    }
}
