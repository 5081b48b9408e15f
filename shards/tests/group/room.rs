//! Members that are short of room, or far behind: they come back, and nobody is fenced for it.

#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::entry::of_time;
use corduroy_shards::raft::membership::{MemberId, StorageId};
use corduroy_shards::{Input, Limits, Origin, ShardOptions};
use raft::eraftpb::Entry;

use crate::cluster::{Cluster, PARTITION, options, storage};
use crate::common::{World, small_wal};
use crate::hazards::{append, lone_member};

/// A leader that was cut off holds as much as it may of what will never be committed. What replaces that must come in.
#[test]
fn what_replaces_a_full_tail_has_room() {
    let small = |node| ShardOptions {
        limits: Limits { unapplied_bytes: 3_000, second_frame_bytes: 0, ..Limits::default() },
        ..options(node)
    };
    let mut cluster = Cluster::with(3, small, small_wal());
    let leader = cluster.elect();
    cluster.isolate(leader);
    let long = "x".repeat(500);
    for number in 0..8 {
        cluster.write(leader, &format!("set {number} {long}"));
        cluster.rest();
    }
    assert!(cluster.status(leader).unapplied_bytes > 2_500, "{:?}", cluster.status(leader));
    let next = cluster.elect();
    for number in 0..8 {
        cluster.put(next, &format!("set {number} {long}{long}"));
    }
    cluster.heal();
    cluster.pass(3_000);
    assert_eq!(cluster.check_same().len(), 8);
}

/// Small entries take more in a record than their payloads.
#[test]
fn many_small_entries_fill_a_record_too() {
    let mut world = lone_member();
    world.disk.set_manual(true);
    let mut index = 0;
    for _ in 0..40 {
        let prev = (index, u64::from(index > 0));
        let entries: Vec<_> = (index + 1..=index + 2_000)
            .map(|index| Entry { index, term: 1, data: of_time(1).into(), ..Entry::default() })
            .collect();
        index += 2_000;
        let message = Box::new(append(1, prev, entries));
        world.shard.handle(Input::Message { partition: PARTITION, from: storage(1), message });
    }
    world.turn();
    world.disk.set_manual(false);
    world.disk.complete_all();
    world.settle();
    let status = world.shard.replicas().next().unwrap();
    assert_eq!((status.last.get(), world.fenced.len()), (80_000, 0));
}

/// No message has more entries than one may have, however small they are.
#[test]
fn who_missed_many_small_entries_catches_up() {
    let (mut cluster, leader) = Cluster::led(3);
    let away = (leader + 1) % 3;
    cluster.kill(away);
    for _ in 0..9_000 {
        cluster.write(leader, "del a");
        cluster.turn();
        cluster.deliver(|_, _, _| crate::cluster::Way::Arrives);
    }
    cluster.rest();
    let last = cluster.status(leader).last;
    assert!(last.get() > 4_500, "{last}");
    cluster.start(away, true);
    let mut most = 0;
    for _ in 0..15_000 {
        cluster.turn();
        for world in &mut cluster.worlds {
            world.now.mono_ns += 1_000_000;
        }
        let sizes = cluster.under_way.iter().map(|(_, sent)| sent.message.get_entries().len());
        most = most.max(sizes.max().unwrap_or(0));
        cluster.deliver(|_, _, _| crate::cluster::Way::Arrives);
    }
    cluster.pass(1_000);
    assert!(cluster.status(away).applied >= last, "{:?}", cluster.status(away));
    assert!((1_000..=4_096).contains(&most), "{most} entries in one message");
}

#[test]
fn founders_are_named_once_and_one_of_them_is_here() {
    let why = |founders: Vec<(MemberId, StorageId)>| {
        let mut world = World::of(options(0), small_wal(), vec![(PARTITION, Origin::Found(founders))]);
        world.settle();
        world.fenced.pop().map(|(_, why)| why)
    };
    let founder = |member, node| (MemberId(member), storage(node));
    assert_eq!(why(vec![founder(1, 0)]), None);
    assert_eq!(why(vec![founder(1, 0), founder(2, 1)]), None);
    for (founders, text) in [
        (vec![], "there are none"),
        (vec![founder(1, 1)], "founded on other storages"),
        (vec![founder(2, 0)], "is member 1"),
        (vec![founder(1, 0), founder(1, 1)], "the same id or storage"),
        (vec![founder(1, 0), founder(2, 0)], "the same id or storage"),
    ] {
        let why = why(founders);
        assert!(why.as_ref().is_some_and(|why| why.contains(text)), "{text}: {why:?}");
    }
}

/// What one message brings is one record, however large a message might be.
#[test]
fn who_missed_more_than_a_record_holds_catches_up() {
    let (mut cluster, leader) = Cluster::led(3);
    let away = (leader + 1) % 3;
    cluster.isolate(away);
    let long = "x".repeat(100_000);
    for number in 0..20 {
        cluster.put(leader, &format!("set {number} {long}"));
    }
    cluster.heal();
    cluster.pass(5_000);
    assert_eq!(cluster.check_same().len(), 20);
}

/// What a leader may take in, its followers have to.
#[test]
fn the_longest_operation_reaches_all_members() {
    let (mut cluster, leader) = Cluster::led(3);
    let record_bytes = cluster.worlds[leader].shard.wal().record_limit_bytes();
    let most = ShardOptions::default().op_limit_bytes(record_bytes);
    cluster.put(leader, &format!("set a {}", "x".repeat(most - "set a ".len())));
    cluster.pass(1_000);
    assert_eq!(cluster.check_same().len(), 1);
}
