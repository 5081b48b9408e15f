//! The manifest of an open WAL: written at opening, when a segment begins, and when the log comes to rest.
//!
//! Invariant: no batch of a segment counts as durable before a copy of the manifest that names the segment is on the
//! medium, and the segment is named only once its header and all frames before it are. So a named segment that is missing
//! was lost, never cut off by a crash. The two copies are written in turn, so that a whole one is always there.

use crate::device::folder::MANIFEST_FILE;
use crate::device::{BLOCK_BYTES, Device, Op, SlotId};
use crate::error::WalError;
use crate::format::manifest::{self, COPIES, MANIFEST_BYTES, Manifest, ManifestFault};
use crate::ids::{BatchSeq, SegmentSeq};
use crate::mix::mix;
use crate::options::{Binding, Options};
use crate::segment::Segment;
use crate::wal::{Purpose, Wal};

/// What an operator can do about a manifest or a segment that is missing.
const RESTORE: &str = "If its volume is not mounted, mount it; else restore the folder from a copy";

/// The same about one that a later program wrote.
const UPGRADE: &str = "Start the version that wrote it; nothing was changed";
/// The same about one that was cut short, but of which a copy is whole.
const LENGTHEN: &str = "Give it its length again (truncate -s 8192 FILE): what it lost is then written anew";
const _: () = assert!(MANIFEST_BYTES == 8192, "the remedy names the length");

/// A manifest as it was found in a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub manifest: Manifest,
    /// Whether both copies say the same.
    pub is_whole: bool,
    /// The copy that counts.
    pub copy: usize,
}

/// What the two copies of the manifest say, and are to say.
#[derive(Debug)]
pub(crate) struct Naming {
    wanted: Manifest,
    /// What a copy on the medium says; of two, the later one.
    durable: Manifest,
    /// The generation of each copy on the medium.
    generations: [u64; COPIES],
    /// The copy under way, and what it is going to say.
    under_way: Option<(usize, Manifest)>,
}

impl Naming {
    /// Both copies on the medium say this.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            wanted: manifest,
            durable: manifest,
            generations: [manifest.generation; COPIES],
            under_way: None,
        }
    }

    /// The newest segment that the medium names.
    pub fn named(&self) -> SegmentSeq {
        self.durable.newest
    }

    /// Whether both copies know this batch as durable and nothing is under way.
    fn knows(&self, durable: BatchSeq) -> bool {
        self.under_way.is_none()
            && self.wanted.durable >= durable
            && self.generations == [self.wanted.generation; COPIES]
    }

    /// Sets what is to be said.
    fn want(&mut self, manifest: Manifest) {
        if !manifest.agrees_with(&self.wanted) {
            self.wanted = Manifest { generation: self.wanted.generation + 1, ..manifest };
        }
    }

    /// The copy to be written next, if one is: the older one.
    fn start(&mut self) -> Option<(usize, Manifest)> {
        let older = if self.generations.first() <= self.generations.last() { 0 } else { 1 };
        let is_due = self.under_way.is_none() && self.generations.get(older) < Some(&self.wanted.generation);
        self.under_way = is_due.then_some((older, self.wanted)).or(self.under_way);
        is_due.then_some((older, self.wanted))
    }

    /// The copy under way is on the medium.
    fn ended(&mut self) {
        let (copy, manifest) = self.under_way.take().expect("a copy was under way");
        if let Some(generation) = self.generations.get_mut(copy) {
            *generation = manifest.generation;
        }
        self.durable = manifest;
        self.check();
    }

    /// Whether a copy is being written.
    #[cfg(feature = "sim")]
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Asserts what holds between any two calls of a log with this watermark, in which this segment comes next.
    #[cfg(feature = "sim")]
    pub fn check_against(&self, durable: BatchSeq, next: SegmentSeq) {
        self.check();
        let Manifest { durable: known, newest, .. } = self.wanted;
        assert!(known <= durable, "the manifest knows batch {known} as durable, the log {durable}");
        assert!(newest < next, "the manifest names segment {newest}, which there is not");
        let copies = self.generations.iter().max();
        assert_eq!(
            copies,
            Some(&self.durable.generation),
            "the newest copy of the manifest is the one that counts"
        );
    }

    /// Asserts what holds at any time.
    fn check(&self) {
        assert!(
            self.durable.newest <= self.wanted.newest,
            "the manifest forgets segment {}",
            self.durable.newest
        );
        assert!(self.durable.durable <= self.wanted.durable, "the manifest forgets durable batches");
        assert!(
            self.generations.iter().all(|generation| *generation <= self.wanted.generation),
            "a copy of the manifest is ahead of what was to be written"
        );
    }
}

/// The error of a file that is missing or damaged.
pub(crate) fn lost(file: String, why: String) -> WalError {
    WalError::Lost { file, why, remedy: RESTORE }
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> WalError {
    move |source| WalError::Io { what: format!("manifest could not be {what}"), source }
}

/// Reads a folder's manifest of `bytes` bytes.
pub(crate) fn read<D: Device>(device: &mut D, bytes: u64) -> Result<Found, WalError> {
    let whole =
        usize::try_from(bytes).unwrap_or(MANIFEST_BYTES).min(MANIFEST_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
    let mut file = Vec::with_capacity(whole);
    if whole > 0 {
        let mut buffer = device.buffer(whole);
        let len = u32::try_from(whole).expect("two blocks at most");
        device.read_blocking(SlotId::MANIFEST, 0, &mut buffer, len).map_err(failed("read"))?;
        file.extend_from_slice(buffer.get(..whole).unwrap_or_default());
        device.recycle(buffer);
    }
    let (manifest, copy) = manifest::read(&file).map_err(|fault| {
        let remedy = match fault {
            ManifestFault::Version(_) => UPGRADE,
            ManifestFault::Unreadable => RESTORE,
        };
        WalError::Lost { file: MANIFEST_FILE.to_owned(), why: fault.to_string(), remedy }
    })?;
    if bytes < MANIFEST_BYTES as u64 {
        let why = format!("it was cut to {bytes} bytes");
        return Err(WalError::Lost { file: MANIFEST_FILE.to_owned(), why, remedy: LENGTHEN });
    }
    let is_whole = bytes == MANIFEST_BYTES as u64 && file == manifest.file();
    Ok(Found { manifest, is_whole, copy })
}

/// Refuses a folder that is somebody else's, or that was emptied or replaced.
pub(crate) fn check_binding(binding: &Binding, found: Option<&Found>) -> Result<(), WalError> {
    match found {
        Some(found) if found.manifest.owner != binding.owner => Err(WalError::Foreign {
            folder: MANIFEST_FILE.to_owned(),
            found: Box::new(found.manifest.owner),
            expected: Box::new(binding.owner),
        }),
        None if !binding.may_adopt => Err(lost(
            MANIFEST_FILE.to_owned(),
            "it is missing: the folder was emptied or replaced, or its volume is not mounted".to_owned(),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Brings the manifest on the medium up to what opening found. The copy that does not count is written first.
pub(crate) fn bring_up<D: Device>(
    device: &mut D,
    found: Option<Found>,
    wal_id: u64,
    options: &Options,
    newest: Option<&Segment>,
    durable: BatchSeq,
) -> Result<Naming, WalError> {
    let before = found.map_or_else(|| Manifest::empty(wal_id, options.binding.owner), |found| found.manifest);
    let mut now = Manifest { durable: before.durable.max(durable), ..before };
    if let Some(newest) = newest.filter(|newest| newest.seq >= before.newest) {
        (now.newest, now.salt, now.slot) = (newest.seq, newest.salt, newest.slot);
    }
    let Some(Found { is_whole, copy, .. }) = found else {
        device.create_blocking(SlotId::MANIFEST, &now.file()).map_err(failed("made"))?;
        return Ok(Naming::new(now));
    };
    if !is_whole || !now.agrees_with(&before) {
        now.generation = before.generation + 1;
        let mut buffer = device.buffer(BLOCK_BYTES);
        now.encode(buffer.get_mut(..BLOCK_BYTES).expect("as large as asked for"));
        for copy in [1 - copy, copy] {
            let (offset, len) = (offset_of(copy), u32::try_from(BLOCK_BYTES).expect("a small constant"));
            device.write_blocking(SlotId::MANIFEST, offset, &buffer, len).map_err(failed("written"))?;
        }
        device.recycle(buffer);
    }
    Ok(Naming::new(now))
}

fn offset_of(copy: usize) -> u32 {
    u32::try_from(copy * BLOCK_BYTES).expect("two blocks")
}

impl<D: Device> Wal<D> {
    /// Makes an empty WAL in the device's folder, so that [`Wal::open`] needs not adopt it. Of one that was never written
    /// to the owner changes; of any other nothing. Blocking.
    ///
    /// # Errors
    /// [`WalError::Io`], also where the folder holds slots without a manifest; [`WalError::Foreign`].
    pub fn create(device: &mut D, options: &Options) -> Result<(), WalError> {
        let files = device.list().map_err(failed("looked for"))?;
        if let Some((_, bytes)) = files.iter().find(|(slot, _)| *slot == SlotId::MANIFEST) {
            let mut found = read(device, *bytes)?;
            let was_written = files.len() > 1 || found.manifest.newest > SegmentSeq::ZERO;
            if was_written || found.manifest.owner == options.binding.owner {
                return check_binding(&options.binding, Some(&found));
            }
            (found.manifest.owner, found.is_whole) = (options.binding.owner, false);
            let wal_id = found.manifest.wal_id;
            return bring_up(device, Some(found), wal_id, options, None, BatchSeq::ZERO).map(drop);
        }
        if !files.is_empty() {
            let source =
                std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the folder holds a log already");
            return Err(failed("made")(source));
        }
        let manifest = Manifest::empty(mix(options.seed), options.binding.owner);
        device.create_blocking(SlotId::MANIFEST, &manifest.file()).map_err(failed("made"))
    }

    /// Writes down that all that is durable now was: what is missing of it at the next opening is damage, whatever
    /// happened to the file that it stands in. For a log at rest and for a clean stop; call [`Wal::poll`] until
    /// [`Wal::is_end_marked`].
    ///
    /// # Errors
    /// [`WalError::Poisoned`].
    pub fn mark_end(&mut self) -> Result<(), WalError> {
        self.check_poison()?;
        let durable = self.commit.durable;
        let newest = self.newest_named();
        self.naming.want(Manifest { durable, ..newest });
        self.write_manifest();
        Ok(())
    }

    /// Whether nothing is under way and all that is durable is written down as such.
    #[must_use]
    pub fn is_end_marked(&self) -> bool {
        self.in_flight() == 0 && self.commit.open.is_none() && self.naming.knows(self.commit.durable)
    }

    /// What the manifest is to say of the newest segment: one that is not named yet, once its header is on the medium and
    /// so is all before it. Recovery cuts the log at a frame that is missing, and throws away a segment that begins
    /// behind the cut: one that was named would be missed at each later opening.
    fn newest_named(&self) -> Manifest {
        let wanted = self.naming.wanted;
        let begun = self.commit.done_in_order().filter(|frame| frame.skip > 0).last();
        let segment = begun.and_then(|frame| self.segments.get(frame.segment));
        match segment.filter(|segment| segment.seq > wanted.newest) {
            Some(begun) => Manifest { newest: begun.seq, salt: begun.salt, slot: begun.slot, ..wanted },
            None => wanted,
        }
    }

    /// Names a segment whose first frame has come to the medium.
    pub(crate) fn name_segment(&mut self) {
        let newest = self.newest_named();
        if newest.newest > self.naming.wanted.newest {
            self.naming.want(Manifest { durable: self.commit.durable, ..newest });
        }
        self.write_manifest();
    }

    fn write_manifest(&mut self) {
        let Some((copy, manifest)) = self.naming.start() else { return };
        let mut buffer = self.device.buffer(BLOCK_BYTES);
        manifest.encode(buffer.get_mut(..BLOCK_BYTES).expect("as large as asked for"));
        let io = self.new_io(Purpose::Manifest);
        let len = u32::try_from(BLOCK_BYTES).expect("a small constant");
        self.device
            .submit(io, Op::WriteDurable { slot: SlotId::MANIFEST, offset: offset_of(copy), buffer, len });
    }

    /// A copy of the manifest is on the medium.
    pub(crate) fn on_manifest_written(&mut self) {
        self.naming.ended();
    }
}
