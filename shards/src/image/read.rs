//! Reads an image, chunk by chunk, and compares all that can be compared: it holds the longest item as far as it has come,
//! and one chunk.

use corduroy_wal::fields::Fields;
use corduroy_wal::{Lsn, Term};

use super::chunk::{CONTENT_BYTES_MAX, Head, Kind};
use super::write::{ROW, SECTION};
use super::{CONFIGURATION_BYTES_MAX, Damage, Header, Item, Row, Totals};
use crate::entry::VERSION_LSN_MAX;
use crate::ids::{KeyspaceId, PartitionId};

/// See the file's head. After an error it takes nothing more.
#[derive(Debug)]
pub struct Reader {
    /// The most bytes that an item may have.
    item_bytes_max: usize,
    /// The bytes of each piece but the last one.
    piece_bytes: usize,
    next: u32,
    header: Option<Header>,
    /// What has come of an item that is not whole.
    partial: Vec<u8>,
    /// Of the chunk that is being read.
    content: Vec<u8>,
    /// A piece was shorter than pieces are: it was the last one.
    is_last_piece: bool,
    last_section: u8,
    last_keyspace: u64,
    checksum: crc32fast::Hasher,
    totals: Totals,
    is_complete: bool,
    failed: Option<Damage>,
}

impl Reader {
    /// Reads an image from its first chunk on. No item is longer than `item_bytes_max`.
    #[must_use]
    pub fn new(item_bytes_max: usize) -> Self {
        Self {
            item_bytes_max,
            piece_bytes: CONTENT_BYTES_MAX,
            next: 0,
            header: None,
            partial: Vec::new(),
            content: Vec::new(),
            is_last_piece: false,
            last_section: 0,
            last_keyspace: 0,
            checksum: crc32fast::Hasher::new(),
            totals: Totals::default(),
            is_complete: false,
            failed: None,
        }
    }

    /// Of an image that was cut [otherwise](super::Writer::with_pieces_of).
    #[must_use]
    pub fn with_pieces_of(self, content_bytes: usize) -> Self {
        Self { piece_bytes: content_bytes.clamp(1, CONTENT_BYTES_MAX), ..self }
    }

    /// What the image is of, once its first chunk has come.
    #[must_use]
    pub const fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The number of the chunk that is next.
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.next
    }

    /// What it amounts to, once its end has come and agrees with all before.
    #[must_use]
    pub fn totals(&self) -> Option<Totals> {
        self.is_complete.then_some(self.totals)
    }

    /// What the image is of, now that all of it has come.
    ///
    /// # Errors
    /// [`Damage`]: it is not whole.
    pub fn finish(self) -> Result<Header, Damage> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let header = self.header.filter(|_| self.is_complete);
        header.ok_or(Damage::Mixed { why: "its end is missing" })
    }

    /// Takes the next chunk. `visit` gets the items that end in it; its `Err` says why one cannot be taken.
    ///
    /// # Errors
    /// [`Damage`]: the image is worth nothing. What was visited of it before may not be used.
    pub fn push(
        &mut self,
        chunk: &[u8],
        visit: &mut dyn FnMut(Item<'_>) -> Result<(), &'static str>,
    ) -> Result<(), Damage> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let mut content = std::mem::take(&mut self.content);
        let read = self.read(chunk, &mut content, visit);
        self.content = content;
        read.inspect_err(|damage| self.failed = Some(*damage))
    }

    fn read(
        &mut self,
        chunk: &[u8],
        content: &mut Vec<u8>,
        visit: &mut dyn FnMut(Item<'_>) -> Result<(), &'static str>,
    ) -> Result<(), Damage> {
        let head = Head::read(chunk)?;
        if head.number != self.next || self.is_complete {
            return Err(Damage::OutOfOrder { found: head.number, wanted: self.next });
        }
        head.unpack(content)?;
        let wrong = |why| Damage::Contradiction { number: head.number, why };
        match (head.kind, &self.header) {
            (Kind::Header, None) => {
                self.header = Some(read_header(content).ok_or(wrong("it is no header"))?);
            }
            (Kind::Items, Some(_)) => {
                if std::mem::replace(&mut self.is_last_piece, content.len() < self.piece_bytes) {
                    return Err(wrong("it follows the last piece"));
                }
                self.totals.stream_bytes += content.len() as u64;
                self.read_items(content, visit)?;
            }
            (Kind::End, Some(_)) => self.read_end(content)?,
            (Kind::Header, Some(_)) | (Kind::Items | Kind::End, None) => {
                return Err(wrong("an image begins with its one header"));
            }
        }
        if head.kind != Kind::End {
            self.checksum.update(content);
            self.next = self.next.checked_add(1).ok_or(wrong("no image has so many chunks"))?;
        }
        Ok(())
    }

    fn read_items(
        &mut self,
        content: &[u8],
        visit: &mut dyn FnMut(Item<'_>) -> Result<(), &'static str>,
    ) -> Result<(), Damage> {
        let mut rest = content;
        if !self.partial.is_empty() {
            let mut partial = std::mem::take(&mut self.partial);
            // First as much as shows its length, then as much as is missing.
            loop {
                let wanted = match parse(&partial, self.item_bytes_max)? {
                    Parsed::Whole(item, _) => {
                        self.visit(item, visit)?;
                        break;
                    }
                    Parsed::Wants(wanted) => wanted,
                };
                let (taken, left) = rest.split_at(rest.len().min(wanted - partial.len()));
                partial.extend_from_slice(taken);
                rest = left;
                if partial.len() < wanted {
                    self.partial = partial;
                    return Ok(());
                }
            }
            partial.clear();
            self.partial = partial;
        }
        while !rest.is_empty() {
            match parse(rest, self.item_bytes_max)? {
                Parsed::Whole(item, bytes) => {
                    self.visit(item, visit)?;
                    (_, rest) = rest.split_at(bytes);
                }
                Parsed::Wants(_) => {
                    self.partial.extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    }

    fn visit(
        &mut self,
        item: Item<'_>,
        visit: &mut dyn FnMut(Item<'_>) -> Result<(), &'static str>,
    ) -> Result<(), Damage> {
        match item {
            Item::Section { number, .. } => {
                if number <= self.last_section || self.totals.rows > 0 {
                    return Err(Damage::Item { why: "sections come by their numbers, before rows" });
                }
                self.last_section = number;
                self.totals.sections += 1;
            }
            Item::Row(row) => {
                if row.keyspace.0 < self.last_keyspace {
                    return Err(Damage::Item { why: "rows come by keyspace" });
                }
                self.last_keyspace = row.keyspace.0;
                self.totals.rows += 1;
            }
        }
        visit(item).map_err(|why| Damage::Item { why })
    }

    fn read_end(&mut self, content: &[u8]) -> Result<(), Damage> {
        if !self.partial.is_empty() {
            return Err(Damage::Mixed { why: "its last item is cut off" });
        }
        let mut fields = Fields::new(content);
        let (rows, stream_bytes) = (fields.u64(), fields.u64());
        let (sections, checksum) = (fields.u32(), fields.u32());
        let Totals { rows: found_rows, stream_bytes: found_bytes, sections: found_sections } = self.totals;
        let counts = (Some(found_rows), Some(found_bytes), Some(found_sections));
        if (rows, stream_bytes, sections) != counts || !fields.is_empty() {
            return Err(Damage::Mixed { why: "its counts are not those of its end" });
        }
        if checksum != Some(self.checksum.clone().finalize()) {
            return Err(Damage::Mixed { why: "the checksum of all its chunks is not that of its end" });
        }
        self.is_complete = true;
        Ok(())
    }
}

fn read_header(content: &[u8]) -> Option<Header> {
    let mut fields = Fields::new(content);
    let mut header = Header {
        partition: PartitionId(fields.u64()?),
        history: fields.u64()?,
        lsn: Lsn(fields.u64()?),
        term: Term(fields.u64()?),
        source_lsn: Lsn(fields.u64()?),
        clock_ms: fields.u64()?,
        configuration: Vec::new(),
    };
    let length = fields.u32()? as usize;
    let configuration = fields.take(length).filter(|bytes| bytes.len() <= CONFIGURATION_BYTES_MAX)?;
    header.configuration = configuration.to_vec();
    (fields.is_empty() && header.source_lsn <= VERSION_LSN_MAX).then_some(header)
}

enum Parsed<'a> {
    /// An item, and its bytes.
    Whole(Item<'a>, usize),
    /// More is needed: this many bytes in all, as far as is known.
    Wants(usize),
}

const SECTION_HEAD_BYTES: usize = 1 + 1 + 4;
const ROW_HEAD_BYTES: usize = 1 + 8 + 8 + 1 + 4 + 4;

/// The first item of a stream.
fn parse(stream: &[u8], bytes_max: usize) -> Result<Parsed<'_>, Damage> {
    let mut fields = Fields::new(stream);
    match fields.byte() {
        None => Ok(Parsed::Wants(1)),
        Some(SECTION) => {
            let (Some(number), Some(length)) = (fields.byte(), fields.u32()) else {
                return Ok(Parsed::Wants(SECTION_HEAD_BYTES));
            };
            let bytes = bounded(SECTION_HEAD_BYTES, &[length], bytes_max)?;
            Ok(match fields.take(length as usize) {
                Some(content) => Parsed::Whole(Item::Section { number, bytes: content }, bytes),
                None => Parsed::Wants(bytes),
            })
        }
        Some(ROW) => {
            let (Some(keyspace), Some(version), Some(stamp), Some(key), Some(value)) =
                (fields.u64(), fields.u64(), fields.byte(), fields.u32(), fields.u32())
            else {
                return Ok(Parsed::Wants(ROW_HEAD_BYTES));
            };
            let bytes = bounded(ROW_HEAD_BYTES, &[u32::from(stamp), key, value], bytes_max)?;
            let parts = (fields.take(stamp.into()), fields.take(key as usize), fields.take(value as usize));
            Ok(match parts {
                (Some(stamp), Some(key), Some(value)) => {
                    let keyspace = KeyspaceId(keyspace);
                    Parsed::Whole(Item::Row(Row { keyspace, version, stamp, key, value }), bytes)
                }
                (None, _, _) | (_, None, _) | (_, _, None) => Parsed::Wants(bytes),
            })
        }
        Some(_) => Err(Damage::Item { why: "it is of no kind that this release has" }),
    }
}

/// The length of an item, if that is not too long.
fn bounded(head: usize, parts: &[u32], bytes_max: usize) -> Result<usize, Damage> {
    let bytes = parts.iter().fold(head as u64, |bytes, part| bytes + u64::from(*part));
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= bytes_max)
        .ok_or(Damage::Item { why: "it is longer than items may be" })
}
