//! Random plays: members die, disks are slow, messages get lost, doubled and late, states are flushed and logs released; every
//! outcome is judged by what all have applied in the end, and every read by what was acknowledged before it was sent.

#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::lease::Reads;
use corduroy_shards::sim::Rng;
use corduroy_shards::{Limits, ShardOptions, Ticket};
use corduroy_wal::Options;

use crate::cluster::{Cluster, Way, options};
use crate::common::Got;

fn draw_node(random: &mut Rng, of: &Cluster) -> usize {
    usize::try_from(random.below(of.worlds.len() as u64)).expect("few nodes")
}

/// A request, and for a read what it must see.
struct Asked {
    node: usize,
    ticket: Ticket,
    /// What a write appends; `None`: it is a read.
    word: Option<String>,
    must_see: usize,
}

#[derive(Default)]
struct Books {
    asked: Vec<Asked>,
    /// Words that were acknowledged, or seen by a read.
    visible: Vec<String>,
    ended: Vec<(Option<String>, Got)>,
}

impl Books {
    /// Judges what has been answered since.
    fn judge(&mut self, cluster: &Cluster) {
        let (answered, waiting) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|asked| cluster.got(asked.node, asked.ticket).is_some());
        self.asked = waiting;
        let answered: Vec<Asked> = answered;
        for Asked { node, ticket, word, must_see } in answered {
            let got = cluster.got(node, ticket).expect("it is answered");
            if let (None, Got::Done(_, log)) = (&word, &got) {
                let seen: Vec<_> = log.split(',').collect();
                for word in &self.visible[..must_see] {
                    assert!(seen.contains(&word.as_str()), "a read at {node} does not see {word}: {log}");
                }
                let news = seen.iter().filter(|word| !word.is_empty() && **word != "nil");
                let news: Vec<String> = news
                    .filter(|word| !self.visible.iter().any(|known| known == *word))
                    .map(|word| (*word).to_owned())
                    .collect();
                self.visible.extend(news);
            }
            if let (Some(word), Got::Done(..)) = (&word, &got)
                && !self.visible.contains(word)
            {
                self.visible.push(word.clone());
            }
            self.ended.push((word, got));
        }
    }

    /// What a process had not answered when it died may be done or not.
    fn died(&mut self, node: usize) {
        let (dead, asked) = std::mem::take(&mut self.asked).into_iter().partition(|asked| asked.node == node);
        self.asked = asked;
        let dead: Vec<Asked> = dead;
        self.ended.extend(dead.into_iter().map(|asked| (asked.word, Got::Unknown)));
    }

    fn ask(&mut self, cluster: &mut Cluster, node: usize, word: Option<String>) {
        let ticket = match &word {
            Some(word) => cluster.write(node, &format!("append log {word},")),
            None if self.asked.len().is_multiple_of(2) => cluster.read_anywhere(node, "get log"),
            None => cluster.read(node, "get log"),
        };
        self.asked.push(Asked { node, ticket, word, must_see: self.visible.len() });
    }
}

fn disturb(cluster: &mut Cluster, books: &mut Books, random: &mut Rng) {
    let node = draw_node(random, cluster);
    match random.below(40) {
        0 => cluster.isolate(node),
        1..4 => cluster.heal(),
        4 => {
            let other = draw_node(random, cluster);
            cluster.cut.insert((node, other));
        }
        5 | 6 => {
            books.judge(cluster);
            books.died(node);
            cluster.kill(node);
            cluster.start(node, random.below(2) == 0);
        }
        7 => cluster.worlds[node].disk.set_manual(true),
        8..12 => {
            cluster.worlds[node].disk.set_manual(false);
            cluster.worlds[node].disk.complete_all();
        }
        12..15 => cluster.worlds[node].shard.machine_mut().flush(),
        15 => cluster.worlds[node].now.wall_ms += random.below(3_000),
        _ => {}
    }
}

/// What a play met.
#[derive(Default, Debug)]
struct Met {
    writes: usize,
    reads: usize,
    refused: usize,
    unknown: usize,
    elections: u64,
}

impl Met {
    fn add(&mut self, books: &Books, cluster: &Cluster) {
        let is_done = |got: &Got| matches!(got, Got::Done(..));
        self.writes += books.ended.iter().filter(|(word, got)| word.is_some() && is_done(got)).count();
        self.reads += books.ended.iter().filter(|(word, got)| word.is_none() && is_done(got)).count();
        self.refused += books.ended.iter().filter(|(_, got)| matches!(got, Got::Rejected(_))).count();
        self.unknown += books.ended.iter().filter(|(_, got)| *got == Got::Unknown).count();
        self.elections += cluster.status(0).term.get();
    }
}

fn play(members: usize, seed: u64, met: &mut Met) {
    let reads = if seed.is_multiple_of(2) { Reads::Lease } else { Reads::Quorum };
    let kept = |node| ShardOptions {
        // No member may need a snapshot.
        limits: Limits { kept_bytes: 1 << 30, second_frame_bytes: 0, ..Limits::default() },
        group: GroupOptions { reads, ..GroupOptions::default() },
        ..options(node)
    };
    let wal = Options { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, ..Options::default() };
    let mut cluster = Cluster::with(members, kept, wal);
    let mut random = Rng::new(seed, "group");
    let mut books = Books::default();
    cluster.elect();
    for round in 0..150 {
        cluster.wait(20);
        disturb(&mut cluster, &mut books, &mut random);
        let (writer, reader) = (draw_node(&mut random, &cluster), draw_node(&mut random, &cluster));
        books.ask(&mut cluster, writer, Some(format!("{round}")));
        books.ask(&mut cluster, reader, None);
        for _ in 0..1 + random.below(6) {
            cluster.turn();
            cluster.deliver(|_, _, _| match random.below(12) {
                0 => Way::Lost,
                1 => Way::Twice,
                2 => Way::Late,
                _ => Way::Arrives,
            });
        }
        let node = draw_node(&mut random, &cluster);
        cluster.worlds[node].run_jobs();
        books.judge(&cluster);
        cluster.check();
    }
    cluster.heal();
    for world in &mut cluster.worlds {
        world.disk.set_manual(false);
        world.disk.complete_all();
    }
    cluster.elect();
    // A leader whose disk stood still may be about to transfer the lead.
    cluster.pass(1_500);
    let leader = cluster.elect();
    cluster.put(leader, "set end 1");
    cluster.pass(12_000);
    books.judge(&cluster);
    assert_eq!(books.asked.len(), 0, "every request has its outcome");
    let history = cluster.check_same();
    met.add(&books, &cluster);
    for (word, got) in books.ended {
        let Some(word) = word else { continue };
        let times = history.iter().filter(|(_, op)| *op == format!("append log {word},")).count();
        match got {
            Got::Done(..) => assert_eq!(times, 1, "{word} was acknowledged"),
            Got::Rejected(why) => assert_eq!(times, 0, "{word} was refused: {why}"),
            Got::Unknown => assert!(times <= 1, "{word}"),
        }
    }
}

#[test]
fn three_members_keep_what_they_acknowledged() {
    let mut met = Met::default();
    (0..66).for_each(|seed| play(3, seed, &mut met));
    assert!(met.writes > 500 && met.reads > 500 && met.refused > 500, "{met:?}");
    assert!(met.unknown > 50 && met.elections > 120, "{met:?}");
}

#[test]
fn five_members_keep_what_they_acknowledged() {
    let mut met = Met::default();
    (0..36).for_each(|seed| play(5, seed, &mut met));
    assert!(met.writes > 200 && met.reads > 200 && met.elections > 60, "{met:?}");
}
