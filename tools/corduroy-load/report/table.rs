//! The report as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Figures, Report, Trouble};
use crate::check::Verdict;

/// What was measured where, in lines.
pub(super) fn label(report: &Report) -> Vec<String> {
    let (load, label) = (&report.load, &report.label);
    let mut lines = vec![
        load.loop_kind.to_owned(),
        format!(
            "{}, pipeline {}, {}; {}, {}; values of {}",
            count(load.connections as u64, "connection"),
            load.pipeline,
            count(load.threads as u64, "thread"),
            count(load.keyspace, "key"),
            load.keys,
            count(load.value_bytes as u64, "byte")
        ),
    ];
    let machine = [
        label.cpu.clone(),
        if label.cores > 0 { count(label.cores as u64, "core") } else { String::new() },
        if label.kernel.is_empty() { String::new() } else { format!("Linux {}", label.kernel) },
    ];
    let machine: Vec<String> = machine.into_iter().filter(|part| !part.is_empty()).collect();
    for (what, words) in [
        ("server", pairs(&label.server)),
        ("settings", pairs(&label.settings)),
        ("machine of the load", machine.join(", ")),
    ] {
        lines.push(format!("{what}: {}", if words.is_empty() { "not known" } else { &words }));
    }
    lines
}

/// So many of these.
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// How long a run was.
fn span(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.3} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// Names with their values; one that is empty is shown as such.
fn pairs(map: &BTreeMap<String, String>) -> String {
    let value = |value: &String| if value.is_empty() { "\"\"".to_owned() } else { value.clone() };
    let pairs: Vec<_> = map.iter().map(|(name, it)| format!("{name} {}", value(it))).collect();
    pairs.join(", ")
}

/// The whole report.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for (number, text) in label(report).into_iter().enumerate() {
        let load = &report.load;
        line(if number == 0 {
            format!("{} on {}: {text}", load.workload, load.addr)
        } else {
            format!("  {text}")
        });
    }
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
        out.push(format!("offered {offered} a second for {}", span(report.elapsed_s)));
    } else {
        let sent = count(report.sent, "request");
        out.push(format!("{sent} sent; measured for {}", span(report.elapsed_s)));
    }
    if report.unsent > 0 {
        out.push(format!(
            "THE SERVER DID NOT KEEP UP: {}, due and never sent, found no connection with room \
             (their latency is not in the table)",
            count(report.unsent, "request")
        ));
    }
    let trouble = |what: &str, it: &Trouble| {
        let kind = if it.kind.is_empty() { "without a word" } else { &it.kind };
        let times = count(it.count, "time");
        let example = if it.example.is_empty() { "\"\"" } else { &it.example };
        format!("{what} {kind}: {times}, first: {example}")
    };
    out.extend(report.errors.iter().map(|it| trouble("ERROR REPLIES", it)));
    out.extend(report.violations.iter().map(|it| trouble("BROKEN PROMISE:", it)));
    if report.disconnects > 0 {
        out.push(format!(
            "the server closed {}; without an answer: {}",
            count(report.disconnects, "connection"),
            count(report.unanswered, "request")
        ));
    } else if report.unanswered > 0 {
        out.push(format!("NOT ANSWERED in time: {}", count(report.unanswered, "request")));
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
