//! What the small state machine keeps, and what it has done off the core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// One partition's state.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Part {
    pub data: BTreeMap<String, String>,
    pub applied: u64,
    pub stamp_ms: u64,
    /// Every op ever applied, with its entry's number: shows doubles, gaps and order.
    pub history: Vec<(u64, String)>,
}

/// What survives without the log.
pub type Saved = Rc<RefCell<BTreeMap<u64, Part>>>;

/// Work off the core.
pub enum Job {
    Flush(BTreeMap<u64, Part>),
    Fetch(String),
}

/// Why a flush was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no space left for the state")]
pub struct NoSpace;
