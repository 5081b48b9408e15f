//! raft-engine, appending the same batches with sync on: one thread a writer, as its users run it.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::measure::Round;

#[derive(Clone)]
struct Typed;

impl MessageExt for Typed {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

type Rival = Engine;

/// How long it runs before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// An engine, and how far each writer's log has come.
pub struct RaftEngine {
    engine: Rival,
    next: Vec<u64>,
}

impl RaftEngine {
    /// Its defaults, but for compression: the payload is noise, and ours does not compress. With `prefill` the
    /// files are zero-written beforehand, which is off by default.
    pub fn new(folder: &Path, writers: usize, prefill: bool) -> Self {
        let dir = folder.join(format!("raft-engine-{writers}-{prefill}"));
        let config = Config {
            dir: dir.to_str().unwrap().to_owned(),
            batch_compression_threshold: ReadableSize(0),
            prefill_for_recycle: prefill,
            prefill_limit: prefill.then(|| ReadableSize::mb(512)),
            ..Config::default()
        };
        let mut rival = Self { engine: Engine::open(config).unwrap(), next: vec![1; writers] };
        rival.run(&[0x5a; 4 << 10], WARM_UP);
        rival
    }

    /// Every writer appends one entry after another, each synced, for `length`.
    pub fn run(&mut self, payload: &[u8], length: Duration) -> Round {
        let engine = &self.engine;
        let barrier = Barrier::new(self.next.len());
        let begun = Instant::now();
        let mut latencies: Vec<Duration> = thread::scope(|scope| {
            let writers: Vec<_> = (1_u64..)
                .zip(&mut self.next)
                .map(|(group, next)| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        write(engine, group, next, payload, length)
                    })
                })
                .collect();
            writers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let elapsed = begun.elapsed().as_secs_f64();
        for (group, next) in (1_u64..).zip(&self.next) {
            self.engine.compact_to(group, next.saturating_sub(16));
        }
        self.engine.purge_expired_files().unwrap();
        latencies.sort_unstable();
        let p50_us = latencies[latencies.len() / 2].as_secs_f64() * 1e6;
        Round { rate: latencies.len() as f64 / elapsed, p50_us }
    }
}

fn write(engine: &Rival, group: u64, next: &mut u64, payload: &[u8], length: Duration) -> Vec<Duration> {
    let begun = Instant::now();
    let mut latencies = Vec::with_capacity(1 << 15);
    let mut batch = LogBatch::default();
    let mut entry = Entry { term: 1, data: payload.to_vec().into(), ..Entry::default() };
    while begun.elapsed() < length {
        entry.index = *next;
        let start = Instant::now();
        batch.add_entries::<Typed>(group, std::slice::from_ref(&entry)).unwrap();
        engine.write(&mut batch, true).unwrap();
        latencies.push(start.elapsed());
        *next += 1;
    }
    latencies
}
