//! `dump`: every segment, frame and record, in the order of the log.

use std::io::{self, Write};
use std::path::Path;

use corduroy_wal::SegmentSeq;
use corduroy_wal::device::folder::slot_file_name;
use corduroy_wal::device::mapped::MappedFolder;
use corduroy_wal::inspect::{Passing, RecordKind, inspect};
use serde_json::{Value, json};

use crate::ToolError;
use crate::verify::{fault_json, fault_text};

/// Prints the folder; whether it is sound.
pub fn run(folder: &Path, log: Option<u64>, json: bool, out: &mut dyn Write) -> Result<bool, ToolError> {
    let mapped = MappedFolder::open(folder)?;
    if !json {
        writeln!(out, "{}", folder.display()).map_err(ToolError::Output)?;
    }
    let mut dump = Dump { log, segment: SegmentSeq::ZERO, offset: 0, printed: Ok(()) };
    let found = inspect(&mapped, &mut |passing| {
        if dump.printed.is_ok() {
            dump.printed = if json { dump.json(&passing, out) } else { dump.text(&passing, out) };
        }
    })?;
    dump.printed.map_err(ToolError::Output)?;
    if let Some(torn) = found.torn_tail
        && !json
    {
        writeln!(out, "torn tail at {torn}: never acknowledged, cut at the next start")
            .map_err(ToolError::Output)?;
    }
    Ok(found.faults.is_empty())
}

struct Dump {
    log: Option<u64>,
    segment: SegmentSeq,
    offset: u32,
    printed: io::Result<()>,
}

impl Dump {
    fn wants(&self, log: u64) -> bool {
        self.log.is_none_or(|wanted| wanted == log)
    }

    fn text(&mut self, passing: &Passing<'_>, out: &mut dyn Write) -> io::Result<()> {
        match passing {
            Passing::Segment(slot, header) => writeln!(
                out,
                "segment {} {} salt {:016x} follows segment {} which ends at {} in batch {}",
                header.seq,
                slot_file_name(*slot),
                header.salt,
                header.prev,
                header.prev_end,
                header.prev_batch
            ),
            Passing::Frame(head, bytes) => writeln!(
                out,
                "  {:>10} batch {} ({} bytes, {} records, durable {}, oldest live segment {})",
                head.offset, head.batch, bytes, head.records, head.durable, head.oldest_live
            ),
            Passing::Record(meta, bytes, terms) if self.wants(meta.log.get()) => {
                write!(out, "             log {} ", meta.log)?;
                match meta.kind {
                    RecordKind::Append if meta.count == 0 => write!(out, "states only")?,
                    RecordKind::Append => write!(out, "entries {}..={}", meta.first, meta.last)?,
                    RecordKind::Copy => write!(out, "entries {}..={} again", meta.first, meta.last)?,
                    RecordKind::State => write!(out, "holds {}..={}", meta.first, meta.last)?,
                    RecordKind::Tombstone => write!(out, "removed")?,
                }
                match terms {
                    Some((first, last)) if first == last => write!(out, " term {first}")?,
                    Some((first, last)) => write!(out, " terms {first}..={last}")?,
                    None => {}
                }
                if let Some(state) = meta.hard_state {
                    write!(out, ", term {} vote {} commit {}", state.term, state.vote, state.commit)?;
                }
                if let Some(conf) = meta.conf {
                    write!(out, ", configuration of {} bytes", conf.len())?;
                }
                writeln!(out, " ({bytes} bytes)")
            }
            Passing::Record(..) => Ok(()),
            Passing::Fault(fault) => writeln!(out, "  {}", fault_text(fault)),
        }
    }

    fn json(&mut self, passing: &Passing<'_>, out: &mut dyn Write) -> io::Result<()> {
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
            Passing::Record(meta, bytes, terms) if self.wants(meta.log.get()) => json!({
                "log": meta.log.get(), "segment": self.segment.get(), "frame_offset": self.offset,
                "kind": kind(meta.kind), "count": meta.count, "first": meta.first.get(), "last": meta.last.get(),
                "first_term": terms.map(|t| t.0.get()), "last_term": terms.map(|t| t.1.get()), "bytes": bytes,
                "hard_state": meta.hard_state.map_or(Value::Null, |state| json!({
                    "term": state.term.get(), "vote": state.vote, "commit": state.commit.get(),
                })),
                "conf_bytes": meta.conf.map(<[u8]>::len),
            }),
            Passing::Record(..) => return Ok(()),
            Passing::Fault(fault) => fault_json(fault),
        };
        writeln!(out, "{line}")
    }
}

fn kind(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Append => "append",
        RecordKind::State => "state",
        RecordKind::Tombstone => "tombstone",
        RecordKind::Copy => "copy",
    }
}
