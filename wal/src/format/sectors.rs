//! Stamped sectors: every 512 bytes of a frame end in a 4-byte stamp of (segment salt, position), so that a sector that
//! was never written is not taken for one that was written and then damaged.
//!
//! A frame's content (its *logical* bytes) runs through the 508 free bytes of each sector. Checksums cover logical
//! bytes only: a damaged stamp alone harms nothing. Since a segment is used once per salt and no position in it is
//! written twice, a right stamp proves that the write of that sector arrived.

use crate::device::BLOCK_BYTES;

/// The unit that a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of the stamp that ends a sector.
pub const STAMP_BYTES: usize = 4;
/// Content bytes of a sector.
pub const SECTOR_PAYLOAD_BYTES: usize = SECTOR_BYTES - STAMP_BYTES;
/// Content bytes of an aligned block.
pub const BLOCK_PAYLOAD_BYTES: usize = BLOCK_BYTES / SECTOR_BYTES * SECTOR_PAYLOAD_BYTES;

/// Where a logical byte lies, both counted from the frame's start.
#[must_use]
pub const fn physical(logical: usize) -> usize {
    logical / SECTOR_PAYLOAD_BYTES * SECTOR_BYTES + logical % SECTOR_PAYLOAD_BYTES
}

/// The logical offset of a content byte; the inverse of [`physical`].
#[must_use]
pub const fn logical(physical: usize) -> usize {
    physical / SECTOR_BYTES * SECTOR_PAYLOAD_BYTES + physical % SECTOR_BYTES
}

/// Bytes on disk of a frame with this much content: whole blocks.
#[must_use]
pub const fn frame_bytes(logical_len: usize) -> usize {
    logical_len.div_ceil(BLOCK_PAYLOAD_BYTES) * BLOCK_BYTES
}

/// Content that fits into this many bytes on disk.
#[must_use]
pub const fn content_bytes(frame_bytes: usize) -> usize {
    frame_bytes / BLOCK_BYTES * BLOCK_PAYLOAD_BYTES
}

/// The stamp of a sector, counted from the segment's start. Never zero, so a blank sector is never stamped.
#[must_use]
pub const fn stamp(salt: u64, sector: u32) -> u32 {
    let mixed = (salt ^ (sector as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) as u32 | 1
}

/// Copies `bytes` to the logical offset `at` of a frame, around the stamps.
pub fn put(frame: &mut [u8], at: usize, mut bytes: &[u8]) {
    let mut offset = physical(at);
    let mut room = SECTOR_PAYLOAD_BYTES - at % SECTOR_PAYLOAD_BYTES;
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        frame
            .get_mut(offset..offset + now.len())
            .expect("the buffer was grown to hold the record")
            .copy_from_slice(now);
        bytes = later;
        offset += now.len() + STAMP_BYTES;
        room = SECTOR_PAYLOAD_BYTES;
    }
}

/// Appends `len` logical bytes from `at` to `out`. False, with `out` unfinished, if the frame is too short.
#[must_use]
pub fn gather(frame: &[u8], at: usize, len: usize, out: &mut Vec<u8>) -> bool {
    let mut offset = physical(at);
    let mut room = SECTOR_PAYLOAD_BYTES - at % SECTOR_PAYLOAD_BYTES;
    let mut left = len;
    while left > 0 {
        let now = room.min(left);
        let Some(piece) = frame.get(offset..offset + now) else { return false };
        out.extend_from_slice(piece);
        left -= now;
        offset += now + STAMP_BYTES;
        room = SECTOR_PAYLOAD_BYTES;
    }
    true
}

/// Stamps every sector of a frame whose first sector has this number in its segment.
pub fn write_stamps(frame: &mut [u8], salt: u64, first_sector: u32) {
    assert!(frame.len().is_multiple_of(SECTOR_BYTES), "a frame is whole sectors");
    for (number, sector) in (first_sector..).zip(frame.chunks_exact_mut(SECTOR_BYTES)) {
        if let Some(end) = sector.last_chunk_mut::<STAMP_BYTES>() {
            *end = stamp(salt, number).to_le_bytes();
        }
    }
}

/// How many sectors carry their stamp, and how many there are.
#[must_use]
pub fn count_stamped(frame: &[u8], salt: u64, first_sector: u32) -> (usize, usize) {
    let sectors = frame.chunks_exact(SECTOR_BYTES);
    let all = sectors.len();
    let stamped = (first_sector..)
        .zip(sectors)
        .filter(|(number, sector)| {
            sector.last_chunk::<STAMP_BYTES>() == Some(&stamp(salt, *number).to_le_bytes())
        })
        .count();
    (stamped, all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn content_comes_back_from_any_offset(at in 0usize..5000, bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut frame = vec![0u8; frame_bytes(at + bytes.len()).max(BLOCK_BYTES)];
            put(&mut frame, at, &bytes);
            write_stamps(&mut frame, 77, 9);
            let mut out = Vec::new();
            prop_assert!(gather(&frame, at, bytes.len(), &mut out));
            prop_assert_eq!(out, bytes);
            let (stamped, all) = count_stamped(&frame, 77, 9);
            prop_assert_eq!(stamped, all);
            prop_assert_eq!(count_stamped(&frame, 78, 9).0, 0);
        }

        #[test]
        fn offsets_map_both_ways(at in 0usize..1 << 26) {
            prop_assert_eq!(logical(physical(at)), at);
            prop_assert!(physical(at) % SECTOR_BYTES < SECTOR_PAYLOAD_BYTES);
        }
    }

    #[test]
    fn frames_are_whole_blocks() {
        assert_eq!(frame_bytes(1), BLOCK_BYTES);
        assert_eq!(frame_bytes(BLOCK_PAYLOAD_BYTES), BLOCK_BYTES);
        assert_eq!(frame_bytes(BLOCK_PAYLOAD_BYTES + 1), 2 * BLOCK_BYTES);
    }
}
