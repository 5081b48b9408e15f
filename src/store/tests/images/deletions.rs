//! Partitions that are deleted: rows, and how far they were applied, in one step or not at all.

use super::*;
use crate::store::disk::format::row_key;

/// Deletes a partition. Returns whether that took a job.
fn clear<L: DiskLevel>(driver: &mut Driver<L>, partition: PartitionId) -> bool {
    let took_a_job = !driver.store.clear(partition);
    assert!(!took_a_job || !driver.store.clear(partition), "it is under way");
    driver.settle();
    assert!(driver.store.clear(partition), "nothing is left");
    took_a_job
}

/// What a deleted partition's next member finds, whatever its process does meanwhile.
fn is_new<L: DiskLevel>(driver: &mut Driver<L>) {
    assert_eq!(driver.store.persisted(P), Lsn::ZERO);
    assert_eq!(driver.store.installed_image(P), None);
    assert!(!driver.store.is_inside_entry(P));
    driver.check();
}

/// A partition is deleted, and then installed from an image of what it was: it is that again, and nothing else.
fn comes_back<L: DiskLevel>(disk: L) {
    let mut driver = filled(disk, options());
    let (chunks, before) = (image(&mut driver, P), state(&mut driver, P));
    let lsn = contents(&chunks).0.lsn;
    driver.run(&set("not in the image", "value"));
    driver.flush();
    driver.run(&set("nor flushed", "value"));
    assert!(clear(&mut driver, P));
    assert!(!clear(&mut driver, P), "it is deleted already");
    driver.next.remove(&P);
    driver.log.retain(|(at, _)| at.partition != P);
    is_new(&mut driver);
    for _ in 0..2 {
        driver.crash();
        is_new(&mut driver);
        driver.run_in(OTHER, &set("goes on", "value"));
        driver.flush();
    }
    install(&mut driver, P, (lsn, &chunks)).expect("installs");
    assert!(state(&mut driver, P) == before);
    assert_eq!(driver.run(&get("not in the image")), Outcome::Nil);
    assert_eq!(driver.run(&get("nor flushed")), Outcome::Nil);
    assert_eq!(driver.run_in(OTHER, &get("goes on")), bulk("value"));
    driver.flush();
    driver.crash();
    assert!(state(&mut driver, P) == before);
}

#[test]
fn what_was_deleted_comes_back_by_an_image_alone() {
    comes_back(MemLevel::default());
}

#[test]
fn what_was_deleted_comes_back_by_an_image_alone_on_the_tree() {
    let folder = tempfile::tempdir().expect("folder");
    comes_back(level(&folder));
}

/// Merges keep nothing of it, and its neighbour's rows.
#[test]
fn the_rows_of_what_was_deleted_go() {
    let folder = tempfile::tempdir().expect("folder");
    let tree = level(&folder);
    let mut driver = filled(tree.clone(), options());
    driver.flush();
    assert!(clear(&mut driver, P));
    driver.settle();
    while tree.compact(&[]).expect("merges") {}
    let mut rows = 0;
    let from = row_key(P, 0, 0, b"");
    let to = row_key(PartitionId(P.0 + 1), 0, 0, b"");
    let counted = tree.scan(&from, &to, &mut |_, _| {
        rows += 1;
        true
    });
    counted.expect("reads");
    assert_eq!(rows, 0);
    assert_eq!(driver.run_in(OTHER, &get("key 3")), bulk("other"));
}

/// An empty partition, and one that there never was, are deleted without a job.
#[test]
fn nothing_is_deleted_at_once() {
    let mut driver = Driver::new(MemLevel::default(), options());
    assert!(!clear(&mut driver, P));
    driver.run_in(OTHER, &get("key"));
    assert!(!clear(&mut driver, OTHER));
}

/// What waits for rows of the partition finds the new one.
#[test]
fn a_deletion_waits_for_a_flush_under_way_and_none_begins_meanwhile() {
    let mut driver = filled(MemLevel::default(), options());
    driver.store.want_flush(Urgency::Now);
    driver.store.maintain(0);
    assert!(!driver.store.clear(P));
    driver.settle();
    assert!(driver.store.clear(P));
    assert_eq!(driver.store.persisted(P), Lsn::ZERO);
    driver.run_in(OTHER, &set("goes on", "value"));
    driver.flush();
    driver.check();
}

/// However many there are, the log is not kept from getting shorter meanwhile.
#[test]
fn many_deletions_are_few_jobs_and_a_flush_goes_between() {
    let mut driver = Driver::new(MemLevel::default(), options());
    let all: Vec<_> = (0..40).map(|n| PartitionId(20 + n)).collect();
    for partition in all.iter().chain([&OTHER]) {
        driver.run_in(*partition, &set("key", "value"));
    }
    driver.hold_jobs = true;
    all.iter().for_each(|partition| assert!(!driver.store.clear(*partition)));
    driver.take_jobs();
    assert_eq!(driver.held_jobs(), 1, "the first one is deleted, the others wait");
    let flushes = driver.store.flushes();
    driver.store.want_flush(Urgency::Now);
    let mut jobs = 0;
    while driver.store.flushes() == flushes {
        driver.run_a_job(0);
        driver.store.maintain(1_000_000);
        jobs += 1;
        assert!(jobs < 10, "the flush that was asked for does not begin");
    }
    let is_there = |partition: &&PartitionId| driver.store.persisted(**partition) > Lsn::ZERO;
    assert!(all.iter().filter(is_there).count() > 30, "it is not behind all deletions");
    while !all.iter().all(|partition| driver.store.clear(*partition)) {
        driver.store.maintain(1_000_000);
        driver.take_jobs();
        jobs += driver.held_jobs();
        (0..driver.held_jobs()).for_each(|_| driver.run_a_job(0));
    }
    assert!(jobs < 10, "{jobs} jobs");
    assert_eq!(driver.run_in(OTHER, &get("key")), bulk("value"));
    assert!(all.iter().all(|partition| driver.store.persisted(*partition) == Lsn::ZERO));
    driver.check();
}
