//! Groups of the crate whose messages all travel as bytes: nothing that it sends is unsendable or comes back otherwise.

use std::collections::BTreeSet;

use ::raft::eraftpb::HardState;
use ::raft::storage::MemStorage;
use ::raft::{Config, RawNode, StateRole};
use corduroy_wal::fields::Fields;
use corduroy_wal::mix::SplitMix64;

use super::*;
use crate::net::decode::decode;

struct Group {
    nodes: Vec<RawNode<MemStorage>>,
    kinds: BTreeSet<(u8, bool)>,
    numbers: SplitMix64,
}

impl Group {
    fn new(priorities: [i64; 3]) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let nodes = (1..=3).zip(priorities).map(|(id, priority)| {
            let config = Config {
                id,
                priority,
                election_tick: 10,
                heartbeat_tick: 2,
                check_quorum: true,
                pre_vote: true,
                max_size_per_msg: 1 << 20,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
            // At term 0 the crate panics where it votes against a candidate.
            storage.wl().set_hardstate(HardState { term: 1, ..HardState::default() });
            RawNode::new(&config, storage, &logger).expect("a config that holds")
        });
        Self { nodes: nodes.collect(), kinds: BTreeSet::new(), numbers: SplitMix64::new(3) }
    }

    /// Sends a message as bytes; one of `lost` in 8 does not arrive.
    fn carry(&mut self, message: Message, lost: u64) {
        let sent = outgoing(9, message.clone());
        self.kinds.insert((sent.kind().code(), message.reject));
        let mut bytes = Vec::new();
        sent.write(&mut bytes);
        let bytes = Bytes::from(bytes);
        let (_, arrived) = decode(&bytes, &mut Fields::new(&bytes)).expect("it was written just now");
        assert_eq!(arrived, message);
        if self.numbers.next_u64() % 8 >= lost {
            let to = usize::try_from(arrived.to - 1).expect("one of three");
            let _ = self.nodes[to].step(arrived);
        }
    }

    /// The crate draws election timeouts from the process's own numbers; a test is one history, so they are drawn here.
    fn tick(&mut self, at: usize) {
        let raft = &mut self.nodes[at].raft;
        let term = usize::try_from(raft.term).expect("a term of this test");
        raft.set_randomized_election_timeout(10 + (term * 7 + at * 3) % 10);
        self.nodes[at].tick();
    }

    fn turn(&mut self, lost: u64) {
        for at in 0..self.nodes.len() {
            self.tick(at);
            let mut messages = Vec::new();
            while self.nodes[at].has_ready() {
                let node = &mut self.nodes[at];
                let mut ready = node.ready();
                messages.extend(ready.take_messages());
                let _ = ready.take_committed_entries();
                node.mut_store().wl().append(ready.entries()).expect("they follow");
                if let Some(state) = ready.hs() {
                    node.mut_store().wl().set_hardstate(state.clone());
                }
                messages.extend(ready.take_persisted_messages());
                let mut light = node.advance(ready);
                messages.extend(light.take_messages());
                let _ = light.take_committed_entries();
                node.advance_apply();
            }
            messages.into_iter().for_each(|message| self.carry(message, lost));
        }
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.raft.state == StateRole::Leader)
    }
}

#[test]
fn all_that_a_group_sends_travels() {
    let mut group = Group::new([0, 0, 3]);
    for turn in 0..600_u64 {
        group.turn(if turn % 100 < 60 { 2 } else { 0 });
        let Some(leader) = group.leader() else { continue };
        let _ = group.nodes[leader].propose(Vec::new(), vec![7; usize::try_from(turn % 50).unwrap()]);
        let context = turn.to_le_bytes().to_vec();
        group.nodes[(leader + 1) % 3].read_index(context.clone());
        group.nodes[leader].read_index(context);
        if turn % 50 == 49 {
            let next = (leader + 1) % 3;
            group.nodes[leader].transfer_leader(next as u64 + 1);
        }
        if turn % 70 == 69 {
            let _ = group.nodes[(leader + 2) % 3].campaign();
        }
    }
    let committed: Vec<_> = group.nodes.iter().map(|node| node.raft.raft_log.committed).collect();
    assert!(committed.iter().all(|committed| *committed > 100), "{committed:?}");
    let not_of_the_crate = [Kind::Image, Kind::ImageResponse, Kind::Beat, Kind::Sleep, Kind::Wake];
    for kind in Kind::ALL.into_iter().filter(|kind| !not_of_the_crate.contains(kind)) {
        let is_seen = group.kinds.iter().any(|(code, _)| *code == kind.code());
        assert!(is_seen, "no group sent {kind:?}");
    }
    assert!(group.kinds.contains(&(Kind::AppendResponse.code(), true)), "none was refused");
}
