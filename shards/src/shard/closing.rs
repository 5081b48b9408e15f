//! The end of a shard's life in order, and its rests: what is durable is written down as such, so that a tail that is lost
//! later is seen to be missing.

use corduroy_wal::device::Device;

use super::Shard;
use super::io::ShardError;
use super::machine::StateMachine;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Has the log write down how far it is durable: for a shard at rest, and for one that is closed and idle. Turn on
    /// afterwards, as after any input.
    ///
    /// # Errors
    /// [`ShardError::Wal`]: a write of the log has failed, and the process must end.
    pub fn mark_end(&mut self) -> Result<(), ShardError> {
        Ok(self.wal_mut().mark_end()?)
    }

    /// Whether nothing waits, and the log has written down that it ends here. Costs as much as there are replicas.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_idle() && self.wal().is_end_marked()
    }
}
