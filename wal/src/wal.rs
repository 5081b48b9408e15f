//! The facade: open, append records, submit one frame a turn, learn what is durable, read back, release.
//!
//! The other files add to the same type, and call it: `pump` what happens between `submit` and the watermark, `reader` how
//! reads run, `manifest`, `growth`, `rewrite` and `resume` what goes on beside.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

use crate::device::{Completion, Device, IoId, SlotId};
use crate::error::WalError;
use crate::format::record::{ENTRY_HEAD_BYTES, RecordKind, RecordMeta};
use crate::group_commit::GroupCommit;
use crate::ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term};
use crate::index::{Index, SegmentIndex};
use crate::manifest::{self, Naming};
use crate::mix::mix;
use crate::options::{Options, Recovered, Space, WalEvent, WalStats};
use crate::planted::{self, Planted};
use crate::reader::Job;
use crate::reclaim::Reclaim;
use crate::record::{EntryRef, LogState, RecordHead};
use crate::recovery;
use crate::rewrite::Copying;
use crate::segment::Segments;

/// What a batch starts with; larger batches move to a larger buffer.
const FIRST_BUFFER_BYTES: usize = 256 << 10;

/// What an operation under way was started for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Frame,
    Footer(SegmentSeq),
    Manifest,
    Wipe,
    Read,
    Create(SlotId),
    Remove,
}

/// One shard's WAL.
#[derive(Debug)]
pub struct Wal<D: Device> {
    pub(crate) device: D,
    pub(crate) options: Options,
    pub(crate) wal_id: u64,
    pub(crate) index: Index,
    pub(crate) segments: Segments,
    pub(crate) commit: GroupCommit<D::Buffer>,
    /// The effect of the active segment's frames so far: its footer to be.
    pub(crate) active_index: SegmentIndex,
    /// Bytes of the active segment that must be overwritten before a frame starts.
    pub(crate) leftovers: Range<u32>,
    /// Footers that wait for their segment's last batch to be durable.
    pub(crate) footers: VecDeque<(SegmentSeq, BatchSeq, Vec<u8>)>,
    pub(crate) reclaim: Reclaim,
    pub(crate) copying: Copying,
    pub(crate) jobs: Vec<Job>,
    pub(crate) under_way: Vec<(IoId, Purpose)>,
    pub(crate) next_io: u64,
    pub(crate) ended: Vec<Completion<D::Buffer>>,
    pub(crate) reported: Reported,
    pub(crate) making: MakingState,
    pub(crate) naming: Naming,
    pub(crate) stats: WalStats,
    poisoned: Option<(&'static str, String)>,
}

/// What the last poll reported to the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported {
    pub durable: BatchSeq,
    pub space: Space,
}

/// How the making of spares goes.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct MakingState {
    /// The size of the slots that are made.
    pub bytes: u32,
    /// The last attempt failed, or the limit is reached.
    pub blocked: bool,
    /// Polls until the next attempt.
    pub wait_polls: u32,
    /// The one slot that each incarnation may have beyond the limit.
    pub beyond: Beyond,
    /// Others are short of the room that spares take.
    pub keeps_few: bool,
    /// A record that must be written waits for room outside.
    pub is_awaited: bool,
}

/// What became of the slot beyond `max_segments`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Beyond {
    /// Not needed so far.
    #[default]
    Unused,
    /// It is made, or is being made, for the frame that waits.
    Wanted,
    /// It is part of the log.
    Used,
}

impl<D: Device> Wal<D> {
    /// Opens the WAL in the device's folder, or starts one where the folder is empty. Blocking: recovery.
    ///
    /// # Errors
    /// [`WalError::Io`], [`WalError::Damaged`], [`WalError::Lost`], [`WalError::Foreign`].
    ///
    /// # Panics
    /// If the options make no sense: `segment_bytes` not a multiple of 64 KiB, or `max_in_flight` not 1 to 4.
    pub fn open(mut device: D, options: Options) -> Result<(Self, Recovered), WalError> {
        options.check();
        let opened = recovery::open(&mut device, &options)?;
        let wal_id = opened.wal_id.unwrap_or_else(|| mix(options.seed));
        let newest = opened.segments.live().next_back();
        let naming =
            manifest::bring_up(&mut device, opened.manifest, wal_id, &options, newest, opened.durable)?;
        let mut wal = Self {
            device,
            options,
            wal_id,
            naming,
            index: opened.index,
            segments: opened.segments,
            commit: GroupCommit::new(opened.durable),
            active_index: SegmentIndex::default(),
            leftovers: 0..0,
            footers: VecDeque::new(),
            reclaim: Reclaim::default(),
            copying: Copying::default(),
            jobs: Vec::new(),
            under_way: Vec::new(),
            next_io: 0,
            ended: Vec::new(),
            reported: Reported { durable: opened.durable, space: Space::Ok },
            making: MakingState { bytes: opened.slot_bytes, ..MakingState::default() },
            stats: WalStats::default(),
            poisoned: None,
        };
        wal.remove_slots(opened.unfit);
        wal.resume(opened.unsealed);
        wal.make_spares();
        Ok((wal, opened.recovered))
    }

    /// The logs that hold anything (entries, hard state or configuration), in ascending order.
    pub fn logs(&self) -> Vec<LogId> {
        self.index.ids()
    }

    /// What is known of a log, appended but not yet durable parts included.
    pub fn log_state(&self, log: LogId) -> Option<LogState> {
        self.index.get(log).map(crate::index::LogEntry::state)
    }

    /// The term of an entry, from memory; also of the one before `first`.
    pub fn term(&self, log: LogId, lsn: Lsn) -> Option<Term> {
        let entry = self.index.get(log)?;
        if lsn.next() == entry.first {
            return Some(entry.prev_term);
        }
        if lsn < entry.first || lsn > entry.last {
            return None;
        }
        let waiting = (entry.waiting > 0).then(|| self.commit.waiting_term(log, lsn)).flatten();
        waiting.or_else(|| entry.runs.find(lsn).map(|run| run.term))
    }

    /// Whether a frame may be started now: a slot in flight is free, and there is a segment to write to.
    /// While this is false, keep gathering outside.
    pub fn can_submit(&self) -> bool {
        self.poisoned.is_none()
            && self.commit.ready.is_empty()
            && !self.is_wiping()
            && self.commit.in_flight.len() < self.options.max_in_flight
            && (self.segments.active.is_some() || self.segments.spares() > 0)
    }

    /// Adds one record to the open batch. Entries must be contiguous and start at or below `last + 1`; what they
    /// overlap is replaced (Raft's log matching). Returns the batch that the record will ride in.
    ///
    /// # Errors
    /// [`WalError::BadAppend`], [`WalError::TooLarge`], [`WalError::Poisoned`]. Nothing was appended then.
    pub fn append<'a>(
        &mut self,
        head: RecordHead<'_>,
        entries: impl ExactSizeIterator<Item = EntryRef<'a>> + Clone,
    ) -> Result<BatchSeq, WalError> {
        self.check_poison()?;
        if planted::is(Planted::HardStateApart) && head.hard_state.is_some() && entries.len() > 0 {
            self.append(RecordHead { conf: None, ..head }, iter::empty())?;
            self.commit.close();
            return self.append(RecordHead { hard_state: None, ..head }, entries);
        }
        let (meta, entries_bytes) = self.check_append(&head, entries.clone())?;
        let batch = self.push(&meta, entries_bytes, entries)?;
        let entry = self.index.entry(head.log);
        if meta.count > 0 {
            assert!(entry.first <= meta.last, "log {} is appended to in front of its first entry", head.log);
            entry.last = meta.last;
            entry.waiting += 1;
        }
        if head.hard_state.is_some() {
            entry.hard_state = head.hard_state;
        }
        if let Some(conf) = head.conf {
            entry.conf = Some(conf.into());
        }
        Ok(batch)
    }

    /// Has what is known of a log fetched into the processor's caches: it is appended to soon.
    pub fn prefetch(&self, log: LogId) {
        self.index.get(log).into_iter().for_each(|entry| entry.runs.prefetch());
    }

    /// Verifies an append against what the log holds; returns the record's head and the size of its entries.
    fn check_append<'a, 'h>(
        &self,
        head: &RecordHead<'h>,
        entries: impl ExactSizeIterator<Item = EntryRef<'a>>,
    ) -> Result<(RecordMeta<'h>, usize), WalError> {
        let log = head.log;
        let bad = |why: String| Err(WalError::BadAppend { log, why });
        let mut meta =
            RecordMeta { log, hard_state: head.hard_state, conf: head.conf, ..RecordMeta::default() };
        let mut bytes = 0;
        let mut before: Option<(Lsn, Term)> = None;
        for entry in entries {
            bytes += ENTRY_HEAD_BYTES + entry.data.len();
            match before {
                None => {
                    let (first, last) =
                        self.index.get(log).map_or((Lsn(1), Lsn(0)), |held| (held.first, held.last));
                    if entry.lsn < first || entry.lsn > last.next() {
                        return bad(format!("entry {} does not join {first}..={last}", entry.lsn));
                    }
                    meta.first = entry.lsn;
                    meta.prev_term = self.term(log, Lsn(entry.lsn.get() - 1)).unwrap_or_default();
                    if entry.term < meta.prev_term {
                        return bad(format!("entry {} goes back to term {}", entry.lsn, entry.term));
                    }
                }
                Some((lsn, term)) if lsn.next() != entry.lsn || entry.term < term => {
                    return bad(format!(
                        "entry {} of term {} follows {lsn} of term {term}",
                        entry.lsn, entry.term
                    ));
                }
                Some(_) => {}
            }
            before = Some((entry.lsn, entry.term));
            meta.last = entry.lsn;
            meta.count += 1;
        }
        Ok((meta, bytes))
    }

    /// Encodes a record into the open batch, closing a full one first.
    pub(crate) fn push<'a>(
        &mut self,
        meta: &RecordMeta<'_>,
        entries_bytes: usize,
        entries: impl Iterator<Item = EntryRef<'a>>,
    ) -> Result<BatchSeq, WalError> {
        let (bytes, limit) = (meta.record_bytes(entries_bytes), self.record_limit_bytes());
        if bytes > limit {
            return Err(WalError::TooLarge { log: meta.log, bytes, limit });
        }
        let most = (self.options.segment_bytes / 2) as usize;
        let together = self.batch_bytes();
        if self.commit.open.as_ref().is_some_and(|open| open.frame_bytes_with(bytes) > together) {
            self.commit.close();
        }
        let batch = match self.commit.open.as_mut() {
            Some(batch) => batch,
            None => {
                let first = FIRST_BUFFER_BYTES.min(self.options.segment_bytes as usize / 2);
                let buffer = self.device.buffer(first);
                self.commit.begin(buffer)
            }
        };
        let frame_bytes = batch.frame_bytes_with(bytes);
        if !batch.fits_buffer(frame_bytes) {
            let larger = self.device.buffer((frame_bytes * 2).min(most) + crate::device::BLOCK_BYTES);
            let smaller = batch.grow(larger);
            self.device.recycle(smaller);
        }
        batch.push(meta, bytes, entries);
        self.stats.records += 1;
        Ok(batch.seq)
    }

    /// Writes the open batch as one frame, if it holds anything. Call once a turn, only after [`Wal::can_submit`].
    ///
    /// # Errors
    /// [`WalError::Poisoned`].
    pub fn submit(&mut self) -> Result<Option<BatchSeq>, WalError> {
        self.check_poison()?;
        self.ride_along()?;
        let seq = self.commit.close();
        self.claim_room();
        self.start_frames();
        self.free_segments()?;
        Ok(seq)
    }

    /// Collects what the device has finished. After an error the WAL is poisoned for good.
    ///
    /// # Errors
    /// [`WalError::Poisoned`], once a write or sync has failed.
    pub fn poll(&mut self, events: &mut Vec<WalEvent>) -> Result<(), WalError> {
        self.check_poison()?;
        let mut ended = std::mem::take(&mut self.ended);
        self.device.poll(&mut ended);
        // Frames first: a read that goes on may want the buffers that have just come back.
        ended.sort_by_key(|done| !self.under_way.contains(&(done.id, Purpose::Frame)));
        for completion in ended.drain(..) {
            self.on_ended(completion, events);
        }
        self.ended = ended;
        self.check_poison()?;
        self.pump(events)
    }

    fn on_ended(&mut self, completion: Completion<D::Buffer>, events: &mut Vec<WalEvent>) {
        let Completion { id, result, buffer } = completion;
        let Some(at) = self.under_way.iter().position(|(io, _)| *io == id) else {
            unreachable!("the device ended operation {id:?}, which was not under way")
        };
        let (_, purpose) = self.under_way.swap_remove(at);
        match (purpose, result) {
            (Purpose::Frame, Ok(())) => {
                assert!(self.commit.ended(id, buffer), "a frame under way is known to the group commit");
            }
            (Purpose::Frame, Err(error)) => self.poison("a frame's write", &error),
            (Purpose::Footer(segment), result) => {
                if let Err(error) = result {
                    self.poison("a footer's write", &error);
                }
                self.unpin(segment);
                self.recycle(buffer);
            }
            (Purpose::Manifest, result) => {
                self.recycle(buffer);
                match result {
                    Ok(()) => self.on_manifest_written(),
                    Err(error) => self.poison("the manifest's write", &error),
                }
            }
            (Purpose::Wipe, result) => {
                self.recycle(buffer);
                match result {
                    Ok(()) => self.on_wiped(),
                    Err(error) => self.poison("the overwriting of what a crash left", &error),
                }
            }
            (Purpose::Create(slot), result) => self.on_made(slot, result.is_ok()),
            (Purpose::Remove, _) => {}
            // A frame whose write failed has no buffer any more, and nothing is handed out.
            (Purpose::Read, _) if self.poisoned.is_some() => self.recycle(buffer),
            (Purpose::Read, result) => self.on_read(id, result, buffer, events),
        }
    }

    pub(crate) fn recycle(&mut self, buffer: Option<D::Buffer>) {
        if let Some(buffer) = buffer {
            self.device.recycle(buffer);
        }
    }

    fn poison(&mut self, what: &'static str, error: &std::io::Error) {
        if self.poisoned.is_none() {
            self.poisoned = Some((what, error.to_string()));
        }
    }

    pub(crate) fn check_poison(&self) -> Result<(), WalError> {
        match &self.poisoned {
            Some((what, message)) => Err(WalError::Poisoned { what, message: message.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn new_io(&mut self, purpose: Purpose) -> IoId {
        let io = IoId(self.next_io);
        self.next_io += 1;
        self.under_way.push((io, purpose));
        io
    }

    /// The durable watermark.
    pub fn durable(&self) -> BatchSeq {
        self.commit.durable
    }

    /// Batches submitted and not yet durable.
    pub fn in_flight(&self) -> usize {
        self.commit.in_flight.len() + self.commit.ready.len()
    }

    /// Says that entries up to `upto` (inclusive) are no longer needed by anybody. In memory only: after a restart
    /// entries may be back, and the owner's own persisted position counts.
    pub fn release(&mut self, log: LogId, upto: Lsn) {
        let Some(entry) = self.index.get(log) else { return };
        let upto = upto.min(entry.last);
        let Some(prev_term) = self.term(log, upto).filter(|_| upto >= entry.first) else { return };
        let segments = &mut self.segments;
        let Some(entry) = self.index.get_mut(log) else { return };
        let mut home = SegmentSeq::ZERO;
        entry.runs.drop_below(upto.next(), |run| {
            // In the end that of the last entry, which alone proves where the log ends.
            home = run.segment;
            segments.drop_live(run);
        });
        if home > SegmentSeq::ZERO && entry.runs.is_empty() {
            entry.base_home = home;
        }
        (entry.first, entry.prev_term) = (upto.next(), prev_term);
        assert!(entry.first <= entry.last.next(), "log {log} begins behind its end");
    }

    /// Starts a log anew behind `prev` (a snapshot was installed): it has no entries, the next is `prev + 1`. In the same
    /// record stand the hard state and the configuration that the head has; what it does not have stays.
    ///
    /// # Errors
    /// [`WalError::Poisoned`].
    pub fn reset(&mut self, head: RecordHead<'_>, prev: Lsn, prev_term: Term) -> Result<BatchSeq, WalError> {
        self.check_poison()?;
        self.drop_entries(head.log);
        let entry = self.index.entry(head.log);
        (entry.first, entry.last, entry.prev_term) = (prev.next(), prev, prev_term);
        entry.hard_state = head.hard_state.or(entry.hard_state);
        if let Some(conf) = head.conf {
            entry.conf = Some(conf.into());
        }
        self.push_state(head.log)
    }

    /// Forgets a log for good: a tombstone goes into the open batch.
    ///
    /// # Errors
    /// [`WalError::Poisoned`].
    pub fn remove(&mut self, log: LogId) -> Result<BatchSeq, WalError> {
        self.check_poison()?;
        self.drop_entries(log);
        self.index.remove(log);
        let meta = RecordMeta { log, kind: RecordKind::Tombstone, ..RecordMeta::default() };
        self.push(&meta, 0, std::iter::empty())
    }

    fn drop_entries(&mut self, log: LogId) {
        self.commit.forget(log);
        let segments = &mut self.segments;
        if let Some(entry) = self.index.get_mut(log) {
            entry.runs.clear(|run| segments.drop_live(run));
            entry.waiting = 0;
        }
    }

    /// Adds a record that repeats all of a log's state but its entries.
    pub(crate) fn push_state(&mut self, log: LogId) -> Result<BatchSeq, WalError> {
        let entry = self.index.entry(log);
        let conf = entry.conf.clone();
        let meta = RecordMeta {
            log,
            kind: RecordKind::State,
            count: 0,
            first: entry.first,
            last: entry.last,
            prev_term: entry.prev_term,
            hard_state: entry.hard_state,
            conf: conf.as_deref(),
        };
        self.push(&meta, 0, std::iter::empty())
    }

    /// Figures for INFO and metrics.
    pub fn stats(&self) -> WalStats {
        WalStats {
            live_segments: self.segments.live().count() as u64,
            live_bytes: self.segments.live().map(|segment| u64::from(segment.bytes)).sum(),
            spare_segments: self.segments.spares() as u64,
            ..self.stats
        }
    }

    /// The device, for drivers that wait on it.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, for the simulator.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }
}
