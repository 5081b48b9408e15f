//! The server binary: reads the command line, and decides how the process ends.
//!
//! Exit codes: 0 stopped as asked, 2 bad usage, 64 and above as in sysexits.h: 65 the data is damaged and needs a person,
//! 71 the system refused something that every server needs, 74 the log or the state could not be written or read, 78 a bad
//! configuration or data folder. A panic aborts, since a core whose turn was cut short must not go on;
//! only a panic of a library that is called behind the guard is let through to it.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use corduroy::cli::{self, Refused, Request};
use corduroy::config::{Loaded, LogFormat};
use corduroy::node::identity::{Identity, IdentityError};
use corduroy::node::{self, EXIT_CONFIG, EXIT_IO, access, identity, log};

#[global_allocator]
static ALLOCATOR: corduroy_shards::runtime::heap::Counted = corduroy_shards::runtime::heap::Counted;

fn main() -> ExitCode {
    abort_on_panic();
    match cli::read(std::env::args_os(), std::env::vars_os()) {
        Ok(request) => run(request),
        Err(refused) => refuse(&refused),
    }
}

fn run(request: Request) -> ExitCode {
    match request {
        Request::Serve(loaded) => {
            let format = loaded.config.log_format;
            log::start(loaded.config.log_level, format);
            let code = match node::serve(*loaded) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    log::last_words(format, &[format!("cannot start: {error}")]);
                    ExitCode::from(error.exit_code())
                }
            };
            log::flush();
            code
        }
        Request::CheckConfig(loaded) => say(cli::render(&loaded).trim_end()),
        Request::Format { loaded, recover } => {
            access::restrict_new_files();
            let formatted =
                node::check_data_folder(&loaded.config.data_dir).and_then(|()| Ok(format(&loaded, recover)?));
            match formatted {
                Ok(identity) => {
                    let done = match (recover, identity.former.is_some()) {
                        (true, _) => "identity made anew, all data kept",
                        (false, true) => "founds its cluster, all data kept",
                        (false, false) => "formatted",
                    };
                    say(format!("{}: {done}\n{identity}", cli::data_dir(&loaded).display()))
                }
                Err(error) => {
                    log::last_words(loaded.config.log_format, &[format!("cannot format: {error}")]);
                    ExitCode::from(error.exit_code())
                }
            }
        }
        Request::Version { build_info: false } => say(format!("corduroy {}", env!("CARGO_PKG_VERSION"))),
        Request::Version { build_info: true } => say(cli::build_info()),
    }
}

fn format(loaded: &Loaded, recover: bool) -> Result<Identity, IdentityError> {
    match &loaded.peers {
        None => identity::format(&loaded.config, recover, |key| loaded.is_said(key)),
        Some(peers) => identity::found(&loaded.config, recover, peers),
    }
}

/// Writes what was asked for to stdout. A reader that has seen enough is no failure.
fn say(text: impl Display) -> ExitCode {
    let mut out = std::io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            log::last_words(LogFormat::Text, &[format!("cannot write to stdout: {error}")]);
            ExitCode::from(EXIT_IO)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn refuse(refused: &Refused) -> ExitCode {
    let count = refused.problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    let mut lines = vec![format!("the configuration has {count} {noun}:")];
    lines.extend(refused.problems.iter().map(|problem| format!("  {problem}")));
    log::last_words(refused.format, &lines);
    ExitCode::from(EXIT_CONFIG)
}

/// A panic anywhere ends the process at once, after saying why; except inside the guard, which contains it.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if corduroy_shards::raft::guard::is_guarded() {
            tracing::error!("contained a panic of a library: {info}");
            return;
        }
        log::flush();
        report(info);
        std::process::abort();
    }));
}
