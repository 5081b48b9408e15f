//! Reads of a group with several members: what they cost, and what they must not be answered with.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::{Kind, Limits, Rejection, Role, ShardOptions, Ticket};
use corduroy_wal::Options;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way, options};
use crate::common::Got;
use crate::members::founder;

/// Turns in which no time passes and the network does as `way` says.
fn turns(cluster: &mut Cluster, count: usize, mut way: impl FnMut(usize, usize, MessageType, bool) -> Way) {
    for _ in 0..count {
        cluster.turn();
        cluster.deliver(|from, to, sent| {
            way(from, to, sent.message.get_msg_type(), !sent.message.context.is_empty())
        });
    }
}

/// The same while clocks go on, `ms` a turn.
fn pass(cluster: &mut Cluster, count: usize, ms: u64, mut way: impl FnMut(MessageType, bool) -> Way) {
    for _ in 0..count {
        for world in &mut cluster.worlds {
            world.now.mono_ns += ms * 1_000_000;
            world.now.wall_ms += ms;
        }
        turns(cluster, 1, |_, _, kind, has_context| way(kind, has_context));
    }
}

/// Lets time pass until another one leads than this one, which may think that it still does.
fn elect_other(cluster: &mut Cluster, than: usize) -> usize {
    for _ in 0..100 {
        cluster.pass(100);
        let leads = |node: &usize| cluster.status(*node).role == Role::Leader && *node != than;
        if let Some(leader) = cluster.nodes().find(leads) {
            return leader;
        }
    }
    panic!("nobody else leads");
}

fn written(cluster: &Cluster, node: usize) -> (u64, u64, u64) {
    let status = cluster.status(node);
    let stats = cluster.worlds[node].shard.wal().stats();
    (status.last.get(), stats.frames, stats.bytes)
}

#[test]
fn the_reads_of_a_turn_cost_one_round_and_no_entry() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    cluster.rest();
    let before: Vec<_> = cluster.nodes().map(|node| written(&cluster, node)).collect();
    let (rounds, delivered) = (cluster.status(leader).read_rounds, cluster.delivered);
    let tickets: Vec<_> = (0..500).map(|_| cluster.read(leader, "get a")).collect();
    cluster.rest();
    for ticket in tickets {
        assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(_, value)) if value == "1"));
    }
    assert_eq!(cluster.status(leader).read_rounds, rounds + 1);
    assert_eq!(cluster.delivered, delivered + 4, "a heartbeat to each follower, and its answer");
    let after: Vec<_> = cluster.nodes().map(|node| written(&cluster, node)).collect();
    assert_eq!(before, after, "nothing was logged, and nothing written");
}

/// What was sent before a read came proves nothing for it.
#[test]
fn a_read_does_not_join_a_round_that_is_under_way() {
    let (mut cluster, leader) = Cluster::led(3);
    let first = cluster.read(leader, "get a");
    turns(&mut cluster, 2, |_, _, _, _| Way::Arrives);
    let second = cluster.read(leader, "get a");
    // The answers to the first round have arrived; those to a later one get lost.
    turns(&mut cluster, 4, |from, _, _, _| if from == leader { Way::Arrives } else { Way::Lost });
    assert!(matches!(cluster.got(leader, first), Some(Got::Done(..))));
    assert_eq!(cluster.got(leader, second), None);
    assert_eq!(cluster.status(leader).read_rounds, 2);
}

/// It may be a leader by its own account for as long as an election takes.
#[test]
fn a_leader_that_is_cut_off_answers_no_read() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a old");
    cluster.isolate(leader);
    let stale: Vec<_> = (0..10).map(|_| cluster.read(leader, "get a")).collect();
    let next = elect_other(&mut cluster, leader);
    cluster.put(next, "set a new");
    cluster.pass(3_000);
    for ticket in stale {
        let got = cluster.got(leader, ticket);
        assert_eq!(
            got,
            Some(Got::Rejected(Rejection::NoLeader(PARTITION))),
            "it does not wait for its deadline"
        );
    }
    assert_eq!(cluster.worlds[leader].shard.counters().reads_direct, 0);
    cluster.heal();
    cluster.pass(1_000);
    assert_eq!(cluster.value(next, "get a"), "new");
}

/// A connection's read comes behind its write, which was proposed before the read came. That the write is committed, on
/// acknowledgements from before the read, does not show that nobody else leads by then.
#[test]
fn a_read_behind_a_proposed_write_of_its_connection_needs_a_round_too() {
    let (mut cluster, leader) = Cluster::led(3);
    let write = Ticket { conn: 5, seq: 1 };
    cluster.worlds[leader].request(PARTITION, 5, 1, Kind::Write, "set a 1");
    let is_acknowledgement = |kind| kind == MessageType::MsgAppendResponse;
    let mut is_acknowledged = false;
    while !is_acknowledged {
        turns(&mut cluster, 1, |_, _, kind, _| {
            is_acknowledged |= is_acknowledgement(kind);
            Way::Arrives
        });
    }
    // The acknowledgements have arrived, and are looked at next.
    let read = Ticket { conn: 5, seq: 2 };
    cluster.worlds[leader].request(PARTITION, 5, 2, Kind::Read, "get a");
    assert_eq!(cluster.got(leader, write), None);
    turns(&mut cluster, 4, |from, _, _, _| if from == leader { Way::Arrives } else { Way::Lost });
    assert!(matches!(cluster.got(leader, write), Some(Got::Done(..))));
    assert_eq!(cluster.got(leader, read), None, "only the round shows it");
    cluster.pass(1_000);
    assert!(matches!(cluster.got(leader, read), Some(Got::Done(_, value)) if value == "1"));
}

/// A read that rides in what is proposed after it came has its entry for a round.
#[test]
fn a_read_behind_a_write_that_waits_rides_with_it() {
    let (mut cluster, leader) = Cluster::led(3);
    let rounds = cluster.status(leader).read_rounds;
    cluster.worlds[leader].request(PARTITION, 5, 1, Kind::Write, "set a 1");
    cluster.worlds[leader].request(PARTITION, 5, 2, Kind::Read, "get a");
    cluster.rest();
    assert_eq!(cluster.worlds[leader].value(5, 2), "1");
    assert_eq!(cluster.status(leader).read_rounds, rounds);
}

/// The other way round: a write does not overtake the read that its connection asked for before it, though a round takes longer.
#[test]
fn a_write_waits_for_the_read_that_came_before_it() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    cluster.worlds[leader].request(PARTITION, 5, 1, Kind::Read, "get a");
    cluster.worlds[leader].request(PARTITION, 5, 2, Kind::Write, "set a 2");
    cluster.worlds[leader].request(PARTITION, 5, 3, Kind::Read, "get a");
    let other = cluster.write(leader, "set b 1");
    // Only what carries no round arrives: the entries are committed, the rounds are not answered.
    turns(&mut cluster, 8, |_, _, _, has_context| if has_context { Way::Lost } else { Way::Arrives });
    let status = cluster.status(leader);
    assert!(status.committed > status.applied, "{status:?}");
    assert_eq!(cluster.got(leader, other), None, "it is in the same entry");
    cluster.pass(1_000);
    let values: Vec<_> = (1..=3).map(|seq| cluster.worlds[leader].value(5, seq)).collect();
    assert_eq!(values, ["1", "OK", "2"]);
}

/// The round is begun when entries that came after the read are committed long since, which wait for the read. It must not
/// wait for them.
#[test]
fn a_read_waits_for_nothing_that_came_after_it() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    cluster.worlds[leader].request(PARTITION, 5, 1, Kind::Read, "get a");
    cluster.worlds[leader].request(PARTITION, 5, 2, Kind::Write, "set a 2");
    turns(&mut cluster, 8, |_, _, _, has_context| if has_context { Way::Lost } else { Way::Arrives });
    // The round is tried again, and stands behind the write in all but its number.
    cluster.pass(1_500);
    assert_eq!(cluster.worlds[leader].value(5, 1), "1");
    assert_eq!(cluster.worlds[leader].value(5, 2), "OK");
}

/// Whether the network loses a round or the crate drops it, it is begun again under another name.
#[test]
fn a_round_that_gets_lost_is_begun_again() {
    let (mut cluster, leader) = Cluster::led(3);
    let rounds = cluster.status(leader).read_rounds;
    let ticket = cluster.read(leader, "get a");
    // Heartbeats keep the group together, but the first context never gets through.
    let mut first: Option<Vec<u8>> = None;
    for _ in 0..40 {
        for world in &mut cluster.worlds {
            world.now.mono_ns += 20_000_000;
        }
        cluster.turn();
        cluster.deliver(|_, _, sent| {
            let context = sent.message.context.to_vec();
            if context.is_empty() {
                return Way::Arrives;
            }
            if *first.get_or_insert_with(|| context.clone()) == context { Way::Lost } else { Way::Arrives }
        });
    }
    assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(..))), "{:?}", cluster.got(leader, ticket));
    assert!(cluster.status(leader).read_rounds > rounds + 1);
}

/// The crate drops a round without a word while a leader has committed nothing in its term: it is not begun before.
#[test]
fn reads_wait_for_the_first_entry_of_a_leaders_term() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    cluster.kill(leader);
    let others: Vec<_> = cluster.nodes().filter(|node| *node != leader).collect();
    let mut tickets = Vec::new();
    // Somebody leads, but its first entry gets through to nobody.
    for _ in 0..400 {
        pass(
            &mut cluster,
            1,
            10,
            |kind, _| if kind == MessageType::MsgAppend { Way::Lost } else { Way::Arrives },
        );
        let leads = |node: &usize| cluster.status(*node).role == Role::Leader;
        if let Some(next) = others.iter().copied().find(leads) {
            tickets = (0..3).map(|_| (next, cluster.read(next, "get a"))).collect();
            break;
        }
    }
    let (next, _) = tickets[0];
    pass(
        &mut cluster,
        10,
        10,
        |kind, _| if kind == MessageType::MsgAppend { Way::Lost } else { Way::Arrives },
    );
    assert_eq!(cluster.status(next).read_rounds, 0);
    assert!(tickets.iter().all(|(_, ticket)| cluster.got(next, *ticket).is_none()));
    cluster.pass(1_000);
    for (node, ticket) in tickets {
        assert!(matches!(cluster.got(node, ticket), Some(Got::Done(_, value)) if value == "1"));
    }
    assert_eq!(cluster.status(next).read_rounds, 1, "none was begun in vain");
}

/// Every read is asked of whoever leads now, and sees what was acknowledged by those before.
#[test]
fn reads_follow_the_lead_from_member_to_member() {
    let (mut cluster, mut leader) = Cluster::led(3);
    for number in 0..6 {
        cluster.put(leader, &format!("append log {number},"));
        let before = leader;
        cluster.isolate(before);
        leader = elect_other(&mut cluster, before);
        let expected: String = (0..=number).map(|number| format!("{number},")).collect();
        assert_eq!(cluster.value(leader, "get log"), expected);
        cluster.heal();
        cluster.pass(1_000);
        let late = cluster.read(before, "get log");
        cluster.rest();
        assert!(matches!(cluster.got(before, late), Some(Got::Rejected(Rejection::NotLeader(..)))));
    }
}

/// What a leader has shown as expired by its clock stays so under one whose clock is behind; and what has not expired costs no
/// entry.
#[test]
fn what_is_shown_as_expired_is_logged_before() {
    let (mut cluster, leader) = Cluster::led(3);
    let at_ms = cluster.worlds[leader].now.wall_ms + 60_000;
    let (set, get) = (format!("set until{at_ms} 1"), format!("get until{at_ms}"));
    cluster.put(leader, &set);
    let entries = cluster.status(leader).last;
    assert_eq!(cluster.value(leader, &get), "1");
    assert_eq!(cluster.status(leader).last, entries, "nothing has expired");
    cluster.worlds[leader].now.wall_ms += 3_600_000;
    let reads: Vec<_> = (0..5).map(|_| cluster.read(leader, &get)).collect();
    // The time does not get through: nothing is said.
    turns(&mut cluster, 8, |_, _, kind, _| match kind {
        MessageType::MsgAppend => Way::Lost,
        _ => Way::Arrives,
    });
    assert!(reads.iter().all(|ticket| cluster.got(leader, *ticket).is_none()));
    cluster.pass(500);
    for ticket in reads {
        assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(_, value)) if value == "nil"));
    }
    assert_eq!(cluster.status(leader).last.get(), entries.get() + 1, "one entry for all of them");
    assert_eq!(cluster.worlds[leader].shard.counters().times_proposed, 1);
    assert_eq!(cluster.value(leader, &get), "nil");
    assert_eq!(cluster.status(leader).last.get(), entries.get() + 1, "it is known");
    cluster.kill(leader);
    let next = cluster.elect();
    assert!(cluster.worlds[next].now.wall_ms < at_ms, "its clock is behind");
    assert_eq!(cluster.value(next, &get), "nil");
}

/// A read that rests on the clock and the write behind it on one connection: the entry of the write waits for the read, and
/// the read is not to wait for a stamp that only comes behind that entry.
#[test]
fn a_read_that_waits_for_a_time_and_the_write_behind_it_do_not_wait_for_each_other() {
    for (is_round_late, ms) in [(false, 1), (true, 1), (false, 0), (true, 0)] {
        let (mut cluster, leader) = Cluster::led(3);
        cluster.put(leader, "set a 1");
        let came_ms = cluster.worlds[leader].now.wall_ms + 7;
        cluster.worlds[leader].now.wall_ms = came_ms;
        cluster.worlds[leader].request(PARTITION, 5, 1, Kind::Read, "clock");
        cluster.worlds[leader].request(PARTITION, 5, 2, Kind::Read, &format!("get until{came_ms}"));
        cluster.worlds[leader].request(PARTITION, 5, 3, Kind::Write, "set a 2");
        cluster.worlds[leader].request(PARTITION, 5, 4, Kind::Read, "clock");
        if is_round_late {
            let way = |_, has_context| if has_context { Way::Lost } else { Way::Arrives };
            pass(&mut cluster, 8, ms, way);
            let status = cluster.status(leader);
            assert!(status.committed > status.applied, "{status:?}");
            pass(&mut cluster, 10, 50, |_, _| Way::Arrives);
        } else {
            pass(&mut cluster, 10, ms, |_, _| Way::Arrives);
        }
        let values: Vec<_> = (1..=4).map(|seq| cluster.worlds[leader].value(5, seq)).collect();
        assert_eq!([&values[1], &values[2]], ["nil", "OK"], "{is_round_late}, {ms} ms");
        let times = [&values[0], &values[3]].map(|value| value.parse::<u64>().expect("a time"));
        assert!(came_ms <= times[0] && times[0] <= times[1], "{times:?}, and {came_ms} when the first came");
        cluster.rest();
        cluster.pass(300);
        cluster.check();
    }
}

/// They wait as one; one in their middle may need more than its round, and those behind it then wait for it.
#[test]
fn a_pipeline_of_reads_is_answered_in_its_order() {
    for is_lead_lost in [false, true] {
        let (mut cluster, leader) = Cluster::led(3);
        let at_ms = cluster.worlds[leader].now.wall_ms + 5_000;
        let expiring = format!("get until{at_ms}");
        cluster.put(leader, &format!("set until{at_ms} 1"));
        cluster.put(leader, "set a 1");
        cluster.worlds[leader].now.wall_ms = at_ms;
        let ops = ["get a", "get cold1", "get a", &expiring, "get a", &expiring, "get cold2", "get a"];
        for (conn, seq) in [5, 6].into_iter().flat_map(|conn| (1..=8).map(move |seq| (conn, seq))) {
            let op = if conn == 5 { ops[seq as usize - 1] } else { "get a" };
            cluster.worlds[leader].request(PARTITION, conn, seq, Kind::Read, op);
        }
        if is_lead_lost {
            cluster.isolate(leader);
            elect_other(&mut cluster, leader);
            cluster.pass(2_000);
        }
        for _ in 0..10 {
            cluster.pass(100);
            cluster.run_jobs();
        }
        cluster.check();
        for (seq, op) in (1..).zip(ops) {
            let got = [5, 6].map(|conn| cluster.worlds[leader].got(conn, seq));
            let is_told =
                |got: &Option<Got>, value: &str| matches!(got, Some(Got::Done(_, is)) if is == value);
            let is_refused = |got: &Option<Got>| matches!(got, Some(Got::Rejected(Rejection::NoLeader(_))));
            let value = if op == "get a" { "1" } else { "nil" };
            match is_lead_lost {
                true => assert!(got.iter().all(is_refused), "{op}: {got:?}"),
                false => assert!(is_told(&got[0], value) && is_told(&got[1], "1"), "{op}: {got:?}"),
            }
        }
    }
}

/// A time is logged for those that wait, not for those that have given up.
#[test]
fn no_time_is_logged_for_a_read_that_was_refused() {
    for is_lead_lost in [false, true] {
        let (mut cluster, leader) = Cluster::led(3);
        cluster.put(leader, "set a 1");
        cluster.worlds[leader].now.wall_ms += 7;
        let read = cluster.read(leader, "clock");
        let way = |kind, _| if kind == MessageType::MsgAppend { Way::Lost } else { Way::Arrives };
        pass(&mut cluster, 5, 0, way);
        assert_eq!(cluster.worlds[leader].shard.counters().times_proposed, 1, "it waits for that");
        if is_lead_lost {
            cluster.isolate(leader);
            elect_other(&mut cluster, leader);
            cluster.pass(3_000);
            cluster.heal();
        } else {
            pass(&mut cluster, 220, 50, way);
        }
        // Whoever it was leads again.
        cluster.pass(1_000);
        let got = cluster.got(leader, read);
        assert!(matches!(got, Some(Got::Rejected(_))), "{is_lead_lost}: {got:?}");
        if let Some(other) = cluster.leader().filter(|other| *other != leader) {
            cluster.transfer(other, founder(leader));
        }
        cluster.pass(1_000);
        assert_eq!(cluster.leader(), Some(leader));
        let logged = |cluster: &Cluster| {
            (cluster.status(leader).last, cluster.worlds[leader].shard.counters().times_proposed)
        };
        let before = logged(&cluster);
        cluster.pass(1_000);
        assert_eq!(logged(&cluster), before, "nobody waits for a time");
        assert_eq!(cluster.value(leader, "get a"), "1");
    }
}

/// A lead that was lost when nobody waited any more is nothing to those who come when it has been won again.
#[test]
fn a_lead_lost_before_a_read_came_does_not_turn_it_away() {
    let hasty = |node| ShardOptions { request_timeout_ms: 200, ..options(node) };
    let mut cluster = Cluster::with(3, hasty, Options { segment_bytes: 1 << 20, ..Options::default() });
    let leader = cluster.elect();
    cluster.put(leader, "set a 1");
    for _ in 0..2 {
        let read = cluster.read(leader, "get a");
        // Its rounds get lost until its time is over, and the next lead begins with nobody waiting.
        pass(&mut cluster, 8, 50, |_, has_context| if has_context { Way::Lost } else { Way::Arrives });
        let got = cluster.got(leader, read);
        assert!(matches!(got, Some(Got::Rejected(Rejection::Overloaded(_)))), "{got:?}");
        cluster.isolate(leader);
        let other = elect_other(&mut cluster, leader);
        cluster.heal();
        cluster.pass(1_000);
        cluster.transfer(other, founder(leader));
        cluster.pass(1_000);
        assert_eq!(cluster.leader(), Some(leader));
        assert_eq!(cluster.value(leader, "get a"), "1");
    }
}

/// Reads that wait are bounded, as all that waits is; what comes beyond is refused at the door.
#[test]
fn reads_that_wait_for_a_round_are_bounded() {
    let small = |node| ShardOptions {
        limits: Limits {
            partition_requests: 20,
            partition_bytes: 150,
            second_frame_bytes: 0,
            ..Limits::default()
        },
        ..options(node)
    };
    for (op, most, what) in
        [("get a", 20, "requests of the partition"), ("get aaaaaaaaaaaaaa", 8, "bytes of the partition")]
    {
        let mut cluster = Cluster::with(3, small, Options { segment_bytes: 1 << 20, ..Options::default() });
        let leader = cluster.elect();
        cluster.isolate(leader);
        let tickets: Vec<_> = (0..30).map(|_| cluster.read(leader, op)).collect();
        turns(&mut cluster, 3, |_, _, _, _| Way::Arrives);
        let refused = Some(Got::Rejected(Rejection::Overloaded(what)));
        for (number, ticket) in tickets.iter().enumerate() {
            let expected = if number < most { None } else { refused.clone() };
            assert_eq!(cluster.got(leader, *ticket), expected, "{op}: read {number}");
        }
        cluster.pass(4_000);
        assert!(tickets.iter().all(|ticket| cluster.got(leader, *ticket).is_some()), "each has one outcome");
        assert_eq!(cluster.status(leader).pending_requests, 0);
    }
}
