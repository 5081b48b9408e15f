//! corduroy-sim: plays, replays and shrinks simulated worlds. Exit 0: nothing broke; 1: an invariant broke; 2: bad usage.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use corduroy_shards::raft::guard::is_guarded;
use corduroy_shards::sim::{
    Batch, Ending, PlainSubject, Plan, Planted, Report, Summary, Watch, play_watched, run, shrink,
};

mod progress;
#[path = "../../tests/sim/subject.rs"]
mod subject;
mod verdict;

use progress::Progress;
use subject::StoreSubject;

/// Which state machine the simulated shards have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Machine {
    /// The real store.
    Store,
    /// Registers and counters, without levels or time: what fails with these is not the store's fault.
    Plain,
}

impl Machine {
    fn run(self, plan: Plan, watch: Watch) -> Report {
        match self {
            Self::Store => run(StoreSubject::default(), plan, watch),
            Self::Plain => run(PlainSubject, plan, watch),
        }
    }

    fn play(self, batch: &Batch, seen: impl Fn(&Summary) + Sync) -> Summary {
        match self {
            Self::Store => play_watched(batch, StoreSubject::default, seen),
            Self::Plain => play_watched(batch, || PlainSubject, seen),
        }
    }
}

/// Plays the simulated worlds of Corduroy: the real shard, log and store over a disk, a clock and clients that misbehave.
#[derive(Parser)]
#[command(name = "corduroy-sim", version)]
struct Cli {
    /// The state machine of the simulated shards.
    #[arg(long, global = true, value_enum, default_value_t = Machine::Store)]
    machine: Machine,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays many seeds and says which broke an invariant.
    Run {
        /// From..to, the last one not included; or one seed.
        #[arg(long, value_parser = seeds, default_value = "0..1000")]
        seeds: Range<u64>,
        /// Switches a planted bug on (see `planted`).
        #[arg(long, value_parser = planted)]
        planted: Option<Planted>,
        /// Threads to play on.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Goes on after the first seed that fails.
        #[arg(long)]
        keep_going: bool,
        /// Plays every n-th seed twice and compares the traces; 0 for none.
        #[arg(long, default_value_t = 50)]
        twice_every: u64,
    },
    /// Plays one seed, or a plan from a file, and prints how it went.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Prints every event.
        #[arg(long)]
        trace: bool,
        /// Stops before this event.
        #[arg(long)]
        until: Option<u64>,
    },
    /// Looks for the smallest plan that breaks the same invariant as a seed does, and prints it.
    Shrink {
        #[command(flatten)]
        which: Which,
        /// Plans to play at most.
        #[arg(long, default_value_t = 600)]
        plays: usize,
        /// Writes the plan to this file.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Lists the planted bugs.
    Planted {
        /// Plays each of them, and prints how many seeds it takes until it is found.
        #[arg(long)]
        table: bool,
        /// Seeds to play of each at most.
        #[arg(long, default_value_t = 2000)]
        most: u64,
        /// Threads to play on.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
}

#[derive(Args)]
struct Which {
    /// The seed.
    #[arg(required_unless_present = "plan")]
    seed: Option<u64>,
    /// A plan written by `shrink`, instead of a seed.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// Switches a planted bug on.
    #[arg(long, value_parser = planted)]
    planted: Option<Planted>,
}

impl Which {
    fn plan(&self) -> Result<Plan, String> {
        let Some(path) = &self.plan else {
            return Ok(Plan::draw(self.seed.unwrap_or(0), self.planted));
        };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut plan = Plan::decode(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        plan.planted = self.planted.or(plan.planted);
        Ok(plan)
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a seed"));
    match text.split_once("..") {
        Some((from, to)) => {
            let seeds = number(from)?..number(to)?;
            if seeds.is_empty() { Err(format!("{text:?} names no seed")) } else { Ok(seeds) }
        }
        None => {
            let seed = number(text)?;
            let to = seed.checked_add(1).ok_or_else(|| format!("{seed} is above the last seed"))?;
            Ok(seed..to)
        }
    }
}

fn planted(name: &str) -> Result<Planted, String> {
    Planted::named(name).ok_or_else(|| {
        let known = Planted::all().into_iter().map(|planted| planted.name()).collect::<Vec<_>>();
        format!("there is no planted bug {name:?}; there are {}", known.join(", "))
    })
}

/// A panic of the core in a play is a finding, which is in the report; any other is printed at once.
fn print_panics_outside_plays() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_guarded() {
            print(panic);
        }
    }));
}

fn main() -> ExitCode {
    print_panics_outside_plays();
    let cli = Cli::parse();
    match act(cli.machine, cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("corduroy-sim: {why}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether nothing broke.
fn act(machine: Machine, command: Command) -> Result<bool, String> {
    match command {
        Command::Run { seeds, planted, threads, keep_going, twice_every } => {
            let batch = Batch { seeds, planted, threads, stop_at_first: !keep_going, twice_every };
            let progress = Progress::of(batch.seeds.end - batch.seeds.start);
            let summary = machine.play(&batch, |summary| progress.seen(summary));
            progress.end();
            print!("{}{}", summary.probes, verdict::words(&batch, &summary, &options(machine, planted)));
            Ok(summary.failed.is_empty())
        }
        Command::Replay { which, trace, until } => {
            let plan = which.plan()?;
            let report = machine.run(plan.clone(), Watch { print: trace, until });
            print(&plan, &report);
            Ok(!matches!(report.ending, Ending::Violated(_)))
        }
        Command::Shrink { which, plays, out } => shrink_one(machine, &which.plan()?, plays, out),
        Command::Planted { table: true, most, threads } => Ok(print_table(machine, most, threads)),
        Command::Planted { table: false, .. } => {
            for planted in Planted::all() {
                println!("{}", planted.name());
            }
            Ok(true)
        }
    }
}

/// Prints the first seed that finds each planted bug, and by which invariant. Returns whether all were found.
fn print_table(machine: Machine, most: u64, threads: usize) -> bool {
    let mut are_all_found = true;
    println!("{:<34} {:>6}  found by", "planted bug", "seeds");
    for planted in Planted::all() {
        let seeds = 0..most;
        let batch = Batch { seeds, planted: Some(planted), threads, stop_at_first: true, twice_every: 0 };
        let summary = machine.play(&batch, |_| {});
        match summary.failed.first_key_value() {
            Some((seed, what)) => {
                let invariant = what.split(": ").next().unwrap_or_default();
                println!("{:<34} {:>6}  {invariant}", planted.name(), seed + 1);
            }
            None => {
                are_all_found = false;
                println!("{:<34} {:>6}  nothing", planted.name(), format!(">{most}"));
            }
        }
    }
    are_all_found
}

/// What a replay of a seed of this batch needs besides the seed.
fn options(machine: Machine, planted: Option<Planted>) -> String {
    let mut options = String::new();
    if let Some(planted) = planted {
        options.push_str(" --planted ");
        options.push_str(&planted.name());
    }
    match machine {
        Machine::Store => {}
        Machine::Plain => options.push_str(" --machine plain"),
    }
    options
}

fn print(plan: &Plan, report: &Report) {
    print!("{}", plan.encode());
    println!("--- met");
    print!("{}", report.probes);
    if let Ending::Violated(_) = report.ending {
        println!("--- the last events: number, time, what, whose, details");
        for event in &report.last {
            println!("{event}");
        }
        println!("--- the process at the end");
        for line in &report.state {
            println!("{line}");
        }
    }
    let (hash, events, ms) = (report.trace_hash, report.events, report.ended_ns / 1_000_000);
    println!("--- seed {}: {events} events in {ms} ms of its time, trace {hash:016x}", plan.seed);
    match &report.ending {
        Ending::Clean => println!("clean"),
        Ending::SafeHalt(why) => println!("safe halt: {why}"),
        Ending::Violated(violation) => println!("BROKEN {violation}"),
    }
}

fn shrink_one(machine: Machine, plan: &Plan, plays: usize, out: Option<PathBuf>) -> Result<bool, String> {
    let Ending::Violated(found) = machine.run(plan.clone(), Watch::default()).ending else {
        println!("seed {} breaks nothing", plan.seed);
        return Ok(true);
    };
    let fails = |candidate: &Plan| {
        let ending = machine.run(candidate.clone(), Watch::default()).ending;
        matches!(ending, Ending::Violated(violation) if violation.invariant == found.invariant)
    };
    let small = shrink(plan, plays, fails);
    let text = format!("# {found}\n{}", small.encode());
    print!("{text}");
    if let Some(path) = out {
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_one_or_a_range_and_never_none() {
        assert_eq!(seeds("7"), Ok(7..8));
        assert_eq!(seeds("0..3"), Ok(0..3));
        for wrong in ["", "x", "5..2", "4..4", "1..", "18446744073709551615"] {
            assert!(seeds(wrong).is_err(), "{wrong:?}");
        }
    }

    /// What a run says about a failure leads to the same failure.
    #[test]
    fn a_replay_has_the_options_of_its_run() {
        let planted = Planted::all()[0];
        for machine in [Machine::Store, Machine::Plain] {
            for planted in [None, Some(planted)] {
                let line = format!("corduroy-sim replay 7{} --trace", options(machine, planted));
                let cli = Cli::try_parse_from(line.split(' ')).unwrap();
                let Command::Replay { which, .. } = cli.command else { panic!("{line}") };
                assert!((cli.machine, which.seed, which.planted) == (machine, Some(7), planted), "{line}");
            }
        }
    }

    #[test]
    fn the_help_says_what_it_does() {
        use clap::CommandFactory;
        let about = Cli::command().get_about().map(ToString::to_string);
        assert!(
            about.as_deref().is_some_and(|about| about.starts_with("Plays the simulated worlds")),
            "{about:?}"
        );
    }
}
