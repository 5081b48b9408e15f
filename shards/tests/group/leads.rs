//! Leads that begin and end: handed over to whoever is best prepared, counted and reported.

use corduroy_shards::{LeadKind, MemberOutcome, MemberRequest};

use crate::cluster::{Cluster, Way};

#[test]
fn the_lead_is_handed_to_a_member_that_answers_and_has_the_log() {
    let (mut cluster, leader) = Cluster::led(3);
    let away = (leader + 1) % 3;
    // The second time it is the first leader that is away.
    for away in [away, leader] {
        let leader = cluster.leader().expect("somebody leads");
        let heir = 3 - leader - away;
        cluster.put(leader, "append a 1,");
        cluster.isolate(away);
        // Longer than an election timeout: it has not just answered.
        cluster.pass(1_500);
        cluster.put(leader, "append a 2,");
        let term = cluster.status(leader).term;
        let before = cluster.worlds[heir].shard.counters().leads.elected;
        let ticket = cluster.ask_about_members(leader, MemberRequest::TransferAway);
        cluster.rest();
        assert!(matches!(cluster.outcome(leader, ticket), Some(MemberOutcome::Done(_))));
        assert_eq!(cluster.leader(), Some(heir));
        assert_eq!(cluster.status(heir).term.get(), term.get() + 1, "nobody else has campaigned");
        assert_eq!(cluster.worlds[heir].shard.counters().leads.elected, before + 1);
        let of_old = cluster.worlds[leader].shard.counters().leads;
        assert_eq!((of_old.transferred, of_old.lost), (1, 0), "{of_old:?}");
        let last = cluster.worlds[leader].leads.last().copied().expect("it is reported");
        assert_eq!((last.kind, last.partition), (LeadKind::Transferred, crate::cluster::PARTITION));
        cluster.put(heir, "append a 3,");
        cluster.heal();
        cluster.pass(1_000);
        assert_eq!(cluster.leader(), Some(heir), "whoever was away disturbs nobody");
    }
}

/// What asks for its election does not arrive; later the leader hears nobody any more.
#[test]
fn a_lead_that_could_not_be_handed_over_is_lost_as_any_other() {
    let (mut cluster, leader) = Cluster::led(3);
    let before = cluster.worlds[leader].shard.counters().leads;
    cluster.ask_about_members(leader, MemberRequest::TransferAway);
    for _ in 0..60 {
        let world = &mut cluster.worlds[leader];
        world.now.mono_ns += 50_000_000;
        cluster.turn();
        cluster.deliver(|from, _, _| if from == leader { Way::Lost } else { Way::Arrives });
    }
    let after = cluster.worlds[leader].shard.counters().leads;
    assert_eq!((after.transferred, after.lost), (before.transferred, before.lost + 1));
    assert!(after.lasted_ms >= 1_000, "it has led for an election timeout: {after:?}");
}
