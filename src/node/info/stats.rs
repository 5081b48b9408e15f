//! INFO's figures of clients, commands, sockets and time.

use super::{Lines, line, zeros};
use crate::node::facts::{ClientFacts, CpuFacts};
use crate::node::gather;
use crate::node::shared::Shared;

pub fn clients(facts: &ClientFacts) -> Lines {
    let mut lines = vec![
        line("connected_clients", facts.connected),
        line("cluster_connections", 0),
        line("client_recent_max_input_buffer", facts.recent_max_bytes.0),
        line("client_recent_max_output_buffer", facts.recent_max_bytes.1),
        line("blocked_clients", facts.blocked),
        line("tracking_clients", 0),
        line("clients_in_timeout_table", facts.blocked),
        line("maxclients", facts.connected_max),
        line("clients_bytes", facts.held_bytes),
        line("clients_bytes_limit", facts.held_bytes_max),
    ];
    let of_cores = facts.connected_by_core.iter().enumerate();
    lines.extend(
        of_cores.map(|(core, count)| (format!("connected_clients_core_{core}").into(), count.to_string())),
    );
    lines
}

pub fn stats(shared: &Shared) -> Lines {
    let totals = shared.hub.totals();
    let traffic = gather::traffic(shared);
    let rates = gather::traffic_rates(shared, &traffic, totals.processed);
    let shards = gather::shards(shared);
    let kbps = |per_s: u64| format!("{:.2}", per_s as f64 / 1024.0);
    let ran_ns: u64 = totals.commands.iter().map(|command| command.ran_ns).sum();
    let mut lines = vec![
        line("total_connections_received", totals.connections),
        line("total_commands_processed", totals.processed),
        line("instantaneous_ops_per_sec", rates.commands),
        line("keyspace_hits", totals.hits),
        line("keyspace_misses", totals.misses),
        line("total_error_replies", totals.errors.values().sum::<u64>()),
        line("unknown_commands", totals.unknown),
        line("acl_access_denied_auth", shared.hub.guesses.denied()),
        // There is one user, who may do everything.
        line("acl_access_denied_cmd", 0),
        line("acl_access_denied_key", 0),
        line("acl_access_denied_channel", 0),
        line("total_net_input_bytes", traffic.input_bytes),
        line("total_net_output_bytes", traffic.output_bytes),
        line("rejected_connections", traffic.refused),
        line("evicted_clients", traffic.evicted),
        line("expired_keys", shards.total(|shard| shard.store.expired_keys)),
        // Redis counts keys that it lost to make room; nothing is ever lost here.
        line("evicted_keys", 0),
        line("rows_dropped_from_memory", shards.total(|shard| shard.store.evicted_keys)),
        line("rows_loaded_from_disk", shards.total(|shard| shard.store.loaded_keys)),
        line("rows_loaded_on_core", shards.total(|shard| shard.store.keys_read_on_core)),
        line("clock_ahead_ms", shards.iter().map(|shard| shard.ahead_ms).max().unwrap_or(0)),
        line("clock_ahead_episodes", shards.total(|shard| shard.counters.clocks_ahead)),
        line("core_hops", traffic.hops),
        line("driver_passes", traffic.passes),
        line("core_wakes", traffic.wakes),
        line("instantaneous_input_kbps", kbps(rates.input_bytes)),
        line("instantaneous_output_kbps", kbps(rates.output_bytes)),
        line("instantaneous_input_repl_kbps", "0.00"),
        line("instantaneous_output_repl_kbps", "0.00"),
        line("expired_stale_perc", "0.00"),
        line("total_reads_processed", traffic.reads),
        line("total_writes_processed", traffic.writes),
        line("eventloop_cycles", traffic.passes),
        line("eventloop_duration_sum", traffic.pass_ns / 1000),
        line("eventloop_duration_cmd_sum", ran_ns / 1000),
        line("instantaneous_eventloop_cycles_per_sec", rates.passes),
        line("instantaneous_eventloop_duration_usec", rates.pass_ns / 1000 / rates.passes.max(1)),
    ];
    lines.extend(zeros(NEVER));
    lines
}

/// What never happens here.
const NEVER: &[&str] = &[
    "total_net_repl_input_bytes",
    "total_net_repl_output_bytes",
    "sync_full",
    "sync_partial_ok",
    "sync_partial_err",
    "expired_time_cap_reached_count",
    "expire_cycle_cpu_milliseconds",
    "total_eviction_exceeded_time",
    "current_eviction_exceeded_time",
    "pubsub_channels",
    "pubsub_patterns",
    "pubsubshard_channels",
    "latest_fork_usec",
    "total_forks",
    "migrate_cached_sockets",
    "slave_expires_tracked_keys",
    "active_defrag_hits",
    "active_defrag_misses",
    "active_defrag_key_hits",
    "active_defrag_key_misses",
    "total_active_defrag_time",
    "current_active_defrag_time",
    "tracking_total_keys",
    "tracking_total_items",
    "tracking_total_prefixes",
    // Errors that a log being loaded or a master would send: neither sends requests here.
    "unexpected_error_replies",
    "dump_payload_sanitizations",
    "io_threaded_reads_processed",
    "io_threaded_writes_processed",
    "reply_buffer_shrinks",
    "reply_buffer_expands",
];

/// The main thread is that of the core which is asked.
pub fn cpu(facts: &CpuFacts) -> Lines {
    let seconds = |name: &'static str, s: f64| line(name, format!("{s:.6}"));
    vec![
        seconds("used_cpu_sys", facts.process.system_s),
        seconds("used_cpu_user", facts.process.user_s),
        seconds("used_cpu_sys_children", 0.0),
        seconds("used_cpu_user_children", 0.0),
        seconds("used_cpu_sys_main_thread", facts.thread.system_s),
        seconds("used_cpu_user_main_thread", facts.thread.user_s),
    ]
}
