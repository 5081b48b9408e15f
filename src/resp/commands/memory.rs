//! MEMORY STATS: the figures of INFO under the names that Redis gives them here.

use std::collections::BTreeMap;

use super::Call;

/// What a field of MEMORY STATS is.
enum Figure {
    /// That of INFO's.
    Whole(&'static str),
    /// That of INFO's, with a fraction.
    Ratio(&'static str),
    /// Nothing stands behind it.
    Zero,
}
use Figure::{Ratio, Whole, Zero};

/// Redis's fields in its order, but for those of the keys.
const FIELDS: &[(&str, Figure)] = &[
    ("peak.allocated", Whole("used_memory_peak")),
    ("total.allocated", Whole("used_memory")),
    ("startup.allocated", Whole("used_memory_startup")),
    ("replication.backlog", Zero),
    ("clients.slaves", Zero),
    ("clients.normal", Whole("mem_clients_normal")),
    ("cluster.links", Zero),
    ("aof.buffer", Zero),
    ("lua.caches", Zero),
    ("functions.caches", Zero),
    ("overhead.total", Whole("used_memory_overhead")),
    ("keys.count", Whole("keys")),
    ("keys.bytes-per-key", Whole("bytes_per_key")),
    ("dataset.bytes", Whole("used_memory_dataset")),
    ("dataset.percentage", Ratio("used_memory_dataset_perc")),
    ("peak.percentage", Ratio("used_memory_peak_perc")),
    ("allocator.allocated", Whole("allocator_allocated")),
    ("allocator.active", Whole("allocator_active")),
    ("allocator.resident", Whole("allocator_resident")),
    ("allocator-fragmentation.ratio", Ratio("allocator_frag_ratio")),
    ("allocator-fragmentation.bytes", Whole("allocator_frag_bytes")),
    ("allocator-rss.ratio", Ratio("allocator_rss_ratio")),
    ("allocator-rss.bytes", Whole("allocator_rss_bytes")),
    ("rss-overhead.ratio", Ratio("rss_overhead_ratio")),
    ("rss-overhead.bytes", Whole("rss_overhead_bytes")),
    ("fragmentation", Ratio("mem_fragmentation_ratio")),
    ("fragmentation.bytes", Whole("mem_fragmentation_bytes")),
];

/// MEMORY STATS.
pub fn stats(call: &mut Call<'_>) {
    let lines = call.backend.info("memory").unwrap_or_default();
    let mut known: BTreeMap<String, String> =
        lines.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
    let number = |known: &BTreeMap<String, String>, name: &str| -> i64 {
        known.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let keyspace = call.backend.info("keyspace").unwrap_or_default();
    let keys =
        keyspace.first().and_then(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse().ok());
    let keys: i64 = keys.unwrap_or(0);
    let per_key = number(&known, "used_memory_dataset").checked_div(keys).unwrap_or(0);
    known.insert("keys".to_owned(), keys.to_string());
    known.insert("bytes_per_key".to_owned(), per_key.to_string());
    call.out.map(FIELDS.len());
    for (name, figure) in FIELDS {
        call.out.bulk(name);
        match figure {
            Zero => call.out.int(0),
            Whole(field) => call.out.int(number(&known, field)),
            Ratio(field) => {
                let text = known.get(*field).map_or("", |value| value.trim_end_matches('%'));
                call.out.double(text.parse().unwrap_or(0.0));
            }
        }
    }
}
