//! Bounds and their refusals, deadlines and their outcomes, a full disk.

mod common;

use common::{Got, P, Q, World, open_shard, small_wal};
use corduroy_shards::raft::replica::ReplicaError;
use corduroy_shards::{Kind, Limits, PartitionId, Rejection, ShardOptions};
use corduroy_wal::{EntryKind, EntryRef, Lsn, Options, RecordHead, Term, Wal};

fn limited(change: impl Fn(&mut Limits)) -> World {
    let mut options = ShardOptions::default();
    change(&mut options.limits);
    let mut world = World::with(options, small_wal(), &[P, Q]);
    world.settle();
    world.disk.set_stalled(true);
    world
}

#[test]
fn every_bound_has_its_refusal() {
    let refused = |world: &mut World, partition, op: &str| {
        world.request(partition, 1, 99, Kind::Write, op);
        world.turn();
        world.got(1, 99)
    };
    let overloaded = |what| Some(Got::Rejected(Rejection::Overloaded(what)));

    let mut world = limited(|limits| limits.partition_requests = 2);
    world.write(1, 1, "set a 1");
    world.write(1, 2, "set a 1");
    assert_eq!(refused(&mut world, P, "set a 1"), overloaded("requests of the partition"));

    let mut world = limited(|limits| limits.partition_bytes = 10);
    world.write(1, 1, "set a 1");
    assert_eq!(refused(&mut world, P, "set a 1"), overloaded("bytes of the partition"));

    let mut world = limited(|limits| limits.shard_requests = 1);
    world.write(1, 1, "set a 1");
    assert_eq!(refused(&mut world, Q, "set a 1"), overloaded("requests of the shard"));

    let mut world = limited(|limits| limits.shard_bytes = 10);
    world.write(1, 1, "set a 1");
    assert_eq!(refused(&mut world, Q, "set a 1"), overloaded("bytes of the shard"));

    let mut world = limited(|limits| limits.op_bytes = 10);
    let too_large = Rejection::TooLarge { bytes: 11, limit: 10 };
    assert_eq!(refused(&mut world, P, "set abc 123"), Some(Got::Rejected(too_large)));

    let mut world = limited(|_| {});
    let nowhere = Rejection::NoPartition(PartitionId(77));
    assert_eq!(refused(&mut world, PartitionId(77), "set a 1"), Some(Got::Rejected(nowhere)));
}

#[test]
fn an_oversized_request_is_admitted_alone() {
    let mut world = limited(|limits| {
        limits.partition_bytes = 10;
        limits.entry_bytes = 8;
    });
    world.disk.set_stalled(false);
    let value = "v".repeat(500);
    world.write(1, 1, &format!("set a {value}"));
    world.settle();
    assert_eq!(world.value(1, 1), "OK");
    assert_eq!(world.key("a"), Some(value));
}

#[test]
fn entries_are_cut_at_their_soft_size() {
    let mut world = limited(|limits| limits.entry_bytes = 64);
    world.disk.set_stalled(false);
    for seq in 0..20 {
        world.write(1, seq, "append a xxxxxxxxxx");
    }
    world.settle();
    assert!(world.shard.counters().entries_proposed >= 7, "{:?}", world.shard.counters());
    assert_eq!(world.value(1, 19), "x".repeat(200));
}

#[test]
fn nothing_is_proposed_above_the_unapplied_bound() {
    let mut world = limited(|limits| limits.unapplied_bytes = 1);
    world.disk.set_stalled(false);
    world.write(1, 1, "set cold 1");
    world.settle();
    world.request(Q, 2, 1, Kind::Write, "set a 1");
    world.settle();
    assert_eq!(world.got(2, 1), None, "the shard holds too much that is not applied");
    world.run_jobs();
    world.settle();
    assert_eq!((world.value(1, 1), world.lsn(2, 1)), ("OK".into(), 2));
}

#[test]
fn a_proposed_write_that_takes_too_long_is_unknown_and_may_still_happen() {
    let mut world = World::ready(&[P]);
    world.disk.set_stalled(true);
    world.write(1, 1, "set a 1");
    world.read(1, 2, "get a");
    world.turn();
    assert!(world.out.wake_at_ns.is_some());
    world.at(11);
    world.turn();
    assert_eq!(world.got(1, 1), Some(Got::Unknown));
    assert!(matches!(world.got(1, 2), Some(Got::Rejected(Rejection::Overloaded(_)))));
    world.disk.set_stalled(false);
    world.settle();
    assert_eq!(world.key("a").as_deref(), Some("1"));
    assert_eq!(world.got(1, 1), Some(Got::Unknown), "exactly one outcome");
    assert_eq!(world.shard.status().pending_requests, 0);
}

#[test]
fn a_stalled_write_gets_its_outcome_however_often_the_shard_looks_before() {
    let mut world = World::ready(&[P]);
    world.disk.set_stalled(true);
    world.write(1, 1, "set a 1");
    world.turn();
    // A driver turns whenever the shard asks for it, ten times a second.
    for _ in 0..99 {
        let wake_ns = world.out.wake_at_ns.take().expect("a request waits, so a timer runs");
        assert!(wake_ns <= world.now.mono_ns + 100_000_000);
        world.now.mono_ns = wake_ns.max(world.now.mono_ns);
        world.turn();
        assert_eq!(world.got(1, 1), None);
    }
    for _ in 0..3 {
        world.now.mono_ns += 100_000_000;
        world.turn();
    }
    assert_eq!(world.got(1, 1), Some(Got::Unknown));
}

#[test]
fn what_was_not_proposed_in_time_is_refused_and_never_happens() {
    let mut world = World::ready_with_small_frames(&[P]);
    world.disk.set_stalled(true);
    for seq in 1..=3 {
        world.write(1, seq, &format!("set a{seq} 1"));
        world.turn();
    }
    world.at(11);
    world.turn();
    assert_eq!((world.got(1, 1), world.got(1, 2)), (Some(Got::Unknown), Some(Got::Unknown)));
    assert!(matches!(world.got(1, 3), Some(Got::Rejected(Rejection::Overloaded(_)))));
    world.disk.set_stalled(false);
    world.settle();
    assert_eq!((world.key("a2").as_deref(), world.key("a3")), (Some("1"), None));
    assert!(world.shard.is_idle());
}

#[test]
fn reads_that_keep_coming_behind_a_write_do_not_keep_its_entry_open() {
    let mut world = limited(|limits| limits.apply_ops = 8);
    world.disk.set_stalled(false);
    world.write(1, 0, "set a 1");
    // A pipelining client: sixteen reads are under way at any time, twice as many as a turn may answer.
    let mut asked = 0;
    for _ in 0..20 {
        while asked < world.order.len() + 16 {
            asked += 1;
            world.read(1, asked as u64, "get a");
        }
        world.turn();
    }
    assert_eq!(world.part().applied, 2, "the entry is still open after {asked} reads");
    world.settle();
    assert_eq!(world.value(1, asked as u64), "1");
}

#[test]
fn a_turn_brings_no_more_than_may_be_held() {
    let mut world = limited(|limits| limits.outcome_bytes = 150);
    world.disk.set_stalled(false);
    world.write(1, 0, &format!("set a {}", "x".repeat(100)));
    world.settle();
    // Reads of their own, reads behind a write, and a write of somebody else after that.
    for seq in 1..=20 {
        world.read(2, seq, "get a");
    }
    world.write(3, 0, "set b 1");
    for seq in 1..=20 {
        world.read(3, seq, "get a");
    }
    let (mut asked, mut other) = (20, None);
    for turn in 0.. {
        if turn == 3 {
            world.write(4, 0, "set c 1");
        }
        // One client goes on asking for as much as it gets: that holds up nobody's writes.
        if turn < 30 {
            asked += 4;
            (asked - 3..=asked).for_each(|seq| world.read(3, seq, "get a"));
        }
        let before = world.order.len();
        world.turn();
        let answered = world.order.get(before..).expect("replies are added").iter();
        let large = answered.filter(|(conn, seq)| *seq > 0 && *conn < 4).count();
        assert!(large <= 4, "{large} of 100 bytes in turn {turn}");
        other = other.or(world.got(4, 0).map(|_| turn));
        if turn > 30 && !world.out.again {
            break;
        }
    }
    assert!(other.is_some_and(|turn| turn < 20), "{other:?}");
    for conn in [2, 3] {
        let seqs = world.order.iter().filter(|(other, _)| *other == conn).map(|(_, seq)| *seq);
        assert!(seqs.eq(u64::from(conn == 2)..=if conn == 2 { 20 } else { asked }), "order of {conn}");
    }
}

/// Clients that ask again whenever they have been answered, together for more than a turn brings.
fn ask(world: &mut World, seq: u64) {
    (10..20).for_each(|conn| world.read(conn, seq, "get a"));
}

/// A world in which they have asked for the first time.
fn greedy() -> World {
    let mut world = limited(|limits| limits.outcome_bytes = 250);
    world.disk.set_stalled(false);
    world.write(1, 0, &format!("set a {}", "x".repeat(100)));
    world.settle();
    ask(&mut world, 0);
    world
}

#[test]
fn reads_that_bring_all_that_a_turn_may_hold_do_not_hold_up_writes() {
    let mut world = greedy();
    world.turn();
    world.write(2, 0, "set b 1");
    world.write(2, 1, "set c 1");
    for seq in 1..20 {
        let before = world.order.len();
        ask(&mut world, seq);
        world.turn();
        let large = world.order.len() - before;
        assert!((1..=6).contains(&large), "{large} replies in turn {seq}");
    }
    assert_eq!((world.value(2, 0), world.value(2, 1)), ("OK".into(), "OK".into()));
    world.settle();
    assert_eq!(world.value(19, 19), "x".repeat(100));
}

#[test]
fn reads_of_one_partition_do_not_hold_up_those_of_another() {
    let mut world = greedy();
    world.turn();
    world.request(Q, 2, 0, Kind::Read, "get b");
    for seq in 1..10 {
        ask(&mut world, seq);
        world.turn();
    }
    assert_eq!(world.value(2, 0), "nil");
    world.settle();
    assert_eq!(world.value(19, 9), "x".repeat(100));
}

#[test]
fn cold_reads_behind_a_write_are_fetched_together_and_do_not_keep_its_entry_open() {
    let mut world = World::ready(&[P]);
    let (mut asked, mut turns) = (0, 0);
    world.write(1, 0, "set a 1");
    // A client that always has sixteen under way.
    while asked < 2000 {
        let answered = world.order.iter().filter(|(_, seq)| *seq > 0).count() as u64;
        while asked < answered + 16 {
            asked += 1;
            world.read(1, asked, &format!("get cold{asked}"));
        }
        world.turn();
        world.run_jobs();
        turns += 1;
        world.now.mono_ns += 50_000_000;
        assert!(turns < 600, "{answered} of {asked} reads in {turns} turns");
    }
    for _ in 0..4 {
        world.turn();
        world.run_jobs();
    }
    world.settle();
    assert!((1..=asked).all(|seq| world.value(1, seq) == "nil"), "a read was refused");
    let order: Vec<_> = world.order.iter().map(|(_, seq)| *seq).collect();
    assert!(order.is_sorted(), "the reads of a connection see the state in order: {order:?}");
    assert_eq!(world.shard.status().pending_requests, 0);
}

#[test]
fn cold_reads_between_writes_are_fetched_together() {
    let mut world = World::ready(&[P]);
    for seq in 0..8 {
        world.write(1, 10 * seq, &format!("set a {seq}"));
        world.read(1, 10 * seq + 1, "get a");
        (2..10).for_each(|read| world.read(1, 10 * seq + read, &format!("get cold{seq}{read}")));
    }
    let mut turns = 0;
    while world.got(1, 79).is_none() {
        world.turn();
        world.run_jobs();
        turns += 1;
        assert!(turns < 20, "one read a turn");
    }
    (0..8).for_each(|seq| assert_eq!(world.value(1, 10 * seq + 1), seq.to_string()));
    assert_eq!(world.part().applied, 2);
}

#[test]
fn a_blocked_read_does_not_wait_for_ever() {
    let mut world = World::ready(&[P]);
    world.read(1, 1, "get cold");
    world.write(1, 2, "set a 1");
    world.settle();
    world.at(6);
    world.read(2, 1, "get cold");
    world.settle();
    world.at(5);
    world.turn();
    assert!(matches!(world.got(1, 1), Some(Got::Rejected(Rejection::Overloaded(_)))));
    world.settle();
    assert!(world.got(1, 2).is_some());
    assert!(world.read_now(P, 1, "get a").is_some());
    assert_eq!(world.got(2, 1), None, "the other one waits on");
    world.at(6);
    world.turn();
    assert!(world.got(2, 1).is_some());
    assert_eq!(world.shard.status().pending_requests, 0);
}

#[test]
fn a_replica_that_is_not_ready_in_time_refuses_and_goes_on_trying() {
    let mut world = World::new(&[P]);
    world.disk.set_stalled(true);
    world.write(1, 1, "set a 1");
    world.read(1, 2, "get a");
    world.turn();
    world.at(6);
    world.turn();
    let no_leader = Some(Got::Rejected(Rejection::NoLeader(P)));
    let status = world.shard.status();
    assert!(matches!(status.replicas[0].error, Some(ReplicaError::ReadyTimeout { .. })), "{status:?}");
    world.write(1, 3, "set a 1");
    world.turn();
    assert_eq!(world.got(1, 3), no_leader);
    world.disk.set_stalled(false);
    world.settle();
    assert!(world.is_ready(P));
    world.write(1, 4, "set a 4");
    world.settle();
    assert_eq!(world.value(1, 4), "OK");
}

/// A log of four small segments at most.
fn cramped() -> World {
    let wal_options = corduroy_wal::Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        max_segments: 4,
        ..corduroy_wal::Options::default()
    };
    let mut world = World::with(ShardOptions::default(), wal_options, &[P]);
    world.settle();
    world
}

fn is_disk_full(got: Option<&Got>) -> bool {
    matches!(got, Some(Got::Rejected(Rejection::DiskFull)))
}

#[test]
fn a_full_disk_refuses_writes_and_lets_deletions_and_reads_go_on() {
    let mut world = cramped();
    let value = "v".repeat(8_000);
    let mut seq = 0;
    while !is_disk_full(world.got(1, seq).as_ref()) {
        seq += 1;
        assert!(seq < 100, "the log never filled up");
        world.write(1, seq, &format!("set a{seq} {value}"));
        world.settle();
    }
    assert!(world.shard.machine().flushes_wanted > 0 && world.shard.machine().is_flush_urgent);
    world.write(2, 1, "del a1");
    world.read(2, 2, "get a1");
    world.settle();
    assert_eq!((world.value(2, 1), world.value(2, 2)), ("1".into(), "nil".into()));
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.turns(50);
    world.settle();
    world.write(3, 1, "set b 1");
    world.settle();
    assert_eq!(world.value(3, 1), "OK", "the flush made room");
    world.check_history();
}

#[test]
fn what_gathered_before_the_disk_was_full_is_sifted() {
    let mut world = cramped();
    let value = "v".repeat(8_000);
    let mut seq = 0;
    while !world.replies.values().flatten().any(|got| is_disk_full(Some(got))) {
        seq += 1;
        assert!(seq < 200, "the log never filled up");
        world.write(1, 4 * seq, &format!("set a{seq} {value}"));
        world.read(1, 4 * seq + 1, &format!("get a{seq}"));
        world.write(1, 4 * seq + 2, &format!("del a{seq}"));
        world.read(1, 4 * seq + 3, &format!("get a{seq}"));
        world.turn();
    }
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.turns(50);
    world.settle();
    let mut sifted = 0;
    for seq in 1..=seq {
        let deleted = world.got(1, 4 * seq + 2);
        if is_disk_full(world.got(1, 4 * seq).as_ref()) {
            assert_eq!(
                (world.value(1, 4 * seq + 1), world.value(1, 4 * seq + 2)),
                ("nil".into(), "0".into())
            );
            sifted += 1;
        } else {
            assert_eq!(
                (world.value(1, 4 * seq + 1), world.value(1, 4 * seq + 2)),
                (value.clone(), "1".into())
            );
        }
        assert!(deleted.is_some());
        assert_eq!(world.value(1, 4 * seq + 3), "nil");
    }
    let refused_at_the_door = world.shard.counters().refused;
    assert!(sifted > refused_at_the_door, "{sifted} refused, {refused_at_the_door} of them at the door");
    assert_eq!(world.shard.status().pending_requests, 0);
}

#[test]
fn a_fenced_replica_does_not_fill_the_log_of_the_others() {
    let wal_options = Options { max_segments: 6, ..small_wal() };
    let world = World::ready(&[P]);
    world.disk.kill();
    let (mut wal, _) = Wal::open(world.disk.device(), Options { seed: 9, ..wal_options }).unwrap();
    let garbage = EntryRef { lsn: Lsn(1), term: Term(0), kind: EntryKind::Normal, data: &[9, 9, 9] };
    let head = RecordHead { log: Q.log(), ..RecordHead::default() };
    wal.append(head, [garbage].iter().copied()).unwrap();
    wal.submit().unwrap();
    wal.poll(&mut Vec::new()).unwrap();
    drop(wal);
    world.disk.kill();

    let mut after = World::new(&[]);
    let saved = std::rc::Rc::clone(&world.saved);
    after.wal_options = Options { seed: 10, ..wal_options };
    after.shard = open_shard(&world.disk, &saved, after.options, after.wal_options, &[P, Q]);
    after.settle();
    assert_eq!(after.fenced.len(), 1, "{:?}", after.fenced);
    let value = "x".repeat(100_000);
    for seq in 1..=200 {
        after.write(1, seq, &format!("set k{} {value}", seq % 4));
        after.settle();
        assert_eq!(after.value(1, seq), "OK", "write {seq}: {:?}", after.shard.wal().stats());
        after.shard.machine_mut().flush();
        after.turn();
        after.run_jobs();
        after.settle();
    }
    let stats = after.shard.wal().stats();
    assert!(stats.rewritten_entries >= 3 && stats.rewritten_entries < 20, "{stats:?}");
    assert!(stats.live_segments <= 5, "{stats:?}");
    // The damaged entry is still there, for whoever looks into it.
    world.disk.kill();
    after.shard =
        open_shard(&world.disk, &saved, after.options, Options { seed: 11, ..wal_options }, &[P, Q]);
    after.settle();
    assert_eq!(after.fenced.len(), 2, "{:?}", after.fenced);
    let held = after.shard.wal().log_state(Q.log()).expect("the log is there");
    assert_eq!((held.first, held.prev_term), (Lsn(1), Term(0)));
    let entries = after.shard.wal_mut().read_blocking(Q.log(), Lsn(1), Lsn(1)).expect("it can be read");
    assert_eq!(entries.first().map(|entry| entry.data.as_slice()), Some([9, 9, 9].as_slice()));
}
