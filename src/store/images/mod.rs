//! Images of partitions, as jobs make and validate them: no part of it is done on a core.
//!
//! An image is read from one version of the disk level, whose rows and whose partition's row are of one point. What is
//! installed gets a keyspace number of its own, so neither rows of before nor what deletes them has anything to do with it.

mod make;
mod take;

use std::fmt;

use corduroy_shards::image::ask::InstallError;
use corduroy_shards::image::transfer::ImageId;
use corduroy_shards::image::{Bytes, Header, SECTION_MACHINE};
use corduroy_shards::{KeyspaceId, PartitionId};
use corduroy_wal::fields::Fields;
use corduroy_wal::{Lsn, Term};

use super::disk::{DiskError, DiskLevel, IngestError};
use super::hash::HashSeed;
use super::memory::absent::AbsentKeys;
use super::memory::meta::PartitionMeta;
use super::memory::row::{Encoding, Stamp};

pub(super) use make::Making;
pub(super) use take::Staged;

/// The version of what an image's section of the machine has.
const MACHINE: u8 = 1;
/// What is known of absent keys there.
const NO_ABSENT: u8 = 0;
const MARKS: u8 = 1;
const WATCHED: u8 = 2;

/// What a job does about images.
pub(super) enum ImageTask {
    /// Looks whether there is a point to make one of, in chunks of so many bytes of rows.
    Open { number: u64, partition: PartitionId, at_least: Lsn, seed: HashSeed, chunk_bytes: usize },
    /// Makes the next chunk; the first one, with what that states.
    Read { number: u64, making: Box<Making>, begin: Option<(Term, Vec<u8>)> },
    /// Lets what it reads go.
    Close { making: Option<Box<Making>>, staged: Option<Staged> },
    /// Stores a chunk, of an image that has none yet if there is nothing `staged`.
    Store { partition: PartitionId, image: ImageId, number: u32, chunk: Bytes, staged: Option<Staged> },
    /// Looks whether what is stored is what is to be installed.
    Validate { staged: Staged, install: Install },
    /// Validates what is stored, and replaces the partition by it.
    Install { staged: Staged, install: Install },
    /// Replaces partitions by nothing, each under a number that nothing of it from before has; in the order of their ids.
    Clear { partitions: Vec<(PartitionId, u64)>, seed: HashSeed },
}

/// What is to be installed, and as what.
pub(super) struct Install {
    pub(super) partition: PartitionId,
    pub(super) image: ImageId,
    pub(super) last: (Lsn, Term),
    /// The number that its default keyspace gets.
    pub(super) flush_version: u64,
    pub(super) seed: HashSeed,
    /// The longest item.
    pub(super) item_bytes_max: usize,
    /// Bytes of rows in a chunk.
    pub(super) chunk_bytes: usize,
}

/// What came of an [`ImageTask`].
pub(super) enum ImageDone {
    /// `None`: the point is not there yet.
    Opened {
        number: u64,
        found: Result<Option<Box<Making>>, DiskError>,
    },
    Read {
        number: u64,
        making: Box<Making>,
        chunk: Result<(Vec<u8>, bool), DiskError>,
    },
    Closed,
    Stored {
        partition: PartitionId,
        image: ImageId,
        number: u32,
        staged: Option<Staged>,
    },
    Validated {
        partition: PartitionId,
        /// What is stored, and what it is of.
        result: Result<(Staged, Header), InstallError>,
        image: ImageId,
    },
    Installed {
        partition: PartitionId,
        image: ImageId,
        result: Result<(Header, PartitionMeta), InstallError>,
    },
    Cleared {
        result: Result<Vec<(PartitionId, PartitionMeta)>, IngestError>,
    },
}

impl fmt::Debug for ImageTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open { .. } => "open an image",
            Self::Read { .. } => "read an image",
            Self::Close { .. } => "close an image",
            Self::Store { .. } => "store a chunk",
            Self::Validate { .. } => "validate an image",
            Self::Install { .. } => "install an image",
            Self::Clear { .. } => "delete partitions",
        })
    }
}

impl ImageTask {
    pub(super) fn run<L: DiskLevel>(self, disk: &L) -> ImageDone {
        match self {
            Self::Open { number, partition, at_least, seed, chunk_bytes } => {
                let found = Making::open(disk, partition, at_least, (seed, chunk_bytes));
                ImageDone::Opened { number, found: found.map(|making| making.map(Box::new)) }
            }
            Self::Read { number, mut making, begin } => {
                let chunk = match begin {
                    Some((term, configuration)) => Ok((making.begin(term, configuration), false)),
                    None => making.next(),
                };
                ImageDone::Read { number, making, chunk }
            }
            Self::Close { making, staged } => {
                drop((making, staged));
                ImageDone::Closed
            }
            Self::Store { partition, image, number, chunk, staged } => {
                let staged = staged.map_or_else(|| Staged::new(disk, image), Ok);
                let stored = staged.and_then(|mut staged| staged.append(&chunk).map(|()| staged));
                let staged = stored.inspect_err(|why| {
                    tracing::warn!("{why}; the image of partition {partition} is given up");
                });
                ImageDone::Stored { partition, image, number, staged: staged.ok() }
            }
            Self::Validate { mut staged, install } => {
                let (partition, image) = (install.partition, install.image);
                let result = staged.validate(&install).map(|header| (staged, header));
                ImageDone::Validated { partition, image, result }
            }
            Self::Install { staged, install } => {
                let (partition, image) = (install.partition, install.image);
                let result = staged.install(disk, &install);
                ImageDone::Installed { partition, image, result }
            }
            Self::Clear { partitions, seed } => {
                ImageDone::Cleared { result: take::clear(disk, &partitions, seed) }
            }
        }
    }
}

/// A row's stamp in an image: its version stands apart.
fn stamp_bytes(stamp: Stamp) -> [u8; 9] {
    let mut bytes = [stamp.encoding as u8; 9];
    let (_, expire_at) = bytes.split_at_mut(1);
    expire_at.copy_from_slice(&stamp.expire_at_ms.to_le_bytes());
    bytes
}

fn read_stamp(version: u64, bytes: &[u8]) -> Option<Stamp> {
    let mut fields = Fields::new(bytes);
    let encoding = Encoding::from_byte(fields.byte()?)?;
    let expire_at_ms = fields.u64()?;
    fields.is_empty().then_some(Stamp { version, expire_at_ms, encoding })
}

/// What an image has of a partition beside rows and what its header says.
fn machine_section(seed: HashSeed, meta: &PartitionMeta) -> Vec<u8> {
    let mut out = vec![MACHINE];
    out.extend_from_slice(seed.0.map(u64::to_le_bytes).as_flattened());
    out.push(u8::from(meta.is_written));
    out.push(match (&meta.absent, meta.absent.is_of_watched()) {
        (_, true) => WATCHED,
        (absent, false) if *absent == AbsentKeys::default() => NO_ABSENT,
        (_, false) => MARKS,
    });
    meta.absent.encode(&mut out);
    out
}

/// Whether rows were written, and what is known of absent keys.
fn read_machine_section(
    seed: HashSeed,
    number: u8,
    bytes: &[u8],
) -> Result<(bool, AbsentKeys), &'static str> {
    let mut fields = Fields::new(bytes);
    if number != SECTION_MACHINE || fields.byte() != Some(MACHINE) {
        return Err("it has a section that this release does not know");
    }
    let broken = || "its section of the state machine is none";
    let written = [fields.u64(), fields.u64()];
    if written != seed.0.map(Some) {
        return Err("its rows are in another cluster's order");
    }
    let is_written = fields.byte().filter(|is| *is <= 1).ok_or_else(broken)? == 1;
    let absent = match fields.byte().ok_or_else(broken)? {
        NO_ABSENT if fields.is_empty() => Some(AbsentKeys::default()),
        MARKS if !fields.is_empty() => AbsentKeys::decode_marks(fields.rest),
        WATCHED => AbsentKeys::decode_watched(fields.rest),
        _ => None,
    };
    Ok((is_written, absent.ok_or_else(broken)?))
}

/// Rows are of this keyspace alone so far.
const KEYSPACE: KeyspaceId = KeyspaceId::DEFAULT;

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: HashSeed = HashSeed([0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00]);

    /// Bytes that were written out by hand from docs/formats.md.
    #[test]
    fn the_section_of_the_machine_is_these_bytes() {
        let seed =
            [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99];
        let mut marked = AbsentKeys::default();
        marked.flush(3 << 20);
        let mut watched = AbsentKeys::default();
        let version = watched.watch(b"key", 5 << 20);
        watched.written(b"key", 6 << 20, false);
        assert_ne!(version, 0);
        let marks = [&[1, 1][..], &(3_u64 << 20).to_le_bytes(), &[0; 4]].concat();
        for (absent, is_written, bytes) in
            [(AbsentKeys::default(), false, vec![0, 0]), (marked, true, marks), (watched, false, vec![0, 2])]
        {
            let meta = PartitionMeta { is_written, absent, ..PartitionMeta::default() };
            let section = machine_section(SEED, &meta);
            assert_eq!(section, [&[1][..], &seed, &bytes].concat());
            let read = read_machine_section(SEED, SECTION_MACHINE, &section);
            assert_eq!(read, Ok((is_written, meta.absent)));
            for end in 0..section.len() {
                assert!(
                    read_machine_section(SEED, SECTION_MACHINE, &section[..end]).is_err(),
                    "cut at {end}"
                );
            }
            assert!(read_machine_section(SEED, 2, &section).is_err());
            assert!(read_machine_section(HashSeed([1, 2]), SECTION_MACHINE, &section).is_err());
        }
    }

    #[test]
    fn a_stamp_is_these_bytes() {
        let stamp = Stamp { version: 77, expire_at_ms: 0x0102, encoding: Encoding::Raw };
        let bytes = stamp_bytes(stamp);
        assert_eq!(bytes, [2, 2, 1, 0, 0, 0, 0, 0, 0]);
        let read = read_stamp(77, &bytes).expect("a stamp");
        assert_eq!((read.version, read.expire_at_ms), (77, 0x0102));
        assert_eq!(read.encoding, Encoding::Raw);
        assert!(read_stamp(77, &bytes[..8]).is_none());
        assert!(read_stamp(77, &[3, 2, 1, 0, 0, 0, 0, 0, 0]).is_none(), "no encoding");
    }
}
