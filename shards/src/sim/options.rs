//! What a seed has drawn, in the words of the log and of the shard.

use corduroy_wal::{Binding, Options};

use crate::ids::NodeId;
use crate::image::transfer::Process;
use crate::raft::group::GroupOptions;
use crate::raft::lease::Reads;
use crate::raft::replica::Replication;
use crate::raft::snapshot::receiver::ReceiverOptions;
use crate::raft::snapshot::sender::SenderOptions;
use crate::sim::process::REQUEST_TIMEOUT_MS;
use crate::sim::swarm::{Knobs, MS};
use crate::{ImageOptions, Limits, ShardOptions};

pub(super) fn wal_options(knobs: &Knobs, seed: u64) -> Options {
    Options {
        segment_bytes: knobs.segment_bytes,
        first_segment_bytes: 64 << 10,
        spare_segments: knobs.spare_segments,
        max_in_flight: knobs.max_in_flight,
        max_segments: knobs.max_segments,
        long_segments: knobs.long_segments(),
        seed,
        // The folder was made before the first process: one without a manifest was lost.
        binding: Binding { may_adopt: false, ..Binding::default() },
    }
}

/// Chunks of an image that a member takes in at once: fewer than it is sent.
const UNSTORED: u32 = 2;
/// After so long a member is asked what it has of an image.
const RETRY_MS: u64 = 100;

impl Knobs {
    /// What an image takes at most once nothing is lost any more, in ns: of what is sent at once a member drops what it has no
    /// room for, and is asked about it.
    pub(super) fn image_ns(&self) -> u64 {
        let chunks = self.keys * self.value_bytes / self.chunk_bytes.max(1) + 2;
        chunks.div_ceil(UNSTORED as u64) * (RETRY_MS + 2 * self.tick_ms) * MS
    }

    /// How images are sent: slowly, and with waits that are short beside those of production, as all of a world's are.
    fn images(&self, process: Process) -> ImageOptions {
        let sender = SenderOptions {
            window: 3,
            bytes_per_s: self.image_bytes_per_s,
            retry_ms: RETRY_MS,
            lost_ms: 20,
            expiry_ms: 4_000,
            install_ms: 20_000,
        };
        let receiver = ReceiverOptions { unstored: UNSTORED, expiry_ms: 4_000 };
        ImageOptions { process, at_once: 2, sender, receiver }
    }
}

/// Small limits, so that every bound is met.
pub(super) fn shard_options(knobs: &Knobs, (node, starts): (usize, u64), replicated: bool) -> ShardOptions {
    let process = Process { node: NodeId(node as u64), incarnation: 0, starts };
    ShardOptions {
        storage: knobs.storage(node),
        reaches_peers: knobs.nodes > 1,
        group: GroupOptions {
            tick_ms: knobs.tick_ms,
            stale_reads_ms: knobs.stale_ms,
            sleep_ticks: knobs.sleep_ticks,
            reads: if knobs.leases > 0 { Reads::Lease } else { Reads::Quorum },
            ..GroupOptions::default()
        },
        images: knobs.images(process),
        replication: if replicated { Replication::On } else { Replication::Off },
        limits: Limits {
            partition_requests: knobs.queue,
            shard_requests: knobs.queue * 4,
            entry_bytes: 12 << 10,
            op_bytes: 12 << 10,
            frame_bytes: 16 << 10,
            second_frame_bytes: knobs.second_frame_bytes,
            apply_ops: knobs.apply_ops,
            kept_bytes: knobs.kept_bytes,
            apply_slice_ops: knobs.apply_ops.div_ceil(2),
            ..Limits::default()
        },
        request_timeout_ms: REQUEST_TIMEOUT_MS,
        log_soft_segments: 4,
        ..ShardOptions::default()
    }
}
