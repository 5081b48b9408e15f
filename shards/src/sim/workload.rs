//! What a world is made of besides the shard: the machine under test, its own storage, its model, its requests.
//!
//! The simulator knows no commands. A [`Subject`] draws them, a [`Model`] says what they must answer. Every request
//! carries a number of its own through the log, so that any request can be used, unique bytes or not.

use std::fmt::Debug;

use crate::ids::{PartitionId, ShardId};
use crate::machine::{Applied, Kind, StateMachine};
use crate::sim::probes::Probes;
use crate::sim::rng::Rng;
use crate::sim::shown::Shown;
use crate::sim::swarm::Knobs;

/// A plain, obviously right version of one partition's state.
pub trait Model {
    /// As the machine's.
    type Outcome;

    /// Applies an op.
    fn apply(&mut self, at: &Applied, op: &[u8]) -> Self::Outcome;

    /// Answers a read at the node's wall clock.
    fn read(&mut self, op: &[u8], now_ms: u64) -> Self::Outcome;
}

/// A state machine that can be put into a simulated world.
pub trait Subject: 'static {
    /// What a request gets.
    type Outcome: Clone + PartialEq + Debug;
    /// The machine under test.
    type Machine: StateMachine<Outcome = Self::Outcome>;
    /// The part of one shard's machine that survives the process.
    type Media;
    /// Its model, one a partition.
    type Model: Model<Outcome = Self::Outcome>;
    /// Why the machine cannot start on what its storage holds.
    type OpenError: std::error::Error;

    /// Empty storage for one shard.
    fn media(&self, shard: ShardId) -> Self::Media;

    /// The process has died: what the storage had not made durable is lost.
    fn crash(&self, media: &mut Self::Media, rng: &mut Rng);

    /// From now on the storage takes only so many bytes more, or any number again.
    fn set_room(&self, media: &Self::Media, bytes: Option<u64>);

    /// Makes some of what the storage holds unreadable, and returns how much. `is_served`: it is read all the same, other than it
    /// was written.
    fn damage(&self, media: &Self::Media, rng: &mut Rng, is_served: bool) -> u64 {
        let _ = (media, rng, is_served);
        0
    }

    /// Has images leave what they do not have: a bug that is planted.
    fn keep_rows(&self, media: &Self::Media) {
        let _ = media;
    }

    /// Puts what was damaged back as it was.
    fn restore(&self, media: &Self::Media) {
        let _ = media;
    }

    /// Starts the machine on what its storage holds.
    ///
    /// # Errors
    /// [`Subject::OpenError`].
    fn open(
        &self,
        media: &mut Self::Media,
        shard: ShardId,
        knobs: &Knobs,
    ) -> Result<Self::Machine, Self::OpenError>;

    /// The model of an empty partition.
    fn model(&self) -> Self::Model;

    /// Draws a request. `unique` is a number that no other request has: the value to write.
    fn request(&self, rng: &mut Rng, knobs: &Knobs, unique: u64, now_ms: u64) -> (Kind, Vec<u8>);

    /// A write that any healthy partition must take.
    fn write(&self, unique: u64) -> Vec<u8>;

    /// Reads that together look at everything a partition may hold.
    fn audit(&self, knobs: &Knobs) -> Vec<Vec<u8>>;

    /// The outcome that a look of the machine stands for.
    fn seen(&self, view: &<Self::Machine as StateMachine>::View<'_>) -> Self::Outcome;

    /// Whether two outcomes of an op mean the same (lists without an order, for instance).
    fn same(&self, op: &[u8], model: &Self::Outcome, machine: &Self::Outcome) -> bool {
        let _ = op;
        model == machine
    }

    /// Panics if the machine contradicts itself; asked between turns, and when a process ends.
    fn check(&self, machine: &Self::Machine) {
        let _ = machine;
    }

    /// Counts what the machine went through in an incarnation (called when it ends).
    fn probe(&self, machine: &Self::Machine, probes: &mut Probes);
}

/// A request on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The request's number in the world.
    pub id: u64,
    /// Where it went.
    pub partition: PartitionId,
    /// The node that it was handed to.
    pub node: usize,
    /// Logged or not.
    pub kind: Kind,
    /// When, ns.
    pub at_ns: u64,
    /// What outcomes had shown of the partition when it was sent.
    pub shown: Shown,
}

/// Length of the number that precedes each op in the log.
pub const ID_BYTES: usize = 8;

/// The op as it travels: the request's number, then the op.
#[must_use]
pub fn stamp(id: u64, op: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend_from_slice(op);
    bytes
}

/// Takes an op as it travels apart. `None` if it is too short to be one.
#[must_use]
pub fn unstamp(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (id, op) = bytes.split_first_chunk::<ID_BYTES>()?;
    Some((u64::from_le_bytes(*id), op))
}
