//! What goes into a frame: messages of replicas on most lanes, requests of clients and their answers on one.

use super::kind::Kind;
use super::message::Outgoing;
use super::request::{Forwarded, RequestId};
use crate::ids::PartitionId;

/// What a frame can carry.
pub trait Writable {
    /// The bytes that [`Writable::write`] adds.
    fn bytes(&self) -> usize;

    /// Adds its bytes.
    fn write(&self, out: &mut Vec<u8>);
}

impl Writable for Outgoing {
    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
}

/// One of both.
#[derive(Debug)]
pub(super) enum Parcel {
    /// From one replica to another.
    Replica(Outgoing),
    /// From one node to another, for a client.
    Forwarded(Forwarded),
}

impl Parcel {
    /// The request of a client that it is.
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Self::Forwarded(forwarded) if forwarded.is_request() => Some(forwarded.id()),
            Self::Replica(_) | Self::Forwarded(_) => None,
        }
    }

    /// Whether it cannot wait for a peer to be tried again that was lost: an election that is not heard of is held again only an
    /// election timeout later.
    pub const fn is_urgent(&self) -> bool {
        match self {
            Self::Replica(message) => matches!(message.kind(), Kind::VoteRequest | Kind::PreVoteRequest),
            Self::Forwarded(_) => false,
        }
    }

    /// The first version of frames that it goes in. What is for clients has a lane, of which that is asked.
    pub fn since(&self) -> u8 {
        match self {
            Self::Replica(message) => message.since(),
            Self::Forwarded(_) => 0,
        }
    }

    /// Whether it is the answer to one.
    pub const fn is_answer(&self) -> bool {
        match self {
            Self::Forwarded(forwarded) => !forwarded.is_request(),
            Self::Replica(_) => false,
        }
    }

    /// The partition that it is about.
    pub const fn partition(&self) -> PartitionId {
        match self {
            Self::Replica(message) => message.partition(),
            Self::Forwarded(forwarded) => forwarded.partition(),
        }
    }
}

impl Writable for Parcel {
    fn bytes(&self) -> usize {
        match self {
            Self::Replica(message) => message.bytes(),
            Self::Forwarded(forwarded) => forwarded.bytes(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Replica(message) => message.write(out),
            Self::Forwarded(forwarded) => forwarded.write(out),
        }
    }
}
