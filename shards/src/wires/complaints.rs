//! What is logged of connections to peers: each thing once, and again when it is still so after a while.
//!
//! Invariant: what a stranger writes decides nothing. What is kept and logged is bounded by the nodes that were dialled or have
//! proved that they are of the cluster, and by the ways in which a connection ends.

use std::io;
use std::net::SocketAddr;

use hashbrown::HashMap;

use crate::ids::NodeId;
use crate::net::{ConnId, Ending, Refusal, RefusalKind};

/// How long the same is not logged again.
const AGAIN_NS: u64 = 60_000_000_000;
/// What is logged, as far as it counts as the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum What {
    Unreachable(io::ErrorKind),
    Lost,
    Refused(RefusalKind),
    Frame(usize),
    NotMade,
    Stalled,
    Crowded,
}

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
    /// When what was logged of which node; none: of whoever has proved nothing.
    logged: HashMap<(Option<NodeId>, What), u64>,
}

impl Complaints {
    /// Whether this is to be logged now.
    fn is_news(&mut self, node: Option<NodeId>, what: What, now_ns: u64) -> bool {
        let is_new = |at_ns: &u64| now_ns.saturating_sub(*at_ns) >= AGAIN_NS;
        let is_news = self.logged.get(&(node, what)).is_none_or(is_new);
        if is_news {
            self.logged.insert((node, what), now_ns);
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
        if self.is_news(Some(node), What::Unreachable(error.kind()), now_ns) {
            let address = address.map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(
                "node {node} cannot be reached at {address}: {error}; it is tried again and again"
            );
        }
    }

    /// The other side, or the network, has ended it.
    pub fn lost(&mut self, conn: ConnId, now_ns: u64) {
        let Some(Dialled { node, .. }) = self.dialled.remove(&conn) else { return };
        if self.is_news(Some(node), What::Lost, now_ns) {
            tracing::info!("a connection to node {node} was ended from there");
        }
    }

    /// It was ended from here. `node`: whom it was made to, or who has proved to be at its other end.
    pub fn ended(
        &mut self,
        conn: ConnId,
        node: Option<NodeId>,
        address: Option<&SocketAddr>,
        why: &Ending,
        now_ns: u64,
    ) {
        self.dialled.remove(&conn);
        let what = match why {
            Ending::Replaced | Ending::Superseded { .. } => return,
            Ending::Refused(Refusal::FirstContact { .. } | Refusal::ByPeer(RefusalKind::FirstContact)) => {
                return;
            }
            Ending::Refused(refusal) => What::Refused(refusal.kind()),
            Ending::Frame(error) => What::Frame(error.kind()),
            Ending::NotMade { .. } => What::NotMade,
            Ending::Stalled { .. } => What::Stalled,
            Ending::Crowded => What::Crowded,
        };
        if self.is_news(node, what, now_ns) {
            let address = address.map(|address| format!(" ({address})")).unwrap_or_default();
            match node {
                Some(node) => tracing::warn!("connection with node {node}{address} ended: {why}"),
                None => tracing::warn!(
                    "connection with a peer that proved nothing ended: {why}; more of the kind are not logged for a minute"
                ),
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
        assert!(complaints.is_news(node, What::Lost, 5));
        assert!(!complaints.is_news(node, What::Lost, 5 + AGAIN_NS - 1));
        assert!(
            complaints.is_news(Some(NodeId(2)), What::Lost, 6) && complaints.is_news(node, What::Stalled, 6)
        );
        assert!(complaints.is_news(node, What::Lost, 5 + AGAIN_NS));
        assert!(!complaints.is_news(node, What::Stalled, AGAIN_NS));
    }
}
