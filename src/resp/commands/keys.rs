//! Commands on keys of any type, and on the whole keyspace: rows, and arguments to ops.

use super::super::errors::Refusal;
use super::args::{integer, is, only_database};
use super::{Call, KeyRange, ROW, Request, Row, Run, Scope, key_range};
use crate::store::{Condition, List, Op};

type Planned<'a> = Result<Op<'a>, Refusal>;

const READ: KeyRange = key_range(1, 1, 1, "RO access");
const LOOK: KeyRange = key_range(1, 1, 1, "RO");
const LOOK_ALL: KeyRange = key_range(1, -1, 1, "RO");
const REMOVE: KeyRange = key_range(1, -1, 1, "RM delete");
const UPDATE: KeyRange = key_range(1, 1, 1, "RW update");
const MOVE_OVER: KeyRange = key_range(1, 2, 1, "RW access delete|OW update");
const MOVE_TO_FREE: KeyRange = key_range(1, 2, 1, "RW access delete|OW insert");
const COPY: KeyRange = key_range(1, 2, 1, "RO access|OW update");
const SUB: KeyRange = key_range(2, 2, 1, "RO");
const KEY: Row = Row { acl: "keyspace", group: "generic", ..ROW };
const OBJECT: Row = Row { since: "2.2.3", ..KEY };
const ONE: Scope = Scope::OnePartition;
const SUM: &str = "request_policy:multi_shard response_policy:agg_sum";
const N: &str = "O(N) with N keys";

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "del", arity: -2, flags: "write", keys: REMOVE, complexity: N, tips: SUM,
        summary: "Deletes keys and returns how many there were.", syntax: "key [key ...]", run: Run::Op(del, Scope::SplitSum), ..KEY },
    Row { name: "unlink", arity: -2, flags: "write fast", keys: REMOVE, since: "4.0.0", complexity: N, tips: SUM,
        summary: "Deletes keys and returns how many there were.", syntax: "key [key ...]", run: Run::Op(del, Scope::SplitSum), ..KEY },
    Row { name: "exists", arity: -2, flags: "readonly fast", keys: LOOK_ALL, complexity: N, tips: SUM,
        summary: "Returns how many of the keys exist, repeated ones counted repeatedly.", syntax: "key [key ...]", run: Run::Op(exists, Scope::SplitSum), ..KEY },
    Row { name: "touch", arity: -2, flags: "readonly fast", keys: LOOK_ALL, since: "3.2.1", complexity: N, tips: SUM,
        summary: "Returns how many of the keys exist.", syntax: "key [key ...]", run: Run::Op(exists, Scope::SplitSum), ..KEY },
    Row { name: "type", arity: 2, flags: "readonly fast", keys: LOOK,
        summary: "Returns the type of the value in a key.", syntax: "key", run: Run::Op(kind, ONE), ..KEY },
    Row { name: "keys", arity: 2, flags: "readonly", acl: "keyspace dangerous", complexity: "O(N) with all keys",
        tips: "request_policy:all_shards nondeterministic_output_order",
        summary: "Returns all keys that match a glob pattern.", syntax: "pattern", run: Run::Op(keys, Scope::WholeJoined), ..KEY },
    Row { name: "scan", arity: -2, flags: "readonly", since: "2.8.0", complexity: "O(1) a call, O(N) for the whole iteration",
        tips: "nondeterministic_output request_policy:special",
        summary: "Iterates over the keys, a page a call.", syntax: "cursor [MATCH pattern] [COUNT count] [TYPE type]", run: Run::Op(scan, Scope::Scan), ..KEY },
    Row { name: "randomkey", arity: 1, flags: "readonly", tips: "request_policy:all_shards nondeterministic_output",
        summary: "Returns any key.", run: Run::Op(randomkey, Scope::WholeOne), ..KEY },
    Row { name: "rename", arity: 3, flags: "write", keys: MOVE_OVER,
        summary: "Renames a key, over another if there is one.", syntax: "key newkey", run: Run::Op(rename, ONE), ..KEY },
    Row { name: "renamenx", arity: 3, flags: "write fast", keys: MOVE_TO_FREE,
        summary: "Renames a key if the new name is free.", syntax: "key newkey", run: Run::Op(renamenx, ONE), ..KEY },
    Row { name: "copy", arity: -3, flags: "write denyoom", keys: COPY, since: "6.2.0", complexity: "O(N) with the length of the value",
        summary: "Copies the value and time to live of a key to another.", syntax: "source destination [DB destination-db] [REPLACE]", run: Run::Op(copy, ONE), ..KEY },
    Row { name: "expire", arity: -3, flags: "write fast", keys: UPDATE,
        summary: "Sets the time to live of a key in seconds.", syntax: "key seconds [NX|XX|GT|LT]", run: Run::Op(expire, ONE), ..KEY },
    Row { name: "pexpire", arity: -3, flags: "write fast", keys: UPDATE, since: "2.6.0",
        summary: "Sets the time to live of a key in milliseconds.", syntax: "key milliseconds [NX|XX|GT|LT]", run: Run::Op(pexpire, ONE), ..KEY },
    Row { name: "expireat", arity: -3, flags: "write fast", keys: UPDATE, since: "1.2.0",
        summary: "Sets the time when a key expires, in seconds since 1970.", syntax: "key unix-time-seconds [NX|XX|GT|LT]", run: Run::Op(expireat, ONE), ..KEY },
    Row { name: "pexpireat", arity: -3, flags: "write fast", keys: UPDATE, since: "2.6.0",
        summary: "Sets the time when a key expires, in milliseconds since 1970.", syntax: "key unix-time-milliseconds [NX|XX|GT|LT]", run: Run::Op(pexpireat, ONE), ..KEY },
    Row { name: "ttl", arity: 2, flags: "readonly fast", keys: READ, tips: "nondeterministic_output",
        summary: "Returns the time to live of a key in seconds; -1 none, -2 no key.", syntax: "key", run: Run::Op(ttl, ONE), ..KEY },
    Row { name: "pttl", arity: 2, flags: "readonly fast", keys: READ, since: "2.6.0", tips: "nondeterministic_output",
        summary: "Returns the time to live of a key in milliseconds; -1 none, -2 no key.", syntax: "key", run: Run::Op(pttl, ONE), ..KEY },
    Row { name: "expiretime", arity: 2, flags: "readonly fast", keys: READ, since: "7.0.0",
        summary: "Returns when a key expires, in seconds since 1970; -1 never, -2 no key.", syntax: "key", run: Run::Op(expiretime, ONE), ..KEY },
    Row { name: "pexpiretime", arity: 2, flags: "readonly fast", keys: READ, since: "7.0.0",
        summary: "Returns when a key expires, in milliseconds since 1970; -1 never, -2 no key.", syntax: "key", run: Run::Op(pexpiretime, ONE), ..KEY },
    Row { name: "persist", arity: 2, flags: "write fast", keys: UPDATE, since: "2.2.0",
        summary: "Removes the time to live of a key.", syntax: "key", run: Run::Op(persist, ONE), ..KEY },
    Row { name: "object", arity: -2, acl: "", complexity: "Depends on subcommand.", summary: "A container for commands about how a value is kept.", run: Run::Subcommands(&[
        Row { name: "encoding", arity: 3, flags: "readonly", keys: SUB, tips: "nondeterministic_output",
            summary: "Returns the name of a value's encoding.", syntax: "key", run: Run::Op(encoding, ONE), ..OBJECT },
        Row { name: "refcount", arity: 3, flags: "readonly", keys: SUB, tips: "nondeterministic_output",
            summary: "Returns 1 if the key exists: values are never shared.", syntax: "key", run: Run::Op(refcount, ONE), ..OBJECT },
        Row { name: "freq", arity: 3, flags: "readonly", keys: SUB, since: "4.0.0", tips: "nondeterministic_output",
            summary: "Returns an error: access frequencies are not tracked.", syntax: "key", run: Run::Local(freq), ..OBJECT },
        Row { name: "idletime", arity: 3, flags: "readonly", keys: SUB, tips: "nondeterministic_output",
            summary: "Returns an error: idle times are not tracked.", syntax: "key", run: Run::Local(idletime), ..OBJECT },
        Row { name: "help", arity: 2, flags: "loading stale", since: "6.2.0",
            summary: "Returns a text about the subcommands.", run: Run::Local(super::introspection::help), ..OBJECT },
    ]), ..OBJECT },
    Row { name: "dbsize", arity: 1, flags: "readonly fast", group: "server", tips: "request_policy:all_shards response_policy:agg_sum",
        summary: "Returns the number of keys.", run: Run::Op(dbsize, Scope::WholeSum), ..KEY },
    Row { name: "flushdb", arity: -1, flags: "write", acl: "keyspace dangerous", group: "server", tips: "request_policy:all_shards response_policy:all_succeeded",
        summary: "Removes all keys.", syntax: "[ASYNC|SYNC]", run: Run::Op(flush, Scope::WholeOk), ..KEY },
    Row { name: "flushall", arity: -1, flags: "write", acl: "keyspace dangerous", group: "server", tips: "request_policy:all_shards response_policy:all_succeeded",
        summary: "Removes all keys.", syntax: "[ASYNC|SYNC]", run: Run::Op(flush, Scope::WholeOk), ..KEY },
];

/// MEMORY USAGE, whose row stands with its siblings in [`super::server`].
pub(super) fn memory_usage<'a>(request: &Request<'a>) -> Planned<'a> {
    for option in request.from(3).chunks(2) {
        match option {
            [option, samples] if is(option, "SAMPLES") && integer(samples)? >= 0 => {}
            _ => return Err(Refusal::SYNTAX),
        }
    }
    Ok(Op::MemoryUsage { key: request.arg(2) })
}

fn del<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Del { keys: List::Args(request.from(1)) })
}

fn exists<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Exists { keys: List::Args(request.from(1)) })
}

fn kind<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Type { key: request.arg(1) })
}

fn keys<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Keys { pattern: request.arg(1) })
}

/// A cursor as C's `strtoul` reads it: nothing is 0, a minus sign wraps around, and a zero byte ends it.
fn cursor(text: &[u8]) -> Option<u64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0);
    }
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let number: u64 =
        std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?.parse().ok()?;
    Some(if negative { number.wrapping_neg() } else { number })
}

fn scan<'a>(request: &Request<'a>) -> Planned<'a> {
    let cursor = cursor(request.arg(1)).ok_or(Refusal::new("ERR invalid cursor"))?;
    let (mut count, mut pattern, mut kind) = (10, None, None);
    let mut options = request.from(2);
    while let Some((option, rest)) = options.split_first() {
        let (argument, rest) = rest.split_first().ok_or(Refusal::SYNTAX)?;
        options = rest;
        if is(option, "COUNT") {
            let wanted = integer(argument)?;
            if wanted < 1 {
                return Err(Refusal::SYNTAX);
            }
            count = wanted as u64;
        } else if is(option, "MATCH") {
            pattern = (*argument != b"*").then_some(*argument);
        } else if is(option, "TYPE") {
            kind = Some(*argument);
        } else {
            return Err(Refusal::SYNTAX);
        }
    }
    Ok(Op::Scan { cursor, count, pattern, kind })
}

fn randomkey<'a>(request: &Request<'a>) -> Planned<'a> {
    // The clock's low bits pick; multiplied, so that neighbouring readings lie far apart.
    Ok(Op::RandomKey { seed: request.backend.mono_ns().wrapping_mul(0x9E37_79B9_7F4A_7C15) })
}

fn rename<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Rename { from: request.arg(1), to: request.arg(2), only_if_none: false })
}

fn renamenx<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Rename { from: request.arg(1), to: request.arg(2), only_if_none: true })
}

fn copy<'a>(request: &Request<'a>) -> Planned<'a> {
    let mut replace = false;
    let mut options = request.from(3);
    while let Some((option, rest)) = options.split_first() {
        options = rest;
        if is(option, "REPLACE") {
            replace = true;
        } else if let (true, Some((db, rest))) = (is(option, "DB"), rest.split_first()) {
            options = rest;
            only_database(db)?;
        } else {
            return Err(Refusal::SYNTAX);
        }
    }
    if request.arg(1) == request.arg(2) {
        return Err(Refusal::new("ERR source and destination objects are the same"));
    }
    Ok(Op::Copy { from: request.arg(1), to: request.arg(2), replace })
}

fn expire_condition(options: &[&[u8]]) -> Result<Condition, Refusal> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in options {
        let known = [("NX", &mut nx), ("XX", &mut xx), ("GT", &mut gt), ("LT", &mut lt)];
        match known.into_iter().find(|(name, _)| is(option, name)) {
            Some((_, chosen)) => *chosen = true,
            None => {
                return Err(Refusal::quoting("ERR Unsupported option ", option, ""));
            }
        }
    }
    match (nx, xx, gt, lt) {
        (true, true, ..) | (true, _, true, _) | (true, _, _, true) => {
            Err(Refusal::new("ERR NX and XX, GT or LT options at the same time are not compatible"))
        }
        (_, _, true, true) => Err(Refusal::new("ERR GT and LT options at the same time are not compatible")),
        (true, ..) => Ok(Condition::NoExpiry),
        (_, true, true, _) => Ok(Condition::HasAndLater),
        (_, true, _, true) => Ok(Condition::HasAndSooner),
        (_, true, ..) => Ok(Condition::HasExpiry),
        (_, _, true, _) => Ok(Condition::Later),
        (_, _, _, true) => Ok(Condition::Sooner),
        _ => Ok(Condition::Always),
    }
}

fn expire_at<'a>(request: &Request<'a>, seconds: bool, relative: bool) -> Planned<'a> {
    let condition = expire_condition(request.from(3))?;
    let amount = integer(request.arg(2))?;
    let bad = || Refusal::expire_time(request.name);
    let ms = if seconds { amount.checked_mul(1000).ok_or_else(bad)? } else { amount };
    let key = request.arg(1);
    if !relative {
        return Ok(Op::Expire { key, at_ms: ms, condition });
    }
    // As Redis, which counts from its clock, refuses what that clock could not reach.
    ms.checked_add(request.backend.now_ms() as i64).ok_or_else(bad)?;
    Ok(Op::ExpireIn { key, in_ms: ms, condition })
}

fn expire<'a>(request: &Request<'a>) -> Planned<'a> {
    expire_at(request, true, true)
}

fn pexpire<'a>(request: &Request<'a>) -> Planned<'a> {
    expire_at(request, false, true)
}

fn expireat<'a>(request: &Request<'a>) -> Planned<'a> {
    expire_at(request, true, false)
}

fn pexpireat<'a>(request: &Request<'a>) -> Planned<'a> {
    expire_at(request, false, false)
}

fn ttl<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Ttl { key: request.arg(1), absolute: false, seconds: true })
}

fn pttl<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Ttl { key: request.arg(1), absolute: false, seconds: false })
}

fn expiretime<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Ttl { key: request.arg(1), absolute: true, seconds: true })
}

fn pexpiretime<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Ttl { key: request.arg(1), absolute: true, seconds: false })
}

fn persist<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Persist { key: request.arg(1) })
}

fn encoding<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::ObjectEncoding { key: request.arg(2) })
}

fn refcount<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::ObjectRefcount { key: request.arg(2) })
}

fn freq(call: &mut Call<'_>) {
    call.out.error(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
         between policies at runtime LRU and LFU data will take some time to adjust.",
    );
}

fn idletime(call: &mut Call<'_>) {
    call.out.error("ERR idle time is not tracked: no key is ever evicted");
}

fn dbsize<'a>(_: &Request<'a>) -> Planned<'a> {
    Ok(Op::DbSize)
}

fn flush<'a>(request: &Request<'a>) -> Planned<'a> {
    match request.from(1) {
        [] => Ok(Op::Flush),
        [option] if is(option, "ASYNC") || is(option, "SYNC") => Ok(Op::Flush),
        _ => Err(Refusal::SYNTAX),
    }
}
