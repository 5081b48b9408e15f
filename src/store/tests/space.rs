//! A disk without room for the state: nothing waits for what cannot happen, and deleting makes room.

use super::super::*;
use super::faulty::Faulty;
use super::*;

/// What a store with this memory may have changed before writes wait.
const MAX_DIRTY_BYTES: usize = 60_000;

fn small() -> Options {
    Options {
        flush_bytes: 30_000,
        max_dirty_bytes: MAX_DIRTY_BYTES,
        ..Options::with_memory(1 << 20, HashSeed([5, 6]))
    }
}

/// Room for a flush of hardly any rows.
const LITTLE_BYTES: u64 = 150_000;

/// No flush unless one is asked for.
fn lazy() -> Options {
    Options { flush_bytes: 1 << 20, max_dirty_bytes: 1 << 20, ..small() }
}

fn fill(d: &mut Driver<MemLevel>, keys: usize) {
    let value = "v".repeat(1000);
    for n in 0..keys {
        d.run(&set(&format!("k{n}"), &value));
    }
}

/// Looks at the room, as is done twice a second.
fn retry(d: &mut Driver<MemLevel>) {
    StateMachine::retry(&mut d.store);
    d.settle();
}

#[test]
fn a_flush_is_tried_again_though_nothing_says_that_it_would_fit_now() {
    let disk = Faulty::default();
    let mut d = Driver::new(disk.clone(), options());
    d.run(&set("a", "1"));
    disk.refuse_flushes(3);
    d.flush();
    let mut looks = 0;
    while d.store.is_out_of_room() {
        looks += 1;
        assert!(looks < 20, "it is never tried again");
        StateMachine::retry(&mut d.store);
        d.settle();
    }
    assert_eq!(d.store.stats().undone_flushes, 3);
    assert_eq!(looks, 1 + 2 + 4, "it waits longer each time");
    assert_eq!(d.store.persisted(P), Lsn(1));
}

#[test]
fn deletes_whose_flush_was_undone_may_still_have_the_reserve() {
    let disk = Faulty::default();
    let mut d = Driver::new(disk.clone(), lazy());
    let value = "v".repeat(1000);
    (0..100).for_each(|n| _ = d.run(&set(&format!("k{n}"), &value)));
    d.flush();
    // Too little for others than those who delete, and less while the deletion is flushed for the first time.
    disk.leave(LITTLE_BYTES);
    d.run(&Op::Del { keys: List::Args(&[b"k3"]) });
    let persisted = d.store.persisted(P);
    disk.refuse_flushes(1);
    d.flush();
    assert_eq!((d.store.stats().undone_flushes, d.store.persisted(P)), (1, persisted));
    for _ in 0..5 {
        StateMachine::retry(&mut d.store);
        d.settle();
    }
    assert!(d.store.persisted(P) > persisted, "it is a deletion still");
}

#[test]
fn a_flush_without_room_is_undone_and_loses_nothing() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), options());
    d.run(&set("a", "1"));
    d.run(&set("c", "1"));
    let before = d.store.stats();
    disk.set_full(true);
    d.flush();
    assert!(d.store.is_out_of_room());
    assert_eq!((d.store.persisted(P), d.store.stats().flushes), (Lsn::ZERO, 0));
    let after = d.store.stats();
    assert_eq!((after.undone_flushes, after.captured_bytes), (1, 0));
    assert_eq!(after.dirty_bytes, before.dirty_bytes, "all rows are changed ones again");
    d.run(&set("a", "2"));
    d.run(&set("b", "3"));
    retry(&mut d);
    assert!(d.store.is_out_of_room(), "there is still none");
    disk.set_full(false);
    retry(&mut d);
    assert!(!d.store.is_out_of_room());
    d.flush();
    assert_eq!(d.store.persisted(P), Lsn(4), "as of now, not of the first attempt");
    d.crash();
    for (key, value) in [("a", "2"), ("b", "3"), ("c", "1")] {
        assert_eq!(d.run(&get(key)), bulk(value));
    }
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(3));
}

#[test]
fn a_flushed_database_needs_no_room_for_what_it_held() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), lazy());
    fill(&mut d, 20);
    d.flush();
    // Room for the least flush, not for those rows that are to be written next.
    fill(&mut d, 100);
    disk.set_capacity(disk.stats().disk_bytes + LITTLE_BYTES);
    d.flush();
    assert!(d.store.is_out_of_room());
    let persisted = d.store.persisted(P);
    d.run(&Op::Flush);
    d.settle();
    retry(&mut d);
    assert!(d.store.persisted(P) > persisted, "the log may go");
    assert_eq!(disk.snapshot().keys().filter(|key| key.first() == Some(&2)).count(), 0, "no row is left");
    d.crash();
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(0));
}

#[test]
fn expired_rows_make_their_own_flush_small_enough() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), lazy());
    let value = "v".repeat(1000);
    for n in 0..100 {
        let (key, expiry) = (format!("k{n}"), Expiry::In(1000));
        let (when, reply) = (SetWhen::Always, SetReply::Ok);
        d.run(&Op::Set { key: key.as_bytes(), value: value.as_bytes(), when, expiry, reply });
    }
    // Only what makes room may have the reserve.
    disk.set_capacity(disk.stats().disk_bytes + LITTLE_BYTES / 2);
    d.flush();
    assert!(d.store.is_out_of_room());
    let persisted = d.store.persisted(P);
    retry(&mut d);
    assert_eq!(d.store.persisted(P), persisted);
    d.now_ms += 2000;
    d.entry(P, &[]);
    retry(&mut d);
    assert!(d.store.persisted(P) > persisted, "nothing is left to write");
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(0));
}

#[test]
fn deleted_rows_make_their_own_flush_small_enough() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), lazy());
    fill(&mut d, 20);
    d.flush();
    fill(&mut d, 100);
    disk.set_capacity(disk.stats().disk_bytes + LITTLE_BYTES);
    d.flush();
    assert!(d.store.is_out_of_room());
    let persisted = d.store.persisted(P);
    for n in 0..99 {
        let key = format!("k{n}");
        assert_eq!(d.run(&Op::Del { keys: List::Args(&[key.as_bytes()]) }), Outcome::Int(1));
    }
    retry(&mut d);
    assert!(d.store.persisted(P) > persisted, "tombstones are small");
    let rows = disk.snapshot().keys().filter(|key| key.first() == Some(&2)).count();
    assert_eq!(rows, 1, "and took the rows with them");
}

#[test]
fn deleting_the_last_key_needs_no_tombstones() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), lazy());
    let keys = 2000;
    for n in 0..keys {
        d.run(&set(&format!("k{n}"), "v"));
    }
    d.flush();
    // Some are written blindly, so that it is not known at first how many there are.
    d.crash();
    (0..10).for_each(|n| _ = d.run(&set(&format!("k{n}"), "w")));
    disk.set_capacity(disk.stats().disk_bytes + 66_000);
    retry(&mut d);
    let persisted = d.store.persisted(P);
    for n in 0..keys {
        let key = format!("k{n}");
        assert_eq!(d.run(&Op::Del { keys: List::Args(&[key.as_bytes()]) }), Outcome::Int(1));
        assert!(n == keys - 1 || d.store.persisted(P) == persisted, "tombstones do not fit");
    }
    for _ in 0..3 {
        retry(&mut d);
    }
    assert!(d.store.persisted(P) > persisted);
    assert!(disk.snapshot().keys().all(|key| key.first() != Some(&2)), "no row is left");
    disk.set_full(false);
    retry(&mut d);
    d.run(&set("k1", "new"));
    d.crash();
    assert_eq!(d.run(&get("k1")), bulk("new"));
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(1));
}

#[test]
fn deletes_are_refused_before_they_take_all_memory_but_a_flush_never_is() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), Options { memory_bytes: 100_000, ..small() });
    for n in 0..2000 {
        d.run(&set(&format!("k{n}"), "v"));
    }
    d.flush();
    disk.set_full(true);
    let (one, flush) = (bytes(&Op::Del { keys: List::Args(&[b"k1"]) }), bytes(&Op::Flush));
    let mut deleted = 0;
    while d.store.takes_when_full(&one) {
        let key = format!("k{deleted}");
        d.run(&Op::Del { keys: List::Args(&[key.as_bytes()]) });
        deleted += 1;
        assert!(deleted < 1999, "memory is full by now");
    }
    assert!(d.store.stats().dirty_bytes >= 100_000);
    assert!(d.store.takes_when_full(&flush));
    assert!(!d.store.takes_when_full(&bytes(&set("k", "v"))));
}

#[test]
fn deletes_do_not_wait_for_a_flush_that_has_no_room() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), small());
    let value = "v".repeat(100);
    let keys = MAX_DIRTY_BYTES / 50;
    for n in 0..keys {
        d.run(&set(&format!("k{n}"), &value));
    }
    d.flush();
    disk.set_full(true);
    fill(&mut d, 20);
    d.flush();
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
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), small());
    fill(&mut d, 30);
    d.flush();
    // Blind: the keys may be below, and nobody looks before they are counted.
    d.crash();
    disk.set_full(true);
    for n in 0..40 {
        d.run(&set(&format!("k{n}"), "w"));
    }
    d.flush();
    assert!(d.store.is_out_of_room());
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(40));
}

#[test]
fn a_flush_goes_ahead_while_there_is_room_for_it() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), Options { flush_bytes: 1 << 30, ..options() });
    fill(&mut d, 20);
    d.flush();
    let flushed = d.store.stats().flushes;
    // Enough for what has changed at any time, and never for all that is going to.
    disk.set_capacity(disk.stats().disk_bytes + (2 << 20));
    retry(&mut d);
    let value = "v".repeat(1000);
    let mut written = 0;
    while !d.store.is_out_of_room() {
        d.run(&set(&format!("n{written}"), &value));
        written += 1;
        assert!(written < 4000, "the disk is full by now");
    }
    assert!(d.store.stats().flushes > flushed, "nothing but the room asked for one");
    assert!(d.store.persisted(P) > Lsn(written / 2), "and most is on the disk");
}

/// The LSN of its version may be far above the last one's: entries without operations have LSNs too.
#[test]
fn a_keyspace_begins_anew_inside_an_entry_that_flushed_it() {
    let mut d = Driver::new(MemLevel::default(), options());
    let at = Applied { version_lsn: Lsn(70), ..Applied::first(P, Lsn(1), Term(1), d.now_ms) };
    let delete = Op::Del { keys: List::Args(&[b"k"]) };
    let apply = |d: &mut Driver<MemLevel>, op: &Op<'_>| {
        assert!(matches!(d.store.apply(&at, &bytes(op)), Step::Done(_)));
    };
    let begin_anew = |d: &mut Driver<MemLevel>| {
        let Store { partitions, ledger, .. } = &mut d.store;
        let partition = partitions.get_mut(&P).unwrap();
        partition.begin_anew(ledger);
        (partition.flush_version, partition.version(at.version_lsn))
    };
    apply(&mut d, &set("k", "v"));
    apply(&mut d, &delete);
    let (begun, next) = begin_anew(&mut d);
    assert!(begun > 0 && begun <= next, "{begun} and {next}: a flush may come, and is no lower");
    for op in [&Op::Flush, &set("k", "v"), &delete] {
        apply(&mut d, op);
    }
    for _again in 0..2 {
        assert_eq!(begin_anew(&mut d), (70 << 20 | 5, 70 << 20 | 5));
        assert_eq!(d.store.partitions[&P].table.page_count(), 0, "nothing is left of the old one");
    }
    apply(&mut d, &Op::Flush);
    assert_eq!(d.store.partitions[&P].flush_version, 70 << 20 | 5);
    apply(&mut d, &set("k", "new"));
    d.store.end_entry(&at);
    d.flush();
    d.crash();
    assert_eq!(d.run_in(P, &get("k")), bulk("new"));
}
