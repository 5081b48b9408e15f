//! Corduroy: a replicated storage engine that speaks the Redis protocol.

pub mod cli;
pub mod config;
pub mod node;
pub mod resp;
pub mod store;
