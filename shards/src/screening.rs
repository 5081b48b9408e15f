//! What is known of the operations of a batch, before it becomes an entry.
//!
//! Invariant: an operation that was found ready is not looked at again.

use std::collections::BTreeMap;

use crate::entry::Mark;
use crate::rejection::Rejection;
use crate::waiting::Waiting;

/// What is known of a batch's operations.
#[derive(Debug)]
pub(crate) struct Screening {
    /// Those before it were prepared, or found to need nothing.
    pub prepared: Mark,
    /// Those of them that were not ready.
    pub waiting: Waiting<Mark>,
    /// Those that have what they waited for, and are to be looked at again.
    pub woken: Vec<Mark>,
    /// Those before it were looked at while the disk was full.
    pub fit: Mark,
    /// Those that must not be proposed.
    pub refused: BTreeMap<usize, Rejection>,
}

impl Default for Screening {
    fn default() -> Self {
        Self {
            prepared: Mark::FIRST,
            waiting: Waiting::default(),
            woken: Vec::new(),
            fit: Mark::FIRST,
            refused: BTreeMap::new(),
        }
    }
}

impl Screening {
    /// What the state machine calls by this number is there.
    pub fn wake(&mut self, number: u64) {
        self.woken.extend(self.waiting.wake(number));
    }

    /// A job has ended.
    pub fn wake_for_job(&mut self) {
        self.woken.append(&mut self.waiting.wake_for_job());
    }

    /// Whether an operation waits for whatever job ends next.
    pub const fn waits_for_job(&self) -> bool {
        self.waiting.has_job()
    }

    /// How many operations were not ready, and are not yet.
    pub fn unready(&self) -> usize {
        self.waiting.len() + self.woken.len()
    }

    /// # Panics
    /// If it knows of operations that are not there, or what waits is not sealed.
    pub fn check(&self, writes: usize, is_sealed: bool) {
        assert!(
            self.prepared.number <= writes && self.fit.number <= writes,
            "operations looked at: {self:?}"
        );
        assert!(self.refused.keys().all(|number| *number < writes), "operations refused: {self:?}");
        assert!(self.waiting.len() == 0 || is_sealed, "a batch that waits takes no further writes");
    }

    pub fn is_unready(&self, number: usize) -> bool {
        self.waiting.iter().chain(&self.woken).any(|mark| mark.number == number)
    }
}
