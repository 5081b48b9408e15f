//! What WATCH sees of keys that are there and of those that are not.

use super::super::*;
use super::commands::{driver, int, set_with};
use super::*;

/// What WATCH remembers of a key.
pub(super) fn version(d: &mut Driver<MemLevel>, key: &[u8]) -> [u8; 8] {
    let ask = |d: &mut Driver<_>, op: &Op<'_>| match d.run(op) {
        Outcome::Int(version) => u64::try_from(version).unwrap(),
        other => panic!("{other:?}"),
    };
    let version = match ask(d, &Op::Version { key }) {
        0 => ask(d, &Op::Watch { key }),
        version => version,
    };
    version.to_le_bytes()
}

/// Whether a transaction that watches this key runs.
fn still_holds(d: &mut Driver<MemLevel>, key: &[u8], version: [u8; 8]) -> bool {
    let op = Op::Multi { guards: List::Args(&[key, &version]), ops: List::Args(&[]) };
    d.run(&op) == Outcome::Array(Vec::new())
}

#[test]
fn an_absent_key_that_was_there_in_between_has_changed() {
    let mut d = driver();
    let del = |key: &'static [&'static [u8]]| Op::Del { keys: List::Args(key) };
    let soon = |d: &Driver<_>, key: &'static [u8]| Op::Set {
        key,
        value: b"v",
        when: SetWhen::Always,
        expiry: Expiry::At(d.now_ms + 10),
        reply: SetReply::Ok,
    };
    assert_eq!(d.run(&Op::Version { key: b"k" }), int(0), "nobody watches it");
    let mut seen = vec![version(&mut d, b"k")];
    assert_eq!(d.run(&del(&[b"k"])), int(0));
    assert!(still_holds(&mut d, b"k", seen[0]), "nothing was removed");
    let mut check = |d: &mut Driver<_>, what: &str| {
        assert!(!still_holds(d, b"k", *seen.last().unwrap()), "{what}");
        let now = version(d, b"k");
        assert!(!seen.contains(&now), "{what}");
        assert!(still_holds(d, b"k", now), "{what}: a new watcher");
        seen.push(now);
    };
    d.run(&set("k", "v"));
    d.run(&del(&[b"k"]));
    check(&mut d, "created and deleted");
    d.run(&set("k", "v"));
    d.run(&Op::Rename { from: b"k", to: b"l", only_if_none: false });
    check(&mut d, "created and renamed");
    let op = soon(&d, b"k");
    d.run(&op);
    d.now_ms += 20;
    assert_eq!(d.run(&get("k")), Outcome::Nil);
    check(&mut d, "created and expired");
    d.run(&set("k", "v"));
    d.run(&Op::Expire { key: b"k", at_ms: 1, condition: Condition::Always });
    check(&mut d, "created and expired at once");
    d.run(&set("k", "v"));
    d.run(&Op::Flush);
    check(&mut d, "created and flushed");
    let before = version(&mut d, b"k");
    d.run(&set("other", "v"));
    d.run(&Op::Flush);
    assert!(still_holds(&mut d, b"k", before), "it was not there to be flushed");
}

#[test]
fn what_becomes_of_other_keys_is_no_change_of_an_absent_one() {
    let mut d = driver();
    let watched = version(&mut d, b"k");
    for n in 0..30_000u64 {
        let name = format!("other{}", n % 20_000);
        let in_ms = Expiry::In(1 + n % 3);
        d.run(&set_with(&name, "v", SetWhen::Always, in_ms, SetReply::Ok));
        if n % 2 == 0 {
            d.run(&Op::Del { keys: List::Args(&[name.as_bytes()]) });
        }
        d.now_ms += n % 2;
        if n == 15_000 {
            d.flush();
            d.crash();
        }
    }
    assert!(still_holds(&mut d, b"k", watched));
}

#[test]
fn transactions_of_older_logs_are_judged_as_they_were() {
    let mut d = driver();
    d.run(&set("k", "v"));
    let deleted = d.next_version();
    d.run(&Op::Del { keys: List::Args(&[b"k"]) });
    let write = bytes(&set("written", "1"));
    let run = |d: &mut Driver<_>, version: u64| {
        let version = version.to_le_bytes();
        let guards: [&[u8]; 2] = [b"k", &version];
        d.run(&Op::MarkedMulti { guards: List::Args(&guards), ops: List::Args(&[&write]) })
    };
    assert_eq!(run(&mut d, 0), Outcome::NullArray, "it was there");
    assert_eq!(run(&mut d, deleted | 1 << 62), Outcome::Array(vec![Outcome::Ok]));
    d.flush();
    d.crash();
    assert_eq!(run(&mut d, deleted | 1 << 62), Outcome::Array(vec![Outcome::Ok]));
    // None is logged any more once keys are registered.
    version(&mut d, b"other");
    assert_eq!(run(&mut d, deleted | 1 << 62), Outcome::NullArray);
}

#[test]
fn a_restart_judges_watched_keys_as_before() {
    let mut d = driver();
    let seen = version(&mut d, b"k");
    d.flush();
    let guards: [&[u8]; 2] = [b"k", &seen];
    let write = bytes(&set("written", "1"));
    let multi = Op::Multi { guards: List::Args(&guards), ops: List::Args(&[&write]) };
    assert_eq!(d.run(&multi), Outcome::Array(vec![Outcome::Ok]));
    let hash = d.store.state_hash(P);
    d.crash();
    assert_eq!(d.store.state_hash(P), hash);
    assert_eq!((version(&mut d, b"k"), d.run(&get("written"))), (seen, bulk("1")));
}

#[test]
fn a_transaction_looks_at_every_key_it_watches() {
    let mut d = driver();
    let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
    for changed in 0..3 {
        d.run(&Op::Flush);
        d.run(&set("a", "1"));
        let seen = keys.map(|key| version(&mut d, key));
        let guards: Vec<&[u8]> =
            keys.iter().zip(&seen).flat_map(|(key, version)| [*key, version.as_slice()]).collect();
        let write = bytes(&set("written", "1"));
        let multi = Op::Multi { guards: List::Args(&guards), ops: List::Args(&[&write]) };
        assert_eq!(d.run(&multi), Outcome::Array(vec![Outcome::Ok]));
        let name = keys[changed];
        d.run(&Op::Append { key: name, value: b"x" });
        assert_eq!(d.run(&multi), Outcome::NullArray, "key {changed} has changed");
    }
}

#[test]
fn versions_are_made_of_the_version_lsn_and_not_of_the_log_s() {
    let mut d = driver();
    let write = bytes(&set("k", "v"));
    let copied = Applied { version_lsn: Lsn(70), ..Applied::first(P, Lsn(1), Term(1), d.now_ms) };
    assert_eq!(d.store.apply(&copied, &write), Step::Done(Outcome::Ok));
    d.store.end_entry(&copied);
    let read = d.store.read(P, &bytes(&Op::Version { key: b"k" }), d.now_ms);
    assert_eq!(read, Step::Done(int(70 << 20)));
    assert_eq!(d.store.keyspace_stats(P).applied, Lsn(1), "the log's own number says how far it was applied");
}

#[test]
fn an_operation_on_a_keyspace_that_is_not_known_is_not_applied() {
    let mut d = driver();
    let at = Applied { keyspace: KeyspaceId(1), ..Applied::first(P, Lsn(1), Term(1), d.now_ms) };
    let Step::Unreadable(why) = d.store.apply(&at, &bytes(&set("k", "v"))) else { panic!("it was applied") };
    assert!(why.to_string().contains("keyspace 1"), "{why}");
    assert_eq!(d.store.read(P, &bytes(&get("k")), d.now_ms), Step::Done(Outcome::Nil));
}

#[test]
fn a_version_lsn_never_goes_back() {
    let mut d = driver();
    let write = bytes(&set("k", "v"));
    let now_ms = d.now_ms;
    let at =
        |lsn, version| Applied { version_lsn: Lsn(version), ..Applied::first(P, Lsn(lsn), Term(1), now_ms) };
    assert_eq!(d.store.apply(&at(1, 70), &write), Step::Done(Outcome::Ok));
    d.store.end_entry(&at(1, 70));
    // One without operations, such as Raft's own, is none of the history's.
    d.store.end_entry(&at(2, 2));
    for _restart in 0..2 {
        for version in [3, 69, 70] {
            let step = d.store.apply(&at(3, version), &write);
            assert!(matches!(step, Step::Unreadable(_)), "version LSN {version}: {step:?}");
        }
        d.flush();
        d.crash();
    }
    assert_eq!(d.store.apply(&at(3, 71), &write), Step::Done(Outcome::Ok));
}
