//! Which connections may have something under way, in little memory: counters that connections share.
//!
//! Invariant: the answer "no" is certain.

use corduroy_wal::device::prefetch;

/// Which connections have a request in a partition's batches and rows. Connections share counters, so the answer may
/// be "maybe"; a read then rides behind writes of somebody else, which is never wrong: before it is answered it is looked
/// up exactly whether a read of its own is parked.
#[derive(Debug, Default)]
pub(crate) struct ConnFilter {
    counts: Option<Box<[u32; Self::COUNTERS]>>,
}

impl ConnFilter {
    const COUNTERS: usize = 64;

    fn index(conn: u64) -> usize {
        (conn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
    }

    pub fn add(&mut self, conn: u64) {
        let counts = self.counts.get_or_insert_with(|| Box::new([0; Self::COUNTERS]));
        if let Some(count) = counts.get_mut(Self::index(conn)) {
            *count += 1;
        }
    }

    pub fn sub(&mut self, conn: u64) {
        let count = self.counts.as_mut().and_then(|counts| counts.get_mut(Self::index(conn)));
        let count = count.filter(|count| **count > 0).expect("the connection's request was counted");
        *count -= 1;
    }

    /// Has the counters fetched into the processor's caches.
    pub fn prefetch(&self) {
        self.counts.as_deref().into_iter().for_each(prefetch);
    }

    /// Whether both count the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let counts = |filter: &Self| filter.counts.as_deref().copied().unwrap_or([0; Self::COUNTERS]);
        counts(self) == counts(other)
    }

    /// Gives back the memory of the counters if nothing is counted.
    pub fn rest(&mut self) {
        self.counts.take_if(|counts| counts.iter().all(|count| *count == 0));
    }

    pub fn may_hold(&self, conn: u64) -> bool {
        self.counts.as_ref().and_then(|counts| counts.get(Self::index(conn))).is_some_and(|count| *count > 0)
    }
}
