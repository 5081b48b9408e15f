//! What one entry, one transaction and one answer may take: an entry always ends, and keeps to the memory meanwhile.

use super::super::*;
use super::*;

fn tiny(memory_bytes: usize) -> Options {
    Options::with_memory(memory_bytes, HashSeed([5, 6]))
}

pub(super) fn keys(pattern: &[u8]) -> Op<'_> {
    Op::Keys { pattern }
}

fn multi<'a>(ops: &'a [&'a [u8]]) -> Op<'a> {
    Op::Multi { guards: List::Args(&[]), ops: List::Args(ops) }
}

#[test]
fn a_transaction_ends_whatever_it_asks_of_the_whole_keyspace_and_whatever_others_ask() {
    let mut d = Driver::new(MemLevel::default(), tiny(60_000));
    for n in 0..60_000 {
        d.run(&set(&format!("k{n}"), "v"));
    }
    d.flush();
    let patterns: Vec<String> = (0..40).map(|n| format!("k1{n:02}?")).collect();
    let all = patterns.iter().map(|pattern| bytes(&keys(pattern.as_bytes())));
    let ops: Vec<Vec<u8>> = std::iter::once(bytes(&set("new", "v"))).chain(all).collect();
    let outcome = d.run(&multi(&ops.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let Outcome::Array(outcomes) = outcome else { panic!("{outcome:?}") };
    let counts = outcomes.iter().skip(1).map(|outcome| match outcome {
        Outcome::Array(keys) => Ok(keys.len()),
        other => Err(other.clone()),
    });
    let refused = Err(Outcome::Error(ErrorKind::TooManyWalks));
    let expected = std::iter::repeat_n(Ok(10), MAX_WALKS).chain(std::iter::repeat_n(refused, 32));
    assert!(counts.eq(expected), "{outcomes:?}");
    // Between any two tries others ask for more pages than are kept, and a flush completes.
    let cursors = (1..7u64).map(|n| n << 45);
    let scans = cursors.map(|cursor| Op::Scan { cursor, count: 1, pattern: None, kind: None });
    let ops: Vec<Vec<u8>> = [set("new", "w"), keys(b"k2000?"), Op::RandomKey { seed: 3 }]
        .into_iter()
        .chain(scans)
        .map(|op| bytes(&op))
        .collect();
    let op = bytes(&multi(&ops.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let at = Applied::first(P, Lsn(60_002), Term(1), d.now_ms);
    for tries in 0..20 {
        match d.store.apply(&at, &op) {
            Step::Done(Outcome::Array(outcomes)) => {
                assert!(tries > 2, "it was to wait for several answers");
                assert!(outcomes.iter().all(|outcome| !matches!(outcome, Outcome::Error(_))), "{outcomes:?}");
                return;
            }
            Step::Done(other) => panic!("{other:?}"),
            Step::Blocked(_) | Step::Passed => {}
            Step::Unreadable(why) => panic!("{why}"),
        }
        for cursor in (0..60u64).map(|n| n << 42) {
            let _ = d.store.read(P, &bytes(&Op::Scan { cursor, count: 1, pattern: None, kind: None }), 1);
        }
        d.run_in(PartitionId(8), &set("other", "v"));
        d.flush();
    }
    panic!("the entry never ends");
}

#[test]
fn a_flush_inside_an_entry_is_a_point_of_it() {
    let ops: Vec<Vec<u8>> = [
        set("a", "1"),
        Op::IncrBy { key: b"a", delta: 2 },
        Op::Append { key: b"b", value: b"x" },
        Op::Del { keys: List::Args(&[b"a"]) },
        Op::IncrBy { key: b"a", delta: 5 },
        Op::Flush,
        Op::Append { key: b"b", value: b"yz" },
    ]
    .iter()
    .map(bytes)
    .collect();
    let at = |lsn| Applied::first(P, Lsn(lsn), Term(1), lsn);
    let finish = |store: &mut Store<MemLevel>, from: usize| {
        apply_all(store, &at(2), &ops[from..]);
        store.end_entry(&at(2));
        store.state_hash(P).unwrap()
    };
    for first in 0..=ops.len() {
        for second in first..=ops.len() {
            let disk = MemLevel::default();
            let mut store = Store::open(disk.clone(), options(), &[]).unwrap();
            store.apply(&at(1), &bytes(&set("b", "0")));
            store.end_entry(&at(1));
            apply_all(&mut store, &at(2), &ops[..first]);
            flush(&mut store);
            assert_eq!(store.persisted(P), Lsn(1));
            let whole = finish(&mut store, first);
            // A restart goes on behind what is done; so does one after it that got further, or not as far.
            let mut store = Store::open(disk.clone(), options(), &[]).unwrap();
            assert_eq!((store.persisted(P), store.persisted_stamp_ms(P)), (Lsn(1), 1 + u64::from(first > 0)));
            assert_eq!(store.is_inside_entry(P), first > 0);
            apply_all(&mut store, &at(2), &ops[..second]);
            assert_eq!(store.is_inside_entry(P), second > 0);
            flush(&mut store);
            let mut again = Store::open(disk, options(), &[]).unwrap();
            assert_eq!(finish(&mut again, 0), whole, "{first} and {second} ops");
            assert_eq!(finish(&mut store, second), whole, "{first} and {second} ops");
        }
    }
}

fn apply_all(store: &mut Store<MemLevel>, at: &Applied, ops: &[Vec<u8>]) {
    for op in ops {
        while matches!(store.apply(at, op), Step::Blocked(_)) {
            run_jobs(store);
        }
    }
}

fn flush(store: &mut Store<MemLevel>) {
    store.want_flush(Urgency::Soon);
    run_jobs(store);
}

fn run_jobs(store: &mut Store<MemLevel>) {
    let mut jobs = Vec::new();
    loop {
        let more = store.maintain(1_000_000);
        store.take_jobs(&mut jobs);
        if jobs.is_empty() && !more {
            return;
        }
        for job in jobs.drain(..) {
            store.job_done(Store::run_job(job)).unwrap();
        }
    }
}

#[test]
fn a_pattern_that_takes_too_long_is_refused() {
    let mut d = Driver::new(MemLevel::default(), options());
    for n in 0..4 {
        d.run(&set(&format!("{}{n}", "a".repeat(50_000)), "v"));
    }
    let pattern = format!("*{}b", "a".repeat(20_000));
    let refused = Outcome::Error(ErrorKind::PatternTooCostly);
    let scan = Op::Scan { cursor: 0, count: 10, pattern: Some(pattern.as_bytes()), kind: None };
    for _ in 0..2 {
        assert_eq!(d.run(&keys(pattern.as_bytes())), refused);
        assert_eq!(d.run(&scan), refused);
        assert!(matches!(d.run(&keys(b"a*?3")), Outcome::Array(keys) if keys.len() == 1));
        // The same by the disk level.
        d.flush();
        d.crash();
    }
}

#[test]
fn one_entry_of_few_bytes_keeps_to_the_memory() {
    let memory_bytes = 400_000;
    let mut d = Driver::new(MemLevel::default(), tiny(memory_bytes));
    let at = Applied::first(P, Lsn(1), Term(1), 1);
    let (mut blocked, mut waited) = (0, 0);
    for n in 0..400u32 {
        let key = n.to_string();
        let op = match n % 3 {
            0 => Op::SetRange { key: key.as_bytes(), offset: 9_999, value: b"x" },
            1 => Op::Copy { from: b"0", to: key.as_bytes(), replace: false },
            _ => Op::Append { key: b"1", value: b"y" },
        };
        while matches!(d.store.apply(&at, &bytes(&op)), Step::Blocked(_)) {
            blocked += 1;
            waited += u32::from(d.store.waits_for_flush());
            d.store.maintain(1_000_000);
            d.run_a_job(0);
        }
        assert!(!d.store.waits_for_flush(), "it was applied");
        let stats = d.store.stats();
        let used = stats.used_bytes + d.store.ledger.kept_bytes as u64;
        assert!(used <= memory_bytes as u64 * 3 / 2, "{used} of {memory_bytes} bytes at {n}");
    }
    d.store.end_entry(&at);
    assert!(blocked > 5 && (1..=blocked).contains(&waited), "{blocked}, of these {waited} for a flush");
    assert_eq!(d.read_in(P, &Op::StrLen { key: b"399" }), Outcome::Int(10_000));
    // Inside a transaction nothing can wait, so what it may add to values is bounded.
    let mut d = Driver::new(MemLevel::default(), options());
    let keys: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    let large = |key| Op::SetRange { key, offset: 20 << 20, value: b"x" };
    let mut ops: Vec<Vec<u8>> = keys.iter().map(|key| bytes(&large(key.as_bytes()))).collect();
    ops.push(bytes(&large(b"0")));
    let outcome = d.run(&multi(&ops.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let Outcome::Array(outcomes) = outcome else { panic!("{outcome:?}") };
    let refused = Outcome::Error(ErrorKind::TransactionTooLarge);
    assert!(outcomes[..6].iter().chain(&outcomes[8..]).all(|outcome| matches!(outcome, Outcome::Int(_))));
    assert_eq!(outcomes[6..8], [refused.clone(), refused]);
}

#[test]
fn what_an_op_moves_of_large_values_is_told() {
    let mut d = Driver::new(MemLevel::default(), options());
    let value = "v".repeat(100_000);
    let mut told = |op: &Op<'_>| {
        let outcome = d.run(op);
        (d.store.step_bytes(&outcome), outcome.cost_bytes())
    };
    let (set_bytes, outcome_bytes) = told(&set("k", &value));
    assert_eq!(set_bytes, outcome_bytes, "it brought the value itself");
    let set_range = Op::SetRange { key: b"k", offset: 7, value: b"x" };
    let copy = Op::Copy { from: b"k", to: b"l", replace: true };
    let lcs = Op::Lcs { a: b"k", b: b"m", len: true, idx: false, min_match_len: 0, with_match_len: false };
    told(&set("m", "0"));
    for op in [copy, lcs] {
        let (bytes, outcome_bytes) = told(&op);
        assert!(bytes >= outcome_bytes + 100_000, "{op:?}: {bytes}");
    }
    // These change the row where it is.
    for op in [Op::Append { key: b"k", value: b"x" }, set_range] {
        let (bytes, outcome_bytes) = told(&op);
        assert!(bytes > outcome_bytes && bytes < outcome_bytes + 100, "{op:?}: {bytes}");
    }
    let (bytes, outcome_bytes) = told(&get("k"));
    assert!(bytes < 100 && outcome_bytes >= 100_000, "a share of the row's bytes is no copy: {bytes}");
}

#[test]
fn ranges_of_large_values_are_written_in_place() {
    const VALUE_BYTES: u64 = 8 << 20;
    let mut d = Driver::new(MemLevel::default(), options());
    let told = |d: &mut Driver<_>, op: &Op<'_>| {
        let outcome = d.run(op);
        (d.store.step_bytes(&outcome), outcome)
    };
    let range = |offset| Op::SetRange { key: b"k", offset, value: b"x" };
    let (first, _) = told(&mut d, &range(VALUE_BYTES - 1));
    assert!(first >= VALUE_BYTES as usize, "it is made: {first}");
    let moved: usize = (0..300).map(|n| told(&mut d, &range(VALUE_BYTES - 1 - n)).0).sum();
    assert!(moved < 300 * 200, "{moved} bytes for 300 bytes written");
    // Growing by little moves all of it a few times, not each time.
    let append = Op::Append { key: b"k", value: b"0123456789" };
    let moved: usize = (0..3000).map(|_| told(&mut d, &append).0).sum();
    assert!(moved < 3000 * 200 + 2 * VALUE_BYTES as usize, "{moved} bytes for 30,000 bytes appended");
    let (_, len) = told(&mut d, &Op::StrLen { key: b"k" });
    assert_eq!(len, Outcome::Int(VALUE_BYTES as i64 + 30_000));
    // A flush in between takes the value as it was, and what came after it stays.
    d.flush();
    told(&mut d, &range(0));
    d.crash();
    let outcome = d.run(&Op::GetRange { key: b"k", start: -10, end: -1 });
    assert_eq!(outcome, Outcome::Bulk(b"0123456789".to_vec()));
}

#[test]
fn heavy_writes_leave_room_for_light_ones_while_a_flush_is_under_way() {
    let options = options();
    let mut d = Driver::new(MemLevel::default(), options);
    d.hold_jobs = true;
    let value = "v".repeat(1 << 20);
    let mut heavy = 0;
    // As the gate does it: one after the other, as long as the store takes them.
    while d.store.takes_heavy_writes() {
        d.entry(P, &[set(&heavy.to_string(), &value)]);
        d.store.maintain(1_000_000);
        heavy += 1;
        assert!(heavy <= options.max_dirty_bytes >> 20, "they are never stopped");
    }
    assert!(heavy > options.max_dirty_bytes >> 22, "{heavy}");
    // The flush does not end, for its job would be run only if something was blocked; and light ones go on.
    for n in 0..20_000 {
        d.entry(P, &[set(&format!("light:{n}"), "v")]);
    }
    assert_eq!(d.store.stats().flushes, 0, "a light write had to wait for it");
    d.settle();
    assert!(d.store.takes_heavy_writes() && d.store.stats().flushes > 0);
}

#[test]
fn keys_are_gathered_in_slices_between_which_others_are_served() {
    const KEYS: usize = 30_000;
    let pattern = b"*a*a*a*a*b";
    let name =
        |n: usize| format!("aaaaaaaaaaaaaaaa:{n:06}:aaaaaaaa{}", if n.is_multiple_of(10) { "b" } else { "" });
    const ROWS: u64 = 500;
    let mut d = Driver::new(MemLevel::default(), Options { gather_rows: ROWS, ..options() });
    for n in 0..KEYS {
        d.run(&set(&name(n), "v"));
    }
    let op = bytes(&keys(pattern));
    let mut slices = 0;
    let found = loop {
        match d.store.read(P, &op, d.now_ms) {
            Step::Done(outcome) => break outcome,
            Step::Blocked(_) => {}
            other => panic!("{other:?}"),
        }
        // As long as no job ends, it is not tried again: the store goes on by itself.
        loop {
            let before = d.store.gathered_units();
            let more = d.store.maintain(1);
            let units = d.store.gathered_units() - before;
            assert!(units <= ROWS, "as much as {units} rows at once");
            slices += 1;
            // Others read and write: keys come, go and expire, in the stretch that is gathered and in the other.
            let (old, new) = (name(slices * 7 % KEYS), format!("{}b", name(KEYS + slices)));
            d.run(&Op::Del { keys: List::Args(&[old.as_bytes()]) });
            d.run(&set(&new, "v"));
            assert_eq!(d.run(&get(&new)), bulk("v"));
            let expiry = if slices.is_multiple_of(3) { 5 } else { 1_000_000 };
            let at_ms = (d.now_ms + expiry) as i64;
            let soon = name(slices * 11 * 10 % KEYS);
            d.run(&Op::Expire { key: soon.as_bytes(), at_ms, condition: Condition::Always });
            if slices.is_multiple_of(20) {
                d.now_ms += 1;
            }
            if !more {
                break;
            }
        }
        d.settle();
    };
    assert!(slices > 20, "{slices} slices");
    let Outcome::Array(found) = found else { panic!("{found:?}") };
    // Of the very moment: as another way of looking finds it.
    let scanned = scan_all(&mut d, 1000, |_| ());
    let mut expected: Vec<_> =
        scanned.into_iter().filter(|key| glob(pattern, key)).map(Outcome::Bulk).collect();
    let key = |outcome: &Outcome| format!("{outcome:?}");
    let mut found = found;
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert!(found.len() > KEYS / 20 && found == expected, "{} of {}", found.len(), expected.len());
}

/// A store with so many keys in memory, and a KEYS of this pattern that has begun and waits.
pub(super) fn half_gathered(count: usize, pattern: &[u8]) -> (Driver<MemLevel>, Vec<u8>) {
    let mut d = Driver::new(MemLevel::default(), Options { gather_rows: 50, ..options() });
    (0..count).for_each(|n| drop(d.run(&set(&format!("key:{n:05}"), "v"))));
    d.settle();
    let op = bytes(&keys(pattern));
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
    for _ in 0..count / 100 {
        assert!(d.store.maintain(1), "it ended too soon");
    }
    (d, op)
}

/// The outcome of an op that waits for upkeep and jobs alone.
pub(super) fn outcome_of(d: &mut Driver<MemLevel>, op: &[u8]) -> Outcome {
    loop {
        // As long as no job ends, it is not tried again.
        while d.store.maintain(1) {}
        d.take_jobs();
        assert!(d.held_jobs() > 0, "nothing would have it tried again");
        d.settle();
        match d.store.read(P, op, d.now_ms) {
            Step::Done(outcome) => return outcome,
            Step::Blocked(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keys_that_a_write_ends_is_answered() {
    // By a flush of the keyspace.
    let (mut d, op) = half_gathered(4000, b"*");
    d.hold_jobs = true;
    d.run(&Op::Flush);
    d.run(&set("after", "v"));
    assert_eq!(outcome_of(&mut d, &op), Outcome::Array(vec![bulk("after")]));
    // By keys that take all the effort that the pattern may take.
    let (mut d, op) = half_gathered(4000, format!("*{}b", "a".repeat(500)).as_bytes());
    d.hold_jobs = true;
    for n in 0..20 {
        d.run(&set(&format!("{n}:{}", "a".repeat(2000)), "v"));
    }
    assert_eq!(outcome_of(&mut d, &op), Outcome::Error(ErrorKind::PatternTooCostly));
}

#[test]
fn keys_written_while_they_are_gathered_count_to_the_limit() {
    let (mut d, op) = half_gathered(2000, b"*");
    d.hold_jobs = true;
    d.store.options.max_keys_reply = 2700;
    (0..3000).for_each(|n| drop(d.run(&set(&format!("new:{n:05}"), "v"))));
    assert_eq!(outcome_of(&mut d, &op), Outcome::Error(ErrorKind::TooManyKeys));
    // Those that went again do not.
    let (mut d, op) = half_gathered(2000, b"*");
    d.hold_jobs = true;
    d.store.options.max_keys_reply = 2000;
    for n in 0..1500 {
        let key = format!("new:{n:05}");
        d.run(&set(&key, "v"));
        d.run(&Op::Del { keys: List::Args(&[key.as_bytes()]) });
    }
    assert!(matches!(outcome_of(&mut d, &op), Outcome::Array(found) if found.len() == 2000));
}

#[test]
fn a_long_list_of_keys_is_given_away_whole() {
    let mut d = Driver::new(MemLevel::default(), options());
    (0..10_000).for_each(|n| drop(d.run(&set(&format!("key:{n:05}"), "v"))));
    let Outcome::Names(names) = d.run(&keys(b"*")) else { panic!("it would be made in one step") };
    let mut found: Vec<Vec<u8>> = names.iter().map(<[u8]>::to_vec).collect();
    assert!(names.held_bytes() >= 10_000 * (9 + 32));
    assert!(names.into_iter().eq(found.iter().cloned()));
    found.sort_unstable();
    assert!(found.iter().enumerate().all(|(n, key)| *key == format!("key:{n:05}").into_bytes()));
    assert_eq!(found.len(), 10_000);
    assert!(matches!(d.run(&keys(b"key:00*")), Outcome::Array(few) if few.len() == 1000));
}

#[test]
fn long_subsequences_are_found_by_jobs() {
    let mut d = Driver::new(MemLevel::default(), options());
    let (a, b) = ("abcde".repeat(400), "badce".repeat(400));
    d.entry(P, &[set("a", &a), set("b", &b)]);
    let lcs = Op::Lcs { a: b"a", b: b"b", len: true, idx: false, min_match_len: 0, with_match_len: false };
    let op = bytes(&lcs);
    d.hold_jobs = true;
    d.settle();
    // Many ask for it, and it is done once; those who ask move no more than two values.
    for _ in 0..5 {
        assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
        assert!(d.store.step_bytes(&Outcome::Ok) < 1000);
    }
    d.take_jobs();
    assert_eq!(d.held_jobs(), 1);
    d.settle();
    let Step::Done(before) = d.store.read(P, &op, d.now_ms) else { panic!("it was done") };
    // In a transaction it is done at once, and comes to the same.
    let outcomes = d.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&op]) });
    assert_eq!(outcomes, Outcome::Array(vec![before.clone()]));
    // What is found of values that were written meanwhile is not given.
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
    d.run(&set("b", &"xxxxx".repeat(400)));
    assert_eq!(d.run(&lcs), Outcome::Int(0));
    // Nor if nobody asked when the job had ended.
    d.run(&set("b", &b));
    assert!(matches!(d.store.read(P, &op, d.now_ms), Step::Blocked(_)));
    d.settle();
    d.run(&Op::Append { key: b"b", value: b"e" });
    d.run(&Op::Del { keys: List::Args(&[b"a"]) });
    assert_eq!(d.run(&lcs), Outcome::Int(0));
    // Values that change all the time keep nobody waiting for ever.
    let mut jobs = 0;
    d.run(&set("a", &a));
    let outcome = loop {
        match d.store.read(P, &op, d.now_ms) {
            Step::Done(outcome) => break outcome,
            Step::Blocked(_) => {}
            other => panic!("{other:?}"),
        }
        d.settle();
        jobs += 1;
        assert!(jobs < 10, "it is never answered");
        d.run(&Op::Append { key: b"b", value: b"e" });
    };
    assert!(jobs > 1 && matches!(outcome, Outcome::Int(found) if found > 1000), "{jobs}: {outcome:?}");
}
