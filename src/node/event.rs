//! Whose news it is that woke a core: the poller's tokens, in words.

/// The source of an event. As a token, connections keep their own numbers, whose top bit is never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection, by its number.
    Conn(u64),
    /// The core's doorbell: messages or finished jobs.
    Bell,
    /// The log of a shard, by its index on the core: a write or read has ended.
    Log(usize),
    /// A listener, by its index on the core.
    Listener(usize),
    /// A connection to a peer, by its number.
    Peer(u64),
    /// The listener for peers.
    PeerListener,
}

const OTHER: u64 = 1 << 63;
const KIND_SHIFT: u32 = 48;
const INDEX_MASK: u64 = (1 << KIND_SHIFT) - 1;

impl Event {
    /// The token that stands for it.
    pub fn token(self) -> u64 {
        let other = |kind: u64, index: usize| OTHER | kind << KIND_SHIFT | (index as u64 & INDEX_MASK);
        match self {
            Self::Conn(id) => {
                assert!(id & OTHER == 0, "a connection's number is its core, its uses and its index");
                id
            }
            Self::Bell => other(0, 0),
            Self::Log(at) => other(1, at),
            Self::Listener(at) => other(2, at),
            Self::Peer(id) => {
                assert!(id <= INDEX_MASK, "connections to peers are counted");
                OTHER | 3 << KIND_SHIFT | id
            }
            Self::PeerListener => other(4, 0),
        }
    }

    /// What a token stands for.
    pub fn of(token: u64) -> Self {
        let index = (token & INDEX_MASK) as usize;
        match (token & OTHER, (token & !OTHER) >> KIND_SHIFT) {
            (0, _) => Self::Conn(token),
            (_, 0) => Self::Bell,
            (_, 1) => Self::Log(index),
            (_, 2) => Self::Listener(index),
            (_, 3) => Self::Peer(token & INDEX_MASK),
            (_, 4) => Self::PeerListener,
            (_, kind) => unreachable!("nobody makes tokens of kind {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_events_apart() {
        let core_7 = 7 << 48 | 3 << 16 | 9;
        for event in [
            Event::Conn(0),
            Event::Conn(core_7),
            Event::Bell,
            Event::Log(0),
            Event::Log(65),
            Event::Listener(1),
        ] {
            assert_eq!(Event::of(event.token()), event);
        }
    }
}
