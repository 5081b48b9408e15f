//! Peers: what two nodes send to each other, as bytes and as connections. No socket, no clock, no chance: bytes,
//! times and nonces come as arguments.
//!
//! In reading order: [`message`] (what one replica sends to another), [`frame`] (the messages of a turn to one core of a
//! peer, on a connection), [`request`] (what is forwarded for clients), [`handshake`] (how two nodes agree to a connection), [`peers`] (all connections of a core).

pub mod beats;
mod decode;
pub mod founding;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod kind;
pub mod known;
mod link;
pub mod message;
pub mod output;
mod parcel;
pub mod peers;
pub mod refusal;
pub mod request;
mod split;
#[cfg(test)]
mod tests;

pub use founding::Founding;
pub use frame::{Frame, FrameError, FrameReader, FrameWriter, Lane};
pub use handshake::{Handshake, Local, PeerInfo};
pub use hello::{CoreId, Epoch, Nonce, Secret, ShardCore, SharedLimits, Versions};
pub use kind::{Kind, lane_of};
pub use known::{Founder, Founders, Known};
pub use link::{LinkKey, LinkState};
pub use message::{MessageDamage, Outgoing, Unsendable};
pub use output::{ConnId, Dropped, Ending, Output, Passed, PeerCounters, PeerOptions, To};
pub use parcel::Writable;
pub use peers::Peers;
pub use refusal::{Refusal, RefusalKind};
pub use request::{Forwarded, RequestId};
