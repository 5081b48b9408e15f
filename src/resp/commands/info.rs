//! INFO: the sections that the sessions know, and those that the node fills.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::args::is;
use super::connection::REDIS_VERSION;
use super::{Call, table};
use crate::resp::stats::Totals;

type Lines = Vec<(Cow<'static, str>, String)>;

/// All sections in the order of the reply, and whether plain INFO shows them.
const SECTIONS: &[(&str, bool)] = &[
    ("Server", true),
    ("Clients", true),
    ("Memory", true),
    ("Persistence", true),
    ("Stats", true),
    ("Replication", true),
    ("CPU", true),
    ("Commandstats", false),
    ("Errorstats", true),
    ("Cluster", true),
    ("Keyspace", true),
    ("Shards", true),
    ("Raft", true),
];

/// INFO.
pub fn info(call: &mut Call<'_>) {
    let wanted = call.from(1);
    let mut text = String::new();
    for (section, by_default) in SECTIONS {
        let asked = |name: &str| wanted.iter().any(|word| is(word, name));
        let default = *by_default && (wanted.is_empty() || asked("default"));
        if !(default || asked(section) || asked("all") || asked("everything")) {
            continue;
        }
        let lower = section.to_ascii_lowercase();
        let mut lines = own_lines(call, &lower);
        if let Some(more) = call.backend.info(&lower) {
            for (name, value) in more {
                if !lines.iter().any(|(known, _)| *known == name) {
                    lines.push((name, value));
                }
            }
        } else if lines.is_empty() && !matches!(lower.as_str(), "commandstats" | "errorstats" | "keyspace") {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        write!(text, "# {section}\r\n").expect("writing to a string cannot fail");
        for (name, value) in lines {
            write!(text, "{name}:{value}\r\n").expect("writing to a string cannot fail");
        }
    }
    call.out.verbatim(&text);
}

fn line(name: &'static str, value: impl ToString) -> (Cow<'static, str>, String) {
    (name.into(), value.to_string())
}

/// What the sessions know for a section.
fn own_lines(call: &Call<'_>, section: &str) -> Lines {
    let hub = &call.session.hub;
    match section {
        "server" => vec![
            line("redis_version", REDIS_VERSION),
            line("corduroy_version", env!("CARGO_PKG_VERSION")),
            line("redis_mode", "standalone"),
            line("server_time_usec", call.backend.now_ms().saturating_mul(1000)),
        ],
        "clients" => vec![
            line("connected_clients", hub.clients.count()),
            line("cluster_connections", 0),
            line("blocked_clients", 0),
        ],
        "stats" => {
            let totals = hub.totals();
            let per_s = hub.commands_per_s(totals.processed, call.backend.mono_ns());
            stats_lines(&totals, per_s)
        }
        "replication" => vec![line("role", "master"), line("connected_slaves", 0)],
        "commandstats" => command_lines(&hub.totals()),
        "errorstats" => hub
            .totals()
            .errors
            .into_iter()
            .map(|(prefix, count)| (format!("errorstat_{prefix}").into(), format!("count={count}")))
            .collect(),
        "cluster" => vec![line("cluster_enabled", 0)],
        _ => Vec::new(),
    }
}

fn stats_lines(totals: &Totals, per_s: u64) -> Lines {
    vec![
        line("total_connections_received", totals.connections),
        line("total_commands_processed", totals.processed),
        line("instantaneous_ops_per_sec", per_s),
        line("keyspace_hits", totals.hits),
        line("keyspace_misses", totals.misses),
        line("total_error_replies", totals.errors.values().sum::<u64>()),
    ]
}

fn command_lines(totals: &Totals) -> Lines {
    let table = table();
    let used = totals.commands.iter().zip(&table.entries);
    used.filter(|(total, _)| total.calls + total.rejected + total.failed > 0)
        .map(|(total, entry)| {
            let us = total.ns / 1000;
            let per_call = if total.calls == 0 { 0.0 } else { total.ns as f64 / 1000.0 / total.calls as f64 };
            let value = format!(
                "calls={},usec={us},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}",
                total.calls, total.rejected, total.failed
            );
            (format!("cmdstat_{}", entry.full_name).into(), value)
        })
        .collect()
}
