//! Connections that are made before anything is to be sent: a node that joins has to meet those that are there, and one that has
//! started is heard of by those that had given up trying to connect to it.

use super::{Conn, Peers, Stage};
use crate::ids::NodeId;
use crate::net::frame::Lane;
use crate::net::hello::{CoreId, Epoch};
use crate::net::link::{Link, LinkKey, LinkState};
use crate::net::output::{ConnId, Output};

impl Peers {
    /// Has a connection to a node made, if none is there or under way, so that both hear of each other.
    pub fn greet(&mut self, node: NodeId, now_ns: u64) {
        let first = self.shards.get(&node).and_then(|shards| shards.first());
        let core = first.map_or(CoreId::ANY, |at| at.core);
        let key = LinkKey { node, core, lane: Lane::Liveness, is_theirs: false };
        let link = self.links.entry(key).or_insert_with(Link::new);
        link.is_wanted = true;
        match link.state {
            LinkState::Idle => self.dial(key, now_ns),
            LinkState::BackingOff { until_ns, .. } if until_ns <= now_ns => self.dial(key, now_ns),
            LinkState::BackingOff { .. }
            | LinkState::Dialling(_)
            | LinkState::Handshaking(_)
            | LinkState::Up(_) => {}
        }
    }

    /// Begins a connection of a link.
    pub(super) fn dial(&mut self, key: LinkKey, now_ns: u64) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.links.entry(key).or_insert_with(Link::new).state = LinkState::Dialling(conn);
        self.conns.insert(conn, Conn { key: Some(key), stage: Stage::Dialling, since_ns: now_ns });
        self.counters.dials += 1;
        self.outputs.push_back(Output::Dial { conn, node: key.node, lane: key.lane });
    }

    /// The newest process of a node that was seen, if it is heard.
    #[must_use]
    pub fn heard(&self, node: NodeId) -> Option<Epoch> {
        self.known.heard(node)
    }

    /// The newest processes of all nodes that were seen and are heard.
    pub fn all_heard(&self) -> impl Iterator<Item = (NodeId, Epoch)> {
        self.known.all_heard()
    }

    /// The founders that are still to be met.
    pub fn unmet(&self) -> impl Iterator<Item = NodeId> {
        self.known.unmet()
    }

    /// Whether all founders were met: see [`Known::has_met_all`](crate::net::Known::has_met_all).
    #[must_use]
    pub fn has_met_all(&self) -> bool {
        self.known.has_met_all()
    }
}
