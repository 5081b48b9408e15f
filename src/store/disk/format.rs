//! The bytes in the disk level.
//!
//! Keys: `00` the store's row; `01 partition` a partition's row; `02 partition flush hash key` a row of the default keyspace,
//! so that both levels walk it in the same order; `03 partition keyspace flush hash key` one of another keyspace. `flush` is
//! the version of the flush that began the keyspace anew: rows of those before are dead. The default keyspace does not name
//! itself: its rows are as they always were. Numbers in keys are big endian, elsewhere little endian. Every value starts
//! with its layout's number.

use corduroy_shards::{KeyspaceId, PartitionId};
use corduroy_wal::fields::Fields;

use super::super::hash::HashSeed;
use crate::store::memory::row::{Encoding, Stamp};

pub(super) const LAYOUT: u8 = 1;
const ROW_HEADER_BYTES: usize = 18;

/// What the key of a row of the default keyspace begins with, and of another one.
pub(super) const ROWS_OF_DEFAULT: u8 = 2;
pub(super) const ROWS: u8 = 3;

/// The key of the store's own row.
pub(in super::super) const STORE_KEY: &[u8] = &[0];

/// The value of the store's own row.
pub(in super::super) fn store_value(seed: HashSeed) -> Vec<u8> {
    let [k0, k1] = seed.0;
    [&[LAYOUT][..], &k0.to_le_bytes(), &k1.to_le_bytes()].concat()
}

/// Reads the store's own row.
pub(in super::super) fn read_store_value(value: &[u8]) -> Option<HashSeed> {
    let mut fields = Fields::new(value);
    (fields.byte()? == LAYOUT).then_some(())?;
    let seed = HashSeed([fields.u64()?, fields.u64()?]);
    fields.is_empty().then_some(seed)
}

/// The key of a partition's row; `PartitionId(0)` is below all of them.
pub(in super::super) fn partition_key(partition: PartitionId) -> Vec<u8> {
    [&[1][..], &partition.0.to_be_bytes()].concat()
}

/// Just above the last partition's row.
pub(in super::super) const PARTITIONS_END: &[u8] = &[2];

/// The partition named in the key of its row.
pub(in super::super) fn read_partition_key(key: &[u8]) -> Option<PartitionId> {
    let (tag, id) = key.split_first()?;
    let id: [u8; 8] = id.try_into().ok()?;
    (*tag == 1).then(|| PartitionId(u64::from_be_bytes(id)))
}

/// Where a row is: its keyspace, since the flush that began it anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct RowLocation {
    pub(in super::super) partition: PartitionId,
    pub(in super::super) keyspace: KeyspaceId,
    pub(in super::super) flush_version: u64,
}

impl RowLocation {
    /// The key of a key's row. With an empty key it is at or below all rows of that hash.
    pub(in super::super) fn key(self, hash: u64, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(33 + key.len());
        let is_default = self.keyspace == KeyspaceId::DEFAULT;
        out.push(if is_default { ROWS_OF_DEFAULT } else { ROWS });
        out.extend_from_slice(&self.partition.0.to_be_bytes());
        if !is_default {
            out.extend_from_slice(&self.keyspace.0.to_be_bytes());
        }
        out.extend_from_slice(&self.flush_version.to_be_bytes());
        out.extend_from_slice(&hash.to_be_bytes());
        out.extend_from_slice(key);
        out
    }

    /// Reads the key of a key's row: its location, hash and key.
    pub(in super::super) fn read(row: &[u8]) -> Option<(Self, u64, &[u8])> {
        let (tag, rest) = row.split_first()?;
        let (partition, rest) = number(rest)?;
        let (keyspace, rest) = match *tag {
            ROWS_OF_DEFAULT => (KeyspaceId::DEFAULT, rest),
            // The default one never names itself.
            ROWS => number(rest)
                .filter(|(id, _)| *id != KeyspaceId::DEFAULT.0)
                .map(|(id, rest)| (KeyspaceId(id), rest))?,
            _ => return None,
        };
        let (flush_version, rest) = number(rest)?;
        let (hash, key) = number(rest)?;
        Some((Self { partition: PartitionId(partition), keyspace, flush_version }, hash, key))
    }
}

/// The number that a key goes on with.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// The key of a row of the default keyspace.
pub(in super::super) fn row_key(
    partition: PartitionId,
    flush_version: u64,
    hash: u64,
    key: &[u8],
) -> Vec<u8> {
    RowLocation { partition, keyspace: KeyspaceId::DEFAULT, flush_version }.key(hash, key)
}

/// Just above the last row of the default keyspace.
pub(in super::super) fn keyspace_end(partition: PartitionId, flush_version: u64) -> Vec<u8> {
    match flush_version.checked_add(1) {
        Some(next) => row_key(partition, next, 0, b""),
        None => row_key(PartitionId(partition.0.saturating_add(1)), 0, 0, b""),
    }
}

/// The hash and the key in the key of a row.
pub(in super::super) fn read_row_key(key: &[u8]) -> Option<(u64, &[u8])> {
    RowLocation::read(key).map(|(_, hash, key)| (hash, key))
}

/// The value of a key's row.
pub(in super::super) fn row_value(stamp: Stamp, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ROW_HEADER_BYTES + value.len());
    out.push(LAYOUT);
    out.push(stamp.encoding as u8);
    out.extend_from_slice(&stamp.version.to_le_bytes());
    out.extend_from_slice(&stamp.expire_at_ms.to_le_bytes());
    out.extend_from_slice(value);
    out
}

/// Reads a key's row.
pub(in super::super) fn read_row_value(bytes: &[u8]) -> Option<(Stamp, &[u8])> {
    let mut fields = Fields::new(bytes);
    (fields.byte()? == LAYOUT).then_some(())?;
    let encoding = Encoding::from_byte(fields.byte()?)?;
    let stamp = Stamp { encoding, version: fields.u64()?, expire_at_ms: fields.u64()? };
    Some((stamp, fields.rest))
}

/// A row of a key, read.
pub(in super::super) struct RowOf<'a> {
    pub(in super::super) location: RowLocation,
    pub(in super::super) key: &'a [u8],
    pub(in super::super) stamp: Stamp,
    pub(in super::super) value: &'a [u8],
}

/// Reads a row of a key.
pub(in super::super) fn read_row<'a>(key: &'a [u8], value: &'a [u8]) -> Option<RowOf<'a>> {
    let (location, _, key) = RowLocation::read(key)?;
    let (stamp, value) = read_row_value(value)?;
    Some(RowOf { location, key, stamp, value })
}

/// Which row a key is of, for people.
pub(in super::super) fn key_in_words(key: &[u8]) -> String {
    if key == STORE_KEY {
        return "the store's own row".to_owned();
    }
    if let Some(partition) = read_partition_key(key) {
        return format!("partition {partition}'s own row");
    }
    match RowLocation::read(key) {
        Some((RowLocation { partition, keyspace: KeyspaceId::DEFAULT, .. }, _, name)) => {
            format!("key \"{}\" of partition {partition}", name.escape_ascii())
        }
        Some((RowLocation { partition, keyspace, .. }, _, name)) => {
            format!("key \"{}\" of keyspace {keyspace} of partition {partition}", name.escape_ascii())
        }
        None => format!("\"{}\"", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use corduroy_shards::entry::VERSION_LSN_MAX;
    use corduroy_wal::{Lsn, Term};

    use super::super::partition_row::{LAYOUT_MARKS, LAYOUT_WATCHED, MID_ENTRY};
    use super::*;
    use crate::store::memory::meta::{Installed, PartitionMeta};

    fn from_hex(hex: &str) -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
    }

    fn meta_of_9(clock_ms: u64) -> PartitionMeta {
        PartitionMeta {
            applied: Lsn(9),
            source_lsn: Lsn(9),
            flush_version: 7 << 20,
            clock_ms,
            keys: 3,
            expiring: 1,
            ..PartitionMeta::default()
        }
    }

    /// The partition's rows that there are, by name.
    fn partition_rows() -> [(&'static str, PartitionMeta); 5] {
        let meta = meta_of_9(1_700_000_000_123);
        let inside = PartitionMeta { ops_done: 5, ..meta.clone() };
        let written = PartitionMeta { is_written: true, ..meta.clone() };
        let mut marked = PartitionMeta { is_written: true, ..inside.clone() };
        marked.absent.flush(3 << 20);
        marked.absent.removed(b"key", 4 << 20);
        let mut watched = meta.clone();
        let _told = [watched.absent.watch(b"key", 5 << 20), watched.absent.watch(b"other", 6 << 20)];
        [
            ("partition", meta),
            ("partition-inside-an-entry", inside),
            ("partition-written", written),
            ("partition-with-marks", marked),
            ("partition-with-watched-keys", watched),
        ]
    }

    type Fixtures = std::collections::BTreeMap<&'static str, (Vec<u8>, Vec<u8>)>;

    fn fixtures(text: &'static str) -> Fixtures {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let fixture = |line: &'static str| {
            let [name, key, value] = line.split(' ').collect::<Vec<_>>().try_into().expect("three words");
            (name, (from_hex(key), from_hex(value)))
        };
        lines.map(fixture).collect()
    }

    const SEED: HashSeed = HashSeed([0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00]);
    const PARTITION: PartitionId = PartitionId(300);

    fn stamp(version: u64, expire_at_ms: u64, encoding: Encoding) -> Stamp {
        Stamp { version, expire_at_ms, encoding }
    }

    /// Compares a key's row with its fixture.
    fn compare_row(
        (row, written): &(Vec<u8>, Vec<u8>),
        (location, key, stamp, value): (RowLocation, &[u8], Stamp, &[u8]),
    ) {
        let hash = SEED.hash(key);
        assert_eq!((location.key(hash, key), row_value(stamp, value)), (row.clone(), written.clone()));
        assert_eq!(RowLocation::read(row), Some((location, hash, key)));
        assert_eq!(read_row_key(row), Some((hash, key)));
        let read = read_row(row, written).expect("a row");
        assert_eq!((read.location, read.key, read.value), (location, key, value));
        assert_eq!((read.stamp.version, read.stamp.expire_at_ms), (stamp.version, stamp.expire_at_ms));
        assert_eq!(read.stamp.encoding as u8, stamp.encoding as u8);
    }

    /// Fixtures that were put together from the drawing: today's code reads them, and writes the same but for the rows of
    /// partitions.
    #[test]
    fn rows_are_these_bytes() {
        let mut fixtures = fixtures(include_str!("rows-1.txt"));
        let store = fixtures.remove("store").expect("a fixture");
        assert_eq!(store, (STORE_KEY.to_vec(), store_value(SEED)));
        assert_eq!(read_store_value(&store.1), Some(SEED));
        for (name, meta) in partition_rows() {
            let (key, value) = fixtures.remove(name).expect("a fixture");
            assert_eq!(
                (partition_key(PARTITION), read_partition_key(&key)),
                (key, Some(PARTITION)),
                "{name}"
            );
            assert_eq!(PartitionMeta::decode(&value), Some(meta), "{name}");
        }
        let never = crate::store::memory::row::NO_EXPIRY;
        let rows = [
            ("row", &b"key"[..], stamp(8 << 20 | 2, never, Encoding::Auto), &b"12"[..]),
            ("row-text", b"", stamp(8 << 20 | 3, 1_700_000_000_123, Encoding::Text), b"0.5"),
            ("row-raw", b"k\x00\xff", stamp(9 << 20, 0, Encoding::Raw), b""),
        ];
        let location =
            RowLocation { partition: PARTITION, keyspace: KeyspaceId::DEFAULT, flush_version: 7 << 20 };
        for (name, key, stamp, value) in rows {
            let fixture = fixtures.remove(name).expect("a fixture");
            assert_eq!(row_key(PARTITION, 7 << 20, SEED.hash(key), key), fixture.0, "{name}");
            compare_row(&fixture, (location, key, stamp, value));
        }
        assert!(fixtures.is_empty(), "every fixture is read: {:?}", fixtures.keys());
    }

    /// The same of what changed since.
    #[test]
    fn rows_are_written_as_these_bytes() {
        let mut fixtures = fixtures(include_str!("rows-2.txt"));
        let mut metas = partition_rows().to_vec();
        let [(_, first), ..] = partition_rows();
        metas.push((
            "partition-promoted",
            PartitionMeta { history: 0x0304, source_lsn: Lsn(0x0506), ..first.clone() },
        ));
        let installed = Installed { term: Term(6), configuration: b"configuration".to_vec() };
        metas.push(("partition-installed", PartitionMeta { installed: Some(Box::new(installed)), ..first }));
        for (name, meta) in metas {
            let (key, value) = fixtures.remove(name).expect("a fixture");
            assert_eq!((partition_key(PARTITION), meta.encode()), (key, value.clone()), "{name}");
            assert_eq!(PartitionMeta::decode(&value), Some(meta), "{name}");
            for end in 0..value.len() {
                // What is behind the fixed fields may be missing, but not in part.
                let is_whole = end == if value[0] & MID_ENTRY > 0 { 62 } else { 58 };
                assert_eq!(PartitionMeta::decode(&value[..end]).is_some(), is_whole, "{name} cut at {end}");
            }
            for section in [1, 3, 4] {
                let more = [&value[..], &[section, 0, 0, 0, 0]].concat();
                assert_eq!(PartitionMeta::decode(&more), None, "{name} with section {section}");
            }
        }
        let location =
            RowLocation { partition: PARTITION, keyspace: KeyspaceId(0x0102), flush_version: 7 << 20 };
        let never = crate::store::memory::row::NO_EXPIRY;
        let fixture = fixtures.remove("row-of-a-keyspace").expect("a fixture");
        compare_row(&fixture, (location, b"key", stamp(8 << 20 | 2, never, Encoding::Auto), b"12"));
        assert!(key_in_words(&fixture.0).contains("of keyspace 258"));
        assert!(fixtures.is_empty(), "every fixture is read: {:?}", fixtures.keys());
    }

    #[test]
    fn what_nobody_writes_is_not_read() {
        let meta = PartitionMeta { ops_done: 5, ..meta_of_9(5) };
        let encoded = |source_lsn| PartitionMeta { source_lsn, ..meta.clone() }.encode();
        assert!(PartitionMeta::decode(&encoded(Lsn(0))).is_some(), "no entry had operations");
        assert!(PartitionMeta::decode(&encoded(VERSION_LSN_MAX)).is_some());
        assert_eq!(
            PartitionMeta::decode(&encoded(VERSION_LSN_MAX.next())),
            None,
            "versions have no room for it"
        );
        let bytes = meta.encode();
        for (at, byte) in [(61, 2), (61, 0xff), (1, 0)] {
            let mut crafted = bytes.clone();
            crafted[at] = byte;
            assert_eq!(PartitionMeta::decode(&crafted), None, "byte {at} is {byte}");
        }
        for layout in [LAYOUT_MARKS, LAYOUT_WATCHED] {
            let row = |is_written| [&[layout][..], &[0; 40], &[is_written]].concat();
            let is_read = [0, 1, 2].map(|is_written| PartitionMeta::decode(&row(is_written)).is_some());
            assert_eq!(is_read, [true, true, false], "layout {layout}");
        }
        let location = RowLocation { partition: PARTITION, keyspace: KeyspaceId(1), flush_version: 7 << 20 };
        let mut row = location.key(3, b"key");
        assert_eq!(RowLocation::read(&row), Some((location, 3, &b"key"[..])));
        row[9..17].fill(0);
        assert_eq!(RowLocation::read(&row), None, "the default keyspace does not name itself");
    }

    #[test]
    fn a_partition_s_row_once_written_stays_readable() {
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        let head = numbers(&[9, 7 << 20, 5, 3, 1]);
        let meta = meta_of_9(5);
        let first = [&[1][..], &head].concat();
        assert_eq!(PartitionMeta::decode(&first), Some(meta));
        let marks = [numbers(&[6 << 20]), 2u32.to_le_bytes().to_vec(), numbers(&[4; 16])].concat();
        let keys = numbers(&[11, 12, 8 << 20, 13, 14, 9 << 20]);
        for (layout, known) in [(2, marks), (3, keys), (3, Vec::new())] {
            let written = [&[layout][..], &head, &[1], &known].concat();
            let meta = PartitionMeta::decode(&written).unwrap();
            assert!(meta.is_written && meta.absent.is_of_watched() == (layout == 3));
            assert_eq!((meta.history, meta.source_lsn), (0, Lsn(9)), "it was first of its history");
            assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta));
        }
        assert_eq!(PartitionMeta::decode(&[&[5][..], &head, &head, &[1]].concat()), None);
    }

    #[test]
    fn all_bytes_come_back() {
        let mut meta = meta_of_9(5);
        assert_eq!(meta.encode().len(), 58, "without sections");
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        for ops_done in [1, u32::MAX] {
            let inside = PartitionMeta { ops_done, ..meta.clone() };
            assert_eq!(PartitionMeta::decode(&inside.encode()), Some(inside));
        }
        meta.is_written = true;
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        meta.absent.removed(b"k", 4 << 20);
        meta.ops_done = 3;
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        assert_eq!(meta.encode().first(), Some(&(4 | 0x80)));
        let _told = meta.absent.watch(b"k", 5 << 20);
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        meta.absent.written(b"k", 6 << 20, false);
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta), "no key is registered any more");
        assert_eq!(PartitionMeta::decode(&[]), None);
        assert_eq!(read_partition_key(&partition_key(PartitionId(300))), Some(PartitionId(300)));
        let seed = HashSeed([1, 2]);
        assert_eq!(read_store_value(&store_value(seed)), Some(seed));
        let stamp = Stamp { version: 77, expire_at_ms: 88, encoding: Encoding::Raw };
        let bytes = row_value(stamp, b"data");
        let (read, data) = read_row_value(&bytes).expect("a row");
        assert_eq!(
            (read.version, read.expire_at_ms, read.encoding, data),
            (77, 88, Encoding::Raw, &b"data"[..])
        );
        assert_eq!(read_row_key(&row_key(PartitionId(1), 2, 3, b"k")), Some((3, &b"k"[..])));
    }

    #[test]
    fn rows_sort_behind_partitions_and_within_their_keyspace() {
        let first = row_key(PartitionId(0), 0, 0, b"");
        assert!(partition_key(PartitionId(u64::MAX)).as_slice() < PARTITIONS_END);
        assert!(PARTITIONS_END <= first.as_slice());
        let last = row_key(PartitionId(4), 9, u64::MAX, &[255; 40]);
        assert!(last < keyspace_end(PartitionId(4), 9));
        assert!(keyspace_end(PartitionId(4), 9) <= row_key(PartitionId(4), 10, 0, b""));
        assert!(row_key(PartitionId(4), u64::MAX, 5, b"x") < keyspace_end(PartitionId(4), u64::MAX));
    }
}
