//! A whole run: connections, threads, the preload, the load, the check at the end.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::check::{CheckError, Verdict, check};
use crate::conn::{Conn, ConnectError, connect};
use crate::driver::{Driver, DriverError, Phase, Share};
use crate::journal::{self, Journal, JournalError, RunServer};
use crate::keys::{KeyCount, Random};
use crate::ledger::Ledger;
use crate::pace::Schedule;
use crate::plan::{Pace, Plan, Stop};
use crate::recorder::{Progress, Recorder};
use crate::workload::{Generator, Tracker};

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A thread gave up.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The keys could not be read back.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Filling the key space failed.
    #[error("filling the key space failed: {0}")]
    Preload(String),
    /// A thread panicked; what it said stands above.
    #[error("a thread of the load generator panicked")]
    Panicked,
    /// A socket could not be set up, or a thread not be started.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub recorder: Recorder,
    /// What was read back at the end, if that was asked for.
    pub verdict: Option<Verdict>,
    /// All connections were closed before the end.
    pub server_went_away: bool,
}

/// Runs the plan. `show_progress`: a line a second on stderr.
///
/// # Errors
/// If there is no server, the journal cannot be used, or the kernel refuses.
pub fn run(plan: &Arc<Plan>, show_progress: bool) -> Result<Outcome, RunError> {
    let mut ledger = begin_journal(plan)?;
    let count = KeyCount::new(plan.keyspace);
    let mut conns = connect_all(plan)?;
    if plan.preload {
        let (recorder, known, back) = run_phase(plan, Phase::Preload, conns, &ledger, &count, show_progress)?;
        if let Some((_, errors)) = recorder.errors.iter().chain(&recorder.violations).next() {
            return Err(RunError::Preload(errors.example.clone()));
        }
        if recorder.disconnects > 0 || recorder.unanswered > 0 {
            return Err(RunError::Preload("the server closed connections or did not answer".to_owned()));
        }
        (ledger, conns) = (known, back);
    }
    let (recorder, ledger, _conns) = run_phase(plan, Phase::Load, conns, &ledger, &count, show_progress)?;
    let server_went_away = recorder.disconnects == plan.connections as u64;
    let verdict = if plan.verify && !server_went_away {
        Some(check(plan.addr, plan.password.as_deref(), Duration::from_secs(10), &plan.prefix, &ledger)?)
    } else {
        None
    };
    Ok(Outcome { recorder, verdict, server_went_away })
}

/// What earlier runs left in the journal; notes the beginning of this one.
fn begin_journal(plan: &Plan) -> Result<Ledger, RunError> {
    let Some(path) = &plan.journal else { return Ok(Ledger::default()) };
    let earlier = journal::read(path)?;
    let server = RunServer { addr: plan.server.clone(), with_password: plan.password.is_some() };
    Journal::begin_run(path, &server, &plan.prefix)?;
    Ok(earlier.map(|kept| kept.ledger).unwrap_or_default())
}

fn connect_all(plan: &Plan) -> Result<Vec<Conn>, RunError> {
    (0..plan.connections)
        .map(|number| {
            let stream = connect(plan.addr, plan.password.as_deref())?;
            Conn::new(stream, number as u64)
                .map_err(|source| RunError::Io { doing: "make a socket non-blocking", source })
        })
        .collect()
}

fn run_phase(
    plan: &Arc<Plan>,
    phase: Phase,
    mut conns: Vec<Conn>,
    ledger: &Ledger,
    count: &KeyCount,
    show_progress: bool,
) -> Result<(Recorder, Ledger, Vec<Conn>), RunError> {
    let progress = Arc::new(Progress::default());
    let begin = Instant::now();
    let mut threads = Vec::new();
    for thread in 0..plan.threads {
        let mine: Vec<Conn> =
            conns.extract_if(.., |conn| conn.number % plan.threads as u64 == thread as u64).collect();
        let generator = generator_of(plan, thread, ledger, count)?;
        let share = share_of(plan, phase, begin, thread);
        let driver = Driver::new(share, mine, generator, Arc::clone(&progress))?;
        let name = format!("load-{thread}");
        let handle = std::thread::Builder::new()
            .name(name)
            .spawn(move || driver.run())
            .map_err(|source| RunError::Io { doing: "start a thread", source })?;
        threads.push(handle);
    }
    let title = if phase == Phase::Preload { "filling" } else { plan.workload_name() };
    while threads.iter().any(|thread| !thread.is_finished()) {
        if show_progress {
            show(title, begin, &progress, || threads.iter().all(std::thread::JoinHandle::is_finished));
        } else {
            break;
        }
    }
    let (mut recorder, mut known) = (Recorder::default(), ledger.clone());
    for thread in threads {
        let (measured, ledger, back) = thread.join().map_err(|_| RunError::Panicked)??;
        recorder.merge(&measured);
        known.merge(&ledger);
        conns.extend(back);
    }
    conns.sort_by_key(|conn| conn.number);
    Ok((recorder, known, conns))
}

fn generator_of(
    plan: &Plan,
    thread: usize,
    ledger: &Ledger,
    count: &KeyCount,
) -> Result<Generator, RunError> {
    let tracker = if plan.is_tracked() {
        let journal = plan.journal.as_deref().map(Journal::open).transpose()?;
        let (connections, threads) = (plan.connections as u64, plan.threads as u64);
        let mine = ledger.part(|key| key % connections % threads == thread as u64);
        Some(Tracker { ledger: mine, journal })
    } else {
        None
    };
    let seed = plan.seed.wrapping_add(0x1_0001 * thread as u64);
    Ok(Generator::new(plan, seed, count.clone(), tracker))
}

fn share_of(plan: &Arc<Plan>, phase: Phase, begin: Instant, thread: usize) -> Share {
    let threads = plan.threads as u64;
    let requests = match plan.stop {
        Stop::Requests(all) if phase == Phase::Load => {
            Some(all / threads + u64::from((thread as u64) < all % threads))
        }
        _ => None,
    };
    let schedule = match plan.pace {
        Pace::Open { rate_per_s, poisson } if phase == Phase::Load => {
            let gap_ns = 1e9 / rate_per_s;
            let random = poisson.then(|| Random::new(!plan.seed ^ thread as u64));
            Some(Schedule::new(gap_ns * thread as f64, gap_ns * plan.threads as f64, random))
        }
        _ => None,
    };
    Share { plan: Arc::clone(plan), phase, begin, requests, schedule }
}

/// Shows a line for the last second; returns early when the run is over.
fn show(title: &str, begin: Instant, progress: &Progress, is_over: impl Fn() -> bool) {
    let before = progress.answers.load(Ordering::Relaxed);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        if is_over() {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    let answers = progress.answers.load(Ordering::Relaxed);
    let rate = (answers - before) as f64 / started.elapsed().as_secs_f64();
    let slowest_ms = progress.slowest_ns.swap(0, Ordering::Relaxed) as f64 / 1e6;
    let errors = progress.errors.load(Ordering::Relaxed);
    let line = format!(
        "{title} {:5.1} s  {rate:9.0} requests/s  slowest {slowest_ms:8.2} ms  {answers} answers, {errors} errors",
        begin.elapsed().as_secs_f64()
    );
    let end = if is_over() { "\n" } else { "" };
    // A progress line that cannot be shown is no reason to stop measuring.
    let _shown = write!(std::io::stderr(), "\r\x1b[2K{line}{end}");
}
