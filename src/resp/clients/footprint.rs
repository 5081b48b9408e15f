//! What a connection holds in memory, by kind.

/// Bytes that a connection holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    /// A session and what the node keeps for each connection, without its buffers.
    pub fixed: usize,
    /// Input that is not carried out yet.
    pub input: usize,
    /// Memory reserved for input beyond that.
    pub input_free: usize,
    /// Arguments of requests under way, from when they are handed on until their outcome is there.
    pub arguments: usize,
    /// Commands queued by MULTI, and watched keys.
    pub queued: usize,
    /// Replies, finished or still waiting for their turn, that the connection's socket has not been offered.
    pub output: usize,
    /// Memory reserved for them, with the outcomes of requests whose other parts are still to come.
    pub output_reserved: usize,
    /// The most output there was at a time.
    pub output_peak: usize,
    /// Replies that the socket had no room for.
    pub unsent: usize,
    /// Name and library.
    pub names: usize,
}

impl Footprint {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> usize {
        self.fixed
            + self.input
            + self.input_free
            + self.arguments
            + self.queued
            + self.output_reserved
            + self.unsent
            + self.names
    }
}
