//! corduroy-wal: looks into the write-ahead logs of a stopped node. It never changes them.
//!
//! `dump` prints every frame and record, with what clients asked for in words, `verify` every position that is not as it was written, `stats` what the logs
//! hold. Exit status: 0 all is sound, 1 damage was found, 2 a folder could not be read (in use by a running node,
//! say, which is named by its process id).

#![forbid(unsafe_code)]

mod content;
mod dump;
mod folders;
mod home;
mod stats;
mod verify;
mod words;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
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
    /// Print every segment, frame and record, and every operation as a user of Redis would write it.
    Dump {
        /// Only this partition. Its log has the same number; partitions of keys begin with 2.
        #[arg(long, visible_alias = "log", value_name = "N")]
        partition: Option<u64>,
        /// Only operations on this key, and those on all keys.
        #[arg(long)]
        key: Option<OsString>,
        /// Most bytes of a value to show.
        #[arg(long, default_value_t = 64, value_name = "N")]
        value_bytes: usize,
        /// WAL folders, or a node's data folder to find them in.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Read everything and print where it is damaged: segment, file, position, logs. Exits with 1 if there is one.
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
    let wanted = match &args.command {
        Command::Dump { partition, key, value_bytes, .. } => {
            let key = key.as_ref().map(|key| key.as_bytes().to_vec());
            let filter = content::Filter { partition: *partition, key };
            Some(dump::Wanted { filter, json: args.json, value_bytes: *value_bytes })
        }
        Command::Verify { .. } | Command::Stats { .. } => None,
    };
    if wanted.is_some() && !args.json {
        dump::legend(out)?;
    }
    let mut sound = true;
    for folder in folders::find(folders)? {
        sound &= match (&args.command, &wanted) {
            (Command::Stats { .. }, _) => stats::run(&folder, args.json, out)?,
            (_, Some(wanted)) => dump::run(&folder, wanted, out)?,
            (_, None) => verify::run(&folder, args.json, out)?,
        };
    }
    Ok(sound)
}
