//! Opening: which slots form the log, what they hold, where the log ends, and whether that end is a torn tail or
//! damage.
//!
//! Nothing is decided before files and folder are synced. Headers name the chain of live segments, newest to oldest;
//! sealed ones are read by their footers; the rest is scanned (module `scan`). A frame that is not whole ends the log
//! only if it can never have been acknowledged: a sector of it never arrived, and nothing written later says that its
//! batch was durable. Otherwise opening is refused. Recovery writes nothing, so it can be cut short and repeated.

use std::collections::{BTreeMap, VecDeque};

use crate::device::folder::slot_file_name;
use crate::device::{BLOCK_BYTES, Device, SlotId};
use crate::error::WalError;
use crate::format::footer::{self, FooterTail};
use crate::format::segment::{FORMAT_VERSION, SegmentHeader, SlotRole, slot_role};
use crate::ids::{BatchSeq, LogId, SegmentSeq, WalPosition};
use crate::index::{Index, SegmentIndex};
use crate::manifest::{self, Found as FoundManifest, lost};
use crate::options::{Options, Recovered};
use crate::planted::{self, Planted};
use crate::resume::Unsealed;
use crate::scan::{self, Image, Scan, Stop};
use crate::segment::{Segment, Segments};

const RESTORE: &str = "Restore this folder from a copy";
const READ_BYTES: u32 = 1 << 20;

/// A slot with a header.
#[derive(Clone, Copy, Debug)]
struct Used {
    slot: SlotId,
    header: SegmentHeader,
}

/// What opening found out.
#[derive(Debug)]
pub(crate) struct Opened {
    pub index: Index,
    pub segments: Segments,
    /// The size of the slots that are to be made.
    pub slot_bytes: u32,
    /// What is known of the newest segment, if it was not sealed.
    pub unsealed: Option<Unsealed>,
    /// Blank or unfit slots to be removed.
    pub unfit: Vec<SlotId>,
    pub wal_id: Option<u64>,
    pub manifest: Option<FoundManifest>,
    /// The last batch of the log; all of it is durable.
    pub durable: BatchSeq,
    pub recovered: Recovered,
}

/// The slots of the folder by what their headers say.
#[derive(Debug, Default)]
struct Folder {
    used: BTreeMap<SegmentSeq, Used>,
    blank: Vec<(SlotId, u32)>,
    unfit: Vec<SlotId>,
    next_slot: u32,
    manifest: Option<FoundManifest>,
}

impl Folder {
    fn wal_id(&self) -> Option<u64> {
        let of_manifest = self.manifest.map(|found| found.manifest.wal_id);
        of_manifest.or_else(|| self.used.values().next().map(|used| used.header.wal_id))
    }

    /// What the manifest knows as durable.
    fn known(&self) -> BatchSeq {
        self.manifest.map_or(BatchSeq::ZERO, |found| found.manifest.durable)
    }

    /// The segment that the manifest names must be there.
    fn check_newest(&self) -> Result<(), WalError> {
        let Some(named) = self.manifest.map(|found| found.manifest) else { return Ok(()) };
        if named.newest == SegmentSeq::ZERO {
            return Ok(());
        }
        let file = slot_file_name(named.slot);
        match self.used.get(&named.newest) {
            Some(used) if used.header.salt == named.salt => Ok(()),
            Some(used) => {
                let why = format!("it is not the segment {} that was written last", named.newest);
                Err(lost(slot_file_name(used.slot), why))
            }
            None => {
                let is_there = self
                    .blank
                    .iter()
                    .map(|(slot, _)| slot)
                    .chain(&self.unfit)
                    .any(|slot| *slot == named.slot);
                let what =
                    if is_there { "its header is not what was written" } else { "the file is missing" };
                Err(lost(
                    file,
                    format!(
                        "{what}, but it held segment {}, the newest of the log, and batches up to {} are known to be durable",
                        named.newest, named.durable
                    ),
                ))
            }
        }
    }
}

/// Reads the folder.
pub(crate) fn open<D: Device>(device: &mut D, options: &Options) -> Result<Opened, WalError> {
    device.sync_all().map_err(|source| io_error("could not be synced before reading it", source))?;
    let folder = read_folder(device, options)?;
    folder.check_newest()?;
    Recovery { device, folder, index: Index::default(), recovered: Recovered::default() }.run(options)
}

fn io_error(what: impl Into<String>, source: std::io::Error) -> WalError {
    WalError::Io { what: what.into(), source }
}

fn refuse(slot: SlotId, segment: SegmentSeq, why: String, remedy: &'static str) -> WalError {
    WalError::Damaged { position: WalPosition { segment, offset: 0 }, slot, logs: Vec::new(), why, remedy }
}

fn read_folder<D: Device>(device: &mut D, options: &Options) -> Result<Folder, WalError> {
    let mut slots = device.list().map_err(|source| io_error("folder could not be listed", source))?;
    let mut folder = Folder::default();
    if let Some(at) = slots.iter().position(|(slot, _)| *slot == SlotId::MANIFEST) {
        let (_, bytes) = slots.remove(at);
        folder.manifest = Some(manifest::read(device, bytes)?);
    }
    manifest::check_binding(&options.binding, folder.manifest.as_ref())?;
    let mut buffer = device.buffer(BLOCK_BYTES);
    for (slot, bytes) in slots {
        folder.next_slot = folder.next_slot.max(slot.0 + 1);
        let size = u32::try_from(bytes).ok().filter(|size| *size as usize >= BLOCK_BYTES);
        let role = match size {
            Some(_) => {
                let len = u32::try_from(BLOCK_BYTES).expect("a small constant");
                device
                    .read_blocking(slot, 0, &mut buffer, len)
                    .map_err(|source| io_error(format!("header of {slot:?} could not be read"), source))?;
                slot_role(&buffer)
            }
            None => SlotRole::Blank,
        };
        assign_slot(&mut folder, slot, bytes, role, options)?;
    }
    device.recycle(buffer);
    Ok(folder)
}

fn assign_slot(
    folder: &mut Folder,
    slot: SlotId,
    bytes: u64,
    role: SlotRole,
    options: &Options,
) -> Result<(), WalError> {
    let header = match role {
        SlotRole::Blank => {
            match u32::try_from(bytes).ok().filter(|bytes| options.takes_slot(*bytes)) {
                Some(bytes) => folder.blank.push((slot, bytes)),
                None => folder.unfit.push(slot),
            }
            return Ok(());
        }
        SlotRole::Foreign(version) => {
            let why = format!("it has format version {version}, this program reads {FORMAT_VERSION}");
            return Err(refuse(slot, SegmentSeq::ZERO, why, "Start the version that wrote it"));
        }
        SlotRole::Unreadable => {
            let why = "both copies of its header are damaged".to_owned();
            return Err(refuse(slot, SegmentSeq::ZERO, why, RESTORE));
        }
        SlotRole::Used(header) => header,
    };
    if u64::from(header.segment_bytes) != bytes {
        let why = format!("the file has {bytes} bytes, its header says {}", header.segment_bytes);
        return Err(refuse(slot, header.seq, why, RESTORE));
    }
    if folder.wal_id().is_some_and(|wal_id| wal_id != header.wal_id) {
        let why = "it belongs to another WAL than the manifest or the slots before it".to_owned();
        return Err(refuse(
            slot,
            header.seq,
            why,
            "Take the file that does not belong here out of the folder",
        ));
    }
    if let Some(other) = folder.used.insert(header.seq, Used { slot, header }) {
        let named =
            |header: &SegmentHeader| format!("salt {:016x}, behind batch {}", header.salt, header.prev_batch);
        let why = format!(
            "{:?} claims to be the same segment ({}; this one: {})",
            other.slot,
            named(&other.header),
            named(&header)
        );
        let remedy = "Compare them by `corduroy-wal dump` in folders of their own, and take the one out that ends earlier; \
                      never start with that one alone";
        return Err(refuse(slot, header.seq, why, remedy));
    }
    Ok(())
}

struct Recovery<'a, D: Device> {
    device: &'a mut D,
    folder: Folder,
    index: Index,
    recovered: Recovered,
}

/// What one segment turned out to be.
struct Found {
    effects: SegmentIndex,
    end: u32,
    last_batch: BatchSeq,
    /// Where bytes end that were written in this use of the slot, if it has no footer.
    unsealed: Option<u32>,
    /// The log ends here: a frame was not whole and never acknowledged.
    cut: bool,
}

impl<D: Device> Recovery<'_, D> {
    fn run(mut self, options: &Options) -> Result<Opened, WalError> {
        let chain = self.chain()?;
        let mut sealed = VecDeque::new();
        let mut durable = chain.first().map_or(BatchSeq::ZERO, |oldest| oldest.header.prev_batch);
        let mut unsealed = None;
        let mut later = chain.as_slice();
        while let Some((used, rest)) = later.split_first() {
            later = rest;
            let found = self.segment(used, durable, rest)?;
            if found.last_batch > durable {
                sealed.push_back(Segment {
                    seq: used.header.seq,
                    slot: used.slot,
                    bytes: used.header.segment_bytes,
                    salt: used.header.salt,
                    end: found.end,
                    first_batch: durable.next(),
                    last_batch: found.last_batch,
                    live_entries: 0,
                    live_bytes: 0,
                    pins: 0,
                });
                let leftovers = found.unsealed.map(|written| found.end..written);
                unsealed = leftovers.map(|leftovers| Unsealed { effects: found.effects.clone(), leftovers });
                self.index.merge(used.header.seq, found.effects);
                durable = found.last_batch;
            }
            if found.cut {
                break;
            }
        }
        if durable < self.folder.known() {
            let why = format!(
                "it ends with batch {durable}, but batch {} is known to be durable",
                self.folder.known()
            );
            return Err(lost("the log".to_owned(), why));
        }
        // A slot behind the newest segment that is on its way out must be removed before frames may follow there: its old
        // frames could be taken for what comes next. So nothing more is written to that segment.
        let newest = sealed.back().map_or(SegmentSeq::ZERO, |newest: &Segment| newest.seq);
        let mut behind = self.folder.used.range(newest.next()..).map(|(_, used)| used.header.segment_bytes);
        let unsealed = unsealed.filter(|_| behind.all(|bytes| options.takes_slot(bytes)));
        Ok(Opened { unsealed, ..self.finish(options, sealed, durable) })
    }

    fn finish(mut self, options: &Options, sealed: VecDeque<Segment>, durable: BatchSeq) -> Opened {
        let (wal_id, manifest) = (self.folder.wal_id(), self.folder.manifest);
        let mut unfit = self.folder.unfit;
        let mut spares = VecDeque::from(self.folder.blank);
        for used in self.folder.used.values() {
            let live = sealed.iter().any(|segment| segment.seq == used.header.seq);
            if !live && options.takes_slot(used.header.segment_bytes) {
                spares.push_back((used.slot, used.header.segment_bytes));
            } else if !live {
                unfit.push(used.slot);
            }
        }
        let newest = self.folder.used.keys().next_back().copied().unwrap_or_default();
        let of_spares = spares.iter().map(|(_, bytes)| *bytes);
        let slot_bytes = options.slot_bytes(of_spares.chain(sealed.iter().map(|segment| segment.bytes)));
        let mut segments = Segments::new(sealed, spares, self.folder.next_slot, newest);
        self.index.close_gaps();
        for (_, entry) in self.index.iter() {
            entry.runs.iter().for_each(|run| segments.add_live(run));
        }
        Opened {
            wal_id,
            manifest,
            index: self.index,
            segments,
            slot_bytes,
            unsealed: None,
            unfit,
            durable,
            recovered: self.recovered,
        }
    }

    /// The live segments, oldest first, as the newest header and its predecessors name them.
    fn chain(&mut self) -> Result<Vec<Used>, WalError> {
        let Some(newest) = self.folder.used.values().next_back().copied() else { return Ok(Vec::new()) };
        let mut oldest_live =
            self.folder.used.values().map(|used| used.header.oldest_live).max().unwrap_or_default();
        oldest_live = oldest_live.max(match self.footer(&newest)? {
            Some(tail) => tail.oldest_live,
            None => {
                let image = self.load(&newest)?;
                image.heads(0).map(|head| head.oldest_live).max().unwrap_or_default()
            }
        });
        let mut chain = vec![newest];
        let mut at = newest;
        while at.header.prev >= oldest_live && at.header.prev > SegmentSeq::ZERO {
            let prev = at.header.prev;
            at = *self.folder.used.get(&prev).ok_or_else(|| {
                let why = format!("segment {prev}, which comes before it, is missing from the folder");
                refuse(at.slot, at.header.seq, why, RESTORE)
            })?;
            chain.push(at);
        }
        chain.reverse();
        Ok(chain)
    }

    /// The footer's tail, if it is whole and of this use of the slot.
    fn footer(&mut self, used: &Used) -> Result<Option<FooterTail>, WalError> {
        let block = u32::try_from(BLOCK_BYTES).expect("a small constant");
        let bytes = self.read(used, used.header.segment_bytes - block, block)?;
        Ok(FooterTail::decode(&bytes)
            .filter(|tail| tail.salt == used.header.salt && tail.seq == used.header.seq)
            .filter(|tail| tail.footer_bytes() < used.header.segment_bytes as usize))
    }

    fn read(&mut self, used: &Used, offset: u32, len: u32) -> Result<Vec<u8>, WalError> {
        let mut bytes = Vec::with_capacity(len as usize);
        let mut buffer = self.device.buffer(len.min(READ_BYTES) as usize);
        let mut at = offset;
        while at < offset + len {
            let now = (offset + len - at).min(READ_BYTES);
            self.device.read_blocking(used.slot, at, &mut buffer, now).map_err(|source| {
                io_error(format!("segment {} ({:?}) could not be read", used.header.seq, used.slot), source)
            })?;
            bytes.extend_from_slice(buffer.get(..now as usize).unwrap_or_default());
            at += now;
        }
        self.device.recycle(buffer);
        Ok(bytes)
    }

    fn load(&mut self, used: &Used) -> Result<Image, WalError> {
        let bytes = self.read(used, 0, used.header.segment_bytes)?;
        Ok(Image { bytes, salt: used.header.salt, seq: used.header.seq })
    }

    /// One segment of the chain; `later` are those behind it, `before` the last batch in front of it.
    fn segment(&mut self, used: &Used, before: BatchSeq, later: &[Used]) -> Result<Found, WalError> {
        let next = later.first().map(|next| (next.header.prev_end, next.header.prev_batch));
        let tail = self.footer(used)?.filter(|tail| {
            tail.first_batch == before.next()
                && next.is_none_or(|(end, batch)| (end, batch) == (tail.frames_end, tail.last_batch))
        });
        if let Some(tail) = tail.filter(|tail| tail.index_bytes > 0) {
            let len = u32::try_from(tail.footer_bytes()).expect("it fits into the segment");
            let bytes = self.read(used, used.header.segment_bytes - len, len)?;
            if let Some(effects) = footer::decode(&tail, &bytes) {
                self.recovered.by_footer += 1;
                let (end, last_batch) = (tail.frames_end, tail.last_batch);
                return Ok(Found { effects, end, last_batch, unsealed: None, cut: false });
            }
        }
        self.recovered.scanned += 1;
        let image = self.load(used)?;
        let stated_end = next.map(|(end, _)| end).or(tail.map(|tail| tail.frames_end));
        let found = scan::scan(&image, before, stated_end);
        let vouched = tail.map_or(BatchSeq::ZERO, |tail| tail.last_batch).max(self.folder.known());
        let found = self.judge(used, &image, found, vouched, later, next.map(|(_, batch)| batch))?;
        let written = image.written_end(found.end);
        Ok(Found { unsealed: tail.is_none().then_some(written), ..found })
    }

    /// Decides what is where a scan stopped: the end, a torn tail, or damage.
    fn judge(
        &mut self,
        used: &Used,
        image: &Image,
        found: Scan,
        vouched: BatchSeq,
        later: &[Used],
        next_says: Option<BatchSeq>,
    ) -> Result<Found, WalError> {
        let Scan { effects, end, last_batch, stop } = found;
        let bad = last_batch.next();
        let damage = match stop {
            Stop::StatedEnd if next_says.is_some_and(|batch| batch != last_batch) => {
                Some("it ends in another batch than the next segment says".to_owned())
            }
            Stop::StatedEnd => None,
            Stop::Damaged(why, at) => Some(scan::damage_in_words(why, at, end)),
            Stop::NotWhole => {
                let known = self.known_durable(image, end, vouched, later)?;
                (known >= bad).then(|| {
                    format!("batch {bad} is missing there, but batch {known} is known to be durable")
                })
            }
        };
        if let Some(why) = damage.filter(|_| !planted::is(Planted::CutAboveWatermark)) {
            return Err(WalError::Damaged {
                position: WalPosition { segment: used.header.seq, offset: end },
                slot: used.slot,
                logs: self.suspects(&effects, image, end),
                why,
                remedy: RESTORE,
            });
        }
        let cut = stop != Stop::StatedEnd;
        if cut && (image.any_stamped(end) || !later.is_empty()) {
            self.recovered.torn_tail = Some(WalPosition { segment: used.header.seq, offset: end });
        }
        Ok(Found { effects, end, last_batch, unsealed: None, cut })
    }

    /// The highest batch that anything behind a position says was durable.
    fn known_durable(
        &mut self,
        image: &Image,
        end: u32,
        vouched: BatchSeq,
        later: &[Used],
    ) -> Result<BatchSeq, WalError> {
        let mut known = image.heads(end).map(|head| head.durable).max().unwrap_or_default().max(vouched);
        for used in later {
            if let Some(tail) = self.footer(used)? {
                known = known.max(tail.last_batch);
            }
            let image = self.load(used)?;
            known = known.max(image.heads(0).map(|head| head.durable).max().unwrap_or_default());
        }
        Ok(known)
    }

    /// Logs that may have entries at a damaged position: those whose ids can still be made out there, else all known.
    fn suspects(&self, effects: &SegmentIndex, image: &Image, end: u32) -> Vec<LogId> {
        let mut logs = image.claimed_logs(end);
        logs.retain(|log| effects.logs.contains_key(log) || self.index.get(*log).is_some());
        if logs.is_empty() {
            logs = self.index.ids();
            logs.extend(effects.logs.keys());
            logs.sort_unstable();
            logs.dedup();
        }
        logs
    }
}
