//! What WATCH knows of keys that are not there.
//!
//! A key that is created and removed again between WATCH and EXEC has changed, though it is absent both times. So a
//! watched key that is absent is registered, by an entry of its own, and the first op that creates it takes it out
//! again: as long as it is registered under the version that its watcher was given, it has not changed, whatever
//! becomes of other keys. This is part of the replicated state: ops alone move it, and it is handed over with the
//! partition, so that replicas and restarts judge alike.
//!
//! Logs written before keys were registered guard absent keys by marks: each op that removes a key, or writes one that
//! will expire by itself, leaves its version at the key's bucket, and keys share buckets. Marks are kept only to judge
//! the transactions of such logs as they were judged then; they go when the first key is registered.

use std::collections::BTreeMap;

use crate::store::hash::HashSeed;

/// Buckets at first, and at most.
const FIRST_BUCKETS: usize = 16;
const MAX_BUCKETS: usize = 4096;
/// Marks for each bucket at which their number doubles.
const MARKS_PER_BUCKET: u32 = 4;

/// Keys registered at a time in a partition. Above it, those registered first go, and their watchers' transactions
/// fail. Part of what entries mean: never changed.
const MAX_WATCHED: usize = 4096;
/// How many go at once.
const WATCHED_DROPPED: usize = 1024;

/// The same everywhere, since all replicas must judge alike.
const SEED: HashSeed = HashSeed([0, 0]);
/// Of the second half of a registered key's hash: two keys never share one.
const SECOND_SEED: HashSeed = HashSeed([1, 1]);

/// Set in the version that WATCH gets of a key that is absent.
const ABSENT: u64 = 1 << 62;

/// What is known of absent keys. Without heap memory while nothing is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(in crate::store) struct AbsentKeys(Option<Box<Known>>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Known {
    Marks(Marks),
    /// By the keys' hashes: the version of the op that registered it.
    Watched(BTreeMap<[u64; 2], u64>),
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Marks {
    /// Marks since the number of buckets doubled last.
    marks: u32,
    /// By the leading bits of the hash: a power of two of them, or none yet.
    versions: Vec<u64>,
    /// The last flush that may have removed a key.
    flushed: u64,
}

impl Marks {
    fn bucket(&self, key: &[u8]) -> usize {
        let (hash, buckets) = (u128::from(SEED.hash(key)), self.versions.len() as u128);
        usize::try_from((hash * buckets) >> 64).expect("fewer than 2^32 buckets")
    }

    fn mark(&mut self, key: &[u8], version: u64) {
        if self.versions.is_empty() {
            self.versions = vec![0; FIRST_BUCKETS];
        }
        let count = self.versions.len();
        if count < MAX_BUCKETS && self.marks as usize >= count * MARKS_PER_BUCKET as usize {
            self.marks = 0;
            self.versions = self.versions.iter().flat_map(|version| [*version, *version]).collect();
        }
        self.marks = self.marks.saturating_add(1);
        let bucket = self.bucket(key);
        *self.versions.get_mut(bucket).expect("every key has a bucket") = version;
    }
}

fn name(key: &[u8]) -> [u64; 2] {
    [SEED.hash(key), SECOND_SEED.hash(key)]
}

impl AbsentKeys {
    fn marks(&mut self) -> Option<&mut Marks> {
        let known = self.0.get_or_insert_with(|| Box::new(Known::Marks(Marks::default())));
        match known.as_mut() {
            Known::Marks(marks) => Some(marks),
            Known::Watched(_) => None,
        }
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(Known::Watched(watched)) = self.0.as_deref_mut()
            && !watched.is_empty()
        {
            watched.remove(&name(key));
        }
    }

    /// A key is written by an op of this version; it `expires` by itself or not.
    #[inline]
    pub(in crate::store) fn written(&mut self, key: &[u8], version: u64, expires: bool) {
        if expires && let Some(marks) = self.marks() {
            marks.mark(key, version);
        }
        self.forget(key);
    }

    /// A key goes by an op of this version.
    pub(in crate::store) fn removed(&mut self, key: &[u8], version: u64) {
        if let Some(marks) = self.marks() {
            marks.mark(key, version);
        }
    }

    /// Every key goes by a flush of this version. Registered ones were absent already.
    pub(in crate::store) fn flush(&mut self, version: u64) {
        if let Some(marks) = self.marks() {
            marks.flushed = version;
        }
    }

    /// Registers a key that is absent, by an op of this version. Returns the version for its watcher.
    pub(in crate::store) fn watch(&mut self, key: &[u8], version: u64) -> u64 {
        if !matches!(self.0.as_deref(), Some(Known::Watched(_))) {
            self.0 = Some(Box::new(Known::Watched(BTreeMap::new())));
        }
        let Some(Known::Watched(watched)) = self.0.as_deref_mut() else {
            unreachable!("it was just made one of registered keys")
        };
        let name = name(key);
        if !watched.contains_key(&name) && watched.len() >= MAX_WATCHED {
            let mut versions: Vec<u64> = watched.values().copied().collect();
            let (_, last, _) = versions.select_nth_unstable(WATCHED_DROPPED);
            let kept = *last;
            watched.retain(|_, version| *version >= kept);
        }
        *watched.entry(name).or_insert(version) | ABSENT
    }

    /// The version for a watcher of a key that is absent now; 0 if it is not registered.
    pub(in crate::store) fn watched(&self, key: &[u8]) -> u64 {
        match self.0.as_deref() {
            Some(Known::Watched(watched)) => watched.get(&name(key)).map_or(0, |version| version | ABSENT),
            Some(Known::Marks(_)) | None => 0,
        }
    }

    /// What transactions of the first kind know of a key that is absent now: 0 if it was never there. `None`: there are
    /// no marks any more.
    pub(in crate::store) fn marked(&self, key: &[u8]) -> Option<u64> {
        let marks = match self.0.as_deref() {
            Some(Known::Marks(marks)) => marks,
            Some(Known::Watched(_)) => return None,
            None => return Some(0),
        };
        let marked = marks.versions.get(marks.bucket(key)).copied().unwrap_or(0);
        Some(match marks.flushed.max(marked) {
            0 => 0,
            version => version | ABSENT,
        })
    }

    /// Whether keys are registered; else there are marks.
    pub(in crate::store) fn is_of_watched(&self) -> bool {
        matches!(self.0.as_deref(), Some(Known::Watched(_)))
    }

    /// Appends its bytes. Marks: the last flush, the marks, the versions; none if it is empty. Registered keys: each
    /// one's hash and version.
    pub(in crate::store) fn encode(&self, out: &mut Vec<u8>) {
        match self.0.as_deref() {
            Some(Known::Marks(marks)) => {
                out.extend_from_slice(&marks.flushed.to_le_bytes());
                out.extend_from_slice(&marks.marks.to_le_bytes());
                marks.versions.iter().for_each(|version| out.extend_from_slice(&version.to_le_bytes()));
            }
            Some(Known::Watched(watched)) => {
                for ([first, second], version) in watched {
                    out.extend_from_slice([*first, *second, *version].map(u64::to_le_bytes).as_flattened());
                }
            }
            None => {}
        }
    }

    /// Reads what [`AbsentKeys::encode`] wrote of marks.
    pub(in crate::store) fn decode_marks(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (flushed, rest) = bytes.split_first_chunk::<8>()?;
        let (marks, rest) = rest.split_first_chunk::<4>()?;
        let (versions, rest) = rest.as_chunks::<8>();
        let count = versions.len();
        let fits = count == 0 || (count.is_power_of_two() && (FIRST_BUCKETS..=MAX_BUCKETS).contains(&count));
        let versions = versions.iter().map(|version| u64::from_le_bytes(*version)).collect();
        let (flushed, marks) = (u64::from_le_bytes(*flushed), u32::from_le_bytes(*marks));
        let marks = Marks { marks, versions, flushed };
        (fits && rest.is_empty()).then(|| Self(Some(Box::new(Known::Marks(marks)))))
    }

    /// Reads what [`AbsentKeys::encode`] wrote of registered keys.
    pub(in crate::store) fn decode_watched(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let (keys, left) = numbers.as_chunks::<3>();
        let key = |key: &[[u8; 8]; 3]| {
            let [first, second, version] = key.map(u64::from_le_bytes);
            ([first, second], version)
        };
        let watched: BTreeMap<[u64; 2], u64> = keys.iter().map(key).collect();
        let fits = rest.is_empty() && left.is_empty() && watched.len() == keys.len();
        (fits && keys.len() <= MAX_WATCHED).then(|| Self(Some(Box::new(Known::Watched(watched)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> [u8; 8] {
        n.to_le_bytes()
    }

    fn bytes(absent: &AbsentKeys) -> Vec<u8> {
        let mut bytes = Vec::new();
        absent.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_mark_is_seen_at_its_hash_whatever_the_number_of_buckets() {
        let mut absent = AbsentKeys::default();
        assert_eq!(absent.marked(b"k"), Some(0));
        absent.flush(5);
        assert_eq!(absent.marked(b"k"), Some(5 | ABSENT));
        for version in 6..=20_000 {
            absent.removed(&key(version), version);
            assert_eq!(absent.marked(&key(version)), Some(version | ABSENT));
        }
        let buckets = absent.marks().map_or(0, |marks| marks.versions.len());
        assert_eq!(buckets, 4096);
        let newest = (6..=20_000).filter(|n| absent.marked(&key(*n)) == Some(*n | ABSENT)).count();
        assert!(newest > 3000, "{newest} of 4096 buckets hold their newest mark");
    }

    #[test]
    fn a_mark_stays_when_buckets_double() {
        let mut absent = AbsentKeys::default();
        absent.removed(b"first", 9);
        for version in 10..10_000 {
            absent.written(b"other", version, true);
        }
        assert_eq!(absent.marked(b"first"), Some(9 | ABSENT));
        assert_eq!(absent.marked(b"other"), Some(9_999 | ABSENT));
        let untouched = (0..100).filter(|n| absent.marked(&key(*n)) == Some(0)).count();
        assert!(untouched > 70, "{untouched} of 100 keys");
    }

    #[test]
    fn a_registered_key_is_known_until_it_is_written_and_others_do_not_matter() {
        let mut absent = AbsentKeys::default();
        let told = absent.watch(b"k", 7);
        for version in 8..50_000 {
            absent.written(&key(version), version, version % 2 == 0);
            absent.removed(&key(version), version);
        }
        absent.flush(50_000);
        assert_eq!((absent.watched(b"k"), absent.watch(b"k", 50_001)), (told, told));
        absent.written(b"k", 50_002, false);
        assert_eq!(absent.watched(b"k"), 0);
        assert_ne!(absent.watch(b"k", 50_003), told);
        assert_eq!(absent.marked(b"k"), None);
    }

    #[test]
    fn registered_keys_are_bounded_and_the_first_ones_go() {
        let mut absent = AbsentKeys::default();
        let told: Vec<u64> = (0..10_000).map(|n| absent.watch(&key(n), n + 1)).collect();
        assert_eq!(told.first(), Some(&(1 | ABSENT)));
        let kept: Vec<u64> = (0..10_000).filter(|n| absent.watched(&key(*n)) != 0).collect();
        assert!((3072..=4096).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept, (10_000 - kept.len() as u64..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn all_bytes_come_back_and_others_are_refused() {
        let mut absent = AbsentKeys::default();
        assert_eq!(AbsentKeys::decode_marks(&bytes(&absent)), Some(absent.clone()));
        for version in 1..100 {
            absent.removed(&key(version), version);
        }
        let written = bytes(&absent);
        assert_eq!(AbsentKeys::decode_marks(&written), Some(absent));
        for end in 1..written.len() {
            let count = end.saturating_sub(12) / 8;
            let whole = end >= 12 && end % 8 == 4 && (count == 0 || count.is_power_of_two() && count >= 16);
            assert_eq!(AbsentKeys::decode_marks(&written[..end]).is_some(), whole, "cut at {end}");
        }
        let mut absent = AbsentKeys::default();
        (1..100).for_each(|version| _ = absent.watch(&key(version), version));
        let written = bytes(&absent);
        assert_eq!(AbsentKeys::decode_watched(&written), Some(absent));
        for end in 0..written.len() {
            assert_eq!(AbsentKeys::decode_watched(&written[..end]).is_some(), end % 24 == 0, "cut at {end}");
        }
    }
}
