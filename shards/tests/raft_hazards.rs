//! Regressions for what the raft crate leaves to its user: message order, flushes, limits, panics.

use corduroy_shards::PartitionId;
use corduroy_shards::entry::of_time;
use corduroy_shards::raft::admit::Refused;
use corduroy_shards::raft::group::{Group, GroupOptions, Proposed};
use corduroy_shards::raft::guard::guarded;
use corduroy_shards::raft::log_store::LogStore;
use corduroy_shards::raft::membership::{MemberId, Membership, StorageId};
use corduroy_wal::{HardState, Lsn, Term};
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, StateRole};

const ME: MemberId = MemberId::FIRST;

fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
}

fn store(conf: &ConfState) -> LogStore {
    LogStore::new(Lsn::ZERO, Term::ZERO, HardState::default(), conf.clone())
}

fn group(conf: &ConfState, seed: u64) -> Group {
    let members = Membership::of(Lsn::ZERO, conf, |_| StorageId(7));
    Group::start(
        store(conf),
        ME,
        HardState::default(),
        (members, true),
        &GroupOptions::default(),
        (PartitionId(1), seed),
    )
    .expect("the crate takes the state")
}

fn append_from(leader: u64, term: u64, index: u64) -> Message {
    let mut message = Message { from: leader, to: 1, term, index: index - 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.log_term = if index > 1 { term } else { 0 };
    message.set_entries(vec![Entry { index, term, data: of_time(1).into(), ..Entry::default() }].into());
    message
}

fn heartbeat_from(leader: u64, term: u64, commit: u64) -> Message {
    let mut message = Message { from: leader, to: 1, term, commit, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    message
}

fn kinds(messages: &[Message]) -> Vec<MessageType> {
    messages.iter().map(Message::get_msg_type).collect()
}

#[test]
fn limits_are_ours() {
    let config = GroupOptions::default().config(ME, Lsn(7));
    assert!(config.pre_vote && config.check_quorum);
    assert_eq!(config.read_only_option, ReadOnlyOption::Safe);
    assert_eq!((config.id, config.applied), (1, 7));
    assert_eq!(config.max_size_per_msg, 1 << 20);
    assert_eq!(config.max_uncommitted_size, raft::NO_LIMIT, "the shard bounds what is not applied");
    assert_eq!(config.max_committed_size_per_ready, 8 << 20);
    assert_eq!(config.max_inflight_msgs, 256);
    config.validate().unwrap();
}

/// Hazard 1: a lone voter wins in the very Ready that announces its term, with an append for its learner in it.
/// Sent before the term is durable, a crash would let the term be used twice.
#[test]
fn leader_messages_wait_for_their_term_and_vote() {
    let mut group = group(&conf(&[1], &[2]), 1);
    group.campaign().unwrap();
    assert!(group.leads());
    let persist = group.take(0).unwrap().unwrap();
    assert_eq!(persist.hard_state, Some(HardState { term: Term(1), vote: 1, commit: Lsn(0) }));
    assert_eq!((persist.from, persist.to), (Lsn(1), Lsn(1)));
    assert!(persist.conf.is_some(), "the configuration rides in the same record");
    assert_eq!(kinds(&group.take_messages()), [], "nothing leaves before the record is durable");
    group.persisted(persist.number).unwrap();
    let sent = group.take_messages();
    assert_eq!(kinds(&sent), [MessageType::MsgAppend]);
    assert_eq!((sent[0].to, sent[0].term), (2, 1));
}

/// Once term and vote are durable, a leader's appends do not wait for its own disk.
#[test]
fn leader_appends_leave_before_they_are_durable() {
    let mut group = group(&conf(&[1], &[2]), 1);
    group.campaign().unwrap();
    let number = group.take(0).unwrap().unwrap().number;
    group.persisted(number).unwrap();
    group.take_messages();
    let mut response = Message { from: 2, to: 1, term: 1, index: 1, ..Message::default() };
    response.set_msg_type(MessageType::MsgAppendResponse);
    group.step(response, 0).unwrap().unwrap();
    while group.has_ready() {
        if let Some(persist) = group.take(0).unwrap() {
            group.persisted(persist.number).unwrap();
        }
    }
    group.take_messages();
    assert_eq!(group.propose(vec![7].into()).unwrap(), Proposed::At(Lsn(2), Term(1)));
    let persist = group.take(0).unwrap().unwrap();
    assert_eq!((persist.from, group.unpersisted()), (Lsn(2), 1));
    assert_eq!(kinds(&group.take_messages()), [MessageType::MsgAppend]);
}

/// A lone voter's entry is committed by its record being durable: no second Ready says so.
#[test]
fn an_entry_takes_one_ready() {
    let mut group = group(&conf(&[1], &[]), 1);
    group.campaign().unwrap();
    for lsn in (1..=5).map(Lsn) {
        let persist = group.take(0).unwrap().unwrap();
        assert_eq!((persist.to, group.committed()), (lsn, Lsn(lsn.get() - 1)));
        group.persisted(persist.number).unwrap();
        assert_eq!((group.committed(), group.has_ready()), (lsn, false));
        group.applied(lsn).unwrap();
        assert_eq!(group.propose(vec![7].into()).unwrap(), Proposed::At(lsn.next(), Term(1)));
        assert!(group.has_ready());
    }
    let persist = group.take(0).unwrap().unwrap();
    let state = persist.hard_state.expect("the commit index rides with the next record");
    assert_eq!(state.commit, Lsn(5));
}

/// The crate takes an entry off its sum of what is uncommitted when a Ready names it as committed. Those that are applied
/// before the next one never are: with a bound, proposals would be dropped in the end.
#[test]
fn entries_that_no_ready_names_do_not_add_up() {
    let mut group = group(&conf(&[1], &[]), 1);
    group.campaign().unwrap();
    let large = bytes::Bytes::from(vec![7; 4 << 20]);
    for lsn in (1..=20).map(Lsn) {
        let persist = group.take(0).unwrap().unwrap();
        group.persisted(persist.number).unwrap();
        group.applied(lsn).unwrap();
        assert_eq!(group.propose(large.clone()).unwrap(), Proposed::At(lsn.next(), Term(1)));
    }
}

/// Hazard 2: the crate asserts that whoever wins alone has no unpersisted tail.
#[test]
fn a_lone_voter_flushes_before_it_campaigns() {
    let lone = conf(&[1], &[]);
    let mut group = group(&lone, 1);
    group.step(append_from(2, 1, 1), 0).unwrap().unwrap();
    let persist = group.take(0).unwrap().unwrap();
    group.campaign().unwrap();
    assert!(!group.leads(), "the tail is not durable yet");
    for _ in 0..100 {
        group.tick(true, 0).unwrap();
    }
    assert!(!group.leads() && !group.can_campaign_now());
    group.persisted(persist.number).unwrap();
    assert!(group.can_campaign_now());
    group.campaign().unwrap();
    assert!(group.leads());

    // The crate by itself panics: the day it does not, the rule can go.
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let config = GroupOptions::default().config(ME, Lsn::ZERO);
    let mut bare = RawNode::new(&config, store(&lone), &logger).unwrap();
    bare.step(append_from(2, 1, 1)).unwrap();
    assert!(guarded(|| bare.campaign()).is_err());
}

/// Hazard 3: a Ready with nothing to write still has its messages wait for the records before it.
#[test]
fn follower_messages_of_an_empty_ready_wait_for_earlier_records() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    group.step(append_from(2, 1, 1), 0).unwrap().unwrap();
    let first = group.take(0).unwrap().unwrap();
    group.step(heartbeat_from(2, 1, 0), 0).unwrap().unwrap();
    assert!(group.has_ready());
    assert_eq!(group.take(0).unwrap(), None);
    assert_eq!(kinds(&group.take_messages()), []);
    group.persisted(first.number).unwrap();
    let expected = [MessageType::MsgAppendResponse, MessageType::MsgHeartbeatResponse];
    assert_eq!(kinds(&group.take_messages()), expected);
    // With nothing outstanding, the next one leaves at once.
    group.step(heartbeat_from(2, 1, 0), 0).unwrap().unwrap();
    group.take(0).unwrap();
    assert_eq!(kinds(&group.take_messages()), [MessageType::MsgHeartbeatResponse]);
}

/// With several records under way, messages wait for their own: the newest when they were made.
#[test]
fn follower_messages_wait_for_the_newest_record_not_for_the_oldest() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    let taken = |group: &mut Group, index| {
        group.step(append_from(2, 1, index), 0).unwrap().unwrap();
        group.take(0).unwrap().unwrap().number
    };
    let records = [1, 2, 3].map(|index| taken(&mut group, index));
    assert_eq!(kinds(&group.take_messages()), []);
    for number in records {
        group.persisted(number).unwrap();
        assert_eq!(kinds(&group.take_messages()), [MessageType::MsgAppendResponse], "record {number}");
    }
}

/// A vote leaves only when it is durable.
#[test]
fn votes_wait_for_the_disk() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    let mut request = Message { from: 2, to: 1, term: 1, ..Message::default() };
    request.set_msg_type(MessageType::MsgRequestVote);
    group.step(request, 0).unwrap().unwrap();
    let persist = group.take(0).unwrap().unwrap();
    assert_eq!(persist.hard_state, Some(HardState { term: Term(1), vote: 2, commit: Lsn(0) }));
    assert_eq!(kinds(&group.take_messages()), []);
    group.persisted(persist.number).unwrap();
    assert_eq!(kinds(&group.take_messages()), [MessageType::MsgRequestVoteResponse]);
}

/// Hazard 5: the crate panics on what it cannot believe. A leader that knows of entries which are not here has seen them
/// durable: that is a fault of one replica, before the crate sees it.
#[test]
fn a_commit_index_beyond_the_log_is_a_fault() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    let fault = group.step(heartbeat_from(2, 1, 100), 0).unwrap_err();
    assert!(fault.0.contains("knows of entry 100 here, but the log ends at 0"), "{}", fault.0);
    let stale = group.step(heartbeat_from(2, 1, 0), 0).unwrap();
    assert_eq!(stale, Ok(()), "it is not broken by it");
}

/// Entries of another term replace an unpersisted tail, and the record says where they start.
#[test]
fn a_replaced_tail_is_written_from_where_it_parts() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    for index in 1..=3 {
        group.step(append_from(2, 1, index), 0).unwrap().unwrap();
    }
    let first = group.take(0).unwrap().unwrap();
    assert_eq!((first.from, first.to), (Lsn(1), Lsn(3)));
    let mut message = append_from(3, 2, 2);
    message.log_term = 1;
    group.step(message, 0).unwrap().unwrap();
    let second = group.take(0).unwrap().unwrap();
    assert_eq!((second.from, second.to, group.store().last()), (Lsn(2), Lsn(2), Lsn(2)));
    // Durability of the first must not count for the replaced entries.
    group.persisted(first.number).unwrap();
    assert_eq!(group.role(), StateRole::Follower);
    group.persisted(second.number).unwrap();
    assert_eq!(group.unpersisted(), 0);
}

/// They come from members and terms, and what is free within a member's turn from the seed.
#[test]
fn election_timeouts_can_be_drawn_again() {
    let timeouts = |seed| {
        let mut group = group(&conf(&[1, 2], &[]), seed);
        let mut seen = vec![group.election_timeout_ticks()];
        for _ in 0..200 {
            group.tick(true, 0).unwrap();
            if group.has_ready() {
                group.take(0).unwrap();
                seen.push(group.election_timeout_ticks());
            }
        }
        seen
    };
    assert_eq!(timeouts(7), timeouts(7));
    assert!(timeouts(7).iter().all(|ticks| (10..20).contains(ticks)));
    assert!((0..20).any(|seed| timeouts(seed) != timeouts(7)), "the seed matters");
}

/// A refusal that was on its way while its sender took the entries in: the crate would take it for news, and send anew from
/// below what the member holds, which the log may not have any more.
#[test]
fn a_refusal_that_was_overtaken_is_dropped() {
    let mut group = group(&conf(&[1], &[2]), 1);
    group.campaign().unwrap();
    let work = |group: &mut Group| {
        while group.has_ready() {
            if let Some(persist) = group.take(0).unwrap() {
                group.persisted(persist.number).unwrap();
            }
        }
        group.take_messages()
    };
    work(&mut group);
    for _ in 0..5 {
        assert!(matches!(group.propose(of_time(1).into()).unwrap(), Proposed::At(..)));
        work(&mut group);
    }
    let response = |index, reject_hint| {
        let mut message = Message { from: 2, to: 1, term: 1, index, reject_hint, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppendResponse);
        message.reject = reject_hint > 0;
        message
    };
    group.step(response(4, 0), 0).unwrap().unwrap();
    work(&mut group);
    group.report_unreachable(MemberId(2)).unwrap();
    // It is sent what follows 4 now. These were answered when it had 2.
    for stale in [response(4, 2), response(6, 2), response(3, 2)] {
        assert_eq!(group.step(stale, 0).unwrap(), Err(Refused::Stale));
        let sent = work(&mut group);
        assert!(sent.iter().all(|message| message.index >= 4), "{sent:?}");
    }
    // What it can say when it holds 4 is heard.
    assert_eq!(group.step(response(6, 4), 0).unwrap(), Ok(()));
}

fn vote_request(from: u64, term: u64, kind: MessageType) -> Message {
    let mut message = Message { from, to: 1, term, index: 9, log_term: 9, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// The crate refuses votes while it knows a leader that it has heard of late, and forgets it with the first message of a later
/// term, the answer to a question of its own among them. What it has answered the leader may be what a lease rests on.
#[test]
fn a_member_that_has_answered_its_leader_votes_for_nobody_yet() {
    const PROMISE_NS: u64 = 900_000_000;
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    assert_eq!(GroupOptions::default().promise_ns(), PROMISE_NS);
    group.step(heartbeat_from(2, 1, 0), 5).unwrap().unwrap();
    assert_eq!(group.leader(), Some(MemberId(2)));
    let mut late = vote_request(3, 4, MessageType::MsgRequestPreVoteResponse);
    late.reject = true;
    group.step(late, 6).unwrap().unwrap();
    assert_eq!((group.leader(), group.hard_state().term), (None, Term(4)));
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
        for term in [4, 5] {
            let refused = group.step(vote_request(3, term, kind), PROMISE_NS).unwrap();
            assert_eq!(refused, Err(Refused::Promised), "{kind:?} of term {term}");
        }
    }
    group.take(0).unwrap().unwrap();
    assert_eq!(group.hard_state().vote, 0);
    // It does not vote for itself either, whatever its ticks come to.
    (0..100).for_each(|_| group.tick(true, PROMISE_NS).unwrap());
    assert_eq!(group.role(), StateRole::Follower);
    group.step(vote_request(3, 4, MessageType::MsgRequestVote), PROMISE_NS + 5).unwrap().unwrap();
    assert_eq!(group.hard_state().vote, 3);
}

/// Whom its leader has asked to lead it votes for at once: that leader has given up its lease.
#[test]
fn a_promise_does_not_stand_against_who_was_asked_to_lead() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    group.step(heartbeat_from(2, 1, 0), 5).unwrap().unwrap();
    let mut request = vote_request(3, 2, MessageType::MsgRequestVote);
    request.context = raft::CAMPAIGN_TRANSFER.into();
    group.step(request, 6).unwrap().unwrap();
    assert_eq!(group.hard_state().vote, 3);
}

/// What a follower asks about reads has no term, and the crate takes its first entry without a look whether there is one.
#[test]
fn questions_about_reads_have_their_form_or_are_dropped() {
    let mut group = group(&conf(&[1, 2, 3], &[]), 1);
    let question = |kind, term, names: &[&[u8]]| {
        let mut message = Message { from: 2, to: 1, term, ..Message::default() };
        message.set_msg_type(kind);
        let entries = names.iter().map(|name| Entry { data: name.to_vec().into(), ..Entry::default() });
        message.set_entries(entries.collect::<Vec<_>>().into());
        message
    };
    let (asks, answers) = (MessageType::MsgReadIndex, MessageType::MsgReadIndexResp);
    let name = [7; 32];
    let stepped = |group: &mut Group, message| group.step(message, 0).unwrap();
    assert_eq!(stepped(&mut group, question(asks, 0, &[&name])), Err(Refused::Question), "it does not lead");
    stepped(&mut group, heartbeat_from(2, 1, 0)).unwrap();
    let from_other = Message { from: 3, ..question(answers, 1, &[&name]) };
    assert_eq!(stepped(&mut group, from_other), Err(Refused::Question), "another one leads");
    for wrong in [
        question(answers, 1, &[]),
        question(answers, 1, &[&name, &name]),
        question(answers, 1, &[&name[1..]]),
    ] {
        assert_eq!(stepped(&mut group, wrong), Err(Refused::Question));
    }
    assert_eq!(
        stepped(&mut group, question(answers, 1, &[&name])),
        Ok(()),
        "an answer that nobody waits for"
    );
    for wrong in [question(asks, 1, &[&name]), question(answers, 0, &[&name])] {
        assert_eq!(stepped(&mut group, wrong), Err(Refused::Absurd));
    }
}
