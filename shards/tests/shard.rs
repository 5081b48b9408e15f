//! The heart over a memory disk: the way of a write, batches, order, blocking steps, fencing, the log's release.

mod common;

use common::{Got, Kv, P, Q, World, open_shard, small_wal};
use corduroy_shards::raft::membership::{MemberId, Membership, StorageId};
use corduroy_shards::raft::replica::StartedAs;
use corduroy_shards::{Input, Kind, Limits, PartitionId, Rejection, ShardOptions, StateMachine};
use corduroy_wal::{EntryKind, EntryRef, HardState, Lsn, RecordHead, Term, Wal};

#[test]
fn a_write_is_answered_only_when_it_is_durable_and_applied() {
    let mut world = World::ready(&[P]);
    world.disk.set_manual(true);
    world.write(1, 1, "set a 1");
    world.turns(5);
    assert_eq!((world.got(1, 1), world.key("a")), (None, None));
    world.disk.complete_all();
    world.turn();
    assert_eq!(world.got(1, 1), Some(Got::Done(2, "OK".into())));
    assert_eq!(world.key("a").as_deref(), Some("1"));
}

#[test]
fn a_connections_requests_take_effect_in_order() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set a 1");
    world.read(1, 2, "get a");
    world.write(1, 3, "set a 2");
    world.read(1, 4, "get a");
    world.read(9, 1, "get a");
    world.turn();
    assert_eq!(world.value(9, 1), "nil", "another connection's read does not wait");
    world.read(1, 5, "get a");
    world.settle();
    assert_eq!(
        (world.value(1, 2), world.value(1, 4), world.value(1, 5)),
        ("1".into(), "2".into(), "2".into())
    );
    let mine: Vec<_> = world.order.iter().filter(|(conn, _)| *conn == 1).map(|(_, seq)| *seq).collect();
    assert_eq!(mine, [1, 2, 3, 4, 5]);
}

#[test]
fn a_read_before_a_write_does_not_see_it() {
    let mut world = World::ready(&[P]);
    world.read(1, 1, "get a");
    world.write(1, 2, "set a 1");
    world.read(1, 3, "get a");
    world.settle();
    assert_eq!((world.value(1, 1), world.value(1, 3)), ("nil".into(), "1".into()));
}

#[test]
fn reads_wait_for_a_leader() {
    let mut world = World::new(&[P]);
    world.disk.set_manual(true);
    world.read(1, 1, "get a");
    world.write(1, 2, "set a 1");
    world.read(2, 1, "get a");
    world.turns(3);
    assert_eq!(world.got(1, 1), None);
    world.disk.set_manual(false);
    world.disk.complete_all();
    world.settle();
    assert_eq!((world.value(1, 1), world.value(1, 2)), ("nil".into(), "OK".into()));
    assert!(world.got(2, 1).is_some());
}

#[test]
fn a_blocked_read_lets_others_pass_but_not_its_own_connection() {
    let mut world = World::ready(&[P]);
    world.read(1, 1, "get cold");
    world.write(1, 2, "set cold 1");
    world.write(2, 1, "set a 1");
    world.read(1, 3, "get a");
    world.settle();
    assert_eq!(world.got(1, 1), None);
    world.read(2, 2, "get a");
    world.settle();
    assert_eq!((world.got(1, 2), world.got(2, 1)), (None, None), "they share the entry that has to wait");
    world.write(3, 1, "set b 1");
    world.run_jobs();
    world.settle();
    assert_eq!((world.value(1, 1), world.value(1, 2)), ("nil".into(), "OK".into()));
    assert_eq!(
        (world.value(1, 3), world.value(2, 2), world.value(3, 1)),
        ("1".into(), "1".into(), "OK".into())
    );
}

#[test]
fn parked_reads_of_a_connection_keep_their_order() {
    let mut world = World::ready(&[P]);
    world.read(1, 1, "get cold1");
    world.read(1, 2, "get a");
    world.read(1, 3, "get cold2");
    world.read(2, 1, "get a");
    world.turn();
    assert!(world.got(2, 1).is_some());
    assert_eq!(world.got(1, 2), None);
    assert_eq!(world.jobs.len(), 2, "both fetches are under way at once");
    world.jobs.reverse();
    let second = world.jobs.pop();
    world.run_jobs();
    world.turn();
    assert_eq!((world.got(1, 1), world.got(1, 2), world.got(1, 3)), (None, None, None));
    world.jobs.extend(second);
    world.run_jobs();
    world.turn();
    assert_eq!(world.order.iter().filter(|(conn, _)| *conn == 1).count(), 3);
    assert_eq!(&world.order[world.order.len() - 3..], [(1, 1), (1, 2), (1, 3)]);
}

/// Ends one job, the one that came last, and turns.
fn end_last_job(world: &mut World) -> bool {
    let Some(job) = world.jobs.pop() else { return false };
    world.shard.handle(Input::JobDone(Kv::run_job(job)));
    world.turn();
    true
}

#[test]
fn reads_that_wait_for_keys_are_tried_once_more_each() {
    const READS: u64 = 200;
    let mut world = World::ready(&[P]);
    for number in 0..READS {
        world.read(number / 8, number, &format!("get cold{number}"));
    }
    world.turn();
    while end_last_job(&mut world) {}
    world.turn();
    assert!((0..READS).all(|number| world.value(number / 8, number) == "nil"));
    let tries = world.shard.machine().reads;
    assert_eq!(tries, 2 * READS, "once when it comes, once when its key is there");
    assert_eq!(world.shard.counters().read_tries, tries);
}

#[test]
fn writes_that_wait_for_keys_are_looked_at_once_more_each() {
    const WRITES: u64 = 200;
    let mut world = World::ready(&[P]);
    world.shard.machine_mut().screens = true;
    for number in 0..WRITES {
        world.write(number / 8, number, &format!("append cold{number} x"));
    }
    world.turn();
    while end_last_job(&mut world) {}
    world.settle();
    assert!((0..WRITES).all(|number| world.value(number / 8, number) == "x"));
    assert_eq!(world.shard.machine().prepared, 2 * WRITES);
    assert_eq!(world.shard.counters().apply_tries, WRITES);
}

#[test]
fn reads_between_writes_ask_once_for_what_they_need() {
    const READS: u64 = 100;
    let mut world = World::ready(&[P]);
    world.write(1, 0, "set a 1");
    for number in 1..=READS {
        world.read(1, number, &format!("get cold{number}"));
    }
    world.write(1, READS + 1, "set a 2");
    world.settle();
    assert_eq!(world.jobs.len() as u64, READS, "all are asked for at once");
    while end_last_job(&mut world) {}
    world.settle();
    assert_eq!(world.value(1, READS + 1), "OK");
    let tries = world.shard.machine().reads;
    assert!(tries <= 3 * READS, "{tries} tries of {READS} reads");
}

#[test]
fn what_waits_for_any_job_is_tried_after_each() {
    let mut world = World::ready(&[P]);
    world.read(1, 1, "get coldany");
    world.read(2, 1, "get cold");
    world.turn();
    world.jobs.reverse();
    let any = world.jobs.pop();
    assert!(end_last_job(&mut world) && world.got(2, 1).is_some() && world.got(1, 1).is_none());
    assert_eq!(world.shard.machine().reads, 4, "both again");
    world.jobs.extend(any);
    assert!(end_last_job(&mut world) && world.got(1, 1).is_some());
}

#[test]
fn a_read_behind_one_that_is_given_up_goes_on() {
    let mut world = World::ready(&[P]);
    world.read(1, 1, "get cold1");
    world.read(1, 2, "get cold2");
    world.turn();
    world.at(1);
    world.read(1, 3, "get cold3");
    world.turn();
    world.jobs.remove(0);
    while end_last_job(&mut world) {}
    assert!([1, 2, 3].iter().all(|seq| world.got(1, *seq).is_none()), "the first one's key does not come");
    world.at(9);
    world.turns(2);
    let late = |world: &World, seq| matches!(world.got(1, seq), Some(Got::Rejected(_)));
    assert!(late(&world, 1) && late(&world, 2) && world.got(1, 3).is_some_and(|_| !late(&world, 3)));
}

#[test]
fn a_blocked_apply_pauses_its_partition_only() {
    let mut world = World::ready(&[P, Q]);
    world.write(1, 1, "set a 1");
    world.write(1, 2, "set cold 1");
    world.write(1, 3, "append a 2");
    world.request(Q, 2, 1, Kind::Write, "set a 1");
    world.settle();
    assert_eq!(world.value(1, 1), "OK");
    assert_eq!((world.got(1, 2), world.got(1, 3)), (None, None));
    assert!(world.got(2, 1).is_some());
    world.run_jobs();
    world.settle();
    assert_eq!((world.value(1, 2), world.value(1, 3)), ("OK".into(), "12".into()));
    world.check_history();
}

#[test]
fn apply_is_cut_into_slices_and_loses_nothing() {
    let mut options = ShardOptions::default();
    options.limits.apply_ops = 3;
    options.limits.apply_slice_ops = 2;
    let mut world = World::with(options, small_wal(), &[P, Q]);
    world.settle();
    for seq in 0..20 {
        world.write(1, seq, "append a x");
        world.request(Q, 2, seq, Kind::Write, "append a y");
        world.read(1, 100 + seq, "get a");
    }
    world.settle();
    for seq in 0..20 {
        assert_eq!(world.value(1, seq), "x".repeat(seq as usize + 1));
        assert_eq!(world.value(1, 100 + seq), "x".repeat(seq as usize + 1));
        assert_eq!(world.value(2, seq), "y".repeat(seq as usize + 1));
    }
}

#[test]
fn stamps_never_go_back_and_reads_see_no_earlier_clock() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "clock");
    world.settle();
    let first: u64 = world.value(1, 1).parse().unwrap();
    world.now.wall_ms -= 3_600_000;
    world.write(1, 2, "clock");
    world.settle();
    world.read(1, 3, "clock");
    world.settle();
    assert_eq!((world.value(1, 2), world.value(1, 3)), (first.to_string(), first.to_string()));
    let wall_ms = std::mem::replace(&mut world.now.wall_ms, 5);
    assert_eq!(world.read_now(P, 1, "clock"), Some(first.to_string()));
    world.now.wall_ms = wall_ms;
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.settle();
    world.restart(true);
    world.settle();
    world.write(2, 1, "clock");
    world.settle();
    assert_eq!(world.value(2, 1), first.to_string(), "also over a restart");
}

#[test]
fn a_fault_fences_its_replica_alone() {
    let world = World::ready(&[P]);
    world.disk.kill();
    let (mut wal, _) =
        Wal::open(world.disk.device(), corduroy_wal::Options { seed: 9, ..small_wal() }).unwrap();
    let garbage = EntryRef { lsn: Lsn(1), term: Term(0), kind: EntryKind::Normal, data: &[9, 9, 9] };
    let hard_state = HardState { term: Term(3), vote: 1, commit: Lsn(8) };
    wal.append(RecordHead { log: Q.log(), ..RecordHead::default() }, [garbage].iter().copied()).unwrap();
    let lost = RecordHead { log: PartitionId(4).log(), hard_state: Some(hard_state), conf: None };
    wal.append(lost, std::iter::empty()).unwrap();
    // A term that cannot be counted up: the crate panics at the election.
    let last_term = HardState { term: Term(u64::MAX), vote: 1, commit: Lsn(0) };
    let conf = Membership::founding(MemberId::FIRST, StorageId(7)).encode();
    let head = RecordHead { log: PartitionId(5).log(), hard_state: Some(last_term), conf: Some(&conf) };
    wal.append(head, std::iter::empty()).unwrap();
    wal.submit().unwrap();
    let mut events = Vec::new();
    wal.poll(&mut events).unwrap();
    drop(wal);
    world.disk.kill();

    let partitions = [P, Q, PartitionId(4), PartitionId(5)];
    let mut after = World::new(&[]);
    after.wal_options.seed = 10;
    after.shard = open_shard(&world.disk, &world.saved, after.options, after.wal_options, &partitions);
    after.request(Q, 1, 1, Kind::Write, "set a 1");
    after.write(1, 2, "set a 1");
    after.settle();
    assert_eq!(after.value(1, 2), "OK");
    assert!(matches!(after.got(1, 1), Some(Got::Unknown | Got::Rejected(Rejection::ReplicaStopped(..)))));
    let mut fenced: Vec<_> = after.fenced.iter().map(|(partition, _)| partition.0).collect();
    fenced.sort_unstable();
    assert_eq!(fenced, [3, 4, 5], "{:?}", after.fenced);
    after.request(Q, 1, 3, Kind::Read, "get a");
    after.turn();
    assert!(matches!(after.got(1, 3), Some(Got::Rejected(Rejection::ReplicaStopped(..)))));
    assert_eq!(after.shard.counters().fenced, 3);
    assert_eq!(after.shard.status().pending_requests, 0);
    assert!(after.shard.is_idle(), "a fenced replica keeps nobody from closing the shard");
    // Nor does it wake anybody for what it cannot log any more.
    let at_ms = after.now.wall_ms + 1000;
    after.shard.machine_mut().alarms.insert(Q.0, at_ms);
    after.shard.machine_mut().announced.push(Q);
    after.settle();
    assert!(after.out.wake_at_ns.is_some());
    after.at(5);
    after.settle();
    after.at(5);
    after.settle();
    assert_eq!((after.out.wake_at_ns, after.shard.counters().times_proposed), (None, 0));
}

#[test]
fn the_log_is_released_after_a_flush_for_all_partitions() {
    let partitions: Vec<_> = (2..100).map(PartitionId).collect();
    let mut world = World::ready(&partitions);
    for partition in &partitions {
        world.request(*partition, 1, partition.0, Kind::Write, "set a 1");
    }
    world.settle();
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.settle();
    for replica in world.shard.status().replicas {
        assert_eq!((replica.applied, replica.released), (Lsn(2), Lsn(2)));
        assert_eq!(world.shard.wal().log_state(replica.partition.log()).unwrap().first, Lsn(3));
    }
}

#[test]
fn a_long_log_asks_for_a_flush() {
    let options = ShardOptions { log_soft_segments: 2, ..ShardOptions::default() };
    let mut world = World::with(options, small_wal(), &[P]);
    world.settle();
    assert_eq!(world.shard.machine().flushes_wanted, 0);
    let value = "v".repeat(100_000);
    for seq in 0..40 {
        world.write(1, seq, &format!("set a{seq} {value}"));
        world.settle();
    }
    assert!(world.shard.machine().flushes_wanted > 0 && !world.shard.machine().is_flush_urgent);
    // The end of a job that persists nothing does not make it short.
    world.request(P, 2, 1, Kind::Read, "get cold");
    world.turn();
    world.run_jobs();
    let before = world.shard.machine().flushes_wanted;
    world.turn();
    assert!(world.shard.machine().flushes_wanted > before);
}

#[test]
fn a_state_that_cannot_be_written_ends_the_shard() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set unwritable 1");
    world.settle();
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    let error = world.shard.turn(world.now, &mut world.out).unwrap_err();
    assert_eq!(error.to_string(), "the state cannot go on: no space left for the state");
    assert!(world.shard.turn(world.now, &mut world.out).is_err(), "for good");
}

#[test]
fn a_failed_log_write_ends_the_shard() {
    let mut world = World::ready(&[P]);
    world.disk.fail_next_write(corduroy_wal::device::mem::WriteFault::Eio);
    world.write(1, 1, "set a 1");
    let ended = (0..5).any(|_| world.shard.turn(world.now, &mut world.out).is_err());
    assert!(ended);
    assert!(world.out.replies.is_empty(), "nothing is acknowledged");
}

#[test]
fn closing_refuses_new_requests_and_finishes_the_others() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set a 1");
    world.shard.close();
    world.write(1, 2, "set a 2");
    assert!(!world.shard.is_idle());
    world.settle();
    assert_eq!(world.value(1, 1), "OK");
    assert!(matches!(world.got(1, 2), Some(Got::Rejected(Rejection::ReplicaStopped(..)))));
    assert!(world.shard.is_idle());
}

#[test]
fn ten_thousand_idle_partitions_start_fast_and_cost_nothing() {
    let partitions: Vec<_> = (2..10_002).map(PartitionId).collect();
    let started = std::time::Instant::now();
    let options = corduroy_wal::Options { segment_bytes: 16 << 20, ..small_wal() };
    let mut world = World::with(ShardOptions::default(), options, &partitions);
    world.settle();
    assert!(partitions.iter().all(|partition| world.is_ready(*partition)));
    assert!(started.elapsed().as_secs() < 5, "starting took {:?}", started.elapsed());
    assert!(world.shard.wal().stats().frames < 20, "they share frames: {:?}", world.shard.wal().stats());
    world.at(1);
    world.turn();
    assert_eq!(world.out.wake_at_ns, None, "no timer runs");
    let idle = std::time::Instant::now();
    world.turns(10_000);
    assert!(idle.elapsed().as_millis() < 1_000, "10,000 idle turns took {:?}", idle.elapsed());
}

#[test]
fn kinds_of_start_are_told_apart() {
    let mut world = World::ready(&[P]);
    assert_eq!(world.shard.status().replicas[0].started_as, StartedAs::Unbootstrapped);
    world.restart(true);
    world.settle();
    let status = world.shard.status();
    assert_eq!(status.replicas[0].started_as, StartedAs::Bootstrapped);
    assert_eq!(status.replicas[0].term, Term(2));
    assert!(Kv::default().parts.is_empty());
}

#[test]
fn no_read_behind_a_write_overtakes_a_cold_one_of_its_connection() {
    let mut world = World::ready(&[P]);
    world.write(1, 0, "set a 1");
    world.read(1, 1, "get cold");
    world.read(1, 2, "get a");
    world.settle();
    assert_eq!(world.value(1, 0), "OK");
    assert_eq!((world.got(1, 1), world.got(1, 2)), (None, None), "the first one waits for a job");
    world.run_jobs();
    world.settle();
    assert_eq!(world.order, [(1, 0), (1, 1), (1, 2)]);
}

#[test]
fn reads_behind_a_write_that_bring_more_than_a_turn_may_hold_go_on_by_themselves() {
    let limits = Limits { outcome_bytes: 150, ..Limits::default() };
    let mut world = World::with(ShardOptions { limits, ..ShardOptions::default() }, small_wal(), &[P]);
    world.settle();
    world.write(1, 0, &format!("set a {}", "x".repeat(100)));
    world.settle();
    world.write(1, 1, "set b 1");
    (2..8).for_each(|seq| world.read(1, seq, "get a"));
    world.settle();
    (2..8).for_each(|seq| assert_eq!(world.value(1, seq), "x".repeat(100)));
}
