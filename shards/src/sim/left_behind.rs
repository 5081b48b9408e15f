//! Of whom nothing is asked: who does not belong to a group any more, or not yet, and groups whose voters are not among those
//! that are whole.
//!
//! Invariant: whoever lacks entries that nobody's log has any more gets an image of the state. So nobody is excused who
//! belongs to a group, however far behind it is.

use crate::ids::{MemberId, PartitionId};
use crate::raft::membership::Membership;
use crate::raft::replica::ReplicaError;
use crate::sim::mail::node_of;
use crate::sim::node::SimNode;
use crate::sim::workload::Subject;
use crate::sim::world::World;

/// Whether so few of those who vote run that they cannot agree upon anything new.
fn are_hindered(running: &[usize], voters: &[Option<usize>]) -> bool {
    running.iter().filter(|node| voters.contains(&Some(**node))).count() <= voters.len() / 2
}

/// The nodes of these members, with `None` for one whose node has another member by now, as far as `is_another` knows.
fn nodes_of(
    members: &Membership,
    ids: &[u64],
    is_another: impl Fn(usize, MemberId) -> bool,
) -> Vec<Option<usize>> {
    let nodes = ids.iter().filter_map(|id| Some((MemberId(*id), node_of(members.storage(MemberId(*id))?)?)));
    nodes.map(|(id, node)| (!is_another(node, id)).then_some(node)).collect()
}

impl<S: Subject> SimNode<S> {
    /// The partitions whose replicas here stand still for an image.
    fn held(&self) -> impl Iterator<Item = PartitionId> + '_ {
        let units = self.process.iter().flat_map(|process| &process.units);
        let replicas = units.flat_map(|unit| unit.shard.replicas());
        replicas.filter(|replica| replica.is_held).map(|replica| replica.partition)
    }

    /// Whether its replica of a partition runs.
    fn runs(&self, shard: usize, partition: PartitionId) -> bool {
        let unit = self.process.as_ref().and_then(|process| process.units.get(shard));
        let mut replicas = unit.into_iter().flat_map(|unit| unit.shard.replicas());
        replicas.any(|replica| {
            let is_stopped = matches!(replica.error, Some(ReplicaError::ReplicaStopped { .. }));
            replica.partition == partition && !is_stopped
        })
    }
}

impl<S: Subject> World<S> {
    /// The nodes that do not belong to a partition's group, be it that their replicas know or not.
    pub(super) fn left_behind(&self, partition: PartitionId) -> Vec<usize> {
        let nodes = (0..self.nodes.len()).collect::<Vec<_>>();
        let members = self.members(partition, &nodes).into_iter().map(|(_, members)| members);
        let latest = members.max_by_key(|members| members.as_of);
        let has_left = |node: &usize| {
            latest
                .as_ref()
                .is_some_and(|latest| latest.member_on(self.common.plan.knobs.storage(*node)).is_none())
        };
        nodes.into_iter().filter(has_left).collect()
    }

    /// Whether these nodes alone cannot agree upon entries of a partition, since too few of those who vote are among them. Who
    /// votes is looked up where each of them has it, since each may have to lead by that.
    pub(super) fn are_hindered(&self, partition: PartitionId, nodes: &[usize]) -> bool {
        let shard = self.common.shard_of(partition);
        let runs = |node: &&usize| self.nodes.get(**node).is_some_and(|it| it.runs(shard, partition));
        let running = nodes.iter().filter(runs).copied().collect::<Vec<_>>();
        let members = self.members(partition, nodes);
        // Who joins knows nobody who votes but whoever led.
        let joins = |(node, members): &&(usize, Membership)| {
            let here = members.member_on(self.common.plan.knobs.storage(*node));
            here.is_some_and(|here| members.is_joining(here))
        };
        // A storage that a member was removed from may have another one, which votes for itself only.
        let is_another = |node: usize, id: MemberId| {
            let own = members.iter().find(|(of, _)| *of == node);
            let here = own.and_then(|(_, own)| own.member_on(self.common.plan.knobs.storage(node)));
            here.is_some_and(|here| here != id)
        };
        let mut known = members.iter().filter(|known| !joins(known)).peekable();
        known.peek().is_none()
            || known.any(|(_, members)| {
                let conf = members.conf_state();
                let outgoing = Some(&conf.voters_outgoing).filter(|outgoing| !outgoing.is_empty());
                let mut both = outgoing.into_iter().chain([&conf.voters]);
                both.any(|voters| are_hindered(&running, &nodes_of(members, voters, is_another)))
            })
    }

    /// Replicas that do not stand where their partitions had been seen, though they belong to them.
    pub(super) fn behind(&self) -> Vec<(PartitionId, usize)> {
        let mut behind = self.common.books.borrow().behind();
        // An image has replaced the state, and the log does not begin behind it yet.
        let held = self.nodes.iter().flat_map(|node| node.held().map(|partition| (partition, node.number)));
        behind.extend(held);
        // What was left is still in the way.
        let come = self.nodes.iter().flat_map(|node| node.comes_back.keys().map(|of| (*of, node.number)));
        behind.extend(come);
        behind.into_iter().filter(|(partition, node)| !self.left_behind(*partition).contains(node)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_those_who_vote_agrees() {
        let all = [0, 1, 2, 3].map(Some);
        assert!(!are_hindered(&[0, 1], &all[..3]));
        assert!(are_hindered(&[0], &all[..3]));
        assert!(are_hindered(&[0, 1], &all));
        assert!(are_hindered(&[0, 3, 4], &all[..3]), "who has no vote counts for nothing");
        assert!(!are_hindered(&[0, 1, 2], &all[2..3]));
        assert!(are_hindered(&[0, 2], &[Some(0), Some(1), None]), "another member counts for nothing either");
    }
}
