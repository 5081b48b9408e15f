//! Requests of other nodes' clients that are under way here.
//!
//! Invariant: a connection of another node has one number here for as long as anything of it is under way, so that shards keep
//! its order as they do for connections of their own; numbers are never used again.

use bytes::Bytes;
use hashbrown::HashMap;

use crate::ids::{NodeId, PartitionId, Ticket};
use crate::net::{Forwarded, RequestId};

/// The core that such connections have in their numbers: no node has so many.
pub const FORWARDED_CORE: usize = 0x7fff;
/// Requests of one node that may be under way.
const REQUESTS_MAX: usize = 16_384;
/// Bytes of an answer that are sent in one message.
const PART_BYTES: usize = 1 << 20;

/// A connection to another node, of one of its processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Remote {
    node: NodeId,
    process: u64,
    conn: u64,
}

/// A request as another node has sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// By which node.
    pub node: NodeId,
    /// Its number there.
    pub id: RequestId,
    /// For which partition.
    pub partition: PartitionId,
    /// Its connection there.
    pub conn: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Serving {
    /// The number here, and how many requests are under way.
    conns: HashMap<Remote, (u64, usize)>,
    under_way: HashMap<u64, Asked>,
    of_nodes: HashMap<NodeId, usize>,
    last_conn: u64,
    last_seq: u64,
}

impl Serving {
    /// Takes a request in, and names it for the shard. `None`: too many of that node are under way.
    pub fn take(&mut self, asked: Asked) -> Option<Ticket> {
        let of_node = self.of_nodes.entry(asked.node).or_default();
        if *of_node >= REQUESTS_MAX {
            return None;
        }
        *of_node += 1;
        let (conn, requests) = self.conns.entry(remote(&asked)).or_insert_with(|| {
            self.last_conn += 1;
            ((FORWARDED_CORE as u64) << 48 | self.last_conn, 0)
        });
        *requests += 1;
        self.last_seq += 1;
        self.under_way.insert(self.last_seq, asked);
        Some(Ticket { conn: *conn, seq: self.last_seq })
    }

    /// A request has its outcome: whose it is.
    ///
    /// # Panics
    /// If no such request is under way.
    pub fn done(&mut self, ticket: Ticket) -> Asked {
        let asked = self.under_way.remove(&ticket.seq).expect("a request has one outcome");
        let remote = remote(&asked);
        let (conn, requests) = self.conns.get_mut(&remote).expect("it has requests under way");
        assert_eq!(*conn, ticket.conn, "the connection of request {}", ticket.seq);
        *requests -= 1;
        if *requests == 0 {
            self.conns.remove(&remote);
        }
        *self.of_nodes.get_mut(&asked.node).expect("its requests are counted") -= 1;
        asked
    }

    /// Requests under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }
}

const fn remote(asked: &Asked) -> Remote {
    Remote { node: asked.node, process: asked.id.process, conn: asked.conn }
}

/// The answer to a request, in as many parts as it takes.
pub fn answer(asked: &Asked, mut bytes: Bytes) -> impl Iterator<Item = Forwarded> + use<> {
    let Asked { id, partition, .. } = *asked;
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let part = bytes.split_to(bytes.len().min(PART_BYTES));
        is_over = bytes.is_empty();
        Some(Forwarded::Answer { id, partition, is_last: is_over, bytes: part })
    })
}
