//! What a core's wires are given, and what comes of them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use hashbrown::HashMap;
use raft::eraftpb::Message;

use crate::ids::{NodeId, PartitionId, StorageId};
use crate::net::{ConnId, CoreId, Epoch, Forwarded, Local, Passed, PeerOptions, RequestId};
use crate::runtime::Socket;

/// A connection that another core of this node has accepted.
#[derive(Debug)]
pub struct Moved {
    pub(super) socket: Socket,
    pub(super) passed: Box<Passed>,
    /// What the other side has yet to be sent of the handshake.
    pub(super) unsent: VecDeque<Bytes>,
}

/// What has come, or come about, for whoever drives the core.
#[derive(Debug)]
pub enum News {
    /// A message of a replica.
    Message {
        /// From which node.
        node: NodeId,
        /// For which partition's replica.
        partition: PartitionId,
        /// The message.
        message: Box<Message>,
    },
    /// Something for the member on that storage was not sent.
    Unreachable {
        /// Of which partition's group.
        partition: PartitionId,
        /// The member's storage.
        to: StorageId,
    },
    /// A request of a client, or the answer to one.
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
    /// This connection is for another core, which takes it by [`Wires::adopt`](super::Wires::adopt).
    Moved {
        /// For which.
        core: CoreId,
        /// The connection.
        moved: Box<Moved>,
    },
    /// A founder of the cluster was heard of for the first time: its incarnation is to be kept durably, and then reported by
    /// [`Wires::met`](super::Wires::met).
    Meet {
        /// The founder.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A new process of a node was seen: the other cores are to hear of it by [`Wires::seen`](super::Wires::seen).
    Seen {
        /// Of which node.
        node: NodeId,
        /// Which process.
        epoch: Epoch,
    },
}

/// Settings of a core's wires.
#[derive(Debug)]
pub struct WireOptions {
    /// This node.
    pub local: Local,
    /// The core.
    pub core: CoreId,
    /// Bounds and times.
    pub peers: PeerOptions,
    /// Where the other nodes are.
    pub addresses: HashMap<NodeId, SocketAddr>,
    /// What stands for a connection in the poller.
    pub token: fn(ConnId) -> u64,
}
