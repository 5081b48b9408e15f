//! What the next operations of an entry need is fetched ahead of them.

mod common;

use common::{Kv, P, World};

#[test]
fn what_operations_need_is_fetched_once_and_in_their_order() {
    let mut world = World::ready(&[P]);
    world.disk.set_manual(true);
    world.write(1, 1, "set first 1");
    world.turn();
    let ops: Vec<String> = (2..12)
        .map(|seq| match seq {
            4 => "set cold 1".to_owned(),
            _ => format!("set k{seq} 1"),
        })
        .collect();
    for (seq, op) in (2..).zip(&ops) {
        world.write(1, seq, op);
    }
    for _ in 0..200 {
        world.disk.complete_all();
        world.turn();
        world.run_jobs();
    }
    assert!((2..12).all(|seq| world.lsn(1, seq) == world.lsn(1, 2)), "they share an entry");
    let counters = world.shard.counters();
    assert!(counters.apply_tries > counters.ops_applied, "one of them had to wait");
    let fetched = world.shard.machine().prefetched.borrow();
    assert_eq!(fetched[0], ["set first 1"]);
    let expected: Vec<Vec<String>> = ops.chunks(Kv::PREFETCHED).map(<[String]>::to_vec).collect();
    assert_eq!(fetched[1..], expected);
}
