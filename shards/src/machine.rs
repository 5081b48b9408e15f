//! What a shard's replicas apply their entries to.
//!
//! The shard frames entries: one entry carries the operations (`op`: opaque bytes) that a partition collected in a
//! turn, with one time stamp taken by the leader. The machine sees one op at a time, in log order, exactly once a
//! process: after a restart it is handed the entries above what it says it has persisted.

pub use crate::entry::Applied;
use crate::ids::PartitionId;
use crate::image::Header;
use crate::image::ask::{ImageAsk, ImageEvent};
pub use crate::step::{Prepared, Step, Unreadable};
pub use crate::waiting::{Urgency, Wait};
use corduroy_wal::Lsn;

/// Whether a request changes the state (and so goes through the log) or only looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// Logged.
    Write,
    /// Answered from the applied state, in request order with the writes before it, by whoever leads.
    Read,
    /// The same by any member of the group: one that does not lead asks the leader how far its state has to be, unless it knows
    /// that from less than [`GroupOptions::stale_reads_ms`](crate::raft::group::GroupOptions) ago.
    ReadAnywhere,
}

impl Kind {
    /// The same where only who leads answers reads.
    #[must_use]
    pub const fn by_leader(self) -> Self {
        match self {
            Self::Write => Self::Write,
            Self::Read | Self::ReadAnywhere => Self::Read,
        }
    }

    /// Whether it is answered without being logged.
    #[must_use]
    pub const fn is_read(self) -> bool {
        match self {
            Self::Write => false,
            Self::Read | Self::ReadAnywhere => true,
        }
    }
}

/// A deterministic state machine holding all partitions of one shard.
///
/// No method has a default: a machine that wraps another one passes all of them on, or does not compile.
///
/// Determinism: `apply` may depend only on the state, `at` and `op`. A bad op is an outcome (an error reply), never a
/// panic.
pub trait StateMachine {
    /// What a request gets.
    type Outcome;
    /// What a [look](StateMachine::look) brings, lent from the state.
    type View<'m>
    where
        Self: 'm;
    /// Work that may block (file reads, flush, compaction); run by the driver on its blocking pool.
    type Job: Send + 'static;
    /// What the work brought.
    type JobDone: Send + 'static;
    /// Why the machine cannot go on after a job: what could not be written or read.
    type Failure: std::error::Error + Send + Sync + 'static;

    /// Applies one op of the entry at `at`.
    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<Self::Outcome>;

    /// Has the CPU fetch what the first of these operations, which their partitions apply or read next, need of the state: together, so
    /// that they do not wait for memory one after the other. An empty one stands for what all of its partition need. Returns of
    /// how many, one at least. Changes nothing.
    fn prefetch<'o>(&self, ops: impl Iterator<Item = (PartitionId, &'o [u8])>) -> usize;

    /// Before an operation is proposed: whether what it needs of the state is in memory. An operation that needs what cannot
    /// be read is refused while that is still possible: in the log, it would have to be applied by every replica alike. What
    /// is ready here may have to be read once more when it is applied.
    fn prepare(&mut self, partition: PartitionId, op: &[u8]) -> Prepared;

    /// Whether [`StateMachine::prepare`] may say anything but ready for an operation of the partition; cheap.
    fn may_need_reads(&self, partition: PartitionId) -> bool;

    /// All ops of the entry have been applied (entries without ops come here too): the partition's applied LSN
    /// moves. In the same atomic step as their effects, as far as persistence is concerned.
    fn end_entry(&mut self, at: &Applied);

    /// Answers a read from the applied state. `now_ms` is the partition's clock: never behind a stamp.
    fn read(&mut self, partition: PartitionId, op: &[u8], now_ms: u64) -> Step<Self::Outcome>;

    /// Asked of a read that was just done at the highest stamp applied: whether its answer may be another one at `now_ms`,
    /// since something has expired in between, or the time itself is answered. `true` is never wrong, but costs an entry:
    /// where several members have the partition, another one that leads later may have a clock that is behind, and what was
    /// found expired must not come back.
    fn rests_on_clock(&self, partition: PartitionId, op: &[u8], now_ms: u64) -> bool;

    /// Answers a read from the applied state at once, with what [`StateMachine::read`] would bring, but without a job and
    /// without a copy: lends it to `with`. `None`: something of it is not at hand, or it brings more than may be brought
    /// between two turns.
    fn look<T>(
        &mut self,
        partition: PartitionId,
        op: &[u8],
        now_ms: u64,
        with: impl FnOnce(Self::View<'_>) -> T,
    ) -> Option<T>;

    /// The highest entry whose effects survive a crash without the log. [`Lsn::ZERO`] if none. Of the one above it, some
    /// ops may survive too: a machine that persists in the middle of an entry passes them over when they come again.
    fn persisted(&self, partition: PartitionId) -> Lsn;

    /// Whether the state has some ops of the entry above the last one that was applied: it was persisted in the middle of that
    /// one, or apply stands in it. Only what is committed is applied, so at a start that entry counts as committed too, even if
    /// the log has lost track of that: an image, which lies between two entries, has to wait until the entry is applied.
    fn is_inside_entry(&self, partition: PartitionId) -> bool;

    /// Something the machine does by itself, sliced by `budget_ns` at most (eviction, capture for a flush).
    /// Returns whether more is left to do at once.
    fn maintain(&mut self, budget_ns: u64) -> bool;

    /// Moves jobs that wait to be started into `jobs`. Called at the end of each turn, so that what its steps need can
    /// go into few jobs.
    fn take_jobs(&mut self, jobs: &mut Vec<Self::Job>);

    /// Moves the [numbers](Wait::Number) into `woken` whose steps can be done now, with their partitions.
    fn take_woken(&mut self, woken: &mut Vec<(PartitionId, u64)>);

    /// Nobody waits for this [number](Wait::Number) any more: its step is not going to be done.
    fn abandon(&mut self, number: u64);

    /// Does a job's work. Called off the core.
    fn run_job(job: Self::Job) -> Self::JobDone;

    /// Takes a job's result. Partitions whose persisted LSN moved are reported through [`StateMachine::persisted`].
    ///
    /// # Errors
    /// [`StateMachine::Failure`]: the process must end, as after a failed log write.
    fn job_done(&mut self, done: Self::JobDone) -> Result<(), Self::Failure>;

    /// Asks for a flush, because the log wants its oldest segments back. Asked in each turn while that lasts.
    fn want_flush(&mut self, urgency: Urgency);

    /// Whether a write is let in while the disk is full, since it only ever frees space (a deletion, a flush). Every other
    /// write is refused then.
    fn takes_when_full(&self, op: &[u8]) -> bool;

    /// Whether a read is known to bring and to move very little: then it is answered though its turn has brought all it may,
    /// and does not wait behind reads that bring much. Cheap; asked for only then.
    fn is_light(&self, partition: PartitionId, op: &[u8]) -> bool;

    /// What the step that brought this outcome took, roughly, in bytes: the outcome's in memory, and those it moved or
    /// looked at beyond the operation's own. The reads of a turn take no more than
    /// [`Limits::outcome_bytes`](crate::Limits::outcome_bytes), and one more step; so do its entries.
    fn step_bytes(&mut self, outcome: &Self::Outcome) -> usize;

    /// The highest stamp, in ms since 1970, of any entry of the partition that is part of what
    /// [`StateMachine::persisted`] speaks of; 0 if it is not known. New stamps never go below it, also when the
    /// wall clock was set back between two starts.
    fn persisted_stamp_ms(&self, partition: PartitionId) -> u64;

    /// At a start: the partition's log holds entries up to this one, and those above what is persisted are going to be
    /// applied. Requests wait until they are, so the machine may let its memory grow further than later.
    fn expect_replay(&mut self, partition: PartitionId, last: Lsn);

    /// Moves the partitions into `partitions` whose [`StateMachine::alarm_ms`] has become sooner, or is there again.
    fn take_alarms(&mut self, partitions: &mut Vec<PartitionId>);

    /// When an entry would do the partition good that only moves its clock, in ms since 1970: the leader logs one once its
    /// clock has come there, whatever requests come. `None`: no time is better than another.
    fn alarm_ms(&mut self, partition: PartitionId) -> Option<u64>;

    /// Whether the disk has no room for what the machine has to write. While it has not, only operations that
    /// [`StateMachine::takes_when_full`] names are taken in, and [`StateMachine::retry`] is called about twice a second.
    fn is_out_of_room(&self) -> bool;

    /// Whether something else waits for [`StateMachine::retry`], which is called as often then: what the system refused to
    /// read, for an entry that cannot do without. Operations are taken in all the same.
    fn wants_retry(&self) -> bool;

    /// Looks for room again, and tries again what the system refused.
    fn retry(&mut self);

    /// Where what has to be written waits for something else than room: what could not be written, and why. Writes are
    /// refused with that then.
    fn stalled_by(&self) -> Option<Unreadable>;

    /// In how many ns from now [`StateMachine::verify`] is to be called; `None`: not until something else turns the shard.
    fn verify_in_ns(&self) -> Option<u64>;

    /// Goes on comparing what the media hold with what was written, by one job.
    fn verify(&mut self);

    /// Makes an image of a partition, or takes one over, step by step and by jobs. An install replaces the partition in one
    /// step: what [`StateMachine::persisted`] returns and the rows change together, and results of jobs that were asked
    /// before it are void. Until the install has ended, nothing is applied to the partition.
    fn ask_image(&mut self, ask: ImageAsk);

    /// Moves the answers to [`StateMachine::ask_image`] into `events`.
    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>);

    /// Deletes all that there is of a partition, in one step, by a job if it needs one; nothing is applied to it meanwhile, and
    /// what was asked of it before is void. Asked again until it returns that nothing is left: [`StateMachine::persisted`] is
    /// zero then, and stays that after a crash.
    fn clear(&mut self, partition: PartitionId) -> bool;

    /// The image that was installed last, if no entry was applied to the partition since: the log may not know of it, since
    /// the process may have ended between the two. Survives as what [`StateMachine::persisted`] speaks of does.
    fn installed_image(&self, partition: PartitionId) -> Option<Header>;
}
