//! A disk without room for the state: nothing waits for what cannot happen, and deleting makes room.

use super::super::*;
use super::*;

/// What a store with this memory may have changed before writes wait.
const MAX_DIRTY_BYTES: usize = 60_000;

fn small() -> Options {
    Options {
        hand_over_bytes: 30_000,
        max_dirty_bytes: MAX_DIRTY_BYTES,
        ..Options::with_memory(1 << 20, HashSeed([5, 6]))
    }
}

fn fill(d: &mut Driver<MemLower>, keys: usize) {
    let value = "v".repeat(1000);
    for n in 0..keys {
        d.run(&set(&format!("k{n}"), &value));
    }
}

/// Looks at the room, as is done twice a second.
fn retry(d: &mut Driver<MemLower>) {
    StateMachine::retry(&mut d.store);
    d.settle();
}

#[test]
fn a_flush_without_room_is_undone_and_loses_nothing() {
    let lower = MemLower::default();
    let mut d = Driver::new(lower.clone(), options());
    d.run(&set("a", "1"));
    d.run(&set("c", "1"));
    let before = d.store.stats();
    lower.set_full(true);
    d.hand_over();
    assert!(d.store.is_out_of_room());
    assert_eq!((d.store.persisted(P), d.store.stats().hand_overs), (Lsn::ZERO, 0));
    let after = d.store.stats();
    assert_eq!((after.undone_hand_overs, after.captured_bytes), (1, 0));
    assert_eq!(after.dirty_bytes, before.dirty_bytes, "all rows are changed ones again");
    d.run(&set("a", "2"));
    d.run(&set("b", "3"));
    retry(&mut d);
    assert!(d.store.is_out_of_room(), "there is still none");
    lower.set_full(false);
    retry(&mut d);
    assert!(!d.store.is_out_of_room());
    d.hand_over();
    assert_eq!(d.store.persisted(P), Lsn(4), "as of now, not of the first attempt");
    d.crash();
    for (key, value) in [("a", "2"), ("b", "3"), ("c", "1")] {
        assert_eq!(d.run(&get(key)), bulk(value));
    }
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(3));
}

#[test]
fn a_flushed_database_needs_no_room_for_what_it_held() {
    let lower = MemLower::default();
    let mut d = Driver::new(lower.clone(), small());
    fill(&mut d, 20);
    d.hand_over();
    // Room for the least flush, not for those rows that are to be written next.
    d.hold_jobs = true;
    fill(&mut d, 25);
    lower.set_capacity(lower.stats().disk_bytes + 70_000);
    d.hold_jobs = false;
    d.hand_over();
    assert!(d.store.is_out_of_room());
    let persisted = d.store.persisted(P);
    d.run(&Op::Flush);
    d.settle();
    retry(&mut d);
    assert!(d.store.persisted(P) > persisted, "the log may go");
    assert_eq!(lower.snapshot().keys().filter(|key| key.first() == Some(&2)).count(), 0, "no row is left");
    d.crash();
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(0));
}

#[test]
fn deleted_rows_make_their_own_flush_small_enough() {
    let lower = MemLower::default();
    let mut d = Driver::new(lower.clone(), small());
    fill(&mut d, 20);
    d.hand_over();
    d.hold_jobs = true;
    fill(&mut d, 25);
    lower.set_capacity(lower.stats().disk_bytes + 70_000);
    d.hold_jobs = false;
    d.hand_over();
    assert!(d.store.is_out_of_room());
    let persisted = d.store.persisted(P);
    for n in 0..25 {
        let key = format!("k{n}");
        assert_eq!(d.run(&Op::Del { keys: List::Args(&[key.as_bytes()]) }), Outcome::Int(1));
    }
    retry(&mut d);
    assert!(d.store.persisted(P) > persisted, "tombstones are small");
    assert!(lower.snapshot().keys().all(|key| key.first() != Some(&2)), "and took the rows with them");
}

#[test]
fn deletes_do_not_wait_for_a_flush_that_has_no_room() {
    let lower = MemLower::default();
    let mut d = Driver::new(lower.clone(), small());
    let value = "v".repeat(100);
    let keys = MAX_DIRTY_BYTES / 50;
    for n in 0..keys {
        d.run(&set(&format!("k{n}"), &value));
    }
    d.hand_over();
    lower.set_full(true);
    fill(&mut d, 20);
    d.hand_over();
    // The driver fails if an op is blocked and no job can change that.
    for n in 0..keys {
        let key = format!("k{n}");
        d.run(&Op::Del { keys: List::Args(&[key.as_bytes()]) });
    }
    assert!(d.store.stats().dirty_bytes > MAX_DIRTY_BYTES as u64, "as much as was to be tried");
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(0));
    d.run(&Op::Flush);
}

#[test]
fn keys_can_be_counted_without_room() {
    let lower = MemLower::default();
    let mut d = Driver::new(lower.clone(), small());
    fill(&mut d, 30);
    d.hand_over();
    // Blind: the keys may be below, and nobody looks before they are counted.
    d.crash();
    lower.set_full(true);
    for n in 0..40 {
        d.run(&set(&format!("k{n}"), "w"));
    }
    d.hand_over();
    assert!(d.store.is_out_of_room());
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(40));
}

#[test]
fn a_flush_goes_ahead_while_there_is_room_for_it() {
    let lower = MemLower::default();
    let mut d = Driver::new(lower.clone(), Options { hand_over_bytes: 1 << 30, ..options() });
    fill(&mut d, 20);
    d.hand_over();
    let flushed = d.store.stats().hand_overs;
    // Enough for what has changed at any time, and never for all that is going to.
    lower.set_capacity(lower.stats().disk_bytes + (2 << 20));
    retry(&mut d);
    let value = "v".repeat(1000);
    let mut written = 0;
    while !d.store.is_out_of_room() {
        d.run(&set(&format!("n{written}"), &value));
        written += 1;
        assert!(written < 4000, "the disk is full by now");
    }
    assert!(d.store.stats().hand_overs > flushed, "nothing but the room asked for one");
    assert!(d.store.persisted(P) > Lsn(written / 2), "and most is on the disk");
}
