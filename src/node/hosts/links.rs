//! The way to the other cores: this core's ends of the rings, and what they have no room for yet.
//!
//! Invariant: messages to a core keep their order. While any waits for room, nothing more is read from this core's sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use corduroy_shards::runtime::{Doorbell, Endpoint, Full};

use crate::node::core::Core;
use crate::node::facts::bump;
use crate::node::message::Message;

/// See the file's head.
pub struct Links {
    core: Rc<Core>,
    mesh: RefCell<Endpoint<Message>>,
    bell: Arc<Doorbell>,
    /// What other cores' rings had no room for.
    outbox: RefCell<Vec<VecDeque<Message>>>,
    outbox_len: Cell<usize>,
    /// Something has waited for room since that was last asked for.
    was_congested: Cell<bool>,
}

impl Links {
    /// Of these ends.
    pub fn new(core: Rc<Core>, mesh: Endpoint<Message>) -> Self {
        Self {
            core,
            outbox: RefCell::new((0..mesh.cores()).map(|_| VecDeque::new()).collect()),
            outbox_len: Cell::new(0),
            was_congested: Cell::new(false),
            bell: Arc::clone(mesh.bell()),
            mesh: RefCell::new(mesh),
        }
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.outbox.borrow().len()
    }

    /// What wakes this core.
    pub const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Sends to another core, or keeps what its ring has no room for.
    pub fn post(&self, core: usize, message: Message) {
        self.core.wake();
        let mut outbox = self.outbox.borrow_mut();
        let waiting = outbox.get_mut(core).expect("there is a queue for each core");
        if waiting.is_empty() {
            match self.mesh.borrow_mut().send(core, message) {
                Ok(()) => return bump(&self.core.facts().hops, 1),
                Err(Full(message)) => waiting.push_back(message),
            }
        } else {
            waiting.push_back(message);
        }
        self.outbox_len.set(self.outbox_len.get() + 1);
        self.was_congested.set(true);
    }

    /// Whether something waits for room in another core's ring; then nothing more is read from sockets.
    pub fn is_congested(&self) -> bool {
        self.outbox_len.get() > 0
    }

    /// Whether something has waited for room since this was last asked, and nothing does any more: connections that were
    /// looked at meanwhile were not read on, even if there was room again before the pass ended.
    pub fn take_relief(&self) -> bool {
        !self.is_congested() && self.was_congested.take()
    }

    /// Sends what waits and has room now, and wakes the cores that were sent something.
    pub fn flush(&self) {
        let mut mesh = self.mesh.borrow_mut();
        if self.is_congested() {
            let mut sent = 0;
            for (core, waiting) in self.outbox.borrow_mut().iter_mut().enumerate() {
                while let Some(message) = waiting.pop_front() {
                    if let Err(Full(message)) = mesh.send(core, message) {
                        waiting.push_front(message);
                        break;
                    }
                    sent += 1;
                }
            }
            self.outbox_len.set(self.outbox_len.get() - sent);
            bump(&self.core.facts().hops, sent as u64);
        }
        mesh.flush();
    }

    /// Takes what has come, at most so many messages from each core.
    pub fn drain(&self, max: usize) -> Vec<Message> {
        // Handling a message may post others, so the rings must not be borrowed meanwhile.
        let mut messages = Vec::new();
        self.mesh.borrow_mut().drain(max, |message| messages.push(message));
        messages
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.mesh.borrow().is_empty()
    }
}
