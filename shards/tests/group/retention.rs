//! How long the log is kept for members that lag behind, and that it harms nobody else.

#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::entry::of_time;
use corduroy_shards::raft::membership::MemberId;
use corduroy_shards::{Input, Limits, Origin, PartitionId, Rejection, ShardOptions};
use corduroy_wal::{Lsn, Options};
use raft::eraftpb::Entry;

use crate::cluster::{Cluster, PARTITION, options, storage};
use crate::common::{Got, World};
use crate::hazards::append;

const SEGMENT_BYTES: u32 = 64 << 10;
pub const KEPT_BYTES: u64 = 4 * SEGMENT_BYTES as u64;

pub fn wal() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, first_segment_bytes: SEGMENT_BYTES, ..Options::default() }
}

/// Members whose logs keep four segments for each other, and are long once their states hold back more than two.
pub fn keeping(node: usize) -> ShardOptions {
    ShardOptions {
        limits: Limits { kept_bytes: KEPT_BYTES, second_frame_bytes: 0, ..Limits::default() },
        log_soft_segments: 2,
        ..options(node)
    }
}

pub fn flush(cluster: &mut Cluster, node: usize) {
    cluster.worlds[node].shard.machine_mut().flush();
    cluster.rest();
    cluster.worlds[node].run_jobs();
    cluster.rest();
}

fn live_segments(cluster: &Cluster, node: usize) -> u64 {
    cluster.worlds[node].shard.wal().stats().live_segments
}

/// Has one member away while the others write so many entries, each in a frame of 4 KiB.
pub fn write_without(cluster: &mut Cluster, leader: usize, away: usize, entries: usize) {
    cluster.kill(away);
    let long = "x".repeat(500);
    for number in 0..entries {
        cluster.put(leader, &format!("set {} {long}", number % 7));
    }
    flush(cluster, leader);
}

#[test]
fn the_log_is_kept_for_who_is_away_up_to_a_bound() {
    let mut cluster = Cluster::with(3, keeping, wal());
    let leader = cluster.elect();
    let away = (leader + 1) % 3;
    let held = cluster.status(away).last;
    write_without(&mut cluster, leader, away, 30);
    assert!(cluster.status(leader).released <= held, "{:?}", cluster.status(leader));
    cluster.start(away, true);
    cluster.pass(2_000);
    assert_eq!(cluster.status(away).applied, cluster.status(leader).applied);
    let held = cluster.status(away).last;
    write_without(&mut cluster, leader, away, 300);
    let status = cluster.status(leader);
    assert!(status.released > held && status.released < status.applied, "{status:?}");
    // What is free is found out with the frames that follow.
    (0..10).for_each(|number| cluster.put(leader, &format!("set a {number}")));
    let live = live_segments(&cluster, leader);
    assert!((3..=5).contains(&live), "{live} segments are live");
}

/// A flush cannot shorten what is kept for members only, so none is asked for.
#[test]
fn what_is_kept_for_members_makes_no_log_long() {
    let mut cluster = Cluster::with(3, keeping, wal());
    let leader = cluster.elect();
    write_without(&mut cluster, leader, (leader + 1) % 3, 120);
    assert!(live_segments(&cluster, leader) > 2, "the log is longer than the state may hold");
    let wanted = |cluster: &mut Cluster| cluster.worlds[leader].shard.machine_mut().flushes_wanted;
    let before = wanted(&mut cluster);
    for number in 0..20 {
        cluster.put(leader, &format!("set a {number}"));
    }
    assert_eq!(wanted(&mut cluster), before);
    let long = "x".repeat(500);
    for _ in 0..150 {
        cluster.put(leader, &format!("set a {long}"));
    }
    assert!(wanted(&mut cluster) > before, "what the state holds back does");
}

/// What a quiet partition keeps for its members holds back the segments of all.
#[test]
fn quiet_partitions_let_go_of_what_lies_far_back() {
    const QUIET: PartitionId = PartitionId(PARTITION.0 + 1);
    let founders: Vec<_> = (0..3).map(|node| (MemberId(1 + node as u64), storage(node))).collect();
    let origins = [QUIET, PARTITION].map(|partition| (partition, Origin::Found(founders.clone())));
    let mut world = World::of(keeping(0), wal(), origins.to_vec());
    world.settle();
    // However small, each is in a frame of its own, which takes 4 KiB.
    let hear = |world: &mut World, partition, index: u64| {
        let entry = Entry { index, term: 1, data: of_time(1).into(), ..Entry::default() };
        let mut message = Box::new(append(1, (index - 1, u64::from(index > 1)), vec![entry]));
        message.commit = index;
        world.shard.handle(Input::Message { partition, from: storage(1), message });
        world.settle();
    };
    (1..=3).for_each(|index| hear(&mut world, QUIET, index));
    world.shard.machine_mut().flush();
    world.settle();
    world.run_jobs();
    (1..=200).for_each(|index| hear(&mut world, PARTITION, index));
    world.shard.machine_mut().flush();
    world.settle();
    world.run_jobs();
    world.settle();
    let released = world.shard.status().replicas[0].released;
    assert_eq!(released, Lsn(3), "of the quiet one");
    // What is free is found out with the frames that follow.
    (201..=210).for_each(|index| hear(&mut world, PARTITION, index));
    let live = world.shard.wal().stats().live_segments;
    assert!((3..=5).contains(&live), "{live} segments are live");
}

/// A full log keeps nothing for those who are away.
#[test]
fn a_full_log_keeps_nothing_for_members() {
    fill_without_one(false);
}

/// Nor if a flush brings nothing, since the state has persisted all there is.
#[test]
fn a_log_that_is_full_of_what_is_kept_lets_go_of_it() {
    fill_without_one(true);
}

/// Nor while the state is short of room; once there is some again, the log is kept as before.
#[test]
fn a_state_without_room_has_nothing_kept_for_members() {
    let mut cluster = Cluster::with(3, keeping, wal());
    let leader = cluster.elect();
    let away = (leader + 1) % 3;
    let short = |cluster: &mut Cluster, is_short| {
        cluster.worlds[leader].shard.machine_mut().is_out_of_room = is_short;
        cluster.pass(1_000);
    };
    let held = cluster.status(away).last;
    write_without(&mut cluster, leader, away, 30);
    assert!(cluster.status(leader).released <= held, "{:?}", cluster.status(leader));
    short(&mut cluster, true);
    let status = cluster.status(leader);
    assert!(status.released > held, "{status:?}");
    // What lies in the segment that is written makes no room.
    assert!(status.released < status.applied, "{status:?}");
    short(&mut cluster, false);
    let before = status.released;
    write_without(&mut cluster, leader, away, 20);
    assert_eq!(cluster.status(leader).released, before);
}

fn fill_without_one(is_persisted: bool) {
    let greedy = |node| ShardOptions {
        limits: Limits { kept_bytes: 1 << 30, second_frame_bytes: 0, ..Limits::default() },
        ..keeping(node)
    };
    let mut cluster = Cluster::with(3, greedy, wal());
    for world in &cluster.worlds {
        world.disk.set_max_slots(Some(10));
    }
    let leader = cluster.elect();
    let away = (leader + 1) % 3;
    cluster.kill(away);
    let long = "x".repeat(3_000);
    let mut full = 0;
    for number in 0..300 {
        let ticket = cluster.write(leader, &format!("set a {long}"));
        cluster.rest();
        let is_full = match cluster.got(leader, ticket) {
            Some(Got::Done(..)) => false,
            // A follower whose log is full takes nothing in.
            Some(Got::Rejected(Rejection::DiskFull)) | None => true,
            other => panic!("write {number} got {other:?}"),
        };
        full += usize::from(is_full);
        if is_full != is_persisted {
            for node in cluster.nodes().collect::<Vec<_>>() {
                flush(&mut cluster, node);
            }
        }
        if !is_full {
            continue;
        }
        cluster.pass(500);
        assert!(cluster.got(leader, ticket).is_some(), "write {number}");
    }
    assert!((usize::from(!is_persisted)..10).contains(&full), "full {full} times");
    let status = cluster.status(leader);
    assert!(status.released > cluster.status(away).last, "{status:?}");
}
