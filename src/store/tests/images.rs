//! Images of partitions: made while the store goes on, taken over in one step or not at all.

mod deletions;
mod jobs;

use std::collections::BTreeMap;

use corduroy_shards::ids::NodeId;
use corduroy_shards::image::transfer::{Ended, ImageId, Process};
use corduroy_shards::image::{Bytes, Damage, Header, ImageAsk, ImageEvent, InstallError, Item, Reader};

use super::faulty::Faulty;
use super::*;

const OTHER: PartitionId = PartitionId(8);
const ID: ImageId = ImageId { process: Process { node: NodeId(1), incarnation: 1, starts: 1 }, number: 2 };
const CONFIGURATION: &[u8] = b"configuration";
const TERM: Term = Term(5);

fn events<L: DiskLevel>(driver: &mut Driver<L>) -> Vec<ImageEvent> {
    let mut events = Vec::new();
    driver.store.take_image_events(&mut events);
    events
}

/// The one answer, once nothing is left to do.
fn answer<L: DiskLevel>(driver: &mut Driver<L>) -> ImageEvent {
    driver.settle();
    <[_; 1]>::try_from(events(driver)).expect("one answer")[0].clone()
}

fn open<L: DiskLevel>(driver: &mut Driver<L>, number: u64, partition: PartitionId) -> Lsn {
    let at_least = driver.next.get(&partition).map_or(Lsn(1), |last| Lsn(*last));
    driver.store.ask_image(ImageAsk::Open { number, partition, at_least });
    let ImageEvent::Opened { number: opened, lsn } = answer(driver) else { panic!("it is there") };
    assert_eq!(opened, number);
    lsn
}

/// The next chunk, and whether it is the last one.
fn chunk<L: DiskLevel>(driver: &mut Driver<L>, ask: ImageAsk) -> (Bytes, bool) {
    driver.store.ask_image(ask);
    let ImageEvent::Chunk { chunk, is_end, .. } = answer(driver) else { panic!("there is one") };
    (chunk, is_end)
}

/// The chunks of an opened image, with something done between each two.
fn read<L: DiskLevel>(
    driver: &mut Driver<L>,
    number: u64,
    mut between: impl FnMut(&mut Driver<L>),
) -> Vec<Bytes> {
    let begin = ImageAsk::Begin { number, term: TERM, configuration: CONFIGURATION.to_vec() };
    let mut chunks = vec![chunk(driver, begin).0];
    loop {
        between(driver);
        let (bytes, is_end) = chunk(driver, ImageAsk::Next { number });
        chunks.push(bytes);
        if is_end {
            driver.store.ask_image(ImageAsk::Close { number });
            driver.settle();
            return chunks;
        }
    }
}

/// The image of a partition.
fn image<L: DiskLevel>(driver: &mut Driver<L>, partition: PartitionId) -> Vec<Bytes> {
    open(driver, 1, partition);
    read(driver, 1, |_| {})
}

/// What an image has: its header, and the values of its keys.
fn contents(chunks: &[Bytes]) -> (Header, BTreeMap<Vec<u8>, Vec<u8>>) {
    let (mut reader, mut rows) = (Reader::new(64 << 20), BTreeMap::new());
    for chunk in chunks {
        let read = reader.push(chunk, &mut |item| {
            if let Item::Row(row) = item {
                rows.insert(row.key.to_vec(), row.value.to_vec());
            }
            Ok(())
        });
        read.expect("an image");
    }
    (reader.finish().expect("a whole one"), rows)
}

fn store<L: DiskLevel>(driver: &mut Driver<L>, partition: PartitionId, chunks: &[Bytes]) {
    for (number, chunk) in (0_u32..).zip(chunks) {
        let chunk = chunk.clone();
        driver.store.ask_image(ImageAsk::Store { partition, image: ID, number, chunk });
        let stored = ImageEvent::Stored { partition, image: ID, number, is_stored: true };
        assert_eq!(answer(driver), stored);
    }
}

fn ask_install<L: DiskLevel>(driver: &mut Driver<L>, partition: PartitionId, lsn: Lsn) {
    driver.store.ask_image(ImageAsk::Install { partition, image: ID, last: (lsn, TERM) });
}

fn install<L: DiskLevel>(
    driver: &mut Driver<L>,
    partition: PartitionId,
    (lsn, chunks): (Lsn, &[Bytes]),
) -> Result<Header, InstallError> {
    store(driver, partition, chunks);
    driver.store.ask_image(ImageAsk::Validate { partition, image: ID, last: (lsn, TERM) });
    let ImageEvent::Validated { result, .. } = answer(driver) else { panic!("the end of the reading") };
    result?;
    ask_install(driver, partition, lsn);
    let ImageEvent::Installed { result, .. } = answer(driver) else { panic!("the end of the install") };
    if result.is_ok() {
        driver.next.insert(partition, lsn.0);
        driver.log.retain(|(at, _)| at.partition != partition);
    }
    result
}

fn value(number: u32) -> String {
    format!("{number}").repeat(300)
}

/// A driver with a partition of many rows of every kind, beside another one.
fn filled<L: DiskLevel>(disk: L, options: Options) -> Driver<L> {
    let mut driver = Driver::new(disk, options);
    for round in 0..3_u32 {
        for key in 0..600_u32 {
            let (name, text) = (format!("key {key}"), value(key * 3 + round));
            if key % 3 <= round {
                driver.run(&set(&name, &text));
                driver.run_in(OTHER, &set(&name, "other"));
            }
        }
        driver.flush();
    }
    let names = ["key 5", "key 7"];
    names.iter().for_each(|name| _ = driver.run(&Op::Del { keys: List::Args(&[name.as_bytes()]) }));
    for (name, at_ms) in [("brief", driver.now_ms + 5), ("long", driver.now_ms + 1_000_000)] {
        driver.run(&Op::Set {
            key: name.as_bytes(),
            value: b"expires",
            when: SetWhen::Always,
            expiry: Expiry::At(at_ms),
            reply: SetReply::Ok,
        });
    }
    driver.run(&Op::Watch { key: b"absent" });
    driver.now_ms += 10;
    driver.run(&set("last", "value"));
    driver
}

fn size<L: DiskLevel>(driver: &mut Driver<L>, partition: PartitionId) -> Outcome {
    driver.run_in(partition, &Op::DbSize)
}

/// What a replica answers, and how far it is.
fn state<L: DiskLevel>(driver: &mut Driver<L>, partition: PartitionId) -> Vec<Outcome> {
    let keys = ["key 1", "key 5", "key 599", "brief", "long", "last", "later"];
    let mut answers: Vec<Outcome> = keys.iter().map(|key| driver.run_in(partition, &get(key))).collect();
    answers.push(driver.run_in(partition, &Op::Version { key: b"absent" }));
    answers.push(size(driver, partition));
    answers
}

#[test]
fn an_image_is_of_one_point_whatever_goes_on_meanwhile() {
    let mut driver = filled(MemLevel::default(), options());
    let lsn = open(&mut driver, 7, P);
    let expected = contents(&image(&mut driver, P)).1;
    assert_eq!(expected.len(), 600, "600 keys of which 2 were deleted, and 2 more");
    assert!(!expected.contains_key(&b"brief"[..]), "it has expired");
    let mut round = 0;
    let chunks = read(&mut driver, 7, |driver| {
        for key in 0..50 {
            driver.run(&set(&format!("key {key}"), &format!("changed {round}")));
            driver.run_in(OTHER, &set(&format!("new {key}"), "other"));
        }
        if round == 1 {
            driver.run(&Op::Flush);
        }
        round += 1;
        driver.flush();
    });
    assert!(chunks.len() > 3, "{} chunks", chunks.len());
    let (header, rows) = contents(&chunks);
    assert!(rows == expected, "the rows as of entry {lsn}");
    assert_eq!((header.partition, header.lsn, header.term), (P, lsn, TERM));
    assert_eq!((header.configuration.as_slice(), header.source_lsn), (CONFIGURATION, lsn));
}

/// The whole round, on a disk level: what was restored has the same image, byte for byte, answers alike, and goes on alike.
fn restores<L: DiskLevel>(from: L, to: L) {
    let mut driver = filled(from, options());
    let chunks = image(&mut driver, P);
    let lsn = contents(&chunks).0.lsn;
    let mut restored = Driver::new(to, options());
    restored.now_ms = driver.now_ms;
    // It has older rows of the partition, a flushed keyspace, and a neighbour.
    for key in 0..900_u32 {
        restored.run(&set(&format!("key {key}"), "old"));
        if key == 400 {
            restored.run(&Op::Flush);
        }
    }
    restored.run_in(OTHER, &set("key 1", "its own"));
    assert!(restored.next[&P] < lsn.0);
    let header = install(&mut restored, P, (lsn, &chunks)).expect("installs");
    assert_eq!((header.lsn, header.configuration.as_slice()), (lsn, CONFIGURATION));
    assert_eq!((restored.store.persisted(P), restored.store.installed_image(P)), (lsn, Some(header.clone())));
    assert_eq!(size(&mut restored, P), Outcome::Int(600));
    assert_eq!(restored.run_in(OTHER, &get("key 1")), bulk("its own"));
    assert!(state(&mut restored, P) == state(&mut driver, P));
    restored.check();
    assert!(image(&mut restored, P) == chunks, "the same bytes");
    // A start before anything was applied finds the mark, one after that does not.
    restored.flush();
    restored.crash();
    assert_eq!(restored.store.installed_image(P), Some(header));
    for driver in [&mut driver, &mut restored] {
        driver.run(&set("later", "both"));
        driver.run(&Op::IncrBy { key: b"count", delta: 5 });
    }
    assert_eq!(restored.store.installed_image(P), None);
    assert!(state(&mut restored, P) == state(&mut driver, P));
    restored.flush();
    restored.crash();
    assert_eq!(restored.store.installed_image(P), None);
    assert!(state(&mut restored, P) == state(&mut driver, P));
    assert!(image(&mut restored, P) == image(&mut driver, P), "the same bytes again");
    for driver in [&mut driver, &mut restored] {
        driver.run(&Op::Flush);
        driver.flush();
        driver.crash();
        assert_eq!(size(driver, P), Outcome::Int(0));
    }
}

#[test]
fn a_restored_replica_is_as_the_first() {
    restores(MemLevel::default(), MemLevel::default());
}

fn level(folder: &tempfile::TempDir) -> LsmLevel {
    LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 64), &ADOPT).expect("opens")
}

#[test]
fn a_restored_replica_is_as_the_first_on_the_tree() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
    let [from, to] = [level(&folders[0]), level(&folders[1])];
    restores(from, to.clone());
    let left = std::fs::read_dir(folders[1].path()).expect("a folder");
    let names = left.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let staged: Vec<_> = names.filter(|name| name.starts_with(".tmp")).collect();
    assert_eq!(staged, Vec::<String>::new(), "what was stored is removed");
    // Merges of all that there is leave the installed rows, and none of before.
    while to.compact(&[]).expect("merges") {}
    drop(to);
    let restored = Driver::new(level(&folders[1]), options());
    restored.check();
}

/// As [`an_image_is_of_one_point_whatever_goes_on_meanwhile`], with merges of the tables that it is read from.
#[test]
fn merges_do_not_change_what_an_image_is_read_from() {
    let folder = tempfile::tempdir().expect("folder");
    let disk = level(&folder);
    let mut driver = filled(disk.clone(), options());
    let expected = contents(&image(&mut driver, P)).1;
    open(&mut driver, 7, P);
    let mut round = 0_u32;
    let chunks = read(&mut driver, 7, |driver| {
        driver.run(&set(&format!("key {round}"), "changed"));
        driver.run(&Op::Flush);
        round += 1;
        driver.flush();
        while disk.compact(&[]).expect("merges") {}
    });
    assert!(contents(&chunks).1 == expected);
}

/// Ends the process after so many jobs of an install. Returns whether it was complete by then.
fn ends_after(jobs: usize) -> bool {
    let mut first = filled(MemLevel::default(), options());
    let chunks = image(&mut first, P);
    let lsn = contents(&chunks).0.lsn;
    let mut driver = Driver::new(MemLevel::default(), options());
    driver.run(&set("key 1", "old"));
    driver.run(&set("late", "old"));
    driver.hold_jobs = true;
    // A flush that holds the partition is under way when the install is asked for.
    driver.store.want_flush(Urgency::Soon);
    while driver.store.maintain(1_000_000) {}
    let mut events = Vec::new();
    let mut left = jobs;
    let mut asks: Vec<ImageAsk> = (0_u32..)
        .zip(&chunks)
        .map(|(number, chunk)| ImageAsk::Store { partition: P, image: ID, number, chunk: chunk.clone() })
        .collect();
    asks.push(ImageAsk::Validate { partition: P, image: ID, last: (lsn, TERM) });
    asks.push(ImageAsk::Install { partition: P, image: ID, last: (lsn, TERM) });
    for ask in asks {
        driver.store.ask_image(ask);
        while events.is_empty() && left > 0 {
            driver.run_a_job(0);
            driver.store.take_image_events(&mut events);
            left -= 1;
        }
        let answer = events.pop();
        let is_done = matches!(answer, Some(ImageEvent::Installed { .. }));
        if left == 0 || is_done {
            let installed = driver.store.persisted(P) == lsn;
            driver.store = Store::open(driver.disk.clone(), driver.options, &[]).expect("opens");
            driver.check();
            let image = driver.store.installed_image(P);
            // Whole or not at all, and what a start finds is what was last said.
            assert_eq!((image.is_some(), driver.store.persisted(P) == lsn), (installed, installed));
            let (value, size) = if installed { (value(5), 600) } else { ("old".to_owned(), 2) };
            if driver.store.persisted(P) > Lsn::ZERO {
                driver.hold_jobs = false;
                assert_eq!(driver.run(&get("key 1")), bulk(&value));
                assert_eq!(driver.run(&Op::DbSize), Outcome::Int(size));
            }
            return is_done;
        }
    }
    panic!("an install ends")
}

#[test]
fn an_install_is_whole_or_not_at_all_wherever_the_process_ends() {
    let jobs = (0..100).find(|jobs| ends_after(*jobs)).expect("it ends");
    assert!(jobs > 5, "{jobs} jobs");
}

#[test]
fn what_was_asked_before_an_install_brings_nothing_into_it() {
    let mut first = Driver::new(MemLevel::default(), options());
    (0..20).for_each(|_| _ = first.run(&set("key", "new")));
    let chunks = image(&mut first, P);
    let mut driver = Driver::new(MemLevel::default(), options());
    driver.run(&set("key", "old"));
    driver.run(&set("other", "old"));
    driver.flush();
    driver.store = Store::open(driver.disk.clone(), driver.options, &[]).expect("opens");
    for key in ["key", "other"] {
        assert!(matches!(driver.store.read(P, &bytes(&get(key)), 0), Step::Blocked(_)));
    }
    assert!(matches!(driver.store.read(P, &bytes(&Op::Keys { pattern: b"*" }), 0), Step::Blocked(_)));
    driver.store.take_jobs(&mut driver.held);
    let asked = driver.held_jobs();
    // They have read what was there, and come in after the install.
    let done: Vec<JobDone> = driver.held.drain(..).map(Store::<MemLevel>::run_job).collect();
    assert!(asked > 0 && done.len() == asked);
    install(&mut driver, P, (Lsn(20), &chunks)).expect("installs");
    done.into_iter().for_each(|done| driver.store.job_done(done).expect("job"));
    assert_eq!(driver.read_in(P, &get("key")), bulk("new"));
    assert_eq!(driver.read_in(P, &get("other")), Outcome::Nil);
    assert_eq!(driver.read_in(P, &Op::DbSize), Outcome::Int(1));
    assert_eq!(driver.read_in(P, &Op::Keys { pattern: b"*" }), Outcome::Array(vec![bulk("key")]));
    driver.settle();
}

#[test]
fn what_cannot_be_installed_changes_nothing() {
    let mut first = filled(MemLevel::default(), options());
    let chunks = image(&mut first, P);
    let lsn = contents(&chunks).0.lsn;
    let disk = Faulty::default();
    let mut driver = Driver::new(disk.clone(), options());
    driver.run(&set("key 1", "old"));
    driver.flush();
    let refused = |driver: &mut Driver<Faulty>, partition, lsn, chunks: &[Bytes]| {
        let error = install(driver, partition, (lsn, chunks)).expect_err("it is refused");
        assert_eq!((driver.run(&get("key 1")), size(driver, P)), (bulk("old"), Outcome::Int(1)));
        assert_eq!((driver.store.persisted(P), driver.store.installed_image(P)), (Lsn(1), None));
        driver.settle();
        error
    };
    let cut = &chunks[..chunks.len() - 1];
    let damaged = |error| matches!(error, InstallError::Damaged(_));
    assert!(damaged(refused(&mut driver, P, lsn, cut)));
    let mut swapped = chunks.clone();
    swapped.swap(1, 2);
    assert!(damaged(refused(&mut driver, P, lsn, &swapped)));
    let another = |error| matches!(error, InstallError::Another { .. });
    assert!(another(refused(&mut driver, PartitionId(9), lsn, &chunks)));
    assert!(another(refused(&mut driver, P, lsn.next(), &chunks)));
    store(&mut driver, P, &chunks);
    ask_install(&mut driver, P, Lsn(1));
    let ImageEvent::Installed { result, .. } = answer(&mut driver) else { panic!("the end of the install") };
    assert_eq!(result, Err(InstallError::NotNewer { applied: Lsn(1) }));
    disk.refuse_flushes(1);
    assert_eq!(refused(&mut driver, P, lsn, &chunks).ended(), Ended::NoRoom);
    disk.refuse_rows();
    assert!(matches!(refused(&mut driver, P, lsn, &chunks), InstallError::NotStored { .. }));
    // Of another cluster: its rows are in another order.
    let mut other = Driver::new(Faulty::default(), Options { hash_seed: HashSeed([7, 7]), ..options() });
    other.run(&set("key 1", "other"));
    let error = install(&mut other, OTHER, (lsn, &chunks)).expect_err("it is refused");
    let seed = "its rows are in another cluster's order";
    assert_eq!(error, InstallError::Damaged(Damage::Item { why: seed }));
    // Nothing was stored.
    ask_install(&mut driver, P, lsn);
    let ImageEvent::Installed { result, .. } = answer(&mut driver) else { panic!("an answer") };
    assert!(matches!(result, Err(InstallError::NotStored { .. })));
    // And in the end it can be.
    install(&mut driver, P, (lsn, &chunks)).expect("installs");
    assert_eq!(size(&mut driver, P), Outcome::Int(600));
}

#[test]
fn an_image_waits_for_a_point_between_two_entries() {
    let mut driver = Driver::new(MemLevel::default(), options());
    driver.run(&set("key", "1"));
    driver.flush();
    let at = Applied::first(P, Lsn(2), Term(1), driver.now_ms);
    let ops = [set("key", "2"), set("more", "2")].map(|op| bytes(&op));
    assert!(matches!(driver.store.apply(&at, &ops[0]), Step::Done(_)));
    driver.store.ask_image(ImageAsk::Open { number: 1, partition: P, at_least: Lsn(2) });
    driver.settle();
    driver.store.want_flush(Urgency::Soon);
    driver.settle();
    assert_eq!(events(&mut driver), [], "entry 2 is not whole");
    assert!(matches!(driver.store.apply(&at, &ops[1]), Step::Done(_)));
    driver.store.end_entry(&at);
    assert_eq!(answer(&mut driver), ImageEvent::Opened { number: 1, lsn: Lsn(2) });
    let rows = contents(&read(&mut driver, 1, |_| {})).1;
    assert_eq!((rows.len(), &rows[&b"key"[..]]), (2, &b"2".to_vec()));
    // There is nothing of a partition that nothing was applied to.
    driver.store.ask_image(ImageAsk::Open { number: 2, partition: OTHER, at_least: Lsn(1) });
    assert!(matches!(answer(&mut driver), ImageEvent::Failed { number: 2, .. }));
}

#[test]
fn what_is_closed_or_dropped_is_not_answered_any_more() {
    let mut driver = filled(MemLevel::default(), options());
    let chunks = image(&mut driver, P);
    driver.hold_jobs = true;
    driver.store.ask_image(ImageAsk::Open { number: 3, partition: P, at_least: Lsn(1) });
    driver.store.ask_image(ImageAsk::Close { number: 3 });
    let chunk = chunks[0].clone();
    driver.store.ask_image(ImageAsk::Store { partition: OTHER, image: ID, number: 0, chunk: chunk.clone() });
    driver.store.ask_image(ImageAsk::Drop { partition: OTHER, image: ID });
    driver.settle();
    assert_eq!(events(&mut driver), []);
    // A chunk that is not next, and one of an image of which nothing is stored.
    driver.store.ask_image(ImageAsk::Store { partition: OTHER, image: ID, number: 1, chunk });
    assert!(matches!(answer(&mut driver), ImageEvent::Stored { is_stored: false, .. }));
}

/// In a copy of a partition, versions follow those of the log that it copies: that of a FLUSH may be no higher than the number
/// that an install took.
#[test]
fn a_flush_behind_an_install_leaves_nothing_of_it() {
    let mut first = Driver::new(MemLevel::default(), options());
    ["one", "two"].iter().for_each(|key| _ = first.run(&set(key, "1")));
    first.entry(P, &[]);
    let chunks = image(&mut first, P);
    assert_eq!(contents(&chunks).0.source_lsn, Lsn(2));
    for ops in [vec![Op::Flush], vec![set("three", "1"), Op::Flush]] {
        let mut driver = Driver::new(MemLevel::default(), options());
        driver.run(&set("key", "1"));
        driver.run(&Op::Del { keys: List::Args(&[b"key"]) });
        let Store { partitions, ledger, .. } = &mut driver.store;
        partitions.get_mut(&P).expect("it is there").begin_anew(ledger);
        install(&mut driver, P, (Lsn(3), &chunks)).expect("installs");
        let number = driver.store.partitions[&P].flush_version;
        assert_eq!(number, 3 << 20 | 1, "above the one that was begun");
        let at = Applied { version_lsn: Lsn(3), ..Applied::first(P, Lsn(4), Term(1), driver.now_ms) };
        let ops: Vec<Vec<u8>> = ops.iter().map(bytes).collect();
        driver.apply_entry(&at, &ops);
        assert!(driver.store.partitions[&P].flush_version > number);
        driver.flush();
        driver.crash();
        assert_eq!(driver.read_in(P, &Op::DbSize), Outcome::Int(0));
        assert_eq!(driver.read_in(P, &get("one")), Outcome::Nil);
    }
}
