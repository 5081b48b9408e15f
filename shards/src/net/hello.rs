//! Who a node is, and the messages by which two of them make each other's acquaintance. Encode and decode, nothing else.
//!
//! Invariant: a hello has this form in all versions, so that nodes of any two releases can at least refuse each other by
//! name. A length is bounded before its bytes come, and believed once a checksum has covered it.
//!
//! ```text
//! head        0 4 C0D54801   4 4 crc32 of all behind it   8 1 kind   9 1 zero   10 2 bytes behind the head
//! 1 hello     0 1 lowest and 1 1 highest version of frames   2 16 cluster   18 8 node   26 8 incarnation   34 8 starts
//!             42 8 node that is wanted   50 1 lane   51 1 flags: 1 there is a secret   52 2 core of this side
//!             54 2 core that is wanted, all ones: any   56 8 longest operation   64 8 longest value
//!             72 16 digest of the founders   88 4 partitions   92 4 shards of a node   96 8 process   104 32 nonce
//!             136 2 shards, each: 8 storage, 4 shard, 2 its core
//! 2 proof     32 bytes
//! 3 accepted  nothing
//! 4 refused   1 why                                                                       all little-endian
//! ```

use std::cmp::Ordering;
use std::fmt;

use corduroy_wal::fields::Fields;

use super::founding::Founding;
use super::frame::Lane;
use super::refusal::{Damage, RefusalKind};
use crate::ids::{NodeId, ShardId, StorageId};

/// First in each message of a handshake.
const MAGIC: u32 = 0xC0D5_4801;
/// Bytes before what a message carries.
pub const HEAD_BYTES: usize = 12;
/// The most shards that a node may have.
pub const SHARDS_MAX: usize = 1024;
/// Bytes of a hello before its shards.
const HELLO_BYTES: usize = 138;
/// Bytes of a shard in it.
const SHARD_BYTES: usize = 14;
/// The longest message, without its head.
pub const BODY_BYTES_MAX: usize = HELLO_BYTES + SHARDS_MAX * SHARD_BYTES;
/// Bytes of a nonce, and of a proof.
pub const PROOF_BYTES: usize = 32;
/// The shortest secret: the proof of a shorter one could be guessed by whoever has seen one.
const SECRET_BYTES_MIN: usize = 16;
/// In a hello's flags: the side has a secret.
const HAS_SECRET: u8 = 1;

/// Drawn anew for each handshake, from a source that nobody can foresee.
pub type Nonce = [u8; PROOF_BYTES];

/// A core of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(pub u16);

impl CoreId {
    /// Whichever core takes the connection: of a node whose cores are not known yet.
    pub const ANY: Self = Self(u16::MAX);
}

/// Which process of a node: they are ordered by the storage's line of history, then by its start. Two that are the same start
/// have no order: one of them runs on a copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch {
    /// One more whenever a lost identity was recovered.
    pub incarnation: u64,
    /// How often the node has started.
    pub starts: u64,
    /// Drawn anew by each process.
    pub process: u64,
}

impl PartialOrd for Epoch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let start = |epoch: &Self| (epoch.incarnation, epoch.starts);
        match start(self).cmp(&start(other)) {
            Ordering::Equal => (self.process == other.process).then_some(Ordering::Equal),
            order @ (Ordering::Less | Ordering::Greater) => Some(order),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incarnation {}, start {}", self.incarnation, self.starts)
    }
}

/// The versions of frames that a node reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The lowest.
    pub lowest: u8,
    /// The highest.
    pub highest: u8,
}

impl Versions {
    /// Those of this release.
    pub const SPOKEN: Self = Self { lowest: 1, highest: 4 };

    /// The highest that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// What every replica has to take: it differs nowhere in a cluster, or what one appends another could not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedLimits {
    /// The longest operation of an entry, bytes; an entry of several is shorter, or as long.
    pub operation_bytes: u64,
    /// The longest value, bytes.
    pub value_bytes: u64,
}

impl SharedLimits {
    /// The most bytes of messages that a frame has: those of the longest entry, and never so few that a frame is not worth
    /// its head. Equal limits give equal bounds on both sides.
    #[must_use]
    pub fn frame_bytes(self) -> usize {
        let entry_bytes = usize::try_from(self.operation_bytes).unwrap_or(usize::MAX);
        entry_bytes.saturating_add(64 << 10).clamp(8 << 20, u32::MAX as usize)
    }
}

impl fmt::Display for SharedLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operations of {} bytes, values of {} bytes", self.operation_bytes, self.value_bytes)
    }
}

/// A shard of a node, and the core that owns it while its process runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardCore {
    /// The storage that it is part of.
    pub storage: StorageId,
    /// Its number there.
    pub shard: ShardId,
    /// Its core.
    pub core: CoreId,
}

/// What the nodes of a cluster share, and nobody else has.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// A secret that whoever sees one handshake could guess.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the cluster's secret has {bytes} bytes, which could be guessed; give all nodes the same {SECRET_BYTES_MIN} random bytes or more"
)]
pub struct ShortSecret {
    bytes: usize,
}

impl Secret {
    /// Takes a secret.
    ///
    /// # Errors
    /// [`ShortSecret`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, ShortSecret> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(ShortSecret { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a node says of itself and of whom it wants to reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The versions of frames that it speaks.
    pub versions: Versions,
    /// Its cluster.
    pub cluster: u128,
    /// Which node it is.
    pub node: NodeId,
    /// Which process of that node.
    pub epoch: Epoch,
    /// The node that it takes the other side for.
    pub wanted: NodeId,
    /// What the connection is for.
    pub lane: Lane,
    /// Whether it has a secret.
    pub has_secret: bool,
    /// Its core on this connection.
    pub core: CoreId,
    /// The core of the other side that it wants.
    pub wanted_core: CoreId,
    /// What its replicas take.
    pub limits: SharedLimits,
    /// How its cluster was founded.
    pub founding: Founding,
    /// Makes this handshake another one than all before.
    pub nonce: Nonce,
    /// Its shards and their cores.
    pub shards: Vec<ShardCore>,
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        assert!(self.shards.len() <= SHARDS_MAX, "a node of {} shards", self.shards.len());
        let mut body = Vec::with_capacity(HELLO_BYTES + self.shards.len() * SHARD_BYTES);
        body.extend_from_slice(&[self.versions.lowest, self.versions.highest]);
        body.extend_from_slice(&self.cluster.to_le_bytes());
        for field in [self.node.0, self.epoch.incarnation, self.epoch.starts, self.wanted.0] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        body.extend_from_slice(&[self.lane.code(), if self.has_secret { HAS_SECRET } else { 0 }]);
        body.extend_from_slice(&self.core.0.to_le_bytes());
        body.extend_from_slice(&self.wanted_core.0.to_le_bytes());
        body.extend_from_slice(&self.limits.operation_bytes.to_le_bytes());
        body.extend_from_slice(&self.limits.value_bytes.to_le_bytes());
        let Founding { founders, partitions, shards } = self.founding;
        body.extend_from_slice(&founders.to_le_bytes());
        body.extend_from_slice(&partitions.to_le_bytes());
        body.extend_from_slice(&shards.to_le_bytes());
        body.extend_from_slice(&self.epoch.process.to_le_bytes());
        body.extend_from_slice(&self.nonce);
        let shards = u16::try_from(self.shards.len()).expect("they are at most 1024");
        body.extend_from_slice(&shards.to_le_bytes());
        for at in &self.shards {
            body.extend_from_slice(&at.storage.0.to_le_bytes());
            body.extend_from_slice(&at.shard.0.to_le_bytes());
            body.extend_from_slice(&at.core.0.to_le_bytes());
        }
        body
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Result<Self, Damage>> {
        let [lowest, highest] = fields.array()?;
        let (cluster, node) = (fields.u128()?, NodeId(fields.u64()?));
        let (incarnation, starts) = (fields.u64()?, fields.u64()?);
        let wanted = NodeId(fields.u64()?);
        let [lane, flags] = fields.array()?;
        let (core, wanted_core) = (CoreId(u16_of(fields)?), CoreId(u16_of(fields)?));
        let limits = SharedLimits { operation_bytes: fields.u64()?, value_bytes: fields.u64()? };
        let founding =
            Founding { founders: fields.u128()?, partitions: fields.u32()?, shards: fields.u32()? };
        let epoch = Epoch { incarnation, starts, process: fields.u64()? };
        let nonce = fields.array()?;
        let count = usize::from(u16_of(fields)?);
        let Some(lane) = Lane::from_code(lane) else { return Some(Err(Damage::Field("lane"))) };
        if flags & !HAS_SECRET != 0 {
            return Some(Err(Damage::Field("flags")));
        }
        if count > SHARDS_MAX || count * SHARD_BYTES > fields.rest.len() {
            return Some(Err(Damage::Field("number of shards")));
        }
        let mut shards = Vec::with_capacity(count);
        for _ in 0..count {
            let (storage, shard) = (StorageId(fields.u64()?), ShardId(fields.u32()?));
            shards.push(ShardCore { storage, shard, core: CoreId(u16_of(fields)?) });
        }
        let versions = Versions { lowest, highest };
        let has_secret = flags & HAS_SECRET != 0;
        Some(Ok(Self {
            versions,
            cluster,
            node,
            epoch,
            wanted,
            lane,
            has_secret,
            core,
            wanted_core,
            limits,
            founding,
            nonce,
            shards,
        }))
    }
}

fn u16_of(fields: &mut Fields<'_>) -> Option<u16> {
    fields.array().map(u16::from_le_bytes)
}

/// A message of a handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Greeting {
    /// Who the side is.
    Hello(Box<Hello>),
    /// That it has the secret.
    Proof([u8; PROOF_BYTES]),
    /// Frames may follow.
    Accepted,
    /// The connection ends.
    Refused(RefusalKind),
}

impl Greeting {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Hello(hello) => (1, hello.encode()),
            Self::Proof(proof) => (2, proof.to_vec()),
            Self::Accepted => (3, Vec::new()),
            Self::Refused(why) => (4, vec![why.code()]),
        };
        let length = u16::try_from(body.len()).expect("a hello is bounded by its shards");
        let mut sealed = vec![kind, 0];
        sealed.extend_from_slice(&length.to_le_bytes());
        sealed.extend_from_slice(&body);
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&sealed).to_le_bytes());
        bytes.extend_from_slice(&sealed);
        bytes
    }

    /// The first message of some bytes and how long it is, once it is whole.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Damage> {
        let mut fields = Fields::new(bytes);
        let Some(magic) = fields.u32() else { return Ok(None) };
        if magic != MAGIC {
            return Err(Damage::Magic { found: magic });
        }
        let Some(crc) = fields.u32() else { return Ok(None) };
        let sealed = fields.rest;
        let Some([kind, zero]) = fields.array() else { return Ok(None) };
        let Some(length) = u16_of(&mut fields).map(usize::from) else { return Ok(None) };
        if length > BODY_BYTES_MAX {
            return Err(Damage::Field("length"));
        }
        let Some(body) = fields.take(length) else { return Ok(None) };
        let sealed = sealed.get(..HEAD_BYTES - 8 + length).unwrap_or_default();
        if crc != crc32fast::hash(sealed) {
            return Err(Damage::Checksum);
        }
        let mut fields = Fields::new(body);
        let greeting = match kind {
            1 => Hello::decode(&mut fields).map(|hello| hello.map(|hello| Self::Hello(Box::new(hello)))),
            2 => fields.array().map(|proof| Ok(Self::Proof(proof))),
            3 => Some(Ok(Self::Accepted)),
            4 => fields.byte().map(|code| {
                RefusalKind::from_code(code).map(Self::Refused).ok_or(Damage::Field("reason of a refusal"))
            }),
            _ => Some(Err(Damage::Field("kind"))),
        };
        let greeting = greeting.ok_or(Damage::Field("length"))??;
        if zero != 0 || !fields.is_empty() {
            return Err(Damage::Field("length"));
        }
        Ok(Some((greeting, HEAD_BYTES + length)))
    }
}
