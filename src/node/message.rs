//! What cores tell each other. A value crosses at most twice: in a request, and in its reply.

use corduroy_shards::{Kind, PartitionId, StageStamps, Ticket};

use crate::resp::SessionReply;

/// One message.
#[derive(Debug)]
pub enum Message {
    /// A request for a partition that lives on the receiver.
    Request {
        /// Whose; its core is where the reply goes.
        ticket: Ticket,
        /// For which partition.
        partition: PartitionId,
        /// Logged or not.
        kind: Kind,
        /// The encoded operation.
        op: Box<[u8]>,
    },
    /// The one outcome of a request.
    Reply {
        /// Whose.
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
    /// This connection is closed: nobody waits for what it has asked for.
    Closed {
        /// Which.
        conn: u64,
    },
    /// Look at this connection: it may have to be closed.
    Look {
        /// Which.
        conn: u64,
    },
}
