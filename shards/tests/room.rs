//! A log whose slots are small at first: what no slot takes waits for a larger one, and is refused where none can be had.
//! And the room that it keeps in spare, which it gives back while the state machine has none.

mod common;

use common::{Got, P, Q, World};
use corduroy_shards::{Kind, Rejection, ShardOptions};
use corduroy_wal::{Options, Space};

/// A log that begins with slots of 64 KiB.
fn growing() -> World {
    let wal_options = Options {
        segment_bytes: 1 << 20,
        first_segment_bytes: 64 << 10,
        spare_segments: 4,
        ..Options::default()
    };
    let mut world = World::with(ShardOptions::default(), wal_options, &[P, Q]);
    settle(&mut world);
    world
}

/// Lets what waits for a slot go on: the end of its making wakes the shard.
fn settle(world: &mut World) {
    for _ in 0..4 {
        world.settle();
    }
}

#[test]
fn a_large_write_waits_for_a_slot_that_takes_it() {
    let mut world = growing();
    assert!(world.shard.wal().ready_record_bytes() < 64 << 10);
    let value = "v".repeat(300_000);
    world.write(1, 1, "set before 1");
    world.write(1, 2, &format!("set large {value}"));
    world.write(1, 3, "set after 1");
    world.request(Q, 2, 1, Kind::Write, "set other 1");
    settle(&mut world);
    for (conn, seq) in [(1, 1), (1, 2), (1, 3), (2, 1)] {
        assert_eq!(world.value(conn, seq), "OK", "request {conn}/{seq}");
    }
    assert_eq!(world.key("large"), Some(value));
    assert!(world.shard.wal().ready_record_bytes() > 300_000);
    world.check_history();
}

#[test]
fn what_no_slot_takes_on_a_full_disk_is_refused_and_the_rest_is_not() {
    let mut world = growing();
    world.disk.set_max_slots(Some(world.disk.slots().len()));
    let value = "v".repeat(300_000);
    world.write(1, 1, &format!("set large {value}"));
    // Together more than a slot takes, one by one not.
    let small = "s".repeat(2_000);
    for seq in 2..=31 {
        world.write(1, seq, &format!("set small{seq} {small}"));
    }
    settle(&mut world);
    assert!(matches!(world.got(1, 1), Some(Got::Rejected(Rejection::DiskFull))), "{:?}", world.got(1, 1));
    for seq in 2..=31 {
        assert_eq!(world.value(1, seq), "OK", "request {seq}");
    }
    assert_eq!(world.shard.status().pending_requests, 0);
    world.disk.set_max_slots(None);
    world.at(1);
    settle(&mut world);
    // One look is enough: an idle shard turns only twice a second.
    world.turns(5);
    assert_eq!(world.shard.status().space, Space::Ok);
    world.write(1, 32, &format!("set large {value}"));
    settle(&mut world);
    assert_eq!(world.value(1, 32), "OK");
    world.check_history();
}

#[test]
fn the_log_gives_its_spares_back_while_the_state_machine_is_out_of_room() {
    let mut world = growing();
    let slots = |world: &World| world.disk.slots().len();
    world.write(1, 1, "set k v");
    settle(&mut world);
    assert_eq!((slots(&world), world.shard.wal().stats().spare_segments), (5, 4));
    world.shard.machine_mut().is_out_of_room = true;
    settle(&mut world);
    assert_eq!((slots(&world), world.shard.wal().stats().spare_segments), (3, 2));
    world.write(1, 2, "set k w");
    settle(&mut world);
    assert!(matches!(world.got(1, 2), Some(Got::Rejected(Rejection::DiskFull))), "{:?}", world.got(1, 2));
    world.shard.machine_mut().is_out_of_room = false;
    settle(&mut world);
    assert_eq!((slots(&world), world.shard.wal().stats().spare_segments), (5, 4));
    world.write(1, 3, "set k w");
    settle(&mut world);
    assert_eq!(world.value(1, 3), "OK");
    world.check_history();
}

#[test]
fn what_was_committed_is_applied_after_a_start_on_a_full_log_and_makes_room() {
    let wal_options =
        Options { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, ..Options::default() };
    let mut world = World::with(ShardOptions::default(), wal_options, &[P]);
    settle(&mut world);
    let value = "v".repeat(4_000);
    for seq in 1..=10 {
        world.write(1, seq, &format!("set k{seq} {value}"));
        settle(&mut world);
    }
    assert_eq!(world.shard.wal().stats().live_segments, 2);
    // What was kept in spare is gone, and so is the disk's room.
    for spare in world.disk.slots().split_off(2) {
        world.disk.delete(spare);
    }
    world.disk.set_max_slots(Some(2));
    world.restart(false);
    settle(&mut world);
    let replica = world.shard.status().replicas[0].clone();
    assert_eq!((world.shard.status().space, world.is_ready(P)), (Space::Full, false));
    assert!(replica.applied.get() >= 10, "{replica:?}");
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    settle(&mut world);
    assert!(world.is_ready(P), "{:?}", world.shard.wal().stats());
    assert_eq!(world.key("k10"), Some(value));
    world.check_history();
}
