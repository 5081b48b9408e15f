//! The Redis protocol: bytes to operations, outcomes to bytes.
//!
//! Sans-IO: a session is fed bytes and outcomes, and fills an output buffer.

pub mod backend;
pub mod clients;
pub mod commands;
pub mod conn;
pub mod errors;
#[cfg(test)]
mod fake;
pub mod guesses;
mod inline;
pub mod latency;
pub mod members;
pub mod output;
pub mod parse;
mod redirect;
pub mod reply;
pub mod session;
pub mod shares;
pub mod slowlog;
pub mod stats;

pub use backend::{Backend, Figure, SessionReply, Timing, Wish};
pub use clients::{Hub, Opening};
pub use output::Output;
pub use session::Session;

/// The shared part of the sessions of a node of so many cores.
#[must_use]
pub fn hub(cores: usize) -> std::sync::Arc<Hub> {
    Hub::new(cores, commands::table().entries.len())
}
