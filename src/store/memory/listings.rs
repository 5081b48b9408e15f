//! KEYS under way: the keys of a partition that match a pattern, gathered in slices while others are served in between.
//!
//! The rows are walked in hash order, some in a slice (`exec/listing.rs`). What changes in the stretch that is gathered
//! already is followed change by change. Invariant: of the hashes below `next`, exactly the keys that are stored and match
//! are in `found`, whatever was written since. So a list that is complete is the state as of one moment, the present one, and
//! stays so until it is given to its op.

use std::collections::BTreeMap;

use corduroy_shards::PartitionId;

use super::kept::{Asked, Held, Idle, Kept};
use crate::store::op::{ErrorKind, Outcome};
use crate::store::text::glob::Effort;

/// Steps of a pattern that take as long as a look at a row.
const STEPS_A_UNIT: usize = 16;

/// How much a list of keys may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct MatchLimit {
    pub(in crate::store) keys: usize,
    pub(in crate::store) bytes: usize,
}

/// See the file's head.
#[derive(Clone, Debug)]
pub(in crate::store) struct Listing {
    pub(in crate::store) partition: PartitionId,
    pub(in crate::store) pattern: Vec<u8>,
    /// The first hash that is not gathered; `None`: all are.
    pub(in crate::store) next: Option<u64>,
    /// What is found: by hash and key, with the time at which each expires.
    pub(in crate::store) found: BTreeMap<(u64, Vec<u8>), u64>,
    pub(in crate::store) bytes: usize,
    pub(in crate::store) effort: Effort,
    /// The work it has taken so far.
    pub(in crate::store) units: u64,
    /// Why there is no answer.
    pub(in crate::store) refused: Option<ErrorKind>,
    /// It cannot go on without what the disk level has.
    pub(in crate::store) wants_disk: bool,
    /// It has stopped, and its op knows, or is going to be tried again.
    pub(in crate::store) is_announced: bool,
    /// A transaction wants it: it stays until that has run.
    pub(in crate::store) is_held: bool,
}

/// What a list may hold, and what time it is.
#[derive(Clone, Copy)]
pub(in crate::store) struct Terms {
    pub(in crate::store) limit: MatchLimit,
    pub(in crate::store) now_ms: u64,
}

/// What a name takes of what a list may hold.
const fn name_bytes(key: &[u8]) -> usize {
    size_of::<Outcome>() + key.len()
}

/// All lists under way.
#[derive(Debug, Default)]
pub(in crate::store) struct Listings {
    pub(in crate::store) all: Kept<Listing>,
}

impl Asked for Listing {
    fn bytes(&self) -> usize {
        self.bytes
    }

    /// It is gathered on, or what it wants of the disk level is on its way.
    fn goes_on(&self, idle: Idle) -> bool {
        if self.wants_disk { idle.is_asked() } else { !self.is_done() && !idle.is_idle() }
    }

    fn stays(&self) -> bool {
        false
    }
}

impl Listing {
    pub(in crate::store) fn new(partition: PartitionId, pattern: &[u8]) -> Self {
        Self {
            partition,
            pattern: pattern.to_vec(),
            next: Some(0),
            found: BTreeMap::new(),
            bytes: 0,
            effort: Effort::of_a_command(),
            units: 0,
            refused: None,
            wants_disk: false,
            is_announced: false,
            is_held: false,
        }
    }

    pub(in crate::store) fn is_of(&self, partition: PartitionId, pattern: &[u8]) -> bool {
        self.partition == partition && self.pattern == pattern
    }

    pub(in crate::store) fn is_done(&self) -> bool {
        self.next.is_none() || self.refused.is_some()
    }

    /// Whether it goes on only when its op is tried again.
    pub(in crate::store) fn has_stopped(&self) -> bool {
        self.is_done() || self.wants_disk
    }

    pub(in crate::store) fn refuse(&mut self, why: ErrorKind) {
        self.refused = Some(why);
        self.found = BTreeMap::new();
        self.bytes = 0;
    }

    /// Looks whether a key matches, and takes what that costs.
    pub(in crate::store) fn matches(&mut self, key: &[u8], units: &mut u64) -> bool {
        let (matches, steps) = self.effort.glob_counted(&self.pattern, key);
        *units = units.saturating_sub(1 + (steps / STEPS_A_UNIT) as u64);
        if matches.is_none() {
            self.refuse(ErrorKind::PatternTooCostly);
        }
        matches == Some(true)
    }

    /// Notes a key that is stored and matches.
    pub(in crate::store) fn insert(&mut self, hash: u64, key: &[u8], expire_at_ms: u64) {
        if self.found.insert((hash, key.to_vec()), expire_at_ms).is_none() {
            self.bytes += name_bytes(key);
        }
    }

    /// Whether it is too long to be given. Names that have expired do not count; they are looked for only if it matters.
    pub(in crate::store) fn is_too_long(&mut self, Terms { limit, now_ms }: Terms) -> bool {
        let exceeds = |listing: &Self| listing.found.len() > limit.keys || listing.bytes > limit.bytes;
        if !exceeds(self) {
            return false;
        }
        self.found.retain(|_, expire_at_ms| *expire_at_ms > now_ms);
        self.bytes = self.found.keys().map(|(_, key)| name_bytes(key)).sum();
        exceeds(self)
    }

    fn remove(&mut self, hash: u64, key: &[u8]) {
        if self.found.remove(&(hash, key.to_vec())).is_some() {
            self.bytes -= name_bytes(key);
        }
    }
}

impl Listings {
    pub(in crate::store) fn find(
        &mut self,
        partition: PartitionId,
        pattern: &[u8],
    ) -> Option<&mut Held<Listing>> {
        self.all.iter_mut().find(|listing| listing.is_of(partition, pattern))
    }

    pub(in crate::store) fn take(&mut self, partition: PartitionId, pattern: &[u8]) -> Option<Held<Listing>> {
        self.all.take(|listing| listing.is_of(partition, pattern))
    }

    /// A key was written (and expires then), or removed (`None`).
    #[inline]
    pub(in crate::store) fn changed(
        &mut self,
        partition: PartitionId,
        hash: u64,
        key: &[u8],
        expire_at_ms: Option<u64>,
    ) {
        if !self.all.is_empty() {
            self.follow(partition, hash, key, expire_at_ms);
        }
    }

    fn follow(&mut self, partition: PartitionId, hash: u64, key: &[u8], expire_at_ms: Option<u64>) {
        let concerned = self.all.iter_mut().filter(|listing| {
            listing.partition == partition
                && listing.refused.is_none()
                && listing.next.is_none_or(|next| hash < next)
        });
        for listing in concerned {
            match expire_at_ms {
                // What is gathered is bounded; the few that are written meanwhile are no harm, and some may go again.
                Some(expire_at_ms) if listing.matches(key, &mut 0) => {
                    listing.insert(hash, key, expire_at_ms);
                }
                Some(_) => {}
                None => listing.remove(hash, key),
            }
        }
    }

    /// A partition's keyspace ended, and an empty one began.
    pub(in crate::store) fn flushed(&mut self, partition: PartitionId) {
        self.begin_anew(partition, None);
    }

    /// A partition's keyspace ended, and one of an image began: its keys are gathered from the first one on.
    pub(in crate::store) fn replaced(&mut self, partition: PartitionId) {
        self.begin_anew(partition, Some(0));
    }

    fn begin_anew(&mut self, partition: PartitionId, next: Option<u64>) {
        for listing in self.all.iter_mut().filter(|listing| listing.partition == partition) {
            (listing.next, listing.wants_disk, listing.refused) = (next, false, None);
            listing.found = BTreeMap::new();
            listing.bytes = 0;
            listing.effort = Effort::of_a_command();
        }
    }

    /// What they take in memory, roughly.
    pub(in crate::store) fn held_bytes(&self) -> usize {
        self.all.bytes()
    }

    /// Whether an answer of the disk level is looked at by a list under way.
    pub(in crate::store) fn use_matches(&self, partition: PartitionId, pattern: Option<&[u8]>) -> bool {
        self.all.iter().any(|listing| {
            !listing.is_done()
                && listing.partition == partition
                && pattern == Some(listing.pattern.as_slice())
        })
    }
}
