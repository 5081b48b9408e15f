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

    /// The log that `next` returns.
    pub fn peek(&self) -> Option<LogId> {
        self.todo.last().copied()
    }

    /// The next log to write again.
    pub fn next(&mut self) -> Option<LogId> {
        self.todo.pop()
    }

    /// A log's state is in some batch up to this one.
    pub fn rewritten(&mut self, latest: BatchSeq) {
        assert!(latest >= self.superseded_in, "a newer batch is not the newest");
        self.superseded_in = latest;
    }

    /// Asserts what holds between any two calls; `latest` is the newest batch there is.
    #[cfg(feature = "sim")]
    pub fn check(&self, latest: BatchSeq) {
        assert!(self.superseded_in <= latest, "a state was written again in batch {}", self.superseded_in);
        assert!(
            self.segment.is_some() || self.todo.is_empty(),
            "states of no segment are to be written again"
        );
    }

    /// Whether all that was needed of the segment is durable elsewhere.
    pub fn is_done(&self, durable: BatchSeq) -> bool {
        self.todo.is_empty() && self.superseded_in <= durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_goes_only_once_all_that_replaces_it_is_durable() {
        let mut reclaim = Reclaim::default();
        // Nothing is to be written again: what replaced it may be on its way all the same.
        reclaim.start(SegmentSeq(3), Vec::new(), BatchSeq(9));
        assert!(reclaim.is_for(SegmentSeq(3)) && !reclaim.is_for(SegmentSeq(4)));
        assert!(!reclaim.is_done(BatchSeq(8)) && reclaim.is_done(BatchSeq(9)));
        reclaim.start(SegmentSeq(4), vec![LogId(1)], BatchSeq(9));
        assert!(!reclaim.is_done(BatchSeq(20)), "a state is still to be written");
        assert_eq!((reclaim.next(), reclaim.next()), (Some(LogId(1)), None));
        reclaim.rewritten(BatchSeq(11));
        assert!(!reclaim.is_done(BatchSeq(10)) && reclaim.is_done(BatchSeq(11)));
    }
}
