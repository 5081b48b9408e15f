//! What breaks where code that knew one member meets a second one; each a play in which it must not.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::entry::{EntryBuilder, of_time};
use corduroy_shards::raft::changes::ChangeEntry;
use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::membership::{MemberId, StorageId};
use corduroy_shards::sim::Rng;
use corduroy_shards::{Change, Input, Limits, Origin, Role, ShardOptions};
use corduroy_wal::{Lsn, Options};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::cluster::{Cluster, PARTITION, Way, options, storage};
use crate::common::{Got, World, small_wal};

fn wal() -> Options {
    Options { segment_bytes: 1 << 20, ..Options::default() }
}

/// A member of three, alone, that hears whatever it is sent as member 2 on its storage.
pub fn lone_member() -> World {
    let founders = (0..3).map(|node| (MemberId(1 + node as u64), storage(node))).collect();
    let mut world = World::of(options(0), small_wal(), vec![(PARTITION, Origin::Found(founders))]);
    world.settle();
    world
}

fn hear(world: &mut World, message: Message) {
    let (from, message) = (storage(1), Box::new(message));
    world.shard.handle(Input::Message { partition: PARTITION, from, message });
    world.settle();
}

fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message { from: 2, to: 1, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

pub fn append(term: u64, prev: (u64, u64), entries: Vec<Entry>) -> Message {
    let mut message = message(MessageType::MsgAppend, term);
    (message.index, message.log_term) = prev;
    message.set_entries(entries.into());
    message
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: of_time(1).into(), ..Entry::default() }
}

/// What a member answered to the messages it was sent last.
fn answers(world: &mut World) -> Vec<MessageType> {
    world.out.messages.drain(..).map(|sent| sent.message.get_msg_type()).collect()
}

#[test]
fn what_peers_may_not_send_is_dropped_and_counted() {
    let change = |entry_type, data: Vec<u8>| Entry { entry_type, data: data.into(), ..entry(1, 1) };
    let old = change(EntryType::EntryConfChange, Vec::new());
    let damaged_change = change(EntryType::EntryConfChangeV2, vec![9; 40]);
    // Its member would have another id than the entry's number.
    let added = ChangeEntry::of(&[Change::AddLearner(StorageId(7))], Lsn(2)).encode();
    let elsewhere = change(EntryType::EntryConfChangeV2, added);
    let damaged = Entry { data: vec![9].into(), ..entry(1, 1) };
    let absurd = u64::MAX >> 1;
    let strange = [
        message(MessageType::MsgPropose, 1),
        message(MessageType::MsgTransferLeader, 1),
        message(MessageType::MsgReadIndex, 1),
        message(MessageType::MsgHup, 1),
        message(MessageType::MsgTimeoutNow, 1),
        message(MessageType::MsgHeartbeat, absurd),
        message(MessageType::MsgHeartbeat, 0),
        Message { from: 1, ..message(MessageType::MsgHeartbeat, 1) },
        Message { to: 3, ..message(MessageType::MsgHeartbeat, 1) },
        Message { from: 3, ..message(MessageType::MsgHeartbeat, 1) },
        Message { from: 9, ..message(MessageType::MsgAppendResponse, 1) },
        append(1, (5, 0), vec![]),
        append(1, (0, 1), vec![]),
        append(1, (0, 0), vec![entry(2, 1)]),
        append(1, (0, 0), vec![entry(1, 2)]),
        append(2, (0, 0), vec![entry(1, 2), entry(2, 1)]),
        append(1, (0, 0), vec![old]),
        append(1, (0, 0), vec![damaged_change]),
        append(1, (0, 0), vec![elsewhere]),
        append(1, (0, 0), vec![damaged]),
        append(1, (3, 2), vec![]),
    ];
    let mut world = lone_member();
    for (number, message) in strange.into_iter().enumerate() {
        let text = format!("{message:?}");
        hear(&mut world, message);
        assert_eq!(world.shard.counters().refused_messages, number as u64 + 1, "{text}");
        assert_eq!(answers(&mut world), [], "{text}");
    }
    let status = world.shard.replicas().next().unwrap();
    assert_eq!((status.term.get(), status.last.get(), world.fenced.len()), (0, 0, 0));
    hear(&mut world, append(1, (0, 0), vec![entry(1, 1)]));
    assert_eq!(answers(&mut world), [MessageType::MsgAppendResponse], "it is as it was");
}

/// A group of one has nobody to listen to, whatever term they claim.
#[test]
fn who_is_alone_listens_to_nobody() {
    let mut world = World::ready(&[PARTITION]);
    hear(&mut world, append(9, (0, 0), vec![entry(1, 9)]));
    hear(&mut world, message(MessageType::MsgRequestVote, 9));
    let status = world.shard.replicas().next().unwrap();
    assert_eq!((status.role, status.term.get()), (Role::Leader, 1));
    assert_eq!(world.shard.counters().refused_messages, 2);
}

/// No byte of a peer reaches an assertion: of us or of the crate.
#[test]
fn whatever_is_heard_fences_nobody() {
    let mut random = Rng::new(7, "what is heard");
    let mut draw = move |below: u64| random.below(below);
    let kinds = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgSnapshot,
    ];
    for _ in 0..60 {
        let mut world = lone_member();
        for _ in 0..200 {
            let kind = kinds[usize::try_from(draw(10)).unwrap()];
            let mut sent = message(kind, draw(6));
            let small = |draw: &mut dyn FnMut(u64) -> u64| draw(8);
            (sent.index, sent.log_term) = (small(&mut draw), draw(6));
            (sent.reject, sent.reject_hint) = (draw(2) == 0, draw(8));
            (sent.commit_term, sent.request_snapshot) = (draw(6), draw(12) / 11);
            // One who leads knows what is here: what it says is committed, is.
            let last = world.shard.replicas().next().unwrap().last.get();
            sent.commit = if kind == MessageType::MsgHeartbeat { draw(last + 1) } else { draw(8) };
            let entries = (0..draw(4)).map(|at| entry(sent.index + 1 + at, 1 + draw(5)));
            if kind == MessageType::MsgAppend {
                sent.set_entries(entries.collect());
            }
            sent.from = 2 + draw(2);
            let from = storage(usize::try_from(sent.from - 1).unwrap());
            world.shard.handle(Input::Message { partition: PARTITION, from, message: Box::new(sent) });
            world.at(u64::from(draw(10) == 0));
            world.turns(3);
            world.out.messages.clear();
        }
        // Members that contradict each other may commit two entries at one index, which is theirs to answer for.
        let contradicted = world.fenced.iter().all(|(_, why)| why.contains("conflict with committed"));
        assert!(contradicted, "{:?}", world.fenced);
    }
}

/// The leader's heartbeats go on while its disk is busy, and does little.
#[test]
fn a_busy_disk_costs_no_heartbeats() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.worlds[leader].disk.set_manual(true);
    for number in 0..4 {
        cluster.write(leader, &format!("set a {number}"));
        cluster.turn_of(leader);
    }
    assert!(!cluster.worlds[leader].shard.wal().can_submit(), "it is busy");
    let term = cluster.status(leader).term;
    for step in 0..60 {
        cluster.wait(50);
        if step % 15 == 14 {
            // What was under way is durable, and what waited is under way.
            cluster.worlds[leader].disk.complete_all();
            for number in 0..4 {
                cluster.write(leader, &format!("set b {number}"));
                cluster.turn_of(leader);
            }
            assert!(!cluster.worlds[leader].shard.wal().can_submit(), "it is busy again");
        }
        for _ in 0..4 {
            cluster.turn();
            cluster.deliver(|_, _, _| Way::Arrives);
        }
    }
    for node in cluster.nodes() {
        assert_eq!(cluster.status(node).term, term, "nobody missed the leader");
    }
}

#[test]
fn a_follower_without_room_drops_entries_and_goes_on_when_there_is_some() {
    let small = |node| ShardOptions {
        limits: Limits { unapplied_bytes: 3_000, second_frame_bytes: 0, ..Limits::default() },
        ..options(node)
    };
    let mut cluster = Cluster::with(3, small, wal());
    let leader = cluster.elect();
    let follower = (leader + 1) % 3;
    // What it has to apply waits for a key that no job brings.
    cluster.put(leader, "set a 1");
    cluster.write(leader, "set cold 1");
    cluster.rest();
    let long = "x".repeat(500);
    for number in 0..40 {
        cluster.write(leader, &format!("set {number} {long}"));
        cluster.rest();
    }
    let status = cluster.status(follower);
    assert!(status.unapplied_bytes <= 3_000, "{status:?}");
    for node in cluster.nodes() {
        cluster.worlds[node].run_jobs();
    }
    cluster.pass(3_000);
    for node in cluster.nodes() {
        cluster.worlds[node].run_jobs();
    }
    cluster.pass(3_000);
    cluster.check_same();
}

/// One record of the log must hold what a follower takes in at a time.
#[test]
fn a_follower_takes_in_no_more_than_a_record_holds() {
    let mut world = lone_member();
    world.disk.set_manual(true);
    let payload = |index: u64| {
        let mut builder = EntryBuilder::default();
        builder.push(format!("set {index} {}", "x".repeat(100_000)).as_bytes());
        Entry { index, term: 1, data: builder.finish(1).into(), ..Entry::default() }
    };
    for index in 1..=40 {
        let prev = if index == 1 { (0, 0) } else { (index - 1, 1) };
        let message = Box::new(append(1, prev, vec![payload(index)]));
        world.shard.handle(Input::Message { partition: PARTITION, from: storage(1), message });
    }
    world.turn();
    assert!(!world.shard.is_idle(), "some of it waits");
    world.disk.set_manual(false);
    world.disk.complete_all();
    world.settle();
    let status = world.shard.replicas().next().unwrap();
    assert_eq!((status.last.get(), world.fenced.len()), (40, 0));
}

/// A follower whose clock is behind takes the lead, and what it proposes first follows an entry that it has not applied.
#[test]
fn stamps_never_go_back_under_another_leader() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.worlds[leader].now.wall_ms += 3_600_000;
    let ahead = cluster.worlds[leader].now.wall_ms;
    cluster.write(leader, "set a 1");
    cluster.turn_of(leader);
    cluster.deliver(|_, _, _| Way::Arrives);
    // It is in the others' logs, but they do not know that it is committed.
    cluster.turn();
    cluster.kill(leader);
    let followers: Vec<_> = cluster.nodes().filter(|node| *node != leader).collect();
    let mut tickets = Vec::new();
    for step in 0..400 {
        for node in &followers {
            let world = &mut cluster.worlds[*node];
            world.now.mono_ns += 10_000_000;
            assert!(world.now.wall_ms < ahead);
            if step % 8 == 0 || cluster.status(*node).leader.is_none() {
                tickets.push((*node, cluster.write(*node, "clock")));
            }
        }
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    let done = tickets.iter().filter_map(|(node, ticket)| match cluster.got(*node, *ticket) {
        Some(Got::Done(_, stamp)) => Some(stamp.parse::<u64>().unwrap()),
        _ => None,
    });
    let stamps: Vec<_> = done.collect();
    assert!(!stamps.is_empty() && stamps.iter().all(|stamp| *stamp >= ahead), "{stamps:?} follow {ahead}");
}

/// What a read found expired by the clock of one leader stays so under another one, whose clock is behind.
#[test]
fn what_time_it_is_for_reads_is_what_the_log_says() {
    let (mut cluster, leader) = Cluster::led(3);
    let ticket = cluster.read(leader, "clock cold");
    cluster.rest();
    assert_eq!(cluster.got(leader, ticket), None, "it waits for what it reads");
    cluster.worlds[leader].now.wall_ms += 3_600_000;
    cluster.worlds[leader].run_jobs();
    cluster.rest();
    let Some(Got::Done(_, shown)) = cluster.got(leader, ticket) else { panic!("it is there") };
    cluster.kill(leader);
    let next = cluster.elect();
    let later = cluster.value(next, "clock");
    assert!(later.parse::<u64>().unwrap() >= shown.parse::<u64>().unwrap(), "{later} follows {shown}");
}

/// An election has to be written; a follower whose disk is busy does not begin one.
#[test]
fn who_cannot_write_does_not_stand_for_election() {
    let (mut cluster, leader) = Cluster::led(3);
    let followers: Vec<_> = cluster.nodes().filter(|node| *node != leader).collect();
    for node in &followers {
        cluster.worlds[*node].disk.set_manual(true);
    }
    for number in 0..4 {
        cluster.write(leader, &format!("set a {number}"));
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
        cluster.turn();
    }
    cluster.kill(leader);
    for _ in 0..100 {
        for world in &mut cluster.worlds {
            world.now.mono_ns += 50_000_000;
        }
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    for node in &followers {
        assert!(!cluster.worlds[*node].shard.wal().can_submit(), "it is busy");
        assert_eq!(cluster.status(*node).role, Role::Follower);
        cluster.worlds[*node].disk.set_manual(false);
        cluster.worlds[*node].disk.complete_all();
    }
    cluster.elect();
}

/// A leader that believed it would send what comes behind what a member has, which nothing is.
#[test]
fn nobody_acknowledges_what_is_not_there() {
    let (mut cluster, leader) = Cluster::led(3);
    let follower = (leader + 1) % 3;
    let status = cluster.status(leader);
    let mut lie = message(MessageType::MsgAppendResponse, status.term.get());
    (lie.from, lie.to) = (follower as u64 + 1, leader as u64 + 1);
    lie.index = status.last.get() + 100;
    let (from, message) = (storage(follower), Box::new(lie));
    cluster.worlds[leader].shard.handle(Input::Message { partition: PARTITION, from, message });
    cluster.put(leader, "set a 1");
    cluster.pass(500);
    assert_eq!(cluster.check_same().len(), 1);
    assert_eq!(cluster.worlds[leader].shard.counters().refused_messages, 1);
}

#[test]
fn a_storage_that_has_lost_its_replica_does_not_found_another_group() {
    let mut world = World::of(options(0), small_wal(), vec![(PARTITION, Origin::Restart)]);
    world.settle();
    assert!(
        matches!(&world.fenced[..], [(_, why)] if why.contains("nothing of the replica is on this storage"))
    );
    let elsewhere = vec![(MemberId(1), StorageId(1)), (MemberId(2), StorageId(2))];
    let mut world = World::of(options(0), small_wal(), vec![(PARTITION, Origin::Found(elsewhere))]);
    world.settle();
    assert!(matches!(&world.fenced[..], [(_, why)] if why.contains("founded on other storages")));
}

/// Whoever leads knows that a member had entries which its log has no more: it answers nothing from then on.
#[test]
fn a_member_whose_log_was_rolled_back_is_fenced() {
    let mut world = lone_member();
    hear(&mut world, append(1, (0, 0), vec![entry(1, 1), entry(2, 1)]));
    hear(&mut world, Message { commit: 3, ..message(MessageType::MsgHeartbeat, 1) });
    assert!(
        matches!(&world.fenced[..], [(_, why)] if why.contains("acknowledged entries are lost")),
        "{:?}",
        world.fenced
    );
}

#[test]
fn elections_of_members_with_like_seeds_are_drawn_apart() {
    // All members of the cluster have the same seed.
    let mut cluster = Cluster::new(3);
    cluster.elect();
    assert!(cluster.nodes().all(|node| cluster.status(node).term.get() <= 2), "no votes were split");
    assert_eq!(GroupOptions::default().election_ticks, 10);
}

/// The figure 8 of the Raft paper, with five voters: an entry that another leader's replaced in the log of its proposer is
/// committed by a third one after all. Its proposer must not have said that it was not done.
#[test]
fn a_replaced_entry_may_be_done_after_all() {
    let (mut cluster, first) = Cluster::led(5);
    let with_it = (first + 1) % 5;
    let others: Vec<_> = cluster.nodes().filter(|node| ![first, with_it].contains(node)).collect();
    for (one, other) in others.iter().flat_map(|one| [(*one, first), (*one, with_it)]) {
        cluster.cut.extend([(one, other), (other, one)]);
    }
    let ticket = cluster.write(first, "set a 1");
    cluster.rest();
    assert_eq!(cluster.status(with_it).last, cluster.status(first).last);
    // One of the others leads, and what it appends reaches the first leader alone.
    let pass = |cluster: &mut Cluster, is_done: &dyn Fn(&Cluster) -> bool| {
        for _ in 0..1_000 {
            for world in &mut cluster.worlds {
                world.now.mono_ns += 10_000_000;
            }
            cluster.turn();
            cluster.deliver(|from, to, sent| {
                let is_append = sent.message.get_msg_type() == MessageType::MsgAppend;
                if is_append && [from, to].iter().all(|node| others.contains(node)) {
                    Way::Lost
                } else {
                    Way::Arrives
                }
            });
            if is_done(cluster) {
                return;
            }
        }
        panic!("it does not come to that");
    };
    let leads = |cluster: &Cluster, node: usize| cluster.status(node).role == Role::Leader;
    pass(&mut cluster, &|cluster| others.iter().any(|node| leads(cluster, *node)));
    let second = *others.iter().find(|node| leads(&cluster, **node)).expect("it was just seen");
    cluster.cut.remove(&(second, first));
    cluster.cut.remove(&(first, second));
    let term = cluster.status(second).term;
    pass(&mut cluster, &|cluster| {
        let status = cluster.status(first);
        status.term == term && status.last == cluster.status(second).last
    });
    cluster.rest();
    assert_eq!(cluster.got(first, ticket), None, "nothing is decided");
    cluster.kill(second);
    // The one that has the entry leads: nobody else can win without it.
    cluster.heal();
    cluster.isolate(first);
    for _ in 0..100 {
        if leads(&cluster, with_it) {
            break;
        }
        cluster.pass(50);
    }
    assert!(leads(&cluster, with_it));
    cluster.heal();
    cluster.pass(1_000);
    assert!(matches!(cluster.got(first, ticket), Some(Got::Done(..))), "{:?}", cluster.got(first, ticket));
    assert_eq!(cluster.history(first), cluster.history(with_it));
}
