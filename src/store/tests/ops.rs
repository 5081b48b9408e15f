//! The bytes of ops: every op comes back, and no bytes make the decoder panic.

use proptest::prelude::*;

use super::super::*;
use super::bytes;

/// An op's parts, owned, as proptest makes them.
#[derive(Clone, Debug)]
struct Parts {
    which: u8,
    a: Vec<u8>,
    b: Vec<u8>,
    n: u64,
    i: i64,
    flags: [bool; 3],
    choice: u8,
    list: Vec<Vec<u8>>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let text = || proptest::collection::vec(any::<u8>(), 0..20);
    let list = proptest::collection::vec(text(), 0..6);
    (0..32u8, text(), text(), any::<u64>(), any::<i64>(), any::<[bool; 3]>(), any::<u8>(), list)
        .prop_map(|(which, a, b, n, i, flags, choice, list)| Parts { which, a, b, n, i, flags, choice, list })
}

fn with_op<T>(parts: &Parts, then: impl FnOnce(Op<'_>) -> T) -> T {
    let (a, b, n, i) = (parts.a.as_slice(), parts.b.as_slice(), parts.n, parts.i);
    let [x, y, z] = parts.flags;
    let items: Vec<&[u8]> = parts.list.iter().map(Vec::as_slice).collect();
    let even = &items[..items.len() / 2 * 2];
    let expiry = [Expiry::Clear, Expiry::Keep, Expiry::At(n), Expiry::In(n)][usize::from(parts.choice % 4)];
    let when = [SetWhen::Always, SetWhen::Absent, SetWhen::Present, SetWhen::Equals(b)];
    let condition = [
        Condition::Always,
        Condition::NoExpiry,
        Condition::HasExpiry,
        Condition::Later,
        Condition::Sooner,
        Condition::HasAndLater,
        Condition::HasAndSooner,
    ][usize::from(parts.choice % 7)];
    let reply = [SetReply::Ok, SetReply::Done, SetReply::Old][usize::from(parts.choice / 64 % 3)];
    then(match parts.which {
        0 => Op::Set { key: a, value: b, when: when[usize::from(parts.choice / 4 % 4)], expiry, reply },
        1 => Op::Append { key: a, value: b },
        2 => Op::SetRange { key: a, offset: n, value: b },
        3 => Op::IncrBy { key: a, delta: i },
        4 => Op::IncrByFloat { key: a, delta: b },
        5 => Op::Del { keys: List::Args(&items) },
        6 => Op::GetDel { key: a },
        7 => Op::GetEx { key: a, expiry },
        8 => Op::MSet { pairs: List::Args(even), only_if_none: x },
        9 => Op::Expire { key: a, at_ms: i, condition },
        10 => Op::Persist { key: a },
        11 => Op::Rename { from: a, to: b, only_if_none: x },
        12 => Op::Copy { from: a, to: b, replace: x },
        13 => Op::Flush,
        14 => Op::Get { key: a },
        15 => Op::StrLen { key: a },
        16 => Op::GetRange { key: a, start: i, end: i.wrapping_neg() },
        17 => Op::MGet { keys: List::Args(&items) },
        18 => Op::Exists { keys: List::Args(&items) },
        19 => Op::Type { key: a },
        20 => Op::Ttl { key: a, absolute: x, seconds: y },
        21 => Op::ObjectEncoding { key: a },
        22 => Op::ObjectRefcount { key: a },
        23 => Op::MemoryUsage { key: a },
        24 => Op::Keys { pattern: a },
        25 => Op::Scan { cursor: n, count: n / 2, pattern: x.then_some(a), kind: y.then_some(b) },
        26 => Op::RandomKey { seed: n },
        27 => Op::DbSize,
        29 => Op::ExpireIn { key: a, in_ms: i, condition },
        30 => Op::Watch { key: a },
        28 => Op::Lcs { a, b, len: x, idx: y, min_match_len: n, with_match_len: z },
        _ => Op::Version { key: a },
    })
}

proptest! {
    #[test]
    fn every_op_comes_back(parts in parts()) {
        with_op(&parts, |op| {
            let encoded = bytes(&op);
            let decoded = Op::decode(&encoded).expect("what encode wrote");
            assert_eq!(decoded.is_write(), op.is_write());
            assert_eq!(Op::is_heavy_bytes(&encoded), op.is_heavy(), "what the first bytes rule out");
            assert_eq!(bytes(&decoded), encoded);
            for (wrote, read) in [(&op, &decoded)] {
                if let (Op::Del { keys: wrote }, Op::Del { keys: read }) = (wrote, read) {
                    assert!(wrote.iter().eq(read.iter()) && wrote.len() == read.len());
                } else if !matches!(wrote, Op::MSet { .. } | Op::MGet { .. } | Op::Exists { .. }) {
                    assert_eq!(wrote, read);
                }
            }
            for end in 0..encoded.len() {
                assert!(Op::decode(&encoded[..end]).is_err(), "cut at {end}");
            }
            assert!(Op::decode(&[encoded.as_slice(), &[0]].concat()).is_err());
        });
    }

    #[test]
    fn transactions_come_back(all in proptest::collection::vec(parts(), 0..5), version in any::<u64>()) {
        let encoded: Vec<Vec<u8>> = all.iter().map(|parts| with_op(parts, |op| bytes(&op))).collect();
        let ops: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        let version = version.to_le_bytes();
        let guards: [&[u8]; 2] = [b"key", &version];
        let multi = bytes(&Op::Multi { guards: List::Args(&guards), ops: List::Args(&ops) });
        let Ok(Op::Multi { guards: read_guards, ops: read_ops }) = Op::decode(&multi) else { panic!() };
        assert!(read_guards.iter().eq(guards) && read_ops.iter().eq(ops));
        let nested = bytes(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&multi]) });
        assert!(Op::decode(&nested).is_err());
        let marked = bytes(&Op::MarkedMulti { guards: List::Args(&guards), ops: List::Args(&[]) });
        assert!(matches!(Op::decode(&marked), Ok(Op::MarkedMulti { .. })));
        let nested = bytes(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&marked]) });
        assert!(Op::decode(&nested).is_err());
    }

    #[test]
    fn any_bytes_decode_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), code in any::<u8>()) {
        let _ = Op::decode(&bytes);
        if let [version, opcode, ..] = bytes.as_mut_slice() {
            (*version, *opcode) = ([1, 16, 17, 18, 19][usize::from(*opcode % 5)], code);
        }
        if let Ok(op) = Op::decode(&bytes) {
            let today = super::bytes(&op);
            assert!(today == bytes || bytes[0] == 1);
            assert_eq!(super::bytes(&Op::decode(&today).expect("what encode wrote")), today);
        }
    }
}

#[test]
fn bytes_once_written_stay_readable() {
    let written =
        [&[1u8, 1, 0, 0, 2, 232, 3, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, b'k', 2, 0, 0, 0, b'v', b'w']]
            .concat();
    let expected = Op::Set {
        key: b"k",
        value: b"vw",
        when: SetWhen::Always,
        expiry: Expiry::At(1000),
        reply: SetReply::Ok,
    };
    assert_eq!(Op::decode(&written), Ok(expected));
    assert_eq!(bytes(&expected), [&[17, 1], &written[2..]].concat());
    // EXPIRE with the absolute time that the node had made of a relative one, and EXEC with one watched key.
    let expire = [&[1u8, 10, 0, 232, 3, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, b'k']].concat();
    let expected = Op::Expire { key: b"k", at_ms: 1000, condition: Condition::Always };
    assert_eq!(Op::decode(&expire), Ok(expected));
    let exec = [&[1u8, 15, 2, 0, 0, 0, 1, 0, 0, 0, b'k', 8, 0, 0, 0, 0, 0, 80, 0, 0, 0, 0, 64][..], &[0; 4]]
        .concat();
    let Ok(Op::MarkedMulti { guards, ops }) = Op::decode(&exec) else { panic!() };
    assert_eq!(
        (guards.iter().collect::<Vec<_>>(), ops.len()),
        (vec![&b"k"[..], &[0, 0, 80, 0, 0, 0, 0, 64]], 0)
    );
    // Times that count from the entry's stamp, and EXEC with a key that was registered.
    let set =
        [&[1u8, 1, 0, 0, 3, 232, 3, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, b'k', 1, 0, 0, 0, b'v']].concat();
    let (when, expiry, reply) = (SetWhen::Always, Expiry::In(1000), SetReply::Ok);
    let expire = [&[1u8, 16, 1, 24, 252, 255, 255, 255, 255, 255, 255][..], &[1, 0, 0, 0, b'k']].concat();
    let version = [0, 0, 80, 0, 0, 0, 0, 64];
    let exec = [&[1u8, 18, 2, 0, 0, 0, 1, 0, 0, 0, b'k', 8, 0, 0, 0][..], &version, &[0; 4]].concat();
    let guards = [&b"k"[..], &version];
    for (written, expected) in [
        (set, Op::Set { key: b"k", value: b"v", when, expiry, reply }),
        (expire, Op::ExpireIn { key: b"k", in_ms: -1000, condition: Condition::NoExpiry }),
        (vec![1, 17, 1, 0, 0, 0, b'k'], Op::Watch { key: b"k" }),
        (exec, Op::Multi { guards: List::Args(&guards), ops: List::Args(&[]) }),
    ] {
        assert_eq!(bytes(&expected)[2..], written[2..], "{expected:?}");
        assert_eq!(Op::decode(&written).map(|op| bytes(&op)), Ok(bytes(&expected)));
    }
    assert_eq!(Op::decode(&[1, 14]), Ok(Op::Flush));
    assert_eq!(Op::decode(&[1, 77]), Ok(Op::DbSize));
    for unknown in [&[2, 14][..], &[15, 1], &[1, 19], &[16, 0], &[20, 1], &[17, 63], &[17], &[1], &[]] {
        assert!(Op::decode(unknown).is_err(), "{unknown:?}");
    }
}

#[test]
fn what_frees_space() {
    use super::{get, set};
    let frees = |op: &[u8]| Op::decode(op).is_ok_and(|op| op.frees_space());
    let del = bytes(&Op::Del { keys: List::Args(&[b"k"]) });
    let (flush, get, set) = (bytes(&Op::Flush), bytes(&get("k")), bytes(&set("k", "v")));
    let multi = |ops: &[&[u8]]| bytes(&Op::Multi { guards: List::Args(&[]), ops: List::Args(ops) });
    assert!(frees(&del) && frees(&flush));
    assert!(!frees(&set) && !frees(&[]));
    assert!(frees(&multi(&[&del, &get, &flush])));
    assert!(!frees(&multi(&[&del, &set])));
}
