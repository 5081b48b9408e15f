//! Stretches of the keys that lie below, for SCAN, RANDOMKEY and KEYS: what a job finds on a walk through the rows.
//!
//! Invariant: a page names all keys of its stretch that have not expired; a page for SCAN takes a bounded time.

use super::stored::{Keyspace, walk};
use crate::store::disk::{DiskError, DiskLevel};
use crate::store::lookups::{DISK_KEY_BYTES, DiskKey, DiskPage};
use crate::store::memory::listings::MatchLimit;
use crate::store::op::ErrorKind;
use crate::store::text::glob::Effort;

/// Cursors are below 2^48, so that a caller can put a partition's number above them.
pub const CURSOR_BITS: u32 = 48;
/// Hash bits below a cursor's resolution: keys that differ only in these come on one page together.
pub(in crate::store) const CURSOR_SHIFT: u32 = 64 - CURSOR_BITS;

/// Keys that a page for SCAN holds, a few more where hashes are close.
const PAGE_KEYS: usize = 1024;
/// Rows that are looked at for a page, and bytes of them, after which it ends however few keys it has: SCAN waits for it,
/// and others for its thread.
const PAGE_ROWS: usize = 4 * PAGE_KEYS;
const PAGE_BYTES: usize = 4 << 20;
/// So many times as far a page goes that has no key yet: RANDOMKEY in a transaction looks at few pages, and a page without
/// one brings SCAN nothing.
const EMPTY_STRETCH: usize = 16;

/// A page of keys; ends where a cursor can stand, and when it has taken long, even without a key. Expired ones are left out:
/// the partition's clock never goes back.
pub(in crate::store) fn range<L: DiskLevel>(
    disk: &L,
    keyspace: Keyspace,
    from: u64,
    clock_ms: u64,
) -> Result<DiskPage, DiskError> {
    let (mut keys, mut to): (Vec<DiskKey>, u64) = (Vec::new(), u64::MAX);
    let (mut rows, mut bytes, mut last) = (0, 0, None);
    walk(disk, keyspace, from, |hash, key, stamp, value| {
        let cursor = hash >> CURSOR_SHIFT;
        let stretch = if keys.is_empty() { EMPTY_STRETCH } else { 1 };
        let is_full = keys.len() >= PAGE_KEYS || rows >= stretch * PAGE_ROWS || bytes >= stretch * PAGE_BYTES;
        if is_full && last != Some(cursor) {
            to = (cursor << CURSOR_SHIFT) - 1;
            return false;
        }
        (rows, bytes, last) = (rows + 1, bytes + key.len() + value.len(), Some(cursor));
        if stamp.expire_at_ms > clock_ms {
            keys.push(DiskKey { hash, key: key.to_vec(), expire_at_ms: stamp.expire_at_ms });
        }
        true
    })?;
    let Keyspace { partition, flush_version } = keyspace;
    Ok(DiskPage { partition, flush_version, from, to, pattern: None, keys, refused: None })
}

/// All keys that match.
pub(in crate::store) fn matches<L: DiskLevel>(
    disk: &L,
    keyspace: Keyspace,
    pattern: Vec<u8>,
    limit: MatchLimit,
) -> Result<DiskPage, DiskError> {
    let (mut keys, mut bytes, mut refused) = (Vec::new(), 0, None);
    let mut effort = Effort::of_a_command();
    walk(disk, keyspace, 0, |hash, key, stamp, _| {
        let Some(matches) = effort.glob(&pattern, key) else {
            refused = Some(ErrorKind::PatternTooCostly);
            return false;
        };
        if matches {
            bytes += DISK_KEY_BYTES + key.len();
            keys.push(DiskKey { hash, key: key.to_vec(), expire_at_ms: stamp.expire_at_ms });
        }
        if keys.len() > limit.keys || bytes > limit.bytes {
            refused = Some(ErrorKind::TooManyKeys);
        }
        refused.is_none()
    })?;
    let Keyspace { partition, flush_version } = keyspace;
    Ok(DiskPage { partition, flush_version, from: 0, to: u64::MAX, pattern: Some(pattern), keys, refused })
}

#[cfg(test)]
mod tests {
    use corduroy_shards::PartitionId;

    use super::*;
    use crate::store::MemLevel;
    use crate::store::disk::format::{row_key, row_value};
    use crate::store::memory::row::{Encoding, NO_EXPIRY, Stamp};

    const KEYSPACE: Keyspace = Keyspace { partition: PartitionId(7), flush_version: 0 };

    /// Rows whose hashes are a cursor's step apart, each with so long a value, that expire then.
    fn filled(rows: u64, value_bytes: usize, expire_at_ms: u64) -> MemLevel {
        let disk = MemLevel::default();
        let stamp = Stamp { version: 1, expire_at_ms, encoding: Encoding::Auto };
        let value = vec![b'x'; value_bytes];
        let mut rows = (0..rows).map(|row| {
            let key = row_key(KEYSPACE.partition, KEYSPACE.flush_version, row << CURSOR_SHIFT, b"k");
            (key, Some(row_value(stamp, &value)))
        });
        disk.ingest(0, false, &mut rows).expect("room");
        disk
    }

    /// The pages from the first hash to the last, as the rows that each has walked over and the keys that it has.
    fn pages(disk: &MemLevel, rows: u64) -> Vec<(u64, usize)> {
        let (mut from, mut pages) = (0, Vec::new());
        loop {
            let page = range(disk, KEYSPACE, from, 1000).expect("it can be read");
            let end = (page.to >> CURSOR_SHIFT).min(rows - 1);
            assert!(page.from == from && page.to >= from);
            pages.push((end + 1 - (from >> CURSOR_SHIFT), page.keys.len()));
            match page.to.checked_add(1) {
                Some(next) => from = next,
                None => return pages,
            }
        }
    }

    #[test]
    fn a_page_ends_when_it_has_taken_long_whatever_it_found() {
        let all: Vec<_> = pages(&filled(2500, 10, NO_EXPIRY), 2500);
        assert_eq!(all, [(1024, 1024), (1024, 1024), (452, 452)]);
        let empty = (EMPTY_STRETCH * PAGE_ROWS) as u64;
        let expired = pages(&filled(2 * empty, 10, 1000), 2 * empty);
        assert_eq!(expired, [(empty, 0); 2]);
        let large = pages(&filled(20, PAGE_BYTES / 4, NO_EXPIRY), 20);
        assert_eq!(large, [(4, 4); 5], "by what is read, though the page does not hold it");
    }
}
