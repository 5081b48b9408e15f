//! Which requests share an entry, and which entries a frame.

mod common;

use common::{P, World, small_wal};
use corduroy_shards::{Kind, Limits, PartitionId, ShardOptions};

#[test]
fn what_gathers_while_the_disk_is_busy_becomes_one_entry() {
    let mut world = World::ready_with_small_frames(&[P]);
    world.disk.set_manual(true);
    world.write(1, 1, "set a 1");
    world.turn();
    world.write(1, 2, "set a 2");
    world.turn();
    for seq in 3..50 {
        world.write(1, seq, "append a x");
        world.turn();
    }
    for _ in 0..200 {
        world.disk.complete_all();
        world.turn();
    }
    assert_eq!((world.lsn(1, 1), world.lsn(1, 2)), (2, 3));
    assert!((3..50).all(|seq| world.lsn(1, seq) == 4), "two frames were in flight, the rest is one entry");
    assert_eq!(world.shard.counters().entries_proposed, 3);
}

#[test]
fn a_second_frame_starts_only_where_much_waits() {
    let limits = Limits { second_frame_bytes: 1_000, ..Limits::default() };
    let mut world = World::with(ShardOptions { limits, ..ShardOptions::default() }, small_wal(), &[P]);
    world.settle();
    let before = world.shard.counters().entries_proposed;
    world.disk.set_manual(true);
    world.write(1, 1, "set a 1");
    world.turn();
    for seq in 2..50 {
        world.write(1, seq, "append a x");
        world.turn();
    }
    let frames =
        |world: &World| (world.shard.wal().in_flight(), world.shard.counters().entries_proposed - before);
    assert_eq!(frames(&world), (1, 1));
    world.write(2, 1, &format!("set b {}", "x".repeat(600)));
    world.turn();
    assert_eq!(frames(&world), (2, 2));
    for _ in 0..200 {
        world.disk.complete_all();
        world.turn();
    }
    assert_eq!((world.lsn(1, 1), world.lsn(2, 1)), (2, 3));
    assert!((2..50).all(|seq| world.lsn(1, seq) == 3), "all that had gathered is one entry");
}

#[test]
fn partitions_share_a_frame() {
    let partitions: Vec<_> = (2..34).map(PartitionId).collect();
    let mut world = World::ready(&partitions);
    let before = world.shard.wal().stats().frames;
    for partition in &partitions {
        world.request(*partition, 1, partition.0, Kind::Write, "set a 1");
    }
    world.settle();
    assert_eq!(world.shard.wal().stats().frames, before + 1);
    assert!(partitions.iter().all(|partition| world.got(1, partition.0).is_some()));
}
