//! What replicas send to each other: all messages of a turn to one node in one frame, as the bytes that production sends.
//!
//! Invariant: what is stepped came out of a frame whose checksums fit. A frame has a stream of its own, so each may arrive
//! late, twice or not at all: what a connection would not let through reaches the replicas here all the same.

use bytes::Bytes;

use crate::ids::{MemberId, PartitionId, StorageId};
use crate::net::beats::apart;
use crate::net::frame::Stream;
use crate::net::hello::Versions;
use crate::net::{FrameReader, FrameWriter, Lane, Outgoing};
use crate::raft::snapshot::transfers::is_of_image;
use crate::raft::start::Origin;
use crate::shard::io::{Input, PeerMessage};
use crate::sim::net::{Links, Parcel};
use crate::sim::node::SimNode;
use crate::sim::rng::Rng;
use crate::sim::swarm::{Knobs, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Common, Happening, World};

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Post {
    bytes: Vec<u8>,
    /// The partitions of its messages: who sent it may learn that it did not arrive.
    partitions: Vec<PartitionId>,
}

impl Parcel for Post {
    fn flip(&mut self, rng: &mut Rng) {
        self.bytes.flip(rng);
    }
}

impl Knobs {
    /// How the links between nodes are.
    pub(super) const fn links(&self) -> Links {
        Links {
            delay_ns: self.link_ns,
            loss_per_mille: self.loss_per_mille,
            duplicate_per_mille: self.duplicate_per_mille,
            late_per_mille: self.late_per_mille,
            replay_per_mille: self.replay_per_mille,
            flip_per_mille: self.changed_per_mille,
        }
    }

    /// The storage of a node; where there is but one node nobody names it.
    pub(super) const fn storage(&self, node: usize) -> StorageId {
        if self.nodes == 1 { StorageId::UNKNOWN } else { StorageId(node as u64 + 1) }
    }

    /// Every partition's group is founded with a voter on each of the first nodes.
    pub(super) fn origin(&self) -> Origin {
        let voter = |node| (MemberId(node as u64 + 1), self.storage(node));
        Origin::Found((0..self.founders()).map(voter).collect())
    }
}

/// The node that a storage is of.
pub(super) fn node_of(storage: StorageId) -> Option<usize> {
    usize::try_from(storage.0.checked_sub(1)?).ok()
}

/// What a frame from one node to another is written as.
const fn stream(from: usize, to: usize) -> Stream {
    Stream { id: (from as u64) << 32 | to as u64, version: Versions::SPOKEN.highest, lane: Lane::Log }
}

/// After a pause, from what a process takes in of a connection to what it takes in next of it, at most.
const AFTER_PAUSE_NS: u64 = MS / 5;

/// The longest frame: more than any turn brings.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// The messages of a frame; `None` if it was changed on its way.
fn open(from: usize, to: usize, bytes: Vec<u8>) -> Option<Vec<(PartitionId, raft::eraftpb::Message)>> {
    let mut reader = FrameReader::new(stream(from, to), FRAME_BYTES_MAX);
    reader.push(Bytes::from(bytes));
    let frame = reader.next().ok().flatten()?;
    let messages = frame.into_messages().collect::<Result<Vec<_>, _>>();
    let messages = messages.expect("its checksums fit, and it was written by a replica");
    Some(messages.into_iter().flat_map(|(partition, message)| apart(partition, message)).collect())
}

impl<S: Subject> SimNode<S> {
    /// The messages of its replicas leave.
    pub(super) fn post(&self, world: &mut Common<S>, messages: Vec<PeerMessage>) {
        let mut frames = vec![(Vec::new(), 0); world.plan.knobs.node_count()];
        for message in messages {
            world.probe("messages between nodes");
            let judged = world.safety.sends((self.number, message.partition), &message.message);
            if let Err((invariant, what)) = judged {
                world.broken(invariant, what);
            }
            let to = node_of(message.to).filter(|to| *to != self.number);
            let Some(frame) = to.and_then(|to| frames.get_mut(to)) else {
                world.broken("messages go to members", format!("{message:?}"));
                continue;
            };
            let is_of_image = is_of_image(&message.message);
            match Outgoing::new(message.partition, message.message) {
                Ok(outgoing) => {
                    frame.0.push(outgoing);
                    frame.1 += u64::from(is_of_image);
                }
                Err(why) => world.broken("what replicas send can be sent", why.to_string()),
            }
        }
        let to_each = frames.into_iter().enumerate().filter(|(_, (messages, _))| !messages.is_empty());
        to_each.for_each(|(to, (messages, images))| self.send_frame(world, to, &messages, images));
    }

    /// Sends a frame; of its messages so many are of images.
    fn send_frame(&self, world: &mut Common<S>, to: usize, messages: &[Outgoing], images: u64) {
        let from = self.number;
        let bytes = Vec::from(FrameWriter::new(stream(from, to)).write(messages));
        let partitions = messages.iter().map(Outgoing::partition).collect();
        let (agenda, now_ns) = (&mut world.agenda, world.now_ns);
        let fared = world.net.send((from, to), now_ns, Post { bytes, partitions }, |at_ns, parcel| {
            agenda.put(at_ns, Happening::Deliver { from, to, parcel: Box::new(parcel) });
        });
        world.probe("frames between nodes");
        let lost = if fared.is_lost { images } else { 0 };
        world.books.borrow_mut().probes.add("parts of images lost", lost);
        for (befell, what) in [
            (fared.is_lost, "frames lost"),
            (fared.is_doubled, "frames doubled"),
            (fared.is_late, "frames overtaken"),
            (fared.is_replayed, "frames replayed"),
        ] {
            if befell {
                world.probe(what);
            }
        }
    }

    /// What a frame brought is handed to its replicas.
    fn receive(
        &mut self,
        world: &mut Common<S>,
        from: usize,
        messages: Vec<(PartitionId, raft::eraftpb::Message)>,
    ) {
        let storage = world.plan.knobs.storage(from);
        for (partition, message) in messages {
            let shard = world.shard_of(partition);
            let input = Input::Message { partition, from: storage, message: Box::new(message) };
            self.with_shard(shard, |shard| shard.handle(input));
            self.turn_soon(world, shard);
        }
    }

    /// It learns that a frame of its did not arrive.
    fn missed(&mut self, world: &mut Common<S>, to: usize, partitions: &[PartitionId]) {
        let to = world.plan.knobs.storage(to);
        for &partition in partitions {
            let shard = world.shard_of(partition);
            self.with_shard(shard, |shard| shard.handle(Input::Unreachable { partition, to }));
            self.turn_soon(world, shard);
        }
    }
}

impl<S: Subject> World<S> {
    /// A frame has come to the end of its way.
    pub(super) fn deliver(&mut self, (from, to): (usize, usize), parcel: Post) {
        let Self { nodes, common } = self;
        if let Some(paused) =
            nodes.get(to).filter(|node| node.process.is_some() && node.is_paused(common.now_ns))
        {
            // Its sockets hold what came meanwhile. It reads each from its beginning, and takes turns in between.
            let last_ns = common.resumed_ns.entry((from, to)).or_default();
            *last_ns = paused.paused_until_ns.max(*last_ns) + common.streams.resumed.below(AFTER_PAUSE_NS);
            let at_ns = *last_ns;
            common.agenda.put(at_ns, Happening::Deliver { from, to, parcel: Box::new(parcel) });
            return common.probe("frames after a pause");
        }
        let Post { bytes, partitions } = parcel;
        let is_up = nodes.get(to).is_some_and(|node| node.process.is_some());
        let is_through = is_up && common.net.passes(from, to);
        common.note(
            if is_through { "frame" } else { "no frame" },
            to as u64,
            from as u64,
            bytes.len() as u64,
        );
        let messages = is_through.then(|| open(from, to, bytes));
        match messages {
            Some(Some(messages)) => {
                let node = nodes.get_mut(to).expect("it is up");
                return node.receive(common, from, messages);
            }
            Some(None) => common.probe("frames changed"),
            None if is_up => common.probe("frames cut off"),
            None => common.probe("frames to nobody"),
        }
        if common.streams.news.chance(500) {
            let node = nodes.get_mut(from);
            node.into_iter().for_each(|node| node.missed(common, to, &partitions));
        }
    }
}
