//! What happens step by step.

use Kind::{Read as R, Write as W};

use super::*;

/// A shard that holds nothing.
const fn known(lead: Lead) -> Known {
    Known { lead, held: BTreeSet::new() }
}

const NO_LEADER: Rejection = Rejection::NoLeader(P);

const fn ticket(seq: u64) -> Ticket {
    Ticket { conn: 5, seq }
}

const fn request(seq: u64, kind: Kind, op: &[u8]) -> Request<'_> {
    Request { ticket: ticket(seq), partition: P, kind, may_redirect: false, op }
}

/// A forwarder that was asked for these by one connection, while that node led.
fn asked(kinds: &[Kind], node: u64) -> (Forwarder, Vec<u64>) {
    let mut forwarder = Forwarder::new(options());
    for (seq, kind) in (0..).zip(kinds) {
        let taken = forwarder.take(request(seq, *kind, b"op"), &known(Lead::There(NodeId(node))), 0);
        assert_eq!(taken, Taken::Yes);
    }
    let sent = step(&mut forwarder, Lead::There(NodeId(node)), MS).sent(node);
    (forwarder, sent)
}

#[derive(Default, Debug)]
struct Decided {
    sent: Vec<(u64, u64)>,
    run: Vec<u64>,
    answered: Vec<u64>,
    redirected: Vec<u64>,
    rejected: Vec<(u64, Rejection)>,
    unknown: Vec<u64>,
}

impl Decided {
    /// The numbers of what was sent, all of it to that node.
    fn sent(&self, node: u64) -> Vec<u64> {
        assert!(self.sent.iter().all(|(to, _)| *to == node), "{self:?}");
        self.sent.iter().map(|(_, number)| *number).collect()
    }

    fn is_nothing(&self) -> bool {
        self.sent.is_empty()
            && self.run.is_empty()
            && self.answered.is_empty()
            && self.redirected.is_empty()
            && self.has_no_error()
    }

    fn has_no_error(&self) -> bool {
        self.rejected.is_empty() && self.unknown.is_empty()
    }
}

fn decided(forwarder: &mut Forwarder) -> Decided {
    let mut all = Decided::default();
    while let Some(decision) = forwarder.next_decision() {
        match decision {
            Decision::Send { node, id, .. } => all.sent.push((node.0, id.number)),
            Decision::Run { handed, .. } => all.run.push(handed.ticket.seq),
            Decision::Answer { ticket, .. } => all.answered.push(ticket.seq),
            Decision::Redirect { ticket, .. } => all.redirected.push(ticket.seq),
            Decision::Reject { ticket, why } => all.rejected.push((ticket.seq, why)),
            Decision::Unknown { ticket } => all.unknown.push(ticket.seq),
        }
    }
    forwarder.check();
    all
}

fn step(forwarder: &mut Forwarder, lead: Lead, now_ns: u64) -> Decided {
    forwarder.step(&known(lead), now_ns);
    decided(forwarder)
}

const fn id(number: u64) -> RequestId {
    RequestId { process: 77, number }
}

#[test]
fn what_was_refused_is_sent_to_the_leader_that_was_named_in_order() {
    let (mut forwarder, sent) = asked(&[W, R, W], 2);
    let there = Lead::There(NodeId(2));
    for number in &sent[..2] {
        forwarder.not_led(id(*number), Some(NodeId(3)), there, 2 * MS);
        assert!(step(&mut forwarder, there, 2 * MS).is_nothing(), "one is still owed");
    }
    forwarder.not_led(id(sent[2]), Some(NodeId(3)), there, 2 * MS);
    let again = step(&mut forwarder, there, 30 * MS);
    assert_eq!(again.sent(3).len(), 3);
    for number in again.sent(3) {
        forwarder.answered(id(number), true, Bytes::new());
    }
    assert_eq!(decided(&mut forwarder).answered, [0, 1, 2]);
    // An answer to the first time is for nobody.
    forwarder.answered(id(sent[0]), true, Bytes::new());
    forwarder.answered(RequestId { process: 76, number: sent[0] }, true, Bytes::new());
    assert_eq!((forwarder.counters().late, forwarder.requests()), (2, 0));
}

#[test]
fn one_that_was_overtaken_is_not_sent_again() {
    let (mut forwarder, sent) = asked(&[R, W], 2);
    let there = Lead::There(NodeId(2));
    forwarder.answered(id(sent[1]), true, Bytes::new());
    forwarder.not_led(id(sent[0]), Some(NodeId(3)), there, 2 * MS);
    let end = step(&mut forwarder, there, 30 * MS);
    assert_eq!(
        (end.answered.as_slice(), end.rejected.as_slice()),
        (&[1][..], &[(0, Rejection::NoLeader(P))][..])
    );
}

#[test]
fn when_a_connection_ends_writes_are_unknown_and_reads_are_sent_again() {
    let (mut forwarder, sent) = asked(&[R, W, R], 2);
    let there = Lead::There(NodeId(2));
    let all: Vec<RequestId> = sent.iter().copied().map(id).collect();
    forwarder.severed(&all, 2 * MS);
    let end = decided(&mut forwarder);
    assert_eq!(
        (end.unknown.as_slice(), end.rejected.len()),
        (&[1][..], 1),
        "the first read would see the write"
    );
    assert!(step(&mut forwarder, there, 3 * MS).is_nothing(), "not at once");
    let again = step(&mut forwarder, Lead::There(NodeId(3)), 4 * MS);
    assert_eq!(again.sent(3).len(), 1);
    forwarder.answered(id(sent[2]), true, Bytes::new());
    assert!(decided(&mut forwarder).answered.is_empty(), "it came of the first time");
    // What was certainly not sent is another matter.
    let (mut forwarder, sent) = asked(&[W, R], 2);
    sent.iter().for_each(|number| forwarder.unsent(id(*number), 2 * MS));
    forwarder.severed(&sent.iter().copied().map(id).collect::<Vec<_>>(), 2 * MS);
    assert!(decided(&mut forwarder).is_nothing());
    assert_eq!(step(&mut forwarder, Lead::There(NodeId(3)), 3 * MS).sent(3).len(), 2);
}

#[test]
fn nothing_goes_elsewhere_before_the_old_leader_has_answered_or_had_its_time() {
    let (mut forwarder, sent) = asked(&[W, R], 2);
    let here = forwarder.take(request(2, W, b"op"), &known(Lead::Here), 2 * MS);
    assert_eq!(here, Taken::Yes, "it comes behind what another node owes");
    assert!(step(&mut forwarder, Lead::Here, 60 * MS).is_nothing());
    forwarder.answered(id(sent[0]), true, Bytes::new());
    assert_eq!(step(&mut forwarder, Lead::Here, 200 * MS).answered, [0]);
    assert!(step(&mut forwarder, Lead::Here, 900 * MS).is_nothing());
    let over = step(&mut forwarder, Lead::Here, 1_300 * MS);
    assert!(over.has_no_error(), "a read can be asked again: {over:?}");
    assert_eq!(step(&mut forwarder, Lead::Here, 1_301 * MS).run, [1, 2]);
    assert_eq!(forwarder.take(request(3, W, b"op"), &known(Lead::Here), 1_302 * MS), Taken::Local);
    // Of a write it is not known.
    let (mut forwarder, _) = asked(&[W], 2);
    step(&mut forwarder, Lead::There(NodeId(3)), 60 * MS);
    assert_eq!(step(&mut forwarder, Lead::There(NodeId(3)), 1_100 * MS).unknown, [0]);
}

#[test]
fn waiting_is_bounded_in_number_bytes_and_time() {
    let bounds = ForwardOptions { requests: 3, bytes: 10, ..options() };
    let mut forwarder = Forwarder::new(bounds);
    let mut take = |seq, op: &[u8]| {
        forwarder.take(request(seq, W, op), &known(Lead::Nobody), seq * MS);
        decided(&mut forwarder).rejected.len()
    };
    assert_eq!([take(0, &[0; 11]), take(1, b"x")], [0, 1], "one alone may be of any length");
    let late = step(&mut forwarder, Lead::Nobody, 10_001 * MS);
    assert_eq!(late.rejected, [(0, Rejection::NoLeader(P))]);
    let mut take = |seq| {
        forwarder.take(request(seq, W, b"x"), &known(Lead::Nobody), 20_000 * MS);
        decided(&mut forwarder).rejected.len()
    };
    assert_eq!([take(2), take(3), take(4), take(5)], [0, 0, 0, 1]);
    assert!(forwarder.next_ns().is_some_and(|at_ns| at_ns <= 20_050 * MS));
    assert_eq!(step(&mut forwarder, Lead::Nobody, 29_999 * MS).rejected.len(), 0);
    assert_eq!(step(&mut forwarder, Lead::Nobody, 30_060 * MS).rejected.len(), 3);
    assert_eq!(forwarder.next_ns(), None);
    // A node that never answers.
    let (mut forwarder, _) = asked(&[W, R], 2);
    let end = step(&mut forwarder, Lead::There(NodeId(2)), 11_100 * MS);
    assert_eq!((end.unknown.as_slice(), end.rejected.len()), (&[0][..], 1));
}

#[test]
fn a_node_owes_few_answers_at_a_time() {
    let (mut forwarder, sent) = asked(&[W; 9], 2);
    assert_eq!(sent.len(), 6);
    let there = Lead::There(NodeId(2));
    assert!(step(&mut forwarder, there, 2 * MS).is_nothing());
    forwarder.answered(id(sent[0]), true, Bytes::new());
    assert_eq!(step(&mut forwarder, there, 2 * MS).sent(2).len(), 1);
}

#[test]
fn answers_of_several_parts_are_put_together_and_bounded() {
    let asked_for = Asked { node: ME, id: id(1), partition: P, conn: 5 };
    let long = Bytes::from(vec![7; (2 << 20) + 1]);
    let parts: Vec<Forwarded> = answer(&asked_for, long.clone()).collect();
    assert_eq!(parts.len(), 3);
    let mut forwarder = asked(&[R], 2).0;
    for part in parts {
        let Forwarded::Answer { id, is_last, bytes, .. } = part else { panic!("an answer") };
        forwarder.answered(id, is_last, bytes);
    }
    let Some(Decision::Answer { bytes, .. }) = forwarder.next_decision() else { panic!("it is whole") };
    assert_eq!(bytes, long);
    assert_eq!(answer(&asked_for, Bytes::new()).count(), 1);
    let bounds = ForwardOptions { answer_bytes: 10, ..options() };
    let mut forwarder = Forwarder::new(bounds);
    forwarder.take(request(0, W, b"op"), &known(Lead::There(NodeId(2))), 0);
    step(&mut forwarder, Lead::There(NodeId(2)), 0);
    forwarder.answered(id(1), false, Bytes::from_static(b"12345678"));
    forwarder.answered(id(1), true, Bytes::from_static(b"345"));
    assert_eq!(decided(&mut forwarder).unknown, [0]);
}

#[test]
fn a_connection_of_another_node_has_one_number_while_anything_of_it_is_under_way() {
    let mut serving = Serving::default();
    let of = |process, conn, number| Asked {
        node: NodeId(2),
        id: RequestId { process, number },
        partition: P,
        conn,
    };
    let [one, two] = [1, 2].map(|number| serving.take(of(7, 5, number)).unwrap());
    assert!(one.conn == two.conn && one.seq < two.seq);
    assert_eq!(usize::try_from(one.conn >> 48), Ok(FORWARDED_CORE));
    // Another one of it, and the same of its next process.
    let [other, next] = [of(7, 6, 3), of(8, 5, 1)].map(|asked| serving.take(asked).unwrap());
    assert!(other.conn != one.conn && next.conn != one.conn && next.conn != other.conn);
    assert_eq!([serving.done(one), serving.done(two)], [of(7, 5, 1), of(7, 5, 2)]);
    let again = serving.take(of(7, 5, 9)).unwrap();
    assert!(![one, other, next].iter().any(|ticket| ticket.conn == again.conn), "numbers are not used again");
    assert_eq!(serving.len(), 3);
}

#[test]
fn who_is_to_ask_the_leader_waits_until_there_is_one_that_is_reached() {
    let mut forwarder = Forwarder::new(options());
    for seq in 0..3 {
        let request = Request { may_redirect: seq > 0, ..request(seq, W, b"op") };
        assert_eq!(forwarder.take(request, &known(Lead::Nobody), 0), Taken::Yes);
    }
    assert!(step(&mut forwarder, Lead::Nobody, MS).is_nothing());
    let end = step(&mut forwarder, Lead::There(NodeId(2)), 2 * MS);
    assert_eq!((end.sent(2).len(), end.redirected.as_slice()), (1, &[1, 2][..]));
    // Node 3 is not reached: it is asked from here.
    let mut forwarder = Forwarder::new(options());
    let request = Request { may_redirect: true, ..request(0, R, b"op") };
    assert_eq!(forwarder.take(request, &known(Lead::Nobody), 0), Taken::Yes);
    assert_eq!(step(&mut forwarder, Lead::There(NodeId(3)), MS).sent(3).len(), 1);
    // What comes behind something that is owed waits for it.
    let (mut forwarder, sent) = asked(&[W], 3);
    let request = Request { ticket: ticket(1), ..request };
    assert_eq!(forwarder.take(request, &known(Lead::There(NodeId(2))), MS), Taken::Yes);
    assert!(step(&mut forwarder, Lead::There(NodeId(2)), 2 * MS).is_nothing());
    forwarder.answered(id(sent[0]), true, Bytes::new());
    let end = step(&mut forwarder, Lead::There(NodeId(2)), 3 * MS);
    assert_eq!((end.answered.as_slice(), end.redirected.as_slice()), (&[0][..], &[1][..]));
}

#[test]
fn only_what_was_written_to_the_connection_that_ended_is_lost() {
    let (mut forwarder, sent) = asked(&[W, R, W], 2);
    forwarder.severed(&[id(sent[1]), id(99), RequestId { process: 76, number: sent[0] }], 2 * MS);
    assert!(
        step(&mut forwarder, Lead::There(NodeId(2)), 60 * MS).is_nothing(),
        "others are owed on another one"
    );
    for number in [sent[0], sent[2]] {
        forwarder.answered(id(number), true, Bytes::new());
    }
    let end = decided(&mut forwarder);
    assert_eq!((end.answered.as_slice(), end.rejected.len()), (&[0, 2][..], 1));
}

/// A shard that has lost the lead gives back what it has gathered when its disk lets it.
#[test]
fn nothing_goes_elsewhere_before_the_shard_here_has_given_back_what_came_before() {
    let mut forwarder = Forwarder::new(options());
    let there = Lead::There(NodeId(2));
    let holding = Known { lead: there, held: [5].into() };
    assert_eq!(forwarder.take(request(1, W, b"second"), &holding, 0), Taken::Yes);
    forwarder.step(&holding, MS);
    assert!(decided(&mut forwarder).is_nothing(), "the first is in the shard");
    let handed =
        Handed { ticket: ticket(0), partition: P, kind: W, may_redirect: false, until_ns: 9_000 * MS };
    assert!(forwarder.take_back(handed, Bytes::from_static(b"first"), 2 * MS));
    forwarder.step(&known(there), 2 * MS);
    let mut ops = Vec::new();
    while let Some(Decision::Send { op, .. }) = forwarder.next_decision() {
        ops.push(op);
    }
    assert_eq!(ops, [Bytes::from_static(b"first"), Bytes::from_static(b"second")]);
    // Nor does one that was sent already let an earlier one pass.
    let late = Handed { ticket: Ticket { conn: 5, seq: 0 }, ..handed };
    assert!(!forwarder.take_back(late, Bytes::from_static(b"first"), 3 * MS));
}

#[test]
fn two_nodes_that_name_each_other_are_asked_by_turns_with_a_pause() {
    let (mut forwarder, sent) = asked(&[W], 2);
    let there = Lead::There(NodeId(2));
    forwarder.not_led(id(sent[0]), Some(NodeId(3)), there, 2 * MS);
    let [second] = step(&mut forwarder, there, 2 * MS).sent(3)[..] else { panic!("at once") };
    forwarder.not_led(id(second), Some(NodeId(2)), there, 3 * MS);
    assert!(step(&mut forwarder, there, 4 * MS).is_nothing());
    assert_eq!(step(&mut forwarder, there, 30 * MS).sent(2).len(), 1);
}

/// Else whoever sleeps until then does not sleep at all.
#[test]
fn a_pause_that_is_over_asks_for_no_step_while_nobody_leads() {
    let (mut forwarder, sent) = asked(&[W, W], 2);
    forwarder.take(request(2, R, b"op"), &known(Lead::Nobody), MS);
    assert!(step(&mut forwarder, Lead::Nobody, 2 * MS).is_nothing(), "it knows already that nobody does");
    forwarder.not_led(id(sent[0]), None, Lead::Nobody, 3 * MS);
    forwarder.not_led(id(sent[1]), None, Lead::Nobody, 3 * MS);
    for ms in 4..60 {
        assert!(step(&mut forwarder, Lead::Nobody, ms * MS).is_nothing());
        assert!(forwarder.next_ns().is_some_and(|at_ns| at_ns > ms * MS), "after {ms} ms");
    }
}

#[test]
fn of_a_connection_that_is_closed_nothing_more_is_sent() {
    let (mut forwarder, sent) = asked(&[W, R], 2);
    let there = Lead::There(NodeId(2));
    forwarder.take(request(2, W, b"op"), &known(Lead::Nobody), 2 * MS);
    forwarder.end_conn(5, End::Closed, 2 * MS);
    assert_eq!(decided(&mut forwarder).rejected, [(2, Rejection::NoLeader(P))]);
    // What was sent, and given back: it may have waited there for long.
    forwarder.not_led(id(sent[1]), Some(NodeId(3)), there, 20_000 * MS);
    forwarder.unsent(id(sent[0]), 20_000 * MS);
    assert_eq!(decided(&mut forwarder).rejected.len(), 2);
    assert!(step(&mut forwarder, there, 20_001 * MS).is_nothing());
    let handed =
        Handed { ticket: ticket(3), partition: P, kind: W, may_redirect: false, until_ns: 90_000 * MS };
    assert!(!forwarder.take_back(handed, Bytes::from_static(b"op"), 20_002 * MS));
    // It is forgotten once all of it is too old, or all of it is answered.
    forwarder.end_conn(6, End::Closed, 22_000 * MS);
    assert!(forwarder.take_back(handed, Bytes::from_static(b"op"), 22_000 * MS));
    let other = Handed { ticket: Ticket { conn: 6, seq: 1 }, ..handed };
    assert!(!forwarder.take_back(other, Bytes::from_static(b"op"), 22_000 * MS));
    forwarder.end_conn(6, End::Over, 22_001 * MS);
    assert!(forwarder.take_back(other, Bytes::from_static(b"op"), 22_001 * MS));
}

#[test]
fn of_a_connection_whose_client_sends_no_more_only_that_is_done_which_need_not_wait() {
    let there = Lead::There(NodeId(2));
    let mut forwarder = Forwarder::new(options());
    forwarder.end_conn(5, End::Announced, 0);
    (0..8).for_each(|seq| _ = forwarder.take(request(seq, W, b"op"), &known(there), 0));
    let sent = step(&mut forwarder, there, MS).sent(2);
    assert_eq!(sent.len(), 6, "others wait for answers alone");
    forwarder.answered(id(sent[0]), true, Bytes::new());
    assert_eq!(step(&mut forwarder, there, 2 * MS).sent(2).len(), 1);
    forwarder.not_led(id(sent[1]), Some(NodeId(3)), there, 3 * MS);
    assert_eq!(decided(&mut forwarder).rejected, [(1, NO_LEADER), (7, NO_LEADER)]);
    // Others have lost a node, or know none.
    (10..12).for_each(|seq| _ = forwarder.take(request(seq, W, b"op"), &known(there), 4 * MS));
    assert_eq!(step(&mut forwarder, Lead::Nobody, 5 * MS).rejected, [(10, NO_LEADER), (11, NO_LEADER)]);
    let mut forwarder = Forwarder::new(options());
    forwarder.end_conn(5, End::Announced, 0);
    forwarder.take(request(12, W, b"op"), &known(there), 6 * MS);
    let holding = Known { lead: there, held: [5].into() };
    forwarder.step(&holding, 40 * MS);
    assert_eq!(
        decided(&mut forwarder).rejected,
        [(12, NO_LEADER)],
        "it comes behind what the shard here has"
    );
}

#[test]
fn what_has_to_wait_for_a_pause_is_dropped_where_its_client_has_ended() {
    let there = Lead::There(NodeId(2));
    for is_hinted in [true, false] {
        let (mut forwarder, sent) = asked(&[W], 2);
        let lead = if is_hinted { Lead::Nobody } else { there };
        if is_hinted {
            forwarder.not_led(id(sent[0]), Some(NodeId(3)), lead, 2 * MS);
            let [second] = step(&mut forwarder, lead, 2 * MS).sent(3)[..] else { panic!("at once") };
            forwarder.not_led(id(second), Some(NodeId(2)), lead, 3 * MS);
        } else {
            forwarder.unsent(id(sent[0]), 3 * MS);
        }
        let late = Request { ticket: Ticket { conn: 6, seq: 9 }, ..request(9, W, b"op") };
        forwarder.take(late, &known(lead), 3 * MS);
        forwarder.end_conn(6, End::Announced, 3 * MS);
        assert_eq!(step(&mut forwarder, lead, 4 * MS).rejected, [(9, NO_LEADER)], "{is_hinted}");
        assert_eq!(step(&mut forwarder, lead, 40 * MS).sent(2).len(), 1, "the other one has waited");
    }
}
