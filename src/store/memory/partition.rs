//! One partition's state in memory, and the two changes that all commands are made of: write a row, remove a row.
//!
//! Invariant: the counters agree with the rows after every change; a row is never changed before a running flush
//! has its state as of the freeze.

use corduroy_shards::PartitionId;
use corduroy_wal::Lsn;

use super::absent::AbsentKeys;
use super::ledger::Ledger;
use super::meta::PartitionMeta;
use super::row::{BELOW, DIRTY, FRESH, NO_EXPIRY, REFERENCED, Row, Stamp, TOMBSTONE, UNKNOWN};
use super::table::{Page, Table, find_row};

/// Sweeps of a partition are this far apart at least, by its clock.
pub(in crate::store) const SWEEP_BELOW_INTERVAL_MS: u64 = 10_000;

/// The bits of a version that count the ops of an entry; the rest is the entry's LSN.
const OP_BITS: u32 = 20;

/// The entry of a version.
pub(in crate::store) const fn lsn_of(version: u64) -> u64 {
    version >> OP_BITS
}

/// Looks for expired rows are this far apart at least, by the partition's clock.
const SWEEP_INTERVAL_MS: u64 = 500;

/// A partition. About 250 bytes while it has no rows.
#[derive(Debug)]
pub(in crate::store) struct Partition {
    pub(in crate::store) id: PartitionId,
    pub(in crate::store) table: Table,
    /// Keys that are stored, expired ones included. Too high by those of `unknown` that exist below.
    pub(in crate::store) keys: u64,
    /// Of those, the ones with a time to live; inexact in the same way.
    pub(in crate::store) expiring: u64,
    /// Blind writes of which it is not known yet whether the key existed below.
    pub(in crate::store) unknown: u64,
    /// Where their rows are; may name rows that are resolved by now.
    pub(in crate::store) unknown_hashes: Vec<u64>,
    /// Someone waits for `unknown` to become 0, so no more blind writes.
    pub(in crate::store) exact_wanted: bool,
    pub(in crate::store) applied: Lsn,
    pub(in crate::store) persisted: Lsn,
    /// See [`PartitionMeta`].
    pub(in crate::store) history: u64,
    /// The version LSN of the last entry with operations.
    pub(in crate::store) source_lsn: Lsn,
    /// The last entry that was in the log at the start.
    pub(in crate::store) replay_to: Lsn,
    /// `clock_ms` as of `persisted`.
    pub(in crate::store) persisted_clock_ms: u64,
    /// The version of the flush that began the keyspace anew, 0 at first.
    pub(in crate::store) flush_version: u64,
    /// The same as it is persisted; rows of those before may go from below.
    pub(in crate::store) persisted_flush_version: u64,
    /// The highest stamp of an applied entry: what "now" means in apply. It never goes back, not even when the
    /// leadership moves to a node whose clock is behind; so a row that has expired once stays expired, and every
    /// replica may drop it whenever it likes.
    pub(in crate::store) clock_ms: u64,
    /// Ops of the running entry that have been applied.
    pub(in crate::store) ops_in_entry: u32,
    /// Of the first entry after a restart, the ops that the state below has already.
    pub(in crate::store) ops_below: u32,
    /// Changed since the last freeze.
    pub(in crate::store) touched: bool,
    /// No row expires before this.
    pub(in crate::store) min_expire_ms: u64,
    /// When the last sweep for expired rows began, by `clock_ms`.
    pub(in crate::store) swept_ms: u64,
    /// No row that is only below expires before this; 0: it is not known.
    pub(in crate::store) min_expire_below_ms: u64,
    /// When the last search for those began, and how long after it the next one may.
    pub(in crate::store) swept_below_ms: u64,
    pub(in crate::store) sweep_below_after_ms: u64,
    /// How often it is queued to be walked for expired rows.
    pub(in crate::store) walks: u32,
    /// The time that was announced last as the one at which an entry is wanted.
    pub(in crate::store) alarm_ms: u64,
    /// An op has written a row since the last flush.
    pub(in crate::store) is_written: bool,
    /// What WATCH knows of keys that are not there.
    pub(in crate::store) absent: AbsentKeys,
}

/// An idle partition is to stay within 4 KiB, all its parts together.
const _: () = assert!(size_of::<Partition>() <= 256, "a partition has grown");

/// What memory says about a key.
pub(in crate::store) enum Found<'r> {
    Live(&'r Row),
    /// It does not exist.
    Absent,
    /// Only the disk level knows.
    Unknown,
}

impl Partition {
    /// A partition of which nothing is stored.
    pub(in crate::store) fn new(id: PartitionId) -> Self {
        Self::restored(id, &PartitionMeta::default())
    }

    /// A partition as the last flush left it.
    pub(in crate::store) fn restored(id: PartitionId, meta: &PartitionMeta) -> Self {
        Self {
            id,
            table: Table::new(meta.keys == 0),
            keys: meta.keys,
            expiring: meta.expiring,
            unknown: 0,
            unknown_hashes: Vec::new(),
            exact_wanted: false,
            applied: meta.applied,
            persisted: meta.applied,
            history: meta.history,
            source_lsn: meta.source_lsn,
            replay_to: meta.applied,
            persisted_clock_ms: meta.clock_ms,
            flush_version: meta.flush_version,
            persisted_flush_version: meta.flush_version,
            clock_ms: meta.clock_ms,
            ops_in_entry: 0,
            ops_below: meta.ops_done,
            touched: false,
            min_expire_ms: NO_EXPIRY,
            swept_ms: 0,
            min_expire_below_ms: if meta.expiring > 0 { 0 } else { NO_EXPIRY },
            swept_below_ms: meta.clock_ms,
            sweep_below_after_ms: SWEEP_BELOW_INTERVAL_MS,
            walks: 0,
            alarm_ms: NO_EXPIRY,
            is_written: meta.is_written,
            absent: meta.absent.clone(),
        }
    }

    /// Has the next freeze take a point of it.
    pub(in crate::store) fn touch(&mut self, touched: &mut Vec<PartitionId>) {
        if !self.touched {
            self.touched = true;
            touched.push(self.id);
        }
    }

    /// Whether some ops of the entry above `applied` are applied, in this process or before it.
    pub(in crate::store) const fn is_inside_entry(&self) -> bool {
        self.ops_in_entry > 0 || self.ops_below > 0
    }

    /// Whether the next op of an entry, which is at `lsn`, is one that the state below has already; it counts as done then.
    pub(in crate::store) fn passes_over(&mut self, lsn: Lsn) -> bool {
        let passes = self.ops_in_entry < self.ops_below;
        if passes {
            assert!(lsn == self.applied.next(), "partition {}: entry {lsn} is missing", self.id);
            self.ops_in_entry += 1;
        }
        passes
    }

    /// What a flush that freezes now has to keep of it.
    pub(in crate::store) fn meta(&self) -> PartitionMeta {
        PartitionMeta {
            applied: self.applied,
            history: self.history,
            source_lsn: self.source_lsn,
            ops_done: self.ops_in_entry.max(self.ops_below),
            flush_version: self.flush_version,
            clock_ms: self.clock_ms,
            keys: self.keys,
            expiring: self.expiring,
            is_written: self.is_written,
            absent: self.absent.clone(),
            installed: None,
        }
    }

    /// The version that the next op's changes get: the entry's version LSN and the op's number in it. Different for any two
    /// ops, so that WATCH sees a change by a later op of the very entry that it looked at. (Ops of one entry beyond
    /// the 2^20th share a version.)
    pub(in crate::store) fn version(&self, version_lsn: Lsn) -> u64 {
        version_lsn.0 << OP_BITS | u64::from(self.ops_in_entry.min((1 << OP_BITS) - 1))
    }

    #[inline]
    pub(in crate::store) fn find(&self, hash: u64, key: &[u8], now_ms: u64) -> Found<'_> {
        let Some(page) = self.table.page(hash) else {
            return if self.table.is_complete(hash) { Found::Absent } else { Found::Unknown };
        };
        match page.find(hash, key) {
            Some(row) => {
                row.touch();
                if row.is_live(now_ms) { Found::Live(row) } else { Found::Absent }
            }
            None if page.is_complete() => Found::Absent,
            None => Found::Unknown,
        }
    }

    /// Whether memory says anything about a key. It is no use of it.
    #[inline]
    pub(in crate::store) fn knows(&self, hash: u64, key: &[u8]) -> bool {
        match self.table.page(hash) {
            Some(page) => page.is_complete() || page.find(hash, key).is_some(),
            None => self.table.is_complete(hash),
        }
    }

    /// Writes a row, whatever was there.
    pub(in crate::store) fn write(
        &mut self,
        ledger: &mut Ledger,
        hash: u64,
        key: &[u8],
        value: &[u8],
        stamp: Stamp,
    ) {
        ledger.listings.changed(self.id, hash, key, Some(stamp.expire_at_ms));
        let page = self.table.page_mut(hash);
        let is_complete = page.is_complete();
        let Page { rows, dirty, tombstones, min_expire_ms, .. } = page;
        self.min_expire_ms = self.min_expire_ms.min(stamp.expire_at_ms);
        let expires = stamp.expire_at_ms != NO_EXPIRY;
        if let Some(row) = find_row(rows, hash, key) {
            ledger.capture_before_change(self.id, self.flush_version, row, dirty);
            if row.has(TOMBSTONE) {
                row.clear(TOMBSTONE);
                *tombstones -= 1;
                ledger.keys.add(&mut self.keys, 1);
            } else if row.expire_at_ms != NO_EXPIRY {
                ledger.expiring.sub(&mut self.expiring, 1);
            }
            ledger.expiring.add(&mut self.expiring, expires.into());
            *min_expire_ms = (*min_expire_ms).min(stamp.expire_at_ms);
            let cost_before = row.cost_bytes();
            let _ = row.set_value(value);
            row.version = stamp.version;
            row.expire_at_ms = stamp.expire_at_ms;
            row.encoding = stamp.encoding;
            ledger.changed(row, cost_before, dirty);
            return;
        }
        let mut flags = DIRTY | REFERENCED;
        if !is_complete {
            flags |= UNKNOWN | BELOW;
            self.unknown += 1;
            self.unknown_hashes.push(hash);
        }
        ledger.keys.add(&mut self.keys, 1);
        ledger.expiring.add(&mut self.expiring, expires.into());
        let row = Row::new(hash, key, value, stamp, ledger.epoch, flags);
        ledger.used_bytes += row.cost_bytes();
        ledger.dirty_bytes += row.cost_bytes();
        self.table.insert(row);
    }

    /// Puts bytes into the value of a live row, in place; see [`Row::set_range`]. Its time to live stays.
    pub(in crate::store) fn set_range(
        &mut self,
        ledger: &mut Ledger,
        hash: u64,
        key: &[u8],
        (offset, bytes): (usize, &[u8]),
        stamp: Stamp,
    ) -> usize {
        let Page { rows, dirty, .. } = self.table.page_mut(hash);
        let row = find_row(rows, hash, key).expect("only called for rows that were just found");
        let copied_bytes = ledger.capture_before_change(self.id, self.flush_version, row, dirty);
        let cost_before = row.cost_bytes();
        let moved_bytes = row.set_range(offset, bytes);
        row.version = stamp.version;
        row.encoding = stamp.encoding;
        ledger.changed(row, cost_before, dirty);
        moved_bytes + copied_bytes
    }

    /// Changes when a live row expires.
    pub(in crate::store) fn set_expiry(
        &mut self,
        ledger: &mut Ledger,
        hash: u64,
        key: &[u8],
        version: u64,
        at_ms: u64,
    ) {
        ledger.listings.changed(self.id, hash, key, Some(at_ms));
        let Page { rows, dirty, min_expire_ms, .. } = self.table.page_mut(hash);
        let row = find_row(rows, hash, key).expect("only called for rows that were just found");
        ledger.capture_before_change(self.id, self.flush_version, row, dirty);
        ledger.expiring.add(&mut self.expiring, (at_ms != NO_EXPIRY).into());
        ledger.expiring.sub(&mut self.expiring, (row.expire_at_ms != NO_EXPIRY).into());
        self.min_expire_ms = self.min_expire_ms.min(at_ms);
        *min_expire_ms = (*min_expire_ms).min(at_ms);
        let cost = row.cost_bytes();
        row.version = version;
        row.expire_at_ms = at_ms;
        ledger.changed(row, cost, dirty);
    }

    /// Removes a row that is stored; the disk level learns of it by a tombstone, if it has to.
    pub(in crate::store) fn remove(&mut self, ledger: &mut Ledger, hash: u64, key: &[u8]) {
        ledger.listings.changed(self.id, hash, key, None);
        let page = self.table.page_mut(hash);
        let is_complete = page.is_complete();
        let Page { rows, dirty, tombstones, .. } = &mut *page;
        let row = find_row(rows, hash, key).expect("only called for rows that were just found");
        assert!(!row.has(TOMBSTONE), "a row is removed once");
        ledger.capture_before_change(self.id, self.flush_version, row, dirty);
        ledger.keys.sub(&mut self.keys, 1);
        ledger.expiring.sub(&mut self.expiring, (row.expire_at_ms != NO_EXPIRY).into());
        let cost_before = row.cost_bytes();
        let below = row.has(BELOW);
        if below || !is_complete {
            let _ = row.set_value(b"");
            row.expire_at_ms = NO_EXPIRY;
            row.set(TOMBSTONE);
            *tombstones += 1;
            ledger.changed(row, cost_before, dirty);
            if !below {
                ledger.no_need_to_capture(row, dirty);
            }
            return;
        }
        if row.has(DIRTY) {
            *dirty -= 1;
            ledger.dirty_bytes -= cost_before;
        }
        ledger.used_bytes -= cost_before;
        page.take(hash, key).expect("it was just found");
    }

    /// Begins an empty keyspace; the old rows go to the ledger, which frees them bit by bit.
    pub(in crate::store) fn flush(&mut self, ledger: &mut Ledger, version: u64) {
        // An image that was installed has a number that this version need not be above. One that has no rows, on either level,
        // begins anew as it is.
        let is_empty = self.table.page_count() == 0 && self.table.is_all_complete();
        self.begin_keyspace(ledger, version.max(self.flush_version + u64::from(!is_empty)));
        if std::mem::take(&mut self.is_written) {
            self.absent.flush(version);
        }
    }

    /// Begins a keyspace because the old one has no key left: nobody sees a difference. Its number is one that the next op may
    /// get: above that of any flush so far, and no higher than that of any to come.
    pub(in crate::store) fn begin_anew(&mut self, ledger: &mut Ledger) {
        assert!(
            self.keys == 0 && self.unknown == 0,
            "partition {}: only an empty keyspace ends unasked",
            self.id
        );
        let ops = self.ops_in_entry.max(self.ops_below);
        // Of the entry under way, a flush in it names the version LSN; it may be far above the last one's.
        let lsn = self.source_lsn.next().0.max(lsn_of(self.flush_version));
        let version = lsn << OP_BITS | u64::from(ops.min((1 << OP_BITS) - 1));
        if version > self.flush_version {
            self.begin_keyspace(ledger, version);
        }
    }

    /// An image was installed: nothing in memory counts any more.
    pub(in crate::store) fn installed(&mut self, ledger: &mut Ledger, meta: &PartitionMeta) {
        self.begin_keyspace(ledger, meta.flush_version);
        ledger.listings.replaced(self.id);
        let (touched, walks, alarm_ms) = (self.touched, self.walks, self.alarm_ms);
        *self = Self { touched, walks, alarm_ms, ..Self::restored(self.id, meta) };
        ledger.include(meta);
    }

    fn begin_keyspace(&mut self, ledger: &mut Ledger, version: u64) {
        let table = std::mem::replace(&mut self.table, Table::new(true));
        ledger.detach(self.id, self.flush_version, table);
        ledger.listings.flushed(self.id);
        self.flush_version = version;
        ledger.keys.clear(&mut self.keys);
        ledger.expiring.clear(&mut self.expiring);
        self.unknown = 0;
        self.unknown_hashes = Vec::new();
        (self.min_expire_ms, self.min_expire_below_ms) = (NO_EXPIRY, NO_EXPIRY);
    }

    /// From when on it is worth looking for expired rows: some are due, and the last look was a while ago.
    pub(in crate::store) fn sweep_at_ms(&self) -> u64 {
        self.min_expire_ms.max(self.swept_ms.saturating_add(SWEEP_INTERVAL_MS))
    }

    /// The same for those that are only below.
    pub(in crate::store) fn sweep_below_at_ms(&self) -> u64 {
        self.min_expire_below_ms.max(self.swept_below_ms.saturating_add(self.sweep_below_after_ms))
    }

    /// When an entry would help whose stamp lets expired rows go; `None`: never, as things are.
    pub(in crate::store) fn wanted_at_ms(&self) -> Option<u64> {
        // A walk under way finds out when the next row expires.
        let here_ms = (self.min_expire_ms < NO_EXPIRY && self.walks == 0).then(|| self.sweep_at_ms());
        let has_expiring_below = self.expiring > 0 && self.min_expire_below_ms < NO_EXPIRY;
        let below_ms = has_expiring_below.then(|| self.sweep_below_at_ms());
        here_ms.into_iter().chain(below_ms).min()
    }

    /// Whether a row may have expired at `now_ms`, here or below, as far as that is known of all of them together.
    pub(in crate::store) fn may_hold_expired(&self, now_ms: u64) -> bool {
        self.min_expire_ms <= now_ms || self.expiring > 0 && self.min_expire_below_ms <= now_ms
    }

    /// Keys of blind writes that are not resolved, at most `limit`.
    pub(in crate::store) fn unknown_keys(&self, limit: usize) -> Vec<(u64, Vec<u8>)> {
        let mut hashes = self.unknown_hashes.clone();
        hashes.sort_unstable();
        hashes.dedup();
        let rows = hashes.iter().flat_map(|hash| {
            let rows = self.table.page(*hash).map(|page| page.rows.iter());
            rows.into_iter().flatten().filter(|row| row.hash == *hash && row.has(UNKNOWN))
        });
        rows.take(limit).map(|row| (row.hash, row.key().to_vec())).collect()
    }

    /// Removes a page's expired rows, and its tombstones that the disk level does not need any more. Returns the
    /// number of rows looked at.
    pub(in crate::store) fn walk_page(&mut self, ledger: &mut Ledger, hash: u64, safe_epoch: u32) -> u64 {
        let clock_ms = self.clock_ms;
        let page = self.table.page_mut(hash);
        let mut looked_at = 0;
        if page.min_expire_ms <= clock_ms {
            looked_at += page.rows.len() as u64;
            let expired = page.rows.iter().filter(|row| !row.has(TOMBSTONE) && !row.is_live(clock_ms));
            let expired: Vec<(u64, Vec<u8>)> = expired.map(|row| (row.hash, row.key().to_vec())).collect();
            ledger.totals.expired += expired.len() as u64;
            for (hash, key) in expired {
                self.remove(ledger, hash, &key);
            }
        }
        let page = self.table.page_mut(hash);
        if page.min_expire_ms <= clock_ms {
            let expiries = page.rows.iter().map(|row| row.expire_at_ms);
            page.min_expire_ms = expiries.min().unwrap_or(NO_EXPIRY);
        }
        self.min_expire_ms = self.min_expire_ms.min(page.min_expire_ms);
        if page.is_complete() && page.tombstones > 0 {
            looked_at += page.rows.len() as u64;
            let Page { rows, tombstones, .. } = page;
            rows.retain(|row| {
                let spent = row.has(TOMBSTONE) && row.is_clean(safe_epoch);
                if spent {
                    ledger.used_bytes -= row.cost_bytes();
                    *tombstones -= 1;
                }
                !spent
            });
        }
        looked_at
    }

    /// Drops a page's clean rows that were not used since the last time and are not held. Returns the number of rows
    /// looked at, and whether any went.
    pub(in crate::store) fn evict_page(
        &mut self,
        ledger: &mut Ledger,
        hash: u64,
        safe_epoch: u32,
        is_held: impl Fn(u64) -> bool,
    ) -> (u64, bool) {
        let mut min_expire_below_ms = self.min_expire_below_ms;
        let page = self.table.page_mut(hash);
        let looked_at = page.rows.len();
        let Page { rows, tombstones, .. } = page;
        let mut has_dropped = false;
        rows.retain(|row| {
            if !row.is_clean(safe_epoch) || is_held(row.hash) {
                return true;
            }
            if row.has(REFERENCED | FRESH) {
                row.clear(REFERENCED | FRESH);
                row.unshare();
                return true;
            }
            ledger.used_bytes -= row.cost_bytes();
            if row.has(TOMBSTONE) {
                *tombstones -= 1;
            } else {
                has_dropped = true;
                min_expire_below_ms = min_expire_below_ms.min(row.expire_at_ms);
                ledger.totals.evicted += 1;
            }
            false
        });
        let evicted = rows.len() < looked_at;
        page.shrink();
        self.min_expire_below_ms = min_expire_below_ms;
        if has_dropped {
            self.table.note_dropped(hash);
        }
        (looked_at as u64, evicted)
    }
}
