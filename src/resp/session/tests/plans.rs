//! What is submitted for each command and each of its options, and what is refused before.

use super::*;
use crate::store::{Condition, Expiry, List, SetReply, SetWhen};

fn submitted(talk: &Talk) -> Vec<Vec<u8>> {
    talk.fake.submitted.borrow_mut().drain(..).map(|submitted| submitted.op).collect()
}

#[track_caller]
fn plan(line: &str, op: &Op<'_>) {
    let mut talk = Talk::new(1);
    talk.fake.in_memory.set(false);
    talk.session.input(format!("{line}\r\n").as_bytes(), &talk.fake);
    let mut expected = Vec::new();
    op.encode(&mut expected);
    assert_eq!(
        submitted(&talk),
        [expected],
        "{line}: {:?}",
        String::from_utf8_lossy(&talk.session.output().to_vec())
    );
}

#[track_caller]
fn refuse(line: &str, error: &str) {
    let mut talk = Talk::new(1);
    talk.check(line, &format!("-{error}~"));
    assert!(submitted(&talk).is_empty());
}

const K: &[u8] = b"k";
const V: &[u8] = b"v";

fn set(when: SetWhen<'static>, expiry: Expiry, reply: SetReply) -> Op<'static> {
    Op::Set { key: K, value: V, when, expiry, reply }
}

#[test]
fn set_and_its_options() {
    use Expiry::{At, Clear, In, Keep};
    use SetWhen::{Absent, Always, Equals, Present};
    plan("SET k v", &set(Always, Clear, SetReply::Ok));
    plan("SET k v NX", &set(Absent, Clear, SetReply::Ok));
    plan("set k v xx keepttl", &set(Present, Keep, SetReply::Ok));
    plan("SET k v GET NX", &set(Absent, Clear, SetReply::Old));
    plan("SET k v IFEQ old GET", &set(Equals(b"old"), Clear, SetReply::Old));
    plan("SET k v EX 10", &set(Always, In(10_000), SetReply::Ok));
    plan("SET k v PX 10 XX", &set(Present, In(10), SetReply::Ok));
    plan("SET k v EXAT 10", &set(Always, At(10_000), SetReply::Ok));
    plan("SET k v PXAT 10", &set(Always, At(10), SetReply::Ok));
    plan("SETNX k v", &set(Absent, Clear, SetReply::Done));
    plan("SETEX k 5 v", &set(Always, In(5_000), SetReply::Ok));
    plan("PSETEX k 5 v", &set(Always, In(5), SetReply::Ok));
    plan("GETSET k v", &set(Always, Clear, SetReply::Old));
    for line in [
        "NX XX",
        "XX NX",
        "EX",
        "EX 1 PX 1",
        "KEEPTTL EX 1",
        "EX 1 KEEPTTL",
        "FOO",
        "IFEQ",
        "NX IFEQ x",
        "IFEQ x NX",
    ] {
        refuse(&format!("SET k v {line}"), "ERR syntax error");
    }
    for amount in ["0", "-1", "9223372036854775807", "9223372036854775"] {
        refuse(&format!("SET k v EX {amount}"), "ERR invalid expire time in 'set' command");
    }
    refuse("SET k v PX 9223372036854775807", "ERR invalid expire time in 'set' command");
    refuse("SET k v EX x", "ERR value is not an integer or out of range");
    refuse("SETEX k 0 v", "ERR invalid expire time in 'setex' command");
    refuse("PSETEX k -5 v", "ERR invalid expire time in 'psetex' command");
    refuse("SETEX k x v", "ERR value is not an integer or out of range");
    refuse("SET k", "ERR wrong number of arguments for 'set' command");
}

#[test]
fn strings() {
    plan("GET k", &Op::Get { key: K });
    plan("GETDEL k", &Op::GetDel { key: K });
    plan("GETEX k", &Op::Get { key: K });
    plan("GETEX k PERSIST", &Op::GetEx { key: K, expiry: Expiry::Clear });
    plan("GETEX k EX 1", &Op::GetEx { key: K, expiry: Expiry::In(1000) });
    plan("GETEX k PXAT 7", &Op::GetEx { key: K, expiry: Expiry::At(7) });
    plan("MGET k v", &Op::MGet { keys: List::Args(&[K, V]) });
    plan("MSET k v", &Op::MSet { pairs: List::Args(&[K, V]), only_if_none: false });
    plan("MSETNX k v", &Op::MSet { pairs: List::Args(&[K, V]), only_if_none: true });
    plan("APPEND k v", &Op::Append { key: K, value: V });
    plan("STRLEN k", &Op::StrLen { key: K });
    plan("INCR k", &Op::IncrBy { key: K, delta: 1 });
    plan("DECR k", &Op::IncrBy { key: K, delta: -1 });
    plan("INCRBY k -7", &Op::IncrBy { key: K, delta: -7 });
    plan("DECRBY k 7", &Op::IncrBy { key: K, delta: -7 });
    plan("INCRBYFLOAT k 1.5e3", &Op::IncrByFloat { key: K, delta: b"1.5e3" });
    plan("INCRBYFLOAT k -inf", &Op::IncrByFloat { key: K, delta: b"-inf" });
    plan("GETRANGE k 0 -1", &Op::GetRange { key: K, start: 0, end: -1 });
    plan("SUBSTR k 1 2", &Op::GetRange { key: K, start: 1, end: 2 });
    plan("SETRANGE k 3 v", &Op::SetRange { key: K, offset: 3, value: V });
    let lcs = |len, idx, min_match_len, with_match_len| Op::Lcs {
        a: K,
        b: V,
        len,
        idx,
        min_match_len,
        with_match_len,
    };
    plan("LCS k v", &lcs(false, false, 0, false));
    plan("LCS k v LEN", &lcs(true, false, 0, false));
    plan("LCS k v IDX MINMATCHLEN 4 WITHMATCHLEN", &lcs(false, true, 4, true));
    plan("LCS k v MINMATCHLEN -4", &lcs(false, false, 0, false));
}

#[test]
fn strings_refused() {
    refuse("GET", "ERR wrong number of arguments for 'get' command");
    refuse("GET a b", "ERR wrong number of arguments for 'get' command");
    refuse("GETEX k EX", "ERR syntax error");
    refuse("GETEX k EX 1 PERSIST", "ERR syntax error");
    refuse("GETEX k EX 0", "ERR invalid expire time in 'getex' command");
    refuse("MSET k", "ERR wrong number of arguments for 'mset' command");
    refuse("MSET k v x", "ERR wrong number of arguments for 'mset' command");
    refuse("MSETNX k v x", "ERR wrong number of arguments for 'msetnx' command");
    refuse("INCRBY k x", "ERR value is not an integer or out of range");
    refuse("DECRBY k -9223372036854775808", "ERR decrement would overflow");
    refuse("INCRBYFLOAT k x", "ERR value is not a valid float");
    refuse("GETRANGE k a 1", "ERR value is not an integer or out of range");
    refuse("SETRANGE k -1 v", "ERR offset is out of range");
    refuse("LCS k v LEN IDX", "ERR If you want both the length and indexes, please just use IDX.");
    refuse("LCS k v MINMATCHLEN", "ERR syntax error");
}

#[test]
fn keys() {
    let keys = List::Args(&[K, V]);
    plan("DEL k v", &Op::Del { keys });
    plan("UNLINK k v", &Op::Del { keys });
    plan("EXISTS k v", &Op::Exists { keys });
    plan("TOUCH k v", &Op::Exists { keys });
    plan("TYPE k", &Op::Type { key: K });
    plan("KEYS a*", &Op::Keys { pattern: b"a*" });
    plan("SCAN 5", &Op::Scan { cursor: 5, count: 10, pattern: None, kind: None });
    plan(
        "SCAN 0 MATCH a* COUNT 7 TYPE string",
        &Op::Scan { cursor: 0, count: 7, pattern: Some(b"a*"), kind: Some(b"string") },
    );
    plan("RENAME k v", &Op::Rename { from: K, to: V, only_if_none: false });
    plan("RENAMENX k v", &Op::Rename { from: K, to: V, only_if_none: true });
    plan("COPY k v", &Op::Copy { from: K, to: V, replace: false });
    plan("COPY k v DB 0 REPLACE", &Op::Copy { from: K, to: V, replace: true });
    plan("PERSIST k", &Op::Persist { key: K });
    plan("OBJECT ENCODING k", &Op::ObjectEncoding { key: K });
    plan("OBJECT REFCOUNT k", &Op::ObjectRefcount { key: K });
    plan("MEMORY USAGE k", &Op::MemoryUsage { key: K });
    plan("MEMORY USAGE k SAMPLES 5", &Op::MemoryUsage { key: K });
    plan("DBSIZE", &Op::DbSize);
    plan("FLUSHALL", &Op::Flush);
    plan("FLUSHDB async", &Op::Flush);
    plan("RANDOMKEY", &Op::RandomKey { seed: 0 });
}

#[test]
fn times_to_live() {
    let expire = |at_ms, condition| Op::Expire { key: K, at_ms, condition };
    let expire_in = |in_ms, condition| Op::ExpireIn { key: K, in_ms, condition };
    plan("EXPIRE k 10", &expire_in(10_000, Condition::Always));
    plan("EXPIRE k -10", &expire_in(-10_000, Condition::Always));
    plan("PEXPIRE k 10 NX", &expire_in(10, Condition::NoExpiry));
    plan("EXPIREAT k 10 XX", &expire(10_000, Condition::HasExpiry));
    plan("PEXPIREAT k 10 gt", &expire(10, Condition::Later));
    plan("PEXPIREAT k 10 LT", &expire(10, Condition::Sooner));
    plan("PEXPIREAT k 10 XX GT", &expire(10, Condition::HasAndLater));
    plan("PEXPIREAT k 10 LT XX", &expire(10, Condition::HasAndSooner));
    let ttl = |absolute, seconds| Op::Ttl { key: K, absolute, seconds };
    plan("TTL k", &ttl(false, true));
    plan("PTTL k", &ttl(false, false));
    plan("EXPIRETIME k", &ttl(true, true));
    plan("PEXPIRETIME k", &ttl(true, false));
    refuse("EXPIRE k x", "ERR value is not an integer or out of range");
    refuse("EXPIRE k 9223372036854775807", "ERR invalid expire time in 'expire' command");
    refuse("PEXPIRE k 9223372036854775807", "ERR invalid expire time in 'pexpire' command");
    refuse("EXPIRE k 1 FOO", "ERR Unsupported option FOO");
    refuse("EXPIRE k 1 NX XX", "ERR NX and XX, GT or LT options at the same time are not compatible");
    refuse("EXPIRE k 1 GT LT", "ERR GT and LT options at the same time are not compatible");
}

#[test]
fn keys_refused() {
    refuse("SCAN x", "ERR invalid cursor");
    refuse("SCAN 0 COUNT 0", "ERR syntax error");
    refuse("SCAN 0 COUNT x", "ERR value is not an integer or out of range");
    refuse("SCAN 0 MATCH", "ERR syntax error");
    refuse("SCAN 0 FOO x", "ERR syntax error");
    refuse("COPY k k", "ERR source and destination objects are the same");
    refuse("COPY k v DB 1", "ERR DB index is out of range");
    refuse("COPY k v FOO", "ERR syntax error");
    refuse("FLUSHALL FOO", "ERR syntax error");
    refuse("MEMORY USAGE k SAMPLES", "ERR syntax error");
    refuse("OBJECT IDLETIME k", "ERR idle time is not tracked: no key is ever evicted");
    refuse("OBJECT FOO k", "ERR unknown subcommand 'FOO'. Try OBJECT HELP.");
    refuse("DEBUG SLEEP 1", "ERR DEBUG is not supported: it would break the promises that this server makes");
}
