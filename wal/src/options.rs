//! What a WAL is opened with, and the small values it reports.

use crate::error::WalError;
use crate::ids::{BatchSeq, WalPosition};
use crate::record::OwnedEntry;

/// Bytes that say whose a WAL folder is.
pub const OWNER_BYTES: usize = 64;

/// Whose a WAL folder has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The owner that the folder's manifest must name. What the bytes mean is the owner's matter; here they are compared.
    pub owner: [u8; OWNER_BYTES],
    /// Whether a folder without a manifest (made by a release that wrote none, or empty) may be taken over. If not, such
    /// a folder is damage: it was lost, or its volume is not mounted.
    pub may_adopt: bool,
}

impl Default for Binding {
    fn default() -> Self {
        Self { owner: [0; OWNER_BYTES], may_adopt: true }
    }
}

/// The WAL's sizes and limits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a segment's file; a multiple of 1 MiB (tests go down to 64 KiB). Default 64 MiB.
    pub segment_bytes: u32,
    /// Size of the first segments' files, if that is less; each that is filled doubles the next ones' size. Without effect
    /// where `max_segments` is set. A multiple of 64 KiB. Default 1 MiB.
    pub first_segment_bytes: u32,
    /// Zero-written slots kept ready, unless [`Wal::keep_few_spares`](crate::Wal::keep_few_spares). Default 2.
    pub spare_segments: usize,
    /// Frames in flight at most, 1 to 4. Default 2.
    pub max_in_flight: usize,
    /// Slots that may exist at most (0: no limit but the disk). One more is made, once in each process, where the frame that
    /// waits fits nowhere and nothing is going to be freed: else elections of a start could not be written down, and what
    /// fills the log would never be handed over.
    pub max_segments: usize,
    /// Live segments, counted in full ones, above which the little (an eighth) that the oldest ones still hold is written again, so that they can
    /// go; half of `max_segments` if that is less. Above twice that (three fourths of `max_segments`), and on a full disk,
    /// half of them is. Default 32.
    pub long_segments: usize,
    /// Must differ at every opening (the core draws no random numbers itself): it salts the segments, so that
    /// bytes of an earlier use of a slot can never be taken for new ones.
    pub seed: u64,
    /// Whose the folder has to be.
    pub binding: Binding,
}

/// Smallest segment in bytes.
pub(crate) const MIN_SEGMENT_BYTES: u32 = 64 << 10;

impl Options {
    /// Asserts that they make sense.
    pub(crate) fn check(&self) {
        assert!(
            self.segment_bytes >= MIN_SEGMENT_BYTES && self.segment_bytes.is_multiple_of(MIN_SEGMENT_BYTES),
            "segment_bytes is a multiple of 64 KiB"
        );
        let first = self.first_segment_bytes;
        assert!(
            first >= MIN_SEGMENT_BYTES && first.is_multiple_of(MIN_SEGMENT_BYTES),
            "first_segment_bytes is a multiple of 64 KiB"
        );
        assert!((1..=4).contains(&self.max_in_flight), "max_in_flight is 1 to 4");
    }
}

impl Options {
    /// The longest record that a frame can take, in bytes.
    #[must_use]
    pub fn record_limit_bytes(&self) -> usize {
        let half = self.segment_bytes / 2 - crate::format::footer::reserve_bytes(self.segment_bytes);
        crate::format::sectors::content_bytes(half as usize) - crate::format::frame::FRAME_HEAD_BYTES
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            first_segment_bytes: 1 << 20,
            spare_segments: 2,
            max_in_flight: 2,
            max_segments: 0,
            long_segments: 32,
            seed: 0,
            binding: Binding::default(),
        }
    }
}

/// Names an asynchronous read; chosen by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadToken(pub u64);

/// How much room there is for new records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Enough.
    Ok,
    /// The last spare is in hand and no more could be made (full disk, or `max_segments`): refuse new proposals;
    /// what must still be written (hard states, releases, rewrites) goes into the reserve.
    Full,
}

/// Whether the log has room for a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// A slot at hand takes it.
    Ready,
    /// A larger slot is being made for it.
    Coming,
    /// It needs a larger slot, and none could be made the last time.
    Lacking,
}

/// What [`Wal::poll`](crate::Wal::poll) reports.
#[derive(Debug)]
pub enum WalEvent {
    /// All batches up to this one are on the medium.
    Durable(BatchSeq),
    /// An asynchronous read has ended.
    Read {
        /// As given to [`Wal::read`](crate::Wal::read).
        token: ReadToken,
        /// The entries, contiguous from the one asked for; at least one.
        result: Result<Vec<OwnedEntry>, WalError>,
    },
    /// The answer of [`Wal::space`](crate::Wal::space) has changed.
    Space(Space),
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Segments read by footer alone.
    pub by_footer: u64,
    /// Segments scanned frame by frame.
    pub scanned: u64,
    /// Where a torn tail (never acknowledged) was cut, if one was.
    pub torn_tail: Option<WalPosition>,
}

/// Counters of one WAL since opening.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalStats {
    /// Frames made durable.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of frames, padding included.
    pub bytes: u64,
    /// Segments that hold live data, the active one included.
    pub live_segments: u64,
    /// Bytes of their files.
    pub live_bytes: u64,
    /// Zero-written or recycled slots ready for use.
    pub spare_segments: u64,
    /// Spares removed because others were short of room.
    pub spares_given_back: u64,
    /// Bytes rewritten by reclaim.
    pub rewritten_bytes: u64,
    /// Entries rewritten by reclaim.
    pub rewritten_entries: u64,
    /// Entries that reclaim could not read, and whose segment it could not free for that, at each attempt.
    pub rewrite_errors: u64,
}
