//! The requests of a core's clients for partitions that other nodes lead: which node is asked, when, and what is answered
//! where no answer comes.
//!
//! Invariant: each request taken in has exactly one outcome. It is carried out at most once: it is sent again only after it
//! was certainly not done. What waits is bounded in number, bytes and time. What a connection asks of a partition keeps its
//! order, also where the lead moves, to this node or from it. Once a connection has ended, nothing of it is begun that had to
//! wait for a leader: others may have written since, and its client takes it for lost.

mod outcomes;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};

use super::decisions::{Decision, ForwardCounters, ForwardOptions, Here, Lead, Request, Taken};
use super::ended::Ended;
use super::line::{Fate, Item, Line, State};
use super::recent::Handed;
use crate::ids::{NodeId, PartitionId};
use crate::net::RequestId;
use crate::rejection::Rejection;

/// How often deadlines are looked at while there is anything, in ns.
const LOOK_NS: u64 = 50_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// A connection and a partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct LineKey {
    conn: u64,
    partition: PartitionId,
}

/// What a node said of the lead of a partition.
#[derive(Clone, Copy, Debug)]
struct Hint {
    leader: NodeId,
    /// What the replica here knew then: once it knows better, that counts.
    known: Lead,
    until_ns: u64,
}

/// A partition with lines.
#[derive(Debug, Default)]
struct Partition {
    /// Connections that have something to be sent, in the order of the numbers that they have got for it.
    waiting: BTreeMap<u64, u64>,
    last_listed: u64,
    lines: usize,
    hint: Option<Hint>,
    /// What the replica here knew of the lead last.
    known: Option<Lead>,
    /// Where its lines went last.
    route: Option<Lead>,
    /// Nothing is sent before.
    not_before_ns: u64,
}

/// What waits, or is owed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Load {
    requests: usize,
    bytes: usize,
}

impl Load {
    const fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn sub(&mut self, bytes: usize) {
        assert!(self.requests > 0 && self.bytes >= bytes, "{self:?} does not hold {bytes} bytes");
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct Forwarder {
    options: ForwardOptions,
    lines: HashMap<LineKey, Line>,
    partitions: HashMap<PartitionId, Partition>,
    /// The lines of requests that were sent, by their numbers.
    sent: HashMap<u64, LineKey>,
    owed: HashMap<NodeId, Load>,
    held: Load,
    next_number: u64,
    decisions: VecDeque<Decision>,
    counters: ForwardCounters,
    look_at_ns: u64,
    ended: Ended,
    /// Something of a connection that has ended may wait for a leader.
    may_wait_ended: bool,
}

impl Forwarder {
    /// One without requests.
    #[must_use]
    pub fn new(options: ForwardOptions) -> Self {
        Self {
            options,
            lines: HashMap::new(),
            partitions: HashMap::new(),
            sent: HashMap::new(),
            owed: HashMap::new(),
            held: Load::default(),
            next_number: 0,
            decisions: VecDeque::new(),
            counters: ForwardCounters::default(),
            look_at_ns: 0,
            ended: Ended::default(),
            may_wait_ended: false,
        }
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> &ForwardCounters {
        &self.counters
    }

    /// Requests without an outcome.
    #[must_use]
    pub const fn requests(&self) -> usize {
        self.held.requests
    }

    /// What is to be done next, in order.
    pub fn next_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Takes a request in, unless the shard here is to carry it out.
    pub fn take(&mut self, request: Request<'_>, here: &impl Here, now_ns: u64) -> Taken {
        let Request { ticket, partition, kind, may_redirect, op } = request;
        let key = LineKey { conn: ticket.conn, partition };
        let has_line = !self.lines.is_empty() && self.lines.contains_key(&key);
        if !has_line && here.lead(partition) == Lead::Here {
            return Taken::Local;
        }
        if self.is_full(op.len()) {
            self.reject(ticket, Rejection::Overloaded("requests for other nodes"));
            return Taken::Yes;
        }
        let item = Item {
            ticket,
            kind,
            may_redirect,
            op: Bytes::copy_from_slice(op),
            until_ns: now_ns + self.options.wait_ms * NS_PER_MS,
            state: State::Waiting,
            is_overtaken: false,
            parts: Vec::new(),
        };
        self.insert(key, item, 0, now_ns);
        self.may_wait_ended |= self.ended.holds(key.conn);
        Taken::Yes
    }

    /// Takes in a request that the shard here has given back undone, since it leads no more: in front of what its connection has
    /// asked since. Returns whether it may still be done: not if something behind it was sent already, nor if the connection has
    /// ended.
    #[must_use]
    pub fn take_back(&mut self, handed: Handed, op: Bytes, now_ns: u64) -> bool {
        let Handed { ticket, partition, kind, may_redirect, until_ns } = handed;
        let key = LineKey { conn: ticket.conn, partition };
        let line = self.lines.get(&key);
        let is_behind = |item: &&Item| item.ticket.seq > ticket.seq;
        let behind = line.map_or(0, |line| line.items.iter().rev().take_while(is_behind).count());
        let newest = line.into_iter().flat_map(|line| line.items.iter().rev()).take(behind);
        let is_overtaken = newest.into_iter().any(|item| item.state != State::Waiting);
        if is_overtaken || until_ns <= now_ns || self.is_full(op.len()) || self.ended.holds(key.conn) {
            self.give_up(key);
            return false;
        }
        let state = State::Waiting;
        let (is_overtaken, parts) = (false, Vec::new());
        let item = Item { ticket, kind, may_redirect, op, until_ns, state, is_overtaken, parts };
        self.insert(key, item, behind, now_ns);
        true
    }

    fn is_full(&self, op_bytes: usize) -> bool {
        let (held, options) = (self.held, &self.options);
        held.requests > 0 && (held.requests >= options.requests || held.bytes + op_bytes > options.bytes)
    }

    /// Puts a request into its line, before the newest so many.
    fn insert(&mut self, key: LineKey, item: Item, behind: usize, now_ns: u64) {
        if self.held.requests == 0 {
            self.look_at_ns = now_ns + LOOK_NS;
        }
        self.held.add(item.op.len());
        self.counters.taken += 1;
        let partition = self.partitions.entry(key.partition).or_default();
        let line = self.lines.entry(key).or_insert_with(|| {
            partition.lines += 1;
            Line { is_behind_shard: true, ..Line::default() }
        });
        line.items.insert(line.items.len() - behind, item);
        list(line, partition, key.conn);
    }

    // ---- What comes of what was sent ----

    /// An answer has come, or the next part of one.
    pub fn answered(&mut self, id: RequestId, is_last: bool, bytes: Bytes) {
        let limit = self.options.answer_bytes;
        let Some((key, item)) = self.numbered(id) else { return };
        let item = item.expect("what is numbered is in its line");
        if item.parts.len() + bytes.len() > limit {
            // No node that works sends as much: what became of the request is not known.
            return self.lose_one(key, id.number);
        }
        if !is_last {
            return item.parts.extend_from_slice(&bytes);
        }
        let bytes = match std::mem::take(&mut item.parts) {
            parts if parts.is_empty() => bytes,
            mut parts => {
                parts.extend_from_slice(&bytes);
                parts.into()
            }
        };
        let line = self.lines.get_mut(&key).expect("it has the request");
        let item = line.answered(id.number).expect("it has the request");
        self.counters.answered += 1;
        self.decisions.push_back(Decision::Answer { ticket: item.ticket, kind: item.kind, bytes });
        self.forget(&item);
        self.review(key);
    }

    /// A node that was asked does not lead; `leader`: who does, as far as it knows. `lead`: what the replica here knows.
    pub fn not_led(&mut self, id: RequestId, leader: Option<NodeId>, lead: Lead, now_ns: u64) {
        let Some((key, item)) = self.numbered(id) else { return };
        let asked = item.expect("what is numbered is in its line").node();
        self.counters.not_led += 1;
        let options = &self.options;
        let until_ns = now_ns + options.hint_ms * NS_PER_MS;
        let leader = leader.filter(|leader| Some(*leader) != asked && *leader != options.node);
        let hint = leader.map(|leader| Hint { leader, known: lead, until_ns });
        let partition = self.partitions.get_mut(&key.partition).expect("it has the line");
        let old = std::mem::replace(&mut partition.hint, hint);
        // Two nodes that name each other are not asked by turns without a pause.
        if hint.is_none() || old.is_some_and(|old| old.until_ns > now_ns) {
            self.pause(key.partition, now_ns);
        }
        self.refuse(key, id.number);
    }

    /// A request was certainly not sent.
    pub fn unsent(&mut self, id: RequestId, now_ns: u64) {
        let Some((key, _)) = self.numbered(id) else { return };
        let partition = self.partitions.get_mut(&key.partition).expect("it has the line");
        partition.hint = None;
        self.pause(key.partition, now_ns);
        self.refuse(key, id.number);
    }

    /// The connection has ended that these were written to: they may have come, or not, and will not be answered.
    pub fn severed(&mut self, requests: &[RequestId], now_ns: u64) {
        let numbers = requests.iter().filter(|id| id.process == self.options.process).map(|id| id.number);
        let lost: HashSet<u64> = numbers.filter(|number| self.sent.contains_key(number)).collect();
        let keys: HashSet<LineKey> =
            lost.iter().filter_map(|number| self.sent.get(number)).copied().collect();
        for key in keys {
            self.pause(key.partition, now_ns);
            let is_lost =
                |item: &Item| matches!(item.state, State::Sent { number, .. } if lost.contains(&number));
            self.lose(key, is_lost);
        }
    }

    /// Nothing of a partition is sent for a while: what waits in it of connections that have ended is to be given up.
    fn pause(&mut self, id: PartitionId, now_ns: u64) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.not_before_ns = now_ns + self.options.again_ms * NS_PER_MS;
            self.may_wait_ended = true;
        }
    }

    // ---- What goes on ----

    /// Sends what waits and may go, by what the replicas here know of the lead, or redirects it to a node that is reached; ends
    /// what takes too long. To be called once a turn, and when [`Forwarder::next_ns`] says so.
    pub fn step(&mut self, here: &impl Here, now_ns: u64) {
        if self.held.requests == 0 {
            return;
        }
        let waiting = self.partitions.iter().filter(|(_, partition)| !partition.waiting.is_empty());
        let waiting: Vec<PartitionId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.send_waiting(id, here, now_ns);
        }
        self.may_wait_ended = false;
        if self.look_at_ns <= now_ns {
            self.look_at_ns = now_ns + LOOK_NS;
            self.look(here, now_ns);
        }
    }

    /// When the next step has something to do at the latest.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let again = self.partitions.values().filter(|partition| !partition.waiting.is_empty());
        let again = again.map(|partition| partition.not_before_ns).filter(|at_ns| *at_ns > 0);
        (self.held.requests > 0).then(|| again.fold(self.look_at_ns, u64::min))
    }

    fn send_waiting(&mut self, id: PartitionId, here: &impl Here, now_ns: u64) {
        let (node, known) = (self.options.node, here.lead(id));
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let hint = partition.hint.filter(|hint| hint.until_ns > now_ns && hint.known == known);
        partition.hint = hint;
        let route = match (known, hint) {
            (Lead::Here, _) | (_, None) => known,
            (Lead::There(_) | Lead::Nobody, Some(hint)) => Lead::There(hint.leader),
        };
        let is_news = partition.known.replace(known) != Some(known);
        if is_news || partition.not_before_ns <= now_ns {
            partition.not_before_ns = 0;
        }
        let is_new_route = partition.route.replace(route) != Some(route);
        if route == Lead::Nobody || partition.not_before_ns > now_ns {
            if is_new_route || self.may_wait_ended {
                let ended = partition.waiting.values().copied().filter(|conn| self.ended.holds(*conn));
                let ended: Vec<u64> = ended.collect();
                ended.into_iter().for_each(|conn| self.give_up(LineKey { conn, partition: id }));
            }
            return;
        }
        assert!(route != Lead::There(node), "node {node} does not forward to itself");
        for conn in std::mem::take(&mut partition.waiting).into_values() {
            let key = LineKey { conn, partition: id };
            let Some(line) = self.lines.get_mut(&key) else { continue };
            line.listed = None;
            line.is_behind_shard = line.is_behind_shard && here.holds(id, conn);
            self.redirect(key, route, here);
            self.send_line(key, route, now_ns);
        }
    }

    /// Sends what waits in a line, as far as it may go; what may not waits on.
    fn send_line(&mut self, key: LineKey, route: Lead, now_ns: u64) {
        let Some(line) = self.lines.get_mut(&key) else { return };
        let to = match route {
            Lead::There(node) => Some(node),
            Lead::Here | Lead::Nobody => None,
        };
        // Until others have answered, nothing behind that goes elsewhere.
        let may_go = line.may_send() && !line.is_owed_elsewhere(to);
        let is_behind_shard = line.is_behind_shard;
        match to {
            Some(node) if may_go && !is_behind_shard => self.send_to(key, node, now_ns),
            None if may_go => return self.run(key),
            // It waits for others than the leader.
            Some(_) | None => self.give_up(key),
        }
        let Some(line) = self.lines.get_mut(&key) else { return };
        let partition = self.partitions.get_mut(&key.partition).expect("it has the line");
        list(line, partition, key.conn);
    }

    /// Has the clients of what may go ask a leader themselves that is reached.
    fn redirect(&mut self, key: LineKey, route: Lead, here: &impl Here) {
        let Lead::There(node) = route else { return };
        let Some(line) = self.lines.get_mut(&key) else { return };
        let may_go = line.may_send() && !line.is_owed_elsewhere(Some(node)) && !line.is_behind_shard;
        if !may_go || !here.reaches(node) {
            return;
        }
        for item in line.take_redirected() {
            self.counters.redirected += 1;
            self.held.sub(item.op.len());
            let (ticket, partition) = (item.ticket, key.partition);
            self.decisions.push_back(Decision::Redirect { ticket, partition, node });
        }
        if self.lines.get(&key).is_some_and(|line| line.items.is_empty()) {
            self.remove(key);
        }
    }

    fn send_to(&mut self, key: LineKey, node: NodeId, now_ns: u64) {
        let options = &self.options;
        let line = self.lines.get_mut(&key).expect("it has something to be sent");
        let owed = self.owed.entry(node).or_default();
        for item in line.items.iter_mut().filter(|item| item.state == State::Waiting) {
            let is_within =
                owed.requests < options.owed_requests && owed.bytes + item.op.len() <= options.owed_bytes;
            if !is_within && owed.requests > 0 {
                return;
            }
            owed.add(item.op.len());
            self.next_number += 1;
            let number = self.next_number;
            item.state = State::Sent { node, number, until_ns: now_ns + options.answer_ms * NS_PER_MS };
            self.sent.insert(number, key);
            self.counters.sent += 1;
            self.decisions.push_back(Decision::Send {
                node,
                id: RequestId { process: options.process, number },
                partition: key.partition,
                conn: key.conn,
                kind: item.kind,
                op: item.op.clone(),
            });
        }
    }

    /// This node leads, and no other owes anything: all of the line is for the shard here.
    fn run(&mut self, key: LineKey) {
        let line = self.remove(key);
        for item in line.items {
            self.held.sub(item.op.len());
            let Item { ticket, kind, may_redirect, op, until_ns, .. } = item;
            let handed = Handed { ticket, partition: key.partition, kind, may_redirect, until_ns };
            self.decisions.push_back(Decision::Run { handed, op });
        }
    }

    fn remove(&mut self, key: LineKey) -> Line {
        let line = self.lines.remove(&key).expect("there is such a line");
        let partition = self.partitions.get_mut(&key.partition).expect("it has the line");
        partition.lines -= 1;
        if let Some(number) = line.listed {
            partition.waiting.remove(&number);
        }
        if partition.lines == 0 {
            self.partitions.remove(&key.partition);
        }
        line
    }

    /// Ends what takes too long.
    fn look(&mut self, here: &impl Here, now_ns: u64) {
        let keys: Vec<LineKey> = self.lines.keys().copied().collect();
        for key in keys {
            let hint = self.partitions.get(&key.partition).and_then(|partition| partition.hint);
            let leader = match (here.lead(key.partition), hint) {
                (Lead::Here, _) | (Lead::Nobody, None) => None,
                (Lead::There(node), None) => Some(node),
                (Lead::There(_) | Lead::Nobody, Some(hint)) => Some(hint.leader),
            };
            let stray_ns = self.options.stray_ms * NS_PER_MS;
            let line = self.lines.get_mut(&key).expect("nothing was removed but lines looked at");
            line.stray_since_ns = match line.is_owed_elsewhere(leader) {
                true => line.stray_since_ns.or(Some(now_ns)),
                false => None,
            };
            let is_stray = line.stray_since_ns.is_some_and(|since_ns| since_ns + stray_ns <= now_ns);
            let (mut over, mut is_delayed) = (Vec::new(), false);
            self.change_owed(key, |line| {
                if is_stray {
                    let lost = line.lose(|item| item.node().is_some_and(|node| Some(node) != leader));
                    over.extend(lost.into_iter().map(|item| (item, Fate::Unknown)));
                }
                over.extend(line.expire(now_ns));
                is_delayed = !over.is_empty() || line.refused > 0;
            });
            for (item, fate) in over {
                self.end(key, item, fate);
            }
            if is_delayed {
                self.give_up(key);
            }
            self.review(key);
        }
    }
}

/// Lets a line wait among those of its partition, if it has something to be sent.
fn list(line: &mut Line, partition: &mut Partition, conn: u64) {
    if line.listed.is_none() && line.may_send() {
        partition.last_listed += 1;
        line.listed = Some(partition.last_listed);
        partition.waiting.insert(partition.last_listed, conn);
    }
}
