//! What holds between any two calls of a WAL, counted anew from the ground up: for the tests and the simulator.
//!
//! Each part asserts what it can see by itself; here is what holds between them. Not asked of a poisoned WAL, which was
//! left in the middle of something, nor where a bug is planted: that is to be found by what the log gives back.

use std::collections::BTreeMap;

use crate::device::{BLOCK_BYTES, Device};
use crate::format::footer;
use crate::ids::SegmentSeq;
use crate::planted;
use crate::reader::Reader;
use crate::wal::{Purpose, Wal};

impl<D: Device> Wal<D> {
    /// Asserts that all that is counted is what there is. Costs as much as there are logs, runs and slots.
    ///
    /// # Panics
    /// If a figure is wrong.
    pub fn check(&self) {
        if planted::any() || self.check_poison().is_err() {
            return;
        }
        self.segments.check();
        self.commit.check();
        self.naming.check_against(self.commit.durable, self.segments.next_seq());
        self.reclaim.check(self.commit.latest());
        self.check_logs();
        self.check_active();
        self.check_operations();
        self.check_pins();
    }

    /// The logs, and what the segments count of them.
    fn check_logs(&self) {
        let waiting = self.commit.waiting_records();
        let mut held: BTreeMap<SegmentSeq, (u64, u64)> = BTreeMap::new();
        for (log, entry) in self.index.iter() {
            let records = waiting.get(&log).copied().unwrap_or_default();
            entry.check(log, records, self.commit.speaks_of(log), &self.segments);
            for run in entry.runs.iter() {
                let segment = self.segments.live().find(|segment| segment.seq == run.segment);
                let end = segment.map_or(0, |segment| segment.end);
                let lies_in_it = run.offset as usize >= BLOCK_BYTES && run.end <= end;
                assert!(lies_in_it, "log {log}: {run:?} is not in its segment, which ends at {end}");
                let (entries, bytes) = held.entry(run.segment).or_default();
                (*entries, *bytes) = (*entries + u64::from(run.count), *bytes + u64::from(run.bytes));
            }
        }
        for log in waiting.keys() {
            assert!(self.index.get(*log).is_some(), "records wait of log {log}, which there is not");
        }
        for segment in self.segments.live() {
            let counted = (segment.live_entries, segment.live_bytes);
            let found = held.get(&segment.seq).copied().unwrap_or_default();
            assert_eq!(counted, found, "segment {} counts the entries and bytes that it holds", segment.seq);
        }
    }

    /// The active segment: its footer to be, what must be overwritten in it, and the footers of those before it.
    fn check_active(&self) {
        let active = self.segments.active.as_ref();
        let (seq, end) = active.map_or((SegmentSeq::ZERO, 0), |active| (active.seq, active.end));
        self.active_index.check(seq, end);
        for (log, entry) in self.index.iter() {
            let mut here = entry.runs.iter().filter(|run| run.segment == seq);
            assert!(
                here.all(|run| self.active_index.holds(log, run)),
                "the footer to be leaves out log {log}"
            );
        }
        assert!(
            !self.is_wiping() || (seq > SegmentSeq::ZERO && end <= self.leftovers.start),
            "frames are overwritten"
        );
        for (of, last_batch, bytes) in &self.footers {
            let sealed = self.segments.held().find(|segment| segment.seq == *of && *of != seq);
            let fits = sealed.is_some_and(|it| {
                it.last_batch == *last_batch && bytes.len() <= footer::reserve_bytes(it.bytes) as usize
            });
            assert!(fits, "the footer of segment {of} up to batch {last_batch} is of no segment");
        }
        assert!(self.options.takes_slot(self.making.bytes), "slots of {} bytes are made", self.making.bytes);
    }

    /// Each operation under way belongs to something that waits for it, and the other way round.
    fn check_operations(&self) {
        let count = |wanted: fn(&Purpose) -> bool| self.under_way.iter().filter(|(_, of)| wanted(of)).count();
        for (at, (io, purpose)) in self.under_way.iter().enumerate() {
            let is_single = self.under_way.iter().skip(at + 1).all(|(other, _)| other != io);
            assert!(is_single && io.0 < self.next_io, "{io:?} is under way twice, or was never begun");
            if let Purpose::Create(slot) = purpose {
                assert!(self.segments.is_making(*slot), "{slot:?} is being made, and nobody knows");
            }
        }
        let frames = &self.commit.in_flight;
        for frame in frames {
            let is_under_way = self.under_way.contains(&(frame.io, Purpose::Frame));
            assert_eq!(
                frame.done.is_none(),
                is_under_way,
                "the frame of batch {} is under way or done",
                frame.seq
            );
        }
        let going = frames.iter().filter(|frame| frame.done.is_none()).count();
        assert_eq!(count(|of| matches!(of, Purpose::Frame)), going, "frames under way");
        assert!(frames.len() <= self.options.max_in_flight, "{} frames are in flight", frames.len());
        assert_eq!(count(|of| matches!(of, Purpose::Create(_))), self.segments.making(), "slots being made");
        let copies = usize::from(self.naming.is_under_way());
        assert_eq!(count(|of| matches!(of, Purpose::Manifest)), copies, "copies of the manifest under way");
        let wipes = usize::from(self.is_wiping());
        assert_eq!(count(|of| matches!(of, Purpose::Wipe)), wipes, "steps of overwriting under way");
        let pieces = self.jobs.iter().filter_map(|job| job.piece.as_ref());
        let mut reads = 0;
        for piece in pieces {
            assert!(self.under_way.contains(&(piece.io, Purpose::Read)), "a read waits for {:?}", piece.io);
            reads += 1;
        }
        assert_eq!(count(|of| matches!(of, Purpose::Read)), reads, "reads under way");
        let for_copies = self.jobs.iter().filter(|job| job.reader == Reader::Reclaim).count();
        self.copying.check(for_copies);
        assert_eq!(self.reported.durable, self.commit.durable, "the watermark that was reported");
        assert!(self.ended.is_empty(), "operations have ended, and nobody took them");
    }

    /// A segment is pinned by what is read from it, and by its footer's write.
    fn check_pins(&self) {
        for segment in self.segments.held() {
            let footers = self.under_way.iter().filter(|(_, of)| *of == Purpose::Footer(segment.seq)).count();
            let pieces = self.jobs.iter().filter_map(|job| job.piece.as_ref());
            let reads = pieces.filter(|piece| piece.segment() == segment.seq).count();
            assert_eq!(segment.pins as usize, footers + reads, "segment {} counts its pins", segment.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::mem::{MemDevice, MemDisk};
    use crate::device::{IoId, SlotId};
    use crate::ids::{BatchSeq, LogId, Lsn, Term};
    use crate::options::{Options, ReadToken};
    use crate::record::{EntryKind, EntryRef, HardState, RecordHead};

    type MemWal = Wal<MemDevice>;

    fn append(wal: &mut MemWal, log: u64, lsn: u64, bytes: usize) {
        let data = vec![7; bytes];
        let entry = EntryRef { lsn: Lsn(lsn), term: Term(1), kind: EntryKind::Normal, data: &data };
        let hard_state = (lsn == 1).then_some(HardState { term: Term(1), vote: 1, commit: Lsn(0) });
        let head = RecordHead { log: LogId(log), hard_state, conf: None };
        wal.append(head, std::iter::once(entry)).unwrap();
        wal.check();
    }

    fn settle(disk: &MemDisk, wal: &mut MemWal) {
        for _ in 0..8 {
            disk.complete_all();
            wal.poll(&mut Vec::new()).unwrap();
            wal.check();
        }
    }

    /// A log with a sealed and an active segment, a read, a frame in flight, and an open batch.
    fn busy() -> MemWal {
        let disk = MemDisk::new(1);
        disk.set_manual(true);
        let options =
            Options { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, ..Options::default() };
        let (mut wal, _) = Wal::open(disk.device(), options).unwrap();
        settle(&disk, &mut wal);
        for lsn in 1..=3 {
            append(&mut wal, 1, lsn, 20_000);
            append(&mut wal, 2, lsn, 100);
            wal.submit().unwrap();
            wal.check();
            settle(&disk, &mut wal);
        }
        wal.read(ReadToken(1), LogId(1), Lsn(1), Lsn(1), usize::MAX).unwrap();
        append(&mut wal, 1, 4, 100);
        wal.submit().unwrap();
        append(&mut wal, 1, 5, 100);
        let segments = &wal.segments;
        assert!(segments.sealed.len() == 1 && segments.active.is_some(), "{segments:?}");
        assert!(wal.commit.in_flight.len() == 1 && wal.commit.open.is_some() && wal.jobs.len() == 1);
        wal
    }

    /// What is wrong, how it came to be, and what `check` says of it.
    type Wrong = (&'static str, fn(&mut MemWal), &'static str);

    fn active(wal: &mut MemWal) -> &mut crate::segment::Segment {
        wal.segments.active.as_mut().unwrap()
    }

    fn log(wal: &mut MemWal, log: u64) -> &mut crate::index::LogEntry {
        wal.index.get_mut(LogId(log)).unwrap()
    }

    const COUNTS: [Wrong; 14] = [
        ("an entry too many", |wal| active(wal).live_entries += 1, "counts the entries"),
        ("a byte too few", |wal| wal.segments.sealed[0].live_bytes -= 1, "counts the entries"),
        ("a pin", |wal| active(wal).pins += 1, "counts its pins"),
        ("no pin for a read", |wal| wal.segments.sealed[0].pins = 0, "counts its pins"),
        ("an end in front of a run", |wal| active(wal).end = 4096, "segment"),
        ("a record that waits", |wal| log(wal, 1).waiting += 1, "wait for a position"),
        ("another first entry", |wal| log(wal, 2).first = Lsn(2), "begins where its first run does"),
        ("another last entry", |wal| log(wal, 2).last = Lsn(4), "ends where its last run does"),
        ("another term in front", |wal| log(wal, 2).prev_term = Term(1), "the term in front"),
        ("a hard state without a home", |wal| log(wal, 2).hard_state_home = SegmentSeq(0), "not live"),
        ("a home that is to come", |wal| log(wal, 2).conf_home = SegmentSeq(99), "which there is not"),
        ("a log that went", |wal| drop(wal.index.remove(LogId(1))), "which there is not"),
        ("a footer without a log", |wal| drop(wal.active_index.logs.remove(&LogId(1))), "leaves out log 1"),
        (
            "the footer of nothing",
            |wal| wal.footers.push_back((SegmentSeq(99), BatchSeq(1), Vec::new())),
            "is of no segment",
        ),
    ];

    const OPERATIONS: [Wrong; 13] = [
        ("a watermark too high", |wal| wal.commit.durable = BatchSeq(4), "in flight"),
        ("a batch that went", |wal| wal.commit.open = None, "and are not there"),
        ("a frame that went", |wal| drop(wal.commit.in_flight.pop_front()), "waits behind one"),
        ("a frame that counts already", |wal| wal.commit.in_flight[0].acknowledged = true, "still in flight"),
        (
            "a frame in front of all",
            |wal| (wal.commit.in_flight[0].segment, wal.commit.in_flight[0].offset) = (SegmentSeq::ZERO, 0),
            "in front of",
        ),
        ("a report too low", |wal| wal.reported.durable = BatchSeq::ZERO, "that was reported"),
        (
            "an operation that went",
            |wal| wal.under_way.truncate(wal.under_way.len() - 1),
            "is under way or done",
        ),
        ("a write of nothing", |wal| begin(wal, Purpose::Frame), "frames under way"),
        ("a manifest of nothing", |wal| begin(wal, Purpose::Manifest), "copies of the manifest"),
        ("a slot of nothing", |wal| begin(wal, Purpose::Create(SlotId(77))), "nobody knows"),
        ("an operation twice", |wal| wal.under_way.push((IoId(0), Purpose::Remove)), "was never begun"),
        ("a read for another one", |wal| wal.jobs[0].reader = Reader::Reclaim, "while they are read"),
        ("leftovers", |wal| wal.leftovers = 1..2, "frames are overwritten"),
    ];

    fn begin(wal: &mut MemWal, purpose: Purpose) {
        wal.new_io(purpose);
    }

    #[test]
    fn a_wrong_count_is_found() {
        busy().check();
        for (what, spoil, said) in COUNTS.into_iter().chain(OPERATIONS) {
            let mut wal = busy();
            spoil(&mut wal);
            if what == "an operation twice" {
                wal.under_way.push((IoId(0), Purpose::Remove));
            }
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wal.check()));
            let found = found.expect_err(what);
            let text = found.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| found.downcast_ref::<&str>().copied()).unwrap_or_default();
            assert!(text.contains(said), "{what}: {text}");
        }
    }
}
