//! Reclaim: frees the oldest segment once no entry in it is held, after writing again what else logs need of it. Module
//! `rewrite` writes the entries themselves again where that is worth it.
//!
//! The rewrites (a hard state, a configuration, the bounds of an empty log) ride in ordinary frames, a few at a time.
//! They, and whatever else made the segment dead (an overwrite, a tombstone, a newer hard state), must be durable
//! before any frame says that the segment is not live. Nothing here waits for a state machine or a follower.

use crate::ids::{BatchSeq, LogId, SegmentSeq};

/// States written again per frame at most: keeps the foreground's frames small.
pub(crate) const REWRITES_PER_FRAME: usize = 64;

/// The segment being freed.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    segment: Option<SegmentSeq>,
    todo: Vec<LogId>,
    /// Durable up to here, the segment's content is superseded on the medium too.
    superseded_in: BatchSeq,
}

impl Reclaim {
    /// Whether this is the segment being freed.
    pub fn is_for(&self, segment: SegmentSeq) -> bool {
        self.segment == Some(segment)
    }

    /// Starts freeing a segment that these logs need something of; `latest` is the newest batch there is.
    pub fn start(&mut self, segment: SegmentSeq, todo: Vec<LogId>, latest: BatchSeq) {
        *self = Self { segment: Some(segment), todo, superseded_in: latest };
    }

    /// The next log to write again.
    pub fn next(&mut self) -> Option<LogId> {
        self.todo.pop()
    }

    /// A log's state is in some batch up to this one.
    pub fn rewritten(&mut self, latest: BatchSeq) {
        self.superseded_in = latest;
    }

    /// Whether all that was needed of the segment is durable elsewhere.
    pub fn is_done(&self, durable: BatchSeq) -> bool {
        self.todo.is_empty() && self.superseded_in <= durable
    }
}
