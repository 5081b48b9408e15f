//! The way to the replicas of other nodes: which requests go there, which come from there, and what comes of both.
//!
//! Invariant: whose request it is, is known from its ticket's connection alone: those of other nodes' clients name a core that
//! no node has. What another node has sent is carried out here or refused, and never sent on.

use std::collections::{HashSet, VecDeque};

use corduroy_shards::forward::{Asked, Decision, FORWARDED_CORE, Handed, Lead, Request, Taken, answer};
use corduroy_shards::ids::NodeId;
use corduroy_shards::net::Forwarded;
use corduroy_shards::{Kind, Now, PartitionId, Rejection, Reply, StorageId, Ticket};

use super::forward::Forward;
use super::{Home, Hosts};
use crate::node::answers;
use crate::node::core::core_of_conn;
use crate::node::ledger::COUNTED_OUTCOME_BYTES;
use crate::node::message::Answer;
use crate::resp::{SessionReply, Timing};
use crate::store::Op;

/// How long a request may wait for a leader: as long as in a shard.
const WAIT_NS: u64 = 10_000_000_000;

/// What the ledger counts of an answer to another node, until the connection has it.
fn counted_bytes(forwarded: &Forwarded) -> usize {
    match forwarded {
        Forwarded::Answer { bytes, .. } if bytes.len() >= COUNTED_OUTCOME_BYTES => bytes.len(),
        Forwarded::Answer { .. } | Forwarded::Request { .. } | Forwarded::NotLed { .. } => 0,
    }
}

/// The node that a storage is of: each has one, of its own number.
const fn node_of(storage: StorageId) -> NodeId {
    NodeId(storage.0)
}

impl Forward {
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

impl Hosts {
    /// Who leads a partition of this core, as far as its replica here knows. One that is fenced or alone is its own to refuse.
    fn lead(&self, partition: PartitionId) -> Lead {
        let Some(Home::Here(index)) = self.home(partition) else { return Lead::Here };
        let host = self.all.get(index).expect("homes name shards of this core");
        let shard = host.shard.borrow();
        let Some(replica) = shard.replica(partition).filter(|replica| replica.has_peers()) else {
            return Lead::Here;
        };
        match replica.other_leader() {
            Some(storage) => Lead::There(node_of(storage)),
            None if replica.leadership().is_mine() || replica.ready_error().is_some() => Lead::Here,
            None => Lead::Nobody,
        }
    }

    /// Takes a request of a client of this node, unless the shard here is to carry it out.
    pub(super) fn take_forwarded(&self, forward: &Forward, request: Request<'_>) -> Taken {
        let Request { ticket, partition, may_redirect, op, .. } = request;
        // What any member may answer is answered here, unless something of its connection is under way elsewhere. Should the member
        // here give it back, the leader is asked.
        let is_for_leader = request.kind != Kind::ReadAnywhere;
        let lead = if is_for_leader { self.lead(partition) } else { Lead::Here };
        let kind = request.kind.by_leader();
        let request = Request { kind, ..request };
        if let Lead::There(node) = lead
            && may_redirect
            && forward.reaches(node)
        {
            self.decide(ticket, Rejection::NotLeader(partition, StorageId(node.0)));
            return Taken::Yes;
        }
        let now_ns = self.core.now().mono_ns;
        let taken = forward.forwarder.borrow_mut().take(request, lead, now_ns);
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
        let mut given_back = forward.given_back.take();
        // The newest first: each goes before those behind it.
        given_back.sort_unstable_by_key(|(ticket, _)| std::cmp::Reverse((ticket.conn, ticket.seq)));
        let all: HashSet<Ticket> = given_back.iter().map(|(ticket, _)| *ticket).collect();
        let (recent, mut forwarder) = (forward.recent.borrow(), forward.forwarder.borrow_mut());
        let mut is_kept = |ticket: Ticket, why: &Rejection| {
            let Some((handed, op)) = recent.find(ticket) else { return false };
            // What the replica here refuses though it is the one to be asked, nobody else is asked for.
            let is_final = self.lead(handed.partition) == Lead::Here;
            let follows = matches!(why, Rejection::NotLeader(_, storage)
                if handed.may_redirect && forward.reaches(node_of(*storage)));
            let is_last = recent.behind(handed).all(|behind| all.contains(&behind));
            !is_final && !follows && is_last && forwarder.take_back(handed, op, now.mono_ns)
        };
        given_back.retain(|(ticket, why)| !is_kept(*ticket, why));
        given_back.into_iter().map(|(ticket, why)| (ticket, forward.checked(why))).collect()
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
        let refuse = |leader| {
            let Asked { node, id, partition, .. } = asked;
            forward.outgoing.borrow_mut().push_back((node, Forwarded::NotLed { id, partition, leader }));
        };
        match self.lead(asked.partition) {
            Lead::There(node) => return refuse(Some(StorageId(node.0))),
            Lead::Nobody => return refuse(None),
            Lead::Here => {}
        }
        // What changes the state goes through the log, whatever it is called.
        let is_known = kind == Kind::Write || Op::decode(op).is_ok_and(|op| op.only_reads());
        let ticket = if is_known { forward.serving.borrow_mut().take(asked) } else { None };
        let why = if is_known { "requests of the shard" } else { "operations that this release knows" };
        let Some(Home::Here(index)) = self.home(asked.partition).filter(|_| ticket.is_some()) else {
            let refusal = Reply::Rejected(Rejection::Overloaded(why));
            return self.send_answer(forward, &asked, &refusal);
        };
        let ticket = ticket.expect("it was just looked at");
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
        let Asked { node, id, partition, .. } = asked;
        forward.outgoing.borrow_mut().push_back((node, Forwarded::NotLed { id, partition, leader }));
    }

    fn send_answer(&self, forward: &Forward, asked: &Asked, reply: &SessionReply) {
        let parts = answer(asked, answers::encode(reply).into());
        for part in parts {
            self.core.shared.ledger.send_outcome(counted_bytes(&part));
            forward.outgoing.borrow_mut().push_back((asked.node, part));
        }
    }

    /// A request or an answer was certainly not sent. Of an answer, whoever waits for it hears that the connection has ended.
    pub fn unsent(&self, forwarded: &Forwarded) {
        if let Some(forward) = self.forward.as_ref().filter(|_| forwarded.is_request()) {
            forward.forwarder.borrow_mut().unsent(forwarded.id(), self.core.now().mono_ns);
            self.core.wake();
        }
    }

    /// A connection for requests to a node has ended.
    pub fn severed(&self, node: NodeId) {
        if let Some(forward) = &self.forward {
            forward.forwarder.borrow_mut().severed(node, self.core.now().mono_ns);
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
        let reaches = |node| forward.reaches(node);
        forward.forwarder.borrow_mut().step(|partition| self.lead(partition), reaches, now.mono_ns);
        loop {
            // What is done with one may need the others.
            let Some(decision) = forward.forwarder.borrow_mut().next_decision() else { return };
            match decision {
                Decision::Send { node, id, partition, conn, kind, op } => {
                    let request = Forwarded::Request { id, partition, conn, kind, op };
                    forward.outgoing.borrow_mut().push_back((node, request));
                }
                Decision::Run { ticket, partition, kind, op } => match self.home(partition) {
                    Some(Home::Here(index)) => self.run_here(index, ticket, partition, kind, &op),
                    Some(Home::There(_)) | None => self.decide(ticket, Rejection::NoPartition(partition)),
                },
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
        let (mut kept, mut full, mut is_relieved) = (VecDeque::new(), Vec::new(), false);
        let ledger = &self.core.shared.ledger;
        for (node, forwarded) in forward.outgoing.take() {
            let bytes = counted_bytes(&forwarded);
            let sent = if full.contains(&node) { Err(forwarded) } else { send(node, forwarded) };
            match sent {
                Ok(()) => is_relieved |= bytes > 0 && ledger.take_outcome(bytes),
                Err(forwarded) => {
                    full.push(node);
                    kept.push_back((node, forwarded));
                }
            }
        }
        let mut outgoing = forward.outgoing.borrow_mut();
        kept.extend(outgoing.drain(..));
        *outgoing = kept;
        if is_relieved {
            self.core.shared.bells.iter().for_each(|bell| bell.ring());
        }
    }

    /// When the next step has something to do, on the monotonic clock.
    pub(super) fn forward_next_ns(&self) -> Option<u64> {
        self.forward.as_ref().and_then(|forward| forward.forwarder.borrow().next_ns())
    }
}
