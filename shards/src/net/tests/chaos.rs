//! Three nodes of two cores, and a network that does everything at random: invariants hold after each step, nothing
//! arrives that was not sent, and once it is quiet everything arrives.

use std::collections::BTreeSet;

use corduroy_wal::mix::SplitMix64;

use super::handshake::local;
use super::world::{Event, World};
use crate::net::{Epoch, PeerOptions};

struct Chaos {
    world: World,
    numbers: SplitMix64,
    sent: BTreeSet<(u64, u64, u64)>,
    starts: u64,
    endings: usize,
}

fn options() -> PeerOptions {
    PeerOptions {
        queue_messages: 6,
        queue_bytes: 3_000,
        frame_bytes: 1_000,
        connections: 24,
        ..PeerOptions::default()
    }
}

impl Chaos {
    fn new(seed: u64) -> Self {
        Self {
            world: World::new([local(1), local(2), local(3)], options()),
            numbers: SplitMix64::new(seed),
            sent: BTreeSet::new(),
            starts: 5,
            endings: 0,
        }
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.numbers.next_u64() % most as u64).expect("it is small")
    }

    fn send(&mut self, commit: u64) {
        let from = 1 + self.below(3) as u64;
        let to = 1 + (from + self.below(2) as u64) % 3;
        let core = u16::try_from(self.below(2)).unwrap();
        let shard = u32::try_from(self.below(2)).unwrap();
        self.sent.insert((from, to, commit));
        self.world.send((from, core), (to, shard), commit);
    }

    fn step(&mut self, step: u64) {
        match self.below(40) {
            0..=11 => self.send(step),
            12..=14 => self.world.answer_dial(),
            15..=30 => {
                let ends: Vec<_> = self.world.flying.keys().copied().collect();
                if !ends.is_empty() {
                    let end = ends[self.below(ends.len())];
                    self.disturb(end);
                    self.world.deliver(end);
                    self.world.flying.retain(|_, flying| !flying.is_empty());
                }
            }
            31..=34 => {
                let now_ns = self.world.now_ns;
                self.world.cores.values_mut().for_each(|peers| peers.flush(now_ns));
            }
            35..=37 => {
                let ms = self.below(300) as u64;
                self.world.pass_ms(ms);
            }
            38 => {
                let ends: Vec<_> = self.world.wires.keys().copied().collect();
                if !ends.is_empty() && self.below(3) == 0 {
                    let end = ends[self.below(ends.len())];
                    self.world.cut(end);
                }
            }
            _ => {
                if self.below(20) == 0 {
                    self.starts += 1;
                    let mut again = local(1 + self.below(3) as u64);
                    again.epoch = Epoch { incarnation: 1, starts: self.starts, process: self.starts };
                    self.world.start(again, options());
                }
            }
        }
        self.world.act();
        self.world.cores.values().for_each(crate::net::Peers::check);
        self.judge();
    }

    /// Cuts what is next for an end in two, flips a bit of it, sends it twice or loses it.
    fn disturb(&mut self, end: super::world::End) {
        let what = self.below(200);
        let at = self.below(1 << 16);
        let Some(flying) = self.world.flying.get_mut(&end) else { return };
        let Some(first) = flying.front().cloned().filter(|first| !first.is_empty()) else { return };
        let at = at % first.len();
        match what {
            0..=60 if at > 0 => {
                flying[0] = first.slice(at..);
                flying.push_front(first.slice(..at));
            }
            100 => {
                let mut bytes = first.to_vec();
                bytes[at] ^= 1 << (at % 8);
                flying[0] = bytes.into();
            }
            101 => flying.push_front(first),
            102 => {
                flying.pop_front();
            }
            _ => {}
        }
    }

    fn judge(&mut self) {
        for event in std::mem::take(&mut self.world.events) {
            match event {
                Event::Deliver { at, from, message, .. } => {
                    let sent = (from, at.0, message.commit);
                    assert!(self.sent.remove(&sent), "{sent:?} came, and was not sent, or came before");
                }
                Event::Closed { .. } => self.endings += 1,
                Event::Unreachable { .. }
                | Event::Forwarded { .. }
                | Event::Unsent { .. }
                | Event::Severed { .. } => {}
            }
        }
    }
}

#[test]
fn whatever_the_network_does_nothing_wrong_arrives_and_it_recovers() {
    let (mut endings, mut arrived) = (0, 0);
    for seed in 0..100 {
        let mut chaos = Chaos::new(seed);
        for step in 0..2_000 {
            chaos.step(step);
        }
        endings += chaos.endings;
        // It is quiet from here on: what failed is tried again, and then all goes through.
        for _ in 0..20 {
            chaos.world.run();
            chaos.world.pass_ms(6_000);
        }
        chaos.world.run();
        chaos.judge();
        chaos.sent.clear();
        // The first may be what finds a connection dead that the other side has lost.
        for commit in 10_000..10_003_u64 {
            for from in 1..4 {
                for to in (1..4).filter(|to| *to != from) {
                    chaos.sent.insert((from, to, commit));
                    chaos.world.send((from, 0), (to, 1), commit);
                    chaos.world.run();
                    chaos.world.pass_ms(6_000);
                }
            }
        }
        chaos.world.run();
        chaos.judge();
        let left = chaos.sent.iter().filter(|(_, _, commit)| *commit == 10_002).count();
        assert_eq!(left, 0, "seed {seed}: {:?} did not arrive", chaos.sent);
        let received = chaos.world.cores.values().map(|peers| peers.counters().messages_received);
        arrived += received.sum::<u64>();
    }
    assert!(endings > 400 && arrived > 8_000, "{endings} connections ended, {arrived} messages arrived");
}
