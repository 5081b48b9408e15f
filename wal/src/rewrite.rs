//! Entries of the oldest segment written again, so that it can go although logs still hold some of what is in it.
//!
//! A log that nobody releases (its replica is fenced, or slow) would keep the oldest segment and with it all behind it.
//! So where the oldest segments hold little of what they have room for, their entries are read, a few at a time, and
//! ride in ordinary frames as records that replace nothing. Invariant: a copy has the number and the term that the
//! entry has in the log's present state, and lies in front of any record that replaces it.

use crate::device::{BLOCK_BYTES, Device};
use crate::error::WalError;
use crate::format::footer;
use crate::format::record::{ENTRY_HEAD_BYTES, RECORD_HEAD_BYTES, RecordKind, RecordMeta};
use crate::growth::frame_with;
use crate::ids::{BatchSeq, LogId, Lsn, SegmentSeq};
use crate::options::Space;
use crate::reader::{Reader, Want};
use crate::record::{EntryRef, OwnedEntry};
use crate::segment::Segment;
use crate::wal::Wal;

/// Bytes of entries copied per frame, roughly: keeps the foreground's frames small.
const FRAME_COPY_BYTES: usize = 64 << 10;
/// The same while there is no foreground, since the disk is full.
const PRESSED_FRAME_COPY_BYTES: usize = 1 << 20;
/// Copies take one byte of this many that frames write, as long as there is room for a log much longer.
const FRAME_BYTES_PER_COPY_BYTE: i64 = 4;
/// And of this many when it has become twice as long as it should.
const URGENT_FRAME_BYTES_PER_COPY_BYTE: i64 = 2;
/// Frames without copies save up this many bytes for them at most.
const CREDIT_BYTES: i64 = 1 << 20;
/// Pieces read at a time.
const READS: usize = 16;
/// Segments are worth copying if they hold at most one part in this many of what they have room for.
const LITTLE: u64 = 8;
/// The same on a full disk, and when the log is twice as long.
const HALF: u64 = 2;

/// Entries of one log that lie in the segment.
#[derive(Clone, Copy, Debug)]
struct Piece {
    log: LogId,
    first: Lsn,
    last: Lsn,
    bytes: usize,
}

/// The copying of one segment's entries.
#[derive(Debug, Default)]
pub(crate) struct Copying {
    segment: Option<SegmentSeq>,
    todo: Vec<Piece>,
    reading: usize,
    /// Read, with the incarnations of their logs.
    fetched: Vec<(LogId, Option<u32>, Vec<OwnedEntry>)>,
    /// The batch that the last copies ride in.
    pushed_in: BatchSeq,
    /// Bytes that copies may take of the next frames; overdrawn by the last copy.
    credit_bytes: i64,
    /// An entry could not be read; tried again when another segment is written or room is looked for.
    failed_in: Option<SegmentSeq>,
}

impl Copying {
    /// A frame has been written.
    pub fn earn(&mut self, frame_bytes: u32, urgent: bool) {
        let per_byte = if urgent { URGENT_FRAME_BYTES_PER_COPY_BYTE } else { FRAME_BYTES_PER_COPY_BYTE };
        let earned = i64::from(frame_bytes) / per_byte;
        self.credit_bytes = (self.credit_bytes + earned).min(CREDIT_BYTES);
    }

    /// What could not be read may be read again.
    pub fn try_again(&mut self) {
        self.failed_in = None;
    }

    /// Asserts what holds between any two calls; `reading` reads are under way for it.
    #[cfg(feature = "sim")]
    pub fn check(&self, reading: usize) {
        assert_eq!(self.reading, reading, "pieces to be copied are counted while they are read");
        assert!(self.credit_bytes <= CREDIT_BYTES, "copies have saved up {} bytes", self.credit_bytes);
        let has_work = !self.todo.is_empty() || !self.fetched.is_empty();
        assert!(self.segment.is_some() || !has_work, "entries of no segment are to be copied");
    }

    fn is_at_rest(&self) -> bool {
        self.todo.is_empty() && self.reading == 0 && self.fetched.is_empty()
    }

    fn end(&mut self) {
        let Self { credit_bytes, failed_in, .. } = *self;
        *self = Self { credit_bytes, failed_in, ..Self::default() };
    }
}

impl<D: Device> Wal<D> {
    /// Goes on with what is being copied, or begins with the oldest segment if that is worth it.
    pub(crate) fn copy_oldest(&mut self) {
        let oldest = self.segments.sealed.front().map(|segment| segment.seq);
        if self.copying.segment.is_some() && self.copying.segment != oldest {
            self.copying.todo.clear();
            self.copying.fetched.clear();
        }
        // Copies on their way have no position yet: until then the segment looks as if they were still to be made.
        if self.copying.is_at_rest() && self.copying.pushed_in <= self.commit.durable {
            self.copying.end();
            if let Some(segment) = self.worth_copying() {
                self.begin_copying(segment);
            }
        }
        if !self.must_pause() && self.copying.reading == 0 && self.copying.fetched.is_empty() {
            self.read_pieces();
        }
    }

    /// The oldest segment, if it and those behind it hold so little together that copying it pays.
    fn worth_copying(&self) -> Option<SegmentSeq> {
        let pressed = self.space() == Space::Full;
        let share = match (pressed || self.is_longer_than(2), self.is_longer_than(1)) {
            (true, _) => HALF,
            (false, true) => LITTLE,
            (false, false) => return None,
        };
        let newest = self.segments.active.as_ref().map(|active| active.seq);
        if newest.is_some() && self.copying.failed_in == newest {
            return None;
        }
        let oldest = self.segments.sealed.front().filter(|oldest| oldest.live_entries > 0)?;
        let (mut held, mut all) = (0, 0);
        let durable = self.commit.durable;
        let mut sealed = self.segments.sealed.iter().take_while(|segment| segment.last_batch <= durable);
        let pays = sealed.any(|segment| {
            held += segment.live_bytes;
            all += u64::from(segment.bytes);
            held * share <= all
        });
        // Half a segment is left to other frames, whose states must be written on a full disk too.
        let ahead_bytes = self.batch_bytes() as u64;
        (pays && (!pressed || self.has_room_for(oldest, ahead_bytes))).then_some(oldest.seq)
    }

    fn begin_copying(&mut self, segment: SegmentSeq) {
        self.copying.segment = Some(segment);
        for (log, entry) in self.index.iter() {
            for run in entry.runs.iter().filter(|run| run.segment == segment) {
                let bytes = run.bytes as usize;
                match self.copying.todo.last_mut() {
                    Some(piece) if piece.log == log && piece.last.next() == run.first => {
                        (piece.last, piece.bytes) = (run.last(), piece.bytes + bytes);
                    }
                    _ => self.copying.todo.push(Piece { log, first: run.first, last: run.last(), bytes }),
                }
            }
        }
        // The index has no order of its own; the last is copied first.
        self.copying.todo.sort_unstable_by_key(|piece| std::cmp::Reverse((piece.log, piece.first)));
    }

    /// Whether a segment is being copied, and there is room for all of that.
    pub(crate) fn is_copying(&self) -> bool {
        let segment = self.copying.segment.and_then(|seq| self.segments.get(seq));
        segment.is_some_and(|segment| self.has_room_for(segment, 0))
    }

    /// Whether what is left of a segment, and `more_bytes`, fit into the active one and the spares.
    fn has_room_for(&self, segment: &Segment, more_bytes: u64) -> bool {
        let usable = |bytes: u32, end: u32| (bytes - footer::reserve_bytes(bytes)).saturating_sub(end);
        let active = self.segments.active.as_ref().map_or(0, |active| usable(active.bytes, active.end));
        let block = u32::try_from(BLOCK_BYTES).expect("a small constant");
        let spares: u64 = self.segments.spare_bytes().map(|bytes| u64::from(usable(bytes, block))).sum();
        // What came in one frame there must fit into one here.
        if self.segments.spares() > 0 && !self.segments.has_spare_of(segment.bytes, false) {
            return false;
        }
        let frames =
            segment.live_bytes / self.copy_bytes() as u64 + (self.copying.todo.len() / READS) as u64 + 2;
        // A frame's head and padding, and the records that ride along.
        let frames_bytes = frames * 2 * u64::from(block);
        segment.live_bytes + frames_bytes + more_bytes <= u64::from(active) + spares
    }

    /// On a full disk, nothing is copied that might not come to its end.
    fn must_pause(&self) -> bool {
        self.space() == Space::Full && !self.is_copying()
    }

    pub(crate) fn copy_bytes(&self) -> usize {
        let most = match self.space() {
            Space::Full => PRESSED_FRAME_COPY_BYTES,
            Space::Ok => FRAME_COPY_BYTES,
        };
        most.min(self.record_limit_bytes() / 2).min(self.batch_bytes() / 2)
    }

    /// Starts reading what the next frame can take.
    fn read_pieces(&mut self) {
        let mut room_bytes = self.copy_bytes();
        while self.copying.reading < READS && room_bytes > 0 {
            let Some(Piece { log, first, last, bytes }) = self.copying.todo.pop() else { return };
            let first = self.index.get(log).map_or(first, |entry| entry.first.max(first));
            let want_bytes = bytes.min(room_bytes);
            room_bytes -= want_bytes;
            // Out of range means that it was released or replaced since.
            if first <= last && self.start_read(Reader::Reclaim, log, first, last, want_bytes).is_ok() {
                self.copying.reading += 1;
            }
        }
    }

    /// A read of entries to be copied has ended.
    pub(crate) fn on_copy_read(&mut self, want: &Want, result: Result<Vec<OwnedEntry>, WalError>) {
        assert!(self.copying.reading > 0, "a piece of log {} was read that nobody asked for", want.log);
        self.copying.reading -= 1;
        match result {
            Ok(found) => {
                let next = found.last().map_or(want.from, |last| last.lsn.next());
                if next <= want.to {
                    // As long as the first part, as far as one knows.
                    let bytes = found.iter().map(|entry| entry.data.len() + ENTRY_HEAD_BYTES).sum();
                    self.copying.todo.push(Piece { log: want.log, first: next, last: want.to, bytes });
                }
                self.copying.fetched.push((want.log, want.incarnation, found));
            }
            Err(WalError::OutOfRange { .. }) => {}
            Err(_) => {
                self.stats.rewrite_errors += 1;
                self.copying.failed_in = self.segments.active.as_ref().map(|active| active.seq);
                self.copying.todo.clear();
            }
        }
    }

    /// Adds what was read to the open batch, if the foreground leaves it room. Where room is not short it keeps for a later
    /// frame what it has no room for: a read returns one whole entry at least, however long.
    pub(crate) fn add_copies(&mut self) -> Result<(), WalError> {
        let pressed = self.space() == Space::Full;
        if self.must_pause() || !(pressed || self.copying.credit_bytes >= 0) {
            return Ok(());
        }
        for (log, incarnation, entries) in std::mem::take(&mut self.copying.fetched) {
            if self.incarnation(log) != incarnation {
                continue;
            }
            if pressed || self.has_room_for_copies(&entries) {
                self.push_copies(log, &entries)?;
            } else {
                self.copying.fetched.push((log, incarnation, entries));
            }
        }
        Ok(())
    }

    /// Whether there is room for the records of these entries, each in a frame of its own if need be. If there is none, it
    /// is made.
    fn has_room_for_copies(&mut self, entries: &[OwnedEntry]) -> bool {
        let (mut rest, mut all_bytes, mut most_bytes) = (entries, 0, 0);
        while !rest.is_empty() {
            let (bytes, count) = self.next_copies(rest);
            all_bytes += RECORD_HEAD_BYTES + bytes + 2 * BLOCK_BYTES;
            most_bytes = most_bytes.max(RECORD_HEAD_BYTES + bytes);
            rest = rest.get(count..).unwrap_or_default();
        }
        let is_room = self.has_room(all_bytes);
        if !is_room {
            self.want_room_for(frame_with(most_bytes.min(self.record_limit_bytes())));
        }
        is_room
    }

    /// The first of these entries that go into one record: their bytes there, and how many they are.
    fn next_copies(&self, entries: &[OwnedEntry]) -> (usize, usize) {
        let (mut bytes, mut count) = (0, 0);
        for entry in entries {
            let more = ENTRY_HEAD_BYTES + entry.data.len();
            if count > 0 && bytes + more > self.copy_bytes() {
                break;
            }
            (bytes, count) = (bytes + more, count + 1);
        }
        (bytes, count)
    }

    /// Adds the entries that are still where they were read from.
    fn push_copies(&mut self, log: LogId, entries: &[OwnedEntry]) -> Result<(), WalError> {
        let Some(held) = self.index.get(log) else { return Ok(()) };
        let replaced = self.commit.lowest_waiting(log).unwrap_or(Lsn(u64::MAX));
        let counts = |entry: &&OwnedEntry| {
            let run = held.runs.find(entry.lsn).filter(|_| entry.lsn < replaced);
            run.is_some_and(|run| Some(run.segment) == self.copying.segment && run.term == entry.term)
        };
        let from = entries.iter().position(|entry| counts(&entry)).unwrap_or(entries.len());
        let (_, rest) = entries.split_at(from);
        let (mut rest, _) = rest.split_at(rest.iter().take_while(counts).count());
        while let Some(first) = rest.first() {
            let prev_term = self.term(log, Lsn(first.lsn.get() - 1)).unwrap_or_default();
            let (bytes, count) = self.next_copies(rest);
            assert!(count > 0, "a record of copies holds entries");
            let (now, later) = rest.split_at(count);
            let meta = RecordMeta {
                log,
                kind: RecordKind::Copy,
                count: u32::try_from(count).expect("fewer than bytes"),
                first: first.lsn,
                last: now.last().map_or(first.lsn, |last| last.lsn),
                prev_term,
                ..RecordMeta::default()
            };
            let entries =
                now.iter().map(|e| EntryRef { lsn: e.lsn, term: e.term, kind: e.kind, data: &e.data });
            self.copying.pushed_in = self.push(&meta, bytes, entries)?;
            self.copying.credit_bytes -= i64::try_from(bytes).expect("smaller than a segment");
            self.stats.rewritten_bytes += bytes as u64;
            self.stats.rewritten_entries += count as u64;
            rest = later;
        }
        Ok(())
    }
}
