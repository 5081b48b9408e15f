//! Who belongs to the groups of this core: what REPLICA asks, step by step, replicas that come into being since their groups have been
//! joined, and which folder a member's node must have.
//!
//! Invariant: what is asked may be asked again, whatever became of it: what is as it should be is done at once. A message of a member on
//! a node that founded nothing is heard if that node has the data folder that the member was added with, and no other.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use corduroy_shards::ids::{MemberId, NodeId};
use corduroy_shards::raft::membership::Membership;
use corduroy_shards::raft::replica::Replica;
use corduroy_shards::wal::Lsn;
use corduroy_shards::{
    Change, ChangeRefusal, Contact, Input, MemberOutcome, MemberRequest, Origin, PartitionId, RaftMessage,
    RaftMessageType, Rejection, Reply, StorageId, Ticket,
};

use super::host::Host;
use super::{Home, Hosts};
use crate::node::message::Answer;
use crate::node::topology::note_leaders;
use crate::resp::members::MemberCommand;
use crate::resp::{SessionReply, Timing};
use crate::store::Outcome;

/// What is asked and has no outcome yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    index: usize,
    partition: PartitionId,
    command: MemberCommand,
    /// The lead is handed on before: the next leader does what is asked.
    hands_on: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Members {
    asked: RefCell<HashMap<Ticket, Asked>>,
    /// The incarnations of the nodes that were heard.
    heard: RefCell<BTreeMap<NodeId, u64>>,
    /// Nodes that are to be connected to, and where.
    to_greet: RefCell<Vec<Contact>>,
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Next {
    /// Nothing: it is as it should be.
    Nothing,
    Ask(MemberRequest),
    /// Another one is to lead first.
    HandOn,
    /// The node has to be heard first.
    Greet(Contact),
    Refuse(String),
}

/// What a command makes of a group in which `me` leads.
fn next(
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
                _ if is_founder(node) => change(Change::AddLearner(storage)),
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
fn list(replica: &Replica, members: &Membership, me: MemberId) -> Outcome {
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

fn done(lsn: Lsn) -> SessionReply {
    let lsn_shown = i64::try_from(lsn.get()).unwrap_or(i64::MAX);
    Reply::Done { lsn, outcome: Outcome::Array(vec![Outcome::Int(lsn_shown)]) }
}

impl Hosts {
    /// Does what REPLICA asks of a partition whose shard is here. Its one outcome comes later.
    pub(super) fn ask_members(&self, index: usize, ticket: Ticket, partition: PartitionId, op: &[u8]) {
        let Some(command) = MemberCommand::decode(op) else {
            let why = "this release does not know what is asked".to_owned();
            return self.decide(ticket, Rejection::Refused(partition, why));
        };
        let asked = Asked { index, partition, command, hands_on: false };
        if let Some(reply) = self.go_on_members(ticket, asked, Lsn::ZERO) {
            self.decide_reply(ticket, reply);
        }
    }

    /// Takes the next step; returns the outcome if there is no other. `lsn`: what the last step was done by.
    fn go_on_members(&self, ticket: Ticket, asked: Asked, lsn: Lsn) -> Option<SessionReply> {
        let Asked { index, partition, command, .. } = asked;
        let refused = |why| Some(Reply::Rejected(why));
        let host = self.all.get(index).expect("homes name shards of this core");
        let shard = host.shard.borrow();
        let Some(replica) = shard.replica(partition) else {
            return refused(Rejection::NoPartition(partition));
        };
        if let Some(why) = replica.ready_error().filter(|_| !replica.is_running()) {
            return refused(Rejection::from(&why));
        }
        let Some(group) = replica.group() else {
            return refused(Rejection::Refused(partition, ChangeRefusal::NoGroup.to_string()));
        };
        if !replica.leadership().is_mine() {
            return refused(Rejection::NoLeader(partition));
        }
        let (members, me) = (group.members(), replica.leadership().member());
        if command == MemberCommand::List {
            return Some(Reply::Done { lsn: members.as_of, outcome: list(replica, members, me) });
        }
        let heard = |node| self.members.heard.borrow().get(&node).copied();
        let founders = &self.core.shared.identity.founders;
        let next = next(command, members, me, heard, |node| founders.contains(&node.0));
        let lsn = lsn.max(members.as_of);
        drop(shard);
        let (request, hands_on) = match next {
            Next::Nothing => return Some(done(lsn)),
            Next::Refuse(why) => return refused(Rejection::Refused(partition, why)),
            Next::Greet(contact) => {
                self.members.to_greet.borrow_mut().push(contact);
                self.core.wake();
                let why = format!("node {} was not heard yet: start it, and ask again", contact.node.0);
                return refused(Rejection::Refused(partition, why));
            }
            Next::Ask(request) => (request, false),
            Next::HandOn => (MemberRequest::TransferAway, true),
        };
        self.members.asked.borrow_mut().insert(ticket, Asked { hands_on, ..asked });
        host.shard.borrow_mut().handle(Input::Members { ticket, partition, request });
        host.dirty.set(true);
        self.core.wake();
        None
    }

    /// Takes the outcome of a step. Returns the answer, if it was the last one.
    pub(super) fn members_outcome(&self, ticket: Ticket, outcome: MemberOutcome) -> Option<Answer> {
        let asked = self.members.asked.borrow_mut().remove(&ticket)?;
        let Asked { partition, command, hands_on, .. } = asked;
        let is_removing = matches!(command, MemberCommand::Remove(_));
        let reply = match outcome {
            // Whoever leads now is asked by whoever has the request.
            MemberOutcome::Done(_) if hands_on => Some(Reply::Rejected(Rejection::NoLeader(partition))),
            MemberOutcome::Done(lsn) if is_removing => self.go_on_members(ticket, asked, lsn),
            MemberOutcome::Done(lsn) => Some(done(lsn)),
            MemberOutcome::Rejected(ChangeRefusal::NotLeader) => {
                Some(Reply::Rejected(Rejection::NoLeader(partition)))
            }
            MemberOutcome::Rejected(why) => {
                Some(Reply::Rejected(Rejection::Refused(partition, why.to_string())))
            }
            MemberOutcome::Unknown => Some(Reply::Unknown),
        };
        reply.map(|reply| Answer { ticket, reply, timing: Timing::default() })
    }

    /// These nodes were heard, each with its data folder's incarnation.
    pub fn note_heard(&self, nodes: impl Iterator<Item = (NodeId, u64)>) {
        let mut heard = self.members.heard.borrow_mut();
        nodes.for_each(|(node, incarnation)| _ = heard.insert(node, incarnation));
    }

    /// Nodes that are to be connected to, and where.
    pub fn take_to_greet(&self) -> Vec<Contact> {
        self.members.to_greet.take()
    }

    /// How the member of a partition's group on a node is reached that founded nothing.
    pub fn contact(&self, partition: PartitionId, node: NodeId) -> Option<Contact> {
        let Some(Home::Here(index)) = self.home(partition) else { return None };
        let shard = self.all.get(index)?.shard.borrow();
        shard.replica(partition)?.group()?.members().contact_on(StorageId(node.0)).copied()
    }

    /// Whether a message for a replica here is to be heard. One of a leader makes the replica, where the node was added to the group.
    pub(super) fn hears(&self, partition: PartitionId, from: NodeId, message: &RaftMessage) -> bool {
        let identity = &self.core.shared.identity;
        if identity.joins() {
            self.join(partition, from, message);
        }
        let has_its_folder =
            |contact: Contact| self.members.heard.borrow().get(&from) == Some(&contact.incarnation);
        identity.founders.contains(&from.0) || self.contact(partition, from).is_none_or(has_its_folder)
    }

    /// Publishes who leads the groups of a shard, and how those are reached who have joined them.
    pub(super) fn publish_leaders(&self, host: &Host) {
        let (shared, shard) = (&self.core.shared, host.shard.borrow());
        note_leaders(shared, shard.replicas());
        for replica in shard.replicas().filter(|replica| replica.members_as_of > Lsn::ZERO) {
            let group = shard.replica(replica.partition).and_then(Replica::group);
            let contacts = group.into_iter().flat_map(|group| group.members().contacts());
            shared.note_contacts(contacts.map(|(_, contact)| contact));
        }
    }

    /// Makes the replica of a group that this node was added to, if there is none.
    fn join(&self, partition: PartitionId, from: NodeId, message: &RaftMessage) {
        let Some(Home::Here(index)) = self.home(partition) else { return };
        let Some(host) = self.all.get(index) else { return };
        let mut shard = host.shard.borrow_mut();
        let is_of_leader = matches!(
            message.get_msg_type(),
            RaftMessageType::MsgAppend | RaftMessageType::MsgHeartbeat | RaftMessageType::MsgSnapshot
        );
        if shard.replica(partition).is_some() || !is_of_leader || message.to == 0 {
            return;
        }
        let leader = (MemberId(message.from), StorageId(from.0));
        let origin = Origin::Join { member: MemberId(message.to), leader };
        match shard.add(partition, &origin, self.core.shared.seed(host.id)) {
            Ok(_is_there) => tracing::info!(
                shard = host.id.0,
                partition = partition.0,
                "joins the partition's group as member {}, led by node {}",
                message.to,
                from.0
            ),
            Err(error) => {
                tracing::error!(
                    shard = host.id.0,
                    partition = partition.0,
                    "cannot join the partition's group: {error}"
                )
            }
        }
        host.dirty.set(true);
    }
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
