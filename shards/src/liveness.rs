//! Which shards of other storages are alive: one beat for each pair of shards, whatever the number of groups that they share.
//!
//! Beats of all shards of a node are due at the same times, so that those of a core travel together (`net/beats.rs`).
//!
//! A shard sends a beat every so often to each peer, the shard of another storage that it has exchanged messages of some group
//! with. A peer is alive while beats of its come. Groups that sleep rest on that alone: nothing of their own is sent. So what
//! they would hear of by its absence becomes an event here: a peer that is not heard any more, one that is heard
//! again or whose process is another one, and one that has lost a replica while its process goes on, by which the epoch in its
//! beats grows.
//!
//! Invariant: a beat that was overtaken, has come before or is of an earlier process counts for nothing, and no peer becomes
//! alive, or ceases to be, without an event. Where groups do not sleep nothing is sent.

use std::collections::VecDeque;

use raft::eraftpb::{Message, MessageType};

use crate::ids::{PartitionId, StorageId};
use crate::image::transfer::Process;
use crate::outputs::PeerMessage;
use crate::peer_event::PeerEvent;

/// A peer that is not heard for so many times the time after which it counts as dead gets no more beats, until there is
/// something else to send there.
const FORGOTTEN_AFTER: u64 = 600;

/// What is known of a peer.
#[derive(Debug)]
struct Peer {
    storage: StorageId,
    /// A group that has members there and here: its beats find their way by it.
    partition: PartitionId,
    /// Incarnation and start of its newest process that was heard.
    process: (u64, u64),
    epoch: u64,
    number: u64,
    /// When it was heard last; until it is, when it was met.
    heard_ns: u64,
    is_alive: bool,
}

/// See the file's head.
#[derive(Debug)]
pub struct Liveness {
    storage: StorageId,
    process: (u64, u64),
    epoch: u64,
    number: u64,
    /// Time between beats; 0: no group sleeps, and there are none.
    every_ns: u64,
    /// How long a peer that is alive may be silent.
    silent_ns: u64,
    next_ns: u64,
    peers: Vec<Peer>,
    events: VecDeque<PeerEvent>,
}

/// Whether a message is a beat.
#[must_use]
pub fn is_beat(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgBeat
}

impl Liveness {
    /// That of a shard of this storage and process. `every_ns`: from beat to beat, 0: there are none; `silent_ns`: how long a
    /// peer that is alive may be silent.
    #[must_use]
    pub const fn new(storage: StorageId, process: Process, (every_ns, silent_ns): (u64, u64)) -> Self {
        Self {
            storage,
            process: (process.incarnation, process.starts),
            epoch: 0,
            number: 0,
            every_ns,
            silent_ns,
            next_ns: 0,
            peers: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// A message of a group goes to that storage, or has come from there.
    pub fn meet(&mut self, storage: StorageId, partition: PartitionId, now_ns: u64) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.storage == storage) {
            peer.partition = partition;
        } else if self.every_ns > 0 {
            let (process, epoch, number) = ((0, 0), 0, 0);
            let (heard_ns, is_alive) = (now_ns, false);
            self.peers.push(Peer { storage, partition, process, epoch, number, heard_ns, is_alive });
            self.next_ns = self.next_ns.max(now_ns);
        }
    }

    /// A beat has come from that storage.
    pub fn heard(&mut self, storage: StorageId, partition: PartitionId, beat: &Message, now_ns: u64) {
        self.meet(storage, partition, now_ns);
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.storage == storage) else { return };
        let process = (beat.index, beat.term);
        if (process, beat.commit_term) <= (peer.process, peer.number) {
            return;
        }
        let is_same = process == peer.process;
        let has_changed = is_same && beat.commit != peer.epoch;
        (peer.process, peer.epoch, peer.number) = (process, beat.commit, beat.commit_term);
        peer.heard_ns = now_ns;
        let was_alive = std::mem::replace(&mut peer.is_alive, true);
        match (was_alive, is_same) {
            (true, true) if has_changed => self.events.push_back(PeerEvent::Changed(storage)),
            (true, true) => {}
            (true, false) => self.events.extend([PeerEvent::Down(storage), PeerEvent::Up(storage)]),
            (false, _) => self.events.push_back(PeerEvent::Up(storage)),
        }
    }

    /// A replica here has ended, and the process goes on: its groups may count on it elsewhere.
    pub fn replica_ended(&mut self) {
        self.epoch += 1;
        self.next_ns = 0;
    }

    /// Sends the beats that are due, and notices who is not heard any more.
    pub fn look(&mut self, now_ns: u64, out: &mut Vec<PeerMessage>) {
        let silent_ns = self.silent_ns;
        let silence = |peer: &Peer| now_ns.saturating_sub(peer.heard_ns);
        for peer in self.peers.iter_mut().filter(|peer| peer.is_alive && silence(peer) >= silent_ns) {
            peer.is_alive = false;
            self.events.push_back(PeerEvent::Down(peer.storage));
        }
        if self.peers.is_empty() || now_ns < self.next_ns {
            return;
        }
        self.peers.retain(|peer| peer.is_alive || silence(peer) < silent_ns * FORGOTTEN_AFTER);
        // All shards of a node have the same times: so the beats of a core's are in one frame, and one message.
        (self.number, self.next_ns) =
            (self.number + 1, (now_ns / self.every_ns + 1).saturating_mul(self.every_ns));
        let beat = |peer: &Peer| PeerMessage {
            partition: peer.partition,
            to: peer.storage,
            message: self.beat(peer.storage),
        };
        out.extend(self.peers.iter().map(beat));
    }

    fn beat(&self, to: StorageId) -> Message {
        let (incarnation, starts) = self.process;
        let mut beat = Message { from: self.storage.0, to: to.0, term: starts + 1, ..Message::default() };
        beat.set_msg_type(MessageType::MsgBeat);
        (beat.index, beat.commit, beat.commit_term) = (incarnation, self.epoch, self.number);
        beat
    }

    /// What has become of a peer, in order.
    pub fn take_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// Whether the shard of that storage is alive, as far as it is heard.
    #[must_use]
    pub fn is_alive(&self, storage: StorageId) -> bool {
        self.peers.iter().any(|peer| peer.storage == storage && peer.is_alive)
    }

    /// When there is something to look at, if there are peers.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let alive = self.peers.iter().filter(|peer| peer.is_alive);
        let silent = alive.map(|peer| peer.heard_ns.saturating_add(self.silent_ns));
        (!self.peers.is_empty()).then(|| silent.chain([self.next_ns]).min()).flatten()
    }
}

#[cfg(test)]
mod tests;
