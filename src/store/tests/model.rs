//! Random histories against a plain map, over both disk levels: with flushes, jobs in any order, evictions and
//! crashes between the ops, every reply is the model's, and two stores that saw the same entries end up alike.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::*;
use super::*;

/// The plain map: value and expiry.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
    /// Expired keys that may still be counted by DBSIZE.
    expired: u64,
}

#[derive(Clone, Debug)]
enum Do {
    Set {
        key: u8,
        value: u8,
        long: bool,
    },
    SetFor {
        key: u8,
        value: u8,
        ms: u64,
        when: u8,
    },
    Append {
        key: u8,
        value: u8,
    },
    Incr {
        key: u8,
        by: i8,
    },
    Del {
        keys: [u8; 3],
    },
    GetDel {
        key: u8,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Copy {
        from: u8,
        to: u8,
    },
    Expire {
        key: u8,
        ms: u64,
    },
    Persist {
        key: u8,
    },
    MSet {
        keys: [u8; 3],
        value: u8,
        only_if_none: bool,
    },
    Transaction {
        set: u8,
        add: u8,
        del: u8,
    },
    Flush,
    Get {
        key: u8,
    },
    MGet {
        keys: [u8; 3],
    },
    Ttl {
        key: u8,
    },
    DbSize,
    Keys,
    Scan,
    Random {
        seed: u64,
    },
    // What happens around them.
    Wait {
        ms: u64,
    },
    WantFlush,
    Maintain {
        slices: u8,
    },
    Job {
        pick: usize,
    },
    Settle,
    /// The disk takes so many bytes from now on.
    Capacity {
        bytes: u64,
    },
    Crash,
}

fn step() -> impl Strategy<Value = Do> {
    let key = || 0..40u8;
    let keys = || [key(), key(), key()];
    let ms = || prop_oneof![1..50u64, Just(1_000_000)];
    prop_oneof![
        8 => (key(), any::<u8>(), any::<bool>()).prop_map(|(key, value, long)| Do::Set { key, value, long }),
        3 => (key(), any::<u8>(), ms(), 0..3u8).prop_map(|(key, value, ms, when)| Do::SetFor { key, value, ms, when }),
        2 => (key(), any::<u8>()).prop_map(|(key, value)| Do::Append { key, value }),
        3 => (key(), any::<i8>()).prop_map(|(key, by)| Do::Incr { key, by }),
        3 => keys().prop_map(|keys| Do::Del { keys }),
        1 => key().prop_map(|key| Do::GetDel { key }),
        1 => (key(), key()).prop_map(|(from, to)| Do::Rename { from, to }),
        1 => (key(), key()).prop_map(|(from, to)| Do::Copy { from, to }),
        1 => (key(), ms()).prop_map(|(key, ms)| Do::Expire { key, ms }),
        1 => key().prop_map(|key| Do::Persist { key }),
        1 => (keys(), any::<u8>(), any::<bool>()).prop_map(|(keys, value, only_if_none)| Do::MSet { keys, value, only_if_none }),
        1 => (key(), key(), key()).prop_map(|(set, add, del)| Do::Transaction { set, add, del }),
        1 => Just(Do::Flush),
        4 => key().prop_map(|key| Do::Get { key }),
        2 => keys().prop_map(|keys| Do::MGet { keys }),
        1 => key().prop_map(|key| Do::Ttl { key }),
        1 => Just(Do::DbSize),
        1 => Just(Do::Keys),
        1 => Just(Do::Scan),
        1 => any::<u64>().prop_map(|seed| Do::Random { seed }),
        1 => (1..40u64).prop_map(|ms| Do::Wait { ms }),
        3 => Just(Do::WantFlush),
        4 => (1..4u8).prop_map(|slices| Do::Maintain { slices }),
        5 => any::<usize>().prop_map(|pick| Do::Job { pick }),
        1 => Just(Do::Settle),
        2 => prop_oneof![Just(0), 60_000..80_000u64, Just(u64::MAX)].prop_map(|bytes| Do::Capacity { bytes }),
        1 => Just(Do::Crash),
    ]
}

fn name(key: u8) -> Vec<u8> {
    format!("key:{key}").into_bytes()
}

impl Model {
    fn expire(&mut self, now_ms: u64) {
        let before = self.keys.len();
        self.keys.retain(|_, (_, expiry)| expiry.is_none_or(|at| at > now_ms));
        self.expired += (before - self.keys.len()) as u64;
    }

    fn get(&self, key: u8) -> Outcome {
        self.keys.get(&name(key)).map_or(Outcome::Nil, |(value, _)| Outcome::Bulk(value.clone()))
    }

    fn incr(&mut self, key: u8, by: i64) -> Outcome {
        let entry = self.keys.get(&name(key)).cloned();
        let (old, expiry) = entry.unwrap_or((b"0".to_vec(), None));
        let text = String::from_utf8(old).unwrap();
        let Some(old) = text.parse::<i64>().ok().filter(|old| old.to_string() == text) else {
            return Outcome::Error(ErrorKind::NotInteger);
        };
        if old.checked_add(by).is_none() {
            return Outcome::Error(ErrorKind::IncrOverflow);
        }
        self.keys.insert(name(key), ((old + by).to_string().into_bytes(), expiry));
        Outcome::Int(old + by)
    }
}

fn value_of(value: u8, long: bool) -> Vec<u8> {
    let text = if value < 128 { value.to_string() } else { format!("text {value}") };
    if long { text.repeat(40).into_bytes() } else { text.into_bytes() }
}

/// Does one step in the store and in the model, and compares.
#[allow(clippy::too_many_lines)]
fn play<L: DiskLevel>(driver: &mut Driver<L>, model: &mut Model, step: &Do) {
    model.expire(driver.now_ms);
    let now_ms = driver.now_ms;
    match step {
        Do::Set { key, value, long } => {
            let (key, value) = (name(*key), value_of(*value, *long));
            let op = Op::Set {
                key: &key,
                value: &value,
                when: SetWhen::Always,
                expiry: Expiry::Clear,
                reply: SetReply::Ok,
            };
            assert_eq!(driver.run(&op), Outcome::Ok);
            model.keys.insert(key, (value, None));
        }
        Do::SetFor { key, value, ms, when } => {
            let old = model.get(*key);
            let (key, value) = (name(*key), value_of(*value, false));
            let when = [SetWhen::Always, SetWhen::Absent, SetWhen::Present][usize::from(*when)];
            let reply = if *ms % 2 == 0 { SetReply::Old } else { SetReply::Done };
            let op = Op::Set { key: &key, value: &value, when, expiry: Expiry::At(now_ms + ms), reply };
            let holds = match when {
                SetWhen::Absent => old == Outcome::Nil,
                SetWhen::Present => old != Outcome::Nil,
                _ => true,
            };
            let expected = if *ms % 2 == 0 { old } else { Outcome::Int(i64::from(holds)) };
            assert_eq!(driver.run(&op), expected);
            if holds {
                model.keys.insert(key, (value, Some(now_ms + ms)));
            }
        }
        Do::Append { key, value } => {
            let (key, value) = (name(*key), value_of(*value, false));
            let entry = model.keys.entry(key.clone()).or_default();
            entry.0.extend_from_slice(&value);
            let expected = Outcome::Int(entry.0.len() as i64);
            assert_eq!(driver.run(&Op::Append { key: &key, value: &value }), expected);
        }
        Do::Incr { key, by } => {
            let expected = model.incr(*key, i64::from(*by));
            assert_eq!(driver.run(&Op::IncrBy { key: &name(*key), delta: i64::from(*by) }), expected);
        }
        Do::Del { keys } => {
            let names = keys.map(name);
            let removed = names.iter().filter(|key| model.keys.remove(*key).is_some()).count();
            let args: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            assert_eq!(driver.run(&Op::Del { keys: List::Args(&args) }), Outcome::Int(removed as i64));
        }
        Do::GetDel { key } => {
            assert_eq!(driver.run(&Op::GetDel { key: &name(*key) }), model.get(*key));
            model.keys.remove(&name(*key));
        }
        Do::Rename { from, to } => {
            let (from, to) = (name(*from), name(*to));
            let outcome = driver.run(&Op::Rename { from: &from, to: &to, only_if_none: false });
            match model.keys.remove(&from) {
                Some(entry) => {
                    assert_eq!(outcome, Outcome::Ok);
                    model.keys.insert(to, entry);
                }
                None => assert_eq!(outcome, Outcome::Error(ErrorKind::NoSuchKey)),
            }
        }
        Do::Copy { from, to } => {
            let (from, to) = (name(*from), name(*to));
            let copies = model.keys.contains_key(&from) && !model.keys.contains_key(&to);
            let outcome = driver.run(&Op::Copy { from: &from, to: &to, replace: false });
            assert_eq!(outcome, Outcome::Int(i64::from(copies)));
            if copies {
                let entry = model.keys[&from].clone();
                model.keys.insert(to, entry);
            }
        }
        Do::Expire { key, ms } => {
            let key = name(*key);
            let op = Op::Expire { key: &key, at_ms: (now_ms + ms) as i64, condition: Condition::Always };
            let outcome = driver.run(&op);
            let entry = model.keys.get_mut(&key);
            assert_eq!(outcome, Outcome::Int(i64::from(entry.is_some())));
            if let Some(entry) = entry {
                entry.1 = Some(now_ms + ms);
            }
        }
        Do::Persist { key } => {
            let key = name(*key);
            let outcome = driver.run(&Op::Persist { key: &key });
            let had = model.keys.get_mut(&key).and_then(|entry| entry.1.take());
            assert_eq!(outcome, Outcome::Int(i64::from(had.is_some())));
        }
        Do::MSet { keys, value, only_if_none } => {
            let (names, value) = (keys.map(name), value_of(*value, false));
            let args: Vec<&[u8]> = names.iter().flat_map(|key| [key.as_slice(), value.as_slice()]).collect();
            let outcome = driver.run(&Op::MSet { pairs: List::Args(&args), only_if_none: *only_if_none });
            let holds = !only_if_none || names.iter().all(|key| !model.keys.contains_key(key));
            assert_eq!(outcome, if *only_if_none { Outcome::Int(i64::from(holds)) } else { Outcome::Ok });
            if holds {
                model.keys.extend(names.into_iter().map(|key| (key, (value.clone(), None))));
            }
        }
        Do::Transaction { set, add, del } => {
            let (set, add_name, del) = (name(*set), name(*add), name(*del));
            let keys: [&[u8]; 1] = [&del];
            let ops = [
                Op::Set {
                    key: &set,
                    value: b"9",
                    when: SetWhen::Always,
                    expiry: Expiry::Clear,
                    reply: SetReply::Ok,
                },
                Op::IncrBy { key: &add_name, delta: 3 },
                Op::Del { keys: List::Args(&keys) },
                Op::Exists { keys: List::Args(&keys) },
                Op::DbSize,
                Op::Scan { cursor: 0, count: 100, pattern: None, kind: None },
                Op::Keys { pattern: b"*" },
            ]
            .map(|op| bytes(&op));
            let ops: Vec<&[u8]> = ops.iter().map(Vec::as_slice).collect();
            let outcome = driver.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&ops) });
            let Outcome::Array(outcomes) = outcome else { panic!("{outcome:?}") };
            model.keys.insert(set, (b"9".to_vec(), None));
            let added = model.incr(*add, 3);
            let removed = Outcome::Int(i64::from(model.keys.remove(&del).is_some()));
            assert_eq!(outcomes[..4], [Outcome::Ok, added, removed, Outcome::Int(0)]);
            check_size(&outcomes[4], model);
            let Outcome::Array(keys) = &outcomes[6] else { panic!("{outcomes:?}") };
            check_keys(keys.iter().map(text_of).collect(), model);
        }
        Do::Flush => {
            assert_eq!(driver.run(&Op::Flush), Outcome::Ok);
            *model = Model::default();
        }
        Do::Get { key } => {
            let expected = model.get(*key);
            match driver.store.get(P, &name(*key), now_ms) {
                Lookup::Value(value) => assert_eq!(Outcome::Bulk(value.to_vec()), expected),
                Lookup::Absent => assert_eq!(Outcome::Nil, expected),
                Lookup::Unknown => {}
            }
            assert_eq!(driver.run(&Op::Get { key: &name(*key) }), expected);
        }
        Do::MGet { keys } => {
            let names = keys.map(name);
            let args: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            let expected = keys.iter().map(|key| model.get(*key)).collect();
            assert_eq!(driver.run(&Op::MGet { keys: List::Args(&args) }), Outcome::Array(expected));
        }
        Do::Ttl { key } => {
            let expected = match model.keys.get(&name(*key)) {
                None => -2,
                Some((_, None)) => -1,
                Some((_, Some(at))) => (at - now_ms) as i64,
            };
            let op = Op::Ttl { key: &name(*key), absolute: false, seconds: false };
            assert_eq!(driver.run(&op), Outcome::Int(expected));
        }
        Do::DbSize => check_size(&driver.run(&Op::DbSize), model),
        Do::Keys => {
            let Outcome::Array(keys) = driver.run(&Op::Keys { pattern: b"*" }) else { panic!() };
            check_keys(keys.iter().map(text_of).collect(), model);
        }
        Do::Scan => check_keys(scan_all(driver, 7, |driver| _ = driver.store.maintain(2_000)), model),
        Do::Random { seed } => match driver.run(&Op::RandomKey { seed: *seed }) {
            Outcome::Nil => assert!(model.keys.is_empty()),
            Outcome::Bulk(key) => assert!(model.keys.contains_key(&key)),
            other => panic!("{other:?}"),
        },
        Do::Wait { ms } => driver.now_ms += ms,
        Do::WantFlush => driver.store.want_flush(Urgency::Soon),
        Do::Maintain { slices } => (0..*slices).for_each(|_| _ = driver.store.maintain(1)),
        Do::Job { pick } => driver.run_a_job(*pick),
        Do::Settle => driver.settle(),
        Do::Capacity { .. } => StateMachine::retry(&mut driver.store),
        Do::Crash => driver.crash(),
    }
}

fn text_of(outcome: &Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Bulk(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

fn check_size(size: &Outcome, model: &Model) {
    let Outcome::Int(size) = size else { panic!("{size:?}") };
    let live = model.keys.len() as u64;
    assert!((live..=live + model.expired).contains(&(*size as u64)), "{size} keys, expected {live}");
}

fn check_keys(mut keys: Vec<Vec<u8>>, model: &Model) {
    keys.sort();
    assert!(keys.iter().eq(model.keys.keys()), "{keys:?}");
}

fn small() -> Options {
    Options {
        memory_bytes: 3_000,
        flush_bytes: 1_500,
        max_dirty_bytes: 4_000,
        // KEYS goes on slice by slice.
        gather_rows: 1,
        ..Options::with_memory(0, HashSeed([1, 2]))
    }
}

fn check<L: DiskLevel>(disk: L, steps: &[Do], set_capacity: impl Fn(u64)) {
    let mut driver = Driver::new(disk, small());
    let mut reference = Driver::new(MemLevel::default(), options());
    driver.hold_jobs = true;
    let (mut model, mut other) = (Model::default(), Model::default());
    for step in steps {
        if let Do::Capacity { bytes } = step {
            set_capacity(*bytes);
        }
        play(&mut driver, &mut model, step);
        if !matches!(step, Do::Crash | Do::WantFlush | Do::Capacity { .. }) {
            play(&mut reference, &mut other, step);
        }
    }
    assert_eq!(driver.store.state_hash(P), reference.store.state_hash(P));
    set_capacity(u64::MAX);
    StateMachine::retry(&mut driver.store);
    driver.settle();
    assert!(!driver.store.is_out_of_room(), "there is room again");
    driver.crash();
    assert_eq!(driver.store.state_hash(P), reference.store.state_hash(P));
    model.expire(driver.now_ms);
    check_keys(scan_all(&mut driver, 3, |_| ()), &model);
    check_size(&driver.run(&Op::DbSize), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_history_over_the_map(steps in proptest::collection::vec(step(), 1..150)) {
        let disk = MemLevel::default();
        check(disk.clone(), &steps, |bytes| disk.set_capacity(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn any_history_over_lsm_tree(steps in proptest::collection::vec(step(), 1..150)) {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 32), &ADOPT).expect("opens");
        check(disk, &steps, |_| ());
    }
}
