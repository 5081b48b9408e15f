//! The messages of one turn to one core of a peer, as they travel on a connection.
//!
//! Invariant: of a connection, the reader gives the frames that the other side wrote, each once and in order, up to the
//! first that is anything else; from there on it gives nothing. A length is believed only after a checksum has covered it,
//! and memory grows with the bytes that came, not with the length that was announced.
//!
//! ```text
//! head        36 bytes
//!             0 4 C0D54E01   4 4 crc32 of 8..36   8 1 version   9 1 lane   10 2 messages   12 4 bytes of the body
//!             16 8 stream   24 8 number in its stream, from 0   32 4 crc32 of the body
//! body        the messages, one behind the other                                         all little-endian
//! ```
//!
//! A *stream* is one direction of one connection. Its id comes out of the handshake, so that bytes of another connection,
//! or one's own that somebody sends back, are none of this one.

use bytes::Bytes;
use corduroy_wal::fields::Fields;
use raft::eraftpb::Message;

use super::decode::decode;
use super::message::{HEAD_BYTES as MESSAGE_HEAD_BYTES, MessageDamage};
use super::parcel::Writable;
use super::request::{self, Forwarded, LEAST_BYTES};
use crate::ids::PartitionId;

/// Bytes before the body.
pub const HEAD_BYTES: usize = 36;
/// The most messages of a frame: what decoding them takes is bounded beside their bytes.
pub const MESSAGES_MAX: usize = 4096;
/// First in each frame.
const MAGIC: u32 = 0xC0D5_4E01;
/// Bytes that room is made for ahead of those that have come.
const AHEAD_BYTES: usize = 64 << 10;

/// What a connection is for, so that much of one thing never delays another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Heartbeats, votes, reads: short, and late at once.
    Liveness = 1,
    /// Entries and what became of them.
    Log = 2,
    /// What takes long: snapshots, copies.
    Bulk = 3,
    /// Requests of clients for partitions that the other node leads, and their answers.
    Requests = 4,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Liveness, Self::Log, Self::Bulk, Self::Requests];

    /// Its byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The first version of frames that has it.
    #[must_use]
    pub const fn since(self) -> u8 {
        match self {
            Self::Liveness | Self::Log | Self::Bulk => 1,
            Self::Requests => 2,
        }
    }

    /// The bytes of the shortest message on it.
    const fn least_bytes(self) -> usize {
        match self {
            Self::Liveness | Self::Log | Self::Bulk => MESSAGE_HEAD_BYTES,
            Self::Requests => LEAST_BYTES,
        }
    }

    /// The lane of a byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.code() == code)
    }
}

/// One direction of one connection, as its handshake made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Its id.
    pub id: u64,
    /// The version that both sides chose.
    pub version: u8,
    /// What it is for.
    pub lane: Lane,
}

/// Bytes that do not go on a stream. Its connection ends; a new one begins with a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// No frame begins there.
    #[error("no frame begins with {found:#010x}")]
    Magic {
        /// The first 4 bytes.
        found: u32,
    },
    /// A checksum does not fit.
    #[error("the checksum of a frame's {part} does not fit: its bytes were changed on their way")]
    Checksum {
        /// Head or body.
        part: &'static str,
    },
    /// Another version than the one that was chosen.
    #[error("a frame of version {found} came where version {spoken} was chosen in the handshake")]
    Version {
        /// The frame's.
        found: u8,
        /// The stream's.
        spoken: u8,
    },
    /// Another lane, or none.
    #[error("a frame of lane {found} came on a connection of another one")]
    Lane {
        /// The lane's byte.
        found: u8,
    },
    /// It was written for another connection, or for the other direction.
    #[error("a frame of another connection came")]
    Stream,
    /// One came again, is missing, or overtook another.
    #[error("frame {found} came where frame {expected} is next: one was repeated, lost or moved")]
    Number {
        /// The frame's.
        found: u64,
        /// The next one's.
        expected: u64,
    },
    /// Longer than any may be here.
    #[error("a frame of {bytes} bytes came, and {limit} are the most")]
    Long {
        /// Of its body.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// Without messages, or with more than one may have, or than its body has room for.
    #[error("a frame of {bytes} bytes came with {messages} messages")]
    Messages {
        /// Their number.
        messages: u16,
        /// Bytes of its body.
        bytes: usize,
    },
    /// A message in it is none.
    #[error(transparent)]
    Message(#[from] MessageDamage),
    /// Bytes behind its last message.
    #[error("{bytes} bytes follow the last message of a frame")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

impl FrameError {
    /// The kinds, by name.
    pub const KINDS: [&str; 10] = [
        "magic", "checksum", "version", "lane", "stream", "number", "long", "messages", "message", "trailing",
    ];

    /// Its kind's index among [`FrameError::KINDS`].
    #[must_use]
    pub const fn kind(&self) -> usize {
        match self {
            Self::Magic { .. } => 0,
            Self::Checksum { .. } => 1,
            Self::Version { .. } => 2,
            Self::Lane { .. } => 3,
            Self::Stream => 4,
            Self::Number { .. } => 5,
            Self::Long { .. } => 6,
            Self::Messages { .. } => 7,
            Self::Message(_) => 8,
            Self::Trailing { .. } => 9,
        }
    }
}

/// Writes the frames of a stream.
#[derive(Debug)]
pub struct FrameWriter {
    stream: Stream,
    next: u64,
}

impl FrameWriter {
    /// For a stream that begins.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self { stream, next: 0 }
    }

    /// One frame of these messages.
    ///
    /// # Panics
    /// If there are none, or more than [`MESSAGES_MAX`], or their bytes do not fit into 4 GiB.
    #[must_use]
    pub fn write(&mut self, messages: &[impl Writable]) -> Bytes {
        let count = messages.len();
        assert!((1..=MESSAGES_MAX).contains(&count), "a frame of {count} messages");
        let body_bytes: usize = messages.iter().map(Writable::bytes).sum();
        let mut frame = vec![0; HEAD_BYTES];
        frame.reserve_exact(body_bytes);
        messages.iter().for_each(|message| message.write(&mut frame));
        let (head, body) = frame.split_at_mut(HEAD_BYTES);
        assert_eq!(body.len(), body_bytes, "the messages have the bytes that they announced");
        let stream = self.stream;
        let head_fields = Head {
            version: stream.version,
            lane: stream.lane.code(),
            messages: u16::try_from(count).expect("it is one of at most 4096"),
            body_bytes: u32::try_from(body_bytes).expect("frames are far shorter than 4 GiB"),
            stream: stream.id,
            number: self.next,
            body_crc: crc32fast::hash(body),
        };
        head.copy_from_slice(&head_fields.encode());
        self.next += 1;
        Bytes::from(frame)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    version: u8,
    lane: u8,
    messages: u16,
    body_bytes: u32,
    stream: u64,
    number: u64,
    body_crc: u32,
}

impl Head {
    fn encode(self) -> [u8; HEAD_BYTES] {
        let mut sealed = Vec::with_capacity(HEAD_BYTES - 8);
        sealed.extend_from_slice(&[self.version, self.lane]);
        sealed.extend_from_slice(&self.messages.to_le_bytes());
        sealed.extend_from_slice(&self.body_bytes.to_le_bytes());
        sealed.extend_from_slice(&self.stream.to_le_bytes());
        sealed.extend_from_slice(&self.number.to_le_bytes());
        sealed.extend_from_slice(&self.body_crc.to_le_bytes());
        let mut head = [0; HEAD_BYTES];
        let (start, rest) = head.split_at_mut(8);
        rest.copy_from_slice(&sealed);
        let (magic, crc) = start.split_at_mut(4);
        magic.copy_from_slice(&MAGIC.to_le_bytes());
        crc.copy_from_slice(&crc32fast::hash(&sealed).to_le_bytes());
        head
    }

    /// Reads a head; `None` only if there are not as many bytes as one has.
    fn decode(bytes: &[u8]) -> Option<Result<Self, FrameError>> {
        let mut fields = Fields::new(bytes);
        let (magic, crc) = (fields.u32()?, fields.u32()?);
        let sealed = fields.rest;
        let [version, lane] = fields.array()?;
        let head = Self {
            version,
            lane,
            messages: fields.array().map(u16::from_le_bytes)?,
            body_bytes: fields.u32()?,
            stream: fields.u64()?,
            number: fields.u64()?,
            body_crc: fields.u32()?,
        };
        if magic != MAGIC {
            return Some(Err(FrameError::Magic { found: magic }));
        }
        if crc != crc32fast::hash(sealed) {
            return Some(Err(FrameError::Checksum { part: "head" }));
        }
        Some(Ok(head))
    }
}

/// Reads the frames of a stream out of the bytes of a connection, however they are cut.
#[derive(Debug)]
pub struct FrameReader {
    stream: Stream,
    next: u64,
    body_bytes_max: usize,
    /// The last bytes that came, as far as they were not looked at.
    chunk: Bytes,
    /// The start of a head or of a body whose rest has not come.
    partial: Vec<u8>,
    head: Option<Head>,
    failed: Option<FrameError>,
}

impl FrameReader {
    /// For a stream that begins, whose frames have at most so many bytes of messages.
    #[must_use]
    pub const fn new(stream: Stream, body_bytes_max: usize) -> Self {
        Self {
            stream,
            next: 0,
            body_bytes_max,
            chunk: Bytes::new(),
            partial: Vec::new(),
            head: None,
            failed: None,
        }
    }

    /// What its connection is for.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.stream.lane
    }

    /// Takes what came next. A frame that lies in one piece in it is read without a copy.
    ///
    /// # Panics
    /// If [`FrameReader::next`] was not asked until it had nothing.
    pub fn push(&mut self, bytes: Bytes) {
        assert!(self.chunk.is_empty(), "what came before is read first");
        if self.failed.is_none() {
            self.chunk = bytes;
        }
    }

    /// The next frame, as soon as it is whole.
    ///
    /// # Errors
    /// [`FrameError`]: the connection has to end. There is nothing more to read on it.
    #[expect(clippy::should_implement_trait, reason = "nothing for now is not the end")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let frame = self.try_next();
        if let Err(error) = frame {
            (self.failed, self.chunk, self.partial) = (Some(error), Bytes::new(), Vec::new());
        }
        frame
    }

    fn try_next(&mut self) -> Result<Option<Frame>, FrameError> {
        let head = match self.head {
            Some(head) => head,
            None => {
                let Some(bytes) = self.gather(HEAD_BYTES) else { return Ok(None) };
                let head = Head::decode(&bytes).expect("as many bytes as a head has")?;
                self.check(head)?;
                *self.head.insert(head)
            }
        };
        let Some(body) = self.gather(head.body_bytes as usize) else { return Ok(None) };
        if crc32fast::hash(&body) != head.body_crc {
            return Err(FrameError::Checksum { part: "body" });
        }
        self.head = None;
        self.next += 1;
        Ok(Some(Frame { number: head.number, messages: head.messages, body }))
    }

    /// So many bytes in one piece, once they have come.
    fn gather(&mut self, bytes: usize) -> Option<Bytes> {
        if self.partial.is_empty() && self.chunk.len() >= bytes {
            return Some(self.chunk.split_to(bytes));
        }
        let start = self.chunk.split_to(self.chunk.len().min(bytes - self.partial.len()));
        if self.partial.capacity() - self.partial.len() < start.len() {
            let (held, missing) = (self.partial.len(), bytes - self.partial.len());
            self.partial.reserve_exact(missing.min(start.len().max(held).max(AHEAD_BYTES)));
        }
        self.partial.extend_from_slice(&start);
        (self.partial.len() == bytes).then(|| Bytes::from(std::mem::take(&mut self.partial)))
    }

    /// Whether a head whose checksum fits is that of the next frame.
    fn check(&self, head: Head) -> Result<(), FrameError> {
        let bytes = head.body_bytes as usize;
        if head.version != self.stream.version {
            return Err(FrameError::Version { found: head.version, spoken: self.stream.version });
        }
        if head.lane != self.stream.lane.code() {
            return Err(FrameError::Lane { found: head.lane });
        }
        if head.stream != self.stream.id {
            return Err(FrameError::Stream);
        }
        if head.number != self.next {
            return Err(FrameError::Number { found: head.number, expected: self.next });
        }
        if bytes > self.body_bytes_max {
            return Err(FrameError::Long { bytes, limit: self.body_bytes_max });
        }
        let messages = usize::from(head.messages);
        if !(1..=MESSAGES_MAX).contains(&messages) || messages * self.stream.lane.least_bytes() > bytes {
            return Err(FrameError::Messages { messages: head.messages, bytes });
        }
        Ok(())
    }

    /// Bytes of memory that it keeps for a frame that has not come whole.
    #[must_use]
    pub const fn reserved_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Compares what it holds; `is_drained`: [`FrameReader::next`] has nothing for now.
    ///
    /// # Panics
    /// If that contradicts itself.
    pub fn check_invariants(&self, is_drained: bool) {
        let wanted = self.head.map_or(HEAD_BYTES, |head| head.body_bytes as usize);
        assert!(self.partial.len() < wanted, "{} of {wanted} bytes wait", self.partial.len());
        assert!(!is_drained || self.chunk.is_empty(), "bytes that came were not looked at");
        assert!(self.failed.is_none() || self.chunk.is_empty(), "a stream that failed holds bytes");
    }
}

/// A frame whose checksums fit: its messages, still as bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    number: u64,
    messages: u16,
    body: Bytes,
}

impl Frame {
    /// Its number in the stream.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How many messages it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.messages as usize
    }

    /// Never: a frame has messages.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Its messages, one after the other. An error is the last that comes.
    #[must_use]
    pub fn into_messages(self) -> Messages<(PartitionId, Message)> {
        self.read(decode)
    }

    /// The same of a frame of [`Lane::Requests`].
    #[must_use]
    pub fn into_forwarded(self) -> Messages<Forwarded> {
        self.read(request::decode)
    }

    fn read<M>(self, decode: Decode<M>) -> Messages<M> {
        Messages { left: self.messages, at: 0, body: self.body, decode }
    }
}

/// Takes one message off the fields of a frame.
type Decode<M> = fn(&Bytes, &mut Fields<'_>) -> Result<M, MessageDamage>;

/// The messages of a frame.
#[derive(Debug)]
pub struct Messages<M> {
    body: Bytes,
    /// Where the next one begins.
    at: usize,
    left: u16,
    decode: Decode<M>,
}

impl<M> Iterator for Messages<M> {
    type Item = Result<M, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let mut fields = Fields::new(self.body.get(self.at..).unwrap_or_default());
        let message = (self.decode)(&self.body, &mut fields).map_err(FrameError::from);
        self.at = self.body.len() - fields.rest.len();
        let trailing = fields.rest.len();
        if message.is_err() {
            self.left = 0;
        } else if self.left == 0 && trailing > 0 {
            return Some(Err(FrameError::Trailing { bytes: trailing }));
        }
        Some(message)
    }
}
