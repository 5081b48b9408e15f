//! The two levels together: flushes, restarts, eviction, scans across both, and a data set larger than memory.

use std::collections::BTreeSet;

use super::super::*;
use super::*;
use crate::store::memory::partition::Partition;

fn lsm(folder: &tempfile::TempDir) -> LsmLevel {
    LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 32), &ADOPT).expect("opens")
}

fn tiny(memory_bytes: usize) -> Options {
    Options::with_memory(memory_bytes, HashSeed([5, 6]))
}

#[test]
fn an_idle_partition_is_small() {
    assert!(size_of::<Partition>() + 3 * size_of::<PartitionId>() < 300, "{}", size_of::<Partition>());
}

#[test]
fn a_restart_finds_what_was_handed_over_and_replays_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let mut d = Driver::new(lsm(&folder), options());
    for n in 0..500 {
        d.run(&set(&format!("k{n}"), &format!("v{n}")));
    }
    d.run(&Op::Del { keys: List::Args(&[b"k1", b"k2"]) });
    d.flush();
    assert_eq!(d.store.persisted(P), Lsn(501));
    assert_eq!(d.store.persisted_stamp_ms(P), d.now_ms);
    d.run(&Op::Del { keys: List::Args(&[b"k3"]) });
    d.run(&set("k4", "new"));
    let hash = d.store.state_hash(P);
    d.crash();
    assert_eq!(d.store.persisted(P), Lsn(501));
    assert_eq!(d.store.keyspace_stats(P).applied, Lsn(503));
    assert_eq!(d.store.state_hash(P), hash);
    assert_eq!(d.run(&get("k4")), bulk("new"));
    assert_eq!(d.run(&get("k5")), bulk("v5"));
    for gone in ["k1", "k2", "k3"] {
        assert_eq!(d.run(&get(gone)), Outcome::Nil);
    }
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(497));
}

#[test]
fn a_transaction_may_ask_twice_for_the_keys_of_one_pattern() {
    let mut d = Driver::new(MemLevel::default(), tiny(60_000));
    let long = "v".repeat(200);
    for n in 0..2000 {
        d.run(&set(&format!("k{n}"), &long));
    }
    d.flush();
    let ops = [bytes(&set("k1", "v")), bytes(&keys(b"k11*")), bytes(&keys(b"k11*")), bytes(&keys(b"k12*"))];
    let ops: Vec<&[u8]> = ops.iter().map(Vec::as_slice).collect();
    let outcome = d.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&ops) });
    let Outcome::Array(outcomes) = outcome else { panic!("{outcome:?}") };
    let count = |outcome: &Outcome| if let Outcome::Array(keys) = outcome { keys.len() } else { 0 };
    assert_eq!(outcomes.iter().map(count).collect::<Vec<_>>(), [0, 111, 111, 111]);
    // Nothing of it is kept: the next one asks anew.
    d.run(&set("k11000", "v"));
    assert_eq!(count(&d.run(&keys(b"k11*"))), 112);
}

fn keys(pattern: &[u8]) -> Op<'_> {
    Op::Keys { pattern }
}

#[test]
fn a_new_tree_opened_again_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..4u64 {
        let mut store = Store::open(lsm(&folder), options(), &[]).unwrap();
        assert_eq!(store.persisted(P), Lsn(round));
        let at = Applied::first(P, Lsn(round + 1), Term(1), 1);
        for n in 0..300 {
            let key = format!("k{n}");
            store.apply(&at, &bytes(&set(&key, &round.to_string())));
        }
        store.end_entry(&at);
        store.want_flush(Urgency::Soon);
        let mut jobs = Vec::new();
        while store.maintain(1_000_000) || !jobs.is_empty() || store.persisted(P) <= Lsn(round) {
            store.take_jobs(&mut jobs);
            for job in jobs.drain(..) {
                store.job_done(Store::run_job(job)).unwrap();
            }
        }
        let mut again = Store::open(lsm(&folder), options(), &[]).unwrap();
        assert_eq!(again.state_hash(P), store.state_hash(P));
        assert_eq!(again.read(P, &bytes(&Op::DbSize), 1), Step::Done(Outcome::Int(300)));
    }
}

#[test]
fn a_flush_is_a_point_of_the_log() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), options());
    d.hold_jobs = true;
    for n in 0..2000 {
        d.run(&set(&format!("k{n}"), "before"));
    }
    let frozen = d.store.state_hash(P);
    d.store.want_flush(Urgency::Soon);
    // The capture is under way while all this changes.
    d.store.maintain(1);
    for n in 0..2000 {
        match n % 4 {
            0 => _ = d.run(&set(&format!("k{n}"), "after!")),
            1 => _ = d.run(&Op::Del { keys: List::Args(&[format!("k{n}").as_bytes()]) }),
            2 => _ = d.run(&set(&format!("new{n}"), "after")),
            _ => _ = d.store.maintain(1),
        }
    }
    d.run(&Op::Flush);
    d.run(&set("k7", "last"));
    while d.store.maintain(1_000) {}
    d.run_a_job(0);
    let restarted = Store::open(disk, options(), &[]).unwrap();
    assert_eq!(restarted.persisted(P), Lsn(2000));
    assert_eq!(restarted.state_hash(P), frozen);
    let now = d.store.state_hash(P);
    d.crash();
    assert_eq!(d.store.state_hash(P), now);
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(1));
}

#[test]
fn idle_partitions_do_not_pin_the_log() {
    let mut d = Driver::new(MemLevel::default(), options());
    for id in 10..200 {
        let at = Applied::first(PartitionId(id), Lsn(1), Term(1), 1);
        d.store.end_entry(&at);
    }
    d.run(&set("k", "v"));
    d.flush();
    assert!((10..200).all(|id| d.store.persisted(PartitionId(id)) == Lsn(1)));
    assert_eq!(d.store.persisted(PartitionId(5000)), Lsn::ZERO);
    // Nothing changed since: no other flush, however often one is wanted.
    d.flush();
    assert_eq!(d.store.stats().flushes, 1);
}

#[test]
fn four_times_the_memory() {
    const KEYS: usize = 4_000;
    let folder = tempfile::tempdir().unwrap();
    let memory_bytes = KEYS * (96 + 10 + 100) / 4;
    let mut d = Driver::new(lsm(&folder), tiny(memory_bytes));
    let value = |n: usize| format!("{n:0100}");
    for n in 0..KEYS {
        d.run(&set(&format!("key{n:07}"), &value(n)));
        let stats = d.store.stats();
        let used = stats.used_bytes + d.store.ledger.kept_bytes as u64;
        assert!(used <= memory_bytes as u64 * 3 / 2, "{used} of {memory_bytes} bytes at {n}");
    }
    d.settle();
    assert!(d.store.stats().used_bytes <= memory_bytes as u64);
    assert!(d.store.stats().evicted_keys > KEYS as u64 / 2);
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(KEYS as i64));
    for n in (0..KEYS).map(|n| n * 7 % KEYS) {
        assert_eq!(d.run(&get(&format!("key{n:07}"))), bulk(&value(n)));
        d.store.maintain(10_000);
    }
    assert!(d.store.stats().loaded_keys > KEYS as u64 / 2);
    assert!(d.store.stats().used_bytes <= memory_bytes as u64 * 5 / 4);
    // Blind overwrites of keys that are not in memory count once.
    for n in 0..KEYS / 2 {
        d.run(&set(&format!("key{n:07}"), "short"));
    }
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(KEYS as i64));
    let found: BTreeSet<Vec<u8>> = scan_all(&mut d, 100, |_| ()).into_iter().collect();
    assert_eq!(found.len(), KEYS);
    let hash = d.store.state_hash(P);
    d.crash();
    assert_eq!(d.store.state_hash(P), hash);
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(KEYS as i64));
    let Outcome::Array(keys) = d.run(&Op::Keys { pattern: b"key*5" }) else { panic!() };
    assert_eq!(keys.len(), KEYS / 10);
}

#[test]
fn scan_returns_all_that_stays_while_everything_else_happens() {
    for seed in 0..4u64 {
        let mut d =
            Driver::new(MemLevel::default(), Options { hash_seed: HashSeed([seed, 1]), ..tiny(60_000) });
        for n in 0..1500 {
            d.run(&set(&format!("stay{n}"), "v"));
        }
        let (mut round, mut added) = (0u64, BTreeSet::new());
        let found = scan_all(&mut d, 20, |d| {
            round += 1;
            let n = round * 7 + seed;
            added.insert(format!("add{n}"));
            d.run(&set(&format!("add{n}"), &"x".repeat(300)));
            d.run(&set(&format!("stay{}", n * 31 % 1500), "changed"));
            d.run(&get(&format!("stay{}", n * 17 % 1500)));
            d.run(&Op::Del { keys: List::Args(&[format!("add{}", n - 7).as_bytes()]) });
            match round % 10 {
                3 => d.flush(),
                6 => d.settle(),
                9 => d.crash(),
                _ => _ = d.store.maintain(5_000),
            }
        });
        assert!(round > 20);
        assert!(d.store.stats().evicted_keys > 0 || d.store.stats().loaded_keys > 0);
        let found: BTreeSet<String> = found.into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
        for n in 0..1500 {
            assert!(found.contains(&format!("stay{n}")), "seed {seed}: stay{n} is missing");
        }
        assert!(found.iter().all(|key| key.starts_with("stay") || added.contains(key)));
    }
}

#[test]
fn a_flushed_keyspace_goes_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut d = Driver::new(lsm(&folder), options());
    for round in 0..6 {
        for n in 0..2000u64 {
            let noise = HashSeed([n, round]).hash(b"noise").to_string().repeat(20);
            d.run(&set(&format!("k{n}"), &noise));
        }
        d.flush();
    }
    let full = d.store.stats().disk.disk_bytes;
    d.run(&Op::Flush);
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(0));
    for n in 0..20 {
        d.run(&set(&format!("after{n}"), "v"));
        d.flush();
    }
    let left = d.store.stats().disk.disk_bytes;
    assert!(left < full / 4, "{left} of {full} bytes are left");
    assert_eq!(
        d.store.stats().used_bytes,
        20 * (96 + 1) + (0..20).map(|n| format!("after{n}").len() as u64).sum::<u64>()
    );
    d.crash();
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(20));
    assert_eq!(d.run(&get("k1")), Outcome::Nil);
    assert_eq!(scan_all(&mut d, 100, |_| ()).len(), 20);
}

#[test]
fn writes_wait_for_a_flush_that_is_too_slow() {
    let mut store = Store::open(MemLevel::default(), tiny(40_000), &[]).unwrap();
    let mut jobs: Vec<Job<MemLevel>> = Vec::new();
    let mut blocked_at = None;
    for lsn in 1..1000 {
        let at = Applied::first(P, Lsn(lsn), Term(1), 1);
        let key = format!("k{lsn}");
        if matches!(store.apply(&at, &bytes(&set(&key, "v"))), Step::Blocked(_)) {
            blocked_at = Some((at, key));
            break;
        }
        store.end_entry(&at);
        store.maintain(100_000);
        store.take_jobs(&mut jobs);
    }
    let (at, key) = blocked_at.expect("memory is bounded");
    assert_eq!(jobs.len(), 1);
    for job in jobs.drain(..) {
        store.job_done(Store::run_job(job)).unwrap();
    }
    assert_eq!(store.apply(&at, &bytes(&set(&key, "v"))), Step::Done(Outcome::Ok));
}

#[test]
fn a_load_does_not_bring_back_what_changed_meanwhile() {
    let mut d = Driver::new(MemLevel::default(), options());
    d.run(&set("k", "old"));
    d.run(&set("gone", "old"));
    d.flush();
    d.crash();
    // Two loads are under way while both keys change and a flush takes the changes below.
    let read = |d: &mut Driver<MemLevel>, key| d.store.read(P, &bytes(&get(key)), 1);
    assert!(matches!((read(&mut d, "k"), read(&mut d, "gone")), (Step::Blocked(_), Step::Blocked(_))));
    let mut loads = Vec::new();
    d.store.take_jobs(&mut loads);
    let loads: Vec<JobDone> = loads.into_iter().map(Store::run_job).collect();
    d.run(&set("k", "new"));
    d.run(&set("gone", "new"));
    d.hold_jobs = true;
    let Step::Done(_) = d.store.read(P, &bytes(&get("gone")), 1) else { panic!() };
    d.run(&Op::Del { keys: List::Args(&[b"gone"]) });
    d.flush();
    d.flush();
    for load in loads {
        d.store.job_done(load).unwrap();
    }
    assert_eq!((d.run(&get("k")), d.run(&get("gone"))), (bulk("new"), Outcome::Nil));
}

#[test]
fn another_layout_is_refused() {
    let disk = MemLevel::default();
    disk.ingest(0, false, &mut std::iter::once((vec![0], Some(vec![9, 9])))).unwrap();
    assert!(
        Store::open(disk.clone(), options(), &[])
            .is_err_and(|error| matches!(error, DiskError::Layout { .. }))
    );
    let disk = MemLevel::default();
    disk.ingest(0, false, &mut std::iter::once(([1, 0, 0, 0, 0, 0, 0, 0, 5].to_vec(), Some(vec![9]))))
        .unwrap();
    assert!(Store::open(disk, options(), &[]).is_err_and(|error| matches!(error, DiskError::Layout { .. })));
}

#[test]
fn after_a_restart_memory_fills_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut d = Driver::new(lsm(&folder), options());
    for n in 0..6000 {
        d.run(&set(&format!("k{n}"), &format!("v{n}")));
    }
    d.flush();
    d.crash();
    assert_eq!(d.store.get(P, b"k5", 1), Lookup::Unknown);
    assert_eq!(d.store.get(P, b"none", 1), Lookup::Unknown);
    d.run(&set("k7", "new"));
    d.run(&Op::Del { keys: List::Args(&[b"k8"]) });
    d.settle();
    for n in (0..6000).filter(|n| *n != 7 && *n != 8) {
        let key = format!("k{n}");
        assert_eq!(d.store.get(P, key.as_bytes(), 1), Lookup::Value(format!("v{n}").as_bytes()));
    }
    assert_eq!(d.store.get(P, b"k7", 1), Lookup::Value(b"new"));
    assert_eq!(d.store.get(P, b"k8", 1), Lookup::Absent);
    assert_eq!(d.store.get(P, b"none", 1), Lookup::Absent);
    assert_eq!(d.store.stats().loaded_keys, 1);
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(5999));
}

#[test]
fn expired_rows_that_are_only_below_go_in_time() {
    let mut d = Driver::new(MemLevel::default(), tiny(60_000));
    let at = d.now_ms + 1000;
    for n in 0..5000 {
        let key = format!("k{n}");
        let (when, reply) = (SetWhen::Always, SetReply::Ok);
        d.run(&Op::Set { key: key.as_bytes(), value: b"v", when, expiry: Expiry::At(at), reply });
    }
    d.flush();
    assert!(d.store.stats().evicted_keys > 2000);
    d.run(&set("x", "y"));
    // Nobody writes from here on.
    let entries = d.pass_until(at + 60_000);
    assert!((1..=6).contains(&entries), "{entries}");
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(1));
    d.flush();
    assert!(d.store.stats().disk.disk_bytes < 40_000, "the partition's row alone");
    assert_eq!(d.pass_until(at + 100_000_000), 0, "nothing expires any more");
    d.crash();
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(1));
}

/// Of very many keys, all but a few expire.
fn with_few_left(d: &mut Driver<MemLevel>, keys: u64) {
    for n in 0..keys {
        let (key, when, reply) = (format!("k{n}"), SetWhen::Always, SetReply::Ok);
        d.run(&Op::Set { key: key.as_bytes(), value: b"v", when, expiry: Expiry::In(1_000_000), reply });
    }
    for key in ["one", "two", "three"] {
        d.run(&set(key, "v"));
    }
}

fn random_keys(d: &mut Driver<MemLevel>) -> std::collections::BTreeSet<Vec<u8>> {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..100u64 {
        match d.run(&Op::RandomKey { seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) }) {
            Outcome::Bulk(key) => found.insert(key),
            other => panic!("{other:?} though there are keys"),
        };
    }
    found
}

#[test]
fn a_random_key_is_found_among_very_many_expired_ones() {
    let few = ["one", "three", "two"].map(|key| key.as_bytes().to_vec());
    for (memory, deletes) in [(64 << 20, false), (100_000, false), (2_000_000, true)] {
        let mut d = Driver::new(MemLevel::default(), tiny(memory));
        with_few_left(&mut d, 20_000);
        d.flush();
        if deletes {
            // Below they are still there; memory says that they are not.
            for n in 0..20_000 {
                d.run(&Op::Del { keys: List::Args(&[format!("k{n}").as_bytes()]) });
            }
        } else {
            d.now_ms += 2_000_000;
        }
        let found = random_keys(&mut d);
        assert!(found.len() > 1 && found.iter().all(|key| few.contains(key)), "{found:?}");
        let keys: Vec<&[u8]> = few.iter().map(Vec::as_slice).collect();
        d.run(&Op::Del { keys: List::Args(&keys) });
        assert_eq!(d.run(&Op::RandomKey { seed: 7 }), Outcome::Nil);
    }
}

#[test]
fn a_search_for_expired_rows_below_waits_for_the_first_of_them_and_costs_what_it_takes() {
    let mut d = Driver::new(MemLevel::default(), tiny(60_000));
    let at = d.now_ms + 10_000_000;
    for n in 0..5000u64 {
        let (key, expiry) = (format!("k{n}"), Expiry::At(at + n * 2));
        let (when, reply) = (SetWhen::Always, SetReply::Ok);
        d.run(&Op::Set { key: key.as_bytes(), value: b"v", when, expiry, reply });
    }
    d.flush();
    assert!(d.store.stats().evicted_keys > 2000);
    assert_eq!(d.pass_until(at - 1), 0);
    // For ten seconds keys expire one by one.
    let entries = d.pass_until(at + 60_000);
    assert!((2..=45).contains(&entries), "{entries}: at most two a second, and a few for what is below");
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(0));
}

#[test]
fn what_is_read_again_and_again_stays_while_the_rest_is_read_once() {
    const HOT: usize = 80;
    const COLD: usize = 2000;
    let mut d = Driver::new(MemLevel::default(), tiny(40_000));
    let value = "v".repeat(100);
    let (hot, cold) = (|number: usize| format!("h{number}"), |number: usize| format!("c{number}"));
    (0..HOT).for_each(|number| drop(d.run(&set(&hot(number), &value))));
    (0..COLD).for_each(|number| drop(d.run(&set(&cold(number), &value))));
    d.flush();
    d.settle();
    for number in (0..HOT).chain(0..HOT) {
        assert_eq!(d.run(&get(&hot(number))), bulk(&value));
    }
    let before = d.store.stats().loaded_keys;
    for number in 0..COLD {
        assert_eq!(d.run(&get(&cold(number))), bulk(&value));
        (4 * number..4 * number + 4).for_each(|number| drop(d.run(&get(&hot(number % HOT)))));
        d.store.maintain(1_000_000);
    }
    let loads = d.store.stats().loaded_keys - before;
    let once = COLD as u64;
    assert!(
        loads <= once + once / 20,
        "{loads} loads, though {once} keys are read once and {HOT} fit in memory"
    );
}

#[test]
fn rows_of_a_blocked_op_stay_until_it_has_run() {
    let mut d = Driver::new(MemLevel::default(), tiny(500));
    let value = "v".repeat(500);
    for key in ["a", "b", "c"] {
        d.run(&set(key, &value));
    }
    d.flush();
    d.settle();
    let is_here =
        |d: &Driver<MemLevel>, key: &str| d.store.get(P, key.as_bytes(), d.now_ms) != Lookup::Unknown;
    assert!(!is_here(&d, "a") && !is_here(&d, "b"), "memory holds no row at all");
    // One row is on its way for somebody else already, so the op's rows come by two jobs.
    assert!(matches!(d.store.read(P, &bytes(&get("a")), d.now_ms), Step::Blocked(_)));
    d.take_jobs();
    let at = Applied::first(P, Lsn(4), Term(1), d.now_ms);
    let rename = bytes(&Op::Rename { from: b"a", to: b"b", only_if_none: false });
    assert!(matches!(d.store.apply(&at, &rename), Step::Blocked(_)));
    d.run_a_job(0);
    assert!(matches!(d.store.apply(&at, &rename), Step::Blocked(_)));
    for _ in 0..8 {
        d.store.maintain(1_000_000);
    }
    assert!(is_here(&d, "a"), "the first row waits for the second");
    d.run_a_job(0);
    assert_eq!(d.store.apply(&at, &rename), Step::Done(Outcome::Ok));
    d.store.end_entry(&at);
    assert_eq!(d.read_in(P, &get("b")), bulk(&value));
    // Nothing is held any more: what was read goes again.
    assert_eq!(d.read_in(P, &get("c")), bulk(&value));
    d.flush();
    d.settle();
    assert!(!is_here(&d, "b") && !is_here(&d, "c"));
}
