//! Images of a machine that holds all it has in memory: made and taken over at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use corduroy_wal::Lsn;

use super::ask::{ImageAsk, ImageEvent, InstallError};
use super::transfer::ImageId;
use super::{Header, Item, Reader, Row, Writer};
use crate::ids::{KeyspaceId, PartitionId};

/// The longest item of such a machine, bytes.
const ITEM_BYTES_MAX: usize = 64 << 20;

/// What a partition of such a machine holds: pairs by key.
pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A machine that holds all it has in memory.
pub trait Holds {
    /// What it has persisted of a partition: the last entry, the highest stamp, and the rows as of that entry. `None`: nothing.
    fn persisted(&self, partition: PartitionId) -> Option<(Lsn, u64, Pairs)>;

    /// The last entry that was applied to the partition.
    fn applied(&self, partition: PartitionId) -> Lsn;

    /// Replaces the partition by what an image has, durably, with the header as a mark that stays until an entry is
    /// applied.
    ///
    /// # Errors
    /// Why the rows are none of this machine. Nothing has changed then.
    fn replace(&mut self, header: &Header, rows: Pairs) -> Result<(), &'static str>;

    /// Has what was applied persisted soon.
    fn want_flush(&mut self);
}

/// An image that is being made.
#[derive(Debug)]
struct Open {
    header: Header,
    rows: Pairs,
    chunks: VecDeque<Vec<u8>>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct SmallImages {
    opens: BTreeMap<u64, Open>,
    /// Asked, and as of an entry that is not persisted yet.
    waiting: Vec<(u64, PartitionId, Lsn)>,
    stored: BTreeMap<PartitionId, (ImageId, Vec<Bytes>)>,
    events: Vec<ImageEvent>,
}

impl SmallImages {
    /// Does what is asked.
    pub fn ask(&mut self, ask: ImageAsk, machine: &mut impl Holds) {
        match ask {
            ImageAsk::Open { number, partition, at_least } => {
                self.waiting.push((number, partition, at_least));
                self.retry(machine);
            }
            ImageAsk::Begin { number, term, configuration } => {
                if let Some(open) = self.opens.get_mut(&number) {
                    (open.header.term, open.header.configuration) = (term, configuration);
                    open.chunks = chunks(&open.header, &std::mem::take(&mut open.rows));
                    self.next(number);
                }
            }
            ImageAsk::Next { number } => self.next(number),
            ImageAsk::Close { number } => {
                self.opens.remove(&number);
                self.waiting.retain(|(waiting, _, _)| *waiting != number);
            }
            ImageAsk::Store { partition, image, number, chunk } => {
                if number == 0 {
                    self.stored.insert(partition, (image, Vec::new()));
                }
                let stored = self.stored.get_mut(&partition);
                let stored = stored.filter(|stored| stored.0 == image && stored.1.len() == number as usize);
                let is_stored = stored.map(|stored| stored.1.push(chunk)).is_some();
                self.events.push(ImageEvent::Stored { partition, image, number, is_stored });
            }
            ImageAsk::Validate { partition, image, last } => {
                let stored = self.stored.get(&partition).filter(|stored| stored.0 == image);
                let result =
                    stored.ok_or_else(|| InstallError::NotStored { why: "there is none".to_owned() });
                let result = result.and_then(|(_, chunks)| read(chunks, partition, last));
                let result = result.map(|(header, _)| header);
                if result.is_err() {
                    self.stored.remove(&partition);
                }
                self.events.push(ImageEvent::Validated { partition, image, result });
            }
            ImageAsk::Install { partition, image, last } => {
                let stored = self.stored.remove(&partition).filter(|stored| stored.0 == image);
                let result =
                    stored.ok_or_else(|| InstallError::NotStored { why: "there is none".to_owned() });
                let result = result.and_then(|(_, chunks)| install(&chunks, partition, last, machine));
                self.events.push(ImageEvent::Installed { partition, image, result });
            }
            ImageAsk::Drop { partition, image } => {
                if self.stored.get(&partition).is_some_and(|stored| stored.0 == image) {
                    self.stored.remove(&partition);
                }
            }
        }
    }

    /// Something was persisted: what waits for that may be there.
    pub fn retry(&mut self, machine: &mut impl Holds) {
        let Self { opens, waiting, events, .. } = self;
        waiting.retain(|(number, partition, at_least)| {
            let Some((lsn, clock_ms, rows)) =
                machine.persisted(*partition).filter(|held| held.0 >= *at_least)
            else {
                return true;
            };
            let header = Header {
                partition: *partition,
                history: 0,
                lsn,
                term: corduroy_wal::Term::ZERO,
                source_lsn: lsn,
                clock_ms,
                configuration: Vec::new(),
            };
            opens.insert(*number, Open { header, rows, chunks: VecDeque::new() });
            events.push(ImageEvent::Opened { number: *number, lsn });
            false
        });
        if !waiting.is_empty() {
            machine.want_flush();
        }
    }

    fn next(&mut self, number: u64) {
        let Some(open) = self.opens.get_mut(&number) else { return };
        if let Some(chunk) = open.chunks.pop_front() {
            let is_end = open.chunks.is_empty();
            self.events.push(ImageEvent::Chunk { number, chunk: chunk.into(), is_end });
        }
    }

    /// Moves the answers into `events`.
    pub fn take(&mut self, events: &mut Vec<ImageEvent>) {
        events.append(&mut self.events);
    }
}

fn chunks(header: &Header, rows: &Pairs) -> VecDeque<Vec<u8>> {
    let (mut writer, first) = Writer::new(header);
    let mut chunks = VecDeque::from([first]);
    for (key, value) in rows {
        writer.row(&Row { keyspace: KeyspaceId::DEFAULT, version: 0, stamp: b"", key, value });
        chunks.extend(std::iter::from_fn(|| writer.take_chunk()));
    }
    chunks.extend(writer.finish().0);
    chunks
}

fn read(
    chunks: &[Bytes],
    partition: PartitionId,
    last: (Lsn, corduroy_wal::Term),
) -> Result<(Header, Pairs), InstallError> {
    let (mut reader, mut rows) = (Reader::new(ITEM_BYTES_MAX), Pairs::new());
    for chunk in chunks {
        reader.push(chunk, &mut |item| match item {
            Item::Row(Row { keyspace: KeyspaceId::DEFAULT, version: 0, stamp: b"", key, value }) => {
                let before = rows.insert(key.to_vec(), value.to_vec());
                before.is_none().then_some(()).ok_or("a key comes twice")
            }
            Item::Row(_) | Item::Section { .. } => Err("it is none of this machine"),
        })?;
    }
    let header = reader.finish()?;
    if header.partition != partition || (header.lsn, header.term) != last {
        return Err(InstallError::Another { found: Box::new(header) });
    }
    Ok((header, rows))
}

fn install(
    chunks: &[Bytes],
    partition: PartitionId,
    last: (Lsn, corduroy_wal::Term),
    machine: &mut impl Holds,
) -> Result<Header, InstallError> {
    let (header, rows) = read(chunks, partition, last)?;
    let applied = machine.applied(partition);
    if header.lsn <= applied {
        return Err(InstallError::NotNewer { applied });
    }
    machine.replace(&header, rows).map_err(|why| super::Damage::Item { why })?;
    Ok(header)
}
