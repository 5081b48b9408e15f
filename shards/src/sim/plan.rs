//! A whole run written down: seed, knobs, faults, planted bug. One line each, so that a shrunk run can be kept as a
//! regression that survives changes of what seeds draw.

use std::fmt::Write as _;

use crate::sim::planted::Planted;
use crate::sim::swarm::{CLASSES, Class, CutShape, Fault, GROUP_CLASSES, Knobs, Planned};
use crate::sim::usurp::Usurper;

/// What a run is made from. With the subject it is all that a run depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where all streams come from.
    pub seed: u64,
    /// Sizes and shapes.
    pub knobs: Knobs,
    /// The faults, in order of time.
    pub faults: Vec<Planned>,
    /// A bug to switch on.
    pub planted: Option<Planted>,
}

/// Why a plan cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line:?}: {why}")]
pub struct PlanError {
    /// The line.
    pub line: String,
    /// What is wrong with it.
    #[source]
    pub why: LineError,
}

/// What is wrong with a line of a plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LineError {
    /// It begins with nothing that a plan has.
    #[error("not a line of a plan")]
    NoLine,
    /// A number cannot be read.
    #[error("{0:?} is not a number that fits")]
    NoNumber(String),
    /// A knob's name is not known.
    #[error("there is no knob {0}")]
    NoKnob(String),
    /// A knob's number is too large for it.
    #[error("{knob} cannot be {value}")]
    TooLarge {
        /// The knob's name.
        knob: String,
        /// The number.
        value: u64,
    },
    /// A class's name is not known.
    #[error("no such class: {0}")]
    NoClass(String),
    /// A fault's name is not known.
    #[error("no such fault: {0}")]
    NoFault(String),
    /// A planted bug's name is not known.
    #[error("no such planted bug: {0}")]
    NoBug(String),
}

macro_rules! numbers {
    ($($name:ident)*) => {
        impl Knobs {
            /// Every number by its name.
            #[must_use]
            pub fn numbers(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name as u64)),*]
            }

            /// Sets a number by its name.
            ///
            /// # Errors
            /// [`LineError::NoKnob`], [`LineError::TooLarge`].
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), LineError> {
                match name {
                    $(stringify!($name) => {
                        let too_large = |_| LineError::TooLarge { knob: name.to_owned(), value };
                        self.$name = value.try_into().map_err(too_large)?;
                        Ok(())
                    })*
                    // Its name in plans of earlier versions.
                    "hand_over_bytes" => self.set("flush_bytes", value),
                    _ => Err(LineError::NoKnob(name.to_owned())),
                }
            }
        }
    };
}

numbers! {
    nodes spares kept_bytes chunk_bytes image_bytes_per_s tick_ms leases stale_ms sleep_ticks link_ns loss_per_mille duplicate_per_mille late_per_mille replay_per_mille changed_per_mille shards partitions connections pipeline requests horizon_ns think_ns reads_per_mille keys value_bytes segment_bytes
    max_segments spare_segments max_in_flight second_frame_bytes flush_bytes queue apply_ops disk_ns at_hand_per_mille job_ns
    clock_ppm
}

impl Plan {
    /// What `seed` draws.
    #[must_use]
    pub fn draw(seed: u64, planted: Option<Planted>) -> Self {
        let knobs = Knobs::draw(seed);
        let faults = knobs.schedule(seed);
        Self { seed, knobs, faults, planted }
    }

    /// The plan as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("seed {}\n", self.seed);
        if let Some(planted) = self.planted {
            let _infallible = writeln!(text, "planted {}", planted.name());
        }
        for (name, value) in self.knobs.numbers() {
            let _infallible = writeln!(text, "knob {name} {value}");
        }
        if self.knobs.replicated {
            text.push_str("replicated\n");
        }
        for class in &self.knobs.classes {
            let _infallible = writeln!(text, "class {}", class.name());
        }
        for planned in &self.faults {
            let (name, a, b) = fault_words(planned.fault);
            let _infallible = write!(text, "fault {} {name} {a} {b}", planned.at_ns);
            text.push_str(&on_node(planned.node));
        }
        text
    }

    /// Reads a plan's text; what it does not say is as the seed 0 draws it, in every plan alike. Lines that begin with `#`
    /// are for people.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn decode(text: &str) -> Result<Self, PlanError> {
        let mut plan = Self { seed: 0, knobs: Knobs::draw(0), faults: Vec::new(), planted: None };
        plan.knobs.replicated = false;
        plan.knobs.classes.clear();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            plan.decode_line(line).map_err(|why| PlanError { line: line.to_owned(), why })?;
        }
        Ok(plan)
    }

    fn decode_line(&mut self, line: &str) -> Result<(), LineError> {
        let words = line.split_whitespace().collect::<Vec<_>>();
        match *words.as_slice() {
            ["seed", seed] => self.seed = number(seed)?,
            ["planted", name] => {
                self.planted = Some(Planted::named(name).ok_or_else(|| LineError::NoBug(name.to_owned()))?);
            }
            ["knob", name, value] => self.knobs.set(name, number(value)?)?,
            ["replicated"] => self.knobs.replicated = true,
            ["class", name] => {
                let class = Class::named(name).ok_or_else(|| LineError::NoClass(name.to_owned()))?;
                self.knobs.classes.insert(class);
            }
            ["fault", at_ns, name, a, b, ref on @ ..] => {
                let node = match *on {
                    [] => 0,
                    ["on", node] => number(node)?,
                    _ => return Err(LineError::NoLine),
                };
                let fault = fault_named(name, a, b)?;
                self.faults.push(Planned { at_ns: number(at_ns)?, node, fault });
            }
            _ => return Err(LineError::NoLine),
        }
        Ok(())
    }
}

/// Which node a fault strikes, at the end of its line: nothing of the first.
fn on_node(node: u32) -> String {
    if node == 0 { "\n".to_owned() } else { format!(" on {node}\n") }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, LineError> {
    word.parse().map_err(|_| LineError::NoNumber(word.to_owned()))
}

impl Class {
    /// Its name in plans and in the names of its stream.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::NestedCrash => "nested-crash",
            Self::WriteError => "write-error",
            Self::FullDisk => "full-disk",
            Self::Stall => "stall",
            Self::FlipUnacked => "flip-unacknowledged",
            Self::FlipAnywhere => "flip-anywhere",
            Self::ClockJump => "clock-jump",
            Self::SlowPool => "slow-pool",
            Self::CleanStop => "clean-stop",
            Self::StateDamage => "state-damage",
            Self::Reopen => "reopen",
            Self::Replication => "replication",
            Self::Cut => "cut",
            Self::Pause => "pause",
            Self::Together => "together",
            Self::SlowDisk => "slow-disk",
            Self::Members => "members",
            Self::Usurp => "usurp",
            Self::LyingFlush => "lying-flush",
        }
    }

    /// The class of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let apart = [Self::StateDamage, Self::Reopen, Self::Usurp, Self::LyingFlush];
        CLASSES.into_iter().chain(GROUP_CLASSES).chain(apart).find(|class| class.name() == name)
    }
}

fn fault_words(fault: Fault) -> (&'static str, u64, i64) {
    match fault {
        Fault::Crash { nested } => ("crash", 0, i64::from(nested)),
        Fault::WriteError { shard } => ("write-error", u64::from(shard), 0),
        Fault::FullDisk { for_ns } => ("full-disk", for_ns, 0),
        Fault::Stall { shard, for_ns } => ("stall", for_ns, i64::from(shard)),
        Fault::FlipUnacked { bits } => ("flip-unacknowledged", u64::from(bits), 0),
        Fault::FlipAnywhere { shard } => ("flip-anywhere", u64::from(shard), 0),
        Fault::ClockJump { by_ms } => ("clock-jump", 0, by_ms),
        Fault::StateDamage { shard } => ("state-damage", u64::from(shard), 0),
        Fault::Reopen { shard, for_ns } => ("reopen", for_ns, i64::from(shard)),
        Fault::Pause { for_ns } => ("pause", for_ns, 0),
        Fault::SlowDisk { shard, for_ns } => ("slow-disk", for_ns, i64::from(shard)),
        Fault::Cut { shape: CutShape::Split(mask), for_ns } => ("cut-split", for_ns, i64::from(mask)),
        Fault::Cut { shape: CutShape::Between(peer), for_ns } => ("cut-between", for_ns, i64::from(peer)),
        Fault::Cut { shape: CutShape::Towards(peer), for_ns } => ("cut-towards", for_ns, i64::from(peer)),
        Fault::Cut { shape: CutShape::Around, for_ns } => ("cut-around", for_ns, 0),
        Fault::Members { partition, draw } => ("members", u64::from(partition), i64::from(draw)),
        Fault::Usurp { how: Usurper::Transfer, after_ns } => ("usurp-transfer", after_ns, 0),
        Fault::Usurp { how: Usurper::Restart, after_ns } => ("usurp-restart", after_ns, 0),
        Fault::Usurp { how: Usurper::LateAnswers, after_ns } => ("usurp-late-answers", after_ns, 0),
        Fault::CleanStop => ("clean-stop", 0, 0),
        Fault::Replication { on } => ("replication", u64::from(on), 0),
    }
}

fn fault_named(name: &str, a: &str, b: &str) -> Result<Fault, LineError> {
    Ok(match name {
        "crash" => Fault::Crash { nested: number(b)? },
        "write-error" => Fault::WriteError { shard: number(a)? },
        "full-disk" => Fault::FullDisk { for_ns: number(a)? },
        "stall" => Fault::Stall { for_ns: number(a)?, shard: number(b)? },
        "flip-unacknowledged" => Fault::FlipUnacked { bits: number(a)? },
        "flip-anywhere" => Fault::FlipAnywhere { shard: number(a)? },
        "clock-jump" => Fault::ClockJump { by_ms: number(b)? },
        "state-damage" => Fault::StateDamage { shard: number(a)? },
        "reopen" => Fault::Reopen { for_ns: number(a)?, shard: number(b)? },
        "pause" => Fault::Pause { for_ns: number(a)? },
        "slow-disk" => Fault::SlowDisk { for_ns: number(a)?, shard: number(b)? },
        "cut-split" => Fault::Cut { shape: CutShape::Split(number(b)?), for_ns: number(a)? },
        "cut-between" => Fault::Cut { shape: CutShape::Between(number(b)?), for_ns: number(a)? },
        "cut-towards" => Fault::Cut { shape: CutShape::Towards(number(b)?), for_ns: number(a)? },
        "cut-around" => Fault::Cut { shape: CutShape::Around, for_ns: number(a)? },
        "members" => Fault::Members { partition: number(a)?, draw: number(b)? },
        "usurp-transfer" => Fault::Usurp { how: Usurper::Transfer, after_ns: number(a)? },
        "usurp-restart" => Fault::Usurp { how: Usurper::Restart, after_ns: number(a)? },
        "usurp-late-answers" => Fault::Usurp { how: Usurper::LateAnswers, after_ns: number(a)? },
        "clean-stop" => Fault::CleanStop,
        "replication" => Fault::Replication { on: number::<u64>(a)? != 0 },
        _ => return Err(LineError::NoFault(name.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_down() {
        for seed in 0..300 {
            let mut plan = Plan::draw(seed, Planted::all().first().copied());
            assert_eq!(Plan::decode(&plan.encode()).as_ref(), Ok(&plan), "seed {seed}");
            plan.knobs.nodes = 3;
            plan.faults = plan.knobs.schedule(seed);
            assert_eq!(Plan::decode(&plan.encode()).as_ref(), Ok(&plan), "seed {seed} with three nodes");
        }
        let why = |text| Plan::decode(text).unwrap_err().why;
        let earlier = Plan::decode("knob hand_over_bytes 77").map(|plan| plan.knobs.flush_bytes);
        assert_eq!(earlier, Ok(77), "a number by the name that earlier versions gave it");
        assert_eq!(why("knob speed 3"), LineError::NoKnob("speed".to_owned()));
        assert_eq!(why("fault 3 flood 0 0"), LineError::NoFault("flood".to_owned()));
        assert_eq!(why("fault 3 crash 0 0 in 2"), LineError::NoLine);
        assert_eq!(why("fault three crash 0 0"), LineError::NoNumber("three".to_owned()));
        let error = Plan::decode("seed 3\nknob segment_bytes 5000000000").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"knob segment_bytes 5000000000\": segment_bytes cannot be 5000000000"
        );
    }
}
