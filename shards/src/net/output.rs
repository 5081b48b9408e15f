//! What goes into [`Peers`](super::Peers) and comes out beside bytes: settings, what is to be done, why connections end, and
//! what is counted.

use bytes::Bytes;
use raft::eraftpb::Message;

use super::frame::{FrameError, Lane};
use super::handshake::PeerInfo;
use super::hello::{CoreId, Epoch};
use super::kind::Kind;
use super::refusal::{Refusal, RefusalKind};
use super::request::{Forwarded, RequestId};
use crate::ids::{NodeId, PartitionId, ShardId, StorageId};

pub(super) const NS_PER_MS: u64 = 1_000_000;

/// A connection of one core. Never used again while the process runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// The shard of another node that a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct To {
    /// The node.
    pub node: NodeId,
    /// A storage of it.
    pub storage: StorageId,
    /// A shard of that.
    pub shard: ShardId,
}

/// Bounds and times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerOptions {
    /// Messages that wait for one core of a peer, on one lane. Default 16,384.
    pub queue_messages: usize,
    /// Bytes of them. Default 32 MiB.
    pub queue_bytes: usize,
    /// Bytes of messages above which a frame takes no further one, and an append no further entry. Default 4 MiB.
    pub frame_bytes: usize,
    /// Connections at once; what comes beyond is not accepted. Default 1,024.
    pub connections: usize,
    /// Of those, the ones that came from elsewhere and have proved nothing yet. Default 64.
    pub strangers: usize,
    /// Time to make a connection, in ms. Default 2,000.
    pub dial_ms: u64,
    /// Time for a handshake, in ms. Default 2,000.
    pub handshake_ms: u64,
    /// Time in which a connection has to take something of a frame, in ms. Default 2,000.
    pub stall_ms: u64,
    /// Wait after the first failure, in ms. Default 50.
    pub backoff_min_ms: u64,
    /// Longest wait, in ms. Default 5,000.
    pub backoff_max_ms: u64,
    /// A connection that lasted that long has made up for the failures before it, in ms. Default 5,000.
    pub steady_ms: u64,
    /// Of the waits.
    pub seed: u64,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            queue_messages: 16_384,
            queue_bytes: 32 << 20,
            frame_bytes: 4 << 20,
            connections: 1_024,
            strangers: 64,
            dial_ms: 2_000,
            handshake_ms: 2_000,
            stall_ms: 2_000,
            backoff_min_ms: 50,
            backoff_max_ms: 5_000,
            steady_ms: 5_000,
            seed: 0,
        }
    }
}

/// A connection that was accepted here and is wanted on another core of this node.
#[derive(Debug)]
pub struct Passed {
    /// The other side.
    pub info: PeerInfo,
    /// What came of it already.
    pub received: Bytes,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Connect to the node, and report it by `connected` or `closed`.
    Dial {
        /// The connection to be made.
        conn: ConnId,
        /// To whom.
        node: NodeId,
        /// What for.
        lane: Lane,
    },
    /// Send these bytes, and report it by `written` once the connection has taken all of them, and by `progressed` each time
    /// that it has taken some.
    Write {
        /// Where.
        conn: ConnId,
        /// What.
        bytes: Bytes,
    },
    /// Close the connection, once what was to be written before is written or cannot be. Nothing that comes of it counts.
    Close {
        /// The connection.
        conn: ConnId,
        /// Whom it was made to, or who has proved to be at its other end.
        node: Option<NodeId>,
        /// Why.
        why: Ending,
    },
    /// Hand the connection to another core of this node, which `adopt`s it; what was to be written is written first.
    Pass {
        /// The connection.
        conn: ConnId,
        /// To whom.
        core: CoreId,
        /// What is known of it.
        passed: Box<Passed>,
    },
    /// A message of a replica has come.
    Deliver {
        /// From which node.
        node: NodeId,
        /// For which partition's replica.
        partition: PartitionId,
        /// The message.
        message: Box<Message>,
    },
    /// Something for a member was not sent: its group has to know that it may be out of reach.
    Unreachable {
        /// The partition.
        partition: PartitionId,
        /// The storage that the member of its group is on.
        to: StorageId,
    },
    /// A request of a client, or the answer to one, has come.
    Forwarded {
        /// From which node.
        node: NodeId,
        /// The request or answer.
        forwarded: Forwarded,
    },
    /// A request or an answer was certainly not sent, and will not be.
    Unsent {
        /// To which node.
        node: NodeId,
        /// The request or answer.
        forwarded: Forwarded,
    },
    /// A connection for requests has ended that these were written to and not answered on: they may have come, or not.
    Severed {
        /// To which node.
        node: NodeId,
        /// The requests.
        requests: Vec<RequestId>,
    },
    /// A founder of the cluster was heard of for the first time, and has proved itself: its incarnation is to be kept durably,
    /// and reported by `met`. Until then no connection with it is made.
    Meet {
        /// The founder.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A new process of a node was seen: the other cores are to hear of it by `seen`.
    Seen {
        /// Of which node.
        node: NodeId,
        /// Which process.
        epoch: Epoch,
    },
}

/// Why a connection is closed from here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ending {
    /// One of the two does not want the other.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What came is not what the peer wrote.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Nobody answered.
    #[error("no connection was made in {after_ms} ms")]
    NotMade {
        /// How long it took.
        after_ms: u64,
    },
    /// The other side takes nothing any more.
    #[error("the peer has taken nothing of a frame in {after_ms} ms")]
    Stalled {
        /// How long it has had.
        after_ms: u64,
    },
    /// It had proved nothing, and others came.
    #[error("it had not proved yet that it is of the cluster, and as many others as may be have not either")]
    Crowded,
    /// There is another one to the same core and lane.
    #[error("another connection has replaced it")]
    Replaced,
    /// A newer process of the peer has come.
    #[error("a newer process of the peer has come: {newest}")]
    Superseded {
        /// That one.
        newest: Epoch,
    },
}

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Dropped {
    /// As many wait for that core as may.
    QueueFull,
    /// The last connection failed a moment ago.
    BackingOff,
    /// The connection ended before it had taken it.
    ConnectionLost,
    /// No peer would take it.
    Unsendable,
    /// It does not fit into a frame.
    TooLong,
    /// The node does not have that shard.
    NoShard,
    /// Not every founder of the cluster was met yet.
    NotMet,
    /// The peer speaks a version of frames that does not have it. Nobody counts on its arrival, and its loss is not reported.
    TooNew,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::QueueFull,
        Self::BackingOff,
        Self::ConnectionLost,
        Self::Unsendable,
        Self::TooLong,
        Self::NoShard,
        Self::NotMet,
        Self::TooNew,
    ];

    /// As it is called in figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::BackingOff => "backing_off",
            Self::ConnectionLost => "connection_lost",
            Self::Unsendable => "unsendable",
            Self::TooLong => "too_long",
            Self::NoShard => "no_shard",
            Self::NotMet => "not_met",
            Self::TooNew => "too_new",
        }
    }
}

/// What has happened so far.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PeerCounters {
    /// Connections asked for.
    pub dials: u64,
    /// Connections accepted, before anybody introduced itself.
    pub accepted: u64,
    /// Connections not accepted, as there were too many.
    pub not_accepted: u64,
    /// Handshakes done.
    pub handshakes: u64,
    /// Connections that ended: by the other side or the network, and from here.
    pub lost: u64,
    /// See there.
    pub closed: u64,
    /// Frames given to connections.
    pub frames_sent: u64,
    /// Messages in them.
    pub messages_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Frames that came.
    pub frames_received: u64,
    /// Messages in them.
    pub messages_received: u64,
    /// Bytes that came on connections that are up.
    pub bytes_received: u64,
    /// Requests of clients that were to be sent, whatever became of them.
    pub requests_queued: u64,
    /// Those that came.
    pub requests_received: u64,
    /// Answers, or parts of them, that were to be sent.
    pub answers_queued: u64,
    /// Those that came.
    pub answers_received: u64,
    queued: [u64; Kind::ALL.len()],
    came: [u64; Kind::ALL.len()],
    refused: [u64; RefusalKind::ALL.len()],
    bad_frames: [u64; FrameError::KINDS.len()],
    dropped: [u64; Dropped::ALL.len()],
}

impl PeerCounters {
    /// Handshakes that ended so.
    #[must_use]
    pub fn refused(&self, kind: RefusalKind) -> u64 {
        self.refused.get(kind.index()).copied().unwrap_or(0)
    }

    /// Messages of replicas by their kinds: those that were to be sent, whatever became of them, and those that came. Beats that go
    /// as one message are several here.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, u64, u64)> {
        let counts = self.queued.into_iter().zip(self.came);
        Kind::ALL.into_iter().zip(counts).map(|(kind, (queued, came))| (kind, queued, came))
    }

    pub(super) fn count_queued(&mut self, message: &Message) {
        count_kind(&mut self.queued, message);
    }

    pub(super) fn count_received(&mut self, message: &Message) {
        count_kind(&mut self.came, message);
    }

    pub(super) const fn count_forwarded(&mut self, forwarded: &Forwarded, has_come: bool) {
        let counter = match (forwarded.is_request(), has_come) {
            (true, false) => &mut self.requests_queued,
            (true, true) => &mut self.requests_received,
            (false, false) => &mut self.answers_queued,
            (false, true) => &mut self.answers_received,
        };
        *counter += 1;
        self.messages_received += has_come as u64;
    }

    /// Connections that ended by a frame, by what was wrong with it.
    pub fn bad_frames(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FrameError::KINDS.into_iter().zip(self.bad_frames)
    }

    /// Messages that were not sent, by the reason.
    #[must_use]
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped.get(why as usize).copied().unwrap_or(0)
    }

    pub(super) fn count_drop(&mut self, why: Dropped) {
        count(&mut self.dropped, why as usize);
    }

    pub(super) fn count_ending(&mut self, why: &Ending) {
        self.closed += 1;
        match why {
            Ending::Refused(refusal) => count(&mut self.refused, refusal.kind().index()),
            Ending::Frame(error) => count(&mut self.bad_frames, error.kind()),
            Ending::NotMade { .. }
            | Ending::Stalled { .. }
            | Ending::Crowded
            | Ending::Replaced
            | Ending::Superseded { .. } => {}
        }
    }
}

fn count_kind(counters: &mut [u64], message: &Message) {
    let at = Kind::of(message.msg_type).and_then(|kind| Kind::ALL.iter().position(|one| *one == kind));
    at.into_iter().for_each(|at| count(counters, at));
}

fn count(counters: &mut [u64], at: usize) {
    if let Some(counter) = counters.get_mut(at) {
        *counter += 1;
    }
}
