//! Times to live: when keys go, for clients and from memory and disk.

use super::super::jobs::Task;
use super::super::*;
use super::commands::{driver, int, set_with, ttl};
use super::*;

#[test]
fn a_relative_time_to_live_counts_from_the_stamp() {
    let mut d = driver();
    let (long, short) = (Expiry::In(50_000), Expiry::In(100));
    let pttl = |d: &mut Driver<_>, key: &'static str| {
        d.run(&Op::Ttl { key: key.as_bytes(), absolute: false, seconds: false })
    };
    let absolute = |d: &mut Driver<_>, key: &'static str| {
        d.run(&Op::Ttl { key: key.as_bytes(), absolute: true, seconds: false })
    };
    d.run(&set_with("set", "v", SetWhen::Always, long, SetReply::Ok));
    d.run(&set_with("nx", "v", SetWhen::Absent, long, SetReply::Ok));
    for key in ["expire", "getex", "now", "past"] {
        d.run(&set(key, "v"));
    }
    let expire =
        |key: &'static str, in_ms| Op::ExpireIn { key: key.as_bytes(), in_ms, condition: Condition::Always };
    assert_eq!(d.run(&expire("expire", 50_000)), int(1));
    assert_eq!(d.run(&Op::GetEx { key: b"getex", expiry: long }), bulk("v"));
    assert_eq!((d.run(&expire("now", 0)), d.run(&expire("past", i64::MIN))), (int(1), int(1)));
    assert_eq!((d.run(&get("now")), d.run(&get("past"))), (Outcome::Nil, Outcome::Nil));
    let at = int(i64::try_from(d.now_ms + 50_000).unwrap());
    for key in ["set", "nx", "expire", "getex"] {
        assert_eq!((pttl(&mut d, key), absolute(&mut d, key)), (int(50_000), at.clone()), "{key}");
    }
    assert_eq!(d.run(&Op::ExpireIn { key: b"set", in_ms: 60_000, condition: Condition::Sooner }), int(0));
    assert_eq!(d.run(&Op::ExpireIn { key: b"set", in_ms: 60_000, condition: Condition::Later }), int(1));
    assert_eq!(pttl(&mut d, "set"), int(60_000));
    d.run(&set_with("short", "v", SetWhen::Always, short, SetReply::Ok));
    // The log says the same again, whenever it is read.
    d.crash();
    d.now_ms += 99;
    assert_eq!(d.run(&get("short")), bulk("v"));
    d.now_ms += 1;
    assert_eq!((d.run(&get("short")), pttl(&mut d, "nx")), (Outcome::Nil, int(49_900)));
    d.run(&set_with("ever", "v", SetWhen::Always, Expiry::In(u64::MAX), SetReply::Ok));
    assert_eq!(d.run(&get("ever")), bulk("v"));
}

#[test]
fn an_expired_key_is_never_seen_and_never_comes_back() {
    let mut d = driver();
    let at = d.now_ms + 100;
    d.run(&set_with("k", "v", SetWhen::Always, Expiry::At(at), SetReply::Ok));
    d.now_ms += 100;
    assert_eq!(d.run(&get("k")), Outcome::Nil);
    assert_eq!(d.store.get(P, b"k", d.now_ms), Lookup::Absent);
    assert_eq!(d.run(&Op::Append { key: b"other", value: b"x" }), int(1));
    // A leader whose clock is behind: the key stays gone, in apply and in reads.
    d.now_ms -= 50;
    assert_eq!(d.run(&Op::Exists { keys: List::Args(&[b"k"]) }), int(0));
    assert_eq!(d.run(&Op::Append { key: b"k", value: b"new" }), int(3));
    assert_eq!(d.run(&ttl("k")), int(-1));
}

#[test]
fn expired_rows_are_removed_in_time() {
    let mut d = driver();
    for n in 0..1000 {
        let at = d.now_ms + 10 + n % 2 * 1_000_000;
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, Expiry::At(at), SetReply::Ok));
    }
    assert_eq!(d.store.keyspace_stats(P).expiring_keys, 1000);
    d.flush();
    d.now_ms += 2000;
    d.run(&set("x", "y"));
    d.settle();
    assert_eq!(d.run(&Op::DbSize), int(501));
    assert_eq!(d.store.keyspace_stats(P).expiring_keys, 500);
    d.flush();
    d.crash();
    assert_eq!(d.run(&Op::DbSize), int(501));
    assert_eq!(scan_all(&mut d, 10, |_| ()).len(), 501);
}

#[test]
fn the_count_of_expiring_keys_follows_every_change() {
    let mut d = driver();
    let expiring = |d: &Driver<_>| d.store.keyspace_stats(P).expiring_keys;
    let (in_an_hour, always, ok) = (Expiry::In(3_600_000), SetWhen::Always, SetReply::Ok);
    for round in 0..2 {
        d.run(&set_with("k", "1", always, in_an_hour, ok));
        d.run(&set_with("k", "2", always, in_an_hour, ok));
        assert_eq!(expiring(&d), 1, "set twice");
        d.run(&set("k", "3"));
        assert_eq!(expiring(&d), 0, "set without");
        d.run(&Op::ExpireIn { key: b"k", in_ms: 1000, condition: Condition::Always });
        d.run(&Op::ExpireIn { key: b"k", in_ms: 2000, condition: Condition::Always });
        assert_eq!(expiring(&d), 1, "expire twice");
        d.run(&Op::Persist { key: b"k" });
        assert_eq!(expiring(&d), 0, "persist");
        d.run(&set_with("k", "4", always, in_an_hour, ok));
        d.run(&Op::Append { key: b"k", value: b"x" });
        d.run(&Op::Rename { from: b"k", to: b"l", only_if_none: false });
        d.run(&Op::Copy { from: b"l", to: b"k", replace: true });
        assert_eq!(expiring(&d), 2, "renamed and copied");
        d.run(&Op::Del { keys: List::Args(&[b"k"]) });
        assert_eq!(expiring(&d), 1, "deleted");
        if round == 0 {
            d.flush();
            d.run(&Op::GetDel { key: b"l" });
            d.run(&set_with("l", "5", always, in_an_hour, ok));
            assert_eq!(expiring(&d), 1, "deleted and set again");
        }
        d.run(&Op::Flush);
        assert_eq!(expiring(&d), 0, "flushed");
    }
}

#[test]
fn expired_rows_go_though_nobody_writes() {
    let mut d = driver();
    d.run(&Op::Flush);
    d.run(&set_with("a", "1", SetWhen::Always, Expiry::In(100), SetReply::Ok));
    let start_ms = d.now_ms;
    assert_eq!(d.pass_until(start_ms + 99), 0, "it is there");
    assert_eq!(d.run(&Op::DbSize), int(1));
    assert_eq!(d.pass_until(start_ms + 100_000), 1, "one entry is enough");
    assert_eq!(d.run(&Op::DbSize), int(0));
    // Keys whose times are far apart take an entry each, those that are close share one; without any, none is wanted.
    for n in 0..1000u64 {
        let in_ms = Expiry::In(1000 + n / 100 * 10_000 + n % 100 * 3);
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, in_ms, SetReply::Ok));
    }
    d.run(&set("stays", "v"));
    let start_ms = d.now_ms;
    let entries = d.pass_until(start_ms + 1_000_000);
    assert!((10..=20).contains(&entries), "{entries}");
    assert_eq!((d.run(&Op::DbSize), d.store.keyspace_stats(P).expiring_keys), (int(1), 0));
    d.flush();
    d.crash();
    let start_ms = d.now_ms;
    assert_eq!(d.pass_until(start_ms + 1_000_000_000), 0);
}

#[test]
fn after_a_restart_expired_rows_go_as_well() {
    let mut d = driver();
    for n in 0..1000 {
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, Expiry::In(1000 + n), SetReply::Ok));
    }
    d.flush();
    d.crash();
    let start_ms = d.now_ms;
    let entries = d.pass_until(start_ms + 1_000_000);
    assert!((1..=6).contains(&entries), "{entries}");
    assert_eq!((d.run(&Op::DbSize), d.store.stats().expired_keys), (int(0), 1000));
}

/// Keys of which most are only below, that expire in a thousand seconds.
fn mostly_below() -> Driver<MemLevel> {
    let mut d = Driver::new(MemLevel::default(), Options::with_memory(60_000, HashSeed([5, 6])));
    for n in 0..2000 {
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, Expiry::In(1_000_000), SetReply::Ok));
    }
    d.flush();
    assert!(d.store.stats().evicted_keys > 1000);
    d
}

#[test]
fn what_a_flush_removed_wants_no_entry_any_more() {
    for is_below in [false, true] {
        let mut d = if is_below { mostly_below() } else { driver() };
        d.run(&set_with("k", "v", SetWhen::Always, Expiry::In(1000), SetReply::Ok));
        d.settle();
        assert!(d.store.alarm_ms(P).is_some());
        d.run(&Op::Flush);
        assert_eq!((d.store.alarm_ms(P), d.store.keyspace_stats(P).expiring_keys), (None, 0));
        // Nor does a key that comes later have those looked for.
        d.run(&set_with("k", "v", SetWhen::Always, Expiry::In(10_000_000), SetReply::Ok));
        let until_ms = d.now_ms + 9_999_999;
        assert_eq!(d.pass_until(until_ms), 0);
    }
}

#[test]
fn what_was_searched_for_below_is_not_searched_for_again() {
    let mut d = Driver::new(MemLevel::default(), Options::with_memory(60_000, HashSeed([5, 6])));
    for n in 0..2000 {
        let in_ms = if n % 2 == 0 { 1000 } else { 1_000_000_000 };
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, Expiry::In(in_ms), SetReply::Ok));
    }
    d.flush();
    assert!(d.store.stats().evicted_keys > 1000);
    let until_ms = d.now_ms + 1_000_000;
    let entries = d.pass_until(until_ms);
    assert!((1..=6).contains(&entries), "{entries}");
    assert_eq!(d.run(&Op::DbSize), int(1000));
    let wanted_ms = d.store.alarm_ms(P);
    assert!(wanted_ms > Some(d.now_ms + 900_000_000), "{wanted_ms:?}");
}

#[test]
fn a_set_whose_time_is_over_at_once_leaves_nothing() {
    let mut d = driver();
    for expiry in [Expiry::In(0), Expiry::At(d.now_ms), Expiry::At(1)] {
        for (reply, done) in [(SetReply::Ok, Outcome::Ok), (SetReply::Done, int(1))] {
            let over = set_with("k", "v", SetWhen::Always, expiry, reply);
            for _ in 0..2 {
                assert_eq!(d.run(&over), done);
                assert_eq!((d.run(&Op::DbSize), d.store.alarm_ms(P)), (int(0), None), "{expiry:?}");
                d.run(&set("k", "there"));
            }
            d.run(&Op::GetDel { key: b"k" });
        }
    }
    assert_eq!(d.store.stats().expired_keys, 0, "none had to be looked for");
}

#[test]
fn the_count_of_expiring_keys_is_exact_again_after_blind_writes() {
    let mut d = mostly_below();
    let before = d.store.keyspace_stats(P);
    assert_eq!((before.keys, before.expiring_keys), (2000, 2000));
    let mut left = 2000;
    for is_flushed in [false, true, false, true] {
        // Ten that exist lose their time to live, ten keep one, ten are new.
        for n in 0..10 {
            d.run(&set(&format!("k{}", 2000 - left + n), "blind"));
            let (key, new) = (format!("k{}", 1000 + n), format!("new{left}.{n}"));
            d.run(&set_with(&key, "blind", SetWhen::Always, Expiry::In(900_000), SetReply::Ok));
            d.run(&set_with(&new, "blind", SetWhen::Always, Expiry::In(900_000), SetReply::Ok));
        }
        assert!(d.store.keyspace_stats(P).unresolved_keys > 10, "they were not looked for");
        if is_flushed {
            d.flush();
        }
        left -= 10;
        assert_eq!(d.run(&Op::DbSize), int(2000 + (2000 - left)));
        let stats = d.store.keyspace_stats(P);
        assert_eq!((stats.unresolved_keys, stats.expiring_keys), (0, 2000), "as many are new");
        if is_flushed {
            d.crash();
            assert_eq!(d.store.keyspace_stats(P).expiring_keys, stats.expiring_keys);
            d.settle();
        }
    }
}

#[test]
fn a_time_is_announced_once_and_again_only_if_it_is_sooner() {
    let mut d = driver();
    d.hold_jobs = true;
    let announced = |d: &mut Driver<MemLevel>| {
        let mut alarms = Vec::new();
        d.store.take_alarms(&mut alarms);
        alarms.len()
    };
    for n in 0..100 {
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, Expiry::In(50_000 + n), SetReply::Ok));
    }
    assert_eq!(announced(&mut d), 1);
    d.run(&Op::ExpireIn { key: b"k7", in_ms: 20_000, condition: Condition::Always });
    assert_eq!(announced(&mut d), 1, "it is sooner");
    assert_eq!(d.store.alarm_ms(P), Some(d.now_ms + 20_000));
    d.run(&Op::Persist { key: b"k7" });
    d.run(&set("x", "y"));
    assert_eq!(announced(&mut d), 0);
    // An entry that comes by itself is as good as one that was wanted; the next time is announced anew.
    d.now_ms += 50_000;
    d.run(&set("x", "y"));
    d.store.maintain(10_000_000);
    assert_eq!(announced(&mut d), 1);
    assert!(d.store.alarm_ms(P) > Some(d.now_ms));
    // Once the shard has asked and was told that no entry is wanted, any time is announced.
    d.run(&Op::Flush);
    assert_eq!((d.store.alarm_ms(P), announced(&mut d)), (None, 0));
    d.run(&set_with("k", "v", SetWhen::Always, Expiry::In(500_000), SetReply::Ok));
    assert_eq!(announced(&mut d), 1);
}

#[test]
fn a_row_that_is_read_from_below_is_expected_to_expire() {
    let mut d = Driver::new(MemLevel::default(), Options::with_memory(500, HashSeed([5, 6])));
    let value = "v".repeat(500);
    for (key, in_ms) in [("a", 1000), ("b", 5000), ("c", 1_000_000)] {
        d.run(&set_with(key, &value, SetWhen::Always, Expiry::In(in_ms), SetReply::Ok));
    }
    d.flush();
    d.settle();
    let start_ms = d.now_ms;
    assert!(d.pass_until(start_ms + 2000) > 0);
    assert_eq!(d.run(&Op::DbSize), int(2));
    // The next search below is far away; the row in memory wants an entry before.
    assert!(d.store.alarm_ms(P) > Some(start_ms + 10_000));
    d.store.take_alarms(&mut Vec::new());
    assert_eq!(d.run(&get("b")), bulk(&value));
    d.check();
    assert_eq!(d.store.alarm_ms(P), Some(start_ms + 5000));
}

#[test]
fn nothing_is_searched_for_below_where_nothing_expires() {
    let mut d = mostly_below();
    for n in 0..2000 {
        d.run(&Op::Persist { key: format!("k{n}").as_bytes() });
    }
    d.flush();
    assert_eq!((d.store.keyspace_stats(P).expiring_keys, d.run(&Op::DbSize)), (0, int(2000)));
    d.hold_jobs = true;
    d.now_ms += 2_000_000;
    d.entry(P, &[]);
    let mut jobs = Vec::new();
    (0..10).for_each(|_| _ = d.store.maintain(10_000_000));
    d.store.take_jobs(&mut jobs);
    let searches = jobs.iter().filter(|job| matches!(job.task, Task::Expired { .. })).count();
    assert_eq!(searches, 0);
}

/// Looks for the rows of `d` that expire in a thousand seconds, slice by slice, with flushes that take their time. Returns
/// how often the search waited for the rows that it had found to be removed, and for a flush beside much that has changed.
fn search_slowly(d: &mut Driver<MemLevel>) -> (u32, u32) {
    d.hold_jobs = true;
    d.now_ms += 1_000_000;
    d.entry(P, &[]);
    let is_search = |job: &Job<MemLevel>| matches!(job.task, Task::Expired { .. });
    let (mut beside_walk, mut beside_flush) = (0, 0);
    for round in 0..100_000 {
        d.store.maintain(1);
        d.take_jobs();
        if !d.store.upkeep.sweeps.is_queued(P) {
            return (beside_walk, beside_flush);
        }
        let is_walked = d.store.partitions[&P].walks > 0;
        let changed = d.store.ledger.dirty_bytes + d.store.ledger.captured_bytes;
        let is_full = changed > d.store.options.max_dirty_bytes / 2;
        let must_wait = is_walked || (is_full && d.store.ledger.has_running_flush());
        match d.held.iter().position(is_search) {
            Some(at) => {
                assert!(!must_wait, "round {round}: a search goes on, walked {is_walked}, full {is_full}");
                d.run_a_job(at);
            }
            None => {
                assert!(must_wait, "round {round}: the search goes on for nothing, full {is_full}");
                beside_walk += u32::from(is_walked);
                beside_flush += u32::from(!is_walked);
                if round % 50 == 0 {
                    d.run_a_job(0);
                }
            }
        }
    }
    panic!("the search does not end");
}

/// What it finds takes memory until it is removed, and tombstones of that until they are flushed.
#[test]
fn a_search_below_waits_for_the_walk_and_for_a_flush_beside_much_that_has_changed() {
    let mut d = Driver::new(MemLevel::default(), Options::with_memory(400_000, HashSeed([5, 6])));
    for n in 0..14_000 {
        let in_ms = if n % 7 == 0 { 1_000_000_000 } else { 1_000_000 };
        d.run(&set_with(&format!("k{n}"), "v", SetWhen::Always, Expiry::In(in_ms), SetReply::Ok));
    }
    d.flush();
    assert!(d.store.stats().evicted_keys > 5000);
    let (beside_walk, beside_flush) = search_slowly(&mut d);
    assert!(beside_walk > 20 && beside_flush > 20, "{beside_walk} {beside_flush}");
    d.hold_jobs = false;
    d.settle();
    assert_eq!(d.run(&Op::DbSize), int(2000));
}

/// Whether a read that was judged by the log would be answered otherwise by the clock; of memory, and of what was on disk.
#[test]
fn an_answer_that_rests_on_the_clock_is_known() {
    for is_flushed in [false, true] {
        let mut d = driver();
        let at = d.now_ms + 100;
        d.run(&set_with("soon", "v", SetWhen::Always, Expiry::At(at), SetReply::Ok));
        d.run(&set_with("later", "v", SetWhen::Always, Expiry::At(at + 10_000), SetReply::Ok));
        d.run(&set("ever", "v"));
        if is_flushed {
            d.flush();
            d.crash();
        }
        let [soon, later, ever, none] = [get("soon"), get("later"), get("ever"), get("none")];
        let watch = Op::Version { key: b"soon" };
        let exec = bytes(&soon);
        let exec = Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&exec]) };
        let many = Op::Exists { keys: List::Args(&[b"ever", b"soon"]) };
        let ttl_of = |key: &'static str| Op::Ttl { key: key.as_bytes(), absolute: false, seconds: false };
        let ttl_in = bytes(&ttl_of("later"));
        let ttl_in = Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&ttl_in]) };
        let stamp_ms = d.now_ms;
        let ask = |d: &mut Driver<_>, op: &Op<'_>, now_ms: u64| {
            // A transaction would be logged here.
            if !matches!(op, Op::Multi { .. }) {
                d.now_ms = stamp_ms;
                d.run(op);
            }
            d.store.rests_on_clock(P, &bytes(op), now_ms)
        };
        for op in [&soon, &later, &ever, &none, &watch, &exec, &many, &Op::DbSize] {
            assert!(!ask(&mut d, op, at - 1), "{op:?} at a time when nothing has expired");
        }
        for op in [&later, &ever, &none] {
            assert!(!ask(&mut d, op, at + 5), "{op:?}: it has not expired, or was never there");
        }
        for op in [&soon, &watch, &exec, &many, &Op::DbSize] {
            assert!(ask(&mut d, op, at + 5), "{op:?}: it has expired by our clock alone");
        }
        for (op, is_left) in
            [(ttl_of("later"), true), (ttl_of("ever"), false), (ttl_of("none"), false), (ttl_in, true)]
        {
            assert_eq!(ask(&mut d, &op, stamp_ms + 1), is_left, "{op:?} has time left");
            assert!(!ask(&mut d, &op, stamp_ms), "{op:?} at the time of the log");
        }
        // An entry has a stamp from then.
        d.now_ms = at + 5;
        d.run(&set("other", "v"));
        for op in [&soon, &later, &ever, &none, &watch, &many] {
            assert!(!ask(&mut d, op, at + 5), "{op:?}: the log says so");
        }
    }
}
