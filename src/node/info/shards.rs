//! INFO's figures of the shards: the log, the state, and the replicas in them.

use std::sync::atomic::Ordering::Relaxed;

use corduroy_shards::LeadCounts;

use super::{Lines, line, zeros};
use crate::node::facts::{Groups, MAX_GROUPS, OnCore, Shards};
use crate::node::gather;
use crate::node::shared::Shared;

/// What is acknowledged is on disk: nothing is ever unsaved, and the last save is now.
pub fn persistence(shared: &Shared) -> Lines {
    let shards = gather::shards(shared);
    // One, unless cores have yet to follow a change.
    let mut syncs: Vec<String> = shards.iter().map(|shard| shard.sync.to_string()).collect();
    syncs.sort();
    syncs.dedup();
    let (is_log_full, is_state_full) = (shards.is_log_full(), shards.is_state_full());
    let status = |is_full: bool| if is_full { "err" } else { "ok" };
    let log_bytes = shards.total(|shard| shard.wal.live_bytes);
    let mut lines = vec![
        line("loading", 0),
        line("rdb_changes_since_last_save", 0),
        line("rdb_bgsave_in_progress", 0),
        line("aof_enabled", 1),
        // Either has writes refused with -DISKFULL.
        line("aof_last_write_status", status(is_log_full || is_state_full)),
        line("wal_sync", syncs.join(",")),
        line("wal_frames", shards.total(|shard| shard.wal.frames)),
        line("wal_records", shards.total(|shard| shard.wal.records)),
        line("wal_bytes", shards.total(|shard| shard.wal.bytes)),
        line("wal_live_segments", shards.total(|shard| shard.wal.live_segments)),
        line("wal_spare_segments", shards.total(|shard| shard.wal.spare_segments)),
        line("wal_rewritten_bytes", shards.total(|shard| shard.wal.rewritten_bytes)),
        line("wal_full", u8::from(is_log_full)),
        line("state_full", u8::from(is_state_full)),
        line("start_counted", u8::from(shared.start_counted.load(Relaxed))),
        line("hand_overs", shards.total(|shard| shard.store.flushes)),
        line("handed_over_rows", shards.total(|shard| shard.store.flushed_rows)),
        line("hand_overs_undone", shards.total(|shard| shard.store.undone_flushes)),
        line("state_disk_bytes", shards.total(|shard| shard.store.disk.disk_bytes)),
        line("state_tables", shards.total(|shard| shard.store.disk.tables)),
        line("state_damaged_tables", shards.total(|shard| shard.store.disk.damaged_tables)),
        line("state_damaged_reads", shards.total(|shard| shard.store.disk.damaged_reads)),
        line("state_verified_bytes", shards.total(|shard| shard.store.disk.verified_bytes)),
        line("state_verified_rounds", shards.total(|shard| shard.store.disk.verified_rounds)),
        line("current_fork_perc", "0.00"),
        line("rdb_last_save_time", shared.wall_s()),
        line("rdb_last_bgsave_status", status(is_log_full)),
        line("rdb_last_bgsave_time_sec", -1),
        line("rdb_current_bgsave_time_sec", -1),
        line("aof_last_rewrite_time_sec", -1),
        line("aof_current_rewrite_time_sec", -1),
        line("aof_last_bgrewrite_status", status(is_log_full)),
        line("aof_current_size", log_bytes),
        line("aof_base_size", log_bytes),
    ];
    lines.extend(zeros(NEVER_SAVED));
    lines
}

/// What there is of saving and rewriting elsewhere.
const NEVER_SAVED: &[&str] = &[
    "async_loading",
    "current_cow_peak",
    "current_cow_size",
    "current_cow_size_age",
    "current_save_keys_processed",
    "current_save_keys_total",
    "rdb_saves",
    "rdb_last_cow_size",
    "rdb_last_load_keys_expired",
    "rdb_last_load_keys_loaded",
    "aof_rewrite_in_progress",
    "aof_rewrite_scheduled",
    "aof_rewrites",
    "aof_rewrites_consecutive_failures",
    "aof_last_cow_size",
    "aof_pending_rewrite",
    "aof_buffer_length",
    "aof_pending_bio_fsync",
    "aof_delayed_fsync",
    "module_fork_in_progress",
    "module_fork_last_cow_size",
];

pub fn replication(shared: &Shared) -> Lines {
    let mut lines = super::peers::role(shared);
    let reads = shared.setting("reads").filter(|_| shared.peers().is_some());
    lines.extend(reads.map(|reads| line("reads", reads)));
    lines.extend([
        line("master_failover_state", "no-failover"),
        line("master_replid", format!("{:032x}{:08x}", shared.identity.cluster, 0)),
        line("master_replid2", "0".repeat(40)),
        line("master_repl_offset", gather::shards(shared).total(|shard| shard.groups.applied)),
        line("second_repl_offset", -1),
        line("repl_backlog_active", 0),
        line("repl_backlog_size", 1 << 20),
    ]);
    lines.extend(zeros(&["repl_backlog_first_byte_offset", "repl_backlog_histlen"]));
    lines
}

pub fn keyspace(shards: &Shards) -> Lines {
    let keys = shards.total(|shard| shard.store.keys);
    if keys == 0 {
        return Vec::new();
    }
    let expires = shards.total(|shard| shard.store.expiring_keys);
    vec![line("db0", format!("keys={keys},expires={expires},avg_ttl=0"))]
}

pub fn shards(shared: &Shared) -> Lines {
    let mut lines = vec![
        line("shards", shared.identity.shards),
        line("shards_in_use", shared.layout.used_shards()),
        line("partitions", shared.identity.partitions),
    ];
    for OnCore { core, shard } in gather::shards(shared).0 {
        let counters = &shard.counters;
        lines.push((
            format!("shard_{}", shard.id.0).into(),
            format!(
                "core={core},partitions={},turns={},requests={},refused={},entries={},ops={},reads={},frames={},wal_bytes={},\
                 live_segments={},keys={}",
                shard.groups.replicas,
                counters.turns,
                counters.requests,
                counters.refused,
                counters.entries_applied,
                counters.ops_applied,
                counters.reads_direct,
                shard.wal.frames,
                shard.wal.bytes,
                shard.wal.live_segments,
                shard.store.keys,
            ),
        ));
    }
    lines
}

pub fn raft_groups(shared: &Shared) -> Lines {
    let shards = gather::shards(shared);
    let sum = |of: fn(&Groups) -> usize| shards.iter().map(|shard| of(&shard.groups)).sum::<usize>();
    let count = |of: fn(&LeadCounts) -> u64| shards.total(|shard| of(&shard.counters.leads));
    let mut lines = vec![
        line("raft_mode", shared.config().replication),
        line("raft_groups", sum(|groups| groups.replicas)),
        line("raft_leaders", sum(|groups| groups.leaders)),
        line("raft_leads_elected", count(|leads| leads.elected)),
        line("raft_leads_transferred", count(|leads| leads.transferred)),
        line("raft_leads_lost", count(|leads| leads.lost)),
        line("raft_ended_leads_ms", count(|leads| leads.lasted_ms)),
        line("raft_images_installed", shards.total(|shard| shard.counters.images_installed)),
        line("raft_ready", sum(|groups| groups.ready)),
        line("raft_asleep", sum(|groups| groups.asleep)),
        line("raft_fallen_asleep", shards.total(|shard| shard.counters.fallen_asleep)),
        line("raft_woken_by_peers", shards.total(|shard| shard.counters.woken_by_peers)),
        line("raft_fenced", sum(|groups| groups.failed)),
    ];
    let listed = shards.iter().flat_map(|shard| &shard.groups.first);
    for replica in listed.take(MAX_GROUPS) {
        lines.push((
            format!("raft_group_{}", replica.partition).into(),
            format!(
                "role={:?},term={},last={},committed={},applied={},released={},pending={},members_as_of={},started_as={:?}",
                replica.role,
                replica.term,
                replica.last,
                replica.committed,
                replica.applied,
                replica.released,
                replica.pending_requests,
                replica.members_as_of,
                replica.started_as,
            ),
        ));
    }
    lines
}
