//! What REPLICA asks of groups, and what is to be done next for it.
//!
//! Invariant: what is asked may be asked again, whatever became of it: what is as it should be is done at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use corduroy_shards::ids::{MemberId, NodeId};
use corduroy_shards::raft::membership::Membership;
use corduroy_shards::raft::replica::Replica;
use corduroy_shards::wal::Lsn;
use corduroy_shards::{Change, Contact, MemberRequest, PartitionId, Reply, StorageId, Ticket};

use crate::resp::SessionReply;
use crate::resp::members::MemberCommand;
use crate::store::Outcome;

/// Which member of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Either {
    /// This one.
    Member(MemberId),
    /// That on a node.
    On(NodeId),
}

/// What is asked and has no outcome yet.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The shard's index here.
    pub index: usize,
    /// Of which partition.
    pub partition: PartitionId,
    /// What.
    pub command: MemberCommand,
    /// The lead is handed on before: the next leader does what is asked.
    pub hands_on: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Members {
    pub(super) asked: RefCell<HashMap<Ticket, Asked>>,
    /// The incarnations of the nodes that were heard.
    pub(super) heard: RefCell<BTreeMap<NodeId, u64>>,
    /// Nodes that are to be connected to, and where.
    pub(super) to_greet: RefCell<Vec<Contact>>,
    /// Members that this node was to be, and cannot: what an earlier one has left is in the way. Each is logged once.
    pub(super) in_the_way: RefCell<BTreeMap<PartitionId, MemberId>>,
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing: it is as it should be.
    Nothing,
    /// This is asked of the group.
    Ask(MemberRequest),
    /// Another one is to lead first.
    HandOn,
    /// The node has to be heard first.
    Greet(Contact),
    /// It cannot be done, for this reason.
    Refuse(String),
}

/// What a command makes of a group in which `me` leads.
pub fn next(
    command: MemberCommand,
    members: &Membership,
    me: MemberId,
    heard: impl Fn(NodeId) -> Option<u64>,
    is_founder: impl Fn(NodeId) -> bool,
) -> Next {
    let of_node = |node: NodeId| members.member_on(StorageId(node.0));
    let nobody = |node: NodeId| Next::Refuse(format!("node {} has no member of the group", node.0));
    let change = |change| Next::Ask(MemberRequest::Change(vec![change]));
    match command {
        MemberCommand::List => Next::Nothing,
        MemberCommand::Add(Contact { node, peer, client, .. }) => {
            let storage = StorageId(node.0);
            match (heard(node), members.contact_on(storage)) {
                (Some(incarnation), Some(known)) if known.incarnation != incarnation => {
                    Next::Refuse(format!(
                        "node {} has lost the data of its member, which is of another folder: remove that first",
                        node.0
                    ))
                }
                _ if of_node(node).is_some() => Next::Nothing,
                _ if is_founder(node) => Next::Refuse(format!(
                    "node {} has founded the group and left it: what it has left in its folder is in the way of another \
                     member; let it join as a new node, with a number and a folder of its own",
                    node.0
                )),
                (Some(incarnation), _) => {
                    change(Change::AddLearnerAt(storage, Contact { node, incarnation, peer, client }))
                }
                (None, _) => Next::Greet(Contact { node, incarnation: 0, peer, client }),
            }
        }
        MemberCommand::Promote(node) => match of_node(node) {
            None => nobody(node),
            Some(member) if members.is_voter(member) => Next::Nothing,
            Some(member) => change(Change::Promote(member)),
        },
        MemberCommand::Remove(node) => match of_node(node) {
            None => Next::Nothing,
            Some(member) if member == me => Next::HandOn,
            Some(member) if members.votes(member) => change(Change::Demote(member)),
            Some(member) => change(Change::Remove(member)),
        },
        MemberCommand::Transfer(node) => match of_node(node) {
            None => nobody(node),
            Some(member) if member == me => Next::Nothing,
            Some(member) => Next::Ask(MemberRequest::Transfer(member)),
        },
    }
}

/// The members of a group, one text each, as its leader has them.
pub fn list(replica: &Replica, members: &Membership, me: MemberId) -> Outcome {
    let shown = members.ids().map(|member| {
        let storage = members.storage(member).unwrap_or_default();
        let role = match () {
            () if member == me => "leader",
            () if members.votes(member) => "voter",
            () => "learner",
        };
        let held = if member == me { replica.last() } else { replica.held_by(storage).unwrap_or_default() };
        let contact = members.contact_on(storage);
        let at = contact.map(|contact| format!(",peer={},client={}", contact.peer, contact.client));
        let text =
            format!("node={},member={member},role={role},has={held}{}", storage.0, at.unwrap_or_default());
        Outcome::Bulk(text.into_bytes())
    });
    Outcome::Array(shown.collect())
}

/// The outcome of what was done by this entry.
pub fn done(lsn: Lsn) -> SessionReply {
    let lsn_shown = i64::try_from(lsn.get()).unwrap_or(i64::MAX);
    Reply::Done { lsn, outcome: Outcome::Array(vec![Outcome::Int(lsn_shown)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(incarnation: u64) -> Contact {
        let [peer, client] = ["10.0.0.4:1", "10.0.0.4:2"].map(|text| text.parse().expect("an address"));
        Contact { node: NodeId(4), incarnation, peer, client }
    }

    /// Of nodes 1 to 3, which founded it, and node 1 leads.
    fn founded() -> Membership {
        let founders: Vec<_> = (1..4).map(|id| (MemberId(id), StorageId(id))).collect();
        Membership::founded_by(&founders)
    }

    fn next_of(command: MemberCommand, members: &Membership, heard: Option<u64>) -> Next {
        next(command, members, MemberId(1), |_| heard, |node| node.0 < 4)
    }

    #[test]
    fn a_node_is_added_with_the_folder_that_it_was_heard_of() {
        let add = MemberCommand::Add(contact(0));
        assert_eq!(next_of(add, &founded(), None), Next::Greet(contact(0)));
        let expected = Change::AddLearnerAt(StorageId(4), contact(17));
        assert_eq!(next_of(add, &founded(), Some(17)), Next::Ask(MemberRequest::Change(vec![expected])));
        let founder = MemberCommand::Add(Contact { node: NodeId(3), ..contact(0) });
        assert_eq!(next_of(founder, &founded(), None), Next::Nothing, "it is there");
        let left = Membership::founded_by(&[(MemberId(1), StorageId(1)), (MemberId(2), StorageId(2))]);
        assert!(matches!(next_of(founder, &left, Some(17)), Next::Refuse(_)), "its folder is in the way");
    }

    #[test]
    fn what_is_as_it_should_be_is_not_asked_for() {
        let [two, nine] = [2, 9].map(NodeId);
        assert_eq!(next_of(MemberCommand::Promote(two), &founded(), None), Next::Nothing);
        assert_eq!(next_of(MemberCommand::Remove(nine), &founded(), None), Next::Nothing);
        assert_eq!(next_of(MemberCommand::Transfer(NodeId(1)), &founded(), None), Next::Nothing);
        for command in [MemberCommand::Promote(nine), MemberCommand::Transfer(nine)] {
            assert!(matches!(next_of(command, &founded(), None), Next::Refuse(_)), "{command:?}");
        }
    }

    #[test]
    fn who_leaves_gives_up_the_lead_and_the_vote_before() {
        let asked = |change| Next::Ask(MemberRequest::Change(vec![change]));
        assert_eq!(next_of(MemberCommand::Remove(NodeId(1)), &founded(), None), Next::HandOn);
        let demotes = next_of(MemberCommand::Remove(NodeId(3)), &founded(), None);
        assert_eq!(demotes, asked(Change::Demote(MemberId(3))));
    }
}
