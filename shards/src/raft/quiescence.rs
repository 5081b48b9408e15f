//! Which groups need the clock. An idle group costs nothing: it is not ticked, stands on no list and sends nothing.
//!
//! A group of one sleeps whenever it serves. One with several members goes to sleep together: once there was nothing to do for a
//! while, the leader announces that to its members by a message ([`SLEEP`]), each of which goes to sleep if it stands where the leader
//! does, and else has the leader go on ([`WAKE`]). From then on the peers' beats stand for the leader's heartbeats (see
//! `Liveness`). Who is woken by anything has all others wake: a leader by a heartbeat, a follower by
//! waking its leader; who is not asleep, and hears no leader, asks for votes, or without a vote for its leader, which wakes whoever
//! gets that.
//!
//! Invariant: a group that sleeps has nothing that only a tick could move on. Nothing but a tick puts a member to sleep, and what
//! is about to have a message sent wakes it first.

use raft::eraftpb::MessageType;

/// The message by which a leader has a follower sleep. The raft crate is never given it.
pub const SLEEP: MessageType = MessageType::MsgCheckQuorum;
/// The message by which members have each other go on. The raft crate is never given it.
pub const WAKE: MessageType = MessageType::MsgUnreachable;

/// Ticks without anything to do after which a group sleeps again that only lost its leader: what the next one says has arrived by then.
/// A node's death wakes thousands of groups at once, and the heartbeats of a longer wait cost more than the elections.
const UNUSED_TICKS: u16 = 2;

/// How near to sleep a member of a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleep {
    /// It is ticked.
    Awake {
        /// For how many ticks there was nothing to do, as far as the leader knows.
        quiet_ticks: u16,
        /// Whether it was asked for anything since it woke. Who only lost its leader is not, and need not wait for more.
        is_used: bool,
    },
    /// The leader has announced it to the others, and sleeps with the next tick.
    Announced,
    /// The follower was asked to sleep, and does so with the next tick if it stands where the leader does.
    Asked,
    /// It is not ticked.
    Asleep,
}

impl Sleep {
    /// There was something to do just now.
    pub const AWAKE: Self = Self::Awake { quiet_ticks: 0, is_used: true };
    /// It woke since its leader is not heard any more; nobody has asked for anything.
    pub const LEADERLESS: Self = Self::Awake { quiet_ticks: 0, is_used: false };

    /// What it is once there was something to do that nobody asked for.
    #[must_use]
    pub const fn roused(self) -> Self {
        match self {
            Self::Awake { is_used, .. } => Self::Awake { quiet_ticks: 0, is_used },
            Self::Announced | Self::Asked | Self::Asleep => Self::AWAKE,
        }
    }

    /// After how many ticks without anything to do it sleeps, where `ticks` is how long that takes after use.
    #[must_use]
    pub const fn quiet_for(is_used: bool, ticks: u16) -> u16 {
        if is_used || ticks < UNUSED_TICKS { ticks } else { UNUSED_TICKS }
    }

    /// Whether it is ticked, and has neither announced that it sleeps nor was asked to.
    #[must_use]
    pub const fn is_awake(self) -> bool {
        matches!(self, Self::Awake { .. })
    }
}

/// What decides whether a group may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// Whether this replica leads.
    pub leads: bool,
    /// Whether it is the only member of its group.
    pub alone: bool,
    /// Whether the first entry of its term is applied (for a log without Raft: all it had at the start).
    pub can_serve: bool,
    /// Whether its group sleeps.
    pub is_asleep: bool,
}

/// Whether the group must be ticked. A leader without other members has nobody to send heartbeats to and no quorum
/// to check; everything else that it waits for (the disk, the state machine) reports by itself.
#[must_use]
pub const fn needs_ticks(pulse: Pulse) -> bool {
    !(pulse.is_asleep || pulse.leads && pulse.alone && pulse.can_serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_serving_leader_without_peers_sleeps_by_itself() {
        for leads in [false, true] {
            for alone in [false, true] {
                for can_serve in [false, true] {
                    let pulse = Pulse { leads, alone, can_serve, is_asleep: false };
                    assert_eq!(needs_ticks(pulse), !(leads && alone && can_serve), "{pulse:?}");
                    assert!(!needs_ticks(Pulse { is_asleep: true, ..pulse }));
                }
            }
        }
    }
}
