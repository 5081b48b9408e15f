//! One connection to a peer: its socket, how far that is, and what it has not taken yet.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use bytes::Bytes;

use crate::runtime::Socket;

/// How far a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Dialling,
    Open,
    /// It is closed once all is written, at this time at the latest.
    Closing {
        until_ns: u64,
    },
}

/// What a socket has taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    pub bytes: usize,
    /// Nothing is left.
    pub is_all: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub socket: Socket,
    pub stage: Stage,
    pub unsent: VecDeque<Bytes>,
    /// It is among those that the next turn reads.
    pub is_listed: bool,
    /// The other side sends no more: what it sent before is there to be read.
    pub has_ended: bool,
}

impl Wire {
    pub const fn new(socket: Socket, stage: Stage) -> Self {
        Self { socket, stage, unsent: VecDeque::new(), is_listed: false, has_ended: false }
    }

    /// Sends what the socket takes.
    pub fn send(&mut self) -> io::Result<Sent> {
        let mut bytes = 0;
        while let Some(front) = self.unsent.front_mut() {
            match self.socket.try_send(front) {
                Ok(sent) => {
                    bytes += sent;
                    drop(front.split_to(sent));
                    if front.is_empty() {
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Sent { bytes, is_all: false });
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent { bytes, is_all: true })
    }
}
