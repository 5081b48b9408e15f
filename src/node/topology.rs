//! The cluster as clients are shown it: the nodes of the description, and who leads which partition as far as this node knows.

use std::ops::Range;
use std::sync::atomic::Ordering;

use corduroy_shards::routing::FIRST_DATA;
use corduroy_shards::{PartitionId, ReplicaStatus, Role, StorageId};

use super::shared::Shared;
use crate::config::peers::Node;
use crate::resp::backend::{ClientNode, Topology};

/// Notes who leads the partitions of these replicas. A founder's member id is its number among the founders.
pub fn note_leaders(shared: &Shared, replicas: impl Iterator<Item = ReplicaStatus>) {
    for replica in replicas {
        let founder = replica.leader.and_then(|member| usize::try_from(member.0.checked_sub(1)?).ok());
        let leader = match replica.role {
            Role::Leader => Some(shared.identity.node),
            Role::Follower | Role::Candidate | Role::PreCandidate => {
                founder.and_then(|at| shared.identity.founders.get(at).copied())
            }
        };
        let at = replica.partition.0.checked_sub(FIRST_DATA.0).and_then(|at| usize::try_from(at).ok());
        if let Some(known) = at.and_then(|at| shared.leaders.get(at)) {
            known.store(leader.unwrap_or(0), Ordering::Relaxed);
        }
    }
}

fn shown(node: &Node) -> ClientNode {
    ClientNode { id: node.id, host: node.client.ip().to_string(), port: node.client.port() }
}

impl Shared {
    /// The node that leads a partition, as of the last time that figures were published.
    pub fn leader_of(&self, partition: PartitionId) -> Option<u64> {
        let at = usize::try_from(partition.0.checked_sub(FIRST_DATA.0)?).ok()?;
        self.leaders.get(at).map(|leader| leader.load(Ordering::Relaxed)).filter(|leader| *leader != 0)
    }
}

impl Topology for Shared {
    fn id(&self) -> u64 {
        self.identity.node
    }

    fn nodes(&self) -> Vec<ClientNode> {
        let nodes = self.peers().map_or(&[][..], |peers| &peers.description.nodes);
        nodes.iter().map(shown).collect()
    }

    fn node_of(&self, storage: StorageId) -> Option<ClientNode> {
        self.peers()?.description.node(storage.0).map(shown)
    }

    fn slots(&self) -> Vec<(Range<u16>, Option<u64>)> {
        let partitions = self.partitions.iter();
        partitions.map(|partition| (self.layout.slots_of(*partition), self.leader_of(*partition))).collect()
    }

    fn first_slot(&self, partition: PartitionId) -> u16 {
        self.layout.slots_of(partition).start
    }
}
