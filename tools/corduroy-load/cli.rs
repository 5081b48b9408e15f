//! The command line, and how it becomes a [`Plan`].

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use corduroy_wal::mix::scramble;

use crate::journal::{self, JournalError};
use crate::keys::Distribution;
use crate::ledger::KEYS_MAX;
use crate::plan::{Pace, Plan, Stop, Workload};

/// Loads a server that speaks the Redis protocol, measures it, and can prove that it kept every acknowledged write.
#[derive(Debug, Parser)]
#[command(name = "corduroy-load", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Another thing to do than to load.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

const EXAMPLES: &str = "\
Examples:
  corduroy-load                                   ten seconds of SET on 50 connections, as fast as they go
  corduroy-load --workload ycsb-b --rate 50000    open loop: 50,000 requests a second, due whether or not answered
  corduroy-load --html report.html --hdr set.hgrm latency by percentile, as a page and as an HDR file
  corduroy-load --addr 127.0.0.1:6379             the same load on a stock redis-server
  corduroy-load --verify                          reads everything back at the end
  corduroy-load --journal J --until-disconnect    until the server is killed; start it again, and then:
  corduroy-load check J                           did it keep every acknowledged write?

Exit codes: 0 all well, 1 errors or broken promises, 2 bad usage.";

/// What else the tool can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads back every key of a journal: no acknowledged write may be lost, no value be there that nobody wrote.
    Check(CheckArgs),
}

/// Where the server is if nobody says otherwise.
pub const DEFAULT_ADDR: &str = "127.0.0.1:7379";

/// Where the server is.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The server.
    #[arg(long, short = 'a', value_name = "HOST:PORT", default_value = DEFAULT_ADDR)]
    pub addr: String,
    /// For AUTH. Better given in the environment, where others do not see it.
    #[arg(long, env = "CORDUROY_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
}

/// `corduroy-load check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The journal.
    pub journal: PathBuf,
    /// The server [default: that of the journal's last run]
    #[arg(long, short = 'a', value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// For AUTH. Better given in the environment, where others do not see it.
    #[arg(long, env = "CORDUROY_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// How long to wait for the server to be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    pub wait: f64,
    /// Write the verdict as JSON (`-`: to the standard output, instead of words).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How keys are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum KeysArg {
    /// Each equally often.
    Uniform,
    /// A few often, most seldom (--zipf-exponent).
    Zipf,
}

/// A load.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// What to ask.
    #[arg(long, short = 'w', value_enum, default_value_t = Workload::Set)]
    pub workload: Workload,
    /// Open loop: this many requests a second in all, latency counted from when each was due. Without it: closed loop.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// Open loop: random gaps (Poisson) instead of equal ones.
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// Connections.
    #[arg(long, short = 'c', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Most unanswered requests of a connection [default: 1; open loop: 64]
    #[arg(long, short = 'P', value_parser = clap::value_parser!(u32).range(1..))]
    pub pipeline: Option<u32>,
    /// Threads that drive the connections.
    #[arg(long, short = 't', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// How long [default: 10, unless --requests is given]
    #[arg(long, short = 'd', value_name = "SECONDS", value_parser = seconds, conflicts_with = "requests")]
    pub duration: Option<f64>,
    /// How many requests, over all connections.
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Time at the start that does not count.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value_t = 0.0)]
    pub warmup: f64,
    /// How many keys.
    #[arg(long, short = 'r', default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub keyspace: u64,
    /// How keys are drawn [default: uniform; YCSB: its own]
    #[arg(long, value_enum)]
    pub keys: Option<KeysArg>,
    /// Zipf's exponent.
    #[arg(long, default_value_t = 0.99, value_parser = exponent)]
    pub zipf_exponent: f64,
    /// Bytes of a value.
    #[arg(long, short = 's', default_value_t = 64)]
    pub value_bytes: u32,
    /// Keys of an MSET.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub mset_keys: u32,
    /// What key names start with [default: "key:"; if writes are tracked: one that no earlier run used]
    #[arg(long)]
    pub prefix: Option<String>,
    /// Write every key once before measuring (YCSB always does).
    #[arg(long, overrides_with = "no_preload")]
    pub preload: bool,
    /// Do not, even for YCSB.
    #[arg(long)]
    pub no_preload: bool,
    /// Write unique values, judge every read, and read all keys back at the end.
    #[arg(long)]
    pub verify: bool,
    /// Note in this file what is sent and what is acknowledged, for `check`. Goes on where an earlier run stopped.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// The server is going to be killed: end with success when it has.
    #[arg(long)]
    pub until_disconnect: bool,
    /// How long to wait for answers at the end.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value_t = 10.0)]
    pub drain: f64,
    /// For the random choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report as JSON (`-`: to the standard output, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the latencies of all requests as an HDR percentile file (.hgrm, ms).
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Write the report as a page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress line (there is none either where stderr is no terminal).
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Why a command line makes no plan.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The address means nothing.
    #[error("--addr {addr}: {problem}")]
    Addr {
        /// As given.
        addr: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Conflict(&'static str),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal's keys have another prefix.
    #[error(
        "the journal's keys start with {journal:?}, not {given:?}: leave --prefix out, or use another journal"
    )]
    Prefix {
        /// The journal's.
        journal: String,
        /// As given.
        given: String,
    },
}

/// The address of a server.
///
/// # Errors
/// If it cannot be resolved.
pub fn resolved(addr: &str) -> Result<SocketAddr, UsageError> {
    let bad = |problem| UsageError::Addr { addr: addr.to_owned(), problem };
    let mut found = addr.to_socket_addrs().map_err(|error| bad(error.to_string()))?;
    found.next().ok_or_else(|| bad("no such host".to_owned()))
}

impl LoadArgs {
    /// The plan. `nonce` makes the key names of a tracked run its own.
    ///
    /// # Errors
    /// If options do not go together, or the journal cannot be read.
    pub fn plan(&self, nonce: u64) -> Result<Plan, UsageError> {
        let tracked = self.verify || self.journal.is_some();
        let threads = self.threads.min(self.connections);
        self.check_conflicts(tracked)?;
        let distribution = match self.keys {
            None => self.workload.usual_distribution(),
            Some(KeysArg::Uniform) => Distribution::Uniform,
            Some(KeysArg::Zipf) => Distribution::Zipf(self.zipf_exponent),
        };
        let pace = match self.rate {
            None => Pace::Closed,
            Some(rate_per_s) => Pace::Open { rate_per_s, poisson: self.poisson },
        };
        let usual_pipeline = if self.rate.is_some() { 64 } else { 1 };
        let stop = match self.requests {
            Some(requests) => Stop::Requests(requests),
            None => Stop::After(Duration::from_secs_f64(self.duration.unwrap_or(10.0))),
        };
        Ok(Plan {
            server: self.server.addr.clone(),
            addr: resolved(&self.server.addr)?,
            password: self.server.password.clone(),
            threads: threads as usize,
            connections: self.connections as usize,
            pipeline: self.pipeline.unwrap_or(usual_pipeline) as usize,
            workload: self.workload,
            distribution,
            keyspace: self.keyspace,
            prefix: self.prefix(tracked, nonce)?,
            value_bytes: self.value_bytes as usize,
            mset_keys: self.mset_keys as usize,
            pace,
            stop,
            warmup: Duration::from_secs_f64(self.warmup),
            drain: Duration::from_secs_f64(self.drain),
            preload: !self.no_preload && (self.preload || self.workload.is_ycsb()),
            verify: self.verify,
            journal: self.journal.clone(),
            until_disconnect: self.until_disconnect,
            seed: self.seed,
        })
    }

    fn check_conflicts(&self, tracked: bool) -> Result<(), UsageError> {
        if tracked && !self.workload.is_trackable() {
            return Err(UsageError::Conflict(
                "--verify and --journal need a workload that writes, each key by one connection: \
                 set, incr, mset, ycsb-a, ycsb-b or ycsb-f",
            ));
        }
        if tracked && self.keyspace < u64::from(self.connections) {
            return Err(UsageError::Conflict(
                "--verify and --journal give each connection keys of its own: \
                 --keyspace must be at least --connections",
            ));
        }
        if self.warmup > 0.0 && self.requests.is_some() {
            return Err(UsageError::Conflict("--warmup goes with --duration, not with --requests"));
        }
        Ok(())
    }

    /// Tracked runs judge all that their keys hold, so nobody else may have written them.
    fn prefix(&self, tracked: bool, nonce: u64) -> Result<String, UsageError> {
        let earlier = match &self.journal {
            Some(path) => journal::read(path)?.map(|kept| kept.prefix).filter(|prefix| !prefix.is_empty()),
            None => None,
        };
        match (earlier, &self.prefix) {
            (Some(journal), Some(given)) if journal != *given => {
                Err(UsageError::Prefix { journal, given: given.clone() })
            }
            (Some(journal), _) => Ok(journal),
            (None, Some(given)) if given.contains(['\n', '\r']) => {
                Err(UsageError::Conflict("--prefix must not hold a line end"))
            }
            (None, Some(given)) => Ok(given.clone()),
            (None, None) if tracked => Ok(format!("t{:08x}:", scramble(nonce) >> 32)),
            (None, None) => Ok("key:".to_owned()),
        }
    }
}

fn positive(text: &str, what: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= least && value <= most => Ok(value),
        _ => Err(format!("{what} from {least} to {most} is wanted")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    positive(text, "a number of seconds", 0.0, 1e6)
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text, "a number of requests a second", 0.001, 1e8)
}

fn exponent(text: &str) -> Result<f64, String> {
    positive(text, "an exponent", 0.01, 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("corduroy-load").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.load.plan(1).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_well_made() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_a_closed_loop_of_set() {
        let plan = plan("").unwrap();
        assert_eq!((plan.workload, plan.pace, plan.pipeline), (Workload::Set, Pace::Closed, 1));
        assert_eq!(plan.prefix, "key:");
        assert!(!plan.preload);
    }

    #[test]
    fn ycsb_brings_its_own_keys_and_preload() {
        let first = plan("-w ycsb-d").unwrap();
        assert_eq!(first.distribution, Distribution::Latest(0.99));
        assert!(first.preload);
        assert!(!plan("-w ycsb-d --no-preload").unwrap().preload);
        assert_eq!(plan("-w ycsb-a --keys uniform").unwrap().distribution, Distribution::Uniform);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for line in [
            "--verify -w get",
            "--verify -w ycsb-e",
            "--verify -r 10 -c 50",
            "--poisson",
            "--rate 0",
            "-c 0",
            "-d 5 -n 5",
            "-n 5 --warmup 1",
            "--addr nowhere",
            "--wurst",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }

    #[test]
    fn tracked_runs_have_keys_of_their_own() {
        assert_ne!(plan("--verify").unwrap().prefix, "key:");
        assert_eq!(plan("--verify --prefix mine:").unwrap().prefix, "mine:");
    }
}
