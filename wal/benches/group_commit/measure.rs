//! Repeated rounds, their median and their spread.

use std::time::{Duration, Instant};

/// How often each thing is measured; the variants take turns, so that a drift of the disk hits all of them.
pub const ROUNDS: usize = 5;

/// Rates of one variant, in operations a second.
#[derive(Debug, Default)]
pub struct Series {
    rates: Vec<f64>,
    latencies_us: Vec<f64>,
}

impl Series {
    pub fn push(&mut self, round: Round) {
        self.rates.push(round.rate);
        self.latencies_us.push(round.p50_us);
    }

    pub fn median(&self) -> f64 {
        median(&self.rates)
    }

    pub fn median_latency_us(&self) -> f64 {
        median(&self.latencies_us)
    }

    /// Half of the distance between the lowest and the highest, in percent of the median.
    pub fn spread_percent(&self) -> f64 {
        let (low, high) = self.rates.iter().fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(*r), h.max(*r)));
        50.0 * (high - low) / self.median()
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// One round's outcome.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub rate: f64,
    pub p50_us: f64,
}

/// Collects the times of one round.
#[derive(Debug)]
pub struct Clock {
    begun: Instant,
    length: Duration,
    latencies: Vec<Duration>,
}

impl Clock {
    pub fn start(length: Duration) -> Self {
        Self { begun: Instant::now(), length, latencies: Vec::with_capacity(1 << 16) }
    }

    pub fn running(&self) -> bool {
        self.begun.elapsed() < self.length
    }

    pub fn record(&mut self, latency: Duration) {
        self.latencies.push(latency);
    }

    /// The round's outcome when each recorded time stands for one operation.
    pub fn finish(mut self) -> Round {
        let elapsed = self.begun.elapsed().as_secs_f64();
        assert!(!self.latencies.is_empty(), "a round without a single operation");
        self.latencies.sort_unstable();
        let p50 = self.latencies[self.latencies.len() / 2];
        Round { rate: self.latencies.len() as f64 / elapsed, p50_us: p50.as_secs_f64() * 1e6 }
    }
}
