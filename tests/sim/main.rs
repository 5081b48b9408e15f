//! The simulator in the gate: fresh worlds are clean, planted bugs are found, equal seeds have equal traces, and every
//! run that once failed is played again.

mod subject;
mod waits;

use corduroy_shards::sim::{Batch, Ending, Plan, Planted, Watch, play, run};
use subject::StoreSubject;

/// What a batch must have met, and how often at least: a world in which nothing goes wrong proves nothing.
const WANTED: &[(&str, u64)] = &[
    ("crashes", 1000),
    ("crashes with writes in flight", 200),
    ("crashes during jobs", 200),
    ("writes torn at a crash", 100),
    ("writes lost at a crash", 50),
    ("torn tails", 50),
    ("openings cut off", 50),
    ("poisoned exits", 15),
    ("stalls longer than an election timeout", 40),
    ("bits flipped, anywhere", 20),
    ("bits flipped, unacknowledged", 10),
    ("safe halts", 2),
    ("clock jumps", 200),
    ("stops in order", 500),
    ("replication switched off", 20),
    ("replication switched on", 20),
    ("flushes", 3000),
    ("flushes undone", 16),
    ("looks at a full state", 500),
    ("machines counted anew", 20_000),
    ("disk images judged", 20),
    ("ops applied again after a restart", 20_000),
    ("rows dropped from memory", 200),
    ("rows read on the core", 500),
    ("applies blocked", 1000),
    ("reads blocked", 500),
    ("reads answered at once", 5000),
    ("looks in vain", 10_000),
    ("reads parked", 1000),
    ("expired keys removed", 500),
    ("bytes rewritten by reclaim", 100_000),
    ("spares given back", 20),
    ("segments recovered by footer", 2000),
    ("rejected: disk full", 100),
    ("rejected: overloaded", 5000),
    ("outcome unknown", 40),
    ("entries of time", 500),
    ("clocks ahead", 100),
    ("replicas taken off while the disk writes", 500),
    ("replicas opened again", 1000),
    ("replicas that had to wait for their records", 100),
    ("rows damaged", 50),
    ("reads of what is damaged", 8),
    ("proposals of what is damaged", 4),
    ("rejected: damaged", 10),
    ("leaders elected", 5000),
    ("logs cut back", 2),
    ("entries read back for members", 2000),
    ("members that come back", 4),
    ("replicas deleted for nobody", 2),
    ("messages refused", 100),
    ("rejected: not the leader", 10_000),
    ("rejected: no leader", 400),
    ("cuts", 80),
    ("pauses", 80),
    ("slow disks", 30),
    ("frames lost", 2000),
    ("frames changed", 300),
    ("frames cut off", 10_000),
    ("frames doubled", 3000),
    ("frames overtaken", 2500),
    ("frames replayed", 3000),
    ("frames to nobody", 1000),
    ("quorums healed", 50),
    ("replicas compared", 5000),
    ("full disks in groups", 20),
    ("images begun", 150),
    ("chunks stored", 300),
    ("parts of images lost", 20),
    ("images dropped by who gets them", 10),
    ("images installed", 100),
    ("crashes during installs", 3),
    ("members that join", 50),
    ("members that come back", 4),
    ("members changed", 80),
    ("leads handed on", 10),
    ("replicas removed", 5),
    ("requests about members refused", 80),
    ("groups fallen asleep", 5000),
    ("groups woken by peers", 500),
    ("leaders fallen asleep", 1000),
    ("leaders woken by a proposal", 500),
    ("leaders woken", 500),
    ("followers woken", 2000),
    ("followers woken without a leader", 5),
    ("leaders that died asleep", 150),
];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn worlds_are_clean_and_not_idle() {
    let batch =
        Batch { seeds: 0..400, planted: None, threads: threads(), stop_at_first: true, twice_every: 10 };
    let summary = play(&batch, StoreSubject::default);
    println!("{}{} seeds in {:?}", summary.probes, summary.played, summary.took);
    assert_eq!(summary.failed, std::collections::BTreeMap::new());
    assert_eq!(summary.probes.too_rare(WANTED), vec![], "(probe, times met)");
}

/// Planted bugs that are found fastest, one for each kind of guard, and the number of seeds among which they must be.
const FASTEST: [(&str, u64); 23] = [
    ("wal:AckBeforeDurable", 20),
    ("wal:StaleFrameAccepted", 20),
    ("wal:WatermarkSkipsHole", 60),
    ("shard:SkipHardState", 20),
    ("shard:ReadOvertakesWrite", 20),
    ("shard:ReadAtOnceTooEarly", 60),
    ("shard:StaleReplicaIndex", 60),
    ("shard:MessagesBeforeDurable", 60),
    ("shard:CommitWithoutMajority", 60),
    ("shard:UnknownCalledRefused", 20),
    ("shard:ReadsByWallClock", 20),
    ("shard:ReleasedForPeers", 60),
    ("shard:TermsOffByOne", 60),
    ("shard:DeafLeads", 200),
    ("shard:VoteForgotten", 60),
    ("shard:CommitNeedsAll", 20),
    ("shard:DeathUnnoticed", 20),
    ("shard:ImageStatusUnreported", 40),
    ("shard:ImageConfigurationIgnored", 40),
    ("machine:PersistedTooEarly", 20),
    ("machine:RetryForgotten", 80),
    ("machine:DamageServed", 120),
    ("machine:LostOnFollowers", 60),
];

#[test]
fn planted_bugs_are_found() {
    for (name, seeds) in FASTEST {
        let planted = Planted::named(name).expect("a bug of this name");
        let batch = Batch {
            seeds: 0..seeds,
            planted: Some(planted),
            threads: threads(),
            stop_at_first: true,
            twice_every: 0,
        };
        let summary = play(&batch, StoreSubject::default);
        assert!(!summary.failed.is_empty(), "{name} was not found among {seeds} seeds");
    }
}

#[test]
fn what_failed_once_is_played_again() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/regressions");
    let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "plan"));
    names.sort();
    assert!(!names.is_empty(), "no plans in {folder}");
    for path in names {
        let plan = Plan::decode(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let planted = plan.planted;
        let report = run(StoreSubject::default(), plan, Watch::default());
        match (planted, &report.ending) {
            (None, Ending::Violated(violation)) => panic!("{}: {violation}", path.display()),
            (Some(planted), Ending::Clean | Ending::SafeHalt(_)) => {
                panic!("{}: {} is not found any more", path.display(), planted.name())
            }
            _ => {}
        }
    }
}
