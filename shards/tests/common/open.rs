//! How the shards of tests are opened.

use corduroy_shards::{Origin, PartitionId, Shard, ShardOptions};
use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{Options, Wal};

use super::{Kv, Saved};

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
