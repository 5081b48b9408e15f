//! Planted bugs: each takes away one guard of the shard, so that tests and simulator can show that they would notice.
//!
//! One form for all: beside the guard stands `planted::is`, which is false, and compiled out, without the feature `sim`. The
//! switch is per thread, as in the log: a simulated world runs on one thread, and many run side by side.

use corduroy_wal::{LogState, Lsn};

/// A guard that can be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PlantedBug {
    /// A record counts as durable as soon as it is handed to the log: entries are committed, applied and
    /// acknowledged before they are on the disk.
    AckBeforeDurable,
    /// Records are written without their hard state, so term and vote are forgotten.
    SkipHardState,
    /// After a restart, the last persisted entry is applied once more.
    DoubleApplyAfterRestart,
    /// After a restart, the unpersisted tail of the log is not applied.
    SkipTailAfterRestart,
    /// The first two requests of an entry get each other's outcome.
    SwapReplies,
    /// A read does not wait for earlier writes of its connection.
    ReadOvertakesWrite,
    /// A read at once is answered by a replica that has not applied what it has to.
    ReadAtOnceTooEarly,
    /// Every 64th outcome is dropped.
    LostOutcome,
    /// Every 64th request gets a second outcome.
    SecondOutcome,
    /// The log is released up to what is applied instead of what is persisted.
    ReleaseUnpersisted,
    /// Stamps follow the wall clock also when it goes back.
    StampGoesBack,
    /// A clock that is ahead of the wall clock stands still until that has caught up.
    ClockStandsStill,
    /// The index of a replica that was taken off names the one that has its slot now.
    StaleReplicaIndex,
    /// Messages that speak of a record, a vote or entries, leave before it is on the disk.
    MessagesBeforeDurable,
    /// What is durable on one member counts as agreed by all.
    CommitWithoutMajority,
    /// What a majority has is applied though it is not on this disk.
    AppliedBeforeDurable,
    /// After a restart, all entries of the log count as committed.
    RestartCommitsAll,
    /// Requests that were proposed are refused at their deadline, though they may be done yet.
    UnknownCalledRefused,
    /// A leader stamps below the entries of the one before it that it has not applied.
    StampBelowLog,
    /// Reads of a group with several members are judged by the wall clock of whoever leads.
    ReadsByWallClock,
    /// A message that is not taken in stops its replica.
    RefusalFences,
    /// More is taken in than one record holds.
    RecordOverfilled,
    /// The log drops what other members do not have yet.
    ReleasedForPeers,
    /// An entry that was read back has the term of the one before it.
    TermsOffByOne,
    /// The log of a replica that is deleted begins anew before its state is deleted.
    LogBeforeState,
    /// A leader that hears nobody goes on leading.
    DeafLeads,
    /// All rounds for reads that a member asks for in a term have the same context.
    ContextReused,
    /// Records do not say whom a member voted for.
    VoteForgotten,
    /// A leader applies what all members have, and not what a majority has.
    CommitNeedsAll,
    /// Reads of a leader with peers wait for no round.
    RoundSkipped,
    /// A read waits for the last entry that was proposed before it came, and for no round.
    ReadRidesAlong,
    /// A round for reads that nobody answers is not tried again, and reads that wait for one are not refused in time.
    RoundNotRepeated,
    /// A change of members that the crate has made an empty entry of counts as done.
    EmptiedChangeDone,
    /// The leader does not end what several changes of members have begun.
    JointNeverLeft,
    /// A leader that loses its vote goes on leading.
    DemotedLeads,
    /// Changes of members that a replica has made are made again after a restart.
    ChangeMadeAgain,
    /// A group's configuration is not written to the log.
    ConfigurationNotSaved,
    /// A leader's lease runs from the answer of a majority, not from what it answers.
    LeaseFromAnswer,
    /// A leader keeps its lease while it hands the lead on.
    LeaseKeptInTransfer,
    /// A follower that has been answered how far its state has to be does not wait until it is.
    IndexIgnored,
    /// A state that was young once is for ever.
    StaleForEver,
    /// A member that was restarted votes at once, whatever it had promised before.
    RestartedVotesAtOnce,
    /// Who gets an image goes on with the members that it knew before.
    ImageConfigurationIgnored,
    /// The raft crate never hears what became of an image.
    ImageStatusUnreported,
    /// One chunk of an image counts as taken in, and is not stored.
    ImageChunkSkipped,
    /// A follower that sleeps does not notice that its leader is not heard any more.
    DeathUnnoticed,
    /// A follower sleeps, when its leader has it do so, though it does not stand where that one does.
    SleepsOn,
    /// The lease of a leader that sleeps does not run out.
    LeaseAsleep,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 48] = [
        Self::AckBeforeDurable,
        Self::SkipHardState,
        Self::DoubleApplyAfterRestart,
        Self::SkipTailAfterRestart,
        Self::SwapReplies,
        Self::ReadOvertakesWrite,
        Self::ReadAtOnceTooEarly,
        Self::LostOutcome,
        Self::SecondOutcome,
        Self::ReleaseUnpersisted,
        Self::StampGoesBack,
        Self::ClockStandsStill,
        Self::StaleReplicaIndex,
        Self::MessagesBeforeDurable,
        Self::CommitWithoutMajority,
        Self::AppliedBeforeDurable,
        Self::RestartCommitsAll,
        Self::UnknownCalledRefused,
        Self::StampBelowLog,
        Self::ReadsByWallClock,
        Self::RefusalFences,
        Self::RecordOverfilled,
        Self::ReleasedForPeers,
        Self::TermsOffByOne,
        Self::LogBeforeState,
        Self::DeafLeads,
        Self::ContextReused,
        Self::VoteForgotten,
        Self::CommitNeedsAll,
        Self::RoundSkipped,
        Self::ReadRidesAlong,
        Self::RoundNotRepeated,
        Self::EmptiedChangeDone,
        Self::JointNeverLeft,
        Self::DemotedLeads,
        Self::ChangeMadeAgain,
        Self::ConfigurationNotSaved,
        Self::LeaseFromAnswer,
        Self::LeaseKeptInTransfer,
        Self::RestartedVotesAtOnce,
        Self::IndexIgnored,
        Self::StaleForEver,
        Self::ImageConfigurationIgnored,
        Self::ImageStatusUnreported,
        Self::ImageChunkSkipped,
        Self::DeathUnnoticed,
        Self::SleepsOn,
        Self::LeaseAsleep,
    ];
}

#[cfg(feature = "sim")]
thread_local! {
    /// The bug, and how often its guard has been asked.
    static PLANTED: std::cell::Cell<(Option<PlantedBug>, u64)> = const { std::cell::Cell::new((None, 0)) };
}

/// Plants a bug in this thread's shards, or removes it.
#[cfg(feature = "sim")]
pub fn plant(bug: Option<PlantedBug>) {
    PLANTED.set((bug, 0));
}

/// Whether the bug is planted.
#[cfg(feature = "sim")]
pub(crate) fn is(bug: PlantedBug) -> bool {
    PLANTED.get().0 == Some(bug)
}

/// Whether the bug is planted: never, without the feature.
#[cfg(not(feature = "sim"))]
pub(crate) const fn is(_bug: PlantedBug) -> bool {
    false
}

/// Whether the bug is planted and strikes: each 64th time.
#[cfg(feature = "sim")]
pub(crate) fn strikes(bug: PlantedBug) -> bool {
    let (planted, asked) = PLANTED.get();
    let is_planted = planted == Some(bug);
    PLANTED.set((planted, asked + u64::from(is_planted)));
    is_planted && (asked + 1).is_multiple_of(64)
}

/// Whether the bug is planted and strikes: never, without the feature.
#[cfg(not(feature = "sim"))]
pub(crate) const fn strikes(_bug: PlantedBug) -> bool {
    false
}

/// What is taken for persisted at a restart: as it is, unless a bug of it is planted.
pub(crate) fn misplaced(log: Option<&LogState>, persisted: Lsn) -> Lsn {
    match log {
        Some(log) if is(PlantedBug::SkipTailAfterRestart) => log.last.max(persisted),
        Some(log) if is(PlantedBug::DoubleApplyAfterRestart) && log.first <= persisted => {
            Lsn(persisted.get().saturating_sub(1))
        }
        Some(_) | None => persisted,
    }
}
