//! Repeated rounds, their median and their spread.

use std::time::{Duration, Instant};

/// How often each thing is measured. Rounds are many and short and the variants take turns within each, so that a
/// drift of the disk, which is larger than what is to be measured, hits all of them alike.
pub const ROUNDS: usize = 40;

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

    /// Half of the distance between the quartiles, in percent of the median.
    pub fn spread_percent(&self) -> f64 {
        spread_percent(&self.rates)
    }

    /// How many times the rate of `other` this is: the median over the rounds' own ratios, and its standard error in
    /// percent of it.
    pub fn ratio_to(&self, other: &Self) -> (f64, f64) {
        let ratios: Vec<_> =
            self.rates.iter().zip(&other.rates).map(|(ours, theirs)| ours / theirs).collect();
        // For the middle of a bell curve: a quartile lies 0.674 deviations off, the median's error is 1.253 / sqrt(n).
        let error = spread_percent(&ratios) / 0.674 * 1.253 / (ratios.len() as f64).sqrt();
        (median(&ratios), error)
    }
}

fn quantile(values: &[f64], of: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * of).round() as usize]
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn spread_percent(values: &[f64]) -> f64 {
    50.0 * (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)
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
