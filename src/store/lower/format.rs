//! The bytes in the lower level.
//!
//! Keys: `00` the store's row; `01 partition` a partition's row; `02 partition keyspace hash key` a key's row, so that
//! both levels walk a keyspace in the same order. Numbers in keys are big endian, elsewhere little endian. Every value
//! starts with its layout's number.

use corduroy_shards::PartitionId;
use corduroy_wal::Lsn;
use corduroy_wal::fields::Fields;

use super::super::gone::Gone;
use super::super::hash::HashSeed;
use super::super::row::{Encoding, Stamp};

const LAYOUT: u8 = 1;
/// A partition's row with what is known of writes and keys that went; without, it is of the first layout.
const LAYOUT_GONE: u8 = 2;
/// The same with the absent keys that are watched, in the place of what went.
const LAYOUT_WATCHED: u8 = 3;
/// Set in a partition's layout if its point lies inside an entry: how many of its ops are done follows.
const MID_ENTRY: u8 = 0x80;
const ROW_HEADER_BYTES: usize = 18;

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

/// What is kept of a partition: the point of its history that the rows below stand for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(in super::super) struct PartitionMeta {
    pub(in super::super) applied: Lsn,
    /// Of the entry above `applied`, the ops that are done too.
    pub(in super::super) ops_done: u32,
    /// The keyspace: the version of the flush that began it.
    pub(in super::super) keyspace: u64,
    /// The highest stamp applied.
    pub(in super::super) clock_ms: u64,
    pub(in super::super) keys: u64,
    pub(in super::super) expiring: u64,
    /// Rows were written since the last flush.
    pub(in super::super) is_written: bool,
    /// Where keys went, for WATCH.
    pub(in super::super) gone: Gone,
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

impl PartitionMeta {
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let layout = match self {
            _ if self.gone.is_of_watched() => LAYOUT_WATCHED,
            _ if self.is_written || self.gone != Gone::default() => LAYOUT_GONE,
            _ => LAYOUT,
        };
        let mut out = vec![layout];
        if self.ops_done > 0 {
            out = vec![layout | MID_ENTRY];
            out.extend_from_slice(&self.ops_done.to_le_bytes());
        }
        for number in [self.applied.0, self.keyspace, self.clock_ms, self.keys, self.expiring] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        if layout != LAYOUT {
            out.push(u8::from(self.is_written));
            self.gone.encode(&mut out);
        }
        out
    }

    pub(in super::super) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(value);
        let layout = fields.byte()?;
        let (layout, is_mid_entry) = (layout & !MID_ENTRY, layout & MID_ENTRY > 0);
        let ops_done = if is_mid_entry { fields.u32()? } else { 0 };
        let mut meta = Self {
            applied: Lsn(fields.u64()?),
            ops_done,
            keyspace: fields.u64()?,
            clock_ms: fields.u64()?,
            keys: fields.u64()?,
            expiring: fields.u64()?,
            is_written: false,
            gone: Gone::default(),
        };
        match layout {
            LAYOUT => fields.is_empty().then_some(meta),
            LAYOUT_GONE | LAYOUT_WATCHED => {
                meta.is_written = fields.byte()? == 1;
                let decode = if layout == LAYOUT_GONE { Gone::decode_marks } else { Gone::decode_watched };
                meta.gone = decode(fields.rest)?;
                Some(meta)
            }
            _ => None,
        }
    }
}

/// The key of a key's row. With an empty key it is at or below all rows of that hash.
pub(in super::super) fn row_key(partition: PartitionId, keyspace: u64, hash: u64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(25 + key.len());
    out.push(2);
    out.extend_from_slice(&partition.0.to_be_bytes());
    out.extend_from_slice(&keyspace.to_be_bytes());
    out.extend_from_slice(&hash.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Just above the last row of a keyspace.
pub(in super::super) fn keyspace_end(partition: PartitionId, keyspace: u64) -> Vec<u8> {
    match keyspace.checked_add(1) {
        Some(next) => row_key(partition, next, 0, b""),
        None => row_key(PartitionId(partition.0.saturating_add(1)), 0, 0, b""),
    }
}

/// The hash and the key in the key of a row.
pub(in super::super) fn read_row_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (hash, key) = key.get(17..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*hash), key))
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
    pub(in super::super) partition: PartitionId,
    pub(in super::super) keyspace: u64,
    pub(in super::super) key: &'a [u8],
    pub(in super::super) stamp: Stamp,
    pub(in super::super) value: &'a [u8],
}

/// Reads a row of a key.
pub(in super::super) fn read_row<'a>(key: &'a [u8], value: &'a [u8]) -> Option<RowOf<'a>> {
    let (partition, keyspace) = read_keyspace(key)?;
    let (_, name) = read_row_key(key)?;
    let (stamp, value) = read_row_value(value)?;
    Some(RowOf { partition, keyspace, key: name, stamp, value })
}

/// The partition and the keyspace in the key of a row.
fn read_keyspace(key: &[u8]) -> Option<(PartitionId, u64)> {
    let (partition, rest) = key.strip_prefix(&[2])?.split_first_chunk::<8>()?;
    let keyspace = rest.first_chunk::<8>()?;
    Some((PartitionId(u64::from_be_bytes(*partition)), u64::from_be_bytes(*keyspace)))
}

/// Which row a key is of, for people.
pub(in super::super) fn key_in_words(key: &[u8]) -> String {
    if key == STORE_KEY {
        return "the store's own row".to_owned();
    }
    if let Some(partition) = read_partition_key(key) {
        return format!("partition {partition}'s own row");
    }
    match read_keyspace(key).zip(read_row_key(key)) {
        Some(((partition, _), (_, name))) => {
            format!("key \"{}\" of partition {partition}", name.escape_ascii())
        }
        None => format!("\"{}\"", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_hex(hex: &str) -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
    }

    /// The partition's rows that there are, by name.
    fn partition_rows() -> [(&'static str, PartitionMeta); 5] {
        let meta = PartitionMeta {
            applied: Lsn(9),
            keyspace: 7 << 20,
            clock_ms: 1_700_000_000_123,
            keys: 3,
            expiring: 1,
            ..PartitionMeta::default()
        };
        let inside = PartitionMeta { ops_done: 5, ..meta.clone() };
        let written = PartitionMeta { is_written: true, ..meta.clone() };
        let mut marked = PartitionMeta { is_written: true, ..inside.clone() };
        marked.gone.flush(3 << 20);
        marked.gone.removed(b"key", 4 << 20);
        let mut watched = meta.clone();
        let _told = [watched.gone.watch(b"key", 5 << 20), watched.gone.watch(b"other", 6 << 20)];
        [
            ("partition", meta),
            ("partition-inside-an-entry", inside),
            ("partition-written", written),
            ("partition-with-marks", marked),
            ("partition-with-watched-keys", watched),
        ]
    }

    /// Fixtures that were put together from the drawing: today's code writes the same, and reads them.
    #[test]
    fn rows_are_these_bytes() {
        let lines = include_str!("rows-1.txt").lines().filter(|line| !line.starts_with('#'));
        let mut fixtures: std::collections::BTreeMap<_, _> = lines
            .map(|line| {
                let [name, key, value] = line.split(' ').collect::<Vec<_>>().try_into().expect("three words");
                (name, (from_hex(key), from_hex(value)))
            })
            .collect();
        let seed = HashSeed([0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00]);
        let store = fixtures.remove("store").expect("a fixture");
        assert_eq!(store, (STORE_KEY.to_vec(), store_value(seed)));
        assert_eq!(read_store_value(&store.1), Some(seed));
        let partition = PartitionId(300);
        for (name, meta) in partition_rows() {
            let (key, value) = fixtures.remove(name).expect("a fixture");
            assert_eq!((partition_key(partition), meta.encode()), (key.clone(), value.clone()), "{name}");
            assert_eq!(read_partition_key(&key), Some(partition), "{name}");
            assert_eq!(PartitionMeta::decode(&value), Some(meta), "{name}");
        }
        let stamp = |version, expire_at_ms, encoding| Stamp { version, expire_at_ms, encoding };
        let never = super::super::super::row::NO_EXPIRY;
        let rows = [
            ("row", &b"key"[..], stamp(8 << 20 | 2, never, Encoding::Auto), &b"12"[..]),
            ("row-text", b"", stamp(8 << 20 | 3, 1_700_000_000_123, Encoding::Text), b"0.5"),
            ("row-raw", b"k\x00\xff", stamp(9 << 20, 0, Encoding::Raw), b""),
        ];
        for (name, key, stamp, value) in rows {
            let (row, written) = fixtures.remove(name).expect("a fixture");
            assert_eq!(row_key(partition, 7 << 20, seed.hash(key), key), row, "{name}");
            assert_eq!(row_value(stamp, value), written, "{name}");
            let read = read_row(&row, &written).expect("a row");
            assert_eq!(
                (read.partition, read.keyspace, read.key, read.value),
                (partition, 7 << 20, key, value)
            );
            let (found, wanted) = (read.stamp, stamp);
            assert_eq!((found.version, found.expire_at_ms), (wanted.version, wanted.expire_at_ms), "{name}");
            assert_eq!(
                (found.encoding as u8, read_row_key(&row)),
                (wanted.encoding as u8, Some((seed.hash(key), key)))
            );
        }
        assert!(fixtures.is_empty(), "every fixture is read: {:?}", fixtures.keys());
    }

    #[test]
    fn a_partition_s_row_once_written_stays_readable() {
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        let head = numbers(&[9, 7 << 20, 5, 3, 1]);
        let meta = PartitionMeta {
            applied: Lsn(9),
            keyspace: 7 << 20,
            clock_ms: 5,
            keys: 3,
            expiring: 1,
            ..PartitionMeta::default()
        };
        let first = [&[1][..], &head].concat();
        assert_eq!((meta.encode(), PartitionMeta::decode(&first)), (first.clone(), Some(meta)));
        let marks = [numbers(&[6 << 20]), 2u32.to_le_bytes().to_vec(), numbers(&[4; 16])].concat();
        let keys = numbers(&[11, 12, 8 << 20, 13, 14, 9 << 20]);
        for (layout, known) in [(2, marks), (3, keys), (3, Vec::new())] {
            let written = [&[layout][..], &head, &[1], &known].concat();
            let meta = PartitionMeta::decode(&written).unwrap();
            assert!(meta.is_written && meta.gone.is_of_watched() == (layout == 3));
            assert_eq!(meta.encode(), written);
        }
        assert_eq!(PartitionMeta::decode(&[&[4][..], &head, &[1]].concat()), None);
    }

    #[test]
    fn all_bytes_come_back() {
        let mut meta = PartitionMeta {
            applied: Lsn(9),
            keyspace: 7 << 20,
            clock_ms: 5,
            keys: 3,
            expiring: 1,
            ..PartitionMeta::default()
        };
        assert_eq!(meta.encode().len(), 41, "the first layout");
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        for ops_done in [1, u32::MAX] {
            let inside = PartitionMeta { ops_done, ..meta.clone() };
            assert_eq!(PartitionMeta::decode(&inside.encode()), Some(inside));
        }
        meta.is_written = true;
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        meta.gone.removed(b"k", 4 << 20);
        meta.ops_done = 3;
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        assert_eq!(meta.encode().first(), Some(&(2 | 0x80)));
        let _told = meta.gone.watch(b"k", 5 << 20);
        assert_eq!(PartitionMeta::decode(&meta.encode()), Some(meta.clone()));
        assert_eq!(meta.encode().first(), Some(&(3 | 0x80)));
        meta.gone.written(b"k", 6 << 20, false);
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
