//! `stats`: what the segments and the logs hold.

use std::io::{self, Write};
use std::path::Path;

use corduroy_wal::device::folder::slot_file_name;
use corduroy_wal::device::mapped::MappedFolder;
use corduroy_wal::inspect::{Inspection, inspect};
use serde_json::{Value, json};

use crate::ToolError;
use crate::words::count;

/// Prints the figures; whether the folder is sound.
pub fn run(folder: &Path, json: bool, out: &mut dyn Write) -> Result<bool, ToolError> {
    let mapped = MappedFolder::open(folder)?;
    let found = inspect(&mapped, &mut |_| {})?;
    let printed = if json { print_json(folder, &found, out) } else { print_text(folder, &found, out) };
    printed.map_err(ToolError::Output)?;
    Ok(found.faults.is_empty())
}

fn print_text(folder: &Path, found: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    let id = found.wal_id.map_or_else(|| "never written".to_owned(), |id| format!("id {id:016x}"));
    writeln!(
        out,
        "{}: {id}, {}, {}",
        folder.display(),
        count(found.spare.len() as u64, "spare slot"),
        count(found.faults.len() as u64, "fault")
    )?;
    if let Some(manifest) = &found.manifest {
        writeln!(
            out,
            "manifest: newest segment {} in {}, durable up to batch {}",
            manifest.newest,
            slot_file_name(manifest.slot),
            manifest.durable
        )?;
    }
    writeln!(
        out,
        "{:>10} {:>16} {:>10} {:>21} {:>8} {:>9} {:>10} {:>10} {:>7}",
        "segment", "file", "used", "batches", "frames", "records", "entries", "live", "sealed"
    )?;
    for segment in &found.segments {
        writeln!(
            out,
            "{:>10} {:>16} {:>10} {:>21} {:>8} {:>9} {:>10} {:>10} {:>7}",
            segment.seq,
            slot_file_name(segment.slot),
            segment.end,
            format!("{}..={}", segment.first_batch, segment.last_batch),
            segment.frames,
            segment.records,
            segment.entries,
            segment.live_entries,
            if segment.footer { "yes" } else { "no" }
        )?;
    }
    writeln!(
        out,
        "{:>20} {:>12} {:>12} {:>10} {:>10} {:>12}",
        "partition", "first", "last", "entries", "term", "commit"
    )?;
    for (log, state) in &found.logs {
        let hard = state.hard_state.unwrap_or_default();
        let entries = (state.last.get() + 1).saturating_sub(state.first.get());
        writeln!(
            out,
            "{log:>20} {:>12} {:>12} {entries:>10} {:>10} {:>12}",
            state.first, state.last, hard.term, hard.commit
        )?;
    }
    Ok(())
}

fn print_json(folder: &Path, found: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    let segments = found.segments.iter().map(|segment| {
        json!({
            "segment": segment.seq.get(), "slot": segment.slot.0, "bytes": segment.bytes, "end": segment.end,
            "first_batch": segment.first_batch.get(), "last_batch": segment.last_batch.get(),
            "frames": segment.frames, "records": segment.records, "entries": segment.entries,
            "live_entries": segment.live_entries, "sealed": segment.footer,
        })
    });
    let logs = found.logs.iter().map(|(log, state)| {
        json!({
            "log": log.get(), "first": state.first.get(), "last": state.last.get(),
            "prev_term": state.prev_term.get(), "conf_bytes": state.conf.as_ref().map(Vec::len),
            "hard_state": state.hard_state.map_or(Value::Null, |hard| json!({
                "term": hard.term.get(), "vote": hard.vote, "commit": hard.commit.get(),
            })),
        })
    });
    let line = json!({
        "folder": folder.to_string_lossy(),
        "wal_id": found.wal_id.map(|id| format!("{id:016x}")),
        "sound": found.faults.is_empty(),
        "manifest": found.manifest.map_or(Value::Null, |manifest| json!({
            "newest": manifest.newest.get(), "slot": manifest.slot.0, "durable": manifest.durable.get(),
        })),
        "spare": found.spare.iter().map(|slot| slot.0).collect::<Vec<_>>(),
        "segments": segments.collect::<Vec<_>>(),
        "logs": logs.collect::<Vec<_>>(),
    });
    writeln!(out, "{line}")
}
