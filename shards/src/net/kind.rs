//! The kinds of messages that peers may send, which fields of the crate's message each carries, and the kinds of entries.
//!
//! Invariant: a message of a kind has no field set that the kind does not carry, so the bytes of its kind hold all of it.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::frame::Lane;

/// What a message is. The codes are the crate's own numbers, and part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A shard is alive: from its storage to another one with members of its groups (`liveness.rs`); on its way it takes the beats
    /// of others along (`beats.rs`). It
    /// names one of these groups, to find its way; its members are the storages. The crate's kinds of this number and of the two
    /// of sleep are ones that peers never step.
    Beat = 1,
    /// Entries, or only how far the group has committed.
    Append = 3,
    /// What became of an append.
    AppendResponse = 4,
    /// A candidate asks for a vote.
    VoteRequest = 5,
    /// A vote.
    VoteResponse = 6,
    /// What the sender of an image sends to the member that is to get it (`image::transfer`).
    Image = 7,
    /// The leader is there.
    Heartbeat = 8,
    /// The follower has heard it.
    HeartbeatResponse = 9,
    /// A member is to go on: something has come up in a group that sleeps.
    Wake = 10,
    /// What that member answers. The crate's kind of this number is one that peers never step.
    ImageResponse = 11,
    /// The leader goes to sleep, and the follower is to do the same.
    Sleep = 12,
    /// The leader asks a follower to take its lead.
    TimeoutNow = 14,
    /// A follower asks the leader from which index on a read may be answered.
    ReadIndex = 15,
    /// That index.
    ReadIndexResponse = 16,
    /// A member asks whether it would get a vote.
    PreVoteRequest = 17,
    /// Whether it would.
    PreVoteResponse = 18,
}

/// The lane of a message; one that peers are not sent has the log's, and is refused there.
#[must_use]
pub fn lane_of(message: &Message) -> Lane {
    Kind::of(message.msg_type).map_or(Lane::Log, Kind::lane)
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Beat,
        Self::Append,
        Self::AppendResponse,
        Self::VoteRequest,
        Self::VoteResponse,
        Self::Image,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::Wake,
        Self::ImageResponse,
        Self::Sleep,
        Self::TimeoutNow,
        Self::ReadIndex,
        Self::ReadIndexResponse,
        Self::PreVoteRequest,
        Self::PreVoteResponse,
    ];

    /// The kind of a message of the crate; `None`: peers are not sent such messages.
    #[must_use]
    pub const fn of(message_type: MessageType) -> Option<Self> {
        Some(match message_type {
            MessageType::MsgAppend => Self::Append,
            MessageType::MsgAppendResponse => Self::AppendResponse,
            MessageType::MsgRequestVote => Self::VoteRequest,
            MessageType::MsgRequestVoteResponse => Self::VoteResponse,
            MessageType::MsgSnapshot => Self::Image,
            MessageType::MsgSnapStatus => Self::ImageResponse,
            MessageType::MsgBeat => Self::Beat,
            MessageType::MsgUnreachable => Self::Wake,
            MessageType::MsgCheckQuorum => Self::Sleep,
            MessageType::MsgHeartbeat => Self::Heartbeat,
            MessageType::MsgHeartbeatResponse => Self::HeartbeatResponse,
            MessageType::MsgTimeoutNow => Self::TimeoutNow,
            MessageType::MsgReadIndex => Self::ReadIndex,
            MessageType::MsgReadIndexResp => Self::ReadIndexResponse,
            MessageType::MsgRequestPreVote => Self::PreVoteRequest,
            MessageType::MsgRequestPreVoteResponse => Self::PreVoteResponse,
            // What a group says to itself, and what would pass the registry of proposals, or let anybody move the lead.
            MessageType::MsgHup | MessageType::MsgPropose | MessageType::MsgTransferLeader => return None,
        })
    }

    /// Its byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// As it is called in figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Image => "image",
            Self::ImageResponse => "image_response",
            Self::AppendResponse => "append_response",
            Self::VoteRequest => "vote_request",
            Self::VoteResponse => "vote_response",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatResponse => "heartbeat_response",
            Self::Beat => "beat",
            Self::Sleep => "sleep",
            Self::Wake => "wake",
            Self::TimeoutNow => "timeout_now",
            Self::ReadIndex => "read_index",
            Self::ReadIndexResponse => "read_index_response",
            Self::PreVoteRequest => "pre_vote_request",
            Self::PreVoteResponse => "pre_vote_response",
        }
    }

    /// The kind of a byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The crate's name of it.
    #[must_use]
    pub const fn message_type(self) -> MessageType {
        match self {
            Self::Append => MessageType::MsgAppend,
            Self::AppendResponse => MessageType::MsgAppendResponse,
            Self::VoteRequest => MessageType::MsgRequestVote,
            Self::VoteResponse => MessageType::MsgRequestVoteResponse,
            Self::Image => MessageType::MsgSnapshot,
            Self::ImageResponse => MessageType::MsgSnapStatus,
            Self::Heartbeat => MessageType::MsgHeartbeat,
            Self::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
            Self::Beat => MessageType::MsgBeat,
            Self::Sleep => MessageType::MsgCheckQuorum,
            Self::Wake => MessageType::MsgUnreachable,
            Self::TimeoutNow => MessageType::MsgTimeoutNow,
            Self::ReadIndex => MessageType::MsgReadIndex,
            Self::ReadIndexResponse => MessageType::MsgReadIndexResp,
            Self::PreVoteRequest => MessageType::MsgRequestPreVote,
            Self::PreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        }
    }

    /// What kind of connection it goes on: what is late at once does not wait behind entries.
    #[must_use]
    pub const fn lane(self) -> Lane {
        match self {
            Self::Append | Self::AppendResponse => Lane::Log,
            Self::Image | Self::ImageResponse => Lane::Bulk,
            Self::VoteRequest
            | Self::VoteResponse
            | Self::Heartbeat
            | Self::HeartbeatResponse
            | Self::Beat
            | Self::Sleep
            | Self::Wake
            | Self::TimeoutNow
            | Self::ReadIndex
            | Self::ReadIndexResponse
            | Self::PreVoteRequest
            | Self::PreVoteResponse => Lane::Liveness,
        }
    }

    /// The first version of frames that has it. A peer that speaks an earlier one is not sent it.
    #[must_use]
    pub const fn since(self) -> u8 {
        match self {
            Self::Beat | Self::Sleep | Self::Wake => 3,
            Self::Append
            | Self::AppendResponse
            | Self::Image
            | Self::ImageResponse
            | Self::VoteRequest
            | Self::VoteResponse
            | Self::Heartbeat
            | Self::HeartbeatResponse
            | Self::TimeoutNow
            | Self::ReadIndex
            | Self::ReadIndexResponse
            | Self::PreVoteRequest
            | Self::PreVoteResponse => 1,
        }
    }

    /// The fields that it may have, beside sender, receiver and term.
    const fn fields(self) -> u16 {
        match self {
            Self::Append => LOG_TERM | INDEX | ENTRIES | COMMIT,
            Self::AppendResponse => LOG_TERM | INDEX | COMMIT | REQUEST_SNAPSHOT | REJECT | REJECT_HINT,
            Self::VoteRequest | Self::PreVoteRequest => {
                LOG_TERM | INDEX | COMMIT | COMMIT_TERM | CONTEXT | PRIORITY
            }
            Self::VoteResponse | Self::PreVoteResponse => COMMIT | COMMIT_TERM | REJECT,
            Self::Heartbeat | Self::HeartbeatResponse => COMMIT | CONTEXT,
            Self::Image | Self::ImageResponse => CONTEXT,
            Self::Beat => INDEX | COMMIT | COMMIT_TERM | CONTEXT,
            Self::Sleep => INDEX,
            Self::TimeoutNow | Self::Wake => 0,
            Self::ReadIndex => ENTRIES,
            Self::ReadIndexResponse => INDEX | ENTRIES,
        }
    }
}

const LOG_TERM: u16 = 1;
const INDEX: u16 = 1 << 1;
const ENTRIES: u16 = 1 << 2;
const COMMIT: u16 = 1 << 3;
const COMMIT_TERM: u16 = 1 << 4;
const SNAPSHOT: u16 = 1 << 5;
const REQUEST_SNAPSHOT: u16 = 1 << 6;
const REJECT: u16 = 1 << 7;
const REJECT_HINT: u16 = 1 << 8;
const CONTEXT: u16 = 1 << 9;
const PRIORITY: u16 = 1 << 10;
const UNKNOWN: u16 = 1 << 11;

/// A field that is set and that the kind does not carry.
pub(super) fn foreign_field(kind: Kind, message: &Message) -> Option<&'static str> {
    // Each field by name, so that one that a release of the crate adds is not lost on the way.
    let Message {
        msg_type: _,
        to: _,
        from: _,
        term: _,
        log_term,
        index,
        entries,
        commit,
        commit_term,
        snapshot,
        request_snapshot,
        reject,
        reject_hint,
        context,
        deprecated_priority,
        priority,
        unknown_fields,
        cached_size: _,
    } = message;
    let fields = [
        (LOG_TERM, "log_term", *log_term != 0),
        (INDEX, "index", *index != 0),
        (ENTRIES, "entries", !entries.is_empty()),
        (COMMIT, "commit", *commit != 0),
        (COMMIT_TERM, "commit_term", *commit_term != 0),
        (SNAPSHOT, "snapshot", snapshot.is_some()),
        (REQUEST_SNAPSHOT, "request_snapshot", *request_snapshot != 0),
        (REJECT, "reject", *reject),
        (REJECT_HINT, "reject_hint", *reject_hint != 0),
        (CONTEXT, "context", !context.is_empty()),
        (PRIORITY, "priority", *priority != 0 || *deprecated_priority != 0),
        (UNKNOWN, "unknown field", unknown_fields.fields.is_some()),
    ];
    let mut foreign = fields.into_iter().filter(|(field, _, is_set)| *is_set && kind.fields() & field == 0);
    foreign.next().map(|(_, name, _)| name)
}

/// Whether an entry has nothing beside kind, term, index and payload.
pub(super) fn is_plain(entry: &Entry) -> bool {
    let Entry {
        entry_type: _,
        term: _,
        index: _,
        data: _,
        context,
        sync_log,
        unknown_fields,
        cached_size: _,
    } = entry;
    context.is_empty() && !sync_log && unknown_fields.fields.is_none()
}

/// The code of an entry's kind: those of the log's records.
pub(super) const fn entry_code(entry_type: EntryType) -> u32 {
    match entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// The kind of an entry by its code.
pub(super) const fn entry_type(code: u32) -> Option<EntryType> {
    match code {
        0 => Some(EntryType::EntryNormal),
        1 => Some(EntryType::EntryConfChange),
        2 => Some(EntryType::EntryConfChangeV2),
        _ => None,
    }
}
