//! Rows that are read on the core: what is at hand needs no job, and brings what a job would bring.

use corduroy_shards::{Prepared, Unreadable};

use super::super::*;
use super::faulty::Faulty;
use super::*;

const KEYS: usize = 2_000;

/// A store that holds few of its rows in memory; those below are all at hand.
fn over_map() -> (Driver<MemLevel>, MemLevel) {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), Options::with_memory(60_000, HashSeed([5, 6])));
    (0..KEYS).for_each(|n| drop(d.run(&set(&key(n), &value(n)))));
    d.flush();
    d.settle();
    disk.set_at_hand(1000, 1);
    (d, disk)
}

fn key(n: usize) -> String {
    format!("k{n}")
}

fn value(n: usize) -> String {
    format!("{n}")
}

/// Keys of which memory says nothing.
fn below<L: DiskLevel>(d: &Driver<L>) -> Vec<usize> {
    let is_below = |n: &usize| d.store.get(P, key(*n).as_bytes(), d.now_ms) == Lookup::Unknown;
    (0..KEYS).filter(is_below).collect()
}

fn look<L: DiskLevel>(d: &mut Driver<L>, n: usize) -> Option<(Option<Vec<u8>>, bool)> {
    let (op, now_ms) = (bytes(&get(&key(n))), d.now_ms);
    StateMachine::look(&mut d.store, P, &op, now_ms, |looked| {
        (looked.value.map(<[u8]>::to_vec), looked.read_bytes > 0)
    })
}

fn jobs<L: DiskLevel>(d: &mut Driver<L>) -> usize {
    d.take_jobs();
    d.held_jobs()
}

#[test]
fn whatever_wants_rows_that_are_at_hand_starts_no_job() {
    let (mut d, disk) = over_map();
    let below = below(&d);
    let [a, b, c, e, f, g, ..] = *below.as_slice() else { panic!("{below:?}") };
    let now_ms = d.now_ms;
    let read = |d: &mut Driver<MemLevel>, op: &Op<'_>| d.store.read(P, &bytes(op), now_ms);
    assert_eq!(read(&mut d, &get(&key(a))), Step::Done(bulk(&value(a))));
    let pair = [key(a), key(b), "none".to_owned()];
    let pair = pair.each_ref().map(String::as_bytes);
    let both = Outcome::Array(vec![bulk(&value(a)), bulk(&value(b)), Outcome::Nil]);
    assert_eq!(read(&mut d, &Op::MGet { keys: List::Args(&pair) }), Step::Done(both));
    assert!(matches!(read(&mut d, &Op::Version { key: key(c).as_bytes() }), Step::Done(Outcome::Int(_))));
    let [incremented, appended, present] = [e, f, g].map(key);
    let writes = [
        (Op::IncrBy { key: incremented.as_bytes(), delta: 1 }, Outcome::Int(e as i64 + 1)),
        (Op::Append { key: appended.as_bytes(), value: b"1" }, Outcome::Int(value(f).len() as i64 + 1)),
        (
            Op::Set {
                key: present.as_bytes(),
                value: b"",
                when: SetWhen::Absent,
                expiry: Expiry::Clear,
                reply: SetReply::Ok,
            },
            Outcome::Nil,
        ),
    ];
    for (number, (op, expected)) in writes.into_iter().enumerate() {
        assert_eq!(d.store.prepare(P, &bytes(&op)), Prepared::Ready, "{op:?}");
        let at = Applied::first(P, Lsn(KEYS as u64 + 1 + number as u64), Term(1), now_ms);
        assert_eq!(d.store.apply(&at, &bytes(&op)), Step::Done(expected), "{op:?}");
        d.store.end_entry(&at);
    }
    assert_eq!(jobs(&mut d), 0);
    // Nothing is at hand: the same waits for a job.
    disk.set_at_hand(0, 1);
    let last = below[below.len() - 1];
    assert!(matches!(read(&mut d, &get(&key(last))), Step::Blocked(_)));
    assert_eq!(jobs(&mut d), 1);
    assert_eq!(d.read_in(P, &get(&key(last))), bulk(&value(last)));
}

#[test]
fn a_look_brings_rows_below_and_keeps_what_is_asked_for_again() {
    let (mut d, _) = over_map();
    // While there is room, all of it stays.
    let mut rows = below(&d).into_iter();
    while !d.store.is_about_to_evict() {
        let n = rows.next().expect("more rows than fit");
        assert!(look(&mut d, n).is_some() && d.store.get(P, key(n).as_bytes(), 1) != Lookup::Unknown);
        d.take_jobs();
    }
    let below = below(&d);
    let used_bytes = d.store.stats().used_bytes;
    for n in below.iter().copied().take(200) {
        assert_eq!(look(&mut d, n), Some((Some(value(n).into_bytes()), true)), "{n}");
    }
    let is_kept = |d: &Driver<MemLevel>, n: usize| {
        d.store.get(P, key(n).as_bytes(), d.now_ms) == Lookup::Value(value(n).as_bytes())
    };
    let kept = below.iter().take(200).filter(|n| is_kept(&d, **n)).count();
    assert!(kept < 50, "{kept} of 200 that were asked for once");
    for n in below.iter().copied().take(20) {
        d.take_jobs();
        (0..2).for_each(|_| drop(look(&mut d, n)));
        assert!(is_kept(&d, n), "{n} was asked for twice in a row");
        assert_eq!(look(&mut d, n), Some((Some(value(n).into_bytes()), false)), "{n}");
    }
    assert!(d.store.stats().used_bytes > used_bytes);
    assert_eq!(look(&mut d, KEYS), Some((None, true)), "there is no such key");
    // What is kept is evicted in a turn.
    d.take_jobs();
    below.iter().copied().for_each(|n| (0..2).for_each(|_| drop(look(&mut d, n))));
    d.store.take_jobs(&mut Vec::new());
    assert!(d.store.wants_turn());
    d.settle();
    assert!(!d.store.wants_turn() && d.store.stats().used_bytes <= 60_000);
}

#[test]
fn a_row_that_has_expired_below_is_not_there() {
    let (mut d, _) = over_map();
    let until_ms = d.now_ms + 100;
    d.run(&Op::Set {
        key: b"k0",
        value: b"short",
        when: SetWhen::Always,
        expiry: Expiry::At(until_ms),
        reply: SetReply::Ok,
    });
    d.flush();
    d.crash();
    assert_eq!(look(&mut d, 0), Some((Some(b"short".to_vec()), true)));
    assert!(d.store.wants_turn(), "an alarm for it is to be set");
    d.now_ms = until_ms;
    assert_eq!(look(&mut d, 0), Some((None, false)));
    d.crash();
    assert_eq!(look(&mut d, 0), Some((None, true)));
}

#[test]
fn what_is_read_between_two_turns_is_bounded() {
    let (mut d, _) = over_map();
    let below = below(&d);
    let mut read = 0;
    while look(&mut d, below[read % below.len()]).is_some() {
        read += 1;
        assert!(read < 1_000_000, "there is no end to it");
    }
    assert!(read > 16, "{read}");
    let n = *below.iter().find(|n| d.store.get(P, key(**n).as_bytes(), 1) == Lookup::Unknown).expect("one");
    assert!(matches!(d.store.read(P, &bytes(&get(&key(n))), d.now_ms), Step::Blocked(_)));
    assert_eq!(jobs(&mut d), 1, "the rest is for jobs");
    assert!(look(&mut d, n).is_some(), "after a turn");
}

#[test]
fn what_is_damaged_is_found_by_a_job_as_ever() {
    let disk = Faulty::default();
    let mut d = Driver::new(disk.clone(), options());
    d.run(&set("k1", "1"));
    d.run(&set("k2", "2"));
    d.flush();
    d.crash();
    disk.set_at_hand(1000, 1);
    disk.damage("k1");
    assert_eq!(look(&mut d, 1), None);
    let op = bytes(&get("k1"));
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
    d.run_a_job(0);
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Unreadable(Unreadable::Damaged(_))));
    assert_eq!(look(&mut d, 2), Some((Some(b"2".to_vec()), true)));
}
