//! Reading blocks of rows: in jobs, which wait for the disk; and on the core, which waits for nothing.
//!
//! Most blocks that a core wants lie in the system's page cache. To copy one from there takes about a microsecond, less than
//! to wake another thread for it. So the core asks the system for what it can bring without waiting, and leaves the rest,
//! and all that is not as it should be, to a job: what comes of a damaged block is found out there alone.

use std::cell::RefCell;
use std::fs::File;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lsm_tree::table::block::BlockType;
use lsm_tree::table::{Block, BlockHandle, DataBlock};
use lsm_tree::{InternalValue, Table};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::index::{Budgets, TableIndex, split_row_key};
use super::tree::ABOVE_ALL;
use super::view::ViewedTable;

/// A longer block is left to a job: to copy and to check it takes as long as some tens of others.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// After many reads in a row that would have had to wait, so many are not tried: the system may begin to read ahead for each
/// that is, which takes the core ten times as long as a copy.
const UNTRIED_MAX: u32 = 63;

/// Reads rows one after another, of which neighbours may be in one block.
pub(super) struct BlockReader<F> {
    budgets: Budgets,
    /// Opens a table's file.
    open: F,
    file: Option<(u64, Arc<File>)>,
    block: Option<(u64, usize, DataBlock)>,
}

impl<F: Fn(&Table) -> std::io::Result<Arc<File>>> BlockReader<F> {
    pub(super) const fn new(budgets: Budgets, open: F) -> Self {
        Self { budgets, open, file: None, block: None }
    }

    fn file(&mut self, table: &Table) -> std::io::Result<Arc<File>> {
        if let Some((_, file)) = self.file.as_ref().filter(|(id, _)| *id == table.id()) {
            return Ok(Arc::clone(file));
        }
        let file = (self.open)(table)?;
        self.file = Some((table.id(), Arc::clone(&file)));
        Ok(file)
    }

    /// Looks for a key in a table.
    pub(super) fn find(
        &mut self,
        viewed: &ViewedTable,
        key: &[u8],
        filter_hash: u64,
    ) -> lsm_tree::Result<Option<InternalValue>> {
        let table = &viewed.table;
        match (viewed.index_or_make(&self.budgets, || (self.open)(table))?, split_row_key(key)) {
            (Some(index), Some(row)) => index.find(row, filter_hash, |number, handle| {
                let block = self.block(viewed, index, number, handle)?;
                Ok(block.point_read(key, ABOVE_ALL))
            }),
            (None, _) | (_, None) => table.get(key, ABOVE_ALL, filter_hash),
        }
    }

    fn block(
        &mut self,
        viewed: &ViewedTable,
        index: &TableIndex,
        number: usize,
        handle: BlockHandle,
    ) -> lsm_tree::Result<&DataBlock> {
        let table = &viewed.table;
        let kept = self.block.take().filter(|(id, at, _)| *id == table.id() && *at == number);
        let block = match kept {
            Some((_, _, block)) => block,
            None => {
                let file = index.file().map_or_else(|| self.file(table), |file| Ok(Arc::clone(file)))?;
                let block = Block::from_file(&file, handle, table.metadata.data_block_compression)?;
                if block.header.block_type != BlockType::Data {
                    return Err(lsm_tree::Error::InvalidTag(("BlockType", block.header.block_type.into())));
                }
                DataBlock::new(block)
            }
        };
        let (_, _, block) = self.block.insert((table.id(), number, block));
        Ok(block)
    }
}

/// Why a core does not get a row.
#[derive(Debug)]
pub(super) enum NotNow {
    /// The table has no index or no open file yet, or its block is not in the page cache.
    Waits,
    /// Something is not as it should be. A job finds out what.
    Bad,
}

impl From<lsm_tree::Error> for NotNow {
    fn from(_: lsm_tree::Error) -> Self {
        Self::Bad
    }
}

thread_local! {
    /// What a core copies blocks into.
    static COPY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How reads of the page cache went of late.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    /// Reads that are not tried.
    untried: AtomicU32,
    /// How many will not be after the next one in vain.
    next: AtomicU32,
}

impl PageCache {
    /// Whether a read is worth a try.
    fn may_try(&self) -> bool {
        let untried = self.untried.load(Ordering::Relaxed);
        self.untried.store(untried.saturating_sub(1), Ordering::Relaxed);
        untried == 0
    }

    fn note(&self, was_there: bool) {
        let next = if was_there { 0 } else { (self.next.load(Ordering::Relaxed) * 2 + 1).min(UNTRIED_MAX) };
        self.next.store(next, Ordering::Relaxed);
        self.untried.store(next, Ordering::Relaxed);
    }

    /// Looks for a key in a table; adds to `read_bytes` what it copies.
    pub(super) fn find(
        &self,
        viewed: &ViewedTable,
        key: &[u8],
        filter_hash: u64,
        read_bytes: &mut usize,
    ) -> Result<Option<InternalValue>, NotNow> {
        let index = viewed.index().ok_or(NotNow::Waits)?;
        let file = index.file().ok_or(NotNow::Waits)?;
        let row = split_row_key(key).ok_or(NotNow::Waits)?;
        index.find(row, filter_hash, |_, handle| {
            let block = self.block(&viewed.table, file, handle)?;
            *read_bytes += handle.size() as usize;
            Ok(block.point_read(key, ABOVE_ALL))
        })
    }

    fn block(&self, table: &Table, file: &File, handle: BlockHandle) -> Result<DataBlock, NotNow> {
        let bytes = handle.size() as usize;
        if bytes > BLOCK_BYTES_MAX || !self.may_try() {
            return Err(NotNow::Waits);
        }
        COPY.with_borrow_mut(|copy| {
            if copy.len() < bytes {
                copy.resize(bytes, 0);
            }
            let copy = copy.get_mut(..bytes).expect("it is as long");
            let read = preadv2(file, &mut [IoSliceMut::new(copy)], *handle.offset(), ReadWriteFlags::NOWAIT);
            self.note(read == Ok(bytes));
            match read {
                Ok(read) if read == bytes => {}
                // A part of it is in the page cache.
                Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Err(NotNow::Waits),
                Err(_) => return Err(NotNow::Bad),
            }
            let mut rest = &*copy;
            let block = Block::from_reader(&mut rest, table.metadata.data_block_compression)?;
            if block.header.block_type != BlockType::Data || !rest.is_empty() {
                return Err(NotNow::Bad);
            }
            Ok(DataBlock::new(block))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_vain_are_tried_ever_less_until_one_is_not() {
        let cache = PageCache::default();
        let tried = |was_there: bool, reads: u32| {
            let tries = (0..reads).filter(|_| cache.may_try());
            tries.inspect(|_| cache.note(was_there)).count()
        };
        assert_eq!(tried(true, 100), 100);
        // The 1st, the 3rd, the 7th, and so on.
        assert_eq!(tried(false, 127), 7);
        assert_eq!(tried(false, 64 * 10), 10);
        assert_eq!(tried(true, 64), 1);
        assert_eq!(tried(true, 100), 100);
    }
}
