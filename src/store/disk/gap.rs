//! Which rows of a damaged table cannot be read: found out by reading it from both ends, past a library that stops, or
//! panics, at the first block that is not as it was written.

use std::path::Path;
use std::sync::Arc;

use corduroy_shards::raft::guard::guarded;
use lsm_tree::{Cache, Checksum, DescriptorTable, InternalValue, Table, UserKey};

use super::check::NamedTable;
use super::error::DiskError;
use super::format;
use super::guard;
use super::manifest::table_file;

/// Tables that are looked into beside the tree are of no tree.
const NO_TREE: u64 = u64::MAX;

/// The keys around what cannot be read, both of rows that can be; `None`: there is none on that side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    pub(super) after: Option<UserKey>,
    pub(super) before: Option<UserKey>,
}

impl Gap {
    /// Which rows, for people.
    pub(super) fn in_words(&self) -> String {
        let name = |key: &UserKey| format::key_in_words(key);
        match (self.after.as_ref().map(name), self.before.as_ref().map(name)) {
            (Some(after), Some(before)) => format!("rows between {after} and {before} cannot be read"),
            (Some(after), None) => format!("rows behind {after} cannot be read"),
            (None, Some(before)) => format!("rows before {before} cannot be read"),
            (None, None) => "none of its rows can be read".to_owned(),
        }
    }
}

/// Opens a table beside the tree, for reading only.
pub(super) fn open_table(
    folder: &Path,
    named: &NamedTable,
    cache: &Arc<Cache>,
    descriptors: &Arc<DescriptorTable>,
) -> Result<Table, DiskError> {
    let file = table_file(folder, named.number);
    guard::reading("opening the table", &file, || {
        Table::recover(
            file.clone(),
            Checksum::from_raw(named.checksum),
            named.seqno,
            NO_TREE,
            Arc::clone(cache),
            Some(Arc::clone(descriptors)),
            false,
            false,
        )
    })
}

/// The next row; `Err` where there is one that cannot be read.
pub(super) fn step(
    rows: &mut (dyn Iterator<Item = lsm_tree::Result<InternalValue>> + Send),
) -> Result<Option<InternalValue>, ()> {
    guarded(|| rows.next()).map_err(drop)?.transpose().map_err(drop)
}

/// The first key, in order, from which on all rows of the table can be read.
pub(super) fn readable_from(table: &Table) -> Option<UserKey> {
    let mut first = None;
    let mut rows = guarded(|| table.iter()).ok()?.rev();
    while let Ok(Some(row)) = step(&mut rows) {
        first = Some(row.key.user_key);
    }
    first
}

/// Reads a whole table; `None`: every row can be read.
pub(super) fn find(table: &Table) -> Option<Gap> {
    let mut after = None;
    let Ok(mut rows) = guarded(|| table.iter()) else { return Some(Gap { after: None, before: None }) };
    loop {
        match step(&mut rows) {
            Ok(Some(row)) => after = Some(row.key.user_key),
            Ok(None) => return None,
            Err(()) => break,
        }
    }
    Some(Gap { after, before: readable_from(table) })
}
