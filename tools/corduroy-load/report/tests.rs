//! The report of a run as its readers see it: everything that was measured, in words, whatever the window's width.

use clap::Parser;

use super::{Label, Report, html, over_time, table};
use crate::cli::Cli;
use crate::plan::Op;
use crate::recorder::{BIN_NS, Recorder};
use crate::run::Outcome;

const MS: u64 = 1_000_000;

fn report_of(recorder: Recorder, label: Label) -> (Report, Recorder) {
    let plan = Cli::try_parse_from(["corduroy-load"]).unwrap().load.plan(1).unwrap();
    let outcome = Outcome { recorder, verdict: None, server_went_away: false };
    (Report::new(&plan, label, &outcome), outcome.recorder)
}

/// Three seconds of quick answers; the slowest of all is the last one, in a last tenth that has just begun.
fn slow_at_the_end() -> Recorder {
    let mut recorder = Recorder::default();
    for at_ms in (1..3000).step_by(2) {
        recorder.answer(Op::Set, at_ms * MS, MS / 2);
    }
    recorder.answer(Op::Set, 3010 * MS, 700 * MS);
    recorder
}

fn redis_label() -> Label {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Label {
        server: [("redis_version", "7.0.15"), ("redis_git_sha1", "")].map(pair).into(),
        settings: [("appendonly", "no"), ("save", ""), ("maxmemory", "0")].map(pair).into(),
        cpu: String::new(),
        cores: 1,
        kernel: "6.1".to_owned(),
    }
}

/// Everything between `before` and `after`, as often as it stands there.
fn between<'a>(text: &'a str, before: &str, after: &'a str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split(after).next()).collect()
}

#[test]
fn the_last_bin_is_drawn_with_the_slowest_answer() {
    let (report, recorder) = report_of(slow_at_the_end(), redis_label());
    let steps = over_time(&recorder, 300);
    assert_eq!(steps.iter().map(|step| step.answers).sum::<u64>(), recorder.answers);
    assert_eq!(steps.iter().map(|step| step.slowest_ns).max(), Some(700 * MS));
    assert_eq!(steps.last().map(|step| step.to_ns), Some(recorder.elapsed_ns));
    let page = html::render(&report, &recorder);
    let slowest = page.split("<h2>Slowest").nth(1).expect("a plot of the slowest answers");
    let points = between(slowest, "points=\"", "\"").concat();
    let (along, up) = points.split_whitespace().last().unwrap().split_once(',').unwrap();
    // The axis ends at 800 ms, so 700 ms is at an eighth from the top.
    assert_eq!((along, up), ("1000.0", "125.0"), "{slowest}");
}

/// For any number of bins and points: no answer is left out, no time is counted twice.
#[test]
fn every_bin_is_in_a_step() {
    for bins in [1, 2, 3, 7, 299, 300, 301, 599, 600, 601, 1234] {
        for points in [1, 2, 10, 300] {
            let mut recorder = Recorder::default();
            for bin in 0..bins {
                recorder.answer(Op::Get, bin * BIN_NS + 1 + bin % 90 * MS, bin + 1);
            }
            let steps = over_time(&recorder, points);
            let context = format!("{bins} bins, {points} points: {steps:?}");
            assert!(steps.len() <= points, "{context}");
            assert_eq!(steps.iter().map(|step| step.answers).sum::<u64>(), bins, "{context}");
            assert_eq!(steps.iter().map(|step| step.slowest_ns).max(), Some(bins), "{context}");
            assert_eq!(steps.first().map(|step| step.from_ns), Some(0), "{context}");
            assert!(steps.windows(2).all(|pair| pair[0].to_ns == pair[1].from_ns), "{context}");
            assert_eq!(steps.last().map(|step| step.to_ns), Some(recorder.elapsed_ns), "{context}");
        }
    }
    assert_eq!(over_time(&Recorder::default(), 300), []);
}

#[test]
fn nothing_is_named_without_its_value() {
    for label in [redis_label(), Label::default()] {
        let (report, recorder) = report_of(slow_at_the_end(), label);
        let page = html::render(&report, &recorder);
        for text in
            between(&page, "<p class=\"label\">", "</p>").into_iter().chain(table::render(&report).lines())
        {
            let text = text.trim_end();
            let is_empty = text.contains(" ,")
                || text.contains(": ,")
                || text.contains("  ,")
                || text.ends_with([':', ',']);
            assert!(!is_empty, "{text:?}");
            assert!(!text.contains(" 1 cores") && !text.contains(" 1 threads"), "{text:?}");
        }
    }
    let (report, _) = report_of(slow_at_the_end(), redis_label());
    assert!(table::render(&report).contains("save \"\""), "{}", table::render(&report));
    let machine = "machine of the load: 1 core, Linux 6.1";
    assert!(table::render(&report).contains(machine), "{}", table::render(&report));
    assert!(table::render(&report_of(slow_at_the_end(), Label::default()).0).contains("server: not known"));
}

#[test]
fn every_axis_names_its_unit() {
    let (report, recorder) = report_of(slow_at_the_end(), redis_label());
    let page = html::render(&report, &recorder);
    let axes = between(&page, "<p class=\"axis", "</p>");
    assert_eq!(axes.len(), 2 * page.matches("<svg").count());
    let plots = between(&page, "<figure", "</figure>");
    assert_eq!(plots.len(), 3);
    for (plot, (up, along)) in plots.iter().zip([("s", "%"), ("", " s"), (" ms", " s")]) {
        let ups = between(plot, "<span class=\"up\"", "</span>");
        let alongs = between(plot, "<span class=\"along", "</span>");
        assert!(ups.len() >= 2 && alongs.len() >= 2, "{plot}");
        assert!(ups.iter().all(|label| label.ends_with(up)), "{ups:?}");
        assert!(alongs.iter().all(|label| label.ends_with(along)), "{alongs:?}");
    }
    assert!(plots[1].contains("answers per second"));
    for heading in between(&page, "<tr><th>", "<").iter().filter(|text| text.contains("within")) {
        assert!(heading.ends_with(", ms"), "{heading}");
    }
}

/// What a browser needs to show it on a telephone, and nothing that it would have to fetch.
#[test]
fn the_page_stands_on_its_own_and_fits_any_window() {
    let (report, recorder) = report_of(slow_at_the_end(), redis_label());
    let page = html::render(&report, &recorder);
    assert!(page.contains("name=\"viewport\" content=\"width=device-width, initial-scale=1\""));
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let styles = between(&page, "<style>", "</style>").concat() + &between(&page, "style=\"", "\"").join(";");
    for declaration in styles.split([';', '{', '}']).map(str::trim) {
        let (name, value) = declaration.split_once(':').unwrap_or_default();
        let is_width = matches!(name.trim(), "width" | "min-width");
        assert!(!is_width || value.trim() == "100%", "{declaration}");
    }
    // Letters in an SVG that is scaled to the window shrink with it.
    let drawings = between(&page, "<svg", "</svg>");
    assert!(drawings.iter().all(|svg| !svg.contains("<text") && !svg.contains(" width=")), "{drawings:?}");
}

#[test]
fn a_run_without_an_answer_says_so() {
    let (report, recorder) = report_of(Recorder::default(), redis_label());
    let page = html::render(&report, &recorder);
    assert_eq!(page.matches("There was no answer.").count(), 3);
    assert!(!page.contains("<svg"));
}

#[test]
fn text_from_outside_cannot_become_markup() {
    assert_eq!(html::escape("<script>&\""), "&lt;script&gt;&amp;&quot;");
}
