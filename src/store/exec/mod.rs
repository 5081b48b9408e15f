//! The frame in which one op runs: its partition, the clock it may look at, and what it finds missing in memory.
//!
//! Rule: an op looks up all it needs before it changes anything. What is not in memory is noted as wanted and ends
//! the op with [`Stop::Blocked`], so the same op can be run again when it has been loaded.

mod dispatch;
pub(in crate::store) mod lcs;
pub(in crate::store) mod listing;
pub(in crate::store) mod prefetch;
pub(in crate::store) mod prepare;
pub(in crate::store) mod read;
pub(in crate::store) mod scan;
pub(in crate::store) mod weight;
pub(in crate::store) mod write;

use super::hash::HashSeed;
use super::lookups::Lookups;
use super::op::{ErrorKind, Outcome};
use super::state::Options;
use crate::store::memory::ledger::Ledger;
use crate::store::memory::partition::{Found, Partition};
use crate::store::memory::row::Row;

/// Longer keys are refused: the disk level's keys end at 64 KiB.
pub const MAX_KEY_BYTES: usize = 60_000;

/// Longer values are refused, whatever made them. Part of what entries mean: never changed.
pub const MAX_VALUE_BYTES: usize = (32 << 20) - (64 << 10);

/// What APPEND, SETRANGE and COPY may add to values in one transaction, beyond what it brings itself; those that would
/// add more end in an error. Part of what entries mean: never changed.
const MAX_GROWTH_BYTES: usize = 128 << 20;

/// Why an op ended without an outcome of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// Something has to be loaded first. Nothing was changed.
    Blocked,
    /// An error reply. Nothing was changed.
    Error(ErrorKind),
}

/// What an op ends in.
pub(super) type Run<T = Outcome> = Result<T, Stop>;

/// See the file's head.
pub(super) struct Exec<'s> {
    pub(super) partition: &'s mut Partition,
    pub(super) ledger: &'s mut Ledger,
    pub(super) lookups: &'s mut Lookups,
    pub(super) options: &'s Options,
    pub(super) seed: HashSeed,
    /// What the time is for this op.
    pub(super) now_ms: u64,
    /// The version of the rows that it changes.
    pub(super) version: u64,
    /// Changes were made already (later ops of a transaction): nothing may block any more.
    pub(super) committed: bool,
    /// What a transaction has made values longer by so far.
    pub(super) grown_bytes: usize,
    /// What ops have moved of values, or looked at, beyond their own bytes and their outcomes'.
    pub(super) moved_bytes: usize,
    /// A dry run before a transaction: what was loaded stays for the real one.
    pub(super) preparing: bool,
    /// Where it is wanted: the rows that were looked up before anything ran, by the hashes of their keys.
    pub(super) known: Option<Vec<u64>>,
}

impl Exec<'_> {
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.seed.hash(key)
    }

    /// The row of a key that exists, or `None`.
    #[inline]
    pub(super) fn live(&mut self, key: &[u8]) -> Run<Option<&Row>> {
        if key.len() > MAX_KEY_BYTES {
            return Ok(None);
        }
        let hash = self.seed.hash(key);
        match self.partition.find(hash, key, self.now_ms) {
            Found::Live(row) => Ok(Some(row)),
            Found::Absent => Ok(None),
            Found::Unknown => {
                self.lookups.want_key(hash, key);
                Err(Stop::Blocked)
            }
        }
    }

    /// Makes sure that all these keys are known, or notes all that are not.
    pub(super) fn know<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>) -> Run<()> {
        if self.known.is_none() && self.partition.table.is_all_complete() {
            return Ok(());
        }
        let mut missing = false;
        for key in keys.into_iter().filter(|key| key.len() <= MAX_KEY_BYTES) {
            let hash = self.seed.hash(key);
            self.known.as_mut().into_iter().for_each(|known| known.push(hash));
            if !self.partition.knows(hash, key) {
                self.lookups.want_key(hash, key);
                missing = true;
            }
        }
        if missing { Err(Stop::Blocked) } else { Ok(()) }
    }

    /// Refuses an op of a transaction if all of it makes values longer by more than memory has to hold at once. Every
    /// replica decides alike: by the values alone.
    pub(super) fn grow(&mut self, bytes: usize) -> Run<()> {
        if self.committed && self.grown_bytes + bytes > MAX_GROWTH_BYTES {
            return Err(Stop::Error(ErrorKind::TransactionTooLarge));
        }
        self.grown_bytes += bytes;
        Ok(())
    }

    /// Refuses a key or a value that is too long to be stored.
    pub(super) fn fits(&self, key: &[u8], value_bytes: usize) -> Run<()> {
        if key.len() > MAX_KEY_BYTES {
            return Err(Stop::Error(ErrorKind::KeyTooLong));
        }
        if value_bytes > self.options.max_value_bytes {
            return Err(Stop::Error(ErrorKind::StringTooLong));
        }
        Ok(())
    }
}
