//! Writes an image, chunk by chunk: it holds the longest item, and one chunk more.

use super::chunk::{CONTENT_BYTES_MAX, Kind, length, pack};
use super::{CONFIGURATION_BYTES_MAX, Header, Row, STAMP_BYTES_MAX, Totals};

pub(super) const SECTION: u8 = 1;
pub(super) const ROW: u8 = 2;

/// See the file's head.
#[derive(Debug)]
pub struct Writer {
    /// Items that are in no chunk yet, from `cut` on.
    stream: Vec<u8>,
    cut: usize,
    /// What a chunk of items has, but for the last one.
    content_bytes: usize,
    next: u32,
    checksum: crc32fast::Hasher,
    totals: Totals,
    last_section: u8,
    last_keyspace: u64,
}

impl Writer {
    /// Begins an image. Returns its first chunk too.
    ///
    /// # Panics
    /// If the configuration is longer than a configuration may be.
    #[must_use]
    pub fn new(header: &Header) -> (Self, Vec<u8>) {
        assert!(header.configuration.len() <= CONFIGURATION_BYTES_MAX, "the longest configuration");
        let mut content = Vec::with_capacity(52 + header.configuration.len());
        let positions = [header.partition.0, header.history, header.lsn.0, header.term.0];
        for field in positions.into_iter().chain([header.source_lsn.0, header.clock_ms]) {
            content.extend_from_slice(&field.to_le_bytes());
        }
        content.extend_from_slice(&length(header.configuration.len()).to_le_bytes());
        content.extend_from_slice(&header.configuration);
        let mut writer = Self {
            stream: Vec::new(),
            cut: 0,
            content_bytes: CONTENT_BYTES_MAX,
            next: 0,
            checksum: crc32fast::Hasher::new(),
            totals: Totals::default(),
            last_section: 0,
            last_keyspace: 0,
        };
        let first = writer.chunk(Kind::Header, &content);
        (writer, first)
    }

    /// Cuts its items into pieces of so many bytes, at least one and at most [`CONTENT_BYTES_MAX`]: for small worlds, whose readers
    /// are [set](super::Reader::with_pieces_of) likewise.
    #[must_use]
    pub fn with_pieces_of(self, content_bytes: usize) -> Self {
        Self { content_bytes: content_bytes.clamp(1, CONTENT_BYTES_MAX), ..self }
    }

    /// Adds what there is beside rows: before them, by ascending numbers from 1 on.
    ///
    /// # Panics
    /// If it is not its turn.
    pub fn section(&mut self, number: u8, bytes: &[u8]) {
        assert!(number > self.last_section && self.totals.rows == 0, "section {number} is not next");
        self.last_section = number;
        self.totals.sections += 1;
        self.stream.extend_from_slice(&[SECTION, number]);
        self.stream.extend_from_slice(&length(bytes.len()).to_le_bytes());
        self.stream.extend_from_slice(bytes);
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If its keyspace is not its turn, or its stamp too long.
    pub fn row(&mut self, row: &Row<'_>) {
        assert!(row.keyspace.0 >= self.last_keyspace, "rows come by keyspace");
        assert!(row.stamp.len() <= STAMP_BYTES_MAX, "the longest stamp");
        self.last_keyspace = row.keyspace.0;
        self.totals.rows += 1;
        let out = &mut self.stream;
        out.reserve(26 + row.stamp.len() + row.key.len() + row.value.len());
        out.push(ROW);
        out.extend_from_slice(&row.keyspace.0.to_le_bytes());
        out.extend_from_slice(&row.version.to_le_bytes());
        out.push(u8::try_from(row.stamp.len()).expect("it was looked at above"));
        out.extend_from_slice(&length(row.key.len()).to_le_bytes());
        out.extend_from_slice(&length(row.value.len()).to_le_bytes());
        for part in [row.stamp, row.key, row.value] {
            out.extend_from_slice(part);
        }
    }

    /// The next chunk, if enough was added for one.
    pub fn take_chunk(&mut self) -> Option<Vec<u8>> {
        let end = self.cut + self.content_bytes;
        if self.stream.len() < end {
            return None;
        }
        Some(self.cut_to(end))
    }

    /// The chunk of what was added up to there.
    fn cut_to(&mut self, end: usize) -> Vec<u8> {
        let stream = std::mem::take(&mut self.stream);
        let piece = stream.get(self.cut..end).expect("a piece lies in what was added");
        self.totals.stream_bytes += piece.len() as u64;
        let chunk = self.chunk(Kind::Items, piece);
        (self.stream, self.cut) = (stream, end);
        // What is left moves to the front once that is the smaller part.
        if self.cut * 2 >= self.stream.len() {
            self.stream.drain(..self.cut);
            self.cut = 0;
        }
        chunk
    }

    /// Ends the image: the chunks that are left, and what it amounts to.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Vec<u8>>, Totals) {
        let mut chunks = Vec::new();
        chunks.extend(std::iter::from_fn(|| self.take_chunk()));
        if self.cut < self.stream.len() {
            let end = self.stream.len();
            chunks.push(self.cut_to(end));
        }
        let Totals { rows, stream_bytes, sections } = self.totals;
        let mut content = Vec::with_capacity(24);
        content.extend_from_slice(&rows.to_le_bytes());
        content.extend_from_slice(&stream_bytes.to_le_bytes());
        content.extend_from_slice(&sections.to_le_bytes());
        content.extend_from_slice(&self.checksum.clone().finalize().to_le_bytes());
        chunks.push(self.chunk(Kind::End, &content));
        (chunks, self.totals)
    }

    fn chunk(&mut self, kind: Kind, content: &[u8]) -> Vec<u8> {
        self.checksum.update(content);
        let chunk = pack(kind, self.next, content);
        self.next = self.next.checked_add(1).expect("an image has fewer than 2^32 chunks");
        chunk
    }
}
