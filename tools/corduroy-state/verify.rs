//! `verify`: reads everything, prints what is not as it was written.

use std::io::{self, Write};
use std::path::Path;

use corduroy::node::identity::{Ownership, ownership};
use corduroy::store::{Finding, Inspection, inspect};
use serde_json::{Value, json};

use crate::ToolError;

/// Checks the folder; whether it is sound.
pub fn run(folder: &Path, tables: bool, json: bool, out: &mut dyn Write) -> Result<bool, ToolError> {
    let found = inspect(folder)?;
    let whose = ownership(folder, found.owner.as_ref());
    let print = if json { print_json } else { print_text };
    print(folder, &found, &whose, tables, out).map_err(ToolError::Output)?;
    Ok(found.faults.is_empty() && whose.faults.is_empty())
}

fn print_text(
    folder: &Path,
    found: &Inspection,
    whose: &Ownership,
    tables: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let shown = folder.display();
    if let Some(owner) = &whose.owner {
        writeln!(out, "{shown}: {owner}")?;
    }
    for table in found.tables.iter().filter(|_| tables) {
        let state = if table.is_sound { "" } else { ", DAMAGED" };
        writeln!(
            out,
            "{shown}: table {} in level {}: {} bytes, {} rows, of which {} deletions, from {} to {}{state}",
            table.number, table.level, table.bytes, table.rows, table.tombstones, table.first, table.last
        )?;
    }
    for fault in found.faults.iter().chain(&whose.faults) {
        writeln!(out, "{}", fault_text(fault))?;
    }
    for note in found.notes.iter().chain(&whose.notes) {
        writeln!(out, "{}: {}", note.file.display(), note.what)?;
    }
    if found.unfinished > 0 {
        writeln!(
            out,
            "{shown}: {} changes were cut off by a crash; the next start completes or removes them",
            found.unfinished
        )?;
    }
    let faults = found.faults.len() + whose.faults.len();
    let verdict = if faults == 0 { "sound" } else { "DAMAGED" };
    let rows: u64 = found.tables.iter().map(|table| table.rows).sum();
    let version =
        found.version.map_or_else(|| "no tree yet".to_owned(), |version| format!("version {version}"));
    writeln!(
        out,
        "{shown}: {verdict}: {version}, {} tables, {rows} rows, {} bytes read, {faults} faults",
        found.tables.len(),
        found.bytes
    )
}

fn print_json(
    folder: &Path,
    found: &Inspection,
    whose: &Ownership,
    tables: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let listed = found.tables.iter().filter(|_| tables).map(|table| {
        json!({
            "table": table.number, "level": table.level, "bytes": table.bytes, "rows": table.rows,
            "tombstones": table.tombstones, "first": table.first, "last": table.last, "sound": table.is_sound,
        })
    });
    let all = |of: &[Finding], more: &[Finding]| of.iter().chain(more).map(finding_json).collect::<Vec<_>>();
    let mut line = json!({
        "folder": folder.to_string_lossy(),
        "sound": found.faults.is_empty() && whose.faults.is_empty(),
        "owner": whose.owner,
        "generation": found.generation,
        "version": found.version,
        "unfinished": found.unfinished,
        "tables": found.tables.len(),
        "rows": found.tables.iter().map(|table| table.rows).sum::<u64>(),
        "bytes": found.bytes,
        "faults": all(&found.faults, &whose.faults),
        "notes": all(&found.notes, &whose.notes),
    });
    if let (true, Some(line)) = (tables, line.as_object_mut()) {
        line.insert("listed".into(), listed.collect());
    }
    writeln!(out, "{line}")
}

/// A fault in one line.
pub fn fault_text(fault: &Finding) -> String {
    format!("DAMAGE {}: {}", fault.file.display(), fault.what)
}

/// A finding as JSON.
pub fn finding_json(finding: &Finding) -> Value {
    json!({ "file": finding.file.to_string_lossy(), "what": finding.what })
}
