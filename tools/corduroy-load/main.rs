//! corduroy-load: puts load on a server that speaks the Redis protocol, measures it, and checks what it kept.
//!
//! In reading order: `cli` (options) makes a `plan`; `run` connects, fills and drives; `driver` is the loop of a thread,
//! fed by `pace` (when) and `workload` with `keys` (what); `judge` takes the answers off a `conn` for the
//! `recorder` (figures) and the `ledger` (what must be there), which the `journal` keeps and `check` reads back.
//! `report` shows it all.

#![forbid(unsafe_code)]

mod check;
mod cli;
mod conn;
mod driver;
mod journal;
mod judge;
mod keys;
mod ledger;
mod pace;
mod plan;
mod recorder;
mod report;
mod resp;
mod run;
#[cfg(test)]
mod tests;
mod workload;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::check::Verdict;
use crate::cli::{CheckArgs, Cli, Command, DEFAULT_ADDR, LoadArgs};
use crate::report::Report;

/// Errors, or a broken promise.
const EXIT_FAILED: u8 = 1;
/// The command line makes no sense.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Check(args)) => check_journal(args),
        None => load(&cli.load),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err((code, message)) => {
            // If stderr is closed nobody is left to read it.
            let _written = writeln!(std::io::stderr(), "corduroy-load: {message}");
            ExitCode::from(code)
        }
    }
}

type Failure = (u8, String);

fn failed(error: impl std::error::Error) -> Failure {
    (EXIT_FAILED, error.to_string())
}

fn usage(error: impl std::error::Error) -> Failure {
    (EXIT_USAGE, error.to_string())
}

fn load(args: &LoadArgs) -> Result<bool, Failure> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let plan = Arc::new(args.plan(since_1970.as_nanos() as u64).map_err(usage)?);
    let label = report::Label::gather(&plan).map_err(failed)?;
    for path in [&args.hdr, &args.html, &args.json].into_iter().flatten() {
        demand_writable(path)?;
    }
    let show_progress = !args.quiet && std::io::stderr().is_terminal();
    let outcome = run::run(&plan, show_progress).map_err(failed)?;
    let report = Report::new(&plan, label, &outcome);
    let latencies = outcome.recorder.all_latencies();
    if let Some(path) = &args.hdr {
        write_file(path, &report::hdr::render(&latencies))?;
    }
    if let Some(path) = &args.html {
        write_file(path, &report::html::render(&report, &outcome.recorder))?;
    }
    let json_to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &args.json {
        write_file(path, &report::json(&report))?;
    }
    if !json_to_stdout {
        write_file(Path::new("-"), &report::table::render(&report))?;
    }
    Ok(report.is_good())
}

fn check_journal(args: &CheckArgs) -> Result<bool, Failure> {
    let journal = args.journal.display();
    let Some(kept) = journal::read(&args.journal).map_err(usage)? else {
        return Err((EXIT_USAGE, format!("journal {journal}: no such file")));
    };
    if kept.ledger.keys().next().is_none() {
        let why = format!("journal {journal}: no write stands in it, so nothing can be said");
        return Err((EXIT_FAILED, why));
    }
    let (server, why) = match (&args.addr, &kept.server) {
        (Some(addr), _) => (addr.as_str(), "as --addr says"),
        (None, Some(server)) => (server.addr.as_str(), "as the journal says; --addr names another"),
        (None, None) => (DEFAULT_ADDR, "since the journal names none; --addr does"),
    };
    let addr = cli::resolved(server).map_err(usage)?;
    let password = args.password.as_deref();
    if password.is_none() && kept.server.as_ref().is_some_and(|server| server.with_password) {
        let why = format!("journal {journal}: its run gave a password; set it in CORDUROY_PASSWORD");
        return Err((EXIT_USAGE, why));
    }
    let patience = Duration::from_secs_f64(args.wait);
    let verdict = check::check(addr, password, patience, &kept.prefix, &kept.ledger)
        .map_err(|error| (EXIT_FAILED, format!("{error}\n  the server is {server}, {why}")))?;
    match &args.json {
        Some(path) => write_file(path, &report::verdict_json(&verdict))?,
        None => write_file(Path::new("-"), &format!("{journal} on {server}, {why}\n{}", words(&verdict)))?,
    }
    Ok(verdict.is_good())
}

fn words(verdict: &Verdict) -> String {
    report::table::verdict(verdict)
}

/// Refuses a path that a report cannot be written to, before a long run is made for it.
fn demand_writable(path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") {
        return Ok(());
    }
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|error| (EXIT_USAGE, format!("cannot write {}: {error}", path.display())))
}

/// Writes to a file, or to the standard output for `-`. A reader that went away is no error.
fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let done = if path == Path::new("-") {
        std::io::stdout().lock().write_all(text.as_bytes())
    } else {
        std::fs::write(path, text)
    };
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err((EXIT_FAILED, format!("cannot write {}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}
