//! The transfer of one image to one member, at the side that has it.
//!
//! Sans-IO: messages, chunks that were read and times go in; messages, reads and the one status come out of
//! [`Sender::poll`]. Walk: the image is offered until the member names the chunk that it wants; then chunks are read, one at a
//! time, and sent as far as window and rate let them. Of what is not acknowledged for a while, nothing is sent again before the
//! member has said that it lacks it, to a question that went behind it: on a slow way, or one that is cut off, as much would wait
//! to be carried again with each try. At the end the member's verdict is waited for.
//!
//! Invariants: a sender comes to exactly one [`Status`], whatever is lost: after [`SenderOptions::expiry_ms`] without a step
//! ahead it gives up. It holds no more chunks than its window has.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::image::transfer::{Answer, Ended, ImageId, Offer, Part, Process, Question, ToReceiver, ToSender};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u128 = 1_000_000_000;

/// Bounds of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderOptions {
    /// Chunks that are read and not acknowledged, at most. Default 8.
    pub window: usize,
    /// Bytes of chunks a second. Default 64 MiB.
    pub bytes_per_s: u64,
    /// After so long without an acknowledgement the member is asked what it has, in ms. Default 500.
    pub retry_ms: u64,
    /// It is not asked about what was sent less than so long ago, though that is said to be lost, in ms: where nobody is
    /// reached, each message is lost at once. Default 100.
    pub lost_ms: u64,
    /// After so long without a step ahead the transfer ends, in ms. Default 60,000.
    pub expiry_ms: u64,
    /// So long a member that has all of the image, and answers, may take to install it, in ms. Default 600,000.
    pub install_ms: u64,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self {
            window: 8,
            bytes_per_s: 64 << 20,
            retry_ms: 500,
            lost_ms: 100,
            expiry_ms: 60_000,
            install_ms: 600_000,
        }
    }
}

/// How a transfer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// The member said so.
    Ended(Ended),
    /// The member has restarted, and what it had taken in is lost.
    MemberRestarted,
    /// The image could not be read to its end.
    Unreadable,
    /// Nothing came of it for too long.
    Expired,
    /// It was called off.
    Cancelled,
}

impl Status {
    /// Whether the member has now what the image includes.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Ended(Ended::Installed | Ended::NotNeeded))
    }

    /// Whether the member may have what the image includes: it has, or it died, or was not heard of any more.
    #[must_use]
    pub const fn may_be_success(self) -> bool {
        self.is_success() || matches!(self, Self::MemberRestarted | Self::Expired)
    }
}

/// What a sender has to have done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SenderOutput {
    /// Send this to the member.
    Send(ToReceiver),
    /// Read the image's next chunk, and bring it by [`Sender::read`].
    Read,
    /// The transfer has ended: report it. The image is not needed any more.
    Done(Status),
}

/// A chunk that was not acknowledged yet.
#[derive(Debug)]
struct Held {
    bytes: Bytes,
    is_end: bool,
}

/// See the file's head.
#[derive(Debug)]
pub struct Sender {
    options: SenderOptions,
    image: ImageId,
    offer: Offer,
    /// The member's process, once it has answered.
    receiver: Option<Process>,
    /// Chunks from `acknowledged` on, as far as they were read.
    held: VecDeque<Held>,
    /// The first chunk that the member does not have.
    acknowledged: u32,
    /// Of those that are held, how many were sent.
    sent: usize,
    /// How often chunks were sent again: an answer to what was asked before that says nothing about those.
    round: u32,
    is_reading: bool,
    has_end: bool,
    /// Bytes that may be sent now; below zero after a chunk that was larger.
    budget_bytes: i64,
    now_ns: u64,
    /// Since when what was sent last waits for an answer.
    sent_ns: u64,
    /// What was sent may be lost, and was sent too shortly ago to ask about it.
    is_lost: bool,
    /// When it last came a step ahead, and when the member had all of it.
    ahead_ns: u64,
    whole_ns: u64,
    /// An offer is to be sent: until the member has answered one, and where nothing is under way.
    must_offer: bool,
    must_ask: bool,
    must_withdraw: bool,
    status: Option<Status>,
    is_reported: bool,
}

impl Sender {
    /// Begins to offer an image.
    #[must_use]
    pub fn new(options: SenderOptions, image: ImageId, offer: Offer, now_ns: u64) -> Self {
        Self {
            options,
            image,
            offer,
            receiver: None,
            held: VecDeque::new(),
            acknowledged: 0,
            sent: 0,
            round: 0,
            is_reading: false,
            has_end: false,
            budget_bytes: 0,
            now_ns,
            sent_ns: now_ns,
            is_lost: false,
            ahead_ns: now_ns,
            whole_ns: now_ns,
            must_offer: true,
            must_ask: false,
            must_withdraw: false,
            status: None,
            is_reported: false,
        }
    }

    /// The image.
    #[must_use]
    pub const fn image(&self) -> ImageId {
        self.image
    }

    /// Whether it has ended and its status was taken.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.is_reported
    }

    /// When it wants to be ticked next, if nothing else comes.
    #[must_use]
    pub fn wakes_at_ns(&self) -> u64 {
        let retry_ms = if self.is_lost { self.lost_ms() } else { self.options.retry_ms };
        let retry = self.sent_ns + retry_ms * NS_PER_MS;
        let expiry = self.ahead_ns + self.options.expiry_ms * NS_PER_MS;
        let waits_for_rate = self.receiver.is_some() && self.sent < self.held.len();
        let missing = u128::from(self.budget_bytes.min(0).unsigned_abs()) + 1;
        let rate = u128::from(self.options.bytes_per_s.max(1));
        let paid = u64::try_from(missing * NS_PER_S / rate).unwrap_or(u64::MAX).saturating_add(1);
        let sends = if waits_for_rate { self.now_ns.saturating_add(paid) } else { u64::MAX };
        retry.min(expiry).min(sends)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64) {
        let passed = now_ns.saturating_sub(self.now_ns);
        self.now_ns = self.now_ns.max(now_ns);
        let earned = u128::from(passed) * u128::from(self.options.bytes_per_s) / NS_PER_S;
        // What was not used in a quarter of a second is not made up for.
        let most = i64::try_from(self.options.bytes_per_s / 4).unwrap_or(i64::MAX).max(1);
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.budget_bytes = self.budget_bytes.saturating_add(earned).min(most);
        if self.now_ns - self.ahead_ns >= self.options.expiry_ms * NS_PER_MS {
            self.give_up(Status::Expired);
        } else if self.now_ns - self.sent_ns >= self.options.retry_ms * NS_PER_MS {
            self.ask();
        } else {
            self.ask_if_lost();
        }
    }

    /// What was sent to the member may not have arrived.
    pub fn lost(&mut self) {
        self.is_lost = true;
        self.ask_if_lost();
    }

    fn lost_ms(&self) -> u64 {
        self.options.lost_ms.min(self.options.retry_ms)
    }

    fn ask_if_lost(&mut self) {
        if self.is_lost && self.now_ns - self.sent_ns >= self.lost_ms() * NS_PER_MS {
            self.ask();
        }
    }

    fn ask(&mut self) {
        self.is_lost = false;
        self.sent_ns = self.now_ns;
        // Who has all that was sent is asked by the offer, which says how it ended even where a member has restarted meanwhile.
        self.must_ask = self.receiver.is_some() && !self.held.is_empty();
        self.must_offer = !self.must_ask;
    }

    /// The chunk behind those that were sent.
    fn sent_to(&self) -> u32 {
        self.acknowledged.saturating_add(u32::try_from(self.sent).unwrap_or(u32::MAX))
    }

    /// The member has answered.
    pub fn received(&mut self, message: &ToSender) {
        if message.image != self.image || self.status.is_some() {
            return;
        }
        let is_another = self.receiver.is_some_and(|known| known != message.receiver);
        match message.answer {
            Answer::Wants { .. } | Answer::Has { .. } | Answer::Ended(Ended::Unknown) if is_another => {
                self.give_up(Status::MemberRestarted);
            }
            Answer::Ended(ended) => self.status = Some(Status::Ended(ended)),
            Answer::Wants { chunk } => {
                if self.receiver.is_none() {
                    (self.receiver, self.ahead_ns) = (Some(message.receiver), self.now_ns);
                }
                self.acknowledge(chunk);
            }
            Answer::Has { chunk, question } if self.receiver.is_some() => {
                self.acknowledge(chunk);
                self.send_lost(question);
            }
            Answer::Has { .. } => {}
        }
        self.check();
    }

    /// The member has all before this chunk. What it cannot have is not believed; what is behind others has come late.
    fn acknowledge(&mut self, chunk: u32) {
        let Some(ahead) = chunk.checked_sub(self.acknowledged).map(|ahead| ahead as usize) else { return };
        if ahead == 0 && self.has_end && self.held.is_empty() {
            // It is installing, and says so.
            let is_patient = self.now_ns - self.whole_ns < self.options.install_ms * NS_PER_MS;
            self.ahead_ns = if is_patient { self.now_ns } else { self.ahead_ns };
        }
        if ahead == 0 || ahead > self.held.len() {
            return;
        }
        self.held.drain(..ahead);
        self.sent = self.sent.saturating_sub(ahead);
        self.acknowledged = chunk;
        (self.ahead_ns, self.sent_ns, self.whole_ns) = (self.now_ns, self.now_ns, self.now_ns);
    }

    /// What was sent before the question, and is not acknowledged by the answer to it, is lost.
    fn send_lost(&mut self, question: Question) {
        if question.round == self.round && self.acknowledged < question.before {
            (self.round, self.sent) = (self.round.wrapping_add(1), 0);
        }
    }

    /// The chunk that was to be read; `None`: it could not be.
    pub fn read(&mut self, chunk: Option<(Bytes, bool)>) {
        self.is_reading = false;
        if self.status.is_some() {
            return;
        }
        match chunk {
            Some((bytes, is_end)) => {
                assert!(!self.has_end, "image {:?}: a chunk behind its end", self.image);
                self.has_end = is_end;
                self.held.push_back(Held { bytes, is_end });
            }
            None => self.give_up(Status::Unreadable),
        }
        self.check();
    }

    /// Calls the transfer off.
    pub fn cancel(&mut self) {
        self.give_up(Status::Cancelled);
    }

    fn give_up(&mut self, status: Status) {
        if self.status.is_none() {
            (self.status, self.must_withdraw) = (Some(status), true);
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<SenderOutput> {
        let send = |image, part| Some(SenderOutput::Send(ToReceiver { image, part }));
        if let Some(status) = self.status {
            if std::mem::take(&mut self.must_withdraw) {
                return send(self.image, Part::Withdrawn);
            }
            self.held.clear();
            self.sent = 0;
            return (!std::mem::replace(&mut self.is_reported, true)).then_some(SenderOutput::Done(status));
        }
        if std::mem::take(&mut self.must_offer) {
            self.sent_ns = self.now_ns;
            return send(self.image, Part::Offer(self.offer));
        }
        if std::mem::take(&mut self.must_ask) {
            self.sent_ns = self.now_ns;
            return send(self.image, Part::Asks(Question { round: self.round, before: self.sent_to() }));
        }
        self.receiver?;
        if !self.is_reading && !self.has_end && self.held.len() < self.options.window.max(1) {
            self.is_reading = true;
            return Some(SenderOutput::Read);
        }
        let next = self.held.get(self.sent).filter(|_| self.budget_bytes >= 0)?;
        let bytes = next.bytes.clone();
        self.budget_bytes -= i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        if self.sent == 0 {
            self.sent_ns = self.now_ns;
        }
        self.sent += 1;
        send(self.image, Part::Chunk(bytes))
    }

    /// The invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        assert!(self.sent <= self.held.len(), "what is sent is held");
        assert!(!self.must_ask || self.receiver.is_some(), "nobody is asked before the first answer");
        let held = self.held.len() + usize::from(self.is_reading);
        assert!(held <= self.options.window.max(1), "{held} chunks are held");
        let ends = self.held.iter().filter(|held| held.is_end).count();
        assert!(ends <= usize::from(self.has_end), "an image ends once");
        assert!(self.held.iter().rev().skip(1).all(|held| !held.is_end), "the end is the last chunk");
        assert!(self.receiver.is_some() || self.held.is_empty(), "nothing is read for nobody");
        assert!(!self.is_reported || self.status.is_some(), "a status is reported once there is one");
    }
}
