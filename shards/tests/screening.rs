//! What is looked at before it is proposed: that nothing keeps a batch for ever, and that no operation is looked at anew
//! for the sake of others.

mod common;

use common::{Got, P, Q, World};
use corduroy_shards::{Kind, Rejection, ShardOptions};

fn screening() -> World {
    let mut world = World::ready(&[P]);
    world.shard.machine_mut().screens = true;
    world
}

#[test]
fn a_stream_of_cold_writes_keeps_none_of_them_waiting() {
    const WRITES: u64 = 400;
    let mut world = screening();
    for seq in 1..=WRITES {
        // There is always a write whose row is still on its way.
        world.write(1, seq, &format!("append cold{seq} x"));
        world.turn();
        world.run_jobs();
        let answered = world.replies.len() as u64;
        assert!(answered + 8 >= seq, "{answered} of {seq} answered");
    }
    world.settle();
    world.run_jobs();
    world.settle();
    assert_eq!(world.value(1, WRITES), "x");
    // Once when it came, and once when its row had.
    let prepared = world.shard.machine().prepared;
    assert!(prepared <= 2 * WRITES, "{WRITES} writes were looked at {prepared} times");
    world.check_history();
}

#[test]
fn a_batch_that_waits_takes_reads_in_their_order_but_no_writes() {
    let mut world = screening();
    world.write(1, 1, "append cold1 x");
    world.turn();
    world.read(1, 2, "get cold1");
    world.write(1, 3, "append cold1 y");
    world.write(2, 1, "append cold2 x");
    world.read(1, 4, "get cold1");
    world.settle();
    assert!(world.replies.is_empty());
    // The job of the first write alone: the others come behind it, in an entry of their own.
    world.run_jobs();
    world.settle();
    assert_eq!((world.value(1, 1), world.value(1, 2)), ("x".into(), "x".into()));
    assert_eq!(world.got(2, 1), None);
    world.run_jobs();
    world.settle();
    assert_eq!(
        (world.value(1, 3), world.value(1, 4), world.value(2, 1)),
        ("xy".into(), "xy".into(), "x".into())
    );
    assert_eq!(world.lsn(1, 3), world.lsn(2, 1));
    assert!(world.lsn(1, 1) < world.lsn(1, 3));
    world.check_history();
}

#[test]
fn an_entry_that_waits_for_one_row_does_not_look_at_the_others_again() {
    const WRITES: u64 = 300;
    let mut world = screening();
    world.write(1, 0, "append cold x");
    for seq in 1..=WRITES {
        world.write(1, seq, &format!("append k{seq} x"));
    }
    world.turn();
    let first = world.shard.machine().prepared;
    assert_eq!(first, 1 + WRITES);
    // Jobs of others end all the time.
    for seq in 0..50 {
        world.read(2, seq, &format!("get cold{seq}"));
        world.turn();
        let fetched = world.jobs.split_off(world.jobs.len().min(1));
        let held = std::mem::replace(&mut world.jobs, fetched);
        world.run_jobs();
        world.jobs = held;
        world.turn();
    }
    let prepared = world.shard.machine().prepared;
    assert!(prepared <= first + 100, "{first} looks at first, {prepared} in the end");
    world.run_jobs();
    world.settle();
    assert_eq!((world.value(1, 0), world.value(1, WRITES)), ("x".into(), "x".into()));
}

#[test]
fn all_that_must_not_be_proposed_is_refused_at_once() {
    const WRITES: u64 = 600;
    let mut world = screening();
    for seq in 0..WRITES {
        let kind = ["bad", "good", "cold"].into_iter().cycle().nth(seq as usize).expect("endless");
        world.write(1, 2 * seq, &format!("append {kind}{seq} x"));
        world.read(1, 2 * seq + 1, &format!("get {kind}{seq}"));
    }
    let mut turns = 0;
    while world.shard.status().pending_requests > 0 {
        turns += 1;
        assert!(turns < 100, "{:?}", world.shard.counters());
        world.turn();
        world.run_jobs();
    }
    for seq in 0..WRITES {
        match (seq % 3, world.got(1, 2 * seq)) {
            (0, Some(Got::Rejected(Rejection::Unreadable(..) | Rejection::Damaged(..)))) => {}
            (1 | 2, Some(Got::Done(_, value))) if value == "x" => {}
            (_, other) => panic!("write {seq} got {other:?}"),
        }
        assert_eq!(world.value(1, 2 * seq + 1), if seq % 3 == 0 { "nil" } else { "x" });
    }
    let prepared = world.shard.machine().prepared;
    assert!(prepared <= 2 * WRITES, "{WRITES} writes were looked at {prepared} times");
    assert_eq!(world.shard.counters().entries_proposed, 1, "what is left is one entry still");
    world.check_history();
}

#[test]
fn what_the_system_refuses_to_read_is_tried_again_while_writes_go_on() {
    let mut world = World::ready(&[P]);
    world.shard.machine_mut().wants_retry = true;
    world.turn();
    assert!(world.out.wake_at_ns.is_some(), "nothing else turns an idle shard");
    world.write(1, 1, "set a 1");
    world.settle();
    assert_eq!(world.value(1, 1), "OK");
    for _ in 0..4 {
        world.now.mono_ns += 500_000_000;
        world.turn();
    }
    assert_eq!(world.shard.machine().retries, 4);
    world.shard.machine_mut().wants_retry = false;
    world.settle();
    world.now.mono_ns += 500_000_000;
    world.turns(2);
    assert_eq!(world.out.wake_at_ns, None);
}

/// A world whose log is full, with so many writes in one batch that came before it was, behind one whose row is not there yet.
fn full_with(waiting: u64) -> World {
    let wal_options = corduroy_wal::Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        max_segments: 4,
        ..corduroy_wal::Options::default()
    };
    let mut world = World::with(ShardOptions::default(), wal_options, &[P, Q]);
    world.settle();
    world.shard.machine_mut().screens = true;
    let value = "v".repeat(8_000);
    let refused = |got: &Got| matches!(got, Got::Rejected(Rejection::DiskFull));
    let is_full = |world: &World| world.replies.values().flatten().any(refused);
    world.write(9, 0, "del cold");
    for seq in 1..=waiting {
        let op = if seq % 2 == 0 { format!("set k{seq} x") } else { format!("del k{seq}") };
        world.write(9, seq, &op);
    }
    world.turn();
    let mut seq = 0;
    while !is_full(&world) {
        seq += 1;
        assert!(seq < 200, "the log never filled up");
        world.request(Q, 1, seq, Kind::Write, &format!("set a{seq} {value}"));
        world.turn();
    }
    world
}

#[test]
fn a_full_disk_looks_at_each_write_once() {
    const WRITES: u64 = 300;
    let mut world = full_with(WRITES);
    world.turns(3);
    let (asked, prepared) = {
        let machine = world.shard.machine();
        (machine.asked_when_full.get(), machine.prepared)
    };
    let fetch = world.jobs.remove(0);
    for seq in 0..50 {
        world.read(2, seq, &format!("get cold{seq}"));
        world.turn();
        world.run_jobs();
        world.turn();
    }
    let machine = world.shard.machine();
    assert!(machine.asked_when_full.get() <= asked + WRITES + 1, "{asked} at first");
    assert!(machine.prepared <= prepared + 100, "{prepared} at first, then {}", machine.prepared);
    assert_eq!(world.got(9, 1), None, "its batch waits");
    world.jobs.push(fetch);
    world.run_jobs();
    world.settle();
    for seq in 0..=WRITES {
        match (seq == 0 || seq % 2 == 1, world.got(9, seq)) {
            (true, Some(Got::Done(_, value))) if value == "0" => {}
            (false, Some(Got::Rejected(Rejection::DiskFull))) => {}
            (_, other) => panic!("write {seq} got {other:?}"),
        }
    }
    assert_eq!(world.lsn(9, 0), world.lsn(9, WRITES - 1), "what is left is one entry still");
    world.check_history();
}

#[test]
fn what_is_refused_while_it_waits_is_given_up() {
    let mut world = screening();
    world.read(1, 1, "get cold1");
    world.write(2, 1, "append cold2 x");
    world.read(3, 1, "get cold3any");
    world.settle();
    assert!(world.replies.is_empty() && world.shard.machine().abandoned.is_empty());
    world.at(11);
    world.turn();
    world.turn();
    assert!((1..=3).all(|conn| matches!(world.got(conn, 1), Some(Got::Rejected(_)))), "{:?}", world.replies);
    let mut abandoned = world.shard.machine().abandoned.clone();
    abandoned.sort_unstable();
    assert_eq!(abandoned, [1, 2], "those that wait for more than whatever job ends");
    // What comes for them all the same is for nobody.
    world.run_jobs();
    world.settle();
    assert_eq!(world.shard.status().pending_requests, 0);
}
