//! What a core keeps of requests that other nodes' replicas are to carry out, and of those that its own carry out for others.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use corduroy_shards::forward::{ForwardCounters, ForwardOptions, Forwarder, Recent, Serving};
use corduroy_shards::ids::NodeId;
use corduroy_shards::net::Forwarded;
use corduroy_shards::{Rejection, Ticket};

/// See the file's head.
pub struct Forward {
    pub(super) forwarder: RefCell<Forwarder>,
    pub(super) serving: RefCell<Serving>,
    /// What the shards here were handed last, and what they have given back of it since the last step.
    pub(super) recent: RefCell<Recent>,
    pub(super) given_back: RefCell<Vec<(Ticket, Rejection)>>,
    /// What the connections to other nodes are to be given.
    pub(super) outgoing: RefCell<VecDeque<(NodeId, Forwarded)>>,
    /// Bytes of the answers among that, by their nodes.
    pub(super) answers: RefCell<HashMap<NodeId, usize>>,
    /// Nodes that are connected.
    pub(super) reached: RefCell<Vec<NodeId>>,
}

impl Forward {
    /// Of a core of a node, whose process has drawn this number.
    pub fn new(node: NodeId, process: u64) -> Self {
        Self {
            forwarder: RefCell::new(Forwarder::new(ForwardOptions::of(node, process))),
            serving: RefCell::default(),
            recent: RefCell::default(),
            given_back: RefCell::default(),
            outgoing: RefCell::default(),
            answers: RefCell::default(),
            reached: RefCell::default(),
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> ForwardCounters {
        *self.forwarder.borrow().counters()
    }

    /// Bytes of answers to a node that the connection had no room for yet.
    pub fn answers_bytes(&self, node: NodeId) -> usize {
        self.answers.borrow().get(&node).copied().unwrap_or(0)
    }

    /// Whether a node is connected.
    pub fn reaches(&self, node: NodeId) -> bool {
        self.reached.borrow().contains(&node)
    }
}
