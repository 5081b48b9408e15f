//! When keys that are not there may last have gone: what WATCH knows of an absent key.
//!
//! A key that is created and removed again between WATCH and EXEC has changed, though it is absent both times. So each
//! op that removes a key, or writes one that will expire by itself, leaves its version at the key's place; keys share
//! places, so a watcher may see a change that was none, and tries again. This is part of the replicated state: ops
//! alone move it, and it is handed over with the partition, so that replicas and restarts judge alike.

use super::hash::HashSeed;

/// Places at first, and at most.
const FIRST_PLACES: usize = 16;
const MAX_PLACES: usize = 4096;
/// Marks for each place at which their number doubles.
const MARKS_PER_PLACE: u32 = 4;

/// The same everywhere, since all replicas must judge alike.
const SEED: HashSeed = HashSeed([0, 0]);

/// Set in what WATCH is told of a key that is absent, but may have been there.
const ABSENT: u64 = 1 << 62;

/// What went, and when. Without heap memory while nothing did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Gone(Option<Box<Places>>);

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Places {
    /// Marks since their number doubled last.
    marks: u32,
    /// By the leading bits of the hash: a power of two of them, or none yet.
    versions: Vec<u64>,
    /// The last flush that may have removed a key.
    flushed: u64,
}

impl Places {
    fn place(&self, key: &[u8]) -> usize {
        let (hash, places) = (u128::from(SEED.hash(key)), self.versions.len() as u128);
        usize::try_from((hash * places) >> 64).expect("fewer than 2^32 places")
    }
}

impl Gone {
    /// A key goes by an op of this version, or will go by itself.
    pub(super) fn mark(&mut self, key: &[u8], version: u64) {
        let places = self.0.get_or_insert_default();
        if places.versions.is_empty() {
            places.versions = vec![0; FIRST_PLACES];
        }
        let count = places.versions.len();
        if count < MAX_PLACES && places.marks as usize >= count * MARKS_PER_PLACE as usize {
            places.marks = 0;
            places.versions = places.versions.iter().flat_map(|version| [*version, *version]).collect();
        }
        places.marks = places.marks.saturating_add(1);
        let place = places.place(key);
        *places.versions.get_mut(place).expect("every key has a place") = version;
    }

    /// Every key goes by a flush of this version.
    pub(super) fn flush(&mut self, version: u64) {
        self.0.get_or_insert_default().flushed = version;
    }

    /// The version of a key that is absent now: 0 if it was never there.
    pub(super) fn version(&self, key: &[u8]) -> u64 {
        let Some(places) = &self.0 else { return 0 };
        let marked = places.versions.get(places.place(key)).copied().unwrap_or(0);
        match places.flushed.max(marked) {
            0 => 0,
            version => version | ABSENT,
        }
    }

    /// Appends its bytes: the last flush, the marks, the versions; none if it is empty.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(places) = &self.0 {
            out.extend_from_slice(&places.flushed.to_le_bytes());
            out.extend_from_slice(&places.marks.to_le_bytes());
            places.versions.iter().for_each(|version| out.extend_from_slice(&version.to_le_bytes()));
        }
    }

    /// Reads what [`Gone::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (flushed, rest) = bytes.split_first_chunk::<8>()?;
        let (marks, rest) = rest.split_first_chunk::<4>()?;
        let (versions, rest) = rest.as_chunks::<8>();
        let count = versions.len();
        let fits = count == 0 || (count.is_power_of_two() && (FIRST_PLACES..=MAX_PLACES).contains(&count));
        let versions = versions.iter().map(|version| u64::from_le_bytes(*version)).collect();
        let (flushed, marks) = (u64::from_le_bytes(*flushed), u32::from_le_bytes(*marks));
        (fits && rest.is_empty()).then(|| Self(Some(Box::new(Places { marks, versions, flushed }))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> [u8; 8] {
        n.to_le_bytes()
    }

    fn bytes(gone: &Gone) -> Vec<u8> {
        let mut bytes = Vec::new();
        gone.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_mark_is_seen_at_its_hash_whatever_the_number_of_places() {
        let mut gone = Gone::default();
        assert_eq!(gone.version(b"k"), 0);
        gone.flush(5);
        assert_eq!(gone.version(b"k"), 5 | ABSENT);
        for version in 6..=20_000 {
            gone.mark(&key(version), version);
            assert_eq!(gone.version(&key(version)), version | ABSENT);
        }
        let places = gone.0.as_ref().map_or(0, |places| places.versions.len());
        assert_eq!(places, 4096);
        let newest = (6..=20_000).filter(|n| gone.version(&key(*n)) == *n | ABSENT).count();
        assert!(newest > 3000, "{newest} of 4096 places hold their newest mark");
    }

    #[test]
    fn a_mark_stays_when_places_double() {
        let mut gone = Gone::default();
        gone.mark(b"first", 9);
        for version in 10..10_000 {
            gone.mark(b"other", version);
        }
        assert_eq!(gone.version(b"first"), 9 | ABSENT);
        assert_eq!(gone.version(b"other"), 9_999 | ABSENT);
        let untouched = (0..100).filter(|n| gone.version(&key(*n)) == 0).count();
        assert!(untouched > 70, "{untouched} of 100 keys");
    }

    #[test]
    fn all_bytes_come_back_and_others_are_refused() {
        let mut gone = Gone::default();
        assert_eq!(Gone::decode(&bytes(&gone)), Some(gone.clone()));
        for version in 1..100 {
            gone.mark(&key(version), version);
        }
        let written = bytes(&gone);
        assert_eq!(Gone::decode(&written), Some(gone));
        for end in 1..written.len() {
            let count = end.saturating_sub(12) / 8;
            let whole = end >= 12 && end % 8 == 4 && (count == 0 || count.is_power_of_two() && count >= 16);
            assert_eq!(Gone::decode(&written[..end]).is_some(), whole, "cut at {end}");
        }
    }
}
