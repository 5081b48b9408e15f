//! One replica: its group's Raft node or its own log, the registry of what it proposed, when reads may run.
//!
//! Nothing here knows the shard, the state machine or the disk: a replica says what must be written and what may be
//! applied, and learns from it what is durable and what is applied.

pub mod admit;
pub mod changes;
pub mod contact;
mod engine;
pub mod group;
pub mod guard;
pub mod history;
pub mod leadership;
pub mod lease;
pub mod left;
mod limits;
pub mod log_store;
pub mod membership;
pub mod positions;
pub mod proposals;
pub mod quiescence;
pub mod reads;
pub mod ready;
pub mod replica;
pub mod requests;
pub mod retention;
pub mod snapshot;
pub mod solo;
pub mod start;
