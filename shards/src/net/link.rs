//! The way to one core of a peer on one lane: what waits to be sent there, and when it is tried again after a failure.
//!
//! Invariant: messages wait only where a connection is there or under way. Their number and bytes are bounded, but for one
//! message, which is always let into an empty queue.

use std::collections::VecDeque;

use corduroy_wal::mix::SplitMix64;

use super::beats;
use super::frame::{Lane, MESSAGES_MAX};
use super::hello::CoreId;
use super::output::{ConnId, NS_PER_MS, PeerOptions, To};
use super::parcel::{Parcel, Writable};
use crate::ids::{NodeId, PartitionId, StorageId};

/// So many failures in a row count as a connection that was refused.
const REFUSED: u32 = u32::MAX;

/// Where a link leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkKey {
    /// The node.
    pub node: NodeId,
    /// Its core; [`CoreId::ANY`]: it has not been heard yet where its shards are.
    pub core: CoreId,
    /// What is sent there.
    pub lane: Lane,
    /// Of the lane for requests: the other node makes its connections, for requests of its own, and answers are sent there.
    pub is_theirs: bool,
}

/// What a link is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Nothing is to be sent.
    Idle,
    /// A connection is being made.
    Dialling(ConnId),
    /// It is made, and both sides are introducing themselves.
    Handshaking(ConnId),
    /// Frames may be sent.
    Up(ConnId),
    /// The last connection failed: nothing is sent until then.
    BackingOff {
        /// When it may be tried again.
        until_ns: u64,
        /// When for what cannot wait.
        urgent_ns: u64,
    },
}

impl LinkState {
    /// Its connection, however far that is.
    #[must_use]
    pub const fn conn(self) -> Option<ConnId> {
        match self {
            Self::Dialling(conn) | Self::Handshaking(conn) | Self::Up(conn) => Some(conn),
            Self::Idle | Self::BackingOff { .. } => None,
        }
    }
}

/// A message that waits, and the shard that it is for.
#[derive(Debug)]
pub(super) struct Waiting {
    pub to: To,
    pub message: Parcel,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub state: LinkState,
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    /// Connections in a row that failed.
    failures: u32,
    /// Whether something of this node was ever sent there: its failures are remembered.
    pub is_wanted: bool,
    /// Whether it is among those that the next flush looks at.
    pub is_due: bool,
}

impl Link {
    pub const fn new() -> Self {
        Self {
            state: LinkState::Idle,
            queue: VecDeque::new(),
            queued_bytes: 0,
            failures: 0,
            is_wanted: false,
            is_due: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a message of so many bytes may wait.
    pub fn has_room(&self, bytes: usize, options: &PeerOptions) -> bool {
        let is_within =
            self.queue.len() < options.queue_messages && self.queued_bytes + bytes <= options.queue_bytes;
        is_within || self.queue.is_empty()
    }

    /// Whether a connection is not to be tried yet for this message.
    pub fn is_backing_off(&self, message: &Parcel, now_ns: u64) -> bool {
        match self.state {
            LinkState::BackingOff { urgent_ns, .. } if message.is_urgent() => now_ns < urgent_ns,
            LinkState::BackingOff { until_ns, .. } => now_ns < until_ns,
            LinkState::Idle | LinkState::Dialling(_) | LinkState::Handshaking(_) | LinkState::Up(_) => false,
        }
    }

    /// Lets a message wait that there is room for.
    pub fn push(&mut self, waiting: Waiting) {
        self.queued_bytes += waiting.message.bytes();
        self.queue.push_back(waiting);
    }

    /// The messages of the next frame, which is of that version, in order, and for whose replicas they are.
    pub fn take_frame(
        &mut self,
        options: &PeerOptions,
        version: u8,
    ) -> (Vec<Parcel>, Vec<(PartitionId, StorageId)>) {
        let (mut messages, mut bytes) = (0, 0);
        for waiting in self.queue.iter().take(MESSAGES_MAX) {
            let more = bytes + waiting.message.bytes();
            if messages > 0 && more > options.frame_bytes {
                break;
            }
            (messages, bytes) = (messages + 1, more);
        }
        self.queued_bytes -= bytes;
        let of = |Waiting { to, message }: Waiting| {
            let replica = (message.partition(), to.storage);
            (message, replica)
        };
        let (mut messages, members): (Vec<_>, _) = self.queue.drain(..messages).map(of).unzip();
        if version >= beats::SINCE {
            beats::join(&mut messages);
        }
        (messages, members)
    }

    /// Drops what frames of that version do not have. Returns how much that was.
    pub fn drop_newer(&mut self, version: u8) -> usize {
        let before = self.queue.len();
        self.queue.retain(|waiting| {
            let is_known = waiting.message.since() <= version;
            self.queued_bytes -= if is_known { 0 } else { waiting.message.bytes() };
            is_known
        });
        before - self.queue.len()
    }

    /// Takes all that waits.
    pub fn take_all(&mut self) -> VecDeque<Waiting> {
        self.queued_bytes = 0;
        std::mem::take(&mut self.queue)
    }

    /// A connection failed after it was up since then, if it ever was: the next try waits, longer each time in a row.
    pub fn back_off(&mut self, how: Failure, options: &PeerOptions, numbers: &mut SplitMix64, now_ns: u64) {
        match how {
            Failure::Lost { up_since_ns } => {
                if now_ns.saturating_sub(up_since_ns) >= options.steady_ms * NS_PER_MS {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
            }
            Failure::NotMade => self.failures = self.failures.saturating_add(1),
            // Only somebody who changes a setting or a process makes it otherwise.
            Failure::Refused => self.failures = REFUSED,
        }
        let doublings = (self.failures - 1).min(32);
        let longest_ms = options.backoff_min_ms.saturating_mul(1 << doublings).min(options.backoff_max_ms);
        // Between half of it and all, so that the nodes that lost a peer do not all come back at once.
        let longest_ns = longest_ms * NS_PER_MS;
        let wait_ns = longest_ns / 2 + numbers.next_u64() % (longest_ns / 2 + 1);
        let until_ns = now_ns + wait_ns;
        let urgent_ns = match how {
            Failure::Refused => until_ns,
            Failure::Lost { .. } | Failure::NotMade => {
                until_ns.min(now_ns + options.backoff_min_ms * NS_PER_MS)
            }
        };
        self.state = LinkState::BackingOff { until_ns, urgent_ns };
    }

    /// The node is there again: what was lost before need not wait, unless it was refused.
    pub fn wait_no_more(&mut self) {
        if matches!(self.state, LinkState::BackingOff { .. }) && self.failures < REFUSED {
            self.state = LinkState::Idle;
        }
    }

    /// Compares what it holds.
    ///
    /// # Panics
    /// If that contradicts itself.
    pub fn check(&self, key: LinkKey, options: &PeerOptions) {
        let bytes: usize = self.queue.iter().map(|waiting| waiting.message.bytes()).sum();
        assert_eq!(bytes, self.queued_bytes, "bytes that wait for {key:?}");
        assert!(self.queue.len() <= options.queue_messages.max(1), "{} wait for {key:?}", self.queue.len());
        assert!(bytes <= options.queue_bytes || self.queue.len() == 1, "{bytes} bytes wait for {key:?}");
        let may_hold = self.state.conn().is_some();
        assert!(may_hold || self.queue.is_empty(), "messages wait for {key:?}, which is {:?}", self.state);
    }
}

/// How a connection of a link came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// It was up, and ended.
    Lost { up_since_ns: u64 },
    /// It never came to frames.
    NotMade,
    /// One side refused the other.
    Refused,
}
