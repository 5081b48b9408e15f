//! The clocks of a node: the wall clock, and a monotonic one that begins with the node.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock, ms since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The wall clock, µs since 1970.
#[must_use]
pub fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// The monotonic clock, in ns since the node started.
pub fn mono_ns(started: Instant) -> u64 {
    started.elapsed().as_nanos() as u64
}
