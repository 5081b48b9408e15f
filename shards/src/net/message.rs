//! What one replica sends to another: a partition and a message of Raft, as bytes. Its form, and how it is written.
//!
//! Invariant: what [`Outgoing::new`] takes comes back equal from `decode`; all other bytes are a [`MessageDamage`], never
//! a panic. Each kind has its own fields, so what a kind does not carry cannot be sent under its name. A list takes no more
//! memory than its bytes justify, and what an entry carries is a slice of the buffer that it came in.
//!
//! ```text
//! message     kind u8 | flags u8 | partition u64 | from u64 | to u64 | term u64 | the fields of its kind
//!  3 append                log term u64 | index u64 | commit u64 | entries u32 | runs
//!  4 append response       index u64 | commit u64 | with flag 1 (rejected): log term u64 | hint u64
//!                          | with flag 2: snapshot asked for u64
//!  5 vote request          log term u64 | index u64 | commit u64 | commit term u64 | with flag 8: priority i64, not 0
//!    17 pre-vote request   flag 16: the leader hands its lead on
//!  6 vote response         with flag 1 (rejected): commit u64 | commit term u64
//!    18 pre-vote response
//!  7 image                 length u32 | bytes of image::transfer::ToReceiver
//! 11 image response        length u32 | bytes of image::transfer::ToSender
//!  1 beat                  incarnation u64 | epoch u64 | number u64; its term is the process's start, and one
//!                          | with flag 32: others u16, not 0 | of each: partition u64 | epoch u64 | number u64
//!  8 heartbeat             commit u64 | with flag 4: context
//!    9 heartbeat response
//! 10 wake                 nothing; its term is 1
//! 14 timeout now          nothing
//! 12 sleep                 index u64
//! 15 read index            context; its term is 0
//! 16 read index response   index u64 | context
//! run         term u64 | entries u32, of that term | each: length u32, of which the upper 2 bits are the kind | bytes
//! context     length u8, not 0 | bytes                                                          all little-endian
//! ```
//!
//! Entries follow each other, so the index before the first is all that is stored; terms never fall, so there is one a run.
//! What a member may not send has no kind here: proposals and transfers of the lead go to a node, not to its Raft groups,
//! and what a group sends itself is no message. The crate's own snapshots
//! are not sent: what is sent of an image stands in the context of a message of their kinds.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::beats::{self, OTHER_BYTES};
use super::kind::{self, Kind};
use crate::ids::PartitionId;
use crate::image::transfer::{ToReceiver, ToSender};

/// Bytes before the fields of a kind.
pub const HEAD_BYTES: usize = 1 + 1 + 4 * 8;
/// The most entries of one message: what decoding them takes is bounded beside their bytes.
pub const ENTRIES_MAX: usize = 16 * 1024;
/// The longest context, bytes.
pub const CONTEXT_BYTES_MAX: usize = u8::MAX as usize;
/// Bytes of a run before its entries.
pub(super) const RUN_BYTES: usize = 8 + 4;
/// Bytes of an entry before its payload.
pub(super) const ENTRY_BYTES: usize = 4;
/// The bits of an entry's length that count bytes.
pub(super) const LENGTH_BITS: u32 = 30;

/// The receiver did not take what was asked, or voted against it.
pub(super) const REJECTED: u8 = 1;
/// The follower asks for a snapshot of that index or later.
pub(super) const ASKS_SNAPSHOT: u8 = 2;
/// There is a context.
pub(super) const HAS_CONTEXT: u8 = 4;
/// The candidate's priority is not 0.
pub(super) const HAS_PRIORITY: u8 = 8;
/// The campaign is one that the leader asked for.
pub(super) const IS_TRANSFER: u8 = 16;
/// Beats of other shards of the process follow.
pub(super) const HAS_OTHERS: u8 = 32;
/// What the crate writes into the context of such a campaign.
pub(super) const TRANSFER: &[u8] = b"CampaignTransfer";

/// A message that cannot be sent: no peer would take it. It is dropped; its group goes on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unsendable {
    /// Only a node says it to itself, or it has another way to its receiver.
    #[error("a message of kind {kind:?} is not sent to peers")]
    Kind {
        /// The crate's name of it.
        kind: MessageType,
    },
    /// A field is set that messages of this kind do not carry.
    #[error("a message of kind {kind:?} carries no {field}, and this one does")]
    Field {
        /// Its kind.
        kind: Kind,
        /// The field.
        field: &'static str,
    },
    /// Its fields contradict each other.
    #[error("a message of kind {kind:?} from member {from} to member {to} contradicts itself: {why}")]
    Contradiction {
        /// Its kind.
        kind: Kind,
        /// Who sends it.
        from: u64,
        /// Who is to get it.
        to: u64,
        /// What is wrong with it.
        why: Contradiction,
    },
}

/// Bytes that are no message. Their checksum held, so a peer wrote them that way: its release is another, or it has a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageDamage {
    /// The frame ends inside it.
    #[error("the message is cut off")]
    Short,
    /// No kind that peers may send.
    #[error("kind {found} is none that peers may send")]
    Kind {
        /// The kind's byte.
        found: u8,
    },
    /// Flags that its kind does not have.
    #[error("a message of kind {kind:?} has the flags {found:#x}, which mean nothing there")]
    Flags {
        /// Its kind.
        kind: Kind,
        /// All of its flags.
        found: u8,
    },
    /// The same of what is forwarded for clients.
    #[error("what is forwarded, of kind {kind}, has the flags {found:#x}, which mean nothing there")]
    ForwardedFlags {
        /// Its kind's byte.
        kind: u8,
        /// All of its flags.
        found: u8,
    },
    /// Its fields contradict each other.
    #[error("a message of kind {kind:?} contradicts itself: {why}")]
    Contradiction {
        /// Its kind.
        kind: Kind,
        /// What is wrong with it.
        why: Contradiction,
    },
}

/// What no group that works sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Contradiction {
    /// Member 0 is nobody, and nobody writes to itself.
    #[error("its sender and its receiver are not two members")]
    Members,
    /// Read requests have no term, all others have one.
    #[error("its term is not one of its kind")]
    Term,
    /// An append behind an entry of no term, or of a term above its own.
    #[error("the entry before its entries has no term, or a later one")]
    LogTerm,
    /// Terms fall, or rise above that of the message.
    #[error("the terms of its entries are not in order")]
    EntryTerms,
    /// Entries that do not follow each other, or more than there are indexes.
    #[error("its entries do not follow each other")]
    Indexes,
    /// More entries than one message takes.
    #[error("it has more than {ENTRIES_MAX} entries")]
    Entries,
    /// An entry has what is not replicated, or is too long.
    #[error("an entry has a context, or 1 GiB")]
    Entry,
    /// A context that is missing, too long, or not one of its kind.
    #[error("its context is missing, not one of its kind, or longer than {CONTEXT_BYTES_MAX} bytes")]
    Context,
    /// What is sent of an image, in another form.
    #[error("what it has of an image is none")]
    Image,
    /// Beats beside the first that are none, or more than a message has.
    #[error("the beats beside its own are none, or too many")]
    Others,
    /// A priority that is flagged and 0, or that says two things.
    #[error("its priority is not stated as it has to be")]
    Priority,
}

/// A message that was found fit to be sent, and how long its bytes are.
#[derive(Clone, PartialEq, Debug)]
pub struct Outgoing {
    partition: PartitionId,
    message: Message,
    kind: Kind,
    bytes: usize,
}

impl Outgoing {
    /// Looks whether a message may be sent.
    ///
    /// # Errors
    /// [`Unsendable`]: the message is dropped.
    pub fn new(partition: PartitionId, message: Message) -> Result<Self, Unsendable> {
        let kind = Kind::of(message.msg_type).ok_or(Unsendable::Kind { kind: message.msg_type })?;
        if let Some(field) = kind::foreign_field(kind, &message) {
            return Err(Unsendable::Field { kind, field });
        }
        let (from, to) = (message.from, message.to);
        let wrong = |why| Unsendable::Contradiction { kind, from, to, why };
        check_head(kind, from, to, message.term).map_err(wrong)?;
        let bytes = HEAD_BYTES + fields_bytes(kind, &message).map_err(wrong)?;
        Ok(Self { partition, message, kind, bytes })
    }

    /// The bytes that [`Outgoing::write`] adds.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first version of frames that has its kind, in its form.
    #[must_use]
    pub fn since(&self) -> u8 {
        let is_joined = self.kind == Kind::Beat && !self.message.context.is_empty();
        if is_joined { beats::SINCE } else { self.kind.since() }
    }

    /// The message.
    pub(super) const fn message(&self) -> &Message {
        &self.message
    }

    /// The partition that it belongs to.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The member that is to get it.
    #[must_use]
    pub const fn to(&self) -> u64 {
        self.message.to
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds its bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (start, message) = (out.len(), &self.message);
        out.reserve(self.bytes);
        out.extend_from_slice(&[self.kind.code(), flags(self.kind, message)]);
        for field in [self.partition.0, message.from, message.to, message.term] {
            put(out, field);
        }
        write_fields(self.kind, message, out);
        assert_eq!(out.len() - start, self.bytes, "the bytes of a message of kind {:?}", self.kind);
    }
}

fn put(out: &mut Vec<u8>, field: u64) {
    out.extend_from_slice(&field.to_le_bytes());
}

fn put_context(out: &mut Vec<u8>, context: &[u8]) {
    out.push(u8::try_from(context.len()).expect("its length was looked at"));
    out.extend_from_slice(context);
}

/// What holds for every kind.
pub(super) fn check_head(kind: Kind, from: u64, to: u64, term: u64) -> Result<(), Contradiction> {
    if from == 0 || to == 0 || from == to {
        return Err(Contradiction::Members);
    }
    // The crate sends a read request without a term, as a request that a client makes of the leader.
    if (term == 0) != (kind == Kind::ReadIndex) {
        return Err(Contradiction::Term);
    }
    Ok(())
}

/// What an append says of the entry before its own. Entries of term 0 were written without Raft, and the crate takes term 0
/// for "no such entry": behind one, a gap would look like a match.
pub(super) const fn check_before(term: u64, log_term: u64, index: u64) -> Result<(), Contradiction> {
    if (log_term == 0) != (index == 0) || log_term > term {
        return Err(Contradiction::LogTerm);
    }
    Ok(())
}

/// The flags of a message that is fit to be sent.
fn flags(kind: Kind, message: &Message) -> u8 {
    let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
    match kind {
        Kind::AppendResponse => {
            flag(message.reject, REJECTED) | flag(message.request_snapshot != 0, ASKS_SNAPSHOT)
        }
        Kind::VoteRequest | Kind::PreVoteRequest => {
            flag(message.priority != 0, HAS_PRIORITY) | flag(!message.context.is_empty(), IS_TRANSFER)
        }
        Kind::VoteResponse | Kind::PreVoteResponse => flag(message.reject, REJECTED),
        Kind::Heartbeat | Kind::HeartbeatResponse => flag(!message.context.is_empty(), HAS_CONTEXT),
        Kind::Beat => flag(!message.context.is_empty(), HAS_OTHERS),
        Kind::Append
        | Kind::Image
        | Kind::ImageResponse
        | Kind::Sleep
        | Kind::Wake
        | Kind::TimeoutNow
        | Kind::ReadIndex
        | Kind::ReadIndexResponse => 0,
    }
}

/// The bytes of a kind's fields.
fn fields_bytes(kind: Kind, message: &Message) -> Result<usize, Contradiction> {
    Ok(match kind {
        Kind::Append => {
            check_before(message.term, message.log_term, message.index)?;
            3 * 8 + 4 + entries_bytes(message)?
        }
        Kind::AppendResponse => match (message.reject, message.request_snapshot) {
            (true, 0) => 4 * 8,
            (true, _) => 5 * 8,
            (false, 0) if message.log_term == 0 && message.reject_hint == 0 => 2 * 8,
            (false, _) => return Err(Contradiction::LogTerm),
        },
        Kind::VoteRequest | Kind::PreVoteRequest => {
            if !message.context.is_empty() && message.context != TRANSFER {
                return Err(Contradiction::Context);
            }
            if message.deprecated_priority != u64::try_from(message.priority).unwrap_or(0) {
                return Err(Contradiction::Priority);
            }
            4 * 8 + if message.priority == 0 { 0 } else { 8 }
        }
        Kind::VoteResponse | Kind::PreVoteResponse => {
            match (message.reject, message.commit, message.commit_term) {
                (true, _, _) => 2 * 8,
                (false, 0, 0) => 0,
                (false, _, _) => return Err(Contradiction::LogTerm),
            }
        }
        Kind::Heartbeat | Kind::HeartbeatResponse if message.context.is_empty() => 8,
        Kind::Heartbeat | Kind::HeartbeatResponse => 8 + context_bytes(&message.context)?,
        Kind::Image | Kind::ImageResponse => {
            check_image(kind, &message.context)?;
            4 + message.context.len()
        }
        Kind::Beat if message.context.is_empty() => 3 * 8,
        Kind::Beat if beats::are_others(&message.context) => 3 * 8 + 2 + message.context.len(),
        Kind::Beat => return Err(Contradiction::Others),
        Kind::Sleep => 8,
        Kind::TimeoutNow | Kind::Wake => 0,
        Kind::ReadIndex => context_bytes(read_context(message)?)?,
        Kind::ReadIndexResponse => 8 + context_bytes(read_context(message)?)?,
    })
}

/// Whether bytes are what is sent of an image.
pub(super) fn check_image(kind: Kind, bytes: &Bytes) -> Result<(), Contradiction> {
    let is_one = match kind {
        Kind::Image => ToReceiver::decode(bytes).is_some(),
        Kind::ImageResponse => ToSender::decode(bytes).is_some(),
        Kind::Append
        | Kind::AppendResponse
        | Kind::VoteRequest
        | Kind::VoteResponse
        | Kind::Heartbeat
        | Kind::HeartbeatResponse
        | Kind::Beat
        | Kind::Sleep
        | Kind::Wake
        | Kind::TimeoutNow
        | Kind::ReadIndex
        | Kind::ReadIndexResponse
        | Kind::PreVoteRequest
        | Kind::PreVoteResponse => false,
    };
    if is_one { Ok(()) } else { Err(Contradiction::Image) }
}

const fn context_bytes(context: &Bytes) -> Result<usize, Contradiction> {
    match context.len() {
        0 => Err(Contradiction::Context),
        bytes if bytes > CONTEXT_BYTES_MAX => Err(Contradiction::Context),
        bytes => Ok(1 + bytes),
    }
}

/// What a read request or its answer is known by: the crate wraps it into an entry that is none.
fn read_context(message: &Message) -> Result<&Bytes, Contradiction> {
    let [entry] = &*message.entries else { return Err(Contradiction::Context) };
    let is_bare = entry.entry_type == EntryType::EntryNormal && entry.term == 0 && entry.index == 0;
    if is_bare && kind::is_plain(entry) { Ok(&entry.data) } else { Err(Contradiction::Context) }
}

/// The bytes of an append's runs.
fn entries_bytes(message: &Message) -> Result<usize, Contradiction> {
    if message.entries.len() > ENTRIES_MAX {
        return Err(Contradiction::Entries);
    }
    let (mut bytes, mut before) = (0, (message.index, None));
    for entry in &*message.entries {
        if before.0.checked_add(1) != Some(entry.index) {
            return Err(Contradiction::Indexes);
        }
        if !kind::is_plain(entry) || entry.data.len() >> LENGTH_BITS != 0 {
            return Err(Contradiction::Entry);
        }
        if before.1 != Some(entry.term) {
            check_run(message, before.1.unwrap_or(0), entry.term)?;
            bytes += RUN_BYTES;
        }
        before = (entry.index, Some(entry.term));
        bytes += ENTRY_BYTES + entry.data.len();
    }
    Ok(bytes)
}

/// A run of entries of `term` behind one of term `before`, 0 at the first.
pub(super) const fn check_run(message: &Message, before: u64, term: u64) -> Result<(), Contradiction> {
    if term <= before || term < message.log_term || term > message.term {
        return Err(Contradiction::EntryTerms);
    }
    Ok(())
}

fn write_fields(kind: Kind, message: &Message, out: &mut Vec<u8>) {
    let Message { log_term, index, commit, commit_term, reject_hint, .. } = *message;
    match kind {
        Kind::Append => {
            [log_term, index, commit].into_iter().for_each(|field| put(out, field));
            write_entries(&message.entries, out);
        }
        Kind::AppendResponse => {
            [index, commit].into_iter().for_each(|field| put(out, field));
            if message.reject {
                [log_term, reject_hint].into_iter().for_each(|field| put(out, field));
            }
            if message.request_snapshot != 0 {
                put(out, message.request_snapshot);
            }
        }
        Kind::VoteRequest | Kind::PreVoteRequest => {
            [log_term, index, commit, commit_term].into_iter().for_each(|field| put(out, field));
            if message.priority != 0 {
                out.extend_from_slice(&message.priority.to_le_bytes());
            }
        }
        Kind::VoteResponse | Kind::PreVoteResponse => {
            if message.reject {
                [commit, commit_term].into_iter().for_each(|field| put(out, field));
            }
        }
        Kind::Heartbeat | Kind::HeartbeatResponse => {
            put(out, commit);
            if !message.context.is_empty() {
                put_context(out, &message.context);
            }
        }
        Kind::Image | Kind::ImageResponse => {
            let length = u32::try_from(message.context.len()).expect("its length was looked at");
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&message.context);
        }
        Kind::Beat => {
            [index, commit, commit_term].into_iter().for_each(|field| put(out, field));
            if !message.context.is_empty() {
                let others = u16::try_from(message.context.len() / OTHER_BYTES);
                out.extend_from_slice(&others.expect("their number was looked at").to_le_bytes());
                out.extend_from_slice(&message.context);
            }
        }
        Kind::Sleep => put(out, index),
        Kind::TimeoutNow | Kind::Wake => {}
        Kind::ReadIndex | Kind::ReadIndexResponse => {
            if kind == Kind::ReadIndexResponse {
                put(out, index);
            }
            put_context(out, read_context(message).expect("it was looked at"));
        }
    }
}

fn write_entries(entries: &[Entry], out: &mut Vec<u8>) {
    let count = |entries: &[Entry]| u32::try_from(entries.len()).expect("their number was looked at");
    out.extend_from_slice(&count(entries).to_le_bytes());
    for run in entries.chunk_by(|one, next| one.term == next.term) {
        put(out, run.first().map_or(0, |entry| entry.term));
        out.extend_from_slice(&count(run).to_le_bytes());
        for entry in run {
            let length = u32::try_from(entry.data.len()).expect("its length was looked at");
            let length = length | kind::entry_code(entry.entry_type) << LENGTH_BITS;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&entry.data);
        }
    }
}
