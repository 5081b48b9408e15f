//! Many seeds, on one or several threads: each is its own world, so threads change nothing but the time it takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sim::plan::Plan;
use crate::sim::planted::Planted;
use crate::sim::probes::Probes;
use crate::sim::workload::Subject;
use crate::sim::world::{Ending, Report, Watch, run};

/// What to play.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Which seeds.
    pub seeds: Range<u64>,
    /// A bug to switch on.
    pub planted: Option<Planted>,
    /// How many threads.
    pub threads: usize,
    /// Stop at the first seed that fails.
    pub stop_at_first: bool,
    /// Every so many seeds is played twice and its traces are compared; 0 for none.
    pub twice_every: u64,
}

/// What a batch found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds played.
    pub played: u64,
    /// Those among them that were played a second time, to compare the traces.
    pub played_twice: u64,
    /// Seeds that ended in a safe halt.
    pub safe_halts: u64,
    /// Events of all.
    pub events: u64,
    /// The seeds that failed and why, lowest first.
    pub failed: BTreeMap<u64, String>,
    /// Everything that was met.
    pub probes: Probes,
    /// How long it took.
    pub took: Duration,
}

/// Plays a batch.
pub fn play<S: Subject>(batch: &Batch, subject: impl Fn() -> S + Sync) -> Summary {
    play_watched(batch, subject, |_| {})
}

/// Plays a batch; `seen` gets the summary so far after each seed.
pub fn play_watched<S: Subject>(
    batch: &Batch,
    subject: impl Fn() -> S + Sync,
    seen: impl Fn(&Summary) + Sync,
) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(batch.seeds.start);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..batch.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= batch.seeds.end {
                        break;
                    }
                    let (report, failure) = play_one(batch, &subject, seed);
                    let mut summary = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    summary.add(seed, &report, failure);
                    summary.played_twice += u64::from(batch.is_twice(seed));
                    seen(&summary);
                    if batch.stop_at_first && !summary.failed.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.took = started.elapsed();
    summary
}

fn play_one<S: Subject>(batch: &Batch, subject: &impl Fn() -> S, seed: u64) -> (Report, Option<String>) {
    let plan = Plan::draw(seed, batch.planted);
    let report = run(subject(), plan.clone(), Watch::default());
    let mut failure = match &report.ending {
        Ending::Violated(violation) => Some(violation.to_string()),
        Ending::Clean | Ending::SafeHalt(_) => None,
    };
    if batch.is_twice(seed) {
        let again = run(subject(), plan, Watch::default());
        if again.trace_hash != report.trace_hash && failure.is_none() {
            let (first, second) = (report.trace_hash, again.trace_hash);
            failure = Some(format!("equal seeds have equal traces: {first:016x} and {second:016x}"));
        }
    }
    (report, failure)
}

impl Batch {
    /// Whether a seed is played twice.
    const fn is_twice(&self, seed: u64) -> bool {
        self.twice_every > 0 && seed.is_multiple_of(self.twice_every)
    }
}

impl Summary {
    fn add(&mut self, seed: u64, report: &Report, failure: Option<String>) {
        self.played += 1;
        self.events += report.events;
        self.safe_halts += u64::from(matches!(report.ending, Ending::SafeHalt(_)));
        self.probes.merge(&report.probes);
        self.failed.extend(failure.map(|failure| (seed, failure)));
    }
}
