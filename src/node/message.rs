//! What cores send each other, and what a core brings to a session. A value crosses at most twice: in a request, and in its
//! reply.

use std::cell::Cell;

use corduroy_shards::forward::End;
use corduroy_shards::ids::NodeId;
use corduroy_shards::net::Epoch;
use corduroy_shards::wires::Moved;
use corduroy_shards::{Kind, PartitionId, StageStamps, Ticket};

use crate::resp::{SessionReply, Timing};

/// The outcome of a request, on its way to its session.
#[derive(Debug)]
pub struct Answer {
    /// The request's.
    pub ticket: Ticket,
    /// What came of it.
    pub reply: SessionReply,
    /// How it was carried out.
    pub timing: Timing,
}

/// One message.
#[derive(Debug)]
pub enum Message {
    /// A request for a partition of the receiving core.
    Request {
        /// Whose; its core is where the reply goes.
        ticket: Ticket,
        /// For which partition.
        partition: PartitionId,
        /// Logged or not.
        kind: Kind,
        /// Its client follows to the node that leads.
        may_redirect: bool,
        /// The encoded operation.
        op: Box<[u8]>,
    },
    /// The one outcome of a request.
    Reply {
        /// The request's.
        ticket: Ticket,
        /// What came of it.
        reply: SessionReply,
        /// How long it took to carry out, ns; at most some seconds.
        ran_ns: u32,
        /// When it passed its stages, if it may be slow.
        stages: Option<Box<StageStamps>>,
        /// What the ledger counts of it while it is under way.
        bytes: usize,
    },
    /// The client of this connection has ended it.
    Ended {
        /// Its number.
        conn: u64,
        /// How.
        end: End,
    },
    /// A peer's connection that the receiving core is wanted on.
    Peer(Box<Moved>),
    /// A new process of a peer was seen.
    PeerSeen {
        /// Of which node.
        node: NodeId,
        /// Which process.
        epoch: Epoch,
    },
    /// Look at this connection: it may have to be closed.
    Look {
        /// Its number.
        conn: u64,
    },
}

/// Some of the node's cores. Where there are more than 64, some share a bit, and the answer may be "maybe".
#[derive(Default)]
pub struct CoreSet(Cell<u64>);

impl CoreSet {
    const fn bit(core: usize) -> u64 {
        1 << (core % 64)
    }

    /// Adds one.
    pub fn add(&self, core: usize) {
        self.0.set(self.0.get() | Self::bit(core));
    }

    /// Equal ones hold the same cores.
    pub const fn bits(&self) -> u64 {
        self.0.get()
    }

    /// Whether it may be among them.
    pub const fn may_hold(&self, core: usize) -> bool {
        self.0.get() & Self::bit(core) != 0
    }
}
