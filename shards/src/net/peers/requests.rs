//! What is forwarded for clients: it goes on a lane of its own, and waits outside where that has no room.

use super::Peers;
use crate::ids::NodeId;
use crate::net::frame::Lane;
use crate::net::link::{LinkState, Waiting};
use crate::net::output::{Dropped, To};
use crate::net::parcel::{Parcel, Writable};
use crate::net::request::Forwarded;

impl Peers {
    /// Has a request of a client or an answer sent with the next frame to the core that owns the shard. What there is no way
    /// for is reported as [`Output::Unsent`](crate::net::Output::Unsent).
    ///
    /// # Errors
    /// The same, if there is no room for it now.
    pub fn forward(&mut self, to: To, forwarded: Forwarded, now_ns: u64) -> Result<(), Forwarded> {
        let link =
            self.route(to, Lane::Requests, !forwarded.is_request()).and_then(|key| self.links.get(&key));
        if link.is_some_and(|link| !link.has_room(forwarded.bytes(), &self.options)) {
            return Err(forwarded);
        }
        self.counters.count_forwarded(&forwarded, false);
        let is_long = forwarded.bytes() > self.local.limits.frame_bytes();
        let waiting = Waiting { to, message: Parcel::Forwarded(forwarded) };
        match is_long {
            true => self.drop_message(waiting, Dropped::TooLong),
            false => self.send(waiting, Lane::Requests, now_ns),
        }
        Ok(())
    }

    /// Whether a node is connected, on whichever lane.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        self.links.iter().any(|(key, link)| key.node == node && matches!(link.state, LinkState::Up(_)))
    }
}
