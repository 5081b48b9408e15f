//! The report as a table for people.

use std::fmt::Write;

use super::{Figures, Report, Trouble};
use crate::check::Verdict;

/// The whole report.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let load = &report.load;
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("{} on {}: {}", load.workload, load.addr, load.loop_kind));
    line(format!(
        "  {} connections, pipeline {}, {} thread{}; {} keys, {}; values of {} bytes",
        load.connections,
        load.pipeline,
        load.threads,
        if load.threads == 1 { "" } else { "s" },
        load.keyspace,
        load.keys,
        load.value_bytes
    ));
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let pairs: Vec<_> = map.iter().map(|(name, value)| format!("{name} {value}")).collect();
        pairs.join(", ")
    };
    line(format!("  server: {}", pairs(&report.label.server)));
    line(format!("  settings: {}", pairs(&report.label.settings)));
    line(format!(
        "  machine: {}, {} cores, Linux {}",
        report.label.cpu, report.label.cores, report.label.kernel
    ));
    line(String::new());
    line(format!(
        "{:<18} {:>10} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "answers", "per second", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "p99.99", "max ms"
    ));
    for figures in &report.figures {
        line(row(figures));
    }
    line(String::new());
    for text in remarks(report) {
        line(text);
    }
    if let Some(verdict) = &report.verdict {
        out.push_str(&self::verdict(verdict));
    }
    out
}

fn row(figures: &Figures) -> String {
    format!(
        "{:<18} {:>10} {:>11.0} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
        figures.op,
        figures.answers,
        figures.per_s,
        figures.p50_ms,
        figures.p95_ms,
        figures.p99_ms,
        figures.p99_9_ms,
        figures.p99_99_ms,
        figures.max_ms
    )
}

/// What a reader must know besides the figures.
pub(super) fn remarks(report: &Report) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(offered) = report.load.offered_per_s {
        out.push(format!("offered {offered:.0} a second for {:.1} s", report.elapsed_s));
    } else {
        out.push(format!("{} requests sent; measured for {:.1} s", report.sent, report.elapsed_s));
    }
    if report.unsent > 0 {
        out.push(format!(
            "THE SERVER DID NOT KEEP UP: {} requests were due and found no connection with room \
             (their latency is not in the table)",
            report.unsent
        ));
    }
    let trouble =
        |what: &str, it: &Trouble| format!("{what} {}: {} times, first: {}", it.kind, it.count, it.example);
    out.extend(report.errors.iter().map(|it| trouble("ERROR REPLIES", it)));
    out.extend(report.violations.iter().map(|it| trouble("BROKEN PROMISE:", it)));
    if report.disconnects > 0 {
        out.push(format!(
            "{} connections were closed by the server; {} requests were not answered",
            report.disconnects, report.unanswered
        ));
    } else if report.unanswered > 0 {
        out.push(format!("{} REQUESTS WERE NOT ANSWERED in time", report.unanswered));
    }
    if report.until_disconnect && !report.server_went_away {
        out.push("the server did not go away".to_owned());
    }
    out
}

/// What was read back, in words.
#[must_use]
pub fn verdict(verdict: &Verdict) -> String {
    let mut out = String::new();
    let head = if verdict.is_good() { "OK" } else { "BROKEN PROMISE" };
    let written = writeln!(
        out,
        "{head}: {} keys read back, {} with acknowledged writes: {} lost, {} hold what was never written; \
         {} hold a newer write that was never answered, which is allowed",
        verdict.keys, verdict.keys_acked, verdict.lost, verdict.never_written, verdict.unanswered_but_there
    );
    written.expect("writing to a string cannot fail");
    for example in &verdict.examples {
        out.push_str("  ");
        out.push_str(example);
        out.push('\n');
    }
    out
}
