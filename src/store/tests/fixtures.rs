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

#[test]
fn operations_of_version_1() {
    let lines = include_str!("ops-1.txt").lines().filter(|line| !line.starts_with('#'));
    let fixtures: std::collections::BTreeMap<_, _> =
        lines.map(|line| line.split_once(' ').expect("a name and bytes")).collect();
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    every_op(|name, op| {
        let written = from_hex(fixtures.get(name).unwrap_or_else(|| panic!("{name} has no fixture")));
        assert_eq!(bytes(op), written, "{name}");
        let read = Op::decode(&written).unwrap_or_else(|error| panic!("{name}: {error}"));
        // A list that was read is another than the one that was written, and equal in what it holds.
        assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(op), "{name}");
        assert_eq!(bytes(&read), written, "{name}");
        seen.borrow_mut().insert(name.to_owned());
    });
    assert!(seen.borrow().iter().eq(fixtures.keys()), "every fixture is read");
    let codes = (0..=u8::MAX).filter(|code| {
        let refused = Op::decode(&[1, *code]).err();
        refused.is_none_or(|error| error.0 != "unknown operation")
    });
    for code in codes {
        let is_held = fixtures.values().any(|hex| from_hex(hex).get(1) == Some(&code));
        assert!(is_held, "no fixture holds an operation of code {code}");
    }
}
