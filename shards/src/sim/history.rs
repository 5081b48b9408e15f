//! The history of one partition: what was applied first, by whichever replica, and where each replica stands in it.
//!
//! Invariant: a partition has one history. Every replica applies its entries in order, once in an incarnation, and has the
//! same entries with the same outcomes; what a read is answered is the state at the point where its replica stands.

use corduroy_wal::{Lsn, Term};

use crate::ids::PartitionId;
use crate::machine::Applied;
use crate::raft::replica::StartedAs;
use crate::sim::shown::{Shown, Shows};
use crate::sim::workload::{Model, Subject};

/// A broken invariant: its name, and what was found.
pub(super) type Broken = (&'static str, String);

/// One op of an entry, as it was applied the first time.
#[derive(Debug)]
struct AppliedOp<O> {
    id: u64,
    outcome: O,
    /// How to apply it again, where several replicas do.
    again: Option<Box<(Applied, Vec<u8>)>>,
}

/// An entry as it was applied the first time.
#[derive(Debug)]
struct AppliedEntry<O> {
    /// The node whose replica applied it first.
    by: usize,
    term: Term,
    stamp_ms: u64,
    ops: Vec<AppliedOp<O>>,
    /// Ops of all entries before it.
    ops_before: u64,
    ended: bool,
}

/// The model at a point that the history has left behind.
struct Earlier<M> {
    model: M,
    /// The ops that it holds.
    point: u64,
}

/// Where the replica on one node stands.
struct Replica<M> {
    /// The last entry that the current incarnation's machine ended.
    applied: Lsn,
    /// Ops of the next entry that it has applied.
    ops: usize,
    /// The highest persisted LSN that was ever reported.
    persisted: Lsn,
    /// The term of the last entry that it ever began to apply.
    term: Term,
    /// Whether an entry was applied while the log was kept by a Raft group.
    grouped: bool,
    open: bool,
    /// It is being deleted: what its machine reports is over.
    is_deleted: bool,
    /// What its last read below the end of the history was judged by.
    earlier: Option<Earlier<M>>,
}

/// See the file's head.
pub(super) struct History<S: Subject> {
    partition: PartitionId,
    /// Entries in order; the first has LSN 1.
    entries: Vec<AppliedEntry<S::Outcome>>,
    /// The model after all of `entries`.
    model: S::Model,
    /// One a node.
    replicas: Vec<Replica<S::Model>>,
    /// The highest entry that any outcome spoke of, and how many ops had been applied with what any outcome showed.
    shows: Shows,
}

/// What a read was answered.
#[derive(Debug)]
pub(super) struct ReadRecord<O> {
    /// Where its replica stood.
    pub(super) lsn: Lsn,
    /// Ops applied there.
    ops: u64,
    /// The clock that it was judged by.
    clock_ms: u64,
    /// The node whose wall clock that was, where the log did not have it.
    beyond: Option<usize>,
    pub(super) outcome: O,
}

/// What was done for a request: at which entry, how many ops had been applied before it, at which time, and what it brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct DoneAt<'a, O> {
    pub(super) lsn: Lsn,
    pub(super) ops: u64,
    pub(super) clock_ms: u64,
    /// The node whose wall clock that was, where the log did not have it.
    pub(super) beyond: Option<usize>,
    pub(super) outcome: &'a O,
}

impl<O> ReadRecord<O> {
    /// A read of a group of several: its clock is the log's, which has it or is to have it.
    pub(super) fn by_the_log(self) -> Self {
        Self { beyond: None, ..self }
    }

    pub(super) const fn done_at(&self) -> DoneAt<'_, O> {
        let Self { lsn, ops, clock_ms, beyond, ref outcome } = *self;
        DoneAt { lsn, ops, clock_ms, beyond, outcome }
    }
}

impl<M> Replica<M> {
    /// One of which nothing is known.
    const fn new() -> Self {
        Self {
            applied: Lsn::ZERO,
            ops: 0,
            persisted: Lsn::ZERO,
            term: Term::ZERO,
            grouped: false,
            open: false,
            is_deleted: false,
            earlier: None,
        }
    }
}

impl<S: Subject> History<S> {
    /// That of a partition of which nothing was applied yet, with a replica on each of so many nodes.
    pub(super) fn new(partition: PartitionId, subject: &S, nodes: usize) -> Self {
        let replicas = (0..nodes).map(|_| Replica::new()).collect();
        Self { partition, entries: Vec::new(), model: subject.model(), replicas, shows: Shows::default() }
    }

    fn replica(&self, node: usize) -> &Replica<S::Model> {
        self.replicas.get(node).expect("every node has a replica of each partition")
    }

    fn replica_mut(&mut self, node: usize) -> &mut Replica<S::Model> {
        self.replicas.get_mut(node).expect("every node has a replica of each partition")
    }

    /// How many entries were ever applied whole.
    fn ended(&self) -> u64 {
        let open = self.entries.last().is_some_and(|entry| !entry.ended);
        self.entries.len() as u64 - u64::from(open)
    }

    fn entry(&self, lsn: Lsn) -> Option<&AppliedEntry<S::Outcome>> {
        self.entries.get(usize::try_from(lsn.get().checked_sub(1)?).ok()?)
    }

    /// Ops of all entries.
    fn all_ops(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.ops_before + last.ops.len() as u64)
    }

    /// How many ops a replica has applied.
    fn point(&self, replica: &Replica<S::Model>) -> u64 {
        let next = self.entry(replica.applied.next());
        next.map_or_else(|| self.all_ops(), |entry| entry.ops_before) + replica.ops as u64
    }

    /// How far outcomes have shown it.
    pub(super) const fn shown(&self) -> Shown {
        self.shows.now()
    }

    /// How far they had shown it at a time `age_ns` before this one; or a little less far.
    pub(super) fn shown_at(&mut self, now_ns: u64, age_ns: u64) -> Shown {
        self.shows.at(now_ns, age_ns)
    }

    /// An outcome speaks of this entry, and shows what so many ops made, by this clock; `beyond`: that of a node's wall.
    pub(super) fn show(&mut self, now: Shown, beyond: Option<usize>) {
        self.shows.show(now, beyond);
    }

    /// The stamp of the last entry.
    pub(super) fn last_stamp_ms(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.stamp_ms)
    }

    /// The term of an entry that was applied.
    pub(super) fn term_of(&self, lsn: Lsn) -> Option<Term> {
        self.entry(lsn).map(|entry| entry.term)
    }

    /// The highest persisted LSN that the replica's machine ever reported.
    pub(super) fn persisted_of(&self, node: usize) -> Lsn {
        self.replica(node).persisted
    }

    /// Where the replica's machine stands.
    pub(super) fn applied(&self, node: usize) -> Lsn {
        self.replica(node).applied
    }

    /// The nodes whose replica runs and does not yet stand where the partition had been seen.
    pub(super) fn behind(&self) -> impl Iterator<Item = usize> + '_ {
        let ended = self.ended();
        let is_behind = move |replica: &Replica<S::Model>| replica.open && replica.applied.get() < ended;
        self.replicas.iter().enumerate().filter(move |(_, it)| is_behind(it)).map(|(node, _)| node)
    }

    /// A node's process has died.
    pub(super) fn crashed(&mut self, node: usize) {
        self.replica_mut(node).open = false;
        self.shows.crashed(node);
    }

    /// An incarnation's machine was opened: it stands at what it has persisted.
    pub(super) fn opened(&mut self, node: usize, persisted: Lsn) -> Result<(), Broken> {
        let (partition, ended) = (self.partition, self.ended());
        let replica = self.replica_mut(node);
        (replica.applied, replica.ops, replica.open) = (persisted, 0, true);
        replica.is_deleted = false;
        let was = replica.persisted;
        if persisted.get() > ended {
            let what = format!(
                "partition {partition} claims {persisted} after opening; only {ended} were ever applied"
            );
            return Err(("persisted is not above applied", what));
        }
        if persisted < was {
            let what = format!(
                "partition {partition} had reported {was} as persisted, after a restart it is {persisted}"
            );
            return Err(("what is reported as persisted survives", what));
        }
        Ok(())
    }

    /// A replica was started on its log. A group that had an entry applied is remembered: its term, and that it is one.
    pub(super) fn started(&self, node: usize, started_as: StartedAs, term: Term) -> Result<(), Broken> {
        let (partition, replica) = (self.partition, self.replica(node));
        let (grouped, seen) = (replica.grouped, replica.term);
        let forgotten = grouped && !matches!(started_as, StartedAs::Bootstrapped | StartedAs::Solo);
        if forgotten || term < seen {
            let what = format!(
                "partition {partition} had term {seen}; it starts as {started_as:?} with term {term}"
            );
            return Err(("a group's hard state survives", what));
        }
        Ok(())
    }

    /// The replica's machine was installed from an image as of this entry, which survives.
    pub(super) fn installed(&mut self, node: usize, lsn: Lsn, term: Term) -> Result<(), Broken> {
        let (partition, ended, known) = (self.partition, self.ended(), self.term_of(lsn));
        let replica = self.replica_mut(node);
        let before = replica.applied;
        (replica.applied, replica.ops, replica.persisted) = (lsn, 0, lsn);
        replica.term = replica.term.max(term);
        if lsn <= before || lsn.get() > ended || known != Some(term) {
            let what = format!(
                "partition {partition}: entry {lsn} of term {term} at {before}; {ended} were applied, it had term {known:?}"
            );
            return Err(("an image brings entries that were applied", what));
        }
        Ok(())
    }

    /// The replica is deleted, whenever that is done: the next one here is another member, and need not have anything.
    pub(super) fn deleted(&mut self, node: usize) {
        *self.replica_mut(node) = Replica { is_deleted: true, ..Replica::new() };
        self.shows.crashed(node);
    }

    /// The replica's machine reports a persisted LSN.
    pub(super) fn persisted(&mut self, node: usize, lsn: Lsn) -> Result<(), Broken> {
        let partition = self.partition;
        let replica = self.replica_mut(node);
        if replica.is_deleted {
            return Ok(());
        }
        let (applied, was) = (replica.applied, replica.persisted);
        replica.persisted = was.max(lsn);
        if lsn > applied {
            let what = format!("partition {partition}: {lsn} above {applied}");
            return Err(("persisted is not above applied", what));
        }
        if lsn < was {
            return Err(("persisted is monotone", format!("partition {partition}: {lsn} after {was}")));
        }
        Ok(())
    }

    /// The index in `entries` of the entry that a replica applies; makes a new one where it was never seen.
    fn begin(&mut self, node: usize, at: &Applied) -> Result<usize, Broken> {
        let applied = self.replica(node).applied;
        if at.lsn != applied.next() {
            let what = format!("{at:?} is applied while the machine stands at {applied}");
            return Err(("entries are applied in order, once", what));
        }
        let index = usize::try_from(applied.get()).expect("as many entries as fit into memory");
        let before = self.entries.get(index.wrapping_sub(1));
        let before = before.map_or((Term::ZERO, 0), |before| (before.term, before.stamp_ms));
        let stamp_ms = at.stamp_ms;
        match self.entries.get(index) {
            Some(first) if first.term != at.term || first.stamp_ms != stamp_ms => {
                let what = format!("{at:?} had term {} and stamp {} before", first.term, first.stamp_ms);
                return Err(("an applied entry never changes", what));
            }
            Some(_) => {}
            None if at.term < before.0 || stamp_ms < before.1 => {
                return Err(("terms and stamps never go back", format!("{at:?} follows {before:?}")));
            }
            None => {
                let (term, ops_before) = (at.term, self.all_ops());
                let ops = Vec::new();
                self.entries.push(AppliedEntry { by: node, term, stamp_ms, ops, ops_before, ended: false });
            }
        }
        let replica = self.replica_mut(node);
        replica.term = replica.term.max(at.term);
        Ok(index)
    }

    /// A replica's machine was asked to apply the op of request `id` and answered `outcome`; `None`: it passed it over.
    /// Returns whether the op had been applied before.
    pub(super) fn apply(
        &mut self,
        subject: &S,
        (node, at): (usize, &Applied),
        (id, op): (u64, &[u8]),
        outcome: Option<&S::Outcome>,
    ) -> Result<bool, Broken> {
        let index = self.begin(node, at)?;
        let replica = self.replica_mut(node);
        let nth = replica.ops;
        replica.ops += 1;
        let is_one_of_many = self.replicas.len() > 1;
        let entry = self.entries.get_mut(index).expect("begin() made sure that it is there");
        if let Some(first) = entry.ops.get(nth) {
            if first.id != id {
                let what = format!("{at:?}: op {nth} was request {}, now it is {id}", first.id);
                return Err(("an applied entry never changes", what));
            }
            if let Some(outcome) = outcome.filter(|outcome| !subject.same(op, &first.outcome, outcome)) {
                let what = format!("{at:?}: request {id} had {:?}, now {outcome:?}", first.outcome);
                return Err(("apply is deterministic", what));
            }
            return Ok(true);
        }
        let Some(outcome) = outcome else {
            return Err(("only what was applied is passed over", format!("{at:?}: op {nth}, request {id}")));
        };
        if entry.ended {
            let what = format!("{at:?}: op {nth}, request {id}, is new");
            return Err(("an applied entry never changes", what));
        }
        let again = is_one_of_many.then(|| Box::new((*at, op.to_vec())));
        let expected = self.model.apply(at, op);
        entry.ops.push(AppliedOp { id, outcome: outcome.clone(), again });
        if !subject.same(op, &expected, outcome) {
            let what = format!("{at:?}: request {id} must have {expected:?}, has {outcome:?}");
            return Err(("state equals the log applied", what));
        }
        Ok(false)
    }

    /// What the next op of an entry brought on another node, which applied it first.
    pub(super) fn brought_elsewhere(&self, node: usize, lsn: Lsn) -> Option<&S::Outcome> {
        let entry = self.entry(lsn).filter(|entry| entry.by != node)?;
        entry.ops.get(self.replica(node).ops).map(|op| &op.outcome)
    }

    /// All ops of an entry were announced to a replica's machine as applied. `grouped`: the log is kept by a Raft group.
    pub(super) fn end(&mut self, node: usize, at: &Applied, grouped: bool) -> Result<(), Broken> {
        let index = self.begin(node, at)?;
        let ops = self.replica(node).ops;
        let entry = self.entries.get_mut(index).expect("begin() made sure that it is there");
        if entry.ops.len() != ops {
            let what = format!("{at:?} ends after {ops} ops, before it had {}", entry.ops.len());
            return Err(("an applied entry never changes", what));
        }
        entry.ended = true;
        let replica = self.replica_mut(node);
        // What was kept without Raft has term 0, also where a group applies it.
        replica.grouped |= grouped && at.term > Term::ZERO;
        replica.applied = at.lsn;
        replica.ops = 0;
        Ok(())
    }

    /// A replica's machine answered the read of request `id`, judged by the clock `now_ms`.
    pub(super) fn read(
        &mut self,
        subject: &S,
        node: usize,
        (id, op, now_ms): (u64, &[u8], u64),
        outcome: &S::Outcome,
    ) -> Result<ReadRecord<S::Outcome>, Broken> {
        let partition = self.partition;
        let replica = self.replica(node);
        let (lsn, ops) = (replica.applied, replica.ops);
        let ended = self.ended();
        let open = self.entries.last().filter(|entry| !entry.ended).map_or(0, |entry| entry.ops.len());
        if self.replicas.len() == 1 && (lsn.get() != ended || ops != open) {
            let what = format!(
                "partition {partition}: request {id} read at {lsn}+{ops}, while {ended}+{open} had been visible"
            );
            return Err(("a read sees everything ever visible", what));
        }
        let point = self.point(replica);
        let expected = self.model_at(subject, node, point).read(op, now_ms);
        if !subject.same(op, &expected, outcome) {
            let what = format!(
                "partition {partition} at {lsn}+{ops}: read {id} must have {expected:?}, has {outcome:?}"
            );
            return Err(("state equals the log applied", what));
        }
        let beyond = (now_ms > self.last_stamp_ms()).then_some(node);
        Ok(ReadRecord { lsn, ops: point, clock_ms: now_ms, beyond, outcome: outcome.clone() })
    }

    /// A group of one that gets company judges reads by the log's clock, though its own has shown a later time: what rests on
    /// that is logged first. So an answer counts as one of the time that was shown, if it is what would be right then.
    pub(super) fn hold_later(
        &mut self,
        subject: &S,
        node: usize,
        (op, is_grown): (&[u8], bool),
        read: ReadRecord<S::Outcome>,
    ) -> ReadRecord<S::Outcome> {
        let shown_ms = self.shows.now().clock_ms;
        if !is_grown || read.clock_ms >= shown_ms {
            return read;
        }
        let expected = self.model_at(subject, node, read.ops).read(op, shown_ms);
        match subject.same(op, &expected, &read.outcome) {
            true => ReadRecord { clock_ms: shown_ms, beyond: self.shows.beyond(), ..read },
            false => read,
        }
    }

    /// The model after so many ops: the newest where that is all of them, else one that is kept for the replica.
    fn model_at(&mut self, subject: &S, node: usize, point: u64) -> &mut S::Model {
        if point == self.all_ops() {
            return &mut self.model;
        }
        let replica = self.replicas.get_mut(node).expect("every node has a replica of each partition");
        let usable = replica.earlier.take().filter(|earlier| earlier.point <= point);
        let earlier =
            replica.earlier.insert(usable.unwrap_or_else(|| Earlier { model: subject.model(), point: 0 }));
        let first =
            self.entries.partition_point(|entry| entry.ops_before + entry.ops.len() as u64 <= earlier.point);
        for entry in self.entries.iter().skip(first) {
            let nth = |point: u64| usize::try_from(point - entry.ops_before).expect("ops of one entry");
            let (done, wanted) = (nth(earlier.point), nth(point).min(entry.ops.len()));
            for op in entry.ops.iter().take(wanted).skip(done) {
                let (at, bytes) = op.again.as_deref().expect("kept where there are several replicas");
                let _same_as_before = earlier.model.apply(at, bytes);
            }
            earlier.point = entry.ops_before + wanted as u64;
            if earlier.point == point {
                break;
            }
        }
        &mut earlier.model
    }

    /// What a write brought that was applied at `lsn`.
    pub(super) fn written(&self, lsn: Lsn, id: u64) -> Option<DoneAt<'_, S::Outcome>> {
        let entry = self.entry(lsn)?;
        let (nth, op) = entry.ops.iter().enumerate().find(|(_, op)| op.id == id)?;
        let (ops, clock_ms) = (entry.ops_before + nth as u64, entry.stamp_ms);
        Some(DoneAt { lsn, ops, clock_ms, beyond: None, outcome: &op.outcome })
    }
}
