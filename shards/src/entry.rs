//! An entry's payload: the operations that a partition collected in a turn, and the time they were stamped with. One
//! without operations only moves the partition's clock.
//!
//! Invariant: bytes that [`decode`] accepts can be walked to their end with [`next_op`]; anything else is an
//! [`EntryDamage`], never a panic. An empty payload (Raft's own entries) is no frame and is not decoded.
//!
//! ```text
//! version u8 = 1 | stamp_ms u64 | count u32 | count x ( bytes u32 | op )        all little-endian
//! ```

use corduroy_wal::OwnedEntry;

/// The version written today.
pub const VERSION: u8 = 1;
/// Bytes before the first operation.
pub const HEADER_BYTES: usize = 1 + 8 + 4;
/// Bytes before each operation.
pub const OP_HEADER_BYTES: usize = 4;

/// Gathers operations into a payload.
#[derive(Debug, Default)]
pub struct EntryBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl EntryBuilder {
    /// An empty payload that expects about `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity.max(HEADER_BYTES)), count: 0 }
    }

    /// Adds an operation behind the others. The caller bounds it: an operation is far below 4 GiB.
    pub fn push(&mut self, op: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let bytes = u32::try_from(op.len()).expect("operations are bounded far below 4 GiB");
        self.bytes.extend_from_slice(&bytes.to_le_bytes());
        self.bytes.extend_from_slice(op);
        self.count += 1;
    }

    /// Takes a finished payload up again, to be stamped anew.
    ///
    /// # Panics
    /// If it is not one that [`EntryBuilder::finish`] made.
    #[must_use]
    pub fn reopen(payload: Vec<u8>) -> Self {
        let count = decode(&payload).expect("a payload that was finished here is whole").count;
        Self { bytes: payload, count }
    }

    /// Operations so far.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, header included; 0 if there is no operation yet.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The payload so far, not stamped yet; walk it with [`next_op`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The payload, stamped.
    ///
    /// # Panics
    /// If no operation was added: an entry without operations is made by [`of_time`] alone.
    #[must_use]
    pub fn finish(mut self, stamp_ms: u64) -> Vec<u8> {
        assert!(self.count > 0, "an entry carries at least one operation");
        let mut header = [0; HEADER_BYTES];
        let (version, rest) = header.split_at_mut(1);
        let (stamp, count) = rest.split_at_mut(8);
        version.copy_from_slice(&[VERSION]);
        stamp.copy_from_slice(&stamp_ms.to_le_bytes());
        count.copy_from_slice(&self.count.to_le_bytes());
        self.bytes.splice(..HEADER_BYTES, header);
        self.bytes
    }
}

/// The payload of an entry without operations: all it does is to move the partition's clock.
#[must_use]
pub fn of_time(stamp_ms: u64) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&stamp_ms.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes
}

/// What stands before the operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// The leader's wall clock at the proposal, in ms since 1970.
    pub stamp_ms: u64,
    /// Operations that follow.
    pub count: u32,
}

/// A payload that is not one of ours, or not whole. The log's checksum held, so it was written that way.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryDamage {
    /// Shorter than a header.
    #[error("an entry of {bytes} bytes has no room for its header")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// Written by a later release, or not by us.
    #[error(
        "entry version {found} is unknown (this release reads {VERSION}); start the release that wrote it"
    )]
    Version {
        /// The version byte.
        found: u8,
    },
    /// The operations do not fill the payload exactly.
    #[error("the {count} operations of an entry of {bytes} bytes do not fill it: {at} is where they part")]
    Lengths {
        /// Operations announced.
        count: u32,
        /// Bytes of the payload.
        bytes: usize,
        /// Where walking failed or ended.
        at: usize,
    },
}

/// Checks a whole payload and returns its header.
///
/// # Errors
/// [`EntryDamage`] if any length does not fit.
pub fn decode(payload: &[u8]) -> Result<EntryHeader, EntryDamage> {
    let short = EntryDamage::Short { bytes: payload.len() };
    let (version, rest) = payload.split_first().ok_or_else(|| short.clone())?;
    if *version != VERSION {
        return Err(EntryDamage::Version { found: *version });
    }
    let (stamp, rest) = rest.split_first_chunk::<8>().ok_or_else(|| short.clone())?;
    let (count, _) = rest.split_first_chunk::<4>().ok_or(short)?;
    let header = EntryHeader { stamp_ms: u64::from_le_bytes(*stamp), count: u32::from_le_bytes(*count) };
    let mut at = HEADER_BYTES;
    for _ in 0..header.count {
        let Some((_, next)) = next_op(payload, at) else {
            return Err(EntryDamage::Lengths { count: header.count, bytes: payload.len(), at });
        };
        at = next;
    }
    if at != payload.len() {
        return Err(EntryDamage::Lengths { count: header.count, bytes: payload.len(), at });
    }
    Ok(header)
}

/// The highest stamp of entries read back from the log, in ms since 1970; 0 if there is none. Damaged ones are left for
/// apply to report.
#[must_use]
pub fn highest_stamp_ms(entries: &[OwnedEntry]) -> u64 {
    let headers = entries.iter().filter_map(|entry| decode(&entry.data).ok());
    headers.map(|header| header.stamp_ms).max().unwrap_or(0)
}

/// The operation that starts at `at`, and where the next one starts. `None` if there is no whole one.
#[must_use]
pub fn next_op(payload: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (bytes, rest) = payload.get(at..)?.split_first_chunk::<OP_HEADER_BYTES>()?;
    let bytes = u32::from_le_bytes(*bytes) as usize;
    let op = rest.get(..bytes)?;
    Some((op, at + OP_HEADER_BYTES + bytes))
}

/// An operation of an entry: its number, and where it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub number: usize,
    pub at: usize,
}

impl Mark {
    pub const FIRST: Self = Self { number: 0, at: HEADER_BYTES };

    /// The operation here, and the mark behind it.
    pub fn op(self, entry: &[u8]) -> Option<(&[u8], Self)> {
        next_op(entry, self.at).map(|(op, at)| (op, Self { number: self.number + 1, at }))
    }
}

/// Where apply stands inside an entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Cursor {
    /// Whether an entry is begun.
    pub is_open: bool,
    /// Its stamp.
    pub stamp_ms: u64,
    /// Where its next operation starts.
    pub at: usize,
    /// Operations left.
    pub left: u32,
    /// Requests of its row, from the first one on, that were looked at ahead: before it is begun for reads that come first,
    /// then for what its reads need.
    pub ahead: u32,
}

impl Cursor {
    /// At the start of an entry, all of which is checked. One without operations has the stamp of the one before it: the same
    /// each time it is applied.
    pub fn open(last_stamp_ms: u64, payload: &[u8]) -> Result<Self, EntryDamage> {
        let header = if payload.is_empty() {
            EntryHeader { stamp_ms: last_stamp_ms, count: 0 }
        } else {
            decode(payload)?
        };
        Ok(Self { is_open: true, stamp_ms: header.stamp_ms, at: HEADER_BYTES, left: header.count, ahead: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(ops: &[&[u8]], stamp_ms: u64) -> Vec<u8> {
        let mut builder = EntryBuilder::default();
        for op in ops {
            builder.push(op);
        }
        builder.finish(stamp_ms)
    }

    fn walk(payload: &[u8]) -> Vec<Vec<u8>> {
        let mut ops = Vec::new();
        let mut at = HEADER_BYTES;
        while let Some((op, next)) = next_op(payload, at) {
            ops.push(op.to_vec());
            at = next;
        }
        ops
    }

    #[test]
    fn round_trip_keeps_order_empty_ops_and_stamp() {
        let bytes = payload(&[b"one", b"", b"three"], 1_700_000_000_123);
        assert_eq!(decode(&bytes), Ok(EntryHeader { stamp_ms: 1_700_000_000_123, count: 3 }));
        assert_eq!(walk(&bytes), [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
    }

    #[test]
    fn bytes_are_pinned() {
        let bytes = payload(&[b"ab"], 258);
        assert_eq!(bytes, [1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn an_entry_of_time_carries_nothing_else() {
        let bytes = of_time(258);
        assert_eq!(bytes, [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode(&bytes), Ok(EntryHeader { stamp_ms: 258, count: 0 }));
        assert_eq!(next_op(&bytes, HEADER_BYTES), None);
    }

    #[test]
    fn every_truncation_and_every_surplus_is_damage() {
        let bytes = payload(&[b"one", b"two"], 7);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode(&longer), Err(EntryDamage::Lengths { .. })));
    }

    #[test]
    fn unknown_version_and_huge_counts_are_damage() {
        let mut bytes = payload(&[b"x"], 7);
        bytes[0] = 2;
        assert_eq!(decode(&bytes), Err(EntryDamage::Version { found: 2 }));
        bytes[0] = VERSION;
        bytes[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(EntryDamage::Lengths { count: u32::MAX, .. })));
    }
}
