//! The simulated world: nodes (one, three or five) with the real [`crate::Shard`] and the real WAL, over a disk, a
//! clock, a pool and clients that are drawn from a seed.
//!
//! Reading order: `rng` and `agenda` (what makes it repeatable), `swarm` and `plan` (what a seed draws), `disk`, `clock`,
//! `node`, `process`, `clients`, `faults`, `usurp`, `net`, `mail` (the world's parts), `world` (the loop and the acts), `workload`,
//! `observed`, `check`, `history`, `safety`, `leases`, `sleepers`, `left_behind`, `installs`, `images` (what is judged, and by whom), `trace`, `probes`,
//! `batch`, `shrink`
//! (what comes out).

mod agenda;
mod asking;
mod batch;
mod check;
mod clients;
mod clock;
mod disk;
mod faults;
mod groups;
mod history;
mod images;
mod installs;
mod joiners;
mod leases;
mod left_behind;
mod mail;
mod members;
mod net;
mod node;
mod observed;
mod options;
mod pace;
mod plain;
mod plan;
mod planted;
mod probes;
mod process;
mod quorum;
mod rng;
mod safety;
#[cfg(test)]
mod scripted;
mod shown;
mod shrink;
mod sleepers;
mod swarm;
#[cfg(test)]
mod tests;
mod trace;
mod usurp;
mod workload;
mod world;

pub use batch::{Batch, Summary, play, play_watched};
pub use check::Violation;
pub use net::{Cut, Fared, Links, Net, Parcel};
pub use plain::PlainSubject;
pub use plan::{LineError, Plan, PlanError};
pub use planted::Planted;
pub use probes::Probes;
pub use rng::Rng;
pub use shrink::shrink;
pub use swarm::{CLASSES, Class, CutShape, Fault, GROUP_CLASSES, Knobs, Planned};
pub use trace::Event;
pub use usurp::Usurper;
pub use workload::{Model, Subject};
pub use world::{Ending, Report, Watch, run};
