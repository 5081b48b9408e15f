//! What a store does by itself, where the order of its jobs decides.

use super::super::disk::DiskError;
use super::super::jobs::{Done, Failed, Task};
use super::super::*;
use super::commands::int;
use super::*;

fn driver(memory_bytes: usize) -> Driver<MemLevel> {
    Driver::new(MemLevel::default(), Options::with_memory(memory_bytes, HashSeed([5, 6])))
}

/// Runs all jobs that wait; their results are handed over when the caller wants.
fn run_jobs(d: &mut Driver<MemLevel>) -> Vec<JobDone> {
    let mut jobs = Vec::new();
    d.store.take_jobs(&mut jobs);
    jobs.into_iter().map(Store::<MemLevel>::run_job).collect()
}

fn deliver(d: &mut Driver<MemLevel>, done: Vec<JobDone>) {
    done.into_iter().for_each(|done| d.store.job_done(done).expect("job"));
}

#[test]
fn tombstones_go_when_the_disk_level_has_them() {
    let mut d = driver(64 << 20);
    for n in 0..2000 {
        d.run(&set(&format!("k{n}"), "v"));
    }
    d.flush();
    for n in 0..2000 {
        d.run(&Op::Del { keys: List::Args(&[format!("k{n}").as_bytes()]) });
    }
    assert!(d.store.stats().used_bytes > 100_000, "the disk level does not know yet");
    d.flush();
    d.settle();
    assert_eq!((d.store.stats().used_bytes, d.run(&Op::DbSize)), (0, int(0)));
}

#[test]
fn a_stale_answer_about_blind_writes_is_not_counted() {
    let options = Options::with_memory(2000, HashSeed([5, 6]));
    let options = Options { flush_bytes: 1 << 20, max_dirty_bytes: 4 << 20, ..options };
    let mut d = Driver::new(MemLevel::default(), options);
    let large = "v".repeat(3000);
    d.run(&set("other", &large));
    d.flush();
    d.settle();
    assert_eq!(d.store.get(P, b"other", 1), Lookup::Unknown, "memory is too small for it");
    d.hold_jobs = true;
    let size = bytes(&Op::DbSize);
    let at = |n| Applied::first(P, Lsn(n), Term(1), 1_000_000);
    let write = |d: &mut Driver<MemLevel>, n| {
        assert_eq!(d.store.apply(&at(n), &bytes(&set("k", &large))), Step::Done(Outcome::Ok));
        d.store.end_entry(&at(n));
    };
    // Written blindly; the answer to the question whether it had been there, "no", comes much later.
    write(&mut d, 2);
    assert!(matches!(d.store.read(P, &size, 1_000_000), Step::Blocked(_)));
    let stale = run_jobs(&mut d);
    assert_eq!(stale.len(), 1);
    // Meanwhile a flush has answered it, the key is dropped from memory and written blindly once more.
    d.store.want_flush(Urgency::Soon);
    while d.store.get(P, b"k", 1) != Lookup::Unknown {
        d.store.maintain(1_000_000);
        let done = run_jobs(&mut d);
        deliver(&mut d, done);
    }
    assert_eq!(d.store.read(P, &size, 1_000_000), Step::Done(int(2)));
    write(&mut d, 3);
    assert_eq!(d.store.keyspace_stats(P).unresolved_keys, 1);
    deliver(&mut d, stale);
    assert_eq!(d.store.keyspace_stats(P).unresolved_keys, 1, "it speaks of another write");
    d.settle();
    assert_eq!(d.run(&Op::DbSize), int(2));
}

#[test]
fn a_row_stays_until_the_answers_are_in_that_were_asked_for_before_it_was_written() {
    let options = Options::with_memory(2000, HashSeed([5, 6]));
    let options = Options { flush_bytes: 1 << 20, max_dirty_bytes: 4 << 20, ..options };
    let mut d = Driver::new(MemLevel::default(), options);
    let [old, new] = ["o", "n"].map(|value| value.repeat(3000));
    d.run(&set("k", &old));
    d.run(&set("other", &old));
    d.flush();
    d.settle();
    assert_eq!(d.store.get(P, b"k", 1), Lookup::Unknown, "memory is too small for it");
    d.hold_jobs = true;
    assert!(matches!(d.store.read(P, &bytes(&get("k")), 1_000_000), Step::Blocked(_)));
    let stale = run_jobs(&mut d);
    assert_eq!(stale.len(), 1);
    // While the old value is on its way, the new one is written and handed over, and for long others alone are asked for.
    d.run(&set("k", &new));
    d.store.want_flush(Urgency::Soon);
    for _ in 0..500 {
        let _ = d.store.read(P, &bytes(&get("other")), 1_000_000);
        d.store.maintain(1_000_000);
        let done = run_jobs(&mut d);
        deliver(&mut d, done);
    }
    assert_eq!(d.store.persisted(P), Lsn(3));
    deliver(&mut d, stale);
    d.hold_jobs = false;
    assert_eq!(d.run(&get("k")), bulk(&new));
}

#[test]
fn a_page_that_lost_rows_during_the_warm_up_is_not_complete() {
    let large = "v".repeat(100_000);
    let mut d = driver(2_000_000);
    for n in 0..15 {
        d.run(&set(&format!("k{n}"), &large));
        d.flush();
    }
    d.crash();
    d.hold_jobs = true;
    d.store.maintain(1_000_000);
    let first = run_jobs(&mut d);
    deliver(&mut d, first);
    let here = (0..15).filter(|n| d.store.get(P, format!("k{n}").as_bytes(), 1) != Lookup::Unknown).count();
    assert!((5..15).contains(&here), "{here}: one job reads a part");
    d.store.maintain(1_000_000);
    let second = run_jobs(&mut d);
    assert_eq!(second.len(), 1);
    // While it is under way, a large value drives rows of the first part out.
    let at = Applied::first(P, Lsn(16), Term(1), 1_000_000);
    assert_eq!(d.store.apply(&at, &bytes(&set("new", &"n".repeat(1_500_000)))), Step::Done(Outcome::Ok));
    d.store.end_entry(&at);
    for _ in 0..8 {
        d.store.maintain(1_000_000);
    }
    assert!(d.store.stats().evicted_keys > 0);
    deliver(&mut d, second);
    d.hold_jobs = false;
    for n in 0..15 {
        assert_eq!(d.run(&get(&format!("k{n}"))), bulk(&large), "k{n}");
    }
}

#[test]
fn a_search_for_expired_rows_that_could_not_read_is_made_again_later() {
    let mut d = driver(60_000);
    let at_ms = d.now_ms + 1000;
    for n in 0..5000 {
        let (key, expiry) = (format!("k{n}"), Expiry::At(at_ms));
        let (when, reply) = (SetWhen::Always, SetReply::Ok);
        d.run(&Op::Set { key: key.as_bytes(), value: b"v", when, expiry, reply });
    }
    d.flush();
    d.settle();
    assert!(d.store.stats().evicted_keys > 2000);
    // From here on no job that searches can read.
    let mut failures = 0;
    let mut fail = |d: &mut Driver<MemLevel>| {
        d.store.maintain(1_000_000);
        let mut jobs = Vec::new();
        d.store.take_jobs(&mut jobs);
        for job in jobs {
            let done = match &job.task {
                Task::Expired { keyspace, asked, .. } => {
                    failures += 1;
                    let why = DiskError::damaged(std::path::Path::new("table"), "a block");
                    JobDone(Done::Failed { keyspace: *keyspace, failed: Failed::Expired, asked: *asked, why })
                }
                _ => Store::<MemLevel>::run_job(job),
            };
            d.store.job_done(done).expect("job");
            d.check();
        }
        failures
    };
    d.hold_jobs = true;
    d.now_ms = at_ms + 20_000;
    let mut next_ms = None;
    for _ in 0..4 {
        let before = fail(&mut d);
        d.entry(P, &[]);
        (0..200).for_each(|_| _ = fail(&mut d));
        assert!(fail(&mut d) <= before + 1, "not at once again");
        let wanted_ms = d.store.alarm_ms(P).expect("it is not given up");
        assert!(wanted_ms > d.now_ms, "{wanted_ms} at {}", d.now_ms);
        assert!(next_ms < Some(wanted_ms - d.now_ms), "later and later");
        next_ms = Some(wanted_ms - d.now_ms);
        d.now_ms = wanted_ms;
    }
    assert_eq!(fail(&mut d), 4);
    // The disk can be read again.
    d.hold_jobs = false;
    d.pass_until(d.now_ms + 100_000);
    assert_eq!(d.run(&Op::DbSize), int(0));
}

#[test]
fn a_slice_captures_what_its_budget_is_for_even_of_a_full_page() {
    for (value_bytes, most_rows) in [(100, 350), (10_000, 350)] {
        let mut d = driver(64 << 20);
        (0..400).for_each(|n| _ = d.run(&set(&format!("k{n}"), &"v".repeat(value_bytes))));
        d.hold_jobs = true;
        d.store.want_flush(Urgency::Soon);
        let (mut slices, mut before) = (0, d.store.ledger.captured_bytes);
        let row_bytes = d.store.ledger.dirty_bytes / 400;
        while d.store.ledger.dirty_bytes > 0 {
            d.store.maintain(100_000);
            let rows = (d.store.ledger.captured_bytes - before) / row_bytes;
            assert!((1..=most_rows).contains(&rows), "{rows} rows of {value_bytes} bytes in slice {slices}");
            (slices, before) = (slices + 1, d.store.ledger.captured_bytes);
        }
        assert!(slices > 1);
        d.hold_jobs = false;
        d.settle();
        assert_eq!(d.store.stats().flushed_rows, 400);
    }
}

#[test]
fn what_a_flush_takes_with_it_counts_once_until_it_changes() {
    const BYTES: usize = 1000;
    let mut d = driver(64 << 20);
    (0..100).for_each(|n| _ = d.run(&set(&format!("k{n}"), &"v".repeat(BYTES))));
    d.hold_jobs = true;
    d.store.want_flush(Urgency::Soon);
    while d.store.maintain(1_000_000) {}
    let ledger = &d.store.ledger;
    assert!(ledger.captured_bytes > 100 * BYTES && ledger.kept_bytes < 100 * 300, "{ledger:?}");
    let before = ledger.kept_bytes;
    d.run(&set("k1", &"w".repeat(BYTES)));
    d.run(&set("k1", &"x".repeat(BYTES)));
    let kept = |d: &Driver<MemLevel>| d.store.ledger.kept_bytes - before;
    assert!((BYTES..2 * BYTES).contains(&kept(&d)), "what k1 was is kept, once");
    d.run(&Op::Flush);
    while d.store.maintain(1_000_000) {}
    assert!(d.store.ledger.used_bytes < BYTES && kept(&d) > 100 * BYTES, "all that is flushed is kept");
    d.hold_jobs = false;
    d.settle();
    assert_eq!(d.store.ledger.kept_bytes, 0);
}

#[test]
fn eviction_makes_haste_once_memory_is_over_its_budget() {
    let mut d = driver(64 << 20);
    (0..1000).for_each(|n| _ = d.run(&set(&format!("k{n}"), &"v".repeat(1000))));
    let held = d.store.ledger.held_bytes();
    let mut haste_with = |memory_bytes: usize| {
        d.store.options.memory_bytes = memory_bytes;
        d.store.haste_to_evict()
    };
    assert_eq!([haste_with(2 * held), haste_with(held), haste_with(held / 2)], [0, 0, 100]);
    assert!((40..60).contains(&haste_with(held * 32 / 33)));
}
