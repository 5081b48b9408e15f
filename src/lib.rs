//! Corduroy: a replicated storage engine that speaks the Redis protocol.

pub mod config;
pub mod resp;
pub mod store;
