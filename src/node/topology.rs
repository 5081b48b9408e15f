//! The cluster as clients are shown it: the nodes of the description, and who leads which partition as far as this node knows.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

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
        if let Some(known) = shared.known_leader(replica.partition) {
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
        self.known_leader(partition)
            .map(|leader| leader.load(Ordering::Relaxed))
            .filter(|leader| *leader != 0)
    }

    fn known_leader(&self, partition: PartitionId) -> Option<&AtomicU64> {
        let at = self.layout.data_index(partition)?;
        self.leaders.get(usize::try_from(at).ok()?)
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
