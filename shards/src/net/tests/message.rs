//! Messages as bytes: what is sent comes back, and nothing else is taken for one.

use ::raft::eraftpb::Snapshot;
use corduroy_wal::fields::Fields;
use corduroy_wal::mix::SplitMix64;

use super::*;
use crate::net::decode::decode;
use crate::net::message::{CONTEXT_BYTES_MAX, Contradiction, ENTRIES_MAX, HEAD_BYTES};
use crate::net::{MessageDamage, Unsendable};

fn encoded(message: &Message) -> Bytes {
    let mut bytes = Vec::new();
    outgoing(9, message.clone()).write(&mut bytes);
    bytes.into()
}

/// What bytes decode to, if nothing is left behind it.
fn decoded(bytes: &Bytes) -> Result<Message, MessageDamage> {
    let mut fields = Fields::new(bytes);
    let (partition, message) = decode(bytes, &mut fields)?;
    assert!(fields.is_empty(), "{} bytes are left", fields.rest.len());
    assert_eq!(partition.0, 9);
    Ok(message)
}

fn contradiction(message: &Message) -> Option<Contradiction> {
    match Outgoing::new(PartitionId(1), message.clone()) {
        Err(Unsendable::Contradiction { why, .. }) => Some(why),
        Ok(_) | Err(Unsendable::Kind { .. } | Unsendable::Field { .. }) => None,
    }
}

proptest! {
    #[test]
    fn what_is_sent_comes_back(message in any_message()) {
        let outgoing = outgoing(9, message.clone());
        let bytes = encoded(&message);
        prop_assert_eq!(outgoing.bytes(), bytes.len());
        prop_assert_eq!(decoded(&bytes), Ok(message));
    }

    #[test]
    fn a_message_that_is_cut_off_is_none(message in any_message()) {
        let bytes = encoded(&message);
        for end in 0..bytes.len() {
            let cut = bytes.slice(..end);
            prop_assert_eq!(decode(&cut, &mut Fields::new(&cut)), Err(MessageDamage::Short), "cut at {}", end);
        }
    }

    /// Bytes that decode are the ones that the message is written as: there is one form of each.
    #[test]
    fn what_decodes_has_one_form(message in any_message(), at in any::<proptest::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encoded(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let bytes = Bytes::from(bytes);
        let mut fields = Fields::new(&bytes);
        if let Ok((partition, message)) = decode(&bytes, &mut fields) {
            let mut again = Vec::new();
            Outgoing::new(partition, message).expect("what peers send may be sent").write(&mut again);
            prop_assert_eq!(&bytes[..bytes.len() - fields.rest.len()], &again[..]);
        }
    }
}

#[test]
fn no_bytes_make_decoding_panic() {
    let mut numbers = SplitMix64::new(20_261_130);
    for _ in 0..200_000 {
        let mut bytes: Vec<u8> = (0..16).flat_map(|_| numbers.next_u64().to_le_bytes()).collect();
        bytes.truncate(usize::try_from(numbers.next_u64() % 129).unwrap());
        if let Some(kind) = bytes.first_mut() {
            // Mostly a kind there is, so that its fields are read.
            *kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()].code();
        }
        for small in bytes.iter_mut().skip(1) {
            *small = if *small < 160 { 0 } else { *small % 4 };
        }
        let bytes = Bytes::from(bytes);
        let _ = decode(&bytes, &mut Fields::new(&bytes));
    }
}

#[test]
fn what_a_group_says_to_itself_is_not_sent() {
    for kind in UNSENT {
        let message = Message { msg_type: kind, from: 1, to: 2, term: 1, ..Message::default() };
        assert_eq!(Outgoing::new(PartitionId(1), message), Err(Unsendable::Kind { kind }));
        let mut bytes = encoded(&of(Kind::TimeoutNow, (1, 2), 1)).to_vec();
        bytes[0] = kind as u8;
        assert_eq!(decoded(&bytes.into()), Err(MessageDamage::Kind { found: kind as u8 }));
    }
    for kind in Kind::ALL {
        assert_eq!((Kind::of(kind.message_type()), Kind::from_code(kind.code())), (Some(kind), Some(kind)));
        assert_eq!(kind.code(), kind.message_type() as u8);
    }
}

#[test]
fn a_field_that_the_kind_does_not_carry_is_not_lost() {
    let field = |message: Message| match Outgoing::new(PartitionId(1), message) {
        Err(Unsendable::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let timeout = || of(Kind::TimeoutNow, (1, 2), 1);
    assert_eq!(field(Message { log_term: 1, ..timeout() }), "log_term");
    assert_eq!(field(Message { index: 1, ..timeout() }), "index");
    assert_eq!(field(Message { entries: vec![Entry::default()].into(), ..timeout() }), "entries");
    assert_eq!(field(Message { commit: 1, ..timeout() }), "commit");
    assert_eq!(field(Message { commit_term: 1, ..timeout() }), "commit_term");
    assert_eq!(field(Message { reject: true, ..timeout() }), "reject");
    assert_eq!(field(Message { reject_hint: 1, ..timeout() }), "reject_hint");
    assert_eq!(field(Message { request_snapshot: 1, ..timeout() }), "request_snapshot");
    assert_eq!(field(Message { context: Bytes::from_static(b"x"), ..timeout() }), "context");
    assert_eq!(field(Message { priority: -1, ..timeout() }), "priority");
    assert_eq!(field(Message { deprecated_priority: 1, ..timeout() }), "priority");
    let mut message = of(Kind::Append, (1, 2), 1);
    message.set_snapshot(Snapshot::default());
    assert_eq!(field(message), "snapshot");
}

#[test]
fn what_contradicts_itself_is_not_sent() {
    let entry = |term, index| Entry { term, index, ..Entry::default() };
    let append = |log_term, index, entries: Vec<Entry>| {
        let mut message = Message { log_term, index, ..of(Kind::Append, (1, 2), 5) };
        message.set_entries(entries.into());
        contradiction(&message)
    };
    assert_eq!(append(0, 0, vec![entry(1, 1), entry(5, 2)]), None);
    assert_eq!(append(0, 7, Vec::new()), Some(Contradiction::LogTerm), "behind an entry without a term");
    assert_eq!(append(1, 0, Vec::new()), Some(Contradiction::LogTerm), "a term of no entry");
    assert_eq!(append(6, 7, Vec::new()), Some(Contradiction::LogTerm), "of a later leader");
    assert_eq!(append(0, 0, vec![entry(0, 1)]), Some(Contradiction::EntryTerms), "written without Raft");
    assert_eq!(append(2, 7, vec![entry(1, 8)]), Some(Contradiction::EntryTerms));
    assert_eq!(append(2, 7, vec![entry(3, 8), entry(2, 9)]), Some(Contradiction::EntryTerms));
    assert_eq!(append(2, 7, vec![entry(6, 8)]), Some(Contradiction::EntryTerms));
    assert_eq!(append(2, 7, vec![entry(2, 9)]), Some(Contradiction::Indexes));
    assert_eq!(append(2, u64::MAX, vec![entry(2, 0)]), Some(Contradiction::Indexes));
    let many = |count: usize| (0..count).map(|at| entry(2, 8 + at as u64)).collect();
    assert_eq!(append(2, 7, many(ENTRIES_MAX)), None);
    assert_eq!(append(2, 7, many(ENTRIES_MAX + 1)), Some(Contradiction::Entries));
    let with_context = Entry { context: Bytes::from_static(b"c"), ..entry(2, 8) };
    assert_eq!(append(2, 7, vec![with_context]), Some(Contradiction::Entry));
    assert_eq!(append(2, 7, vec![Entry { sync_log: true, ..entry(2, 8) }]), Some(Contradiction::Entry));

    for (members, term, why) in [
        ((0, 2), 1, Contradiction::Members),
        ((1, 0), 1, Contradiction::Members),
        ((2, 2), 1, Contradiction::Members),
        ((1, 2), 0, Contradiction::Term),
    ] {
        let message = of(Kind::TimeoutNow, members, 1);
        assert_eq!(contradiction(&Message { term, ..message.clone() }), Some(why));
        let good = encoded(&of(Kind::TimeoutNow, (1, 2), 1));
        let mut bytes = good[..10].to_vec();
        [members.0, members.1, term].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        let damage = MessageDamage::Contradiction { kind: Kind::TimeoutNow, why };
        assert_eq!(decoded(&bytes.into()), Err(damage));
    }
    let long = Bytes::from(vec![1; CONTEXT_BYTES_MAX + 1]);
    let beat = Message { context: long.clone(), ..of(Kind::Heartbeat, (1, 2), 1) };
    assert_eq!(contradiction(&beat), Some(Contradiction::Context));
    for entries in
        [vec![], vec![Entry { data: long, ..Entry::default() }], vec![Entry::default()], vec![entry(1, 0)]]
    {
        let read = Message { entries: entries.into(), ..of(Kind::ReadIndex, (1, 2), 0) };
        assert_eq!(contradiction(&read), Some(Contradiction::Context));
    }
    for bytes in [23, 25, 1024 * 24] {
        let beat = Message { context: vec![1; bytes].into(), ..of(Kind::Beat, (1, 2), 1) };
        assert_eq!(contradiction(&beat), Some(Contradiction::Others), "{bytes} bytes of others");
    }
    let vote = || of(Kind::VoteRequest, (1, 2), 1);
    let other = Message { context: Bytes::from_static(b"CampaignElection"), ..vote() };
    assert_eq!(contradiction(&other), Some(Contradiction::Context));
    assert_eq!(contradiction(&Message { priority: 3, ..vote() }), Some(Contradiction::Priority));
    let granted = Message { commit: 1, ..of(Kind::VoteResponse, (1, 2), 1) };
    assert_eq!(contradiction(&granted), Some(Contradiction::LogTerm));
    let taken = Message { reject_hint: 1, ..of(Kind::AppendResponse, (1, 2), 1) };
    assert_eq!(contradiction(&taken), Some(Contradiction::LogTerm));
}

/// A byte of an encoded append, changed to what nobody writes.
#[test]
fn appends_that_nobody_writes_are_refused() {
    let message = {
        let mut message = Message { log_term: 2, index: 7, commit: 6, ..of(Kind::Append, (1, 2), 5) };
        message
            .set_entries(entries(7, 2, vec![(0, 0, Bytes::from_static(b"ab")), (1, 1, Bytes::new())]).into());
        message
    };
    let good = encoded(&message);
    let count_at = HEAD_BYTES + 24;
    let with = |at: usize, field: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        decoded(&bytes.into()).unwrap_err()
    };
    let wrong = |why| MessageDamage::Contradiction { kind: Kind::Append, why };
    assert_eq!(with(HEAD_BYTES, &[0]), wrong(Contradiction::LogTerm));
    assert_eq!(with(HEAD_BYTES, &[6]), wrong(Contradiction::LogTerm));
    assert_eq!(with(HEAD_BYTES, &[3]), wrong(Contradiction::EntryTerms), "a term that falls");
    assert_eq!(with(HEAD_BYTES + 8, &[0xff; 8]), wrong(Contradiction::Indexes));
    assert_eq!(with(1, &[HEAD_BYTES as u8]), MessageDamage::Flags { kind: Kind::Append, found: 34 });
    assert_eq!(with(count_at, &u32::MAX.to_le_bytes()), wrong(Contradiction::Entries));
    assert_eq!(with(count_at, &3_u32.to_le_bytes()), MessageDamage::Short, "more than there is room for");
    assert_eq!(with(count_at + 4, &[0]), wrong(Contradiction::EntryTerms), "written without Raft");
    assert_eq!(with(count_at + 4, &[6]), wrong(Contradiction::EntryTerms));
    assert_eq!(with(count_at + 12, &[0]), wrong(Contradiction::Entries), "a run of none");
    assert_eq!(with(count_at + 12, &[3]), wrong(Contradiction::Entries), "a run of more than there are");
    assert_eq!(with(count_at + 19, &[0xc0]), wrong(Contradiction::Entry), "a kind that entries do not have");
    assert_eq!(with(count_at + 16, &[0xff; 3]), MessageDamage::Short);
    assert_eq!(with(count_at + 22, &[2]), wrong(Contradiction::EntryTerms), "two runs of one term");
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    for (kind, flags) in [
        (Kind::TimeoutNow, 1),
        (Kind::Heartbeat, 1),
        (Kind::AppendResponse, 2),
        (Kind::AppendResponse, 4),
        (Kind::VoteRequest, 1),
        (Kind::VoteResponse, 2),
        (Kind::Append, 1),
    ] {
        let mut message = of(kind, (1, 2), 5);
        message.commit = u64::from(matches!(kind, Kind::Heartbeat));
        let mut bytes = encoded(&message).to_vec();
        bytes[1] = flags;
        bytes.extend([0; 64]);
        let bytes = Bytes::from(bytes);
        let read = decode(&bytes, &mut Fields::new(&bytes));
        assert_eq!(read, Err(MessageDamage::Flags { kind, found: flags }));
    }
    // What is flagged is not 0: it would have two forms.
    let mut asks = of(Kind::AppendResponse, (1, 2), 5);
    (asks.reject, asks.request_snapshot) = (true, 1);
    let mut bytes = encoded(&asks).to_vec();
    *bytes.last_chunk_mut::<8>().unwrap() = [0; 8];
    assert_eq!(decoded(&bytes.into()), Err(MessageDamage::Flags { kind: Kind::AppendResponse, found: 3 }));
    let first = Message { priority: 1, deprecated_priority: 1, ..of(Kind::VoteRequest, (1, 2), 5) };
    let mut bytes = encoded(&first).to_vec();
    *bytes.last_chunk_mut::<8>().unwrap() = [0; 8];
    let why = Contradiction::Priority;
    assert_eq!(decoded(&bytes.into()), Err(MessageDamage::Contradiction { kind: Kind::VoteRequest, why }));
    let mut bytes =
        encoded(&Message { context: Bytes::from_static(b"c"), ..of(Kind::Heartbeat, (1, 2), 5) }).to_vec();
    bytes.truncate(bytes.len() - 1);
    *bytes.last_mut().unwrap() = 0;
    let why = Contradiction::Context;
    assert_eq!(decoded(&bytes.into()), Err(MessageDamage::Contradiction { kind: Kind::Heartbeat, why }));
    let mut bytes = encoded(&of(Kind::Beat, (1, 2), 5)).to_vec();
    bytes[1] = 32;
    bytes.extend([0; 2]);
    let why = Contradiction::Others;
    assert_eq!(decoded(&bytes.into()), Err(MessageDamage::Contradiction { kind: Kind::Beat, why }));
}

#[test]
fn payloads_are_slices_of_what_came() {
    let mut message = Message { log_term: 2, index: 7, ..of(Kind::Append, (1, 2), 5) };
    message.set_entries(entries(7, 2, vec![(0, 0, Bytes::from(vec![7; 1000]))]).into());
    let bytes = encoded(&message);
    let read = decoded(&bytes).unwrap();
    assert!(bytes.as_ptr_range().contains(&read.entries[0].data.as_ptr()), "the payload was copied");
}
