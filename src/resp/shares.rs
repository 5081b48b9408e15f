//! What one connection may make the node hold, by kind: parts of what all of them may, so that none is closed for what
//! ordinary clients do.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The most that each kind may be, whatever the node's memory.
const EXPECTED_OUTPUT_BYTES: usize = 32 << 20;
const IN_FLIGHT_BYTES: usize = 64 << 20;
const HELD_INPUT_BYTES: usize = 32 << 20;

/// See the file's head.
#[derive(Debug)]
pub struct Shares {
    expected_output: AtomicUsize,
    in_flight: AtomicUsize,
    held_input: AtomicUsize,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            expected_output: AtomicUsize::new(EXPECTED_OUTPUT_BYTES),
            in_flight: AtomicUsize::new(IN_FLIGHT_BYTES),
            held_input: AtomicUsize::new(HELD_INPUT_BYTES),
        }
    }
}

impl Shares {
    /// Sets them by what all connections together may hold.
    pub fn set_total(&self, bytes: usize) {
        self.expected_output.store(EXPECTED_OUTPUT_BYTES.min(bytes / 16), Relaxed);
        self.in_flight.store(IN_FLIGHT_BYTES.min(bytes / 4), Relaxed);
        self.held_input.store(HELD_INPUT_BYTES.min(bytes / 4), Relaxed);
    }

    /// Output that the requests under way may be expected to bring.
    #[inline]
    pub fn expected_output(&self) -> usize {
        self.expected_output.load(Relaxed)
    }

    /// Bytes of requests that may be under way at a time.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests kept for a client that does not take its replies; reading stops above it.
    #[inline]
    pub fn held_input(&self) -> usize {
        self.held_input.load(Relaxed)
    }
}
