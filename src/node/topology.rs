//! The cluster as clients are shown it: the nodes of the description, and who leads which partition as far as this node knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;

use corduroy_shards::ids::NodeId;
use corduroy_shards::{Contact, PartitionId, ReplicaStatus, Role, StorageId};

use super::facts::Known;
use super::shared::{Shared, lock};
use crate::config::peers::Node;
use crate::resp::backend::{ClientNode, Topology};

/// Notes who leads the partitions of these replicas, and how many copies there are.
pub fn note_leaders(shared: &Shared, replicas: impl Iterator<Item = ReplicaStatus>) {
    for replica in replicas {
        let leader = match replica.role {
            Role::Leader => Some(shared.identity.node),
            Role::Follower | Role::Candidate | Role::PreCandidate => {
                replica.leader_storage.map(|storage| storage.0)
            }
        };
        if let Some(known) = shared.known(replica.partition) {
            known.leader.store(leader.unwrap_or(0), Ordering::Relaxed);
            known.copies.store(replica.copies, Ordering::Relaxed);
        }
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

/// How the nodes of members are reached that founded nothing, as of the last time that figures were published.
#[derive(Debug, Default)]
pub struct Contacts {
    /// Those of each partition.
    of: BTreeMap<(PartitionId, NodeId), Contact>,
    /// Of each node that with its newest folder.
    newest: BTreeMap<NodeId, Contact>,
}

impl Contacts {
    /// These are the ones of a partition now, and no others.
    fn note(&mut self, partition: PartitionId, contacts: impl Iterator<Item = Contact>) {
        let now: BTreeMap<_, _> = contacts.map(|contact| ((partition, contact.node), contact)).collect();
        let all = (partition, NodeId(0))..=(partition, NodeId(u64::MAX));
        if self.of.range(all.clone()).eq(now.iter()) {
            return;
        }
        let before: Vec<_> = self.of.range(all).map(|(key, _)| *key).collect();
        before.iter().for_each(|key| _ = self.of.remove(key));
        self.of.extend(now);
        self.newest.clear();
        for contact in self.of.values() {
            let known = self.newest.entry(contact.node).or_insert(*contact);
            if known.incarnation < contact.incarnation {
                *known = *contact;
            }
        }
    }
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
        let mut all: BTreeMap<u64, ClientNode> =
            nodes.iter().filter(|node| !node.left).map(|node| (node.id, described(node))).collect();
        all.extend(lock(&self.contacts).newest.values().map(|contact| (contact.node.0, joined(contact))));
        all.into_values().collect()
    }

    fn node_of(&self, storage: StorageId) -> Option<ClientNode> {
        let newest = lock(&self.contacts).newest.get(&NodeId(storage.0)).map(joined);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_forgotten_once_no_partition_has_it() {
        let address = "127.0.0.1:7000".parse().expect("an address");
        let contact =
            |node, incarnation| Contact { node: NodeId(node), incarnation, peer: address, client: address };
        let mut contacts = Contacts::default();
        let (one, two) = (PartitionId(2), PartitionId(3));
        contacts.note(one, [contact(4, 10), contact(5, 10)].into_iter());
        contacts.note(two, [contact(4, 20)].into_iter());
        let newest = |contacts: &Contacts| -> Vec<_> {
            contacts.newest.values().map(|contact| (contact.node.0, contact.incarnation)).collect()
        };
        assert_eq!(newest(&contacts), [(4, 20), (5, 10)]);
        contacts.note(two, [].into_iter());
        assert_eq!(newest(&contacts), [(4, 10), (5, 10)], "the other partition has the former folder");
        contacts.note(one, [contact(5, 10)].into_iter());
        assert_eq!(newest(&contacts), [(5, 10)]);
    }
}
