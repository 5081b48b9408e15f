//! The node's part of INFO: fields as Redis names them where it has them, and sections of our own.

mod redis;

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use super::facts::{CoreFacts, Groups, MAX_GROUPS, ShardFacts};
use super::shared::{Shared, lock};

type Lines = Vec<(Cow<'static, str>, String)>;

/// The fields of a section that the sessions do not fill; `None` for a section without any.
pub fn section(shared: &Shared, name: &str) -> Option<Lines> {
    let mut lines = match name {
        "server" => server(shared),
        "clients" => clients(shared),
        "memory" => memory(shared),
        "persistence" => persistence(shared),
        "stats" => stats(shared),
        "replication" => replication(shared),
        "cpu" => cpu(),
        "keyspace" => keyspace(shared),
        "shards" => shards(shared),
        "raft" => raft_groups(shared),
        _ => return None,
    };
    lines.extend(redis::more(shared, name));
    Some(lines)
}

fn line(name: &'static str, value: impl ToString) -> (Cow<'static, str>, String) {
    (Cow::Borrowed(name), value.to_string())
}

/// All shards, as their cores published them last.
fn facts(shared: &Shared) -> Vec<(usize, ShardFacts)> {
    let cores = shared.facts.iter().enumerate();
    let mut all: Vec<_> = cores
        .flat_map(|(core, facts)| {
            lock(&facts.shards).iter().map(|shard| (core, shard.clone())).collect::<Vec<_>>()
        })
        .collect();
    all.sort_by_key(|(_, shard)| shard.id.0);
    all
}

fn total(shards: &[(usize, ShardFacts)], of: impl Fn(&ShardFacts) -> u64) -> u64 {
    shards.iter().map(|(_, shard)| of(shard)).sum()
}

fn server(shared: &Shared) -> Lines {
    let config = shared.config();
    let uptime = shared.started.elapsed().as_secs();
    let uname = rustix::system::uname();
    let os = format!(
        "{} {} {}",
        uname.sysname().to_string_lossy(),
        uname.release().to_string_lossy(),
        std::env::consts::ARCH
    );
    let executable = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    vec![
        line("server_name", "corduroy"),
        line("os", os),
        line("arch_bits", usize::BITS),
        line("monotonic_clock", "POSIX clock_gettime"),
        line("multiplexing_api", "epoll"),
        line(
            "io_uring",
            shared.uring_refused.as_ref().map_or("used".to_owned(), |why| format!("refused: {why}")),
        ),
        line("process_id", std::process::id()),
        line(
            "run_id",
            format!("{:016x}{:016x}{:08x}", shared.identity.node, shared.started_ms, std::process::id()),
        ),
        line("tcp_port", config.listen.port()),
        line("uptime_in_seconds", uptime),
        line("uptime_in_days", uptime / 86_400),
        line("executable", executable),
        line("cores", shared.layout.cores()),
        line("cluster_id", format!("{:032x}", shared.identity.cluster)),
        line("node_id", format!("{:016x}", shared.identity.node)),
    ]
}

fn clients(shared: &Shared) -> Lines {
    let mut lines = vec![
        line("maxclients", shared.config().max_clients),
        line("clients_bytes", shared.ledger.total()),
        line("clients_bytes_limit", shared.ledger.limit()),
    ];
    for (core, facts) in shared.facts.iter().enumerate() {
        lines.push((
            format!("connected_clients_core_{core}").into(),
            facts.connections.load(Relaxed).to_string(),
        ));
    }
    lines
}

/// A figure that the kernel tells in KiB, in bytes; 0 if it does not.
fn kib_line(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let figure = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    figure.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes as Redis writes them for people: `1.50M`.
fn human(bytes: u64) -> String {
    let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2}{name}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

fn memory(shared: &Shared) -> Lines {
    let shards = facts(shared);
    let used = total(&shards, |shard| shard.store.used_bytes);
    let resident = kib_line("/proc/self/status", "VmRSS:");
    let peak = kib_line("/proc/self/status", "VmHWM:").max(resident);
    let system = kib_line("/proc/meminfo", "MemTotal:");
    vec![
        line("used_memory_rss", resident),
        line("used_memory_rss_human", human(resident)),
        line("used_memory_rss_peak", peak),
        line("total_system_memory", system),
        line("total_system_memory_human", human(system)),
        line("maxmemory", shared.memory.0),
        line("maxmemory_human", human(shared.memory.0)),
        line("maxmemory_policy", "noeviction"),
        line("state_rows_bytes", used),
        line("state_dirty_bytes", total(&shards, |shard| shard.store.dirty_bytes)),
        line("state_captured_bytes", total(&shards, |shard| shard.store.captured_bytes)),
        line("state_answers_bytes", total(&shards, |shard| shard.store.answer_bytes)),
        line("mem_allocator", "mimalloc"),
    ]
}

fn persistence(shared: &Shared) -> Lines {
    let shards = facts(shared);
    // One, unless cores have yet to follow a change.
    let mut syncs: Vec<String> = shards.iter().map(|(_, shard)| shard.sync.to_string()).collect();
    syncs.sort();
    syncs.dedup();
    // Either has writes refused with -DISKFULL.
    let is_log_full = shards.iter().any(|(_, shard)| !shard.has_space);
    let is_state_full = shards.iter().any(|(_, shard)| shard.store.is_full);
    vec![
        line("loading", 0),
        line("rdb_changes_since_last_save", 0),
        line("rdb_bgsave_in_progress", 0),
        line("aof_enabled", 1),
        line("aof_last_write_status", if is_log_full || is_state_full { "err" } else { "ok" }),
        line("wal_sync", syncs.join(",")),
        line("wal_frames", total(&shards, |shard| shard.wal.frames)),
        line("wal_records", total(&shards, |shard| shard.wal.records)),
        line("wal_bytes", total(&shards, |shard| shard.wal.bytes)),
        line("wal_live_segments", total(&shards, |shard| shard.wal.live_segments)),
        line("wal_spare_segments", total(&shards, |shard| shard.wal.spare_segments)),
        line("wal_rewritten_bytes", total(&shards, |shard| shard.wal.rewritten_bytes)),
        line("wal_full", u8::from(is_log_full)),
        line("state_full", u8::from(is_state_full)),
        line("start_counted", u8::from(shared.start_counted.load(Relaxed))),
        line("hand_overs", total(&shards, |shard| shard.store.hand_overs)),
        line("handed_over_rows", total(&shards, |shard| shard.store.handed_over_rows)),
        line("hand_overs_undone", total(&shards, |shard| shard.store.undone_hand_overs)),
        line("state_disk_bytes", total(&shards, |shard| shard.store.lower.disk_bytes)),
        line("state_tables", total(&shards, |shard| shard.store.lower.tables)),
        line("state_damaged_tables", total(&shards, |shard| shard.store.lower.damaged_tables)),
        line("state_damaged_reads", total(&shards, |shard| shard.store.lower.damaged_reads)),
        line("state_verified_bytes", total(&shards, |shard| shard.store.lower.verified_bytes)),
        line("state_verified_rounds", total(&shards, |shard| shard.store.lower.verified_rounds)),
    ]
}

fn stats(shared: &Shared) -> Lines {
    let shards = facts(shared);
    let of_cores = |of: fn(&CoreFacts) -> u64| shared.facts.iter().map(of).sum::<u64>();
    vec![
        line("total_net_input_bytes", of_cores(|core| core.input_bytes.load(Relaxed))),
        line("total_net_output_bytes", of_cores(|core| core.output_bytes.load(Relaxed))),
        line("rejected_connections", shared.refused.load(Relaxed)),
        line("evicted_clients", shared.ledger.evicted()),
        line("expired_keys", total(&shards, |shard| shard.store.expired_keys)),
        // Redis counts keys that it lost to make room; nothing is ever lost here.
        line("evicted_keys", 0),
        line("rows_dropped_from_memory", total(&shards, |shard| shard.store.evicted_keys)),
        line("rows_loaded_from_disk", total(&shards, |shard| shard.store.loaded_keys)),
        line("clock_ahead_ms", shards.iter().map(|(_, shard)| shard.ahead_ms).max().unwrap_or(0)),
        line("clock_ahead_episodes", total(&shards, |shard| shard.counters.clocks_ahead)),
        line("core_hops", of_cores(|core| core.hops.load(Relaxed))),
        line("driver_passes", of_cores(|core| core.passes.load(Relaxed))),
        line("core_wakes", shared.bells.iter().map(|bell| bell.wakes()).sum::<u64>()),
    ]
}

fn replication(shared: &Shared) -> Lines {
    let shards = facts(shared);
    let offset = total(&shards, |shard| shard.groups.applied);
    vec![
        line("master_failover_state", "no-failover"),
        line("master_replid", format!("{:032x}{:08x}", shared.identity.cluster, 0)),
        line("master_replid2", "0".repeat(40)),
        line("master_repl_offset", offset),
        line("second_repl_offset", -1),
        line("repl_backlog_active", 0),
    ]
}

/// User and system time of a process or thread, seconds.
fn cpu_seconds(file: &str) -> [f64; 2] {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // Fields after the name, which may hold anything: 12 and 13 are user and system time in ticks.
    let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    [ticks(11) / hertz, ticks(12) / hertz]
}

fn cpu() -> Lines {
    let [user, system] = cpu_seconds("/proc/self/stat");
    vec![line("used_cpu_sys", format!("{system:.6}")), line("used_cpu_user", format!("{user:.6}"))]
}

fn keyspace(shared: &Shared) -> Lines {
    let shards = facts(shared);
    let keys = total(&shards, |shard| shard.store.keys);
    if keys == 0 {
        return Vec::new();
    }
    let expires = total(&shards, |shard| shard.store.expiring_keys);
    vec![line("db0", format!("keys={keys},expires={expires},avg_ttl=0"))]
}

fn shards(shared: &Shared) -> Lines {
    let mut lines = vec![
        line("shards", shared.identity.shards),
        line("shards_in_use", shared.layout.used_shards()),
        line("partitions", shared.identity.partitions),
    ];
    for (core, shard) in facts(shared) {
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

fn raft_groups(shared: &Shared) -> Lines {
    let shards = facts(shared);
    let sum = |of: fn(&Groups) -> usize| shards.iter().map(|(_, shard)| of(&shard.groups)).sum::<usize>();
    let mut lines = vec![
        line("raft_mode", shared.config().replication),
        line("raft_groups", sum(|groups| groups.replicas)),
        line("raft_leaders", sum(|groups| groups.leaders)),
        line("raft_ready", sum(|groups| groups.ready)),
        line("raft_fenced", sum(|groups| groups.failed)),
    ];
    let listed = shards.iter().flat_map(|(_, shard)| &shard.groups.first);
    for replica in listed.take(MAX_GROUPS) {
        lines.push((
            format!("raft_group_{}", replica.partition).into(),
            format!(
                "role={:?},term={},last={},committed={},applied={},released={},pending={},started_as={:?}",
                replica.role,
                replica.term,
                replica.last,
                replica.committed,
                replica.applied,
                replica.released,
                replica.pending_requests,
                replica.started_as,
            ),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people_are_written_as_redis_does() {
        assert_eq!([human(0), human(1023), human(1536), human(5 << 30)], ["0B", "1023B", "1.50K", "5.00G"]);
    }
}
