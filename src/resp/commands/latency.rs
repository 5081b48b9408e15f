//! LATENCY: what took long, and how long commands take.

use std::fmt::Write as _;

use super::server::HELP;
use super::{Call, Entry, ROW, Row, Run, table};
use crate::resp::errors::Refusal;
use crate::resp::latency::{Series, SlowEvent, graph};
use crate::resp::stats::Times;

const EACH_NODE: &str = "nondeterministic_output request_policy:all_nodes response_policy:special";
const LATENCY: Row = Row { flags: "admin noscript loading stale", since: "2.8.13", tips: EACH_NODE, ..ROW };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "doctor", arity: 2, summary: "Returns in words what took long.", run: Run::Local(doctor), ..LATENCY },
    Row { name: "graph", arity: 3, summary: "Returns a graph of an event's samples.", syntax: "event", run: Run::Local(draw), ..LATENCY },
    Row { name: "histogram", arity: -2, since: "7.0.0", complexity: "O(N) with N commands",
        summary: "Returns how long commands took to execute: for each, and each power of two, in µs, how many took at most so long.",
        syntax: "[command [command ...]]", run: Run::Local(histogram), ..LATENCY },
    Row { name: "history", arity: 3, summary: "Returns the samples of an event.", syntax: "event", run: Run::Local(history), ..LATENCY },
    Row { name: "latest", arity: 2, summary: "Returns the newest sample of each event, and the longest.", run: Run::Local(latest), ..LATENCY },
    Row { name: "reset", arity: -2, tips: "request_policy:all_nodes response_policy:all_succeeded",
        summary: "Resets the samples of events: of all, or of those that are named.", syntax: "[event [event ...]]", run: Run::Local(reset), ..LATENCY },
    Row { since: "2.8.13", ..HELP },
];

/// The level of the first bucket, ns: the finest that Redis has.
const FIRST_LEVEL_NS: u64 = 1024;

/// The samples of the event that is named, if it has any.
fn named(call: &Call<'_>) -> Option<(SlowEvent, Series)> {
    let name = call.arg(2);
    let events = call.conn.hub.latency.events();
    events.into_iter().find(|(event, _)| event.name().as_bytes() == name)
}

fn history(call: &mut Call<'_>) {
    let samples = named(call).map(|(_, series)| series.samples).unwrap_or_default();
    call.out.array(samples.len());
    for sample in samples {
        call.out.array(2);
        call.out.int(sample.at_s as i64);
        call.out.int(sample.ms as i64);
    }
}

fn latest(call: &mut Call<'_>) {
    let events = call.conn.hub.latency.events();
    call.out.array(events.len());
    for (event, series) in events {
        let last = series.samples.back().expect("events without samples are not listed");
        call.out.array(4);
        call.out.bulk(event.name());
        call.out.int(last.at_s as i64);
        call.out.int(last.ms as i64);
        call.out.int(series.max_ms as i64);
    }
}

fn reset(call: &mut Call<'_>) {
    let names = call.from(2);
    let is_wanted = |event: SlowEvent| names.is_empty() || names.contains(&event.name().as_bytes());
    let count = call.conn.hub.latency.reset(is_wanted);
    call.out.int(count as i64);
}

fn draw(call: &mut Call<'_>) {
    match named(call) {
        Some((event, series)) => {
            let text = graph::draw(event.name(), &series, call.backend.now_ms() / 1000);
            call.out.verbatim(&text);
        }
        None => {
            let refusal = Refusal::quoting("ERR No samples available for event '", call.arg(2), "'");
            call.refuse(&refusal);
        }
    }
}

/// Redis's words where it has nothing to report, so that what looks for them finds them.
fn doctor(call: &mut Call<'_>) {
    let latency = &call.conn.hub.latency;
    let events = latency.events();
    if !latency.is_on() && events.is_empty() {
        return call.out.verbatim(
            "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis instance. You may use \"CONFIG SET \
             latency-monitor-threshold <milliseconds>.\" in order to enable it. If we weren't in a deep space mission I'd \
             suggest to take a look at https://redis.io/topics/latency-monitor.\n",
        );
    }
    if events.is_empty() {
        return call.out.verbatim(
            "Dave, no latency spike was observed during the lifetime of this Redis instance, not in the slightest bit. I \
             honestly think you ought to sit down calmly, take a stress pill, and think things over.\n",
        );
    }
    let mut text = String::from("These took longer than latency-monitor-threshold:\n\n");
    let now_s = call.backend.now_ms() / 1000;
    for (at, (event, series)) in events.iter().enumerate() {
        let figures = series.figures(now_s);
        let noun = if figures.count == 1 { "spike" } else { "spikes" };
        writeln!(
            text,
            "{}. {}: {} latency {noun} (average {}ms, mean deviation {}ms, period {:.2} sec). Worst all time event {}ms.\n   {}",
            at + 1,
            event.name(),
            figures.count,
            figures.average_ms,
            figures.deviation_ms,
            figures.period_s,
            series.max_ms,
            event.advice(),
        )
        .expect("writing to a string cannot fail");
    }
    call.out.verbatim(&text);
}

/// The commands that LATENCY HISTOGRAM is asked for: all, or those named with their subcommands.
fn asked(names: &[&[u8]]) -> Vec<&'static Entry> {
    let table = table();
    if names.is_empty() {
        return table.entries.iter().collect();
    }
    let mut found = Vec::new();
    for name in names {
        let mut parts = name.splitn(2, |&byte| byte == b'|');
        let Some(parent) = table.find(parts.next().unwrap_or_default()) else { continue };
        match parts.next() {
            Some(child) => found.extend(table.find_child(parent, child)),
            None => {
                found.push(parent);
                found.extend(parent.children.iter().map(|&index| table.entry(index)));
            }
        }
    }
    found
}

fn histogram(call: &mut Call<'_>) {
    let hub = &call.conn.hub;
    let known = asked(call.from(2)).into_iter();
    let known: Vec<_> =
        known.filter_map(|entry| Some((entry, hub.times(usize::from(entry.index))?))).collect();
    call.out.map(known.len());
    for (entry, times) in known {
        call.out.bulk(&entry.full_name);
        call.out.map(2);
        call.out.bulk("calls");
        call.out.int(times.ran.len() as i64);
        call.out.bulk("histogram_usec");
        let buckets = buckets(&times);
        call.out.map(buckets.len());
        for (us, count) in buckets {
            call.out.int(us as i64);
            call.out.int(count as i64);
        }
    }
}

/// Powers of two, in µs, and how many calls took at most so long, where more did than at the one before.
fn buckets(times: &Times) -> Vec<(u64, u64)> {
    let ran = &times.ran;
    let mut found = Vec::new();
    let (mut level_ns, mut before) = (FIRST_LEVEL_NS, 0);
    while before < ran.len() {
        let up_to_ns = ran.highest_equivalent(level_ns);
        let count = ran.count_between(0, up_to_ns);
        if count > before {
            found.push((up_to_ns / 1000, count));
        }
        before = count;
        level_ns *= 2;
    }
    found
}
