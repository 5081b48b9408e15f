//! KEYS: gathers the list of a pattern, and answers from it; see `memory/listings.rs`.

use crate::store::disk::DiskLevel;
use crate::store::exec::{Exec, Run, Stop};
use crate::store::jobs::{Job, Task};
use crate::store::lookups::{DiskPage, Lookups, Want};
use crate::store::memory::kept::{Bounds, Held, Idle};
use crate::store::memory::listings::{Listing, MatchLimit, Terms};
use crate::store::memory::partition::Partition;
use crate::store::op::names::Names;
use crate::store::op::{ErrorKind, Op, Outcome};
use crate::store::state::Store;

/// Names above which a list is given away whole, to be read out in slices too.
const FEW_NAMES: usize = 4096;
/// Jobs that end without the list being asked for, until it is given up: its op is tried again each time.
const MAX_IDLE_JOBS: u32 = 4;
/// The same for one that a transaction wants, whose entry may have to wait for others.
const MAX_HELD_IDLE_JOBS: u32 = 64;
/// Lists under way, at which a KEYS outside of transactions waits until one has ended.
const MAX_LISTINGS: usize = 16;

/// What all lists under way may take.
const fn bounds(max_bytes: usize) -> Bounds {
    Bounds { count: MAX_LISTINGS, bytes: max_bytes }
}

impl Listing {
    /// Goes on until the units are used up, all is gathered, or the disk level has to be asked.
    fn advance(&mut self, partition: &Partition, lookups: &Lookups, terms: Terms, units: &mut u64) {
        let before = *units;
        self.gather(partition, lookups, terms, units);
        self.units += before - *units;
    }

    fn gather(&mut self, partition: &Partition, lookups: &Lookups, terms: Terms, units: &mut u64) {
        self.wants_disk = false;
        while let Some(next) = self.next.filter(|_| *units > 0 && self.refused.is_none()) {
            let below = if partition.table.is_complete(next) {
                None
            } else {
                let Some(below) = lookups.matches(partition.id, partition.flush_version, &self.pattern)
                else {
                    self.wants_disk = true;
                    return;
                };
                if let Some(why) = below.refused {
                    return self.refuse(why);
                }
                Some(below)
            };
            self.next = self.page(partition, below, next, terms, units);
        }
    }

    /// Gathers what is left of the page of the hash `from`, hash by hash. Returns where to go on.
    fn page(
        &mut self,
        partition: &Partition,
        below: Option<&DiskPage>,
        from: u64,
        terms: Terms,
        units: &mut u64,
    ) -> Option<u64> {
        let end = partition.table.page_end(from);
        let page = partition.table.page(from);
        let rows = page.into_iter().flat_map(|page| &page.rows).filter(|row| row.hash >= from);
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by_key(|row| row.hash);
        let below = below.map(|below| below.keys.as_slice()).unwrap_or_default();
        let below = below.get(below.partition_point(|key| key.hash < from)..).unwrap_or_default();
        let mut below = below.iter().take_while(|key| key.hash <= end).peekable();
        *units = units.saturating_sub(1);
        let mut rows = rows.into_iter().peekable();
        // However few units there are, it comes further.
        let mut is_first = true;
        loop {
            let hashes = [rows.peek().map(|row| row.hash), below.peek().map(|key| key.hash)];
            let Some(hash) = hashes.into_iter().flatten().min() else { return end.checked_add(1) };
            // All keys of a hash are gathered together: a list ends between two hashes.
            if (*units == 0 && !is_first) || self.refused.is_some() {
                return Some(hash);
            }
            is_first = false;
            while let Some(row) = rows.next_if(|row| row.hash == hash) {
                if row.is_live(terms.now_ms) && self.matches(row.key(), units) {
                    self.insert(hash, row.key(), row.expire_at_ms);
                }
            }
            while let Some(key) = below.next_if(|key| key.hash == hash) {
                *units = units.saturating_sub(1);
                let is_known = page.is_some_and(|page| page.find(hash, &key.key).is_some());
                if !is_known && key.expire_at_ms > terms.now_ms {
                    self.insert(hash, &key.key, key.expire_at_ms);
                }
            }
            if self.is_too_long(terms) {
                self.refuse(ErrorKind::TooManyKeys);
            }
        }
    }

    fn answer(mut self, terms: Terms) -> Run {
        if let Some(why) = self.refused {
            return Err(Stop::Error(why));
        }
        // More may have been written since it was gathered.
        if self.is_too_long(terms) {
            return Err(Stop::Error(ErrorKind::TooManyKeys));
        }
        let is_long = self.found.len() > FEW_NAMES;
        let names = Names::new(self.found, terms.now_ms, self.bytes);
        if is_long {
            return Ok(Outcome::Names(names));
        }
        Ok(Outcome::Array(names.into_iter().map(Outcome::Bulk).collect()))
    }
}

impl Exec<'_> {
    const fn terms(&self) -> Terms {
        let limit = MatchLimit { keys: self.options.max_keys_reply, bytes: self.options.max_reply_bytes };
        Terms { limit, now_ms: self.now_ms }
    }

    /// Makes sure that the keys that match are gathered.
    pub(in crate::store) fn gather(&mut self, pattern: &[u8]) -> Run<()> {
        let (id, terms) = (self.partition.id, self.terms());
        let is_new = self.ledger.listings.find(id, pattern).is_none();
        if is_new && !self.committed {
            let listings = &mut self.ledger.listings;
            // A transaction never waits for room: those that wait for the rest of theirs could keep each other waiting.
            if !listings.all.make_room(bounds(self.options.max_reply_bytes)) && !self.preparing {
                listings.all.want_room();
                return Err(Stop::Blocked);
            }
            listings.all.push(Listing::new(id, pattern), Idle::new(MAX_IDLE_JOBS));
        }
        // Those before it in the transaction have brought as much as may be held.
        let too_large = Stop::Error(ErrorKind::ReplyTooLarge);
        let listing = self.ledger.listings.find(id, pattern).ok_or(too_large)?;
        listing.idle.asked();
        if self.preparing {
            listing.is_held = true;
            listing.idle.keep_for(MAX_HELD_IDLE_JOBS);
        }
        if is_new || listing.wants_disk {
            listing.advance(self.partition, self.lookups, terms, &mut self.options.gather_rows.clone());
        }
        listing.is_announced = listing.has_stopped();
        if listing.is_done() {
            // It follows changes by itself: what was below is of no more use.
            self.lookups.drop_matches(id, pattern);
            return Ok(());
        }
        if self.committed {
            return Err(too_large);
        }
        if listing.wants_disk {
            self.lookups.wants.push(Want::Matches { pattern: pattern.to_vec() });
        }
        Err(Stop::Blocked)
    }

    /// What the list of a pattern takes in memory.
    pub(in crate::store) fn gathered_bytes(&mut self, pattern: &[u8]) -> usize {
        self.ledger.listings.find(self.partition.id, pattern).map_or(0, |listing| listing.bytes)
    }

    pub(in crate::store) fn keys(&mut self, pattern: &[u8]) -> Run {
        self.gather(pattern)?;
        let (id, listings) = (self.partition.id, &mut self.ledger.listings);
        let Some(Held { idle, item: listing }) = listings.take(id, pattern) else {
            return Err(Stop::Blocked);
        };
        if listing.is_held {
            listings.all.push(listing.clone(), idle);
        }
        listing.answer(self.terms())
    }

    /// The transaction that wanted the lists of these ops has ended.
    pub(in crate::store) fn drop_gathered<'o>(&mut self, ops: impl Iterator<Item = Op<'o>>) {
        let id = self.partition.id;
        for op in ops {
            let Op::Keys { pattern } = op else { continue };
            self.ledger.listings.all.remove(|listing| listing.is_of(id, pattern) && listing.is_held);
            self.lookups.drop_matches(id, pattern);
        }
    }

    /// Whether there are lists under way.
    pub(in crate::store) fn is_gathering(&self) -> bool {
        !self.ledger.listings.all.is_empty()
    }
}

impl<L: DiskLevel> Store<L> {
    /// A slice of the lists under way, those first that have had the least. Returns whether more is to be gathered.
    pub(in crate::store) fn gather_slice(&mut self, jobs_ended: bool) -> bool {
        let listings = &mut self.ledger.listings;
        if jobs_ended {
            listings.all.age();
        }
        let limit = MatchLimit { keys: self.options.max_keys_reply, bytes: self.options.max_reply_bytes };
        let mut units = self.options.gather_rows;
        listings.all.sort_by_key(|listing| listing.units);
        let mut is_left = false;
        for listing in listings.all.iter_mut().filter(|listing| !listing.idle.is_idle()) {
            if units > 0 && !listing.has_stopped() {
                let partition = self.partitions.get(&listing.partition).expect("a partition never goes");
                let terms = Terms { limit, now_ms: partition.clock_ms };
                listing.advance(partition, &self.lookups, terms, &mut units);
            }
            if !listing.has_stopped() {
                (listing.is_announced, is_left) = (false, true);
            } else if !std::mem::replace(&mut listing.is_announced, true) {
                // Whoever waits for it is tried again when a job has ended. A write may have stopped it too.
                self.jobs.push(Job { disk: self.disk.clone(), task: Task::Nothing });
            }
        }
        if listings.all.take_wake(bounds(limit.bytes)) {
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Nothing });
        }
        is_left
    }
}

#[cfg(test)]
impl<L: DiskLevel> Store<L> {
    /// The work that the lists under way have taken.
    pub(in crate::store) fn gathered_units(&self) -> u64 {
        self.ledger.listings.all.iter().map(|listing| listing.units).sum()
    }

    /// How many lists are under way.
    pub(in crate::store) fn listings(&self) -> usize {
        self.ledger.listings.all.len()
    }
}
