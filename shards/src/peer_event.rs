//! What has become of the shard of another storage, as groups hear of it.
//!
//! Invariant: one that is up, or has changed, was not down in between without an event.

use crate::ids::StorageId;

/// What has become of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// It is heard, for the first time, again, or as another process.
    Up(StorageId),
    /// It is not heard any more, or was another process.
    Down(StorageId),
    /// It is heard, and one of its replicas has ended.
    Changed(StorageId),
}
