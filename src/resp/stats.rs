//! Counters of commands, one set a core. Written by their core alone, read by any: INFO adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Different error prefixes that are counted; more are counted as one.
const MAX_ERROR_KINDS: usize = 128;

/// Adds to a counter that only one thread writes: no locked instruction is needed.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// One command's counters on one core.
#[derive(Debug, Default)]
pub struct CommandStats {
    calls: AtomicU64,
    ns: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
}

impl CommandStats {
    /// Counts calls and the time that they took together.
    #[inline]
    pub fn add(&self, calls: u64, ns: u64) {
        bump(&self.calls, calls);
        bump(&self.ns, ns);
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
    /// Time in ns: from parsing to the reply.
    pub ns: u64,
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
            for counter in [&command.calls, &command.ns, &command.rejected, &command.failed] {
                counter.store(0, Relaxed);
            }
        }
        for counter in [&self.processed, &self.connections, &self.hits, &self.misses] {
            counter.store(0, Relaxed);
        }
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds this core's counters to `totals`.
    pub fn add_to(&self, totals: &mut Totals) {
        totals.commands.resize(self.commands.len(), CommandTotals::default());
        for (total, command) in totals.commands.iter_mut().zip(&self.commands) {
            total.calls += command.calls.load(Relaxed);
            total.ns += command.ns.load(Relaxed);
            total.rejected += command.rejected.load(Relaxed);
            total.failed += command.failed.load(Relaxed);
        }
        totals.processed += self.processed.load(Relaxed);
        totals.connections += self.connections.load(Relaxed);
        totals.hits += self.hits.load(Relaxed);
        totals.misses += self.misses.load(Relaxed);
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
            core.command(1).add(2, 500);
            core.command(2).count_failed();
            core.count_commands(2);
            core.count_lookup(true);
            core.count_error(b"ERR");
        }
        let mut totals = Totals::default();
        cores.iter().for_each(|core| core.add_to(&mut totals));
        assert_eq!(totals.commands[1], CommandTotals { calls: 4, ns: 1000, rejected: 0, failed: 0 });
        assert_eq!((totals.commands[2].failed, totals.processed, totals.hits), (2, 4, 2));
        assert_eq!(totals.errors["ERR"], 2);
        cores.iter().for_each(CoreStats::reset);
        let mut totals = Totals::default();
        cores.iter().for_each(|core| core.add_to(&mut totals));
        assert!(totals.errors.is_empty() && totals.processed == 0 && totals.commands[1].calls == 0);
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
