//! What REPLICA asks of groups, and what is to be done next for it.
//!
//! Invariant: what is asked may be asked again, whatever became of it: what is as it should be is done at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use corduroy_shards::ids::{MemberId, NodeId};
use corduroy_shards::liveness::is_beat;
use corduroy_shards::raft::group::Group;
use corduroy_shards::raft::membership::Membership;
use corduroy_shards::raft::replica::Replica;
use corduroy_shards::wal::Lsn;
use corduroy_shards::{Change, Contact, MemberRequest, PartitionId, RaftMessage, Reply, StorageId, Ticket};

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

impl Either {
    /// Who has sent a message that has come from a node.
    pub fn sender(message: &RaftMessage, from: NodeId) -> Self {
        Self::named(message, MemberId(message.from), from)
    }

    /// Who is to get a message that goes to a node.
    pub fn receiver(message: &RaftMessage, to: NodeId) -> Self {
        Self::named(message, MemberId(message.to), to)
    }

    /// A beat is from a storage to a storage, and has their numbers where other messages have those of members: either number may
    /// be that of another node's member.
    fn named(message: &RaftMessage, member: MemberId, node: NodeId) -> Self {
        if is_beat(message) { Self::On(node) } else { Self::Member(member) }
    }

    /// How its node is reached, if that founded nothing.
    pub fn contact(self, members: &Membership) -> Option<&Contact> {
        match self {
            Self::Member(member) => members.contact_of(member),
            Self::On(node) => members.contact_on(StorageId(node.0)),
        }
    }
}

/// Whether a node that was heard with this incarnation has the data folder that its member was added with. Of a member without a
/// contact the group knows more.
pub fn has_its_folder(contact: Option<Contact>, heard: Option<u64>) -> bool {
    contact.is_none_or(|contact| heard == Some(contact.incarnation))
}

/// How the members of a replica's group are reached that founded nothing; `None`: nobody but founders was ever in it. A replica that
/// has stopped, since it was removed or fenced, learns no more who belongs to its group: it knows nobody from then on.
pub fn contacts_of(replica: &Replica) -> Option<impl Iterator<Item = &Contact>> {
    let members = replica.group().map(Group::members);
    let may_differ = members.map_or(!replica.is_running(), |members| members.as_of > Lsn::ZERO);
    may_differ.then(|| members.into_iter().flat_map(Membership::contacts).map(|(_, contact)| contact))
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
    /// Members that this node was to be, and cannot. Each is logged once.
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
    use corduroy_shards::image::transfer::Process;
    use corduroy_shards::liveness::Liveness;
    use corduroy_shards::raft::changes::{ChangeEntry, Step};
    use corduroy_shards::raft::replica::StartError;

    use super::*;
    use crate::node::contacts::Contacts;

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
        next(command, members, MemberId(1), |_| heard)
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
        let there = Contact { node: NodeId(3), ..contact(17) };
        let expected = Change::AddLearnerAt(StorageId(3), there);
        assert_eq!(
            next_of(founder, &left, Some(17)),
            Next::Ask(MemberRequest::Change(vec![expected])),
            "it comes back"
        );
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
    fn a_replica_that_has_stopped_knows_nobody_any_more() {
        let partition = PartitionId(2);
        let mut known = Contacts::default();
        known.note(partition, [contact(17)].into_iter());
        let stopped = Replica::stopped(partition, &StartError::Removed { by: Lsn(9) });
        let now = contacts_of(&stopped).expect("it is to be noted that there are none");
        known.note(partition, now.copied());
        assert_eq!(known.all().count(), 0);
    }

    /// The same group, to which node 5 was added before node 4: each has the member that has the other's number.
    fn crossed() -> Membership {
        let at = |node| Contact { node: NodeId(node), ..contact(node) };
        let added = [5, 4].map(|node| Change::AddLearnerAt(StorageId(node), at(node)));
        let entries = (4..).map(Lsn).zip(added);
        entries.fold(founded(), |members, (lsn, change)| {
            let mut conf = members.conf_state();
            conf.learners.push(lsn.get());
            members.after(lsn, &ChangeEntry::Steps(vec![Step::of(change, lsn)]), &conf)
        })
    }

    /// A beat between the shards of two storages.
    fn beat(from: u64, to: u64) -> RaftMessage {
        let process = Process { node: NodeId(from), incarnation: from, starts: 0 };
        let mut liveness = Liveness::new(StorageId(from), process, (1, 1));
        let mut sent = Vec::new();
        liveness.meet(StorageId(to), PartitionId(2), 0);
        liveness.look(0, &mut sent);
        sent.pop().expect("it is due").message
    }

    #[test]
    fn a_beat_is_of_a_node_and_another_message_of_a_member() {
        let members = crossed();
        let node_of = |either: Either| either.contact(&members).map(|contact| contact.node.0);
        for (node, member) in [(4, 5), (5, 4)] {
            assert_eq!(members.member_on(StorageId(node)), Some(MemberId(member)));
            assert_eq!(node_of(Either::sender(&beat(node, 1), NodeId(node))), Some(node));
            assert_eq!(node_of(Either::receiver(&beat(1, node), NodeId(node))), Some(node));
            let message = RaftMessage { from: member, to: member, ..RaftMessage::default() };
            assert_eq!(node_of(Either::sender(&message, NodeId(node))), Some(node));
            assert_eq!(node_of(Either::receiver(&message, NodeId(node))), Some(node));
        }
    }

    #[test]
    fn a_beat_counts_only_with_the_folder_that_the_member_was_added_with() {
        let members = crossed();
        let contact_of = |from| Either::sender(&beat(from, 1), NodeId(from)).contact(&members).copied();
        assert!(has_its_folder(contact_of(4), Some(4)));
        for heard in [Some(40), None] {
            assert!(!has_its_folder(contact_of(4), heard), "its folder was formatted anew");
        }
        assert!(has_its_folder(contact_of(2), Some(40)), "founders have met: no contact is needed");
    }

    #[test]
    fn who_leaves_gives_up_the_lead_and_the_vote_before() {
        let asked = |change| Next::Ask(MemberRequest::Change(vec![change]));
        assert_eq!(next_of(MemberCommand::Remove(NodeId(1)), &founded(), None), Next::HandOn);
        let demotes = next_of(MemberCommand::Remove(NodeId(3)), &founded(), None);
        assert_eq!(demotes, asked(Change::Demote(MemberId(3))));
    }
}
