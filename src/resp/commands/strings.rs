//! String commands: rows, and arguments to ops.

use super::super::errors::Refusal;
use super::args::{integer, is, is_float};
use super::{KeyRange, ROW, Request, Row, Run, Scope, key_range};
use crate::store::{Expiry, List, Op, SetReply, SetWhen};

type Planned<'a> = Result<Op<'a>, Refusal>;

const READ: KeyRange = key_range(1, 1, 1, "RO access");
const CHANGE: KeyRange = key_range(1, 1, 1, "RW access update");
const STRING: Row = Row { acl: "string", group: "string", ..ROW };
const ONE: Scope = Scope::OnePartition;

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "set", arity: -3, flags: "write denyoom", keys: key_range(1, 1, 1, "RW access update variable_flags"),
        summary: "Sets a key to a value, whatever it held; options make it conditional, return the old value, or set a time to live.",
        syntax: "key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
        run: Run::Op(set, ONE), ..STRING },
    Row { name: "get", arity: 2, flags: "readonly fast", keys: READ,
        summary: "Returns the value of a key.", syntax: "key", run: Run::Op(get, ONE), ..STRING },
    Row { name: "getdel", arity: 2, flags: "write fast", keys: key_range(1, 1, 1, "RW access delete"), since: "6.2.0",
        summary: "Returns the value of a key and deletes it.", syntax: "key", run: Run::Op(getdel, ONE), ..STRING },
    Row { name: "getex", arity: -2, flags: "write fast", keys: CHANGE, since: "6.2.0",
        summary: "Returns the value of a key and changes its time to live.",
        syntax: "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]",
        run: Run::Op(getex, ONE), ..STRING },
    Row { name: "getset", arity: 3, flags: "write denyoom fast", keys: CHANGE,
        summary: "Returns the old value of a key and sets it to a new one.", syntax: "key value", run: Run::Op(getset, ONE), ..STRING },
    Row { name: "setnx", arity: 3, flags: "write denyoom fast", keys: key_range(1, 1, 1, "OW insert"),
        summary: "Sets a key if it does not exist.", syntax: "key value", run: Run::Op(setnx, ONE), ..STRING },
    Row { name: "setex", arity: 4, flags: "write denyoom", keys: key_range(1, 1, 1, "OW update"), since: "2.0.0",
        summary: "Sets a key with a time to live in seconds.", syntax: "key seconds value", run: Run::Op(setex, ONE), ..STRING },
    Row { name: "psetex", arity: 4, flags: "write denyoom", keys: key_range(1, 1, 1, "OW update"), since: "2.6.0",
        summary: "Sets a key with a time to live in milliseconds.", syntax: "key milliseconds value", run: Run::Op(psetex, ONE), ..STRING },
    Row { name: "mget", arity: -2, flags: "readonly fast", keys: key_range(1, -1, 1, "RO access"), complexity: "O(N) with N keys",
        tips: "request_policy:multi_shard",
        summary: "Returns the values of several keys.", syntax: "key [key ...]", run: Run::Op(mget, Scope::SplitValues), ..STRING },
    Row { name: "mset", arity: -3, flags: "write denyoom", keys: key_range(1, -1, 2, "OW update"), since: "1.0.1", complexity: "O(N) with N keys",
        tips: "request_policy:multi_shard response_policy:all_succeeded",
        summary: "Sets several keys at once.", syntax: "key value [key value ...]", run: Run::Op(mset, ONE), ..STRING },
    Row { name: "msetnx", arity: -3, flags: "write denyoom", keys: key_range(1, -1, 2, "OW insert"), since: "1.0.1", complexity: "O(N) with N keys",
        tips: "request_policy:multi_shard response_policy:agg_min",
        summary: "Sets several keys at once, if none of them exists.", syntax: "key value [key value ...]", run: Run::Op(msetnx, ONE), ..STRING },
    Row { name: "append", arity: 3, flags: "write denyoom fast", keys: key_range(1, 1, 1, "RW insert"), since: "2.0.0", complexity: "O(N) with the new length",
        summary: "Appends to the value of a key, which is created if need be.", syntax: "key value", run: Run::Op(append, ONE), ..STRING },
    Row { name: "strlen", arity: 2, flags: "readonly fast", keys: key_range(1, 1, 1, "RO"), since: "2.2.0",
        summary: "Returns the length of a value.", syntax: "key", run: Run::Op(strlen, ONE), ..STRING },
    Row { name: "incr", arity: 2, flags: "write denyoom fast", keys: CHANGE,
        summary: "Increments the integer in a key by one; a missing one counts as 0.", syntax: "key", run: Run::Op(incr, ONE), ..STRING },
    Row { name: "decr", arity: 2, flags: "write denyoom fast", keys: CHANGE,
        summary: "Decrements the integer in a key by one; a missing one counts as 0.", syntax: "key", run: Run::Op(decr, ONE), ..STRING },
    Row { name: "incrby", arity: 3, flags: "write denyoom fast", keys: CHANGE,
        summary: "Increments the integer in a key; a missing one counts as 0.", syntax: "key increment", run: Run::Op(incrby, ONE), ..STRING },
    Row { name: "decrby", arity: 3, flags: "write denyoom fast", keys: CHANGE,
        summary: "Decrements the integer in a key; a missing one counts as 0.", syntax: "key decrement", run: Run::Op(decrby, ONE), ..STRING },
    Row { name: "incrbyfloat", arity: 3, flags: "write denyoom fast", keys: CHANGE, since: "2.6.0",
        summary: "Increments the floating-point number in a key; a missing one counts as 0.", syntax: "key increment", run: Run::Op(incrbyfloat, ONE), ..STRING },
    Row { name: "getrange", arity: 4, flags: "readonly", keys: READ, since: "2.4.0", complexity: "O(N) with the length answered",
        summary: "Returns a part of a value.", syntax: "key start end", run: Run::Op(getrange, ONE), ..STRING },
    Row { name: "setrange", arity: 4, flags: "write denyoom", keys: key_range(1, 1, 1, "RW update"), since: "2.2.0", complexity: "O(N) with the new length",
        summary: "Overwrites a part of a value, which is extended with zero bytes if need be.", syntax: "key offset value", run: Run::Op(setrange, ONE), ..STRING },
    Row { name: "substr", arity: 4, flags: "readonly", keys: READ, complexity: "O(N) with the length answered",
        summary: "Returns a part of a value: the old name of GETRANGE.", syntax: "key start end", run: Run::Op(getrange, ONE), ..STRING },
    Row { name: "lcs", arity: -3, flags: "readonly", keys: key_range(1, 2, 1, "RO access"), since: "7.0.0", complexity: "O(N*M) with the lengths of both values",
        summary: "Finds the longest common subsequence of two values.",
        syntax: "key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]", run: Run::Op(lcs, ONE), ..STRING },
];

fn get<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Get { key: request.arg(1) })
}

/// The time to live of an option such as `EX 10`: a relative one stays so, and counts from the entry's stamp.
///
/// # Errors
/// Redis's refusals.
pub fn expiry(request: &Request<'_>, option: &[u8], amount: &[u8]) -> Result<Expiry, Refusal> {
    let amount = integer(amount)?;
    let seconds = is(option, "EX") || is(option, "EXAT");
    let relative = is(option, "EX") || is(option, "PX");
    let bad = || Refusal::expire_time(request.name);
    if amount <= 0 {
        return Err(bad());
    }
    let ms = if seconds { amount.checked_mul(1000).ok_or_else(bad)? } else { amount };
    if !relative {
        return Ok(Expiry::At(ms as u64));
    }
    // As Redis, which counts from its clock, refuses what that clock could not reach.
    ms.checked_add(request.backend.now_ms() as i64).ok_or_else(bad)?;
    Ok(Expiry::In(ms as u64))
}

fn is_expiry(option: &[u8]) -> bool {
    ["EX", "PX", "EXAT", "PXAT"].iter().any(|name| is(option, name))
}

/// Whether an option is a time to live that may stand behind the one that was given before, if one was: the same again
/// replaces it, another contradicts it.
fn may_set_time(option: &[u8], before: Option<(&[u8], &[u8])>) -> bool {
    is_expiry(option) && before.is_none_or(|(other, _)| other.eq_ignore_ascii_case(option))
}

#[inline]
fn set<'a>(request: &Request<'a>) -> Planned<'a> {
    let (key, value) = (request.arg(1), request.arg(2));
    let options = request.from(3);
    if options.is_empty() {
        return Ok(Op::Set { key, value, when: SetWhen::Always, expiry: Expiry::Clear, reply: SetReply::Ok });
    }
    set_with_options(request, options)
}

fn set_with_options<'a>(request: &Request<'a>, mut options: &'a [&'a [u8]]) -> Planned<'a> {
    let mut when = SetWhen::Always;
    let mut chosen_expiry = None;
    let mut time: Option<(&[u8], &[u8])> = None;
    let mut reply = SetReply::Ok;
    while let Some((&option, rest)) = options.split_first() {
        options = rest;
        let unconditional = matches!(when, SetWhen::Always);
        if is(option, "NX") && (unconditional || when == SetWhen::Absent) {
            when = SetWhen::Absent;
        } else if is(option, "XX") && (unconditional || when == SetWhen::Present) {
            when = SetWhen::Present;
        } else if is(option, "GET") {
            reply = SetReply::Old;
        } else if is(option, "KEEPTTL")
            && chosen_expiry.is_none_or(|chosen| chosen == Expiry::Keep)
            && time.is_none()
        {
            chosen_expiry = Some(Expiry::Keep);
        } else if let Some((&argument, rest)) = rest.split_first() {
            options = rest;
            if is(option, "IFEQ") && unconditional {
                when = SetWhen::Equals(argument);
            } else if may_set_time(option, time) && chosen_expiry.is_none() {
                time = Some((option, argument));
            } else {
                return Err(Refusal::SYNTAX);
            }
        } else {
            return Err(Refusal::SYNTAX);
        }
    }
    let expiry = match time {
        Some((option, amount)) => expiry(request, option, amount)?,
        None => chosen_expiry.unwrap_or(Expiry::Clear),
    };
    Ok(Op::Set { key: request.arg(1), value: request.arg(2), when, expiry, reply })
}

fn getdel<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::GetDel { key: request.arg(1) })
}

fn getex<'a>(request: &Request<'a>) -> Planned<'a> {
    let key = request.arg(1);
    let (mut persist, mut time) = (false, None);
    let mut options = request.from(2);
    while let Some((&option, rest)) = options.split_first() {
        if is(option, "PERSIST") && time.is_none() {
            persist = true;
            options = rest;
        } else if let Some((&amount, rest)) = rest.split_first()
            && !persist
            && may_set_time(option, time)
        {
            time = Some((option, amount));
            options = rest;
        } else {
            return Err(Refusal::SYNTAX);
        }
    }
    match time {
        Some((option, amount)) => Ok(Op::GetEx { key, expiry: expiry(request, option, amount)? }),
        None if persist => Ok(Op::GetEx { key, expiry: Expiry::Clear }),
        None => Ok(Op::Get { key }),
    }
}

fn plain_set<'a>(request: &Request<'a>, when: SetWhen<'a>, reply: SetReply) -> Planned<'a> {
    Ok(Op::Set { key: request.arg(1), value: request.arg(2), when, expiry: Expiry::Clear, reply })
}

fn getset<'a>(request: &Request<'a>) -> Planned<'a> {
    plain_set(request, SetWhen::Always, SetReply::Old)
}

fn setnx<'a>(request: &Request<'a>) -> Planned<'a> {
    plain_set(request, SetWhen::Absent, SetReply::Done)
}

fn set_for<'a>(request: &Request<'a>, unit: &[u8]) -> Planned<'a> {
    let expiry = expiry(request, unit, request.arg(2))?;
    Ok(Op::Set {
        key: request.arg(1),
        value: request.arg(3),
        when: SetWhen::Always,
        expiry,
        reply: SetReply::Ok,
    })
}

fn setex<'a>(request: &Request<'a>) -> Planned<'a> {
    set_for(request, b"EX")
}

fn psetex<'a>(request: &Request<'a>) -> Planned<'a> {
    set_for(request, b"PX")
}

fn mget<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::MGet { keys: List::Args(request.from(1)) })
}

fn pairs<'a>(request: &Request<'a>, only_if_none: bool) -> Planned<'a> {
    if request.args.len().is_multiple_of(2) {
        return Err(Refusal::arity(request.name));
    }
    Ok(Op::MSet { pairs: List::Args(request.from(1)), only_if_none })
}

fn mset<'a>(request: &Request<'a>) -> Planned<'a> {
    pairs(request, false)
}

fn msetnx<'a>(request: &Request<'a>) -> Planned<'a> {
    pairs(request, true)
}

fn append<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::Append { key: request.arg(1), value: request.arg(2) })
}

fn strlen<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::StrLen { key: request.arg(1) })
}

fn incr<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::IncrBy { key: request.arg(1), delta: 1 })
}

fn decr<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::IncrBy { key: request.arg(1), delta: -1 })
}

fn incrby<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::IncrBy { key: request.arg(1), delta: integer(request.arg(2))? })
}

fn decrby<'a>(request: &Request<'a>) -> Planned<'a> {
    let overflow = Refusal::new("ERR decrement would overflow");
    let delta = integer(request.arg(2))?.checked_neg().ok_or(overflow)?;
    Ok(Op::IncrBy { key: request.arg(1), delta })
}

fn incrbyfloat<'a>(request: &Request<'a>) -> Planned<'a> {
    // Infinity too: whether the key holds a number comes first.
    if is_float(request.arg(2)) {
        Ok(Op::IncrByFloat { key: request.arg(1), delta: request.arg(2) })
    } else {
        Err(Refusal::NOT_FLOAT)
    }
}

fn getrange<'a>(request: &Request<'a>) -> Planned<'a> {
    Ok(Op::GetRange { key: request.arg(1), start: integer(request.arg(2))?, end: integer(request.arg(3))? })
}

fn setrange<'a>(request: &Request<'a>) -> Planned<'a> {
    let offset =
        u64::try_from(integer(request.arg(2))?).map_err(|_| Refusal::new("ERR offset is out of range"))?;
    Ok(Op::SetRange { key: request.arg(1), offset, value: request.arg(3) })
}

fn lcs<'a>(request: &Request<'a>) -> Planned<'a> {
    let (mut len, mut idx, mut with_match_len, mut min_match_len) = (false, false, false, 0);
    let mut options = request.from(3);
    while let Some((option, rest)) = options.split_first() {
        options = rest;
        if is(option, "LEN") {
            len = true;
        } else if is(option, "IDX") {
            idx = true;
        } else if is(option, "WITHMATCHLEN") {
            with_match_len = true;
        } else if let (true, Some((amount, rest))) = (is(option, "MINMATCHLEN"), rest.split_first()) {
            options = rest;
            min_match_len = integer(amount)?.max(0) as u64;
        } else {
            return Err(Refusal::SYNTAX);
        }
    }
    if len && idx {
        return Err(Refusal::new("ERR If you want both the length and indexes, please just use IDX."));
    }
    Ok(Op::Lcs { a: request.arg(1), b: request.arg(2), len, idx, min_match_len, with_match_len })
}
