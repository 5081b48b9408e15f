//! The bytes of entries: as they are pinned, as older versions wrote them, and as nobody does.

use super::*;

fn payload(ops: &[&[u8]], stamp_ms: u64) -> Vec<u8> {
    let mut builder = EntryBuilder::default();
    for op in ops {
        builder.push(op);
    }
    builder.finish(stamp_ms)
}

fn walk(payload: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut ops = Vec::new();
    let mut at = decode(payload).expect("a whole payload").ops_at;
    while let Some((EntryOp { keyspace, op }, next)) = next_op(payload, at) {
        ops.push((keyspace.0, op.to_vec()));
        at = next;
    }
    ops
}

fn header_of(stamp_ms: u64, count: u32) -> EntryHeader {
    EntryHeader { stamp_ms, count, version_lsn: None, ops_at: HEADER_BYTES }
}

/// An entry with all that one can have.
fn copy() -> Vec<u8> {
    let mut builder = EntryBuilder::default();
    builder.push_in(KeyspaceId(0x0102), b"ab");
    builder.push(b"c");
    builder.finish_copy(258, Lsn(0x0304))
}

#[test]
fn round_trip_keeps_order_empty_ops_and_stamp() {
    let bytes = payload(&[b"one", b"", b"three"], 1_700_000_000_123);
    assert_eq!(decode(&bytes), Ok(header_of(1_700_000_000_123, 3)));
    assert_eq!(walk(&bytes), [(0, b"one".to_vec()), (0, Vec::new()), (0, b"three".to_vec())]);
    let mut again = EntryBuilder::reopen(bytes);
    again.push(b"four");
    let bytes = again.finish(7);
    assert_eq!((decode(&bytes), walk(&bytes).len()), (Ok(header_of(7, 4)), 4));
}

#[test]
fn bytes_are_pinned() {
    let bytes = payload(&[b"ab"], 258);
    assert_eq!(bytes, [2, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, b'a', b'b']);
    let head = [2, 1, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
    let first = [2, 0, 0, 0x80, 2, 1, 0, 0, 0, 0, 0, 0, b'a', b'b'];
    assert_eq!(copy(), [&head[..], &first, &[1, 0, 0, 0, b'c']].concat());
    let header = EntryHeader { version_lsn: Some(Lsn(0x0304)), ops_at: 22, ..header_of(258, 2) };
    assert_eq!(decode(&copy()), Ok(header));
    assert_eq!(walk(&copy()), [(0x0102, b"ab".to_vec()), (0, b"c".to_vec())]);
}

#[test]
fn entries_of_version_1_are_read() {
    let bytes = [1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, b'a', b'b'];
    assert_eq!(decode(&bytes), Ok(EntryHeader { ops_at: 13, ..header_of(258, 1) }));
    assert_eq!(walk(&bytes), [(0, b"ab".to_vec())]);
    let time = [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&time), Ok(EntryHeader { ops_at: 13, ..header_of(258, 0) }));
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut named = bytes;
    named[16] = 0x80;
    assert_eq!(decode(&named), Err(EntryDamage::Flags { found: 8 }), "it named no keyspace");
}

#[test]
fn an_entry_of_time_carries_nothing_else() {
    let bytes = of_time(258);
    assert_eq!(bytes, [2, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&bytes), Ok(header_of(258, 0)));
    assert_eq!(next_op(&bytes, HEADER_BYTES), None);
}

#[test]
fn every_truncation_and_every_surplus_is_damage() {
    for bytes in [payload(&[b"one", b"two"], 7), copy()] {
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode(&longer), Err(EntryDamage::Lengths { .. })));
    }
}

#[test]
fn a_version_lsn_that_no_entry_has_is_damage() {
    for (lsn, is_one) in [(0, false), (1, true), ((1 << 42) - 1, true), (1 << 42, false), (u64::MAX, false)] {
        let mut bytes = copy();
        bytes[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&u64::to_le_bytes(lsn));
        match decode(&bytes) {
            Ok(header) => assert!(is_one && header.version_lsn == Some(Lsn(lsn)), "{lsn}"),
            Err(damage) => {
                assert!(!is_one && damage == EntryDamage::VersionLsn { found: Lsn(lsn) }, "{lsn}")
            }
        }
    }
}

#[test]
fn an_operation_that_names_the_default_keyspace_is_damage() {
    let mut bytes = copy();
    bytes[26..34].fill(0);
    assert_eq!(decode(&bytes), Err(EntryDamage::Keyspace { at: 22 }));
}

#[test]
fn an_operation_takes_as_many_bytes_as_it_says() {
    let (mut builder, mut bytes) = (EntryBuilder::default(), HEADER_BYTES);
    for keyspace in [KeyspaceId::DEFAULT, KeyspaceId(1)] {
        builder.push_in(keyspace, b"op");
        bytes += EntryOp { keyspace, op: b"op" }.entry_bytes();
        assert_eq!(builder.len_bytes(), bytes);
    }
}

#[test]
fn unknown_versions_flags_and_huge_counts_are_damage() {
    let whole = payload(&[b"x"], 7);
    for found in [0, 3] {
        let bytes = [&[found], &whole[1..]].concat();
        assert_eq!(decode(&bytes), Err(EntryDamage::Version { found }));
    }
    let mut bytes = whole.clone();
    bytes[1] = 0x83;
    assert_eq!(decode(&bytes), Err(EntryDamage::Flags { found: 0x82 }));
    for flag in [1, 2, 4] {
        let mut bytes = whole.clone();
        bytes[HEADER_BYTES + 3] = flag << 4;
        assert_eq!(decode(&bytes), Err(EntryDamage::Flags { found: u32::from(flag) }));
    }
    let mut bytes = whole;
    bytes[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode(&bytes), Err(EntryDamage::Lengths { count: u32::MAX, .. })));
}
