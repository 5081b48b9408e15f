//! Members that get an image of the state, since the log does not have what they lack: they join, or were away for long.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::membership::MemberId;
use corduroy_shards::{Change, Limits, MemberOutcome, Role, ShardOptions};
use corduroy_wal::Lsn;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, Way, options, storage};
use crate::common::{Got, Job};
use crate::retention::{flush, keeping, wal, write_without};

pub fn installed(cluster: &Cluster, node: usize) -> u64 {
    cluster.worlds[node].shard.counters().images_installed
}

/// Lets time pass until a node has applied what the leader has.
pub fn catch_up(cluster: &mut Cluster, leader: usize, node: usize) {
    for _ in 0..600 {
        cluster.work(50);
        if cluster.status(node).applied == cluster.status(leader).applied {
            return;
        }
    }
    panic!("{:?} does not come to {:?}", cluster.status(node), cluster.status(leader));
}

/// A group of three, one of which is away for longer than the log is kept: the leader, and that one.
pub fn with_one_far_behind() -> (Cluster, usize, usize) {
    let mut cluster = Cluster::with(3, keeping, wal());
    let leader = cluster.elect();
    let away = (leader + 1) % 3;
    let held = cluster.status(away).last;
    write_without(&mut cluster, leader, away, 300);
    assert!(cluster.status(leader).released > held, "the log does not have what it lacks");
    (cluster, leader, away)
}

#[test]
fn who_was_away_for_long_comes_back_by_an_image() {
    let (mut cluster, leader, away) = with_one_far_behind();
    cluster.start(away, true);
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
    cluster.put(leader, "set a after");
    cluster.work(500);
    cluster.check_same();
    // It has a vote as before, and what it has survives.
    cluster.kill(leader);
    let next = cluster.elect();
    cluster.put(next, "set b after");
    cluster.kill(away);
    cluster.start(away, true);
    cluster.start(leader, true);
    // Whoever led may be the one that was killed: an election takes up to two timeouts.
    cluster.work(4_000);
    let history = cluster.check_same();
    assert_eq!(history.last().map(|(_, op)| op.as_str()), Some("set b after"));
}

/// What follows an image is kept until its member has it, or it would need another one for ever.
#[test]
fn the_log_behind_an_image_is_kept_while_it_is_on_its_way() {
    let (mut cluster, leader, away) = with_one_far_behind();
    cluster.start(away, true);
    let long = "x".repeat(500);
    for number in 0..400 {
        cluster.put(leader, &format!("set {} {long}", number % 7));
        if number % 40 == 39 {
            flush(&mut cluster, leader);
            cluster.pass(50);
        }
    }
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
    // Once it has it, the log gets as short as it was.
    for number in 0..100 {
        cluster.put(leader, &format!("set {} {long}", number % 7));
    }
    flush(&mut cluster, leader);
    let status = cluster.status(leader);
    assert!(status.released.get() > status.applied.get() - 120, "{status:?}");
    cluster.work(500);
    cluster.check_same();
}

/// Whatever is lost meanwhile, it comes to its end.
#[test]
fn an_image_comes_over_a_network_that_loses_much() {
    let (mut cluster, leader, away) = with_one_far_behind();
    cluster.start(away, true);
    let mut sent = 0_u32;
    for _ in 0..2_000 {
        cluster.wait(50);
        for _ in 0..4 {
            cluster.turn();
            for world in &mut cluster.worlds {
                world.run_jobs();
            }
            cluster.deliver(|_, _, message| {
                let kind = message.message.get_msg_type();
                let is_of_image = matches!(kind, MessageType::MsgSnapshot | MessageType::MsgSnapStatus);
                sent += u32::from(is_of_image);
                if is_of_image && !sent.is_multiple_of(3) { Way::Lost } else { Way::Arrives }
            });
        }
        if installed(&cluster, away) > 0 {
            break;
        }
    }
    assert!(sent > 6, "messages about images: {sent}");
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
    cluster.check_same();
}

#[test]
fn who_joins_becomes_a_learner_and_a_voter() {
    let (mut cluster, leader) = Cluster::led(1);
    cluster.put(leader, "set a 1");
    let member = MemberId(cluster.make(leader, &[Change::AddLearner(storage(1))]).get());
    let node = cluster.join(member, leader);
    cluster.put(leader, "set a 2");
    catch_up(&mut cluster, leader, node);
    assert_eq!(installed(&cluster, node), 1);
    assert_eq!(cluster.saved(node), cluster.saved(leader));
    cluster.work(500);
    cluster.make(leader, &[Change::Promote(member)]);
    cluster.put(leader, "set a 3");
    let transfer = cluster.transfer(leader, member);
    cluster.work(1_000);
    assert!(cluster.outcome(leader, transfer).is_some());
    assert_eq!(cluster.leader(), Some(node));
    cluster.put(node, "set a 4");
    cluster.work(500);
    cluster.check_same();
}

/// A fourth member joins, is given a vote, and the first one is removed; what was begun without Raft is no hindrance.
#[test]
fn a_fourth_member_takes_the_place_of_the_first() {
    let (mut cluster, leader) = Cluster::led(3);
    for number in 0..20 {
        cluster.put(leader, &format!("set {number} before"));
    }
    let leader = replace_one(&mut cluster, leader);
    cluster.put(leader, "set a after");
    cluster.work(1_000);
    let left: Vec<_> = cluster.nodes().filter(|node| cluster.is_up[*node]).collect();
    assert_eq!(left.len(), 3);
    for node in left {
        assert_eq!(cluster.history(node), cluster.history(leader), "node {node}");
    }
}

/// Adds a member, gives it a vote, hands it the lead, and removes the one that led. Returns who leads.
pub fn replace_one(cluster: &mut Cluster, leader: usize) -> usize {
    let first = cluster.status(leader).leader.expect("it leads");
    let here = storage(cluster.worlds.len());
    let member = MemberId(cluster.make(leader, &[Change::AddLearner(here)]).get());
    let node = cluster.join(member, leader);
    catch_up(cluster, leader, node);
    cluster.work(500);
    cluster.make(leader, &[Change::Promote(member)]);
    let transfer = cluster.transfer(leader, member);
    cluster.work(1_000);
    assert!(cluster.outcome(leader, transfer).is_some());
    assert_eq!(cluster.leader(), Some(node));
    cluster.may_stop.insert(leader);
    cluster.make(node, &[Change::Demote(first)]);
    cluster.make(node, &[Change::Remove(first)]);
    cluster.kill(leader);
    node
}

/// Requests of entries that an image may include are answered "unknown", and at once.
#[test]
fn what_an_image_replaces_is_unknown_to_its_clients() {
    let mut cluster = Cluster::with(3, keeping, wal());
    let leader = cluster.elect();
    // It is cut off with an entry that nobody else gets.
    cluster.isolate(leader);
    let lost = cluster.write(leader, "set a lost");
    cluster.turn();
    let others: Vec<_> = cluster.nodes().filter(|node| *node != leader).collect();
    for _ in 0..100 {
        cluster.work(100);
        if others.iter().any(|node| cluster.status(*node).role == Role::Leader) {
            break;
        }
    }
    let next = *others.iter().find(|node| cluster.status(**node).role == Role::Leader).expect("one leads");
    let long = "x".repeat(500);
    for number in 0..300 {
        cluster.put(next, &format!("set {} {long}", number % 7));
    }
    flush(&mut cluster, next);
    cluster.heal();
    catch_up(&mut cluster, next, leader);
    assert_eq!(installed(&cluster, leader), 1);
    assert_eq!(cluster.got(leader, lost), Some(Got::Unknown));
    cluster.work(500);
    cluster.check_same();
}

/// The member dies at any moment of the transfer and of the install, with its power or without.
#[test]
fn a_member_that_dies_at_any_step_is_whole_afterwards() {
    for is_power_loss in [false, true] {
        let mut reached = 0;
        for steps in 0..400 {
            let (mut cluster, leader, away) = with_one_far_behind();
            cluster.start(away, true);
            let disk = cluster.worlds[away].disk.clone();
            disk.set_manual(true);
            let mut left = steps;
            'play: for _ in 0..40 {
                cluster.wait(50);
                for _ in 0..6 {
                    cluster.turn();
                    cluster.deliver(|_, _, _| Way::Arrives);
                    for world in &mut cluster.worlds {
                        world.run_jobs();
                    }
                    if left % 7 == 0 {
                        disk.complete_all();
                    }
                    if left == 0 {
                        break 'play;
                    }
                    left -= 1;
                }
            }
            let is_written = cluster.worlds[away].shard.is_idle();
            let is_through = installed(&cluster, away) > 0 && is_written;
            reached += u32::from(installed(&cluster, away) > 0);
            disk.set_manual(false);
            cluster.kill(away);
            cluster.start(away, is_power_loss);
            catch_up(&mut cluster, leader, away);
            cluster.put(leader, "set a after");
            cluster.work(500);
            cluster.check_same();
            if is_through {
                break;
            }
            assert!(steps < 399, "the image never came");
        }
        assert!(reached > 1, "it died {reached} times after the install");
    }
}

/// Two of three are there, and one of them does not know the other, which was added while it was away.
#[test]
fn a_member_that_was_away_hears_a_leader_that_was_added_meanwhile() {
    let (mut cluster, leader) = Cluster::led(3);
    let away = (leader + 1) % 3;
    cluster.put(leader, "set a 1");
    cluster.kill(away);
    let node = replace_one(&mut cluster, leader);
    let third = cluster.nodes().find(|other| ![leader, away, node].contains(other)).expect("there are four");
    cluster.kill(third);
    cluster.start(away, true);
    cluster.work(6_000);
    let leads = cluster.leader().expect("a majority is there");
    cluster.put(leads, "set a 2");
    cluster.work(500);
    assert_eq!(cluster.history(away), cluster.history(node));
    assert_eq!(cluster.history(away).last().map(|(_, op)| op.as_str()), Some("set a 2"));
}

/// Lets an image begin to come to a member, which never gets a message of it.
fn begin_in_vain(cluster: &mut Cluster, away: usize) {
    cluster.start(away, true);
    let mut offers = 0;
    for _ in 0..200 {
        cluster.wait(50);
        cluster.turn();
        cluster.deliver(|_, _, sent| {
            let is_of_image = sent.message.get_msg_type() == MessageType::MsgSnapshot;
            offers += u32::from(is_of_image);
            if is_of_image { Way::Lost } else { Way::Arrives }
        });
        if offers > 0 {
            cluster.kill(away);
            return cluster.rest();
        }
    }
    panic!("no image is offered");
}

/// Writes more than is kept of the log, and has a node release what it can.
fn outrun(cluster: &mut Cluster, leader: usize, node: usize) -> Lsn {
    let before = cluster.status(node).applied;
    let long = "x".repeat(500);
    for number in 0..300 {
        cluster.put(leader, &format!("set {} {long}", number % 7));
    }
    cluster.work(500);
    flush(cluster, node);
    before
}

/// It leads no more, and nobody tells it how the image ended.
#[test]
fn who_led_keeps_no_log_for_an_image_that_it_sent() {
    let (mut cluster, leader, away) = with_one_far_behind();
    begin_in_vain(&mut cluster, away);
    let next = cluster.nodes().find(|node| ![leader, away].contains(node)).expect("there are three");
    let transfer = cluster.transfer(leader, MemberId(1 + next as u64));
    cluster.work(1_000);
    assert!(cluster.outcome(leader, transfer).is_some());
    assert_eq!(cluster.leader(), Some(next));
    let before = outrun(&mut cluster, next, leader);
    let status = cluster.status(leader);
    assert!(status.released > before, "{before} was applied, and then {status:?}");
}

/// The member that the image was for is removed, and another one lags behind.
#[test]
fn no_log_is_kept_for_an_image_of_a_member_that_was_removed() {
    let mut cluster = Cluster::with(4, keeping, wal());
    let leader = cluster.elect();
    let away = (leader + 1) % 4;
    write_without(&mut cluster, leader, away, 300);
    begin_in_vain(&mut cluster, away);
    let member = MemberId(1 + away as u64);
    cluster.make(leader, &[Change::Demote(member)]);
    cluster.make(leader, &[Change::Remove(member)]);
    cluster.kill((leader + 2) % 4);
    let before = outrun(&mut cluster, leader, leader);
    let status = cluster.status(leader);
    assert!(status.released > before, "{before} was applied, and then {status:?}");
}

/// Who has it is removed before it has come up: its leader is alone then, and is not ticked any more.
#[test]
fn who_is_alone_again_keeps_no_log_for_an_image() {
    let mut cluster = Cluster::with(1, keeping, wal());
    let leader = cluster.elect();
    cluster.put(leader, "set a 1");
    let member = MemberId(cluster.make(leader, &[Change::AddLearner(storage(1))]).get());
    let node = cluster.join(member, leader);
    let mut is_offered = false;
    for number in 0..100 {
        cluster.write(leader, &format!("set b {number}"));
        cluster.wait(50);
        [leader, node].into_iter().for_each(|node| cluster.worlds[node].run_jobs());
        cluster.turn();
        cluster.deliver(|_, to, sent| {
            is_offered |= sent.message.get_msg_type() == MessageType::MsgSnapshot;
            let is_append = sent.message.get_msg_type() == MessageType::MsgAppend;
            if is_offered && to == node && is_append { Way::Lost } else { Way::Arrives }
        });
    }
    assert_eq!(installed(&cluster, node), 1);
    cluster.kill(node);
    cluster.make(leader, &[Change::Remove(member)]);
    let before = outrun(&mut cluster, leader, leader);
    let status = cluster.status(leader);
    assert!(status.released > before, "{before} was applied, and then {status:?}");
}

/// Its leader is cut off once another member has it, which leads then, and has it done; the image says nothing of that.
#[test]
fn a_change_that_an_image_replaces_is_unknown() {
    let patient = |node| ShardOptions { request_timeout_ms: 600_000, ..keeping(node) };
    let mut cluster = Cluster::with(3, patient, wal());
    let leader = cluster.elect();
    cluster.work(500);
    let heir = (leader + 1) % 3;
    let asked = cluster.change(leader, &[Change::AddLearner(storage(7))]);
    cluster.turn();
    cluster.turn();
    cluster.deliver(|_, to, _| if to == heir { Way::Arrives } else { Way::Lost });
    cluster.isolate(leader);
    for _ in 0..100 {
        cluster.work(100);
        if cluster.status(heir).role == Role::Leader {
            break;
        }
    }
    cluster.work(500);
    assert_eq!(cluster.saved(heir).ids().count(), 4, "it was done");
    let long = "x".repeat(500);
    for number in 0..300 {
        cluster.put(heir, &format!("set {} {long}", number % 7));
    }
    flush(&mut cluster, heir);
    cluster.heal();
    catch_up(&mut cluster, heir, leader);
    assert_eq!(installed(&cluster, leader), 1);
    assert_eq!(cluster.outcome(leader, asked), Some(MemberOutcome::Unknown));
}

/// Where nothing is persisted, an image that waits for that gives way to others, and is asked for again.
#[test]
fn an_image_that_cannot_be_begun_is_given_up_for_a_while() {
    let (mut cluster, leader) = Cluster::led(1);
    cluster.put(leader, "set a 1");
    let member = MemberId(cluster.make(leader, &[Change::AddLearner(storage(1))]).get());
    let node = cluster.join(member, leader);
    let flushes = |cluster: &Cluster| {
        let jobs = cluster.worlds[leader].jobs.iter();
        jobs.filter(|job| matches!(job, Job::Flush(_))).count()
    };
    cluster.pass(20_000);
    let asked = flushes(&cluster);
    assert!(asked > 0, "the image waits for a flush");
    cluster.pass(20_000);
    assert_eq!(flushes(&cluster), asked, "it waits");
    cluster.pass(120_000);
    assert!(flushes(&cluster) > asked, "it was not given up");
    catch_up(&mut cluster, leader, node);
    assert_eq!(installed(&cluster, node), 1);
}

/// A state that may be old is none while an image replaces it.
#[test]
fn reads_that_may_be_old_are_not_answered_while_an_image_is_installed() {
    let patient = |node| {
        let group = GroupOptions { stale_reads_ms: 3_600_000, ..options(node).group };
        ShardOptions { group, ..keeping(node) }
    };
    let mut cluster = Cluster::with(3, patient, wal());
    let leader = cluster.elect();
    let away = (leader + 1) % 3;
    cluster.put(leader, "set a old");
    cluster.pass(500);
    let before = cluster.read_anywhere(away, "get a");
    cluster.pass(100);
    assert!(matches!(cluster.got(away, before), Some(Got::Done(_, value)) if value == "old"));
    cluster.isolate(away);
    let long = "x".repeat(500);
    for number in 0..300 {
        cluster.put(leader, &format!("set {} {long}", number % 7));
    }
    flush(&mut cluster, leader);
    cluster.heal();
    for _ in 0..600 {
        cluster.pass(50);
        if cluster.status(away).is_held {
            break;
        }
        cluster.run_jobs();
    }
    assert!(cluster.status(away).is_held, "{:?}", cluster.status(away));
    let read = cluster.read_anywhere(away, "get a");
    cluster.rest();
    assert_eq!(cluster.got(away, read), None);
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
}

/// The ids of founders are no entries, and none of them waits for as many as its id says.
#[test]
fn a_founder_gets_an_image_of_less_entries_than_its_id_says() {
    let keeping_nothing = |node| {
        let limits = Limits { kept_bytes: 0, second_frame_bytes: 0, ..Limits::default() };
        ShardOptions { limits, log_soft_segments: 1, ..options(node) }
    };
    let mut cluster = Cluster::with(5, keeping_nothing, wal());
    let away = 4;
    cluster.kill(away);
    let leader = cluster.elect();
    let long = "x".repeat(10_000);
    (0..3).for_each(|number| cluster.put(leader, &format!("set {number} {long}")));
    flush(&mut cluster, leader);
    let status = cluster.status(leader);
    assert!(status.released > Lsn::ZERO && status.last < Lsn(5), "{status:?}");
    cluster.start(away, true);
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
    cluster.check_same();
}
