//! Rows that are fetched ahead of the ops that need them: of how many ops, and that nothing comes of it.

use super::super::*;
use super::*;
use crate::store::memory::row::{FRESH, REFERENCED};
use crate::store::op::PREFETCH_KEYS;

fn names(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|n| format!("k{n}")).collect()
}

/// An MSET of so many keys, each its own value.
fn m_set(from: usize, keys: usize) -> Vec<u8> {
    let names = names(from, keys);
    let pairs: Vec<&[u8]> = names.iter().flat_map(|name| [name.as_bytes(), name.as_bytes()]).collect();
    bytes(&Op::MSet { pairs: List::Args(&pairs), only_if_none: false })
}

#[test]
fn whole_ops_are_fetched_as_far_as_their_keys_fit() {
    let mut d = Driver::new(MemLevel::default(), options());
    let sets: Vec<Vec<u8>> = (0..40).map(|n| bytes(&set(&format!("k{n}"), "v"))).collect();
    let fetched = |d: &Driver<_>, ops: &[Vec<u8>]| d.store.prefetch(ops.iter().map(|op| (P, op.as_slice())));
    assert_eq!(fetched(&d, &sets), 40, "there is no partition yet");
    for n in 0..20 {
        d.run(&set(&format!("k{n}"), "v"));
    }
    assert_eq!(fetched(&d, &sets), PREFETCH_KEYS);
    assert_eq!(fetched(&d, &sets[..5]), 5);
    let tens: Vec<Vec<u8>> = (0..9).map(|n| m_set(10 * n, 10)).collect();
    assert_eq!(fetched(&d, &tens), 3, "30 keys, and 2 of the next ones do not help");
    let long = [m_set(0, PREFETCH_KEYS + 1), sets[0].clone()];
    assert_eq!(fetched(&d, &long), 1, "it is left to itself");
    let filled = [m_set(0, PREFETCH_KEYS), sets[0].clone()];
    assert_eq!(fetched(&d, &filled), 1);
    let others = [bytes(&Op::Flush), b"no op".to_vec(), sets[0].clone()];
    assert_eq!(fetched(&d, &others), 3);
}

#[test]
fn rows_of_many_partitions_are_fetched_together() {
    let mut d = Driver::new(MemLevel::default(), options());
    d.run(&set("k0", "v"));
    let absent = PartitionId(P.0 + 1);
    let sets: Vec<Vec<u8>> = (0..40).map(|n| bytes(&set(&format!("k{n}"), "v"))).collect();
    let of_both = sets.iter().zip([P, absent].into_iter().cycle());
    let fetched = d.store.prefetch(of_both.map(|(op, id)| (id, op.as_slice())));
    assert_eq!(fetched, 40, "of 20 there is a partition, and no row but one");
    assert_eq!(d.store.prefetch(std::iter::repeat_n((P, [].as_slice()), 16)), 16, "what all of it need");
}

#[test]
fn what_is_fetched_is_not_used_by_that() {
    let mut d = Driver::new(MemLevel::default(), options());
    d.run(&set("k", "v"));
    d.run(&set("other", "v"));
    let flags = |d: &Driver<MemLevel>| {
        let hash = d.store.seed.hash(b"k");
        let row = d.store.partitions[&P].table.page(hash).and_then(|page| page.find(hash, b"k"));
        let row = row.expect("it was written");
        (row.has(FRESH), row.has(REFERENCED))
    };
    let hash = d.store.seed.hash(b"k");
    let row = d.store.partitions[&P].table.page(hash).and_then(|page| page.find(hash, b"k"));
    row.into_iter().for_each(|row| {
        row.clear(REFERENCED);
        row.set(FRESH);
    });
    let ops = [bytes(&set("k", "w")), bytes(&set("other", "w"))];
    assert_eq!(d.store.prefetch(ops.iter().map(|op| (P, op.as_slice()))), 2);
    assert_eq!(flags(&d), (true, false));
    assert_eq!(d.run(&get("k")), bulk("v"));
    assert_eq!(flags(&d), (false, false), "a lookup is a use");
}

#[test]
fn long_lists_of_keys_are_fetched_piece_by_piece() {
    let mut d = Driver::new(MemLevel::default(), options());
    for keys in [1, PREFETCH_KEYS, PREFETCH_KEYS + 1, 5 * PREFETCH_KEYS + 3] {
        let Ok(op) = Op::decode(&m_set(7, keys)).map(|op| d.run(&op)) else { panic!("it was encoded here") };
        assert_eq!(op, Outcome::Ok);
        let names = names(7, keys);
        let list: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let expected = names.iter().map(|name| bulk(name)).collect();
        assert_eq!(d.run(&Op::MGet { keys: List::Args(&list) }), Outcome::Array(expected));
    }
}
