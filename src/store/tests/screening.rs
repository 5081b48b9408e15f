//! What is looked at before it is proposed, over a disk level that can be told not to be readable any more.

use corduroy_shards::{Prepared, Unreadable};

use super::super::*;
use super::faulty::Faulty;
use super::*;
use crate::store::disk::DiskError;

fn damage() -> DiskError {
    DiskError::damaged("table".as_ref(), "a block's checksum")
}

fn refusal() -> DiskError {
    DiskError::io("reading", "table".as_ref(), &std::io::ErrorKind::PermissionDenied.into())
}

const MEMORY_BYTES: usize = 200_000;

/// A store that holds a small part of its rows in memory.
fn over(disk: &Faulty) -> Driver<Faulty> {
    let mut d = Driver::new(disk.clone(), Options::with_memory(MEMORY_BYTES, HashSeed([5, 6])));
    let value = "7".repeat(18);
    for n in 0..8_000 {
        d.run(&set(&format!("k{n}"), &value));
    }
    d.flush();
    assert!(d.store.stats().evicted_keys > 0);
    d
}

fn incr(key: &str) -> Op<'_> {
    Op::IncrBy { key: key.as_bytes(), delta: 1 }
}

/// Has so much read that all rows go that nothing keeps.
fn crowd_out(d: &mut Driver<Faulty>) {
    for n in 1_000..8_000 {
        d.run(&get(&format!("k{n}")));
        d.store.maintain(1_000_000);
    }
    d.settle();
}

/// The next entry, of one op, as the shard would have it applied.
fn apply(d: &mut Driver<Faulty>, lsn: u64, op: &Op<'_>) -> Step<Outcome> {
    let at = Applied::first(P, Lsn(lsn), Term(1), d.now_ms);
    let step = d.store.apply(&at, &bytes(op));
    if matches!(step, Step::Done(_)) {
        d.store.end_entry(&at);
    }
    step
}

#[test]
fn what_a_proposed_write_had_in_memory_is_there_when_it_is_applied() {
    let disk = Faulty::default();
    let mut d = over(&disk);
    let pair: [&[u8]; 2] = [b"k2", b"k3"];
    let ops = [incr("k1"), Op::Del { keys: List::Args(&pair) }];
    for key in ["k1", "k2", "k3"] {
        d.run(&get(key));
    }
    for op in &ops {
        assert_eq!(d.store.prepare(P, &bytes(op)), Prepared::Ready);
    }
    crowd_out(&mut d);
    disk.set(Some(damage()));
    assert_eq!(apply(&mut d, 8_001, &ops[0]), Step::Done(Outcome::Int(777_777_777_777_777_778)));
    assert_eq!(apply(&mut d, 8_002, &ops[1]), Step::Done(Outcome::Int(2)));
    // Nothing is held any more.
    disk.set(None);
    d.flush();
    crowd_out(&mut d);
    disk.set(Some(damage()));
    d.store.prepare(P, &bytes(&ops[0]));
    d.settle();
    assert!(matches!(d.store.prepare(P, &bytes(&ops[0])), Prepared::Unreadable(Unreadable::Damaged(_))));
}

#[test]
fn what_is_proposed_before_memory_runs_full_is_held_too() {
    let disk = Faulty::default();
    let mut d = Driver::new(disk.clone(), Options::with_memory(MEMORY_BYTES, HashSeed([5, 6])));
    let mut n = 0;
    while !d.store.may_need_reads(P) {
        n += 1;
        d.run(&set(&format!("k{n}"), "777777777777777777"));
        assert!(d.store.stats().evicted_keys == 0, "rows go, and no write was looked at");
    }
    d.flush();
    assert_eq!(d.store.prepare(P, &bytes(&incr("k1"))), Prepared::Ready);
    for more in n + 1..8_000 {
        d.run(&set(&format!("k{more}"), "777777777777777777"));
    }
    d.flush();
    crowd_out(&mut d);
    disk.set(Some(damage()));
    assert_eq!(apply(&mut d, 8_000, &incr("k1")), Step::Done(Outcome::Int(777_777_777_777_777_778)));
}

#[test]
fn what_the_system_refuses_to_read_is_no_want_of_room() {
    let disk = Faulty::default();
    let mut d = over(&disk);
    crowd_out(&mut d);
    disk.set(Some(refusal()));
    assert!(matches!(apply(&mut d, 8_001, &incr("k1")), Step::Blocked(_)));
    d.settle();
    assert!(matches!(apply(&mut d, 8_001, &incr("k1")), Step::Blocked(_)), "it waits for the system");
    assert!(d.store.wants_retry() && !d.store.is_out_of_room());
    StateMachine::retry(&mut d.store);
    d.settle();
    assert!(matches!(apply(&mut d, 8_001, &incr("k1")), Step::Blocked(_)));
    d.settle();
    assert!(d.store.wants_retry() && !d.store.is_out_of_room());
    disk.set(None);
    StateMachine::retry(&mut d.store);
    d.settle();
    assert!(matches!(apply(&mut d, 8_001, &incr("k1")), Step::Blocked(_)), "it is asked for again");
    d.settle();
    assert_eq!(apply(&mut d, 8_001, &incr("k1")), Step::Done(Outcome::Int(777_777_777_777_777_778)));
    assert!(!d.store.wants_retry());
}
