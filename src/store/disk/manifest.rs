//! The manifest of a state folder: whose the folder is, and what the tree in it consists of.
//!
//! The tree's library stores checksums in its files and compares few of them; the manifest names every file with its size
//! and checksum, so that one that is missing, changed, exchanged or of another folder is seen when the folder is opened.
//! It is replaced by a rename, before a change of the tree begins (which it counts as begun) and after it ended. There are two
//! copies, each written before anything goes on: one that is bad is made anew of the other.
//!
//! ```text
//!  0  8  "CRDSTATE"
//!  8  2  format: 1
//! 10  1  ingestions that have begun and not ended
//! 11  1  compactions that have begun and not ended
//! 12  8  generation: one more at each write
//! 20 64  owner
//! 84  8  version of the tree; all ones: there is no tree yet
//! 92 24  the file `current`: size, checksum
//!116 24  the file `vN` of the version: size, checksum
//!140  8  what has begun makes tables from this number on
//!148  4  tables, each: number 8, level 1, size 8, checksum 16, checksum of its end 16, sequence number 8,
//!        first key and last key, each with its length 4
//!   16  checksum of all of it
//! ```
//! Numbers are little endian, checksums XXH3-128.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use corduroy_wal::fields::Fields;
use xxhash_rust::xxh3::xxh3_128;

use super::error::{DiskError, OWNER_BYTES};

pub(super) const MAGIC: &[u8; 8] = b"CRDSTATE";
const FORMAT: u16 = 1;
/// The manifest's name in the folder. The library removes unknown files whose names begin with `v`, and no others.
pub(super) const FILE: &str = "manifest";
/// The second copy's.
pub(super) const SECOND_FILE: &str = "manifest.copy";
pub(super) const COPIES: [&str; 2] = [FILE, SECOND_FILE];
/// Bytes at the end of a table whose checksum the manifest has: its trailer, table of contents and description lie there.
pub(super) const END_BYTES: u64 = 4096;
const NO_TREE: u64 = u64::MAX;

/// The size and checksum of a file.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FileMark {
    /// Bytes.
    pub bytes: u64,
    /// XXH3-128 of all of them.
    pub checksum: u128,
}

impl FileMark {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, checksum: xxh3_128(bytes) }
    }
}

/// A table, as it was when it became part of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableMark {
    /// Its number, and file name.
    pub number: u64,
    /// The level in which it is.
    pub level: u8,
    /// The whole file.
    pub file: FileMark,
    /// XXH3-128 of its last 4096 bytes.
    pub end_checksum: u128,
    /// The sequence number that is added to those of its rows.
    pub seqno: u64,
    /// Its first key.
    pub min: Vec<u8>,
    /// Its last key.
    pub max: Vec<u8>,
}

/// A version of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeMark {
    /// Its number.
    pub version: u64,
    /// The file `current`.
    pub current: FileMark,
    /// The version's file.
    pub file: FileMark,
    /// Its tables, by number.
    pub tables: Vec<TableMark>,
}

/// What the copies in a folder say.
#[derive(Debug)]
pub(super) struct Read {
    /// The one that counts.
    pub(super) manifest: Manifest,
    /// Both say the same.
    pub(super) is_even: bool,
    /// What is wrong with the other, if it cannot be read.
    pub(super) bad: Option<DiskError>,
}

/// See the file's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// One more at each write.
    pub generation: u64,
    /// Whose the folder is.
    pub owner: [u8; OWNER_BYTES],
    /// Ingestions that had begun and not ended.
    pub ingestions: u8,
    /// Compactions that had begun and not ended.
    pub compactions: u8,
    /// What had begun makes tables from this number on.
    pub first_new: u64,
    /// The tree; `None`: there is none yet.
    pub tree: Option<TreeMark>,
}

impl Manifest {
    /// Of a folder in which no tree was made yet.
    pub(super) fn new(owner: [u8; OWNER_BYTES]) -> Self {
        Self { generation: 1, owner, ingestions: 0, compactions: 0, first_new: 0, tree: None }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[self.ingestions, self.compactions]);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.owner);
        let none = TreeMark {
            version: NO_TREE,
            current: FileMark::default(),
            file: FileMark::default(),
            tables: Vec::new(),
        };
        let tree = self.tree.as_ref().unwrap_or(&none);
        out.extend_from_slice(&tree.version.to_le_bytes());
        put_mark(&mut out, tree.current);
        put_mark(&mut out, tree.file);
        out.extend_from_slice(&self.first_new.to_le_bytes());
        out.extend_from_slice(&count(tree.tables.len()));
        for table in &tree.tables {
            out.extend_from_slice(&table.number.to_le_bytes());
            out.push(table.level);
            put_mark(&mut out, table.file);
            out.extend_from_slice(&table.end_checksum.to_le_bytes());
            out.extend_from_slice(&table.seqno.to_le_bytes());
            for key in [&table.min, &table.max] {
                out.extend_from_slice(&count(key.len()));
                out.extend_from_slice(key);
            }
        }
        let checksum = xxh3_128(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads its bytes; `file` is named in errors.
    ///
    /// # Errors
    /// [`DiskError::Damaged`], [`DiskError::Newer`].
    pub fn decode(bytes: &[u8], file: &Path) -> Result<Self, DiskError> {
        let broken = |what: &str| DiskError::damaged(file, what);
        let (body, checksum) =
            bytes.split_last_chunk::<16>().ok_or_else(|| broken("it is shorter than a manifest"))?;
        if !body.starts_with(MAGIC) {
            return Err(broken("it does not begin as a manifest does"));
        }
        if u128::from_le_bytes(*checksum) != xxh3_128(body) {
            return Err(broken("its checksum is not that of its content"));
        }
        let mut fields = Fields::new(body.get(MAGIC.len()..).unwrap_or_default());
        let format = fields.array().map(u16::from_le_bytes).unwrap_or_default();
        if format != FORMAT {
            return Err(DiskError::Newer { file: file.to_owned(), version: u32::from(format) });
        }
        read_manifest(fields).ok_or_else(|| broken("its fields do not fit its length"))
    }

    /// Reads the manifest of a folder; `None` if there is none.
    ///
    /// # Errors
    /// [`DiskError`], if there is no good copy.
    pub fn read(folder: &Path) -> Result<Option<Self>, DiskError> {
        Ok(Self::read_copies(folder)?.map(|read| read.manifest))
    }

    /// Reads both copies: the later one counts, and one that is not as it was written does not.
    ///
    /// # Errors
    /// [`DiskError`], if there is no good copy, or one of a later release.
    pub(super) fn read_copies(folder: &Path) -> Result<Option<Read>, DiskError> {
        let [first, second] = COPIES.map(|name| Self::read_copy(&folder.join(name)));
        let (first, second) = match (first, second) {
            (Err(error @ DiskError::Newer { .. }), _) | (_, Err(error @ DiskError::Newer { .. })) => {
                return Err(error);
            }
            (Ok(None), Ok(None)) => return Ok(None),
            (Err(error), Err(_) | Ok(None)) | (Ok(None), Err(error)) => return Err(error),
            (first, second) => (first, second),
        };
        let bad = first.as_ref().err().or(second.as_ref().err()).cloned();
        let is_even = first == second;
        let copies = [first, second].into_iter().filter_map(Result::ok).flatten();
        let manifest = copies.max_by_key(|copy| copy.generation);
        Ok(manifest.map(|manifest| Read { manifest, is_even, bad }))
    }

    fn read_copy(file: &Path) -> Result<Option<Self>, DiskError> {
        match fs::read(file) {
            Ok(bytes) => Self::decode(&bytes, file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DiskError::io("reading", file, &error)),
        }
    }

    /// Replaces both copies of the manifest of a folder; durable on return.
    pub(super) fn write(&self, folder: &Path) -> Result<(), DiskError> {
        let bytes = self.encode();
        for name in COPIES {
            let (file, new) = (folder.join(name), folder.join(format!("{name}.new")));
            write_new(&new, &bytes).map_err(|error| DiskError::io("writing", &new, &error))?;
            fs::rename(&new, &file).map_err(|error| DiskError::io("replacing", &file, &error))?;
        }
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| DiskError::io("syncing", folder, &error))
    }
}

/// The path of a table in a state folder.
pub(super) fn table_file(folder: &Path, number: u64) -> PathBuf {
    folder.join("tables").join(number.to_string())
}

/// The path of a version's file in a state folder.
pub(super) fn version_file(folder: &Path, version: u64) -> PathBuf {
    folder.join(format!("v{version}"))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn count(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("a tree has far fewer tables, and keys end at 64 KiB").to_le_bytes()
}

fn put_mark(out: &mut Vec<u8>, mark: FileMark) {
    out.extend_from_slice(&mark.bytes.to_le_bytes());
    out.extend_from_slice(&mark.checksum.to_le_bytes());
}

fn read_mark(fields: &mut Fields<'_>) -> Option<FileMark> {
    Some(FileMark { bytes: fields.u64()?, checksum: fields.u128()? })
}

fn read_key(fields: &mut Fields<'_>) -> Option<Vec<u8>> {
    let len = fields.u32()? as usize;
    fields.take(len).map(<[u8]>::to_vec)
}

fn read_table(fields: &mut Fields<'_>) -> Option<TableMark> {
    let number = fields.u64()?;
    let level = fields.byte()?;
    let file = read_mark(fields)?;
    let end_checksum = fields.u128()?;
    let seqno = fields.u64()?;
    let (min, max) = (read_key(fields)?, read_key(fields)?);
    Some(TableMark { number, level, file, end_checksum, seqno, min, max })
}

/// All of a manifest behind its format.
fn read_manifest(mut fields: Fields<'_>) -> Option<Manifest> {
    let [ingestions, compactions] = fields.array()?;
    let (generation, owner) = (fields.u64()?, fields.array()?);
    let version = fields.u64()?;
    let (current, file) = (read_mark(&mut fields)?, read_mark(&mut fields)?);
    let first_new = fields.u64()?;
    let tables = fields.u32()?;
    let tables = (0..tables).map(|_| read_table(&mut fields)).collect::<Option<Vec<_>>>()?;
    let tree = (version != NO_TREE).then_some(TreeMark { version, current, file, tables });
    let manifest = Manifest { generation, owner, ingestions, compactions, first_new, tree };
    fields.is_empty().then_some(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut owner = [0; OWNER_BYTES];
        owner[..3].copy_from_slice(b"us!");
        let table = TableMark {
            number: 7,
            level: 6,
            file: FileMark { bytes: 65_536, checksum: 0x0123_4567_89ab_cdef_0011_2233_4455_6677 },
            end_checksum: 5,
            seqno: 3,
            min: vec![0],
            max: vec![2, 0xff],
        };
        Manifest {
            generation: 9,
            owner,
            ingestions: 1,
            compactions: 0,
            first_new: 8,
            tree: Some(TreeMark {
                version: 4,
                current: FileMark { bytes: 25, checksum: 1 },
                file: FileMark { bytes: 300, checksum: 2 },
                tables: vec![table],
            }),
        }
    }

    /// The bytes of format 1: never changed.
    const FIXTURE: &str = include_str!("manifest-1.hex");

    fn from_hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn format_1_is_these_bytes() {
        let bytes = manifest().encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, from_hex(FIXTURE), "{hex}");
        assert_eq!(Manifest::decode(&from_hex(FIXTURE), Path::new("m")), Ok(manifest()));
        let empty = Manifest::new([7; OWNER_BYTES]);
        assert_eq!(Manifest::decode(&empty.encode(), Path::new("m")), Ok(empty));
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_is_believed() {
        let bytes = manifest().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Manifest::decode(&flipped, Path::new("m"));
            assert!(matches!(read, Err(DiskError::Damaged { .. })), "bit {bit}: {read:?}");
        }
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len], Path::new("m")).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let mut bytes = manifest().encode();
        bytes[8] = 2;
        let body = bytes.len() - 16;
        let checksum = xxh3_128(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum.to_le_bytes());
        let read = Manifest::decode(&bytes, Path::new("m"));
        assert_eq!(read, Err(DiskError::Newer { file: "m".into(), version: 2 }));
    }
}
