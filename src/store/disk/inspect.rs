//! Looks through the state folder of a stopped node, for the offline tools: everything is read and compared, nothing is
//! changed, and the search goes on behind what is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsm_tree::{Cache, DescriptorTable};

use super::OWNER_BYTES;
use super::check::{self, ADVICE, CURRENT, NamedTable, Present};
use super::error::DiskError;
use super::gap;
use super::manifest::{self, Manifest, TableMark, table_file};

/// What is wrong with a file, or worth saying about it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file or folder.
    pub file: PathBuf,
    /// What, and what to do about it.
    pub what: String,
}

impl Finding {
    /// About a file.
    pub fn new(file: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self { file: file.into(), what: what.into() }
    }

    pub(super) fn of(error: DiskError, folder: &Path) -> Self {
        match error {
            DiskError::Damaged { file, what } => Self { file, what },
            DiskError::Io { what, path, text, .. } => Self::new(path, format!("{what} it failed: {text}")),
            DiskError::Newer { ref file, .. } => Self::new(file.clone(), error.to_string()),
            DiskError::Foreign { .. } | DiskError::Layout { .. } | DiskError::Panicked { .. } => {
                Self::new(folder, error.to_string())
            }
        }
    }
}

/// A table of the present version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableFacts {
    /// Its number, and file name.
    pub number: u64,
    /// The level in which it is.
    pub level: u8,
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows in it, those that say that a key was deleted included.
    pub rows: u64,
    /// Rows that say that a key was deleted.
    pub tombstones: u64,
    /// Its first key, in words.
    pub first: String,
    /// Its last key, in words.
    pub last: String,
    /// Whether it is as it was written.
    pub is_sound: bool,
}

/// What a state folder holds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// Whose it is, as its manifest says.
    pub owner: Option<[u8; OWNER_BYTES]>,
    /// How often its manifest was written.
    pub generation: Option<u64>,
    /// The version of the tree that its files name.
    pub version: Option<u64>,
    /// Changes of the tree that a crash cut off.
    pub unfinished: u32,
    /// The tables of that version.
    pub tables: Vec<TableFacts>,
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// What is not as it was written.
    pub faults: Vec<Finding>,
    /// What is, and may surprise.
    pub notes: Vec<Finding>,
}

impl Inspection {
    /// Adds a fault, unless one of that file is known.
    fn fault(&mut self, finding: Finding) {
        if self.faults.iter().all(|fault| fault.file != finding.file) {
            self.faults.push(finding);
        }
    }
}

/// Whether a folder looks like the state of a shard.
#[must_use]
pub fn is_state(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    let is_manifest =
        |name: &str| fs::read(folder.join(name)).is_ok_and(|bytes| bytes.starts_with(manifest::MAGIC));
    has(CURRENT) || has(check::TABLES) || manifest::COPIES.into_iter().any(is_manifest)
}

/// Reads all of a state folder.
///
/// # Errors
/// [`DiskError::Io`] if the folder cannot be listed; what is wrong with its files is part of the answer.
pub fn inspect(folder: &Path) -> Result<Inspection, DiskError> {
    let mut found = Inspection::default();
    let manifest = match Manifest::read_copies(folder) {
        Ok(Some(read)) => {
            let other = "the other copy is good, and the next start writes this one anew of it";
            let missing = manifest::COPIES.into_iter().find(|name| !folder.join(name).exists());
            match (read.bad, missing) {
                (Some(bad), _) => {
                    let mut bad = Finding::of(bad, folder);
                    bad.what = format!("{}; {other}", bad.what);
                    found.fault(bad);
                }
                (None, Some(name)) => {
                    found.notes.push(Finding::new(folder.join(name), format!("it is missing; {other}")));
                }
                (None, None) => {}
            }
            Some(read.manifest)
        }
        Ok(None) => None,
        Err(error) => {
            found.fault(Finding::of(error, folder));
            None
        }
    };
    if let Some(manifest) = &manifest {
        found.owner = Some(manifest.owner);
        found.generation = Some(manifest.generation);
        found.unfinished = u32::from(manifest.ingestions) + u32::from(manifest.compactions);
    } else if found.faults.is_empty() {
        let what = "it is missing: the folder is of a release that wrote none, which the next start adds, or the file was \
                    lost; its tables are compared with their own checksums only";
        found.notes.push(Finding::new(folder.join(manifest::FILE), what));
    }
    let present = present(folder, manifest.as_ref(), &mut found);
    let files = check::table_files(folder).unwrap_or_else(|error| {
        found.fault(Finding::of(error, folder));
        BTreeMap::new()
    });
    let marks: BTreeMap<u64, &TableMark> = manifest
        .iter()
        .flat_map(|manifest| &manifest.tree)
        .flat_map(|tree| &tree.tables)
        .map(keyed)
        .collect();
    let named = match &present {
        Some(present) => present.tables.clone(),
        None => marks.values().map(|mark| named(mark)).collect(),
    };
    let opener = Opener::new();
    for table in &named {
        inspect_table(folder, table, marks.get(&table.number).copied(), &opener, &mut found);
    }
    for (number, file) in files {
        if present.is_some() && named.iter().all(|table| table.number != number) {
            let what = "no version names it: what a change left that was cut off; the next start removes it";
            found.notes.push(Finding::new(file, what));
        }
    }
    note_others(folder, present.as_ref(), &mut found)?;
    found.faults.sort();
    Ok(found)
}

fn keyed(mark: &TableMark) -> (u64, &TableMark) {
    (mark.number, mark)
}

/// A table as its manifest names it.
pub(super) fn named(mark: &TableMark) -> NamedTable {
    NamedTable { number: mark.number, level: mark.level, checksum: mark.file.checksum, seqno: mark.seqno }
}

/// The present version, and what a start would have to say against it.
fn present(folder: &Path, manifest: Option<&Manifest>, found: &mut Inspection) -> Option<Present> {
    let present = check::present(folder).unwrap_or_else(|error| {
        found.fault(Finding::of(error, folder));
        None
    });
    let compared = match manifest {
        Some(manifest) => check::compare(folder, manifest),
        None => check::compare_unnamed(folder),
    };
    if let Err(error) = compared {
        found.fault(Finding::of(error, folder));
    }
    found.version = present.as_ref().map(|present| present.version);
    present
}

/// What opens tables beside a tree.
pub(super) struct Opener {
    pub(super) cache: Arc<Cache>,
    pub(super) descriptors: Arc<DescriptorTable>,
}

impl Opener {
    pub(super) fn new() -> Self {
        let cache = Arc::new(Cache::with_capacity_bytes(8 << 20));
        Self { cache, descriptors: Arc::new(DescriptorTable::new(64)) }
    }
}

fn inspect_table(
    folder: &Path,
    named: &NamedTable,
    mark: Option<&TableMark>,
    opener: &Opener,
    found: &mut Inspection,
) {
    let file = table_file(folder, named.number);
    let read = match check::hash_file(&file) {
        Ok(read) => read,
        Err(error) => return found.fault(Finding::of(error, folder)),
    };
    found.bytes += read.bytes;
    let table = match gap::open_table(folder, named, &opener.cache, &opener.descriptors) {
        Ok(table) => table,
        Err(error) => {
            let what = match error {
                DiskError::Damaged { what, .. } => what,
                other => other.to_string(),
            };
            let what = format!("{what}; the node does not start with it: {ADVICE}");
            return found.fault(Finding { file, what });
        }
    };
    let (min, max) = (table.metadata.key_range.min(), table.metadata.key_range.max());
    let wrong = if read.checksum != named.checksum {
        let harm = gap::find(&table).map_or_else(
            || {
                "all of its rows can be read, so that a filter or an index of it is what is damaged"
                    .to_owned()
            },
            |gap| format!("{}: they answer DAMAGED, all others are served", gap.in_words()),
        );
        Some(format!("its checksum is not that of what was written; {harm}; {ADVICE}"))
    } else if table.id() != named.number {
        Some(format!("it is table {}; {ADVICE}", table.id()))
    } else {
        let is_other = |mark: &&TableMark| !mark.max.is_empty() && (*min != mark.min || *max != mark.max);
        mark.filter(is_other).map(|_| format!("its keys are not those that the manifest names; {ADVICE}"))
    };
    found.tables.push(TableFacts {
        number: named.number,
        level: named.level,
        bytes: read.bytes,
        rows: table.metadata.item_count,
        tombstones: table.metadata.tombstone_count,
        first: super::format::key_in_words(min),
        last: super::format::key_in_words(max),
        is_sound: wrong.is_none(),
    });
    if let Some(what) = wrong {
        found.fault(Finding { file, what });
    }
}

/// Files that are not of the present version, nor any that is always there.
fn note_others(folder: &Path, present: Option<&Present>, found: &mut Inspection) -> Result<(), DiskError> {
    let failed = |error: &std::io::Error| DiskError::io("listing", folder, error);
    let version = present.map(|present| format!("v{}", present.version));
    for entry in fs::read_dir(folder).map_err(|error| failed(&error))? {
        let name = entry.map_err(|error| failed(&error))?.file_name();
        let name = name.to_string_lossy();
        let is_old =
            name.strip_prefix('v').is_some_and(|number| number.parse::<u64>().is_ok()) && present.is_some();
        let what = match &*name {
            name if Some(name) == version.as_deref() || KNOWN.contains(&name) => continue,
            _ if is_old => "a version of the tree that is not the present one; the next start removes it",
            name if name.starts_with(".tmp") || name.ends_with(".new") => {
                "what a change left that was cut off; the next start removes or replaces it"
            }
            _ if present.is_none() && name.starts_with('v') => continue,
            _ => "no file of a state; nothing reads it",
        };
        found.notes.push(Finding::new(folder.join(&*name), what));
    }
    found.notes.sort();
    Ok(())
}

/// What lies in a state folder beside versions. The last is the file system's, where the folder is mounted.
const KNOWN: [&str; 9] = [
    manifest::FILE,
    manifest::SECOND_FILE,
    CURRENT,
    check::TABLES,
    "reserve",
    "owner",
    "founded",
    "LOCK",
    "lost+found",
];
