//! The report of a run: one structure, shown as a table, as JSON, as a page. No number without its label.

mod axis;
pub mod hdr;
pub mod html;
mod plot;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check::Verdict;
use crate::conn::{Answer, ConnectError, ask, connect};
use crate::keys::Distribution;
use crate::plan::{Pace, Plan};
use crate::recorder::{BIN_NS, Errors, Latencies, Recorder};
use crate::run::Outcome;

/// What was measured where: without this, a number says nothing.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Label {
    /// The server's own words about itself: INFO's version fields.
    pub server: BTreeMap<String, String>,
    /// The settings that decide what an acknowledgement is worth.
    pub settings: BTreeMap<String, String>,
    /// The generator's machine.
    pub cpu: String,
    /// Its cores.
    pub cores: usize,
    /// Its kernel.
    pub kernel: String,
}

/// Fields of INFO server that name the server.
const SERVER_FIELDS: [&str; 8] = [
    "redis_version",
    "corduroy_version",
    "corduroy_commit",
    "redis_git_sha1",
    "redis_mode",
    "os",
    "gcc_version",
    "server_name",
];

/// Settings that decide about durability, as far as the server has them.
const SETTINGS: [&str; 5] = ["appendonly", "appendfsync", "save", "wal.sync", "maxmemory"];

impl Label {
    /// Asks the server and the machine.
    ///
    /// # Errors
    /// If there is no server.
    pub fn gather(plan: &Plan) -> Result<Self, ConnectError> {
        let io = |source| ConnectError::Io { addr: plan.addr, source };
        let mut stream = connect(plan.addr, plan.password.as_deref())?;
        let mut inbox = Vec::new();
        let mut label = Self {
            cpu: field_of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            ..Self::default()
        };
        if let Answer::Bytes(info) = ask(&mut stream, &mut inbox, &[b"INFO", b"server"]).map_err(io)? {
            let info = String::from_utf8_lossy(&info);
            let fields = info.lines().filter_map(|line| line.split_once(':'));
            label.server = fields
                .filter(|(name, _)| SERVER_FIELDS.contains(name))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect();
        }
        for name in SETTINGS {
            let answer = ask(&mut stream, &mut inbox, &[b"CONFIG", b"GET", name.as_bytes()]).map_err(io)?;
            if let Answer::List(list) = answer
                && let [_, value] = list.as_slice()
            {
                label.settings.insert(name.to_owned(), String::from_utf8_lossy(value).into_owned());
            }
        }
        Ok(label)
    }
}

fn field_of(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// The load, in words and numbers.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Load {
    /// The server.
    pub addr: String,
    /// Its workload.
    pub workload: &'static str,
    /// Closed or open loop, and from when latency counts.
    pub loop_kind: &'static str,
    /// Requests a second that were offered (open loop).
    pub offered_per_s: Option<f64>,
    /// Connections.
    pub connections: usize,
    /// Most unanswered requests of each.
    pub pipeline: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Keys.
    pub keyspace: u64,
    /// How they were drawn.
    pub keys: String,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Keys of an MSET.
    pub mset_keys: usize,
    /// For the random choices.
    pub seed: u64,
}

/// Latencies of one kind of request, ms.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// The kind; `all` for all of them.
    pub op: &'static str,
    /// Answers without an error.
    pub answers: u64,
    /// Answers a second.
    pub per_s: f64,
    /// The quickest.
    pub min_ms: f64,
    /// The mean.
    pub mean_ms: f64,
    /// Half are quicker.
    pub p50_ms: f64,
    /// 90% are quicker.
    pub p90_ms: f64,
    /// 95% are quicker.
    pub p95_ms: f64,
    /// 99% are quicker.
    pub p99_ms: f64,
    /// 99.9% are quicker.
    pub p99_9_ms: f64,
    /// 99.99% are quicker.
    pub p99_99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Error replies, or replies that cannot be right, of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Trouble {
    /// The error's first word, or what is wrong.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The first one.
    pub example: String,
}

/// The whole report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// What was measured where.
    pub label: Label,
    /// The load.
    pub load: Load,
    /// From the end of the warm-up to the last answer, s.
    pub elapsed_s: f64,
    /// Requests sent, warm-up included.
    pub sent: u64,
    /// Requests never answered.
    pub unanswered: u64,
    /// Requests that were due and could not be sent before the end (open loop).
    pub unsent: u64,
    /// Connections that the server closed.
    pub disconnects: u64,
    /// Whether all of them were closed before the end.
    pub server_went_away: bool,
    /// Whether that was what the run waited for.
    pub until_disconnect: bool,
    /// All requests first, then by kind if there are several.
    pub figures: Vec<Figures>,
    /// Error replies.
    pub errors: Vec<Trouble>,
    /// Replies that cannot be right.
    pub violations: Vec<Trouble>,
    /// Answers in each tenth of a second.
    pub answers_per_100_ms: Vec<u64>,
    /// What was read back at the end.
    pub verdict: Option<Verdict>,
}

impl Report {
    /// Puts a run's figures together.
    #[must_use]
    pub fn new(plan: &Plan, label: Label, outcome: &Outcome) -> Self {
        let recorder = &outcome.recorder;
        let elapsed_s = recorder.elapsed_ns as f64 / 1e9;
        let mut figures = vec![Figures::new("all", &recorder.all_latencies(), elapsed_s)];
        if recorder.latencies().len() > 1 {
            figures
                .extend(recorder.latencies().iter().map(|(op, it)| Figures::new(op.name(), it, elapsed_s)));
        }
        Self {
            label,
            load: Load::new(plan),
            elapsed_s,
            sent: recorder.sent,
            unanswered: recorder.unanswered,
            unsent: recorder.unsent,
            disconnects: recorder.disconnects,
            server_went_away: outcome.server_went_away,
            until_disconnect: plan.until_disconnect,
            figures,
            errors: troubles(&recorder.errors),
            violations: troubles(&recorder.violations),
            answers_per_100_ms: recorder.bins.iter().map(|bin| bin.answers).collect(),
            verdict: outcome.verdict.clone(),
        }
    }

    /// Whether nothing went wrong. A server that went away is fine where that was waited for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let kept = self.verdict.as_ref().is_none_or(Verdict::is_good);
        let answered = self.until_disconnect || (self.disconnects == 0 && self.unanswered == 0);
        kept && answered && self.errors.is_empty() && self.violations.is_empty()
    }
}

impl Load {
    fn new(plan: &Plan) -> Self {
        let (loop_kind, offered_per_s) = match plan.pace {
            Pace::Closed => ("closed loop, latency from sending", None),
            Pace::Open { rate_per_s, .. } => {
                ("open loop, latency from when a request was due", Some(rate_per_s))
            }
        };
        let keys = match plan.distribution {
            Distribution::Uniform => "uniform".to_owned(),
            Distribution::Zipf(exponent) => format!("Zipf {exponent}"),
            Distribution::Latest(exponent) => format!("latest, Zipf {exponent}"),
        };
        Self {
            addr: plan.addr.to_string(),
            workload: plan.workload_name(),
            loop_kind,
            offered_per_s,
            connections: plan.connections,
            pipeline: plan.pipeline,
            threads: plan.threads,
            keyspace: plan.keyspace,
            keys,
            value_bytes: plan.value_bytes,
            mset_keys: plan.mset_keys,
            seed: plan.seed,
        }
    }
}

impl Figures {
    fn new(op: &'static str, latencies: &Latencies, elapsed_s: f64) -> Self {
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Self {
            op,
            answers: latencies.len(),
            per_s: if elapsed_s > 0.0 { latencies.len() as f64 / elapsed_s } else { 0.0 },
            min_ms: latencies.min() as f64 / 1e6,
            mean_ms: latencies.mean() / 1e6,
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
            p99_9_ms: ms(0.999),
            p99_99_ms: ms(0.9999),
            max_ms: latencies.max() as f64 / 1e6,
        }
    }
}

fn troubles(table: &BTreeMap<String, Errors>) -> Vec<Trouble> {
    table
        .iter()
        .map(|(kind, errors)| Trouble {
            kind: kind.clone(),
            count: errors.count,
            example: errors.example.clone(),
        })
        .collect()
}

/// The report as JSON.
#[must_use]
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report holds only plain values");
    text.push('\n');
    text
}

/// A verdict as JSON.
#[must_use]
pub fn verdict_json(verdict: &Verdict) -> String {
    let mut text = serde_json::to_string_pretty(verdict).expect("a verdict holds only plain values");
    text.push('\n');
    text
}

/// What came in a step of time, from the end of the warm-up on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Where it begins, ns.
    pub from_ns: u64,
    /// Where it ends, ns.
    pub to_ns: u64,
    /// Answers in it, errors included.
    pub answers: u64,
    /// The slowest of them, ns.
    pub slowest_ns: u64,
}

impl Step {
    /// Answers a second.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        let took_s = (self.to_ns - self.from_ns) as f64 / 1e9;
        if took_s > 0.0 { self.answers as f64 / took_s } else { 0.0 }
    }
}

/// All answers over time, in at most `points` steps without gaps. The last ends with the last answer.
#[must_use]
pub fn over_time(recorder: &Recorder, points: usize) -> Vec<Step> {
    let bins = recorder.bins.len().div_ceil(points.max(1)).max(1);
    let step_ns = bins as u64 * BIN_NS;
    let mut steps: Vec<Step> = Vec::new();
    for (number, bins) in recorder.bins.chunks(bins).enumerate() {
        let from_ns = number as u64 * step_ns;
        let to_ns = (from_ns + step_ns).min(recorder.elapsed_ns.max(from_ns));
        let answers = bins.iter().map(|bin| bin.answers).sum();
        let slowest_ns = bins.iter().map(|bin| bin.slowest_ns).max().unwrap_or(0);
        match steps.last_mut() {
            // A rate over next to no time says nothing: what came in a short last step belongs to the one before.
            Some(before) if (to_ns - from_ns) * 2 < step_ns => {
                before.to_ns = to_ns;
                before.answers += answers;
                before.slowest_ns = before.slowest_ns.max(slowest_ns);
            }
            _ => steps.push(Step { from_ns, to_ns, answers, slowest_ns }),
        }
    }
    steps
}
