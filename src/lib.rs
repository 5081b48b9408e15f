//! Corduroy: a replicated storage engine that speaks the Redis protocol.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod node;
pub mod resp;
pub mod store;
