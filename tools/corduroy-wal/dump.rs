//! `dump`: every segment, frame and record, in the order of the log, and what stands in them, in words.

use std::io::{self, Write};
use std::path::Path;

use corduroy_shards::raft::membership::{MemberId, Membership, StorageId};
use corduroy_wal::device::folder::slot_file_name;
use corduroy_wal::device::mapped::MappedFolder;
use corduroy_wal::inspect::{Manifest, Passing, RecordKind, RecordMeta, RecordView, inspect};
use corduroy_wal::{Lsn, SegmentSeq};
use serde_json::{Value, json};

use crate::ToolError;
use crate::content::{Content, Entry, Filter};
use crate::home;
use crate::verify::{fault_json, fault_text};
use crate::words::{Words, count};

/// What the words of a dump mean, for who has not read the source.
const LEGEND: &str = "\
# A segment is a file of the log, a frame is one write to it, with what many clients asked for at about the same time.
# A partition has a log of its own in it, of the same number. Its entries are numbered from 1 and are carried out in that
# order. Partitions of keys begin with 2; 1 is kept for the cluster's own data. Terms are those of Raft: one for each time
# that a leader was elected; committed entries are those that count for ever.
";

/// What to dump.
#[derive(Debug)]
pub struct Wanted {
    /// Of these partitions and keys.
    pub filter: Filter,
    /// As JSON.
    pub json: bool,
    /// Most bytes of a value that are shown.
    pub value_bytes: usize,
}

/// Prints the legend of a text.
pub fn legend(out: &mut dyn Write) -> Result<(), ToolError> {
    out.write_all(LEGEND.as_bytes()).map_err(ToolError::Output)
}

/// Prints the folder; whether it is sound.
pub fn run(folder: &Path, wanted: &Wanted, out: &mut dyn Write) -> Result<bool, ToolError> {
    let mapped = MappedFolder::open(folder)?;
    if !wanted.json {
        let home = home::words(folder).map_err(|source| ToolError::Path { path: folder.into(), source })?;
        writeln!(out, "{}{home}", folder.display()).map_err(ToolError::Output)?;
    }
    let mut dump = Dump {
        wanted,
        words: Words { value_bytes: wanted.value_bytes },
        segment: SegmentSeq::ZERO,
        offset: 0,
        waiting: Vec::new(),
        printed: Ok(()),
    };
    let found = inspect(&mapped, &mut |passing| {
        if dump.printed.is_ok() {
            dump.printed = if wanted.json { dump.json(&passing, out) } else { dump.text(&passing, out) };
        }
    })?;
    dump.printed.map_err(ToolError::Output)?;
    if !wanted.json {
        if let Some(manifest) = found.manifest {
            writeln!(out, "{}", manifest_words(&manifest)).map_err(ToolError::Output)?;
        }
        if let Some(torn) = found.torn_tail {
            writeln!(out, "torn tail at {torn}: never acknowledged, cut at the next start")
                .map_err(ToolError::Output)?;
        }
    }
    Ok(found.faults.is_empty())
}

fn manifest_words(manifest: &Manifest) -> String {
    format!(
        "manifest: the newest segment is {} in {}; every batch up to {} is known to be on the disk",
        manifest.newest,
        slot_file_name(manifest.slot),
        manifest.durable
    )
}

struct Dump<'w> {
    wanted: &'w Wanted,
    words: Words,
    segment: SegmentSeq,
    offset: u32,
    /// Lines of the segment and the frame, held until a record that is wanted follows.
    waiting: Vec<(usize, String)>,
    printed: io::Result<()>,
}

impl Dump<'_> {
    /// Prints a line of this depth, or holds it where only some records are wanted.
    fn headline(&mut self, depth: usize, line: String, out: &mut dyn Write) -> io::Result<()> {
        if self.wanted.filter.is_all() {
            return writeln!(out, "{:width$}{line}", "", width = 2 * depth);
        }
        self.waiting.retain(|(before, _)| *before < depth);
        self.waiting.push((depth, line));
        Ok(())
    }

    fn text(&mut self, passing: &Passing<'_>, out: &mut dyn Write) -> io::Result<()> {
        match passing {
            Passing::Segment(slot, header) => {
                let before = if header.prev == SegmentSeq::ZERO {
                    "the first one".to_owned()
                } else {
                    let (prev, end, batch) = (header.prev, header.prev_end, header.prev_batch);
                    format!("follows segment {prev}, which ends at {end} with batch {batch}")
                };
                let line = format!("segment {} in {}: {before}", header.seq, slot_file_name(*slot));
                self.headline(0, line, out)
            }
            Passing::Frame(head, bytes) => {
                let what = match head.records {
                    0 => "a mark that all before it is on the disk".to_owned(),
                    records => count(u64::from(records), "record"),
                };
                let line = format!(
                    "frame at {}: batch {}, {bytes} bytes, {what}; batches up to {} were on the disk, segments before {} \
                     were free",
                    head.offset, head.batch, head.durable, head.oldest_live
                );
                self.headline(1, line, out)
            }
            Passing::Record(view, bytes, _) => {
                let Some(content) = self.wanted.filter.content(view, self.words) else { return Ok(()) };
                for (depth, line) in self.waiting.drain(..) {
                    writeln!(out, "{:width$}{line}", "", width = 2 * depth)?;
                }
                self.record(&view.meta, *bytes, &content, out)
            }
            Passing::Fault(fault) => writeln!(out, "  {}", fault_text(fault)),
        }
    }

    fn record(
        &self,
        meta: &RecordMeta<'_>,
        bytes: usize,
        content: &Content,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let partition = home::partition(meta.log.get());
        writeln!(out, "    {partition}: {} ({bytes} bytes)", record_words(meta))?;
        if content.with_states {
            if let Some(state) = meta.hard_state {
                let vote = if state.vote == 0 {
                    "no vote".to_owned()
                } else {
                    format!("vote for member {}", state.vote)
                };
                let (term, commit) = (state.term, state.commit);
                writeln!(
                    out,
                    "      raft's hard state: term {term}, {vote}, committed up to entry {commit}"
                )?;
            }
            if let Some(conf) = meta.conf {
                writeln!(out, "      members: {}", members(conf))?;
            }
        }
        for entry in &content.entries {
            entry_text(entry, out)?;
        }
        Ok(())
    }

    fn json(&mut self, passing: &Passing<'_>, out: &mut dyn Write) -> io::Result<()> {
        let is_narrow = self.wanted.filter.key.is_some();
        let line = match passing {
            Passing::Segment(slot, header) => {
                self.segment = header.seq;
                json!({
                    "segment": header.seq.get(), "slot": slot.0, "salt": format!("{:016x}", header.salt),
                    "wal_id": format!("{:016x}", header.wal_id), "bytes": header.segment_bytes,
                    "prev": header.prev.get(), "prev_end": header.prev_end, "prev_batch": header.prev_batch.get(),
                    "oldest_live": header.oldest_live.get(),
                })
            }
            Passing::Frame(head, bytes) => {
                self.offset = head.offset;
                json!({
                    "frame": head.batch.get(), "segment": self.segment.get(), "offset": head.offset, "bytes": bytes,
                    "records": head.records, "durable": head.durable.get(), "oldest_live": head.oldest_live.get(),
                })
            }
            Passing::Record(view, bytes, terms) => {
                let Some(content) = self.wanted.filter.content(view, self.words) else { return Ok(()) };
                let mut line = self.record_json(view, *bytes, &content);
                if let Some(line) = line.as_object_mut() {
                    line.insert("first_term".into(), json!(terms.map(|terms| terms.0.get())));
                    line.insert("last_term".into(), json!(terms.map(|terms| terms.1.get())));
                }
                return writeln!(out, "{line}");
            }
            Passing::Fault(fault) => return writeln!(out, "{}", fault_json(fault)),
        };
        if is_narrow { Ok(()) } else { writeln!(out, "{line}") }
    }

    fn record_json(&self, view: &RecordView<'_>, bytes: usize, content: &Content) -> Value {
        let meta = &view.meta;
        json!({
            "log": meta.log.get(), "segment": self.segment.get(), "frame_offset": self.offset,
            "kind": kind(meta.kind), "count": meta.count, "first": meta.first.get(), "last": meta.last.get(),
            "bytes": bytes,
            "hard_state": meta.hard_state.map_or(Value::Null, |state| json!({
                "term": state.term.get(), "vote": state.vote, "commit": state.commit.get(),
            })),
            "conf_bytes": meta.conf.map(<[u8]>::len),
            "members": meta.conf.map(members),
            "entries": content.entries.iter().map(entry_json).collect::<Vec<_>>(),
        })
    }
}

fn record_words(meta: &RecordMeta<'_>) -> String {
    let (first, last) = (meta.first, meta.last);
    let entries = |count: u32| {
        if count == 1 { format!("entry {first}") } else { format!("entries {first} to {last}") }
    };
    match meta.kind {
        RecordKind::Append if meta.count == 0 => "no entry".to_owned(),
        RecordKind::Append => entries(meta.count),
        RecordKind::Copy => format!("{} once more, so that an old segment can be free", entries(meta.count)),
        RecordKind::State if first > last => {
            format!("a mark that its log holds no entry; the next one is {first}")
        }
        RecordKind::State => format!(
            "a mark that its log holds entries {first} to {last}; what was before stands in the state or a snapshot"
        ),
        RecordKind::Tombstone => "a mark that the partition was removed".to_owned(),
    }
}

/// A group's members, of the saved configuration.
fn members(conf: &[u8]) -> String {
    let membership = match Membership::decode(conf) {
        Ok(membership) => membership,
        Err(error) => return error.to_string(),
    };
    let conf = membership.conf_state();
    let lists = [
        ("voters", &conf.voters),
        ("learners", &conf.learners),
        ("voters on their way out", &conf.voters_outgoing),
        ("learners to be", &conf.learners_next),
    ];
    let member = |id: &u64| match membership.storage(MemberId(*id)).filter(|it| *it != StorageId::UNKNOWN) {
        Some(storage) => format!("{id} on storage {storage}"),
        None => id.to_string(),
    };
    let named = lists.iter().filter(|(_, members)| !members.is_empty()).map(|(name, members)| {
        let members: Vec<String> = members.iter().map(member).collect();
        format!("{name} {}", members.join(", "))
    });
    let named = named.collect::<Vec<_>>().join("; ");
    match membership.as_of {
        Lsn::ZERO => named,
        as_of => format!("as of entry {as_of}: {named}"),
    }
}

fn entry_text(entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let Entry { lsn, term, what, stamp, lines, others, .. } = entry;
    let stamp = stamp.as_deref().map_or_else(String::new, |stamp| format!(", {stamp}"));
    writeln!(out, "      entry {lsn}, term {term}{stamp}: {what}")?;
    for line in lines.iter().flatten() {
        writeln!(out, "        {line}")?;
    }
    if *others > 0 {
        writeln!(out, "        and {others} more on other keys")?;
    }
    Ok(())
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "lsn": entry.lsn.get(), "term": entry.term.get(), "what": entry.what, "stamp_ms": entry.stamp_ms,
        "operations": entry.lines.iter().map(|lines| lines.join("\n")).collect::<Vec<_>>(),
    })
}

fn kind(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Append => "append",
        RecordKind::State => "state",
        RecordKind::Tombstone => "tombstone",
        RecordKind::Copy => "copy",
    }
}
