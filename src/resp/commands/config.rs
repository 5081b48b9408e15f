//! CONFIG: the node's settings, the sessions' own, and Redis's settings that are remembered without effect.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::super::clients::Hub;
use super::super::errors::Refusal;
use super::args::matching;
use super::{Call, connection};
use crate::resp::Backend;
use crate::store::Effort;

/// Settings of Redis that do nothing here: accepted, remembered until the next start, and answered. With Redis's defaults.
#[rustfmt::skip]
pub const REMEMBERED: &[(&str, &str)] = &[
    ("active-expire-effort", "1"), ("activedefrag", "no"), ("activerehashing", "yes"), ("acllog-max-len", "128"),
    ("aof-load-truncated", "yes"), ("aof-rewrite-incremental-fsync", "yes"), ("aof-timestamp-enabled", "no"),
    ("aof-use-rdb-preamble", "yes"), ("auto-aof-rewrite-min-size", "67108864"), ("auto-aof-rewrite-percentage", "100"),
    ("busy-reply-threshold", "5000"), ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
    ("client-query-buffer-limit", "1073741824"), ("close-on-replica-write", "yes"), ("crash-log-enabled", "yes"),
    ("dynamic-hz", "yes"), ("hash-max-listpack-entries", "512"), ("hash-max-listpack-value", "64"),
    ("hash-max-ziplist-entries", "512"), ("hash-max-ziplist-value", "64"), ("hll-sparse-max-bytes", "3000"), ("hz", "10"),
    ("jemalloc-bg-thread", "yes"), ("key-load-delay", "0"), ("latency-monitor-threshold", "0"), ("latency-tracking", "yes"),
    ("latency-tracking-info-percentiles", "50 99 99.9"), ("lazyfree-lazy-eviction", "no"), ("lazyfree-lazy-expire", "no"),
    ("lazyfree-lazy-server-del", "no"), ("lazyfree-lazy-user-del", "no"), ("lazyfree-lazy-user-flush", "no"),
    ("lfu-decay-time", "1"), ("lfu-log-factor", "10"), ("list-compress-depth", "0"), ("list-max-listpack-size", "-2"),
    ("list-max-ziplist-size", "-2"), ("lua-time-limit", "5000"), ("maxmemory-clients", "0"), ("maxmemory-eviction-tenacity", "10"),
    ("maxmemory-samples", "5"), ("min-replicas-max-lag", "10"), ("min-slaves-max-lag", "10"), ("no-appendfsync-on-rewrite", "no"),
    ("notify-keyspace-events", ""), ("oom-score-adj", "no"), ("proc-title-template", "{title} {listen-addr} {server-mode}"),
    ("rdb-key-save-delay", "0"), ("rdb-save-incremental-fsync", "yes"), ("rdbchecksum", "yes"), ("rdbcompression", "yes"),
    ("repl-backlog-size", "1048576"), ("repl-backlog-ttl", "3600"), ("repl-diskless-load", "disabled"), ("repl-diskless-sync", "yes"),
    ("repl-diskless-sync-delay", "5"), ("repl-disable-tcp-nodelay", "no"), ("repl-ping-replica-period", "10"), ("repl-timeout", "60"),
    ("replica-priority", "100"), ("replica-serve-stale-data", "yes"), ("sanitize-dump-payload", "no"), ("set-max-intset-entries", "512"),
    ("set-max-listpack-entries", "128"), ("set-max-listpack-value", "64"), ("set-proc-title", "yes"),
    ("stop-writes-on-bgsave-error", "yes"), ("stream-node-max-bytes", "4096"), ("stream-node-max-entries", "100"),
    ("tracking-table-max-keys", "1000000"), ("zset-max-listpack-entries", "128"), ("zset-max-listpack-value", "64"),
    ("zset-max-ziplist-entries", "128"), ("zset-max-ziplist-value", "64"),
];

/// What holds here and cannot be otherwise, in Redis's words. Setting the value that holds is accepted.
const FIXED: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("cluster-enabled", "no"),
    ("databases", "1"),
    ("maxmemory-policy", "noeviction"),
    ("min-replicas-to-write", "0"),
    ("min-slaves-to-write", "0"),
    ("rdb-del-sync-files", "no"),
    ("save", ""),
];

/// All settings with their present values; the node's own win.
fn settings(hub: &Hub, backend: &dyn Backend) -> BTreeMap<String, String> {
    let remembered = hub.remembered.lock().unwrap_or_else(PoisonError::into_inner);
    let present = |(name, default): &(&str, &str)| {
        ((*name).to_owned(), remembered.get(name).map_or((*default).to_owned(), String::clone))
    };
    let mut all: BTreeMap<String, String> = REMEMBERED.iter().map(present).collect();
    all.extend(FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all.extend(backend.config_get(b"*"));
    all
}

/// CONFIG GET.
pub fn get(call: &mut Call<'_>) {
    let all = settings(&call.session.hub, call.backend);
    let (mut found, mut effort) = (BTreeMap::new(), Effort::of_a_list());
    for pattern in call.from(2) {
        let names = match matching(&mut effort, pattern, all.keys().map(String::as_str)) {
            Ok(names) => names,
            Err(refusal) => return call.refuse(&refusal),
        };
        for name in names {
            let value = all.get(name).cloned().unwrap_or_default();
            if is_literal(pattern) {
                // Redis answers a name as it was asked for.
                found.insert(String::from_utf8_lossy(pattern).into_owned(), value);
            } else {
                found.insert(name.to_owned(), value);
            }
        }
    }
    call.out.map(found.len());
    for (name, value) in found {
        call.out.bulk(name);
        call.out.bulk(value);
    }
}

/// Whether a pattern matches nothing but itself.
fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"*?[\\".contains(byte))
}

/// CONFIG SET.
pub fn set(call: &mut Call<'_>) {
    let pairs = call.from(2);
    if !pairs.len().is_multiple_of(2) {
        return call.refuse(&Refusal::SYNTAX);
    }
    let all = settings(&call.session.hub, call.backend);
    let mut changes: Vec<(String, String)> = Vec::new();
    for pair in pairs.chunks_exact(2) {
        let [name, value] = pair else { continue };
        let text = String::from_utf8_lossy(name);
        let lower = text.to_ascii_lowercase();
        if !all.contains_key(&lower) {
            let text = format!("ERR Unknown option or number of arguments for CONFIG SET - '{text}'");
            return call.out.error(text);
        }
        if changes.iter().any(|(other, _)| *other == lower) {
            return call.out.error(failed(&lower, "duplicate parameter"));
        }
        changes.push((lower, String::from_utf8_lossy(value).into_owned()));
    }
    match change(&call.session.hub, call.backend, changes) {
        Ok(()) => connection::ok(call),
        Err((name, why)) => call.out.error(failed(&name, &why)),
    }
}

fn failed(name: &str, why: &str) -> String {
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
}

/// Changes all, or none.
fn change(hub: &Hub, backend: &dyn Backend, changes: Vec<(String, String)>) -> Result<(), (String, String)> {
    let is_nodes =
        |name: &str| backend.config_get(name.as_bytes()).into_iter().any(|(known, _)| known == name);
    let (nodes, own): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(name, _)| is_nodes(name));
    let mut to_remember = Vec::new();
    for (name, value) in own {
        if let Some((known, _)) = REMEMBERED.iter().find(|(known, _)| *known == name) {
            // Memory stays bounded by the list of names.
            to_remember.push((*known, value.chars().take(1024).collect::<String>()));
            continue;
        }
        let fixed = FIXED.iter().find(|(fixed, _)| *fixed == name).map(|(_, holds)| *holds);
        match fixed {
            Some(holds) if value.eq_ignore_ascii_case(holds) => {}
            Some(holds) => return Err((name, format!("it is always '{holds}' here"))),
            None => return Err((name, "no such setting".to_owned())),
        }
    }
    if !nodes.is_empty() {
        backend.config_set(&nodes)?;
    }
    hub.remembered.lock().unwrap_or_else(PoisonError::into_inner).extend(to_remember);
    Ok(())
}

/// CONFIG RESETSTAT.
pub fn resetstat(call: &mut Call<'_>) {
    call.session.hub.reset_stats();
    call.out.ok();
}

/// CONFIG REWRITE.
pub fn rewrite(call: &mut Call<'_>) {
    call.out.error("ERR CONFIG REWRITE is not supported: change the configuration file itself");
}
