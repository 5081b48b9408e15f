//! The state: what an entry means, and where it goes.
pub mod op;
pub use op::{Condition, ErrorKind, Expiry, List, Op, OpError, Outcome, SetReply, SetWhen};
