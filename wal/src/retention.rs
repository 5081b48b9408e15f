//! Where in the WAL a log's entries lie, for an owner that keeps entries for others only as long as they are near the end.
//!
//! Segments are freed oldest first, so what is kept of one log keeps all that lies behind it of every other: what may be
//! kept is counted in bytes of the whole WAL, up to a segment, never in entries of one log.

use crate::device::Device;
use crate::ids::{LogId, Lsn, SegmentSeq};
use crate::wal::Wal;

impl<D: Device> Wal<D> {
    /// The segment that is being written; before the first frame of a process, the newest that was found, or zero.
    #[must_use]
    pub fn newest_segment(&self) -> SegmentSeq {
        self.segments.live().next_back().map_or(SegmentSeq::ZERO, |segment| segment.seq)
    }

    /// The oldest of the newest segments whose files together take at most `bytes`, and that make up at most half of a log
    /// that is long, so that keeping them has nothing written again; one more than the newest if that alone takes more.
    #[must_use]
    pub fn first_segment_within(&self, bytes: u64) -> SegmentSeq {
        let mut all_bytes = 0_u64;
        let mut first = self.newest_segment().next();
        for segment in self.segments.live().rev() {
            all_bytes += u64::from(segment.bytes);
            if all_bytes > bytes || self.is_over_half_long_from(segment.seq) {
                break;
            }
            first = segment.seq;
        }
        first
    }

    /// The log's highest entry that lies in a segment older than this one; `None` if none does. Entries that were written
    /// again lie in newer segments than those behind them.
    #[must_use]
    pub fn last_entry_before(&self, log: LogId, segment: SegmentSeq) -> Option<Lsn> {
        let runs = &self.index.get(log)?.runs;
        runs.iter().rev().find(|run| run.segment < segment).map(|run| run.last())
    }

    /// The segment that an entry lies in; `None` if the log does not hold it, or it is not written yet.
    #[must_use]
    pub fn segment_of(&self, log: LogId, lsn: Lsn) -> Option<SegmentSeq> {
        self.index.get(log)?.runs.find(lsn).map(|run| run.segment)
    }
}
