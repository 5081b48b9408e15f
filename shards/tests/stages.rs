//! What a request's stamps say: which turn took it in, proposed it, saw it durable, applied it; and when the next turn is.

mod common;

use common::{P, World};
use corduroy_shards::raft::replica::Replication;
use corduroy_shards::{ShardOptions, StageStamps};

/// Turns once; the time that the turn was told.
fn turn(world: &mut World) -> u64 {
    world.turn();
    world.now.mono_ns
}

fn stamps(queued_ns: u64, proposed_ns: u64, durable_ns: u64, applied_ns: u64) -> Option<StageStamps> {
    Some(StageStamps { queued_ns, proposed_ns, durable_ns, applied_ns })
}

fn waits_for_a_slot_and_for_the_disk(replication: Replication) {
    let options = ShardOptions { replication, ..common::small_frames() };
    let mut world = World::with(options, common::small_wal(), &[P]);
    world.settle();
    // The first frame of a segment waits for more than itself.
    world.write(9, 1, "set a 0");
    world.settle();
    world.disk.set_manual(true);
    world.write(1, 1, "set a 1");
    let first = turn(&mut world);
    world.write(1, 2, "set a 2");
    let second = turn(&mut world);
    // Both frames that may be under way are: these wait for a slot, the later one in the entry that the earlier one began.
    world.write(1, 3, "set a 3");
    let third = turn(&mut world);
    world.write(2, 4, "set a 4");
    world.read(2, 5, "get a");
    world.turns(3);
    world.read(3, 6, "get a");
    world.disk.complete_all();
    let seen = turn(&mut world);
    world.turns(2);
    world.disk.complete_all();
    let last = turn(&mut world);
    assert_eq!(world.stamps.get(&(1, 1)).copied(), stamps(first, first, seen, seen));
    assert_eq!(world.stamps.get(&(1, 2)).copied(), stamps(second, second, seen, seen));
    for request in [(1, 3), (2, 4), (2, 5)] {
        assert_eq!(world.stamps.get(&request).copied(), stamps(third, seen, last, last), "{request:?}");
    }
    assert!(world.got(3, 6).is_some() && !world.stamps.contains_key(&(3, 6)), "it was not logged");
}

#[test]
fn stamps_are_the_turns_that_saw_the_stages() {
    waits_for_a_slot_and_for_the_disk(Replication::On);
}

#[test]
fn without_raft_as_well() {
    waits_for_a_slot_and_for_the_disk(Replication::Off);
}

#[test]
fn what_waits_to_be_applied_shows_it() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set a 1");
    world.write(1, 2, "set cold 1");
    world.settle();
    world.turns(5);
    let before = world.stamps.get(&(1, 1)).copied().expect("it was applied");
    assert_eq!(world.got(1, 2), None);
    world.run_jobs();
    let fetched = turn(&mut world);
    let after = StageStamps { applied_ns: fetched, ..before };
    assert_eq!(world.stamps.get(&(1, 2)).copied(), Some(after), "one entry, of which the second part waited");
    assert!(before.applied_ns < fetched);
}

#[test]
fn upkeep_leaves_the_cpu_to_a_write_of_the_log_that_is_under_way() {
    let mut world = World::ready_with_small_frames(&[P]);
    let when = |world: &World| (world.out.again, world.out.wake_at_ns.map(|at| at - world.now.mono_ns));
    let soon_ns = 2 * world.options.maintain_ns;
    world.shard.machine_mut().upkeep_slices = 4;
    world.turn();
    assert!(world.out.again, "nothing is under way");
    world.disk.set_manual(true);
    world.write(1, 1, "set a 1");
    world.turn();
    assert_eq!(when(&world), (false, Some(soon_ns)));
    // What is not upkeep goes on at once.
    world.write(1, 2, "set a 2");
    world.write(1, 3, "set a 3");
    world.turn();
    world.disk.complete_all();
    world.turns(2);
    assert_eq!(world.shard.machine().upkeep_slices, 0);
    assert!(when(&world).1.is_none_or(|ns| ns > soon_ns), "none is left");
    world.settle();
    assert!(world.got(1, 1).is_some() && world.got(1, 3).is_some());
}
