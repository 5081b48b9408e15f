//! What is being asked of the disk level: the keys that blocked ops want, and the stretches of keys that SCAN, KEYS
//! and RANDOMKEY look through.
//!
//! Invariant: while an answer is on its way or kept here, no row that a flush completed after the question is
//! dropped from memory (`safe_epoch`). So memory and an answer, taken together, are the present state, however old
//! the answer is: what memory has no row for has not changed since.

pub(in crate::store) mod asked;
pub(in crate::store) mod at_hand;
pub(in crate::store) mod blocked;
pub(in crate::store) mod clock;
pub(in crate::store) mod loads;
pub(in crate::store) mod pages;
pub(in crate::store) mod pins;
pub(in crate::store) mod stored;

use std::collections::VecDeque;

use corduroy_shards::{PartitionId, Unreadable};
use smallvec::SmallVec;

use super::op::ErrorKind;
use crate::store::memory::listings::Listings;

/// Answers kept at a time; a client's next SCAN usually goes on in the same one.
const MAX_PAGES: usize = 32;
/// Flushes after which a kept answer goes, so that it does not hold rows in memory for ever.
const MAX_PAGE_AGE: u32 = 2;
/// Searches of RANDOMKEY that are remembered while they wait.
const MAX_SEARCHES: usize = 64;
/// What a key of an answer takes beside its bytes, roughly.
pub(super) const DISK_KEY_BYTES: usize = size_of::<DiskKey>();

/// Failures kept at a time; who misses one asks again.
const MAX_FAILED: usize = 1024;
/// Looks, about twice a second, after which an entry whose rows the system refuses to read is given up.
const MAX_REFUSED_LOOKS: u32 = 120;

/// Something that an op needs from below.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Want {
    /// One key.
    Key { hash: u64, key: Vec<u8> },
    /// Some keys from this hash on.
    Range { from: u64 },
    /// All keys that match.
    Matches { pattern: Vec<u8> },
    /// Whether the keys of blind writes existed.
    Unknown,
}

/// What comes of an op that wants what could not be read.
pub(super) enum Failure {
    /// It cannot be done.
    Final(Unreadable),
    /// The system may let it be read later.
    Waits,
}

impl Want {
    /// Whether this asks for the same.
    fn is_same(&self, other: &Self) -> bool {
        match (self.row(), other.row()) {
            (Some(hash), Some(other)) => hash == other,
            _ => self == other,
        }
    }

    /// The hash of the key whose row is wanted, if it is one row.
    pub(super) const fn row(&self) -> Option<u64> {
        match self {
            Self::Key { hash, .. } => Some(*hash),
            Self::Range { .. } | Self::Matches { .. } | Self::Unknown => None,
        }
    }
}

/// A key that the disk level holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DiskKey {
    pub(super) hash: u64,
    pub(super) key: Vec<u8>,
    pub(super) expire_at_ms: u64,
}

/// All keys that the disk level holds in a stretch of hashes (all that match, if there is a pattern).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DiskPage {
    pub(super) partition: PartitionId,
    pub(super) flush_version: u64,
    pub(super) from: u64,
    /// The last hash covered.
    pub(super) to: u64,
    pub(super) pattern: Option<Vec<u8>>,
    /// By hash.
    pub(super) keys: Vec<DiskKey>,
    /// Why KEYS must not be answered with it.
    pub(super) refused: Option<ErrorKind>,
}

impl DiskPage {
    /// Whether this answers `want`.
    fn answers(&self, want: &Want) -> bool {
        match (want, &self.pattern) {
            (Want::Range { from }, None) => (self.from..=self.to).contains(from),
            (Want::Matches { pattern }, Some(answered)) => pattern == answered,
            _ => false,
        }
    }
}

/// An answer that an entry cannot do without.
struct Held {
    partition: PartitionId,
    want: Want,
    /// The last flush when the entry was tried last.
    tried: u32,
}

struct Kept {
    page: DiskPage,
    read_epoch: u32,
    kept_epoch: u32,
}

/// A search of RANDOMKEY: partition, keyspace, seed.
pub(super) type Search = (PartitionId, u64, u64);

/// See the file's head.
#[derive(Default)]
pub(super) struct Lookups {
    /// Wants of the op that is being run.
    pub(super) wants: Vec<Want>,
    /// Questions under way: the last completed flush when asked, and how many.
    under_way: VecDeque<(u32, u32)>,
    pages: VecDeque<Kept>,
    /// What could not be read, until an op that wants it gets the error, or it is asked for again.
    failed: Vec<(PartitionId, Want, Unreadable)>,
    /// Looks at what the system refused to read for an entry.
    pub(super) refused_looks: u32,
    /// Where searches wait: the next hash, and whether they are past the last one.
    searches: VecDeque<(Search, (u64, bool))>,
    /// What entries wait for: such answers stay until the entry has run, however many others come.
    held: Vec<Held>,
}

impl Lookups {
    /// Where a search goes on, if it has begun.
    pub(super) fn searched(&self, search: Search) -> Option<(u64, bool)> {
        self.searches.iter().find(|(other, _)| *other == search).map(|(_, at)| *at)
    }

    /// A search waits. Those that nobody goes on with are the first to be forgotten: they would begin anew.
    pub(super) fn note_search(&mut self, search: Search, at: (u64, bool)) {
        self.end_search(search);
        if self.searches.len() >= MAX_SEARCHES {
            self.searches.pop_front();
        }
        self.searches.push_back((search, at));
    }

    /// A search has ended.
    pub(super) fn end_search(&mut self, search: Search) {
        self.searches.retain(|(other, _)| *other != search);
    }

    pub(super) fn want_key(&mut self, hash: u64, key: &[u8]) {
        let want = Want::Key { hash, key: key.to_vec() };
        if !self.wants.contains(&want) || self.wants.len() > 64 {
            self.wants.push(want);
        }
    }

    /// The hashes of the keys that the op wants.
    pub(super) fn wanted_rows(&self) -> SmallVec<[u64; 4]> {
        self.wants.iter().filter_map(Want::row).collect()
    }

    /// Notes that something that is wanted could not be read.
    pub(super) fn fail(&mut self, partition: PartitionId, want: Want, why: Unreadable) {
        if self.failed.len() >= MAX_FAILED {
            self.failed.clear();
        }
        self.failed.push((partition, want, why));
    }

    /// Why something that the op wants could not be read, if that was found out; it is asked for again when the next op
    /// wants it. `is_entry`: the op cannot be refused any more, so what the system refused is waited for.
    pub(super) fn take_failure(&mut self, partition: PartitionId, is_entry: bool) -> Option<Failure> {
        let Self { failed, wants, .. } = self;
        let is_wanted = |(of, want, _): &(PartitionId, Want, Unreadable)| {
            *of == partition && wants.iter().any(|wanted| wanted.is_same(want))
        };
        let at = failed.iter().position(is_wanted)?;
        let is_refused = matches!(failed.get(at), Some((_, _, Unreadable::Refused(_))));
        if is_entry && is_refused && self.refused_looks < MAX_REFUSED_LOOKS {
            return Some(Failure::Waits);
        }
        let (_, _, why) = self.failed.swap_remove(at);
        Some(Failure::Final(why))
    }

    /// Whether an entry may wait for what the system refused to read.
    pub(super) fn has_refusals(&self) -> bool {
        self.failed.iter().any(|(_, _, why)| matches!(why, Unreadable::Refused(_)))
    }

    /// Has what the system refused be asked for again.
    pub(super) fn retry_refused(&mut self) {
        if self.has_refusals() {
            self.refused_looks += 1;
            self.failed.retain(|(_, _, why)| matches!(why, Unreadable::Damaged(_)));
        }
    }

    /// Notes a question asked when the flush `completed` was the last.
    pub(super) fn ask(&mut self, completed: u32) {
        match self.under_way.back_mut() {
            Some((epoch, count)) if *epoch == completed => *count += 1,
            _ => self.under_way.push_back((completed, 1)),
        }
    }

    /// Notes its answer.
    pub(super) fn answered(&mut self, asked: u32) {
        let found = self.under_way.iter_mut().find(|(epoch, _)| *epoch == asked);
        let (_, count) = found.expect("every question is noted when it is asked");
        *count -= 1;
        self.under_way.retain(|(_, count)| *count > 0);
    }

    /// The flush up to which rows may be dropped from memory.
    pub(super) fn safe_epoch(&self, completed: u32) -> u32 {
        let asked = self.under_way.front().map_or(completed, |(epoch, _)| *epoch);
        self.pages.iter().map(|kept| kept.read_epoch).fold(asked.min(completed), u32::min)
    }

    /// Keeps an answer. Those that lists under way look at stay, however many others come.
    pub(super) fn keep(&mut self, page: DiskPage, read_epoch: u32, completed: u32, listings: &Listings) {
        let is_wanted = |page: &DiskPage| {
            is_held(&self.held, page) || listings.use_matches(page.partition, page.pattern.as_deref())
        };
        if self.pages.len() >= MAX_PAGES
            && let Some(oldest) = self.pages.iter().position(|kept| !is_wanted(&kept.page))
        {
            self.pages.remove(oldest);
        }
        self.pages.push_back(Kept { page, read_epoch, kept_epoch: completed });
    }

    /// A flush completed: answers that are too old go, and those held for an entry that nobody tries any more. A list
    /// under way keeps its own: it goes itself when nobody asks for it.
    pub(super) fn age(&mut self, completed: u32, listings: &Listings) {
        self.held.retain(|held| completed - held.tried < MAX_PAGE_AGE);
        let held = &self.held;
        self.pages.retain(|kept| {
            let is_wanted = || {
                is_held(held, &kept.page)
                    || listings.use_matches(kept.page.partition, kept.page.pattern.as_deref())
            };
            completed - kept.kept_epoch < MAX_PAGE_AGE || is_wanted()
        });
    }

    /// An entry of the partition is blocked: the answers that it wants now, and wanted before, stay until it has run.
    pub(super) fn hold(&mut self, partition: PartitionId, completed: u32) {
        for want in &self.wants {
            let is_page = matches!(want, Want::Range { .. } | Want::Matches { .. });
            if is_page && !self.held.iter().any(|held| held.partition == partition && held.want == *want) {
                self.held.push(Held { partition, want: want.clone(), tried: completed });
            }
        }
        self.still_held(partition, completed);
    }

    /// A blocked entry of the partition will be tried again.
    pub(super) fn still_held(&mut self, partition: PartitionId, completed: u32) {
        for held in self.held.iter_mut().filter(|held| held.partition == partition) {
            held.tried = completed;
        }
    }

    /// The entry has run. Answers for KEYS are of no use to others.
    pub(super) fn release(&mut self, partition: PartitionId) {
        if self.held.is_empty() {
            return;
        }
        let held = &self.held;
        self.pages.retain(|kept| {
            kept.page.partition != partition || kept.page.pattern.is_none() || !is_held(held, &kept.page)
        });
        self.held.retain(|held| held.partition != partition);
    }

    /// A keyspace ended: its answers go.
    pub(super) fn forget_pages(&mut self, partition: PartitionId) {
        self.pages.retain(|kept| kept.page.partition != partition);
    }

    /// A kept answer for the stretch around `hash`.
    pub(super) fn page(&self, partition: PartitionId, flush_version: u64, hash: u64) -> Option<&DiskPage> {
        let mut pages = self.pages.iter().map(|kept| &kept.page);
        pages.find(|page| {
            page.partition == partition
                && page.flush_version == flush_version
                && page.pattern.is_none()
                && (page.from..=page.to).contains(&hash)
        })
    }

    /// A kept answer for KEYS.
    pub(super) fn matches(
        &self,
        partition: PartitionId,
        flush_version: u64,
        pattern: &[u8],
    ) -> Option<&DiskPage> {
        let mut pages = self.pages.iter().map(|kept| &kept.page);
        pages.find(|page| {
            page.partition == partition
                && page.flush_version == flush_version
                && page.pattern.as_deref() == Some(pattern)
        })
    }

    /// Drops the answer for KEYS once it has been given, unless an entry waits for it: the next KEYS asks anew, so
    /// memory is not held by it.
    pub(super) fn drop_matches(&mut self, partition: PartitionId, pattern: &[u8]) {
        let held = &self.held;
        self.pages.retain(|kept| {
            kept.page.partition != partition
                || kept.page.pattern.as_deref() != Some(pattern)
                || is_held(held, &kept.page)
        });
    }
}

fn is_held(held: &[Held], page: &DiskPage) -> bool {
    held.iter().any(|held| held.partition == page.partition && page.answers(&held.want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_its_partition_keyspace_and_stretch_alone() {
        let (mut lookups, partition) = (Lookups::default(), PartitionId(3));
        let page = DiskPage {
            partition,
            flush_version: 5,
            from: 100,
            to: 200,
            pattern: None,
            keys: Vec::new(),
            refused: None,
        };
        lookups.keep(page.clone(), 0, 0, &Listings::default());
        lookups.keep(DiskPage { pattern: Some(b"*".to_vec()), ..page }, 0, 0, &Listings::default());
        let found = |partition, flush_version, hash| lookups.page(partition, flush_version, hash).is_some();
        assert!(found(partition, 5, 100) && found(partition, 5, 200));
        assert!(!found(partition, 6, 150), "the keyspace was flushed since");
        assert!(!found(PartitionId(4), 5, 150) && !found(partition, 5, 99) && !found(partition, 5, 201));
        assert!(lookups.matches(partition, 5, b"*").is_some());
        assert!(
            lookups.matches(partition, 6, b"*").is_none() && lookups.matches(partition, 5, b"a").is_none()
        );
        lookups.forget_pages(partition);
        assert!(lookups.page(partition, 5, 150).is_none() && lookups.matches(partition, 5, b"*").is_none());
    }
}
