//! A partition's rows in memory: extendible hashing by the top bits of the key's hash.
//!
//! Pages of a few hundred rows split in two when full, so there is no rehash of everything, and walking the pages in
//! directory order is walking the rows in hash order, however much the table grew meanwhile: SCAN, capture and
//! eviction keep a hash as their cursor. Invariant: a row lies on the page that the directory names for its hash.

use corduroy_wal::device::prefetch as prefetch_bytes;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::row::{DIRTY, NO_EXPIRY, Row, TOMBSTONE};
use crate::store::op::PREFETCH_KEYS;

/// A page splits when it holds this many rows: the load limit of 512 buckets.
const PAGE_ROWS: usize = 448;
/// Deeper pages grow instead of splitting; never reached with a keyed hash.
const MAX_DEPTH: u8 = 32;

/// A run of neighbouring hashes.
#[derive(Debug)]
pub(in crate::store) struct Page {
    pub(in crate::store) rows: HashTable<Row>,
    /// The number of leading hash bits that its rows share.
    depth: u8,
    /// Everything that exists in this run of hashes is in memory; a miss is an answer. Counted by the table.
    complete: bool,
    /// Rows that are dirty.
    pub(in crate::store) dirty: u32,
    /// Rows that are tombstones.
    pub(in crate::store) tombstones: u32,
    /// No row expires before this.
    pub(in crate::store) min_expire_ms: u64,
}

/// Finds a row in a page's table, for callers that change the page's counters too.
#[inline]
pub(in crate::store) fn find_row<'r>(
    rows: &'r mut HashTable<Row>,
    hash: u64,
    key: &[u8],
) -> Option<&'r mut Row> {
    rows.find_mut(bucket_hash(hash), |row| row.hash == hash && row.key() == key)
}

/// Has the CPU fetch the rows at these hashes, as far as there are any, all together: a lookup waits for memory twice, and
/// those that follow one another with much in between wait one after the other. What it brings is in the CPU's caches alone.
#[inline]
pub(in crate::store) fn prefetch(at: &[(&Table, u64)]) {
    assert!(at.len() <= PREFETCH_KEYS, "{} rows at once drive each other out", at.len());
    if at.len() > 1 {
        // One table's own parts are at hand; those of many are fetched step by step, all of them in each.
        if at.first().zip(at.last()).is_some_and(|(first, last)| !std::ptr::eq(first.0, last.0)) {
            at.iter()
                .filter_map(|(table, hash)| table.directory.get(table.slot(*hash)))
                .for_each(prefetch_bytes);
            at.iter().filter_map(|(table, hash)| table.page(*hash)).for_each(prefetch_bytes);
        }
        let rows: SmallVec<[&Row; PREFETCH_KEYS]> =
            at.iter().filter_map(|(table, hash)| table.row(*hash)).collect();
        std::hint::black_box(rows.iter().fold(0, |all, row| all ^ row.ends()));
    }
}

/// Inside a page, the bits that the directory does not use choose the bucket and the tag.
#[inline]
fn bucket_hash(hash: u64) -> u64 {
    hash.rotate_left(32)
}

impl Page {
    fn new(depth: u8, complete: bool) -> Self {
        Self { rows: HashTable::new(), depth, complete, dirty: 0, tombstones: 0, min_expire_ms: NO_EXPIRY }
    }

    /// Whether a key of these hashes that is not here does not exist.
    #[inline]
    pub(in crate::store) const fn is_complete(&self) -> bool {
        self.complete
    }

    #[inline]
    pub(in crate::store) fn find(&self, hash: u64, key: &[u8]) -> Option<&Row> {
        self.rows.find(bucket_hash(hash), |row| row.hash == hash && row.key() == key)
    }

    /// Takes a row out. The caller keeps the counters.
    pub(in crate::store) fn take(&mut self, hash: u64, key: &[u8]) -> Option<Row> {
        self.rows
            .find_entry(bucket_hash(hash), |row| row.hash == hash && row.key() == key)
            .ok()
            .map(|entry| entry.remove().0)
    }

    /// Gives memory back after many rows went.
    pub(in crate::store) fn shrink(&mut self) {
        if self.rows.len() < self.rows.capacity() / 4 {
            self.rows.shrink_to(self.rows.len(), |row| bucket_hash(row.hash));
        }
    }

    fn add(&mut self, row: Row) {
        self.dirty += u32::from(row.has(DIRTY));
        self.tombstones += u32::from(row.has(TOMBSTONE));
        self.min_expire_ms = self.min_expire_ms.min(row.expire_at_ms);
        self.rows.insert_unique(bucket_hash(row.hash), row, |row| bucket_hash(row.hash));
    }
}

/// The rows of one keyspace of a partition. Allocates nothing until the first row comes.
#[derive(Debug)]
pub(in crate::store) struct Table {
    /// The number of leading hash bits that the directory distinguishes.
    depth: u8,
    /// Whether pages to come are complete: false if the disk level holds rows of this keyspace.
    complete: bool,
    directory: Vec<u32>,
    pages: Vec<Page>,
    /// Pages that are not complete.
    incomplete: u32,
}

impl Table {
    /// An empty table.
    pub(in crate::store) fn new(complete: bool) -> Self {
        Self { depth: 0, complete, directory: Vec::new(), pages: Vec::new(), incomplete: 0 }
    }

    #[inline]
    fn slot(&self, hash: u64) -> usize {
        if self.depth == 0 {
            0
        } else {
            usize::try_from(hash >> (64 - u32::from(self.depth))).unwrap_or(usize::MAX)
        }
    }

    /// The page of a hash, if there is any yet.
    #[inline]
    pub(in crate::store) fn page(&self, hash: u64) -> Option<&Page> {
        let page = *self.directory.get(self.slot(hash))?;
        self.pages.get(page as usize)
    }

    /// The first row of a hash: that of its key, but for chance.
    #[inline]
    pub(in crate::store) fn row(&self, hash: u64) -> Option<&Row> {
        self.page(hash)?.rows.find(bucket_hash(hash), |row| row.hash == hash)
    }

    /// The page of a hash; an empty table gets its first page.
    #[inline]
    pub(in crate::store) fn page_mut(&mut self, hash: u64) -> &mut Page {
        if self.pages.is_empty() {
            self.pages.push(Page::new(0, self.complete));
            self.directory.push(0);
            self.incomplete += u32::from(!self.complete);
        }
        let page = self.directory.get(self.slot(hash)).copied().expect("the directory covers all hashes");
        self.pages.get_mut(page as usize).expect("the directory names pages that exist")
    }

    /// Whether a key that is not here does not exist.
    #[inline]
    pub(in crate::store) fn is_complete(&self, hash: u64) -> bool {
        self.page(hash).map_or(self.complete, |page| page.complete)
    }

    /// Whether all keys that exist are here. Costs the same however many there are.
    #[inline]
    pub(in crate::store) const fn is_all_complete(&self) -> bool {
        if self.pages.is_empty() { self.complete } else { self.incomplete == 0 }
    }

    /// Checks what is counted against pages and rows.
    pub(in crate::store) fn check(&self) {
        let incomplete = self.pages.iter().filter(|page| !page.complete).count();
        assert_eq!(self.incomplete as usize, incomplete, "incomplete ones of {} pages", self.pages.len());
        for (at, page) in self.pages.iter().enumerate() {
            let count = |flag| page.rows.iter().filter(|row| row.has(flag)).count();
            let counted = (page.dirty as usize, page.tombstones as usize);
            assert_eq!(counted, (count(DIRTY), count(TOMBSTONE)), "changed rows and tombstones of a page");
            for row in &page.rows {
                let named = self.directory.get(self.slot(row.hash)).map(|page| *page as usize);
                // The directory goes first when a table is freed.
                assert!(named.is_none_or(|named| named == at), "a row is on the page of its hash");
                assert!(page.min_expire_ms <= row.expire_at_ms, "a row expires sooner than its page says");
            }
        }
    }

    /// Notes whether everything that exists on the page of `hash` is here.
    fn set_complete(&mut self, hash: u64, is_complete: bool) {
        let before = std::mem::replace(&mut self.page_mut(hash).complete, is_complete);
        self.incomplete = self.incomplete + u32::from(before) - u32::from(is_complete);
    }

    /// Notes that a row was dropped from the page of `hash` that the disk level has.
    pub(in crate::store) fn note_dropped(&mut self, hash: u64) {
        self.set_complete(hash, false);
    }

    /// The highest hash on the page of `hash`.
    pub(in crate::store) fn page_end(&self, hash: u64) -> u64 {
        match self.page(hash).map_or(0, |page| page.depth) {
            0 => u64::MAX,
            depth => hash | (u64::MAX >> depth),
        }
    }

    /// The lowest hash on the page of `hash`.
    pub(in crate::store) fn page_start(&self, hash: u64) -> u64 {
        match self.page(hash).map_or(0, |page| page.depth) {
            0 => 0,
            depth => hash & !(u64::MAX >> depth),
        }
    }

    /// Notes that everything that exists from the page of `from` to the hash `to` is here: the whole pages among these
    /// are complete.
    pub(in crate::store) fn complete_pages(&mut self, from: u64, to: u64) {
        let mut hash = self.page_start(from);
        while self.page(hash).is_some() {
            let end = self.page_end(hash);
            if end > to {
                return;
            }
            self.set_complete(hash, true);
            match end.checked_add(1) {
                Some(next) => hash = next,
                None => return,
            }
        }
    }

    /// Adds a row whose key is not here yet.
    pub(in crate::store) fn insert(&mut self, row: Row) {
        let hash = row.hash;
        while self.wants_split(hash) {
            self.split(hash);
        }
        self.page_mut(hash).add(row);
    }

    /// Whether the page of `hash` is full. A page that only a far larger directory could split (hashes alike in many
    /// leading bits) grows instead.
    fn wants_split(&mut self, hash: u64) -> bool {
        let (directory_depth, pages, slots) = (self.depth, self.pages.len(), self.directory.len());
        let page = self.page_mut(hash);
        let room = page.depth < directory_depth || slots <= 32 * pages;
        page.rows.len() >= PAGE_ROWS && page.depth < MAX_DEPTH && room
    }

    /// Splits the page of `hash` in two.
    fn split(&mut self, hash: u64) {
        let old_index =
            self.directory.get(self.slot(hash)).copied().expect("the directory covers all hashes");
        let start = self.page_start(hash);
        let page = self.pages.get_mut(old_index as usize).expect("the directory names pages that exist");
        let depth = page.depth + 1;
        let rows = std::mem::take(&mut page.rows);
        let (mut low, mut high) = (Page::new(depth, page.complete), Page::new(depth, page.complete));
        let half_bit = 1u64 << (64 - u32::from(depth));
        for row in rows {
            if row.hash & half_bit == 0 { low.add(row) } else { high.add(row) }
        }
        *page = low;
        self.incomplete += u32::from(!high.complete);
        if depth > self.depth {
            self.depth = depth;
            self.directory = self.directory.iter().flat_map(|page| [*page, *page]).collect();
        }
        let new_index = u32::try_from(self.pages.len()).expect("fewer than 2^32 pages");
        self.pages.push(high);
        let first = self.slot(start | half_bit);
        let slots = 1usize << (self.depth - depth);
        for slot in self.directory.iter_mut().skip(first).take(slots) {
            *slot = new_index;
        }
    }

    pub(in crate::store) fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// All pages, in no order.
    pub(in crate::store) fn pages(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter()
    }

    /// Takes the last page for freeing; the table must not be used for lookups any more.
    pub(in crate::store) fn pop_page(&mut self) -> Option<Page> {
        self.directory = Vec::new();
        let page = self.pages.pop()?;
        self.incomplete -= u32::from(!page.complete);
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use corduroy_wal::mix::scramble;

    use super::super::row::{Encoding, Stamp};
    use super::*;

    fn row(hash: u64, key: &[u8]) -> Row {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        Row::new(hash, key, b"", stamp, 1, 0)
    }

    #[test]
    fn pages_cover_all_hashes_in_order_while_they_split() {
        let mut table = Table::new(true);
        for n in 0..20_000u64 {
            table.insert(row(scramble(n), &n.to_le_bytes()));
        }
        assert!(table.page_count() > 40);
        let (mut at, mut rows, mut pages) = (0u64, 0, 0);
        loop {
            assert_eq!(table.page_start(at), at);
            let end = table.page_end(at);
            let page = table.page(at).expect("a page");
            assert!(page.rows.iter().all(|row| (at..=end).contains(&row.hash)));
            rows += page.rows.len();
            pages += 1;
            let Some(next) = end.checked_add(1) else { break };
            at = next;
        }
        assert_eq!((rows, pages), (20_000, table.page_count()));
        for n in 0..20_000u64 {
            let hash = scramble(n);
            assert!(table.page(hash).and_then(|page| page.find(hash, &n.to_le_bytes())).is_some());
        }
    }

    #[test]
    fn pages_that_are_not_complete_are_counted_whatever_becomes_of_them() {
        let empty = |complete| Table::new(complete).is_all_complete();
        assert!(empty(true) && !empty(false));
        let mut table = Table::new(false);
        (0..5_000u64).for_each(|n| table.insert(row(scramble(n), &n.to_le_bytes())));
        table.check();
        assert_eq!(
            table.incomplete as usize,
            table.page_count(),
            "as the first one, so those that it was split into"
        );
        table.complete_pages(0, u64::MAX / 2);
        table.check();
        assert!(table.incomplete > 0 && (table.incomplete as usize) < table.page_count());
        table.complete_pages(0, u64::MAX);
        table.complete_pages(0, u64::MAX);
        table.check();
        assert!(table.is_all_complete());
        (5_000..6_000u64).for_each(|n| table.insert(row(scramble(n), &n.to_le_bytes())));
        table.check();
        assert!(table.is_all_complete());
        [1, 1, 2].into_iter().for_each(|n| table.note_dropped(scramble(n)));
        table.check();
        assert!((1..=2).contains(&table.incomplete));
        (6_000..30_000u64).for_each(|n| table.insert(row(scramble(n), &n.to_le_bytes())));
        table.check();
        assert!(table.incomplete > 2, "their parts are not complete either");
        while table.pop_page().is_some() {
            table.check();
        }
    }

    #[test]
    fn hashes_that_all_collide_still_fit() {
        let mut table = Table::new(true);
        for n in 0..2_000u64 {
            table.insert(row(42, &n.to_le_bytes()));
        }
        assert!((0..2_000u64).all(|n| table.page_mut(42).find(42, &n.to_le_bytes()).is_some()));
    }
}
