//! How a connection begins.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{ConnState, Output, Parser, Session, commands};
use crate::resp::backend::Backend;
use crate::resp::clients::{Hub, Opening};
use crate::resp::slowlog::Briefs;

impl Session {
    /// A new connection, entered in the hub's registry until it is dropped.
    #[must_use]
    pub fn new(hub: &Arc<Hub>, opening: Opening, backend: &dyn Backend) -> Self {
        hub.stats(opening.core).count_connection();
        let (core, conn) = (opening.core, opening.conn);
        let client = hub.clients.add(opening, backend.now_ms());
        Self {
            state: ConnState::new(hub, client, backend),
            core,
            conn,
            table: commands::table(),
            parser: Parser::default(),
            pending: Vec::new(),
            head: 0,
            out: Output::default(),
            queue: VecDeque::new(),
            briefs: Briefs::default(),
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
            scratch: Vec::new(),
            transaction: None,
            watched: Vec::new(),
            watches_in_flight: 0,
            clock_ns: 0,
            clock_is_fresh: false,
            tally: super::Tally::default(),
            last_command: u16::MAX,
            newest: corduroy_shards::Kind::Read,
            census: None,
            roster: None,
            pause: None,
            run: (0, 0),
            is_clustered: backend.topology().is_some(),
        }
    }
}
