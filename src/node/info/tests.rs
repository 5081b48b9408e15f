//! What INFO shows, and what MEMORY STATS does.

use super::*;
use crate::config::Config;
use crate::resp::Figure;
use crate::resp::commands::table;

fn shown(shared: &Shared, words: &str) -> String {
    let words: Vec<&[u8]> = words.split_whitespace().map(str::as_bytes).collect();
    text(shared, &words)
}

#[test]
fn bytes_for_people_are_written_as_redis_does() {
    assert_eq!([human(0), human(1023), human(1536), human(5 << 30)], ["0B", "1023B", "1.50K", "5.00G"]);
}

#[test]
fn sections_are_shown_in_their_order_whatever_the_words() {
    let shared = Shared::of_test(2, Config::default());
    assert_eq!(shown(&shared, "nosuch"), "");
    assert_eq!(
        shown(&shared, "CLUSTER modules keyspace"),
        "# Modules\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n"
    );
    let headers = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect()
    };
    let all: Vec<_> = SECTIONS.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(headers(&shown(&shared, "everything")), all);
    assert_eq!(headers(&shown(&shared, "all")), all);
    let plain: Vec<_> = SECTIONS.iter().filter(|(_, plain, _)| *plain).map(|(name, _, _)| *name).collect();
    assert_eq!(headers(&shown(&shared, "")), plain);
    assert_eq!(headers(&shown(&shared, "default commandstats")).len(), plain.len() + 1);
}

#[test]
fn what_sessions_count_is_shown() {
    let shared = Shared::of_test(2, Config::default());
    let index = |name: &str| table().entries.iter().position(|entry| entry.full_name == name).expect(name);
    let index = |name: &str| u16::try_from(index(name)).expect("there are few commands");
    let (one, other) = (shared.hub.stats(0), shared.hub.stats(1));
    one.command(index("get")).add(1, 1000, 3000);
    other.command(index("get")).add(1, 2000, 3000);
    other.command(index("get")).count_rejected();
    one.count_lookup(true);
    other.count_lookup(false);
    one.count_unknown();
    one.count_error(b"ERR");
    other.count_error(b"ERR");
    let all = shown(&shared, "everything");
    for lines in [
        "# Server\r\nredis_version:7.2.5\r\n",
        "connected_clients:0\r\n",
        "keyspace_hits:1\r\nkeyspace_misses:1\r\ntotal_error_replies:2\r\nunknown_commands:1\r\n",
        "cmdstat_get:calls=2,usec=3,usec_per_call=1.50,rejected_calls=1,failed_calls=0,took_usec=6,\
         took_usec_per_call=3.00\r\n",
        "errorstat_ERR:count=2\r\n",
    ] {
        assert!(all.contains(lines), "{lines} in {all}");
    }
    assert!(!shown(&shared, "").contains("cmdstat_"));
    shared.hub.reset_stats();
    assert!(shown(&shared, "stats").contains("keyspace_hits:0\r\n"));
}

#[test]
fn memory_stats_shows_what_info_does() {
    let shared = Shared::of_test(1, Config::default());
    let shards = gather::shards(&shared);
    let mut facts = gather::memory(&shared, &shards);
    (facts.heap.in_use, facts.heap.peak, facts.heap.committed) = (3000, 4000, 6000);
    (facts.startup_bytes, facts.dataset_bytes, facts.keys, facts.resident_bytes) = (1000, 500, 7, 5000);
    let lines = memory::memory(&facts, &shards);
    let shown = |name: &str| lines.iter().find(|(line, _)| line == name).map(|(_, value)| value.as_str());
    let stats = memory_stats(&facts);
    let figure = |name: &str| stats.iter().find(|(field, _)| *field == name).map(|(_, figure)| *figure);
    for (field, name) in [
        ("peak.allocated", "used_memory_peak"),
        ("overhead.total", "used_memory_overhead"),
        ("dataset.bytes", "used_memory_dataset"),
        ("allocator-fragmentation.bytes", "allocator_frag_bytes"),
        ("allocator-rss.bytes", "allocator_rss_bytes"),
    ] {
        let Some(Figure::Whole(number)) = figure(field) else { panic!("{field}") };
        assert_eq!(shown(name), Some(number.to_string().as_str()), "{field}");
    }
    for (field, name) in [
        ("dataset.percentage", "used_memory_dataset_perc"),
        ("allocator-rss.ratio", "allocator_rss_ratio"),
        ("fragmentation", "mem_fragmentation_ratio"),
    ] {
        let Some(Figure::Ratio(ratio)) = figure(field) else { panic!("{field}") };
        assert_eq!(shown(name).map(|text| text.trim_end_matches('%')), Some(format!("{ratio:.2}").as_str()));
    }
    assert_eq!(figure("keys.bytes-per-key"), Some(Figure::Whole(71)));
    assert_eq!(figure("allocator-rss.bytes"), Some(Figure::Whole(-1000)));
}
