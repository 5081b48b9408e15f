//! The commands that look through a keyspace: SCAN, RANDOMKEY, DBSIZE; KEYS is in `listing`.
//!
//! Both levels lie in hash order, so one pass merges them: a row in memory speaks for its key (a tombstone too), and
//! what only the disk level has is asked for in stretches. A cursor is the next hash's upper 48 bits; growth of the
//! table, flushes, evictions and restarts do not move keys, so SCAN's guarantee needs nothing else.

use corduroy_wal::mix::scramble;

use crate::store::exec::{Exec, Run, Stop};
use crate::store::lookups::Want;
use crate::store::lookups::pages::CURSOR_SHIFT;
use crate::store::memory::row::Row;
use crate::store::op::{ErrorKind, Op, Outcome};
use crate::store::text::glob::Effort;

/// One SCAN looks at no more than this, whatever its COUNT.
const MAX_COUNT: u64 = 10_000;
/// Bytes of keys above which a page of SCAN ends.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Steps of the pattern above which a page of SCAN ends: some ms.
const MAX_PAGE_STEPS: usize = 1_000_000;
/// What a look at a row, and a step of a pattern, count among what an op moves: about as long as it takes to copy so much.
const ROW_BYTES: usize = 256;
const STEP_BYTES: usize = 16;
/// Empty stretches that one SCAN walks through.
const MAX_SPANS: u32 = 64;
/// Stretches below after which RANDOMKEY says in a transaction that there is no key: it has to hold them all.
const MAX_HELD_RANDOM_SPANS: usize = 2;

/// The live keys of a stretch of hashes, by hash.
struct Span<'s> {
    /// The last hash of the stretch.
    end: u64,
    keys: Vec<(u64, &'s [u8])>,
}

impl Exec<'_> {
    /// The stretch that begins at `from`.
    fn span(&mut self, from: u64) -> Run<Span<'_>> {
        let (id, flush_version, now_ms) = (self.partition.id, self.partition.flush_version, self.now_ms);
        let complete = self.partition.table.is_complete(from);
        if !complete && self.lookups.page(id, flush_version, from).is_none() {
            self.lookups.wants.push(Want::Range { from });
            return Err(Stop::Blocked);
        }
        let below = if complete { None } else { self.lookups.page(id, flush_version, from) };
        let table_end = self.partition.table.page_end(from);
        let end = below.map_or(table_end, |below| below.to.min(table_end));
        let page = self.partition.table.page(from);
        let mut keys: Vec<(u64, &[u8])> = Vec::new();
        if let Some(page) = page {
            let here = |row: &&Row| (from..=end).contains(&row.hash) && row.is_live(now_ms);
            keys.extend(page.rows.iter().filter(here).map(|row| (row.hash, row.key())));
        }
        for key in below.map(|below| below.keys.as_slice()).unwrap_or_default() {
            let here = (from..=end).contains(&key.hash) && key.expire_at_ms > now_ms;
            if here && page.is_none_or(|page| page.find(key.hash, &key.key).is_none()) {
                keys.push((key.hash, &key.key));
            }
        }
        keys.sort_unstable();
        Ok(Span { end, keys })
    }

    /// Makes sure that an op that looks at more than the keys it names will not block.
    pub(in crate::store) fn prepare_walk(&mut self, op: &Op<'_>) -> Run<()> {
        match *op {
            Op::Keys { pattern } => self.gather(pattern),
            Op::Scan { cursor, .. } => self.span(cursor << CURSOR_SHIFT).map(drop),
            Op::RandomKey { seed } => self.random_key(seed).map(drop),
            Op::DbSize => self.db_size().map(drop),
            other => {
                assert!(!other.is_walk(), "{:?} says what it needs", other.kind());
                Ok(())
            }
        }
    }

    pub(in crate::store) fn scan(
        &mut self,
        cursor: u64,
        count: u64,
        pattern: Option<&[u8]>,
        kind: Option<&[u8]>,
    ) -> Run {
        let (mut looked_at, mut steps) = (0, 0);
        let page = self.scan_page(cursor, count, pattern, kind, (&mut looked_at, &mut steps));
        self.moved_bytes += looked_at * ROW_BYTES + steps * STEP_BYTES;
        page
    }

    /// A page of SCAN; counts the rows that it looked at, and the steps that their patterns took.
    fn scan_page(
        &mut self,
        cursor: u64,
        count: u64,
        pattern: Option<&[u8]>,
        kind: Option<&[u8]>,
        (looked_at, steps): (&mut usize, &mut usize),
    ) -> Run {
        let wanted = kind.is_none_or(|kind| kind.eq_ignore_ascii_case(b"string"));
        let count = count.clamp(1, MAX_COUNT);
        let (mut from, mut examined, mut keys) = (cursor << CURSOR_SHIFT, 0, Vec::new());
        let (mut bytes, mut effort) = (0, Effort::of_a_command());
        for spans in 0.. {
            let page = |from: u64, keys| Ok(Outcome::Scan { cursor: from >> CURSOR_SHIFT, keys });
            if examined >= count || spans >= MAX_SPANS {
                return page(from, keys);
            }
            let span = match self.span(from) {
                Err(Stop::Blocked) if spans > 0 => {
                    self.lookups.wants.clear();
                    return page(from, keys);
                }
                span => span?,
            };
            *looked_at += span.keys.len();
            let mut last = None;
            for (hash, key) in span.keys {
                let is_full = examined >= count || bytes >= MAX_PAGE_BYTES || *steps >= MAX_PAGE_STEPS;
                if is_full && last != Some(hash >> CURSOR_SHIFT) {
                    return page(hash, keys);
                }
                last = Some(hash >> CURSOR_SHIFT);
                examined += 1;
                let (matches, taken) =
                    pattern.map_or((Some(true), 0), |pattern| effort.glob_counted(pattern, key));
                *steps += taken;
                if matches.ok_or(Stop::Error(ErrorKind::PatternTooCostly))? && wanted {
                    bytes += key.len();
                    keys.push(key.to_vec());
                }
            }
            match span.end.checked_add(1) {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(Outcome::Scan { cursor: 0, keys })
    }

    /// A key near a random position in hash order: every page is as likely as it is wide, every key on it alike. Goes on
    /// until there is one, or all hashes were looked at; where it has to wait for what is below, it goes on from there.
    pub(in crate::store) fn random_key(&mut self, seed: u64) -> Run {
        let start = scramble(seed);
        let search = (self.partition.id, self.partition.flush_version, seed);
        let first = if self.partition.table.is_complete(start) {
            self.partition.table.page_start(start)
        } else {
            start
        };
        let (mut from, mut wrapped) = self.lookups.searched(search).unwrap_or((first, false));
        let (is_held, mut held_spans) = (self.preparing || self.committed, 0);
        let found = loop {
            held_spans += usize::from(is_held && !self.partition.table.is_complete(from));
            if held_spans > MAX_HELD_RANDOM_SPANS {
                break None;
            }
            self.moved_bytes +=
                self.partition.table.page(from).map_or(0, |page| page.rows.len() * size_of::<Row>());
            let committed = self.committed;
            let span = match self.span(from) {
                Err(Stop::Blocked) if committed => {
                    self.lookups.wants.clear();
                    break None;
                }
                Err(stop) => {
                    self.lookups.note_search(search, (from, wrapped));
                    return Err(stop);
                }
                Ok(span) => span,
            };
            let choice = usize::try_from(seed >> 8).unwrap_or(0) % span.keys.len().max(1);
            let (end, key) = (span.end, span.keys.get(choice).map(|(_, key)| key.to_vec()));
            if key.is_some() {
                break key;
            }
            (from, wrapped) = match end.checked_add(1) {
                Some(next) if wrapped && next > start => break None,
                Some(next) => (next, wrapped),
                None if wrapped => break None,
                None => (0, true),
            };
        };
        // What was made sure of before a transaction is looked for again in it.
        if !self.preparing {
            self.lookups.end_search(search);
        }
        Ok(found.map_or(Outcome::Nil, Outcome::Bulk))
    }

    pub(in crate::store) fn db_size(&mut self) -> Run {
        if self.partition.unknown > 0 {
            self.partition.exact_wanted = true;
            self.lookups.wants.push(Want::Unknown);
            return Err(Stop::Blocked);
        }
        self.partition.exact_wanted = false;
        Ok(Outcome::Int(i64::try_from(self.partition.keys).unwrap_or(i64::MAX)))
    }
}
