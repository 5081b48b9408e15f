//! An entry's payload: the operations that a partition collected in a turn, and the time they were stamped with. One
//! without operations only moves the partition's clock.
//!
//! Invariant: bytes that [`decode`] accepts can be walked to their end with [`next_op`]; anything else is an
//! [`EntryDamage`], never a panic. An empty payload (Raft's own entries) is no frame and is not decoded.
//!
//! ```text
//! version u8 = 2 | flags u8 | stamp_ms u64 | count u32 | with flag 1: version LSN u64 | count x operation
//! operation   length u32, of which the upper 4 bits are flags | with flag 8: keyspace u64 | op
//! version 1   version u8 = 1 | stamp_ms u64 | count u32 | count x ( length u32 | op )        all little-endian
//! ```
//!
//! Most operations are on the default keyspace, and most entries are first of their history: neither costs a byte.

use corduroy_wal::fields::Fields;
use corduroy_wal::{Lsn, OwnedEntry, Term};

use crate::ids::{KeyspaceId, PartitionId};

/// The version written today.
pub const VERSION: u8 = 2;
/// The version that says nothing of keyspaces and histories: all is in the default keyspace.
const VERSION_1: u8 = 1;
/// Bytes before the first operation of an entry that [`EntryBuilder::finish`] makes.
pub const HEADER_BYTES: usize = 1 + 1 + 8 + 4;
/// Bytes before each operation of the default keyspace.
pub const OP_HEADER_BYTES: usize = 4;
/// In an entry's flags: it has a version LSN of its own.
const HAS_VERSION_LSN: u8 = 1;
/// The highest version LSN. A version is one of 42 bits, 20 bits for the operation in its entry, and two for the state
/// machine's own use.
pub const VERSION_LSN_MAX: Lsn = Lsn((1 << 42) - 1);
/// The bits of an operation's length that count bytes.
const LENGTH_BITS: u32 = 28;
/// In an operation's flags: it names its keyspace.
const HAS_KEYSPACE: u32 = 8;
/// Bytes of that name.
const KEYSPACE_BYTES: usize = 8;

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

    /// Adds an operation on the default keyspace behind the others. The caller bounds it: an operation is far below 256 MiB.
    pub fn push(&mut self, op: &[u8]) {
        self.push_in(KeyspaceId::DEFAULT, op);
    }

    /// Adds an operation on a keyspace.
    ///
    /// # Panics
    /// If the operation has 256 MiB or more.
    pub fn push_in(&mut self, keyspace: KeyspaceId, op: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        assert!(op.len() >> LENGTH_BITS == 0, "an operation of {} bytes is longer than any may be", op.len());
        let length = u32::try_from(op.len()).expect("it fits into 28 bits");
        if keyspace == KeyspaceId::DEFAULT {
            self.bytes.extend_from_slice(&length.to_le_bytes());
        } else {
            self.bytes.extend_from_slice(&(length | HAS_KEYSPACE << LENGTH_BITS).to_le_bytes());
            self.bytes.extend_from_slice(&keyspace.0.to_le_bytes());
        }
        self.bytes.extend_from_slice(op);
        self.count += 1;
    }

    /// Takes a finished payload up again, to be stamped anew.
    ///
    /// # Panics
    /// If it is not one that [`EntryBuilder::finish`] made.
    #[must_use]
    pub fn reopen(payload: Vec<u8>) -> Self {
        let header = decode(&payload).expect("a payload that was finished here is whole");
        assert!(header.ops_at == HEADER_BYTES, "only what is first of its history is stamped anew");
        Self { bytes: payload, count: header.count }
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
        self.bytes.splice(..HEADER_BYTES, header(0, stamp_ms, self.count));
        self.bytes
    }

    /// The payload of an entry that repeats one of another log: stamped as that was, with its version LSN.
    ///
    /// # Panics
    /// If no operation was added, or no history has that LSN.
    #[must_use]
    pub fn finish_copy(mut self, stamp_ms: u64, version_lsn: Lsn) -> Vec<u8> {
        assert!(self.count > 0, "an entry carries at least one operation");
        assert!(is_version_lsn(version_lsn), "{version_lsn} is no LSN of a history");
        let header = header(HAS_VERSION_LSN, stamp_ms, self.count);
        self.bytes.splice(..HEADER_BYTES, header.into_iter().chain(version_lsn.get().to_le_bytes()));
        self.bytes
    }
}

/// Whether versions can be made of it.
const fn is_version_lsn(lsn: Lsn) -> bool {
    lsn.0 > 0 && lsn.0 <= VERSION_LSN_MAX.0
}

/// The head of an entry, but for what flags announce.
fn header(flags: u8, stamp_ms: u64, count: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let (version, rest) = header.split_at_mut(2);
    let (stamp, counted) = rest.split_at_mut(8);
    version.copy_from_slice(&[VERSION, flags]);
    stamp.copy_from_slice(&stamp_ms.to_le_bytes());
    counted.copy_from_slice(&count.to_le_bytes());
    header
}

/// The payload of an entry without operations: all it does is to move the partition's clock.
#[must_use]
pub fn of_time(stamp_ms: u64) -> Vec<u8> {
    header(0, stamp_ms, 0).to_vec()
}

/// What stands before the operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// The leader's wall clock at the proposal, in ms since 1970.
    pub stamp_ms: u64,
    /// Operations that follow.
    pub count: u32,
    /// The LSN that versions are made of; `None`: the entry's own.
    pub version_lsn: Option<Lsn>,
    /// Where the first operation starts.
    pub ops_at: usize,
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
        "entry version {found} is unknown (this release reads {VERSION_1} and {VERSION}); start the release that wrote it"
    )]
    Version {
        /// The version byte.
        found: u8,
    },
    /// It has fields that a later release added.
    #[error(
        "the entry, or an operation in it, has the flags {found:#x}, which this release does not know; start the release \
         that wrote it"
    )]
    Flags {
        /// The unknown ones among them.
        found: u32,
    },
    /// It has a version LSN that no entry has.
    #[error(
        "the entry has version LSN {found}, which must be between 1 and {VERSION_LSN_MAX}; rebuild the replica from its \
         peers or from a copy"
    )]
    VersionLsn {
        /// What it has.
        found: Lsn,
    },
    /// An operation is flagged as one of another keyspace, and names the default one.
    #[error(
        "the operation at byte {at} of the entry names the default keyspace, which is never named; rebuild the replica \
         from its peers or from a copy"
    )]
    Keyspace {
        /// Where the operation starts.
        at: usize,
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

/// Reads what stands before the operations.
fn read_header(payload: &[u8]) -> Result<EntryHeader, EntryDamage> {
    let short = || EntryDamage::Short { bytes: payload.len() };
    let mut fields = Fields::new(payload);
    let flags = match fields.byte().ok_or_else(short)? {
        VERSION_1 => 0,
        VERSION => fields.byte().ok_or_else(short)?,
        found => return Err(EntryDamage::Version { found }),
    };
    if flags & !HAS_VERSION_LSN != 0 {
        return Err(EntryDamage::Flags { found: u32::from(flags & !HAS_VERSION_LSN) });
    }
    let stamp_ms = fields.u64().ok_or_else(short)?;
    let count = fields.u32().ok_or_else(short)?;
    let version_lsn =
        (flags & HAS_VERSION_LSN != 0).then(|| fields.u64().map(Lsn).ok_or_else(short)).transpose()?;
    if let Some(found) = version_lsn.filter(|lsn| !is_version_lsn(*lsn)) {
        return Err(EntryDamage::VersionLsn { found });
    }
    Ok(EntryHeader { stamp_ms, count, version_lsn, ops_at: payload.len() - fields.rest.len() })
}

/// Checks a whole payload and returns its header.
///
/// # Errors
/// [`EntryDamage`] if any length does not fit.
pub fn decode(payload: &[u8]) -> Result<EntryHeader, EntryDamage> {
    let header = read_header(payload)?;
    let known = if payload.first() == Some(&VERSION_1) { 0 } else { HAS_KEYSPACE };
    let mut at = header.ops_at;
    for _ in 0..header.count {
        let lengths = EntryDamage::Lengths { count: header.count, bytes: payload.len(), at };
        let length = payload.get(at..).and_then(|rest| rest.first_chunk::<OP_HEADER_BYTES>());
        let flags = u32::from_le_bytes(*length.ok_or_else(|| lengths.clone())?) >> LENGTH_BITS;
        if flags & !known != 0 {
            return Err(EntryDamage::Flags { found: flags & !known });
        }
        let (op, next) = next_op(payload, at).ok_or(lengths)?;
        if flags & HAS_KEYSPACE != 0 && op.keyspace == KeyspaceId::DEFAULT {
            return Err(EntryDamage::Keyspace { at });
        }
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

/// The stamp of an entry, in ms since 1970, without a look at its operations; `None`: it has no header.
#[must_use]
pub fn stamp_ms(payload: &[u8]) -> Option<u64> {
    let mut fields = Fields::new(payload);
    if fields.byte()? != VERSION_1 {
        fields.byte()?;
    }
    fields.u64()
}

/// One operation of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryOp<'a> {
    /// The keyspace it is on.
    pub keyspace: KeyspaceId,
    /// What it does, in the state machine's own bytes.
    pub op: &'a [u8],
}

impl<'a> EntryOp<'a> {
    /// One on the default keyspace.
    #[must_use]
    pub const fn of_default(op: &'a [u8]) -> Self {
        Self { keyspace: KeyspaceId::DEFAULT, op }
    }

    /// Bytes that it takes in an entry.
    #[must_use]
    pub const fn entry_bytes(&self) -> usize {
        let keyspace_bytes = if self.keyspace.0 == KeyspaceId::DEFAULT.0 { 0 } else { KEYSPACE_BYTES };
        OP_HEADER_BYTES + keyspace_bytes + self.op.len()
    }
}

/// The first operation of a payload, if it has any.
#[must_use]
pub fn first_op(payload: &[u8]) -> Option<&[u8]> {
    let header = read_header(payload).ok().filter(|header| header.count > 0)?;
    next_op(payload, header.ops_at).map(|(op, _)| op.op)
}

/// The operation that starts at `at`, and where the next one starts. `None` if there is no whole one.
#[must_use]
pub fn next_op(payload: &[u8], at: usize) -> Option<(EntryOp<'_>, usize)> {
    let (length, rest) = payload.get(at..)?.split_first_chunk::<OP_HEADER_BYTES>()?;
    let length = u32::from_le_bytes(*length);
    let bytes = (length & ((1 << LENGTH_BITS) - 1)) as usize;
    if length >> LENGTH_BITS == 0 {
        let op = rest.get(..bytes)?;
        return Some((EntryOp::of_default(op), at + OP_HEADER_BYTES + bytes));
    }
    let (keyspace, rest) = rest.split_first_chunk::<KEYSPACE_BYTES>()?;
    let op = rest.get(..bytes)?;
    let keyspace = KeyspaceId(u64::from_le_bytes(*keyspace));
    Some((EntryOp { keyspace, op }, at + OP_HEADER_BYTES + KEYSPACE_BYTES + bytes))
}

/// Where in a partition's history an op is applied.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// The partition.
    pub partition: PartitionId,
    /// The keyspace that the operation names.
    pub keyspace: KeyspaceId,
    /// The entry's number in this log.
    pub lsn: Lsn,
    /// What versions are made of: the entry's number in the line of LSNs that the partition's history is. Another one than
    /// in this log where that repeats another's entries; higher with each entry that has operations.
    pub version_lsn: Lsn,
    /// The entry's term.
    pub term: Term,
    /// The leader's wall clock when it proposed the entry, in ms since 1970: the only clock that apply may read.
    pub stamp_ms: u64,
}

impl Applied {
    /// An operation on the default keyspace, in an entry that is first of its history.
    #[must_use]
    pub const fn first(partition: PartitionId, lsn: Lsn, term: Term, stamp_ms: u64) -> Self {
        Self { partition, keyspace: KeyspaceId::DEFAULT, lsn, version_lsn: lsn, term, stamp_ms }
    }
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
    pub fn op(self, entry: &[u8]) -> Option<(EntryOp<'_>, Self)> {
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
    /// What the versions of what it writes are made of.
    pub version_lsn: Lsn,
    /// Where its next operation starts.
    pub at: usize,
    /// Operations left.
    pub left: u32,
    /// Of those, the next ones whose rows were fetched ahead.
    fetched: u32,
    /// Requests of its row, from the first one on, that were looked at ahead: before it is begun for reads that come first,
    /// then for what its reads need.
    pub ahead: u32,
}

impl Cursor {
    /// At the start of an entry, all of which is checked. One without operations has the stamp of the one before it: the same
    /// each time it is applied.
    pub fn open(lsn: Lsn, last_stamp_ms: u64, payload: &[u8]) -> Result<Self, EntryDamage> {
        let begun = Self { is_open: true, stamp_ms: last_stamp_ms, version_lsn: lsn, ..Self::default() };
        if payload.is_empty() {
            return Ok(begun);
        }
        let header = decode(payload)?;
        let version_lsn = header.version_lsn.unwrap_or(lsn);
        Ok(Self { stamp_ms: header.stamp_ms, version_lsn, at: header.ops_at, left: header.count, ..begun })
    }

    /// Unless what the next operation needs was fetched ahead, has `fetch` do that; it returns for how many it has.
    pub fn fetch(&mut self, fetch: impl FnOnce(Self) -> usize) {
        if self.fetched == 0 {
            let fetched = fetch(*self);
            assert!(
                (1..=self.left as usize).contains(&fetched),
                "{fetched} operations of {} fetched",
                self.left
            );
            self.fetched = u32::try_from(fetched).expect("no more than are left");
        }
    }

    /// What so many of its operations need was fetched before it was opened.
    pub fn note_fetched(&mut self, fetched: u32) {
        self.fetched = fetched.min(self.left);
    }

    /// The next operation is done, and the one behind it starts at `next`.
    pub fn pass(&mut self, next: usize) {
        self.at = next;
        self.left -= 1;
        self.fetched -= 1;
    }

    /// The operations left, of the entry that it was opened with.
    pub fn ops(self, payload: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut at = self.at;
        (0..self.left).map_while(move |_| {
            let (EntryOp { op, .. }, next) = next_op(payload, at)?;
            at = next;
            Some(op)
        })
    }
}

#[cfg(test)]
mod tests;
