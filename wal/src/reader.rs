//! Reading entries back: from the buffers of frames that are not durable yet, else from the disk, a run at a time.
//!
//! Every record is verified before an entry of it is handed out. A read looks its position up again at each step, so an
//! overwrite or a release in between shortens it and never mixes two histories.

use crate::device::{BLOCK_BYTES, Device, IoId, Op, SlotId};
use crate::error::WalError;
use crate::format::frame::{FRAME_HEAD_BYTES, FrameHead, is_frame};
use crate::format::record;
use crate::format::sectors::{self, BLOCK_PAYLOAD_BYTES};
use crate::ids::{LogId, Lsn, SegmentSeq, Term, WalPosition};
use crate::options::{ReadToken, WalEvent};
use crate::record::OwnedEntry;
use crate::runs::Run;
use crate::wal::{Purpose, Wal};

/// Entries wanted, and those found so far.
#[derive(Debug)]
pub(crate) struct Want {
    pub log: LogId,
    /// The log's incarnation that the entries found so far are of.
    pub incarnation: Option<u32>,
    /// The first entry wanted.
    pub from: Lsn,
    /// The next entry to find.
    pub next: Lsn,
    /// The last one wanted.
    pub to: Lsn,
    /// Payload bytes that may still be added; the first entry comes regardless.
    pub room_bytes: usize,
    /// The log holds no more of it.
    pub ended: bool,
    pub found: Vec<OwnedEntry>,
}

impl Want {
    pub fn is_done(&self) -> bool {
        self.ended || self.next > self.to || (self.room_bytes == 0 && !self.found.is_empty())
    }

    /// Takes the entries of a record that continue what was found, up to `last`; `term` returns the version that counts.
    pub fn take(&mut self, view: &record::RecordView<'_>, term: Option<Term>, last: Lsn) {
        if view.meta.count == 0 || view.meta.first > self.next || view.meta.last < self.next {
            return;
        }
        for entry in view.entries().flatten() {
            if entry.lsn != self.next || term.is_some_and(|term| term != entry.term) || entry.lsn > last {
                continue;
            }
            if self.is_done() {
                return;
            }
            if entry.data.len() > self.room_bytes && !self.found.is_empty() {
                self.room_bytes = 0;
                return;
            }
            self.room_bytes = self.room_bytes.saturating_sub(entry.data.len());
            self.found.push(entry.to_owned());
            self.next = entry.lsn.next();
        }
    }
}

/// Whom a read is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// The WAL's owner.
    Owner(ReadToken),
    /// Reclaim, which writes the entries again.
    Reclaim,
}

/// An asynchronous read.
#[derive(Debug)]
pub(crate) struct Job {
    pub reader: Reader,
    pub want: Want,
    /// The piece under way.
    pub piece: Option<Piece>,
}

/// The blocks of a run on their way from the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub io: IoId,
    pub run: Run,
    /// Where they start in the segment, and how many bytes.
    pub offset: u32,
    pub len: u32,
}

impl Piece {
    /// The blocks to read for a run; `limit` is where unwritten bytes begin, if they begin in this segment.
    pub fn of(io: IoId, run: Run, limit: Option<u32>) -> Self {
        let block = u32::try_from(BLOCK_BYTES).expect("a small constant");
        let offset = run.offset / block * block;
        let end = run.end.min(limit.unwrap_or(u32::MAX)).next_multiple_of(block);
        assert!(end > offset, "nothing of the run at entry {} is on the disk", run.first);
        Self { io, run, offset, len: end.saturating_sub(offset) }
    }

    pub fn segment(&self) -> SegmentSeq {
        self.run.segment
    }
}

/// Finds the wanted entries in the blocks of a run. An error says where in the segment what is not as it was written begins
/// (a record, or a frame's head), and what is wrong with it.
pub(crate) fn collect(piece: &Piece, bytes: &[u8], want: &mut Want) -> Result<(), (u32, &'static str)> {
    let run = &piece.run;
    let mut content = Vec::new();
    if !sectors::gather(bytes, 0, sectors::content_bytes(piece.len as usize), &mut content) {
        return Err((run.offset, "fewer bytes than asked for"));
    }
    let offset = |at: usize| {
        piece.offset + u32::try_from(sectors::physical(at)).expect("a piece is smaller than its segment")
    };
    let mut at = sectors::logical((run.offset - piece.offset) as usize);
    // Behind the last record that could be read.
    let mut sound_to = at;
    let before = want.next;
    while !want.is_done() && want.next <= run.last() {
        let Some(rest) = content.get(at..).filter(|rest| rest.len() >= record::RECORD_ALIGN) else { break };
        if at.is_multiple_of(BLOCK_PAYLOAD_BYTES) && is_frame(rest) {
            FrameHead::decode(rest).ok_or((offset(at), "a frame's head is not whole"))?;
            at += FRAME_HEAD_BYTES;
            continue;
        }
        let len = record::record_len(rest).unwrap_or(0);
        if len == 0 {
            at = (at + 1).next_multiple_of(BLOCK_PAYLOAD_BYTES);
            continue;
        }
        if record::claimed_log(rest) == Some(want.log) {
            let view = record::decode(rest).ok_or((offset(at), "a record's checksum is wrong"))?;
            want.take(&view, Some(run.term), run.last());
            sound_to = at + record::aligned(len);
        }
        at += record::aligned(len);
    }
    if want.next == before && !want.is_done() {
        return Err((offset(sound_to), "the entry is not where it was written"));
    }
    Ok(())
}

impl<D: Device> Wal<D> {
    /// Reads entries `[from, to]` blocking; used at opening to load what the state machine has not got.
    ///
    /// # Errors
    /// [`WalError::OutOfRange`]; [`WalError::Damaged`], also for a sector that cannot be read; [`WalError::Io`].
    pub fn read_blocking(&mut self, log: LogId, from: Lsn, to: Lsn) -> Result<Vec<OwnedEntry>, WalError> {
        let mut want = self.want(log, from, to, usize::MAX)?;
        want.to = to;
        self.check_range(log, to)?;
        while !want.is_done() {
            let Some((run, limit)) = self.take_from_memory(&mut want) else { continue };
            let piece = Piece::of(IoId(u64::MAX), run, limit);
            let slot = self.slot_of(&piece);
            let mut buffer = self.device.buffer(piece.len as usize);
            let result = self.device.read_blocking(slot, piece.offset, &mut buffer, piece.len);
            let result = self.digest(&piece, result, &buffer, &mut want);
            self.device.recycle(buffer);
            result?;
        }
        Ok(want.found)
    }

    /// Starts reading entries from `from` up to `to` (inclusive) or `max_bytes`, at least one. Ends as
    /// [`WalEvent::Read`].
    ///
    /// # Errors
    /// [`WalError::OutOfRange`] if the log does not hold `from`; [`WalError::Poisoned`].
    pub fn read(
        &mut self,
        token: ReadToken,
        log: LogId,
        from: Lsn,
        to: Lsn,
        max_bytes: usize,
    ) -> Result<(), WalError> {
        self.check_poison()?;
        self.start_read(Reader::Owner(token), log, from, to, max_bytes)
    }

    pub(crate) fn start_read(
        &mut self,
        reader: Reader,
        log: LogId,
        from: Lsn,
        to: Lsn,
        max_bytes: usize,
    ) -> Result<(), WalError> {
        let want = self.want(log, from, to, max_bytes)?;
        let mut job = Job { reader, want, piece: None };
        self.step(&mut job);
        self.jobs.push(job);
        Ok(())
    }

    fn end_read(&mut self, job: Job, result: Result<Vec<OwnedEntry>, WalError>, events: &mut Vec<WalEvent>) {
        match job.reader {
            Reader::Owner(token) => events.push(WalEvent::Read { token, result }),
            Reader::Reclaim => self.on_copy_read(&job.want, result),
        }
    }

    fn want(&self, log: LogId, from: Lsn, to: Lsn, room_bytes: usize) -> Result<Want, WalError> {
        self.check_range(log, from)?;
        let last = self.index.get(log).map_or(Lsn::ZERO, |entry| entry.last);
        Ok(Want {
            log,
            incarnation: self.incarnation(log),
            from,
            next: from,
            to: to.min(last),
            room_bytes,
            ended: false,
            found: Vec::new(),
        })
    }

    pub(crate) fn incarnation(&self, log: LogId) -> Option<u32> {
        self.index.get(log).map(|entry| entry.incarnation)
    }

    fn check_range(&self, log: LogId, lsn: Lsn) -> Result<(), WalError> {
        let (first, last) = self.index.get(log).map_or((Lsn(1), Lsn(0)), |entry| (entry.first, entry.last));
        if lsn < first || lsn > last {
            return Err(WalError::OutOfRange { log, lsn, first, last });
        }
        Ok(())
    }

    fn slot_of(&self, piece: &Piece) -> SlotId {
        self.segments.get(piece.segment()).map(|segment| segment.slot).expect("a run lies in a live segment")
    }

    /// Serves what is not durable yet from memory. `Some` if the next entries must come from the disk: their run, and
    /// where bytes that are not on the disk begin. `None` if the read went on, or the log holds no more of it.
    fn take_from_memory(&self, want: &mut Want) -> Option<(Run, Option<u32>)> {
        let entry =
            self.index.get(want.log).filter(|entry| entry.first <= want.next && want.next <= entry.last);
        let Some(entry) = entry else {
            want.ended = true;
            return None;
        };
        let mut limit = entry.last;
        let content = self.commit.content(want.log, want.next, &mut limit, |io| self.device.in_flight(io));
        if let Some(content) = content {
            let view = record::decode(&content).expect("a record in memory is as it was encoded");
            want.take(&view, None, limit);
            return None;
        }
        let mut run = *entry.runs.find(want.next).expect("the index holds every entry that has a position");
        if limit < run.last() {
            run.count = u32::try_from(limit.get() + 1 - run.first.get()).expect("inside the run");
        }
        Some((run, self.commit.first_in_flight(run.segment).filter(|start| *start > run.offset)))
    }

    /// Takes the blocks of a piece in, or says why not.
    fn digest(
        &self,
        piece: &Piece,
        result: std::io::Result<()>,
        bytes: &[u8],
        want: &mut Want,
    ) -> Result<(), WalError> {
        let start = WalPosition { segment: piece.segment(), offset: piece.run.offset };
        let collected = match result {
            Ok(()) => collect(piece, bytes, want).map_err(|(offset, why)| (offset, why.to_owned())),
            // A bad sector is lost as one with other bytes in it is: for the logs that have entries there.
            Err(source) if source.raw_os_error() == Some(libc::EIO) => {
                let end = piece.offset + piece.len;
                Err((start.offset, format!("what lies from there to {end} cannot be read ({source})")))
            }
            Err(source) => {
                let what = format!("segment {start} could not be read for log {}", want.log);
                return Err(WalError::Io { what, source });
            }
        };
        collected.map_err(|(offset, why)| WalError::Damaged {
            position: WalPosition { offset, ..start },
            slot: self.slot_of(piece),
            logs: vec![want.log],
            why,
            remedy: "Restore this folder from a copy",
        })
    }

    /// Brings a read to its end or to its next piece from the disk.
    fn step(&mut self, job: &mut Job) {
        assert!(job.piece.is_none(), "a read of log {} waits for a piece already", job.want.log);
        while !job.want.is_done() {
            let Some((run, limit)) = self.take_from_memory(&mut job.want) else { continue };
            let io = self.new_io(Purpose::Read);
            let piece = Piece::of(io, run, limit);
            let slot = self.slot_of(&piece);
            if let Some(segment) = self.segments.get_mut(piece.segment()) {
                segment.pins += 1;
            }
            let buffer = self.device.buffer(piece.len as usize);
            self.device.submit(io, Op::Read { slot, offset: piece.offset, buffer, len: piece.len });
            job.piece = Some(piece);
            return;
        }
    }

    pub(crate) fn on_read(
        &mut self,
        io: IoId,
        result: std::io::Result<()>,
        buffer: Option<D::Buffer>,
        events: &mut Vec<WalEvent>,
    ) {
        let at = self.jobs.iter().position(|job| job.piece.is_some_and(|piece| piece.io == io));
        let mut job = self.jobs.swap_remove(at.expect("a piece under way belongs to a read"));
        let piece = job.piece.take().expect("it was found by its piece");
        let digested = self.digest(&piece, result, buffer.as_deref().unwrap_or_default(), &mut job.want);
        self.unpin(piece.segment());
        self.recycle(buffer);
        match digested {
            Ok(()) => {
                self.step(&mut job);
                self.jobs.push(job);
            }
            Err(error) => self.end_read(job, Err(error), events),
        }
    }

    /// Reports the reads that have come to their end.
    pub(crate) fn run_reads(&mut self, events: &mut Vec<WalEvent>) {
        if self.jobs.is_empty() {
            return;
        }
        let (done, going) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job: &Job| job.piece.is_none());
        self.jobs = going;
        for mut job in done {
            // An overwrite since may have taken the end away, or all of it: then the read starts again.
            let want = &mut job.want;
            let is_same = self.incarnation(want.log) == want.incarnation;
            let holds = |e: &&OwnedEntry| is_same && self.term(want.log, e.lsn) == Some(e.term);
            let valid = want.found.iter().take_while(holds).count();
            want.found.truncate(valid);
            let result = match self.check_range(want.log, want.from) {
                Err(error) if want.found.is_empty() => Err(error),
                Ok(()) if want.found.is_empty() => {
                    (want.next, want.ended, want.incarnation) =
                        (want.from, false, self.incarnation(want.log));
                    self.step(&mut job);
                    self.jobs.push(job);
                    continue;
                }
                _ => Ok(std::mem::take(&mut want.found)),
            };
            self.end_read(job, result, events);
        }
    }
}
