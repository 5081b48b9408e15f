//! Why a node cannot start, and the exit codes of a process that cannot go on.

use std::path::PathBuf;

use corduroy_shards::runtime::topology::NotAllowed;
use corduroy_shards::{PartitionId, ShardError, ShardId};
use corduroy_wal::WalError;
use corduroy_wal::device::lock::LockError;
use corduroy_wal::device::{OpenError, ProbeError};

use super::address::Address;
use super::budget::TooFewDescriptors;
use super::identity::IdentityError;
use crate::store::DiskError;

/// The data is damaged or incomplete: only a person can say what is to become of it, and starting again changes nothing.
pub const EXIT_DAMAGED: u8 = 65;
/// The system refused something that every server needs.
pub const EXIT_SYSTEM: u8 = 71;
/// The log or the state could not be written or read.
pub const EXIT_IO: u8 = 74;
/// The configuration or the data folder cannot be used.
pub const EXIT_CONFIG: u8 = 78;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process uses the folder, or it cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no data folder, and none can be made.
    #[error(
        "cannot make the data folder {path}: {why}; name one by --data-dir, as an absolute path, that this user can make"
    )]
    Folder {
        /// Where.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// The folder or the kernel does not do what a durable log needs.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The folder is not ours, or not of this layout.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cores asked for cannot be had.
    #[error(transparent)]
    Cores(#[from] NotAllowed),
    /// The process may open too few files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// Nobody can connect.
    #[error("cannot listen on {address}: {source}; {}", address.remedy(source))]
    Listen {
        /// Where.
        address: Address,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log's files of a shard cannot be opened.
    #[error("shard {}: {source}", shard.0)]
    Device {
        /// The shard's number.
        shard: ShardId,
        /// Why.
        source: OpenError,
    },
    /// The log of a shard cannot be read.
    #[error("shard {}{}: {source}", shard.0, harmed(source))]
    Wal {
        /// The shard's number.
        shard: ShardId,
        /// Why.
        source: WalError,
    },
    /// A folder of a shard is not there, or cannot be looked into.
    #[error(
        "shard {}: {folder} was made when the node was formatted and cannot be read ({source}); restore it from a backup (only \
         if the shard's data is to be given up, make the folder by hand)", shard.0
    )]
    Missing {
        /// The shard's number.
        shard: ShardId,
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A replica of a cluster was here, and is not any more.
    #[error(
        "shard {}: nothing of partition {partition} is in its log, which was founded at an earlier start: acknowledged writes may \
         be lost, and the node must not vote again as if it knew nothing; restore its folder from a backup", shard.0
    )]
    LostReplica {
        /// The shard's number.
        shard: ShardId,
        /// The partition.
        partition: PartitionId,
    },
    /// The groups of a cluster could not be written down.
    #[error("the groups of the cluster were not founded in {waited_s} s: is there room on the disk?")]
    NotFounded {
        /// How long it was waited for.
        waited_s: u64,
    },
    /// The start of a node of a cluster is not written down.
    #[error(
        "this start cannot be counted, so that peers could not tell this process from an older one: {0}; make room, and start again"
    )]
    NotCounted(#[source] IdentityError),
    /// The state of a shard cannot be read.
    #[error("shard {}: {source}", shard.0)]
    State {
        /// The shard's number.
        shard: ShardId,
        /// Why.
        source: DiskError,
    },
    /// A shard cannot be put together.
    #[error("shard {}: {source}", shard.0)]
    Shard {
        /// The shard's number.
        shard: ShardId,
        /// Why.
        source: ShardError,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StartError {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Wal { source, .. } => wal_exit_code(source),
            Self::Shard { source: ShardError::Wal(source), .. } => wal_exit_code(source),
            Self::Shard { source: ShardError::Machine(_), .. }
            | Self::State { source: DiskError::Io { .. }, .. } => EXIT_IO,
            Self::State { source: DiskError::Newer { .. } | DiskError::Foreign { .. }, .. } => EXIT_CONFIG,
            Self::State { .. }
            | Self::Missing { .. }
            | Self::LostReplica { .. }
            | Self::Identity(IdentityError::BothBad { .. }) => EXIT_DAMAGED,
            Self::NotFounded { .. } | Self::NotCounted(_) => EXIT_IO,
            Self::System { .. } | Self::Descriptors(_) => EXIT_SYSTEM,
            _ => EXIT_CONFIG,
        }
    }
}

/// The exit code of a log that cannot be opened: what the system refused may pass, what the log holds does not.
fn wal_exit_code(error: &WalError) -> u8 {
    match error {
        WalError::Io { .. } | WalError::Poisoned { .. } => EXIT_IO,
        WalError::Foreign { .. } => EXIT_CONFIG,
        WalError::Damaged { .. }
        | WalError::Lost { .. }
        | WalError::OutOfRange { .. }
        | WalError::BadAppend { .. }
        | WalError::TooLarge { .. } => EXIT_DAMAGED,
    }
}

/// The partitions whose acknowledged data is damaged, if that is what is wrong.
fn harmed(error: &WalError) -> String {
    match error {
        WalError::Damaged { logs, .. } if !logs.is_empty() => {
            let partitions: Vec<String> = logs.iter().map(|log| log.0.to_string()).collect();
            format!(", partition {}", partitions.join(", "))
        }
        _ => String::new(),
    }
}

/// Names what was tried when the system refuses.
pub fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what: what.into(), source }
}
