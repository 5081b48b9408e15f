//! A replica is taken off a running shard and opened again: every request gets its one outcome, what was applied stays
//! applied once, and nothing that belonged to the old one reaches the new one.

mod common;

use common::{Got, P, Q, World, small_wal};
use corduroy_shards::{Kind, Limits, Origin, PartitionId, Rejection, ShardOptions};

/// Takes replicas off, and opens them again in the same order once their records are durable.
fn reopen(world: &mut World, partitions: &[PartitionId]) {
    for partition in partitions {
        assert!(world.shard.remove(*partition));
    }
    world.settle();
    for partition in partitions {
        assert!(world.shard.add(*partition, &Origin::Restart, 9).expect("its log is whole"));
    }
    world.settle();
}

fn taken_off() -> Option<Got> {
    Some(Got::Rejected(Rejection::ReplicaStopped(P, "it was taken off this shard".to_owned())))
}

#[test]
fn every_request_that_waits_gets_one_outcome() {
    let mut world = World::ready_with_small_frames(&[P, Q]);
    world.shard.machine_mut().screens = true;
    world.disk.set_manual(true);
    world.write(1, 0, "set a 1");
    world.read(1, 1, "get a");
    world.turn();
    world.write(2, 0, "set cold 1");
    world.read(3, 0, "get cold-2");
    world.read(3, 1, "get a");
    world.read(4, 0, "get cold-any");
    world.turns(2);
    assert_eq!(world.shard.status().pending_requests, 6, "all of them wait");
    world.write(5, 0, "set b 1");
    world.read(5, 1, "get b");
    world.read(6, 0, "get a");
    world.request(Q, 7, 0, Kind::Read, "get a");
    assert!(world.shard.remove(P) && !world.shard.remove(P));
    world.turn();
    assert_eq!(world.got(1, 0), Some(Got::Unknown), "it is on its way to the disk");
    for (conn, seq) in [(1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (5, 1), (6, 0)] {
        assert_eq!(world.got(conn, seq), taken_off(), "{conn}/{seq}");
    }
    assert_eq!(world.value(7, 0), "nil", "the other one goes on");
    assert_eq!(world.shard.status().pending_requests, 0);
    assert_eq!(world.shard.machine().abandoned.len(), 2, "nobody waits for a number any more");
    world.write(1, 2, "set a 2");
    world.turn();
    assert_eq!(world.got(1, 2), Some(Got::Rejected(Rejection::NoPartition(P))));
    world.disk.set_manual(false);
    world.settle();
    world.run_jobs();
    world.settle();
    assert!(world.shard.is_idle() && world.fenced.is_empty());
}

#[test]
fn what_was_on_its_way_to_the_disk_is_there_when_it_is_opened_again() {
    let mut world = World::ready(&[P]);
    world.write(1, 0, "append a 1");
    world.settle();
    world.disk.set_manual(true);
    world.write(1, 1, "append a 2");
    world.turn();
    assert!(world.shard.remove(P));
    assert!(
        !world.shard.add(P, &Origin::Restart, 9).expect("it waits"),
        "a record of the one before is not durable"
    );
    world.disk.set_manual(false);
    world.disk.complete_all();
    world.settle();
    assert!(world.shard.add(P, &Origin::Restart, 9).expect("its log is whole"));
    assert!(world.shard.add(P, &Origin::Restart, 9).is_err(), "it is there");
    world.write(1, 2, "append a 3");
    world.settle();
    assert_eq!((world.got(1, 1), world.value(1, 2)), (Some(Got::Unknown), "123".to_owned()));
    world.check_history();
    world.restart(true);
    world.settle();
    assert_eq!(world.key("a").as_deref(), Some("123"));
}

#[test]
fn an_entry_that_was_applied_in_part_goes_on_where_it_stood() {
    let limits = Limits { apply_ops: 2, apply_slice_ops: 2, ..Limits::default() };
    let mut world = World::with(ShardOptions { limits, ..ShardOptions::default() }, small_wal(), &[P]);
    world.settle();
    (0..7).for_each(|seq| world.write(1, seq, &format!("append a {seq}")));
    while world.part().history.is_empty() {
        world.turn();
    }
    assert_eq!(world.key("a").as_deref(), Some("01"));
    reopen(&mut world, &[P]);
    assert_eq!(world.key("a").as_deref(), Some("0123456"));
    world.check_history();
    assert_eq!((world.value(1, 1), world.got(1, 2)), ("01".to_owned(), Some(Got::Unknown)));
}

#[test]
fn a_replica_that_was_fenced_in_the_middle_of_an_entry_goes_on_too() {
    let mut world = World::ready(&[P, Q]);
    world.write(1, 0, "append a 1");
    world.write(1, 1, "append cold 2");
    world.write(1, 2, "append a 3");
    world.settle();
    assert_eq!(world.key("a").as_deref(), Some("1"), "the second one waits for its row");
    reopen(&mut world, &[P, Q]);
    world.run_jobs();
    world.settle();
    assert_eq!(world.key("a").as_deref(), Some("13"));
    world.check_history();
    assert!(world.fenced.is_empty());
}

#[test]
fn its_alarm_and_its_clock_go_on() {
    let mut world = World::ready(&[P]);
    world.at(100);
    world.turn();
    world.read(1, 0, "clock");
    world.settle();
    let at_ms = world.now.wall_ms + 10_000;
    world.shard.machine_mut().alarms.insert(P.0, at_ms);
    world.shard.machine_mut().announced.push(P);
    world.turn();
    world.now.wall_ms -= 50_000;
    reopen(&mut world, &[P]);
    world.read(1, 1, "clock");
    world.settle();
    let shown = |world: &World, seq| world.value(1, seq).parse::<u64>().expect("a time");
    assert!(shown(&world, 1) >= shown(&world, 0), "a clock never goes back in one process");
    assert_eq!(world.shard.counters().times_proposed, 0);
    world.at(11);
    world.settle();
    assert_eq!(world.shard.counters().times_proposed, 1, "the alarm of the new replica went off");
}

#[test]
fn the_log_is_released_again() {
    let mut world = World::ready(&[P]);
    world.write(1, 0, "set a 1");
    world.settle();
    assert!(world.shard.remove(P));
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.settle();
    let first = |world: &World| world.shard.wal().log_state(P.log()).expect("its log stays").first.get();
    assert_eq!(first(&world), 1, "nobody releases it");
    assert!(world.shard.add(P, &Origin::Restart, 9).expect("its log is whole"));
    world.settle();
    assert!(first(&world) > 1);
    assert_eq!(world.value(1, 0), "OK");
}
