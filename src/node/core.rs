//! What hosts and front of a core have in common: its number, its clock, the configuration as it follows it, what it sleeps
//! on, and the wish for another pass.
//!
//! Invariant: one thread has it, and no borrow of it is held across a call.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use corduroy_shards::Now;
use corduroy_shards::runtime::Poller;

use super::clock::wall_ms;
use super::facts::CoreFacts;
use super::shared::Shared;
use crate::config::Config;

/// See the file's head.
pub struct Core {
    /// Its number.
    pub index: usize,
    /// What all cores see.
    pub shared: Arc<Shared>,
    /// What it sleeps on.
    pub poller: Poller,
    /// Something came up that another pass has to look at.
    is_woken: Cell<bool>,
    /// The configuration as of `config_version`.
    config: RefCell<Rc<Config>>,
    config_version: Cell<u64>,
    now: Cell<Now>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Core {
    /// The core of this number.
    ///
    /// # Errors
    /// What the system says: out of descriptors.
    pub fn new(shared: Arc<Shared>, index: usize) -> io::Result<Rc<Self>> {
        let version = shared.version();
        let config = shared.config();
        Ok(Rc::new(Self {
            index,
            poller: Poller::new()?,
            is_woken: Cell::new(false),
            config: RefCell::new(Rc::new(config)),
            config_version: Cell::new(version),
            now: Cell::new(Now { mono_ns: shared.mono_ns(), wall_ms: wall_ms() }),
            shared,
        }))
    }

    /// Has the driver make another pass before it sleeps.
    pub fn wake(&self) {
        self.is_woken.set(true);
    }

    /// Whether another pass was asked for; takes the wish.
    pub fn take_woken(&self) -> bool {
        self.is_woken.replace(false)
    }

    /// The time, as of the last look at the clock.
    pub fn now(&self) -> Now {
        self.now.get()
    }

    /// Looks at the clock.
    pub fn tick(&self) -> Now {
        let now = Now { mono_ns: self.mono_ns(), wall_ms: wall_ms() };
        self.now.set(now);
        now
    }

    /// The monotonic clock as of now, in ns since the node started.
    pub fn mono_ns(&self) -> u64 {
        self.shared.mono_ns()
    }

    /// The configuration, refreshed if another core changed it.
    pub fn config(&self) -> Rc<Config> {
        let version = self.shared.version();
        if self.config_version.replace(version) != version {
            *self.config.borrow_mut() = Rc::new(self.shared.config());
        }
        Rc::clone(&self.config.borrow())
    }

    /// Its figures.
    pub fn facts(&self) -> &CoreFacts {
        self.shared.facts.get(self.index).expect("there are figures of each core")
    }
}

/// The core of a connection, from its number.
pub fn core_of_conn(conn: u64) -> usize {
    (conn >> 48) as usize
}
