//! Reads that are answered at once, without a turn.

mod common;

use common::{P, Q, World};

#[test]
fn reads_at_once_are_of_a_settled_replica_and_counted() {
    let mut world = World::new(&[P]);
    assert_eq!(world.read_now(P, 1, "get a"), None, "not before the term's first entry");
    assert!(!world.is_ready(P));
    world.settle();
    assert!(world.is_ready(P));
    assert_eq!(world.read_now(P, 1, "get a").as_deref(), Some("nil"));
    world.write(1, 1, "set a 1");
    world.settle();
    assert_eq!(world.read_now(P, 1, "get a").as_deref(), Some("1"));
    assert_eq!(world.read_now(P, 1, "get cold"), None, "it has to be fetched");
    assert_eq!(world.read_now(Q, 1, "get a"), None, "not here");
    assert_eq!(world.shard.counters().reads_direct, 2);
}

#[test]
fn no_write_of_others_keeps_a_read_from_being_answered_at_once() {
    let mut world = World::ready(&[P]);
    world.disk.set_stalled(true);
    // More than there are counters in the filter that reads behind writes are told by.
    (1..200).for_each(|conn| world.write(conn, 1, "set a 1"));
    world.read(200, 1, "get cold");
    world.turns(2);
    (201..400).for_each(|conn| assert_eq!(world.read_now(P, conn, "get a").as_deref(), Some("nil")));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "overtakes its own request")]
fn a_read_at_once_that_would_overtake_its_own_write_is_a_mistake_of_the_caller() {
    let mut world = World::ready(&[P]);
    world.write(1, 1, "set a 1");
    world.read_now(P, 1, "get a");
}
