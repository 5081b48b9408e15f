//! One image on its way to a member, at the leader: opened, named to the raft crate, sent.
//!
//! Invariant: whatever becomes of it, the machine lets it go.

use std::collections::VecDeque;

use corduroy_wal::{Lsn, Term};

use super::sender::{Sender, SenderOptions, SenderOutput, Status};
use super::transfers::{ImageOptions, NS_PER_MS, Todo};
use crate::ids::{MemberId, PartitionId};
use crate::image::transfer::{ImageId, Offer, ToReceiver, ToSender};
use crate::image::{self, ImageAsk, ImageEvent};
use crate::raft::guard::Fault;
use crate::raft::replica::Replica;

/// So long an image waits for the crate to name it, in ms.
const UNNAMED_MS: u64 = 10_000;

/// So long the machine may take to begin one, in ms: where a flush has no room for it, others get their turn.
const OPENING_MS: u64 = 60_000;

/// How far it is.
enum Stage {
    /// The machine makes one.
    Opening,
    /// There is one as of this entry, and the crate has not named it yet.
    Unnamed { lsn: Lsn, term: Term, configuration: Vec<u8> },
    /// It is on its way. What its first chunk states, until that is asked for.
    Sending { sender: Box<Sender>, begin: Option<(Term, Vec<u8>)> },
    /// It has come to its end.
    Ended(Status),
}

/// See the file's head.
pub(super) struct Outgoing {
    pub partition: PartitionId,
    pub to: MemberId,
    /// The term in which its leader leads.
    term: Term,
    pub number: u64,
    stage: Stage,
    since_ns: u64,
}

impl Outgoing {
    /// Has one made for the member.
    pub fn begin(
        (partition, replica): (PartitionId, &Replica),
        to: MemberId,
        number: u64,
        now_ns: u64,
        todo: &mut VecDeque<Todo>,
    ) -> Self {
        let at_least = replica.least_image(to);
        todo.push_back(Todo::Ask(ImageAsk::Open { number, partition, at_least }));
        Self { partition, to, term: replica.term(), number, stage: Stage::Opening, since_ns: now_ns }
    }

    /// # Panics
    /// If it is one that no member can be sent.
    pub fn check(&self) {
        match &self.stage {
            Stage::Unnamed { lsn, term, .. } => {
                assert!(*term > Term::ZERO && *lsn > Lsn::ZERO, "an image as of {lsn} of term {term}");
            }
            Stage::Sending { sender, .. } => {
                assert_eq!(sender.image().number, self.number, "the image that is sent");
                sender.check();
            }
            Stage::Opening | Stage::Ended(_) => {}
        }
    }

    /// How it ended, if it did.
    pub const fn ended(&self) -> Option<Status> {
        match &self.stage {
            Stage::Ended(status) => Some(*status),
            Stage::Opening | Stage::Unnamed { .. } | Stage::Sending { .. } => None,
        }
    }

    /// When it is to be followed next, if nothing else comes.
    pub fn next_ns(&self) -> u64 {
        match &self.stage {
            Stage::Sending { sender, .. } => sender.wakes_at_ns(),
            Stage::Unnamed { .. } => self.since_ns + UNNAMED_MS * NS_PER_MS,
            Stage::Opening => self.since_ns + OPENING_MS * NS_PER_MS,
            Stage::Ended(_) => u64::MAX,
        }
    }

    /// The crate has named the image to the member: it is sent. Returns whether there is one.
    pub fn named(&mut self, options: &ImageOptions, now_ns: u64) -> bool {
        let stage = std::mem::replace(&mut self.stage, Stage::Opening);
        let Stage::Unnamed { lsn, term, configuration } = stage else {
            let is_sent = matches!(stage, Stage::Sending { .. });
            self.stage = stage;
            return is_sent;
        };
        let image = ImageId { process: options.process, number: self.number };
        let offer = Offer { lsn, term, version: image::VERSION, bytes: 0 };
        let sender = Box::new(Sender::new(options.sender, image, offer, now_ns));
        self.stage = Stage::Sending { sender, begin: Some((term, configuration)) };
        true
    }

    /// What was sent to the member may be lost.
    pub fn lost(&mut self) {
        if let Stage::Sending { sender, .. } = &mut self.stage {
            sender.lost();
        }
    }

    /// The member has answered. Returns whether it was asked anything.
    pub fn received(&mut self, answer: &ToSender) -> bool {
        let Stage::Sending { sender, .. } = &mut self.stage else { return false };
        sender.received(answer);
        sender.image() == answer.image
    }

    /// The machine has answered.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn event(
        &mut self,
        event: ImageEvent,
        replica: &mut Replica,
        now_ns: u64,
        todo: &mut VecDeque<Todo>,
    ) -> Result<Option<Lsn>, Fault> {
        match (event, &mut self.stage) {
            (ImageEvent::Opened { lsn, .. }, Stage::Opening) => {
                let Some((term, configuration)) = replica.has_image(self.to, lsn)? else {
                    // Who belongs to the group has changed meanwhile, or the log has let the entry go: a later one.
                    todo.push_back(Todo::Ask(ImageAsk::Close { number: self.number }));
                    return Ok(Some(replica.least_image(self.to).max(lsn.next())));
                };
                (self.stage, self.since_ns) = (Stage::Unnamed { lsn, term, configuration }, now_ns);
            }
            (ImageEvent::Chunk { chunk, is_end, .. }, Stage::Sending { sender, .. }) => {
                sender.read(Some((chunk, is_end)));
            }
            (ImageEvent::Failed { .. }, Stage::Sending { sender, .. }) => sender.read(None),
            (ImageEvent::Failed { .. }, Stage::Opening | Stage::Unnamed { .. }) => {
                self.stage = Stage::Ended(Status::Unreadable);
            }
            (
                ImageEvent::Opened { .. }
                | ImageEvent::Chunk { .. }
                | ImageEvent::Failed { .. }
                | ImageEvent::Stored { .. }
                | ImageEvent::Validated { .. }
                | ImageEvent::Installed { .. },
                _,
            ) => {}
        }
        Ok(None)
    }

    /// The image is made anew, as of a later entry.
    pub fn open_again(&mut self, number: u64, at_least: Lsn, todo: &mut VecDeque<Todo>) {
        self.number = number;
        todo.push_back(Todo::Ask(ImageAsk::Open { number, partition: self.partition, at_least }));
    }

    /// Goes on.
    pub fn follow(&mut self, replica: Option<&Replica>, now_ns: u64, todo: &mut VecDeque<Todo>) {
        let replica = replica.filter(|replica| replica.sends_images_to(self.to, self.term));
        let is_late = now_ns >= self.next_ns();
        let has_opened = !matches!(self.stage, Stage::Opening);
        match &mut self.stage {
            Stage::Sending { sender, .. } if replica.is_none() => sender.cancel(),
            Stage::Sending { sender, .. } => sender.tick(now_ns),
            Stage::Opening | Stage::Unnamed { .. } if replica.is_none() || is_late => {
                let is_expired = is_late && !has_opened;
                self.stage = Stage::Ended(if is_expired { Status::Expired } else { Status::Cancelled });
                todo.push_back(Todo::Ask(ImageAsk::Close { number: self.number }));
            }
            Stage::Opening | Stage::Unnamed { .. } | Stage::Ended(_) => {}
        }
        let Stage::Sending { sender, begin } = &mut self.stage else { return };
        let (partition, to, number) = (self.partition, self.to, self.number);
        while let Some(output) = sender.poll() {
            match output {
                SenderOutput::Send(part) => {
                    if let Some(replica) = replica {
                        todo.extend(Todo::send(partition, replica, to, true, ToReceiver::encode(&part)));
                    }
                }
                SenderOutput::Read => todo.push_back(Todo::Ask(match begin.take() {
                    Some((term, configuration)) => ImageAsk::Begin { number, term, configuration },
                    None => ImageAsk::Next { number },
                })),
                SenderOutput::Done(status) => {
                    self.stage = Stage::Ended(status);
                    return todo.push_back(Todo::Ask(ImageAsk::Close { number }));
                }
            }
        }
    }
}

/// How long after a transfer that came to nothing the next one to the member begins, where so many before it came to nothing, too. A
/// member that has restarted gets the next one at once, unless it was not the first time: it may be the image that it dies of.
pub(super) const fn pause_ms(status: Status, failures: u32, options: &SenderOptions) -> u64 {
    match status {
        Status::Cancelled => 0,
        Status::MemberRestarted if failures == 0 => 0,
        Status::MemberRestarted | Status::Ended(_) | Status::Unreadable | Status::Expired => {
            let doubled = if failures > 6 { 64 } else { 1_u64 << failures };
            let most = options.expiry_ms;
            let pause = 2 * options.retry_ms * doubled;
            if pause < most { pause } else { most }
        }
    }
}
