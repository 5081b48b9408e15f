//! Requests of clients for partitions that another node leads: what the node that has the client decides, and what the one
//! that leads keeps of them. Sans-IO: requests, answers, losses and times go in, decisions come out.
//!
//! In reading order: [`line`] (what one connection has under way in one partition, in its order), [`ended`] (connections that have
//! ended meanwhile), [`forwarder`] (all lines of a core, and where they lead), [`recent`] (what a shard here may give back),
//! [`serving`] (requests of other nodes under way here).

pub mod decisions;
pub mod ended;
pub mod forwarder;
mod line;
pub mod recent;
pub mod serving;
#[cfg(test)]
mod tests;

pub use decisions::{Decision, ForwardCounters, ForwardOptions, Here, Lead, Request, Taken};
pub use ended::End;
pub use forwarder::Forwarder;
pub use recent::{Handed, Recalled, Recent};
pub use serving::{Asked, FORWARDED_CORE, Serving, answer};
