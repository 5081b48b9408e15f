//! Rounds: which reads share one, what confirms it, and what becomes of it when the lead changes.

use super::*;

fn rounds() -> Rounds {
    Rounds::new(MemberId(1), 9, Lease::new(0), 0)
}

/// A round that `reads` reads share.
fn begin(rounds: &mut Rounds, reads: usize) -> (u64, Context) {
    let joined: Vec<_> = (0..reads).map(|_| rounds.join()).collect();
    assert!(rounds.is_due() && joined.iter().all(|round| *round == joined[0]));
    let context = rounds.begin(Term(2), 0);
    rounds.check();
    (joined[0], context)
}

#[test]
fn all_reads_before_a_round_share_it_and_later_ones_have_the_next() {
    let mut rounds = rounds();
    assert!(!rounds.is_due());
    let (one, first) = begin(&mut rounds, 5);
    assert!(!rounds.is_due(), "nobody waits for another one");
    let (two, second) = begin(&mut rounds, 2);
    assert!(two > one && first != second);
    rounds.confirm(first.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), one);
    rounds.confirm(second.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!((rounds.confirmed(), rounds.attempted()), (two, 2));
    rounds.check();
}

#[test]
fn who_has_lost_the_lead_is_at_rest_and_asks_no_other_leader_for_what_nobody_waits_for() {
    let mut rounds = rounds();
    assert!(rounds.is_at_rest());
    begin(&mut rounds, 2);
    rounds.join();
    assert!(!rounds.is_at_rest());
    rounds.lose();
    rounds.check();
    assert!(rounds.take_lost() && rounds.is_at_rest());
    rounds.begin_again();
    assert!(!rounds.is_due() && rounds.is_at_rest());
    let (three, third) = begin(&mut rounds, 1);
    rounds.begin_again();
    assert!(rounds.is_due() && !rounds.is_at_rest(), "another one leads, and is asked");
    let again = rounds.begin(Term(3), 0);
    assert_ne!(third, again);
    rounds.confirm(again.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert!(rounds.confirmed() == three && rounds.is_at_rest());
    rounds.check();
}

#[test]
fn a_later_round_confirms_the_earlier_ones_and_what_is_strange_nothing() {
    let mut rounds = rounds();
    let (_, first) = begin(&mut rounds, 1);
    let (two, second) = begin(&mut rounds, 1);
    rounds.confirm(b"", (Lsn(0), Lsn(0)), 0);
    rounds.confirm(Context::new(MemberId(1), 8, Term(2), 2).as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), 0);
    rounds.confirm(second.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), two);
    rounds.confirm(first.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), two);
    rounds.check();
}

#[test]
fn what_nobody_answers_is_tried_again_under_another_name_and_either_answer_counts() {
    for answered in 0..2 {
        let mut rounds = rounds();
        let (one, first) = begin(&mut rounds, 1);
        (1..PATIENCE_TICKS).for_each(|_| rounds.tick());
        assert!(!rounds.is_due());
        rounds.tick();
        assert!(rounds.is_due());
        let second = rounds.begin(Term(2), 0);
        assert_ne!(first, second);
        rounds.check();
        rounds.confirm([first, second][answered].as_bytes(), (Lsn(0), Lsn(0)), 0);
        assert_eq!(rounds.confirmed(), one);
        (0..100).for_each(|_| rounds.tick());
        assert!(!rounds.is_due(), "nothing is under way");
    }
}

#[test]
fn patience_doubles_attempts_are_bounded_and_never_end() {
    let mut rounds = rounds();
    let (one, first) = begin(&mut rounds, 1);
    let (mut attempts, mut last) = (0, first);
    for _ in 0..10_000 {
        rounds.tick();
        if rounds.is_due() {
            last = rounds.begin(Term(2), 0);
            attempts += 1;
        }
        rounds.check();
    }
    assert!((400..=420).contains(&attempts), "{attempts}");
    // With all of them under way, others that come have their rounds.
    let (two, _) = begin(&mut rounds, 1);
    rounds.confirm(first.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), 0, "it was given up");
    rounds.confirm(last.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!((rounds.confirmed(), two), (one, one + 1));
}

#[test]
fn what_comes_while_enough_are_under_way_shares_the_next() {
    let mut rounds = rounds();
    let contexts: Vec<_> = (0..ROUNDS_MAX).map(|_| begin(&mut rounds, 1).1).collect();
    let waits = rounds.join();
    assert!(!rounds.is_due());
    assert_eq!(rounds.join(), waits);
    rounds.confirm(contexts[0].as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert!(rounds.is_due());
    let last = rounds.begin(Term(2), 0);
    rounds.confirm(last.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), waits);
}

#[test]
fn who_loses_the_lead_says_so_once_and_takes_no_answer_to_what_it_asked_before() {
    let mut rounds = rounds();
    rounds.lose();
    assert!(!rounds.take_lost(), "nobody has waited");
    let (_, first) = begin(&mut rounds, 1);
    rounds.join();
    rounds.lose();
    assert!(rounds.take_lost() && !rounds.take_lost() && !rounds.is_due());
    rounds.check();
    rounds.lose();
    assert!(!rounds.take_lost(), "those that waited were turned away already");
    let (next, second) = begin(&mut rounds, 1);
    rounds.confirm(first.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert!(rounds.confirmed() < next, "that was asked in another term");
    rounds.confirm(second.as_bytes(), (Lsn(0), Lsn(0)), 0);
    assert_eq!(rounds.confirmed(), next);
}

#[test]
fn no_two_contexts_are_the_same() {
    let made = |member, incarnation, term| {
        let mut rounds = Rounds::new(MemberId(member), incarnation, Lease::new(0), 0);
        rounds.join();
        rounds.begin(Term(term), 0)
    };
    let all = [made(1, 1, 1), made(2, 1, 1), made(1, 2, 1), made(1, 1, 2)];
    for (at, one) in all.iter().enumerate() {
        assert!(all.iter().skip(at + 1).all(|other| one != other));
    }
}

#[test]
fn only_a_leader_that_applied_its_terms_first_entry_answers() {
    let view = |leads, safe_from: Option<u64>, applied| ReadView {
        leads,
        safe_from: safe_from.map(Lsn),
        applied: Lsn(applied),
    };
    assert_eq!(gate(view(true, Some(5), 5)), Gate::Open);
    assert_eq!(gate(view(true, Some(5), 4)), Gate::UntilApplied(Lsn(5)));
    assert_eq!(gate(view(true, None, 9)), Gate::NoLeader);
    assert_eq!(gate(view(false, Some(5), 9)), Gate::NoLeader);
    assert_eq!(gate(view(true, Some(0), 0)), Gate::Open);
}
