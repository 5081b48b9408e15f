//! What the system refuses to write: it is tried again, and until then writes are refused with what was refused.

use std::fs;

use corduroy_shards::Unreadable;

use super::super::disk::WantedHaste;
use super::super::*;
use super::faulty::Faulty;
use super::*;

#[test]
fn a_flush_that_is_refused_says_so_and_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 32), &ADOPT).expect("opens");
    let mut d = Driver::new(disk, options());
    d.run(&set("a", "1"));
    d.flush();
    assert_eq!(d.store.persisted(P), Lsn(1));
    // A folder has the name of the file that is to be written.
    let blocker = folder.path().join("manifest.new");
    fs::create_dir(&blocker).expect("a folder");
    d.run(&set("b", "2"));
    d.flush();
    for _ in 0..3 {
        assert!(d.store.is_out_of_room());
        let Some(Unreadable::Refused(why)) = d.store.stalled_by() else {
            panic!("{:?}", d.store.stalled_by())
        };
        assert!(why.contains("manifest.new") && why.contains("Is a directory"), "{why}");
        d.store.retry();
        let mut looks = Vec::new();
        d.store.take_jobs(&mut looks);
        for look in looks {
            d.store.job_done(Store::<LsmLevel>::run_job(look)).expect("job");
            assert!(d.store.is_out_of_room(), "also while it is tried again");
        }
        d.settle();
    }
    assert_eq!(d.run(&get("b")), bulk("2"), "reads go on");
    fs::remove_dir(&blocker).expect("removes");
    d.store.retry();
    d.settle();
    assert_eq!((d.store.persisted(P), d.store.is_out_of_room(), d.store.stalled_by()), (Lsn(2), false, None));
    d.crash();
    assert_eq!(d.run(&get("b")), bulk("2"));
}

#[test]
fn a_flush_makes_haste_as_long_as_writes_are_refused() {
    let disk = Faulty::default();
    let mut d = Driver::new(disk.clone(), options());
    let haste = |d: &mut Driver<Faulty>| {
        d.store.maintain(1_000_000);
        let WantedHaste { flush, merge } = disk.haste();
        [flush, merge]
    };
    d.hold_jobs = true;
    d.run(&set("a", "1"));
    assert_eq!(haste(&mut d), [0, 0]);
    d.store.want_flush(Urgency::Soon);
    assert_eq!(haste(&mut d), [0, 0], "the log takes writes");
    for _ in 0..2 {
        d.store.want_flush(Urgency::Now);
        assert_eq!(haste(&mut d), [100, 0], "the log is full, and a merge frees none of it");
    }
    assert_eq!(haste(&mut d), [0, 0], "it is not any more");
    disk.refuse_flushes(1);
    d.hold_jobs = false;
    d.settle();
    assert!(d.store.is_out_of_room());
    assert_eq!(haste(&mut d), [100, 100], "merges may make room");
    d.store.retry();
    d.settle();
    assert_eq!((haste(&mut d), d.store.is_out_of_room()), ([0, 0], false));
}

#[test]
fn a_full_disk_is_no_refusal() {
    let disk = MemLevel::default();
    let mut d = Driver::new(disk.clone(), options());
    d.run(&set("a", "1"));
    disk.set_full(true);
    d.flush();
    assert!(d.store.is_out_of_room());
    assert_eq!(d.store.stalled_by(), None, "DISKFULL says it");
}

#[test]
fn a_table_that_the_system_refuses_is_read_again_later_and_one_that_is_missing_is_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = LsmShared::new(1 << 20, 32);
    let disk = LsmLevel::open(folder.path(), &shared, &ADOPT).expect("opens");
    disk.ingest(3, false, &mut std::iter::once((b"key".to_vec(), Some(b"value".to_vec()))))
        .expect("there is room");
    drop(disk);
    LsmLevel::format(folder.path(), ADOPT.owner).expect("says whose it is");
    let disk = LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 32), &ADOPT).expect("opens");
    let table = fs::read_dir(folder.path().join("tables"))
        .expect("lists")
        .next()
        .expect("one")
        .expect("a table")
        .path();
    let aside = folder.path().join("aside");
    fs::rename(&table, &aside).expect("renames");
    let missing = disk.get(b"key").expect_err("it is missing");
    assert!(missing.to_string().contains(table.to_str().expect("text")), "{missing}");
    assert!(matches!(Unreadable::from(missing), Unreadable::Damaged(_)));
    fs::create_dir(&table).expect("a folder in its stead");
    let refused = disk.get(b"key").expect_err("a folder cannot be read");
    assert!(matches!(&refused, DiskError::Io { path, .. } if *path == table), "{refused}");
    assert!(matches!(Unreadable::from(refused), Unreadable::Refused(_)));
    fs::remove_dir(&table).and_then(|()| fs::rename(&aside, &table)).expect("back");
    assert_eq!(disk.get(b"key"), Ok(Some(b"value".to_vec())));
}
