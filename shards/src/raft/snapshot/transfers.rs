//! All images of a shard that are on their way: those that its leaders send, and those that its other replicas are sent.
//!
//! Sans-IO: what the raft crate asks for, messages, answers of the state machine and times go in; what is to be asked of the
//! machine, sent, and done to replicas comes out of [`Transfers::poll`]. Invariants: few images are made at once; a replica
//! has one on its way to each member at most, and one that it is sent; whatever was opened is closed, and whatever was
//! stored is installed or dropped; a replica hears of the end of each that it has sent.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};

use super::incoming::Incoming;
use super::outgoing::{Outgoing, pause_ms};
use super::receiver::ReceiverOptions;
use super::sender::{SenderOptions, Status};
use crate::ids::{MemberId, NodeId, PartitionId, StorageId};
use crate::image::transfer::{Part, Process, ToReceiver, ToSender};
use crate::image::{Header, ImageAsk, ImageEvent};
use crate::planted::{self, PlantedBug};
use crate::raft::admit::{Refused, refusal_of_image};
use crate::raft::guard::Fault;
use crate::raft::replica::Replica;

pub(super) const NS_PER_MS: u64 = 1_000_000;
/// Replicas that no image comes for any more, and whose senders are still answered.
const PAST_KEPT: usize = 64;

/// Bounds of the transfers of images.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageOptions {
    /// The process that they are named by: no two that are alike may ever run. Default: that of node 0.
    pub process: Process,
    /// Images that a shard makes and sends at once, at most. Default 2.
    pub at_once: usize,
    /// Of the side that sends them.
    pub sender: SenderOptions,
    /// Of the side that gets them.
    pub receiver: ReceiverOptions,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            process: Process { node: NodeId(0), incarnation: 0, starts: 0 },
            at_once: 2,
            sender: SenderOptions::default(),
            receiver: ReceiverOptions::default(),
        }
    }
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Todo {
    /// Ask this of the state machine.
    Ask(ImageAsk),
    /// Send this to the member of the partition's group on the storage.
    Send(PartitionId, StorageId, Message),
    /// Nothing is applied to the partition any more.
    Hold(PartitionId),
    /// Nothing has come of the image: what is committed may be applied again.
    LetGo(PartitionId),
    /// The partition is what the image has, and its replica stands behind that.
    Restored(PartitionId, Box<Header>),
}

impl Todo {
    /// Sends what is said of an image to a member, if it is known where that is.
    pub(super) fn send(
        partition: PartitionId,
        replica: &Replica,
        to: MemberId,
        is_of_sender: bool,
        bytes: Bytes,
    ) -> Option<Self> {
        let storage = replica.storage_of(to)?;
        Some(Self::Send(partition, storage, replica.image_message(to, is_of_sender, bytes)))
    }
}

/// A member whose last image came to nothing.
struct Failure {
    partition: PartitionId,
    member: MemberId,
    times: u32,
    until_ns: u64,
}

/// See the file's head.
pub struct Transfers {
    options: ImageOptions,
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
    past: VecDeque<Incoming>,
    failures: Vec<Failure>,
    last_number: u64,
    events: Vec<ImageEvent>,
    todo: VecDeque<Todo>,
}

/// Whether a message says something of an image.
#[must_use]
pub fn is_of_image(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgSnapshot | MessageType::MsgSnapStatus)
}

impl Transfers {
    /// No image is on its way.
    #[must_use]
    pub const fn new(options: ImageOptions) -> Self {
        Self {
            options,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            past: VecDeque::new(),
            failures: Vec::new(),
            last_number: 0,
            events: Vec::new(),
            todo: VecDeque::new(),
        }
    }

    /// Whether no image is on its way.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.incoming.is_empty()
    }

    /// Whether the machine is replacing the partition's state by an image.
    #[must_use]
    pub fn is_installing(&self, partition: PartitionId) -> bool {
        self.incoming.iter().any(|incoming| incoming.partition == partition && incoming.is_installing())
    }

    /// The partitions that images of are on their way.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        let outgoing = self.outgoing.iter().map(|outgoing| outgoing.partition);
        let mut all: Vec<_> =
            outgoing.chain(self.incoming.iter().map(|incoming| incoming.partition)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Where the machine's answers go.
    pub const fn events(&mut self) -> &mut Vec<ImageEvent> {
        &mut self.events
    }

    /// When to go on, if nothing else comes.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let outgoing = self.outgoing.iter().map(Outgoing::next_ns);
        let next = outgoing.chain(self.incoming.iter().map(Incoming::next_ns)).min();
        next.filter(|next| *next < u64::MAX)
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Todo> {
        self.todo.pop_front()
    }

    /// The raft crate may have asked for images, or named some.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn begin(&mut self, partition: PartitionId, replica: &mut Replica, now_ns: u64) -> Result<(), Fault> {
        for member in replica.take_named_images() {
            let sent = self.outgoing.iter_mut().find(|out| (out.partition, out.to) == (partition, member));
            let is_sent = sent.is_some_and(|outgoing| outgoing.named(&self.options, now_ns));
            if !is_sent {
                // The crate waits for what comes of it.
                replica.report_image(member, (false, false))?;
            }
        }
        for member in replica.take_asked_images() {
            let is_under_way = self.outgoing.iter().any(|out| (out.partition, out.to) == (partition, member));
            let of_it = |failure: &&Failure| (failure.partition, failure.member) == (partition, member);
            let is_paused = self.failures.iter().find(of_it).is_some_and(|failure| now_ns < failure.until_ns);
            // The crate asks again with the member's next answer.
            if !is_under_way && !is_paused && self.outgoing.len() < self.options.at_once.max(1) {
                self.last_number += 1;
                let of = (partition, &*replica);
                self.outgoing.push(Outgoing::begin(of, member, self.last_number, now_ns, &mut self.todo));
            }
        }
        Ok(())
    }

    /// A message came that says something of an image.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn received(
        &mut self,
        partition: PartitionId,
        replica: &mut Replica,
        (storage, message): (StorageId, &Message),
        (room_bytes, now_ns): (u64, u64),
    ) -> Result<(), Refused> {
        let from = MemberId(message.from);
        if !replica.is_running() || MemberId(message.to) != replica.leadership().member() {
            return Err(Refused::Addressee);
        }
        if !replica.hears(from, storage) {
            return Err(Refused::Sender);
        }
        let at = (replica.leadership().member(), replica.term());
        if message.get_msg_type() == MessageType::MsgSnapStatus {
            if let Some(why) = refusal_of_image(at, message, None) {
                return Err(why);
            }
            let answer = ToSender::decode(&message.context).ok_or(Refused::Image)?;
            let sent = self.outgoing.iter_mut().find(|out| (out.partition, out.to) == (partition, from));
            let is_known = sent.is_some_and(|outgoing| outgoing.received(&answer));
            return if is_known { Ok(()) } else { Err(Refused::Image) };
        }
        let part = ToReceiver::decode(&message.context).ok_or(Refused::Image)?;
        let offered = match &part.part {
            Part::Offer(offer) => Some((offer.lsn, offer.term)),
            Part::Chunk(_) | Part::Asks(_) | Part::Withdrawn => None,
        };
        if let Some(why) = refusal_of_image(at, message, offered) {
            return Err(why);
        }
        if message.term < replica.term().get() || replica.leadership().is_mine() {
            return Err(Refused::Image);
        }
        self.incoming_of(partition).received((from.0, message.term), &part, replica, (room_bytes, now_ns));
        Ok(())
    }

    fn incoming_of(&mut self, partition: PartitionId) -> &mut Incoming {
        let at = self.incoming.iter().position(|incoming| incoming.partition == partition);
        let at = at.unwrap_or_else(|| {
            let past = self.past.iter().position(|past| past.partition == partition);
            let known = past.and_then(|at| self.past.remove(at));
            self.incoming.push(known.unwrap_or_else(|| Incoming::new(partition, &self.options)));
            self.incoming.len() - 1
        });
        self.incoming.get_mut(at).expect("it was just found")
    }

    /// What was sent to the member of a group on a storage may be lost.
    pub fn lost(&mut self, partition: PartitionId, replica: &Replica, storage: StorageId) {
        for outgoing in self.outgoing.iter_mut().filter(|outgoing| outgoing.partition == partition) {
            if replica.storage_of(outgoing.to) == Some(storage) {
                outgoing.lost();
            }
        }
    }

    /// The replica of a partition is taken off: the one that may be added before anything else happens gets nothing of what
    /// was on its way to this one.
    pub fn take_off(&mut self, partition: PartitionId) {
        for incoming in self.incoming.iter_mut().filter(|incoming| incoming.partition == partition) {
            incoming.take_off(&mut self.todo);
        }
    }

    /// Goes on with the images of a partition; without its `replica`, if there is none any more.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn follow(
        &mut self,
        partition: PartitionId,
        replica: Option<&mut Replica>,
        (room_bytes, now_ns): (u64, u64),
    ) -> Result<(), Fault> {
        let mut replica = replica.filter(|replica| replica.is_running());
        for event in self.take_events(partition) {
            self.event(event, replica.as_deref_mut(), (room_bytes, now_ns))?;
        }
        for outgoing in self.outgoing.iter_mut().filter(|outgoing| outgoing.partition == partition) {
            outgoing.follow(replica.as_deref(), now_ns, &mut self.todo);
            // However it ended, and whoever leads now: nothing is kept any more for who certainly does not have it.
            let ended = outgoing.ended().filter(|_| !planted::is(PlantedBug::ImageStatusUnreported));
            if let (Some(status), Some(replica)) = (ended, replica.as_deref_mut()) {
                replica.report_image(outgoing.to, (status.is_success(), status.may_be_success()))?;
            }
        }
        for incoming in self.incoming.iter_mut().filter(|incoming| incoming.partition == partition) {
            incoming.follow(replica.as_deref(), now_ns, &mut self.todo);
        }
        self.note_ended(now_ns);
        Ok(())
    }

    /// The answers that are about a partition.
    fn take_events(&mut self, partition: PartitionId) -> Vec<ImageEvent> {
        let outgoing = &self.outgoing;
        let is_of_it = |event: &mut ImageEvent| match event {
            ImageEvent::Opened { number, .. }
            | ImageEvent::Chunk { number, .. }
            | ImageEvent::Failed { number, .. } => {
                // What nobody has any more is nobody's.
                outgoing.iter().find(|out| out.number == *number).is_none_or(|out| out.partition == partition)
            }
            ImageEvent::Stored { partition: of, .. }
            | ImageEvent::Validated { partition: of, .. }
            | ImageEvent::Installed { partition: of, .. } => *of == partition,
        };
        self.events.extract_if(.., is_of_it).collect()
    }

    fn event(
        &mut self,
        event: ImageEvent,
        replica: Option<&mut Replica>,
        (room_bytes, now_ns): (u64, u64),
    ) -> Result<(), Fault> {
        match &event {
            ImageEvent::Opened { number, .. }
            | ImageEvent::Chunk { number, .. }
            | ImageEvent::Failed { number, .. } => {
                let of_it = self.outgoing.iter_mut().find(|outgoing| outgoing.number == *number);
                let (Some(outgoing), Some(replica)) = (of_it, replica) else { return Ok(()) };
                if let Some(at_least) = outgoing.event(event, replica, now_ns, &mut self.todo)? {
                    self.last_number += 1;
                    outgoing.open_again(self.last_number, at_least, &mut self.todo);
                }
                Ok(())
            }
            ImageEvent::Stored { partition, .. }
            | ImageEvent::Validated { partition, .. }
            | ImageEvent::Installed { partition, .. } => {
                let of_it = self.incoming.iter_mut().find(|incoming| incoming.partition == *partition);
                let Some(incoming) = of_it else { return Ok(()) };
                incoming.event(event, replica, (room_bytes, now_ns), &mut self.todo)
            }
        }
    }

    /// What has come to its end is not followed any more.
    fn note_ended(&mut self, now_ns: u64) {
        for ended in self.outgoing.extract_if(.., |outgoing| outgoing.ended().is_some()) {
            let Some(status) = ended.ended() else { continue };
            let of_it =
                |failure: &Failure| (failure.partition, failure.member) == (ended.partition, ended.to);
            let known = self.failures.iter().position(of_it).map(|at| self.failures.swap_remove(at));
            let times = known.map_or(0, |known| known.times);
            if !status.is_success() && status != Status::Cancelled {
                let until_ns = now_ns + pause_ms(status, times, &self.options.sender) * NS_PER_MS;
                let (partition, member) = (ended.partition, ended.to);
                self.failures.push(Failure { partition, member, times: times + 1, until_ns });
            }
        }
        self.past.extend(self.incoming.extract_if(.., |incoming| incoming.is_idle()));
        let surplus = self.past.len().saturating_sub(PAST_KEPT);
        self.past.drain(..surplus);
        assert!(self.past.len() <= PAST_KEPT, "few are kept to be answered");
        self.check();
    }

    /// The invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        assert!(self.outgoing.len() <= self.options.at_once.max(1), "few images are sent at once");
        let mut of: Vec<_> = self.outgoing.iter().map(|outgoing| (outgoing.partition, outgoing.to)).collect();
        of.sort_unstable();
        assert!(of.is_sorted_by(|one, next| one < next), "one image is on its way to a member");
        self.outgoing.iter().for_each(Outgoing::check);
        self.incoming.iter().for_each(Incoming::check);
        let mut comes: Vec<_> = self.incoming.iter().map(|incoming| incoming.partition).collect();
        comes.sort_unstable();
        assert!(comes.is_sorted_by(|one, next| one < next), "one image comes for a replica");
    }
}
