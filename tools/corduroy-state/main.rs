//! corduroy-state: looks into the states of a stopped node's shards. It never changes them.
//!
//! `verify` reads every file and says which is not as it was written, `dump` prints the rows. Exit status: 0 all is sound,
//! 1 damage was found, 2 a folder could not be read (in use by a running node, say, which is named by its process id).

#![forbid(unsafe_code)]

mod dump;
mod folders;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corduroy::store::DiskError;
use corduroy_wal::device::lock::LockError;

/// Looks into the states of a stopped node's shards; never changes them.
#[derive(Debug, Parser)]
#[command(name = "corduroy-state", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read everything and print what is not as it was written: file, what is wrong, which rows it harms, what to do. Exits
    /// with 1 if there is something.
    Verify {
        /// Print every table: level, bytes, rows, first and last key.
        #[arg(long)]
        tables: bool,
        /// State folders, or a node's data folder to find them in.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Print the rows: partitions, and their keys with type, size and expiry, as of the last flush. What was written since
    /// is in the log.
    Dump {
        #[command(flatten)]
        filter: dump::Filter,
        /// State folders, or a node's data folder to find them in.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// The folder is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Nothing of it can be read.
    #[error(transparent)]
    State(#[from] DiskError),
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
            eprintln!("corduroy-state: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the command over all folders; whether all of them are sound.
fn run(args: &Args, out: &mut dyn Write) -> Result<bool, ToolError> {
    let (Command::Verify { folders, .. } | Command::Dump { folders, .. }) = &args.command;
    let mut sound = true;
    for folder in folders::find(folders)? {
        let _locks = folders::lock(&folder)?;
        sound &= match &args.command {
            Command::Verify { tables, .. } => verify::run(&folder, *tables, args.json, out)?,
            Command::Dump { filter, .. } => dump::run(&folder, filter, args.json, out)?,
        };
    }
    Ok(sound)
}
