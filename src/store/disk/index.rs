//! Indexes and filters of tables in memory, in a form of our own, so that a row costs one read of its table.
//!
//! The library reads an index block and a filter block for each lookup, through its cache of blocks. A row's key begins
//! with its keyspace and the key's hash, so of the last key of a block these are enough to know which block a key may be in:
//! 12 bytes a block, where the library's index has the whole key. Where two keys of a hash meet at the end of a block, the
//! next block is looked at too. A table gets its index when it has been asked some times, if the budget allows; without,
//! and after any error, the library is asked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lsm_tree::table::block::BlockType;
use lsm_tree::table::filter::block::FilterBlock;
use lsm_tree::table::{Block, BlockHandle, BlockOffset, IndexBlock};
use lsm_tree::{CompressionType, Table};

use super::format::{ROWS, ROWS_OF_DEFAULT};

/// What a block takes in an index: the hash of its last key and its offset.
const BLOCK_BYTES: u64 = 12;
/// What a filter block takes beside its bytes, with what the allocator rounds it up by.
const FILTER_META_BYTES: u64 = 1024;
/// An index, or a filter, of more bytes than this is left to the library.
const REGION_BYTES: u32 = 8 << 20;

/// What a key begins with before its hash, and the hash: keys are in the order of both, of those that have the same the
/// rest decides. A key that is not a row's is as a whole what it begins with.
pub(super) fn split_row_key(key: &[u8]) -> Option<(&[u8], u64)> {
    let prefix_bytes = match *key.first()? {
        ROWS_OF_DEFAULT => 17,
        ROWS => 25,
        _ => return Some((key, 0)),
    };
    let (prefix, rest) = key.split_at_checked(prefix_bytes)?;
    Some((prefix, u64::from_be_bytes(*rest.first_chunk()?)))
}

/// What may be taken together: bytes of indexes, or open files.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) const fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// What is taken now.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether there is as much left.
    pub(super) fn has(&self, amount: u64) -> bool {
        self.used().saturating_add(amount) <= self.limit
    }

    /// A share of it, if there is as much left.
    fn take(self: &Arc<Self>, amount: u64) -> Option<Share> {
        let left = |used: u64| used.checked_add(amount).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).ok()?;
        Some(Share { budget: Arc::clone(self), amount })
    }
}

/// A part of a budget; it is given back when it is dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    amount: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// What indexes take of what there is for the trees of a core.
#[derive(Clone, Debug)]
pub(super) struct Budgets {
    pub(super) index_bytes: Arc<Budget>,
    /// Files that stay open for as long as their tables have an index.
    pub(super) files: Arc<Budget>,
}

/// Blocks that begin with the same keyspace.
#[derive(Debug)]
struct Space {
    prefix: Box<[u8]>,
    /// The first block whose last key is of it.
    first: u32,
}

/// The last keys of blocks, as far as an index has them.
#[derive(Debug, Default)]
struct Fences {
    /// In order.
    spaces: Vec<Space>,
    /// Of each block's last key; ascending in a space.
    hashes: Vec<u64>,
}

/// How many of these, which ascend, are below `hash`. As hashes are spread evenly, it is looked for where it should be, and
/// from there on in steps that grow: that touches less memory than to halve all of them again and again.
fn count_below(hashes: &[u64], hash: u64) -> usize {
    let (Some(&low), Some(&high)) = (hashes.first(), hashes.last()) else { return 0 };
    if hash <= low {
        return 0;
    }
    if hash > high {
        return hashes.len();
    }
    let part = (hash - low) as f64 / (high - low) as f64;
    let guess = ((hashes.len() - 1) as f64 * part) as usize;
    let is_below = |at: usize| hashes.get(at).is_some_and(|at| *at < hash);
    let (mut from, mut to, mut step) = (guess, guess, 8);
    if is_below(guess) {
        while is_below(to) {
            (from, to) = (to, (to + step).min(hashes.len()));
            step *= 2;
        }
    } else {
        while from > 0 && !is_below(from) {
            (from, to) = (from.saturating_sub(step), from);
            step *= 2;
        }
    }
    from + hashes.get(from..to).map_or(0, |near| near.partition_point(|at| *at < hash))
}

impl Fences {
    /// Adds the last key of the next block; false if it is not one of ours, or below the one before.
    fn push(&mut self, key: &[u8]) -> bool {
        let Some((prefix, hash)) = split_row_key(key) else { return false };
        let last = self.spaces.last().zip(self.hashes.last());
        if last.is_some_and(|(space, last)| (&*space.prefix, *last) > (prefix, hash)) {
            return false;
        }
        if self.spaces.last().is_none_or(|last| *last.prefix != *prefix) {
            let first = u32::try_from(self.hashes.len()).expect("a table has fewer blocks");
            self.spaces.push(Space { prefix: prefix.into(), first });
        }
        self.hashes.push(hash);
        true
    }

    /// The first block that may hold a key; `None` if it lies above all.
    fn find(&self, prefix: &[u8], hash: u64) -> Option<usize> {
        let at = self.spaces.partition_point(|space| *space.prefix < *prefix);
        let space = self.spaces.get(at)?;
        let first = space.first as usize;
        if *space.prefix != *prefix {
            return Some(first);
        }
        let end = self.spaces.get(at + 1).map_or(self.hashes.len(), |next| next.first as usize);
        let below = count_below(self.hashes.get(first..end)?, hash);
        (first + below < self.hashes.len()).then_some(first + below)
    }

    /// Whether a key that `find` found a block for may be in the next one as well.
    fn goes_on(&self, block: usize, hash: u64) -> bool {
        self.hashes.get(block) == Some(&hash) && block + 1 < self.hashes.len()
    }

    fn bytes(&self) -> u64 {
        let spaces: usize = self.spaces.iter().map(|space| size_of::<Space>() + space.prefix.len()).sum();
        (spaces + size_of_val(self.hashes.as_slice())) as u64
    }
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct TableIndex {
    fences: Fences,
    /// Where each block begins, and the last one ends.
    offsets: Vec<u32>,
    /// Of the blocks of the filter, if it has some.
    filter_fences: Fences,
    filters: Vec<Filter>,
    /// The table's, where it may stay open.
    file: Option<(Arc<File>, Share)>,
    _share: Share,
}

/// A block of a filter.
struct Filter(FilterBlock);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.size())
    }
}

/// A table's filter and index, as it has them.
struct Parts<'a> {
    table: &'a Table,
    file: &'a File,
}

impl Parts<'_> {
    fn block(&self, handle: BlockHandle, wanted: BlockType, compression: CompressionType) -> Option<Block> {
        let block = Block::from_file(self.file, handle, compression).ok()?;
        (block.header.block_type == wanted).then_some(block)
    }

    /// Visits the last key, the offset and the size of each block that an index names. False if one is refused.
    fn visit(index: Block, mut visit: impl FnMut(&[u8], u64, u32) -> bool) -> bool {
        let index = IndexBlock::new(index);
        let bytes = index.as_slice();
        index.iter().all(|item| {
            // Each key is whole: indexes are written without shared prefixes.
            let key = bytes.get(item.end_key.0..item.end_key.1).filter(|_| item.prefix.is_none());
            key.is_some_and(|key| visit(key, *item.offset, item.size))
        })
    }

    /// Reads blocks that lie one after another at once, if they are few: an index of very long keys is as large as its table.
    fn region(&self, handle: BlockHandle) -> Option<(u64, Vec<u8>)> {
        if handle.size() > REGION_BYTES {
            return None;
        }
        let mut bytes = vec![0; handle.size() as usize];
        self.file.read_exact_at(&mut bytes, *handle.offset()).ok()?;
        Some((*handle.offset(), bytes))
    }

    fn part(
        region: &(u64, Vec<u8>),
        (offset, size): (u64, u32),
        wanted: BlockType,
        compression: CompressionType,
    ) -> Option<Block> {
        let from = usize::try_from(offset.checked_sub(region.0)?).ok()?;
        let mut bytes = region.1.get(from..from.checked_add(size as usize)?)?;
        let block = Block::from_reader(&mut bytes, compression).ok()?;
        (block.header.block_type == wanted).then_some(block)
    }

    /// Where the blocks of rows are.
    fn index(&self) -> Option<(Fences, Vec<u32>)> {
        let (regions, compression) = (&self.table.regions, self.table.metadata.index_block_compression);
        let (mut fences, mut offsets, mut end) = (Fences::default(), Vec::new(), 0);
        let blocks = usize::try_from(self.table.metadata.data_block_count).ok()?;
        fences.hashes.reserve_exact(blocks);
        offsets.reserve_exact(blocks + 1);
        let mut add = |key: &[u8], offset: u64, size: u32| {
            let is_next = offset == end;
            end += u64::from(size);
            is_next && u32::try_from(offset).map(|at| offsets.push(at)).is_ok() && fences.push(key)
        };
        let top = self.block(regions.tli, BlockType::Index, compression)?;
        let is_whole = match regions.index {
            None => Self::visit(top, add),
            Some(region) => {
                let region = self.region(region)?;
                Self::visit(top, |_, offset, size| {
                    Self::part(&region, (offset, size), BlockType::Index, compression)
                        .is_some_and(|part| Self::visit(part, &mut add))
                })
            }
        };
        offsets.push(u32::try_from(end).ok()?);
        (is_whole && fences.hashes.len() == blocks).then_some((fences, offsets))
    }

    fn filters(&self) -> Option<(Fences, Vec<Filter>)> {
        let (mut fences, mut filters) = (Fences::default(), Vec::new());
        let Some(filter) = self.table.regions.filter else { return Some((fences, filters)) };
        let Some(top) = self.table.regions.filter_tli else {
            let whole = self.block(filter, BlockType::Filter, CompressionType::None)?;
            return Some((fences, vec![Filter(FilterBlock::new(whole))]));
        };
        let top = self.block(top, BlockType::Index, self.table.metadata.index_block_compression)?;
        let region = self.region(filter)?;
        let is_whole = Self::visit(top, |key, offset, size| {
            let part = Self::part(&region, (offset, size), BlockType::Filter, CompressionType::None);
            part.is_some_and(|part| {
                filters.push(Filter(FilterBlock::new(part)));
                fences.push(key)
            })
        });
        is_whole.then_some((fences, filters))
    }
}

impl TableIndex {
    /// What it takes at most for a table, roughly: what it takes beyond is taken from the budget afterwards.
    pub(super) fn expected_bytes(table: &Table) -> u64 {
        let filter_bytes = table.regions.filter.map_or(0, |filter| u64::from(filter.size()));
        table.metadata.data_block_count * BLOCK_BYTES + filter_bytes + filter_bytes / 4096 * FILTER_META_BYTES
    }

    /// Reads a table's index and filter; `None` if the budget does not allow it, or they are not as they should be.
    pub(super) fn read(table: &Table, file: Arc<File>, budgets: &Budgets) -> Option<Self> {
        let budget = &budgets.index_bytes;
        let expected = budget.take(Self::expected_bytes(table))?;
        let parts = Parts { table, file: &file };
        let (fences, offsets) = parts.index()?;
        let (filter_fences, filters) = parts.filters()?;
        let filter_bytes: usize = filters.iter().map(|Filter(filter)| filter.size()).sum();
        let offset_bytes = size_of_val(offsets.as_slice());
        let meta_bytes = filters.len() as u64 * FILTER_META_BYTES;
        let bytes =
            fences.bytes() + filter_fences.bytes() + (filter_bytes + offset_bytes) as u64 + meta_bytes;
        drop(expected);
        let share = budget.take(bytes)?;
        let file = budgets.files.take(1).map(|share| (file, share));
        Some(Self { fences, offsets, filter_fences, filters, file, _share: share })
    }

    /// The table's file, if it stays open.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref().map(|(file, _)| file)
    }

    /// Visits the blocks that may hold a row, in order, until `look` finds it; `filter_hash` is the library's.
    pub(super) fn find<T, E: From<lsm_tree::Error>>(
        &self,
        (prefix, hash): (&[u8], u64),
        filter_hash: u64,
        mut look: impl FnMut(usize, BlockHandle) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        if !self.may_have((prefix, hash), filter_hash)? {
            return Ok(None);
        }
        let mut at = self.fences.find(prefix, hash);
        while let Some(block) = at {
            let Some(handle) = self.handle(block) else { return Ok(None) };
            let found = look(block, handle)?;
            if found.is_some() {
                return Ok(found);
            }
            at = self.fences.goes_on(block, hash).then_some(block + 1);
        }
        Ok(None)
    }

    /// Whether the table may have a key; `filter_hash` is the library's.
    fn may_have(&self, (prefix, hash): (&[u8], u64), filter_hash: u64) -> lsm_tree::Result<bool> {
        let at = if self.filter_fences.hashes.is_empty() {
            Some(0)
        } else {
            self.filter_fences.find(prefix, hash)
        };
        // Above the last one, or where a hash is on either side of a fence, the filter does not say.
        let Some(at) = at.filter(|at| !self.filter_fences.goes_on(*at, hash)) else { return Ok(true) };
        let Some(Filter(filter)) = self.filters.get(at) else { return Ok(true) };
        filter.maybe_contains_hash(filter_hash)
    }

    fn handle(&self, block: usize) -> Option<BlockHandle> {
        let (from, to) = (*self.offsets.get(block)?, *self.offsets.get(block + 1)?);
        Some(BlockHandle::new(BlockOffset(u64::from(from)), to - from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: u64, hash: u64, name: &str) -> Vec<u8> {
        super::super::format::row_key(corduroy_shards::PartitionId(partition), 0, hash, name.as_bytes())
    }

    #[test]
    fn a_key_is_looked_for_in_the_first_block_that_may_have_it() {
        let ends = [key(1, 5, "b"), key(1, 9, "b"), key(1, 9, "d"), key(3, 2, "a")];
        let mut fences = Fences::default();
        assert!(ends.iter().all(|end| fences.push(end)));
        let all =
            [key(0, 7, ""), key(1, 5, "a"), key(1, 5, "c"), key(1, 9, "c"), key(1, 10, ""), key(2, 0, "")];
        for key in all.iter().chain(&ends).chain(&[key(3, 2, ""), key(3, 1, "z")]) {
            let (prefix, hash) = split_row_key(key).expect("a row's key");
            let wanted = ends.iter().position(|end| end >= key).expect("below the last one");
            let mut found = fences.find(prefix, hash).expect("below the last one");
            while found < wanted {
                assert!(fences.goes_on(found, hash), "{key:?}: {found} and not {wanted}");
                found += 1;
            }
            assert_eq!(found, wanted, "{key:?}");
        }
        for above in [key(3, 3, ""), key(4, 0, "")] {
            let (prefix, hash) = split_row_key(&above).expect("a row's key");
            assert_eq!(fences.find(prefix, hash), None);
        }
        assert!(!fences.push(&[2, 0]), "a row's key is longer");
    }

    #[test]
    fn hashes_are_counted_however_they_are_spread() {
        let even: Vec<u64> = (0..1000).map(corduroy_wal::mix::scramble).collect();
        let narrow: Vec<u64> = (0..1000).map(|number| 5 + number / 3).collect();
        let far: Vec<u64> = [0; 500].into_iter().chain((0..500).map(|number| u64::MAX - number)).collect();
        for mut hashes in [vec![], vec![7], vec![7, 7], even, narrow, far] {
            hashes.sort_unstable();
            let near = hashes.iter().flat_map(|hash| [hash.saturating_sub(1), *hash, hash.saturating_add(1)]);
            for hash in near.chain([0, 1 << 63, u64::MAX]) {
                let expected = hashes.partition_point(|at| *at < hash);
                assert_eq!(count_below(&hashes, hash), expected, "{hash} of {}", hashes.len());
            }
        }
    }

    #[test]
    fn a_budget_gives_what_is_left_and_takes_it_back() {
        let budget = Arc::new(Budget::new(100));
        let share = budget.take(60).expect("there is as much");
        assert!(budget.take(41).is_none() && budget.take(u64::MAX).is_none());
        assert!(budget.has(40) && !budget.has(41) && !budget.has(u64::MAX));
        let rest = budget.take(40).expect("there is as much");
        assert_eq!(budget.used(), 100);
        drop((share, rest));
        assert_eq!(budget.used(), 0);
    }
}
