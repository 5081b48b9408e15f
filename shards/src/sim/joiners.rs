//! Members that join a group on nodes that have no replica of it: the operator adds them, and has their nodes open them.
//!
//! Invariant: a node opens what joins once the entry that adds it is in somebody's configuration, and never another member of
//! that group: what one has left is not deleted here.

use crate::ids::{PartitionId, StorageId};
use crate::machine::StateMachine;
use crate::raft::start::Origin;
use crate::sim::mail::node_of;
use crate::sim::node::{NodeEvent, SimNode};
use crate::sim::rng::Rng;
use crate::sim::swarm::{Class, Knobs, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Common, World};

/// Of the seeds whose members change, those in which some nodes have no replicas at first, in thousandths.
const SPARE_PER_MILLE: u64 = 500;

impl Knobs {
    /// In some seeds the last nodes have no replicas until members join there.
    pub(super) fn draw_spares(&mut self, seed: u64) {
        let mut rng = Rng::new(seed, "spares");
        if !self.has(Class::Members) || !rng.chance(SPARE_PER_MILLE) {
            return;
        }
        let (more, spares) = rng.pick(&[(1, 1), (1, 1), (0, 1), (0, 2)]);
        (self.nodes, self.spares) = (self.nodes + more, spares);
    }

    /// The nodes on which every group is founded: the first ones.
    pub(super) const fn founders(&self) -> usize {
        (self.nodes - self.spares) as usize
    }
}

impl<S: Subject> SimNode<S> {
    /// Where its replica of a partition comes from, if it has one.
    pub(super) fn origin(&self, knobs: &Knobs, partition: PartitionId) -> Option<Origin> {
        if self.number < knobs.founders() {
            Some(knobs.origin())
        } else {
            self.joined.get(&partition).cloned()
        }
    }

    /// It has a replica of a partition from now on, of a member that joins.
    fn join(&mut self, world: &mut Common<S>, partition: PartitionId, origin: Origin) {
        let shard = world.shard_of(partition);
        world.note("joins", partition.0, self.name(shard), 0);
        world.probe("members that join");
        self.joined.insert(partition, origin);
        let persisted = self.with_shard(shard, |shard| shard.machine().persisted(partition));
        if let Some(persisted) = persisted {
            world.books.borrow_mut().opened(self.number, partition, persisted);
            world.agenda.put(world.now_ns + MS, self.event(NodeEvent::Reopen { shard, partition }));
        }
    }
}

impl<S: Subject> World<S> {
    /// The storages on which a member could join a partition's group.
    pub(super) fn free_storages(&self, partition: PartitionId) -> Vec<StorageId> {
        let knobs = &self.common.plan.knobs;
        let free = self.nodes.iter().filter(|node| node.origin(knobs, partition).is_none());
        free.map(|node| knobs.storage(node.number)).collect()
    }

    /// Members that were added are opened on their nodes.
    pub(super) fn start_joiners(&mut self) {
        let nodes = (0..self.nodes.len()).collect::<Vec<_>>();
        for partition in (1..=self.common.plan.knobs.partitions).map(PartitionId) {
            let free = self.free_storages(partition);
            if free.is_empty() {
                continue;
            }
            let all = self.members(partition, &nodes);
            let latest = all.into_iter().max_by_key(|(_, members)| members.as_of);
            let Some((_, members)) = latest else { continue };
            for storage in free {
                let leader = members.voters().next().and_then(|id| Some((id, members.storage(id)?)));
                let (Some(member), Some(leader)) = (members.member_on(storage), leader) else { continue };
                let Self { nodes, common } = self;
                let node = node_of(storage).and_then(|node| nodes.get_mut(node));
                node.into_iter()
                    .for_each(|node| node.join(common, partition, Origin::Join { member, leader }));
            }
        }
    }
}
