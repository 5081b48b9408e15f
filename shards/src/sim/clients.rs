//! The clients: each keeps a few requests open with a node, thinks, and goes on, with another node where that one died or
//! just so; and the directed questions at the end of a run.
//!
//! A connection's numbers never repeat in a world, so an outcome that belongs to an earlier incarnation is known at once.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ids::{PartitionId, Ticket};
use crate::machine::{Kind, StateMachine};
use crate::shard::io::{Input, Rejection, Reply};
use crate::sim::mail::node_of;
use crate::sim::node::SimNode;
use crate::sim::shown::Shown;
use crate::sim::swarm::{Knobs, MS};
use crate::sim::workload::{Sent, Subject, stamp};
use crate::sim::world::{Common, Happening, World};

/// A client's connection to a node.
#[derive(Clone, Copy, Default, Debug)]
struct Conn {
    /// Requests without an outcome.
    open: u64,
    /// The next request's number.
    seq: u64,
}

/// One client.
#[derive(Clone, Debug)]
struct Client {
    /// One to each node.
    conns: Vec<Conn>,
    /// The node that it asks at present.
    node: usize,
    /// Who leads partitions, as far as it knows.
    leaders: BTreeMap<PartitionId, usize>,
}

/// All clients of a world.
#[derive(Debug)]
pub(super) struct Clients {
    clients: Vec<Client>,
    /// The client that asks the directed questions.
    auditor: Client,
    left: u64,
    /// Until when all clients only read of a partition, ns.
    read_only_until_ns: BTreeMap<PartitionId, u64>,
    /// Outcomes of the directed questions that were not done.
    refused: Vec<(PartitionId, String)>,
}

impl Clients {
    pub(super) fn new(knobs: &Knobs) -> Self {
        let nodes = knobs.node_count();
        let client = |number: usize| Client {
            conns: vec![Conn::default(); nodes],
            node: number % nodes,
            leaders: BTreeMap::new(),
        };
        let count = usize::try_from(knobs.connections).expect("few clients");
        let clients = (0..count).map(client).collect();
        let (auditor, left, read_only_until_ns) = (client(0), knobs.requests, BTreeMap::new());
        Self { clients, auditor, left, read_only_until_ns, refused: Vec::new() }
    }

    /// Nobody writes to a partition until then.
    pub(super) fn only_read(&mut self, partition: PartitionId, until_ns: u64) {
        self.read_only_until_ns.insert(partition, until_ns);
    }

    fn only_reads(&self, partition: PartitionId, now_ns: u64) -> bool {
        self.read_only_until_ns.get(&partition).is_some_and(|until_ns| now_ns < *until_ns)
    }

    pub(super) const fn count(&self) -> usize {
        self.clients.len()
    }

    pub(super) const fn finished(&self) -> bool {
        self.left == 0
    }

    /// Sends nothing more.
    pub(super) const fn finish(&mut self) {
        self.left = 0;
    }

    fn client(&mut self, client: u64) -> &mut Client {
        let client = usize::try_from(client).ok().and_then(|at| self.clients.get_mut(at));
        client.unwrap_or(&mut self.auditor)
    }

    /// A client asks the next node from now on.
    fn move_on(&mut self, client: u64) {
        let client = self.client(client);
        client.node = (client.node + 1) % client.conns.len();
    }

    /// Who leads a partition, as far as a client knows.
    fn leader(&mut self, client: u64, partition: PartitionId) -> Option<usize> {
        self.client(client).leaders.get(&partition).copied()
    }

    /// A client learns who leads a partition, or that it has to look for that.
    fn note_leader(&mut self, client: u64, partition: PartitionId, leader: Option<usize>) {
        let leaders = &mut self.client(client).leaders;
        match leader {
            Some(node) => drop(leaders.insert(partition, node)),
            None => drop(leaders.remove(&partition)),
        }
    }

    fn conn(&mut self, conn: u64) -> &mut Conn {
        let (client, node) = parts(conn);
        let conn = self.client(client).conns.get_mut(node);
        conn.expect("every client has a connection to each node")
    }

    /// Whether all directed questions have their outcomes.
    fn is_audit_answered(&self) -> bool {
        self.auditor.conns.iter().all(|conn| conn.open == 0)
    }

    /// How many requests a client may add to those that it has open with a node.
    fn room(&mut self, client: u64, node: usize, pipeline: u64) -> u64 {
        pipeline.saturating_sub(self.conn(conn(client, node)).open)
    }

    /// A node's process died, and with it all connections to it.
    pub(super) fn cut_off(&mut self, node: usize) {
        for client in self.clients.iter_mut().chain([&mut self.auditor]) {
            client.conns.iter_mut().skip(node).take(1).for_each(|conn| conn.open = 0);
        }
    }

    /// A request of `conn` has ended.
    fn ended(&mut self, conn: u64, sent: &Sent, refusal: Option<String>) {
        let open = &mut self.conn(conn).open;
        *open = open.saturating_sub(1);
        if parts(conn).0 == AUDITOR {
            self.refused.extend(refusal.map(|why| (sent.partition, why)));
        }
    }
}

/// The name of a client's connection to a node.
const fn conn(client: u64, node: usize) -> u64 {
    (node as u64) << 16 | client
}

/// The client and the node of a connection.
const fn parts(conn: u64) -> (u64, usize) {
    (conn & 0xffff, (conn >> 16) as usize)
}

/// The client of the directed questions.
const AUDITOR: u64 = 0xffff;

impl<S: Subject> World<S> {
    /// A client's turn: it sends a burst and thinks.
    pub(super) fn client_send(&mut self, client: usize) {
        let Self { nodes, common: world } = self;
        if world.clients.left == 0 {
            return;
        }
        let think_ns = world.streams.workload.heavy(world.plan.knobs.think_ns);
        world.agenda.put(world.now_ns + think_ns, Happening::ClientSend { client });
        let (client, several) = (client as u64, nodes.len() > 1);
        let home = world.clients.client(client).node;
        let is_serving = |nodes: &[SimNode<S>], node| nodes.get(node).is_some_and(SimNode::is_serving);
        if !is_serving(nodes, home) || (several && world.streams.moves.chance(50)) {
            return world.clients.move_on(client);
        }
        let pipeline = world.plan.knobs.pipeline;
        let room = world.clients.room(client, home, pipeline);
        let burst = world.streams.workload.between(1, room.max(1)).min(room).min(world.clients.left);
        // A burst mostly goes to one partition, so that reads ride behind writes.
        let Some(mut partition) = world.draw_partition() else { return };
        for _ in 0..burst {
            if world.streams.workload.chance(200) {
                partition = world.draw_partition().unwrap_or(partition);
            }
            // Some ask whoever is near, whether or not it leads.
            let is_anywhere = several && world.streams.anywhere.chance(200);
            let node = if several && !is_anywhere { world.draw_node(client, partition) } else { home };
            if several && !(is_serving(nodes, node) && world.clients.room(client, node, pipeline) > 0) {
                world.clients.note_leader(client, partition, None);
                continue;
            }
            if let Some(node) = nodes.get_mut(node) {
                node.request(world, client, partition, is_anywhere);
            }
        }
    }
}

impl<S: Subject> SimNode<S> {
    /// The first client asks it for something, if it runs and there is room for that.
    pub(super) fn asked_by_a_client(&mut self, world: &mut Common<S>, partition: PartitionId) {
        let pipeline = world.plan.knobs.pipeline;
        if self.is_serving() && world.clients.left > 0 && world.clients.room(0, self.number, pipeline) > 0 {
            self.request(world, 0, partition, false);
        }
    }

    /// A client sends it a request.
    fn request(&mut self, world: &mut Common<S>, client: u64, partition: PartitionId, is_anywhere: bool) {
        world.clients.left -= 1;
        let id = world.books.borrow_mut().new_request();
        let now_ms = self.clock.now(world.now_ns).wall_ms;
        let only_reads = world.clients.only_reads(partition, world.now_ns);
        let quiet = only_reads.then(|| Knobs { reads_per_mille: 1000, ..world.plan.knobs.clone() });
        let knobs = quiet.as_ref().unwrap_or(&world.plan.knobs);
        let books = world.books.borrow();
        let (kind, op) = books.subject().request(&mut world.streams.workload, knobs, id, now_ms);
        drop(books);
        let kind = if is_anywhere && kind.is_read() { Kind::ReadAnywhere } else { kind };
        self.send(world, conn(client, self.number), id, partition, kind, &op);
    }

    pub(super) fn send(
        &mut self,
        world: &mut Common<S>,
        conn: u64,
        id: u64,
        partition: PartitionId,
        kind: Kind,
        op: &[u8],
    ) {
        let shard = world.shard_of(partition);
        let counts = world.clients.conn(conn);
        let ticket = Ticket { conn, seq: counts.seq };
        counts.seq += 1;
        counts.open += 1;
        world.note(if kind == Kind::Write { "write" } else { "read" }, partition.0, conn, ticket.seq);
        let (node, at_ns, shown) = (self.number, world.now_ns, Shown::default());
        world.books.borrow_mut().sent(ticket, Sent { id, partition, node, kind, at_ns, shown });
        let op = stamp(id, op);
        // As a session does: only where nothing of the connection is under way. Some go the long way all the same.
        if kind.is_read()
            && world.streams.workload.chance(700)
            && world.clients.conn(conn).open == 1
            && !self.is_paused(world.now_ns)
            && self.read_now(world, ticket, partition, id, (kind, &op))
        {
            return;
        }
        self.with_shard(shard, |shard| shard.handle(Input::Request { ticket, partition, kind, op: &op }));
        self.turn_soon(world, shard);
    }

    /// The short way of a read: answered at once, if the shard can. Returns whether it was.
    fn read_now(
        &mut self,
        world: &mut Common<S>,
        ticket: Ticket,
        partition: PartitionId,
        id: u64,
        (kind, op): (Kind, &[u8]),
    ) -> bool {
        let shard = world.shard_of(partition);
        let now = self.clock.now(world.now_ns);
        world.books.borrow_mut().set_now(self.number, now);
        let books = Rc::clone(&world.books);
        let answer = self.with_shard(shard, |shard| {
            let seen = |view: <S::Machine as StateMachine>::View<'_>| books.borrow().subject().seen(&view);
            shard.read_now(partition, ticket.conn, (kind, op), now, seen)
        });
        let Some(outcome) = answer.flatten() else { return false };
        let lsn = world.books.borrow().read_outcome(id).map(|(lsn, _)| lsn).unwrap_or_default();
        world.probe("reads answered at once");
        if world.plan.knobs.nodes > 1 {
            world.probe(match kind {
                Kind::ReadAnywhere => "reads answered at once anywhere",
                Kind::Read | Kind::Write => "reads answered at once under a lease",
            });
        }
        world.reply(ticket, &Reply::Done { lsn, outcome });
        true
    }
}

impl<S: Subject> Common<S> {
    /// The node that a client asks for a partition: mostly the one that leads it, as far as the client knows.
    fn draw_node(&mut self, client: u64, partition: PartitionId) -> usize {
        let home = self.clients.client(client).node;
        let known = self.clients.leader(client, partition);
        known.filter(|_| !self.streams.moves.chance(30)).unwrap_or(home)
    }

    /// What a client learns from a reply about who leads the partition.
    fn learn(&mut self, ticket: Ticket, partition: PartitionId, reply: &Reply<S::Outcome>) {
        let (client, node) = parts(ticket.conn);
        match reply {
            Reply::Done { .. } => self.clients.note_leader(client, partition, Some(node)),
            Reply::Rejected(Rejection::NotLeader(_, leader)) => {
                self.clients.note_leader(client, partition, node_of(*leader));
            }
            Reply::Rejected(
                Rejection::NoLeader(_) | Rejection::NoPartition(_) | Rejection::ReplicaStopped(..),
            )
            | Reply::Unknown => {
                self.clients.note_leader(client, partition, None);
                self.clients.move_on(client);
            }
            Reply::Rejected(_) => {}
        }
    }

    /// An outcome has come.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: &Reply<S::Outcome>) {
        let (what, detail, refusal) = match reply {
            Reply::Done { lsn, .. } => ("done", lsn.get(), None),
            Reply::Rejected(reason) => {
                self.probe(reason_name(reason));
                if matches!(reason, Rejection::Damaged(..)) && !self.is_state_damaged {
                    self.broken("only what is damaged is called so", reason.to_string());
                }
                ("rejected", 0, Some(reason.to_string()))
            }
            Reply::Unknown => ("unknown", 0, Some("unknown".to_owned())),
        };
        self.note(what, ticket.conn, ticket.seq, detail);
        let sent = self.books.borrow_mut().replied(ticket, reply);
        if let Some(sent) = sent {
            self.clients.ended(ticket.conn, &sent, refusal);
            self.learn(ticket, sent.partition, reply);
        }
    }
}

impl<S: Subject> World<S> {
    /// Asks for each of `partitions` one question and waits for the answers: of the node that is known to lead it, else of
    /// `home`. Returns those that did not say "done", or `None` if the run is over.
    pub(super) fn ask_all(
        &mut self,
        home: usize,
        partitions: &[PartitionId],
        question: impl Fn(&S, u64) -> (Kind, Vec<u8>),
    ) -> Option<Vec<(PartitionId, String)>> {
        self.common.clients.refused.clear();
        for &partition in partitions {
            let id = self.common.books.borrow_mut().new_request();
            let (kind, op) = question(self.common.books.borrow().subject(), id);
            let is_serving = |node: &usize| self.nodes.get(*node).is_some_and(SimNode::is_serving);
            let node = self.common.clients.leader(AUDITOR, partition).filter(is_serving).unwrap_or(home);
            if let Some(asked) = self.nodes.get_mut(node) {
                asked.send(&mut self.common, conn(AUDITOR, node), id, partition, kind, &op);
            }
        }
        let answered = |world: &Self| world.common.clients.is_audit_answered();
        let alive = self.pump(self.common.now_ns + 60_000 * MS, answered);
        if alive && !answered(self) {
            let oldest = self.common.books.borrow().oldest().copied();
            self.common.broken(
                "every request is answered",
                format!("{oldest:?} is open after a minute without faults"),
            );
            return None;
        }
        alive.then(|| std::mem::take(&mut self.common.clients.refused))
    }
}

/// The probe that counts a rejection.
const fn reason_name(reason: &crate::shard::io::Rejection) -> &'static str {
    use crate::shard::io::Rejection as R;
    match reason {
        R::NoPartition(_) => "rejected: no partition",
        R::Overloaded(_) => "rejected: overloaded",
        R::DiskFull => "rejected: disk full",
        R::NoLeader(_) => "rejected: no leader",
        R::NotLeader(..) => "rejected: not the leader",
        R::Obsoleted => "rejected: obsoleted",
        R::ReplicaStopped(..) => "rejected: replica stopped",
        R::Damaged(..) => "rejected: damaged",
        R::Unreadable(..) => "rejected: unreadable",
        R::TooLarge { .. } => "rejected: too large",
        R::Refused(..) => "rejected: refused",
    }
}
