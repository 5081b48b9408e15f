//! Long lists of names on their way to a client: written some at a time, while others are served in between.
//!
//! A slot of the queue waits for it, as for an outcome; what comes behind it waits until the list is whole.

use std::sync::Arc;

use super::queue::Body;
use super::{Backend, Outcome, Output, Session, Writer};
use crate::store::{NamesIter, SharedBytes};

/// Names written at a time.
const STEP: usize = 1024;
/// Work that they are.
const UNITS_A_STEP: u32 = 256;
/// Written names of so many bytes are put aside: they are sent from where they lie.
const PIECE_BYTES: usize = 128 << 10;

/// Names from one partition.
enum Source {
    Many(NamesIter),
    Few(std::vec::IntoIter<Outcome>),
}

impl Source {
    fn new(outcome: Outcome) -> Option<Self> {
        if let Outcome::Names(names) = outcome {
            Some(Self::Many(names.into_iter()))
        } else if let Outcome::Array(items) = outcome {
            Some(Self::Few(items.into_iter()))
        } else {
            None
        }
    }
}

impl Iterator for Source {
    type Item = Outcome;

    fn next(&mut self) -> Option<Outcome> {
        match self {
            Self::Many(names) => names.next().map(Outcome::Bulk),
            Self::Few(items) => items.next(),
        }
    }
}

/// A list being written.
pub struct Roster {
    /// The number of its slot.
    number: u64,
    /// What is left, the next first.
    sources: std::vec::IntoIter<Source>,
    current: Option<Source>,
    /// What they took in memory at first.
    sources_bytes: usize,
    pieces: Vec<SharedBytes>,
    pieces_bytes: usize,
    /// The names written since the last piece.
    out: Output,
    count: usize,
}

impl Roster {
    /// The list of all names of these outcomes, for the slot of this number; the outcomes, if they are not lists of names
    /// or if they are short.
    pub fn new(number: u64, outcomes: Vec<Outcome>) -> Result<Self, Vec<Outcome>> {
        let is_list = |outcome: &Outcome| matches!(outcome, Outcome::Names(_) | Outcome::Array(_));
        let is_long = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Names(_)));
        if !is_long || !outcomes.iter().all(is_list) {
            return Err(outcomes);
        }
        let sources_bytes = outcomes.iter().map(Outcome::cost_bytes).sum();
        let sources: Vec<Source> = outcomes.into_iter().filter_map(Source::new).collect();
        Ok(Self {
            number,
            sources: sources.into_iter(),
            current: None,
            sources_bytes,
            pieces: Vec::new(),
            pieces_bytes: 0,
            out: Output::default(),
            count: 0,
        })
    }

    /// Writes the next few. Returns whether there may be more.
    fn step(&mut self) -> bool {
        for _ in 0..STEP {
            let Some(name) = self.next() else { return false };
            // Names are written alike in both protocols.
            Writer::new(&mut self.out, false).outcome(&name);
            self.count += 1;
        }
        if self.out.len() >= PIECE_BYTES {
            self.put_aside();
        }
        true
    }

    fn next(&mut self) -> Option<Outcome> {
        loop {
            if let Some(name) = self.current.as_mut().and_then(Iterator::next) {
                return Some(name);
            }
            self.current = Some(self.sources.next()?);
        }
    }

    fn put_aside(&mut self) {
        let bytes = std::mem::take(self.out.bytes_mut());
        self.pieces_bytes += bytes.len();
        let len = bytes.len();
        self.pieces.push(SharedBytes::new(Arc::new(bytes), 0..len));
    }

    fn write(self, out: &mut Writer<'_>) {
        out.array(self.count);
        self.pieces.iter().for_each(|piece| out.out.push_shared(piece));
        out.out.append(self.out);
    }

    /// What it holds in memory.
    pub fn held_bytes(&self) -> usize {
        self.sources_bytes + self.pieces_bytes + self.out.held_bytes()
    }
}

impl Session {
    /// Begins to write a list into the slot at this index of the queue.
    pub(super) fn begin_roster(&mut self, at: usize, roster: Roster, backend: &dyn Backend) {
        assert!(self.roster.is_none(), "KEYS has nothing behind it until it is answered");
        if let Some(slot) = self.queue.get_mut(at) {
            slot.body = Body::Waiting;
        }
        self.roster = Some(Box::new(roster));
        self.go_on_roster(backend);
    }

    /// Goes on with a list, as far as the share of work goes.
    pub(super) fn go_on_roster(&mut self, backend: &dyn Backend) {
        while self.units > 0
            && let Some(mut roster) = self.roster.take()
        {
            self.work(UNITS_A_STEP);
            if roster.step() {
                self.roster = Some(roster);
            } else {
                self.clock_ns = backend.mono_ns();
                let at = (roster.number - self.front) as usize;
                // Names are read, and nothing of that is logged.
                self.complete(at, None, backend, |_, out| roster.write(out));
            }
        }
    }
}
