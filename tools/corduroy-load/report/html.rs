//! The report as one page: hand-made SVG, no script, no outside file, light and dark, as wide as the window is.

use std::fmt::Write;

use super::axis::{Linear, Log, Tick, decimal, time, unit_of};
use super::plot::Plot;
use super::{Figures, Report, Step, over_time, table};
use crate::recorder::{Latencies, Recorder};

/// Most points of a curve.
const POINTS_MAX: usize = 300;

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d2327; --faint: #5c666d; --grid: #dfe3e0;
  --line: #0b6e8a; --bad: #a8201a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --ink: #e4e8e6; --faint: #98a3a8; --grid: #2c3337;
  --line: #5cc3e0; --bad: #ff8a80; } }
* { box-sizing: border-box }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 58rem;
  margin: 0 auto; padding: 1rem 1rem 2rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem }
p { margin: .15rem 0 } p.label { color: var(--faint) } p.bad { color: var(--bad); font-weight: 600 }
div.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .25rem 0 .25rem 1.5rem; text-align: right; border-bottom: 1px solid var(--grid) }
th { font-weight: 600 } th:first-child { text-align: left; padding-left: 0; font-weight: 400; color: var(--faint) }
figure.plot { margin: 0; font-size: .8125rem; line-height: 1.2; color: var(--faint); font-variant-numeric: tabular-nums }
p.axis { margin: 0 } p.axis.up { padding-bottom: .7rem } p.axis.along { text-align: center; padding-top: 1.7rem }
div.frame { position: relative; margin-left: var(--labels); aspect-ratio: 5 / 2; min-height: 11rem }
div.frame svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible }
div.frame span { position: absolute; white-space: nowrap }
span.up { right: calc(100% + .5em); transform: translateY(50%) }
span.along { top: calc(100% + .5em); transform: translateX(-50%) } span.along.last { transform: translateX(-100%) }
.grid { stroke: var(--grid); stroke-width: 1; vector-effect: non-scaling-stroke }
.curve { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke }
@media (max-width: 36rem) { span.along.second { display: none } div.frame { aspect-ratio: 3 / 2 }
  th, td { padding-left: .8rem } }
";

/// The page.
#[must_use]
pub fn render(report: &Report, recorder: &Recorder) -> String {
    let mut page = Page(String::new());
    let load = &report.load;
    let title = escape(&format!("{} on {}", load.workload, load.addr));
    page.put(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>corduroy-load: {title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    ));
    for line in table::label(report) {
        page.put(format_args!("<p class=\"label\">{}</p>\n", escape(&line)));
    }
    figures(&mut page, report);
    let latencies = recorder.all_latencies();
    let steps = over_time(recorder, POINTS_MAX);
    page.put(format_args!("<h2>Latency by percentile</h2>\n"));
    page.put(format_args!("{}", by_percentile(&latencies).unwrap_or_else(nothing)));
    page.put(format_args!("<h2>Throughput over time</h2>\n"));
    page.put(format_args!("{}", throughput(&steps).unwrap_or_else(nothing)));
    page.put(format_args!("<h2>Slowest answers over time</h2>\n"));
    page.put(format_args!("{}", slowest(&steps).unwrap_or_else(nothing)));
    page.put(format_args!("</body></html>\n"));
    page.0
}

/// The text so far.
struct Page(String);

impl Page {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a string cannot fail");
    }
}

/// Text that stands for itself in markup.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn nothing() -> String {
    "<p class=\"label\">There was no answer.</p>\n".to_owned()
}

/// A row of the figures: its name with its unit, and how it is formatted.
type Row = (&'static str, fn(&Figures) -> String);

const ROWS: [Row; 11] = [
    ("answers", |it| decimal(it.answers, 0)),
    ("answers per second", |it| decimal(it.per_s.round() as u64, 0)),
    ("fastest, ms", |it| format!("{:.3}", it.min_ms)),
    ("mean, ms", |it| format!("{:.3}", it.mean_ms)),
    ("50% within, ms", |it| format!("{:.3}", it.p50_ms)),
    ("90% within, ms", |it| format!("{:.3}", it.p90_ms)),
    ("95% within, ms", |it| format!("{:.3}", it.p95_ms)),
    ("99% within, ms", |it| format!("{:.3}", it.p99_ms)),
    ("99.9% within, ms", |it| format!("{:.3}", it.p99_9_ms)),
    ("99.99% within, ms", |it| format!("{:.3}", it.p99_99_ms)),
    ("slowest, ms", |it| format!("{:.3}", it.max_ms)),
];

/// One column for each kind of request, so that the page need not be wide.
fn figures(page: &mut Page, report: &Report) {
    page.put(format_args!("<h2>Figures</h2><div class=\"wide\"><table><tr><th>requests"));
    for it in &report.figures {
        page.put(format_args!("<th>{}", it.op));
    }
    page.put(format_args!("</tr>\n"));
    for (name, show) in ROWS {
        page.put(format_args!("<tr><th>{name}"));
        for it in &report.figures {
            page.put(format_args!("<td>{}", show(it)));
        }
        page.put(format_args!("</tr>\n"));
    }
    page.put(format_args!("</table></div>\n"));
    let class = if report.is_good() { "label" } else { "bad" };
    for remark in table::remarks(report) {
        page.put(format_args!("<p class=\"{class}\">{}</p>\n", escape(&remark)));
    }
    if let Some(verdict) = &report.verdict {
        let text = table::verdict(verdict);
        for line in text.lines() {
            page.put(format_args!("<p class=\"{class}\">{}</p>\n", escape(line)));
        }
    }
}

/// Latency over 1/(1 - quantile), both logarithmic: each nine takes the same room. `None` without answers.
fn by_percentile(latencies: &Latencies) -> Option<String> {
    if latencies.is_empty() {
        return None;
    }
    let nines = (latencies.len() as f64).log10().ceil().clamp(1.0, 10.0);
    let up = Log::of(latencies.min(), latencies.max());
    let along_ticks = (0..=nines as u32).map(|nine| {
        let label = match nine {
            0 => "0%".to_owned(),
            1 => "90%".to_owned(),
            2 => "99%".to_owned(),
            _ => format!("99.{}%", "9".repeat(nine as usize - 2)),
        };
        Tick { at: f64::from(nine) / nines, label }
    });
    let plot = Plot {
        description: format!(
            "Latency by percentile: half of the answers within {:.3} ms, the slowest {:.3} ms",
            latencies.value_at_quantile(0.5) as f64 / 1e6,
            latencies.max() as f64 / 1e6
        ),
        up: "latency, logarithmic",
        along: "share of the answers within that latency; each further nine takes the same room",
        up_ticks: up.ticks(),
        along_ticks: along_ticks.collect(),
    };
    let points = (0..=POINTS_MAX).map(|step| {
        let share = step as f64 / POINTS_MAX as f64;
        (share, up.share(latencies.value_at_quantile(1.0 - 10_f64.powf(-nines * share))))
    });
    Some(plot.render(&[points.collect()]))
}

/// The ticks of the time that a run took.
fn time_ticks(along: Linear) -> Vec<Tick> {
    along.ticks(|ns| time(ns, unit_of(along.end)))
}

const ALONG: &str = "time since the measurement began";

/// Answers a second, step by step. `None` without answers.
fn throughput(steps: &[Step]) -> Option<String> {
    let along = Linear::exactly(steps.last()?.to_ns);
    let thousandths = |step: &Step| (step.per_s() * 1e3).ceil() as u64;
    let up = Linear::up_to(steps.iter().map(thousandths).max().unwrap_or(1));
    let plot = Plot {
        description: "Answers per second over time".to_owned(),
        up: "answers per second",
        along: ALONG,
        up_ticks: up.ticks(|thousandths| decimal(thousandths, 3)),
        along_ticks: time_ticks(along),
    };
    let points = steps.iter().flat_map(|step| {
        let height = up.share(thousandths(step));
        [(along.share(step.from_ns), height), (along.share(step.to_ns), height)]
    });
    Some(plot.render(&[points.collect()]))
}

/// The slowest answer of each step; nothing where there was none. `None` without answers.
fn slowest(steps: &[Step]) -> Option<String> {
    let along = Linear::exactly(steps.last()?.to_ns);
    let most = steps.iter().map(|step| step.slowest_ns).max().unwrap_or(0);
    let up = Linear::up_to(most);
    let plot = Plot {
        description: format!(
            "The slowest answer of each step of time; the slowest of all took {:.3} ms",
            most as f64 / 1e6
        ),
        up: "latency of the slowest answer",
        along: ALONG,
        up_ticks: up.ticks(|ns| time(ns, unit_of(up.end))),
        along_ticks: time_ticks(along),
    };
    let curves = steps.chunk_by(|before, step| (before.answers > 0) == (step.answers > 0));
    let answered = curves.filter(|steps| steps.iter().all(|step| step.answers > 0));
    let points = answered.map(|steps| {
        let corners = steps.iter().flat_map(|step| {
            let height = up.share(step.slowest_ns);
            [(along.share(step.from_ns), height), (along.share(step.to_ns), height)]
        });
        corners.collect()
    });
    Some(plot.render(&points.collect::<Vec<_>>()))
}
