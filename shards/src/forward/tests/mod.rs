//! One node that forwards, two that are asked, and a partition whose lead moves between the three and nobody, while connections
//! are severed, answers are late and processes start anew, at random. How it ends, and
//! what has to be true then: `judge`. What happens step by step: `steps`.

mod judge;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use corduroy_wal::mix::SplitMix64;

use super::*;
use crate::ids::{NodeId, PartitionId, StorageId, Ticket};
use crate::machine::Kind;
use crate::net::{Forwarded, RequestId};
use crate::rejection::Rejection;

const MS: u64 = 1_000_000;
const P: PartitionId = PartitionId(2);
const ME: NodeId = NodeId(1);

fn options() -> ForwardOptions {
    ForwardOptions { owed_requests: 6, ..ForwardOptions::of(ME, 77) }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    /// With what the log had then.
    Answered(usize),
    Rejected,
    Unknown,
}

/// A request that a replica has taken in and not carried out.
struct Held {
    name: (u64, u64),
    kind: Kind,
    /// For whom, if not for a client here.
    asked: Option<Asked>,
}

/// A node that is asked, and the connection to it.
#[derive(Default)]
struct Remote {
    serving: Serving,
    held: VecDeque<(Ticket, Held)>,
    to: VecDeque<Forwarded>,
    from: VecDeque<Forwarded>,
    owed: BTreeSet<RequestId>,
    /// Of connections that were severed: what may still come.
    ghosts: VecDeque<Forwarded>,
}

/// What is known here.
struct Known {
    lead: Lead,
    held: BTreeSet<u64>,
}

impl Here for Known {
    fn lead(&self, partition: PartitionId) -> Lead {
        assert_eq!(partition, P);
        self.lead
    }

    fn reaches(&self, node: NodeId) -> bool {
        node == NodeId(2)
    }

    fn holds(&self, _: PartitionId, conn: u64) -> bool {
        self.held.contains(&conn)
    }
}

struct World {
    forwarder: Forwarder,
    numbers: SplitMix64,
    now_ns: u64,
    /// Who leads.
    leader: Option<NodeId>,
    /// Who the replica here takes for the leader.
    known: Lead,
    /// What was carried out, in order.
    log: Vec<(u64, u64)>,
    remotes: BTreeMap<NodeId, Remote>,
    here: VecDeque<Held>,
    /// What the shard here had not logged when the lead left it, and has not given back.
    stuck: VecDeque<Held>,
    recent: Recent,
    taken_back: usize,
    /// All requests, by connection and number.
    asked: BTreeMap<(u64, u64), (Kind, Option<Ended>)>,
    /// Connections that are open, and all that are not.
    open: [u64; 3],
    ended: BTreeMap<u64, End>,
    /// In every other world clients end their connections.
    ends_conns: bool,
}

fn op_of(name: (u64, u64)) -> Vec<u8> {
    [name.0.to_le_bytes(), name.1.to_le_bytes()].concat()
}

fn name_of(op: &[u8]) -> (u64, u64) {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    (number(&op[..8]), number(&op[8..16]))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            forwarder: Forwarder::new(options()),
            numbers: SplitMix64::new(seed),
            now_ns: 1_000 * MS,
            leader: Some(NodeId(2)),
            known: Lead::There(NodeId(2)),
            log: Vec::new(),
            remotes: [NodeId(2), NodeId(3)].map(|node| (node, Remote::default())).into(),
            here: VecDeque::new(),
            stuck: VecDeque::new(),
            recent: Recent::default(),
            taken_back: 0,
            asked: BTreeMap::new(),
            open: [1, 2, 3],
            ended: BTreeMap::new(),
            ends_conns: seed % 2 == 1,
        }
    }

    fn below(&mut self, most: u64) -> u64 {
        self.numbers.next_u64() % most
    }

    fn remote(&mut self, node: NodeId) -> &mut Remote {
        self.remotes.get_mut(&node).unwrap()
    }

    fn ask(&mut self, conn: u64, kind: Kind) {
        let name = (conn, self.asked.range((conn, 0)..(conn + 1, 0)).count() as u64);
        self.asked.insert(name, (kind, None));
        let ticket = Ticket { conn, seq: name.1 };
        let may_redirect = self.below(20) == 0;
        let request = Request { ticket, partition: P, kind, may_redirect, op: &op_of(name) };
        let known = self.known();
        if self.forwarder.take(request, &known, self.now_ns) == Taken::Local {
            self.run_here(name, kind);
        }
    }

    /// The shard here takes a request in, if its replica leads.
    fn run_here(&mut self, name: (u64, u64), kind: Kind) {
        match self.leader {
            Some(ME) => {
                let until_ns = self.now_ns + 10_000 * MS;
                let ticket = Ticket { conn: name.0, seq: name.1 };
                let handed = Handed { ticket, partition: P, kind, may_redirect: false, until_ns };
                self.recent.push(handed, &op_of(name));
                self.here.push_back(Held { name, kind, asked: None });
            }
            _ => self.end(name, Ended::Rejected),
        }
    }

    fn end(&mut self, name: (u64, u64), ended: Ended) {
        let (_, before) = self.asked.get_mut(&name).expect("it was asked for");
        assert_eq!(before.replace(ended), None, "{name:?} ends twice, now {ended:?}");
    }

    /// A client ends its connection, and opens another one.
    fn end_conn(&mut self, end: End) {
        let next = 1 + self.open.iter().max().unwrap();
        let at = self.below(3) as usize;
        let conn = std::mem::replace(&mut self.open[at], next);
        self.ended.insert(conn, end);
        self.forwarder.end_conn(conn, end, self.now_ns);
        self.act();
    }

    /// Nothing is begun of a connection that is closed.
    fn see_begun(&self, conn: u64) {
        assert_ne!(self.ended.get(&conn), Some(&End::Closed), "a request of connection {conn} is begun");
    }

    fn act(&mut self) {
        self.forwarder.check();
        while let Some(decision) = self.forwarder.next_decision() {
            match decision {
                Decision::Send { node, id, partition, conn, kind, op } => {
                    assert_ne!(node, ME);
                    self.see_begun(conn);
                    let remote = self.remote(node);
                    remote.owed.insert(id);
                    remote.to.push_back(Forwarded::Request { id, partition, conn, kind, op });
                }
                Decision::Run { handed, op } => {
                    assert_eq!(handed.partition, P);
                    self.see_begun(handed.ticket.conn);
                    self.run_here(name_of(&op), handed.kind);
                }
                Decision::Answer { ticket, bytes, .. } => {
                    let name = (ticket.conn, ticket.seq);
                    let ended = match <[u8; 8]>::try_from(&bytes[..]) {
                        Ok(length) => Ended::Answered(u64::from_le_bytes(length) as usize),
                        Err(_) => Ended::Rejected,
                    };
                    self.end(name, ended);
                }
                Decision::Redirect { ticket, partition, node } => {
                    assert_eq!((partition, node), (P, NodeId(2)), "the other one is not reached");
                    self.end((ticket.conn, ticket.seq), Ended::Rejected);
                }
                Decision::Reject { ticket, why } => {
                    assert!(matches!(why, Rejection::NoLeader(P) | Rejection::Overloaded(_)), "{why}");
                    self.end((ticket.conn, ticket.seq), Ended::Rejected);
                }
                Decision::Unknown { ticket } => {
                    let name = (ticket.conn, ticket.seq);
                    assert_eq!(self.asked[&name].0, Kind::Write, "{name:?}");
                    self.end(name, Ended::Unknown);
                }
            }
        }
    }

    fn step(&mut self) {
        let known = self.known();
        self.forwarder.step(&known, self.now_ns);
        self.act();
    }

    // ---- The nodes that are asked ----

    /// A node takes in the next request that has come to it.
    fn arrive(&mut self, node: NodeId, forwarded: Forwarded) {
        let Forwarded::Request { id, partition, conn, kind, op } = forwarded else { panic!("a request") };
        let leader = self.leader;
        let names = self.below(3) > 0;
        let remote = self.remote(node);
        if leader == Some(node) {
            let asked = Asked { node: ME, id, partition, conn };
            let ticket = remote.serving.take(asked).expect("few are under way");
            remote.held.push_back((ticket, Held { name: name_of(&op), kind, asked: Some(asked) }));
        } else {
            let leader = leader.filter(|_| names).map(|node| StorageId(node.0));
            remote.from.push_back(Forwarded::NotLed { id, partition, leader });
        }
    }

    /// The leader carries out the oldest request that it has.
    fn carry_out(&mut self, node: NodeId) {
        let next = match node {
            ME => self.here.pop_front().map(|held| (None, held)),
            node => self.remote(node).held.pop_front().map(|(ticket, held)| (Some(ticket), held)),
        };
        if let Some((ticket, held)) = next {
            let found = self.log.len();
            if held.kind == Kind::Write {
                assert!(!self.log.contains(&held.name), "{:?} is carried out twice", held.name);
                self.log.push(held.name);
            }
            self.reply(node, ticket, held, Some(found));
        }
    }

    /// `found`: what the log had then; `None`: it was certainly not done, and it was logged.
    fn reply(&mut self, node: NodeId, ticket: Option<Ticket>, held: Held, found: Option<usize>) {
        let Some(ticket) = ticket else {
            return self.end(held.name, found.map_or(Ended::Rejected, Ended::Answered));
        };
        let remote = self.remote(node);
        let asked = remote.serving.done(ticket);
        assert_eq!(Some(asked), held.asked);
        let bytes = match found {
            Some(found) => Bytes::copy_from_slice(&(found as u64).to_le_bytes()),
            None => Bytes::from_static(b"no"),
        };
        remote.from.extend(answer(&asked, bytes));
    }

    /// Requests that a replica has taken in and not carried out.
    fn held(&self, node: NodeId) -> u64 {
        let held = if node == ME { self.here.len() } else { self.remotes[&node].held.len() };
        held as u64
    }

    /// The lead moves. What the old leader has logged is carried out, up to some point; the rest is not, and what it had not
    /// logged is refused.
    fn move_lead(&mut self, to: Option<NodeId>) {
        let old = std::mem::replace(&mut self.leader, to).filter(|old| Some(*old) != to);
        if to == Some(ME) {
            // It logs what it had gathered before, and not given back.
            self.here.append(&mut self.stuck);
        }
        let Some(old) = old else { return };
        let count = self.held(old);
        let mut logged = self.below(count + 1);
        let mut kept = self.below(logged + 1);
        let mut parked = Vec::new();
        while self.held(old) > 0 {
            let is_read = match old {
                ME => self.here[0].kind,
                old => self.remote(old).held[0].1.kind,
            } == Kind::Read;
            if kept > 0 && !is_read {
                self.carry_out(old);
            } else if old == ME {
                let held = self.here.pop_front().unwrap();
                match (logged > 0, is_read) {
                    (true, false) => self.end(held.name, Ended::Rejected),
                    // It is parked, and given back at once.
                    (true, true) => parked.push(held),
                    (false, _) => self.stuck.push_back(held),
                }
            } else {
                let (ticket, held) = self.remote(old).held.pop_front().unwrap();
                if logged > 0 && !is_read {
                    self.reply(old, Some(ticket), held, None);
                } else {
                    let remote = self.remote(old);
                    let Asked { id, partition, .. } = remote.serving.done(ticket);
                    remote.from.push_back(Forwarded::NotLed { id, partition, leader: None });
                }
            }
            (kept, logged) = (kept.saturating_sub(1), logged.saturating_sub(1));
        }
        self.give_back(parked);
    }

    /// The shard here gives back what it has not carried out. It goes elsewhere, where nothing behind it was kept.
    fn give_back(&mut self, given_back: Vec<Held>) {
        let ticket_of = |held: &Held| Ticket { conn: held.name.0, seq: held.name.1 };
        let recalled = self.recent.recall(&given_back.iter().map(ticket_of).collect());
        assert_eq!(recalled.len(), given_back.len(), "all of it is recent");
        for Recalled { handed, op, is_last } in recalled {
            let op = op.expect("it is short");
            if is_last && self.forwarder.take_back(handed, op, self.now_ns) {
                self.taken_back += 1;
            } else {
                self.end((handed.ticket.conn, handed.ticket.seq), Ended::Rejected);
            }
        }
    }

    fn known(&self) -> Known {
        let held = self.here.iter().chain(&self.stuck).map(|held| held.name.0).collect();
        Known { lead: self.known, held }
    }

    /// A connection ends: of what was on its way some was not written, some comes later, some never.
    fn sever(&mut self, node: NodeId) {
        let written = self.below(self.remotes[&node].to.len() as u64 + 1) as usize;
        let now_ns = self.now_ns;
        let remote = self.remote(node);
        let unsent = remote.to.split_off(written);
        unsent.iter().for_each(|forwarded| _ = remote.owed.remove(&forwarded.id()));
        let mut lost: VecDeque<Forwarded> = remote.to.drain(..).collect();
        let mut late: VecDeque<Forwarded> = remote.from.drain(..).collect();
        for forwarded in unsent {
            self.forwarder.unsent(forwarded.id(), now_ns);
        }
        // What was put on the wire before, and is owed.
        let owed: Vec<RequestId> = std::mem::take(&mut self.remote(node).owed).into_iter().collect();
        self.forwarder.severed(&owed, now_ns);
        let kept = self.below(lost.len() as u64 + 1) as usize;
        lost.truncate(kept);
        let kept = self.below(late.len() as u64 + 1) as usize;
        late.truncate(kept);
        let remote = self.remote(node);
        remote.ghosts.extend(lost);
        remote.ghosts.extend(late);
    }

    fn hear(&mut self, forwarded: Forwarded) {
        self.remotes.values_mut().for_each(|remote| _ = remote.owed.remove(&forwarded.id()));
        let (known, now_ns) = (self.known, self.now_ns);
        match forwarded {
            Forwarded::Answer { id, is_last, bytes, .. } => self.forwarder.answered(id, is_last, bytes),
            Forwarded::NotLed { id, leader, .. } => {
                self.forwarder.not_led(id, leader.map(|storage| NodeId(storage.0)), known, now_ns);
            }
            Forwarded::Request { .. } => panic!("nobody forwards to here"),
        }
    }

    fn anything(&mut self) {
        let node = NodeId(2 + self.below(2));
        match self.below(40) {
            0..=9 => {
                let conn = self.open[self.below(3) as usize];
                let kind = if self.below(3) == 0 { Kind::Read } else { Kind::Write };
                self.ask(conn, kind);
            }
            10..=17 => {
                if let Some(next) = self.remote(node).to.pop_front() {
                    self.arrive(node, next);
                }
            }
            18..=25 => {
                if let Some(next) = self.remote(node).from.pop_front() {
                    self.hear(next);
                }
            }
            26..=32 => {
                if let Some(leader) = self.leader {
                    self.carry_out(leader);
                }
            }
            33 => {
                let to = [None, Some(ME), Some(NodeId(2)), Some(NodeId(3))][self.below(4) as usize];
                self.move_lead(to);
            }
            34 => {
                let to =
                    [Lead::Nobody, Lead::There(NodeId(2)), Lead::There(NodeId(3))][self.below(3) as usize];
                self.known = to;
            }
            35 if self.below(3) == 0 => self.sever(node),
            36 => match self.remote(node).ghosts.pop_front() {
                Some(request @ Forwarded::Request { .. }) => self.arrive(node, request),
                Some(late) => self.hear(late),
                None => {}
            },
            37 => self.now_ns += self.below(400) * MS,
            39 if self.ends_conns && self.below(3) == 0 => {
                let end = [End::Announced, End::Closed][self.below(2) as usize];
                self.end_conn(end);
            }
            38 => {
                // It learns that another one leads only then, or that the lead is its own again.
                let count = self.below(self.stuck.len() as u64 + 1) as usize;
                let given_back = self.stuck.drain(..count).collect();
                self.give_back(given_back);
            }
            _ => self.now_ns += MS,
        }
        // A replica knows that it leads, and no other does.
        self.known = match (self.leader, self.known) {
            (Some(ME), _) => Lead::Here,
            (_, Lead::Here) => Lead::Nobody,
            (_, known) => known,
        };
        self.act();
        self.step();
    }
}

#[test]
fn whatever_happens_each_request_ends_once_in_its_order_and_is_done_at_most_once() {
    let mut sum = ForwardCounters::default();
    let (mut done, mut taken_back, mut ended, mut open_taken) = (0, 0, 0, 0);
    for seed in 0..600 {
        let mut world = World::new(seed);
        (0..400).for_each(|_| world.anything());
        world.calm();
        world.judge();
        assert_eq!(world.forwarder.requests(), 0, "seed {seed}");
        let of = world.forwarder.counters();
        sum.taken += of.taken;
        sum.not_led += of.not_led;
        match world.ends_conns {
            true => ended += world.ended.len(),
            false => (open_taken, sum.rejected) = (open_taken + of.taken, sum.rejected + of.rejected),
        }
        sum.unknown += of.unknown;
        sum.late += of.late;
        sum.redirected += of.redirected;
        done += world.log.len();
        taken_back += world.taken_back;
    }
    assert!(sum.taken > 30_000 && done > 20_000, "{sum:?}, {done} done");
    assert!(sum.not_led > 5_000 && sum.unknown > 500 && sum.late > 500, "{sum:?}");
    assert!(taken_back > 500 && sum.redirected > 500, "{taken_back} taken back, {sum:?}");
    assert!(sum.rejected * 10 < open_taken, "few are refused where no connection ends: {sum:?}");
    assert!(ended > 500, "{ended} connections ended");
}
