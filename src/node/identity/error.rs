//! Why a data folder cannot be used, in words that name the file and the remedy.

use std::io;
use std::path::PathBuf;

use corduroy_wal::device::lock::LockError;

use super::{COPIES, FORMAT_VERSION};

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Somebody uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither copy can be trusted.
    #[error(
        "both copies of the identity in {folder} are unusable ({first}; {second}); restore {} or {} from a backup, or run \
         `corduroy format --recover --data-dir {folder}`, which takes ids and numbers from the shards' folders and keeps \
         their data", COPIES[0], COPIES[1]
    )]
    BothBad {
        /// The data folder.
        folder: PathBuf,
        /// What is wrong with one.
        first: String,
        /// And with the other.
        second: String,
    },
    /// The copies are of two nodes.
    #[error(
        "{0}/{first} is of {one} and {0}/{second} of {other}; remove the copy that does not belong here, it is made anew \
         from the other", folder.display(), first = COPIES[0], second = COPIES[1]
    )]
    TwoOwners {
        /// The data folder.
        folder: PathBuf,
        /// Whose the first copy is.
        one: String,
        /// Whose the second copy is.
        other: String,
    },
    /// Written by a newer version.
    #[error(
        "{folder} has data format {found}, this binary knows up to {FORMAT_VERSION}; run the newer version"
    )]
    TooNew {
        /// The data folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A setting takes less than all replicas have to take.
    #[error(
        "{folder} is of a cluster whose limit is {limit} bytes, and {key} allows {found}: what other replicas take would not fit \
         here; raise it, or start with the settings or the version that the folder had"
    )]
    TakesLess {
        /// The data folder.
        folder: PathBuf,
        /// What allows too little.
        key: &'static str,
        /// What it allows.
        found: u64,
        /// The cluster's limit.
        limit: u64,
    },
    /// A setting asks for more than other replicas take.
    #[error(
        "{folder} is of a cluster whose longest argument is {limit} bytes, and max_bulk_bytes is {found}: other replicas would \
         not take it; lower it, or set it to 0, which takes the most"
    )]
    AsksForMore {
        /// The data folder.
        folder: PathBuf,
        /// What it asks for.
        found: u64,
        /// The cluster's limit.
        limit: u64,
    },
    /// There is one already.
    #[error("{0} is formatted already; remove it first if its data is to be destroyed")]
    Formatted(PathBuf),
    /// It holds something else.
    #[error("{folder} holds `{found}` and no identity: it is not a data folder; name an empty or new one")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// Something in it.
        found: String,
    },
    /// The node is one of a cluster, and is started alone.
    #[error(
        "{folder} is of node {node} of cluster {cluster:032x}: start it with --peers, the file that describes the cluster, and \
         --node-id {node}"
    )]
    OfCluster {
        /// The data folder.
        folder: PathBuf,
        /// Its cluster.
        cluster: u128,
        /// Its node.
        node: u64,
    },
    /// Nothing was founded here.
    #[error(
        "nothing of node {node} is in {folder}: if the node had data, mount or restore its folder, for it has promised things to \
         its peers which an empty one does not know; if the cluster is new, run `corduroy format` with the same options first"
    )]
    NotFounded {
        /// The data folder.
        folder: PathBuf,
        /// Which node it is to be.
        node: u64,
    },
    /// The node has been alone so far.
    #[error(
        "{0} is of a node that is alone; start it without --peers, or, if it is to found a cluster with its data, run `corduroy \
         format` with the same options first"
    )]
    Alone(PathBuf),
    /// The node has been alone so far, and is described as one that joins.
    #[error(
        "{0} is of a node that is alone: what it holds cannot join what a cluster holds; name a new folder, or let this node \
         found the cluster and the others join it"
    )]
    AloneJoins(PathBuf),
    /// The node has been alone so far, and is described as one of several founders.
    #[error(
        "{folder} is of a node that is alone, and --peers names {founders:?} as founders: only {node} has data; give the others \
         `joins = true` and empty folders, and add them once this node runs"
    )]
    AloneAmongFounders {
        /// The data folder.
        folder: PathBuf,
        /// Which node it is.
        node: u64,
        /// As described.
        founders: Vec<u64>,
    },
    /// The node has been alone so far, and the description's cluster has another id than it was given.
    #[error(
        "{folder} was formatted as cluster {found:032x}, by which its keys are ordered, and --peers names {wanted:032x}; write \
         cluster = \"{found:032x}\" into that file"
    )]
    AloneInOther {
        /// The data folder.
        folder: PathBuf,
        /// Its cluster.
        found: u128,
        /// As described.
        wanted: u128,
    },
    /// The node has been alone so far, and another version than this one has last started on it.
    #[error(
        "{folder} has data format {found}: start it once without --peers, with a wal.segment_bytes as large as it ever was, and \
         stop it; then it can found a cluster"
    )]
    AloneBefore {
        /// The data folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Others could not take over the keys of a node that has been alone.
    #[error(
        "the keys in {folder} are in another order than that of its cluster, since its identity was lost once and made anew with \
         another id: nodes cannot join it; copy the keys into a new cluster by a client"
    )]
    AloneInOtherOrder {
        /// The state of a shard.
        folder: PathBuf,
    },
    /// The description is another cluster's, or another node's.
    #[error(
        "{folder} is of {what} {found}, and --peers and --node-id say {wanted}; name the folder that belongs to it"
    )]
    OtherCluster {
        /// The data folder.
        folder: PathBuf,
        /// What differs.
        what: &'static str,
        /// As formatted.
        found: String,
        /// As described.
        wanted: String,
    },
    /// The description names other nodes than those that founded the cluster.
    #[error(
        "the cluster of {folder} was founded by nodes {found:?}, and --peers names {wanted:?}; name all founders, also those that \
         have left, and give the nodes that joined later `joins = true`"
    )]
    OtherFounders {
        /// The data folder.
        folder: PathBuf,
        /// As formatted.
        found: Vec<u64>,
        /// As described.
        wanted: Vec<u64>,
    },
    /// The configuration asks for another layout.
    #[error(
        "{folder} was formatted with {key} = {found} and the configuration says {wanted}; leave it out, or format a new folder"
    )]
    Differs {
        /// The data folder.
        folder: PathBuf,
        /// The setting.
        key: &'static str,
        /// As formatted.
        found: u32,
        /// As configured.
        wanted: u32,
    },
    /// A shard's log or state is somebody else's, or of another time.
    #[error("{folder} {why}")]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Whose it is, and what to do.
        why: String,
    },
    /// What the shards' folders say does not fit together, so that no identity can be made of it.
    #[error("{folder} cannot be recovered: {why}")]
    Contradiction {
        /// The data folder.
        folder: PathBuf,
        /// What does not fit, and what to do.
        why: String,
    },
}
