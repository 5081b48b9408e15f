//! The transfer of images to one replica, at the side that wants them.
//!
//! Sans-IO: messages, what became of stored chunks and installs, and times go in; answers and what is to be stored,
//! installed and dropped come out of [`Receiver::poll`]. Walk: an offer that the replica can use is answered with the chunk
//! that it wants; each chunk is looked at, stored, and acknowledged once it is stored; the last one lets the image be
//! installed, which validates the whole of it first.
//!
//! Invariants: one image at a time, and never one that is older than the entry that added the member. Whatever was stored of
//! an image is either installed or dropped. What an image of an earlier process of this replica had stored is not known any
//! more: the incarnation in the answers shows it.

use std::collections::VecDeque;

use bytes::Bytes;
use corduroy_wal::{Lsn, Term};

use crate::image::transfer::{Answer, Ended, ImageId, Part, ToReceiver, ToSender};
use crate::image::{self};

const NS_PER_MS: u64 = 1_000_000;
/// Images that ended lately, and how: what comes late of them begins nothing.
const ENDED_KEPT: usize = 8;

/// Bounds of a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiverOptions {
    /// Chunks that have come and are not stored yet, at most; what comes beyond is dropped, and comes again. Default 16.
    pub unstored: u32,
    /// After so long without a message about it, what was stored of an image is dropped, in ms. Default 60,000.
    pub expiry_ms: u64,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self { unstored: 16, expiry_ms: 60_000 }
    }
}

/// How the replica stands when a message comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its member id, that is the entry that added it.
    pub member: u64,
    /// The last entry that it knows to be committed.
    pub committed: Lsn,
}

/// What a receiver has to have done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiverOutput {
    /// Send this to a member.
    Send {
        /// The member.
        to: u64,
        /// The answer.
        message: ToSender,
    },
    /// Store the next chunk of the image, and report it by [`Receiver::stored`]. The first one begins anew.
    Store {
        /// The image.
        image: ImageId,
        /// The chunk's number.
        number: u32,
        /// The chunk.
        chunk: Bytes,
    },
    /// Validate what is stored, install it, and report it by [`Receiver::installed`].
    Install {
        /// The image.
        image: ImageId,
        /// The last entry that it is to include.
        lsn: Lsn,
        /// The term of that entry.
        term: Term,
    },
    /// What is stored of the image is not needed.
    Drop {
        /// The image.
        image: ImageId,
    },
}

/// The image that is being taken in.
#[derive(Debug)]
struct Incoming {
    image: ImageId,
    /// Who sends it, and the term of its message.
    from: u64,
    leader_term: u64,
    lsn: Lsn,
    term: Term,
    /// The chunk that is next, and the first one that is not stored.
    next: u32,
    unstored: u32,
    has_end: bool,
    is_installing: bool,
    heard_ns: u64,
}

/// See the file's head.
#[derive(Debug)]
pub struct Receiver {
    options: ReceiverOptions,
    incarnation: u64,
    incoming: Option<Incoming>,
    ended: VecDeque<(ImageId, Ended)>,
    outputs: VecDeque<ReceiverOutput>,
    now_ns: u64,
}

impl Receiver {
    /// One that has nothing. No process of this replica had the same `incarnation`.
    #[must_use]
    pub fn new(options: ReceiverOptions, incarnation: u64) -> Self {
        Self {
            options,
            incarnation,
            incoming: None,
            ended: VecDeque::new(),
            outputs: VecDeque::new(),
            now_ns: 0,
        }
    }

    /// The image that is being taken in.
    #[must_use]
    pub fn image(&self) -> Option<ImageId> {
        self.incoming.as_ref().map(|incoming| incoming.image)
    }

    /// Whether an image is being installed: its replica is not to be ticked, stepped or proposed to.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.is_installing)
    }

    /// When it wants to be ticked next, if nothing else comes; `None`: not at all.
    #[must_use]
    pub fn wakes_at_ns(&self) -> Option<u64> {
        let incoming = self.incoming.as_ref().filter(|incoming| !incoming.is_installing)?;
        Some(incoming.heard_ns + self.options.expiry_ms * NS_PER_MS)
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<ReceiverOutput> {
        self.outputs.pop_front()
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.wakes_at_ns().is_some_and(|expiry| self.now_ns >= expiry) {
            self.end(Ended::Unknown, false);
        }
    }

    /// A message came, in a message of the group of this `leader_term`, from member `from`.
    pub fn received(&mut self, (from, leader_term): (u64, u64), message: &ToReceiver, standing: &Standing) {
        let image = message.image;
        let is_current = self.image() == Some(image);
        match &message.part {
            Part::Offer { lsn, term } if is_current => {
                let _named_before = (lsn, term);
                self.hear();
                self.acknowledge();
            }
            Part::Offer { lsn, term } => self.offered((from, leader_term), image, (*lsn, *term), standing),
            Part::Chunk(chunk) if is_current => {
                self.hear();
                self.take(chunk);
            }
            Part::Chunk(_) => {
                let ended = self.how_ended(image).unwrap_or(Ended::Unknown);
                self.answer(from, image, Answer::Ended(ended));
            }
            Part::Withdrawn if is_current && !self.is_installing() => self.end(Ended::Unknown, false),
            // Of another one, or too late: it is being installed.
            Part::Withdrawn => self.remember(image, Ended::Unknown),
        }
        self.check();
    }

    fn offered(
        &mut self,
        (from, leader_term): (u64, u64),
        image: ImageId,
        (lsn, term): (Lsn, Term),
        standing: &Standing,
    ) {
        let refused = if let Some(ended) = self.how_ended(image) {
            Some(ended)
        } else if lsn.0 < standing.member {
            Some(Ended::TooOld)
        } else if lsn <= standing.committed {
            Some(Ended::NotNeeded)
        } else {
            // One of an earlier leader, that has come late, replaces no other.
            let is_late = self.incoming.as_ref().is_some_and(|incoming| leader_term < incoming.leader_term);
            (self.is_installing() || is_late).then_some(Ended::Busy)
        };
        if let Some(ended) = refused {
            self.answer(from, image, Answer::Ended(ended));
            return;
        }
        self.end(Ended::Unknown, false);
        self.incoming = Some(Incoming {
            image,
            from,
            leader_term,
            lsn,
            term,
            next: 0,
            unstored: 0,
            has_end: false,
            is_installing: false,
            heard_ns: self.now_ns,
        });
        self.acknowledge();
    }

    /// A chunk of the image that is being taken in.
    fn take(&mut self, chunk: &Bytes) {
        let unstored_max = self.options.unstored.max(1);
        let Some(incoming) = self.incoming.as_mut() else { return };
        let Ok(facts) = image::look(chunk) else {
            if !incoming.is_installing {
                self.end(Ended::Damaged, true);
            }
            return;
        };
        if facts.number != incoming.next || incoming.has_end {
            self.acknowledge();
            return;
        }
        if incoming.unstored >= unstored_max {
            return;
        }
        let (image, number, chunk) = (incoming.image, incoming.next, chunk.clone());
        (incoming.next, incoming.has_end) = (incoming.next.saturating_add(1), facts.is_end);
        incoming.unstored += 1;
        self.outputs.push_back(ReceiverOutput::Store { image, number, chunk });
    }

    /// What became of a chunk that was to be stored.
    pub fn stored(&mut self, image: ImageId, number: u32, is_stored: bool) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.image == image) else {
            return;
        };
        if !is_stored {
            self.end(Ended::Failed, true);
            return;
        }
        assert_eq!(number, incoming.next - incoming.unstored, "chunks are stored in their order");
        incoming.unstored -= 1;
        if incoming.has_end && incoming.unstored == 0 {
            incoming.is_installing = true;
            let Incoming { lsn, term, .. } = *incoming;
            self.outputs.push_back(ReceiverOutput::Install { image, lsn, term });
        }
        self.acknowledge();
        self.check();
    }

    /// What became of the install.
    pub fn installed(&mut self, image: ImageId, ended: Ended) {
        if self.image() == Some(image) && self.is_installing() {
            self.end(ended, true);
        }
        self.check();
    }

    fn hear(&mut self) {
        if let Some(incoming) = self.incoming.as_mut() {
            incoming.heard_ns = self.now_ns;
        }
    }

    fn acknowledge(&mut self) {
        if let Some(Incoming { from, image, next, unstored, .. }) = self.incoming {
            self.answer(from, image, Answer::Wants { chunk: next - unstored });
        }
    }

    fn answer(&mut self, to: u64, image: ImageId, answer: Answer) {
        let message = ToSender { image, receiver: self.incarnation, answer };
        self.outputs.push_back(ReceiverOutput::Send { to, message });
    }

    fn how_ended(&self, image: ImageId) -> Option<Ended> {
        self.ended.iter().find(|(ended, _)| *ended == image).map(|(_, how)| *how)
    }

    fn remember(&mut self, image: ImageId, ended: Ended) {
        if self.how_ended(image).is_none() && self.image() != Some(image) {
            self.ended.push_back((image, ended));
            if self.ended.len() > ENDED_KEPT {
                self.ended.pop_front();
            }
        }
    }

    /// The image that is being taken in has come to its end.
    fn end(&mut self, ended: Ended, is_answered: bool) {
        let Some(Incoming { image, from, .. }) = self.incoming.take() else { return };
        self.remember(image, ended);
        if ended != Ended::Installed {
            self.outputs.push_back(ReceiverOutput::Drop { image });
        }
        if is_answered {
            self.answer(from, image, Answer::Ended(ended));
        }
    }

    /// The invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        assert!(self.ended.len() <= ENDED_KEPT, "few endings are kept");
        let Some(incoming) = &self.incoming else { return };
        assert!(incoming.unstored <= incoming.next, "what is not stored has come");
        assert!(incoming.unstored <= self.options.unstored.max(1), "few chunks wait to be stored");
        assert!(!incoming.is_installing || (incoming.has_end && incoming.unstored == 0), "it is whole");
        assert!(self.how_ended(incoming.image).is_none(), "an image that ended is not taken in");
    }
}
