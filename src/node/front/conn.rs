//! A connection: a socket, its session, and what is known of both.

use std::cell::{Cell, RefCell};

use corduroy_shards::runtime::Socket;

use super::account::Account;
use crate::node::message::CoreSet;
use crate::resp::output::SharesMark;
use crate::resp::{Output, Session};

/// One connection.
pub struct Conn {
    /// Its number; never reused.
    pub id: u64,
    /// Its socket.
    pub socket: Socket,
    /// Its session. Borrowed for one call at a time.
    pub session: RefCell<Session>,
    /// On the core's list of connections to follow up on.
    pub is_listed: Cell<bool>,
    /// On the core's list of connections to read.
    pub is_queued: Cell<bool>,
    /// On the core's list of connections whose turns are long.
    pub is_unfinished: Cell<bool>,
    /// Its last turn was long.
    pub is_long: Cell<bool>,
    /// On the core's list of connections that have much to send.
    pub is_sender: Cell<bool>,
    /// The socket may hold something unread.
    pub has_input: Cell<bool>,
    /// The end has been announced: reading goes on until it is reached, for no other event announces it.
    pub is_ending: Cell<bool>,
    /// It is closed.
    pub is_closed: Cell<bool>,
    /// The client will send no more, and all it sent is read.
    pub has_ended: Cell<bool>,
    /// What a full socket did not take, until all of it is sent.
    pub unsent: RefCell<Output>,
    /// When something came last, on the monotonic clock.
    pub last_input_ns: Cell<u64>,
    /// Since when a request has been arriving, and how much since.
    pub partial: Cell<Option<(u64, u64)>>,
    /// Bytes read that `partial` does not count yet.
    pub came_bytes: Cell<u64>,
    /// Since when it has had more unread replies than it may have for long.
    pub over_soft_since_ns: Cell<Option<u64>>,
    /// What it holds, as last counted into the core's sum.
    pub account: Account,
    /// The cores where something of it may have waited.
    pub waited_at: CoreSet,
    /// The cores that know of its end, as [`CoreSet::bits`].
    pub end_known_at: Cell<Option<u64>>,
}

impl Conn {
    /// A new one; its first request may have come with it.
    pub fn new(id: u64, socket: Socket, session: Session, now_ns: u64) -> Self {
        Self {
            id,
            socket,
            session: RefCell::new(session),
            is_listed: Cell::new(false),
            is_queued: Cell::new(false),
            is_unfinished: Cell::new(false),
            is_long: Cell::new(false),
            is_sender: Cell::new(false),
            has_input: Cell::new(true),
            is_ending: Cell::new(false),
            is_closed: Cell::new(false),
            has_ended: Cell::new(false),
            unsent: RefCell::default(),
            last_input_ns: Cell::new(now_ns),
            partial: Cell::new(None),
            came_bytes: Cell::new(0),
            over_soft_since_ns: Cell::new(None),
            account: Account::default(),
            waited_at: CoreSet::default(),
            end_known_at: Cell::new(None),
        }
    }

    /// Also reads from a client that takes no replies, up to a limit. Not from one that is about to be closed: nothing of
    /// what it sent since is to be done.
    pub fn wants_read(&self) -> bool {
        let session = self.session.borrow();
        if session.is_aborted() {
            return false;
        }
        let holds_back = self.unsent_bytes() > 0 || session.waits_until_ns().is_some();
        session.wants_read() || (holds_back && session.holds_more_input())
    }

    /// Nothing under way and nothing left to do or to send.
    pub fn is_quiet(&self) -> bool {
        let session = self.session.borrow();
        self.unsent_bytes() == 0
            && session.output().is_empty()
            && session.in_flight() == 0
            && !session.is_unfinished()
    }

    /// Bytes that the socket did not take yet.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.borrow().len()
    }

    /// Bytes of replies that were copied and not sent yet; large values are not.
    #[cfg(test)]
    pub fn copied_bytes(&self) -> usize {
        self.unsent.borrow().copied_bytes() + self.session.borrow().output().copied_bytes()
    }

    /// Has the node see what it holds, and answers all of it.
    pub fn held_bytes(&self) -> usize {
        let unsent = self.unsent.borrow().held_bytes();
        size_of::<Self>() + self.session.borrow_mut().publish_footprint(unsent)
    }

    /// Stands for the large values that it holds: asking costs the same however many they are.
    pub fn shares_mark(&self) -> SharesMark {
        self.unsent.borrow().shares_mark() + self.session.borrow().shares_mark()
    }

    /// The large values that it holds: of each the whole that it is a part of, and how long that is.
    pub fn large_values(&self) -> Vec<(usize, usize)> {
        let (unsent, session) = (self.unsent.borrow(), self.session.borrow());
        let all = unsent.shares().chain(session.shares());
        all.map(|value| (value.whole(), value.held_len())).collect()
    }
}
