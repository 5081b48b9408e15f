//! The work that may block, as jobs: each knows all it needs, runs off the core, and brings its result back.

use std::collections::BTreeMap;

use corduroy_shards::PartitionId;

use super::disk::format::{STORE_KEY, partition_key, row_key, row_value, store_value};
use super::disk::{DiskError, DiskLevel, DiskRow, IngestError, Pace, Room, Sought};
use super::hash::HashSeed;
use super::lookups::stored::{Keyspace, read_value, stamps_of, walk};
use super::lookups::{DiskPage, Want};
use super::op::{Outcome, SharedBytes};
use crate::store::flush::space::room;
use crate::store::flush::warm::warm;
use crate::store::images::{ImageDone, ImageTask};
use crate::store::lookups::loads::WantedKey;
use crate::store::lookups::pages::{matches, range};
use crate::store::memory::ledger::{Captured, CapturedRows};
use crate::store::memory::listings::MatchLimit;
use crate::store::memory::meta::PartitionMeta;
use crate::store::memory::row::{NO_EXPIRY, Stamp};
use crate::store::text::lcs::{Lcs, longest_common};

/// Bytes of rows after which a job that reads keys reads no more of them: the rest is for others.
const LOAD_BYTES: usize = 4 << 20;
/// Expired rows that one job looks for.
const EXPIRED_ROWS: usize = 4096;

/// Comparisons of rows that a flush counts as the work on one.
const COMPARED_A_STEP: u32 = 64;

/// What a row takes in a table beside its key and value, roughly.
const ROW_META_BYTES: u64 = 48;
/// What a partition's row takes in a table, roughly, with no key that is watched.
pub(super) const META_BYTES: u64 = 72;

/// A job, with the disk level that it works on.
pub struct Job<L> {
    pub(super) disk: L,
    pub(super) task: Task,
}

/// The result of a [`Job`].
pub struct JobDone(pub(super) Done);

impl<L> std::fmt::Debug for Job<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.task.name())
    }
}

impl std::fmt::Debug for JobDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self.0, Done::Failed { .. }) { "failed" } else { "done" })
    }
}

/// What a job does.
pub(super) enum Task {
    /// Reads keys, until they bring so much that others are to have their turn.
    Load { keys: Vec<WantedKey>, asked: u32 },
    /// Lists keys from a hash on that have not expired.
    Range { keyspace: Keyspace, from: u64, clock_ms: u64, asked: u32 },
    /// Lists the keys that match.
    Matches { keyspace: Keyspace, pattern: Vec<u8>, limit: MatchLimit, asked: u32 },
    /// Reads all rows from a hash on, a stretch of them.
    Warm { keyspace: Keyspace, from: u64, asked: u32 },
    /// Looks for expired rows from a hash on.
    Expired { keyspace: Keyspace, from: u64, clock_ms: u64, asked: u32 },
    /// Finds out whether keys existed. `epoch`: as of this freeze.
    Resolve { keyspace: Keyspace, keys: Vec<(u64, Vec<u8>)>, epoch: u32 },
    /// Writes what a freeze captured.
    Flush { seed: HashSeed, deletes: bool, rows: CapturedRows, metas: Vec<(PartitionId, PartitionMeta)> },
    /// Merges tables.
    Compact { dead: Vec<(Vec<u8>, Vec<u8>)> },
    /// Looks how much room the disk has.
    Look,
    /// Compares a piece of what lies below with what was written.
    Verify,
    /// Finds the longest common subsequence of two values.
    Subsequence { number: u64, a: SharedBytes, b: SharedBytes, ask: Lcs },
    /// Makes or takes over a piece of an image.
    Image(ImageTask),
    /// Ends, so that ops that wait for the store itself are tried again.
    Nothing,
}

/// What a job brought.
pub(super) enum Done {
    /// `failed`: hashes of keys that could not be read, and why. `left`: those that it has not come to.
    Loaded {
        rows: Vec<(Keyspace, Loaded)>,
        left: Vec<WantedKey>,
        failed: Vec<(Keyspace, u64, DiskError)>,
        asked: u32,
    },
    Page {
        page: DiskPage,
        asked: u32,
    },
    /// All rows of the stretch up to the hash `to`.
    Warmed {
        keyspace: Keyspace,
        from: u64,
        to: u64,
        rows: Vec<Loaded>,
        asked: u32,
    },
    ExpiredBelow {
        keyspace: Keyspace,
        found: Expired,
        asked: u32,
    },
    Resolved {
        keyspace: Keyspace,
        keys: Vec<(u64, Vec<u8>, Option<Stamp>)>,
        epoch: u32,
    },
    Flushed {
        metas: Vec<(PartitionId, PartitionMeta)>,
        counts: BTreeMap<Keyspace, BlindCounts>,
        rows: u64,
        room: Room,
    },
    /// There was no room for a flush, or it failed otherwise: what it was to write comes back.
    NoRoom {
        why: Option<DiskError>,
        rows: Vec<Captured>,
        metas: Vec<(PartitionId, PartitionMeta)>,
        room: Room,
    },
    Compacted {
        more: bool,
        room: Room,
    },
    Looked {
        room: Room,
    },
    Verified {
        is_round: bool,
    },
    Subsequence {
        number: u64,
        outcome: Outcome,
    },
    Image(ImageDone),
    Nothing,
    /// Something could not be read: what was asked, if it was asked by ops, and the state of flushes then.
    Failed {
        keyspace: Keyspace,
        failed: Failed,
        asked: u32,
        why: DiskError,
    },
}

/// What could not be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failed {
    /// What ops want.
    Want(Want),
    /// The warm-up.
    Warm,
    /// The search for expired rows.
    Expired,
}

/// A key read from below; `None`: it is not there.
pub(super) struct Loaded {
    pub(super) hash: u64,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<(Stamp, Vec<u8>)>,
}

/// What a part of a sweep found.
#[derive(Default)]
pub(super) struct Expired {
    /// Expired rows, without their values.
    pub(super) rows: Vec<Loaded>,
    /// There may be more from this hash on.
    pub(super) next: Option<u64>,
    /// When the first of the other rows expires.
    pub(super) min_expire_ms: u64,
    pub(super) rows_read: u64,
    pub(super) bytes_read: u64,
}

/// Of the blind writes of a keyspace in a flush: all, those whose key existed below, those of them that expire.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct BlindCounts {
    pub(super) resolved: u64,
    pub(super) existed: u64,
    pub(super) expiring: u64,
}

impl Task {
    fn name(&self) -> &'static str {
        match self {
            Task::Load { .. } => "load",
            Task::Range { .. } => "range",
            Task::Matches { .. } => "matches",
            Task::Warm { .. } => "warm",
            Task::Expired { .. } => "expired",
            Task::Resolve { .. } => "resolve",
            Task::Flush { .. } => "flush",
            Task::Compact { .. } => "compact",
            Task::Look => "look",
            Task::Verify => "verify",
            Task::Subsequence { .. } => "subsequence",
            Task::Image(_) => "image",
            Task::Nothing => "nothing",
        }
    }
}

impl<L: DiskLevel> Job<L> {
    /// Does it.
    pub(super) fn run(self) -> JobDone {
        JobDone(self.task.run(&self.disk))
    }
}

impl Task {
    fn run<L: DiskLevel>(self, disk: &L) -> Done {
        match self {
            Task::Load { keys, asked } => load(disk, keys, asked),
            Task::Range { keyspace, from, clock_ms, asked } => {
                let page = range(disk, keyspace, from, clock_ms).map(|page| Done::Page { page, asked });
                page.unwrap_or_else(|why| failed(keyspace, Failed::Want(Want::Range { from }), asked, why))
            }
            Task::Matches { keyspace, pattern, limit, asked } => {
                let page =
                    matches(disk, keyspace, pattern.clone(), limit).map(|page| Done::Page { page, asked });
                page.unwrap_or_else(|why| {
                    failed(keyspace, Failed::Want(Want::Matches { pattern }), asked, why)
                })
            }
            Task::Warm { keyspace, from, asked } => {
                let warmed = warm(disk, keyspace, from);
                let warmed = warmed.map(|(rows, to)| Done::Warmed { keyspace, from, to, rows, asked });
                warmed.unwrap_or_else(|why| failed(keyspace, Failed::Warm, asked, why))
            }
            Task::Expired { keyspace, from, clock_ms, asked } => {
                let found = expired(disk, keyspace, from, clock_ms);
                let found = found.map(|found| Done::ExpiredBelow { keyspace, found, asked });
                found.unwrap_or_else(|why| failed(keyspace, Failed::Expired, asked, why))
            }
            Task::Resolve { keyspace, keys, epoch } => {
                let mut stamps = Vec::with_capacity(keys.len());
                let read = stamps_of(
                    disk,
                    &keys,
                    Sought::Values,
                    |(hash, key)| (keyspace, *hash, key.as_slice()),
                    |_, stamp| stamps.push(stamp),
                );
                let keys = read.map(|()| {
                    let both = keys.into_iter().zip(stamps);
                    both.map(|((hash, key), stamp)| (hash, key, stamp)).collect()
                });
                let resolved = keys.map(|keys| Done::Resolved { keyspace, keys, epoch });
                resolved.unwrap_or_else(|why| failed(keyspace, Failed::Want(Want::Unknown), epoch, why))
            }
            Task::Flush { seed, deletes, rows, metas } => flush(disk, seed, deletes, rows.into_list(), metas),
            Task::Compact { dead } => {
                let more = disk.compact(&dead).unwrap_or_else(|why| {
                    tracing::warn!("{why}; tables are merged again after the next flush");
                    false
                });
                Done::Compacted { more, room: room(disk) }
            }
            Task::Look => Done::Looked { room: room(disk) },
            Task::Verify => Done::Verified { is_round: disk.verify() },
            Task::Subsequence { number, a, b, ask } => {
                let outcome = longest_common(a.as_slice(), b.as_slice(), ask);
                Done::Subsequence { number, outcome }
            }
            Task::Image(task) => Done::Image(task.run(disk)),
            Task::Nothing => Done::Nothing,
        }
    }
}

fn failed(keyspace: Keyspace, failed: Failed, asked: u32, why: DiskError) -> Done {
    Done::Failed { keyspace, failed, asked, why }
}

/// Reads keys, until they have brought much.
fn load<L: DiskLevel>(disk: &L, keys: Vec<WantedKey>, asked: u32) -> Done {
    let (mut rows, mut failed, mut bytes) = (Vec::with_capacity(keys.len()), Vec::new(), 0);
    let row_key = |wanted: &WantedKey| wanted.keyspace.row_key(wanted.hash, &wanted.key);
    let row_keys: Vec<Vec<u8>> = keys.iter().map(row_key).collect();
    let mut keys = keys.into_iter();
    disk.get_each(&mut row_keys.into_iter(), Sought::Values, &mut |read| {
        let Some(WantedKey { keyspace, hash, key }) = keys.next() else { return false };
        let read = read.and_then(|row| row.map(|row| read_value(keyspace, row)).transpose());
        match read.map(|row| row.map(|(stamp, value)| (stamp, value.to_vec()))) {
            Ok(value) => {
                bytes += value.as_ref().map_or(0, |(_, value)| value.len());
                rows.push((keyspace, Loaded { hash, key, value }));
            }
            Err(why) => failed.push((keyspace, hash, why)),
        }
        bytes < LOAD_BYTES
    });
    Done::Loaded { rows, failed, left: keys.collect(), asked }
}

/// Looks for expired rows from a hash on.
fn expired<L: DiskLevel>(
    disk: &L,
    keyspace: Keyspace,
    from: u64,
    clock_ms: u64,
) -> Result<Expired, DiskError> {
    let mut found = Expired { min_expire_ms: NO_EXPIRY, ..Expired::default() };
    walk(disk, keyspace, from, |hash, key, stamp, value| {
        if found.rows.len() >= EXPIRED_ROWS {
            found.next = Some(hash);
            return false;
        }
        found.rows_read += 1;
        found.bytes_read += (key.len() + value.len()) as u64;
        if stamp.expire_at_ms <= clock_ms {
            found.rows.push(Loaded { hash, key: key.to_vec(), value: Some((stamp, Vec::new())) });
        } else {
            found.min_expire_ms = found.min_expire_ms.min(stamp.expire_at_ms);
        }
        true
    })?;
    Ok(found)
}

/// Writes rows and partitions in one step. The counts of blind writes become exact here, since the disk level is
/// still as it was when they were made.
fn flush<L: DiskLevel>(
    disk: &L,
    seed: HashSeed,
    deletes: bool,
    mut rows: Vec<Captured>,
    metas: Vec<(PartitionId, PartitionMeta)>,
) -> Done {
    let mut pace = disk.pace();
    let mut compared = 0_u32;
    // In the disk level's order, so that looking for the old rows reads each of its blocks once.
    rows.sort_unstable_by(|a, b| {
        compared += 1;
        if compared.is_multiple_of(COMPARED_A_STEP) {
            pace.iter_mut().for_each(|pace| pace.step(0));
        }
        let order = (a.partition, a.flush_version, a.hash).cmp(&(b.partition, b.flush_version, b.hash));
        order.then_with(|| a.key.cmp(&b.key))
    });
    let counts = match count_blind(disk, &rows, &metas, &mut pace) {
        Ok(counts) => counts,
        Err(why) => return not_handed_over(disk, rows, metas, why),
    };
    let mut exact = metas.clone();
    exact.sort_unstable_by_key(|(partition, _)| *partition);
    for (partition, meta) in &mut exact {
        let keyspace = Keyspace { partition: *partition, flush_version: meta.flush_version };
        if let Some(count) = counts.get(&keyspace) {
            meta.keys -= count.existed;
            meta.expiring -= count.expiring;
        }
    }
    let bytes = rows.iter().map(row_bytes).sum::<u64>() + META_BYTES * exact.len() as u64;
    let heads = exact.iter().map(|(partition, meta)| (partition_key(*partition), Some(meta.encode())));
    let store = std::iter::once((STORE_KEY.to_vec(), Some(store_value(seed))));
    let result = disk.ingest(bytes, deletes, &mut store.chain(heads).chain(rows.iter().map(disk_row)));
    match result {
        Ok(()) => {
            let captured = rows.len() as u64;
            for row in rows {
                drop(row);
                pace.iter_mut().for_each(|pace| pace.step(0));
            }
            Done::Flushed { metas: exact, counts, rows: captured, room: room(disk) }
        }
        Err(IngestError::NoRoom { .. }) => Done::NoRoom { rows, metas, room: room(disk), why: None },
        Err(IngestError::Failed(why)) => not_handed_over(disk, rows, metas, why),
    }
}

/// A flush that failed is tried again as one that found no room, and until then writes are refused with the reason. Nothing of it
/// is part of the tree, and all of it is in memory and in the log.
fn not_handed_over<L: DiskLevel>(
    disk: &L,
    rows: Vec<Captured>,
    metas: Vec<(PartitionId, PartitionMeta)>,
    why: DiskError,
) -> Done {
    tracing::warn!("{why}; the flush is tried again, and writes are refused until then");
    let room = Room { is_short: true, usable_bytes: 0, ..room(disk) };
    Done::NoRoom { rows, metas, room, why: Some(why) }
}

fn count_blind<L: DiskLevel>(
    disk: &L,
    rows: &[Captured],
    metas: &[(PartitionId, PartitionMeta)],
    pace: &mut Option<Pace>,
) -> Result<BTreeMap<Keyspace, BlindCounts>, DiskError> {
    let mut counts: BTreeMap<Keyspace, BlindCounts> = BTreeMap::new();
    let keyspace = |row: &Captured| Keyspace { partition: row.partition, flush_version: row.flush_version };
    let blind: Vec<&Captured> = rows.iter().filter(|row| row.unknown).collect();
    for rows in blind.chunk_by(|a, b| keyspace(a) == keyspace(b)) {
        let Some(keyspace) = rows.first().map(|row| keyspace(row)) else { continue };
        let sought = sought_of_blind(keyspace, metas);
        let count = counts.entry(keyspace).or_default();
        stamps_of(
            disk,
            rows,
            sought,
            |row| (keyspace, row.hash, row.key.as_slice()),
            |_, stamp| {
                pace.iter_mut().for_each(|pace| pace.step(0));
                count.resolved += 1;
                if let Some(stamp) = stamp {
                    let expires = sought == Sought::Values && stamp.expire_at_ms != NO_EXPIRY;
                    count.existed += 1;
                    count.expiring += u64::from(expires);
                }
            },
        )?;
    }
    Ok(counts)
}

/// What is to be known of the rows that blind writes wrote over. Where no key of the keyspace expires, none of them does,
/// whatever their versions of before did.
fn sought_of_blind(keyspace: Keyspace, metas: &[(PartitionId, PartitionMeta)]) -> Sought {
    let mut metas = metas.iter().filter(|(partition, _)| *partition == keyspace.partition);
    let may_expire = metas
        .next()
        .is_none_or(|(_, meta)| meta.flush_version != keyspace.flush_version || meta.expiring > 0);
    if may_expire { Sought::Values } else { Sought::Existence }
}

/// What a row takes in a table, roughly.
fn row_bytes(row: &Captured) -> u64 {
    let value_bytes = row.value.as_ref().map_or(0, |(_, value)| value.as_slice().len());
    (row.key.len() + value_bytes) as u64 + ROW_META_BYTES
}

fn disk_row(row: &Captured) -> DiskRow {
    let key = row_key(row.partition, row.flush_version, row.hash, &row.key);
    (key, row.value.as_ref().map(|(stamp, value)| row_value(*stamp, value.as_slice())))
}
