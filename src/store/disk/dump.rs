//! Reads the rows of a stopped node's state in order, past what is damaged: its tables are merged here, since the library
//! opens a tree only where all of it can be read.
//!
//! Invariant: a row that may have been changed or deleted by one that cannot be read is marked as doubtful.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::{Bound, RangeBounds};
use std::path::Path;

use corduroy_shards::raft::guard::guarded;
use corduroy_shards::{KeyspaceId, PartitionId};
use lsm_tree::{InternalValue, Table, UserKey};

use super::check;
use super::error::DiskError;
use super::format::{STORE_KEY, read_partition_key, read_row, read_store_value};
use super::gap::{self, Gap};
use super::inspect::{Finding, Opener, named};
use super::manifest::{Manifest, TableMark, table_file};
use crate::store::memory::meta::PartitionMeta;
use crate::store::memory::row::NO_EXPIRY;

/// What a row is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// The store's own: the hash's seed.
    Store,
    /// A partition's own.
    Partition {
        /// The last entry whose effects are all here.
        applied: u64,
        /// Operations of the next entry that are here too.
        ops_done: u32,
        /// The highest stamp applied, in ms since 1970.
        clock_ms: u64,
        /// Keys, expired ones that were not removed yet included.
        keys: u64,
        /// Those that expire.
        expiring: u64,
    },
    /// A key.
    Key {
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// As `OBJECT ENCODING` names it.
        encoding: &'static str,
        /// The entry that changed it last.
        lsn: u64,
        /// When it expires, in ms since 1970.
        expire_at_ms: Option<u64>,
        /// It was there before a flush of all keys, and is not there for clients.
        is_flushed: bool,
    },
    /// In a layout that this release does not know.
    Unknown,
}

/// A row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpedRow<'a> {
    /// Its partition; `None`: it is of none.
    pub partition: Option<u64>,
    /// What it is.
    pub content: Content<'a>,
    /// It may have been changed or deleted since, by a row that cannot be read.
    pub is_doubtful: bool,
}

/// Keys between which rows cannot be read.
type Doubt = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A table on its way.
struct Cursor {
    table: Table,
    number: u64,
    rows: Box<dyn Iterator<Item = lsm_tree::Result<InternalValue>> + Send>,
    last: Option<UserKey>,
    is_resumed: bool,
}

#[derive(Default)]
struct Harm {
    faults: Vec<Finding>,
    doubts: Vec<Doubt>,
}

impl Harm {
    fn is_doubtful(&self, key: &Vec<u8>) -> bool {
        self.doubts.iter().any(|doubt| doubt.contains(key))
    }
}

impl Cursor {
    fn new(table: Table, number: u64) -> Self {
        let rows = Box::new(table.iter());
        Self { table, number, rows, last: None, is_resumed: false }
    }

    /// The next row that can be read.
    fn next(&mut self, folder: &Path, harm: &mut Harm) -> Option<InternalValue> {
        loop {
            match gap::step(&mut *self.rows) {
                Ok(Some(row)) => {
                    self.last = Some(row.key.user_key.clone());
                    return Some(row);
                }
                Ok(None) => return None,
                Err(()) => {}
            }
            let before = gap::readable_from(&self.table).filter(|key| self.last.as_ref() < Some(key));
            let gap = Gap { after: self.last.clone(), before: before.clone().filter(|_| !self.is_resumed) };
            harm.faults.push(Finding::new(table_file(folder, self.number), gap.in_words()));
            let bound =
                |key: Option<UserKey>| key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
            harm.doubts.push((bound(gap.after), bound(gap.before)));
            let from = before.filter(|_| !self.is_resumed)?;
            self.is_resumed = true;
            let bounds: (Bound<UserKey>, Bound<UserKey>) = (Bound::Included(from), Bound::Unbounded);
            self.rows = Box::new(guarded(|| self.table.range(bounds)).ok()?);
        }
    }
}

/// Visits the rows of a state folder in the order of partitions, then of their keys' hashes, until `visit` returns false.
/// Returns what could not be read.
///
/// # Errors
/// [`DiskError`], if nothing can be read, since it is not known of which tables the state consists.
pub fn dump(folder: &Path, visit: &mut dyn FnMut(&DumpedRow<'_>) -> bool) -> Result<Vec<Finding>, DiskError> {
    let (mut cursors, mut harm) = open(folder)?;
    let mut heap = BinaryHeap::new();
    let mut waiting: Vec<Option<InternalValue>> = Vec::with_capacity(cursors.len());
    for (at, cursor) in cursors.iter_mut().enumerate() {
        let row = cursor.next(folder, &mut harm);
        heap.extend(row.as_ref().map(|row| order(row, at)));
        waiting.push(row);
    }
    let mut keyspaces = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(Reverse((key, _, at))) = heap.pop() {
        let row = waiting.get_mut(at).and_then(Option::take).expect("what is in the heap waits");
        if let Some(cursor) = cursors.get_mut(at) {
            let next = cursor.next(folder, &mut harm);
            heap.extend(next.as_ref().map(|row| order(row, at)));
            waiting.get_mut(at).expect("one a table").clone_from(&next);
        }
        // The newest row of a key comes first.
        if last.as_ref() == Some(&key) {
            continue;
        }
        let is_doubtful = harm.is_doubtful(&key);
        if !row.key.is_tombstone() && !visit(&dumped(&key, &row.value, is_doubtful, &mut keyspaces)) {
            break;
        }
        last = Some(key);
    }
    Ok(harm.faults)
}

fn order(row: &InternalValue, at: usize) -> Reverse<(Vec<u8>, Reverse<u64>, usize)> {
    Reverse((row.key.user_key.to_vec(), Reverse(row.key.seqno), at))
}

/// The tables of the present version, or, if that cannot be read, those that the manifest names.
fn open(folder: &Path) -> Result<(Vec<Cursor>, Harm), DiskError> {
    let mut harm = Harm::default();
    let manifest = Manifest::read(folder);
    let marks: Vec<TableMark> = match &manifest {
        Ok(manifest) => manifest.iter().flat_map(|m| &m.tree).flat_map(|tree| tree.tables.clone()).collect(),
        Err(error) => {
            harm.faults.push(Finding::of(error.clone(), folder));
            Vec::new()
        }
    };
    let tables = match check::present(folder) {
        Ok(present) => present.map(|present| present.tables).unwrap_or_default(),
        Err(error) if marks.is_empty() => return Err(error),
        Err(error) => {
            harm.faults.push(Finding::of(error, folder));
            marks.iter().map(named).collect()
        }
    };
    let opener = Opener::new();
    let mut cursors = Vec::with_capacity(tables.len());
    for table in tables {
        match gap::open_table(folder, &table, &opener.cache, &opener.descriptors) {
            Ok(open) => cursors.push(Cursor::new(open, table.number)),
            Err(error) => {
                harm.faults.push(Finding::of(error, folder));
                let mark = marks.iter().find(|mark| mark.number == table.number && !mark.max.is_empty());
                harm.doubts.push(mark.map_or((Bound::Unbounded, Bound::Unbounded), |mark| {
                    (Bound::Included(mark.min.clone()), Bound::Included(mark.max.clone()))
                }));
            }
        }
    }
    Ok((cursors, harm))
}

fn dumped<'a>(
    key: &'a [u8],
    value: &'a [u8],
    is_doubtful: bool,
    keyspaces: &mut BTreeMap<PartitionId, u64>,
) -> DumpedRow<'a> {
    let unknown = DumpedRow { partition: None, content: Content::Unknown, is_doubtful };
    if key == STORE_KEY {
        return match read_store_value(value) {
            Some(_) => DumpedRow { content: Content::Store, ..unknown },
            None => unknown,
        };
    }
    if let Some(partition) = read_partition_key(key) {
        let unknown = DumpedRow { partition: Some(partition.0), ..unknown };
        let Some(meta) = PartitionMeta::decode(value) else { return unknown };
        keyspaces.insert(partition, meta.flush_version);
        let PartitionMeta { applied, ops_done, clock_ms, keys, expiring, .. } = meta;
        let content = Content::Partition { applied: applied.0, ops_done, clock_ms, keys, expiring };
        return DumpedRow { content, ..unknown };
    }
    let Some(row) = read_row(key, value) else { return unknown };
    let content = Content::Key {
        key: row.key,
        value: row.value,
        encoding: crate::store::memory::row::encoding_of(row.stamp.encoding, row.value),
        lsn: crate::store::memory::partition::lsn_of(row.stamp.version),
        expire_at_ms: Some(row.stamp.expire_at_ms).filter(|at| *at != NO_EXPIRY),
        is_flushed: row.location.keyspace == KeyspaceId::DEFAULT
            && keyspaces
                .get(&row.location.partition)
                .is_some_and(|flush| row.location.flush_version < *flush),
    };
    DumpedRow { partition: Some(row.location.partition.0), content, is_doubtful }
}
