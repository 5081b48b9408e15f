//! The disk of a play: what lies on it in words, and the places of it that a script names.

use std::ops::Range;

use corduroy_wal::device::folder::{MANIFEST_FILE, slot_file_name};
use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::device::{BLOCK_BYTES, SlotId};
use corduroy_wal::format::frame::{FRAME_HEAD_BYTES, FrameHead};
use corduroy_wal::format::manifest::{Manifest, ManifestCopy};
use corduroy_wal::format::sectors::{SECTOR_BYTES, frame_bytes};
use corduroy_wal::format::segment::{SegmentHeader, SlotRole, slot_role};
use corduroy_wal::{BatchSeq, SegmentSeq};

use crate::words::Words;

/// Bytes at the end of a slot that a footer takes, in slots of the size that plays use.
const FOOTER_BYTES: usize = BLOCK_BYTES;

/// The last bytes of a footer, and where in them the salt stands.
const TAIL_BYTES: usize = 64;
const SALT_AT: usize = 8;

pub fn file_name(slot: SlotId) -> String {
    if slot == SlotId::MANIFEST { MANIFEST_FILE.to_owned() } else { slot_file_name(slot) }
}

/// The frames of a segment, up to the first that is not there: the head and where it lies.
fn frames(bytes: &[u8], header: &SegmentHeader) -> Vec<(FrameHead, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = BLOCK_BYTES;
    while let Some(head) = bytes.get(at..).and_then(FrameHead::decode) {
        if head.salt != header.salt || head.offset as usize != at {
            break;
        }
        let end = at + frame_bytes(FRAME_HEAD_BYTES + head.content_bytes as usize);
        found.push((head, at..end));
        at = end;
    }
    found
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Every file, a line each.
pub fn files(disk: &MemDisk) -> Vec<String> {
    let manifest = disk.bytes(SlotId::MANIFEST);
    let copies = manifest.chunks_exact(BLOCK_BYTES).filter_map(|block| match Manifest::decode(block) {
        ManifestCopy::Good(manifest) => Some(manifest),
        ManifestCopy::Bad | ManifestCopy::Foreign(_) => None,
    });
    let mut lines = vec![match copies.max_by_key(|copy| copy.generation) {
        None => format!("{MANIFEST_FILE}: no copy is whole"),
        Some(Manifest { newest: SegmentSeq::ZERO, .. }) => format!("{MANIFEST_FILE}: no segment yet"),
        Some(Manifest { newest, slot, durable, .. }) => {
            let known = match durable {
                BatchSeq::ZERO => "no batch is marked as durable".to_owned(),
                last => format!("all up to batch {last} is marked as durable"),
            };
            format!("{MANIFEST_FILE}: the newest is segment {newest} in {}; {known}", file_name(slot))
        }
    }];
    for slot in disk.slots() {
        let bytes = disk.bytes(slot);
        let what = match slot_role(&bytes[..BLOCK_BYTES]) {
            SlotRole::Blank => "spare".to_owned(),
            SlotRole::Foreign(version) => format!("of version {version}"),
            SlotRole::Unreadable => "a segment without a whole header".to_owned(),
            SlotRole::Used(header) => in_words(&bytes, &header),
        };
        lines.push(format!("{}: {what}", file_name(slot)));
    }
    lines
}

fn in_words(bytes: &[u8], header: &SegmentHeader) -> String {
    let mut text = format!("segment {}", header.seq);
    if header.prev > SegmentSeq::ZERO {
        text += &format!(", behind segment {} up to {}", header.prev, header.prev_end);
    }
    for (head, place) in frames(bytes, header) {
        text += &format!("; batch {} at {}", head.batch, place.start);
    }
    // A footer ends in a tail that names its use of the slot.
    let salt = &bytes[bytes.len() - TAIL_BYTES + SALT_AT..][..8];
    match u64::from_le_bytes(salt.try_into().unwrap()) {
        0 => {}
        salt if salt == header.salt => text += "; footer",
        _earlier => text += "; footer of an earlier use",
    }
    text
}

/// The slot of a segment, its bytes and its header.
fn segment(disk: &MemDisk, seq: u64) -> Result<(SlotId, Vec<u8>, SegmentHeader), String> {
    let used = |slot: SlotId| {
        let bytes = disk.bytes(slot);
        match slot_role(&bytes[..BLOCK_BYTES]) {
            SlotRole::Used(header) if header.seq == SegmentSeq(seq) => Some((slot, bytes, header)),
            SlotRole::Used(_) | SlotRole::Blank | SlotRole::Foreign(_) | SlotRole::Unreadable => None,
        }
    };
    disk.slots().into_iter().find_map(used).ok_or_else(|| format!("there is no segment {seq}"))
}

/// The file that a script names: `segment=N`, `spare` or `manifest`.
pub fn file(disk: &MemDisk, words: &mut Words) -> Result<SlotId, String> {
    if words.flag("manifest")? {
        return Ok(SlotId::MANIFEST);
    }
    if words.flag("spare")? {
        let spare = disk.slots().into_iter().find(|slot| is_blank(&disk.bytes(*slot)));
        return spare.ok_or_else(|| "there is no spare".to_owned());
    }
    segment(disk, words.number("segment")?).map(|(slot, _, _)| slot)
}

/// The place that a script names: `manifest` or `segment=N header`, each with `copy=N` or whole; `segment=N frame=N`, the
/// number of the frame in its segment, whole or a `sector=N` of it; `segment=N footer`.
pub fn place(disk: &MemDisk, words: &mut Words) -> Result<(SlotId, Range<usize>), String> {
    let copy = words.number_if_any("copy")?.map(|copy| copy as usize - 1);
    if words.flag("manifest")? {
        let range = copy.map_or(0..2 * BLOCK_BYTES, |copy| copy * BLOCK_BYTES..(copy + 1) * BLOCK_BYTES);
        return Ok((SlotId::MANIFEST, range));
    }
    let (slot, bytes, header) = segment(disk, words.number("segment")?)?;
    if words.flag("header")? {
        let range = copy.map_or(0..BLOCK_BYTES, |copy| copy * SECTOR_BYTES..(copy + 1) * SECTOR_BYTES);
        return Ok((slot, range));
    }
    if words.flag("footer")? {
        return Ok((slot, bytes.len() - FOOTER_BYTES..bytes.len()));
    }
    let number = words.number("frame")?;
    let frame = frames(&bytes, &header).into_iter().nth(number as usize - 1);
    let (_, place) = frame.ok_or_else(|| format!("the segment has no frame {number}"))?;
    let sector =
        words.number_if_any("sector")?.map(|sector| place.start + (sector as usize - 1) * SECTOR_BYTES);
    Ok((slot, sector.map_or(place, |start| start..start + SECTOR_BYTES)))
}

/// Every sector of a file in which two disks differ, in order of file and place.
pub fn differing_sectors(one: &MemDisk, other: &MemDisk) -> Vec<(SlotId, usize)> {
    let slots = one.slots().into_iter().chain([SlotId::MANIFEST]);
    let sectors = slots.flat_map(|slot| {
        let (ours, theirs) = (one.bytes(slot), other.bytes(slot));
        let differs =
            move |at: &usize| ours.get(*at..at + SECTOR_BYTES) != theirs.get(*at..at + SECTOR_BYTES);
        let places = (0..one.bytes(slot).len()).step_by(SECTOR_BYTES).filter(differs);
        places.map(move |at| (slot, at)).collect::<Vec<_>>()
    });
    sectors.collect()
}
