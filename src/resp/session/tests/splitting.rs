//! Several partitions: what is split, what is refused, how parts become one reply.

use super::*;
use crate::resp::fake::rejected;
use corduroy_shards::Rejection;

// With 3 partitions: `a` (slot 15495) lives in the third, `b` (3300) in the first, `c` (7365) in the second.

#[test]
fn by_key() {
    let mut talk = Talk::new(3);
    talk.check("SET a 1\nSET b 2\nSET c 3\nGET c", "+OK~+OK~+OK~$1~3~");
    talk.check("MGET a b c nil a", "*5~$1~1~$1~2~$1~3~$-1~$1~1~");
    talk.check("EXISTS a b b x\nTOUCH a c", ":3~:2~");
    talk.check("DBSIZE", ":3~");
    talk.check("DEL a b x\nUNLINK c\nDBSIZE", ":2~:1~:0~");
    assert_eq!(talk.session.in_flight(), 0);
}

#[test]
fn one_partition_by_hash_tag() {
    let mut talk = Talk::new(3);
    talk.check("MSET {t}a 1 {t}b 2\nMGET {t}a {t}b\nRENAME {t}a {t}b", "+OK~*2~$1~1~$1~2~+OK~");
    talk.check("MULTI\nSET {t}a 1\nGET {t}b\nEXEC", "+OK~+QUEUED~+QUEUED~*2~+OK~$1~2~");
}

#[test]
fn everything_else_is_refused() {
    let crossed = "-CROSSSLOT Keys in request don't hash to the same slot~";
    for line in ["MSET a 1 b 2", "MSETNX a 1 b 2", "RENAME a b", "RENAMENX a b", "COPY a b", "LCS a b"] {
        let mut talk = Talk::new(3);
        talk.check(line, crossed);
        let spoilt = "-EXECABORT Transaction discarded because of previous errors.~";
        talk.check(&format!("MULTI\n{line}\nEXEC"), &format!("+OK~{crossed}{spoilt}"));
    }
    for line in ["DBSIZE", "KEYS *", "SCAN 0", "FLUSHALL", "RANDOMKEY", "MGET a b", "DEL a b"] {
        let mut talk = Talk::new(3);
        talk.check(&format!("MULTI\n{line}"), &format!("+OK~{crossed}"));
    }
    let mut talk = Talk::new(3);
    talk.check("MULTI\nSET a 1\nSET b 1\nEXEC", &format!("+OK~+QUEUED~+QUEUED~{crossed}"));
    talk.check("GET a\nWATCH a\nMULTI\nSET b 1\nEXEC", &format!("$-1~+OK~+OK~+QUEUED~{crossed}"));
}

#[test]
fn whole_keyspace() {
    let mut talk = Talk::new(3);
    talk.say("SET a 1\nSET b 2\nSET c 3");
    talk.check("KEYS *", "*3~$1~b~$1~c~$1~a~");
    assert!(["$1~a~", "$1~b~", "$1~c~"].contains(&talk.say("RANDOMKEY").replace("\r\n", "~").as_str()));
    talk.check("SCAN 0", "*2~$1~1~*1~$1~b~");
    talk.check("SCAN 1", "*2~$1~2~*1~$1~c~");
    talk.check("SCAN 2", "*2~$1~0~*1~$1~a~");
    talk.check("SCAN 3", "-ERR invalid cursor~");
    talk.check("FLUSHALL\nRANDOMKEY\nDBSIZE", "+OK~$-1~:0~");
}

#[test]
fn a_walk_sees_every_key_once() {
    let mut talk = Talk::new(5);
    for key in 0..200 {
        talk.say(&format!("SET key:{key} x"));
    }
    let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
    loop {
        let page = talk.say(&format!("SCAN {cursor} COUNT 7"));
        let mut lines = page.split("\r\n").filter(|line| !line.starts_with(['*', '$']) && !line.is_empty());
        cursor = lines.next().unwrap().to_owned();
        seen.extend(lines.map(str::to_owned));
        if cursor == "0" {
            break;
        }
    }
    seen.sort();
    let count = seen.len();
    seen.dedup();
    assert_eq!((count, seen.len()), (200, 200));
}

#[test]
fn parts_that_fail() {
    let mut talk = Talk::new(3);
    let script = |talk: &Talk, replies: Vec<SessionReply>| talk.fake.scripted.borrow_mut().extend(replies);
    let full = || rejected(Rejection::Overloaded("test"));
    script(&talk, vec![done(Outcome::Int(1)), full(), done(Outcome::Int(1))]);
    talk.check("DEL a b c", &format!("-{}~", errors::PARTLY_DONE));
    script(&talk, vec![full(), full(), full()]);
    talk.check(
        "DEL a b c",
        "-OVERLOADED too many requests are waiting (test); nothing was done, retry after a pause~",
    );
    script(&talk, vec![full(), Reply::Unknown, full()]);
    talk.check("DEL a b c", &format!("-{}~", errors::UNKNOWN_RESULT));
    script(&talk, vec![done(Outcome::Int(1)), full(), done(Outcome::Int(1))]);
    talk.check(
        "EXISTS a b c",
        "-OVERLOADED too many requests are waiting (test); nothing was done, retry after a pause~",
    );
}
