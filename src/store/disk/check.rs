//! What a state folder holds, compared with what its manifest says: before the library that keeps the tables sees it,
//! since that believes its files, and removes tables that the present version does not name.
//!
//! Compared at a start: `current` and the version's file as a whole, of each table its size and its end (trailer, table of
//! contents, description: that names the table's number and its keys). Tables that a change added, of which a crash cut off
//! the note in the manifest, are compared as a whole with the checksum in the version's file. The rest of the tables is
//! read in the background (`verify`), and each block when it is used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use corduroy_wal::fields::Fields;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::error::DiskError;
use super::manifest::{END_BYTES, FileMark, Manifest, TableMark, TreeMark, table_file, version_file};

/// The file that names the present version.
pub(super) const CURRENT: &str = "current";
pub(super) const TABLES: &str = "tables";
pub(in super::super) const ADVICE: &str = "restore the shard's folder from a backup";

/// A table as a version's file names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedTable {
    /// Its number.
    pub number: u64,
    /// The level in which it is.
    pub level: u8,
    /// XXH3-128 of the file.
    pub checksum: u128,
    /// The sequence number that is added to those of its rows.
    pub seqno: u64,
}

/// The present version of a tree, as the library's files name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Present {
    /// Its number.
    pub version: u64,
    /// The file `current`.
    pub current: FileMark,
    /// The version's file.
    pub file: FileMark,
    /// Its tables, in the file's order.
    pub tables: Vec<NamedTable>,
}

fn damaged(file: &Path, what: &str) -> DiskError {
    DiskError::damaged(file, format!("{what}; {ADVICE}"))
}

fn read_file(file: &Path) -> Result<Vec<u8>, DiskError> {
    fs::read(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(file, "it is missing"),
        _ => DiskError::io("reading", file, &error),
    })
}

/// The present version of the tree in a folder, if its files agree with each other; `None` if no tree was made yet.
///
/// # Errors
/// [`DiskError`].
pub fn present(folder: &Path) -> Result<Option<Present>, DiskError> {
    let file = folder.join(CURRENT);
    if !file.exists() {
        return Ok(None);
    }
    let current = read_file(&file)?;
    let (version, checksum) =
        parse_current(&current).ok_or_else(|| damaged(&file, "it does not name a version"))?;
    let named = version_file(folder, version);
    let bytes = read_file(&named)?;
    let mark = FileMark::of(&bytes);
    if mark.checksum != checksum {
        return Err(damaged(&named, "its checksum is not the one that `current` names"));
    }
    let tables = parse_version(&bytes).ok_or_else(|| damaged(&named, "it does not list tables"))?;
    Ok(Some(Present { version, current: FileMark::of(&current), file: mark, tables }))
}

/// The number of the present version, and the checksum of its file.
fn parse_current(bytes: &[u8]) -> Option<(u64, u128)> {
    let mut fields = Fields::new(bytes);
    let named = (fields.u64()?, fields.u128()?);
    (fields.rest == [0]).then_some(named)
}

/// The tables that a version's file names: levels of runs of tables.
fn parse_version(bytes: &[u8]) -> Option<Vec<NamedTable>> {
    let reader = sfa::Reader::from_reader(&mut io::Cursor::new(bytes)).ok()?;
    let section = reader.toc().section(b"tables")?;
    let (from, len) = (usize::try_from(section.pos()).ok()?, usize::try_from(section.len()).ok()?);
    let mut fields = Fields::new(bytes.get(from..from.checked_add(len)?)?);
    let mut tables = Vec::new();
    for level in 0..fields.byte()? {
        for _ in 0..fields.byte()? {
            for _ in 0..fields.u32()? {
                let number = fields.u64()?;
                (fields.byte()? == 0).then_some(())?;
                let (checksum, seqno) = (fields.u128()?, fields.u64()?);
                tables.push(NamedTable { number, level, checksum, seqno });
            }
        }
    }
    fields.is_empty().then_some(tables)
}

/// Compares a folder with its manifest. `Ok(None)`: there is no tree, and none was made.
///
/// # Errors
/// [`DiskError`], naming the first file that is not as it should be.
pub(super) fn compare(folder: &Path, manifest: &Manifest) -> Result<Option<Present>, DiskError> {
    let found = present(folder).map_err(|error| blamed(folder, manifest, error))?;
    let files = table_files(folder)?;
    match (&manifest.tree, &found) {
        (None, None) if files.is_empty() => {}
        (None | Some(_), None) => return Err(damaged(&folder.join(CURRENT), "it is missing")),
        (None, Some(found)) if found.tables.is_empty() => {}
        (None, Some(found)) => {
            let what = "it names tables, but the manifest is that of a folder without a tree";
            return Err(damaged(&version_file(folder, found.version), what));
        }
        (Some(tree), Some(found)) => compare_tree(folder, manifest, tree, found)?,
    }
    Ok(found)
}

/// The error of a version that does not fit `current`: where the manifest says that `current` is the one that changed, of that.
fn blamed(folder: &Path, manifest: &Manifest, error: DiskError) -> DiskError {
    let file = folder.join(CURRENT);
    let begun = manifest.ingestions + manifest.compactions;
    match (&manifest.tree, fs::read(&file)) {
        (Some(tree), Ok(current)) if begun == 0 && FileMark::of(&current) != tree.current => {
            damaged(&file, "it is not the one that the manifest names")
        }
        _ => error,
    }
}

/// Compares the tree of a folder that has no manifest yet with itself, as far as that goes.
pub(super) fn compare_unnamed(folder: &Path) -> Result<Option<Present>, DiskError> {
    let found = present(folder)?;
    let files = table_files(folder)?;
    match &found {
        None if !files.is_empty() => Err(damaged(&folder.join(CURRENT), "it is missing")),
        None => Ok(None),
        Some(tree) => {
            let is_missing = |table: &&NamedTable| !files.contains_key(&table.number);
            match tree.tables.iter().find(is_missing) {
                Some(table) => Err(damaged(&table_file(folder, table.number), "it is missing")),
                None => Ok(found),
            }
        }
    }
}

/// What a manifest has to say of a tree that was found without one; the tables' keys are added when it is opened.
pub(super) fn marks(folder: &Path, found: &Present) -> Result<TreeMark, DiskError> {
    let mark = |table: &NamedTable| {
        let (bytes, end) = read_end(&table_file(folder, table.number))?;
        Ok(TableMark {
            number: table.number,
            level: table.level,
            file: FileMark { bytes, checksum: table.checksum },
            end_checksum: xxh3_128(&end),
            seqno: table.seqno,
            min: Vec::new(),
            max: Vec::new(),
        })
    };
    let mut tables = found.tables.iter().map(mark).collect::<Result<Vec<_>, DiskError>>()?;
    tables.sort_unstable_by_key(|table| table.number);
    Ok(TreeMark { version: found.version, current: found.current, file: found.file, tables })
}

fn compare_tree(
    folder: &Path,
    manifest: &Manifest,
    tree: &TreeMark,
    found: &Present,
) -> Result<(), DiskError> {
    let begun = u64::from(manifest.ingestions) + u64::from(manifest.compactions);
    let named = version_file(folder, found.version);
    if found.version == tree.version {
        if found.current != tree.current {
            return Err(damaged(&folder.join(CURRENT), "it is not the one that the manifest names"));
        }
        if found.file != tree.file {
            return Err(damaged(&named, "it is not the one that the manifest names"));
        }
    } else if !(1..=begun).contains(&found.version.wrapping_sub(tree.version)) {
        let what = format!(
            "it names version {}, and the manifest version {}, after which {begun} changes had begun",
            found.version, tree.version
        );
        return Err(damaged(&folder.join(CURRENT), &what));
    }
    let known: BTreeMap<u64, &TableMark> = tree.tables.iter().map(|table| (table.number, table)).collect();
    for table in &found.tables {
        match known.get(&table.number) {
            Some(mark) if mark.file.checksum == table.checksum && mark.seqno == table.seqno => {
                compare_table(folder, mark)?;
            }
            Some(_) => {
                let what = format!("it names another table {} than the manifest", table.number);
                return Err(damaged(&named, &what));
            }
            None if found.version > tree.version && table.number >= manifest.first_new => {
                let file = table_file(folder, table.number);
                if hash_file(&file)?.checksum != table.checksum {
                    return Err(damaged(&file, "its checksum is not the one that its version names"));
                }
            }
            None => {
                let what = format!("it names table {}, which the manifest does not", table.number);
                return Err(damaged(&named, &what));
            }
        }
    }
    // An ingestion only adds; as long as nothing else had begun, no table may be absent.
    let is_complete = found.version == tree.version || manifest.compactions == 0;
    let missing = tree.tables.iter().find(|table| found.tables.iter().all(|now| now.number != table.number));
    match missing.filter(|_| is_complete) {
        Some(table) => Err(damaged(&named, &format!("it does not name table {}", table.number))),
        None => Ok(()),
    }
}

/// Compares a table's size and end with the manifest.
pub(super) fn compare_table(folder: &Path, mark: &TableMark) -> Result<(), DiskError> {
    let file = table_file(folder, mark.number);
    let (bytes, end) = read_end(&file)?;
    if bytes != mark.file.bytes {
        let what = format!("it has {bytes} bytes, and the manifest names {}", mark.file.bytes);
        return Err(damaged(&file, &what));
    }
    if xxh3_128(&end) != mark.end_checksum {
        return Err(damaged(&file, "its end is not the one that the manifest names"));
    }
    Ok(())
}

/// The size of a table, and its last bytes.
pub(super) fn read_end(path: &Path) -> Result<(u64, Vec<u8>), DiskError> {
    let read = || {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(END_BYTES)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok((bytes, end))
    };
    read().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => DiskError::io("reading", path, &error),
    })
}

/// Reads a whole file.
pub(super) fn hash_file(path: &Path) -> Result<FileMark, DiskError> {
    let read = || {
        let mut file = File::open(path)?;
        let (mut hasher, mut buffer, mut bytes) = (Xxh3Default::new(), vec![0; 1 << 20], 0);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(FileMark { bytes, checksum: hasher.digest128() });
            }
            bytes += read as u64;
            hasher.update(buffer.get(..read).unwrap_or_default());
        }
    };
    read().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => DiskError::io("reading", path, &error),
    })
}

/// The files in the folder of tables, by number. What is no table's file must not be there: the library stops at it.
pub(super) fn table_files(folder: &Path) -> Result<BTreeMap<u64, PathBuf>, DiskError> {
    let tables = folder.join(TABLES);
    let entries = match fs::read_dir(&tables) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(DiskError::io("reading", &tables, &error)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| DiskError::io("reading", &tables, &error))?;
        let (name, path) = (entry.file_name(), entry.path());
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        match number.filter(|number| path.is_file() && number.to_string().as_str() == name) {
            Some(number) => _ = files.insert(number, path),
            None => {
                let what = "it is no table of this shard; move it away";
                return Err(DiskError::damaged(&path, what));
            }
        }
    }
    Ok(files)
}
