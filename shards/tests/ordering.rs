//! A connection sees the state in the order in which it asked: its own writes, and nothing of what it asked for later.
//! Whatever other connections do, those included that share its counter in a partition.

mod common;

use std::collections::BTreeMap;

use common::{Got, P, World, small_wal};
use corduroy_shards::sim::Rng;
use corduroy_shards::{Input, Kind, Limits, ShardOptions};

/// Connections that share their counter with the first one, which is among them: their reads ride behind its write, those
/// of others are answered at once.
fn sharing(count: usize) -> Vec<u64> {
    let mut world = World::ready(&[P]);
    world.disk.set_stalled(true);
    world.write(1, 1, "set a 1");
    (2..1000).for_each(|conn| world.read(conn, 1, "get a"));
    world.turns(2);
    let riding = (2..1000).filter(|conn| world.got(*conn, 1).is_none());
    [1].into_iter().chain(riding).take(count).collect()
}

#[test]
fn a_read_that_joins_an_open_entry_does_not_overtake_a_parked_one() {
    let [other, conn] = sharing(2)[..] else { panic!("there are many") };
    let mut world = World::ready(&[P]);
    world.read(conn, 1, "get cold1");
    world.settle();
    let first = std::mem::take(&mut world.jobs);
    world.write(other, 1, "append a 1");
    world.write(other, 2, "append cold2 1");
    world.settle();
    assert_eq!(world.value(other, 1), "1", "its entry is open");
    world.read(conn, 2, "get a");
    world.read(conn, 3, "get a");
    world.run_jobs();
    world.settle();
    assert_eq!((world.value(other, 2), world.part().applied), ("1".into(), 2));
    assert_eq!((world.got(conn, 1), world.got(conn, 2)), (None, None), "it comes behind the first one");
    world.write(conn, 4, "append a 2");
    world.jobs = first;
    world.run_jobs();
    world.settle();
    let order: Vec<_> = world.order.iter().filter(|(of, _)| *of == conn).map(|(_, seq)| *seq).collect();
    assert_eq!(order, [1, 2, 3, 4]);
    assert_eq!([2, 3, 4].map(|seq| world.value(conn, seq)), ["1", "1", "12"]);
}

#[test]
fn a_parked_read_holds_up_no_write_of_a_connection_that_shares_its_counter() {
    let [other, conn] = sharing(2)[..] else { panic!("there are many") };
    let mut world = World::ready(&[P]);
    world.read(conn, 1, "get cold1");
    world.settle();
    world.write(other, 1, "append a 1");
    world.read(conn, 2, "get a");
    world.settle();
    assert_eq!(world.value(other, 1), "1");
    assert_eq!(world.got(conn, 2), None);
    world.write(conn, 3, "append a 2");
    world.settle();
    assert_eq!(world.got(conn, 3), None, "its own comes behind its read");
    world.run_jobs();
    world.settle();
    assert_eq!([1, 2, 3].map(|seq| world.value(conn, seq)), ["nil", "1", "12"]);
}

/// What a connection has asked for of a key: by number, the key, and whether it was a write.
type Asked = BTreeMap<u64, BTreeMap<u64, (String, bool)>>;

/// Many connections, some of which share a counter, read and append to keys, some of which have to be fetched.
fn play(seed: u64, conns: &[u64]) -> (World, Asked) {
    let mut rng = Rng::new(seed, "ordering");
    let limits = Limits {
        apply_ops: 1 + rng.below(20) as usize,
        apply_slice_ops: 1 + rng.below(8) as usize,
        outcome_bytes: 1 + rng.below(60) as usize,
        entry_bytes: 60 + rng.below(400) as usize,
        ..Limits::default()
    };
    let mut world = World::with(ShardOptions { limits, ..ShardOptions::default() }, small_wal(), &[P]);
    world.settle();
    world.shard.machine_mut().screens = rng.chance(500);
    let (mut asked, mut seq) = (Asked::new(), 0);
    for _ in 0..400 {
        for _ in 0..rng.below(4) {
            seq += 1;
            let conn = rng.pick(conns);
            let key = rng.pick(&["a", "b", "cold1", "cold2", "cold3any"]);
            let is_write = rng.chance(400);
            let (kind, op) = match is_write {
                true => (Kind::Write, format!("append {key} {conn}.{seq};")),
                false => (Kind::Read, format!("get {key}")),
            };
            world.request(P, conn, seq, kind, &op);
            asked.entry(conn).or_default().insert(seq, (key.to_owned(), is_write));
        }
        if rng.chance(700) {
            world.turn();
        }
        if rng.chance(300) && !world.jobs.is_empty() {
            let job = world.jobs.swap_remove(rng.below(world.jobs.len() as u64) as usize);
            world.shard.handle(Input::JobDone(job));
        }
        if rng.chance(100) {
            world.shard.machine_mut().warm.clear();
        }
    }
    while world.shard.status().pending_requests > 0 {
        world.run_jobs();
        world.settle();
    }
    (world, asked)
}

#[test]
fn each_connection_sees_what_it_has_done_and_is_answered_in_order() {
    let sharing = sharing(6);
    let conns: Vec<u64> = sharing.iter().copied().chain(1_000_000..1_000_004).collect();
    for seed in 0..300 {
        let (world, asked) = play(seed, &conns);
        for (conn, asked) in asked {
            let order = world.order.iter().filter(|(of, _)| *of == conn).map(|(_, seq)| *seq);
            assert!(order.is_sorted(), "seed {seed}, connection {conn}: answered out of order");
            let mut done: BTreeMap<String, (usize, String)> = BTreeMap::new();
            for (seq, (key, is_write)) in asked {
                let Some(Got::Done(_, value)) = world.got(conn, seq) else {
                    panic!("seed {seed}: {conn}/{seq} got {:?}", world.got(conn, seq))
                };
                let (own, before) = done.entry(key).or_default();
                *own += usize::from(is_write);
                let value = if value == "nil" { String::new() } else { value };
                assert!(value.starts_with(before.as_str()), "seed {seed}: {conn}/{seq} went back");
                let of_conn = format!("{conn}.");
                let seen = value.split(';').filter(|token| token.starts_with(&of_conn)).count();
                assert_eq!(seen, *own, "seed {seed}: {conn}/{seq} reads {value}");
                *before = value;
            }
        }
        world.check_history();
    }
}
