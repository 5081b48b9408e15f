//! One row of the upper level: key and value in one allocation, 48 bytes beside them.
//!
//! A row is *dirty* until a hand-over captures it, then *clean*: the lower level has it, or will have it when the
//! hand-over of its `epoch` completes. A *tombstone* says that the key does not exist, whatever the lower level says.

use std::cell::Cell;

/// No time to live.
pub(super) const NO_EXPIRY: u64 = u64::MAX;

/// What a row costs beside key and value: itself, its share of the page's table, the allocator's header.
pub(super) const ROW_OVERHEAD_BYTES: usize = 96;

/// What OBJECT ENCODING has to remember, since it cannot be told from the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Encoding {
    /// By the value: int, embstr or raw.
    Auto = 0,
    /// Never int (results of INCRBYFLOAT).
    Text = 1,
    /// raw (after APPEND, SETRANGE).
    Raw = 2,
}

impl Encoding {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Auto, Self::Text, Self::Raw].into_iter().find(|encoding| *encoding as u8 == byte)
    }
}

/// Not yet captured by a hand-over.
pub(super) const DIRTY: u8 = 1;
/// The key does not exist.
pub(super) const TOMBSTONE: u8 = 2;
/// The lower level has, or is about to get, a version of this key (so a removal needs a tombstone).
pub(super) const BELOW: u8 = 4;
/// Written blindly: whether the key existed below at that time is not known yet, and was counted as "no".
pub(super) const UNKNOWN: u8 = 8;
/// Used since the eviction hand last came by.
pub(super) const REFERENCED: u8 = 16;

/// A row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) hash: u64,
    data: Box<[u8]>,
    /// The last change; see `Partition::version`.
    pub(super) version: u64,
    /// ms since 1970, or [`NO_EXPIRY`].
    pub(super) expire_at_ms: u64,
    /// Dirty: the epoch of the last change. Clean: the hand-over that captured it (0: loaded from below).
    pub(super) epoch: u32,
    key_len: u16,
    flags: Cell<u8>,
    pub(super) encoding: Encoding,
}

/// The fields of a row that a write sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) version: u64,
    pub(super) expire_at_ms: u64,
    pub(super) encoding: Encoding,
}

impl Row {
    /// A row for `key`, which must be shorter than 64 KiB.
    pub(super) fn new(hash: u64, key: &[u8], value: &[u8], stamp: Stamp, epoch: u32, flags: u8) -> Self {
        let key_len = u16::try_from(key.len()).expect("longer keys are refused before they come here");
        Self {
            hash,
            data: joined(key, value),
            version: stamp.version,
            expire_at_ms: stamp.expire_at_ms,
            epoch,
            key_len,
            flags: Cell::new(flags),
            encoding: stamp.encoding,
        }
    }

    #[inline]
    fn parts(&self) -> (&[u8], &[u8]) {
        self.data.split_at(usize::from(self.key_len))
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        self.parts().0
    }

    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        self.parts().1
    }

    /// Replaces the value, in place if the length stays. Returns the change of the row's bytes.
    pub(super) fn set_value(&mut self, value: &[u8]) -> isize {
        let key_len = usize::from(self.key_len);
        let (_, old) = self.data.split_at_mut(key_len);
        if old.len() == value.len() {
            old.copy_from_slice(value);
            return 0;
        }
        let difference = value.len().cast_signed() - old.len().cast_signed();
        self.data = joined(self.key(), value);
        difference
    }

    /// Puts bytes into the value from `offset` on, with zeros before them where the value was shorter. Returns the bytes
    /// that were moved: those that came, and all of it whenever it had to move for the sake of its growth.
    pub(super) fn set_range(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let start = usize::from(self.key_len) + offset;
        let (before, end) = (self.data.len(), start + bytes.len());
        let mut moved = bytes.len();
        if end > before {
            moved += end - before;
            let mut data = std::mem::take(&mut self.data).into_vec();
            // The allocator gives what it has set aside for a block of this size without moving it; what is given back
            // stays with the block. So a value that grows by little is moved once in an eighth of its length.
            let room = grown_bytes(end);
            if room != grown_bytes(before) {
                moved += before;
            }
            data.reserve_exact(room - before);
            data.resize(end, 0);
            self.data = data.into_boxed_slice();
        }
        let target = self.data.get_mut(start..end).expect("it was just made long enough");
        target.copy_from_slice(bytes);
        moved
    }

    /// What it costs.
    #[inline]
    pub(super) fn cost_bytes(&self) -> usize {
        ROW_OVERHEAD_BYTES + self.data.len()
    }

    #[inline]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    pub(super) fn set(&self, flags: u8) {
        self.flags.set(self.flags.get() | flags);
    }

    #[inline]
    pub(super) fn clear(&self, flags: u8) {
        self.flags.set(self.flags.get() & !flags);
    }

    /// Whether the key exists at this time.
    #[inline]
    pub(super) fn is_live(&self, now_ms: u64) -> bool {
        !self.has(TOMBSTONE) && self.expire_at_ms > now_ms
    }

    /// Whether the lower level, or the hand-overs up to `epoch`, say all that this row says.
    #[inline]
    pub(super) fn is_clean(&self, epoch: u32) -> bool {
        !self.has(DIRTY) && self.epoch <= epoch
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { version: self.version, expire_at_ms: self.expire_at_ms, encoding: self.encoding }
    }
}

/// What is asked for where a row of so many bytes has grown: the same for all lengths of a step, which are an eighth of
/// the length apart.
fn grown_bytes(len: usize) -> usize {
    const SMALL_BYTES: usize = 4 << 10;
    if len <= SMALL_BYTES { len } else { len.next_multiple_of(len.next_power_of_two() / 16) }
}

fn joined(key: &[u8], value: &[u8]) -> Box<[u8]> {
    let mut data = Vec::with_capacity(key.len() + value.len());
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    data.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_small() {
        assert_eq!(size_of::<Row>(), 48);
    }

    #[test]
    fn a_range_is_written_in_place_and_growth_is_paid_by_steps() {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        let mut row = Row::new(7, b"key", b"value", stamp, 1, DIRTY);
        assert_eq!(row.set_range(1, b"AL"), 2);
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b"vALue"[..]));
        row.set_range(7, b"end");
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b"vALue\0\0end"[..]));
        row.set_range(8 << 20, b"x");
        let at = row.data.as_ptr();
        assert_eq!(row.set_range(4 << 20, b"y"), 1, "only what came is moved");
        assert_eq!(row.data.as_ptr(), at);
        // A million bytes more, ten at a time: the value itself moves a few times.
        let moved: usize = (0..100_000).map(|_| row.set_range(row.value().len(), b"0123456789")).sum();
        assert_eq!(row.value().len(), (8 << 20) + 1 + 1_000_000);
        assert!(moved < 2 * 1_000_000 + 4 * (9 << 20), "{moved} bytes moved");
        assert_eq!((row.key(), row.value().get(..5)), (&b"key"[..], Some(&b"vALue"[..])));
    }

    #[test]
    fn a_value_of_another_length_keeps_the_key() {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        let mut row = Row::new(7, b"key", b"value", stamp, 1, DIRTY);
        assert_eq!(row.set_value(b"VALUE"), 0);
        assert_eq!(row.set_value(b"v"), -4);
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b"v"[..]));
        assert_eq!(row.set_value(b""), -1);
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b""[..]));
    }
}
