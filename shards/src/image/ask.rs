//! What a state machine is asked about images, and what it answers.
//!
//! An image is made by steps, so that it takes bounded memory and the asker sets the pace: `Open` waits until the machine has
//! persisted a point between two entries, `Begin` brings the first chunk, `Next` one chunk each. It is taken over by `Store`
//! for each chunk, in order, `Validate`, and `Install`, which validates all of it before anything changes. Whatever was opened is closed,
//! whatever was stored is installed or dropped.

use bytes::Bytes;
use corduroy_wal::{Lsn, Term};

use super::transfer::{Ended, ImageId};
use super::{Damage, Header};
use crate::ids::PartitionId;

/// Something that a state machine is asked; the answers come by `StateMachine::take_image_events`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageAsk {
    /// Make an image of the partition as of an entry from `at_least` on; nobody used the `number` before in this process.
    /// Answered by `Opened`.
    Open {
        /// Names the image from now on.
        number: u64,
        /// Of what.
        partition: PartitionId,
        /// The first entry as of which it may be.
        at_least: Lsn,
    },
    /// The first chunk of an opened image, once: it states what only the log has. Answered by `Chunk`.
    Begin {
        /// The image.
        number: u64,
        /// The term of the entry as of which it was opened.
        term: Term,
        /// The configuration as of that entry.
        configuration: Vec<u8>,
    },
    /// The next chunk. Asked once the one before has come. Answered by `Chunk`.
    Next {
        /// The image.
        number: u64,
    },
    /// The image is not needed any more. Not answered, and no answer comes any more.
    Close {
        /// The image.
        number: u64,
    },
    /// Store a chunk: the first one begins anew whatever is stored for the partition. Answered by `Stored`; the next one of the image
    /// may be asked for then.
    Store {
        /// Of what.
        partition: PartitionId,
        /// Of which image.
        image: ImageId,
        /// The chunk's number.
        number: u32,
        /// The chunk.
        chunk: Bytes,
    },
    /// Read all that is stored, and look whether it is a whole image that can be taken over. Nothing is changed. Answered by
    /// `Validated`; if it is none, nothing is stored for the partition any more.
    Validate {
        /// Of what.
        partition: PartitionId,
        /// Which image.
        image: ImageId,
        /// The last entry that it is to include, and its term.
        last: (Lsn, Term),
    },
    /// Validate what is stored and replace the partition by it, in one step. Nothing is applied to the partition meanwhile.
    /// Answered by `Installed`.
    Install {
        /// Of what.
        partition: PartitionId,
        /// Which image.
        image: ImageId,
        /// The last entry that it is to include, and its term.
        last: (Lsn, Term),
    },
    /// What is stored for the partition is not needed. Not answered.
    Drop {
        /// Of what.
        partition: PartitionId,
        /// Which image.
        image: ImageId,
    },
}

/// An answer to an [`ImageAsk`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageEvent {
    /// The image is there.
    Opened {
        /// Its number.
        number: u64,
        /// The last entry that it includes.
        lsn: Lsn,
    },
    /// A chunk of it.
    Chunk {
        /// The image.
        number: u64,
        /// The chunk.
        chunk: Bytes,
        /// Whether the image ends with it.
        is_end: bool,
    },
    /// It cannot be made, or not to its end. It is closed.
    Failed {
        /// The image.
        number: u64,
        /// Why.
        why: String,
    },
    /// A chunk was stored, or could not be.
    Stored {
        /// Of what.
        partition: PartitionId,
        /// Of which image.
        image: ImageId,
        /// The chunk's number.
        number: u32,
        /// Whether it was stored.
        is_stored: bool,
    },
    /// What is stored was read.
    Validated {
        /// Of what.
        partition: PartitionId,
        /// Which image.
        image: ImageId,
        /// What it is of, or why it cannot be installed.
        result: Result<Header, InstallError>,
    },
    /// The install has ended. If it failed, the partition is as it was, and nothing is stored for it any more.
    Installed {
        /// Of what.
        partition: PartitionId,
        /// Which image.
        image: ImageId,
        /// What it was of, or why it was not installed.
        result: Result<Header, InstallError>,
    },
}

/// Why an image was not installed. Nothing has changed by it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InstallError {
    /// What is stored is no image that can be taken over.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// It is a whole image, and another one.
    #[error("the image is of partition {} as of entry {}, not the one that was offered", .found.partition, .found.lsn)]
    Another {
        /// What it is of.
        found: Box<Header>,
    },
    /// The replica has applied all that it includes.
    #[error("the replica has applied entry {applied} already")]
    NotNewer {
        /// The last entry that it has applied.
        applied: Lsn,
    },
    /// The disk has no room for it.
    #[error("there is no room for the image: {why}")]
    NoRoom {
        /// What it takes, and what there is.
        why: String,
    },
    /// There is none, or it could not be stored.
    #[error("the image could not be stored: {why}")]
    NotStored {
        /// Why.
        why: String,
    },
}

impl Damage {
    /// What the sender gets as its answer.
    #[must_use]
    pub const fn ended(&self) -> Ended {
        match self {
            Self::TooNew { .. } => Ended::TooNew,
            Self::NoChunk
            | Self::Checksum { .. }
            | Self::Contradiction { .. }
            | Self::OutOfOrder { .. }
            | Self::Mixed { .. }
            | Self::Item { .. } => Ended::Damaged,
        }
    }
}

impl InstallError {
    /// What the sender gets as its answer.
    #[must_use]
    pub const fn ended(&self) -> Ended {
        match self {
            Self::Damaged(damage) => damage.ended(),
            Self::Another { .. } => Ended::Damaged,
            Self::NotNewer { .. } => Ended::NotNeeded,
            Self::NoRoom { .. } => Ended::NoRoom,
            Self::NotStored { .. } => Ended::Failed,
        }
    }
}

/// The answer of a machine that makes and takes no images; `None`: none is due.
#[must_use]
pub fn refused(ask: ImageAsk) -> Option<ImageEvent> {
    let why = || "the machine makes and takes no images".to_owned();
    match ask {
        ImageAsk::Open { number, .. } | ImageAsk::Begin { number, .. } | ImageAsk::Next { number } => {
            Some(ImageEvent::Failed { number, why: why() })
        }
        ImageAsk::Store { partition, image, number, .. } => {
            Some(ImageEvent::Stored { partition, image, number, is_stored: false })
        }
        ImageAsk::Validate { partition, image, .. } => {
            let result = Err(InstallError::NotStored { why: why() });
            Some(ImageEvent::Validated { partition, image, result })
        }
        ImageAsk::Install { partition, image, .. } => {
            let result = Err(InstallError::NotStored { why: why() });
            Some(ImageEvent::Installed { partition, image, result })
        }
        ImageAsk::Close { .. } | ImageAsk::Drop { .. } => None,
    }
}
