//! What a damaged row below may change, and what not.

use super::faulty::Faulty;
use super::*;

/// A store after a restart, with `a` below and nothing in memory, where `b` cannot be looked for.
fn restarted() -> (Driver<Faulty>, Faulty) {
    let disk = Faulty::default();
    let mut d = Driver::new(disk.clone(), options());
    d.run(&set("a", "1"));
    d.flush();
    disk.damage("b");
    d.crash();
    (d, disk)
}

#[test]
fn damage_never_makes_the_number_of_keys_too_low() {
    let (mut d, _) = restarted();
    for _ in 0..3 {
        d.run(&set("b", "2"));
        assert_eq!(d.run(&Op::DbSize), Outcome::Int(2));
        assert_eq!(d.run(&Op::Del { keys: List::Args(&[b"b"]) }), Outcome::Int(1));
        assert_eq!(d.run(&Op::DbSize), Outcome::Int(1), "a is still there");
        d.flush();
        d.crash();
        assert_eq!(d.run(&get("a")), bulk("1"), "nor does a keyspace look empty that is not");
    }
}

#[test]
fn a_blind_write_is_not_stopped_by_a_size_that_is_wanted() {
    let (mut d, _) = restarted();
    d.hold_jobs = true;
    d.run(&set("c", "3"));
    assert!(matches!(d.store.read(P, &bytes(&Op::DbSize), d.now_ms), Step::Blocked(_)));
    assert_eq!(d.run(&set("b", "2")), Outcome::Ok, "it need not know what was there");
    assert_eq!(d.run(&get("b")), bulk("2"));
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(3));
}
