//! The format of images: its bytes, round trips, and whatever is no image.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use corduroy_wal::mix::SplitMix64;
use proptest::prelude::*;

use super::*;

/// What an item has, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Owned {
    Section(u8, Vec<u8>),
    Row(u64, u64, [Vec<u8>; 3]),
}

impl Owned {
    fn of(item: Item<'_>) -> Self {
        match item {
            Item::Section { number, bytes } => Self::Section(number, bytes.to_vec()),
            Item::Row(Row { keyspace, version, stamp, key, value }) => {
                Self::Row(keyspace.0, version, [stamp, key, value].map(<[u8]>::to_vec))
            }
        }
    }
}

fn header() -> Header {
    Header {
        partition: PartitionId(300),
        history: 2,
        lsn: Lsn(0x0102),
        term: Term(7),
        source_lsn: Lsn(0x0101),
        clock_ms: 1_700_000_000_123,
        configuration: b"configuration".to_vec(),
    }
}

fn write(header: &Header, items: &[Owned]) -> (Vec<Vec<u8>>, Totals) {
    let (mut writer, first) = Writer::new(header);
    let mut chunks = vec![first];
    for item in items {
        match item {
            Owned::Section(number, bytes) => writer.section(*number, bytes),
            Owned::Row(keyspace, version, [stamp, key, value]) => {
                writer.row(&Row { keyspace: KeyspaceId(*keyspace), version: *version, stamp, key, value });
            }
        }
        chunks.extend(std::iter::from_fn(|| writer.take_chunk()));
    }
    let (last, totals) = writer.finish();
    chunks.extend(last);
    (chunks, totals)
}

const ITEM_BYTES_MAX: usize = 4 << 20;

fn read(chunks: &[Vec<u8>]) -> Result<(Header, Vec<Owned>, Totals), Damage> {
    let (mut reader, mut items) = (Reader::new(ITEM_BYTES_MAX), Vec::new());
    for chunk in chunks {
        reader.push(chunk, &mut |item| {
            items.push(Owned::of(item));
            Ok(())
        })?;
    }
    let totals = reader.totals().ok_or(Damage::Mixed { why: "its end is missing" })?;
    Ok((reader.header().unwrap().clone(), items, totals))
}

fn row(keyspace: u64, key: &[u8], value: Vec<u8>) -> Owned {
    Owned::Row(keyspace, 9 << 20, [b"stamp".to_vec(), key.to_vec(), value])
}

/// Bytes that do not compress.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(seed);
    std::iter::repeat_with(|| random.next_u64().to_le_bytes()).flatten().take(bytes).collect()
}

/// An image of several chunks, with an item that lies in more than two of them.
fn large() -> Vec<Owned> {
    let mut items = vec![Owned::Section(SECTION_MACHINE, noise(1000, 1)), Owned::Section(9, Vec::new())];
    items.extend((0..50_u64).map(|at| row(at / 20, &at.to_be_bytes(), noise(4000, at))));
    items.push(row(3, b"long", noise(700_000, 2)));
    items.push(row(3, b"plain", vec![7; 300_000]));
    items
}

fn fixtures() -> Vec<(&'static str, Vec<u8>)> {
    let of_hex = |hex: &str| {
        let (pairs, _) = hex.as_bytes().as_chunks::<2>();
        pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let lines = include_str!("image-1.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, hex)| (name, of_hex(hex))).collect()
}

/// Bytes that were put together from the drawing: today's code writes the same, but for what it packs, and reads them.
#[test]
fn version_1_is_these_bytes() {
    let fixtures = fixtures();
    let chunks = |names: &[&str]| -> Vec<Vec<u8>> {
        let of = |name: &&str| fixtures.iter().find(|fixture| fixture.0 == *name).unwrap().1.clone();
        names.iter().map(of).collect()
    };
    let items = [
        Owned::Section(SECTION_MACHINE, b"machine".to_vec()),
        row(0, b"key", b"value".to_vec()),
        Owned::Row(5, 0x0102_0304, [vec![], b"other".to_vec(), vec![]]),
    ];
    let (written, totals) = write(&header(), &items);
    let as_it_is = chunks(&["header", "items", "end"]);
    assert_eq!(written, as_it_is);
    assert_eq!(totals, Totals { rows: 2, stream_bytes: 83, sections: 1 });
    assert_eq!(read(&as_it_is), Ok((header(), items.to_vec(), totals)));
    // The same content, packed.
    assert_eq!(
        read(&chunks(&["header", "items-packed", "end-packed"])).unwrap().1,
        [row(0, b"key", vec![97; 100])]
    );
    let empty = Header { configuration: Vec::new(), source_lsn: Lsn::ZERO, ..header() };
    assert_eq!(write(&empty, &[]).0, chunks(&["header-empty", "end-empty"]));
    assert_eq!(read(&chunks(&["header-empty", "end-empty"])), Ok((empty, vec![], Totals::default())));
}

#[test]
fn pieces_are_all_of_one_length_but_the_last() {
    let items = large();
    let (chunks, totals) = write(&header(), &items);
    assert!(chunks.len() > 5, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
    let facts: Vec<ChunkFacts> = chunks.iter().map(|chunk| look(chunk).unwrap()).collect();
    for (number, facts) in (0_u32..).zip(&facts) {
        assert_eq!(
            *facts,
            ChunkFacts { number, is_end: number as usize + 1 == chunks.len() },
            "chunk {number}"
        );
    }
    assert_eq!(read(&chunks), Ok((header(), items, totals)));
    // A stream that ends where a piece does, and one that takes one byte more.
    let head = 26 + 5 + 3;
    for (bytes, pieces) in [(CONTENT_BYTES_MAX, 1), (CONTENT_BYTES_MAX + 1, 2)] {
        let items = [row(0, b"key", noise(bytes - head, 3))];
        let (chunks, totals) = write(&header(), &items);
        assert_eq!((chunks.len(), totals.stream_bytes), (pieces + 2, bytes as u64));
        assert_eq!(read(&chunks).unwrap().1, items);
    }
}

#[test]
fn what_is_not_one_whole_image_is_refused() {
    let (chunks, _) = write(&header(), &large());
    let last = chunks.len() - 1;
    let refused = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut changed = chunks.clone();
        change(&mut changed);
        read(&changed).expect_err("no image")
    };
    assert_eq!(refused(&|chunks| chunks.swap(2, 3)), Damage::OutOfOrder { found: 3, wanted: 2 });
    assert_eq!(refused(&|chunks| _ = chunks.remove(1)), Damage::OutOfOrder { found: 2, wanted: 1 });
    let again = |chunks: &mut Vec<Vec<u8>>| chunks.insert(2, chunks[1].clone());
    assert_eq!(refused(&again), Damage::OutOfOrder { found: 1, wanted: 2 });
    assert_eq!(refused(&|chunks| _ = chunks.pop()), Damage::Mixed { why: "its end is missing" });
    let behind = |chunks: &mut Vec<Vec<u8>>| chunks.push(chunks[last].clone());
    assert!(matches!(refused(&behind), Damage::OutOfOrder { .. }));
    // A chunk of another image, with the same number and as many bytes of items.
    let mut others = large();
    others[2] = row(0, &0_u64.to_be_bytes(), noise(4000, 99));
    let (other, _) = write(&header(), &others);
    let mixed = refused(&|chunks| chunks[1].clone_from(&other[1]));
    assert_eq!(mixed, Damage::Mixed { why: "the checksum of all its chunks is not that of its end" });
    let other_header = Header { clock_ms: 1, ..header() };
    let mixed = refused(&|chunks| chunks[0] = Writer::new(&other_header).1);
    assert_eq!(mixed, Damage::Mixed { why: "the checksum of all its chunks is not that of its end" });
    assert_eq!(refused(&|chunks| chunks[0] = chunks[1].clone()), Damage::OutOfOrder { found: 1, wanted: 0 });
}

/// A chunk whose checksum holds, whatever it is.
fn sealed(mut chunk: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&chunk[8..]);
    chunk[4..8].copy_from_slice(&checksum.to_le_bytes());
    chunk
}

#[test]
fn a_later_version_is_named() {
    let mut first = Writer::new(&header()).1;
    first[8] = 2;
    assert_eq!(look(&first).map_err(|damage| matches!(damage, Damage::Checksum { .. })), Err(true));
    assert_eq!(look(&sealed(first)), Err(Damage::TooNew { found: 2 }));
}

#[test]
fn an_item_that_is_too_long_takes_no_memory() {
    let (chunks, _) = write(&header(), &[row(0, b"key", noise(3000, 4))]);
    let mut reader = Reader::new(3000);
    reader.push(&chunks[0], &mut |_| Ok(())).unwrap();
    let refused = reader.push(&chunks[1], &mut |_| Ok(()));
    assert_eq!(refused, Err(Damage::Item { why: "it is longer than items may be" }));
    // After an error it takes nothing more.
    assert_eq!(reader.push(&chunks[1], &mut |_| Ok(())), refused);
    // One that the visitor refuses.
    let mut reader = Reader::new(ITEM_BYTES_MAX);
    reader.push(&chunks[0], &mut |_| Ok(())).unwrap();
    let refused = reader.push(&chunks[1], &mut |_| Err("its key is none"));
    assert_eq!(refused, Err(Damage::Item { why: "its key is none" }));
}

fn items() -> impl Strategy<Value = Vec<Owned>> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    let section = bytes(300).prop_map(|bytes| Owned::Section(SECTION_MACHINE, bytes));
    let parts = (bytes(20), bytes(40), prop_oneof![bytes(100), bytes(4).prop_map(|few| few.repeat(60_000))]);
    let row = (0..3_u64, any::<u64>(), parts).prop_map(|(keyspace, version, (stamp, key, value))| {
        Owned::Row(keyspace, version, [stamp, key, value])
    });
    (proptest::option::of(section), proptest::collection::vec(row, 0..20)).prop_map(|(section, mut rows)| {
        rows.sort_by_key(|row| match row {
            Owned::Section(_, _) => 0,
            Owned::Row(keyspace, _, _) => *keyspace,
        });
        section.into_iter().chain(rows).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(items in items()) {
        let (chunks, totals) = write(&header(), &items);
        prop_assert_eq!(read(&chunks), Ok((header(), items, totals)));
    }

    /// Bytes that were changed on their way, and bytes that a peer wrote that way: the checksum holds.
    #[test]
    fn whatever_was_changed_is_refused(
        items in items(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=u8::MAX), 1..4),
        (is_cut, is_sealed) in (any::<bool>(), any::<bool>()),
    ) {
        let (chunks, totals) = write(&header(), &items);
        let mut changed = chunks.clone();
        for (chunk, byte, change) in changes {
            let chunk = chunk.index(changed.len());
            let at = byte.index(changed[chunk].len());
            if is_cut {
                changed[chunk].truncate(at);
            } else {
                changed[chunk][at] ^= change;
            }
            if is_sealed && changed[chunk].len() >= 8 {
                changed[chunk] = sealed(std::mem::take(&mut changed[chunk]));
            }
            if changed[chunk].is_empty() {
                break;
            }
        }
        let read = read(&changed);
        // Changes that cancel each other leave the image as it was; else nothing but a packing that unpacks to the same is taken.
        if changed == chunks || is_sealed {
            if let Ok((_, found, found_totals)) = read {
                prop_assert_eq!((found, found_totals), (items, totals));
            }
        } else {
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn bytes_that_are_no_chunk_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut sealed_bytes = Writer::new(&header()).1;
        sealed_bytes.truncate(12);
        sealed_bytes.extend_from_slice(&bytes);
        let mut reader = Reader::new(ITEM_BYTES_MAX);
        prop_assert!(reader.push(&bytes, &mut |_| Ok(())).is_err());
        let mut reader = Reader::new(ITEM_BYTES_MAX);
        _ = reader.push(&sealed(sealed_bytes), &mut |_| Ok(()));
    }
}
