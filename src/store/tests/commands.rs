//! Every command's replies, as Redis 7.2 gives them.

use super::super::*;
use super::watch::version;
use super::*;
use corduroy_shards::{Prepared, Unreadable};

pub(super) fn driver() -> Driver<MemLevel> {
    Driver::new(MemLevel::default(), options())
}

pub(super) fn set_with<'a>(
    key: &'a str,
    value: &'a str,
    when: SetWhen<'a>,
    expiry: Expiry,
    reply: SetReply,
) -> Op<'a> {
    Op::Set { key: key.as_bytes(), value: value.as_bytes(), when, expiry, reply }
}

pub(super) fn ttl(key: &str) -> Op<'_> {
    Op::Ttl { key: key.as_bytes(), absolute: false, seconds: false }
}

pub(super) fn int(number: i64) -> Outcome {
    Outcome::Int(number)
}

#[test]
fn set_with_every_option() {
    let mut d = driver();
    use SetReply as R;
    use SetWhen as W;
    assert_eq!(d.run(&set("k", "1")), Outcome::Ok);
    assert_eq!(d.run(&set_with("k", "2", W::Absent, Expiry::Clear, R::Ok)), Outcome::Nil);
    assert_eq!(d.run(&set_with("n", "2", W::Present, Expiry::Clear, R::Ok)), Outcome::Nil);
    assert_eq!(d.run(&get("n")), Outcome::Nil);
    assert_eq!(d.run(&set_with("k", "2", W::Present, Expiry::Clear, R::Old)), bulk("1"));
    assert_eq!(d.run(&set_with("k", "3", W::Absent, Expiry::Clear, R::Old)), bulk("2"));
    assert_eq!(d.run(&set_with("k", "3", W::Equals(b"x"), Expiry::Clear, R::Ok)), Outcome::Nil);
    assert_eq!(d.run(&set_with("k", "3", W::Equals(b"2"), Expiry::Clear, R::Ok)), Outcome::Ok);
    assert_eq!(d.run(&set_with("k", "4", W::Absent, Expiry::Clear, R::Done)), int(0));
    assert_eq!(d.run(&set_with("n", "4", W::Absent, Expiry::Clear, R::Done)), int(1));
    let at = d.now_ms + 1500;
    assert_eq!(d.run(&set_with("k", "5", W::Always, Expiry::At(at), R::Ok)), Outcome::Ok);
    assert_eq!(d.run(&ttl("k")), int(1500));
    assert_eq!(d.run(&set_with("k", "6", W::Always, Expiry::Keep, R::Ok)), Outcome::Ok);
    assert_eq!(d.run(&ttl("k")), int(1500));
    assert_eq!(d.run(&set("k", "7")), Outcome::Ok);
    assert_eq!(d.run(&ttl("k")), int(-1));
    assert_eq!(d.run(&set_with("k", "8", W::Always, Expiry::At(1), R::Ok)), Outcome::Ok);
    assert_eq!(d.run(&get("k")), Outcome::Nil);
    assert_eq!(d.run(&Op::DbSize), int(1));
}

#[test]
fn numbers() {
    let mut d = driver();
    let incr = |d: &mut Driver<_>, key: &str, delta| d.run(&Op::IncrBy { key: key.as_bytes(), delta });
    assert_eq!(incr(&mut d, "n", 1), int(1));
    assert_eq!(incr(&mut d, "n", -11), int(-10));
    d.run(&set("n", &i64::MAX.to_string()));
    assert_eq!(incr(&mut d, "n", 1), Outcome::Error(ErrorKind::IncrOverflow));
    assert_eq!(d.run(&get("n")), bulk(&i64::MAX.to_string()));
    for bad in ["x", "1.5", " 1", "01", ""] {
        d.run(&set("n", bad));
        assert_eq!(incr(&mut d, "n", 1), Outcome::Error(ErrorKind::NotInteger), "{bad}");
    }
    let float = |d: &mut Driver<_>, key: &str, delta: &str| {
        d.run(&Op::IncrByFloat { key: key.as_bytes(), delta: delta.as_bytes() })
    };
    assert_eq!(float(&mut d, "f", "10.50"), bulk("10.5"));
    assert_eq!(float(&mut d, "f", "0.1"), bulk("10.6"));
    assert_eq!(float(&mut d, "f", "-10.6"), bulk("0"));
    d.run(&set("f", "abc"));
    assert_eq!(float(&mut d, "f", "1"), Outcome::Error(ErrorKind::NotFloat));
    let at = d.now_ms + 1000;
    d.run(&set_with("f", "1", SetWhen::Always, Expiry::At(at), SetReply::Ok));
    assert_eq!(float(&mut d, "f", "1"), bulk("2"));
    assert_eq!(d.run(&ttl("f")), int(1000));
}

#[test]
fn parts_of_strings() {
    let mut d = driver();
    let append = |d: &mut Driver<_>, value: &str| d.run(&Op::Append { key: b"s", value: value.as_bytes() });
    assert_eq!(append(&mut d, "Hello"), int(5));
    assert_eq!(append(&mut d, " World"), int(11));
    assert_eq!(d.run(&Op::GetRange { key: b"s", start: -5, end: -1 }), bulk("World"));
    assert_eq!(d.run(&Op::GetRange { key: b"none", start: 0, end: -1 }), bulk(""));
    assert_eq!(d.run(&Op::StrLen { key: b"s" }), int(11));
    assert_eq!(d.run(&Op::StrLen { key: b"none" }), int(0));
    assert_eq!(d.run(&Op::SetRange { key: b"s", offset: 6, value: b"Redis" }), int(11));
    assert_eq!(d.run(&get("s")), bulk("Hello Redis"));
    assert_eq!(d.run(&Op::SetRange { key: b"pad", offset: 3, value: b"x" }), int(4));
    assert_eq!(d.run(&get("pad")), bulk("\0\0\0x"));
    assert_eq!(d.run(&Op::SetRange { key: b"none", offset: 3, value: b"" }), int(0));
    assert_eq!(d.run(&get("none")), Outcome::Nil);
    let too_long = Outcome::Error(ErrorKind::StringTooLong);
    assert_eq!(d.run(&Op::SetRange { key: b"s", offset: 512 << 20, value: b"x" }), too_long);
    assert_eq!(d.run(&Op::SetRange { key: b"s", offset: u64::MAX, value: b"x" }), too_long);
    let long_key = "k".repeat(MAX_KEY_BYTES + 1);
    assert_eq!(d.run(&set(&long_key, "v")), Outcome::Error(ErrorKind::KeyTooLong));
    assert_eq!(d.run(&get(&long_key)), Outcome::Nil);
    let longest = "k".repeat(MAX_KEY_BYTES);
    assert_eq!(d.run(&set(&longest, "v")), Outcome::Ok);
    d.flush();
    d.crash();
    assert_eq!(d.run(&get(&longest)), bulk("v"));
}

#[test]
fn keys_come_and_go() {
    let mut d = driver();
    assert_eq!(
        d.run(&Op::MSet { pairs: List::Args(&[b"a", b"1", b"b", b"2", b"a", b"3"]), only_if_none: false }),
        Outcome::Ok
    );
    assert_eq!(
        d.run(&Op::MGet { keys: List::Args(&[b"a", b"x", b"b"]) }),
        Outcome::Array(vec![bulk("3"), Outcome::Nil, bulk("2")])
    );
    assert_eq!(d.run(&Op::MSet { pairs: List::Args(&[b"c", b"1", b"b", b"9"]), only_if_none: true }), int(0));
    assert_eq!(d.run(&get("c")), Outcome::Nil);
    assert_eq!(d.run(&Op::MSet { pairs: List::Args(&[b"c", b"1"]), only_if_none: true }), int(1));
    assert_eq!(d.run(&Op::Exists { keys: List::Args(&[b"a", b"a", b"x", b"c"]) }), int(3));
    assert_eq!(d.run(&Op::Type { key: b"a" }), Outcome::Simple("string"));
    assert_eq!(d.run(&Op::Type { key: b"x" }), Outcome::Simple("none"));
    assert_eq!(d.run(&Op::Del { keys: List::Args(&[b"a", b"a", b"x"]) }), int(1));
    assert_eq!(d.run(&Op::GetDel { key: b"b" }), bulk("2"));
    assert_eq!(d.run(&Op::GetDel { key: b"b" }), Outcome::Nil);
    assert_eq!(d.run(&Op::DbSize), int(1));
    assert_eq!(d.run(&Op::Flush), Outcome::Ok);
    assert_eq!(d.run(&Op::DbSize), int(0));
    assert_eq!(d.run(&get("c")), Outcome::Nil);
}

#[test]
fn renames_and_copies_take_the_expiry_along() {
    let mut d = driver();
    let at = d.now_ms + 9000;
    d.run(&set_with("a", "1", SetWhen::Always, Expiry::At(at), SetReply::Ok));
    d.run(&set("b", "2"));
    let rename = |from: &'static str, to: &'static str, only_if_none| Op::Rename {
        from: from.as_bytes(),
        to: to.as_bytes(),
        only_if_none,
    };
    let copy = |from: &'static str, to: &'static str, replace| Op::Copy {
        from: from.as_bytes(),
        to: to.as_bytes(),
        replace,
    };
    assert_eq!(d.run(&rename("x", "b", false)), Outcome::Error(ErrorKind::NoSuchKey));
    assert_eq!(d.run(&rename("x", "x", false)), Outcome::Error(ErrorKind::NoSuchKey));
    assert_eq!(d.run(&rename("a", "a", false)), Outcome::Ok);
    assert_eq!(d.run(&rename("a", "a", true)), int(0));
    assert_eq!(d.run(&rename("a", "b", true)), int(0));
    assert_eq!(d.run(&copy("a", "b", false)), int(0));
    assert_eq!(d.run(&copy("a", "c", false)), int(1));
    assert_eq!(d.run(&copy("x", "c", true)), int(0));
    assert_eq!(d.run(&rename("a", "b", false)), Outcome::Ok);
    assert_eq!((d.run(&get("a")), d.run(&get("b")), d.run(&get("c"))), (Outcome::Nil, bulk("1"), bulk("1")));
    assert_eq!((d.run(&ttl("b")), d.run(&ttl("c"))), (int(9000), int(9000)));
    d.run(&set("n", "5"));
    assert_eq!(d.run(&copy("n", "b", true)), int(1));
    assert_eq!(d.run(&ttl("b")), int(-1));
    assert_eq!(d.run(&rename("n", "m", true)), int(1));
    assert_eq!(d.run(&Op::DbSize), int(3));
}

#[test]
fn expiry_and_its_conditions() {
    let mut d = driver();
    let now = i64::try_from(d.now_ms).unwrap();
    d.run(&set("k", "v"));
    let mut expire = |at_ms, condition, expected: i64, ttl_after: i64| {
        assert_eq!(d.run(&Op::Expire { key: b"k", at_ms, condition }), int(expected), "{condition:?}");
        assert_eq!(d.run(&ttl("k")), int(ttl_after), "{condition:?}");
    };
    expire(now + 100, Condition::HasExpiry, 0, -1);
    expire(now + 100, Condition::Later, 0, -1);
    expire(now + 100, Condition::HasAndSooner, 0, -1);
    expire(now + 100, Condition::Sooner, 1, 100);
    expire(now + 100, Condition::Sooner, 0, 100);
    expire(now + 50, Condition::Later, 0, 100);
    expire(now + 100, Condition::Later, 0, 100);
    expire(now + 200, Condition::HasAndLater, 1, 200);
    expire(now + 300, Condition::NoExpiry, 0, 200);
    expire(now + 150, Condition::HasAndSooner, 1, 150);
    expire(now + 300, Condition::HasExpiry, 1, 300);
    expire(now + 1499, Condition::Always, 1, 1499);
    assert_eq!(d.run(&Op::Ttl { key: b"k", absolute: false, seconds: true }), int(1));
    assert_eq!(d.run(&Op::Ttl { key: b"k", absolute: true, seconds: false }), int(now + 1499));
    assert_eq!(d.run(&Op::Ttl { key: b"k", absolute: true, seconds: true }), int((now + 1999) / 1000));
    assert_eq!(d.run(&Op::Persist { key: b"k" }), int(1));
    assert_eq!(d.run(&Op::Persist { key: b"k" }), int(0));
    assert_eq!(d.run(&Op::Expire { key: b"x", at_ms: now + 5, condition: Condition::Always }), int(0));
    assert_eq!(d.run(&Op::Expire { key: b"k", at_ms: -5, condition: Condition::Always }), int(1));
    assert_eq!(d.run(&ttl("k")), int(-2));
    assert_eq!(d.run(&Op::DbSize), int(0));
}

#[test]
fn getex_changes_the_expiry() {
    let mut d = driver();
    let at = d.now_ms + 700;
    d.run(&set("k", "v"));
    assert_eq!(d.run(&Op::GetEx { key: b"k", expiry: Expiry::At(at) }), bulk("v"));
    assert_eq!(d.run(&ttl("k")), int(700));
    assert_eq!(d.run(&Op::GetEx { key: b"k", expiry: Expiry::Clear }), bulk("v"));
    assert_eq!(d.run(&ttl("k")), int(-1));
    assert_eq!(d.run(&Op::GetEx { key: b"k", expiry: Expiry::At(1) }), bulk("v"));
    assert_eq!(d.run(&Op::GetEx { key: b"k", expiry: Expiry::At(1) }), Outcome::Nil);
}

#[test]
fn encodings() {
    let mut d = driver();
    let encoding = |d: &mut Driver<_>| d.run(&Op::ObjectEncoding { key: b"k" });
    assert_eq!(encoding(&mut d), Outcome::Nil);
    assert_eq!(d.run(&Op::ObjectRefcount { key: b"k" }), Outcome::Nil);
    for (value, expected) in [
        ("12", "int"),
        ("-9223372036854775808", "int"),
        ("9223372036854775808", "embstr"),
        ("012", "embstr"),
        ("", "embstr"),
        (&"x".repeat(44), "embstr"),
        (&"x".repeat(45), "raw"),
    ] {
        d.run(&set("k", value));
        assert_eq!(encoding(&mut d), bulk(expected), "{value}");
    }
    d.run(&set("k", "1"));
    d.run(&Op::Append { key: b"k", value: b"2" });
    assert_eq!(encoding(&mut d), bulk("raw"));
    d.run(&Op::Copy { from: b"k", to: b"c", replace: true });
    d.flush();
    d.crash();
    assert_eq!(encoding(&mut d), bulk("raw"));
    assert_eq!(d.run(&Op::ObjectEncoding { key: b"c" }), bulk("raw"));
    d.run(&Op::IncrBy { key: b"k", delta: 1 });
    assert_eq!(encoding(&mut d), bulk("int"));
    d.run(&Op::IncrByFloat { key: b"k", delta: b"1" });
    assert_eq!(encoding(&mut d), bulk("embstr"));
    assert_eq!(d.run(&Op::ObjectRefcount { key: b"k" }), int(1));
    assert_eq!(d.run(&Op::MemoryUsage { key: b"k" }), int(96 + 1 + 2));
}

#[test]
fn walks_over_the_keyspace() {
    let mut d = driver();
    assert_eq!(d.run(&Op::RandomKey { seed: 5 }), Outcome::Nil);
    assert_eq!(scan_all(&mut d, 10, |_| ()), Vec::<Vec<u8>>::new());
    for n in 0..100 {
        d.run(&set(&format!("key:{n}"), "v"));
    }
    let Outcome::Array(found) = d.run(&Op::Keys { pattern: b"key:?" }) else { panic!() };
    assert_eq!(found.len(), 10);
    let page = d.run(&Op::Scan { cursor: 0, count: 1000, pattern: Some(b"key:9*"), kind: Some(b"STRING") });
    assert!(matches!(page, Outcome::Scan { cursor: 0, keys } if keys.len() == 11));
    let page = d.run(&Op::Scan { cursor: 0, count: 1000, pattern: None, kind: Some(b"hash") });
    assert_eq!(page, Outcome::Scan { cursor: 0, keys: Vec::new() });
    let random: std::collections::HashSet<_> =
        (0..200).map(|seed| format!("{:?}", d.run(&Op::RandomKey { seed: seed << 8 }))).collect();
    assert!(random.len() > 50, "{}", random.len());
    let small = Options { max_keys_reply: 5, ..options() };
    let mut d = Driver::new(MemLevel::default(), small);
    for n in 0..6 {
        d.run(&set(&n.to_string(), "v"));
    }
    assert_eq!(d.run(&Op::Keys { pattern: b"*" }), Outcome::Error(ErrorKind::TooManyKeys));
    d.flush();
    d.crash();
    assert_eq!(d.run(&Op::Keys { pattern: b"*" }), Outcome::Error(ErrorKind::TooManyKeys));
    d.run(&Op::Del { keys: List::Args(&[b"0"]) });
    assert!(matches!(d.run(&Op::Keys { pattern: b"[1-5]" }), Outcome::Array(keys) if keys.len() == 5));
}

#[test]
fn no_answer_takes_more_than_the_limit() {
    let large = "v".repeat(1000);
    let mut d = Driver::new(MemLevel::default(), Options { max_reply_bytes: 10_000, ..options() });
    let too_large = Outcome::Error(ErrorKind::ReplyTooLarge);
    d.run(&set("k", &large));
    let keys: [&[u8]; 12] = [b"k"; 12];
    assert!(
        matches!(d.run(&Op::MGet { keys: List::Args(&keys[..8]) }), Outcome::Array(list) if list.len() == 8)
    );
    assert_eq!(d.run(&Op::MGet { keys: List::Args(&keys) }), too_large);
    // In a transaction the answers add up; what it changes is changed all the same.
    let swap = Op::GetDel { key: b"k" };
    let mut ops = vec![bytes(&get("k")); 9];
    ops.extend([bytes(&swap), bytes(&set("new", "v")), bytes(&get("k"))]);
    let ops: Vec<&[u8]> = ops.iter().map(Vec::as_slice).collect();
    let outcome = d.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&ops) });
    let Outcome::Array(outcomes) = outcome else { panic!("{outcome:?}") };
    assert_eq!(outcomes[8..], [bulk(&large), too_large, Outcome::Ok, Outcome::Nil]);
    assert_eq!((d.run(&get("k")), d.run(&get("new"))), (Outcome::Nil, bulk("v")));
    // KEYS, from memory and from below; SCAN makes smaller pages.
    for n in 0..200 {
        d.run(&set(&format!("{n:0100}"), "v"));
    }
    assert_eq!(d.run(&Op::Keys { pattern: b"0*" }), Outcome::Error(ErrorKind::TooManyKeys));
    d.flush();
    d.crash();
    assert_eq!(d.run(&Op::Keys { pattern: b"0*" }), Outcome::Error(ErrorKind::TooManyKeys));
    assert_eq!(scan_all(&mut d, 1000, |_| ()).len(), 201);
}

#[test]
fn transactions() {
    let mut d = driver();
    d.run(&set("a", "1"));
    let (seen_a, seen_b) = (version(&mut d, b"a"), version(&mut d, b"b"));
    let ops =
        [set("a", "2"), get("a"), Op::IncrBy { key: b"a", delta: 5 }, Op::IncrBy { key: b"t", delta: 1 }];
    let ops: Vec<Vec<u8>> = ops.iter().chain(&[Op::DbSize, set("t", "x")]).map(bytes).collect();
    let ops: Vec<&[u8]> = ops.iter().map(Vec::as_slice).collect();
    let guards: [&[u8]; 4] = [b"a", &seen_a, b"b", &seen_b];
    let multi = Op::Multi { guards: List::Args(&guards), ops: List::Args(&ops) };
    let outcome = d.run(&multi);
    assert_eq!(outcome, Outcome::Array(vec![Outcome::Ok, bulk("2"), int(7), int(1), int(2), Outcome::Ok]));
    assert_eq!(d.run(&multi), Outcome::NullArray);
    assert_eq!(d.run(&get("a")), bulk("7"));
    // A change by a later op of the same entry is seen.
    let before = version(&mut d, b"a");
    d.entry(P, &[set("a", "8"), set("a", "9")]);
    let after = version(&mut d, b"a");
    assert_ne!(before, after);
    d.entry(P, &[set("z", "1"), set("a", "9")]);
    assert_ne!(after, version(&mut d, b"a"));
    let failing: Vec<Vec<u8>> =
        [Op::IncrBy { key: b"t", delta: 1 }, set("u", "1")].iter().map(bytes).collect();
    let failing: Vec<&[u8]> = failing.iter().map(Vec::as_slice).collect();
    let outcome = d.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&failing) });
    assert_eq!(outcome, Outcome::Array(vec![Outcome::Error(ErrorKind::NotInteger), Outcome::Ok]));
    let twice: Vec<Vec<u8>> =
        [Op::Flush, set("f", "1"), Op::Flush, set("g", "1")].iter().map(bytes).collect();
    let twice: Vec<&[u8]> = twice.iter().map(Vec::as_slice).collect();
    d.run(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&twice) });
    d.flush();
    d.crash();
    assert_eq!((d.run(&get("f")), d.run(&get("g")), d.run(&Op::DbSize)), (Outcome::Nil, bulk("1"), int(1)));
}

#[test]
fn an_unknown_op_of_an_entry_is_never_passed_over() {
    let mut d = driver();
    let at = Applied::first(P, Lsn(1), Term(1), 5);
    let known = bytes(&set("k", "v"));
    let inside = bytes(&Op::Multi { guards: List::Args(&[]), ops: List::Args(&[&known, b"\xff"]) });
    for op in [&b"\xff\xff"[..], b"", &inside] {
        let step = d.store.apply(&at, op);
        assert!(
            matches!(&step, Step::Unreadable(Unreadable::Damaged(why)) if why.contains("upgrade")),
            "{step:?}"
        );
    }
    assert!(matches!(d.store.prepare(P, b"\xff"), Prepared::Unreadable(_)), "nor is it proposed");
    assert_eq!(d.run(&get("k")), Outcome::Nil, "nothing of the transaction was done");
    assert_eq!(d.store.read(P, &known, 5), Step::Done(Outcome::Error(ErrorKind::BadOp)));
}
