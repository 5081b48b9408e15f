//! Handshakes: who agrees, who is refused and in which words, and what somebody between the two cannot do.

use corduroy_wal::mix::SplitMix64;

use super::*;
use crate::ids::{NodeId, ShardId, StorageId};
use crate::net::handshake::{Outcome, Side, Step};
use crate::net::hello::{BODY_BYTES_MAX, Greeting, HEAD_BYTES, SHARDS_MAX};
use crate::net::refusal::Damage;
use crate::net::{
    CoreId, Epoch, Founders, Founding, Handshake, Known, Local, PeerInfo, Refusal, RefusalKind, Secret,
    ShardCore, SharedLimits, Versions,
};

/// A node with two cores and a shard on each.
pub(super) fn local(node: u64) -> Local {
    let shard = |number| ShardCore {
        storage: StorageId(node + 100),
        shard: ShardId(number),
        core: CoreId(u16::try_from(number).unwrap()),
    };
    Local {
        cluster: 0x0102_0304,
        node: NodeId(node),
        epoch: Epoch { incarnation: 1, starts: 5, process: 70 + node },
        versions: Versions::SPOKEN,
        limits: SharedLimits { operation_bytes: 1 << 20, value_bytes: 1 << 19 },
        founding: Founding::of(&[1, 2, 3].map(NodeId), 16, 2),
        cores: 2,
        shards: vec![shard(0), shard(1)],
        founders: Founders::new(),
        secret: Some(Secret::new(b"sixteen or more bytes".to_vec()).unwrap()),
    }
}

/// What node 1 dials with: core 1 to any core of node 2.
fn dial(local: &Local, nonce: u8) -> (Handshake, Vec<u8>) {
    Handshake::dial(local, CoreId(1), (NodeId(2), CoreId::ANY), Lane::Log, [nonce; 32], 7)
}

fn accept(nonce: u8) -> Handshake {
    Handshake::accept(CoreId(0), [nonce; 32], 7)
}

/// Both sides until neither has more to say; `between` may change what is on its way.
fn meet_through(
    (one, two): (&Local, &Local),
    known: (&Known, &Known),
    mut between: impl FnMut(Side, Vec<u8>) -> Vec<u8>,
) -> (Outcome, Outcome) {
    let (mut dialling, first) = dial(one, 1);
    let mut accepting = accept(2);
    let (mut outcomes, mut to_two, mut to_one) = ((Outcome::Waits, Outcome::Waits), first, Vec::new());
    while !(to_two.is_empty() && to_one.is_empty()) {
        let bytes = between(Side::Dialling, std::mem::take(&mut to_two));
        if outcomes.1 == Outcome::Waits && !bytes.is_empty() {
            let step = accepting.received(&bytes, two, known.1);
            (outcomes.1, to_one) = (step.outcome, step.write);
        }
        let bytes = between(Side::Accepting, std::mem::take(&mut to_one));
        if outcomes.0 == Outcome::Waits && !bytes.is_empty() {
            let step = dialling.received(&bytes, one, known.0);
            (outcomes.0, to_two) = (step.outcome, step.write);
        }
    }
    outcomes
}

fn meet(one: &Local, two: &Local) -> (Outcome, Outcome) {
    meet_through((one, two), (&Known::new(), &Known::new()), |_, bytes| bytes)
}

fn info(outcome: Outcome) -> PeerInfo {
    match outcome {
        Outcome::Done(info, bytes) if bytes.is_empty() => *info,
        other => panic!("{other:?}"),
    }
}

fn refusal(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_nodes_of_a_cluster_agree() {
    let (one, two) = (local(1), local(2));
    let (ours, theirs) = meet(&one, &two);
    let (ours, theirs) = (info(ours), info(theirs));
    assert_eq!(
        (ours.node, ours.epoch, ours.core, ours.our_core),
        (NodeId(2), two.epoch, CoreId(0), CoreId(1))
    );
    assert_eq!((theirs.node, theirs.epoch, theirs.core), (NodeId(1), one.epoch, CoreId(1)));
    assert_eq!((theirs.our_core, ours.side, theirs.side), (CoreId(0), Side::Dialling, Side::Accepting));
    assert_eq!((&ours.shards, &theirs.shards), (&two.shards, &one.shards));
    assert_eq!((ours.outgoing, ours.incoming), (theirs.incoming, theirs.outgoing));
    assert!(ours.outgoing.id != ours.incoming.id && ours.outgoing.version == Versions::SPOKEN.highest);
    let mut writer = FrameWriter::new(ours.outgoing);
    let sent = vec![(3, of(Kind::TimeoutNow, (1, 2), 4))];
    let frame = frame_of(&mut writer, &sent);
    assert_eq!(read(&mut FrameReader::new(theirs.incoming, 4096), [frame]), (sent, None));
}

#[test]
fn another_nonce_gives_other_streams() {
    let streams = |nonce| {
        let (mut dialling, hello) = dial(&local(1), nonce);
        let mut accepting = accept(9);
        let answer = accepting.received(&hello, &local(2), &Known::new()).write;
        let proof = dialling.received(&answer, &local(1), &Known::new()).write;
        let accepted = accepting.received(&proof, &local(2), &Known::new());
        info(accepted.outcome).incoming.id
    };
    assert_ne!(streams(1), streams(2));
    assert_eq!(streams(1), streams(1));
}

/// The connection that is wanted, as node 2 answers it on its core 0.
#[test]
fn the_core_is_the_wanted_one_where_there_is_one() {
    for (wanted, found) in [(0, 0), (1, 1), (2, 0), (u16::MAX, 0)] {
        let (one, two) = (local(1), local(2));
        let wanted = (NodeId(2), CoreId(wanted));
        let (mut dialling, hello) = Handshake::dial(&one, CoreId(0), wanted, Lane::Bulk, [1; 32], 7);
        let mut accepting = accept(2);
        let answer = accepting.received(&hello, &two, &Known::new());
        let proof = dialling.received(&answer.write, &one, &Known::new());
        let accepted = accepting.received(&proof.write, &two, &Known::new());
        let done = info(dialling.received(&accepted.write, &one, &Known::new()).outcome);
        assert_eq!((done.core, info(accepted.outcome).our_core), (CoreId(found), CoreId(found)));
        assert_eq!(done.incoming.lane, Lane::Bulk);
    }
}

#[test]
fn a_handshake_goes_on_byte_by_byte_and_frames_follow_it() {
    let (one, two, known) = (local(1), local(2), Known::new());
    let (mut dialling, hello) = dial(&one, 1);
    let mut accepting = accept(2);
    let by_bytes = |handshake: &mut Handshake, local: &Local, bytes: &[u8]| {
        let mut last = Step { write: Vec::new(), outcome: Outcome::Waits };
        for byte in bytes {
            assert_eq!(last.outcome, Outcome::Waits);
            let step = handshake.received(&[*byte], local, &known);
            last.write.extend(step.write);
            last.outcome = step.outcome;
        }
        last
    };
    let answer = by_bytes(&mut accepting, &two, &hello);
    let proof = by_bytes(&mut dialling, &one, &answer.write);
    let accepted = by_bytes(&mut accepting, &two, &proof.write);
    assert!(matches!(accepted.outcome, Outcome::Done(..)));
    let step = dialling.received(&[&accepted.write[..], b"frames"].concat(), &one, &known);
    let Outcome::Done(_, bytes) = step.outcome else { panic!("{step:?}") };
    assert_eq!(bytes, b"frames"[..]);
}

/// Both sides' refusals, in this order: that of node 1, which dials, and that of node 2.
fn refused(change: impl Fn(&mut Local)) -> (Refusal, Refusal) {
    let mut other = local(2);
    change(&mut other);
    let (ours, theirs) = meet(&local(1), &other);
    (refusal(ours), refusal(theirs))
}

#[test]
fn both_sides_report_what_differs() {
    let (ours, theirs) = refused(|two| two.cluster = 9);
    assert_eq!(ours, Refusal::Cluster { ours: 0x0102_0304, theirs: 9 });
    assert_eq!(theirs, Refusal::Cluster { ours: 9, theirs: 0x0102_0304 });
    assert!(ours.to_string().contains("cluster 00000000000000000000000000000009"), "{ours}");

    let (wanted, found) = (NodeId(2), NodeId(3));
    let (ours, theirs) = refused(|two| two.node = found);
    assert_eq!((ours, theirs), (Refusal::Node { wanted, found }, Refusal::Node { wanted, found }));

    let (ours, theirs) = refused(|two| two.versions = Versions { lowest: 5, highest: 6 });
    let (one, two) = (Versions::SPOKEN, Versions { lowest: 5, highest: 6 });
    assert_eq!(ours, Refusal::Versions { ours: one, theirs: two });
    assert_eq!(theirs, Refusal::Versions { ours: two, theirs: one });

    let (ours, theirs) = refused(|two| two.secret = None);
    assert_eq!(
        (ours.clone(), theirs),
        (Refusal::OneSecret { is_ours: true }, Refusal::OneSecret { is_ours: false })
    );
    assert_eq!(
        ours.to_string(),
        "this node has a secret of the cluster, and the peer none; give it to all nodes, or to none"
    );

    let (ours, theirs) = refused(|two| two.limits.value_bytes += 1);
    assert!(matches!((ours, theirs), (Refusal::Limits { .. }, Refusal::Limits { .. })));
    let (ours, _) = refused(|two| two.limits.operation_bytes -= 1);
    assert_eq!(ours.kind(), RefusalKind::Limits);

    // Both would be majorities of what they know of, or look for keys in other partitions, or in other shards.
    for other in [
        Founding::of(&[1, 2].map(NodeId), 16, 2),
        Founding::of(&[1, 3, 2].map(NodeId), 16, 2),
        Founding::of(&[1, 2, 3, 4].map(NodeId), 16, 2),
        Founding::of(&[1, 2, 3].map(NodeId), 17, 2),
        Founding::of(&[1, 2, 3].map(NodeId), 16, 3),
    ] {
        let (one, two) = (local(1).founding, other);
        let (ours, theirs) = refused(|two| two.founding = other);
        assert_eq!(ours, Refusal::Founding { ours: one, theirs: two });
        assert_eq!(theirs, Refusal::Founding { ours: two, theirs: one });
    }

    // Who is given the wrong proof refuses first.
    let (ours, theirs) = refused(|two| two.secret = Some(Secret::new(vec![7; 16]).unwrap()));
    assert_eq!((ours, theirs), (Refusal::OtherSecret, Refusal::ByPeer(RefusalKind::OtherSecret)));
}

#[test]
fn a_peer_with_our_own_id_is_refused() {
    let hello = Handshake::dial(&local(2), CoreId(0), (NodeId(2), CoreId(0)), Lane::Log, [1; 32], 7).1;
    let step = accept(2).received(&hello, &local(2), &Known::new());
    assert_eq!(refusal(step.outcome), Refusal::OurOwnId { node: NodeId(2) });
}

#[test]
fn an_older_process_of_a_node_is_refused_on_both_sides() {
    let known = |incarnation, starts| Epoch { incarnation, starts, process: 7 };
    let none = Known::new();
    for (newest, is_taken) in
        [(known(1, 4), true), (known(0, 9), true), (known(1, 6), false), (known(2, 0), false)]
    {
        let (one, two) = (local(1), local(2));
        let seen = |node| having_seen(node, newest);
        let (ours, theirs) = meet_through((&one, &two), (&none, &seen(1)), |_, bytes| bytes);
        let old =
            |node: &Local| Refusal::OldIncarnation { node: node.node, found: node.epoch, known: newest };
        if is_taken {
            assert!(matches!((ours, theirs), (Outcome::Done(..), Outcome::Done(..))));
            continue;
        }
        assert_eq!(refusal(theirs), old(&one));
        let ours = refusal(ours);
        assert_eq!(ours, Refusal::ByPeer(RefusalKind::OldIncarnation));
        assert!(ours.to_string().contains("a newer process of this node was seen"), "{ours}");
        let (ours, theirs) = meet_through((&one, &two), (&seen(2), &none), |_, bytes| bytes);
        assert_eq!(refusal(ours), old(&two));
        assert_eq!(refusal(theirs), Refusal::ByPeer(RefusalKind::OldIncarnation));
    }
}

fn having_seen(node: u64, epoch: Epoch) -> Known {
    let mut known = Known::new();
    known.supersede(NodeId(node), epoch);
    known
}

#[test]
fn another_process_of_the_same_start_is_refused_on_both_sides_once_it_has_proved_itself() {
    let (one, two, none) = (local(1), local(2), Known::new());
    let twin = |of: &Local| Epoch { process: 9, ..of.epoch };
    let refusal_of = |of: &Local| Refusal::TwoProcesses { node: of.node, found: of.epoch, known: twin(of) };
    let by_peer = Refusal::ByPeer(RefusalKind::TwoProcesses);
    let (ours, theirs) = meet_through((&one, &two), (&none, &having_seen(1, twin(&one))), |_, bytes| bytes);
    assert_eq!((refusal(theirs), refusal(ours)), (refusal_of(&one), by_peer.clone()));
    let (ours, theirs) = meet_through((&one, &two), (&having_seen(2, twin(&two)), &none), |_, bytes| bytes);
    assert_eq!((refusal(ours), refusal(theirs)), (refusal_of(&two), by_peer));
    // A stranger's word counts for nothing.
    let stranger = Local { secret: Some(Secret::new(vec![7; 16]).unwrap()), ..local(1) };
    let (_, theirs) = meet_through((&stranger, &two), (&none, &having_seen(1, twin(&one))), |_, bytes| bytes);
    assert_eq!(refusal(theirs), Refusal::ByPeer(RefusalKind::OtherSecret));
    let seen = (&having_seen(2, two.epoch), &having_seen(1, one.epoch));
    let (ours, theirs) = meet_through((&one, &two), seen, |_, bytes| bytes);
    assert!(matches!((ours, theirs), (Outcome::Done(..), Outcome::Done(..))), "the same one comes again");
}

#[test]
fn the_highest_version_that_both_speak_is_chosen() {
    let versions = |lowest, highest| Versions { lowest, highest };
    assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
    assert_eq!(versions(2, 5).common(versions(1, 2)), Some(2));
    assert_eq!(versions(1, 1).common(versions(2, 5)), None);
    let (mut one, mut two) = (local(1), local(2));
    (one.versions, two.versions) = (versions(1, 3), versions(2, 5));
    assert_eq!(info(meet(&one, &two).0).outgoing.version, 3);
}

#[test]
fn every_bit_that_flips_on_the_way_is_noticed() {
    let (one, two, known) = (local(1), local(2), Known::new());
    let lengths = std::cell::RefCell::new([0; 2]);
    meet_through((&one, &two), (&known, &known), |side, bytes| {
        lengths.borrow_mut()[usize::from(side == Side::Accepting)] += bytes.len();
        bytes
    });
    let lengths = lengths.into_inner();
    assert!(lengths[0] > 170 && lengths[1] > 180, "{lengths:?}");
    for (side, length) in [(Side::Dialling, lengths[0]), (Side::Accepting, lengths[1])] {
        for bit in 0..length * 8 {
            let mut at = 0;
            let (ours, theirs) = meet_through((&one, &two), (&known, &known), |from, mut bytes| {
                if from == side {
                    if (at..at + bytes.len()).contains(&(bit / 8)) {
                        bytes[bit / 8 - at] ^= 1 << (bit % 8);
                    }
                    at += bytes.len();
                }
                bytes
            });
            let (receiver, name) = if side == Side::Dialling { (theirs, "2") } else { (ours, "1") };
            // A length that has become longer lets the side wait, until its time is over.
            assert!(!matches!(receiver, Outcome::Done(..)), "node {name} did not notice bit {bit}");
        }
    }
}

/// Changes the hello in some bytes, as somebody does who knows checksums.
fn with_other_hello(bytes: &[u8], change: impl Fn(&mut crate::net::hello::Hello)) -> Vec<u8> {
    let (greeting, length) = Greeting::decode(bytes).unwrap().unwrap();
    let Greeting::Hello(mut hello) = greeting else { panic!("a hello comes first") };
    change(&mut hello);
    [&Greeting::Hello(hello).encode()[..], &bytes[length..]].concat()
}

#[test]
fn what_is_changed_between_the_two_spoils_the_proof() {
    let (one, two, known) = (local(1), local(2), Known::new());
    for side in [Side::Dialling, Side::Accepting] {
        let mut is_first = true;
        let (ours, theirs) = meet_through((&one, &two), (&known, &known), |from, bytes| {
            if from == side && std::mem::take(&mut is_first) {
                return with_other_hello(&bytes, |hello| hello.shards[0].core = CoreId(1));
            }
            bytes
        });
        assert_eq!(refusal(ours), Refusal::OtherSecret);
        assert_eq!(refusal(theirs), Refusal::ByPeer(RefusalKind::OtherSecret));
    }
}

#[test]
fn what_was_recorded_or_is_sent_back_proves_nothing() {
    let (one, two, known) = (local(1), local(2), Known::new());
    let mut recorded = Vec::new();
    meet_through((&one, &two), (&known, &known), |from, bytes| {
        if from == Side::Dialling {
            recorded.extend(bytes.clone());
        }
        bytes
    });
    let step = accept(3).received(&recorded, &two, &known);
    assert_eq!(refusal(step.outcome), Refusal::OtherSecret, "the accepting side's nonce is new");

    let (_, hello) = dial(&one, 1);
    let mut accepting = accept(2);
    let answer = accepting.received(&hello, &two, &known).write;
    let (_, length) = Greeting::decode(&answer).unwrap().unwrap();
    let step = accepting.received(&answer[length..], &two, &known);
    assert_eq!(refusal(step.outcome), Refusal::OtherSecret, "its own proof came back");
}

#[test]
fn messages_out_of_turn_and_strangers_are_refused() {
    let (one, two, known) = (local(1), local(2), Known::new());
    for greeting in [Greeting::Proof([0; 32]), Greeting::Accepted] {
        let step = accept(2).received(&greeting.encode(), &two, &known);
        assert_eq!(refusal(step.outcome), Refusal::Damage(Damage::Order));
    }
    let (_, hello) = dial(&one, 1);
    let twice = accept(2).received(&[&hello[..], &hello].concat(), &two, &known);
    assert_eq!(refusal(twice.outcome), Refusal::Damage(Damage::Order));
    let stranger = accept(2).received(b"*1\r\n$4\r\nPING\r\n", &two, &known);
    assert!(matches!(refusal(stranger.outcome), Refusal::Damage(Damage::Magic { .. })));
    let (sent, _) = Greeting::decode(&stranger.write).unwrap().unwrap();
    assert_eq!(sent, Greeting::Refused(RefusalKind::Damage));
    let (mut dialling, _) = dial(&one, 1);
    let answer = accept(2).received(&hello, &two, &known).write;
    let answer = with_other_hello(&answer, |hello| hello.lane = Lane::Bulk);
    let step = dialling.received(&answer, &one, &known);
    assert_eq!(refusal(step.outcome), Refusal::Damage(Damage::Field("lane or core")));
}

/// A message with another kind, zero byte or body, and the checksum that goes with it.
fn sealed(kind: u8, zero: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Greeting::Accepted.encode()[..4].to_vec();
    let rest = [&[kind, zero][..], &u16::try_from(body.len()).unwrap().to_le_bytes(), body].concat();
    bytes.extend(crc32fast::hash(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn messages_that_nobody_writes_are_refused() {
    let field = |bytes: &[u8]| match Greeting::decode(bytes) {
        Err(Damage::Field(field)) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(Greeting::decode(&sealed(3, 0, &[])), Ok(Some((Greeting::Accepted, HEAD_BYTES))));
    assert_eq!(field(&sealed(0, 0, &[])), "kind");
    assert_eq!(field(&sealed(3, 1, &[])), "length");
    assert_eq!(field(&sealed(3, 0, &[0])), "length");
    assert_eq!(field(&sealed(2, 0, &[0; 31])), "length");
    assert_eq!(field(&sealed(2, 0, &[0; 33])), "length");
    assert_eq!(field(&sealed(4, 0, &[0])), "reason of a refusal");
    let hello = dial(&local(1), 1).1[HEAD_BYTES..].to_vec();
    let with = |at: usize, field: &[u8]| {
        let mut hello = hello.clone();
        hello[at..at + field.len()].copy_from_slice(field);
        sealed(1, 0, &hello)
    };
    assert_eq!(field(&with(50, &[5])), "lane");
    assert_eq!(field(&with(51, &[2])), "flags");
    assert_eq!(field(&with(136, &[3])), "number of shards");
    assert_eq!(field(&with(136, &[1])), "length");
    assert_eq!(field(&sealed(1, 0, &hello[..hello.len() - 1])), "number of shards");
    let mut long = sealed(3, 0, &[]);
    long[10..12].copy_from_slice(&u16::MAX.to_le_bytes());
    assert_eq!(field(&long), "length", "before any of it has come");
    for kind in RefusalKind::ALL {
        assert_eq!(RefusalKind::from_code(kind.code()), Some(kind));
        assert_eq!(RefusalKind::ALL[kind.index()], kind);
    }
}

#[test]
fn the_largest_node_still_fits_into_a_hello() {
    let mut one = local(1);
    one.shards = vec![one.shards[0]; SHARDS_MAX];
    let (_, hello) = dial(&one, 1);
    assert_eq!(hello.len(), HEAD_BYTES + BODY_BYTES_MAX);
    assert_eq!(info(meet(&one, &local(2)).1).shards, one.shards);
}

#[test]
fn a_secret_is_long_and_never_shown() {
    assert!(Secret::new(vec![1; 15]).unwrap_err().to_string().contains("15 bytes"));
    let shown = format!("{:?}", local(1));
    assert!(shown.contains("Secret(..)") && !shown.contains("115, 105"), "{shown}");
}

#[test]
fn no_bytes_make_a_handshake_panic() {
    let (two, known) = (local(2), Known::new());
    let mut numbers = SplitMix64::new(11);
    let hello = dial(&local(1), 1).1[HEAD_BYTES..].to_vec();
    for _ in 0..20_000 {
        let mut body = hello.clone();
        for _ in 0..numbers.next_u64() % 4 {
            let at = usize::try_from(numbers.next_u64()).unwrap_or(0) % body.len();
            body[at] = u8::try_from(numbers.next_u64() % 256).unwrap();
        }
        body.truncate(body.len() - usize::try_from(numbers.next_u64() % 3).unwrap());
        let kind = u8::try_from(numbers.next_u64() % 5).unwrap();
        let mut accepting = accept(2);
        let step = accepting.received(&sealed(if kind == 0 { 1 } else { kind }, 0, &body), &two, &known);
        if step.outcome == Outcome::Waits {
            accepting.received(&sealed(kind, 0, &body[..32]), &two, &known);
        }
    }
}
