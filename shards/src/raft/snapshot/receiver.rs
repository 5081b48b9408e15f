//! The transfer of images to one replica, at the side that wants them.
//!
//! Sans-IO: messages, what became of stored chunks and installs, and times go in; answers and what is to be stored,
//! installed and dropped come out of [`Receiver::poll`]. Walk: an offer that the replica can use is answered with the chunk
//! that it wants; each chunk is looked at, stored, and acknowledged once it is stored; the last one lets the image be
//! installed, which validates the whole of it first.
//!
//! Invariants: one image at a time, and never one that is older than the entry that added the member, or that includes nothing
//! beyond what the replica knows to be committed when the install begins. It is of one member and one offer: whoever names it
//! otherwise has no part in it. Whatever was stored of an image is either installed or dropped. What an image of an earlier
//! process of this replica had stored is not known any more: the process in the answers shows it.

use std::collections::VecDeque;

use bytes::Bytes;
use corduroy_wal::{Lsn, Term};

use crate::image::transfer::{Answer, Ended, ImageId, Offer, Part, Process, Question, ToReceiver, ToSender};
use crate::image::{self};
use crate::planted::{self, PlantedBug};

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

/// How the replica stands when something comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The entry that made it a member.
    pub since: Lsn,
    /// The last entry that it knows to be committed.
    pub committed: Lsn,
    /// The bytes that the chunks of an image may take on its disk, those that are stored already among them.
    pub room_bytes: u64,
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
    offer: Offer,
    /// The chunk that is next, and how many of those before it are not stored.
    next: u32,
    unstored: u32,
    /// The bytes of those before it.
    bytes: u64,
    has_end: bool,
    /// The last question that is answered once all that came before it is stored.
    asked: Option<Question>,
    is_installing: bool,
    heard_ns: u64,
}

/// An image that is not taken in any more, or never was.
#[derive(Debug)]
struct Past {
    image: ImageId,
    from: u64,
    /// `None`: it was withdrawn before its offer came.
    offer: Option<Offer>,
    ended: Ended,
}

/// See the file's head.
#[derive(Debug)]
pub struct Receiver {
    options: ReceiverOptions,
    process: Process,
    incoming: Option<Incoming>,
    ended: VecDeque<Past>,
    outputs: VecDeque<ReceiverOutput>,
    now_ns: u64,
}

impl Receiver {
    /// One that has nothing, in this process.
    #[must_use]
    pub fn new(options: ReceiverOptions, process: Process) -> Self {
        Self { options, process, incoming: None, ended: VecDeque::new(), outputs: VecDeque::new(), now_ns: 0 }
    }

    /// The image that is being taken in.
    #[must_use]
    pub fn image(&self) -> Option<ImageId> {
        self.incoming.as_ref().map(|incoming| incoming.image)
    }

    /// Who sends it, and the term of its messages.
    #[must_use]
    pub fn sender(&self) -> Option<(u64, u64)> {
        self.incoming.as_ref().map(|incoming| (incoming.from, incoming.leader_term))
    }

    /// Whether all of an image is stored, and whoever stores it has it.
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
        let offer = match &message.part {
            Part::Offer(offer) => Some(*offer),
            Part::Chunk(_) | Part::Asks(_) | Part::Withdrawn => None,
        };
        let current = self.incoming.as_ref().filter(|incoming| incoming.image == image);
        let is_current = current.is_some();
        let is_another = current.is_some_and(|incoming| {
            incoming.from != from || offer.is_some_and(|offer| offer != incoming.offer)
        });
        match &message.part {
            Part::Offer(_) | Part::Chunk(_) | Part::Asks(_) if is_another => {
                self.answer(from, image, Answer::Ended(Ended::Unknown));
            }
            Part::Withdrawn if is_another => {}
            Part::Offer(_) | Part::Chunk(_) | Part::Asks(_)
                if is_current && self.end_if_not_needed(standing) => {}
            Part::Offer(_) if is_current => {
                self.hear();
                self.acknowledge();
            }
            Part::Offer(offer) => self.offered((from, leader_term), image, *offer, standing),
            Part::Chunk(chunk) if is_current => {
                self.hear();
                self.take(chunk, standing);
            }
            Part::Asks(question) if is_current => {
                self.hear();
                self.asked(*question);
            }
            Part::Chunk(_) | Part::Asks(_) => {
                let ended = self.how_ended(image, from, None).unwrap_or(Ended::Unknown);
                self.answer(from, image, Answer::Ended(ended));
            }
            Part::Withdrawn if is_current && !self.is_installing() => self.end(Ended::Unknown, false),
            // Of another one, or too late: it is being installed.
            Part::Withdrawn => self.remember(Past { image, from, offer, ended: Ended::Unknown }),
        }
        self.check();
    }

    fn offered(
        &mut self,
        (from, leader_term): (u64, u64),
        image: ImageId,
        offer: Offer,
        standing: &Standing,
    ) {
        // One of an earlier leader, that has come late, replaces no other.
        let is_late = self.incoming.as_ref().is_some_and(|incoming| leader_term < incoming.leader_term);
        let refused = if let Some(ended) = self.how_ended(image, from, Some(offer)) {
            Some(ended)
        } else if offer.lsn < standing.since {
            Some(Ended::TooOld)
        } else if offer.lsn <= standing.committed {
            Some(Ended::NotNeeded)
        } else if offer.version > image::VERSION {
            Some(Ended::TooNew)
        } else if offer.bytes > standing.room_bytes {
            Some(Ended::NoRoom)
        } else {
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
            offer,
            next: 0,
            unstored: 0,
            bytes: 0,
            has_end: false,
            asked: None,
            is_installing: false,
            heard_ns: self.now_ns,
        });
        self.acknowledge();
    }

    /// A chunk of the image that is being taken in.
    fn take(&mut self, chunk: &Bytes, standing: &Standing) {
        let unstored_max = self.options.unstored.max(1);
        let Some(incoming) = self.incoming.as_mut() else { return };
        let facts = match image::look(chunk) {
            Ok(facts) => facts,
            Err(damage) => {
                if !incoming.is_installing {
                    self.end(damage.ended(), true);
                }
                return;
            }
        };
        if facts.number != incoming.next || incoming.has_end {
            self.acknowledge();
            return;
        }
        if incoming.unstored >= unstored_max {
            return;
        }
        if planted::is(PlantedBug::ImageChunkSkipped) && facts.number == 1 && !facts.is_end {
            incoming.next += 1;
            return self.acknowledge();
        }
        let bytes = incoming.bytes + chunk.len() as u64;
        if bytes > standing.room_bytes {
            self.end(Ended::NoRoom, true);
            return;
        }
        let (image, number, chunk) = (incoming.image, incoming.next, chunk.clone());
        (incoming.next, incoming.has_end) = (incoming.next.saturating_add(1), facts.is_end);
        (incoming.unstored, incoming.bytes) = (incoming.unstored + 1, bytes);
        self.outputs.push_back(ReceiverOutput::Store { image, number, chunk });
    }

    /// What became of a chunk that was to be stored.
    pub fn stored(&mut self, image: ImageId, number: u32, is_stored: bool, standing: &Standing) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.image == image) else {
            return;
        };
        if !is_stored {
            self.end(Ended::Failed, true);
            return;
        }
        assert_eq!(number, incoming.next - incoming.unstored, "chunks are stored in their order");
        incoming.unstored -= 1;
        if self.end_if_not_needed(standing) {
            return;
        }
        let whole = self.incoming.as_mut().filter(|incoming| incoming.has_end && incoming.unstored == 0);
        if let Some(incoming) = whole {
            incoming.is_installing = true;
            let Offer { lsn, term, .. } = incoming.offer;
            self.outputs.push_back(ReceiverOutput::Install { image, lsn, term });
        }
        self.acknowledge();
        self.answer_question();
        self.check();
    }

    /// The sender takes for lost what it has sent before it asks, and what is not stored: chunks that are being stored are
    /// awaited.
    fn asked(&mut self, question: Question) {
        if let Some(incoming) = self.incoming.as_mut() {
            incoming.asked = Some(question);
        }
        self.answer_question();
    }

    fn answer_question(&mut self) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.unstored == 0) else { return };
        if let Some(question) = incoming.asked.take() {
            let (from, image, chunk) = (incoming.from, incoming.image, incoming.next);
            self.answer(from, image, Answer::Has { chunk, question });
        }
    }

    /// The log may have brought what the image includes while it came: it would take the replica back then. Once it is being
    /// installed, the replica stands still.
    fn end_if_not_needed(&mut self, standing: &Standing) -> bool {
        let is_not_needed = self
            .incoming
            .as_ref()
            .is_some_and(|incoming| !incoming.is_installing && incoming.offer.lsn <= standing.committed);
        if is_not_needed {
            self.end(Ended::NotNeeded, true);
        }
        is_not_needed
    }

    /// What became of the install.
    pub fn installed(&mut self, image: ImageId, ended: Ended) {
        if self.image() == Some(image) && self.is_installing() {
            self.end(ended, true);
        }
        self.check();
    }

    /// Its replica is not there any more, and nobody asks for the image. Returns what is not needed of what is stored. What
    /// comes late of it begins nothing.
    pub fn forget(&mut self) -> Vec<ImageId> {
        self.end(Ended::Unknown, false);
        let dropped = self.outputs.drain(..).filter_map(|output| match output {
            ReceiverOutput::Drop { image } => Some(image),
            ReceiverOutput::Send { .. } | ReceiverOutput::Store { .. } | ReceiverOutput::Install { .. } => {
                None
            }
        });
        dropped.collect()
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
        let message = ToSender { image, receiver: self.process, answer };
        self.outputs.push_back(ReceiverOutput::Send { to, message });
    }

    /// How an image ended that this member has offered so; `None`: it did not.
    fn how_ended(&self, image: ImageId, from: u64, offer: Option<Offer>) -> Option<Ended> {
        let past = self.ended.iter().find(|past| past.image == image)?;
        let is_same = past.from == from && past.offer.zip(offer).is_none_or(|(past, offer)| past == offer);
        Some(if is_same { past.ended } else { Ended::Unknown })
    }

    fn has_ended(&self, image: ImageId) -> bool {
        self.ended.iter().any(|past| past.image == image)
    }

    fn remember(&mut self, past: Past) {
        if !self.has_ended(past.image) && self.image() != Some(past.image) {
            self.ended.push_back(past);
            if self.ended.len() > ENDED_KEPT {
                self.ended.pop_front();
            }
        }
    }

    /// The image that is being taken in has come to its end.
    fn end(&mut self, ended: Ended, is_answered: bool) {
        let Some(Incoming { image, from, offer, .. }) = self.incoming.take() else { return };
        self.remember(Past { image, from, offer: Some(offer), ended });
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
        assert!(!self.has_ended(incoming.image), "an image that ended is not taken in");
    }
}
