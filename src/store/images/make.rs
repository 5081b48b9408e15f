//! Making an image: chunk by chunk, of one version of the disk level.

use std::collections::VecDeque;

use corduroy_shards::PartitionId;
use corduroy_shards::image::{Header, Row, SECTION_MACHINE, Writer};
use corduroy_wal::{Lsn, Term};

use super::{KEYSPACE, machine_section, stamp_bytes};
use crate::store::disk::format::{keyspace_end, partition_key, read_row_key, read_row_value, row_key};
use crate::store::disk::{DiskError, DiskLevel, Pinned};
use crate::store::hash::HashSeed;
use crate::store::memory::meta::PartitionMeta;

/// An image that is being made. It holds the longest row and a chunk, and one version of the disk level.
pub(in crate::store) struct Making {
    partition: PartitionId,
    seed: HashSeed,
    chunk_bytes: usize,
    meta: PartitionMeta,
    pinned: Pinned,
    writer: Option<Writer>,
    /// The last chunks, once all rows were read.
    last: VecDeque<Vec<u8>>,
}

impl Making {
    /// Begins one of the point that the disk level has. `None`: it is inside an entry, or before `at_least`.
    pub(super) fn open<L: DiskLevel>(
        disk: &L,
        partition: PartitionId,
        at_least: Lsn,
        (seed, chunk_bytes): (HashSeed, usize),
    ) -> Result<Option<Self>, DiskError> {
        let mut read = None;
        let pinned = disk.pin(&partition_key(partition), &mut |value| {
            let meta = PartitionMeta::decode(value);
            let is_usable = |meta: &PartitionMeta| meta.ops_done == 0 && meta.applied >= at_least;
            let range = meta.as_ref().filter(|meta| is_usable(meta)).map(|meta| {
                let flush_version = meta.flush_version;
                (row_key(partition, flush_version, 0, b""), keyspace_end(partition, flush_version))
            });
            read = Some(meta);
            range
        })?;
        match read {
            Some(None) => Err(DiskError::layout("a partition's row")),
            Some(Some(meta)) => Ok(pinned.map(|pinned| Self {
                partition,
                seed,
                chunk_bytes,
                meta,
                pinned,
                writer: None,
                last: VecDeque::new(),
            })),
            None => Ok(None),
        }
    }

    /// The last entry that it includes.
    pub(in crate::store) const fn lsn(&self) -> Lsn {
        self.meta.applied
    }

    /// The first chunk.
    pub(super) fn begin(&mut self, term: Term, configuration: Vec<u8>) -> Vec<u8> {
        let header = Header {
            partition: self.partition,
            history: self.meta.history,
            lsn: self.meta.applied,
            term,
            source_lsn: self.meta.source_lsn,
            clock_ms: self.meta.clock_ms,
            configuration,
        };
        let (writer, first) = Writer::new(&header);
        let mut writer = writer.with_pieces_of(self.chunk_bytes);
        writer.section(SECTION_MACHINE, &machine_section(self.seed, &self.meta));
        self.writer = Some(writer);
        first
    }

    /// The next chunk, and whether it is the last one. Rows that have expired by the partition's clock are left out: each
    /// replica removes them when it likes, and so all have the same image.
    pub(super) fn next(&mut self) -> Result<(Vec<u8>, bool), DiskError> {
        while let Some(writer) = &mut self.writer {
            if let Some(chunk) = writer.take_chunk() {
                return Ok((chunk, false));
            }
            let Some(row) = self.pinned.rows.next() else { break };
            let (row, value) = row?;
            let layout = || DiskError::layout(format!("a row of partition {}", self.partition));
            let (_, key) = read_row_key(&row).ok_or_else(layout)?;
            let (stamp, value) = read_row_value(&value).ok_or_else(layout)?;
            if stamp.expire_at_ms > self.meta.clock_ms {
                let stamped = stamp_bytes(stamp);
                let (keyspace, version) = (KEYSPACE, stamp.version);
                writer.row(&Row { keyspace, version, stamp: &stamped, key, value });
            }
        }
        if let Some(writer) = self.writer.take() {
            self.last = writer.finish().0.into();
        }
        let chunk = self.last.pop_front();
        let chunk = chunk.ok_or_else(|| DiskError::layout("an image that has ended, or was not begun"))?;
        Ok((chunk, self.last.is_empty()))
    }
}
