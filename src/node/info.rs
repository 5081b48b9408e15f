//! INFO and MEMORY STATS: the node's figures as text, under the names that Redis gives them where it has them, and under our
//! own. Where nothing stands behind a field that exporters and dashboards read, what is true of it stands here.
//!
//! Invariant: what a figure is called is known here alone, and each field is shown once.

mod commands;
mod memory;
mod peers;
mod shards;
mod stats;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::facts::ServerFacts;
use super::gather;
use super::shared::Shared;
use crate::resp::commands::connection::REDIS_VERSION;
pub use memory::memory_stats;

type Lines = Vec<(Cow<'static, str>, String)>;

/// A section: its name, whether plain INFO shows it, and its fields.
type Section = (&'static str, bool, fn(&Shared) -> Lines);

/// All of them, in the order of the reply.
const SECTIONS: &[Section] = &[
    ("Server", true, |shared| server(&gather::server(shared))),
    ("Clients", true, |shared| stats::clients(&gather::clients(shared))),
    ("Memory", true, |shared| {
        let shards = gather::shards(shared);
        memory::memory(&gather::memory(shared, &shards), &shards)
    }),
    ("Persistence", true, shards::persistence),
    ("Stats", true, stats::stats),
    ("Replication", true, shards::replication),
    ("CPU", true, |_| stats::cpu(&gather::cpu())),
    ("Modules", true, |_| Vec::new()),
    ("Commandstats", false, |shared| commands::calls(&shared.hub.totals())),
    ("Errorstats", true, |shared| commands::errors(&shared.hub.totals())),
    ("Latencystats", false, |shared| commands::latencies(&shared.hub)),
    ("Cluster", true, |shared| vec![line("cluster_enabled", u8::from(shared.peers().is_some()))]),
    ("Peers", true, peers::peers),
    ("Keyspace", true, |shared| shards::keyspace(&gather::shards(shared))),
    ("Shards", true, shards::shards),
    ("Raft", true, shards::raft_groups),
];

/// The reply to INFO with these words.
pub fn text(shared: &Shared, words: &[&[u8]]) -> String {
    let mut text = String::new();
    for (name, _, lines) in SECTIONS.iter().filter(|section| is_wanted(section, words)) {
        let lines = lines(shared);
        debug_assert!(is_each_once(&lines), "INFO {name} has a field twice");
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        write!(text, "# {name}\r\n").expect("writing to a string cannot fail");
        for (name, value) in lines {
            write!(text, "{name}:{value}\r\n").expect("writing to a string cannot fail");
        }
    }
    text
}

fn is_wanted((name, by_default, _): &Section, words: &[&[u8]]) -> bool {
    let asked = |name: &str| words.iter().any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    let default = *by_default && (words.is_empty() || asked("default"));
    default || asked(name) || asked("all") || asked("everything")
}

/// Whether no field is shown twice, with figures that might not agree.
fn is_each_once(lines: &[(Cow<'static, str>, String)]) -> bool {
    let names: BTreeSet<&str> = lines.iter().map(|(name, _)| name.as_ref()).collect();
    names.len() == lines.len()
}

fn line(name: &'static str, value: impl ToString) -> (Cow<'static, str>, String) {
    (Cow::Borrowed(name), value.to_string())
}

/// Figures of things that there are none of: no fork, no replica, no script, no subscriber, no thread for I/O.
fn zeros(names: &[&'static str]) -> impl Iterator<Item = (Cow<'static, str>, String)> {
    names.iter().map(|name| line(name, 0))
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Bytes as Redis writes them for people: `1.50M`.
fn human(bytes: u64) -> String {
    let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2}{name}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

fn server(facts: &ServerFacts) -> Lines {
    let uring = facts.uring_refused.as_ref().map_or("used".to_owned(), |why| format!("refused: {why}"));
    let run_id = format!("{:016x}{:016x}{:08x}", facts.node, facts.started_ms, facts.process_id);
    vec![
        line("redis_version", REDIS_VERSION),
        line("corduroy_version", env!("CARGO_PKG_VERSION")),
        line("redis_mode", "standalone"),
        line("server_time_usec", facts.now_us),
        line("server_name", "corduroy"),
        line("os", &facts.system),
        line("arch_bits", usize::BITS),
        line("monotonic_clock", "POSIX clock_gettime"),
        line("multiplexing_api", "epoll"),
        line("io_uring", uring),
        line("process_id", facts.process_id),
        line("run_id", run_id),
        line("tcp_port", facts.port),
        line("uptime_in_seconds", facts.uptime_s),
        line("uptime_in_days", facts.uptime_s / 86_400),
        line("executable", &facts.executable),
        line("cores", facts.cores),
        line("cluster_id", format!("{:032x}", facts.cluster)),
        line("node_id", format!("{:016x}", facts.node)),
        line("redis_git_sha1", "00000000"),
        line("redis_git_dirty", 0),
        line("redis_build_id", 0),
        line("atomicvar_api", "rust-atomics"),
        line("process_supervised", "no"),
        line("hz", &facts.hz),
        line("configured_hz", &facts.hz),
        // Seconds in 24 bits, as Redis's clock of last uses has them.
        line("lru_clock", (facts.now_us / 1_000_000) & 0xFF_FFFF),
        line("config_file", &facts.config_file),
        line("io_threads_active", 0),
    ]
}

#[cfg(test)]
mod tests;
