//! Every planted bug is noticed by a small check; without a bug, none is raised.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Got, P, Q, World, small_wal};
use corduroy_shards::planted::{PlantedBug, plant};
use corduroy_shards::raft::replica::StartedAs;
use corduroy_shards::{Input, Kind, Origin, ShardOptions, StateMachine};

fn world() -> World {
    let mut world = World::with(ShardOptions::default(), small_wal(), &[P]);
    world.settle();
    world
}

fn flush(world: &mut World) {
    world.shard.machine_mut().flush();
    world.turn();
    world.run_jobs();
    world.settle();
}

/// Whether the check holds; a panic of the state machine's own assertions is a failure of it.
type Check = fn() -> bool;

fn durable_before_acknowledged() -> bool {
    let mut world = world();
    world.disk.set_manual(true);
    world.write(1, 1, "set a 1");
    world.turns(5);
    world.replies.is_empty()
}

fn hard_state_survives() -> bool {
    let mut world = world();
    world.restart(true);
    world.settle();
    world.shard.status().replicas.iter().all(|replica| replica.started_as == StartedAs::Bootstrapped)
}

fn restart_applies_each_entry_once() -> bool {
    let mut world = world();
    world.write(1, 1, "append a 1");
    world.settle();
    world.shard.machine_mut().flush();
    world.turn();
    // The state is saved, but the process dies before the log hears of it.
    for job in std::mem::take(&mut world.jobs) {
        world.shard.machine_mut().job_done(job).expect("the state is saved");
    }
    world.write(1, 2, "append a 2");
    world.settle();
    world.restart(true);
    world.settle();
    world.check_history();
    world.key("a").as_deref() == Some("12")
}

fn outcomes_are_their_own() -> bool {
    let mut world = world();
    world.write(1, 1, "append a x");
    world.write(2, 1, "append a y");
    world.settle();
    (world.value(1, 1), world.value(2, 1)) == ("x".into(), "xy".into())
}

fn reads_see_earlier_writes() -> bool {
    let mut world = world();
    world.write(1, 1, "set a 1");
    world.read(1, 2, "get a");
    world.settle();
    world.value(1, 2) == "1"
}

fn reads_at_once_see_what_was_applied_before() -> bool {
    let mut world = world();
    world.write(1, 1, "set a 1");
    world.settle();
    world.restart(true);
    let at_once = world.read_now(P, 2, "get a");
    world.settle();
    at_once.is_none() && world.read_now(P, 2, "get a").as_deref() == Some("1")
}

fn every_request_has_one_outcome() -> bool {
    let mut world = world();
    for seq in 0..200 {
        world.write(1, seq, "set a 1");
    }
    world.settle();
    (0..200).all(|seq| matches!(world.replies.get(&(1, seq)).map(Vec::as_slice), Some([Got::Done(..)])))
}

fn the_log_keeps_what_is_not_persisted() -> bool {
    let mut world = world();
    flush(&mut world);
    world.write(1, 1, "set a 1");
    world.request(P, 2, 1, Kind::Read, "get cold");
    world.settle();
    world.run_jobs();
    world.settle();
    let first = world.shard.wal().log_state(P.log()).expect("the log is there").first;
    first <= world.shard.machine().persisted(P).next()
}

fn stamps_are_monotone() -> bool {
    let mut world = world();
    world.write(1, 1, "clock");
    world.settle();
    world.now.wall_ms -= 10_000;
    world.write(1, 2, "clock");
    world.settle();
    world.value(1, 2) >= world.value(1, 1)
}

fn clocks_keep_time() -> bool {
    let mut world = world();
    world.write(1, 1, "clock");
    world.settle();
    world.now.wall_ms -= 3_600_000;
    let start_ms: u64 = world.value(1, 1).parse().expect("a time");
    world.at(50);
    world.read(1, 2, "clock");
    world.write(1, 3, "clock");
    world.settle();
    let passed_ms = [2, 3].map(|seq| world.value(1, seq).parse::<u64>().expect("a time") - start_ms);
    world.read_now(P, 1, "clock") == Some(world.value(1, 2)) && passed_ms == [49_950; 2]
}

/// Q's record is on its way when P's replica gets Q's slot: that it arrives says nothing of P's records.
fn records_are_their_own_replicas() -> bool {
    let mut world = World::with(ShardOptions::default(), small_wal(), &[P, Q]);
    world.settle();
    world.disk.set_manual(true);
    world.request(Q, 1, 1, Kind::Write, "set a 1");
    world.turn();
    assert!(world.shard.remove(P) && world.shard.remove(Q));
    assert!(world.shard.add(P, &Origin::Restart, 9).expect("its log is whole"));
    world.turn();
    assert!(world.disk.complete_next());
    world.turns(3);
    !world.is_ready(P) && world.fenced.is_empty()
}

const CHECKS: [(&str, Check); 11] = [
    ("durable before acknowledged", durable_before_acknowledged),
    ("hard state survives", hard_state_survives),
    ("restart applies each entry once", restart_applies_each_entry_once),
    ("outcomes are their own", outcomes_are_their_own),
    ("reads see earlier writes", reads_see_earlier_writes),
    ("reads at once see what was applied before", reads_at_once_see_what_was_applied_before),
    ("every request has one outcome", every_request_has_one_outcome),
    ("the log keeps what is not persisted", the_log_keeps_what_is_not_persisted),
    ("stamps are monotone", stamps_are_monotone),
    ("clocks keep time", clocks_keep_time),
    ("records are their own replica's", records_are_their_own_replicas),
];

fn failed(bug: Option<PlantedBug>) -> Vec<&'static str> {
    let holds = |check: Check| {
        plant(bug);
        let holds = catch_unwind(AssertUnwindSafe(check)).unwrap_or(false);
        plant(None);
        holds
    };
    CHECKS.iter().filter(|(_, check)| !holds(*check)).map(|(name, _)| *name).collect()
}

#[test]
fn without_a_bug_every_check_holds() {
    assert_eq!(failed(None), [""; 0]);
}

#[test]
fn every_planted_bug_fails_the_check_made_for_it() {
    for bug in PlantedBug::ALL {
        let expected = match bug {
            PlantedBug::AckBeforeDurable => "durable before acknowledged",
            PlantedBug::SkipHardState => "hard state survives",
            PlantedBug::DoubleApplyAfterRestart | PlantedBug::SkipTailAfterRestart => {
                "restart applies each entry once"
            }
            PlantedBug::SwapReplies => "outcomes are their own",
            PlantedBug::ReadOvertakesWrite => "reads see earlier writes",
            PlantedBug::ReadAtOnceTooEarly => "reads at once see what was applied before",
            PlantedBug::LostOutcome | PlantedBug::SecondOutcome => "every request has one outcome",
            PlantedBug::ReleaseUnpersisted => "the log keeps what is not persisted",
            PlantedBug::StampGoesBack => "stamps are monotone",
            PlantedBug::ClockStandsStill => "clocks keep time",
            PlantedBug::StaleReplicaIndex => "records are their own replica's",
            // It takes several members to meet these, or one that has such: the simulator finds them (`tests/sim`).
            PlantedBug::MessagesBeforeDurable
            | PlantedBug::CommitWithoutMajority
            | PlantedBug::AppliedBeforeDurable
            | PlantedBug::RestartCommitsAll
            | PlantedBug::UnknownCalledRefused
            | PlantedBug::StampBelowLog
            | PlantedBug::ReadsByWallClock
            | PlantedBug::LogBeforeState
            | PlantedBug::RefusalFences
            | PlantedBug::RecordOverfilled
            | PlantedBug::ReleasedForPeers
            | PlantedBug::TermsOffByOne
            | PlantedBug::DeafLeads
            | PlantedBug::VoteForgotten
            | PlantedBug::CommitNeedsAll
            | PlantedBug::RoundSkipped
            | PlantedBug::ReadRidesAlong
            | PlantedBug::RoundNotRepeated
            | PlantedBug::ContextReused
            | PlantedBug::EmptiedChangeDone
            | PlantedBug::JointNeverLeft
            | PlantedBug::DemotedLeads
            | PlantedBug::ChangeMadeAgain
            | PlantedBug::ConfigurationNotSaved
            | PlantedBug::LeaseFromAnswer
            | PlantedBug::LeaseKeptInTransfer
            | PlantedBug::RestartedVotesAtOnce
            | PlantedBug::IndexIgnored
            | PlantedBug::StaleForEver
            | PlantedBug::ImageConfigurationIgnored
            | PlantedBug::ImageStatusUnreported
            | PlantedBug::ImageChunkSkipped
            | PlantedBug::DeathUnnoticed
            | PlantedBug::SleepsOn
            | PlantedBug::LeaseAsleep => continue,
        };
        let failed = failed(Some(bug));
        assert!(failed.contains(&expected), "{bug:?} failed only {failed:?}");
    }
}

#[test]
fn a_job_that_ends_after_a_restart_is_not_mixed_up() {
    let mut world = world();
    world.read(1, 1, "get cold");
    world.settle();
    let jobs = std::mem::take(&mut world.jobs);
    world.restart(true);
    world.settle();
    world.read(2, 1, "get cold");
    world.settle();
    for job in jobs {
        world.shard.handle(Input::JobDone(job));
    }
    world.settle();
    assert_eq!(world.value(2, 1), "nil");
}
