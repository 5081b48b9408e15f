//! A stopped WAL read from front to back: every frame and record, every fault, and what the logs hold.
//!
//! Recovery stops at the first fault, since it must not go on; this goes on behind it, since the operator wants to know
//! how much is lost. Both judge a frame by the same checks (module `scan`). Nothing here writes.

mod walk;

use std::collections::BTreeMap;

use crate::device::mapped::{MappedFolder, MappedSlot};
use crate::device::{BLOCK_BYTES, OpenError, SlotId};
use crate::format::footer::FooterTail;
use crate::format::frame::FrameHead;
use crate::format::manifest;
pub use crate::format::manifest::Manifest;
pub use crate::format::record::{RecordKind, RecordMeta, RecordView};
use crate::format::segment::{FORMAT_VERSION, SegmentHeader, SlotRole, slot_role};
use crate::ids::{BatchSeq, LogId, SegmentSeq, Term, WalPosition};
use crate::index::Index;
use crate::record::LogState;
use crate::scan::Image;
use walk::Walk;

/// Something that is not as it was written.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The file.
    pub slot: SlotId,
    /// Where; offset 0 for a fault of the whole segment. Segment 0 where the header does not show which it is.
    pub position: WalPosition,
    /// Bytes that cannot be used; 0 where that is not known.
    pub bytes: u32,
    /// What was found.
    pub why: String,
    /// Logs that seem to have records there.
    pub logs: Vec<LogId>,
}

/// What is passed by on the way.
#[derive(Clone, Copy, Debug)]
pub enum Passing<'a> {
    /// A segment begins.
    Segment(SlotId, &'a SegmentHeader),
    /// A whole frame, and its bytes in the file.
    Frame(&'a FrameHead, u32),
    /// A whole record of the frame: what it says and its entries, its bytes, and the terms of its first and last entry.
    Record(&'a RecordView<'a>, usize, Option<(Term, Term)>),
    /// Something that is not whole.
    Fault(&'a Fault),
}

/// A segment of the log, counted.
#[derive(Clone, Debug)]
pub struct SegmentSummary {
    /// Its number.
    pub seq: SegmentSeq,
    /// Its file.
    pub slot: SlotId,
    /// The file's size.
    pub bytes: u32,
    /// Where its frames end.
    pub end: u32,
    /// The first batch in it.
    pub first_batch: BatchSeq,
    /// The last batch in it.
    pub last_batch: BatchSeq,
    /// Whole frames.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Entries in them.
    pub entries: u64,
    /// Entries in it that a log still holds.
    pub live_entries: u64,
    /// Whether it ends in a footer.
    pub footer: bool,
}

/// All that was found in a folder.
#[derive(Debug, Default)]
pub struct Inspection {
    /// The WAL's id; `None` for one that was never written to.
    pub wal_id: Option<u64>,
    /// What the manifest says, if there is a good one.
    pub manifest: Option<Manifest>,
    /// The live segments, oldest first.
    pub segments: Vec<SegmentSummary>,
    /// Slots that hold nothing live: blank ones, and those of segments that were freed.
    pub spare: Vec<SlotId>,
    /// Where a tail that was never acknowledged is cut off at the next start.
    pub torn_tail: Option<WalPosition>,
    /// Everything that is not as it was written. Empty means that the folder is sound.
    pub faults: Vec<Fault>,
    /// The logs and what they hold, by id.
    pub logs: Vec<(LogId, LogState)>,
}

/// A slot in use, mapped.
struct Used<'a> {
    slot: SlotId,
    header: SegmentHeader,
    bytes: MappedSlot<'a>,
}

impl Used<'_> {
    fn image(&self) -> Image<&[u8]> {
        Image { bytes: &self.bytes, salt: self.header.salt, seq: self.header.seq }
    }

    /// The footer's tail, if there is a whole one of this use of the slot.
    fn tail(&self) -> Option<FooterTail> {
        let tail = FooterTail::decode(&self.bytes)?;
        (tail.salt == self.header.salt && tail.seq == self.header.seq).then_some(tail)
    }

    /// The highest batch that any frame from `offset` on, or the footer, says was durable.
    fn vouches_for(&self, offset: u32) -> BatchSeq {
        let frames = self.image().heads(offset).map(|head| head.durable).max();
        frames.max(self.tail().map(|tail| tail.last_batch)).unwrap_or_default()
    }

    /// The oldest segment that was live when this one was written last.
    fn oldest_live(&self) -> SegmentSeq {
        let recorded = match self.tail() {
            Some(tail) => Some(tail.oldest_live),
            None => self.image().heads(0).map(|head| head.oldest_live).max(),
        };
        recorded.unwrap_or_default().max(self.header.oldest_live)
    }
}

/// Reads a folder; `pass` sees everything in order.
///
/// # Errors
/// A file that cannot be opened or mapped. Faults of what is in the files are no errors.
pub fn inspect(folder: &MappedFolder, pass: &mut dyn FnMut(Passing<'_>)) -> Result<Inspection, OpenError> {
    let mut found = Inspection::default();
    read_manifest(folder, &mut found)?;
    let mut used = read_headers(folder, &mut found)?;
    check_newest(&used, &mut found);
    let chain = chain(&mut used, &mut found);
    found.spare.extend(used.values().map(|retired| retired.slot));
    found.spare.sort_unstable();
    found.faults.iter().for_each(|fault| pass(Passing::Fault(fault)));
    let mut index = Index::default();
    let mut before = chain.first().map_or(BatchSeq::ZERO, |oldest| oldest.header.prev_batch);
    let mut rest = chain.as_slice();
    while let Some((segment, later)) = rest.split_first() {
        rest = later;
        pass(Passing::Segment(segment.slot, &segment.header));
        let known = found.manifest.map_or(BatchSeq::ZERO, |manifest| manifest.durable);
        let walked = Walk::new(segment, later, (before, known), pass).run();
        before = later.first().map_or(walked.summary.last_batch, |next| next.header.prev_batch);
        index.merge(segment.header.seq, walked.effects);
        found.segments.push(walked.summary);
        found.faults.extend(walked.faults);
        if let Some(torn) = walked.torn {
            found.torn_tail = Some(torn);
            break;
        }
    }
    index.close_gaps();
    for (log, entry) in index.iter() {
        found.logs.push((log, entry.state()));
        for run in entry.runs.iter() {
            if let Some(home) = found.segments.iter_mut().find(|segment| segment.seq == run.segment) {
                home.live_entries += u64::from(run.count);
            }
        }
    }
    found.logs.sort_unstable_by_key(|(log, _)| *log);
    Ok(found)
}

fn read_manifest(folder: &MappedFolder, found: &mut Inspection) -> Result<(), OpenError> {
    match folder.manifest()?.map(|file| manifest::read(&file)) {
        None => {}
        Some(Ok((manifest, _))) => {
            found.wal_id = Some(manifest.wal_id);
            found.manifest = Some(manifest);
        }
        Some(Err(why)) => found.faults.push(Fault {
            slot: SlotId::MANIFEST,
            position: WalPosition { segment: SegmentSeq::ZERO, offset: 0 },
            bytes: 0,
            why: why.to_string(),
            logs: Vec::new(),
        }),
    }
    Ok(())
}

/// The segment that the manifest names must be there.
fn check_newest(used: &BTreeMap<SegmentSeq, Used<'_>>, found: &mut Inspection) {
    let Some(named) = found.manifest.filter(|manifest| manifest.newest > SegmentSeq::ZERO) else { return };
    if used.get(&named.newest).is_none_or(|used| used.header.salt != named.salt) {
        let why = format!(
            "it held segment {}, the newest of the log, which is missing; batches up to {} are known to be durable",
            named.newest, named.durable
        );
        let position = WalPosition { segment: named.newest, offset: 0 };
        found.faults.push(Fault { slot: named.slot, position, bytes: 0, why, logs: Vec::new() });
    }
}

/// Maps every slot and sorts them by what their headers say.
fn read_headers<'a>(
    folder: &'a MappedFolder,
    found: &mut Inspection,
) -> Result<BTreeMap<SegmentSeq, Used<'a>>, OpenError> {
    let mut used: BTreeMap<SegmentSeq, Used<'a>> = BTreeMap::new();
    for (slot, path) in folder.slots() {
        let (slot, bytes) = (*slot, folder.map(path)?);
        let mut fault = |segment: SegmentSeq, why: String| {
            let position = WalPosition { segment, offset: 0 };
            found.faults.push(Fault { slot, position, bytes: 0, why, logs: Vec::new() });
        };
        let header = match slot_role(&bytes) {
            SlotRole::Blank => {
                found.spare.push(slot);
                continue;
            }
            SlotRole::Foreign(version) => {
                fault(
                    SegmentSeq::ZERO,
                    format!("format version {version}; this program reads {FORMAT_VERSION}"),
                );
                continue;
            }
            SlotRole::Unreadable => {
                fault(SegmentSeq::ZERO, "both copies of the header are damaged".to_owned());
                continue;
            }
            SlotRole::Used(header) => header,
        };
        let seq = header.seq;
        if *found.wal_id.get_or_insert(header.wal_id) != header.wal_id {
            fault(seq, "it belongs to another WAL than the files before it".to_owned());
        } else if header.segment_bytes as usize != bytes.len() || bytes.len() % BLOCK_BYTES != 0 {
            let len = bytes.len();
            fault(seq, format!("the file has {len} bytes, its header says {}", header.segment_bytes));
        } else if let Some(other) = used.get(&seq) {
            fault(seq, format!("{:?} claims to be the same segment", other.slot));
        } else {
            used.insert(seq, Used { slot, header, bytes });
        }
    }
    Ok(used)
}

/// Takes the live segments out of `used`, oldest first, as the newest one and its predecessors name them.
fn chain<'a>(used: &mut BTreeMap<SegmentSeq, Used<'a>>, found: &mut Inspection) -> Vec<Used<'a>> {
    let recorded = used.values().map(|used| used.header.oldest_live).max().unwrap_or_default();
    let Some((_, newest)) = used.pop_last() else { return Vec::new() };
    let oldest_live = newest.oldest_live().max(recorded);
    let mut chain = vec![newest];
    while let Some(at) = chain.last()
        && at.header.prev >= oldest_live
        && at.header.prev > SegmentSeq::ZERO
    {
        let prev = at.header.prev;
        let Some(before) = used.remove(&prev) else {
            let why = format!("segment {prev}, which comes before it, is missing");
            let position = WalPosition { segment: at.header.seq, offset: 0 };
            found.faults.push(Fault { slot: at.slot, position, bytes: 0, why, logs: Vec::new() });
            // What is older than the missing one is live as well, but nothing says how it hangs together.
            break;
        };
        chain.push(before);
    }
    chain.reverse();
    chain
}
