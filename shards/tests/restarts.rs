//! Crashes at every point of a write's way, restarts, and switching replication on and off.

mod common;

use common::{Got, P, World, open_shard, small_wal};
use corduroy_shards::entry::EntryBuilder;
use corduroy_shards::raft::membership::{MemberId, Membership, StorageId};
use corduroy_shards::raft::replica::{Replication, StartedAs};
use corduroy_shards::{KeyspaceId, Rejection, ShardOptions};
use corduroy_wal::{EntryKind, EntryRef, HardState, Lsn, Options, RecordHead, Term, Wal};

const HERE: StorageId = StorageId(0xabc);

/// Where the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    BeforeTurn,
    Submitted,
    Durable,
    Applied,
    Flushed,
}

fn crash_at(point: Point, is_power_loss: bool) -> World {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set before 1");
    world.settle();
    world.disk.set_manual(true);
    world.write(1, 2, "append a x");
    match point {
        Point::BeforeTurn => {}
        Point::Submitted => world.turn(),
        Point::Durable => {
            world.turn();
            world.disk.complete_all();
        }
        Point::Applied | Point::Flushed => {
            world.turn();
            world.disk.complete_all();
            world.turn();
            world.disk.set_manual(false);
            world.settle();
        }
    }
    if point == Point::Flushed {
        world.shard.machine_mut().flush();
        world.turn();
        world.run_jobs();
        world.settle();
    }
    world.restart(is_power_loss);
    world.settle();
    world
}

#[test]
fn the_crash_matrix() {
    for (point, acknowledged, present) in [
        (Point::BeforeTurn, false, Some(false)),
        (Point::Submitted, false, None),
        (Point::Durable, false, Some(true)),
        (Point::Applied, true, Some(true)),
        (Point::Flushed, true, Some(true)),
    ] {
        for is_power_loss in [false, true] {
            let mut world = crash_at(point, is_power_loss);
            let name = format!("{point:?}, power loss {is_power_loss}");
            assert_eq!(world.got(1, 2).is_some(), acknowledged, "{name}");
            let value = world.key("a");
            if let Some(present) = present {
                assert_eq!(value.as_deref(), present.then_some("x"), "{name}");
            }
            assert_eq!(world.key("before").as_deref(), Some("1"), "{name}");
            world.check_history();
            world.write(2, 1, "append a y");
            world.settle();
            let expected = value.unwrap_or_default() + "y";
            assert_eq!(world.value(2, 1), expected, "{name}: appends go on");
        }
    }
}

#[test]
fn what_was_handed_to_a_living_machine_is_there_after_the_process_died() {
    let world = crash_at(Point::Submitted, false);
    assert_eq!(world.key("a").as_deref(), Some("x"));
    assert_eq!(world.got(1, 2), None, "nobody was told");
}

#[test]
fn repeated_crashes_lose_nothing_acknowledged() {
    let mut world = World::ready(&[P]);
    let mut expected = String::new();
    for life in 0..12u64 {
        for seq in 0..5 {
            world.write(life, seq, &format!("append a {life}.{seq},"));
            world.settle();
            assert!(world.got(life, seq).is_some());
            expected.push_str(&format!("{life}.{seq},"));
        }
        if life % 3 == 1 {
            world.shard.machine_mut().flush();
            world.turn();
            world.run_jobs();
            world.settle();
        }
        world.disk.set_manual(true);
        world.write(life, 99, "set lost 1");
        if life % 2 == 0 {
            world.turn();
        }
        world.restart(true);
        world.settle();
        assert_eq!(world.key("a").as_deref(), Some(expected.as_str()), "life {life}");
        world.check_history();
    }
    assert!(world.shard.status().replicas[0].term.get() >= 12);
}

#[test]
fn a_restart_applies_only_what_is_not_persisted() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "append a 1");
    world.settle();
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.settle();
    world.write(1, 2, "append a 2");
    world.settle();
    world.restart(true);
    assert_eq!(world.key("a").as_deref(), Some("1"), "the rest comes in turns");
    world.settle();
    assert_eq!(world.key("a").as_deref(), Some("12"));
    let replica = &world.shard.status().replicas[0];
    assert_eq!((replica.started_as, replica.released), (StartedAs::Bootstrapped, Lsn(2)));
}

#[test]
fn a_restart_with_nothing_left_in_the_log() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "append a 1");
    world.settle();
    for _ in 0..3 {
        world.shard.machine_mut().flush();
        world.turn();
        world.run_jobs();
        world.settle();
        world.restart(true);
        world.settle();
    }
    assert_eq!(world.key("a").as_deref(), Some("1"));
    world.write(2, 1, "append a 2");
    world.settle();
    assert_eq!(world.value(2, 1), "12");
}

fn solo() -> ShardOptions {
    ShardOptions { replication: Replication::Off, ..ShardOptions::default() }
}

fn switch(world: &mut World, replication: Replication) -> StartedAs {
    world.options.replication = replication;
    world.restart(true);
    world.settle();
    world.shard.status().replicas.first().expect("one partition").started_as
}

#[test]
fn off_on_off_on_loses_nothing() {
    let mut world = World::with(solo(), small_wal(), &[P]);
    world.settle();
    assert!(world.is_ready(P));
    world.write(1, 1, "append a 1");
    world.write(1, 2, "append a 2");
    world.settle();
    assert_eq!((world.lsn(1, 1), world.value(1, 2)), (1, "12".into()));

    assert_eq!(switch(&mut world, Replication::On), StartedAs::NeedsBackfill);
    world.write(2, 1, "append a 3");
    world.settle();
    assert_eq!((world.lsn(2, 1), world.value(2, 1)), (3, "123".into()), "entry 2 began the term");

    assert_eq!(switch(&mut world, Replication::Off), StartedAs::Solo);
    world.write(3, 1, "append a 4");
    world.settle();
    assert_eq!(world.value(3, 1), "1234");
    let term = world.shard.status().replicas[0].term;
    assert_eq!(term.get(), 1, "entries go on in the term that Raft left");

    assert_eq!(switch(&mut world, Replication::On), StartedAs::Bootstrapped);
    world.write(4, 1, "append a 5");
    world.settle();
    assert_eq!(world.value(4, 1), "12345");
    world.check_history();
    assert_eq!(world.shard.status().replicas[0].term.get(), 2);
}

#[test]
fn a_log_of_its_own_is_taken_over_when_partly_or_wholly_persisted() {
    for persisted in [0, 1, 2] {
        let mut world = World::with(solo(), small_wal(), &[P]);
        world.settle();
        for seq in 1..=2 {
            world.write(1, seq, "append a x");
            world.settle();
            if seq == persisted {
                world.shard.machine_mut().flush();
                world.turn();
                world.run_jobs();
                world.settle();
            }
        }
        assert_eq!(switch(&mut world, Replication::On), StartedAs::NeedsBackfill);
        assert_eq!(world.key("a").as_deref(), Some("xx"), "persisted up to {persisted}");
        world.write(2, 1, "append a y");
        world.settle();
        assert_eq!(world.value(2, 1), "xxy");
        world.check_history();
    }
}

#[test]
fn a_log_of_its_own_keeps_the_order_of_reads_and_writes() {
    let mut world = World::with(solo(), small_wal(), &[P]);
    world.settle();
    world.read(1, 1, "get a");
    world.write(1, 2, "set a 1");
    world.read(1, 3, "get a");
    world.settle();
    assert_eq!((world.value(1, 1), world.value(1, 3)), ("nil".into(), "1".into()));
}

#[test]
fn a_state_ahead_of_its_log_is_fenced() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set a 1");
    world.settle();
    let mut part = world.part();
    part.applied = 77;
    world.saved.borrow_mut().insert(P.0, part);
    world.restart(true);
    world.write(2, 1, "set a 2");
    world.settle();
    assert!(matches!(world.got(2, 1), Some(Got::Rejected(Rejection::ReplicaStopped(..)))));
    assert!(world.fenced[0].1.contains("entries are lost"), "{:?}", world.fenced);
}

#[test]
fn a_gap_between_state_and_log_is_fenced() {
    let wal_options =
        Options { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, ..Options::default() };
    let mut world = World::with(ShardOptions::default(), wal_options, &[P]);
    world.settle();
    let value = "v".repeat(3_000);
    let write = |world: &mut World, seqs: std::ops::Range<u64>| {
        for seq in seqs {
            world.write(1, seq, &format!("set a {value}"));
            world.settle();
        }
    };
    write(&mut world, 0..40);
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    // More entries, so that the segments go that hold what was handed over; then the state forgets.
    write(&mut world, 40..80);
    world.saved.borrow_mut().clear();
    world.restart(false);
    let first = world.shard.wal().log_state(P.log()).expect("a log").first;
    assert!(first > Lsn(1), "the log has given entries up");
    world.write(2, 1, "set a 2");
    world.settle();
    assert!(matches!(world.got(2, 1), Some(Got::Rejected(Rejection::ReplicaStopped(..)))));
    assert!(world.fenced[0].1.contains("entries are lost"), "{:?}", world.fenced);
}

/// The founder's configuration as version 1 has it.
fn conf_1() -> Vec<u8> {
    [&[1, 0, 1][..], &[0, 0, 0, 1], &[0; 7], &[0; 12]].concat()
}

/// A world whose log was written by somebody else, now on `HERE`: a configuration and these entries.
fn world_of_log(conf: &[u8], entries: &[Vec<u8>]) -> World {
    let mut world = World::new(&[]);
    world.options.storage = HERE;
    world.disk.kill();
    let (mut wal, _) =
        Wal::open(world.disk.device(), Options { seed: 9, ..small_wal() }).expect("an empty log");
    let hard_state = HardState { term: Term(3), vote: 1, commit: Lsn(0) };
    let head = RecordHead { log: P.log(), hard_state: Some(hard_state), conf: Some(conf) };
    let entries = entries.iter().zip(1..).map(|(data, lsn)| EntryRef {
        lsn: Lsn(lsn),
        term: Term(3),
        kind: EntryKind::Normal,
        data,
    });
    wal.append(head, entries.collect::<Vec<_>>().into_iter()).expect("there is room");
    wal.submit().expect("a log that works");
    wal.poll(&mut Vec::new()).expect("a log that works");
    drop(wal);
    world.disk.kill();
    world.wal_options.seed = 10;
    world.shard = open_shard(&world.disk, &world.saved, world.options, world.wal_options, &[P]);
    world.settle();
    world
}

#[test]
fn entries_of_both_versions_are_applied_with_their_keyspaces_and_version_lsns() {
    let old =
        |op: &[u8]| [&[1, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], &[op.len() as u8, 0, 0, 0], op].concat();
    let mut own = EntryBuilder::default();
    own.push(b"where own");
    own.push_in(KeyspaceId(9), b"where named");
    let mut copied = EntryBuilder::default();
    copied.push(b"where copied");
    let mut world = world_of_log(
        &conf_1(),
        &[old(b"where old"), Vec::new(), own.finish(8), copied.finish_copy(9, Lsn(77))],
    );
    for (seq, key, written) in [
        (1, "old", "keyspace 0 version 1"),
        (2, "own", "keyspace 0 version 3"),
        (3, "named", "keyspace 9 version 3"),
        (4, "copied", "keyspace 0 version 77"),
    ] {
        world.read(1, seq, &format!("get {key}"));
        world.settle();
        assert_eq!(world.value(1, seq), written, "{key}");
    }
}

/// The configuration in the log, with nothing running.
fn saved_conf(world: &World) -> Vec<u8> {
    world.disk.kill();
    let (wal, _) = Wal::open(world.disk.device(), Options { seed: 13, ..small_wal() }).expect("a whole log");
    wal.log_state(P.log()).and_then(|state| state.conf).expect("a configuration")
}

#[test]
fn a_configuration_of_version_1_goes_into_the_next_record_with_its_storage() {
    let founding = Membership::founding(MemberId::FIRST, HERE).encode();
    let world = world_of_log(&conf_1(), &[]);
    assert!(world.is_ready(P));
    assert_eq!(saved_conf(&world), founding);
    // One that names the storage stays as it is, also where nobody says which one this is.
    let later = Membership::founding(MemberId::FIRST, HERE).made_by(Lsn(1)).encode();
    let mut world = world_of_log(&later, &[Vec::new()]);
    assert!(world.is_ready(P));
    world.disk.kill();
    (world.options.storage, world.wal_options.seed) = (StorageId::UNKNOWN, 12);
    world.shard = open_shard(&world.disk, &world.saved, world.options, world.wal_options, &[P]);
    world.settle();
    assert!(world.is_ready(P));
    assert_eq!(saved_conf(&world), later);
}

#[test]
fn a_configuration_that_cannot_be_this_replica_s_stops_it() {
    let founding = |storage| Membership::founding(MemberId::FIRST, storage);
    for (conf, why) in [
        (
            founding(StorageId(0xdef)).encode(),
            "on storage 0000000000000def, and this is storage 0000000000000abc",
        ),
        (founding(HERE).made_by(Lsn(2)).encode(), "that of entry 2, but the log ends at 1"),
        (vec![4, 0, 0, 0], "unknown version"),
    ] {
        let world = world_of_log(&conf, &[Vec::new()]);
        let [(P, text)] = world.fenced.as_slice() else { panic!("{why}: {:?}", world.fenced) };
        assert!(text.contains(why), "{text}");
    }
}
