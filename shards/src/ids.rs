//! Who is who on a node.

use corduroy_wal::LogId;

/// A partition: the unit of replication and of transactions. 1 is the metadata group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId(pub u64);

impl PartitionId {
    /// The partition's log in the WAL of its shard.
    #[must_use]
    pub const fn log(self) -> LogId {
        LogId(self.0)
    }
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A keyspace of a partition. Never given to another keyspace of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct KeyspaceId(pub u64);

impl KeyspaceId {
    /// The `default` keyspace, cut into hash slots over many partitions.
    pub const DEFAULT: Self = Self(0);
}

impl std::fmt::Display for KeyspaceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A shard of a storage: one WAL, one state store, the replicas in them. Counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u32);

/// A storage: a disk root of a node, unique in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StorageId(pub u64);

impl StorageId {
    /// Nobody has recorded which one it is.
    pub const UNKNOWN: Self = Self(0);
}

impl std::fmt::Display for StorageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names one request of one connection, so that its one outcome finds its way back. Opaque to the shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// The connection; never reused while the process runs. The upper 16 bits are the core that serves it.
    pub conn: u64,
    /// The request's number on that connection.
    pub seq: u64,
}

/// A node: one process at a time of a cluster, by the identity of its data folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A member of a group: 1 for the first, the LSN of the entry that added it for every later one. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberId(pub u64);

impl MemberId {
    /// The founder of a group.
    pub const FIRST: Self = Self(1);
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
