//! INFO: the sections that the sessions know, and those that the node fills.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::args::is;
use super::connection::REDIS_VERSION;
use super::{Call, table};
use crate::resp::clients::Hub;
use crate::resp::stats::Totals;
use hdrhistogram::Histogram;

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
    ("Modules", true),
    ("Commandstats", false),
    ("Errorstats", true),
    ("Latencystats", false),
    ("Cluster", true),
    ("Keyspace", true),
    ("Shards", true),
    ("Raft", true),
];

/// Sections that are shown though there is nothing to say.
const MAY_BE_EMPTY: [&str; 5] = ["modules", "commandstats", "errorstats", "latencystats", "keyspace"];

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
            lines.extend(more);
        } else if lines.is_empty() && !MAY_BE_EMPTY.contains(&lower.as_str()) {
            continue;
        }
        debug_assert!(is_each_once(&lines), "INFO {section} has a field twice");
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

/// Whether no field comes from two places, which might not agree.
fn is_each_once(lines: &[(Cow<'static, str>, String)]) -> bool {
    let names: BTreeSet<&str> = lines.iter().map(|(name, _)| name.as_ref()).collect();
    names.len() == lines.len()
}

fn line(name: &'static str, value: impl ToString) -> (Cow<'static, str>, String) {
    (name.into(), value.to_string())
}

/// What the sessions know for a section.
fn own_lines(call: &Call<'_>, section: &str) -> Lines {
    let hub = &call.conn.hub;
    match section {
        "server" => vec![
            line("redis_version", REDIS_VERSION),
            line("corduroy_version", env!("CARGO_PKG_VERSION")),
            line("redis_mode", "standalone"),
            line("server_time_usec", call.backend.now_us()),
        ],
        "clients" => vec![
            line("connected_clients", hub.clients.count()),
            line("cluster_connections", 0),
            line("client_recent_max_input_buffer", hub.clients.recent_max().0),
            line("client_recent_max_output_buffer", hub.clients.recent_max().1),
            line("blocked_clients", hub.blocked()),
            line("tracking_clients", 0),
            line("clients_in_timeout_table", hub.blocked()),
        ],
        "stats" => {
            let totals = hub.totals();
            let per_s = hub.commands_per_s(totals.processed, call.backend.mono_ns());
            let mut lines = stats_lines(&totals, per_s);
            lines.push(line("acl_access_denied_auth", hub.guesses.denied()));
            // There is one user, who may do everything.
            lines.extend(
                ["cmd", "key", "channel"]
                    .map(|of| (format!("acl_access_denied_{of}").into(), "0".to_owned())),
            );
            lines
        }
        "replication" => vec![line("role", "master"), line("connected_slaves", 0)],
        "commandstats" => command_lines(&hub.totals()),
        "latencystats" => latency_lines(hub),
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
        line("unknown_commands", totals.unknown),
    ]
}

fn command_lines(totals: &Totals) -> Lines {
    let table = table();
    let used = totals.commands.iter().zip(&table.entries);
    used.filter(|(total, _)| total.calls + total.rejected + total.failed > 0)
        .map(|(total, entry)| {
            let per_call =
                |ns: u64| if total.calls == 0 { 0.0 } else { ns as f64 / 1000.0 / total.calls as f64 };
            // Redis's fields first; then the time until the reply was there, the wait for the disk included.
            let value = format!(
                "calls={},usec={},usec_per_call={:.2},rejected_calls={},failed_calls={},took_usec={},took_usec_per_call={:.2}",
                total.calls,
                total.ran_ns / 1000,
                per_call(total.ran_ns),
                total.rejected,
                total.failed,
                total.took_ns / 1000,
                per_call(total.took_ns),
            );
            (format!("cmdstat_{}", entry.full_name).into(), value)
        })
        .collect()
}

/// Percentiles of each command's times: to carry it out, as in Redis, and until its reply was there.
fn latency_lines(hub: &Hub) -> Lines {
    let percentiles = hub.percentiles();
    let show = |times: &Histogram<u64>| {
        let shown = percentiles.iter().map(|percentile| {
            let us = times.value_at_quantile(percentile / 100.0) as f64 / 1000.0;
            format!("p{percentile}={us:.3}")
        });
        shown.collect::<Vec<_>>().join(",")
    };
    let mut lines = Lines::new();
    for (index, entry) in table().entries.iter().enumerate() {
        if let Some(times) = hub.times(index) {
            lines.push((format!("latency_percentiles_usec_{}", entry.full_name).into(), show(&times.ran)));
            lines.push((format!("took_percentiles_usec_{}", entry.full_name).into(), show(&times.took)));
        }
    }
    lines
}
