//! Bytes of every kind of message, of a frame and of a handshake, as they were once written: today's code writes the same, and reads them.
//!
//! A fixture is never changed: a new version has one of its own, and the old one stays.

use corduroy_wal::fields::Fields;

use super::*;
use crate::ids::{NodeId, ShardId, StorageId};
use crate::net::decode::decode;
use crate::net::handshake::Outcome;
use crate::net::hello::Greeting;
use crate::net::{
    CoreId, Epoch, Founders, Founding, Handshake, Known, Local, RefusalKind, Secret, ShardCore, SharedLimits,
    Versions,
};

const MESSAGES: &str = include_str!("../messages-1.txt");

fn bytes_of(hex: &str) -> Bytes {
    let (pairs, _) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).expect("two digits");
    pairs.iter().map(byte).collect()
}

/// The fixtures of a text by name, without its comments.
fn fixtures(text: &str) -> Vec<(&str, Bytes)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').expect("a name and bytes"))
        .map(|(name, hex)| (name, bytes_of(hex)))
        .collect()
}

/// A message of each kind and form, of partition 0x0102 from member 3 to member 0x0405.
fn messages() -> Vec<(&'static str, Message)> {
    let of = |kind, term| of(kind, (3, 0x0405), term);
    let with = |message: Message, entries: Vec<Entry>| Message { entries: entries.into(), ..message };
    let context = || Bytes::from_static(b"node 1, turn 2");
    let data = context;
    let numbers = |message| Message { log_term: 6, index: 0x0708, commit: 0x0709, ..message };
    let votes = |message| Message { commit_term: 5, ..numbers(message) };
    let steps = vec![
        (0, 0, Bytes::from_static(b"first")),
        (0, 1, Bytes::from_static(b"second")),
        (1, 2, Bytes::new()),
        (0, 0, Bytes::from_static(b"fourth")),
    ];
    let rejected = |message| Message { reject: true, ..message };
    vec![
        ("append", with(numbers(of(Kind::Append, 9)), entries(0x0708, 6, steps))),
        ("append-first", with(of(Kind::Append, 1), entries(0, 1, vec![(0, 0, Bytes::new())]))),
        ("append-none", numbers(of(Kind::Append, 9))),
        ("append-response", Message { index: 0x0708, commit: 0x0707, ..of(Kind::AppendResponse, 9) }),
        (
            "append-rejected",
            rejected(Message { reject_hint: 0x0700, ..numbers(of(Kind::AppendResponse, 9)) }),
        ),
        (
            "append-snapshot",
            rejected(Message {
                reject_hint: 0x0700,
                request_snapshot: 0x0800,
                ..numbers(of(Kind::AppendResponse, 9))
            }),
        ),
        ("vote", votes(of(Kind::VoteRequest, 9))),
        (
            "vote-transfer",
            Message { context: Bytes::from_static(b"CampaignTransfer"), ..votes(of(Kind::VoteRequest, 9)) },
        ),
        ("vote-granted", of(Kind::VoteResponse, 9)),
        ("vote-rejected", rejected(Message { commit: 0x0709, commit_term: 5, ..of(Kind::VoteResponse, 9) })),
        ("heartbeat", Message { commit: 0x0709, ..of(Kind::Heartbeat, 9) }),
        ("heartbeat-context", Message { commit: 0x0709, context: context(), ..of(Kind::Heartbeat, 9) }),
        (
            "heartbeat-response",
            Message { commit: 0x0709, context: context(), ..of(Kind::HeartbeatResponse, 9) },
        ),
        ("timeout-now", of(Kind::TimeoutNow, 9)),
        ("read-index", with(of(Kind::ReadIndex, 0), vec![Entry { data: data(), ..Entry::default() }])),
        (
            "read-index-response",
            with(
                Message { index: 0x0708, ..of(Kind::ReadIndexResponse, 9) },
                vec![Entry { data: data(), ..Entry::default() }],
            ),
        ),
        ("pre-vote", Message { priority: -2, ..votes(of(Kind::PreVoteRequest, 10)) }),
        (
            "pre-vote-priority",
            Message { priority: 2, deprecated_priority: 2, ..votes(of(Kind::PreVoteRequest, 10)) },
        ),
        ("pre-vote-granted", of(Kind::PreVoteResponse, 10)),
        ("pre-vote-rejected", rejected(of(Kind::PreVoteResponse, 9))),
    ]
}

#[test]
fn messages_of_version_1() {
    let messages = messages();
    let of_messages = fixtures(MESSAGES).into_iter().filter(|(name, _)| !name.starts_with("frame"));
    let names: Vec<_> = of_messages.clone().map(|(name, _)| name).collect();
    assert_eq!(names, messages.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for ((name, bytes), (_, message)) in of_messages.zip(messages) {
        let mut written = Vec::new();
        outgoing(0x0102, message.clone()).write(&mut written);
        assert_eq!(written, bytes, "{name} is written otherwise");
        let read = decode(&bytes, &mut Fields::new(&bytes));
        assert_eq!(read, Ok((PartitionId(0x0102), message)), "{name}");
    }
}

/// Those of images, of which messages-1.txt has none.
fn image_messages() -> Vec<(&'static str, Message)> {
    let of = |kind, term| of(kind, (3, 0x0405), term);
    let process = |node, starts| Process { node: NodeId(node), incarnation: 0x1122, starts };
    let id = ImageId { process: process(0x5566, 4), number: 3 };
    let image = |part| Message { context: ToReceiver { image: id, part }.encode(), ..of(Kind::Image, 9) };
    let answer = |answer| {
        let context = ToSender { image: id, receiver: process(0x3344, 2), answer }.encode();
        Message { context, ..of(Kind::ImageResponse, 9) }
    };
    let question = Question { round: 0x0d0e, before: 0x0f10 };
    vec![
        (
            "image-offer",
            image(Part::Offer(Offer { lsn: Lsn(0x0708), term: Term(6), version: 1, bytes: 0x090a })),
        ),
        ("image-chunk", image(Part::Chunk(Bytes::from_static(b"chunk")))),
        ("image-withdrawn", image(Part::Withdrawn)),
        ("image-wants", answer(Answer::Wants { chunk: 0x0102 })),
        ("image-ended", answer(Answer::Ended(Ended::Damaged))),
        ("image-asks", image(Part::Asks(question))),
        ("image-has", answer(Answer::Has { chunk: 0x0102, question })),
    ]
}

/// Each message has the bytes of its fixture and comes back equal, and what is cut off is none.
fn keep_to(fixtures: &[(&str, Bytes)], messages: Vec<(&str, Message)>) {
    assert_eq!(fixtures.len(), messages.len());
    for ((name, bytes), (expected, message)) in fixtures.iter().zip(messages) {
        let mut written = Vec::new();
        outgoing(0x0102, message.clone()).write(&mut written);
        assert_eq!((*name, &written[..]), (expected, &bytes[..]));
        assert_eq!(decode(bytes, &mut Fields::new(bytes)), Ok((PartitionId(0x0102), message)), "{name}");
        for end in 0..bytes.len() {
            let cut = bytes.slice(..end);
            assert!(decode(&cut, &mut Fields::new(&cut)).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn messages_of_images_of_version_1() {
    let fixtures = fixtures(include_str!("../images-1.txt"));
    keep_to(&fixtures, image_messages());
    for (name, bytes) in fixtures {
        let mut other = bytes.to_vec();
        other[0] = if other[0] == 7 { 11 } else { 7 };
        let other = Bytes::from(other);
        assert!(decode(&other, &mut Fields::new(&other)).is_err(), "{name} under the other kind");
    }
}

/// What frames of version 3 have beside that.
#[test]
fn messages_of_sleep_of_version_3() {
    let of = |kind, term| of(kind, (3, 0x0405), term);
    let messages = vec![
        ("beat", Message { index: 0x0708, commit: 0x090a, commit_term: 0x0b0c, ..of(Kind::Beat, 6) }),
        ("sleep", Message { index: 0x0708, ..of(Kind::Sleep, 9) }),
        ("wake", of(Kind::Wake, 9)),
    ];
    keep_to(&fixtures(include_str!("../sleep-3.txt")), messages);
}

/// What frames of version 4 have beside that.
#[test]
fn messages_of_beats_of_version_4() {
    let others = [[0x0103, 0x0d0e, 0x0f10], [0x0104, 0x1112, 0x1314_u64]].concat();
    let context = others.into_iter().flat_map(u64::to_le_bytes).collect();
    let beat =
        Message { index: 0x0708, commit: 0x090a, commit_term: 0x0b0c, ..of(Kind::Beat, (3, 0x0405), 6) };
    keep_to(&fixtures(include_str!("../beats-4.txt")), vec![("beats", Message { context, ..beat })]);
}

/// The frames of the fixture: all messages in one, then one of two.
#[test]
fn frames_of_version_1() {
    let frames = fixtures(MESSAGES).into_iter().filter(|(name, _)| name.starts_with("frame"));
    let frames: Vec<_> = frames.map(|(_, bytes)| bytes).collect();
    let all: Vec<_> = messages().into_iter().map(|(_, message)| (0x0102, message)).collect();
    let mut writer = FrameWriter::new(STREAM);
    let written = [frame_of(&mut writer, &all), frame_of(&mut writer, &all[..2])];
    assert_eq!(written.to_vec(), frames, "frames are written otherwise");
    let read = read(&mut FrameReader::new(STREAM, 4096), frames);
    assert_eq!(read, ([&all[..], &all[..2]].concat(), None));
}

const HANDSHAKE: &str = include_str!("../handshake-1.txt");

fn node(node: u64, cores: u16, shards: &[(u64, u32, u16)]) -> Local {
    let shards = shards.iter().map(|(storage, shard, core)| ShardCore {
        storage: StorageId(*storage),
        shard: ShardId(*shard),
        core: CoreId(*core),
    });
    Local {
        cluster: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
        node: NodeId(node),
        epoch: Epoch { incarnation: node + 2, starts: node + 0x30, process: node + 0x50 },
        versions: Versions { lowest: 1, highest: u8::try_from(node).unwrap() },
        limits: SharedLimits { operation_bytes: 0x01ff_0000, value_bytes: 0x0100_0000 },
        founding: Founding { founders: 0x2f2e_2d2c_2b2a_2928_2726_2524_2322_2120, partitions: 16, shards: 4 },
        cores,
        shards: shards.collect(),
        founders: Founders::new(),
        secret: Some(Secret::new(b"a secret of twenty-six byt".to_vec()).unwrap()),
    }
}

/// A handshake of version 1 between nodes 1 and 2, each of its messages.
#[test]
fn handshake_of_version_1() {
    let fixtures = fixtures(HANDSHAKE);
    let named = |wanted: &str| {
        let found = fixtures.iter().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("there is no {wanted}")).1.clone()
    };
    let (one, two, known) =
        (node(1, 1, &[(0x11, 0, 0)]), node(2, 4, &[(0x22, 0, 3), (0x22, 1, 2)]), Known::new());
    let nonce = |from: u8| std::array::from_fn(|at| from + u8::try_from(at).unwrap());
    let wanted = (NodeId(2), CoreId(3));
    let (mut dialling, hello) = Handshake::dial(&one, CoreId(0), wanted, Lane::Log, nonce(0x40), 0);
    assert_eq!(hello, named("hello-dialling"));
    let mut accepting = Handshake::accept(CoreId(1), nonce(0x80), 0);
    let answer = accepting.received(&hello, &two, &known).write;
    assert_eq!(answer, [named("hello-accepting"), named("proof-accepting")].concat());
    let proof = dialling.received(&answer, &one, &known).write;
    assert_eq!(proof, named("proof-dialling"));
    let accepted = accepting.received(&proof, &two, &known);
    assert_eq!(accepted.write, named("accepted"));
    let Outcome::Done(info, _) = accepted.outcome else { panic!("{accepted:?}") };
    let streams = [info.incoming.id.to_le_bytes(), info.outgoing.id.to_le_bytes()].concat();
    assert_eq!(streams, named("streams"));
    for (at, kind) in RefusalKind::ALL.into_iter().enumerate() {
        assert_eq!(Greeting::Refused(kind).encode(), named(&format!("refused-{}", at + 1)));
    }
}
