//! Why a handshake ends without a connection: each reason with what differs, and what to do.

use super::founding::Founding;
use super::hello::{Epoch, SharedLimits, Versions};
use crate::ids::NodeId;

/// Bytes that are no message of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// Something else listens there, or connects.
    #[error("it begins with {found:#010x}, as nothing of ours does")]
    Magic {
        /// The first 4 bytes.
        found: u32,
    },
    /// It was changed on its way.
    #[error("its checksum does not fit")]
    Checksum,
    /// A field has a value that none has.
    #[error("its {0} is none")]
    Field(&'static str),
    /// It is not the one that is next.
    #[error("it comes out of turn")]
    Order,
}

/// Why a peer is refused, or refuses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It is of another cluster.
    #[error(
        "the peer is of cluster {theirs:032x}, and this node of {ours:032x}; correct the address under which the peer is listed"
    )]
    Cluster {
        /// This node's.
        ours: u128,
        /// The peer's.
        theirs: u128,
    },
    /// The address that was dialled is another node's.
    #[error(
        "node {found} answers where node {wanted} was looked for; correct the address under which node {wanted} is listed"
    )]
    Node {
        /// Whom the dialling side wanted.
        wanted: NodeId,
        /// Who is there.
        found: NodeId,
    },
    /// It has this node's id.
    #[error(
        "the peer is node {node}, as this one is: its data folder is a copy, or this one's is; stop one of the two and let it join as a new node"
    )]
    OurOwnId {
        /// The id.
        node: NodeId,
    },
    /// There is no version that both speak.
    #[error(
        "the peer speaks versions {theirs} of the protocol between nodes, and this node {ours}; bring the older one to a release between"
    )]
    Versions {
        /// This node's.
        ours: Versions,
        /// The peer's.
        theirs: Versions,
    },
    /// A newer process of that node was seen.
    #[error(
        "node {node} comes as {found}, after it was seen as {known}: an old process of it still runs, or an old copy of its data folder was started; stop it"
    )]
    OldIncarnation {
        /// Which node.
        node: NodeId,
        /// What it says of itself.
        found: Epoch,
        /// The newest that was seen.
        known: Epoch,
    },
    /// One side has a secret, and the other none.
    #[error("{} has a secret of the cluster, and {} none; give it to all nodes, or to none", if *.is_ours { "this node" } else { "the peer" }, if *.is_ours { "the peer" } else { "this node" })]
    OneSecret {
        /// Whether this node has it.
        is_ours: bool,
    },
    /// The secrets differ.
    #[error("the peer's secret of the cluster is another one than this node's; give all nodes the same")]
    OtherSecret,
    /// Entries that one side takes may be too long for the other.
    #[error(
        "the peer's replicas take {theirs}, and this node's {ours}; all nodes of a cluster take the same: the one that was formatted with other settings may be formatted again with those of the others if it never served; if it did, it cannot come back under its id: add another node instead"
    )]
    Limits {
        /// This node's.
        ours: SharedLimits,
        /// The peer's.
        theirs: SharedLimits,
    },
    /// The two would count other majorities, or look for keys elsewhere.
    #[error(
        "the peer's cluster was founded with {theirs}, and this node's with {ours}; one of the two was formatted with another file of --peers, or other numbers: compare both, and format the one that is wrong with what the others have, if it never served"
    )]
    Founding {
        /// This node's.
        ours: Founding,
        /// The peer's.
        theirs: Founding,
    },
    /// Two processes say that they are the same start of the node.
    #[error(
        "two processes are node {node}, {found}: {:016x}, and {:016x} before it; one of them runs on a copy of the data folder, or from an old image of its machine. Neither is heard any more: stop both, remove the copy, and start the one whose folder is the newest",
        found.process,
        known.process
    )]
    TwoProcesses {
        /// Which node.
        node: NodeId,
        /// The process that came.
        found: Epoch,
        /// The one that was seen.
        known: Epoch,
    },
    /// A founder is heard of for the first time: it is being written down.
    #[error(
        "node {node} was met for the first time, as incarnation {incarnation}; it is heard once that is written down"
    )]
    FirstContact {
        /// The founder.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A founder comes with another data folder than the one that it had.
    #[error(
        "node {node} comes as incarnation {found}, and was incarnation {known}: its data folder was lost and formatted anew, and the node does not know any more what it has acknowledged and whom it has voted for. It cannot come back under this id: stop it; restore its data folder, or add another node instead"
    )]
    FormattedAnew {
        /// The founder.
        node: NodeId,
        /// What it says of itself.
        found: u64,
        /// What was first heard of it.
        known: u64,
    },
    /// A founder that has left the cluster.
    #[error(
        "node {node} has left the cluster, as the description of --peers says (left = true): it is not heard any more; stop it, or let it join as a new node under another id"
    )]
    Left {
        /// The founder.
        node: NodeId,
    },
    /// What came is no handshake.
    #[error(
        "what the peer sent is no message of a handshake: {0}; see what listens at, or connects from, its address"
    )]
    Damage(#[from] Damage),
    /// It has not come to an end in time.
    #[error(
        "the handshake was not complete after {after_ms} ms; see whether the peer's process runs, and the network between"
    )]
    TimedOut {
        /// How long it took so far.
        after_ms: u64,
    },
    /// The other side ended it.
    #[error("the peer refuses this node: {0}")]
    ByPeer(RefusalKind),
}

/// The reasons, by which they are counted and sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[repr(u8)]
pub enum RefusalKind {
    /// [`Refusal::Cluster`].
    #[error("it is of another cluster")]
    Cluster = 1,
    /// [`Refusal::Node`].
    #[error("it is not the node that was looked for, or looked for another one")]
    Node = 2,
    /// [`Refusal::OurOwnId`].
    #[error("both have the same node id")]
    OurOwnId = 3,
    /// [`Refusal::Versions`].
    #[error("there is no version of the protocol that both speak")]
    Versions = 4,
    /// [`Refusal::OldIncarnation`].
    #[error(
        "a newer process of this node was seen; this one must not go on, unless its data folder is the right one"
    )]
    OldIncarnation = 5,
    /// [`Refusal::OneSecret`].
    #[error("only one of the two has a secret of the cluster")]
    OneSecret = 6,
    /// [`Refusal::OtherSecret`].
    #[error("the secrets of the cluster differ")]
    OtherSecret = 7,
    /// [`Refusal::Limits`].
    #[error("the limits that all replicas share differ")]
    Limits = 8,
    /// [`Refusal::Damage`].
    #[error("what came is no message of a handshake")]
    Damage = 9,
    /// [`Refusal::TimedOut`].
    #[error("the handshake took too long")]
    TimedOut = 10,
    /// [`Refusal::ByPeer`].
    #[error("the other side refused")]
    ByPeer = 11,
    /// [`Refusal::Founding`].
    #[error("the two were founded with other founders, partitions or shards")]
    Founding = 12,
    /// [`Refusal::TwoProcesses`].
    #[error(
        "another process is the same start of this node: one of them runs on a copy of the data folder; stop both, and start the right one"
    )]
    TwoProcesses = 13,
    /// [`Refusal::FirstContact`].
    #[error("the other side writes down that it has met this node")]
    FirstContact = 14,
    /// [`Refusal::FormattedAnew`].
    #[error(
        "this node was known with another data folder: the one that it has was formatted anew, and does not hold what the node has acknowledged; it cannot come back under this id: restore its data folder, or add another node instead"
    )]
    FormattedAnew = 15,
    /// [`Refusal::Left`].
    #[error(
        "this node has left the cluster, as the other side's description says: it is not heard any more, and may join as a new node under another id"
    )]
    Left = 16,
}

impl RefusalKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Cluster,
        Self::Node,
        Self::OurOwnId,
        Self::Versions,
        Self::OldIncarnation,
        Self::OneSecret,
        Self::OtherSecret,
        Self::Limits,
        Self::Damage,
        Self::TimedOut,
        Self::ByPeer,
        Self::Founding,
        Self::TwoProcesses,
        Self::FirstContact,
        Self::FormattedAnew,
        Self::Left,
    ];

    /// Its byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason of a byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// As it is called in figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::OurOwnId => "our_own_id",
            Self::Versions => "versions",
            Self::OldIncarnation => "old_incarnation",
            Self::OneSecret => "one_secret",
            Self::OtherSecret => "other_secret",
            Self::Limits => "limits",
            Self::Damage => "damage",
            Self::TimedOut => "timed_out",
            Self::ByPeer => "by_peer",
            Self::Founding => "founding",
            Self::TwoProcesses => "two_processes",
            Self::FirstContact => "first_contact",
            Self::FormattedAnew => "formatted_anew",
            Self::Left => "left",
        }
    }

    /// Its number among all, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }
}

impl Refusal {
    /// Whether the next attempt may well succeed with nobody changing anything: the network was slow, or spoiled something.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::FirstContact { .. }
            | Self::ByPeer(RefusalKind::TimedOut | RefusalKind::Damage | RefusalKind::FirstContact) => true,
            Self::Cluster { .. }
            | Self::Node { .. }
            | Self::OurOwnId { .. }
            | Self::Versions { .. }
            | Self::OldIncarnation { .. }
            | Self::OneSecret { .. }
            | Self::OtherSecret
            | Self::Limits { .. }
            | Self::Founding { .. }
            | Self::TwoProcesses { .. }
            | Self::FormattedAnew { .. }
            | Self::Left { .. }
            | Self::Damage(_)
            | Self::ByPeer(_) => false,
        }
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> RefusalKind {
        match self {
            Self::Cluster { .. } => RefusalKind::Cluster,
            Self::Node { .. } => RefusalKind::Node,
            Self::OurOwnId { .. } => RefusalKind::OurOwnId,
            Self::Versions { .. } => RefusalKind::Versions,
            Self::OldIncarnation { .. } => RefusalKind::OldIncarnation,
            Self::OneSecret { .. } => RefusalKind::OneSecret,
            Self::OtherSecret => RefusalKind::OtherSecret,
            Self::Limits { .. } => RefusalKind::Limits,
            Self::Damage(_) => RefusalKind::Damage,
            Self::TimedOut { .. } => RefusalKind::TimedOut,
            Self::ByPeer(_) => RefusalKind::ByPeer,
            Self::Founding { .. } => RefusalKind::Founding,
            Self::TwoProcesses { .. } => RefusalKind::TwoProcesses,
            Self::FirstContact { .. } => RefusalKind::FirstContact,
            Self::FormattedAnew { .. } => RefusalKind::FormattedAnew,
            Self::Left { .. } => RefusalKind::Left,
        }
    }
}
