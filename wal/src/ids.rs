//! The numbers of the log, each with a type of its own so that they cannot be confused.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The smallest value; for counted things it means "none yet".
            pub const ZERO: Self = Self(0);

            /// The bare number, for formats and messages.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number that follows.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One logical log inside the shared WAL. A replica's log carries its partition's id.
    LogId
}
id! {
    /// The number of an entry in its log; equal to the Raft index. The first entry is 1; 0 means "none".
    Lsn
}
id! {
    /// Raft's term. 0 before the first election, and in logs written with replication off.
    Term
}
id! {
    /// The sequence number of a segment in its WAL; grows by one with each segment put to use, never reused.
    SegmentSeq
}
id! {
    /// The sequence number of a group commit (one frame). Durability is a watermark over it.
    BatchSeq
}

/// A byte's position in a shard's WAL. Ordered as written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WalPosition {
    /// The segment.
    pub segment: SegmentSeq,
    /// Bytes from the start of the segment's file.
    pub offset: u32,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}
