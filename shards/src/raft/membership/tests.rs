//! The bytes of configurations, and what they may not say.

use super::*;
use crate::raft::contact::{self, tests::contact};

const HERE: StorageId = StorageId(0x0a0b);

/// A change under way: 9 becomes a learner, instead of 10.
fn joint() -> ConfState {
    ConfState {
        voters: vec![1, 10],
        learners: vec![12],
        voters_outgoing: vec![1, 9],
        learners_next: vec![9],
        auto_leave: true,
        ..ConfState::default()
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
}

#[test]
fn what_is_committed_has_copies_on_a_majority_less_one_also_of_who_voted_before() {
    for (voters, copies) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
        let conf = ConfState { voters: (1..=voters).collect(), learners: vec![9], ..ConfState::default() };
        assert_eq!(Membership::of(Lsn(1), &conf, |_| HERE).copies(), copies, "{voters} voters");
    }
    assert_eq!(Membership::of(Lsn(1), &joint(), |_| HERE).copies(), 0, "as of two on either side");
}

#[test]
fn version_1_is_these_bytes() {
    let bytes = from_hex(
        "01010200000001000000000000000a00000000000000010000000c0000000000000002\
         00000001000000000000000900000000000000010000000900000000000000",
    );
    let read = Membership::decode(&bytes).expect("version 1");
    assert_eq!((read.as_of, read.conf_state()), (Lsn::ZERO, joint()));
    assert_eq!(read.storage(MemberId(9)), Some(StorageId::UNKNOWN));
    let founder = [&[1, 0, 1][..], &[0, 0, 0, 1], &[0; 7], &[0; 12]].concat();
    let founding = Membership::founding(MemberId::FIRST, StorageId::UNKNOWN);
    assert_eq!(Membership::decode(&founder), Ok(founding));
    for bytes in [bytes, founder] {
        for end in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn version_2_is_these_bytes() {
    let membership = Membership::of(Lsn(0x0203), &joint(), |id| StorageId(id.0 + 0x100));
    let bytes = from_hex(
        "0201030200000000000004000000\
         0100000000000000010100000000000005\
         090000000000000009010000000000000c\
         0a000000000000000a0100000000000001\
         0c000000000000000c0100000000000002",
    );
    assert_eq!(membership.encode(), bytes);
    assert_eq!(Membership::decode(&bytes), Ok(membership.clone()));
    assert_eq!(membership.conf_state(), joint());
    assert_eq!(membership.storage(MemberId(12)), Some(StorageId(0x10c)));
    assert_eq!(membership.storage(MemberId(2)), None);
    let founding = Membership::founding(MemberId::FIRST, HERE);
    let bytes = from_hex("02000000000000000000010000000100000000000000").into_iter();
    let bytes: Vec<u8> = bytes.chain(from_hex("0b0a00000000000001")).collect();
    assert_eq!((founding.encode(), Membership::decode(&bytes)), (bytes.clone(), Ok(founding)));
}

#[test]
fn version_3_is_these_bytes() {
    let founders: Vec<_> = (1..3).map(|id| (MemberId(id), StorageId(id))).collect();
    let conf = ConfState { voters: vec![1, 2], learners: vec![9], ..ConfState::default() };
    let added = ChangeEntry::of(&[Change::AddLearnerAt(StorageId(4), contact())], Lsn(9));
    let joined = Membership::founded_by(&founders).after(Lsn(9), &added, &conf);
    assert_eq!(joined.contact_on(StorageId(4)), Some(&contact()));
    assert_eq!(joined.contact_on(StorageId(1)), None);
    let begin = "0300090000000000000003000000\
                 0100000000000000010000000000000001\
                 0200000000000000020000000000000001\
                 0900000000000000040000000000000002\
                 010000000900000000000000";
    let bytes = from_hex(&[begin, contact::tests::HEX].concat());
    assert_eq!((joined.encode(), Membership::decode(&bytes)), (bytes.clone(), Ok(joined.clone())));
    for end in 0..bytes.len() {
        assert!(Membership::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut stranger = bytes;
    stranger[69] = 8;
    assert!(Membership::decode(&stranger).is_err(), "the contact of nobody");
    // It goes with its member.
    let left = ConfState { voters: vec![1, 2], ..ConfState::default() };
    let leaves = ChangeEntry::of(&[Change::Remove(MemberId(9))], Lsn(12));
    assert_eq!(joined.after(Lsn(12), &leaves, &left).contacts().count(), 0);
}

#[test]
fn what_is_not_written_so_is_damage() {
    let bytes = Membership::of(Lsn(3), &joint(), |_| HERE).encode();
    for end in 0..bytes.len() {
        assert!(Membership::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(Membership::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "longer");
    for (at, byte) in [(0, 4), (0, 3), (0, 0), (1, 2), (14, 9), (14, 12), (30, 0), (30, 16)] {
        let mut crafted = bytes.clone();
        crafted[at] = byte;
        assert!(Membership::decode(&crafted).is_err(), "byte {at} is {byte}");
    }
    let nobody = Membership::of(Lsn::ZERO, &ConfState::default(), |_| HERE);
    assert!(Membership::decode(&nobody.encode()).is_err(), "no voter");
    let huge = [&[2, 0][..], &[0; 8], &[0xff; 4]].concat();
    assert!(Membership::decode(&huge).is_err());
}

#[test]
fn what_contradicts_itself_is_damage() {
    let bytes = Membership::of(Lsn(3), &joint(), |_| HERE).encode();
    for parts in 0..=u8::MAX {
        let mut crafted = bytes.clone();
        // Those of member 10; a voter, a learner and one that becomes one are there besides.
        crafted[64] = parts;
        let is_whole = Membership::decode(&crafted).is_ok();
        assert_eq!(is_whole, [1, 2, 4, 5, 12].contains(&parts), "parts {parts:#x}");
    }
    let founding = Membership::founding(MemberId::FIRST, HERE).encode();
    let leaves_nothing = [&[VERSION, 1], &founding[2..]].concat();
    assert!(Membership::decode(&leaves_nothing).is_err(), "no change is under way");
    let nameless = Membership::founding(MemberId(0), HERE).encode();
    assert!(Membership::decode(&nameless).is_err(), "0 is no member");
    let one = [1, 0, 0, 0, 0, 0, 0, 0];
    let twice = [&[1, 0, 2, 0, 0, 0][..], &one, &one, &[0; 12]].concat();
    assert!(Membership::decode(&twice).is_err(), "a voter is listed twice");
}

#[test]
fn alone_means_no_other_of_any_kind() {
    assert!(Membership::founding(MemberId::FIRST, HERE).is_alone(MemberId::FIRST));
    assert!(!Membership::founding(MemberId(3), HERE).is_alone(MemberId::FIRST));
    for list in 0..4 {
        let mut conf = ConfState { voters: vec![1], ..ConfState::default() };
        let lists =
            [&mut conf.voters, &mut conf.learners, &mut conf.voters_outgoing, &mut conf.learners_next];
        for (at, ids) in lists.into_iter().enumerate() {
            ids.extend((at == list).then_some(4));
        }
        let membership = Membership::of(Lsn::ZERO, &conf, |_| HERE);
        assert!(!membership.is_alone(MemberId::FIRST), "{conf:?}");
    }
}
