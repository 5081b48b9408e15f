//! Alarms of the state machine: entries that only move a partition's clock, logged by the leader itself.

mod common;

use common::{P, Q, World};
use corduroy_shards::ClockReport;

fn set_alarm(world: &mut World, partition: corduroy_shards::PartitionId, at_ms: u64) {
    let machine = world.shard.machine_mut();
    machine.alarms.insert(partition.0, at_ms);
    machine.announced.push(partition);
    world.settle();
}

fn stamp_ms(world: &World, partition: corduroy_shards::PartitionId) -> u64 {
    world.shard.machine().parts.get(&partition.0).map_or(0, |part| part.stamp_ms)
}

/// Lets time pass as a driver does: it sleeps until the shard wants to be turned. Returns the turns that it took.
fn sleep_until(world: &mut World, until_ns: u64) -> u64 {
    let turns = world.shard.counters().turns;
    loop {
        let wake_ns = world.out.wake_at_ns.filter(|wake_ns| *wake_ns <= until_ns);
        let to_ns = wake_ns.unwrap_or(until_ns).max(world.now.mono_ns);
        world.now.wall_ms += (to_ns - world.now.mono_ns) / 1_000_000;
        world.now.mono_ns = to_ns;
        if wake_ns.is_none() {
            return world.shard.counters().turns - turns;
        }
        assert!(world.shard.counters().turns - turns < 10_000, "it is woken again and again");
        world.settle();
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn an_idle_partition_gets_one_entry_when_its_alarm_goes_off_and_sleeps_until_then() {
    let mut world = World::ready(&[P, Q]);
    sleep_until(&mut world, 100 * SECOND_NS);
    let (at_ms, start) = (world.now.wall_ms + 60_000, world.shard.counters().entries_applied);
    set_alarm(&mut world, P, at_ms);
    assert_eq!(sleep_until(&mut world, 159 * SECOND_NS), 0, "nothing to do until then");
    let turns = sleep_until(&mut world, 1000 * SECOND_NS);
    assert!((1..12).contains(&turns), "{turns} turns");
    assert!((at_ms..at_ms + 600).contains(&stamp_ms(&world, P)), "{}", stamp_ms(&world, P));
    let counters = *world.shard.counters();
    assert_eq!((counters.times_proposed, counters.entries_applied - start), (1, 1));
    assert_eq!(world.out.wake_at_ns, None, "and nothing afterwards");
    assert!(world.shard.is_idle());
    // It is in the log like any other entry.
    world.restart(true);
    world.settle();
    assert!(stamp_ms(&world, P) >= at_ms);
}

#[test]
fn alarms_are_far_apart_share_a_frame_and_need_no_entry_where_others_come() {
    let mut world = World::ready(&[P, Q]);
    let wall_ms = world.now.wall_ms;
    let frames = world.shard.wal().stats().frames;
    for (partition, in_ms) in [(P, 1010), (Q, 1200)] {
        set_alarm(&mut world, partition, wall_ms + in_ms);
    }
    sleep_until(&mut world, 4 * SECOND_NS);
    assert_eq!(world.shard.counters().times_proposed, 2);
    assert_eq!(world.shard.wal().stats().frames - frames, 1, "both ride in one");
    // A client's entry moves the clock as well.
    let at_ms = world.now.wall_ms + 100;
    set_alarm(&mut world, P, at_ms);
    world.now.wall_ms += 200;
    world.now.mono_ns += 200_000_000;
    world.write(1, 1, "set a 1");
    world.settle();
    sleep_until(&mut world, 60 * SECOND_NS);
    assert_eq!(world.shard.counters().times_proposed, 2);
    // One that is never satisfied is asked for twice a second at most.
    let start_ns = world.now.mono_ns;
    set_alarm(&mut world, Q, u64::MAX - 1);
    world.shard.machine_mut().alarms.insert(Q.0, 1);
    world.shard.machine_mut().parts.entry(Q.0).or_default().stamp_ms = 0;
    world.shard.machine_mut().announced.push(Q);
    sleep_until(&mut world, start_ns + 10 * SECOND_NS);
    assert!(world.shard.counters().times_proposed <= 3, "{:?}", world.shard.counters());
}

#[test]
fn a_shard_that_closes_rings_no_alarm_and_comes_to_rest() {
    let mut world = World::ready(&[P]);
    let at_ms = world.now.wall_ms + 100;
    set_alarm(&mut world, P, at_ms);
    world.shard.close();
    world.at(10);
    world.turn();
    world.settle();
    assert_eq!((world.out.wake_at_ns, world.shard.counters().times_proposed), (None, 0));
    assert!(world.shard.is_idle());
}

#[test]
fn a_wall_clock_that_was_set_back_is_reported_once_and_times_go_on() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "clock");
    world.settle();
    world.now.wall_ms -= 3_600_000;
    world.write(1, 2, "clock");
    world.settle();
    let report = world.out.clock.take();
    assert!(matches!(report, Some(ClockReport::Ahead { by_ms: 3_599_000..=3_600_000 })), "{report:?}");
    world.at(50);
    world.write(1, 3, "clock");
    world.settle();
    assert_eq!((world.out.clock.take(), world.shard.counters().clocks_ahead), (None, 1));
    assert!(world.shard.ahead_ms(world.now) > 3_500_000);
    // A restart knows of it from the log.
    world.restart(true);
    world.settle();
    assert!(matches!(world.out.clock.take(), Some(ClockReport::Ahead { .. })));
    world.now.wall_ms += 3_600_000;
    world.turn();
    assert_eq!(world.out.clock.take(), Some(ClockReport::Together));
    assert_eq!(world.shard.ahead_ms(world.now), 0);
}

#[test]
fn an_alarm_needs_no_entry_while_one_that_does_as_well_is_on_its_way() {
    let mut world = World::ready(&[P]);
    let at_ms = world.now.wall_ms + 100;
    set_alarm(&mut world, P, at_ms);
    world.now.wall_ms += 200;
    world.now.mono_ns += 200_000_000;
    world.disk.set_stalled(true);
    world.write(1, 1, "set a 1");
    world.turn();
    assert!(!world.shard.is_idle(), "it is on its way to the disk");
    // The alarm goes off meanwhile, again and again.
    world.at(5);
    world.turns(3);
    world.disk.set_stalled(false);
    world.settle();
    assert!(stamp_ms(&world, P) >= at_ms);
    let until_ns = world.now.mono_ns + 60 * SECOND_NS;
    sleep_until(&mut world, until_ns);
    assert_eq!(world.shard.counters().times_proposed, 0);
}

#[test]
fn an_alarm_that_got_no_entry_goes_off_again() {
    let mut world = World::ready(&[P, Q]);
    let at_ms = world.now.wall_ms + 100;
    world.disk.set_stalled(true);
    // Its stamp is older than the alarm.
    world.write(1, 1, "set a 1");
    world.turn();
    for partition in [P, Q] {
        world.shard.machine_mut().alarms.insert(partition.0, at_ms);
        world.shard.machine_mut().announced.push(partition);
    }
    world.turn();
    world.at(5);
    world.turns(3);
    assert_eq!(stamp_ms(&world, P).max(stamp_ms(&world, Q)).max(at_ms), at_ms, "the disk does not go on");
    world.disk.set_stalled(false);
    world.settle();
    let until_ns = world.now.mono_ns + 10 * SECOND_NS;
    sleep_until(&mut world, until_ns);
    assert!(stamp_ms(&world, P) >= at_ms && stamp_ms(&world, Q) >= at_ms);
    assert_eq!(world.shard.counters().times_proposed, 2, "one each");
}

#[test]
fn an_alarm_that_was_put_off_rings_when_it_is_wanted_now() {
    let mut world = World::ready(&[P]);
    let (start_ms, start_ns) = (world.now.wall_ms, world.now.mono_ns);
    set_alarm(&mut world, P, start_ms + 1000);
    // What was to be done then is not to be done any more, of which nobody is told.
    world.shard.machine_mut().alarms.insert(P.0, start_ms + 60_000);
    sleep_until(&mut world, start_ns + 59 * SECOND_NS);
    assert_eq!(world.shard.counters().times_proposed, 0);
    sleep_until(&mut world, start_ns + 62 * SECOND_NS);
    assert_eq!(world.shard.counters().times_proposed, 1);
}

#[test]
fn an_alarm_that_was_set_anew_rings_at_the_sooner_time_alone() {
    let mut world = World::ready(&[P]);
    let (start_ms, start_ns) = (world.now.wall_ms, world.now.mono_ns);
    set_alarm(&mut world, P, start_ms + 60_000);
    set_alarm(&mut world, P, start_ms + 1000);
    sleep_until(&mut world, start_ns + 30 * SECOND_NS);
    let asked = world.shard.machine().alarms_asked;
    assert_eq!(world.shard.counters().times_proposed, 1);
    sleep_until(&mut world, start_ns + 100 * SECOND_NS);
    assert_eq!(world.shard.machine().alarms_asked, asked, "the time before was given up");
}
