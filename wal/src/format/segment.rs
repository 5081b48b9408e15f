//! The header block of a segment: what makes a slot file a part of the log.
//!
//! The header stands twice, in the first two sectors. A sector is written whole or not at all, so a crash leaves
//! each copy old or new, and a single fault cannot take both: a slot with one good copy is what that copy says.

use crate::device::BLOCK_BYTES;
use crate::fields::Fields;
use crate::format::sectors::SECTOR_BYTES;
use crate::format::{Head, head_is_whole};
use crate::ids::{BatchSeq, SegmentSeq};
use crate::mix::mix;

/// The version of everything in this folder. A reader refuses what it does not know.
pub const FORMAT_VERSION: u32 = 1;
const MAGIC: u32 = 0xC0D5_E601;

/// What a header block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentHeader {
    /// The WAL that the slot belongs to; drawn when the WAL was begun.
    pub wal_id: u64,
    /// The segment's number.
    pub seq: SegmentSeq,
    /// Mixed into every stamp and frame of the segment; differs at every use of a slot.
    pub salt: u64,
    /// The slot's size in bytes.
    pub segment_bytes: u32,
    /// The live segment before this one; zero if there is none.
    pub prev: SegmentSeq,
    /// Where that one's frames end, in bytes from its start.
    pub prev_end: u32,
    /// The last batch in it, or before it.
    pub prev_batch: BatchSeq,
    /// Segments below this one were free of live data, durably so, when the header was written.
    pub oldest_live: SegmentSeq,
}

/// What a slot's first block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotRole {
    /// Never used, or its first use was never finished.
    Blank,
    /// In use, or was.
    Used(SegmentHeader),
    /// In use by a version of this program that writes another format.
    Foreign(u32),
    /// Neither copy can be read, and a torn write cannot have done that.
    Unreadable,
}

/// The salt of a segment.
#[must_use]
pub const fn salt(wal_id: u64, seq: SegmentSeq, seed: u64) -> u64 {
    mix(mix(wal_id ^ seed.rotate_left(32)) ^ mix(seq.get()))
}

const COPY_BYTES: usize = 72;

impl SegmentHeader {
    /// Writes the header block.
    pub fn encode(&self, block: &mut [u8]) {
        let copy = Head::<COPY_BYTES>::new()
            .u32(MAGIC)
            .u32(0)
            .u32(FORMAT_VERSION)
            .u32(self.segment_bytes)
            .u64(self.wal_id)
            .u64(self.seq.get())
            .u64(self.salt)
            .u64(self.prev.get())
            .u32(self.prev_end)
            .u32(0)
            .u64(self.prev_batch.get())
            .u64(self.oldest_live.get())
            .seal(4);
        block.fill(0);
        for sector in block.chunks_exact_mut(SECTOR_BYTES).take(2) {
            let (copied, _) = sector.split_at_mut(COPY_BYTES);
            copied.copy_from_slice(&copy);
        }
    }

    fn decode(copy: &[u8]) -> Option<Result<Self, u32>> {
        let copy = copy.get(..COPY_BYTES)?;
        let mut fields = Fields::new(copy);
        if fields.u32()? != MAGIC || !head_is_whole(copy) {
            return None;
        }
        let _crc = fields.u32()?;
        let version = fields.u32()?;
        if version != FORMAT_VERSION {
            return Some(Err(version));
        }
        let segment_bytes = fields.u32()?;
        let (wal_id, seq) = (fields.u64()?, SegmentSeq(fields.u64()?));
        let (salt, prev) = (fields.u64()?, SegmentSeq(fields.u64()?));
        let (prev_end, _reserved) = (fields.u32()?, fields.u32()?);
        let (prev_batch, oldest_live) = (BatchSeq(fields.u64()?), SegmentSeq(fields.u64()?));
        Some(Ok(Self { wal_id, seq, salt, segment_bytes, prev, prev_end, prev_batch, oldest_live }))
    }
}

/// Reads a slot's first block. Of two good copies that differ (a torn first write) the newer one counts.
#[must_use]
pub fn slot_role(block: &[u8]) -> SlotRole {
    let mut found: Option<SegmentHeader> = None;
    let mut unreadable = 0;
    for sector in block.get(..BLOCK_BYTES).unwrap_or_default().chunks_exact(SECTOR_BYTES).take(2) {
        match SegmentHeader::decode(sector) {
            Some(Ok(header)) if found.is_none_or(|best| best.seq < header.seq) => found = Some(header),
            Some(Ok(_)) => {}
            Some(Err(version)) => return SlotRole::Foreign(version),
            None if sector.iter().any(|byte| *byte != 0) => unreadable += 1,
            None => {}
        }
    }
    match (found, unreadable) {
        (Some(header), _) => SlotRole::Used(header),
        (None, 2) => SlotRole::Unreadable,
        (None, _) => SlotRole::Blank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(seq: u64) -> SegmentHeader {
        SegmentHeader {
            wal_id: 7,
            seq: SegmentSeq(seq),
            salt: salt(7, SegmentSeq(seq), 3),
            segment_bytes: 65536,
            prev: SegmentSeq(seq - 1),
            prev_end: 8192,
            prev_batch: BatchSeq(40),
            oldest_live: SegmentSeq(2),
        }
    }

    #[test]
    fn any_single_flip_leaves_the_header_readable() {
        let mut block = vec![0u8; BLOCK_BYTES];
        header(5).encode(&mut block);
        for at in 0..BLOCK_BYTES {
            for bit in [0x01, 0x80] {
                let mut bad = block.clone();
                bad[at] ^= bit;
                assert_eq!(slot_role(&bad), SlotRole::Used(header(5)), "byte {at}");
            }
        }
    }

    #[test]
    fn a_torn_reuse_is_the_old_or_the_new_header() {
        let (mut old, mut new) = (vec![0u8; BLOCK_BYTES], vec![0u8; BLOCK_BYTES]);
        header(5).encode(&mut old);
        header(9).encode(&mut new);
        for arrived in 0..=255u8 {
            let mut mixed = old.clone();
            for sector in (0..8).filter(|sector| arrived >> sector & 1 == 1) {
                mixed[sector * 512..][..512].copy_from_slice(&new[sector * 512..][..512]);
            }
            let expected = if arrived & 3 == 0 { header(5) } else { header(9) };
            assert_eq!(slot_role(&mixed), SlotRole::Used(expected));
        }
    }

    #[test]
    fn every_prefix_of_a_first_header_is_blank_or_whole() {
        let mut block = vec![0u8; BLOCK_BYTES];
        header(5).encode(&mut block);
        for cut in 0..BLOCK_BYTES {
            let mut torn = vec![0u8; BLOCK_BYTES];
            torn[..cut].copy_from_slice(&block[..cut]);
            assert!(matches!(slot_role(&torn), SlotRole::Blank | SlotRole::Used(_)), "cut at {cut}");
        }
    }

    #[test]
    fn blank_foreign_and_unreadable_slots_are_told_apart() {
        let mut block = vec![0u8; BLOCK_BYTES];
        assert_eq!(slot_role(&block), SlotRole::Blank);
        block[3] = 1;
        block[515] = 1;
        assert_eq!(slot_role(&block), SlotRole::Unreadable);
        header(5).encode(&mut block);
        block[8] = 2;
        let crc = crc32fast::hash(&block[8..COPY_BYTES]).to_le_bytes();
        block[4..8].copy_from_slice(&crc);
        assert_eq!(slot_role(&block), SlotRole::Foreign(2));
    }

    #[test]
    fn salts_differ_by_segment_seed_and_wal() {
        let base = salt(1, SegmentSeq(1), 1);
        for other in [salt(2, SegmentSeq(1), 1), salt(1, SegmentSeq(2), 1), salt(1, SegmentSeq(1), 2)] {
            assert_ne!(base, other);
        }
    }
}
