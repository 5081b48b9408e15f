//! The books of a world: what every partition has ever exposed, and the judgement of everything that follows.
//!
//! Invariant: an entry that was once applied is the same entry, with the same outcomes, in every later incarnation; a request
//! is at most once in one log; what a reply says agrees with what was applied. The first thing that
//! breaks one of these is kept as the run's [`Violation`]; nothing after it is judged.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use corduroy_wal::{Lsn, Term};

use crate::clock::Now;
use crate::ids::{PartitionId, Ticket};
use crate::raft::replica::StartedAs;
use crate::shard::io::Reply;
use crate::shard::machine::{Applied, Kind};
use crate::sim::pace::Pace;
use crate::sim::probes::Probes;
use crate::sim::workload::{Model, Sent, Subject};

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

/// One op of an entry, as it was applied the first time.
#[derive(Debug)]
struct AppliedOp<O> {
    id: u64,
    outcome: O,
}

/// An entry as it was applied the first time.
#[derive(Debug)]
struct AppliedEntry<O> {
    term: Term,
    stamp_ms: u64,
    ops: Vec<AppliedOp<O>>,
    ended: bool,
}

/// Everything known of one partition.
struct Partition<S: Subject> {
    /// Entries in order; the first has LSN 1.
    entries: Vec<AppliedEntry<S::Outcome>>,
    /// The model after all of `entries`.
    model: S::Model,
    /// The last entry that the current incarnation's machine ended.
    applied: Lsn,
    /// Ops of the next entry that it has applied.
    ops: usize,
    /// The highest entry that any outcome spoke of.
    acknowledged: Lsn,
    /// The highest persisted LSN that was ever reported.
    persisted: Lsn,
    /// Whether an entry was applied while the log was kept by a Raft group.
    grouped: bool,
    open: bool,
}

/// Where a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    Open,
    Done,
    Rejected,
    Unknown,
}

/// What a read was answered.
#[derive(Debug)]
struct ReadRecord<O> {
    lsn: Lsn,
    outcome: O,
}

/// The books.
pub struct Books<S: Subject> {
    subject: S,
    partitions: BTreeMap<PartitionId, Partition<S>>,
    fates: Vec<Fate>,
    positions: HashMap<u64, (PartitionId, Lsn)>,
    reads: HashMap<u64, ReadRecord<S::Outcome>>,
    outstanding: BTreeMap<(u64, u64), Sent>,
    last_done: HashMap<(u64, PartitionId), u64>,
    violation: Option<Violation>,
    /// What was met.
    pub probes: Probes,
    /// Whether this incarnation's logs are kept by Raft groups.
    pub replicated: bool,
    /// The node's clocks, and what its partitions' clocks make of them.
    pub now: Now,
    /// See `now`.
    pub pace: Pace,
}

impl<S: Subject> Books<S> {
    /// Books of a world with these partitions.
    pub fn new(subject: S, partitions: impl Iterator<Item = PartitionId>) -> Self {
        let empty = |subject: &S| Partition {
            entries: Vec::new(),
            model: subject.model(),
            applied: Lsn::ZERO,
            ops: 0,
            acknowledged: Lsn::ZERO,
            persisted: Lsn::ZERO,
            grouped: false,
            open: false,
        };
        Self {
            partitions: partitions.map(|id| (id, empty(&subject))).collect(),
            subject,
            fates: Vec::new(),
            positions: HashMap::new(),
            reads: HashMap::new(),
            outstanding: BTreeMap::new(),
            last_done: HashMap::new(),
            violation: None,
            probes: Probes::default(),
            replicated: true,
            now: Now::default(),
            pace: Pace::default(),
        }
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

    /// A new request is about to be sent; returns its number.
    pub fn new_request(&mut self) -> u64 {
        self.fates.push(Fate::Open);
        self.fates.len() as u64 - 1
    }

    /// A request was handed to the shard.
    pub fn sent(&mut self, ticket: Ticket, id: u64, partition: PartitionId, kind: Kind, at_ns: u64) {
        let floor = self.partitions.get(&partition).map_or(Lsn::ZERO, |books| books.acknowledged);
        self.outstanding.insert((ticket.conn, ticket.seq), Sent { id, partition, kind, at_ns, floor });
    }

    /// Requests without an outcome.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// The request without an outcome that was sent first.
    pub fn oldest(&self) -> Option<&Sent> {
        self.outstanding.values().min_by_key(|sent| (sent.at_ns, sent.id))
    }

    /// An incarnation's machine was opened: it stands at what it has persisted.
    pub fn opened(&mut self, partition: PartitionId, persisted: Lsn) {
        let Some(books) = self.partitions.get_mut(&partition) else { return };
        books.applied = persisted;
        books.ops = 0;
        books.open = true;
        let ended = books.ended();
        let was = books.persisted;
        if persisted.get() > ended {
            let what = format!(
                "partition {partition} claims {persisted} after opening; only {ended} were ever applied"
            );
            self.broken("persisted is not above applied", what);
        } else if persisted < was {
            let what = format!(
                "partition {partition} had reported {was} as persisted, after a restart it is {persisted}"
            );
            self.broken("what is reported as persisted survives", what);
        }
    }

    /// A replica was started on its log. A group that had an entry applied is remembered: its term, and that it is one.
    pub fn started(&mut self, partition: PartitionId, started_as: StartedAs, term: Term) {
        let Some(books) = self.partitions.get_mut(&partition) else { return };
        let seen = books.entries.last().map_or(Term::ZERO, |last| last.term);
        let forgotten = books.grouped && !matches!(started_as, StartedAs::Bootstrapped | StartedAs::Solo);
        if forgotten || term < seen {
            let what = format!(
                "partition {partition} had term {seen}; it starts as {started_as:?} with term {term}"
            );
            self.broken("a group's hard state survives", what);
        }
    }

    /// The process has died: every open request is unknown, for good.
    pub fn crashed(&mut self) {
        for (_, sent) in std::mem::take(&mut self.outstanding) {
            self.decide(sent.id, Fate::Unknown);
            self.probes.hit("requests cut off by a crash");
        }
        self.last_done.clear();
        self.pace.crashed();
        self.partitions.values_mut().for_each(|books| books.open = false);
    }

    /// Where this incarnation's machine of a partition stands.
    pub fn applied(&self, partition: PartitionId) -> Lsn {
        self.partitions.get(&partition).map_or(Lsn::ZERO, |books| books.applied)
    }

    /// What the read `id` was answered, if it was.
    pub fn read_outcome(&self, id: u64) -> Option<(Lsn, S::Outcome)> {
        self.reads.get(&id).map(|read| (read.lsn, read.outcome.clone()))
    }

    /// The machine reports a persisted LSN.
    pub fn persisted(&mut self, partition: PartitionId, lsn: Lsn) {
        let Some(books) = self.partitions.get_mut(&partition) else { return };
        let (applied, was) = (books.applied, books.persisted);
        books.persisted = was.max(lsn);
        if lsn > applied {
            self.broken(
                "persisted is not above applied",
                format!("partition {partition}: {lsn} above {applied}"),
            );
        } else if lsn < was {
            self.broken("persisted is monotone", format!("partition {partition}: {lsn} after {was}"));
        }
    }

    /// The machine was asked to apply the op of request `id` and answered `outcome`; `None`: it passed it over.
    pub fn applied_op(&mut self, at: &Applied, id: u64, op: &[u8], outcome: Option<&S::Outcome>) {
        if let Err((invariant, what)) = self.judge_op(at, id, op, outcome) {
            self.broken(invariant, what);
        }
    }

    fn judge_op(
        &mut self,
        at: &Applied,
        id: u64,
        op: &[u8],
        outcome: Option<&S::Outcome>,
    ) -> Result<(), Broken> {
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
        let books = self.partitions.get_mut(&at.partition).ok_or_else(|| unknown_partition(at))?;
        let index = books.begin(at)?;
        let nth = books.ops;
        books.ops += 1;
        let entry = books.entries.get_mut(index).expect("begin() made sure that it is there");
        if let Some(first) = entry.ops.get(nth) {
            if first.id != id {
                let what = format!("{at:?}: op {nth} was request {}, now it is {id}", first.id);
                return Err(("an applied entry never changes", what));
            }
            let Some(outcome) = outcome else {
                self.probes.hit("ops passed over after a restart");
                return Ok(());
            };
            if !self.subject.same(op, &first.outcome, outcome) {
                let what = format!("{at:?}: request {id} had {:?}, now {outcome:?}", first.outcome);
                return Err(("apply is deterministic", what));
            }
            self.probes.hit("ops applied again after a restart");
            return Ok(());
        }
        let Some(outcome) = outcome else {
            return Err(("only what was applied is passed over", format!("{at:?}: op {nth}, request {id}")));
        };
        if entry.ended {
            return Err((
                "an applied entry never changes",
                format!("{at:?}: op {nth}, request {id}, is new"),
            ));
        }
        let expected = books.model.apply(at, op);
        entry.ops.push(AppliedOp { id, outcome: outcome.clone() });
        if !self.subject.same(op, &expected, outcome) {
            let what = format!("{at:?}: request {id} must have {expected:?}, has {outcome:?}");
            return Err(("state equals the log applied", what));
        }
        Ok(())
    }

    /// All ops of an entry were announced to the machine as applied.
    pub fn ended_entry(&mut self, at: &Applied) {
        let grouped = self.replicated;
        let judged = self.partitions.get_mut(&at.partition).ok_or_else(|| unknown_partition(at));
        if let Err((invariant, what)) = judged.and_then(|books| books.end(at, grouped)) {
            self.broken(invariant, what);
        }
    }

    /// The machine answered the read of request `id`.
    pub fn read_op(&mut self, partition: PartitionId, id: u64, op: &[u8], now_ms: u64, outcome: &S::Outcome) {
        if let Some(what) = self.pace.show(partition, now_ms, self.now) {
            self.broken("a partition's clock keeps time", what);
        }
        let Some(books) = self.partitions.get_mut(&partition) else { return };
        let ended = books.ended();
        let ops = books.entries.last().filter(|entry| !entry.ended).map_or(0, |entry| entry.ops.len());
        if books.applied.get() != ended || books.ops != ops {
            let what = format!(
                "partition {partition}: request {id} read at {}+{}, while {ended}+{ops} had been visible",
                books.applied, books.ops
            );
            return self.broken("a read sees everything ever visible", what);
        }
        let expected = books.model.read(op, now_ms);
        let lsn = books.applied;
        if !self.subject.same(op, &expected, outcome) {
            let what =
                format!("partition {partition} at {lsn}: read {id} must have {expected:?}, has {outcome:?}");
            return self.broken("state equals the log applied", what);
        }
        self.reads.insert(id, ReadRecord { lsn, outcome: outcome.clone() });
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
        let books =
            self.partitions.get_mut(&sent.partition).expect("requests go to partitions that there are");
        let (at, applied) = if sent.kind == Kind::Write {
            let position = self.positions.get(&id).filter(|position| position.0 == sent.partition);
            let at = position.ok_or_else(|| ("done means applied", format!("{sent:?} was never applied")))?.1;
            let entry = at.get().checked_sub(1).and_then(|at| books.entries.get(usize::try_from(at).ok()?));
            let op = entry.and_then(|entry| entry.ops.iter().find(|op| op.id == id));
            (at, op.map(|op| &op.outcome))
        } else {
            let read = self
                .reads
                .get(&id)
                .ok_or_else(|| ("done means applied", format!("{sent:?} was never read")))?;
            (read.lsn, Some(&read.outcome))
        };
        if applied != Some(outcome) {
            return Err((
                "a reply is what was applied",
                format!("{sent:?}: {outcome:?}, applied {applied:?}"),
            ));
        }
        // A read that rides behind writes of its own entry runs inside it: the entry's LSN, or the one before.
        let fits = if sent.kind == Kind::Write { at == lsn } else { at == lsn || at.next() == lsn };
        if !fits {
            return Err(("a reply is what was applied", format!("{sent:?}: reply says {lsn}, it was {at}")));
        }
        if lsn.next() < sent.floor || (sent.kind == Kind::Write && lsn < sent.floor) {
            let what = format!(
                "{sent:?} answered at {lsn}; {} had been acknowledged before it was sent",
                sent.floor
            );
            return Err(("a read sees everything acknowledged", what));
        }
        books.acknowledged = books.acknowledged.max(lsn);
        self.probes.hit(if sent.kind == Kind::Write { "writes done" } else { "reads done" });
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

    /// Partitions whose machine does not yet stand where the partition had been seen.
    pub fn behind(&self) -> Vec<PartitionId> {
        let behind = |books: &Partition<S>| books.open && books.applied.get() < books.ended();
        self.partitions.iter().filter(|(_, books)| behind(books)).map(|(id, _)| *id).collect()
    }
}

type Broken = (&'static str, String);

fn unknown_partition(at: &Applied) -> Broken {
    ("entries belong to their partition", format!("{at:?}: no such partition"))
}

impl<S: Subject> Partition<S> {
    /// How many entries were ever applied whole.
    fn ended(&self) -> u64 {
        let open = self.entries.last().is_some_and(|entry| !entry.ended);
        self.entries.len() as u64 - u64::from(open)
    }

    /// The index in `entries` of the entry that is being applied; makes a new one where it was never seen.
    fn begin(&mut self, at: &Applied) -> Result<usize, Broken> {
        if at.lsn != self.applied.next() {
            let what = format!("{at:?} is applied while the machine stands at {}", self.applied);
            return Err(("entries are applied in order, once", what));
        }
        let index = usize::try_from(self.applied.get()).expect("as many entries as fit into memory");
        let before = self.entries.get(index.wrapping_sub(1));
        let before = before.map_or((Term::ZERO, 0), |before| (before.term, before.stamp_ms));
        let stamp_ms = at.stamp_ms;
        match self.entries.get(index) {
            Some(first) if first.term != at.term || first.stamp_ms != stamp_ms => {
                let what = format!("{at:?} had term {} and stamp {} before", first.term, first.stamp_ms);
                Err(("an applied entry never changes", what))
            }
            Some(_) => Ok(index),
            None if at.term < before.0 || stamp_ms < before.1 => {
                Err(("terms and stamps never go back", format!("{at:?} follows {before:?}")))
            }
            None => {
                let (term, ops) = (at.term, Vec::new());
                self.entries.push(AppliedEntry { term, stamp_ms, ops, ended: false });
                Ok(index)
            }
        }
    }

    fn end(&mut self, at: &Applied, grouped: bool) -> Result<(), Broken> {
        let index = self.begin(at)?;
        let entry = self.entries.get_mut(index).expect("begin() made sure that it is there");
        if entry.ops.len() != self.ops {
            let what = format!("{at:?} ends after {} ops, before it had {}", self.ops, entry.ops.len());
            return Err(("an applied entry never changes", what));
        }
        entry.ended = true;
        // What was kept without Raft has term 0, also where a group applies it.
        self.grouped |= grouped && at.term > Term::ZERO;
        self.applied = at.lsn;
        self.ops = 0;
        Ok(())
    }
}
