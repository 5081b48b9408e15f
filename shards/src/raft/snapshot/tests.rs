//! Each side of a transfer by itself; both of them in `chaos`; questions and answers in `questions`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod chaos;
mod questions;

use bytes::Bytes;
use corduroy_wal::mix::SplitMix64;
use corduroy_wal::{Lsn, Term};

use super::outgoing::pause_ms;
use super::receiver::{Receiver, ReceiverOptions, ReceiverOutput, Standing};
use super::sender::{Sender, SenderOptions, SenderOutput, Status};
use crate::ids::{KeyspaceId, NodeId, PartitionId};
use crate::image::transfer::{Answer, Ended, ImageId, Offer, Part, Process, Question, ToReceiver, ToSender};
use crate::image::{Header, Row, VERSION, Writer};

const NS_PER_MS: u64 = 1_000_000;
/// The entry that added the receiver.
const MEMBER: u64 = 40;
const SENDER: u64 = 1;

/// An image of `rows` rows up to an entry.
fn image(lsn: u64, rows: u64) -> Vec<Bytes> {
    let header = Header {
        partition: PartitionId(3),
        history: 0,
        lsn: Lsn(lsn),
        term: Term(5),
        source_lsn: Lsn(lsn),
        clock_ms: 1,
        configuration: Vec::new(),
    };
    let (mut writer, first) = Writer::new(&header);
    let mut chunks = vec![first];
    let mut random = SplitMix64::new(lsn);
    for key in 0..rows {
        let value: Vec<u8> = (0..9_000).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        let row = Row {
            keyspace: KeyspaceId::DEFAULT,
            version: lsn << 20,
            stamp: b"",
            key: &key.to_be_bytes(),
            value: &value,
        };
        writer.row(&row);
        chunks.extend(writer.take_chunk());
    }
    chunks.extend(writer.finish().0);
    chunks.into_iter().map(Bytes::from).collect()
}

fn options() -> SenderOptions {
    SenderOptions {
        window: 3,
        bytes_per_s: 1_000_000,
        retry_ms: 100,
        lost_ms: 20,
        expiry_ms: 1_000,
        install_ms: 5_000,
    }
}

/// The process that sends.
const PROCESS: Process = Process { node: NodeId(1), incarnation: 9, starts: 3 };
const ID: ImageId = ImageId { process: PROCESS, number: 4 };
/// The one that takes in.
const RECEIVER: Process = Process { node: NodeId(2), ..PROCESS };

fn offer_of(lsn: u64) -> Offer {
    Offer { lsn: Lsn(lsn), term: Term(5), version: VERSION, bytes: 1_000 }
}

fn wants(chunk: u32) -> ToSender {
    ToSender { image: ID, receiver: RECEIVER, answer: Answer::Wants { chunk } }
}

/// All that it does now.
fn all(sender: &mut Sender) -> Vec<SenderOutput> {
    std::iter::from_fn(|| sender.poll())
        .inspect(|output| assert!(!matches!(output, SenderOutput::Read)))
        .collect()
}

fn chunk_of(bytes: usize) -> Bytes {
    Bytes::from(vec![7; bytes])
}

/// A sender that was answered and has read three chunks of 100 kB.
fn asked() -> Sender {
    let mut sender = Sender::new(options(), ID, offer_of(50), 0);
    let offer = ToReceiver { image: ID, part: offer(50) };
    assert_eq!(all(&mut sender), [SenderOutput::Send(offer)]);
    sender.received(&wants(0));
    for _ in 0..3 {
        assert_eq!(sender.poll(), Some(SenderOutput::Read));
        sender.read(Some((chunk_of(100_000), false)));
    }
    sender
}

/// Of the image, it may be.
#[test]
fn a_member_that_keeps_dying_gets_images_less_and_less_often() {
    let pauses = |status| [0, 1, 2].map(|failures| pause_ms(status, failures, &SenderOptions::default()));
    assert_eq!(pauses(Status::MemberRestarted), [0, 2_000, 4_000]);
    assert_eq!(pauses(Status::Expired), [1_000, 2_000, 4_000]);
    assert_eq!(pauses(Status::Cancelled), [0; 3], "another leader sends one");
}

#[test]
fn no_more_is_sent_than_the_rate_allows() {
    let mut sender = asked();
    let mut sent = Vec::new();
    for ms in 0..=250 {
        sender.tick(ms * NS_PER_MS);
        // What is under way is not sent again by this.
        sender.received(&wants(0));
        let outputs = all(&mut sender);
        for output in &outputs {
            if let SenderOutput::Send(ToReceiver { part: Part::Asks(question), .. }) = output {
                let answer = Answer::Has { chunk: 0, question: *question };
                sender.received(&ToSender { answer, ..wants(0) });
            }
        }
        sent.extend(
            outputs
                .into_iter()
                .chain(all(&mut sender))
                .filter(|out| matches!(out, SenderOutput::Send(ToReceiver { part: Part::Chunk(_), .. })))
                .map(|_| ms),
        );
    }
    // 100 kB take 100 ms; the member is asked after 100 ms, lacks the first one, and gets it again at no higher rate.
    assert_eq!(sent.len(), 3, "{sent:?}");
    assert!(sent.windows(2).all(|two| two[1] - two[0] >= 99), "{sent:?}");
    let wakes_at = sender.wakes_at_ns();
    assert!(wakes_at > 250 * NS_PER_MS && wakes_at <= 301 * NS_PER_MS, "{wakes_at}");
}

#[test]
fn what_was_acknowledged_is_not_sent_again() {
    let mut sender = Sender::new(SenderOptions { bytes_per_s: 1 << 40, ..options() }, ID, offer_of(50), 0);
    sender.tick(NS_PER_MS);
    let _offer = all(&mut sender);
    sender.received(&wants(0));
    for at in 0..3_u8 {
        let output = std::iter::from_fn(|| sender.poll()).find(|output| *output == SenderOutput::Read);
        assert_eq!(output, Some(SenderOutput::Read));
        sender.read(Some((Bytes::from(vec![at]), at == 2)));
    }
    let chunk =
        |at: u8| SenderOutput::Send(ToReceiver { image: ID, part: Part::Chunk(Bytes::from(vec![at])) });
    let _rest = all(&mut sender);
    sender.received(&wants(1));
    let asks = |sender: &mut Sender| {
        let question = Question { round: 0, before: 3 };
        assert_eq!(all(sender), [SenderOutput::Send(ToReceiver { image: ID, part: Part::Asks(question) })]);
        ToSender { answer: Answer::Has { chunk: 1, question }, ..wants(1) }
    };
    sender.tick(30 * NS_PER_MS);
    sender.lost();
    let answer = asks(&mut sender);
    // One that has come late, and one that the member cannot have.
    sender.received(&wants(0));
    sender.received(&wants(9));
    assert_eq!(all(&mut sender), []);
    sender.received(&answer);
    assert_eq!(all(&mut sender), [chunk(1), chunk(2)]);
    sender.received(&answer);
    assert_eq!(all(&mut sender), []);
    sender.received(&wants(3));
    // While the member installs, it is asked, and may take longer than steps otherwise may.
    for second in 1..=4 {
        sender.tick(second * 900 * NS_PER_MS);
        assert_eq!(all(&mut sender), [SenderOutput::Send(ToReceiver { image: ID, part: offer(50) })]);
        sender.received(&wants(3));
    }
    sender.received(&ToSender { image: ID, receiver: RECEIVER, answer: Answer::Ended(Ended::Installed) });
    assert_eq!(all(&mut sender), [SenderOutput::Done(Status::Ended(Ended::Installed))]);
    sender.received(&wants(3));
    sender.cancel();
    assert_eq!((all(&mut sender), sender.is_done()), (vec![], true));
}

#[test]
fn a_transfer_that_fails_says_why_once() {
    let withdrawn = || SenderOutput::Send(ToReceiver { image: ID, part: Part::Withdrawn });
    let ends = |act: &dyn Fn(&mut Sender), status: Status| {
        let mut sender = asked();
        act(&mut sender);
        let outputs = all(&mut sender);
        assert_eq!(outputs, [withdrawn(), SenderOutput::Done(status)]);
        assert!(!status.is_success());
    };
    ends(&|sender| sender.tick(1_000 * NS_PER_MS), Status::Expired);
    ends(&Sender::cancel, Status::Cancelled);
    // It differs from the one before in its starts alone.
    let restarted = Process { starts: 4, ..RECEIVER };
    let other = ToSender { receiver: restarted, ..wants(0) };
    ends(&|sender| sender.received(&other), Status::MemberRestarted);
    // It knows nothing of what it is asked about, and waits for another image.
    let unknown = ToSender { answer: Answer::Ended(Ended::Unknown), ..other };
    ends(&|sender| sender.received(&unknown), Status::MemberRestarted);
    let unreadable = |sender: &mut Sender| {
        sender.received(&wants(1));
        let read = std::iter::from_fn(|| sender.poll()).find(|output| *output == SenderOutput::Read);
        assert!(read.is_some());
        sender.read(None);
    };
    ends(&unreadable, Status::Unreadable);
    // A member that never comes to the end of its install.
    let mut sender = Sender::new(options(), ID, offer_of(50), 0);
    let _offer = sender.poll();
    sender.received(&wants(0));
    assert_eq!(sender.poll(), Some(SenderOutput::Read));
    sender.read(Some((chunk_of(1), true)));
    sender.received(&wants(1));
    let mut at_ms = 0;
    while !sender.is_done() {
        at_ms += 100;
        sender.tick(at_ms * NS_PER_MS);
        let _outputs = all(&mut sender);
        sender.received(&wants(1));
    }
    assert!((5_900..=6_200).contains(&at_ms), "{at_ms}");
}

/// A member that is not reached: whatever is sent is lost at once.
#[test]
fn what_is_lost_at_once_is_not_sent_again_at_once() {
    let mut sender = Sender::new(options(), ID, offer_of(50), 0);
    let offers = |sender: &mut Sender, ms: u64| {
        let lost = (0..1_000).map(|at| {
            sender.tick(ms * NS_PER_MS + at);
            let outputs = all(sender);
            sender.lost();
            outputs.len()
        });
        lost.sum::<usize>()
    };
    assert_eq!(offers(&mut sender, 0), 1);
    assert_eq!(sender.wakes_at_ns(), 20 * NS_PER_MS);
    assert_eq!((1..=100).map(|ms| offers(&mut sender, ms)).sum::<usize>(), 5);
    // Nor is it asked about chunks; without a loss, they wait longer.
    let mut sender = asked();
    sender.tick(25 * NS_PER_MS);
    let sent = all(&mut sender).len();
    sender.lost();
    assert_eq!((sent, all(&mut sender).len()), (1, 0));
    sender.tick(130 * NS_PER_MS);
    let question = ToReceiver { image: ID, part: Part::Asks(Question { round: 0, before: 1 }) };
    assert_eq!(all(&mut sender)[0], SenderOutput::Send(question));
}

/// A receiver, and what it does with a message.
fn receive(receiver: &mut Receiver, term: u64, image: ImageId, part: Part) -> Vec<ReceiverOutput> {
    receive_from(receiver, (SENDER, term), (image, part), &STANDING)
}

const STANDING: Standing = Standing { since: Lsn(MEMBER), committed: Lsn(45), room_bytes: 1 << 20 };

fn receive_from(
    receiver: &mut Receiver,
    from: (u64, u64),
    (image, part): (ImageId, Part),
    standing: &Standing,
) -> Vec<ReceiverOutput> {
    receiver.received(from, &ToReceiver { image, part }, standing);
    std::iter::from_fn(|| receiver.poll()).collect()
}

fn offer(lsn: u64) -> Part {
    Part::Offer(offer_of(lsn))
}

fn answers(image: ImageId, answer: Answer) -> ReceiverOutput {
    ReceiverOutput::Send { to: SENDER, message: ToSender { image, receiver: RECEIVER, answer } }
}

#[test]
fn an_image_that_the_replica_cannot_use_is_refused() {
    let receiver = || Receiver::new(ReceiverOptions::default(), RECEIVER);
    let refused = |lsn| receive(&mut receiver(), 5, ID, offer(lsn));
    assert_eq!(refused(MEMBER - 1), [answers(ID, Answer::Ended(Ended::TooOld))]);
    assert_eq!(refused(45), [answers(ID, Answer::Ended(Ended::NotNeeded))]);
    assert_eq!(refused(46), [answers(ID, Answer::Wants { chunk: 0 })]);
    // Of a later release, or too large: nothing of it is taken.
    let with = |offer| receive(&mut receiver(), 5, ID, Part::Offer(offer));
    let later = Offer { version: VERSION + 1, ..offer_of(46) };
    assert_eq!(with(later), [answers(ID, Answer::Ended(Ended::TooNew))]);
    let room = STANDING.room_bytes;
    let large = |bytes| Offer { bytes, ..offer_of(46) };
    assert_eq!(with(large(room + 1)), [answers(ID, Answer::Ended(Ended::NoRoom))]);
    assert_eq!(with(large(room)), [answers(ID, Answer::Wants { chunk: 0 })]);
    // Chunks of an image that was never offered to this process.
    let chunk = image(46, 0)[0].clone();
    assert_eq!(
        receive(&mut receiver(), 5, ID, Part::Chunk(chunk)),
        [answers(ID, Answer::Ended(Ended::Unknown))]
    );
}

#[test]
fn another_image_takes_the_place_of_one_that_is_not_whole() {
    let (old, new) = (ID, ImageId { number: 5, ..ID });
    let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
    receive(&mut receiver, 5, old, offer(46));
    // One of an earlier leader does not.
    assert_eq!(receive(&mut receiver, 4, new, offer(47)), [answers(new, Answer::Ended(Ended::Busy))]);
    let outputs = receive(&mut receiver, 6, new, offer(47));
    assert_eq!(outputs, [ReceiverOutput::Drop { image: old }, answers(new, Answer::Wants { chunk: 0 })]);
    // The old one's offer, come late, begins nothing.
    assert_eq!(receive(&mut receiver, 6, old, offer(46)), [answers(old, Answer::Ended(Ended::Unknown))]);
    // A chunk that was changed on its way ends it.
    let mut damaged = image(47, 0)[0].to_vec();
    damaged[30] ^= 1;
    let outputs = receive(&mut receiver, 6, new, Part::Chunk(damaged.into()));
    assert_eq!(outputs, [ReceiverOutput::Drop { image: new }, answers(new, Answer::Ended(Ended::Damaged))]);
}

#[test]
fn an_install_is_not_disturbed() {
    let chunks = image(46, 0);
    let mut last = Vec::new();
    let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
    receive(&mut receiver, 5, ID, offer(46));
    for (number, chunk) in (0_u32..).zip(&chunks) {
        let outputs = receive(&mut receiver, 5, ID, Part::Chunk(chunk.clone()));
        assert_eq!(outputs, [ReceiverOutput::Store { image: ID, number, chunk: chunk.clone() }]);
        receiver.stored(ID, number, true, &STANDING);
        last = std::iter::from_fn(|| receiver.poll()).collect();
    }
    assert!(last.contains(&ReceiverOutput::Install { image: ID, lsn: Lsn(46), term: Term(5) }));
    assert!(receiver.is_installing() && receiver.wakes_at_ns().is_none());
    let whole = answers(ID, Answer::Wants { chunk: chunks.len() as u32 });
    assert_eq!(receive(&mut receiver, 5, ID, offer(46)), [whole]);
    assert_eq!(receive(&mut receiver, 5, ID, Part::Withdrawn), []);
    assert_eq!(receive(&mut receiver, 5, ID, Part::Chunk(Bytes::from_static(b"no chunk"))), []);
    let other = ImageId { number: 5, ..ID };
    assert_eq!(receive(&mut receiver, 9, other, offer(60)), [answers(other, Answer::Ended(Ended::Busy))]);
    receiver.tick(u64::MAX);
    receiver.installed(ID, Ended::Installed);
    let installed = answers(ID, Answer::Ended(Ended::Installed));
    assert_eq!(receiver.poll().as_ref(), Some(&installed));
    assert_eq!(receiver.poll(), None);
    // Its answer was lost: it is given again.
    assert_eq!(receive(&mut receiver, 5, ID, offer(46)), [installed]);
}

/// One whose chunks are not what its offer stated.
#[test]
fn a_chunk_of_a_later_release_or_beyond_the_room_ends_it() {
    let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
    let chunk = image(46, 0)[0].clone();
    let mut later = chunk.to_vec();
    later[8] = VERSION + 1;
    let checksum = crc32fast::hash(&later[8..]);
    later[4..8].copy_from_slice(&checksum.to_le_bytes());
    receive(&mut receiver, 5, ID, offer(46));
    let ended = |image, how| [ReceiverOutput::Drop { image }, answers(image, Answer::Ended(how))];
    assert_eq!(receive(&mut receiver, 5, ID, Part::Chunk(later.into())), ended(ID, Ended::TooNew));
    let next = ImageId { number: 5, ..ID };
    let unknown = Part::Offer(Offer { bytes: 0, ..offer_of(46) });
    receive(&mut receiver, 5, next, unknown);
    let tight = |room_bytes| Standing { room_bytes, ..STANDING };
    let (bytes, from) = (chunk.len() as u64, (SENDER, 5));
    let stores = receive_from(&mut receiver, from, (next, Part::Chunk(chunk.clone())), &tight(bytes));
    assert_eq!(stores, [ReceiverOutput::Store { image: next, number: 0, chunk }]);
    let end = image(46, 0)[1].clone();
    let full = tight(bytes + end.len() as u64 - 1);
    let outputs = receive_from(&mut receiver, from, (next, Part::Chunk(end)), &full);
    assert_eq!(outputs, ended(next, Ended::NoRoom));
}

/// The log brings the member further while the image comes: at a message, or at the last chunk.
#[test]
fn what_the_log_has_brought_is_not_installed() {
    let chunks = image(46, 0);
    let caught_up = Standing { committed: Lsn(46), ..STANDING };
    let not_needed = [ReceiverOutput::Drop { image: ID }, answers(ID, Answer::Ended(Ended::NotNeeded))];
    let begun = || {
        let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
        receive(&mut receiver, 5, ID, offer(46));
        receiver
    };
    for part in [offer(46), Part::Chunk(chunks[0].clone())] {
        assert_eq!(receive_from(&mut begun(), (SENDER, 5), (ID, part), &caught_up), not_needed);
    }
    let mut receiver = begun();
    for chunk in &chunks {
        receive(&mut receiver, 5, ID, Part::Chunk(chunk.clone()));
    }
    receiver.stored(ID, 0, true, &STANDING);
    let _wants = receiver.poll();
    receiver.stored(ID, 1, true, &caught_up);
    let outputs: Vec<_> = std::iter::from_fn(|| receiver.poll()).collect();
    assert_eq!(outputs, not_needed);
}

/// Another process counts from the same number on: of the same node after a restart, or of a node that was formatted in the
/// same ms.
#[test]
fn images_of_other_processes_are_others() {
    let restarted = Process { starts: 4, ..PROCESS };
    let formatted = Process { node: NodeId(3), ..PROCESS };
    for process in [restarted, formatted] {
        let (old, new) = (ID, ImageId { process, ..ID });
        let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
        let chunks = image(46, 0);
        receive(&mut receiver, 5, old, offer(46));
        let stores = receive(&mut receiver, 5, old, Part::Chunk(chunks[0].clone()));
        assert_eq!(stores.len(), 1);
        // The last chunk of the new one is none of the old one.
        let outputs = receive(&mut receiver, 5, new, Part::Chunk(chunks[1].clone()));
        assert_eq!(outputs, [answers(new, Answer::Ended(Ended::Unknown))]);
        let outputs = receive(&mut receiver, 5, new, offer(46));
        assert_eq!(outputs, [ReceiverOutput::Drop { image: old }, answers(new, Answer::Wants { chunk: 0 })]);
    }
}

/// One that names an image as another member does, or offers it otherwise, has no part in it, and is not answered by how that
/// one ended.
#[test]
fn an_image_is_of_one_member_and_one_offer() {
    let unknown = |to| {
        let answer = Answer::Ended(Ended::Unknown);
        [ReceiverOutput::Send { to, message: ToSender { image: ID, receiver: RECEIVER, answer } }]
    };
    let chunks = image(46, 0);
    let others = |receiver: &mut Receiver| {
        let part = Part::Chunk(chunks[0].clone());
        assert_eq!(receive_from(receiver, (7, 5), (ID, part), &STANDING), unknown(7));
        assert_eq!(receive_from(receiver, (7, 5), (ID, offer(46)), &STANDING), unknown(7));
        assert_eq!(receive_from(receiver, (7, 5), (ID, Part::Withdrawn), &STANDING), []);
        let of_46 = offer_of(46);
        for other in [offer_of(47), Offer { term: Term(6), ..of_46 }, Offer { bytes: 7, ..of_46 }] {
            assert_eq!(receive(receiver, 5, ID, Part::Offer(other)), unknown(SENDER));
        }
    };
    let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
    receive(&mut receiver, 5, ID, offer(46));
    others(&mut receiver);
    for (number, chunk) in (0_u32..).zip(&chunks) {
        let stores = receive(&mut receiver, 5, ID, Part::Chunk(chunk.clone()));
        assert_eq!(stores, [ReceiverOutput::Store { image: ID, number, chunk: chunk.clone() }]);
        receiver.stored(ID, number, true, &STANDING);
        while receiver.poll().is_some() {}
    }
    others(&mut receiver);
    receiver.installed(ID, Ended::Installed);
    assert_eq!(receiver.poll(), Some(answers(ID, Answer::Ended(Ended::Installed))));
    others(&mut receiver);
    assert_eq!(receive(&mut receiver, 5, ID, offer(46)), [answers(ID, Answer::Ended(Ended::Installed))]);
}

/// The replica was taken off, and another one asks for nothing that was stored for it, which may still be on its way.
#[test]
fn what_was_forgotten_does_not_begin_anew() {
    let standing = Standing { since: Lsn(MEMBER), committed: Lsn(45), room_bytes: u64::MAX };
    let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
    let chunks = image(50, 0);
    let offered = ToReceiver { image: ID, part: offer(50) };
    receiver.received((SENDER, 5), &offered, &standing);
    let chunk = ToReceiver { image: ID, part: Part::Chunk(chunks[0].clone()) };
    receiver.received((SENDER, 5), &chunk, &standing);
    assert_eq!(receiver.forget(), [ID], "it is dropped");
    receiver.received((SENDER, 5), &offered, &standing);
    assert_eq!(receiver.image(), None);
    receiver.stored(ID, 0, true, &standing);
    let answer = ToSender { image: ID, receiver: RECEIVER, answer: Answer::Ended(Ended::Unknown) };
    assert_eq!(receiver.poll(), Some(ReceiverOutput::Send { to: SENDER, message: answer }));
    assert_eq!(receiver.poll(), None);
}
