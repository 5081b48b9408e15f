//! How a connection begins.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Ending, Limits, Output, Parser, ReplyMode, Session, commands};
use crate::resp::Backend;
use crate::resp::clients::Hub;

/// What is known of a connection when it is accepted.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The connection's number; never reused. The upper 16 bits are the core.
    pub conn: u64,
    /// The core's place in the hub (0 up).
    pub core: usize,
    /// The client's address, `ip:port`.
    pub peer: String,
    /// The address that it connected to.
    pub local: String,
    /// The socket's number, for CLIENT LIST.
    pub fd: i32,
}

impl Session {
    /// A new connection, entered in the hub's registry until it is dropped.
    #[must_use]
    pub fn new(hub: &Arc<Hub>, opening: Opening, backend: &dyn Backend) -> Self {
        hub.stats(opening.core).count_connection();
        let (core, conn) = (opening.core, opening.conn);
        let client = hub.clients.add(opening, backend.now_ms());
        Self {
            hub: Arc::clone(hub),
            client,
            core,
            conn,
            table: commands::table(),
            parser: Parser::default(),
            limits: Limits::UNAUTHENTICATED,
            pending: Vec::new(),
            head: 0,
            out: Output::default(),
            queue: VecDeque::new(),
            front: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            parts_bytes: 0,
            watched_bytes: 0,
            peak_output_bytes: 0,
            units: u32::MAX,
            worked: 0,
            request_bytes: 0,
            unparsed_bytes: 0,
            held: super::Held::default(),
            stalled: false,
            may_wait: false,
            unsure: 0,
            unsure_reads: 0,
            reply_size_hint: super::UNKNOWN_REPLY_BYTES,
            ending: Ending::No,
            scratch: Vec::new(),
            resp3: false,
            authenticated: backend.requires_password().is_none(),
            reply_mode: ReplyMode::On,
            muted: false,
            transaction: None,
            watched: Vec::new(),
            watches_in_flight: 0,
            clock_ns: 0,
            clock_is_fresh: false,
            last_command: u16::MAX,
            census: None,
            roster: None,
            pause: None,
            may_guess: false,
            run: (0, 0),
        }
    }

    /// The password was right. What follows in the same bytes has an authenticated client's limits already.
    pub(in crate::resp) fn authenticate(&mut self) {
        self.authenticated = true;
        self.may_guess = false;
        self.limits = self.current_limits();
    }

    /// What a request may cost now.
    pub(super) fn current_limits(&self) -> Limits {
        if self.authenticated {
            Limits::with_max_bulk(self.hub.max_bulk_bytes())
        } else {
            Limits::UNAUTHENTICATED
        }
    }
}
