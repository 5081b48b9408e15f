//! Counters of what a run went through, so that a batch that never meets a fault cannot pass for a good one.

use std::collections::BTreeMap;
use std::fmt;

use crate::sim::node::SimShard;
use crate::sim::workload::Subject;

/// Named counters; the order of printing is that of the names.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Probes {
    counts: BTreeMap<&'static str, u64>,
}

impl Probes {
    /// One more of `name`.
    pub fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// `count` more of `name`.
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.counts.entry(name).or_default() += count;
    }

    /// Adds what a shard counted while it ran.
    pub(super) fn of_shard<S: Subject>(&mut self, shard: &SimShard<S>) {
        let counters = shard.counters();
        self.add("turns", counters.turns);
        self.add("entries applied", counters.entries_applied);
        self.add("entries of time", counters.times_proposed);
        self.add("clocks ahead", counters.clocks_ahead);
        self.add("reads parked", counters.reads_parked);
        self.add("read tries", counters.read_tries);
        self.add("apply tries", counters.apply_tries);
        self.add("prepare tries", counters.prepare_tries);
        self.add("ready timeouts", counters.ready_timeouts);
        self.add("messages refused", counters.refused_messages);
        self.add("groups fallen asleep", counters.fallen_asleep);
        self.add("groups woken by peers", counters.woken_by_peers);
        let stats = shard.wal().stats();
        self.add("frames", stats.frames);
        self.add("bytes rewritten by reclaim", stats.rewritten_bytes);
        self.add("entries rewritten by reclaim", stats.rewritten_entries);
        self.add("spares given back", stats.spares_given_back);
    }

    /// How often `name` was met.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            self.add(name, *count);
        }
    }

    /// Of `(name, least)`, those that were met less often, with what they reached.
    #[must_use]
    pub fn too_rare(&self, wanted: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
        let rare = wanted.iter().filter(|(name, least)| self.get(name) < *least);
        rare.map(|(name, _)| (*name, self.get(name))).collect()
    }
}

impl fmt::Display for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.counts {
            writeln!(f, "{count:>10}  {name}")?;
        }
        Ok(())
    }
}
