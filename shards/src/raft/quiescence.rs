//! Which groups need the clock. An idle group costs nothing: it is not ticked and stands on no list.
//!
//! Invariant: a group that sleeps has nothing that only a tick could move on.

/// What decides whether a group may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// Whether this replica leads.
    pub leads: bool,
    /// Whether it is the only member of its group.
    pub alone: bool,
    /// Whether the first entry of its term is applied (for a log without Raft: all it had at the start).
    pub can_serve: bool,
}

/// Whether the group must be ticked. A leader without other members has nobody to send heartbeats to and no quorum
/// to check; everything else that it waits for (the disk, the state machine) reports by itself.
#[must_use]
pub const fn needs_ticks(pulse: Pulse) -> bool {
    !(pulse.leads && pulse.alone && pulse.can_serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_serving_leader_without_peers_sleeps() {
        for leads in [false, true] {
            for alone in [false, true] {
                for can_serve in [false, true] {
                    let pulse = Pulse { leads, alone, can_serve };
                    assert_eq!(needs_ticks(pulse), !(leads && alone && can_serve), "{pulse:?}");
                }
            }
        }
    }
}
