//! The server binary: reads the command line, and decides how the process ends.
//!
//! Exit codes: 0 stopped as told, 2 bad usage, 64 and above as in sysexits.h: 71 the system refused
//! something that every server needs, 74 the log or the state could not be
//! written or read, 78 a bad configuration or data folder. A panic aborts, since a core that lost its place in the middle
//! of a turn must not go on; only a panic of a library that is called behind the guard is let through to it.

use std::process::ExitCode;

use corduroy::cli::{self, Request};
use corduroy::config::Problem;
use corduroy::node::{self, EXIT_CONFIG, StartError, access, identity, log};

#[global_allocator]
static ALLOCATOR: corduroy_shards::runtime::heap::Counted = corduroy_shards::runtime::heap::Counted;

fn main() -> ExitCode {
    abort_on_panic();
    match cli::read(std::env::args_os(), std::env::vars_os()) {
        Ok(request) => run(request),
        Err(problems) => refuse(&problems),
    }
}

fn run(request: Request) -> ExitCode {
    match request {
        Request::Serve(loaded) => {
            log::start(loaded.config.log_level, loaded.config.log_format);
            let code = match node::serve(*loaded) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("cannot start: {error}");
                    ExitCode::from(error.exit_code())
                }
            };
            log::flush();
            code
        }
        Request::CheckConfig(loaded) => {
            print!("{}", cli::render(&loaded));
            ExitCode::SUCCESS
        }
        Request::Format { loaded, recover } => {
            access::restrict_new_files();
            match identity::format(&loaded.config, recover, |key| loaded.is_said(key)) {
                Ok(identity) => {
                    println!("{}: formatted\n{identity}", cli::data_dir(&loaded).display());
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("corduroy: {error}");
                    ExitCode::from(StartError::from(error).exit_code())
                }
            }
        }
        Request::Version { build_info: false } => {
            println!("corduroy {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Request::Version { build_info: true } => {
            println!("{}", cli::build_info());
            ExitCode::SUCCESS
        }
    }
}

fn refuse(problems: &[Problem]) -> ExitCode {
    eprintln!("corduroy: the configuration has {} problem(s):", problems.len());
    for problem in problems {
        eprintln!("  {problem}");
    }
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
