//! INFO's figures of memory, and the same as MEMORY STATS has them.

use super::{Lines, human, line, ratio, zeros};
use crate::node::facts::{MemoryFacts, Shards};
use crate::resp::Figure::{self, Ratio, Whole};

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * ratio(part, whole)
}

/// What is more, less what is less.
fn difference(more: u64, less: u64) -> i64 {
    more.cast_signed().wrapping_sub(less.cast_signed())
}

/// What is allocated, what the allocator has from the system, what of it is resident.
pub fn memory(facts: &MemoryFacts, shards: &Shards) -> Lines {
    let (heap, resident) = (&facts.heap, facts.resident_bytes);
    let two = |ratio: f64| format!("{ratio:.2}");
    let percent = |part: u64, whole: u64| format!("{:.2}%", percent(part, whole));
    let mut lines = vec![
        line("used_memory_rss", resident),
        line("used_memory_rss_human", human(resident)),
        line("used_memory_rss_peak", facts.resident_peak_bytes),
        line("total_system_memory", facts.machine_bytes),
        line("total_system_memory_human", human(facts.machine_bytes)),
        line("maxmemory", facts.state_bytes_max),
        line("maxmemory_human", human(facts.state_bytes_max)),
        line("maxmemory_policy", "noeviction"),
        line("state_rows_bytes", shards.total(|shard| shard.store.used_bytes)),
        line("state_dirty_bytes", shards.total(|shard| shard.store.dirty_bytes)),
        line("state_captured_bytes", shards.total(|shard| shard.store.captured_bytes)),
        line("state_answers_bytes", shards.total(|shard| shard.store.answer_bytes)),
        line("mem_allocator", "mimalloc"),
        line("used_memory", heap.in_use),
        line("used_memory_human", human(heap.in_use)),
        line("used_memory_peak", heap.peak),
        line("used_memory_peak_human", human(heap.peak)),
        line("used_memory_peak_perc", percent(heap.in_use, heap.peak)),
        line("used_memory_overhead", facts.overhead_bytes()),
        line("used_memory_startup", facts.startup_bytes),
        line("used_memory_dataset", facts.dataset_bytes),
        line("used_memory_dataset_perc", percent(facts.dataset_bytes, heap.in_use - facts.startup_bytes)),
        line("allocator_allocated", heap.in_use),
        line("allocator_active", heap.committed),
        line("allocator_resident", resident),
        line("used_memory_lua_human", human(0)),
        line("used_memory_vm_total_human", human(0)),
        line("used_memory_scripts_human", human(0)),
        line("allocator_frag_ratio", two(ratio(heap.committed, heap.in_use))),
        line("allocator_frag_bytes", difference(heap.committed, heap.in_use)),
        line("allocator_rss_ratio", two(ratio(resident, heap.committed))),
        line("allocator_rss_bytes", difference(resident, heap.committed)),
        line("rss_overhead_ratio", "1.00"),
        line("rss_overhead_bytes", 0),
        line("mem_fragmentation_ratio", two(ratio(resident, heap.in_use))),
        line("mem_fragmentation_bytes", difference(resident, heap.in_use)),
        line("mem_clients_normal", facts.buffered_bytes),
    ];
    lines.extend(zeros(NONE));
    lines
}

/// What takes memory elsewhere.
const NONE: &[&str] = &[
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
];

/// MEMORY STATS: Redis's fields in its order, but for those of the keys.
pub fn memory_stats(facts: &MemoryFacts) -> Vec<(&'static str, Figure)> {
    let heap = &facts.heap;
    let resident = facts.resident_bytes;
    let whole = |figure: u64| Whole(figure.cast_signed());
    // As many digits as INFO shows.
    let ratio_of = |ratio: f64| Ratio((ratio * 100.0).round() / 100.0);
    vec![
        ("peak.allocated", whole(heap.peak)),
        ("total.allocated", whole(heap.in_use)),
        ("startup.allocated", whole(facts.startup_bytes)),
        ("replication.backlog", Whole(0)),
        ("clients.slaves", Whole(0)),
        ("clients.normal", whole(facts.buffered_bytes as u64)),
        ("cluster.links", Whole(0)),
        ("aof.buffer", Whole(0)),
        ("lua.caches", Whole(0)),
        ("functions.caches", Whole(0)),
        ("overhead.total", whole(facts.overhead_bytes())),
        ("keys.count", whole(facts.keys)),
        ("keys.bytes-per-key", whole(facts.dataset_bytes.checked_div(facts.keys).unwrap_or(0))),
        ("dataset.bytes", whole(facts.dataset_bytes)),
        ("dataset.percentage", ratio_of(percent(facts.dataset_bytes, heap.in_use - facts.startup_bytes))),
        ("peak.percentage", ratio_of(percent(heap.in_use, heap.peak))),
        ("allocator.allocated", whole(heap.in_use)),
        ("allocator.active", whole(heap.committed)),
        ("allocator.resident", whole(resident)),
        ("allocator-fragmentation.ratio", ratio_of(ratio(heap.committed, heap.in_use))),
        ("allocator-fragmentation.bytes", Whole(difference(heap.committed, heap.in_use))),
        ("allocator-rss.ratio", ratio_of(ratio(resident, heap.committed))),
        ("allocator-rss.bytes", Whole(difference(resident, heap.committed))),
        ("rss-overhead.ratio", Ratio(1.0)),
        ("rss-overhead.bytes", Whole(0)),
        ("fragmentation", ratio_of(ratio(resident, heap.in_use))),
        ("fragmentation.bytes", Whole(difference(resident, heap.in_use))),
    ]
}
