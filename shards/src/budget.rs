//! How much of what takes time a part of a turn may still do.
//!
//! Invariant: it only becomes less.

/// What apply may still do in this turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub ops: usize,
    pub bytes: usize,
}

impl Budget {
    /// For what is not apply.
    pub const NONE: Self = Self { ops: 0, bytes: 0 };

    pub const fn is_spent(self) -> bool {
        self.ops == 0 || self.bytes == 0
    }

    pub fn spend(&mut self, bytes: usize) {
        self.ops = self.ops.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
