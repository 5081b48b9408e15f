//! Several members of one group, each a shard of its own over a memory disk, and a network that does what it is told.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use corduroy_shards::ids::NodeId;
use corduroy_shards::raft::membership::{MemberId, Membership, StorageId};
use corduroy_shards::{
    Change, ChangeRefusal, ImageOptions, Input, Kind, Limits, MemberOutcome, MemberRequest, Origin,
    PartitionId, PeerMessage, ReplicaStatus, Role, ShardOptions, Ticket,
};
use corduroy_wal::{Lsn, Options};

use crate::common::{Got, P, World};

/// What happens to a message on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Arrives,
    Lost,
    Twice,
    /// It arrives with what is sent next, behind that.
    Late,
}

pub struct Cluster {
    pub worlds: Vec<World>,
    pub is_up: Vec<bool>,
    /// Nodes whose replicas may be stopped.
    pub may_stop: BTreeSet<usize>,
    /// Directed links that carry nothing.
    pub cut: BTreeSet<(usize, usize)>,
    /// Messages under way, with their senders.
    pub under_way: VecDeque<(usize, PeerMessage)>,
    late: Vec<(usize, PeerMessage)>,
    pub delivered: u64,
    seq: u64,
}

pub fn storage(node: usize) -> StorageId {
    StorageId(100 + node as u64)
}

fn node_of(storage: StorageId) -> usize {
    usize::try_from(storage.0 - 100).expect("a node's number")
}

pub fn options(node: usize) -> ShardOptions {
    let mut images = ImageOptions::default();
    images.process.node = NodeId(1 + node as u64);
    ShardOptions {
        storage: storage(node),
        reaches_peers: true,
        images,
        limits: Limits { second_frame_bytes: 0, ..Limits::default() },
        ..ShardOptions::default()
    }
}

impl Cluster {
    pub fn new(members: usize) -> Self {
        Self::with(members, options, Options { segment_bytes: 1 << 20, ..Options::default() })
    }

    pub fn with(members: usize, options: impl Fn(usize) -> ShardOptions, wal: Options) -> Self {
        let founders: Vec<_> = (0..members).map(|node| (MemberId(1 + node as u64), storage(node))).collect();
        let world = |node| World::of(options(node), wal, vec![(P, Origin::Found(founders.clone()))]);
        Self {
            worlds: (0..members).map(world).collect(),
            is_up: vec![true; members],
            may_stop: BTreeSet::new(),
            cut: BTreeSet::new(),
            under_way: VecDeque::new(),
            late: Vec::new(),
            delivered: 0,
            seq: 0,
        }
    }

    /// A cluster that has a leader; returns who it is.
    pub fn led(members: usize) -> (Self, usize) {
        let mut cluster = Self::new(members);
        let leader = cluster.elect();
        (cluster, leader)
    }

    pub fn nodes(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.worlds.len()
    }

    /// Both directions between a node and all others.
    pub fn isolate(&mut self, node: usize) {
        for other in self.nodes().filter(|other| *other != node) {
            self.cut.extend([(node, other), (other, node)]);
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// The process of a node dies; its disk keeps what it must, or all.
    pub fn kill(&mut self, node: usize) {
        self.is_up[node] = false;
        self.under_way.retain(|(from, _)| *from != node);
    }

    pub fn start(&mut self, node: usize, is_power_loss: bool) {
        self.worlds[node].restart(is_power_loss);
        self.is_up[node] = true;
    }

    /// A turn of each node that is up; what they send is under way.
    pub fn turn(&mut self) {
        for node in self.nodes().filter(|node| self.is_up[*node]).collect::<Vec<_>>() {
            self.turn_of(node);
        }
    }

    pub fn turn_of(&mut self, node: usize) {
        let world = &mut self.worlds[node];
        world.turn();
        assert!(world.fenced.is_empty() || self.may_stop.contains(&node), "{node}: {:?}", world.fenced);
        self.under_way.extend(world.out.messages.drain(..).map(|message| (node, message)));
    }

    /// What is under way arrives, but for what is cut or `way` says otherwise of.
    pub fn deliver(&mut self, mut way: impl FnMut(usize, usize, &PeerMessage) -> Way) {
        let late = std::mem::take(&mut self.late);
        for (from, sent) in std::mem::take(&mut self.under_way).into_iter().chain(late) {
            let to = node_of(sent.to);
            let is_cut = self.cut.contains(&(from, to)) || !self.is_up.get(to).is_some_and(|is_up| *is_up);
            let times = match way(from, to, &sent) {
                _ if is_cut => 0,
                Way::Late => {
                    self.late.push((from, sent));
                    continue;
                }
                Way::Lost => 0,
                Way::Arrives => 1,
                Way::Twice => 2,
            };
            for _ in 0..times {
                self.delivered += 1;
                let (partition, message) = (sent.partition, Box::new(sent.message.clone()));
                let input = Input::Message { partition, from: storage(from), message };
                self.worlds[to].shard.handle(input);
            }
        }
    }

    /// Time goes on by the clocks of all, and nothing else happens.
    pub fn wait(&mut self, ms: u64) {
        for world in &mut self.worlds {
            world.now.mono_ns += ms * 1_000_000;
            world.now.wall_ms += ms;
        }
    }

    /// Time goes on by the clocks of all, 50 ms at a time, and everything that can be done is done.
    pub fn pass(&mut self, ms: u64) {
        self.pass_for(0..self.worlds.len(), ms);
    }

    /// The same by the clocks of some.
    pub fn pass_for(&mut self, nodes: Range<usize>, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            for world in &mut self.worlds[nodes.clone()] {
                world.now.mono_ns += 50_000_000;
                world.now.wall_ms += 50;
            }
            self.rest();
        }
    }

    /// Turns until nobody has anything to say.
    pub fn rest(&mut self) {
        for _ in 0..2_000 {
            self.turn();
            let is_busy = |node: usize| {
                let world = &self.worlds[node];
                self.is_up[node] && (world.out.again || world.shard.wal().in_flight() > 0)
            };
            if self.under_way.is_empty() && !self.nodes().any(is_busy) {
                return;
            }
            self.deliver(|_, _, _| Way::Arrives);
        }
        panic!("the group does not come to rest");
    }

    /// Time goes on, and the jobs of all nodes that are up are run.
    pub fn work(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.pass(50);
            self.run_jobs();
        }
    }

    pub fn run_jobs(&mut self) {
        for node in self.nodes().filter(|node| self.is_up[*node]).collect::<Vec<_>>() {
            self.worlds[node].run_jobs();
        }
        self.rest();
    }

    /// A new node, whose replica joins the group that `leader` leads.
    pub fn join(&mut self, member: MemberId, leader: usize) -> usize {
        let node = self.worlds.len();
        let known = self.status(leader).leader.expect("it leads");
        let origin = Origin::Join { member, leader: (known, storage(leader)) };
        let options = ShardOptions { storage: storage(node), ..self.worlds[leader].options };
        let mut world = World::of(options, self.worlds[leader].wal_options, vec![(P, origin)]);
        world.now = self.worlds[leader].now;
        self.worlds.push(world);
        self.is_up.push(true);
        node
    }

    /// Lets time pass until somebody that others hear leads; returns who.
    pub fn elect(&mut self) -> usize {
        for _ in 0..100 {
            self.pass(100);
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody leads: {:?}", self.nodes().map(|node| self.status(node)).collect::<Vec<_>>());
    }

    /// Who leads in the highest term, and has applied something of it.
    pub fn leader(&self) -> Option<usize> {
        let up = self.nodes().filter(|node| self.is_up[*node]);
        let leads = |node: &usize| {
            let status = self.status(*node);
            status.role == Role::Leader && status.applied == status.last
        };
        let highest = self.nodes().filter(|node| self.is_up[*node]).map(|node| self.status(node).term).max();
        up.filter(leads).find(|node| Some(self.status(*node).term) == highest)
    }

    pub fn status(&self, node: usize) -> ReplicaStatus {
        self.worlds[node].shard.replicas().next().expect("there is one")
    }

    fn ask(&mut self, node: usize, kind: Kind, op: &str) -> Ticket {
        self.seq += 1;
        let ticket = Ticket { conn: 1000 + self.seq, seq: self.seq };
        self.worlds[node].request(P, ticket.conn, ticket.seq, kind, op);
        ticket
    }

    pub fn write(&mut self, node: usize, op: &str) -> Ticket {
        self.ask(node, Kind::Write, op)
    }

    pub fn read(&mut self, node: usize, op: &str) -> Ticket {
        self.ask(node, Kind::Read, op)
    }

    /// A read that any member may answer.
    pub fn read_anywhere(&mut self, node: usize, op: &str) -> Ticket {
        self.ask(node, Kind::ReadAnywhere, op)
    }

    /// Asks for a change of the members.
    pub fn change(&mut self, node: usize, changes: &[Change]) -> Ticket {
        self.ask_about_members(node, MemberRequest::Change(changes.to_vec()))
    }

    /// Asks for the lead to be handed on.
    pub fn transfer(&mut self, node: usize, to: MemberId) -> Ticket {
        self.ask_about_members(node, MemberRequest::Transfer(to))
    }

    /// Asks about the members.
    pub fn ask_about_members(&mut self, node: usize, request: MemberRequest) -> Ticket {
        self.seq += 1;
        let ticket = Ticket { conn: 1000 + self.seq, seq: self.seq };
        self.worlds[node].shard.handle(Input::Members { ticket, partition: P, request });
        ticket
    }

    /// The one outcome of such a request; `None` if it has none yet.
    pub fn outcome(&self, node: usize, ticket: Ticket) -> Option<MemberOutcome> {
        let mut outcomes = self.worlds[node].members.iter().filter(|(of, _)| *of == ticket);
        let outcome = outcomes.next().map(|(_, outcome)| *outcome);
        assert_eq!(outcomes.next(), None, "a request has one outcome");
        outcome
    }

    /// Has a change made, and lets the others learn of it. Returns its entry.
    pub fn make(&mut self, node: usize, changes: &[Change]) -> Lsn {
        let ticket = self.change(node, changes);
        self.pass(300);
        match self.outcome(node, ticket) {
            Some(MemberOutcome::Done(lsn)) => lsn,
            other => panic!("{changes:?} at {node}: {other:?}"),
        }
    }

    /// Why a change is refused.
    pub fn refusal(&mut self, node: usize, changes: &[Change]) -> ChangeRefusal {
        let ticket = self.change(node, changes);
        self.rest();
        match self.outcome(node, ticket) {
            Some(MemberOutcome::Rejected(why)) => why,
            other => panic!("{changes:?} at {node}: {other:?}"),
        }
    }

    /// The configuration that a node's disk has.
    pub fn saved(&self, node: usize) -> Membership {
        let state = self.worlds[node].shard.wal().log_state(P.log()).expect("it has a log");
        Membership::decode(&state.conf.expect("it has a configuration")).expect("it can be read")
    }

    pub fn got(&self, node: usize, ticket: Ticket) -> Option<Got> {
        self.worlds[node].got(ticket.conn, ticket.seq)
    }

    /// Writes at the leader, and has it acknowledged.
    pub fn put(&mut self, node: usize, op: &str) {
        let ticket = self.write(node, op);
        self.rest();
        assert!(matches!(self.got(node, ticket), Some(Got::Done(..))), "{op}: {:?}", self.got(node, ticket));
    }

    pub fn value(&mut self, node: usize, op: &str) -> String {
        let ticket = self.read(node, op);
        self.rest();
        match self.got(node, ticket) {
            Some(Got::Done(_, value)) => value,
            other => panic!("{op} at {node}: {other:?}"),
        }
    }

    /// What a node has applied: LSNs and operations.
    pub fn history(&self, node: usize) -> Vec<(u64, String)> {
        self.worlds[node].part().history
    }

    /// No two nodes have applied different things.
    pub fn check(&self) {
        for node in self.nodes() {
            self.worlds[node].check_history();
            let (one, other) = (self.history(0), self.history(node));
            let common = one.len().min(other.len());
            assert_eq!(one[..common], other[..common], "nodes 0 and {node} have applied the same");
        }
    }

    /// All nodes have applied the same, which is returned.
    pub fn check_same(&self) -> Vec<(u64, String)> {
        let first = self.history(0);
        for node in self.nodes() {
            assert_eq!(self.history(node), first, "node {node} has applied what node 0 has");
        }
        first
    }
}

/// The partition that all of them have.
pub const PARTITION: PartitionId = P;
