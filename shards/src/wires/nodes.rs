//! The other nodes, as a core's wires know them: where they are, and whether they are there.

use std::net::SocketAddr;

use super::Wires;
use crate::ids::NodeId;
use crate::net::Epoch;
use crate::runtime::Poller;

impl Wires {
    /// A node is connected to at this address from now on.
    pub fn learn(&mut self, node: NodeId, address: SocketAddr) {
        self.addresses.insert(node, address);
    }

    /// The newest processes of all nodes that were seen and are heard.
    pub fn all_heard(&self) -> impl Iterator<Item = (NodeId, Epoch)> {
        self.peers.all_heard()
    }

    /// Has a connection to a node made, if there is none.
    pub fn greet(&mut self, node: NodeId, poller: &Poller, now_ns: u64) {
        self.peers.greet(node, now_ns);
        self.act(poller, now_ns);
    }

    /// The newest process of a node that was seen, if it is heard.
    #[must_use]
    pub fn heard(&self, node: NodeId) -> Option<Epoch> {
        self.peers.heard(node)
    }

    /// The founders that are still to be met.
    #[must_use]
    pub fn unmet(&self) -> Vec<NodeId> {
        self.peers.unmet().collect()
    }

    /// Whether all founders were met: until then nothing is sent or heard.
    #[must_use]
    pub fn has_met_all(&self) -> bool {
        self.peers.has_met_all()
    }

    /// Whether a node is connected, on whichever lane.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        self.peers.reaches(node)
    }
}
