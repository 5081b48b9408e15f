//! How the shards of tests are opened, and asked without a turn.

use corduroy_shards::raft::replica::Replica;
use corduroy_shards::{Kind, Origin, PartitionId, Shard, ShardOptions};
use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{Options, Wal};

use super::{Kv, Saved, World};

pub fn open_shard(
    disk: &MemDisk,
    saved: &Saved,
    options: ShardOptions,
    wal_options: Options,
    partitions: &[PartitionId],
) -> Shard<MemDevice, Kv> {
    open_with(disk, saved, options, wal_options, &Origin::all_alone(partitions, options.storage))
}

pub fn open_with(
    disk: &MemDisk,
    saved: &Saved,
    options: ShardOptions,
    wal_options: Options,
    origins: &[(PartitionId, Origin)],
) -> Shard<MemDevice, Kv> {
    let (wal, _) = Wal::open(disk.device(), wal_options).expect("the log opens");
    let shard = Shard::open(options, wal, Kv::over(saved), origins, 7).expect("the shard opens");
    shard.check();
    shard
}

impl World {
    /// Whether a partition's replica has led and served since the start and is not fenced.
    pub fn is_ready(&self, partition: PartitionId) -> bool {
        self.shard.replica(partition).is_some_and(Replica::is_ready)
    }

    /// What a read is answered at once, if it is.
    pub fn read_now(&mut self, partition: PartitionId, conn: u64, op: &str) -> Option<String> {
        self.read_now_as(partition, conn, (Kind::Read, op))
    }

    /// The same for reads of this kind.
    pub fn read_now_as(
        &mut self,
        partition: PartitionId,
        conn: u64,
        (kind, op): (Kind, &str),
    ) -> Option<String> {
        self.shard.read_now(partition, conn, (kind, op.as_bytes()), self.now, |view| view)
    }
}
