//! The shards of a core.

pub mod gate;
pub mod host;
pub mod jobs;
pub mod rest;
