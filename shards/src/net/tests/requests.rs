//! What is forwarded for clients: its bytes, its lane, and what is certain of it when connections end.

use corduroy_wal::fields::Fields;

use super::handshake::local;
use super::world::{End, Event, World, shard_of};
use super::*;
use crate::ids::StorageId;
use crate::machine::Kind as Work;
use crate::net::request::decode;
use crate::net::{Dropped, Forwarded, Local, MessageDamage, PeerOptions, RequestId, Versions, Writable};

const REQUESTS: &str = include_str!("../requests-1.txt");

fn id(number: u64) -> RequestId {
    RequestId { process: 0x1122_3344_5566_7788, number }
}

/// One of each kind and form, of partition 0x0102.
fn samples() -> Vec<(&'static str, Forwarded)> {
    let partition = PartitionId(0x0102);
    let request = |kind, op: &'static [u8]| Forwarded::Request {
        id: id(7),
        partition,
        conn: 0x0001_0000_0002_0003,
        kind,
        op: Bytes::from_static(op),
    };
    let answer = |is_last, bytes: &'static [u8]| Forwarded::Answer {
        id: id(8),
        partition,
        is_last,
        bytes: Bytes::from_static(bytes),
    };
    let not_led = |leader| Forwarded::NotLed { id: id(9), partition, leader };
    vec![
        ("read", request(Work::Read, b"an operation")),
        ("write", request(Work::Write, b"another")),
        ("answer", answer(true, b"a reply")),
        ("answer-part", answer(false, b"")),
        ("not-led", not_led(None)),
        ("not-led-by-3", not_led(Some(StorageId(3)))),
    ]
}

fn bytes_of(forwarded: &Forwarded) -> Bytes {
    let mut bytes = Vec::new();
    forwarded.write(&mut bytes);
    bytes.into()
}

fn back(bytes: &Bytes) -> Result<Forwarded, MessageDamage> {
    let mut fields = Fields::new(bytes);
    let forwarded = decode(bytes, &mut fields)?;
    if fields.is_empty() { Ok(forwarded) } else { Err(MessageDamage::Short) }
}

#[test]
fn each_has_the_bytes_of_its_fixture_and_comes_back_equal() {
    let lines = REQUESTS.lines().filter(|line| !line.starts_with('#'));
    let fixtures: Vec<(&str, &str)> = lines.map(|line| line.split_once(' ').unwrap()).collect();
    let written: Vec<(&str, String)> = samples()
        .iter()
        .map(|(name, one)| (*name, bytes_of(one).iter().map(|byte| format!("{byte:02x}")).collect()))
        .collect();
    assert_eq!(written.iter().map(|(name, hex)| (*name, hex.as_str())).collect::<Vec<_>>(), fixtures);
    for (name, forwarded) in samples() {
        assert_eq!(back(&bytes_of(&forwarded)), Ok(forwarded), "{name}");
    }
}

#[test]
fn other_bytes_are_damage_and_never_a_panic() {
    for (name, forwarded) in samples() {
        let bytes = bytes_of(&forwarded);
        for end in 0..bytes.len() {
            assert!(back(&bytes.slice(..end)).is_err(), "{name} cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = Bytes::from(changed);
            if let Ok(other) = back(&changed) {
                assert_eq!(bytes_of(&other), changed, "{name}: one form each");
            }
        }
    }
}

#[test]
fn frames_of_the_lane_carry_them_and_no_messages_of_replicas() {
    let stream = Stream { lane: Lane::Requests, version: 2, ..STREAM };
    let all: Vec<Forwarded> = samples().into_iter().map(|(_, one)| one).collect();
    let bytes = FrameWriter::new(stream).write(&all);
    let mut reader = FrameReader::new(stream, 4096);
    reader.push(bytes);
    let frame = reader.next().unwrap().expect("it is whole");
    assert_eq!(frame.into_forwarded().collect::<Result<Vec<_>, _>>(), Ok(all));
    reader.push(frame_of(&mut FrameWriter::new(STREAM), &[(1, of(Kind::Heartbeat, (1, 2), 3))]));
    assert!(reader.next().is_err(), "another lane's");
}

fn request(number: u64, op_bytes: usize) -> Forwarded {
    let op = Bytes::from(vec![1; op_bytes]);
    Forwarded::Request { id: id(number), partition: PartitionId(1), conn: 5, kind: Work::Write, op }
}

/// What came, what was not sent, and what had been written to connections that ended since the last time: by their numbers.
fn events(world: &mut World) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let (mut came, mut unsent, mut severed) = (Vec::new(), Vec::new(), Vec::new());
    for event in std::mem::take(&mut world.events) {
        match event {
            Event::Forwarded { forwarded, at, from } => {
                assert_ne!(at.0, from);
                came.push(forwarded.id().number);
            }
            Event::Unsent { forwarded, at, to } => {
                assert_ne!(at.0, to);
                unsent.push(forwarded.id().number);
            }
            Event::Severed { at, from, requests } => {
                assert_ne!(at.0, from);
                severed.extend(requests);
            }
            Event::Deliver { .. } | Event::Unreachable { .. } | Event::Closed { .. } => {}
        }
    }
    (came, unsent, severed)
}

fn forward(world: &mut World, number: u64, op_bytes: usize) -> bool {
    let now_ns = world.now_ns;
    world.core((1, 0)).forward(shard_of((2, 1)), request(number, op_bytes), now_ns).is_ok()
}

#[test]
fn requests_go_to_the_core_of_the_shard_and_answers_come_back_on_the_same_connection() {
    let mut world = World::new([local(1), local(2)], PeerOptions::default());
    assert!(forward(&mut world, 1, 10) && forward(&mut world, 2, 10));
    world.run();
    let at = world.events.iter().find_map(|event| match event {
        Event::Forwarded { at, .. } => Some(*at),
        _ => None,
    });
    let at = at.expect("it came");
    assert_eq!(at.0, 2);
    assert_eq!(events(&mut world), (vec![1, 2], vec![], vec![]));
    let now_ns = world.now_ns;
    let answer = Forwarded::NotLed { id: id(1), partition: PartitionId(1), leader: None };
    world.core(at).forward(shard_of((1, 0)), answer, now_ns).expect("there is room");
    world.run();
    assert_eq!(events(&mut world), (vec![1], vec![], vec![]));
    let dials: u64 = world.cores.values().map(|peers| peers.counters().dials).sum();
    assert_eq!(dials, 2, "to any core, which said whose the shard is, and to that one");
    assert!(world.core((1, 0)).reaches(NodeId(2)) && !world.core((1, 1)).reaches(NodeId(2)));
}

/// Of two connections that are made at once one ends on the other lanes, and with it what was written to it.
#[test]
fn two_nodes_that_ask_each_other_at_once_lose_nothing() {
    for steps_between in 0..12 {
        let mut world = World::new([local(1), local(2)], PeerOptions::default());
        assert!(forward(&mut world, 1, 10));
        (0..steps_between).for_each(|_| _ = world.step());
        for number in [101, 102] {
            let now_ns = world.now_ns;
            world.core((2, 1)).forward(shard_of((1, 0)), request(number, 10), now_ns).expect("there is room");
            forward(&mut world, number - 99, 10);
            world.step();
        }
        world.run();
        let (mut came, unsent, severed) = events(&mut world);
        came.sort_unstable();
        assert_eq!(came, [1, 2, 3, 101, 102], "{steps_between} steps between them");
        assert_eq!((unsent, severed), (vec![], vec![]), "{steps_between} steps between them");
    }
}

#[test]
fn an_answer_to_somebody_who_has_made_no_connection_is_dropped() {
    let mut world = World::new([local(1), local(2)], PeerOptions::default());
    let now_ns = world.now_ns;
    let answer = Forwarded::NotLed { id: id(1), partition: PartitionId(1), leader: None };
    world.core((2, 1)).forward(shard_of((1, 0)), answer, now_ns).expect("it is taken");
    world.run();
    assert_eq!(events(&mut world), (vec![], vec![1], vec![]));
}

#[test]
fn what_waits_for_a_connection_that_fails_was_certainly_not_sent() {
    let mut world = World::new([local(1), local(2)], PeerOptions::default());
    world.dead.push(2);
    assert!(forward(&mut world, 1, 10));
    world.run();
    assert_eq!(events(&mut world), (vec![], vec![1], vec![]));
    // While it backs off, at once.
    assert!(forward(&mut world, 2, 10));
    world.run();
    assert_eq!(events(&mut world), (vec![], vec![2], vec![]));
    assert!(!world.core((1, 0)).reaches(NodeId(2)));
}

#[test]
fn of_what_was_written_to_a_connection_that_ends_nothing_is_certain() {
    let mut world = World::new([local(1), local(2)], PeerOptions::default());
    forward(&mut world, 1, 10);
    world.run();
    let now_ns = world.now_ns;
    let answer = Forwarded::NotLed { id: id(1), partition: PartitionId(1), leader: None };
    world.core((2, 1)).forward(shard_of((1, 0)), answer, now_ns).expect("there is room");
    world.run();
    events(&mut world);
    // One is under way, and one waits until the connection has taken that.
    world.takes = false;
    forward(&mut world, 2, 10);
    let now_ns = world.now_ns;
    world.core((1, 0)).flush(now_ns);
    world.act();
    forward(&mut world, 3, 10);
    let is_used = |to: &Option<End>| to.is_some_and(|((node, core), _)| (node, core) == (2, 1));
    let end = *world.wires.iter().find(|(_, to)| is_used(to)).expect("it is connected").0;
    world.cut(end);
    world.act();
    assert_eq!(events(&mut world), (vec![], vec![3], vec![2]), "1 was answered");
}

#[test]
fn what_there_is_no_room_for_is_given_back() {
    let options = PeerOptions { queue_messages: 3, queue_bytes: 1_000, ..PeerOptions::default() };
    let mut world = World::new([local(1), local(2)], options);
    assert!(forward(&mut world, 1, 700) && !forward(&mut world, 2, 700), "bytes");
    assert!(forward(&mut world, 3, 1) && forward(&mut world, 4, 1) && !forward(&mut world, 5, 1), "number");
    world.run();
    assert_eq!(events(&mut world), (vec![1, 3, 4], vec![], vec![]));
}

/// A node of a release that speaks nothing newer than frames of this version.
fn old(node: u64, highest: u8) -> Local {
    let mut local = local(node);
    local.versions = Versions { lowest: 1, highest };
    local
}

#[test]
fn releases_that_do_not_know_sleep_are_not_sent_what_is_of_it() {
    for (highest, is_sent) in [(2, false), (3, true)] {
        let mut world = World::new([local(1), old(2, highest)], PeerOptions::default());
        for kind in [Kind::Beat, Kind::Heartbeat, Kind::Sleep, Kind::Wake] {
            world.send_message((1, 0), (2, 1), of(kind, (1, 2), 1));
        }
        world.run();
        assert_eq!(world.delivered().len(), if is_sent { 4 } else { 1 }, "version {highest}");
        assert_eq!(world.unreachable(), [], "whoever sends it does not count on it");
        let dropped = world.core((1, 0)).counters().dropped(Dropped::TooNew);
        assert_eq!(dropped, if is_sent { 0 } else { 3 });
    }
}

#[test]
fn releases_without_the_lane_are_not_connected_on_it() {
    let mut world = World::new([local(1), old(2, 1)], PeerOptions::default());
    assert!(forward(&mut world, 1, 10));
    world.run();
    assert_eq!(events(&mut world), (vec![], vec![1], vec![]));
    world.send((1, 0), (2, 1), 5);
    world.run();
    assert_eq!(world.delivered().len(), 1, "other lanes are as before");
}
