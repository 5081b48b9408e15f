//! Errors as clients see them: one table of prefixes, and the text of each. Clients match on these: they are an API.
//!
//! Invariant: a prefix that makes client libraries send again by themselves (CLUSTERDOWN, LOADING, TRYAGAIN, MOVED, ASK) is
//! only given to requests that were certainly never appended to a log.

use std::borrow::Cow;

use corduroy_shards::Rejection;

use super::backend::ClientNode;
use crate::store::ErrorKind;

/// One error prefix: what it says about the request.
#[derive(Clone, Copy, Debug)]
pub struct ErrorPrefix {
    /// The first word of the error.
    pub prefix: &'static str,
    /// When it is given.
    pub when: &'static str,
    /// Whether sending the request again is safe, and when.
    pub retry: &'static str,
}

const fn prefix(prefix: &'static str, when: &'static str, retry: &'static str) -> ErrorPrefix {
    ErrorPrefix { prefix, when, retry }
}

/// All prefixes. The README shows this table.
pub const PREFIXES: &[ErrorPrefix] = &[
    prefix(
        "ERR",
        "the request is wrong: syntax, type, range, unknown command",
        "no use: it fails again; nothing was done",
    ),
    prefix(
        "UNKNOWNRESULT",
        "the request was logged, its result is not known",
        "only if doing it twice is harmless: read first",
    ),
    prefix("CLUSTERDOWN", "no leader in time; never appended", "yes, nothing was done"),
    prefix(
        "MOVED",
        "another node leads the partition: the hash slot and the node's address follow; never appended",
        "yes, there: cluster clients do it by themselves",
    ),
    prefix(
        "OVERLOADED",
        "a queue is full, or too many wrong passwords came; never appended",
        "yes, after a pause",
    ),
    prefix(
        "DISKFULL",
        "no space for the log or the state; never appended",
        "yes, once there is space; reads and deletes work",
    ),
    prefix(
        "REFUSED",
        "a change of who belongs to a partition's group, or a transfer of its lead, cannot be made now; the reason is named",
        "yes, once the reason does not hold any more: what was done is not done again",
    ),
    prefix("ABORTED", "the entry was seen to be replaced by another leader's", "yes, nothing was done"),
    prefix(
        "STOPPED",
        "the partition's replica here is fenced or stopping; never appended",
        "yes, later or elsewhere",
    ),
    prefix(
        "DAMAGED",
        "a file that the request needs is damaged on this disk; the partition and the file are named",
        "no use until the file is restored; nothing was done, and other keys are served",
    ),
    prefix(
        "IOERR",
        "the system refused to read a file that the request needs, or to write the state; the file is named, nothing was done",
        "yes, after a pause",
    ),
    prefix("TOOLARGE", "the request is larger than an entry may be", "no use: split it"),
    prefix("CROSSSLOT", "the keys live in several partitions", "no use: give them one hash tag"),
    prefix(
        "EXECABORT",
        "a command of the transaction was refused when queued",
        "yes, once corrected; nothing was done",
    ),
    prefix("NOAUTH", "the connection has not authenticated", "yes, after AUTH"),
    prefix("WRONGPASS", "AUTH or HELLO with a wrong user or password", "with the right one"),
    prefix("NOPROTO", "HELLO asked for a protocol other than 2 and 3", "with another version"),
];

/// The reply to a request that may or may not have been done.
pub const UNKNOWN_RESULT: &str =
    "UNKNOWNRESULT the request was logged but its result is not known; it may or may not take effect";

/// The reply to a split request of which some partitions' parts were done and others were not.
pub const PARTLY_DONE: &str =
    "UNKNOWNRESULT the keys live in several partitions, and the request was done in some of them only";

/// An attempt at the password by somebody who was wrong too often.
pub const TOO_MANY_GUESSES: Refusal = Refusal::new(
    "OVERLOADED too many wrong passwords came from this address; this one was not looked at, retry after a pause",
);

/// Keys of several partitions in a request that needs one.
pub const CROSSSLOT: Refusal = Refusal::new("CROSSSLOT Keys in request don't hash to the same slot");

/// A request that is refused, with the whole text of the error: prefix first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub Cow<'static, [u8]>);

impl Refusal {
    /// A fixed text.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }

    /// A text made for the occasion.
    #[must_use]
    pub fn owned(text: impl Into<Vec<u8>>) -> Self {
        Self(Cow::Owned(text.into()))
    }

    /// A text around bytes of the client's, as they are; as C's strings do in Redis, they end at a zero byte.
    #[must_use]
    pub fn quoting(before: &str, bytes: &[u8], after: &str) -> Self {
        let quoted = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Self::owned([before.as_bytes(), quoted, after.as_bytes()].concat())
    }

    /// An option that the command does not know, or one that contradicts another.
    pub const SYNTAX: Self = Self::new("ERR syntax error");
    /// An argument that should be an integer.
    pub const NOT_INTEGER: Self = Self::new("ERR value is not an integer or out of range");
    /// An argument that should be a float.
    pub const NOT_FLOAT: Self = Self::new("ERR value is not a valid float");

    /// A wrong argument count.
    #[must_use]
    pub fn arity(full_name: &str) -> Self {
        Self::owned(format!("ERR wrong number of arguments for '{full_name}' command"))
    }

    /// A subcommand with arguments that it does not take, where Redis checks that itself.
    #[must_use]
    pub fn subcommand(typed: &[u8], parent: &str) -> Self {
        let before = "ERR unknown subcommand or wrong number of arguments for '";
        Self::quoting(before, typed.get(..128).unwrap_or(typed), &format!("'. Try {parent} HELP."))
    }

    /// A time to live that is not positive, or beyond the end of time.
    #[must_use]
    pub fn expire_time(name: &str) -> Self {
        Self::owned(format!("ERR invalid expire time in '{name}' command"))
    }
}

/// Redis's text for an op's error.
#[must_use]
pub const fn op_error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotInteger => "ERR value is not an integer or out of range",
        ErrorKind::IncrOverflow => "ERR increment or decrement would overflow",
        ErrorKind::NotFloat => "ERR value is not a valid float",
        ErrorKind::NanOrInfinity => "ERR increment would produce NaN or Infinity",
        ErrorKind::StringTooLong => {
            "ERR string exceeds maximum allowed size (33488896 bytes for a value); nothing was done"
        }
        ErrorKind::SubsequenceTooLong => {
            "ERR LCS of such long values takes too much memory: their lengths may make 67108864 when multiplied; nothing was done"
        }
        ErrorKind::KeyTooLong => "ERR key exceeds maximum allowed size (60000 bytes); nothing was done",
        ErrorKind::NoSuchKey => "ERR no such key",
        ErrorKind::BadOp => "ERR the logged operation cannot be read by this version; upgrade this node",
        ErrorKind::TooManyKeys => "ERR the reply would hold too many keys; use SCAN",
        ErrorKind::ReplyTooLarge => {
            "ERR the reply would be too large and is dropped (a write was done all the same); ask for less at a time"
        }
        ErrorKind::PatternTooCostly => "ERR the pattern takes too long to match against these keys",
        ErrorKind::TransactionTooLarge => {
            "ERR APPEND, SETRANGE and COPY of one transaction may add 128 MiB to values; nothing was done for this one"
        }
        ErrorKind::TooManyWalks => {
            "ERR too many KEYS, SCAN and RANDOMKEY in one transaction: the limit is 8; nothing was done for this one"
        }
    }
}

/// The reply to a request that another node has to be sent.
#[must_use]
pub fn moved(hash_slot: u16, node: &ClientNode) -> String {
    format!("MOVED {hash_slot} {}:{}", node.host, node.port)
}

/// The text for a request that was not done.
#[must_use]
pub fn rejection(rejection: &Rejection) -> Cow<'static, str> {
    match rejection {
        Rejection::NoPartition(partition) => {
            format!("CLUSTERDOWN partition {partition} is not served here; nothing was done").into()
        }
        Rejection::Overloaded(what) => format!(
            "OVERLOADED too many requests are waiting ({what}); nothing was done, retry after a pause"
        )
        .into(),
        Rejection::DiskFull => {
            "DISKFULL no space left; nothing was written; delete keys or free space on the disk".into()
        }
        Rejection::NoLeader(partition) => {
            format!("CLUSTERDOWN no leader for partition {partition} in time; nothing was done").into()
        }
        Rejection::NotLeader(partition, storage) => {
            format!("CLUSTERDOWN partition {partition} is led on storage {storage}; nothing was done").into()
        }
        Rejection::Obsoleted => "ABORTED the entry was replaced by another leader's; nothing was done".into(),
        Rejection::ReplicaStopped(partition, why) => {
            format!("STOPPED the replica of partition {partition} is stopped: {why}; nothing was done").into()
        }
        Rejection::Damaged(partition, what) => {
            format!("DAMAGED partition {partition}: {what}; nothing was done").into()
        }
        Rejection::Unreadable(partition, what) => {
            format!("IOERR partition {partition}: {what}; nothing was done, retry after a pause").into()
        }
        Rejection::Refused(partition, why) => format!("REFUSED partition {partition}: {why}").into(),
        Rejection::TooLarge { bytes, limit } => {
            format!("TOOLARGE the request of {bytes} bytes exceeds the limit of {limit} for one entry").into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corduroy_shards::PartitionId;

    fn known(text: &str) -> &'static ErrorPrefix {
        let word = text.split(' ').next().unwrap();
        PREFIXES.iter().find(|row| row.prefix == word).unwrap_or_else(|| panic!("{word} is not in the table"))
    }

    #[test]
    fn every_text_begins_with_a_prefix_of_the_table() {
        let p = PartitionId(7);
        for text in [
            rejection(&Rejection::NoPartition(p)),
            rejection(&Rejection::Overloaded("x")),
            rejection(&Rejection::DiskFull),
            rejection(&Rejection::NoLeader(p)),
            rejection(&Rejection::ReplicaStopped(p, "x".into())),
            rejection(&Rejection::Damaged(p, "x".into())),
            rejection(&Rejection::Unreadable(p, "x".into())),
            rejection(&Rejection::Refused(p, "x".into())),
            rejection(&Rejection::TooLarge { bytes: 2, limit: 1 }),
            UNKNOWN_RESULT.into(),
            PARTLY_DONE.into(),
            moved(3, &ClientNode { id: 1, host: "::1".into(), port: 7380 }).into(),
        ] {
            known(&text);
        }
    }

    #[test]
    fn what_may_have_been_appended_never_gets_a_prefix_that_clients_retry() {
        for text in [UNKNOWN_RESULT, PARTLY_DONE, &rejection(&Rejection::Obsoleted)] {
            assert!(!["CLUSTERDOWN", "LOADING", "TRYAGAIN", "MOVED", "ASK"].contains(&known(text).prefix));
        }
    }
}
