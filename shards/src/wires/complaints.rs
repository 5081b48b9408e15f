//! What is logged of connections to peers: each thing once, and again when it is still so after a while.
//!
//! Invariant: what is kept is bounded by the nodes that there are, and by the ways in which strangers are refused.

use std::io;
use std::net::SocketAddr;

use hashbrown::HashMap;

use crate::ids::NodeId;
use crate::net::{ConnId, Ending};

/// How long the same is not logged again.
const AGAIN_NS: u64 = 60_000_000_000;
/// As many things are remembered; above it, all are forgotten, and logged again.
const REMEMBERED_MAX: usize = 1024;

/// Whom a connection was made to.
#[derive(Clone, Copy, Debug)]
struct Dialled {
    node: NodeId,
    address: Option<SocketAddr>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    dialled: HashMap<ConnId, Dialled>,
    /// When what was logged, by the node and the words.
    logged: HashMap<(Option<NodeId>, String), u64>,
}

impl Complaints {
    /// Whether this is to be logged now.
    fn is_news(&mut self, node: Option<NodeId>, text: &str, now_ns: u64) -> bool {
        if self.logged.len() >= REMEMBERED_MAX {
            self.logged.clear();
        }
        let is_new = |at_ns: &u64| now_ns.saturating_sub(*at_ns) >= AGAIN_NS;
        let is_news = self.logged.get(&(node, text.to_owned())).is_none_or(is_new);
        if is_news {
            self.logged.insert((node, text.to_owned()), now_ns);
        }
        is_news
    }

    /// A connection is being made.
    pub fn dialled(&mut self, conn: ConnId, node: NodeId, address: Option<&SocketAddr>) {
        self.dialled.insert(conn, Dialled { node, address: address.copied() });
    }

    /// It could not be made.
    pub fn unreachable(&mut self, conn: ConnId, error: &io::Error, now_ns: u64) {
        let Some(Dialled { node, address }) = self.dialled.remove(&conn) else { return };
        if self.is_news(Some(node), &error.to_string(), now_ns) {
            let address = address.map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(
                "node {node} cannot be reached at {address}: {error}; it is tried again and again"
            );
        }
    }

    /// The other side, or the network, has ended it.
    pub fn lost(&mut self, conn: ConnId, now_ns: u64) {
        let Some(Dialled { node, .. }) = self.dialled.remove(&conn) else { return };
        if self.is_news(Some(node), "lost", now_ns) {
            tracing::info!("a connection to node {node} was ended from there");
        }
    }

    /// It was ended from here; who is at its other end is known as far as it claimed.
    pub fn ended(
        &mut self,
        conn: ConnId,
        node: Option<NodeId>,
        address: Option<&SocketAddr>,
        why: &Ending,
        now_ns: u64,
    ) {
        self.dialled.remove(&conn);
        let text = why.to_string();
        match why {
            Ending::Replaced | Ending::Superseded { .. } => return,
            Ending::Refused(_) | Ending::Frame(_) | Ending::NotMade { .. } | Ending::Stalled { .. } => {}
        }
        if self.is_news(node, &text, now_ns) {
            let address = address.map(|address| format!(" ({address})")).unwrap_or_default();
            match node {
                Some(node) => tracing::warn!("connection with node {node}{address} ended: {text}"),
                None => tracing::warn!("connection with an unknown peer ended: {text}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_logged_again_after_a_while_and_not_before() {
        let mut complaints = Complaints::default();
        let node = Some(NodeId(1));
        assert!(complaints.is_news(node, "x", 5));
        assert!(!complaints.is_news(node, "x", 5 + AGAIN_NS - 1));
        assert!(complaints.is_news(Some(NodeId(2)), "x", 6) && complaints.is_news(node, "y", 6));
        assert!(complaints.is_news(node, "x", 5 + AGAIN_NS));
        assert!(!complaints.is_news(node, "x", 6 + AGAIN_NS));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut complaints = Complaints::default();
        for stranger in 0..3 * REMEMBERED_MAX {
            assert!(complaints.is_news(None, &stranger.to_string(), 1));
            assert!(complaints.logged.len() <= REMEMBERED_MAX);
        }
    }
}
