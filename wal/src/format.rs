//! The bytes of the WAL: sectors, segment headers, frames, records, footers, the manifest. Encode and decode, nothing else.
//!
//! All numbers are little-endian. Decoding never trusts a length before a checksum covered it, and never panics.

#[cfg(test)]
mod fixtures;
pub mod footer;
pub mod frame;
pub mod manifest;
pub mod record;
pub mod sectors;
pub mod segment;

/// Fills a fixed-size head field by field; writing past its end is a bug in the layout.
#[derive(Debug)]
pub(crate) struct Head<const N: usize> {
    pub(crate) bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Head<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        let end = self.at + field.len();
        self.bytes.get_mut(self.at..end).expect("the layout fits its head").copy_from_slice(field);
        self.at = end;
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.put(&value.to_le_bytes())
    }

    /// Writes at byte `at` the checksum of everything behind byte `at + 4`.
    pub(crate) fn seal(mut self, at: usize) -> [u8; N] {
        let crc = crc32fast::hash(self.bytes.get(at + 4..).expect("the checksum lies inside its head"));
        self.bytes
            .get_mut(at..at + 4)
            .expect("the checksum lies inside its head")
            .copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// Whether the checksum at byte 4 of a head fits all that follows it.
pub(crate) fn head_is_whole(bytes: &[u8]) -> bool {
    match (bytes.get(4..).and_then(<[u8]>::first_chunk::<4>), bytes.get(8..)) {
        (Some(crc), Some(body)) => u32::from_le_bytes(*crc) == crc32fast::hash(body),
        _ => false,
    }
}
