//! `verify`: reads everything, prints each position that is not as it was written.

use std::io::{self, Write};
use std::path::Path;

use corduroy_wal::device::folder::slot_file_name;
use corduroy_wal::device::mapped::MappedFolder;
use corduroy_wal::inspect::{Fault, Inspection, inspect};
use serde_json::{Value, json};

use crate::ToolError;
use crate::words::count;

/// Checks the folder; whether it is sound.
pub fn run(folder: &Path, json: bool, out: &mut dyn Write) -> Result<bool, ToolError> {
    let mapped = MappedFolder::open(folder)?;
    let found = inspect(&mapped, &mut |_| {})?;
    let printed = if json { print_json(folder, &found, out) } else { print_text(folder, &found, out) };
    printed.map_err(ToolError::Output)?;
    Ok(found.faults.is_empty())
}

fn print_text(folder: &Path, found: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    for fault in &found.faults {
        writeln!(out, "{}: {}", folder.display(), fault_text(fault))?;
    }
    if let Some(torn) = found.torn_tail {
        writeln!(
            out,
            "{}: torn tail at {torn}: never acknowledged, cut at the next start",
            folder.display()
        )?;
    }
    let verdict = if found.faults.is_empty() { "sound" } else { "DAMAGED" };
    let frames: u64 = found.segments.iter().map(|segment| segment.frames).sum();
    let records: u64 = found.segments.iter().map(|segment| segment.records).sum();
    writeln!(
        out,
        "{}: {verdict}: {}, {}, {}, {}, {}",
        folder.display(),
        count(found.segments.len() as u64, "segment"),
        count(frames, "frame"),
        count(records, "record"),
        count(found.logs.len() as u64, "partition"),
        count(found.faults.len() as u64, "fault")
    )
}

fn print_json(folder: &Path, found: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    let line = json!({
        "folder": folder.to_string_lossy(),
        "sound": found.faults.is_empty(),
        "segments": found.segments.len(),
        "frames": found.segments.iter().map(|segment| segment.frames).sum::<u64>(),
        "records": found.segments.iter().map(|segment| segment.records).sum::<u64>(),
        "logs": found.logs.len(),
        "torn_tail": found.torn_tail.map_or(Value::Null, |torn| json!({
            "segment": torn.segment.get(), "offset": torn.offset,
        })),
        "faults": found.faults.iter().map(fault_json).collect::<Vec<_>>(),
    });
    writeln!(out, "{line}")
}

/// A fault in one line.
pub fn fault_text(fault: &Fault) -> String {
    let Fault { slot, position, bytes, why, logs } = fault;
    let extent = if *bytes > 0 { format!(", {bytes} bytes") } else { String::new() };
    let logs = match logs.as_slice() {
        [] => String::new(),
        logs => {
            let ids: Vec<_> = logs.iter().map(ToString::to_string).collect();
            format!("; of partitions {}", ids.join(", "))
        }
    };
    format!(
        "DAMAGE segment {} {} at {}{extent}: {why}{logs}",
        position.segment,
        slot_file_name(*slot),
        position.offset
    )
}

/// A fault as JSON.
pub fn fault_json(fault: &Fault) -> Value {
    json!({
        "fault": fault.why,
        "segment": fault.position.segment.get(),
        "offset": fault.position.offset,
        "slot": fault.slot.0,
        "bytes": fault.bytes,
        "logs": fault.logs.iter().map(|log| log.get()).collect::<Vec<_>>(),
    })
}
