//! Who cannot catch up by the log: a member that needs entries which are in the leader's log no more.
//!
//! Invariant: entries are dropped once they are applied, so a majority has them; whoever lacks some of them waits for an image
//! of the state. Nobody else may stay behind once all is whole.

use corduroy_wal::{Lsn, Term};
use raft::StateRole;

use crate::ids::{MemberId, PartitionId};
use crate::raft::membership::Membership;
use crate::raft::replica::ReplicaError;
use crate::sim::mail::node_of;
use crate::sim::members::members_of;
use crate::sim::node::SimNode;
use crate::sim::workload::Subject;
use crate::sim::world::World;

/// A replica's log, beside what its group has agreed upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reach {
    node: usize,
    /// The term that it leads in, if it does.
    leads_in: Option<Term>,
    /// Up to where its log is known to be the group's: to the leader, which may not have heard of all that it holds, and then
    /// has an image for it all the same; where nobody leads, to itself.
    matched: Lsn,
    /// Up to where it has dropped its log.
    dropped: Lsn,
}

/// Who needs what the present leader has dropped; where nobody leads, what anybody has dropped.
fn left_behind(all: &[Reach]) -> Vec<usize> {
    let leader = all.iter().filter(|reach| reach.leads_in.is_some()).max_by_key(|reach| reach.leads_in);
    let dropped = leader.map_or_else(|| all.iter().map(|reach| reach.dropped).max(), |it| Some(it.dropped));
    let dropped = dropped.unwrap_or_default();
    all.iter().filter(|reach| reach.matched < dropped).map(|reach| reach.node).collect()
}

/// Whether so few of those who vote have what anybody has dropped that these cannot agree upon anything new.
fn are_hindered(all: &[Reach], voters: &[usize]) -> bool {
    let dropped = all.iter().map(|reach| reach.dropped).max().unwrap_or_default();
    let can_agree = |reach: &&Reach| voters.contains(&reach.node) && reach.matched >= dropped;
    all.iter().filter(can_agree).count() <= voters.len() / 2
}

/// The nodes of these members.
fn nodes_of(members: &Membership, ids: &[u64]) -> Vec<usize> {
    ids.iter().filter_map(|id| node_of(members.storage(MemberId(*id))?)).collect()
}

impl<S: Subject> SimNode<S> {
    /// How far the log of its replica of a partition reaches; `None` if it does not run. `keeps_all`: a log has no reason to drop
    /// what a member lacks, and nobody is excused who needs what it has dropped all the same.
    fn reach(&self, shard: usize, partition: PartitionId, keeps_all: bool) -> Option<Reach> {
        let shard = &self.process.as_ref()?.units.get(shard)?.shard;
        let replica = shard.replicas().find(|replica| replica.partition == partition)?;
        if matches!(replica.error, Some(ReplicaError::ReplicaStopped { .. })) {
            return None;
        }
        let (log, node) = (partition.log(), self.number);
        let state = shard.wal().log_state(log).filter(|_| !keeps_all);
        let mut dropped = state.map_or(Lsn::ZERO, |log| Lsn(log.first.get().saturating_sub(1)));
        if members_of(shard, partition).is_some_and(|members| members.as_of > Lsn::ZERO) {
            // Behind a change nobody gets the first entry, which does not say what the group was founded with.
            dropped = dropped.max(Lsn(1));
        }
        let leads_in = (replica.role == StateRole::Leader).then_some(replica.term);
        Some(Reach { node, leads_in, matched: replica.committed, dropped })
    }
}

impl<S: Subject> World<S> {
    fn reaches(&self, partition: PartitionId, nodes: &[usize]) -> Vec<Reach> {
        let (shard, keeps_all) = (self.common.shard_of(partition), self.common.plan.knobs.keeps_all());
        let nodes = nodes.iter().filter_map(|node| self.nodes.get(*node));
        let mut all = nodes.filter_map(|node| node.reach(shard, partition, keeps_all)).collect::<Vec<_>>();
        let leader = all.iter().filter(|reach| reach.leads_in.is_some()).max_by_key(|reach| reach.leads_in);
        let leader =
            leader.and_then(|leader| self.nodes.get(leader.node)?.process.as_ref()?.units.get(shard));
        for reach in all.iter_mut().filter(|reach| reach.leads_in.is_none()) {
            let storage = self.common.plan.knobs.storage(reach.node);
            let held = leader.and_then(|leader| leader.shard.held_by(partition, storage));
            reach.matched = held.unwrap_or(reach.matched);
        }
        all
    }

    /// The nodes whose replica of a partition cannot catch up by the log, or does not belong to its group any more, be it that it
    /// knows or not.
    pub(super) fn left_behind(&self, partition: PartitionId) -> Vec<usize> {
        let nodes = (0..self.nodes.len()).collect::<Vec<_>>();
        let mut left_behind = left_behind(&self.reaches(partition, &nodes));
        let members = self.members(partition, &nodes).into_iter().map(|(_, members)| members);
        if let Some(latest) = members.max_by_key(|members| members.as_of) {
            let has_left = |node: &usize| latest.member_on(self.common.plan.knobs.storage(*node)).is_none();
            left_behind.extend(nodes.into_iter().filter(has_left));
        }
        left_behind
    }

    /// Whether these nodes alone cannot agree upon entries of a partition, since too few of those who vote are among them, or too
    /// many of them lack what another has dropped. Who votes is looked up where each of them has it, since each may have to
    /// lead by that.
    pub(super) fn are_hindered(&self, partition: PartitionId, nodes: &[usize]) -> bool {
        let reaches = self.reaches(partition, nodes);
        let members = self.members(partition, nodes);
        members.iter().any(|(_, members)| {
            let conf = members.conf_state();
            let outgoing = Some(&conf.voters_outgoing).filter(|outgoing| !outgoing.is_empty());
            let mut both = outgoing.into_iter().chain([&conf.voters]);
            both.any(|voters| are_hindered(&reaches, &nodes_of(members, voters)))
        })
    }

    /// Replicas that do not stand where their partitions had been seen, though they could.
    pub(super) fn behind(&self) -> Vec<(PartitionId, usize)> {
        let behind = self.common.books.borrow().behind();
        behind.into_iter().filter(|(partition, node)| !self.left_behind(*partition).contains(node)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn reach(node: usize, matched: u64, dropped: u64) -> Reach {
        Reach { node, leads_in: None, matched: Lsn(matched), dropped: Lsn(dropped) }
    }

    const fn leader(reach: Reach, term: u64) -> Reach {
        Reach { leads_in: Some(Term(term)), ..reach }
    }

    #[test]
    fn who_has_all_that_the_leader_has_dropped_can_catch_up() {
        let all = [leader(reach(0, 30, 20), 4), reach(1, 20, 25), reach(2, 19, 0)];
        assert_eq!(left_behind(&all), [2]);
        // The one of the later term leads.
        assert_eq!(left_behind(&[all[0], leader(all[1], 5), all[2]]), [1, 2]);
        assert_eq!(left_behind(&[reach(0, 30, 20), all[1], all[2]]), [1, 2], "nobody leads");
        assert_eq!(left_behind(&[reach(0, 3, 0), reach(1, 0, 0)]), [0; 0]);
        assert_eq!(left_behind(&[]), [0; 0]);
    }

    #[test]
    fn a_majority_that_has_what_was_dropped_agrees() {
        let (three, five) = ([0, 1, 2], [0, 1, 2, 3, 4]);
        assert!(!are_hindered(&[reach(0, 30, 20), reach(1, 20, 0)], &three));
        assert!(are_hindered(&[reach(0, 30, 20), reach(1, 19, 0)], &three));
        let all = [reach(0, 30, 20), reach(1, 19, 0), reach(2, 20, 0)];
        assert!(!are_hindered(&all, &three));
        assert!(are_hindered(&all, &five));
        assert!(
            are_hindered(&all, &[0, 1]) && !are_hindered(&all, &[2]),
            "who has no vote counts for nothing"
        );
    }
}
