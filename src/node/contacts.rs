//! Where the nodes are that members of groups are on, and that founded nothing: as the groups' configurations say.
//!
//! Invariant: a node is known as long as a group has a member on it, and by its newest folder.

use std::collections::BTreeMap;

use corduroy_shards::ids::NodeId;
use corduroy_shards::{Contact, PartitionId};

/// How the nodes of members are reached that founded nothing, as of the last time that figures were published.
#[derive(Debug, Default)]
pub struct Contacts {
    /// Those of each partition.
    of: BTreeMap<(PartitionId, NodeId), Contact>,
    /// Of each node that with its newest folder.
    newest: BTreeMap<NodeId, Contact>,
}

impl Contacts {
    /// All of them, by their nodes.
    pub fn all(&self) -> impl Iterator<Item = &Contact> {
        self.newest.values()
    }

    /// That of a node.
    pub fn of_node(&self, node: NodeId) -> Option<&Contact> {
        self.newest.get(&node)
    }

    /// These are the ones of a partition now, and no others.
    pub fn note(&mut self, partition: PartitionId, contacts: impl Iterator<Item = Contact>) {
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
            contacts.all().map(|contact| (contact.node.0, contact.incarnation)).collect()
        };
        assert_eq!(newest(&contacts), [(4, 20), (5, 10)]);
        contacts.note(two, [].into_iter());
        assert_eq!(newest(&contacts), [(4, 10), (5, 10)], "the other partition has the former folder");
        contacts.note(one, [contact(5, 10)].into_iter());
        assert_eq!(newest(&contacts), [(5, 10)]);
    }
}
