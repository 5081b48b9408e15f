//! Bytes in: what is kept of them, how far they are carried out now, and what stops that.
//!
//! Invariant: memory follows the bytes that came, and a request that is known to end is given no more than it needs. A
//! session does a bounded amount of work in a turn, whatever it was sent.

use super::{
    Backend, Ending, LARGE_REPLY_BYTES, MAX_IN_FLIGHT, OUTPUT_PAUSE_BYTES, Refusal, Session,
    UNAUTHENTICATED_OUTPUT_BYTES, UNITS_A_REQUEST, take,
};
use smallvec::SmallVec;

use crate::resp::parse::{Limits, Parsed, keys_of_gets};
use crate::store::PREFETCH_KEYS;

/// Memory for input that a connection keeps when it has none.
const SPARE_BYTES: usize = 64 << 10;

impl Session {
    /// Gives the session its share of work for a turn: a request is a unit, one that takes longer is more. What it has
    /// left undone then waits for the next turn; see [`Session::is_unfinished`].
    pub fn begin_turn(&mut self, units: u32) {
        (self.units, self.worked) = (units, 0);
    }

    /// The work done in this turn: more than the share, if the last request took more than was left.
    #[must_use]
    pub const fn worked(&self) -> u32 {
        self.worked
    }

    /// Whether requests are kept that the share of work did not suffice for.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        let has_more = self.head < self.pending.len() || self.census.is_some() || self.roster.is_some();
        self.units == 0 && has_more && self.state.ending == Ending::No
    }

    /// Takes bytes from the client and carries out as many requests as the bounds permit. The rest is kept.
    pub fn input(&mut self, bytes: &[u8], backend: &dyn Backend) {
        if self.state.ending != Ending::No {
            return;
        }
        if self.head == self.pending.len() {
            self.pending.clear();
            self.head = 0;
            let used = self.drive(bytes, backend);
            self.keep(bytes.get(used..).unwrap_or_default());
        } else {
            self.keep(bytes);
            self.resume(backend);
        }
        self.shrink_input();
    }

    /// Goes on with requests that were received but not carried out; to be called after output was taken. Cheap if there
    /// is nothing to do.
    pub fn resume(&mut self, backend: &dyn Backend) {
        self.go_on_census(backend);
        self.go_on_roster(backend);
        if self.head == self.pending.len() || !self.may_go_on() {
            return;
        }
        let (pending, head) = (take(&mut self.pending), take(&mut self.head));
        let used = self.drive(pending.get(head..).unwrap_or_default(), backend);
        (self.pending, self.head) = (pending, head + used);
        if self.head * 2 >= self.pending.len() {
            self.pending.drain(..self.head);
            self.head = 0;
            self.shrink_input();
        }
    }

    /// One huge request must not pin its memory for as long as the connection is open.
    fn shrink_input(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > SPARE_BYTES {
            self.pending = Vec::new();
        } else if self.pending.capacity() > 1 << 20 && self.pending.len() < SPARE_BYTES {
            self.pending.shrink_to(SPARE_BYTES);
        }
    }

    /// Keeps bytes for later. Of a request whose end is known no more is reserved than it takes, and never more than twice
    /// what has come.
    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.pending.len() + bytes.len();
        if needed > self.pending.capacity() {
            let end = self.head + self.parser.expected_bytes();
            let target = if end > needed { end.min(2 * needed) } else { needed + needed / 4 };
            self.pending.reserve_exact(target - self.pending.len());
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Whether a request may be carried out now.
    fn may_go_on(&self) -> bool {
        self.units > 0 && !self.is_paused()
    }

    /// Whether something else than its share of work stops it. That it is used up stops nothing where nothing is left to
    /// do: what comes next brings a turn of its own.
    pub(super) fn is_paused(&self) -> bool {
        let output = if self.state.authenticated { OUTPUT_PAUSE_BYTES } else { UNAUTHENTICATED_OUTPUT_BYTES };
        self.stalled
            || self.pause.is_some()
            || self.census.is_some()
            || self.roster.is_some()
            || self.state.ending != Ending::No
            || self.out.len() + self.held.bytes > output
            || self.in_flight_bytes > self.state.hub.shares.in_flight()
            || self.in_flight >= MAX_IN_FLIGHT
            || (self.unsure > 0 && self.unsure >= self.window())
    }

    /// Bytes that may be read at once: few from a client that has not given the password.
    #[must_use]
    pub fn read_max_bytes(&self) -> usize {
        if self.state.authenticated {
            usize::MAX
        } else {
            Limits::UNAUTHENTICATED.max_request_bytes.saturating_sub(self.held_input_bytes()).max(1)
        }
    }

    /// Carries out requests from the front of `bytes`; answers how many bytes are done with.
    fn drive(&mut self, bytes: &[u8], backend: &dyn Backend) -> usize {
        if !self.state.authenticated && backend.requires_password().is_none() {
            // There was one when it came.
            self.state.authenticate();
        }
        self.end_tally();
        let mut parser = take(&mut self.parser);
        self.clock_ns = backend.mono_ns();
        self.clock_is_fresh = true;
        self.state.renew_limits();
        let (mut used, mut fetched) = (0, 0);
        while self.may_go_on() {
            let rest = bytes.get(used..).unwrap_or_default();
            if fetched == 0 && self.in_flight == 0 {
                fetched = fetch_ahead(rest, backend);
            }
            fetched = fetched.saturating_sub(1);
            match parser.parse(rest, &self.state.limits) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Nothing(len) | Parsed::Dropped(len)) => used += len,
                Ok(Parsed::TooBig(len, why)) => {
                    used += len;
                    self.too_big(&Refusal::owned(format!("ERR {why}")));
                }
                Ok(Parsed::Request(len)) => {
                    let args = parser.args(rest);
                    (self.request_bytes, self.unparsed_bytes) = (len, rest.len());
                    let before = self.out.len();
                    let is_done = self.request(&args, backend);
                    (self.request_bytes, self.unparsed_bytes) = (0, 0);
                    if !is_done {
                        self.stalled = true;
                        break;
                    }
                    used += len;
                    let brought = self.out.len().saturating_sub(before) / super::BYTES_A_UNIT;
                    self.work(UNITS_A_REQUEST.saturating_add(u32::try_from(brought).unwrap_or(u32::MAX)));
                }
                Err(error) => {
                    self.protocol_error(error);
                    used = bytes.len();
                }
            }
        }
        self.parser = parser;
        self.end_run(backend);
        self.clock_is_fresh = false;
        self.publish(backend);
        used
    }

    /// Counts work done in this turn.
    pub(super) fn work(&mut self, units: u32) {
        self.units = self.units.saturating_sub(units);
        self.worked = self.worked.saturating_add(units);
    }
}

/// Has the rows fetched that the GETs need which come first, if there are several. Returns of how many.
fn fetch_ahead(bytes: &[u8], backend: &dyn Backend) -> usize {
    let keys: SmallVec<[&[u8]; PREFETCH_KEYS]> = keys_of_gets(bytes).take(PREFETCH_KEYS).collect();
    if keys.len() > 1 {
        backend.prefetch(&keys);
    }
    keys.len()
}

const _: () = assert!(LARGE_REPLY_BYTES < OUTPUT_PAUSE_BYTES, "a large reply may still be one of several");
