//! corduroy-wal: looks into the write-ahead logs of a stopped node. It never changes them.
//!
//! `dump` prints every frame and record, `verify` every place that is not as it was written, `stats` what the logs
//! hold. Exit status: 0 all is sound, 1 damage was found, 2 a folder could not be read (in use by a running node,
//! say, which is named by its process id).

mod dump;
mod folders;
mod stats;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corduroy_wal::device::OpenError;

/// Looks into the write-ahead logs of a stopped node; never changes them.
#[derive(Debug, Parser)]
#[command(name = "corduroy-wal", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every segment, frame and record.
    Dump {
        /// Only records of this log.
        #[arg(long)]
        log: Option<u64>,
        /// WAL folders, or a node's data folder to find them in.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Read everything and print each damaged place: segment, file, position, logs. Exits with 1 if there is one.
    Verify {
        /// WAL folders, or a node's data folder to find them in.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Print what the segments and logs hold.
    Stats {
        /// WAL folders, or a node's data folder to find them in.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// The folder or a file in it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The path given, or what lies under it.
    #[error("{path}: {source}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let ended = run(&args, &mut out).and_then(|sound| {
        out.flush().map_err(ToolError::Output)?;
        Ok(sound)
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Whoever reads has seen enough (`| head`).
        Err(ToolError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corduroy-wal: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the command over all folders; whether all of them are sound.
fn run(args: &Args, out: &mut dyn Write) -> Result<bool, ToolError> {
    let (Command::Dump { folders, .. } | Command::Verify { folders } | Command::Stats { folders }) =
        &args.command;
    let mut sound = true;
    for folder in folders::find(folders)? {
        sound &= match &args.command {
            Command::Dump { log, .. } => dump::run(&folder, *log, args.json, out)?,
            Command::Verify { .. } => verify::run(&folder, args.json, out)?,
            Command::Stats { .. } => stats::run(&folder, args.json, out)?,
        };
    }
    Ok(sound)
}
