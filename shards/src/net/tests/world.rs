//! Nodes with cores and a network between them that delivers, cuts, loses and changes bytes as a test wants it.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::ids::{NodeId, ShardId, StorageId};
use crate::net::{ConnId, CoreId, Ending, Forwarded, Local, Output, PeerOptions, Peers, To};

pub(super) const MS: u64 = 1_000_000;

/// A core of a node, by both numbers.
pub(super) type At = (u64, u16);

/// One end of a connection: a core, and what that calls it.
pub(super) type End = (At, ConnId);

/// What a core did that is no business of the network's.
#[derive(Debug)]
pub(super) enum Event {
    Deliver { at: At, from: u64, message: Message },
    Unreachable { at: At, partition: u64, storage: u64 },
    Forwarded { at: At, from: u64, forwarded: Forwarded },
    Unsent { at: At, to: u64, forwarded: Forwarded },
    Severed { at: At, from: u64, requests: Vec<u64> },
    Closed { at: At, why: Ending },
}

pub(super) struct World {
    pub cores: BTreeMap<At, Peers>,
    pub now_ns: u64,
    pub events: Vec<Event>,
    /// The other end of each end; none: it was closed there, which is under way.
    pub wires: BTreeMap<End, Option<End>>,
    /// Bytes under way to an end.
    pub flying: BTreeMap<End, VecDeque<Bytes>>,
    /// Dials that the network has not answered.
    pub dials: VecDeque<(End, u64)>,
    /// Nodes that nobody reaches.
    pub dead: Vec<u64>,
    /// Whether ends take what they are given at once.
    pub takes: bool,
    /// What each node keeps durably of the incarnations of others.
    pub met: BTreeMap<(u64, u64), u64>,
    nonces: u8,
}

impl World {
    /// Nodes of two cores each.
    pub fn new(locals: impl IntoIterator<Item = Local>, options: PeerOptions) -> Self {
        let mut world = Self {
            cores: BTreeMap::new(),
            now_ns: 1_000 * MS,
            events: Vec::new(),
            wires: BTreeMap::new(),
            flying: BTreeMap::new(),
            dials: VecDeque::new(),
            dead: Vec::new(),
            takes: true,
            met: BTreeMap::new(),
            nonces: 0,
        };
        locals.into_iter().for_each(|local| world.start(local, options));
        world
    }

    /// A node starts, or another process of it does.
    pub fn start(&mut self, local: Local, options: PeerOptions) {
        let node = local.node.0;
        let ends: Vec<End> = self.wires.keys().copied().filter(|(at, _)| at.0 == node).collect();
        ends.into_iter().for_each(|end| self.cut(end));
        self.dials.retain(|((at, _), _)| at.0 != node);
        self.cores.retain(|at, _| at.0 != node);
        for core in 0..local.cores {
            let options = PeerOptions { seed: node * 100 + u64::from(core), ..options };
            self.cores.insert((node, core), Peers::new(local.clone(), CoreId(core), options));
        }
    }

    pub fn core(&mut self, at: At) -> &mut Peers {
        self.cores.get_mut(&at).expect("a core of the world")
    }

    /// Both ends hear that the connection is no more.
    pub fn cut(&mut self, end: End) {
        let now_ns = self.now_ns;
        self.flying.remove(&end);
        if let Some(other) = self.wires.remove(&end).flatten() {
            self.wires.remove(&other);
            self.flying.remove(&other);
            self.core(other.0).closed(other.1, now_ns);
        }
        if let Some(peers) = self.cores.get_mut(&end.0) {
            peers.closed(end.1, now_ns);
        }
    }

    pub fn nonce(&mut self) -> [u8; 32] {
        self.nonces = self.nonces.wrapping_add(1);
        [self.nonces; 32]
    }

    /// Does what the cores want to have done.
    pub fn act(&mut self) {
        let ats: Vec<At> = self.cores.keys().copied().collect();
        for at in ats {
            while let Some(output) = self.core(at).next_output() {
                self.perform(at, output);
                self.core(at).check();
            }
        }
    }

    fn perform(&mut self, at: At, output: Output) {
        let now_ns = self.now_ns;
        match output {
            Output::Dial { conn, node, .. } => self.dials.push_back(((at, conn), node.0)),
            Output::Write { conn, bytes } => {
                if let Some(Some(other)) = self.wires.get(&(at, conn)) {
                    self.flying.entry(*other).or_default().push_back(bytes);
                    if self.takes {
                        self.core(at).written(conn);
                    }
                }
            }
            Output::Close { conn, why, .. } => {
                self.events.push(Event::Closed { at, why });
                self.flying.remove(&(at, conn));
                if let Some(other) = self.wires.remove(&(at, conn)).flatten() {
                    // What was written before arrives, and then the end.
                    self.wires.insert(other, None);
                    self.flying.entry(other).or_default().push_back(Bytes::new());
                }
            }
            Output::Pass { conn, core, passed } => {
                let to = (at.0, core.0);
                let adopted = self.core(to).adopt(*passed, now_ns);
                let other = self.wires.remove(&(at, conn)).expect("it is connected");
                self.wires.insert((to, adopted), other);
                if let Some(wire) = other.and_then(|other| self.wires.get_mut(&other)) {
                    *wire = Some((to, adopted));
                }
                if let Some(flying) = self.flying.remove(&(at, conn)) {
                    self.flying.insert((to, adopted), flying);
                }
            }
            Output::Deliver { node, partition, message } => {
                assert!((1..=9).contains(&partition.0));
                self.events.push(Event::Deliver { at, from: node.0, message: *message });
            }
            Output::Unreachable { partition, to } => {
                self.events.push(Event::Unreachable { at, partition: partition.0, storage: to.0 });
            }
            Output::Forwarded { node, forwarded } => {
                self.events.push(Event::Forwarded { at, from: node.0, forwarded });
            }
            Output::Unsent { node, forwarded } => {
                self.events.push(Event::Unsent { at, to: node.0, forwarded });
            }
            Output::Severed { node, requests } => {
                let requests = requests.iter().map(|id| id.number).collect();
                self.events.push(Event::Severed { at, from: node.0, requests });
            }
            Output::Meet { node, incarnation } => {
                let kept = *self.met.entry((at.0, node.0)).or_insert(incarnation);
                self.core(at).met(node, kept);
            }
            Output::Seen { node, epoch } => {
                let others: Vec<At> =
                    self.cores.keys().copied().filter(|other| other.0 == at.0 && *other != at).collect();
                others.into_iter().for_each(|other| self.core(other).seen(node, epoch, now_ns));
            }
        }
    }

    /// Answers the oldest dial: on core 0 of the node, or not at all.
    pub fn answer_dial(&mut self) {
        let Some((end, node)) = self.dials.pop_front() else { return };
        let (now_ns, nonces) = (self.now_ns, (self.nonce(), self.nonce()));
        let accepting = (node, 0);
        if !self.cores.contains_key(&accepting) || self.dead.contains(&node) {
            return self.core(end.0).closed(end.1, now_ns);
        }
        if let Some(accepted) = self.core(accepting).accepted(nonces.0, now_ns) {
            self.wires.insert(end, Some((accepting, accepted)));
            self.wires.insert((accepting, accepted), Some(end));
            self.core(end.0).connected(end.1, nonces.1, now_ns);
        } else {
            self.core(end.0).closed(end.1, now_ns);
        }
    }

    /// Delivers the oldest bytes that are under way to an end, or the end of the connection.
    pub fn deliver(&mut self, end: End) {
        let now_ns = self.now_ns;
        let Some(bytes) = self.flying.get_mut(&end).and_then(VecDeque::pop_front) else { return };
        if bytes.is_empty() {
            self.wires.remove(&end);
            self.flying.remove(&end);
            self.core(end.0).closed(end.1, now_ns);
        } else {
            self.core(end.0).received(end.1, bytes, now_ns);
        }
    }

    /// Until nothing is under way any more.
    pub fn run(&mut self) {
        assert!((0..1_000).any(|_| !self.step()), "the network does not come to rest");
    }

    /// Has everybody send, and what was sent before come. Returns whether anything was under way.
    pub fn step(&mut self) -> bool {
        self.act();
        let now_ns = self.now_ns;
        self.cores.values_mut().for_each(|peers| peers.flush(now_ns));
        self.act();
        let ends: Vec<End> = self.flying.keys().copied().collect();
        if ends.is_empty() && self.dials.is_empty() {
            return false;
        }
        self.answer_dial();
        for end in ends {
            self.deliver(end);
            self.flying.retain(|_, flying| !flying.is_empty());
        }
        true
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now_ns += ms * MS;
        let now_ns = self.now_ns;
        self.cores.values_mut().for_each(|peers| peers.tick(now_ns));
        self.act();
    }

    /// Sends a heartbeat to a shard of a node.
    pub fn send(&mut self, at: At, to: (u64, u32), commit: u64) {
        let message = Message { commit, ..of(Kind::Heartbeat, (at.0, to.0), 3) };
        self.send_message(at, to, message);
    }

    pub fn send_message(&mut self, at: At, to: (u64, u32), message: Message) {
        let to = shard_of(to);
        let now_ns = self.now_ns;
        let partition = PartitionId(u64::from(to.shard.0) + 1);
        self.core(at).queue(to, Lane::Log, partition, message, now_ns).expect("peers may be sent it");
    }

    /// What was delivered since the last time: where, from whom, its commit.
    pub fn delivered(&mut self) -> Vec<(At, u64, u64)> {
        let events = std::mem::take(&mut self.events);
        let delivered = events.iter().filter_map(|event| match event {
            Event::Deliver { at, from, message, .. } => Some((*at, *from, message.commit)),
            _ => None,
        });
        let delivered = delivered.collect();
        self.events = events.into_iter().filter(|event| !matches!(event, Event::Deliver { .. })).collect();
        delivered
    }

    /// Who was reported as out of reach since the last time: by whom, the storage.
    pub fn unreachable(&mut self) -> Vec<(At, u64)> {
        let events = std::mem::take(&mut self.events);
        let found = events.iter().filter_map(|event| match event {
            Event::Unreachable { at, storage, partition } => {
                assert!((1..=9).contains(partition));
                Some((*at, *storage))
            }
            _ => None,
        });
        let found = found.collect();
        self.events =
            events.into_iter().filter(|event| !matches!(event, Event::Unreachable { .. })).collect();
        found
    }

    /// Why connections were closed since the last time, and by whom.
    pub fn endings(&mut self) -> Vec<(At, Ending)> {
        let events = std::mem::take(&mut self.events);
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Closed { at, why } => Some((at, why)),
                _ => None,
            })
            .collect()
    }
}

/// A shard of a node.
pub(super) fn shard_of((node, shard): (u64, u32)) -> To {
    To { node: NodeId(node), storage: StorageId(node + 100), shard: ShardId(shard) }
}
