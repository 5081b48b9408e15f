//! The books of a world: what clients were answered and what was applied for them, and the judgement of everything that follows.
//!
//! Invariant: a request is at most once in one log; what a reply says agrees with what was applied; what was rejected has
//! no effect, ever. Each partition's entries are judged by its history. The first thing that breaks one of these is kept
//! as the run's [`Violation`]; nothing after it is judged.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use corduroy_wal::{Lsn, Term};

use crate::clock::Now;
use crate::ids::{PartitionId, Ticket};
use crate::image::Header;
use crate::machine::{Applied, Kind};
use crate::raft::replica::StartedAs;
use crate::shard::io::Reply;
use crate::sim::history::{Broken, History, ReadRecord};
use crate::sim::pace::Pace;
use crate::sim::probes::Probes;
use crate::sim::shown::Shown;
use crate::sim::swarm::{Class, Knobs};
use crate::sim::workload::{Sent, Subject};

const LOGS_ARE_KEPT: &str = "logs are kept for members that lag behind";

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name: one of a small fixed set.
    pub invariant: &'static str,
    /// What was found, where.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Where a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    Open,
    Done,
    Rejected,
    Unknown,
}

/// What is known of one node's running process.
#[derive(Default)]
struct NodeBooks {
    /// Whether its logs are kept by Raft groups.
    replicated: bool,
    /// Its clocks, and what its partitions' clocks make of them.
    now: Now,
    pace: Pace,
}

/// The books.
pub struct Books<S: Subject> {
    subject: S,
    partitions: BTreeMap<PartitionId, History<S>>,
    nodes: Vec<NodeBooks>,
    fates: Vec<Fate>,
    positions: HashMap<u64, (PartitionId, Lsn)>,
    reads: HashMap<u64, ReadRecord<S::Outcome>>,
    outstanding: BTreeMap<(u64, u64), Sent>,
    last_done: HashMap<(u64, PartitionId), u64>,
    violation: Option<Violation>,
    /// Installs that machines were asked for since somebody looked.
    pub installs_asked: u64,
    /// How old a state may be that reads see which may be answered anywhere, in ns of the world's time.
    stale_ns: u64,
    /// Whether groups of one may get company.
    may_grow: bool,
    /// Whether a member of a group may be left as the only one.
    may_be_left: bool,
    /// Whether logs have all that a member may lack.
    keeps_all: bool,
    /// What was met.
    pub probes: Probes,
}

impl<S: Subject> Books<S> {
    /// Books of a world with so many nodes, each with a replica of each of these partitions.
    pub fn new(subject: S, partitions: impl Iterator<Item = PartitionId>, nodes: usize) -> Self {
        Self {
            partitions: partitions.map(|id| (id, History::new(id, &subject, nodes))).collect(),
            nodes: (0..nodes).map(|_| NodeBooks::default()).collect(),
            subject,
            fates: Vec::new(),
            positions: HashMap::new(),
            reads: HashMap::new(),
            outstanding: BTreeMap::new(),
            last_done: HashMap::new(),
            violation: None,
            installs_asked: 0,
            stale_ns: 0,
            may_grow: false,
            may_be_left: false,
            keeps_all: false,
            probes: Probes::default(),
        }
    }

    /// What these knobs let happen: reads that may be answered anywhere may see a state that is so old by the slowest clock,
    /// groups that were alone may get company, and logs may drop what a member lacks.
    pub fn expect(&mut self, knobs: &Knobs) {
        self.stale_ns = knobs.stale_ms * 1_000_000 * 10 / 9;
        self.may_grow = knobs.spares > 0;
        self.may_be_left = knobs.classes.contains(&Class::Members);
        self.keeps_all = knobs.keeps_all();
    }

    /// The machine under test and its model.
    pub const fn subject(&self) -> &S {
        &self.subject
    }

    /// The first broken invariant.
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Notes a broken invariant, unless one is known already.
    pub fn broken(&mut self, invariant: &'static str, what: String) {
        self.violation.get_or_insert(Violation { invariant, what });
    }

    /// What a look at one invariant has broken is named by it.
    pub fn name_violation(&mut self, invariant: &'static str) {
        self.violation.iter_mut().for_each(|violation| violation.invariant = invariant);
    }

    fn judge<T>(&mut self, judged: Result<T, Broken>) -> Option<T> {
        judged.map_err(|(invariant, what)| self.broken(invariant, what)).ok()
    }

    fn node_mut(&mut self, node: usize) -> &mut NodeBooks {
        self.nodes.get_mut(node).expect("the world's nodes are known")
    }

    /// What a node's clocks show from now on.
    pub fn set_now(&mut self, node: usize, now: Now) {
        self.node_mut(node).now = now;
    }

    /// A node's wall clock.
    pub fn wall_ms(&mut self, node: usize) -> u64 {
        self.node_mut(node).now.wall_ms
    }

    /// A node's wall clock jumps.
    pub fn clock_jumps(&mut self, node: usize, by_ms: i64) {
        self.node_mut(node).pace.jump(by_ms);
    }

    /// A node's process starts; its logs are kept by Raft groups, or not.
    pub fn set_replicated(&mut self, node: usize, is_replicated: bool) {
        self.node_mut(node).replicated = is_replicated;
    }

    /// A new request is about to be sent; returns its number.
    pub fn new_request(&mut self) -> u64 {
        self.fates.push(Fate::Open);
        self.fates.len() as u64 - 1
    }

    /// A request was handed to a shard of a node: a [`Sent`] but for what was shown of its partition by then; where it may be
    /// answered from an old state, by then less its age.
    pub fn sent(&mut self, ticket: Ticket, sent: Sent) {
        let age_ns = if sent.kind == Kind::ReadAnywhere { self.stale_ns } else { 0 };
        let history = self.partitions.get_mut(&sent.partition);
        let shown = history.map_or_else(Shown::default, |history| history.shown_at(sent.at_ns, age_ns));
        self.outstanding.insert((ticket.conn, ticket.seq), Sent { shown, ..sent });
    }

    /// Requests without an outcome.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Those that were handed to a node.
    pub fn outstanding_at(&self, node: usize) -> usize {
        self.outstanding.values().filter(|sent| sent.node == node).count()
    }

    /// The request without an outcome that was sent first.
    pub fn oldest(&self) -> Option<&Sent> {
        self.outstanding.values().min_by_key(|sent| (sent.at_ns, sent.id))
    }

    /// An incarnation's machine was opened on a node: it stands at what it has persisted.
    pub fn opened(&mut self, node: usize, partition: PartitionId, persisted: Lsn) {
        let Some(history) = self.partitions.get_mut(&partition) else { return };
        let judged = history.opened(node, persisted);
        self.judge(judged);
    }

    /// A replica was started on a node's log.
    pub fn started(&mut self, node: usize, partition: PartitionId, started_as: StartedAs, term: Term) {
        let Some(history) = self.partitions.get(&partition) else { return };
        let judged = history.started(node, started_as, term);
        self.judge(judged);
    }

    /// The process of a node has died: every open request that was handed to it is unknown, for good.
    pub fn crashed(&mut self, node: usize) {
        let all = std::mem::take(&mut self.outstanding).into_iter();
        let (cut_off, open): (Vec<_>, Vec<_>) = all.partition(|(_, sent)| sent.node == node);
        self.outstanding = open.into_iter().collect();
        for (_, sent) in cut_off {
            self.decide(sent.id, Fate::Unknown);
            self.probes.hit("requests cut off by a crash");
        }
        self.node_mut(node).pace.crashed();
        self.partitions.values_mut().for_each(|history| history.crashed(node));
    }

    /// Where a node's machine of a partition stands.
    pub fn applied(&self, node: usize, partition: PartitionId) -> Lsn {
        self.partitions.get(&partition).map_or(Lsn::ZERO, |history| history.applied(node))
    }

    /// The highest persisted LSN that a node's machine ever reported of a partition.
    pub fn persisted_of(&self, node: usize, partition: PartitionId) -> Lsn {
        self.partitions.get(&partition).map_or(Lsn::ZERO, |history| history.persisted_of(node))
    }

    /// What outcomes have shown of a partition.
    pub fn shown(&self, partition: PartitionId) -> Shown {
        self.partitions.get(&partition).map_or_else(Shown::default, History::shown)
    }

    /// The stamp of the last entry of a partition.
    pub fn last_stamp_ms(&self, partition: PartitionId) -> u64 {
        self.partitions.get(&partition).map_or(0, History::last_stamp_ms)
    }

    /// The term of an entry that was applied.
    pub fn term_of(&self, partition: PartitionId, lsn: Lsn) -> Option<Term> {
        self.partitions.get(&partition)?.term_of(lsn)
    }

    /// What the read `id` was answered, if it was.
    pub fn read_outcome(&self, id: u64) -> Option<(Lsn, S::Outcome)> {
        self.reads.get(&id).map(|read| (read.lsn, read.outcome.clone()))
    }

    /// A node's machine was installed from an image.
    pub fn installed(&mut self, node: usize, image: &Header) {
        self.probes.hit("images installed");
        let Some(history) = self.partitions.get_mut(&image.partition) else { return };
        let judged = history.installed(node, image.lsn, image.term);
        let needless =
            || format!("partition {} on node {node}: an image as of {}", image.partition, image.lsn);
        let is_needed = if self.keeps_all { Err((LOGS_ARE_KEPT, needless())) } else { Ok(()) };
        self.judge(judged.and(is_needed));
    }

    /// A node's machine is to have nothing of a partition any more.
    pub fn deleted(&mut self, node: usize, partition: PartitionId) {
        let history = self.partitions.get_mut(&partition);
        history.into_iter().for_each(|history| history.deleted(node));
    }

    /// A node's machine reports a persisted LSN.
    pub fn persisted(&mut self, node: usize, partition: PartitionId, lsn: Lsn) {
        let Some(history) = self.partitions.get_mut(&partition) else { return };
        let judged = history.persisted(node, lsn);
        self.judge(judged);
    }

    /// A node's machine was asked to apply the op of request `id` and answered `outcome`; `None`: it passed it over.
    pub fn applied_op(
        &mut self,
        node: usize,
        at: &Applied,
        id: u64,
        op: &[u8],
        outcome: Option<&S::Outcome>,
    ) {
        let judged = self.judge_op(node, at, (id, op), outcome);
        if self.judge(judged) == Some(true) {
            self.probes.hit(match outcome {
                Some(_) => "ops applied again after a restart",
                None => "ops passed over after a restart",
            });
        }
    }

    fn judge_op(
        &mut self,
        node: usize,
        at: &Applied,
        (id, op): (u64, &[u8]),
        outcome: Option<&S::Outcome>,
    ) -> Result<bool, Broken> {
        let position = (at.partition, at.lsn);
        match self.positions.insert(id, position) {
            Some(before) if before != position => {
                return Err((
                    "no effect twice",
                    format!("request {id} applied at {before:?} and at {position:?}"),
                ));
            }
            _ => {}
        }
        if usize::try_from(id).ok().and_then(|id| self.fates.get(id)) == Some(&Fate::Rejected) {
            return Err((
                "a rejected request has no effect",
                format!("request {id} applied at {position:?}"),
            ));
        }
        let history = self.partitions.get_mut(&at.partition).ok_or_else(|| unknown_partition(at))?;
        history.apply(&self.subject, (node, at), (id, op), outcome)
    }

    /// What the next op of an entry brought on another node, which applied it first.
    pub fn brought_elsewhere(&self, node: usize, at: &Applied) -> Option<S::Outcome> {
        self.partitions.get(&at.partition)?.brought_elsewhere(node, at.lsn).cloned()
    }

    /// All ops of an entry were announced to a node's machine as applied.
    pub fn ended_entry(&mut self, node: usize, at: &Applied) {
        let grouped = self.node_mut(node).replicated;
        let history = self.partitions.get_mut(&at.partition).ok_or_else(|| unknown_partition(at));
        let judged = history.and_then(|history| history.end(node, at, grouped));
        self.judge(judged);
    }

    /// A node's machine answered the read of request `id`.
    pub fn read_op(
        &mut self,
        node: usize,
        partition: PartitionId,
        (id, op, now_ms): (u64, &[u8], u64),
        outcome: &S::Outcome,
    ) {
        // Where other nodes lead as well, their clocks take the partition's along: see `judge_done`.
        let is_alone = self.nodes.len() == 1;
        let books = self.node_mut(node);
        if let Some(what) = is_alone.then(|| books.pace.show(partition, now_ms, books.now)).flatten() {
            self.broken("a partition's clock keeps time", what);
        }
        let Some(history) = self.partitions.get_mut(&partition) else { return };
        let is_grown = self.may_grow;
        let may_be_alone = is_alone || is_grown || self.may_be_left;
        let judged = history.read(&self.subject, node, (id, op, now_ms), outcome);
        let judged = judged.map(|read| if may_be_alone { read } else { read.by_the_log() });
        let judged = judged.map(|read| history.hold_later(&self.subject, node, (op, is_grown), read));
        if let Some(record) = self.judge(judged) {
            self.reads.insert(id, record);
        }
    }

    /// A request got its outcome. Returns the request, if it was one.
    pub fn replied(&mut self, ticket: Ticket, reply: &Reply<S::Outcome>) -> Option<Sent> {
        let Some(sent) = self.outstanding.remove(&(ticket.conn, ticket.seq)) else {
            self.broken("one outcome per request", format!("{ticket:?} is not open: {reply:?}"));
            return None;
        };
        let judged = match reply {
            Reply::Done { lsn, outcome } => {
                self.judge_order(ticket, sent.partition);
                self.judge_done(&sent, *lsn, outcome)
            }
            Reply::Rejected(reason) => self.judge_rejected(&sent, &format!("{reason}")),
            Reply::Unknown => {
                self.probes.hit("outcome unknown");
                self.decide(sent.id, Fate::Unknown);
                Ok(())
            }
        };
        if let Err((invariant, what)) = judged {
            self.broken(invariant, what);
        }
        Some(sent)
    }

    /// Of what a connection sent to a partition, that which is done is done in order. A refusal at the door overtakes.
    fn judge_order(&mut self, ticket: Ticket, partition: PartitionId) {
        let last = self.last_done.insert((ticket.conn, partition), ticket.seq);
        if last.is_some_and(|last| last >= ticket.seq) {
            let what = format!("{ticket:?} after {last:?}, partition {partition}");
            self.broken("replies come in request order", what);
        }
    }

    fn judge_done(&mut self, sent: &Sent, lsn: Lsn, outcome: &S::Outcome) -> Result<(), Broken> {
        let id = sent.id;
        self.decide(id, Fate::Done);
        let history =
            self.partitions.get_mut(&sent.partition).expect("requests go to partitions that there are");
        let is_write = sent.kind == Kind::Write;
        let done = if is_write {
            let position = self.positions.get(&id).filter(|position| position.0 == sent.partition);
            let at = position.ok_or_else(|| ("done means applied", format!("{sent:?} was never applied")))?.1;
            history.written(at, id)
        } else {
            let read = self.reads.get(&id);
            Some(read.ok_or_else(|| ("done means applied", format!("{sent:?} was never read")))?.done_at())
        };
        let done = match done {
            Some(done) if done.outcome == outcome => done,
            other => {
                let what = format!("{sent:?}: {outcome:?}, applied {:?}", other.map(|done| done.outcome));
                return Err(("a reply is what was applied", what));
            }
        };
        // A read that rides behind writes of its own entry runs inside it: the entry's LSN, or the one before.
        let fits = done.lsn == lsn || (!is_write && done.lsn.next() == lsn);
        if !fits {
            let what = format!("{sent:?}: reply says {lsn}, it was {}", done.lsn);
            return Err(("a reply is what was applied", what));
        }
        let shown = sent.shown;
        let is_stale = done.ops < shown.ops || lsn.next() < shown.lsn || (is_write && lsn < shown.lsn);
        if is_stale {
            let what =
                format!("{sent:?} answered at {lsn} after {} ops; {shown:?} before it was sent", done.ops);
            return Err(("a read sees everything acknowledged", what));
        }
        let shown_ms = shown.clock_ms.min(history.shown().clock_ms);
        if self.nodes.len() > 1 && done.clock_ms < shown_ms {
            let what =
                format!("{sent:?} answered by the clock {}; {shown:?} before it was sent", done.clock_ms);
            return Err(("a partition's clock never goes back", what));
        }
        let (ops, clock_ms, beyond) = (done.ops + u64::from(is_write), done.clock_ms, done.beyond);
        history.show(Shown { lsn, ops, clock_ms }, beyond);
        self.probes.hit(if is_write { "writes done" } else { "reads done" });
        Ok(())
    }

    fn judge_rejected(&mut self, sent: &Sent, reason: &str) -> Result<(), Broken> {
        self.decide(sent.id, Fate::Rejected);
        match self.positions.get(&sent.id) {
            Some(position) => Err((
                "a rejected request has no effect",
                format!("{sent:?} is at {position:?}, rejected: {reason}"),
            )),
            None => Ok(()),
        }
    }

    fn decide(&mut self, id: u64, fate: Fate) {
        if let Some(was) = usize::try_from(id).ok().and_then(|id| self.fates.get_mut(id)) {
            *was = fate;
        }
    }

    /// Replicas that do not yet stand where their partition had been seen, with their nodes.
    pub fn behind(&self) -> Vec<(PartitionId, usize)> {
        let all = self.partitions.iter();
        all.flat_map(|(id, history)| history.behind().map(|node| (*id, node))).collect()
    }
}

fn unknown_partition(at: &Applied) -> Broken {
    ("entries belong to their partition", format!("{at:?}: no such partition"))
}
