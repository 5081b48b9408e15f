//! What a thread measures: latencies by kind of request, throughput over time, errors. Merged at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::plan::Op;

/// Width of a bin of throughput over time, ns.
pub const BIN_NS: u64 = 100_000_000;

/// Highest latency recorded as itself, ns: ten minutes.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// Latencies of one kind of request, ns.
pub type Latencies = Histogram<u64>;

/// Answers in one tenth of a second.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Bin {
    /// Answers, errors included.
    pub answers: u64,
    /// The slowest of them, ns.
    pub slowest_ns: u64,
}

/// Error replies of one kind.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// The first one, whole.
    pub example: String,
}

/// What one thread, or all of them, measured.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    latencies: BTreeMap<Op, Latencies>,
    /// Answers over time, from the end of the warm-up.
    pub bins: Vec<Bin>,
    /// Answers without an error.
    pub answers: u64,
    /// Error replies by their first word.
    pub errors: BTreeMap<String, Errors>,
    /// Replies that cannot be right: what and how often.
    pub violations: BTreeMap<String, Errors>,
    /// Requests that were sent and never answered.
    pub unanswered: u64,
    /// Requests that fell due and could not be sent (open loop: the server did not keep up).
    pub unsent: u64,
    /// Connections that the server closed.
    pub disconnects: u64,
    /// Requests sent.
    pub sent: u64,
    /// Time from the end of the warm-up to the last answer, ns.
    pub elapsed_ns: u64,
}

impl Recorder {
    /// Takes an answer that came `at_ns` after the warm-up's end.
    pub fn answer(&mut self, op: Op, at_ns: u64, latency_ns: u64) {
        self.answers += 1;
        self.bin(at_ns, latency_ns);
        self.latencies.entry(op).or_insert_with(new_latencies).saturating_record(latency_ns.max(1));
    }

    /// Takes an error reply.
    pub fn error(&mut self, at_ns: u64, latency_ns: u64, text: &[u8]) {
        self.bin(at_ns, latency_ns);
        let text = String::from_utf8_lossy(text);
        let word = text.split(' ').next().unwrap_or_default();
        tally(&mut self.errors, word, &text);
    }

    /// Takes a reply that cannot be right.
    pub fn violation(&mut self, what: &str, example: String) {
        tally(&mut self.violations, what, &example);
    }

    fn bin(&mut self, at_ns: u64, latency_ns: u64) {
        let at = (at_ns / BIN_NS) as usize;
        if at >= self.bins.len() {
            self.bins.resize(at + 1, Bin::default());
        }
        if let Some(bin) = self.bins.get_mut(at) {
            bin.answers += 1;
            bin.slowest_ns = bin.slowest_ns.max(latency_ns);
        }
        self.elapsed_ns = self.elapsed_ns.max(at_ns);
    }

    /// Takes in what another thread measured.
    pub fn merge(&mut self, other: &Recorder) {
        for (op, latencies) in &other.latencies {
            let mine = self.latencies.entry(*op).or_insert_with(new_latencies);
            mine.add(latencies).expect("all histograms have the same bounds");
        }
        if self.bins.len() < other.bins.len() {
            self.bins.resize(other.bins.len(), Bin::default());
        }
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            mine.answers += theirs.answers;
            mine.slowest_ns = mine.slowest_ns.max(theirs.slowest_ns);
        }
        for (mine, theirs) in [(&mut self.errors, &other.errors), (&mut self.violations, &other.violations)] {
            for (word, errors) in theirs {
                let entry = mine.entry(word.clone()).or_insert_with(|| Errors { count: 0, ..errors.clone() });
                entry.count += errors.count;
            }
        }
        self.answers += other.answers;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.disconnects += other.disconnects;
        self.sent += other.sent;
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
    }

    /// The latencies by kind.
    #[must_use]
    pub fn latencies(&self) -> &BTreeMap<Op, Latencies> {
        &self.latencies
    }

    /// The latencies of all kinds together.
    #[must_use]
    pub fn all_latencies(&self) -> Latencies {
        let mut all = new_latencies();
        for latencies in self.latencies.values() {
            all.add(latencies).expect("all histograms have the same bounds");
        }
        all
    }

    /// Error replies.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.errors.values().map(|errors| errors.count).sum()
    }

    /// Replies that cannot be right.
    #[cfg(test)]
    #[must_use]
    pub fn violation_count(&self) -> u64 {
        self.violations.values().map(|errors| errors.count).sum()
    }
}

fn tally(table: &mut BTreeMap<String, Errors>, word: &str, example: &str) {
    match table.get_mut(word) {
        Some(errors) => errors.count += 1,
        None => {
            table.insert(word.to_owned(), Errors { count: 1, example: example.to_owned() });
        }
    }
}

/// An empty histogram: 1 ns to ten minutes, three digits.
#[must_use]
pub fn new_latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid")
}

/// What a thread reports to the progress line, once a round.
#[derive(Debug, Default)]
pub struct Progress {
    /// Answers so far, errors included.
    pub answers: AtomicU64,
    /// Error replies so far.
    pub errors: AtomicU64,
    /// The slowest answer since it was last looked at, ns.
    pub slowest_ns: AtomicU64,
}

impl Progress {
    /// Adds what a round brought.
    pub fn add(&self, answers: u64, errors: u64, slowest_ns: u64) {
        self.answers.fetch_add(answers, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
        self.slowest_ns.fetch_max(slowest_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let mut recorder = Recorder::default();
        for latency in 1..=100_000_u64 {
            recorder.answer(Op::Get, latency * 1000, latency * 1000);
        }
        let latencies = recorder.all_latencies();
        for (quantile, expected) in [(0.5, 50_000_000.0), (0.99, 99_000_000.0), (1.0, 100_000_000.0)] {
            let seen = latencies.value_at_quantile(quantile) as f64;
            assert!((seen / expected - 1.0).abs() < 0.001, "{quantile}: {seen}");
        }
        assert_eq!(recorder.bins.iter().map(|bin| bin.answers).sum::<u64>(), 100_000);
    }

    #[test]
    fn threads_are_put_together() {
        let (mut a, mut b) = (Recorder::default(), Recorder::default());
        a.answer(Op::Set, 1, 10);
        b.answer(Op::Set, BIN_NS, 30);
        b.answer(Op::Get, BIN_NS, 20);
        b.error(BIN_NS, 5, b"DISKFULL no space");
        b.violation("wrong type", "+OK to GET".to_owned());
        a.merge(&b);
        a.merge(&b);
        assert_eq!((a.answers, a.error_count(), a.violation_count()), (5, 2, 2));
        assert_eq!(a.errors["DISKFULL"].example, "DISKFULL no space");
        assert_eq!(a.all_latencies().len(), 5);
        assert_eq!(a.bins, [Bin { answers: 1, slowest_ns: 10 }, Bin { answers: 6, slowest_ns: 30 }]);
    }
}
