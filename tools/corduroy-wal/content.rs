//! What of a record is shown: its entries, read as operations, as far as a partition or a key was asked for.

use corduroy::store::Op;
use corduroy_shards::KeyspaceId;
use corduroy_shards::entry::{self, EntryOp};
use corduroy_wal::inspect::RecordView;
use corduroy_wal::{EntryKind, EntryRef, Lsn, Term};

use crate::words::{Words, count, moment, touches};

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Only this partition.
    pub partition: Option<u64>,
    /// Only operations that touch this key.
    pub key: Option<Vec<u8>>,
}

/// What of a record is shown.
#[derive(Debug)]
pub struct Content {
    /// Whether what it says besides its entries is, too.
    pub with_states: bool,
    /// Its entries.
    pub entries: Vec<Entry>,
}

/// An entry in words.
#[derive(Debug)]
pub struct Entry {
    /// Its number.
    pub lsn: Lsn,
    /// Its term.
    pub term: Term,
    /// What it is.
    pub what: String,
    /// When its leader stamped it, ms since 1970.
    pub stamp_ms: Option<u64>,
    /// The same, for people.
    pub stamp: Option<String>,
    /// Its operations, each in one or several lines.
    pub lines: Vec<Vec<String>>,
    /// Operations that were not asked for.
    pub others: usize,
}

impl Filter {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// What is shown of a record; `None` if nothing is.
    #[must_use]
    pub fn content(&self, view: &RecordView<'_>, words: Words) -> Option<Content> {
        if self.partition.is_some_and(|wanted| wanted != view.meta.log.get()) {
            return None;
        }
        let entries = view.entries().flatten().map(|entry| self.entry(&entry, words));
        let Some(_) = &self.key else {
            return Some(Content { with_states: true, entries: entries.collect() });
        };
        let entries: Vec<Entry> = entries.filter(|entry| !entry.lines.is_empty()).collect();
        (!entries.is_empty()).then_some(Content { with_states: false, entries })
    }

    fn entry(&self, entry: &EntryRef<'_>, words: Words) -> Entry {
        let mut shown = Entry {
            lsn: entry.lsn,
            term: entry.term,
            what: String::new(),
            stamp_ms: None,
            stamp: None,
            lines: Vec::new(),
            others: 0,
        };
        match entry.kind {
            EntryKind::ConfChange | EntryKind::ConfChangeV2 => {
                shown.what = format!("a change of the group's members, {} bytes", entry.data.len());
            }
            EntryKind::Normal if entry.data.is_empty() => {
                "a new leader's first entry, without an operation".clone_into(&mut shown.what);
            }
            EntryKind::Normal => self.operations(entry.data, words, &mut shown),
        }
        shown
    }

    fn operations(&self, payload: &[u8], words: Words, shown: &mut Entry) {
        let header = match entry::decode(payload) {
            Ok(header) => header,
            Err(error) => {
                shown.what = format!("{} bytes that cannot be read: {error}", payload.len());
                return;
            }
        };
        shown.what = match header.count {
            0 => "no operation, it only moves the partition's clock".to_owned(),
            operations => count(u64::from(operations), "operation"),
        };
        shown.stamp_ms = Some(header.stamp_ms);
        shown.stamp = Some(moment(header.stamp_ms));
        let mut at = header.ops_at;
        while let Some((EntryOp { keyspace, op: bytes }, next)) = entry::next_op(payload, at) {
            at = next;
            match Op::decode(bytes) {
                Ok(op) if self.key.as_ref().is_none_or(|key| touches(&op, key)) => {
                    let mut lines = words.lines(&op);
                    if keyspace != KeyspaceId::DEFAULT {
                        lines.insert(0, format!("on keyspace {keyspace}:"));
                    }
                    shown.lines.push(lines);
                }
                Ok(_) => shown.others += 1,
                // What cannot be read may touch any key.
                Err(error) => shown.lines.push(vec![format!("{} bytes: {error}", bytes.len())]),
            }
        }
    }
}
