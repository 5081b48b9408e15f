//! Bytes of operations as they were once written: today's code writes the same, and reads them.

use super::super::*;
use super::bytes;

const KEY: &[u8] = b"key";
const VALUE: &[u8] = b"value\x00\xff";
const AT_MS: u64 = 1_700_000_000_123;
const IN_MS: u64 = 86_400_000;
const GUARDS: [&[u8]; 4] = [KEY, &((5 << 20) | (1_u64 << 62)).to_le_bytes(), b"other", &[0; 8]];
const CONDITIONS: [(&str, Condition); 7] = [
    ("always", Condition::Always),
    ("nx", Condition::NoExpiry),
    ("xx", Condition::HasExpiry),
    ("gt", Condition::Later),
    ("lt", Condition::Sooner),
    ("xx-gt", Condition::HasAndLater),
    ("xx-lt", Condition::HasAndSooner),
];

fn from_hex(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn sets() -> Vec<(&'static str, Op<'static>)> {
    let set = |when, reply, expiry| Op::Set { key: KEY, value: VALUE, when, expiry, reply };
    let getex = |expiry| Op::GetEx { key: KEY, expiry };
    vec![
        ("set-always-ok-clear", set(SetWhen::Always, SetReply::Ok, Expiry::Clear)),
        ("set-absent-done-keep", set(SetWhen::Absent, SetReply::Done, Expiry::Keep)),
        ("set-present-old-at", set(SetWhen::Present, SetReply::Old, Expiry::At(AT_MS))),
        ("set-equals-ok-in", set(SetWhen::Equals(b"old"), SetReply::Ok, Expiry::In(IN_MS))),
        ("getex-clear", getex(Expiry::Clear)),
        ("getex-keep", getex(Expiry::Keep)),
        ("getex-at", getex(Expiry::At(AT_MS))),
        ("getex-in", getex(Expiry::In(IN_MS))),
    ]
}

fn other_writes() -> Vec<(&'static str, Op<'static>)> {
    let (from, to) = (&b"from"[..], &b"to"[..]);
    vec![
        ("append", Op::Append { key: KEY, value: VALUE }),
        ("setrange", Op::SetRange { key: KEY, offset: 513, value: VALUE }),
        ("incrby", Op::IncrBy { key: KEY, delta: -3 }),
        ("incrbyfloat", Op::IncrByFloat { key: KEY, delta: b"-1.5e3" }),
        ("del", Op::Del { keys: List::Args(&[b"a", b"", b"c"]) }),
        ("getdel", Op::GetDel { key: KEY }),
        ("mset", Op::MSet { pairs: List::Args(&[b"a", b"1", b"b", b"2"]), only_if_none: false }),
        ("msetnx", Op::MSet { pairs: List::Args(&[b"a", b"1"]), only_if_none: true }),
        ("persist", Op::Persist { key: KEY }),
        ("rename", Op::Rename { from, to, only_if_none: false }),
        ("renamenx", Op::Rename { from, to, only_if_none: true }),
        ("copy", Op::Copy { from, to, replace: false }),
        ("copy-replace", Op::Copy { from, to, replace: true }),
        ("flush", Op::Flush),
        ("watch", Op::Watch { key: KEY }),
    ]
}

fn reads() -> Vec<(&'static str, Op<'static>)> {
    let (a, b) = (&b"a"[..], &b"b"[..]);
    let (pattern, kind) = (Some(&b"k*"[..]), Some(&b"string"[..]));
    vec![
        ("get", Op::Get { key: KEY }),
        ("strlen", Op::StrLen { key: KEY }),
        ("getrange", Op::GetRange { key: KEY, start: -5, end: 7 }),
        ("mget", Op::MGet { keys: List::Args(&[b"a", b"b"]) }),
        ("exists", Op::Exists { keys: List::Args(&[b"a", b"b"]) }),
        ("type", Op::Type { key: KEY }),
        ("ttl", Op::Ttl { key: KEY, absolute: false, seconds: true }),
        ("pexpiretime", Op::Ttl { key: KEY, absolute: true, seconds: false }),
        ("object-encoding", Op::ObjectEncoding { key: KEY }),
        ("object-refcount", Op::ObjectRefcount { key: KEY }),
        ("memory-usage", Op::MemoryUsage { key: KEY }),
        ("keys", Op::Keys { pattern: b"k*" }),
        ("scan", Op::Scan { cursor: 9, count: 10, pattern: None, kind: None }),
        ("scan-match-type", Op::Scan { cursor: 9, count: 10, pattern, kind }),
        ("randomkey", Op::RandomKey { seed: 77 }),
        ("dbsize", Op::DbSize),
        ("lcs", Op::Lcs { a, b, len: true, idx: false, min_match_len: 4, with_match_len: true }),
        ("version", Op::Version { key: KEY }),
    ]
}

/// An operation of each kind, with what can be chosen in it.
fn every_op(then: impl Fn(&str, &Op<'_>)) {
    for (name, op) in sets().into_iter().chain(other_writes()).chain(reads()) {
        then(name, &op);
    }
    for (name, condition) in CONDITIONS {
        let (at_ms, in_ms) = (i64::try_from(AT_MS).unwrap(), -i64::try_from(IN_MS).unwrap());
        then(&format!("expireat-{name}"), &Op::Expire { key: KEY, at_ms, condition });
        then(&format!("expire-{name}"), &Op::ExpireIn { key: KEY, in_ms, condition });
    }
    let (first, second) = (bytes(&Op::IncrBy { key: KEY, delta: 1 }), bytes(&Op::Get { key: KEY }));
    let ops = [first.as_slice(), &second];
    let (guards, ops) = (List::Args(&GUARDS), List::Args(&ops));
    then("exec", &Op::Multi { guards, ops });
    then("exec-of-older-logs", &Op::MarkedMulti { guards, ops });
    then("exec-empty", &Op::Multi { guards: List::Args(&[]), ops: List::Args(&[]) });
}

type Fixtures = std::collections::BTreeMap<&'static str, Vec<u8>>;

fn fixtures(text: &'static str) -> Fixtures {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let named = lines.map(|line| line.split_once(' ').expect("a name and bytes"));
    named.map(|(name, hex)| (name, from_hex(hex))).collect()
}

/// Compares each operation with its fixture, the bytes that once were or now are written, and with what is written now.
fn compare(fixtures: &Fixtures, is_written: bool) {
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    every_op(|name, op| {
        let once = fixtures.get(name).unwrap_or_else(|| panic!("{name} has no fixture"));
        assert_eq!(bytes(op) == *once, is_written, "{name}");
        let read = Op::decode(once).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(op), "{name}");
        if is_written {
            // A list that was read is another than the one that was written, and equal in what it holds.
            assert_eq!(bytes(&read), *once, "{name}");
        } else if let (
            Op::Multi { guards, ops } | Op::MarkedMulti { guards, ops },
            Op::Multi { guards: wanted_guards, ops: wanted_ops }
            | Op::MarkedMulti { guards: wanted_guards, ops: wanted_ops },
        ) = (&read, op)
        {
            assert!(guards.iter().eq(wanted_guards.iter()), "{name}");
            let decoded = |op| Op::decode(op).unwrap();
            assert!(ops.iter().map(decoded).eq(wanted_ops.iter().map(decoded)), "{name}");
        } else {
            assert_eq!(bytes(&read), bytes(op), "{name}");
        }
        seen.borrow_mut().insert(name.to_owned());
    });
    assert!(seen.borrow().iter().eq(fixtures.keys()), "every fixture is read");
    let accepted = (0..=u16::MAX).map(u16::to_be_bytes).filter(|code| {
        let refused = Op::decode(code).err();
        refused.is_none_or(|error| error.0 == "it ends too early")
    });
    for code in accepted.filter(|[family, _]| (*family == 1) != is_written) {
        let is_held = fixtures.values().any(|bytes| bytes.starts_with(&code));
        assert!(is_held, "no fixture holds an operation of code {code:?}");
    }
}

#[test]
fn operations_of_version_1_are_read() {
    compare(&fixtures(include_str!("ops-1.txt")), false);
}

#[test]
fn operations_are_these_bytes() {
    compare(&fixtures(include_str!("ops-2.txt")), true);
}
