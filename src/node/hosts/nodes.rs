//! The way to the replicas of other nodes: which requests go there, which come from there, and what comes of both.
//!
//! Invariant: whose request it is, is known from its ticket's connection alone: those of other nodes' clients name a core that
//! no node has. What another node has sent is carried out here or refused, and never sent on.

use std::collections::{HashMap, VecDeque};

use corduroy_shards::forward::{
    Asked, Decision, FORWARDED_CORE, Handed, Here, Lead, Recalled, Request, Taken, answer,
};
use corduroy_shards::ids::NodeId;
use corduroy_shards::net::{Forwarded, RequestId};
use corduroy_shards::raft::left;
use corduroy_shards::{Kind, Now, PartitionId, Rejection, Reply, StorageId, Ticket};

use super::forward::Forward;
use super::host::NodeShard;
use super::{Home, Hosts};
use crate::node::answers;
use crate::node::core::core_of_conn;
use crate::node::message::Answer;
use crate::resp::{SessionReply, Timing};
use crate::store::Op;

/// How long a request may wait for a leader: as long as in a shard.
const WAIT_NS: u64 = 10_000_000_000;

/// Bytes of answers that wait until the connection to a node has room for them: above that, more of its requests are refused.
const ANSWERS_BYTES: usize = 32 << 20;

/// The node that a storage is of: each has one, of its own number.
const fn node_of(storage: StorageId) -> NodeId {
    NodeId(storage.0)
}

impl Forward {
    /// Has whoever has asked hear that the replica here does not lead, and who does, if that is known.
    fn refuse(&self, asked: &Asked, leader: Option<StorageId>) {
        let Asked { node, id, partition, .. } = *asked;
        self.outgoing.borrow_mut().push_back((node, Forwarded::NotLed { id, partition, leader }));
    }

    /// The same refusal, but that it names no leader whom nobody reaches: no client is sent there.
    fn checked(&self, why: Rejection) -> Rejection {
        match why {
            Rejection::NotLeader(partition, storage) if !self.reaches(node_of(storage)) => {
                Rejection::NoLeader(partition)
            }
            other => other,
        }
    }
}

/// What a core knows of its replicas and connections.
struct Known<'h> {
    hosts: &'h Hosts,
    forward: &'h Forward,
    /// For a request that any member may answer: that here does, if one runs.
    is_for_any: bool,
}

impl Here for Known<'_> {
    /// As far as the replica here knows. One that is fenced or alone is its own to refuse.
    fn lead(&self, partition: PartitionId) -> Lead {
        if self.is_for_any && self.hosts.runs(partition) { Lead::Here } else { self.hosts.lead(partition) }
    }

    fn reaches(&self, node: NodeId) -> bool {
        self.forward.reaches(node)
    }

    /// In the shard, or before it.
    fn holds(&self, partition: PartitionId, conn: u64) -> bool {
        self.hosts
            .host_of(partition)
            .is_some_and(|host| host.gate.borrow().holds(conn) || host.shard.borrow().holds(partition, conn))
    }
}

impl Hosts {
    /// Who leads a partition of this core, as far as its replica here knows. One that is fenced or alone is its own to refuse.
    fn lead(&self, partition: PartitionId) -> Lead {
        let Some(host) = self.host_of(partition) else { return Lead::Here };
        let shard = host.shard.borrow();
        let Some(replica) = shard.replica(partition).filter(|replica| replica.is_running()) else {
            return self.lead_without(&shard, partition);
        };
        if !replica.has_peers() {
            return Lead::Here;
        }
        match replica.other_leader() {
            Some(storage) => Lead::There(node_of(storage)),
            None if replica.leadership().is_mine() => Lead::Here,
            None => Lead::Nobody,
        }
    }

    /// The same where no replica runs.
    fn lead_without(&self, shard: &NodeShard, partition: PartitionId) -> Lead {
        let shared = &self.core.shared;
        let identity = &shared.identity;
        let log = shard.wal().log_state(partition.log());
        if let Some(members) = log.and_then(|log| left::removed_by(&log, StorageId(identity.node))) {
            // Whoever led last, or had a vote then, knows who leads now.
            let last = shared.leader_of(partition).map(NodeId);
            let voters = members.voters().filter_map(|voter| members.storage(voter)).map(node_of);
            let reaches = |node: &NodeId| self.forward.as_ref().is_some_and(|forward| forward.reaches(*node));
            return last.into_iter().chain(voters).find(reaches).map_or(Lead::Here, Lead::There);
        }
        // A node of a cluster may yet be added to its group.
        let may_join = !identity.founders.is_empty() && shard.replica(partition).is_none();
        if may_join { Lead::Nobody } else { Lead::Here }
    }

    /// Whether a partition has a replica here that runs.
    fn runs(&self, partition: PartitionId) -> bool {
        let host = self.host_of(partition);
        host.is_some_and(|host| {
            host.shard.borrow().replica(partition).is_some_and(|replica| replica.is_running())
        })
    }

    /// Takes a request of a client of this node, unless the shard here is to carry it out.
    pub(super) fn take_forwarded(&self, forward: &Forward, request: Request<'_>) -> Taken {
        let Request { ticket, partition, may_redirect, op, .. } = request;
        // What any member may answer is answered here, unless something of its connection is under way elsewhere. Should the member
        // here give it back, the leader is asked.
        let is_for_any = request.kind == Kind::ReadAnywhere;
        let kind = request.kind.by_leader();
        let request = Request { kind, ..request };
        let known = Known { hosts: self, forward, is_for_any };
        let now_ns = self.core.now().mono_ns;
        let taken = forward.forwarder.borrow_mut().take(request, &known, now_ns);
        match taken {
            Taken::Yes => {
                self.want_publishing();
                self.core.wake();
            }
            Taken::Local => {
                let until_ns = now_ns + WAIT_NS;
                let handed = Handed { ticket, partition, kind, may_redirect, until_ns };
                forward.recent.borrow_mut().push(handed, op);
            }
        }
        taken
    }

    /// Whether an outcome says that a shard has given a request back undone, since it leads no more: the next step sends it where
    /// it may go.
    pub fn keeps_given_back(&self, answer: &Answer) -> bool {
        let Some(forward) = &self.forward else { return false };
        if core_of_conn(answer.ticket.conn) == FORWARDED_CORE {
            return false;
        }
        match &answer.reply {
            Reply::Rejected(why @ (Rejection::NotLeader(..) | Rejection::NoLeader(_))) => {
                forward.given_back.borrow_mut().push((answer.ticket, why.clone()));
                true
            }
            Reply::Done { .. } | Reply::Rejected(_) | Reply::Unknown => false,
        }
    }

    /// Has what shards gave back done elsewhere, where nothing behind it was kept. Returns the rest, which is refused.
    fn take_back(&self, forward: &Forward, now: Now) -> Vec<(Ticket, Rejection)> {
        let given_back = forward.given_back.take();
        if given_back.is_empty() {
            return given_back;
        }
        let mut left: HashMap<Ticket, Rejection> = given_back.into_iter().collect();
        let mut forwarder = forward.forwarder.borrow_mut();
        // The newest first: each goes before those behind it.
        for Recalled { handed, op, is_last } in
            forward.recent.borrow().recall(&left.keys().copied().collect())
        {
            // What the replica here refuses though it is the one to be asked, nobody else is asked for.
            let may_go = is_last && self.lead(handed.partition) != Lead::Here;
            if let Some(op) = op.filter(|_| may_go)
                && forwarder.take_back(handed, op, now.mono_ns)
            {
                left.remove(&handed.ticket);
            }
        }
        let refused = left.into_iter().map(|(ticket, why)| match why {
            Rejection::NotLeader(partition, _) | Rejection::NoLeader(partition)
                if forwarder.refused(ticket.conn, partition) =>
            {
                (ticket, Rejection::NoLeader(partition))
            }
            why => (ticket, forward.checked(why)),
        });
        refused.collect()
    }

    /// Takes what another node has sent: a request of its clients, or the answer to one of ours.
    pub fn take_from_node(&self, node: NodeId, forwarded: Forwarded) {
        let Some(forward) = &self.forward else { return };
        let now_ns = self.core.now().mono_ns;
        match forwarded {
            Forwarded::Request { id, partition, conn, kind, op } => {
                self.serve(forward, Asked { node, id, partition, conn }, kind, &op);
            }
            Forwarded::Answer { id, is_last, bytes, .. } => {
                forward.forwarder.borrow_mut().answered(id, is_last, bytes);
            }
            Forwarded::NotLed { id, partition, leader } => {
                let lead = self.lead(partition);
                forward.forwarder.borrow_mut().not_led(id, leader.map(node_of), lead, now_ns);
            }
        }
        self.core.wake();
    }

    /// Hands a request of another node's client to the shard here, if that leads.
    fn serve(&self, forward: &Forward, asked: Asked, kind: Kind, op: &[u8]) {
        let refuse = |leader| forward.refuse(&asked, leader);
        match self.lead(asked.partition) {
            Lead::There(node) => return refuse(Some(StorageId(node.0))),
            Lead::Nobody => return refuse(None),
            Lead::Here => {}
        }
        let overloaded =
            |why| self.send_answer(forward, &asked, &Reply::Rejected(Rejection::Overloaded(why)));
        let Some(Home::Here(index)) = self.home(asked.partition) else { return refuse(None) };
        // What changes the state goes through the log, whatever it is called.
        if kind == Kind::Read && !Op::decode(op).is_ok_and(|op| op.only_reads()) {
            return overloaded(answers::UNKNOWN_OPERATION);
        }
        if forward.answers_bytes(asked.node) >= ANSWERS_BYTES {
            return overloaded(answers::MANY_ANSWERS);
        }
        let Some(ticket) = forward.serving.borrow_mut().take(asked) else {
            return overloaded(answers::MANY_REQUESTS);
        };
        self.run_here(index, ticket, asked.partition, kind, op);
    }

    /// Sends the outcome of another node's request home.
    pub fn answer_node(&self, answer: Answer) {
        let forward = self.forward.as_ref().expect("such tickets are made by it");
        let asked = forward.serving.borrow_mut().done(answer.ticket);
        let leader = match &answer.reply {
            Reply::Rejected(Rejection::NotLeader(_, storage)) => Some(*storage),
            Reply::Rejected(
                Rejection::NoLeader(_) | Rejection::ReplicaStopped(..) | Rejection::NoPartition(_),
            ) => None,
            Reply::Done { .. } | Reply::Rejected(_) | Reply::Unknown => {
                return self.send_answer(forward, &asked, &answer.reply);
            }
        };
        forward.refuse(&asked, leader);
    }

    fn send_answer(&self, forward: &Forward, asked: &Asked, reply: &SessionReply) {
        let bytes = answers::encode(reply);
        *forward.answers.borrow_mut().entry(asked.node).or_default() += bytes.len();
        forward.outgoing.borrow_mut().extend(answer(asked, bytes.into()).map(|part| (asked.node, part)));
    }

    /// A request or an answer was certainly not sent. Of an answer, whoever waits for it hears that the connection has ended.
    pub fn unsent(&self, forwarded: &Forwarded) {
        if let Some(forward) = self.forward.as_ref().filter(|_| forwarded.is_request()) {
            forward.forwarder.borrow_mut().unsent(forwarded.id(), self.core.now().mono_ns);
            self.core.wake();
        }
    }

    /// A connection has ended that these requests were written to.
    pub fn severed(&self, requests: &[RequestId]) {
        if let Some(forward) = &self.forward {
            forward.forwarder.borrow_mut().severed(requests, self.core.now().mono_ns);
            self.core.wake();
        }
    }

    /// These nodes are connected now.
    pub fn note_reached(&self, nodes: impl Iterator<Item = NodeId>) {
        if let Some(forward) = &self.forward {
            let mut reached = forward.reached.borrow_mut();
            reached.clear();
            reached.extend(nodes);
        }
    }

    /// Goes on with what waits for other nodes; hands each outcome to `bring`.
    pub fn step_forwarded(&self, now: Now, mut bring: impl FnMut(Answer)) {
        let Some(forward) = &self.forward else { return };
        let mut bring_reply = |ticket, reply| bring(Answer { ticket, reply, timing: Timing::default() });
        for (ticket, why) in self.take_back(forward, now) {
            bring_reply(ticket, Reply::Rejected(why));
        }
        let known = Known { hosts: self, forward, is_for_any: false };
        forward.forwarder.borrow_mut().step(&known, now.mono_ns);
        loop {
            // What is done with one may need the others.
            let Some(decision) = forward.forwarder.borrow_mut().next_decision() else { return };
            match decision {
                Decision::Send { node, id, partition, conn, kind, op } => {
                    let request = Forwarded::Request { id, partition, conn, kind, op };
                    forward.outgoing.borrow_mut().push_back((node, request));
                }
                Decision::Run { handed, op } => {
                    let Handed { ticket, partition, kind, .. } = handed;
                    let Some(Home::Here(index)) = self.home(partition) else {
                        bring_reply(ticket, Reply::Rejected(Rejection::NoPartition(partition)));
                        continue;
                    };
                    forward.recent.borrow_mut().push(handed, &op);
                    self.run_here(index, ticket, partition, kind, &op);
                }
                Decision::Answer { ticket, kind, bytes } => {
                    // One that this release cannot read may be that of a write that was done.
                    let unread = match kind {
                        Kind::Write => Reply::Unknown,
                        Kind::Read | Kind::ReadAnywhere => {
                            Reply::Rejected(Rejection::Overloaded("answers that cannot be read"))
                        }
                    };
                    bring_reply(ticket, answers::decode(&bytes).unwrap_or(unread));
                }
                Decision::Redirect { ticket, partition, node } => {
                    let why = Rejection::NotLeader(partition, StorageId(node.0));
                    bring_reply(ticket, Reply::Rejected(why));
                }
                Decision::Reject { ticket, why } => bring_reply(ticket, Reply::Rejected(why)),
                Decision::Unknown { ticket } => bring_reply(ticket, Reply::Unknown),
            }
        }
    }

    /// Hands what is to be sent to `send`, which returns what there is no room for now: that is kept, with what is behind it
    /// for the same node.
    pub fn send_forwarded(&self, mut send: impl FnMut(NodeId, Forwarded) -> Result<(), Forwarded>) {
        let Some(forward) = &self.forward else { return };
        let (mut kept, mut full) = (VecDeque::new(), Vec::new());
        for (node, forwarded) in forward.outgoing.take() {
            let bytes = if let Forwarded::Answer { bytes, .. } = &forwarded { bytes.len() } else { 0 };
            let sent = if full.contains(&node) { Err(forwarded) } else { send(node, forwarded) };
            match sent {
                Ok(()) if bytes > 0 => {
                    *forward.answers.borrow_mut().get_mut(&node).expect("its answers are counted") -= bytes;
                }
                Ok(()) => {}
                Err(forwarded) => {
                    full.push(node);
                    kept.push_back((node, forwarded));
                }
            }
        }
        let mut outgoing = forward.outgoing.borrow_mut();
        kept.extend(outgoing.drain(..));
        *outgoing = kept;
    }

    /// When the next step has something to do, on the monotonic clock.
    pub(super) fn forward_next_ns(&self) -> Option<u64> {
        self.forward.as_ref().and_then(|forward| forward.forwarder.borrow().next_ns())
    }
}
