//! A figure that each partition keeps of itself, summed over all of them.
//!
//! Invariant: whoever changes the part changes the sum, so that nobody has to look at all partitions for it.

/// See the file's head.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in crate::store) struct Sum(u64);

impl Sum {
    /// The sum.
    pub(in crate::store) const fn get(self) -> u64 {
        self.0
    }

    /// A partition has come that has so much.
    pub(in crate::store) const fn include(&mut self, part: u64) {
        self.0 += part;
    }

    /// A partition's part grows.
    pub(in crate::store) const fn add(&mut self, part: &mut u64, by: u64) {
        *part += by;
        self.0 += by;
    }

    /// A partition's part becomes less.
    pub(in crate::store) const fn sub(&mut self, part: &mut u64, by: u64) {
        *part -= by;
        self.0 -= by;
    }

    /// A partition has none of it any more.
    pub(in crate::store) const fn clear(&mut self, part: &mut u64) {
        self.0 -= *part;
        *part = 0;
    }
}
