//! `dump`: the rows of a state, in words.

use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use corduroy::store::{Content, DumpedRow, Effort, dump};
use serde_json::{Value, json};

use crate::ToolError;
use crate::verify::{fault_text, finding_json};

/// Which rows are printed.
#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// Only rows of this partition.
    #[arg(long)]
    partition: Option<u64>,
    /// Only keys that match this pattern, as for KEYS.
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<String>,
    /// Only keys that expire.
    #[arg(long)]
    expiring: bool,
    /// Only keys with values of so many bytes at least.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    min_bytes: usize,
    /// Keys too that a flush of all keys removed, as long as they lie in tables.
    #[arg(long)]
    flushed: bool,
    /// Print so many bytes of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    values: usize,
    /// Stop after so many rows.
    #[arg(long)]
    limit: Option<u64>,
}

impl Filter {
    fn wants(&self, row: &DumpedRow<'_>) -> bool {
        if self.partition.is_some() && self.partition != row.partition {
            return false;
        }
        match &row.content {
            Content::Key { key, value, expire_at_ms, is_flushed, .. } => {
                let matches =
                    |pattern: &String| Effort::of_a_command().glob(pattern.as_bytes(), key).unwrap_or(false);
                self.pattern.as_ref().is_none_or(matches)
                    && (!self.expiring || expire_at_ms.is_some())
                    && value.len() >= self.min_bytes
                    && (self.flushed || !is_flushed)
            }
            Content::Store | Content::Partition { .. } | Content::Unknown => {
                self.pattern.is_none() && !self.expiring && self.min_bytes == 0
            }
        }
    }
}

/// Prints the folder's rows; whether all of them could be read.
pub fn run(folder: &Path, filter: &Filter, json: bool, out: &mut dyn Write) -> Result<bool, ToolError> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
    if !json {
        writeln!(out, "{}", folder.display()).map_err(ToolError::Output)?;
    }
    let (mut rows, mut printed) = (0, Ok(()));
    let faults = dump(folder, &mut |row| {
        if !filter.wants(row) {
            return true;
        }
        if filter.limit.is_some_and(|limit| rows >= limit) {
            return false;
        }
        rows += 1;
        printed = if json {
            writeln!(out, "{}", row_json(row, filter.values))
        } else {
            row_text(row, filter.values, now_ms, out)
        };
        printed.is_ok()
    })?;
    printed.map_err(ToolError::Output)?;
    for fault in &faults {
        let line = if json { finding_json(fault).to_string() } else { fault_text(fault) };
        writeln!(out, "{line}").map_err(ToolError::Output)?;
    }
    Ok(faults.is_empty())
}

fn row_text(row: &DumpedRow<'_>, values: usize, now_ms: u64, out: &mut dyn Write) -> io::Result<()> {
    let partition = row.partition.map_or_else(|| "-".to_owned(), |partition| partition.to_string());
    match &row.content {
        Content::Store => write!(out, "the store: the seed of its hash")?,
        Content::Partition { applied, ops_done, keys, expiring, .. } => {
            write!(
                out,
                "partition {partition}: {keys} keys, {expiring} of them expire, as of entry {applied}"
            )?;
            if *ops_done > 0 {
                write!(out, " and {ops_done} operations of the next one")?;
            }
        }
        Content::Key { key, value, encoding, lsn, expire_at_ms, is_flushed } => {
            let (key, bytes) = (key.escape_ascii(), value.len());
            write!(
                out,
                "partition {partition}: \"{key}\" string ({encoding}), {bytes} bytes, by entry {lsn}, {}",
                expiry_text(*expire_at_ms, now_ms)
            )?;
            if *is_flushed {
                write!(out, ", flushed")?;
            }
            if values > 0 {
                let (shown, more) = shown(value, values);
                write!(out, ": \"{}\"{}", shown.escape_ascii(), if more { "..." } else { "" })?;
            }
        }
        Content::Unknown => write!(out, "partition {partition}: a row in a layout that is not known")?,
    }
    if row.is_doubtful {
        write!(out, " (perhaps not the last: newer rows of it cannot be read)")?;
    }
    writeln!(out)
}

fn row_json(row: &DumpedRow<'_>, values: usize) -> Value {
    let mut line = match &row.content {
        Content::Store => json!({ "row": "store" }),
        Content::Partition { applied, ops_done, clock_ms, keys, expiring } => json!({
            "row": "partition", "applied": applied, "ops_done": ops_done, "clock_ms": clock_ms, "keys": keys,
            "expiring": expiring,
        }),
        Content::Key { key, value, encoding, lsn, expire_at_ms, is_flushed } => {
            let mut line = json!({
                "row": "key", "key": key.escape_ascii().to_string(), "type": "string", "encoding": encoding,
                "bytes": value.len(), "lsn": lsn, "expire_at_ms": expire_at_ms, "flushed": is_flushed,
            });
            if let (true, Some(line)) = (values > 0, line.as_object_mut()) {
                line.insert("value".into(), shown(value, values).0.escape_ascii().to_string().into());
            }
            line
        }
        Content::Unknown => json!({ "row": "unknown" }),
    };
    if let Some(line) = line.as_object_mut() {
        line.insert("partition".into(), row.partition.into());
        line.insert("doubtful".into(), row.is_doubtful.into());
    }
    line
}

fn shown(value: &[u8], bytes: usize) -> (&[u8], bool) {
    value.split_at_checked(bytes).map_or((value, false), |(shown, rest)| (shown, !rest.is_empty()))
}

/// When a key expires, seen from now.
fn expiry_text(at_ms: Option<u64>, now_ms: u64) -> String {
    match at_ms {
        None => "does not expire".to_owned(),
        Some(at_ms) if at_ms > now_ms => format!("expires in {} (at {at_ms} ms)", time_text(at_ms - now_ms)),
        Some(at_ms) => format!("expired {} ago (at {at_ms} ms)", time_text(now_ms - at_ms)),
    }
}

fn time_text(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_told_in_words() {
        let now = 1_000_000_000;
        for (at, words) in [
            (None, "does not expire"),
            (Some(now + 500), "expires in 500 ms (at 1000000500 ms)"),
            (Some(now + 90_000), "expires in 90 s (at 1000090000 ms)"),
            (Some(now + 7_200_000), "expires in 2 h (at 1007200000 ms)"),
            (Some(now - 600_000), "expired 10 min ago (at 999400000 ms)"),
        ] {
            assert_eq!(expiry_text(at, now), words);
        }
    }
}
