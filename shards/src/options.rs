//! A shard's settings and bounds.

use corduroy_wal::device::Device;
use corduroy_wal::{Fit, Wal};

use crate::ids::StorageId;
use crate::raft::group::GroupOptions;
use crate::raft::replica::Replication;
use crate::raft::snapshot::transfers::ImageOptions;

/// The bounds of a shard. Every queue has one, and a request that does not fit is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Requests of one partition without an outcome. Default 65,536.
    pub partition_requests: usize,
    /// Bytes of them. Default 64 MiB.
    pub partition_bytes: usize,
    /// Requests of the shard without an outcome. Default 262,144.
    pub shard_requests: usize,
    /// Bytes of them. Default 256 MiB.
    pub shard_bytes: usize,
    /// Bytes of entries held in memory until they are applied; above it, nothing is proposed. Default 256 MiB.
    pub unapplied_bytes: usize,
    /// Bytes of messages of other members that wait to be taken in; what comes beyond is dropped. Default 64 MiB.
    pub mail_bytes: usize,
    /// Bytes at the log's end in which applied entries are kept for members that lag behind, in whole segments, and
    /// at most half of what makes the log a long one ([`Wal::first_segment_within`]); one that lags further needs a snapshot.
    /// Default 1 GiB.
    pub kept_bytes: u64,
    /// Reads of the log for such members that are under way at once. Default 8.
    pub catch_up_reads: usize,
    /// Bytes above which an entry takes no further request. Default 4 MiB.
    pub entry_bytes: usize,
    /// Bytes of one operation at most; below half a segment. Default 32 MiB less 64 KiB.
    pub op_bytes: usize,
    /// Bytes of records above which a frame takes no further partition. Default 8 MiB.
    pub frame_bytes: usize,
    /// Bytes of requests without an outcome above which a frame starts beside one under way. Default 64 KiB: a small
    /// frame costs the processor as much as a large one, and a disk that flushes has both one after the other.
    pub second_frame_bytes: usize,
    /// Operations applied in a turn. Default 8,192.
    pub apply_ops: usize,
    /// Bytes of operations applied in a turn. Default 16 MiB.
    pub apply_bytes: usize,
    /// Bytes of outcomes that the reads of a turn bring or move, and as many that its entries do; what comes after waits
    /// for the next one. Default 32 MiB.
    pub outcome_bytes: usize,
    /// Operations of one partition applied before another's turn comes. Default 1,024.
    pub apply_slice_ops: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            partition_requests: 65_536,
            partition_bytes: 64 << 20,
            shard_requests: 262_144,
            shard_bytes: 256 << 20,
            unapplied_bytes: 256 << 20,
            mail_bytes: 64 << 20,
            kept_bytes: 1 << 30,
            catch_up_reads: 8,
            entry_bytes: 4 << 20,
            op_bytes: (32 << 20) - (64 << 10),
            frame_bytes: 8 << 20,
            second_frame_bytes: 64 << 10,
            apply_ops: 8_192,
            apply_bytes: 16 << 20,
            outcome_bytes: 32 << 20,
            apply_slice_ops: 1_024,
        }
    }
}

/// Requests without an outcome, and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Pending {
    pub requests: usize,
    pub bytes: usize,
}

impl Pending {
    pub fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    pub fn sub(&mut self, bytes: usize) {
        assert!(
            self.requests > 0 && self.bytes >= bytes,
            "{self:?} does not hold a request of {bytes} bytes"
        );
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

/// A bound that a request does not fit into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// Of one operation, in bytes.
    Operation(usize),
    /// Of what waits, by its name.
    Waiting(&'static str),
}

impl Limits {
    /// Whether a request of `bytes` may come in. One request is always let into an empty partition.
    pub(crate) fn check_room(&self, bytes: usize, partition: Pending, shard: Pending) -> Result<(), Bound> {
        if bytes > self.op_bytes {
            return Err(Bound::Operation(self.op_bytes));
        }
        if partition.requests >= self.partition_requests {
            return Err(Bound::Waiting("requests of the partition"));
        }
        if partition.requests > 0 && partition.bytes + bytes > self.partition_bytes {
            return Err(Bound::Waiting("bytes of the partition"));
        }
        if shard.requests >= self.shard_requests {
            return Err(Bound::Waiting("requests of the shard"));
        }
        if shard.requests > 0 && shard.bytes + bytes > self.shard_bytes {
            return Err(Bound::Waiting("bytes of the shard"));
        }
        Ok(())
    }
}

/// A shard's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardOptions {
    /// Whether partitions are Raft groups.
    pub replication: Replication,
    /// The storage that the shard is part of: what its replicas' configurations name. Default: unknown.
    pub storage: StorageId,
    /// Whether messages to members of groups on other storages are delivered. A group that has such members is not opened
    /// where they are not. Default: they are not.
    pub reaches_peers: bool,
    /// How groups are driven.
    pub group: GroupOptions,
    /// Bounds of the transfers of images.
    pub images: ImageOptions,
    /// The bounds.
    pub limits: Limits,
    /// Time until a replica that does not lead is reported, and its requests are refused, in ms. Default 5,000.
    pub ready_timeout_ms: u64,
    /// Time until a request without an outcome gets "unknown" (or a refusal, if it surely had no effect), in ms.
    /// Default 10,000.
    pub request_timeout_ms: u64,
    /// What the state machine may spend on itself in a turn, in ns. Default 100,000.
    pub maintain_ns: u64,
    /// Live segments of the log, counted in full ones, above which a flush is asked for. Default 16 (1 GiB of 64 MiB segments).
    pub log_soft_segments: u64,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            replication: Replication::On,
            storage: StorageId::UNKNOWN,
            reaches_peers: false,
            group: GroupOptions::default(),
            images: ImageOptions::default(),
            limits: Limits::default(),
            ready_timeout_ms: 5_000,
            request_timeout_ms: 10_000,
            maintain_ns: 100_000,
            log_soft_segments: 16,
        }
    }
}

/// What a record takes beside the operations of its entry at most, in bytes.
pub(crate) const RECORD_SLACK_BYTES: usize = 1024;

/// Whether the log has room for an entry behind what the frame holds already. A large one may have to wait until a slot
/// is made that takes it, or until the next frame.
pub(crate) fn entry_fit<D: Device>(wal: &mut Wal<D>, entry_bytes: usize) -> Fit {
    wal.fit(entry_bytes + RECORD_SLACK_BYTES)
}

/// The longest entry that surely has room now, in bytes.
pub(crate) fn ready_entry_bytes<D: Device>(wal: &Wal<D>) -> usize {
    wal.ready_record_bytes().saturating_sub(2 * RECORD_SLACK_BYTES)
}

impl ShardOptions {
    /// The longest operation that is taken where a record of the log may have so many bytes.
    #[must_use]
    pub fn op_limit_bytes(self, record_bytes: usize) -> usize {
        self.fitted_to(record_bytes).limits.op_bytes
    }

    /// The same, with entries and operations that fit into a record of the log, and what goes to a member in one message does:
    /// small entries take several times what the crate counts of them.
    pub(crate) fn fitted_to(mut self, record_bytes: usize) -> Self {
        let payload_bytes = record_bytes.saturating_sub(RECORD_SLACK_BYTES);
        self.limits.op_bytes = self.limits.op_bytes.min(payload_bytes);
        self.limits.entry_bytes = self.limits.entry_bytes.min(payload_bytes);
        self.group.message_bytes = self.group.message_bytes.min(payload_bytes as u64 / 8);
        self
    }
}
