//! CONFIG: what the node's settings are, and how they change. Redis's names, types and ranges: [`crate::config::knobs`].

use std::collections::BTreeMap;

use super::super::errors::Refusal;
use super::args::matching;
use super::{Call, connection};
use crate::config::redis::Refused;
use crate::store::Effort;

/// CONFIG GET.
pub fn get(call: &mut Call<'_>) {
    let all: BTreeMap<&str, String> = call.backend.settings().into_iter().collect();
    // By the names in lower case; shown as they were asked for.
    let mut found: BTreeMap<String, (Vec<u8>, String)> = BTreeMap::new();
    let mut effort = Effort::of_a_list();
    for pattern in call.from(2) {
        if is_literal(pattern) {
            let name = String::from_utf8_lossy(pattern).to_ascii_lowercase();
            if let Some(value) = call.backend.setting(&name) {
                found.entry(name).or_insert_with(|| (pattern.to_vec(), value));
            }
            continue;
        }
        match matching(&mut effort, pattern, all.keys().copied()) {
            Ok(names) => {
                for name in names {
                    let value = || all.get(name).cloned().unwrap_or_default();
                    found.entry(name.to_owned()).or_insert_with(|| (name.into(), value()));
                }
            }
            Err(refusal) => return call.refuse(&refusal),
        }
    }
    call.out.map(found.len());
    for (name, value) in found.into_values() {
        call.out.bulk(name);
        call.out.bulk(value);
    }
}

/// Whether a name is looked up as it is, and not as a pattern.
fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"*?[".contains(byte))
}

/// CONFIG SET.
pub fn set(call: &mut Call<'_>) {
    let pairs = call.from(2);
    if !pairs.len().is_multiple_of(2) {
        return call.refuse(&Refusal::SYNTAX);
    }
    let changes: Vec<(String, Vec<u8>)> = pairs
        .chunks_exact(2)
        .filter_map(|pair| pair.first_chunk())
        .map(|[name, value]| (String::from_utf8_lossy(name).into_owned(), value.to_vec()))
        .collect();
    match call.backend.config_set(&changes) {
        Ok(()) => connection::ok(call),
        Err(Refused::Unknown(at)) => {
            let name = pairs.get(2 * at).copied().unwrap_or_default();
            let before = "ERR Unknown option or number of arguments for CONFIG SET - '";
            call.refuse(&Refusal::quoting(before, name, "'"));
        }
        Err(Refused::Unfit(name, why)) => {
            call.out.error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"));
        }
    }
}

/// CONFIG RESETSTAT.
pub fn resetstat(call: &mut Call<'_>) {
    call.conn.hub.reset_stats();
    call.out.ok();
}

/// CONFIG REWRITE.
pub fn rewrite(call: &mut Call<'_>) {
    call.out.error("ERR CONFIG REWRITE is not supported: change the configuration file itself");
}
