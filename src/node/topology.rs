//! The cluster as clients are shown it: the nodes of the description, and who leads which partition as far as this node knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;

use corduroy_shards::ids::NodeId;
use corduroy_shards::raft::replica::ReplicaError;
use corduroy_shards::{Contact, PartitionId, ReplicaStatus, Role, StorageId};

use super::facts::Known;
use super::shared::{Shared, lock};
use crate::config::peers::Node;
use crate::resp::backend::{ClientNode, Topology};

/// Notes who leads the partition of a replica, and how many copies there are.
pub fn note_leader(shared: &Shared, replica: &ReplicaStatus) {
    let leader = match replica.role {
        Role::Leader => Some(shared.identity.node),
        Role::Follower | Role::Candidate | Role::PreCandidate => {
            replica.leader_storage.map(|storage| storage.0)
        }
    };
    if let Some(known) = shared.known(replica.partition) {
        // One that has stopped hears nothing more: what it knew last is all that there is, unless it led itself.
        match &replica.error {
            Some(ReplicaError::ReplicaStopped { .. }) => forget_lead(shared, replica.partition),
            Some(ReplicaError::ReadyTimeout { .. } | ReplicaError::Obsoleted { .. }) | None => {
                known.leader.store(leader.unwrap_or(0), Ordering::Relaxed);
            }
        }
        known.copies.store(replica.copies, Ordering::Relaxed);
    }
}

/// Notes that the replica here leads its group no more, if it did.
pub fn forget_lead(shared: &Shared, partition: PartitionId) {
    if let Some(known) = shared.known(partition) {
        let own = shared.identity.node;
        // Whoever finds another leader there leaves it.
        _ = known.leader.compare_exchange(own, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn shown(id: u64, client: SocketAddr) -> ClientNode {
    ClientNode { id, host: client.ip().to_string(), port: client.port() }
}

fn described(node: &Node) -> ClientNode {
    shown(node.id, node.client)
}

fn joined(contact: &Contact) -> ClientNode {
    shown(contact.node.0, contact.client)
}

impl Shared {
    /// Notes how the nodes of a partition's members are reached that founded nothing.
    pub fn note_contacts<'c>(&self, partition: PartitionId, contacts: impl Iterator<Item = &'c Contact>) {
        lock(&self.contacts).note(partition, contacts.copied());
    }

    /// The node that leads a partition, as of the last time that figures were published.
    pub fn leader_of(&self, partition: PartitionId) -> Option<u64> {
        self.known(partition).map(|known| known.leader.load(Ordering::Relaxed)).filter(|leader| *leader != 0)
    }

    fn known(&self, partition: PartitionId) -> Option<&Known> {
        let at = self.layout.data_index(partition)?;
        self.known.get(usize::try_from(at).ok()?)
    }
}

impl Topology for Shared {
    fn id(&self) -> u64 {
        self.identity.node
    }

    fn nodes(&self) -> Vec<ClientNode> {
        let nodes = self.peers().map_or(&[][..], |peers| &peers.description.nodes);
        let contacts = lock(&self.contacts);
        // One that replaced a founder may have its addresses, before the description here says that it has left.
        let is_replaced = |node: &&Node| {
            contacts.all().any(|contact| contact.client == node.client && contact.node.0 != node.id)
        };
        let there = nodes.iter().filter(|node| !node.left && !is_replaced(node));
        let mut all: BTreeMap<_, _> = there.map(|node| (node.id, described(node))).collect();
        all.extend(contacts.all().map(|contact| (contact.node.0, joined(contact))));
        all.into_values().collect()
    }

    fn node_of(&self, storage: StorageId) -> Option<ClientNode> {
        let newest = lock(&self.contacts).of_node(NodeId(storage.0)).map(joined);
        newest.or_else(|| self.peers()?.description.node(storage.0).map(described))
    }

    fn slots(&self) -> Vec<(Range<u16>, Option<u64>)> {
        let partitions = self.partitions.iter();
        partitions.map(|partition| (self.layout.slots_of(*partition), self.leader_of(*partition))).collect()
    }

    fn copies(&self) -> usize {
        self.known.iter().map(|known| known.copies.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    fn first_slot(&self, partition: PartitionId) -> u16 {
        self.layout.slots_of(partition).start
    }
}
