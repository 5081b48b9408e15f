//! Members that have an image, or wait for one, and what others owe them until they have come up.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::membership::MemberId;
use corduroy_shards::{Change, ChangeRefusal};
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, Way};
use crate::images::{catch_up, installed, with_one_far_behind};
use crate::members::founder;
use crate::retention::flush;

/// Goes on until the member has its image, and has got no entry behind it.
fn install(cluster: &mut Cluster, away: usize) {
    for _ in 0..2_000 {
        cluster.wait(10);
        cluster.turn();
        for world in &mut cluster.worlds {
            world.run_jobs();
        }
        cluster.deliver(|_, to, sent| {
            let is_append = sent.message.get_msg_type() == MessageType::MsgAppend;
            if is_append && to == away { Way::Lost } else { Way::Arrives }
        });
        if installed(cluster, away) > 0 {
            return;
        }
    }
    panic!("no image was installed: {:?}", cluster.status(away));
}

fn write_much(cluster: &mut Cluster, leader: usize) {
    let long = "x".repeat(500);
    for number in 0..400 {
        cluster.put(leader, &format!("set {} {long}", number % 7));
        if number % 40 == 39 {
            flush(cluster, leader);
        }
    }
}

/// However much is written before it gets the first of what follows the image, it gets that from the log.
#[test]
fn the_log_behind_an_image_is_kept_until_its_member_has_come_up() {
    let (mut cluster, leader, away) = with_one_far_behind();
    cluster.start(away, true);
    install(&mut cluster, away);
    cluster.cut.insert((leader, away));
    write_much(&mut cluster, leader);
    cluster.heal();
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
    // Then it is kept no longer.
    cluster.pass(1_000);
    write_much(&mut cluster, leader);
    let status = cluster.status(leader);
    assert!(status.released.get() > status.applied.get() - 120, "{status:?}");
    cluster.work(500);
    cluster.check_same();
}

/// Who has its image and dies holds back the log of the others for a while, not for ever.
#[test]
fn no_log_is_kept_for_ever_for_who_has_an_image_and_is_away() {
    let (mut cluster, leader, away) = with_one_far_behind();
    cluster.start(away, true);
    install(&mut cluster, away);
    cluster.kill(away);
    // Until nothing is heard of its transfer any more, and a while on.
    cluster.pass(90_000);
    write_much(&mut cluster, leader);
    let status = cluster.status(leader);
    assert!(status.released.get() > status.applied.get() - 120, "{status:?}");
}

/// Those who would be left to vote behind a change have the log, or get it: one that waits for an image would keep all the others
/// waiting.
#[test]
fn a_change_leaves_no_quorum_that_waits_for_an_image() {
    let (mut cluster, leader, away) = with_one_far_behind();
    let other = cluster.nodes().find(|node| ![leader, away].contains(node)).expect("there are three");
    cluster.start(away, true);
    // It answers, and no image comes, since no job runs.
    cluster.pass(500);
    let demotion = [Change::Demote(founder(other))];
    let (answered, voters) = (1, 2);
    assert_eq!(cluster.refusal(leader, &demotion), ChangeRefusal::Silent { answered, voters });
    catch_up(&mut cluster, leader, away);
    cluster.work(500);
    cluster.make(leader, &demotion);
    cluster.put(leader, "set a after");
    assert!(!cluster.saved(leader).is_voter(MemberId(other as u64 + 1)));
}
