//! The session's side of a connection's driver: output taken, reading wanted, the end.

use super::{Ending, Output, Session};
use crate::resp::backend::Wish;

/// Output that ends a connection while it is still being made, whatever the settings allow: it has to be held in memory.
pub(super) const OUTPUT_HARD_BYTES: usize = 128 << 20;
/// Requests kept for a client that has not given the password; reading stops above it.
const UNAUTHENTICATED_INPUT_BYTES: usize = 16 << 10;

impl Session {
    /// What it wants of its owner since that was taken last; to be taken after every call that lets it work.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.state.wishes)
    }

    /// What is to be written to the client.
    #[must_use]
    pub const fn output(&self) -> &Output {
        &self.out
    }

    /// The same, to be sent. Call [`Session::resume`] after.
    pub fn output_mut(&mut self) -> &mut Output {
        self.end_tally();
        self.clock_is_fresh = false;
        &mut self.out
    }

    /// Takes what is to be written. Call [`Session::resume`] after.
    #[must_use]
    pub fn take_output(&mut self) -> Output {
        self.end_tally();
        self.clock_is_fresh = false;
        std::mem::take(&mut self.out)
    }

    /// Bytes of replies that are not to be written yet, behind one that is still to come.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.bytes
    }

    /// Submitted requests whose outcome has not come yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a request is under way that may wait for its turn: which ones do, only their shard knows.
    #[must_use]
    pub fn may_await_heavy(&self) -> bool {
        self.may_wait && self.in_flight > 0
    }

    /// Whether more bytes should be read from the client now.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        !self.is_paused() && !self.is_unfinished()
    }

    /// Whether bytes may be read that cannot be carried out yet, since the client does not take its replies: it may be one
    /// that sends all its requests before it reads, and would wait for itself.
    #[must_use]
    pub fn holds_more_input(&self) -> bool {
        let limit = match self.state.authenticated {
            true => self.state.hub.shares.held_input(),
            false => UNAUTHENTICATED_INPUT_BYTES,
        };
        self.state.ending == Ending::No && self.held_input_bytes() < limit
    }

    /// Bytes received that are not carried out yet.
    #[must_use]
    pub fn held_input_bytes(&self) -> usize {
        self.pending.len() - self.head
    }

    /// Whether the connection should be closed once [`Session::output`] is written.
    #[must_use]
    pub fn should_close(&self) -> bool {
        self.is_aborted() || (self.state.ending == Ending::AfterReplies && self.queue.is_empty())
    }

    /// Whether the connection should be closed at once: killed, or too slow a reader. Outcomes of requests still in flight
    /// have nobody to go to.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.state.ending == Ending::AtOnce || self.state.client.is_killed()
    }

    /// Whether a request has begun to arrive and has not ended; for the time limit on half-sent requests.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        self.wants_read() && (self.head < self.pending.len() || self.parser.is_dropping())
    }

    /// Drops all that was to be carried out or sent: the connection is closed.
    pub fn abandon(&mut self) {
        self.end_tally();
        self.state.ending = Ending::AtOnce;
        (self.pending, self.head, self.out) = (Vec::new(), 0, Output::default());
        (self.transaction, self.census, self.roster) = (None, None, None);
        self.queue.iter_mut().for_each(|slot| slot.body = super::Body::default());
        self.held = super::Held::default();
    }

    /// Carries out no more of what has come; what is under way is still answered.
    pub fn end_after_replies(&mut self) {
        if self.state.ending == Ending::No {
            self.state.ending = Ending::AfterReplies;
        }
    }

    /// Bytes that this session holds on the heap for input and output.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.pending.capacity() + self.out.held_bytes() + self.scratch.capacity() + self.in_flight_bytes
    }
}
