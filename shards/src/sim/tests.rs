//! The simulator on its own small machine: worlds are clean, repeat exactly, and notice what is planted.

use crate::sim::planted::{MachineBug, Planted};
use crate::sim::{Batch, PlainSubject, play};

fn batch(seeds: std::ops::Range<u64>, planted: Option<Planted>) -> Batch {
    Batch { seeds, planted, threads: 2, stop_at_first: true, twice_every: 5 }
}

#[test]
fn worlds_are_clean_and_repeat_exactly() {
    let summary = play(&batch(0..60, None), || PlainSubject);
    assert_eq!(summary.failed, std::collections::BTreeMap::new());
    assert_eq!(summary.played, 60);
    let wanted = [("crashes", 100), ("writes done", 10_000), ("reads done", 10_000), ("flushes", 100)];
    assert_eq!(summary.probes.too_rare(&wanted), vec![]);
}

#[test]
fn a_machine_that_applies_twice_is_noticed() {
    let summary = play(&batch(0..40, Some(Planted::Machine(MachineBug::DoubleApply))), || PlainSubject);
    assert!(
        summary.failed.values().any(|why| why.starts_with("state equals the log applied")),
        "{summary:?}"
    );
}

#[test]
fn a_machine_that_forgets_what_it_called_persisted_is_noticed() {
    let summary = play(&batch(0..40, Some(Planted::Machine(MachineBug::PersistedTooEarly))), || PlainSubject);
    assert!(!summary.failed.is_empty(), "{summary:?}");
}
