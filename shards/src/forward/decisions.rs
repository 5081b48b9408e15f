//! What goes into a [`Forwarder`](super::Forwarder) and comes out: what is known of the lead, settings, what is to be done, and
//! what is counted.

use bytes::Bytes;

use super::recent::Handed;
use crate::ids::{NodeId, PartitionId, Ticket};
use crate::machine::Kind;
use crate::net::RequestId;
use crate::rejection::Rejection;

/// Who leads a partition, as far as this node's own replica knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lead {
    /// That replica; or it is the one to refuse what is asked.
    Here,
    /// That of another node.
    There(NodeId),
    /// Nobody that is known.
    Nobody,
}

/// What is known here: of this node's own replicas and shards, and of its connections.
pub trait Here {
    /// Who leads a partition.
    fn lead(&self, partition: PartitionId) -> Lead;

    /// Whether a node is connected.
    fn reaches(&self, node: NodeId) -> bool;

    /// Whether the shard here has requests of a connection for a partition without an outcome.
    fn holds(&self, partition: PartitionId, conn: u64) -> bool;
}

/// A request on its way to its partition's replica.
#[derive(Clone, Copy, Debug)]
pub struct Request<'o> {
    /// The client's.
    pub ticket: Ticket,
    /// For which partition.
    pub partition: PartitionId,
    /// Logged or not.
    pub kind: Kind,
    /// Its client is to be sent to the node that leads.
    pub may_redirect: bool,
    /// The encoded operation.
    pub op: &'o [u8],
}

/// Bounds and times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardOptions {
    /// This node.
    pub node: NodeId,
    /// What this process has drawn: answers to another one are for nobody.
    pub process: u64,
    /// Requests without an outcome. Default 65,536.
    pub requests: usize,
    /// Bytes of them. Default 64 MiB.
    pub bytes: usize,
    /// Requests that one node may owe answers to; others wait here. Default 4,096.
    pub owed_requests: usize,
    /// Bytes of them. Default 8 MiB.
    pub owed_bytes: usize,
    /// Bytes of one answer. Default 256 MiB.
    pub answer_bytes: usize,
    /// How long a request may wait until it is sent, in ms. Default 10,000: as long as it may wait in a shard.
    pub wait_ms: u64,
    /// How long an answer may take, in ms. Default 11,000: whoever is asked gives up before.
    pub answer_ms: u64,
    /// How long a node that does not lead any more may take to answer, in ms. Default 1,000.
    pub stray_ms: u64,
    /// After how long a node that has refused is asked again, in ms. Default 20.
    pub again_ms: u64,
    /// How long it is believed what a node says of another one's lead, in ms. Default 1,000.
    pub hint_ms: u64,
}

impl ForwardOptions {
    /// The defaults, of a process of a node.
    #[must_use]
    pub const fn of(node: NodeId, process: u64) -> Self {
        Self {
            node,
            process,
            requests: 65_536,
            bytes: 64 << 20,
            owed_requests: 4_096,
            owed_bytes: 8 << 20,
            answer_bytes: 256 << 20,
            wait_ms: 10_000,
            answer_ms: 11_000,
            stray_ms: 1_000,
            again_ms: 20,
            hint_ms: 1_000,
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Decision {
    /// Send it to the core of that node that owns the partition's shard.
    Send {
        /// To which node.
        node: NodeId,
        /// The request's number.
        id: RequestId,
        /// For which partition.
        partition: PartitionId,
        /// The client's connection.
        conn: u64,
        /// Logged or not.
        kind: Kind,
        /// The encoded operation.
        op: Bytes,
    },
    /// Hand it to the shard here.
    Run {
        /// The request.
        handed: Handed,
        /// The encoded operation.
        op: Bytes,
    },
    /// That node has answered it: this is the encoded reply.
    Answer {
        /// The request's.
        ticket: Ticket,
        /// What it was.
        kind: Kind,
        /// The encoded reply.
        bytes: Bytes,
    },
    /// It was not done, and its client is to ask that node.
    Redirect {
        /// The request's.
        ticket: Ticket,
        /// For which partition.
        partition: PartitionId,
        /// Who leads.
        node: NodeId,
    },
    /// It was certainly not done.
    Reject {
        /// The request's.
        ticket: Ticket,
        /// Why.
        why: Rejection,
    },
    /// It may have been done, or be done yet.
    Unknown {
        /// The request's.
        ticket: Ticket,
    },
}

/// What became of a request that came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It was taken in.
    Yes,
    /// The shard here is to carry it out.
    Local,
}

/// What has happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ForwardCounters {
    /// Requests taken in.
    pub taken: u64,
    /// Requests sent; those that were sent again among them.
    pub sent: u64,
    /// Requests answered by another node.
    pub answered: u64,
    /// Times that a node refused, since it does not lead.
    pub not_led: u64,
    /// Requests whose clients were sent elsewhere.
    pub redirected: u64,
    /// Requests that were certainly not done.
    pub rejected: u64,
    /// Requests of which that is not known.
    pub unknown: u64,
    /// Answers that nobody waited for.
    pub late: u64,
}
