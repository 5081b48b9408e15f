//! The doors for images of the machines that hold all in memory: what one makes, another one takes over.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::rc::Rc;

use common::{Kv, Saved};
use corduroy_shards::ids::NodeId;
use corduroy_shards::image::transfer::{ImageId, Process};
use corduroy_shards::image::{Bytes, Header, ImageAsk, ImageEvent, InstallError};
use corduroy_shards::sim::{Knobs, PlainSubject, Subject};
use corduroy_shards::{Applied, PartitionId, ShardId, StateMachine, Step};
use corduroy_wal::{Lsn, Term};

const P: PartitionId = PartitionId(3);
const PROCESS: Process = Process { node: NodeId(1), incarnation: 1, starts: 1 };
const ID: ImageId = ImageId { process: PROCESS, number: 2 };

/// Runs jobs until none is left, and takes the one answer.
fn answer<M: StateMachine>(machine: &mut M) -> ImageEvent {
    let mut jobs = Vec::new();
    machine.maintain(1_000);
    machine.take_jobs(&mut jobs);
    for job in jobs {
        machine.job_done(M::run_job(job)).unwrap();
    }
    let mut events = Vec::new();
    machine.take_image_events(&mut events);
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn apply<M: StateMachine>(machine: &mut M, lsn: u64, op: &[u8]) {
    let at = Applied::first(P, Lsn(lsn), Term(1), lsn);
    assert!(matches!(machine.apply(&at, op), Step::Done(_)));
    machine.end_entry(&at);
}

fn image<M: StateMachine>(machine: &mut M, at_least: u64) -> Vec<Bytes> {
    machine.ask_image(ImageAsk::Open { number: 1, partition: P, at_least: Lsn(at_least) });
    assert_eq!(answer(machine), ImageEvent::Opened { number: 1, lsn: Lsn(at_least) });
    machine.ask_image(ImageAsk::Begin { number: 1, term: Term(4), configuration: b"members".to_vec() });
    let mut chunks = Vec::new();
    loop {
        let ImageEvent::Chunk { chunk, is_end, .. } = answer(machine) else { panic!("a chunk") };
        chunks.push(chunk);
        if is_end {
            machine.ask_image(ImageAsk::Close { number: 1 });
            return chunks;
        }
        machine.ask_image(ImageAsk::Next { number: 1 });
    }
}

fn install<M: StateMachine>(machine: &mut M, chunks: &[Bytes], lsn: u64) -> Result<Header, InstallError> {
    for (number, chunk) in (0_u32..).zip(chunks) {
        let chunk = chunk.clone();
        machine.ask_image(ImageAsk::Store { partition: P, image: ID, number, chunk });
        let stored = ImageEvent::Stored { partition: P, image: ID, number, is_stored: true };
        assert_eq!(answer(machine), stored);
    }
    let last = (Lsn(lsn), Term(4));
    machine.ask_image(ImageAsk::Validate { partition: P, image: ID, last });
    let ImageEvent::Validated { result, .. } = answer(machine) else { panic!("the end of the reading") };
    let validated = result?;
    assert_eq!(validated.lsn, Lsn(lsn));
    machine.ask_image(ImageAsk::Install { partition: P, image: ID, last: (Lsn(lsn), Term(4)) });
    let ImageEvent::Installed { result, .. } = answer(machine) else { panic!("the end of the install") };
    result
}

/// What one machine has, another one takes over, though a flush of before is still under way there.
fn moves<M: StateMachine>(from: &mut M, to: &mut M, ops: [&[u8]; 3], read: &[u8])
where
    M::Outcome: PartialEq + std::fmt::Debug,
{
    apply(from, 1, ops[0]);
    apply(from, 2, ops[1]);
    let chunks = image(from, 2);
    apply(to, 1, ops[2]);
    // An image that is closed before there is one has it write all that it holds.
    to.ask_image(ImageAsk::Open { number: 9, partition: P, at_least: Lsn(1) });
    let mut jobs = Vec::new();
    to.maintain(1_000);
    to.take_jobs(&mut jobs);
    to.ask_image(ImageAsk::Close { number: 9 });
    assert_eq!(jobs.len(), 1, "a flush");
    assert!(matches!(install(to, &chunks[..1], 2), Err(InstallError::Damaged(_))));
    assert!(matches!(install(to, &chunks, 3), Err(InstallError::Another { .. })));
    assert_eq!(to.installed_image(P), None);
    let header = install(to, &chunks, 2).unwrap();
    for job in jobs {
        to.job_done(M::run_job(job)).unwrap();
    }
    assert_eq!((to.persisted(P), to.persisted_stamp_ms(P)), (Lsn(2), 2));
    assert_eq!(
        (to.installed_image(P), header.configuration.as_slice()),
        (Some(header.clone()), &b"members"[..])
    );
    assert!(matches!(install(to, &chunks, 2), Err(InstallError::NotNewer { applied: Lsn(2) })));
    let (Step::Done(one), Step::Done(other)) = (from.read(P, read, 0), to.read(P, read, 0)) else {
        panic!("reads are answered")
    };
    assert_eq!(one, other);
    assert!(image(to, 2) == chunks, "the same bytes");
    apply(to, 3, ops[2]);
    assert_eq!(to.installed_image(P), None);
}

#[test]
fn the_small_machine_moves() {
    let [from, to]: [Saved; 2] = [Rc::default(), Rc::default()];
    let ops: [&[u8]; 3] = [b"set one 1", b"set two 2", b"set one other"];
    moves(&mut Kv::over(&from), &mut Kv::over(&to), ops, b"get one");
    // Reads of what was installed survive, as all that is saved does.
    assert_eq!(to.borrow()[&P.0].data["two"], "2");
}

fn plain() -> <PlainSubject as Subject>::Machine {
    let subject = PlainSubject;
    let mut media = subject.media(ShardId(0));
    subject.open(&mut media, ShardId(0), &Knobs::draw(1)).unwrap()
}

fn register(tag: u8, key: u8, number: u64) -> Vec<u8> {
    [&[tag, key][..], &number.to_le_bytes()].concat()
}

#[test]
fn the_simulator_s_machine_moves() {
    let ops = [register(0, 1, 7), register(1, 2, 9), register(0, 1, 8)];
    moves(&mut plain(), &mut plain(), [&ops[0], &ops[1], &ops[2]], &register(2, 1, 0));
}
