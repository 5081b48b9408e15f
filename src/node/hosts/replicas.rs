//! Who belongs to the groups of this core: what REPLICA asks, step by step, replicas that come into being since their groups have been
//! joined, and which folder a member's node must have.
//!
//! Invariant: a message of a member on a node that founded nothing is heard if that node has the data folder that the member was added
//! with, and no other.

use corduroy_shards::ids::{MemberId, NodeId};
use corduroy_shards::raft::group::claims_lead;
use corduroy_shards::raft::left::Deletion;
use corduroy_shards::wal::Lsn;
use corduroy_shards::{
    ChangeRefusal, Contact, Input, MemberOutcome, MemberRequest, Now, Origin, PartitionId, RaftMessage,
    Rejection, ReplicaStatus, Reply, ShardError, StorageId, Ticket,
};

use super::host::NodeShard;
use super::left::{Due, NS_PER_S, delete};
use super::members::{Asked, Either, Next, contacts_of, done, has_its_folder, list, next};
use super::turn::end_process;
use super::{Home, Hosts};
use crate::node::message::Answer;
use crate::node::topology::{forget_lead, note_leader};
use crate::resp::members::MemberCommand;
use crate::resp::{SessionReply, Timing};

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
        let next = next(command, members, me, heard);
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

    /// Has those connected to that have joined the groups of replicas here.
    pub fn greet_members(&self) {
        let mut to_greet = self.members.to_greet.borrow_mut();
        let own = NodeId(self.core.shared.identity.node);
        for host in &self.all {
            let shard = host.shard.borrow();
            let partitions = self.core.shared.layout.partitions_of(host.id);
            let replicas = partitions.filter_map(|partition| shard.replica(partition));
            for contact in replicas.filter_map(contacts_of).flatten().filter(|contact| contact.node != own) {
                if !to_greet.contains(contact) {
                    to_greet.push(*contact);
                }
            }
        }
    }

    /// Nodes that are to be connected to, and where.
    pub fn take_to_greet(&self) -> Vec<Contact> {
        self.members.to_greet.take()
    }

    /// How a member of a partition's group is reached, or the one on a node, that is on a node that founded nothing.
    pub fn contact(&self, partition: PartitionId, of: Either) -> Option<Contact> {
        let shard = self.host_of(partition)?.shard.borrow();
        of.contact(shard.replica(partition)?.group()?.members()).copied()
    }

    /// Whether a message for a replica here is to be heard: whether the node has the folder that the member was added with. Of a member
    /// whose addition is not applied here, [`Group::hears`] decides: another one may have been on its node before. A message of a
    /// leader makes the replica, where the node was added to the group.
    ///
    /// [`Group::hears`]: corduroy_shards::raft::group::Group::hears
    pub(super) fn hears(&self, partition: PartitionId, from: NodeId, message: &RaftMessage) -> bool {
        let identity = &self.core.shared.identity;
        let heard = self.members.heard.borrow().get(&from).copied();
        let is_heard = identity.founders.contains(&from.0)
            || has_its_folder(self.contact(partition, Either::sender(message, from)), heard);
        if is_heard {
            self.join(partition, from, message);
        }
        is_heard
    }

    /// Publishes who leads a partition's group, and how its members are reached who have joined it. Of a replica that is not here
    /// any more, what was known last stays, but for its own lead.
    pub(super) fn publish_leader(
        &self,
        shard: &NodeShard,
        partition: PartitionId,
        replica: Option<&ReplicaStatus>,
    ) {
        let shared = &self.core.shared;
        let Some(replica) = replica else { return forget_lead(shared, partition) };
        note_leader(shared, replica);
        if let Some(contacts) = shard.replica(replica.partition).and_then(contacts_of) {
            shared.note_contacts(replica.partition, contacts);
        }
    }

    /// Logs, once, that this node cannot be the member that a leader takes it for.
    fn note_in_the_way(&self, partition: PartitionId, wanted: MemberId) {
        if self.members.in_the_way.borrow_mut().insert(partition, wanted) != Some(wanted) {
            tracing::error!(
                partition = partition.0,
                "the partition's leader takes this node for member {wanted}, whose replica here has stopped, or cannot be told from \
                 another one: remove the member, and add the node again"
            );
        }
    }

    /// Makes the replica of a group that this node was added to, if there is none. What an earlier member has left is deleted before:
    /// a later one is added only once that is removed, be it that it has not heard so.
    fn join(&self, partition: PartitionId, from: NodeId, message: &RaftMessage) {
        let Some(Home::Here(index)) = self.home(partition) else { return };
        let Some(host) = self.all.get(index) else { return };
        let Some((leader, _)) = claims_lead(message) else { return };
        let member = MemberId(message.to);
        let there = host.shard.borrow().replica(partition).map(|replica| replica.leadership().member());
        if member == MemberId(0) || there.is_some_and(|there| member <= there) {
            return;
        }
        let origin = Origin::Join { member, leader: (leader, StorageId(from.0)) };
        match self.make((index, partition, origin)) {
            Ok(Deletion::Done | Deletion::UnderWay) => {}
            Ok(Deletion::Refused) => self.note_in_the_way(partition, member),
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

    /// Deletes what is left of a member; then makes the replica of another one, if one joins.
    fn make(&self, (index, partition, next): Due) -> Result<Deletion, ShardError> {
        let host = self.all.get(index).expect("homes name shards of this core");
        let mut deletion = delete(host, partition, &next)?;
        if let (Deletion::Done, Origin::Join { member, leader }) = (deletion, &next) {
            let seed = self.core.shared.seed(host.id);
            if host.shard.borrow_mut().add(partition, &next, seed)? {
                tracing::info!(
                    shard = host.id.0,
                    partition = partition.0,
                    "joins the partition's group as member {}, led by node {}",
                    member.0,
                    leader.1.0
                );
            } else {
                deletion = Deletion::UnderWay;
            }
        }
        match deletion {
            Deletion::UnderWay => self.left.begun((index, partition, next), self.core.mono_ns()),
            Deletion::Done | Deletion::Refused => self.left.ended(partition),
        }
        Ok(deletion)
    }
}

impl Hosts {
    /// How long what was removed stays.
    fn keep_ns(&self) -> u64 {
        self.core.config().removed_keep_s.saturating_mul(NS_PER_S)
    }

    /// When what was left is to be deleted next.
    pub(super) fn left_next_ns(&self) -> Option<u64> {
        self.left.next_ns(self.keep_ns())
    }

    /// Deletes what was left long enough ago.
    pub fn delete_left(&self, now: Now) {
        for due in self.left.take_due(self.keep_ns(), now.mono_ns) {
            let host = self.all.get(due.0).expect("homes name shards of this core");
            if let Err(error) = self.make(due) {
                end_process(host, &error);
            }
        }
    }
}
