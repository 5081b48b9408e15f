//! Taking an image over: its chunks are stored as they come, validated as a whole, and only then written, in one ingestion.

use std::collections::VecDeque;
use std::iter;

use corduroy_shards::PartitionId;
use corduroy_shards::image::ask::InstallError;
use corduroy_shards::image::transfer::ImageId;
use corduroy_shards::image::{Damage, Header, Item, Reader, Row};

use super::{Install, KEYSPACE, read_machine_section, read_stamp};
use crate::store::disk::format::{STORE_KEY, partition_key, row_key, row_value, store_value};
use crate::store::disk::{DiskError, DiskLevel, DiskRow, IngestError, Staging};
use crate::store::hash::HashSeed;
use crate::store::memory::absent::AbsentKeys;
use crate::store::memory::meta::{Installed, PartitionMeta};
use crate::store::memory::row::NO_EXPIRY;

/// What a row takes in a table beside its key and value, roughly.
const ROW_META_BYTES: u64 = 48;

/// Chunks that are stored, in order.
pub(in crate::store) struct Staged {
    pub(in crate::store) image: ImageId,
    staging: Box<dyn Staging>,
    /// The length of each.
    lengths: Vec<u32>,
    /// What all of them are of, once they were read.
    validated: Option<Box<(Header, Counted)>>,
}

/// What the rows of an image amount to.
#[derive(Default)]
struct Counted {
    keys: u64,
    expiring: u64,
    bytes: u64,
    machine: Option<(bool, AbsentKeys)>,
    /// The row before, as rows are ordered.
    last: Option<(u64, Vec<u8>)>,
}

impl Counted {
    fn add(&mut self, item: Item<'_>, install: &Install) -> Result<(), &'static str> {
        let Row { keyspace, version, stamp, key, value } = match item {
            Item::Section { number, bytes } => {
                self.machine = Some(read_machine_section(install.seed, number, bytes)?);
                return Ok(());
            }
            Item::Row(row) => row,
        };
        if keyspace != KEYSPACE {
            return Err("it is of a keyspace that this release does not have");
        }
        let stamp = read_stamp(version, stamp).ok_or("its stamp is none")?;
        let hash = install.seed.hash(key);
        let last = self.last.as_ref().map(|(hash, key)| (*hash, key.as_slice()));
        if last.is_some_and(|last| last >= (hash, key)) {
            return Err("rows are not in their order");
        }
        let (_, last) = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        if let Some(last) = &mut self.last {
            last.0 = hash;
        }
        self.keys += 1;
        self.expiring += u64::from(stamp.expire_at_ms != NO_EXPIRY);
        self.bytes += (key.len() + value.len()) as u64 + ROW_META_BYTES;
        Ok(())
    }
}

impl Staged {
    pub(super) fn new<L: DiskLevel>(disk: &L, image: ImageId) -> Result<Self, DiskError> {
        Ok(Self { image, staging: disk.stage()?, lengths: Vec::new(), validated: None })
    }

    /// The number of the chunk that is next.
    pub(in crate::store) fn next(&self) -> u32 {
        u32::try_from(self.lengths.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn append(&mut self, chunk: &[u8]) -> Result<(), DiskError> {
        self.staging.append(chunk)?;
        self.validated = None;
        self.lengths.push(u32::try_from(chunk.len()).expect("a chunk is short"));
        Ok(())
    }

    /// Validates all of it, then writes it in one step. Nothing has changed after an error.
    pub(super) fn install<L: DiskLevel>(
        mut self,
        disk: &L,
        install: &Install,
    ) -> Result<(Header, PartitionMeta), InstallError> {
        let (header, mut counted) =
            match self.validated.take().filter(|validated| is_of(&validated.0, install)) {
                Some(validated) => *validated,
                None => self.read_all(install)?,
            };
        let (is_written, absent) = counted
            .machine
            .take()
            .ok_or(Damage::Item { why: "its section of the state machine is missing" })?;
        let meta = PartitionMeta {
            applied: header.lsn,
            history: header.history,
            source_lsn: header.source_lsn,
            ops_done: 0,
            flush_version: install.flush_version,
            clock_ms: header.clock_ms,
            keys: counted.keys,
            expiring: counted.expiring,
            is_written,
            absent,
            installed: Some(Box::new(Installed {
                term: header.term,
                configuration: header.configuration.clone(),
            })),
        };
        let store = (STORE_KEY.to_vec(), Some(store_value(install.seed)));
        let head = (partition_key(install.partition), Some(meta.encode()));
        let bytes = counted.bytes + head.1.as_ref().map_or(0, Vec::len) as u64 + ROW_META_BYTES;
        let mut rows = Rows {
            staged: &mut self,
            install,
            reader: reader(install),
            next: 0,
            at: 0,
            ready: VecDeque::new(),
        };
        let mut rows = [Ok(store), Ok(head)].into_iter().chain(iter::from_fn(|| rows.next().transpose()));
        match disk.ingest_each(bytes, false, &mut rows) {
            Ok(()) => {}
            Err(why @ IngestError::NoRoom { .. }) => {
                return Err(InstallError::NoRoom { why: why.to_string() });
            }
            Err(IngestError::Failed(why)) => return Err(not_stored(&why)),
        }
        Ok((header, meta))
    }

    /// Reads all of it, and looks whether it is what is to be installed.
    pub(super) fn validate(&mut self, install: &Install) -> Result<Header, InstallError> {
        let (header, counted) = self.read_all(install)?;
        self.validated = Some(Box::new((header.clone(), counted)));
        Ok(header)
    }

    fn read_all(&mut self, install: &Install) -> Result<(Header, Counted), InstallError> {
        let (mut reader, mut counted, mut at) = (reader(install), Counted::default(), 0);
        for number in 0..self.lengths.len() {
            let chunk = self.chunk(number, &mut at).map_err(|why| not_stored(&why))?;
            reader.push(&chunk, &mut |item| counted.add(item, install))?;
        }
        let header = reader.finish()?;
        if !is_of(&header, install) {
            return Err(InstallError::Another { found: Box::new(header) });
        }
        Ok((header, counted))
    }

    /// A chunk that begins `at` that many bytes; behind it the next one does.
    fn chunk(&mut self, number: usize, at: &mut u64) -> Result<Vec<u8>, DiskError> {
        let length = self.lengths.get(number).copied().unwrap_or_default();
        let chunk = self.staging.read(*at, length as usize)?;
        *at += u64::from(length);
        Ok(chunk)
    }
}

/// Replaces partitions by nothing, all in one step: what is left of each says that nothing was applied to it, and that no rows below
/// its number are its own.
pub(super) fn clear<L: DiskLevel>(
    disk: &L,
    partitions: &[(PartitionId, u64)],
    seed: HashSeed,
) -> Result<Vec<(PartitionId, PartitionMeta)>, IngestError> {
    let meta = |flush_version| PartitionMeta { flush_version, ..PartitionMeta::default() };
    let metas: Vec<_> = partitions.iter().map(|(id, flush_version)| (*id, meta(*flush_version))).collect();
    let store = (STORE_KEY.to_vec(), Some(store_value(seed)));
    let heads = metas.iter().map(|(id, meta)| (partition_key(*id), Some(meta.encode())));
    let rows: Vec<_> = iter::once(store).chain(heads).collect();
    let bytes = rows.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64);
    let bytes = bytes.map(|bytes| bytes + ROW_META_BYTES).sum();
    disk.ingest_each(bytes, true, &mut rows.into_iter().map(Ok))?;
    Ok(metas)
}

/// Whether an image is the one that is to be installed.
fn is_of(header: &Header, install: &Install) -> bool {
    header.partition == install.partition && (header.lsn, header.term) == install.last
}

fn not_stored(why: &DiskError) -> InstallError {
    InstallError::NotStored { why: why.to_string() }
}

fn reader(install: &Install) -> Reader {
    Reader::new(install.item_bytes_max).with_pieces_of(install.chunk_bytes)
}

/// The rows of a validated image, as the disk level keeps them.
struct Rows<'s> {
    staged: &'s mut Staged,
    install: &'s Install,
    reader: Reader,
    /// The chunk that is next, and where it begins.
    next: usize,
    at: u64,
    /// Rows of the chunk that was read last.
    ready: VecDeque<DiskRow>,
}

impl Rows<'_> {
    fn next(&mut self) -> Result<Option<DiskRow>, DiskError> {
        while self.ready.is_empty() && self.next < self.staged.lengths.len() {
            let chunk = self.staged.chunk(self.next, &mut self.at)?;
            self.next += 1;
            let (install, ready) = (self.install, &mut self.ready);
            let read = self.reader.push(&chunk, &mut |item| {
                let Item::Row(Row { version, stamp, key, value, .. }) = item else { return Ok(()) };
                let stamp = read_stamp(version, stamp).ok_or("its stamp is none")?;
                let hash = install.seed.hash(key);
                let row = row_key(install.partition, install.flush_version, hash, key);
                ready.push_back((row, Some(row_value(stamp, value))));
                Ok(())
            });
            // It was validated: what is stored reads otherwise than a moment ago.
            read.map_err(|damage| DiskError::layout(format!("a stored image ({damage})")))?;
        }
        Ok(self.ready.pop_front())
    }
}
