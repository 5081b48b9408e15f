//! Large values that rows and answers hold together: whoever asks for one gets a share of it, not a copy.
//!
//! Invariant: what is shared never changes. A row that is written while others hold shares of its value gets bytes of its
//! own first.

use std::ops::Range;
use std::sync::Arc;

/// A share of a large value.
#[derive(Clone)]
pub struct SharedBytes {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl SharedBytes {
    /// A share of this part of the bytes.
    ///
    /// # Panics
    /// If they are shorter.
    #[must_use]
    pub fn new(bytes: Arc<Vec<u8>>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= bytes.len(), "a share is part of the whole");
        Self { bytes, range }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.range.end - self.range.start
    }

    /// Identifies the value that this is a part of, as long as it is held.
    #[must_use]
    pub fn whole(&self) -> usize {
        Arc::as_ptr(&self.bytes).addr()
    }

    /// How many it keeps in memory: those of the whole.
    #[must_use]
    pub fn held_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A value that is kept beside its row: a share of it if it is large, else a copy.
#[derive(Debug)]
pub(in crate::store) enum Kept {
    Copy(Vec<u8>),
    Share(SharedBytes),
}

impl Kept {
    pub(in crate::store) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Copy(bytes) => bytes,
            Self::Share(bytes) => bytes.as_slice(),
        }
    }

    /// How many bytes had to be copied for it.
    pub(in crate::store) const fn copied_bytes(&self) -> usize {
        match self {
            Self::Copy(bytes) => bytes.len(),
            Self::Share(_) => 0,
        }
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for SharedBytes {}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}
