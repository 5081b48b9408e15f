//! Fields of Redis's INFO that exporters and dashboards read: what they mean here, or what is true where nothing stands
//! behind them.

use corduroy_shards::runtime::heap;

use super::{Lines, facts, human, kib_line, line, total};
use crate::node::clock::mono_ns;
use crate::node::facts::CoreFacts;
use crate::node::shared::{Shared, lock};

/// A section's fields.
pub fn more(shared: &Shared, section: &str) -> Lines {
    match section {
        "server" => server(shared),
        "memory" => memory(shared),
        "persistence" => persistence(shared),
        "stats" => stats(shared),
        "replication" => replication(),
        "cpu" => cpu(),
        _ => Vec::new(),
    }
}

/// Figures of things that there are none of: no fork, no replica, no script, no subscriber, no thread for I/O.
fn zeros(names: &[&'static str]) -> impl Iterator<Item = (std::borrow::Cow<'static, str>, String)> {
    names.iter().map(|name| line(name, 0))
}

fn server(shared: &Shared) -> Lines {
    let hz = shared.setting("hz").unwrap_or_default();
    vec![
        line("redis_git_sha1", "00000000"),
        line("redis_git_dirty", 0),
        line("redis_build_id", 0),
        line("atomicvar_api", "rust-atomics"),
        line("process_supervised", "no"),
        line("hz", &hz),
        line("configured_hz", hz),
        // Seconds in 24 bits, as Redis's clock of last uses has them.
        line("lru_clock", shared.wall_s() & 0xFF_FFFF),
        line("config_file", shared.config_file()),
        line("io_threads_active", 0),
    ]
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}%", 100.0 * ratio(part, whole))
}

/// What is allocated, what the allocator has from the system, what of it is resident.
fn memory(shared: &Shared) -> Lines {
    let heap = heap::in_use();
    let resident = kib_line("/proc/self/status", "VmRSS:");
    let dataset = total(&facts(shared), |shard| shard.store.used_bytes).min(heap.in_use);
    let startup = shared.startup_bytes().min(heap.in_use);
    let overhead = heap.in_use - dataset;
    let bytes = |name: &'static str, more: u64, less: u64| line(name, i128::from(more) - i128::from(less));
    let mut lines = vec![
        line("used_memory", heap.in_use),
        line("used_memory_human", human(heap.in_use)),
        line("used_memory_peak", heap.peak),
        line("used_memory_peak_human", human(heap.peak)),
        line("used_memory_peak_perc", percent(heap.in_use, heap.peak)),
        line("used_memory_overhead", overhead),
        line("used_memory_startup", startup),
        line("used_memory_dataset", dataset),
        line("used_memory_dataset_perc", percent(dataset, heap.in_use - startup)),
        line("allocator_allocated", heap.in_use),
        line("allocator_active", heap.committed),
        line("allocator_resident", resident),
        line("used_memory_lua_human", human(0)),
        line("used_memory_vm_total_human", human(0)),
        line("used_memory_scripts_human", human(0)),
        line("allocator_frag_ratio", format!("{:.2}", ratio(heap.committed, heap.in_use))),
        bytes("allocator_frag_bytes", heap.committed, heap.in_use),
        line("allocator_rss_ratio", format!("{:.2}", ratio(resident, heap.committed))),
        bytes("allocator_rss_bytes", resident, heap.committed),
        line("rss_overhead_ratio", "1.00"),
        line("rss_overhead_bytes", 0),
        line("mem_fragmentation_ratio", format!("{:.2}", ratio(resident, heap.in_use))),
        bytes("mem_fragmentation_bytes", resident, heap.in_use),
        line("mem_clients_normal", shared.hub.clients.buffered_bytes()),
    ];
    lines.extend(zeros(&[
        "used_memory_lua",
        "used_memory_vm_eval",
        "used_memory_scripts_eval",
        "number_of_cached_scripts",
        "number_of_functions",
        "number_of_libraries",
        "used_memory_vm_functions",
        "used_memory_vm_total",
        "used_memory_functions",
        "used_memory_scripts",
        "mem_not_counted_for_evict",
        "mem_replication_backlog",
        "mem_total_replication_buffers",
        "mem_clients_slaves",
        "mem_cluster_links",
        "mem_aof_buffer",
        "active_defrag_running",
        "lazyfree_pending_objects",
        "lazyfreed_objects",
    ]));
    lines
}

/// What is acknowledged is on disk: nothing is ever unsaved, and the last save is now.
fn persistence(shared: &Shared) -> Lines {
    let shards = facts(shared);
    let written = if shards.iter().all(|(_, shard)| shard.has_space) { "ok" } else { "err" };
    let log_bytes = total(&shards, |shard| shard.wal.live_bytes);
    let mut lines = vec![
        line("current_fork_perc", "0.00"),
        line("rdb_last_save_time", shared.wall_s()),
        line("rdb_last_bgsave_status", written),
        line("rdb_last_bgsave_time_sec", -1),
        line("rdb_current_bgsave_time_sec", -1),
        line("aof_last_rewrite_time_sec", -1),
        line("aof_current_rewrite_time_sec", -1),
        line("aof_last_bgrewrite_status", written),
        line("aof_current_size", log_bytes),
        line("aof_base_size", log_bytes),
    ];
    lines.extend(zeros(&[
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
    ]));
    lines
}

fn stats(shared: &Shared) -> Lines {
    use std::sync::atomic::Ordering::Relaxed;
    let of_cores = |of: fn(&CoreFacts) -> u64| shared.facts.iter().map(of).sum::<u64>();
    let now_ns = mono_ns(shared.started);
    let (input, output) =
        (of_cores(|core| core.input_bytes.load(Relaxed)), of_cores(|core| core.output_bytes.load(Relaxed)));
    let (passes, pass_ns) =
        (of_cores(|core| core.passes.load(Relaxed)), of_cores(|core| core.pass_ns.load(Relaxed)));
    let ran_ns: u64 = shared.hub.totals().commands.iter().map(|command| command.ran_ns).sum();
    let mut rates = lock(&shared.rates);
    let [input_rate, output_rate, pass_rate, pass_ns_rate] = &mut *rates;
    let kbps = |per_s: u64| format!("{:.2}", per_s as f64 / 1024.0);
    let passes_per_s = pass_rate.per_s(passes, now_ns);
    let pass_us = pass_ns_rate.per_s(pass_ns, now_ns) / 1000 / passes_per_s.max(1);
    let mut lines = vec![
        line("instantaneous_input_kbps", kbps(input_rate.per_s(input, now_ns))),
        line("instantaneous_output_kbps", kbps(output_rate.per_s(output, now_ns))),
        line("instantaneous_input_repl_kbps", "0.00"),
        line("instantaneous_output_repl_kbps", "0.00"),
        line("expired_stale_perc", "0.00"),
        line("total_reads_processed", of_cores(|core| core.reads.load(Relaxed))),
        line("total_writes_processed", of_cores(|core| core.writes.load(Relaxed))),
        line("eventloop_cycles", passes),
        line("eventloop_duration_sum", pass_ns / 1000),
        line("eventloop_duration_cmd_sum", ran_ns / 1000),
        line("instantaneous_eventloop_cycles_per_sec", passes_per_s),
        line("instantaneous_eventloop_duration_usec", pass_us),
    ];
    lines.extend(zeros(&[
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
    ]));
    lines
}

fn replication() -> Lines {
    let mut lines = vec![line("repl_backlog_size", 1 << 20)];
    lines.extend(zeros(&["repl_backlog_first_byte_offset", "repl_backlog_histlen"]));
    lines
}

/// The main thread is this core's.
fn cpu() -> Lines {
    let [user, system] = super::cpu_seconds("/proc/thread-self/stat");
    vec![
        line("used_cpu_sys_children", "0.000000"),
        line("used_cpu_user_children", "0.000000"),
        line("used_cpu_sys_main_thread", format!("{system:.6}")),
        line("used_cpu_user_main_thread", format!("{user:.6}")),
    ]
}
