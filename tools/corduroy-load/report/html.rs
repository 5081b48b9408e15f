//! The report as one page: hand-made SVG, no script, no outside file, light and dark.

use std::fmt::Write;

use super::{Report, over_time, table};
use crate::recorder::{Latencies, Recorder};

/// Inner size of a plot, px.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
/// Room left and below for the numbers.
const LEFT: f64 = 64.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 12.0;

/// Most points of a curve.
const POINTS_MAX: usize = 300;

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d2327; --faint: #5c666d; --grid: #dfe3e0;
  --line: #0b6e8a; --second: #b3541e; --bad: #a8201a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --ink: #e4e8e6; --faint: #98a3a8; --grid: #2c3337;
  --line: #5cc3e0; --second: #f0995c; --bad: #ff8a80; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 900px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
p.label { color: var(--faint); margin: .1rem 0 } p.bad { color: var(--bad); font-weight: 600 }
div.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--grid) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--faint); font: 12px system-ui, sans-serif }
.grid { stroke: var(--grid); stroke-width: 1 } .curve { fill: none; stroke-width: 2; stroke-linejoin: round }
.first { stroke: var(--line) } .second { stroke: var(--second); stroke-dasharray: 5 3 }
.key-first { fill: var(--line) } .key-second { fill: var(--second) }
";

/// The page.
#[must_use]
pub fn render(report: &Report, recorder: &Recorder) -> String {
    let mut page = Page(String::new());
    let load = &report.load;
    let title = escape(&format!("{} on {}", load.workload, load.addr));
    page.put(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>corduroy-load: {title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    ));
    label(&mut page, report);
    figures(&mut page, report);
    page.put(format_args!("<h2>Latency by percentile</h2>\n"));
    by_percentile(&mut page, &recorder.all_latencies());
    page.put(format_args!("<h2>Throughput over time</h2>\n"));
    throughput(&mut page, &over_time(recorder, POINTS_MAX));
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn label(page: &mut Page, report: &Report) {
    let text = table::render(report);
    for line in text.lines().take_while(|line| !line.is_empty()) {
        page.put(format_args!("<p class=\"label\">{}</p>\n", escape(line.trim())));
    }
}

fn figures(page: &mut Page, report: &Report) {
    page.put(format_args!(
        "<h2>Figures</h2><div class=\"wide\"><table><tr><th>requests<th>answers<th>per second<th>mean ms<th>p50 ms\
         <th>p95 ms<th>p99 ms<th>p99.9 ms<th>p99.99 ms<th>max ms</tr>\n"
    ));
    for it in &report.figures {
        page.put(format_args!(
            "<tr><td>{}<td>{}<td>{:.0}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.3}</tr>\n",
            it.op,
            it.answers,
            it.per_s,
            it.mean_ms,
            it.p50_ms,
            it.p95_ms,
            it.p99_ms,
            it.p99_9_ms,
            it.p99_99_ms,
            it.max_ms
        ));
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

/// Opens a drawing with this text for those who do not see it.
fn open_svg(page: &mut Page, description: &str) {
    let (width, height) = (LEFT + WIDTH + 70.0, ABOVE + HEIGHT + BELOW);
    page.put(format_args!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(description)
    ));
}

fn horizontal(page: &mut Page, y: f64, text: &str) {
    page.put(format_args!(
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>\n",
        LEFT + WIDTH,
        LEFT - 8.0,
        y + 4.0
    ));
}

fn vertical(page: &mut Page, x: f64, text: &str) {
    let bottom = ABOVE + HEIGHT;
    page.put(format_args!(
        "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{ABOVE}\" y2=\"{bottom}\"/>\
         <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>\n",
        bottom + 18.0
    ));
}

fn curve(page: &mut Page, class: &str, points: impl Iterator<Item = (f64, f64)>) {
    page.put(format_args!("<polyline class=\"curve {class}\" points=\""));
    for (x, y) in points {
        page.put(format_args!("{x:.1},{y:.1} "));
    }
    page.put(format_args!("\"/>\n"));
}

fn caption(page: &mut Page, text: &str) {
    let (x, y) = (LEFT + WIDTH / 2.0, ABOVE + HEIGHT + 36.0);
    page.put(format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>\n"));
}

/// Latency over 1/(1 - quantile), both logarithmic: each nine takes the same room.
fn by_percentile(page: &mut Page, latencies: &Latencies) {
    if latencies.is_empty() {
        page.put(format_args!("<p class=\"label\">No answers.</p>\n"));
        return;
    }
    let nines = (latencies.len() as f64).log10().ceil().clamp(1.0, 7.0);
    let low = (latencies.min().max(1) as f64 / 1e6).log10().floor();
    let high = (latencies.max().max(2) as f64 / 1e6).log10().ceil().max(low + 1.0);
    let place = |nine: f64, ms: f64| {
        let y = (ms.max(1e-6).log10() - low) / (high - low);
        (LEFT + nine / nines * WIDTH, ABOVE + HEIGHT * (1.0 - y.clamp(0.0, 1.0)))
    };
    open_svg(page, "Latency in milliseconds by percentile, both axes logarithmic");
    for decade in 0..=(high - low) as i32 {
        let ms = 10_f64.powf(low + f64::from(decade));
        horizontal(page, place(0.0, ms).1, &plain(ms));
    }
    for nine in 0..=nines as u32 {
        let text = match nine {
            0 => "0%".to_owned(),
            1 => "90%".to_owned(),
            2 => "99%".to_owned(),
            _ => format!("99.{}%", "9".repeat(nine as usize - 2)),
        };
        vertical(page, place(f64::from(nine), 1.0).0, &text);
    }
    let points = (0..=POINTS_MAX).map(|step| {
        let nine = nines * step as f64 / POINTS_MAX as f64;
        let ms = latencies.value_at_quantile(1.0 - 10_f64.powf(-nine)) as f64 / 1e6;
        place(nine, ms)
    });
    curve(page, "first", points);
    caption(page, "percentile of requests; latency in ms");
    page.put(format_args!("</svg>\n"));
}

/// Answers a second, and the slowest answer of each step.
fn throughput(page: &mut Page, points: &[(f64, f64, f64)]) {
    let Some((end_s, _, _)) = points.last() else {
        page.put(format_args!("<p class=\"label\">No answers.</p>\n"));
        return;
    };
    let end_s = end_s.max(0.1);
    let top = |of: fn(&(f64, f64, f64)) -> f64| round_up(points.iter().map(of).fold(1e-3, f64::max));
    let (rate_top, slowest_top) = (top(|point| point.1), top(|point| point.2));
    let x = |seconds: f64| LEFT + seconds / end_s * WIDTH;
    let y = |share: f64| ABOVE + HEIGHT * (1.0 - share);
    open_svg(page, "Answers a second over time, and the slowest answer of each step in milliseconds");
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        horizontal(page, y(share), &plain(rate_top * share));
        page.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\">{} ms</text>\n",
            LEFT + WIDTH + 6.0,
            y(share) + 4.0,
            plain(slowest_top * share)
        ));
        vertical(page, x(end_s * share), &format!("{:.1} s", end_s * share));
    }
    curve(page, "second", points.iter().map(|(at_s, _, ms)| (x(*at_s), y(ms / slowest_top))));
    curve(page, "first", points.iter().map(|(at_s, rate, _)| (x(*at_s), y(rate / rate_top))));
    caption(
        page,
        "<tspan class=\"key-first\">answers a second (left)</tspan>; \
         <tspan class=\"key-second\">slowest answer, dashed (right)</tspan>",
    );
    page.put(format_args!("</svg>\n"));
}

/// The next of 1, 2, 4, 5 or 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 10.0].iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

fn plain(value: f64) -> String {
    let text = match value {
        value if value >= 1e6 => format!("{:.2}M", value / 1e6),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.3}"),
    };
    if text.contains('.') && !text.ends_with('M') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers() {
        assert_eq!(round_up(0.03), 0.04);
        assert_eq!(round_up(730_000.0), 1_000_000.0);
        assert_eq!((plain(0.1), plain(1.0), plain(250_000.0)), ("0.1".into(), "1".into(), "250k".into()));
    }

    #[test]
    fn text_from_outside_cannot_become_markup() {
        assert_eq!(escape("<script>&\""), "&lt;script&gt;&amp;&quot;");
    }
}
