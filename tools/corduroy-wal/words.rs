//! What stands in an entry, as a user of Redis would say it: `SET "key" "value" PXAT 1764410400000`.

use corduroy::store::{Condition, Expiry, List, Op, SetReply, SetWhen};

/// Most bytes of a key that are shown.
const KEY_BYTES_MAX: usize = 256;
/// Most keys or pairs of one command that are shown.
const ITEMS_MAX: usize = 100;

/// Bytes as redis-cli shows them, between quotes.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend(['\\', char::from(byte)]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// As [`quoted`], but no more than `most` bytes, followed by how many there are.
fn shortened(bytes: &[u8], most: usize) -> String {
    match bytes.get(..most) {
        Some(start) if start.len() < bytes.len() => format!("{}... ({} bytes)", quoted(start), bytes.len()),
        _ => quoted(bytes),
    }
}

/// A moment in ms since 1970, for people.
#[must_use]
pub fn moment(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the leap day is the last one; 400 of them have always the same days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = year + era * 400 + u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03} UTC")
}

/// So many of these.
#[must_use]
pub fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// How values are shown.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Most bytes of a value that are shown.
    pub value_bytes: usize,
}

impl Words {
    /// An operation in lines; a transaction takes several.
    #[must_use]
    pub fn lines(self, op: &Op<'_>) -> Vec<String> {
        match op {
            Op::Multi { guards, ops } | Op::MarkedMulti { guards, ops } => self.transaction(*guards, *ops),
            other => vec![self.line(other)],
        }
    }

    fn transaction(self, guards: List<'_>, ops: List<'_>) -> Vec<String> {
        let mut lines = vec!["MULTI".to_owned()];
        let mut guards = guards.iter();
        while let (Some(key), Some(version)) = (guards.next(), guards.next()) {
            let version = version.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            lines.push(format!("  only if {} is unchanged since version {version} (WATCH)", self.key(key)));
        }
        for bytes in ops {
            match Op::decode(bytes) {
                Ok(op) => lines.extend(self.lines(&op).into_iter().map(|line| format!("  {line}"))),
                Err(error) => lines.push(format!("  {} bytes: {error}", bytes.len())),
            }
        }
        lines.push("EXEC".to_owned());
        lines
    }

    fn key(self, key: &[u8]) -> String {
        shortened(key, KEY_BYTES_MAX)
    }

    fn value(self, value: &[u8]) -> String {
        shortened(value, self.value_bytes)
    }

    fn keys(self, keys: List<'_>) -> String {
        let shown: Vec<String> = keys.iter().take(ITEMS_MAX).map(|key| self.key(key)).collect();
        format!("{}{}", shown.join(" "), more(keys.len(), ITEMS_MAX, "keys"))
    }

    fn pairs(self, pairs: List<'_>) -> String {
        let words = pairs.iter().enumerate().take(2 * ITEMS_MAX);
        let words = words.map(|(at, it)| if at % 2 == 0 { self.key(it) } else { self.value(it) });
        format!("{}{}", words.collect::<Vec<_>>().join(" "), more(pairs.len() / 2, ITEMS_MAX, "pairs"))
    }

    fn line(self, op: &Op<'_>) -> String {
        match op {
            Op::Set { key, value, when, expiry, reply } => self.set(key, value, *when, *expiry, *reply),
            Op::Append { key, value } => format!("APPEND {} {}", self.key(key), self.value(value)),
            Op::SetRange { key, offset, value } => {
                format!("SETRANGE {} {offset} {}", self.key(key), self.value(value))
            }
            Op::IncrBy { key, delta } => format!("INCRBY {} {delta}", self.key(key)),
            Op::IncrByFloat { key, delta } => {
                format!("INCRBYFLOAT {} {}", self.key(key), String::from_utf8_lossy(delta))
            }
            Op::Del { keys } => format!("DEL {}", self.keys(*keys)),
            Op::GetDel { key } => format!("GETDEL {}", self.key(key)),
            Op::GetEx { key, expiry: Expiry::Clear } => format!("GETEX {} PERSIST", self.key(key)),
            Op::GetEx { key, expiry } => format!("GETEX {}{}", self.key(key), expiry_words(*expiry)),
            Op::MSet { pairs, only_if_none: false } => format!("MSET {}", self.pairs(*pairs)),
            Op::MSet { pairs, only_if_none: true } => format!("MSETNX {}", self.pairs(*pairs)),
            Op::Expire { key, at_ms, condition } => {
                let at = u64::try_from(*at_ms).map_or_else(|_| "before 1970".to_owned(), moment);
                format!("PEXPIREAT {} {at_ms}{} ({at})", self.key(key), condition_words(*condition))
            }
            Op::ExpireIn { key, in_ms, condition } => {
                format!("PEXPIRE {} {in_ms}{}", self.key(key), condition_words(*condition))
            }
            Op::Persist { key } => format!("PERSIST {}", self.key(key)),
            Op::Watch { key } => format!("WATCH {}", self.key(key)),
            Op::Rename { from, to, only_if_none: false } => {
                format!("RENAME {} {}", self.key(from), self.key(to))
            }
            Op::Rename { from, to, only_if_none: true } => {
                format!("RENAMENX {} {}", self.key(from), self.key(to))
            }
            Op::Copy { from, to, replace } => {
                let replace = if *replace { " REPLACE" } else { "" };
                format!("COPY {} {}{replace}", self.key(from), self.key(to))
            }
            Op::Flush => "FLUSHALL".to_owned(),
            Op::Multi { guards, ops } | Op::MarkedMulti { guards, ops } => {
                self.transaction(*guards, *ops).join("; ")
            }
            Op::Get { .. }
            | Op::StrLen { .. }
            | Op::GetRange { .. }
            | Op::MGet { .. }
            | Op::Exists { .. }
            | Op::Type { .. }
            | Op::Ttl { .. }
            | Op::ObjectEncoding { .. }
            | Op::ObjectRefcount { .. }
            | Op::MemoryUsage { .. }
            | Op::Keys { .. }
            | Op::Scan { .. }
            | Op::RandomKey { .. }
            | Op::DbSize
            | Op::Lcs { .. }
            | Op::Version { .. } => self.read(op),
        }
    }

    /// Reads stand in the log as part of transactions.
    fn read(self, op: &Op<'_>) -> String {
        match op {
            Op::Get { key } => format!("GET {}", self.key(key)),
            Op::StrLen { key } => format!("STRLEN {}", self.key(key)),
            Op::GetRange { key, start, end } => format!("GETRANGE {} {start} {end}", self.key(key)),
            Op::MGet { keys } => format!("MGET {}", self.keys(*keys)),
            Op::Exists { keys } => format!("EXISTS {}", self.keys(*keys)),
            Op::Type { key } => format!("TYPE {}", self.key(key)),
            Op::Ttl { key, absolute, seconds } => {
                let name = match (absolute, seconds) {
                    (false, true) => "TTL",
                    (false, false) => "PTTL",
                    (true, true) => "EXPIRETIME",
                    (true, false) => "PEXPIRETIME",
                };
                format!("{name} {}", self.key(key))
            }
            Op::ObjectEncoding { key } => format!("OBJECT ENCODING {}", self.key(key)),
            Op::ObjectRefcount { key } => format!("OBJECT REFCOUNT {}", self.key(key)),
            Op::MemoryUsage { key } => format!("MEMORY USAGE {}", self.key(key)),
            Op::Keys { pattern } => format!("KEYS {}", self.key(pattern)),
            Op::Scan { cursor, count, pattern, kind } => {
                let option = |name: &str, it: &Option<&[u8]>| {
                    it.map_or_else(String::new, |it| format!(" {name} {}", self.key(it)))
                };
                let (pattern, kind) = (option("MATCH", pattern), option("TYPE", kind));
                format!("SCAN {cursor}{pattern} COUNT {count}{kind}")
            }
            Op::RandomKey { .. } => "RANDOMKEY".to_owned(),
            Op::DbSize => "DBSIZE".to_owned(),
            Op::Lcs { a, b, len, idx, min_match_len, with_match_len } => {
                let mut words = format!("LCS {} {}", self.key(a), self.key(b));
                for (is_there, word) in [(len, " LEN"), (idx, " IDX"), (with_match_len, " WITHMATCHLEN")] {
                    words.push_str(if *is_there { word } else { "" });
                }
                if *min_match_len > 0 {
                    words.push_str(&format!(" MINMATCHLEN {min_match_len}"));
                }
                words
            }
            Op::Version { key } => format!("WATCH {}", self.key(key)),
            Op::Set { .. }
            | Op::Append { .. }
            | Op::SetRange { .. }
            | Op::IncrBy { .. }
            | Op::IncrByFloat { .. }
            | Op::Del { .. }
            | Op::GetDel { .. }
            | Op::GetEx { .. }
            | Op::MSet { .. }
            | Op::Expire { .. }
            | Op::ExpireIn { .. }
            | Op::Persist { .. }
            | Op::Watch { .. }
            | Op::Rename { .. }
            | Op::Copy { .. }
            | Op::Flush
            | Op::Multi { .. }
            | Op::MarkedMulti { .. } => self.line(op),
        }
    }

    fn set(self, key: &[u8], value: &[u8], when: SetWhen<'_>, expiry: Expiry, reply: SetReply) -> String {
        let (key, value) = (self.key(key), self.value(value));
        if (when, expiry, reply) == (SetWhen::Absent, Expiry::Clear, SetReply::Done) {
            return format!("SETNX {key} {value}");
        }
        let when = match when {
            SetWhen::Always => String::new(),
            SetWhen::Absent => " NX".to_owned(),
            SetWhen::Present => " XX".to_owned(),
            SetWhen::Equals(expected) => format!(" IFEQ {}", self.value(expected)),
        };
        let get = match reply {
            SetReply::Ok | SetReply::Done => "",
            SetReply::Old => " GET",
        };
        format!("SET {key} {value}{when}{get}{}", expiry_words(expiry))
    }
}

fn more(all: usize, shown: usize, what: &str) -> String {
    if all > shown { format!(" ... ({all} {what})") } else { String::new() }
}

fn expiry_words(expiry: Expiry) -> String {
    match expiry {
        Expiry::Clear => String::new(),
        Expiry::Keep => " KEEPTTL".to_owned(),
        Expiry::In(ms) => format!(" PX {ms}"),
        Expiry::At(ms) => format!(" PXAT {ms} ({})", moment(ms)),
    }
}

fn condition_words(condition: Condition) -> &'static str {
    match condition {
        Condition::Always => "",
        Condition::NoExpiry => " NX",
        Condition::HasExpiry => " XX",
        Condition::Later => " GT",
        Condition::Sooner => " LT",
        Condition::HasAndLater => " XX GT",
        Condition::HasAndSooner => " XX LT",
    }
}

/// Whether an operation may change or read this key. One that goes over all keys does.
#[must_use]
pub fn touches(op: &Op<'_>, wanted: &[u8]) -> bool {
    if let Op::Multi { guards, ops } | Op::MarkedMulti { guards, ops } = op {
        return guards.iter().step_by(2).any(|key| key == wanted)
            || ops.iter().any(|op| Op::decode(op).is_ok_and(|op| touches(&op, wanted)));
    }
    let is_of_all = op.is_walk() || matches!(op, Op::Flush | Op::DbSize);
    is_of_all || op.keys(true).any(|key| key == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(op: &Op<'_>) -> String {
        Words { value_bytes: 8 }.lines(op).join("\n")
    }

    #[test]
    fn bytes_are_shown_as_redis_cli_shows_them() {
        assert_eq!(quoted(b"a b\"\\\n\r\t\x07\x08\0\xff~"), r#""a b\"\\\n\r\t\a\b\x00\xff~""#);
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(moment(951_782_399_999), "2000-02-28 23:59:59.999 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00.000 UTC");
        assert_eq!(moment(951_868_800_000), "2000-03-01 00:00:00.000 UTC");
        assert_eq!(moment(1_735_689_599_001), "2024-12-31 23:59:59.001 UTC");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01 00:00:00.000 UTC");
    }

    #[test]
    fn an_operation_reads_as_a_user_would_write_it() {
        let set = |when, expiry, reply| words(&Op::Set { key: b"k\n", value: b"hello", when, expiry, reply });
        assert_eq!(set(SetWhen::Always, Expiry::Clear, SetReply::Ok), r#"SET "k\n" "hello""#);
        assert_eq!(set(SetWhen::Absent, Expiry::Clear, SetReply::Done), r#"SETNX "k\n" "hello""#);
        assert_eq!(
            set(SetWhen::Present, Expiry::At(951_782_400_000), SetReply::Old),
            r#"SET "k\n" "hello" XX GET PXAT 951782400000 (2000-02-29 00:00:00.000 UTC)"#
        );
        assert_eq!(set(SetWhen::Always, Expiry::In(5), SetReply::Ok), r#"SET "k\n" "hello" PX 5"#);
        assert_eq!(
            set(SetWhen::Equals(b"a"), Expiry::Keep, SetReply::Ok),
            r#"SET "k\n" "hello" IFEQ "a" KEEPTTL"#
        );
        let expire = Op::ExpireIn { key: b"k", in_ms: 9, condition: Condition::NoExpiry };
        assert_eq!(words(&expire), r#"PEXPIRE "k" 9 NX"#);
        let long = words(&Op::Append { key: b"k", value: b"123456789" });
        assert_eq!(long, r#"APPEND "k" "12345678"... (9 bytes)"#);
        let pairs = List::Args(&[b"a", b"1", b"b", b"2"]);
        assert_eq!(words(&Op::MSet { pairs, only_if_none: true }), r#"MSETNX "a" "1" "b" "2""#);
        let keys = vec![&b"k"[..]; 101];
        assert!(words(&Op::Del { keys: List::Args(&keys) }).ends_with(r#" "k" ... (101 keys)"#));
        let expire = Op::Expire { key: b"k", at_ms: 0, condition: Condition::HasAndLater };
        assert_eq!(words(&expire), r#"PEXPIREAT "k" 0 XX GT (1970-01-01 00:00:00.000 UTC)"#);
    }

    #[test]
    fn a_transaction_shows_what_it_waits_for_and_does() {
        let (mut incr, mut get) = (Vec::new(), Vec::new());
        Op::IncrBy { key: b"n", delta: -3 }.encode(&mut incr);
        Op::Get { key: b"k" }.encode(&mut get);
        let guards = [&b"k"[..], &7_u64.to_le_bytes(), b"none", &0_u64.to_le_bytes()];
        let op = Op::Multi { guards: List::Args(&guards), ops: List::Args(&[&incr, &get, b"??"]) };
        let lines = [
            "MULTI",
            "  only if \"k\" is unchanged since version 7 (WATCH)",
            "  only if \"none\" is unchanged since version 0 (WATCH)",
            "  INCRBY \"n\" -3",
            "  GET \"k\"",
            "  2 bytes: operation cannot be decoded: unknown operation",
            "EXEC",
        ];
        assert_eq!(words(&op), lines.join("\n"));
        for key in [&b"k"[..], b"none", b"n"] {
            assert!(touches(&op, key));
        }
        assert!(!touches(&op, b"other"));
    }
}
