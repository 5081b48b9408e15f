//! LATENCY: when something took longer than `latency-monitor-threshold`, and how long. One for the node.
//!
//! Invariant: while the threshold is 0 nothing is kept, and asking whether something was slow is one load.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod graph;

/// Samples that are kept of an event, as in Redis.
const MAX_SAMPLES: usize = 160;

/// What may take long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlowEvent {
    /// A command, from when it came until its reply was there.
    Command,
    /// One of those that are never slow by themselves (COMMAND INFO's flag `fast`).
    FastCommand,
    /// A write of the log, from when it was handed to the disk until it was durable.
    LogWrite,
    /// A turn of a shard: meanwhile its core does nothing else.
    ShardTurn,
    /// Writes that waited for a flush of the state, since they outran it.
    FlushWait,
}

impl SlowEvent {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Command, Self::FastCommand, Self::LogWrite, Self::ShardTurn, Self::FlushWait];

    /// Of a command that is flagged as fast, or not.
    #[must_use]
    pub const fn of(is_fast: bool) -> Self {
        if is_fast { Self::FastCommand } else { Self::Command }
    }

    /// As LATENCY calls it. Redis's name where it has the same event.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::FastCommand => "fast-command",
            Self::LogWrite => "aof-fsync-always",
            Self::ShardTurn => "shard-turn",
            Self::FlushWait => "flush-wait",
        }
    }

    /// What helps against it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Command | Self::FastCommand => {
                "SLOWLOG GET shows which commands they were, SLOWLOG STAGES where their time went."
            }
            Self::LogWrite => {
                "The disk took long to make writes durable: compare the ways of wal.sync, and look for others that use the \
                 same disk."
            }
            Self::ShardTurn => {
                "A core was busy or was not given its CPU: look for commands over many keys or large values, and for other \
                 processes on the CPUs of --cores."
            }
            Self::FlushWait => {
                "Writes came faster than the state could be flushed to the disk: spread them over time, use a faster disk, \
                 or let more wait in memory (memory_bytes)."
            }
        }
    }
}

/// The longest of its kind in one second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Seconds since 1970.
    pub at_s: u64,
    /// How long it took.
    pub ms: u64,
}

/// What is known of an event.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Series {
    /// The oldest first.
    pub samples: VecDeque<Sample>,
    /// The longest ever, ms.
    pub max_ms: u64,
}

impl Series {
    fn add(&mut self, at_s: u64, ms: u64) {
        self.max_ms = self.max_ms.max(ms);
        if let Some(last) = self.samples.back_mut().filter(|last| last.at_s == at_s) {
            last.ms = last.ms.max(ms);
            return;
        }
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at_s, ms });
    }

    /// Its samples in figures.
    #[must_use]
    pub fn figures(&self, now_s: u64) -> Figures {
        let count = self.samples.len() as u64;
        let each = count.max(1);
        let average_ms = self.samples.iter().map(|sample| sample.ms).sum::<u64>() / each;
        let deviation_ms =
            self.samples.iter().map(|sample| sample.ms.abs_diff(average_ms)).sum::<u64>() / each;
        let oldest_s = self.samples.front().map_or(now_s, |sample| sample.at_s);
        Figures {
            count,
            average_ms,
            deviation_ms,
            period_s: now_s.saturating_sub(oldest_s) as f64 / each as f64,
        }
    }
}

/// See [`Series::figures`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figures {
    /// How many samples there are.
    pub count: u64,
    /// Their average.
    pub average_ms: u64,
    /// How far they are from it, on average.
    pub deviation_ms: u64,
    /// Seconds from one to the next.
    pub period_s: f64,
}

/// See the file's head.
#[derive(Default, Debug)]
pub struct Latency {
    threshold_ms: AtomicU64,
    series: Mutex<[Series; SlowEvent::ALL.len()]>,
}

impl Latency {
    fn lock(&self) -> MutexGuard<'_, [Series; SlowEvent::ALL.len()]> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets from which length on something is kept; 0: nothing is.
    pub fn set_threshold_ms(&self, ms: u64) {
        self.threshold_ms.store(ms, Relaxed);
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.threshold_ms.load(Relaxed) > 0
    }

    /// Keeps what took so long, if that is too long.
    #[inline]
    pub fn note(&self, event: SlowEvent, took_ns: u64, now_ms: u64) {
        let threshold_ms = self.threshold_ms.load(Relaxed);
        if threshold_ms > 0 && took_ns / 1_000_000 >= threshold_ms {
            self.keep(event, took_ns / 1_000_000, now_ms);
        }
    }

    #[cold]
    fn keep(&self, event: SlowEvent, took_ms: u64, now_ms: u64) {
        let [command, fast, log, turn, flush] = &mut *self.lock();
        let series = match event {
            SlowEvent::Command => command,
            SlowEvent::FastCommand => fast,
            SlowEvent::LogWrite => log,
            SlowEvent::ShardTurn => turn,
            SlowEvent::FlushWait => flush,
        };
        series.add(now_ms / 1000, took_ms);
    }

    /// The events that have samples.
    #[must_use]
    pub fn events(&self) -> Vec<(SlowEvent, Series)> {
        let series = self.lock();
        let known = SlowEvent::ALL.into_iter().zip(&*series).filter(|(_, series)| !series.samples.is_empty());
        known.map(|(event, series)| (event, series.clone())).collect()
    }

    /// Forgets the samples of the events that are `wanted`. How many had any.
    pub fn reset(&self, wanted: impl Fn(SlowEvent) -> bool) -> usize {
        let mut series = self.lock();
        let known = SlowEvent::ALL.into_iter().zip(&mut *series);
        let known = known.filter(|(event, series)| wanted(*event) && !series.samples.is_empty());
        known.map(|(_, series)| *series = Series::default()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn nothing_is_kept_below_the_threshold_or_without_one() {
        let latency = Latency::default();
        latency.note(SlowEvent::Command, u64::MAX, 1000);
        latency.set_threshold_ms(100);
        latency.note(SlowEvent::Command, 100 * MS - 1, 1000);
        assert!(latency.events().is_empty() && latency.is_on());
        latency.note(SlowEvent::Command, 100 * MS, 1000);
        assert_eq!(latency.events().len(), 1);
    }

    #[test]
    fn a_second_has_one_sample_its_longest_and_the_oldest_go() {
        let latency = Latency::default();
        latency.set_threshold_ms(1);
        for (at_s, ms) in (0..200).flat_map(|at_s| [(at_s, 5), (at_s, 7), (at_s, 6)]) {
            latency.note(SlowEvent::LogWrite, ms * MS, at_s * 1000);
        }
        latency.note(SlowEvent::LogWrite, 3 * MS, 200_000);
        let events = latency.events();
        let [(SlowEvent::LogWrite, series)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(series.samples.len(), MAX_SAMPLES);
        assert_eq!(series.samples.front(), Some(&Sample { at_s: 41, ms: 7 }));
        assert_eq!(series.samples.back(), Some(&Sample { at_s: 200, ms: 3 }));
        assert_eq!(series.max_ms, 7);
    }

    #[test]
    fn events_are_forgotten_one_by_one_or_all() {
        let latency = Latency::default();
        latency.set_threshold_ms(1);
        SlowEvent::ALL.into_iter().for_each(|event| latency.note(event, 5 * MS, 1000));
        assert_eq!(latency.reset(|event| event == SlowEvent::ShardTurn), 1);
        assert_eq!(latency.reset(|event| event == SlowEvent::ShardTurn), 0);
        assert_eq!(latency.reset(|_| true), SlowEvent::ALL.len() - 1);
        assert!(latency.events().is_empty());
    }

    #[test]
    fn figures_add_up() {
        let mut series = Series::default();
        [(10, 100), (20, 200), (30, 600)].into_iter().for_each(|(at_s, ms)| series.add(at_s, ms));
        let figures = Figures { count: 3, average_ms: 300, deviation_ms: 200, period_s: 10.0 };
        assert_eq!(series.figures(40), figures);
    }
}
