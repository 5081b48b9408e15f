//! What the next operations of an entry need is fetched ahead of them.

mod common;

use common::{Kv, P, World};
use corduroy_shards::{Kind, PartitionId};

#[test]
fn what_operations_need_is_fetched_once_and_in_their_order() {
    let mut world = World::ready(&[P]);
    world.disk.set_manual(true);
    world.write(1, 1, "set first 1");
    world.turn();
    let ops: Vec<String> = (2..12)
        .map(|seq| match seq {
            4 => "set cold 1".to_owned(),
            _ => format!("set k{seq} 1"),
        })
        .collect();
    for (seq, op) in (2..).zip(&ops) {
        world.write(1, seq, op);
    }
    for _ in 0..200 {
        world.disk.complete_all();
        world.turn();
        world.run_jobs();
    }
    assert!((2..12).all(|seq| world.lsn(1, seq) == world.lsn(1, 2)), "they share an entry");
    let counters = world.shard.counters();
    assert!(counters.apply_tries > counters.ops_applied, "one of them had to wait");
    let fetched = world.shard.machine().prefetched.borrow();
    assert_eq!(fetched[0], ["set first 1"]);
    let expected: Vec<Vec<String>> = ops.chunks(Kv::PREFETCHED).map(<[String]>::to_vec).collect();
    assert_eq!(fetched[1..], expected);
}

#[test]
fn what_entries_of_many_partitions_need_is_fetched_together_and_once() {
    let partitions: Vec<_> = (2..2 + Kv::PREFETCHED as u64).map(PartitionId).collect();
    let mut world = World::ready(&partitions);
    world.disk.set_manual(true);
    for partition in &partitions {
        for seq in 1..3 {
            let op = format!("set k{seq} {partition}");
            world.request(*partition, partition.0, seq, Kind::Write, &op);
        }
    }
    world.turn();
    world.disk.complete_all();
    world.settle();
    let first: Vec<_> = partitions.iter().map(|partition| format!("set k1 {partition}")).collect();
    let fetched = world.shard.machine().prefetched.borrow();
    assert_eq!(fetched[0], first, "the first operation of each, before any is applied");
    let others: Vec<_> = partitions.iter().map(|partition| vec![format!("set k2 {partition}")]).collect();
    assert_eq!(fetched[1..], others, "then what is left of each");
}
