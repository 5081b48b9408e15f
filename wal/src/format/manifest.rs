//! The manifest of a WAL folder: whose the log is, which segment is its newest, and how far it is known to be durable.
//!
//! It stands twice in a file of its own, each copy in a block and within one sector, so that a crash leaves every copy
//! old or new. Of two good copies the one of the higher generation counts. It is what makes a missing tail visible:
//! everything else that a log says about its end stands at its end.

use crate::device::{BLOCK_BYTES, SlotId};
use crate::fields::Fields;
use crate::format::{Head, head_is_whole};
use crate::ids::{BatchSeq, SegmentSeq};
use crate::options::OWNER_BYTES;

/// The version of the manifest's bytes. A reader refuses what it does not know.
pub const MANIFEST_VERSION: u32 = 1;
const MAGIC: u32 = 0xC0D5_3A01;
/// Bytes of a copy that mean something; the remaining ones of its block are zero.
const COPY_BYTES: usize = 160;
/// Copies in the file, a block each.
pub(crate) const COPIES: usize = 2;
/// The file's size.
pub(crate) const MANIFEST_BYTES: usize = COPIES * BLOCK_BYTES;

/// What a folder's manifest says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Grows with each writing.
    pub generation: u64,
    /// The WAL whose segments belong into the folder.
    pub wal_id: u64,
    /// Whose the WAL is; what the bytes mean is the owner's matter.
    pub owner: [u8; OWNER_BYTES],
    /// The newest segment of which frames were acknowledged; 0 if none was.
    pub newest: SegmentSeq,
    /// The salt in its header.
    pub salt: u64,
    /// The file that it lies in.
    pub slot: SlotId,
    /// All batches up to this one were durable when the manifest was written.
    pub durable: BatchSeq,
}

/// What one copy turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManifestCopy {
    /// Whole.
    Good(Manifest),
    /// Not as it was written.
    Bad,
    /// Of a version that this program does not know.
    Foreign(u32),
}

impl Manifest {
    /// Of a log in which nothing was written.
    #[must_use]
    pub const fn empty(wal_id: u64, owner: [u8; OWNER_BYTES]) -> Self {
        Self {
            generation: 1,
            wal_id,
            owner,
            newest: SegmentSeq::ZERO,
            salt: 0,
            slot: SlotId(0),
            durable: BatchSeq::ZERO,
        }
    }

    /// Writes one copy, a block.
    pub fn encode(&self, block: &mut [u8]) {
        let mut head = Head::<COPY_BYTES>::new()
            .u32(MAGIC)
            .u32(0)
            .u32(MANIFEST_VERSION)
            .u32(self.slot.0)
            .u64(self.generation)
            .u64(self.wal_id)
            .u64(self.newest.get())
            .u64(self.salt)
            .u64(self.durable.get());
        for word in self.owner.chunks_exact(8) {
            head = head.u64(u64::from_le_bytes(word.try_into().expect("chunks of eight bytes")));
        }
        let copy = head.seal(4);
        block.fill(0);
        block.split_at_mut(COPY_BYTES).0.copy_from_slice(&copy);
    }

    /// The bytes of the file: both copies.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let mut bytes = vec![0; MANIFEST_BYTES];
        bytes.chunks_exact_mut(BLOCK_BYTES).for_each(|block| self.encode(block));
        bytes
    }

    /// Reads one copy.
    #[must_use]
    pub fn decode(block: &[u8]) -> ManifestCopy {
        match Self::decode_fields(block) {
            Some(Ok(manifest)) => ManifestCopy::Good(manifest),
            Some(Err(version)) => ManifestCopy::Foreign(version),
            None => ManifestCopy::Bad,
        }
    }

    fn decode_fields(block: &[u8]) -> Option<Result<Self, u32>> {
        let copy = block.get(..COPY_BYTES)?;
        let mut fields = Fields::new(copy);
        if fields.u32()? != MAGIC || !head_is_whole(copy) {
            return None;
        }
        let _crc = fields.u32()?;
        let version = fields.u32()?;
        if version != MANIFEST_VERSION {
            return Some(Err(version));
        }
        let slot = SlotId(fields.u32()?);
        let (generation, wal_id) = (fields.u64()?, fields.u64()?);
        let (newest, salt) = (SegmentSeq(fields.u64()?), fields.u64()?);
        let durable = BatchSeq(fields.u64()?);
        let owner = fields.array()?;
        Some(Ok(Self { generation, wal_id, owner, newest, salt, slot, durable }))
    }

    /// Whether both say the same of the log.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        Self { generation: 0, ..*self } == Self { generation: 0, ..*other }
    }
}

/// Why a manifest cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestFault {
    /// A later program wrote it.
    #[error("it has version {0}, this program reads {MANIFEST_VERSION}")]
    Version(u32),
    /// Both copies are damaged.
    #[error("neither copy in it can be read")]
    Unreadable,
}

/// Reads the file: the copy that counts, and which of them that is.
///
/// # Errors
/// [`ManifestFault`], if neither copy can be used.
pub fn read(file: &[u8]) -> Result<(Manifest, usize), ManifestFault> {
    let mut best: Option<(Manifest, usize)> = None;
    for copy in 0..COPIES {
        match Manifest::decode(file.get(copy * BLOCK_BYTES..).unwrap_or_default()) {
            ManifestCopy::Foreign(version) => {
                return Err(ManifestFault::Version(version));
            }
            ManifestCopy::Good(manifest)
                if best.is_none_or(|(best, _)| best.generation < manifest.generation) =>
            {
                best = Some((manifest, copy));
            }
            ManifestCopy::Good(_) | ManifestCopy::Bad => {}
        }
    }
    best.ok_or(ManifestFault::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            generation: 3,
            wal_id: 7,
            owner: std::array::from_fn(|at| u8::try_from(at).unwrap()),
            newest: SegmentSeq(5),
            salt: 0x1122_3344_5566_7788,
            slot: SlotId(2),
            durable: BatchSeq(900),
        }
    }

    #[test]
    fn any_single_flip_leaves_one_copy() {
        let file = manifest().file();
        assert_eq!(read(&file), Ok((manifest(), 0)));
        for at in 0..file.len() {
            for bit in [0x01, 0x80] {
                let mut bad = file.clone();
                bad[at] ^= bit;
                let (found, _) = read(&bad).unwrap();
                assert_eq!(found, manifest(), "byte {at}");
            }
        }
    }

    #[test]
    fn the_later_of_two_copies_counts_and_two_bad_ones_are_refused() {
        let (old, new) = (manifest(), Manifest { generation: 4, durable: BatchSeq(901), ..manifest() });
        for newer in 0..COPIES {
            let mut file = old.file();
            new.encode(&mut file[newer * BLOCK_BYTES..][..BLOCK_BYTES]);
            assert_eq!(read(&file), Ok((new, newer)));
        }
        assert_eq!(read(&[0; MANIFEST_BYTES]), Err(ManifestFault::Unreadable));
        assert_eq!(read(&[]), Err(ManifestFault::Unreadable));
        assert_eq!(read(&manifest().file()[..BLOCK_BYTES]), Ok((manifest(), 0)), "cut short");
    }

    #[test]
    fn a_later_version_is_named() {
        let mut file = manifest().file();
        file[8] = 9;
        let crc = crc32fast::hash(&file[8..COPY_BYTES]).to_le_bytes();
        file[4..8].copy_from_slice(&crc);
        assert_eq!(read(&file), Err(ManifestFault::Version(9)));
    }

    /// The bytes as the first version wrote them: they are read for ever.
    #[test]
    fn the_first_versions_bytes_are_read() {
        let text = include_str!("manifest-1.hex");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let mut block: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        block.resize(BLOCK_BYTES, 0);
        assert_eq!(Manifest::decode(&block), ManifestCopy::Good(manifest()));
        let mut now = vec![0; BLOCK_BYTES];
        manifest().encode(&mut now);
        assert_eq!(now, block, "and are still what is written");
    }
}
