//! What happened, in order: a rolling hash of everything, and the last events in full.
//!
//! Invariant: two runs of one seed have equal hashes; a difference means that something outside the seed (an address,
//! a hasher, a thread, a real clock) reached the core.

use std::collections::VecDeque;
use std::fmt;

use crate::sim::rng::mix;

/// Events kept for the report of a failure.
const KEPT: usize = 200;

/// One thing that happened. Three numbers; `what` names their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number in the run.
    pub number: u64,
    /// World time, ns.
    pub at_ns: u64,
    /// What it was.
    pub what: &'static str,
    /// Whose: a shard, a connection, a partition.
    pub who: u64,
    /// First detail.
    pub a: u64,
    /// Second detail.
    pub b: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, us) = (self.at_ns / 1_000_000_000, self.at_ns / 1000 % 1_000_000);
        write!(
            f,
            "{:>7} {s:>3}.{us:06} {:<22} {:>4} {:>12} {:>12}",
            self.number, self.what, self.who, self.a, self.b
        )
    }
}

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    count: u64,
    last: VecDeque<Event>,
    print: bool,
}

impl Trace {
    /// An empty trace; with `print`, every event also goes to standard output as it happens.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Self { print, ..Self::default() }
    }

    /// Notes an event.
    pub fn note(&mut self, at_ns: u64, what: &'static str, who: u64, a: u64, b: u64) {
        let event = Event { number: self.count, at_ns, what, who, a, b };
        self.count += 1;
        let name =
            what.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        for word in [at_ns, name, who, a, b] {
            self.hash = mix(self.hash ^ word);
        }
        if self.print {
            println!("{event}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// The hash of all events so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The last events, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &Event> {
        self.last.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_shows_every_difference_and_only_the_last_are_kept() {
        let run = |n: u64, odd: u64| {
            let mut trace = Trace::new(false);
            for at in 0..n {
                trace.note(at, "turn", 0, at, u64::from(at == odd));
            }
            trace
        };
        assert_eq!(run(300, 7).hash(), run(300, 7).hash());
        assert_ne!(run(300, 7).hash(), run(300, 8).hash());
        assert_eq!(run(300, 7).last().next().map(|event| event.number), Some(100));
    }
}
