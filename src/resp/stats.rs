//! Counters of commands, one set a core. Written by their core alone, read by any: INFO adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

/// Different error prefixes that are counted; more are counted as one.
const MAX_ERROR_KINDS: usize = 128;

/// Adds to a counter that only one thread writes: no locked instruction is needed.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Times from 1 ns to 1 s have buckets of their own, as in Redis; longer ones count as 1 s.
const LONGEST_NS: u64 = 1_000_000_000;

/// How long the calls of one command took.
#[derive(Clone, Debug)]
pub struct Times {
    /// To carry out.
    pub ran: Histogram<u64>,
    /// From parsing to the reply, the wait for the disk included.
    pub took: Histogram<u64>,
}

impl Default for Times {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST_NS, 2).expect("the bounds are in order");
        Self { ran: empty(), took: empty() }
    }
}

impl Times {
    fn record(&mut self, calls: u64, ran_ns: u64, took_ns: u64) {
        let each = |ns: u64| (ns / calls.max(1)).max(1);
        self.ran.saturating_record_n(each(ran_ns), calls);
        self.took.saturating_record_n(each(took_ns), calls);
    }

    fn add(&mut self, other: &Self) {
        for (mine, others) in [(&mut self.ran, &other.ran), (&mut self.took, &other.took)] {
            mine.add(others).expect("all have the same bounds");
        }
    }
}

/// A count, and how fast it grew between two looks, so that nobody has to count while nobody asks.
#[derive(Clone, Copy, Default, Debug)]
pub struct Rate {
    at_ns: u64,
    count: u64,
    per_s: u64,
}

impl Rate {
    /// How much a second since somebody last asked, a second ago or more (at first: since the start).
    pub fn per_s(&mut self, count: u64, now_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        if passed_ns >= 1_000_000_000 {
            let more = u128::from(count.saturating_sub(self.count));
            let per_s = more * 1_000_000_000 / u128::from(passed_ns);
            *self = Self { at_ns: now_ns, count, per_s: u64::try_from(per_s).unwrap_or(u64::MAX) };
        }
        self.per_s
    }
}

/// One command's counters on one core.
#[derive(Debug, Default)]
pub struct CommandStats {
    calls: AtomicU64,
    ran_ns: AtomicU64,
    took_ns: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    /// Made at the first call that is timed. Nobody but INFO contends for it.
    times: Mutex<Option<Box<Times>>>,
}

impl CommandStats {
    /// Counts calls, the time that it took to carry them out, and that from parsing to their replies, all calls together.
    #[inline]
    pub fn add(&self, calls: u64, ran_ns: u64, took_ns: u64) {
        bump(&self.calls, calls);
        bump(&self.ran_ns, ran_ns);
        bump(&self.took_ns, took_ns);
    }

    /// Keeps the times of calls for [`CoreStats::add_times`].
    #[inline]
    pub fn keep_times(&self, calls: u64, ran_ns: u64, took_ns: u64) {
        self.times().get_or_insert_default().record(calls, ran_ns, took_ns);
    }

    fn times(&self) -> MutexGuard<'_, Option<Box<Times>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call that was refused before it was carried out.
    pub fn count_rejected(&self) {
        bump(&self.rejected, 1);
    }

    /// Counts a call that answered with an error.
    pub fn count_failed(&self) {
        bump(&self.failed, 1);
    }
}

/// Counters of one command, read or added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandTotals {
    /// Calls carried out.
    pub calls: u64,
    /// Time in ns to carry them out.
    pub ran_ns: u64,
    /// Time in ns from parsing to the reply, the wait for the disk included.
    pub took_ns: u64,
    /// Calls refused before they were carried out.
    pub rejected: u64,
    /// Calls that answered with an error.
    pub failed: u64,
}

/// All counters of a core.
#[derive(Debug)]
pub struct CoreStats {
    commands: Vec<CommandStats>,
    processed: AtomicU64,
    connections: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    unknown: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// All counters, read or added up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// By the commands' indexes in the table.
    pub commands: Vec<CommandTotals>,
    /// Commands carried out.
    pub processed: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Lookups that found their key.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Requests that named no command, or no subcommand, that there is.
    pub unknown: u64,
    /// Error replies by prefix.
    pub errors: BTreeMap<String, u64>,
}

impl CoreStats {
    /// Counters for a table of so many commands.
    #[must_use]
    pub fn new(commands: usize) -> Self {
        Self {
            commands: (0..commands).map(|_| CommandStats::default()).collect(),
            processed: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            errors: Mutex::new(BTreeMap::new()),
        }
    }

    /// The counters of the command with this index in the table.
    #[must_use]
    #[inline]
    pub fn command(&self, index: u16) -> &CommandStats {
        self.commands.get(usize::from(index)).expect("one set of counters for each entry of the table")
    }

    /// Counts commands carried out.
    #[inline]
    pub fn count_commands(&self, count: u64) {
        bump(&self.processed, count);
    }

    /// Counts a connection accepted.
    pub fn count_connection(&self) {
        bump(&self.connections, 1);
    }

    /// Counts a lookup of a key.
    #[inline]
    pub fn count_lookup(&self, hit: bool) {
        bump(if hit { &self.hits } else { &self.misses }, 1);
    }

    /// Counts a request that named no command, or no subcommand, that there is.
    pub fn count_unknown(&self) {
        bump(&self.unknown, 1);
    }

    /// Counts an error reply.
    pub fn count_error(&self, prefix: &[u8]) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = String::from_utf8_lossy(prefix);
        if let Some(count) = errors.get_mut(&*prefix) {
            *count += 1;
        } else if errors.len() < MAX_ERROR_KINDS {
            errors.insert(prefix.into_owned(), 1);
        } else {
            *errors.entry("OTHER".to_owned()).or_default() += 1;
        }
    }

    /// Sets all counters to zero (CONFIG RESETSTAT). A count that its core is just adding may survive.
    pub fn reset(&self) {
        for command in &self.commands {
            let counters =
                [&command.calls, &command.ran_ns, &command.took_ns, &command.rejected, &command.failed];
            counters.into_iter().for_each(|counter| counter.store(0, Relaxed));
            *command.times() = None;
        }
        for counter in [&self.processed, &self.connections, &self.hits, &self.misses, &self.unknown] {
            counter.store(0, Relaxed);
        }
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds the times of the calls of the command with this index to `into`.
    pub fn add_times(&self, index: usize, into: &mut Option<Times>) {
        let command = self.commands.get(index).expect("one set of counters for each entry of the table");
        if let Some(times) = &*command.times() {
            into.get_or_insert_default().add(times);
        }
    }

    /// Adds this core's counters to `totals`.
    pub fn add_to(&self, totals: &mut Totals) {
        totals.commands.resize(self.commands.len(), CommandTotals::default());
        for (total, command) in totals.commands.iter_mut().zip(&self.commands) {
            total.calls += command.calls.load(Relaxed);
            total.ran_ns += command.ran_ns.load(Relaxed);
            total.took_ns += command.took_ns.load(Relaxed);
            total.rejected += command.rejected.load(Relaxed);
            total.failed += command.failed.load(Relaxed);
        }
        totals.processed += self.processed.load(Relaxed);
        totals.connections += self.connections.load(Relaxed);
        totals.hits += self.hits.load(Relaxed);
        totals.misses += self.misses.load(Relaxed);
        totals.unknown += self.unknown.load(Relaxed);
        for (prefix, count) in &*self.errors.lock().unwrap_or_else(PoisonError::into_inner) {
            *totals.errors.entry(prefix.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_and_reset() {
        let cores = [CoreStats::new(3), CoreStats::new(3)];
        for core in &cores {
            core.command(1).add(2, 100, 500);
            core.command(1).keep_times(2, 100, 500);
            core.command(2).count_failed();
            core.count_commands(2);
            core.count_lookup(true);
            core.count_error(b"ERR");
        }
        let mut totals = Totals::default();
        cores.iter().for_each(|core| core.add_to(&mut totals));
        assert_eq!(
            totals.commands[1],
            CommandTotals { calls: 4, ran_ns: 200, took_ns: 1000, rejected: 0, failed: 0 }
        );
        let mut times = None;
        cores.iter().for_each(|core| core.add_times(1, &mut times));
        let times = times.expect("they were kept");
        assert_eq!((times.ran.len(), times.ran.max(), times.took.len()), (4, 50, 4));
        assert!((250..=251).contains(&times.took.max()));
        assert_eq!((totals.commands[2].failed, totals.processed, totals.hits), (2, 4, 2));
        assert_eq!(totals.errors["ERR"], 2);
        cores.iter().for_each(CoreStats::reset);
        let mut times = None;
        cores.iter().for_each(|core| core.add_times(1, &mut times));
        assert!(times.is_none());
        let mut totals = Totals::default();
        cores.iter().for_each(|core| core.add_to(&mut totals));
        assert!(totals.errors.is_empty() && totals.processed == 0 && totals.commands[1].calls == 0);
    }

    #[test]
    fn rates_are_those_since_the_last_look() {
        let mut rate = Rate::default();
        let s = 1_000_000_000;
        assert_eq!(rate.per_s(500, 10 * s), 50, "since the start");
        assert_eq!(rate.per_s(900, 10 * s + s / 2), 50, "too soon to tell");
        assert_eq!(rate.per_s(2500, 12 * s), 1000);
        assert_eq!(rate.per_s(7, 14 * s), 0, "the counters began anew");
        assert_eq!(rate.per_s(9, 15 * s), 2);
    }

    #[test]
    fn made_up_prefixes_do_not_grow_memory() {
        let core = CoreStats::new(0);
        (0..1000).for_each(|number| core.count_error(format!("E{number}").as_bytes()));
        let mut totals = Totals::default();
        core.add_to(&mut totals);
        assert_eq!(totals.errors.len(), MAX_ERROR_KINDS + 1);
        assert_eq!(totals.errors.values().sum::<u64>(), 1000);
    }
}
