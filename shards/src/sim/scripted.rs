//! Histories of several replicas, played by hand: the books pass those that are right and find what is wrong in the others.

use corduroy_wal::{Lsn, Term};

use crate::ids::{PartitionId, Ticket};
use crate::machine::{Applied, Kind};
use crate::raft::replica::StartedAs;
use crate::shard::io::{Rejection, Reply};
use crate::sim::check::Books;
use crate::sim::plain::PlainSubject;
use crate::sim::shown::Shown;
use crate::sim::swarm::Knobs;
use crate::sim::workload::{Sent, Subject};

const P: PartitionId = PartitionId(1);

/// Three nodes and what register 0 of each replica holds. A request's number is the value that it writes.
struct Script {
    books: Books<PlainSubject>,
    values: Vec<Option<u64>>,
}

fn at(lsn: u64, term: u64) -> Applied {
    Applied::first(P, Lsn(lsn), Term(term), 1000 + lsn)
}

impl Script {
    fn new() -> Self {
        let mut books = Books::new(PlainSubject, [P].into_iter(), 3);
        (0..3).for_each(|node| books.opened(node, P, Lsn::ZERO));
        Self { books, values: vec![None; 3] }
    }

    /// Sends a request to a node.
    fn send(&mut self, node: usize, kind: Kind) -> u64 {
        let id = self.books.new_request();
        let sent = Sent { id, partition: P, node, kind, at_ns: id, shown: Shown::default() };
        self.books.sent(Ticket { conn: node as u64, seq: id }, sent);
        id
    }

    fn reply(&mut self, node: usize, id: u64, reply: &Reply<Option<u64>>) {
        self.books.replied(Ticket { conn: node as u64, seq: id }, reply);
    }

    /// A replica applies one op of an entry.
    fn op(&mut self, node: usize, lsn: u64, term: u64, id: u64) -> Option<u64> {
        let before = self.values[node].replace(id);
        self.books.applied_op(node, &at(lsn, term), id, &PlainSubject.write(id), Some(&before));
        before
    }

    /// A replica applies a whole entry.
    fn entry(&mut self, node: usize, lsn: u64, term: u64, ids: &[u64]) {
        ids.iter().for_each(|&id| {
            self.op(node, lsn, term, id);
        });
        self.books.ended_entry(node, &at(lsn, term));
    }

    /// A node leads a write from its sending to its answer.
    fn write(&mut self, node: usize, lsn: u64, term: u64) -> u64 {
        let id = self.send(node, Kind::Write);
        let outcome = self.op(node, lsn, term, id);
        self.books.ended_entry(node, &at(lsn, term));
        self.reply(node, id, &Reply::Done { lsn: Lsn(lsn), outcome });
        id
    }

    /// A node's replica answers a read that was sent to it, with what it holds.
    fn answer(&mut self, node: usize, id: u64) {
        let outcome = self.values[node];
        self.answer_with(node, id, outcome);
    }

    /// A node's replica reads, by the time of what it applies next; the answer is on its way.
    fn look(&mut self, node: usize, id: u64, outcome: Option<u64>) {
        let now_ms = 1001 + self.books.applied(node, P).get();
        self.look_at(node, id, outcome, now_ms);
    }

    fn look_at(&mut self, node: usize, id: u64, outcome: Option<u64>, now_ms: u64) {
        let op = PlainSubject.audit(&Knobs::draw(0)).swap_remove(0);
        self.books.read_op(node, P, (id, &op, now_ms), &outcome);
    }

    fn answer_with(&mut self, node: usize, id: u64, outcome: Option<u64>) {
        self.look(node, id, outcome);
        let lsn = self.books.applied(node, P);
        self.reply(node, id, &Reply::Done { lsn, outcome });
    }

    fn read(&mut self, node: usize) {
        let id = self.send(node, Kind::Read);
        self.answer(node, id);
    }

    /// A node's process dies and starts again on what its machine had persisted.
    fn restart(&mut self, node: usize, persisted: u64, value: Option<u64>) {
        self.books.crashed(node);
        self.books.opened(node, P, Lsn(persisted));
        self.values[node] = value;
    }

    #[track_caller]
    fn right(&self) {
        assert_eq!(self.books.violation(), None);
    }

    #[track_caller]
    fn wrong(&self, invariant: &str) {
        assert_eq!(self.books.violation().map(|found| found.invariant), Some(invariant));
    }
}

#[test]
fn replicas_may_apply_one_history_each_at_its_own_pace() {
    let mut script = Script::new();
    let first = script.write(0, 1, 1);
    script.entry(1, 1, 1, &[first]);
    let second = script.write(0, 2, 1);
    // An entry without ops changes nothing: who lacks it sees as much as who has it.
    script.entry(0, 3, 2, &[]);
    script.entry(1, 2, 1, &[second]);
    script.read(1);
    script.entry(1, 3, 2, &[]);
    let third = script.write(1, 4, 2);
    script.read(1);
    assert_eq!(script.books.behind(), [(P, 0), (P, 2)], "node 0 lacks one entry, node 2 all of them");
    for (lsn, term, ids) in [(1, 1, vec![first]), (2, 1, vec![second]), (3, 2, vec![]), (4, 2, vec![third])] {
        script.entry(2, lsn, term, &ids);
    }
    script.read(2);
    script.entry(0, 4, 2, &[third]);
    assert_eq!(script.books.behind(), Vec::new());
    script.right();
}

#[test]
fn a_read_by_an_earlier_clock_than_one_before_it_is_found() {
    for (now_ms, is_right) in [(5_000, true), (4_999, false)] {
        let mut script = Script::new();
        let first = script.write(0, 1, 1);
        script.entry(1, 1, 1, &[first]);
        for (node, now_ms) in [(0, 5_000), (1, now_ms)] {
            let id = script.send(node, Kind::Read);
            let outcome = script.values[node];
            script.look_at(node, id, outcome, now_ms);
            script.reply(node, id, &Reply::Done { lsn: Lsn(1), outcome });
        }
        if is_right {
            script.right();
        } else {
            script.wrong("a partition's clock never goes back");
        }
    }
}

/// A script in which node 0 has applied entries 1 to 5 and node 1 the first four of them, and no outcome showed any; with
/// reads that were sent to node 1 before all that.
fn unshown() -> (Script, Vec<u64>, Vec<u64>) {
    let mut script = Script::new();
    let reads = (0..8).map(|_| script.send(1, Kind::Read)).collect::<Vec<_>>();
    let ids = (0..5).map(|_| script.send(0, Kind::Write)).collect::<Vec<_>>();
    (1..=5).zip(&ids).for_each(|(lsn, &id)| script.entry(0, lsn, 1, &[id]));
    (1..=4).zip(&ids).for_each(|(lsn, &id)| script.entry(1, lsn, 1, &[id]));
    (script, reads, ids)
}

#[test]
fn a_read_is_judged_at_the_point_where_its_replica_stands() {
    let (mut script, reads, ids) = unshown();
    script.look(1, reads[0], Some(ids[3]));
    // No answer of those leaves the node: the next process may answer less.
    script.restart(1, 1, Some(ids[0]));
    script.read(1);
    script.entry(1, 2, 1, &[ids[1]]);
    script.entry(1, 3, 1, &[ids[2]]);
    script.read(1);
    script.read(1);
    script.right();
    let wrong = script.send(1, Kind::Read);
    script.answer_with(1, wrong, Some(ids[3]));
    script.wrong("state equals the log applied");
}

#[test]
fn a_read_may_lie_inside_an_entry() {
    let mut script = Script::new();
    let reads = [script.send(1, Kind::Read), script.send(1, Kind::Read)];
    let ids = [0; 4].map(|_| script.send(0, Kind::Write));
    script.entry(0, 1, 1, &ids);
    script.op(1, 1, 1, ids[0]);
    script.op(1, 1, 1, ids[1]);
    script.answer(1, reads[0]);
    script.op(1, 1, 1, ids[2]);
    script.answer(1, reads[1]);
    script.right();
    // A write that is answered shows itself and what precedes it, not what follows it in its entry.
    script.reply(0, ids[2], &Reply::Done { lsn: Lsn(1), outcome: Some(ids[1]) });
    let later = script.send(1, Kind::Read);
    script.answer(1, later);
    script.right();
    script.reply(0, ids[3], &Reply::Done { lsn: Lsn(1), outcome: Some(ids[2]) });
    let latest = script.send(1, Kind::Read);
    script.answer(1, latest);
    script.wrong("a read sees everything acknowledged");
}

#[test]
fn a_read_that_lacks_what_was_acknowledged_before_it_is_found() {
    let mut script = Script::new();
    let early = script.send(1, Kind::Read);
    script.write(0, 1, 1);
    script.answer(1, early);
    script.right();
    script.read(1);
    script.wrong("a read sees everything acknowledged");
}

#[test]
fn a_read_that_lacks_what_another_read_showed_is_found() {
    let (mut script, _, _) = unshown();
    script.read(0);
    script.right();
    script.read(1);
    script.wrong("a read sees everything acknowledged");
}

#[test]
fn two_different_entries_at_one_lsn_are_found() {
    let (mut script, _, ids) = unshown();
    script.entry(1, 5, 2, &[ids[4]]);
    script.wrong("an applied entry never changes");

    let (mut script, _, _) = unshown();
    let other = script.send(1, Kind::Write);
    script.entry(1, 5, 1, &[other]);
    script.wrong("an applied entry never changes");

    let (mut script, _, ids) = unshown();
    let more = script.send(1, Kind::Write);
    script.entry(1, 5, 1, &[ids[4], more]);
    script.wrong("an applied entry never changes");

    let (mut script, _, _) = unshown();
    script.entry(1, 5, 1, &[]);
    script.wrong("an applied entry never changes");
}

#[test]
fn an_acknowledged_write_that_the_next_leader_lacks_is_found() {
    // Replaced by another entry.
    let mut script = Script::new();
    script.write(0, 1, 1);
    script.books.crashed(0);
    script.write(1, 1, 2);
    script.wrong("an applied entry never changes");

    // Missing, and seen by a read.
    let mut script = Script::new();
    script.write(0, 1, 1);
    script.books.crashed(0);
    script.read(1);
    script.wrong("a read sees everything acknowledged");

    // Missing for good, also where it first showed.
    let mut script = Script::new();
    script.write(0, 1, 1);
    script.restart(0, 0, None);
    assert_eq!(script.books.behind(), [(P, 0), (P, 1), (P, 2)]);
    script.right();
}

#[test]
fn entries_that_a_replica_applies_out_of_order_are_found() {
    let (mut script, _, ids) = unshown();
    script.entry(2, 2, 1, &[ids[1]]);
    script.wrong("entries are applied in order, once");

    let (mut script, _, ids) = unshown();
    script.entry(1, 4, 1, &[ids[3]]);
    script.wrong("entries are applied in order, once");
}

#[test]
fn a_replica_on_which_an_entry_brings_something_else_is_found() {
    let (mut script, _, ids) = unshown();
    script.values[1] = Some(77);
    script.op(1, 5, 1, ids[4]);
    script.wrong("apply is deterministic");
}

#[test]
fn a_request_of_unknown_outcome_takes_effect_once_at_most_and_a_rejected_one_never() {
    let mut script = Script::new();
    let unknown = script.send(0, Kind::Write);
    script.reply(0, unknown, &Reply::Unknown);
    script.entry(1, 1, 2, &[unknown]);
    script.entry(2, 1, 2, &[unknown]);
    script.right();
    script.entry(1, 2, 2, &[unknown]);
    script.wrong("no effect twice");

    let mut script = Script::new();
    let rejected = script.send(0, Kind::Write);
    script.reply(0, rejected, &Reply::Rejected(Rejection::Obsoleted));
    script.right();
    script.entry(1, 1, 2, &[rejected]);
    script.wrong("a rejected request has no effect");
}

#[test]
fn a_crash_cuts_off_the_requests_of_its_node_only() {
    let mut script = Script::new();
    let [here, there] = [script.send(0, Kind::Write), script.send(1, Kind::Write)];
    script.books.crashed(0);
    assert_eq!(script.books.outstanding(), 1);
    script.entry(1, 1, 1, &[here, there]);
    script.reply(1, there, &Reply::Done { lsn: Lsn(1), outcome: Some(here) });
    script.right();
    script.reply(0, here, &Reply::Done { lsn: Lsn(1), outcome: None });
    script.wrong("one outcome per request");
}

#[test]
fn each_replica_keeps_its_own_term_and_persisted_lsn() {
    let mut script = Script::new();
    script.entry(0, 1, 3, &[]);
    script.entry(1, 1, 3, &[]);
    script.entry(0, 2, 7, &[]);
    script.books.persisted(0, P, Lsn(2));
    script.books.persisted(1, P, Lsn(1));
    script.restart(1, 1, None);
    script.books.started(1, P, StartedAs::Bootstrapped, Term(3));
    script.restart(0, 2, None);
    script.books.started(0, P, StartedAs::Bootstrapped, Term(7));
    script.right();
    script.books.started(0, P, StartedAs::Bootstrapped, Term(3));
    script.wrong("a group's hard state survives");

    let mut script = Script::new();
    script.entry(0, 1, 1, &[]);
    script.books.persisted(1, P, Lsn(1));
    script.wrong("persisted is not above applied");
}
