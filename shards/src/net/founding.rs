//! How a cluster was founded: what all its nodes are formatted with alike, or they would count majorities and look for keys
//! differently.

use std::fmt;

use hmac_sha256::Hash;

use crate::ids::NodeId;

/// What the digest of founders begins with.
const LABEL: &[u8] = b"corduroy founders";

/// The founders, as a digest, and the numbers by which keys are distributed. Equal on all nodes of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Founding {
    /// Of the nodes that founded the cluster, in the order of their member ids.
    pub founders: u128,
    /// Partitions of the default keyspace.
    pub partitions: u32,
    /// Shards of each node.
    pub shards: u32,
}

impl Founding {
    /// That by these nodes, in the order of their member ids.
    #[must_use]
    pub fn of(founders: &[NodeId], partitions: u32, shards: u32) -> Self {
        let mut hash = Hash::new();
        hash.update(LABEL);
        founders.iter().for_each(|node| hash.update(node.0.to_le_bytes()));
        let digest = hash.finalize();
        let (words, _) = digest.as_chunks::<16>();
        let founders = words.first().copied().map_or(0, u128::from_le_bytes);
        Self { founders, partitions, shards }
    }
}

impl fmt::Display for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { founders, partitions, shards } = self;
        write!(f, "{partitions} partitions, {shards} shards and founders of digest {founders:032x}")
    }
}
