//! Large values: what is copied of them, and who waits for that.

use super::*;

#[test]
fn copies_of_large_values_leave_room_for_light_writes_while_a_flush_is_under_way() {
    let options = options();
    let mut d = Driver::new(MemLevel::default(), options);
    let value = "v".repeat(4 << 20);
    d.run(&set("large", &value));
    d.hold_jobs = true;
    let names: Vec<String> = (0..100).map(|n| format!("copy:{n}")).collect();
    let mut copies = 0;
    for name in &names {
        let copy = Op::Copy { from: b"large", to: name.as_bytes(), replace: true };
        // As the gate does it: what weighs something goes in as long as the store takes heavy writes.
        if d.store.weight(P, &bytes(&copy)) > 0 && !d.store.takes_heavy_writes() {
            break;
        }
        d.entry(P, &[copy]);
        d.store.maintain(1_000_000);
        copies += 1;
    }
    assert!((1..options.max_dirty_bytes >> 22).contains(&copies), "{copies} went in");
    for n in 0..20_000 {
        d.entry(P, &[set(&format!("light:{n}"), "v")]);
    }
    assert_eq!(d.store.stats().flushes, 0, "a light write had to wait for it");
    d.settle();
    assert!(d.store.takes_heavy_writes() && d.store.stats().flushes > 0);
}

#[test]
fn a_large_value_is_flushed_from_where_it_lies_and_changed_beside_that() {
    let mut d = Driver::new(MemLevel::default(), options());
    let value = "v".repeat(1 << 20);
    d.run(&set("k", &value));
    let told = |d: &mut Driver<MemLevel>, op: &Op<'_>| {
        let outcome = d.run(op);
        d.store.step_bytes(&outcome)
    };
    d.hold_jobs = true;
    d.store.want_flush(Urgency::Soon);
    // Its time is beside it: nothing of the value is copied for that, neither for the flush nor for the row.
    let expire = Op::Expire { key: b"k", at_ms: i64::MAX, condition: Condition::Always };
    assert!(told(&mut d, &expire) < 1000);
    let change = Op::SetRange { key: b"k", offset: 0, value: b"x" };
    assert!(d.store.weight(P, &bytes(&change)) > 1 << 20, "the flush and the row share it");
    let first = told(&mut d, &change);
    assert!((1 << 20..(1 << 20) + 1000).contains(&first), "it is copied once: {first}");
    assert!(told(&mut d, &change) < 1000, "and not again");
    d.settle();
    assert_eq!(d.run(&Op::GetRange { key: b"k", start: 0, end: 1 }), Outcome::Bulk(b"xv".to_vec()));
    // The flush wrote the value as it was at its beginning; the log has what came since.
    d.crash();
    assert_eq!(d.run(&Op::GetRange { key: b"k", start: 0, end: 1 }), Outcome::Bulk(b"xv".to_vec()));
    assert_eq!(d.run(&Op::StrLen { key: b"k" }), Outcome::Int(1 << 20));
    // A copy is made at once, and once.
    let copied = told(&mut d, &Op::Copy { from: b"k", to: b"other", replace: false });
    let renamed = told(&mut d, &Op::Rename { from: b"k", to: b"third", only_if_none: false });
    assert!(copied < (1 << 20) + 1000 && renamed < (1 << 20) + 1000, "{copied} and {renamed}");
}

#[test]
fn a_job_that_reads_large_rows_leaves_the_rest_to_the_next_ones() {
    const ROWS: usize = 20;
    let mut d = Driver::new(MemLevel::default(), Options { load_jobs: 1, ..options() });
    let value = "v".repeat(1 << 20);
    let names: Vec<String> = (0..ROWS).map(|n| format!("k{n}")).collect();
    names.iter().for_each(|name| drop(d.run(&set(name, &value))));
    d.flush();
    d.crash();
    for name in &names {
        let step = d.store.read(P, &bytes(&get(name)), d.now_ms);
        assert!(matches!(step, Step::Blocked(_)), "{step:?}");
    }
    let here = |d: &Driver<MemLevel>| {
        let is_here = |name: &&String| matches!(d.store.get(P, name.as_bytes(), 0), Lookup::Value(_));
        names.iter().filter(is_here).count()
    };
    for most in (4..=ROWS).step_by(4) {
        d.run_a_job(0);
        assert_eq!(here(&d), most, "4 MiB at a time");
    }
    let mut woken = Vec::new();
    d.store.take_woken(&mut woken);
    assert_eq!((woken.len(), d.store.stats().loaded_keys), (ROWS, ROWS as u64));
}
