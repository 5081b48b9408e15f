//! Members that join a group on nodes that have no member of it: the operator adds them, and has their nodes open them.
//!
//! Invariant: a node opens what joins once the entry that adds it is in somebody's configuration, and what an earlier member has left
//! is deleted.

use corduroy_wal::Wal;
use corduroy_wal::device::Device;

use crate::ids::{PartitionId, StorageId};
use crate::machine::StateMachine;
use crate::raft::left::Deletion;
use crate::raft::membership::Membership;
use crate::raft::start::Origin;
use crate::sim::mail::node_of;
use crate::sim::node::{NodeEvent, SimNode};
use crate::sim::rng::{Rng, mix};
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
        let founds = || (self.number < knobs.founders()).then(|| knobs.origin());
        self.joined.get(&partition).cloned().or_else(founds)
    }

    /// What an earlier member has left is deleted, as far as that goes, if it is to have another one. Returns whether nothing is in
    /// the way of that one's replica.
    pub(super) fn make_way(&mut self, world: &mut Common<S>, shard: usize, partition: PartitionId) -> bool {
        let Some(origin) = self.comes_back.get(&partition).cloned() else { return true };
        let deleted = self.with_shard(shard, |shard| {
            let deleted = shard.delete(partition, &origin);
            (deleted, shard.machine().persisted(partition))
        });
        let Some((deleted, persisted)) = deleted else { return false };
        if !matches!(deleted, Ok(Deletion::Refused)) {
            world.safety.ended(self.number, partition);
            self.deleted.insert(partition);
        }
        match deleted {
            Ok(Deletion::Done) if origin == Origin::Restart => {
                world.probe("replicas deleted for nobody");
                self.comes_back.remove(&partition);
            }
            Ok(Deletion::Done) => {
                world.probe("members that come back");
                self.comes_back.remove(&partition);
                self.joined.insert(partition, origin);
                world.operator.begins_anew(self.number, partition);
                world.books.borrow_mut().opened(self.number, partition, persisted);
                return true;
            }
            Ok(Deletion::UnderWay) => {
                world.probe("deletions that take time");
                self.turn_soon(world, shard);
                world.agenda.put(world.now_ns + MS, self.event(NodeEvent::Reopen { shard, partition }));
            }
            Ok(Deletion::Refused) => {
                world.probe("deletions refused");
                self.comes_back.remove(&partition);
            }
            Err(error) => self.exited(world, shard, &error.to_string()),
        }
        false
    }

    /// Its replica was removed, and is deleted now and then before it is known whether it is to have another one.
    pub(super) fn removed(&mut self, world: &mut Common<S>, partition: PartitionId) {
        let mut rng = Rng::new(world.plan.seed ^ mix(world.now_ns ^ partition.0), "deletions");
        if rng.chance(300) {
            self.come_back(world, partition, Origin::Restart);
        }
    }

    /// It is to be another member of a partition's group than the one that it has a replica of.
    fn come_back(&mut self, world: &mut Common<S>, partition: PartitionId, origin: Origin) {
        let shard = world.shard_of(partition);
        if self.process.is_some() && self.comes_back.insert(partition, origin).is_none() {
            world.note("comes back", partition.0, self.name(shard), 0);
            world.agenda.put(world.now_ns + MS, self.event(NodeEvent::Reopen { shard, partition }));
        }
    }

    /// What its process opens: of what it has deleted, or has begun to, what the log says of it.
    pub(super) fn found_in<D: Device>(
        &self,
        wal: &Wal<D>,
        origins: Vec<(PartitionId, Origin)>,
    ) -> Vec<(PartitionId, Origin)> {
        let found = origins.into_iter().filter_map(|(id, origin)| match self.deleted.contains(&id) {
            true => wal.log_state(id.log()).map(|_| (id, Origin::Restart)),
            false => Some((id, origin)),
        });
        found.collect()
    }

    /// Whether a replica is stopped by what is missing of it, since a crash has cut its deletion off.
    pub(super) fn is_half_deleted(&self, partition: PartitionId, why: &str) -> bool {
        self.deleted.contains(&partition) && why.contains("but the log starts at")
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
    /// The storages on which a member could join a partition's group: those that had none yet, and those whose member was removed.
    pub(super) fn free_storages(&self, partition: PartitionId) -> Vec<StorageId> {
        let (knobs, left) = (&self.common.plan.knobs, self.left_behind(partition));
        let is_free =
            |node: &&SimNode<S>| node.origin(knobs, partition).is_none() || left.contains(&node.number);
        self.nodes.iter().filter(is_free).map(|node| knobs.storage(node.number)).collect()
    }

    /// Members that were added are opened on their nodes.
    pub(super) fn start_joiners(&mut self) {
        let nodes = (0..self.nodes.len()).collect::<Vec<_>>();
        if !self.common.plan.knobs.has(Class::Members) {
            return;
        }
        for partition in (1..=self.common.plan.knobs.partitions).map(PartitionId) {
            let all = self.members(partition, &nodes);
            let latest = all.iter().max_by_key(|(_, members)| members.as_of);
            let Some((_, members)) = latest else { continue };
            let leader = members.voters().next().and_then(|id| Some((id, members.storage(id)?)));
            let Some(leader) = leader else { continue };
            for member in members.ids() {
                let storage = members.storage(member);
                let Some((storage, number)) = storage.and_then(|at| Some((at, node_of(at)?))) else {
                    continue;
                };
                let Self { nodes, common } = self;
                let Some(node) = nodes.get_mut(number) else { continue };
                let origin = Origin::Join { member, leader };
                if node.origin(&common.plan.knobs, partition).is_none() {
                    node.join(common, partition, origin);
                    continue;
                }
                let saved = all.iter().find(|(node, _)| *node == number).map(|(_, saved)| saved);
                let is_earlier = |saved: &Membership| {
                    saved.member_on(storage) != Some(member) && saved.as_of.get() < member.0
                };
                // Who has nothing in its log yet is whom it was opened as.
                let is_another = || {
                    let joins = node.joined.get(&partition);
                    let is_it = |joins: &Origin| matches!(joins, Origin::Join { member: known, .. } if *known == member);
                    node.deleted.contains(&partition) || joins.is_some_and(|joins| !is_it(joins))
                };
                if saved.map_or_else(is_another, is_earlier) {
                    node.come_back(common, partition, origin);
                }
            }
        }
    }
}
