//! KEYS and LCS under way: what KEYS has of the disk level stays, what nobody asks for goes, and who waits is tried again.

use super::super::jobs::Task;
use super::super::*;
use super::bounds::{half_gathered, keys, outcome_of};
use super::*;

/// Runs the jobs that are there. Returns how many of them look for keys that match, and for pages of SCAN.
fn run_counted(d: &mut Driver<MemLevel>) -> (usize, usize) {
    d.take_jobs();
    let count = |is_one: fn(&Task) -> bool| d.held.iter().filter(|job| is_one(&job.task)).count();
    let matches = count(|task| matches!(task, Task::Matches { .. }));
    let pages = count(|task| matches!(task, Task::Range { .. }));
    d.run_jobs();
    (matches, pages)
}

/// How often the disk level is looked through for one KEYS, if this is done after each slice.
fn looks_of_keys(mut between: impl FnMut(&mut Driver<MemLevel>) -> usize) -> usize {
    let options = Options { gather_rows: 20, ..Options::with_memory(60_000, HashSeed([5, 6])) };
    let mut d = Driver::new(MemLevel::default(), options);
    for n in 0..3000 {
        d.run(&set(&format!("key:{n:05}"), "v"));
    }
    d.flush();
    let (op, mut looks, mut slices) = (bytes(&keys(b"*7*")), 0, 0);
    loop {
        match d.store.read(P, &op, d.now_ms) {
            Step::Done(Outcome::Array(found)) => {
                assert_eq!(found.len(), (0..3000).filter(|n| format!("{n}").contains('7')).count());
                assert!(slices > 20, "{slices} slices");
                return looks;
            }
            Step::Blocked(_) => {}
            other => panic!("{other:?}"),
        }
        d.store.maintain(1);
        looks += run_counted(&mut d).0 + between(&mut d);
        slices += 1;
        assert!(slices < 1000, "it never ends: the disk level was looked through {looks} times");
    }
}

#[test]
fn keys_looks_through_the_disk_level_once_whatever_others_ask() {
    let mut round = 0;
    let looks = looks_of_keys(|d| {
        round += 1;
        if round % 5 != 2 {
            return 0;
        }
        for n in 0..40 {
            let cursor = (n << 42) + round;
            let _ = d.store.read(P, &bytes(&Op::Scan { cursor, count: 1, pattern: None, kind: None }), 1);
        }
        let (looks, pages) = run_counted(d);
        assert!(round > 2 || pages > 32, "{pages} pages");
        looks
    });
    assert_eq!(looks, 1);
}

#[test]
fn keys_looks_through_the_disk_level_once_whatever_is_flushed() {
    let (mut rounds, mut answered) = (0, 0);
    let looks = looks_of_keys(|d| {
        rounds += 1;
        if rounds % 5 != 2 {
            return 0;
        }
        let mut looks = 0;
        for _ in 0..2 {
            let before = d.store.stats().flushes;
            d.hold_jobs = true;
            d.run_in(PartitionId(8), &set("other", "v"));
            d.store.want_flush(Urgency::Soon);
            while d.store.stats().flushes == before {
                d.store.maintain(1);
                looks += run_counted(d).0;
                // As the shard does when a job has ended.
                let step = d.store.read(P, &bytes(&keys(b"*7*")), 1);
                // The next one is another KEYS then.
                answered += usize::from(matches!(step, Step::Done(_)));
            }
        }
        looks
    });
    assert_eq!(looks, 1 + answered);
}

#[test]
fn lists_that_nobody_asks_for_are_bounded_and_go() {
    let (mut d, _) = half_gathered(4000, b"*");
    for n in 0..100 {
        let step = d.store.read(P, &bytes(&keys(format!("*{n}*").as_bytes())), d.now_ms);
        assert!(matches!(step, Step::Blocked(_)), "{step:?}");
        d.store.maintain(1);
        assert!(d.store.listings() <= 16, "{} lists after {n} more", d.store.listings());
    }
    // There is room for one that is asked for, and it is made known that there is.
    let outcome = outcome_of(&mut d, &bytes(&keys(b"key:000*")));
    assert!(matches!(outcome, Outcome::Array(found) if found.len() == 100));
    for _ in 0..5 {
        d.run(&set("key:00000", "w"));
        d.flush();
    }
    assert_eq!(d.store.listings(), 0);
}

#[test]
fn a_transaction_whose_keys_were_changed_leaves_no_list() {
    let (mut d, op) = half_gathered(4000, b"*");
    assert!(matches!(outcome_of(&mut d, &op), Outcome::Names(_) | Outcome::Array(_)));
    assert_eq!(d.store.listings(), 0);
    let Outcome::Int(version) = d.run(&Op::Version { key: b"key:00007" }) else { panic!("no version") };
    let version = (version as u64).to_le_bytes();
    let guards: [&[u8]; 2] = [b"key:00007", &version];
    let ops: [&[u8]; 1] = [&op];
    let multi = bytes(&Op::Multi { guards: List::Args(&guards), ops: List::Args(&ops) });
    assert!(matches!(d.store.read(P, &multi, d.now_ms), Step::Blocked(_)));
    assert_eq!(d.store.listings(), 1);
    d.hold_jobs = true;
    d.run(&set("key:00007", "w"));
    assert_eq!(d.store.read(P, &multi, d.now_ms), Step::Done(Outcome::NullArray));
    assert_eq!(d.store.listings(), 0);
}

#[test]
fn keys_whose_list_a_transaction_took_is_tried_again() {
    let (mut d, op) = half_gathered(4000, b"*");
    d.hold_jobs = true;
    d.run(&Op::Flush);
    let outcomes = d.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&op]) });
    assert_eq!(outcomes, Outcome::Array(vec![Outcome::Array(Vec::new())]));
    assert_eq!(d.store.listings(), 0);
    assert_eq!(outcome_of(&mut d, &op), Outcome::Array(Vec::new()));
}

#[test]
fn keys_that_have_expired_do_not_count_to_the_limit() {
    let mut d = Driver::new(MemLevel::default(), Options { gather_rows: 50, ..options() });
    for n in 0..1000 {
        let key = format!("key:{n:05}");
        d.run(&set(&key, "v"));
        let at_ms = (d.now_ms + 5) as i64;
        if n % 2 == 0 {
            d.run(&Op::Expire { key: key.as_bytes(), at_ms, condition: Condition::Always });
        }
    }
    let op = bytes(&keys(b"*"));
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
    while d.store.maintain(1) {}
    d.store.options.max_keys_reply = 600;
    d.now_ms += 10;
    let step = d.store.read(P, &op, d.now_ms);
    assert!(matches!(&step, Step::Done(Outcome::Array(found)) if found.len() == 500), "{step:?}");
}

/// An LCS for each `n`.
fn subsequence(n: u64) -> Vec<u8> {
    bytes(&Op::Lcs { a: b"a", b: b"b", len: false, idx: true, min_match_len: n, with_match_len: false })
}

/// A store with two values whose subsequences a job finds.
fn with_long_values(options: Options) -> Driver<MemLevel> {
    let mut d = Driver::new(MemLevel::default(), options);
    d.entry(P, &[set("a", &"abcde".repeat(200)), set("b", &"badce".repeat(200))]);
    d.settle();
    d.hold_jobs = true;
    d
}

#[test]
fn subsequences_that_nobody_asks_for_are_bounded_and_go() {
    // Two values of 1,000 bytes, and a table of a million bits.
    for (max_reply_bytes, most) in [(4 << 20, 16), (1 << 20, 8), (5000, 1)] {
        let mut d = with_long_values(Options { max_reply_bytes, ..options() });
        let is_blocked = |d: &mut Driver<MemLevel>, n| {
            let step = d.store.read(P, &subsequence(n), d.now_ms);
            assert!(matches!(step, Step::Blocked(_)), "{step:?}");
            d.store.maintain(1);
        };
        (0..100).for_each(|n| is_blocked(&mut d, n));
        assert_eq!(d.store.subsequences().0, most, "{max_reply_bytes} bytes");
        d.take_jobs();
        assert_eq!(d.held_jobs(), most, "each is the work of one job");
        // Whoever waits for room finds some once jobs have ended, and so do all others then.
        for n in 100..140 {
            is_blocked(&mut d, n);
            assert!(matches!(outcome_of(&mut d, &subsequence(n)), Outcome::Map(_)));
            let (count, bytes) = d.store.subsequences();
            assert!(count <= most && bytes <= max_reply_bytes + 140_000, "{count} of {bytes} bytes");
        }
        for n in 0..100 {
            d.run(&set(&format!("other{n}"), "v"));
            d.flush();
        }
        assert_eq!(d.store.subsequences(), (0, 0));
    }
}

#[test]
fn subsequences_that_many_ask_for_at_once_are_all_found() {
    let mut d = with_long_values(options());
    let mut asking: Vec<u64> = (0..60).collect();
    let mut rounds = 0;
    while !asking.is_empty() {
        asking.retain(|n| matches!(d.store.read(P, &subsequence(*n), d.now_ms), Step::Blocked(_)));
        while d.store.maintain(1) {}
        d.take_jobs();
        assert!(d.held_jobs() > 0 || asking.is_empty(), "{} are never tried again", asking.len());
        d.run_a_job(rounds);
        rounds += 1;
    }
    // One for each, and some that only have those tried again who wait for room.
    assert!((60..200).contains(&rounds), "{rounds} jobs");
}

#[test]
fn what_lists_take_counts_against_the_memory_of_the_state() {
    const KEYS: usize = 20_000;
    let mut d = Driver::new(MemLevel::default(), options());
    for n in 0..KEYS {
        d.run(&set(&format!("a:rather:long:key:{n:08}"), "v"));
    }
    d.flush();
    let rows = d.store.stats();
    assert_eq!((rows.answer_bytes, rows.keys, rows.evicted_keys), (0, KEYS as u64, 0));
    // Room for the rows, and for half of a list.
    d.store.options.memory_bytes = rows.used_bytes as usize + KEYS * 25;
    let op = bytes(&keys(b"*"));
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
    let mut most = 0;
    while d.store.maintain(1) {
        most = most.max(d.store.stats().answer_bytes);
    }
    assert!(most > (KEYS * 26) as u64, "{most} bytes");
    assert!(d.store.stats().evicted_keys > 0, "rows make room for it");
    let outcome = outcome_of(&mut d, &op);
    assert!(matches!(&outcome, Outcome::Names(names) if names.iter().count() == KEYS), "{outcome:?}");
    assert_eq!(d.store.stats().answer_bytes, 0);
}
