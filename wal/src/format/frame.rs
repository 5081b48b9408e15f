//! The head of a frame: one group commit, whole blocks long, written once and never changed.
//!
//! The head carries its own checksum, the position it was written for, and two facts: what was durable when it was
//! written, and which segments were free of live data. The records behind it carry their own checksums; the head
//! seals their number and order.

use crate::fields::Fields;
use crate::format::{Head, head_is_whole};
use crate::ids::{BatchSeq, SegmentSeq};

/// Content bytes of the head.
pub const FRAME_HEAD_BYTES: usize = 64;
/// Larger than any record's length, so that a frame cannot be taken for a record.
const MAGIC: u32 = 0xF4A3_E001;

/// What a frame's head says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameHead {
    /// The segment's salt.
    pub salt: u64,
    /// The batch: one more than that of the frame before.
    pub batch: BatchSeq,
    /// All batches up to this one were durable when the frame was written.
    pub durable: BatchSeq,
    /// Segments below this one were free of live data when the frame was written, their rewrites durable.
    pub oldest_live: SegmentSeq,
    /// Where the frame starts, in bytes from the segment's start.
    pub offset: u32,
    /// Content bytes behind the head.
    pub content_bytes: u32,
    /// Records.
    pub records: u32,
    /// Checksum over the records' checksums, in order.
    pub records_crc: u32,
}

impl FrameHead {
    /// Writes the head.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEAD_BYTES] {
        Head::<FRAME_HEAD_BYTES>::new()
            .u32(MAGIC)
            .u32(0)
            .u64(self.salt)
            .u64(self.batch.get())
            .u64(self.durable.get())
            .u64(self.oldest_live.get())
            .u32(self.offset)
            .u32(self.content_bytes)
            .u32(self.records)
            .u32(self.records_crc)
            .seal(4)
    }

    /// Reads a head that starts at the front of `bytes`; `None` unless it is whole. The caller compares salt and position.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEAD_BYTES)?;
        if !is_frame(bytes) || !head_is_whole(bytes) {
            return None;
        }
        let mut fields = Fields::new(bytes);
        let (_magic, _crc) = (fields.u32()?, fields.u32()?);
        Some(Self {
            salt: fields.u64()?,
            batch: BatchSeq(fields.u64()?),
            durable: BatchSeq(fields.u64()?),
            oldest_live: SegmentSeq(fields.u64()?),
            offset: fields.u32()?,
            content_bytes: fields.u32()?,
            records: fields.u32()?,
            records_crc: fields.u32()?,
        })
    }
}

/// Whether the bytes start like a frame; nothing is verified.
#[must_use]
pub fn is_frame(bytes: &[u8]) -> bool {
    bytes.first_chunk::<4>() == Some(&MAGIC.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_and_any_flip_is_seen() {
        let head = FrameHead {
            salt: 1,
            batch: BatchSeq(2),
            durable: BatchSeq(1),
            oldest_live: SegmentSeq(3),
            offset: 4096,
            content_bytes: 900,
            records: 4,
            records_crc: 0xABCD,
        };
        let bytes = head.encode();
        assert_eq!(FrameHead::decode(&bytes), Some(head));
        for at in 0..FRAME_HEAD_BYTES {
            let mut bad = bytes;
            bad[at] ^= 0x10;
            assert_eq!(FrameHead::decode(&bad), None, "byte {at}");
        }
    }
}
