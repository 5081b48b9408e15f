//! What a store does by itself: flushes and the room they need, eviction, expiry, reading back after a start, verification.

pub(in crate::store) mod images;
pub(in crate::store) mod space;
pub(in crate::store) mod sweep;
pub(in crate::store) mod upkeep;
pub(in crate::store) mod verify;
pub(in crate::store) mod warm;
