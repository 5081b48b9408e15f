//! What waits for something that a job brings, by what it waits for.
//!
//! Invariant: what waits for a number is found by that number alone, and by nothing else.

use hashbrown::HashMap;

/// What a step that cannot be done yet waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Wait {
    /// Whatever job ends next: then it may go on, or wait again.
    Job,
    /// What it needs, all of it: the state machine names this number once when that is there. No two steps
    /// get the same one.
    Number(u64),
}

/// Things that wait.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    /// By the number that each waits for.
    by_number: HashMap<u64, T>,
    /// Those that wait for whatever job ends next.
    for_job: Vec<T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { by_number: HashMap::new(), for_job: Vec::new() }
    }
}

impl<T> Waiting<T> {
    pub fn add(&mut self, wait: Wait, what: T) {
        match wait {
            Wait::Number(number) => {
                let before = self.by_number.insert(number, what);
                assert!(before.is_none(), "two steps wait for number {number}");
            }
            Wait::Job => self.for_job.push(what),
        }
    }

    /// Takes what waits for this number.
    pub fn wake(&mut self, number: u64) -> Option<T> {
        self.by_number.remove(&number)
    }

    /// A job has ended: takes all that waits for whatever job does.
    pub fn wake_for_job(&mut self) -> Vec<T> {
        std::mem::take(&mut self.for_job)
    }

    /// Whether some wait for whatever job ends next.
    pub const fn has_job(&self) -> bool {
        !self.for_job.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_number.len() + self.for_job.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.by_number.values().chain(&self.for_job)
    }

    pub fn get(&self, number: u64) -> Option<&T> {
        self.by_number.get(&number)
    }

    /// The numbers that are waited for.
    pub fn into_numbers(self) -> impl Iterator<Item = u64> {
        self.by_number.into_keys()
    }
}

/// How urgent a flush is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// The log is longer than it should be, and takes writes.
    Soon,
    /// The log is full: writes are refused until the flush has ended.
    Now,
}
