//! Both sides of a transfer over a network that loses, doubles and overtakes, with restarts of both.

use std::collections::BTreeMap;

use super::*;
use crate::image::Reader;

fn is_whole(chunks: &[Bytes], lsn: Lsn) -> bool {
    let mut reader = Reader::new(1 << 20);
    let is_read = chunks.iter().all(|chunk| reader.push(chunk, &mut |_| Ok(())).is_ok());
    is_read && reader.totals().is_some() && reader.header().is_some_and(|header| header.lsn == lsn)
}

/// The images that are sent, made once.
fn images() -> Vec<Vec<Bytes>> {
    (0..12).map(|at| image(50 + at, 2 + at % 4 * 7)).collect()
}

/// The two that send, one at a time: their processes differ in nothing else, and number their images alike.
const SENDERS: [u64; 2] = [SENDER, 3];

fn process(node: u64, starts: u64) -> Process {
    Process { node: NodeId(node), incarnation: 9, starts }
}

/// What is on its way, with the sender that it is from or to.
enum Packet {
    Receiver(u64, ToReceiver),
    Sender(u64, ToSender),
}

/// A job of the receiver that is under way.
enum Job {
    Store(ImageId, u32, Bytes),
    Install(ImageId, Lsn),
}

struct World {
    random: SplitMix64,
    now_ns: u64,
    images: Vec<Vec<Bytes>>,
    is_faulty: bool,
    /// Per thousand: what is lost, what is doubled.
    loss: u64,
    double: u64,
    packets: Vec<(u64, Packet)>,
    sender: Sender,
    sender_options: SenderOptions,
    /// Which of the two it is, and how often each has started.
    at: usize,
    starts: [u64; 2],
    /// What each image number stands for.
    sent: BTreeMap<ImageId, usize>,
    next_number: u64,
    next_read: usize,
    receiver: Receiver,
    receiver_starts: u64,
    jobs: Vec<(u64, Job)>,
    stored: BTreeMap<ImageId, Vec<Bytes>>,
    standing: Standing,
    /// What was sent but never ended, with its sender.
    statuses: Vec<Status>,
    installed: Vec<Lsn>,
    begun: usize,
    killed: usize,
}

impl World {
    fn new(seed: u64, images: &[Vec<Bytes>]) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut draw = |below: u64| random.next_u64() % below;
        let sender_options = SenderOptions {
            window: 1 + draw(5) as usize,
            bytes_per_s: 1 << (18 + draw(8)),
            retry_ms: 5 + draw(40),
            lost_ms: 5,
            expiry_ms: 3_000,
            install_ms: 10_000,
        };
        let (loss, double) = (draw(300), draw(200));
        let receiver_options = ReceiverOptions { unstored: 1 + draw(4) as u32, expiry_ms: 2_000 };
        let id = ImageId { process: process(SENDER, 1), number: 0 };
        Self {
            random,
            now_ns: 0,
            images: images.to_vec(),
            is_faulty: true,
            loss,
            double,
            packets: Vec::new(),
            sender: Sender::new(sender_options, id, offer_of(50), 0),
            sender_options,
            at: 0,
            starts: [1, 0],
            sent: BTreeMap::from([(id, 0)]),
            next_number: 1,
            next_read: 0,
            receiver: Receiver::new(receiver_options, process(2, 1)),
            receiver_starts: 1,
            jobs: Vec::new(),
            stored: BTreeMap::new(),
            standing: Standing { committed: Lsn(0), room_bytes: 4 << 20, ..STANDING },
            statuses: Vec::new(),
            installed: Vec::new(),
            begun: 1,
            killed: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn has_luck(&mut self, per_mille: u64) -> bool {
        self.draw(1000) < per_mille
    }

    fn post(&mut self, packet: impl Fn() -> Packet) {
        let lost = self.is_faulty && {
            let loss = self.loss;
            self.has_luck(loss)
        };
        if lost {
            return;
        }
        let doubled = self.is_faulty && {
            let double = self.double;
            self.has_luck(double)
        };
        for _ in 0..=u64::from(doubled) {
            let delay_ms = if self.is_faulty { self.draw(30) } else { 1 };
            self.packets.push((self.now_ns + delay_ms * NS_PER_MS, packet()));
        }
    }

    /// A sender of a newer image takes the place of the one before.
    fn begin(&mut self) {
        let at = self.draw(self.images.len() as u64) as usize;
        let at = if self.is_faulty { at } else { self.images.len() - 1 };
        let id =
            ImageId { process: process(SENDERS[self.at], self.starts[self.at]), number: self.next_number };
        self.next_number += 1;
        self.sent.insert(id, at);
        self.next_read = 0;
        self.begun += 1;
        let bytes = self.images[at].iter().map(|chunk| chunk.len() as u64).sum();
        let offer = Offer { bytes, ..offer_of(50 + at as u64) };
        self.sender = Sender::new(self.sender_options, id, offer, self.now_ns);
    }

    fn run_sender(&mut self) {
        self.sender.tick(self.now_ns);
        while let Some(output) = self.sender.poll() {
            match output {
                SenderOutput::Send(message) => {
                    let bytes = message.encode();
                    let from = SENDERS[self.at];
                    self.post(|| Packet::Receiver(from, ToReceiver::decode(&bytes).unwrap()));
                }
                SenderOutput::Read => {
                    let fails = self.is_faulty && self.has_luck(5);
                    let chunks = &self.images[self.sent[&self.sender.image()]];
                    let (at, last) = (self.next_read, chunks.len() - 1);
                    let chunk = (!fails).then(|| (chunks[at].clone(), at == last));
                    self.next_read += 1;
                    self.sender.read(chunk);
                }
                SenderOutput::Done(status) => self.statuses.push(status),
            }
            self.sender.check();
        }
    }

    fn run_receiver(&mut self) {
        self.receiver.tick(self.now_ns);
        while let Some(output) = self.receiver.poll() {
            match output {
                ReceiverOutput::Send { to, message } => {
                    let bytes = message.encode();
                    self.post(|| Packet::Sender(to, ToSender::decode(&bytes).unwrap()));
                }
                ReceiverOutput::Store { image, number, chunk } => {
                    let at = self.jobs.iter().map(|(at, _)| *at).max().unwrap_or(0).max(self.now_ns);
                    let at = at + self.draw(3) * NS_PER_MS;
                    self.jobs.push((at, Job::Store(image, number, chunk)));
                }
                ReceiverOutput::Install { image, lsn, term } => {
                    assert_eq!(term, Term(5));
                    let at = self.now_ns + self.draw(200) * NS_PER_MS;
                    self.jobs.push((at, Job::Install(image, lsn)));
                }
                ReceiverOutput::Drop { image } => {
                    self.stored.remove(&image);
                }
            }
            self.receiver.check();
        }
    }

    fn run_jobs(&mut self) {
        let now_ns = self.now_ns;
        for job in self.jobs.extract_if(.., |(at, _)| *at <= now_ns).collect::<Vec<_>>() {
            match job.1 {
                Job::Store(image, number, chunk) => {
                    // Of one that was dropped meanwhile nothing is kept.
                    if self.receiver.image() != Some(image) {
                        continue;
                    }
                    let fails = self.is_faulty && self.has_luck(5);
                    let chunks = self.stored.entry(image).or_default();
                    assert_eq!(chunks.len(), number as usize, "chunks are stored in order, each once");
                    chunks.push(chunk);
                    let standing = self.standing;
                    self.receiver.stored(image, number, !fails, &standing);
                }
                Job::Install(image, lsn) => {
                    let chunks = self.stored.remove(&image).expect("what is installed is stored");
                    assert_eq!(chunks, self.images[self.sent[&image]], "what was sent");
                    assert!(is_whole(&chunks, lsn) && lsn.0 >= MEMBER && lsn > self.standing.committed);
                    let fails = self.is_faulty && self.has_luck(50);
                    if !fails {
                        self.standing.committed = lsn;
                        self.installed.push(lsn);
                    }
                    self.receiver.installed(image, if fails { Ended::Failed } else { Ended::Installed });
                }
            }
        }
    }

    fn restart_some(&mut self) {
        if self.has_luck(3) {
            self.killed += usize::from(!self.sender.is_done());
            // The process begins to count anew, and leads from either node.
            self.at = self.draw(2) as usize;
            self.starts[self.at] += 1;
            self.next_number = 0;
            self.begin();
        }
        if self.has_luck(3) {
            self.receiver_starts += 1;
            let options = ReceiverOptions { unstored: 3, expiry_ms: 2_000 };
            self.receiver = Receiver::new(options, process(2, self.receiver_starts));
            self.jobs.clear();
            self.stored.clear();
        }
        if self.has_luck(5) {
            self.sender.lost();
        }
        if self.has_luck(2) {
            self.sender.cancel();
        }
        // The log brings it further, but while it installs.
        if self.has_luck(5) && !self.receiver.is_installing() {
            self.standing.committed = Lsn(self.standing.committed.0.max(49) + 1);
        }
    }

    fn step(&mut self) {
        self.now_ns += NS_PER_MS * (1 + self.draw(3));
        if self.is_faulty {
            self.restart_some();
        }
        let now_ns = self.now_ns;
        for (_, packet) in self.packets.extract_if(.., |(at, _)| *at <= now_ns).collect::<Vec<_>>() {
            match packet {
                Packet::Receiver(from, message) => {
                    let standing = self.standing;
                    self.receiver.received((from, 5), &message, &standing);
                }
                Packet::Sender(to, message) if to == SENDERS[self.at] => self.sender.received(&message),
                Packet::Sender(..) => {}
            }
        }
        self.run_jobs();
        self.run_sender();
        self.run_receiver();
        assert!(self.stored.len() <= 1, "one image at a time is stored");
        if self.sender.is_done() {
            assert_eq!(self.statuses.len() + self.killed, self.begun, "each has one status");
            self.begin();
        }
    }
}

#[test]
fn a_transfer_ends_and_installs_only_what_was_sent() {
    let images = images();
    let (mut installs, mut failures) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, &images);
        for _ in 0..1_500 {
            world.step();
        }
        world.is_faulty = false;
        let newest = Lsn(50 + images.len() as u64 - 1);
        let mut steps = 0;
        while world.standing.committed < newest
            || !world.statuses.last().is_some_and(|last| last.is_success())
        {
            world.step();
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: no end, {:?} {:?}", world.sender, world.receiver);
        }
        assert!(world.installed.is_sorted_by(|one, next| one < next), "seed {seed}: it never goes back");
        installs += world.installed.len();
        failures += world.statuses.iter().filter(|status| !status.is_success()).count();
    }
    assert!(installs > 60 && failures > 100, "{installs} installs, {failures} failures");
}
