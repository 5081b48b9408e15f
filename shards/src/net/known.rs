//! What is known of the processes that other nodes have been.
//!
//! Invariant: of a node, only the newest process is heard; and of two that say that they are the same start, none: both run on
//! copies of one folder, and each may have promised what the other does not know of.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::hello::Epoch;
use super::refusal::Refusal;
use crate::ids::NodeId;

/// What is known of a founder of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Founder {
    /// Nothing was heard yet.
    Unmet,
    /// This incarnation was first heard of it, and is kept durably.
    Met(u64),
    /// It has left the cluster for good: no process of it is heard.
    Left,
}

/// The founders of a cluster beside this node.
pub type Founders = BTreeMap<NodeId, Founder>;

/// The newest process of a node that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Newest {
    epoch: Epoch,
    /// Another process said that it is the same start.
    is_twice: bool,
}

/// How a process stands to what is known of its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Nothing as new was seen.
    Newer,
    /// It is the one that was seen.
    Same,
    /// That one is newer.
    Older(Epoch),
    /// Another process is the same start.
    Twin(Epoch),
}

/// See the file's head.
#[derive(Clone, Default, Debug)]
pub struct Known {
    newest: BTreeMap<NodeId, Newest>,
    founders: Founders,
}

impl Known {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// That these nodes founded the cluster.
    #[must_use]
    pub fn of(founders: Founders) -> Self {
        Self { newest: BTreeMap::new(), founders }
    }

    /// This incarnation of a founder is kept durably: another one is refused from now on.
    pub fn met(&mut self, node: NodeId, incarnation: u64) {
        let before = self.founders.insert(node, Founder::Met(incarnation)).unwrap_or(Founder::Unmet);
        let is_same = before == Founder::Unmet || before == Founder::Met(incarnation);
        assert!(is_same, "node {node} was met as another one: {before:?}");
    }

    /// Whether all founders were met but those that have left. Until then a node takes no part in its groups: were two founders
    /// enough to begin, one of them could be a node that has lost its data, and the other one that has never heard of it with
    /// what it had.
    #[must_use]
    pub fn has_met_all(&self) -> bool {
        self.unmet().next().is_none()
    }

    /// The founders that are still to be met.
    pub fn unmet(&self) -> impl Iterator<Item = NodeId> {
        self.founders.iter().filter(|(_, founder)| **founder == Founder::Unmet).map(|(node, _)| *node)
    }

    /// A handshake with the process is done, here or on another core of this node: what it is was kept durably before.
    pub(super) fn note_done(&mut self, node: NodeId, epoch: Epoch) {
        if let Some(founder @ Founder::Unmet) = self.founders.get_mut(&node) {
            *founder = Founder::Met(epoch.incarnation);
        }
    }

    /// The newest process of a node that was seen, if it is heard.
    #[must_use]
    pub fn heard(&self, node: NodeId) -> Option<Epoch> {
        self.newest.get(&node).filter(|newest| !newest.is_twice).map(|newest| newest.epoch)
    }

    /// The newest process of a node that was seen, heard or not.
    #[must_use]
    pub(super) fn newest(&self, node: NodeId) -> Option<Epoch> {
        self.newest.get(&node).map(|newest| newest.epoch)
    }

    /// The newest processes of all nodes that were seen and are heard.
    pub fn all_heard(&self) -> impl Iterator<Item = (NodeId, Epoch)> {
        let heard = self.newest.iter().filter(|(_, newest)| !newest.is_twice);
        heard.map(|(node, newest)| (*node, newest.epoch))
    }

    pub(super) fn standing(&self, node: NodeId, epoch: Epoch) -> Standing {
        let Some(newest) = self.newest.get(&node) else { return Standing::Newer };
        match epoch.partial_cmp(&newest.epoch) {
            Some(Ordering::Greater) => Standing::Newer,
            Some(Ordering::Less) => Standing::Older(newest.epoch),
            Some(Ordering::Equal) if !newest.is_twice => Standing::Same,
            Some(Ordering::Equal) | None => Standing::Twin(newest.epoch),
        }
    }

    /// A newer process was seen.
    ///
    /// # Panics
    /// If it is not newer.
    pub fn supersede(&mut self, node: NodeId, epoch: Epoch) {
        assert!(self.standing(node, epoch) == Standing::Newer, "node {node}, {epoch} is not newer");
        self.newest.insert(node, Newest { epoch, is_twice: false });
    }

    /// Two processes are the newest start of the node: neither is heard from now on.
    pub(super) fn note_twice(&mut self, node: NodeId) {
        if let Some(newest) = self.newest.get_mut(&node) {
            newest.is_twice = true;
        }
    }

    /// Whether a process states that it is an old one, or one that has lost its data, or of a node that has left: said before it
    /// has proved anything.
    pub(super) fn compare(&self, node: NodeId, found: Epoch) -> Result<(), Refusal> {
        match self.founders.get(&node).copied() {
            Some(Founder::Left) => return Err(Refusal::Left { node }),
            Some(Founder::Met(known)) if known != found.incarnation => {
                return Err(Refusal::FormattedAnew { node, found: found.incarnation, known });
            }
            Some(Founder::Met(_) | Founder::Unmet) | None => {}
        }
        match self.standing(node, found) {
            Standing::Older(known) => Err(Refusal::OldIncarnation { node, found, known }),
            Standing::Newer | Standing::Same | Standing::Twin(_) => Ok(()),
        }
    }

    /// The same of one that has proved that it is of the cluster, whose word makes others refused.
    pub(super) fn compare_proved(&self, node: NodeId, found: Epoch) -> Result<(), Refusal> {
        match self.standing(node, found) {
            Standing::Older(known) => Err(Refusal::OldIncarnation { node, found, known }),
            Standing::Twin(known) => Err(Refusal::TwoProcesses { node, found, known }),
            Standing::Newer | Standing::Same => match self.founders.get(&node) {
                Some(Founder::Unmet) => Err(Refusal::FirstContact { node, incarnation: found.incarnation }),
                Some(Founder::Met(_) | Founder::Left) | None => Ok(()),
            },
        }
    }
}
