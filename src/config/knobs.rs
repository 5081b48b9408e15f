//! Redis's settings: each name once, with its type, range and default, and what it means here. CONFIG GET and SET of Redis's
//! names come from this table.
//!
//! Defaults are those of redis-server 7, but where another value always holds here.

mod kind;

use Kind::{
    BufferLimits, Choice, Choices, Events, Flag, Hostname, Integer, Memory, MemoryOrPercent, OomScores,
    Percentiles, Save, Text, Title,
};
use kind::{INT, MAX};
pub use kind::{Kind, bytes, percentiles};

/// What a setting of Redis means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// It acts: one of our own settings stands behind it, or the sessions look at it.
    Real,
    /// Redis could change it; here one value always holds, and only that is accepted.
    Fixed,
    /// As in Redis, nobody may change it.
    Immutable,
    /// As in Redis, only whoever starts the server may change it.
    Protected,
    /// Accepted as Redis accepts it, remembered until the next start, and without effect.
    Remembered,
    /// As `Remembered`, and shown only to those who ask for it by name.
    Hidden,
}
use Meaning::{Fixed, Hidden, Immutable, Protected, Real, Remembered};

/// One setting of Redis.
#[derive(Debug)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// Its older name; empty if it has none.
    pub alias: &'static str,
    /// What it is when nobody has set it, as CONFIG GET shows it. Empty where the node knows better.
    pub default: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it means here.
    pub meaning: Meaning,
}

const fn knob(
    name: &'static str,
    alias: &'static str,
    default: &'static str,
    kind: Kind,
    meaning: Meaning,
) -> Knob {
    Knob { name, alias, default, kind, meaning }
}

/// The setting of this name or older name, whatever its case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Knob> {
    let is = |known: &str| known.eq_ignore_ascii_case(name) && !name.is_empty();
    KNOBS.iter().find(|knob| is(knob.name) || is(knob.alias))
}

/// Values that nobody may see who was not meant to: not in SLOWLOG, not in the log.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    ["requirepass", "masterauth", "masteruser", "tls-key-file-pass", "tls-client-key-file-pass"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// The table.
#[rustfmt::skip]
pub static KNOBS: &[Knob] = &[
    // What acts.
    knob("client-output-buffer-limit", "", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", BufferLimits, Real),
    knob("latency-monitor-threshold", "", "0", Integer(0, MAX), Real),
    knob("latency-tracking", "", "yes", Flag, Real),
    knob("latency-tracking-info-percentiles", "", "50 99 99.9", Percentiles, Real),
    knob("loglevel", "", "notice", Choice(&["debug", "verbose", "notice", "warning"]), Real),
    knob("maxclients", "", "10000", Integer(1, 4294967295), Real),
    knob("maxmemory", "", "0", Memory(0, u64::MAX), Real),
    knob("proto-max-bulk-len", "", "536870912", Memory(1048576, MAX as u64), Real),
    knob("requirepass", "", "", Text, Real),
    knob("shutdown-timeout", "", "10", Integer(0, INT), Real),
    knob("slowlog-log-slower-than", "", "10000", Integer(-1, MAX), Real),
    knob("slowlog-max-len", "", "128", Integer(0, MAX), Real),
    knob("tcp-keepalive", "", "300", Integer(0, INT), Remembered),
    knob("timeout", "", "0", Integer(0, INT), Real),
    // What always holds.
    knob("activedefrag", "", "no", Flag, Fixed),
    knob("appendfsync", "", "always", Choice(&["everysec", "always", "no"]), Fixed),
    knob("appendonly", "", "yes", Flag, Fixed),
    knob("bind", "", "", Text, Fixed),
    knob("masterauth", "", "", Text, Fixed),
    knob("masteruser", "", "", Text, Fixed),
    knob("maxmemory-policy", "", "noeviction", Choice(&["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction"]), Fixed),
    knob("min-replicas-to-write", "min-slaves-to-write", "0", Integer(0, INT), Fixed),
    knob("port", "", "", Integer(0, 65535), Fixed),
    knob("protected-mode", "", "yes", Flag, Fixed),
    knob("replica-read-only", "slave-read-only", "yes", Flag, Fixed),
    knob("save", "", "", Save, Fixed),
    knob("tls-auth-clients", "", "yes", Choice(&["no", "yes", "optional"]), Fixed),
    knob("tls-ca-cert-dir", "", "", Text, Fixed),
    knob("tls-ca-cert-file", "", "", Text, Fixed),
    knob("tls-cert-file", "", "", Text, Fixed),
    knob("tls-ciphers", "", "", Text, Fixed),
    knob("tls-ciphersuites", "", "", Text, Fixed),
    knob("tls-client-cert-file", "", "", Text, Fixed),
    knob("tls-client-key-file", "", "", Text, Fixed),
    knob("tls-client-key-file-pass", "", "", Text, Fixed),
    knob("tls-cluster", "", "no", Flag, Fixed),
    knob("tls-dh-params-file", "", "", Text, Fixed),
    knob("tls-key-file", "", "", Text, Fixed),
    knob("tls-key-file-pass", "", "", Text, Fixed),
    knob("tls-port", "", "0", Integer(0, 65535), Fixed),
    knob("tls-prefer-server-ciphers", "", "no", Flag, Fixed),
    knob("tls-protocols", "", "", Text, Fixed),
    knob("tls-replication", "", "no", Flag, Fixed),
    knob("tls-session-cache-size", "", "20480", Integer(0, INT), Fixed),
    knob("tls-session-cache-timeout", "", "300", Integer(0, INT), Fixed),
    knob("tls-session-caching", "", "yes", Flag, Fixed),
    // What nobody may change, as in Redis.
    knob("aclfile", "", "", Text, Immutable),
    knob("always-show-logo", "", "no", Text, Immutable),
    knob("aof_rewrite_cpulist", "", "", Text, Immutable),
    knob("appenddirname", "", "appendonlydir", Text, Immutable),
    knob("appendfilename", "", "appendonly.aof", Text, Immutable),
    knob("bgsave_cpulist", "", "", Text, Immutable),
    knob("bio_cpulist", "", "", Text, Immutable),
    knob("cluster-config-file", "", "nodes.conf", Text, Immutable),
    knob("cluster-enabled", "", "no", Text, Immutable),
    knob("cluster-port", "", "0", Text, Immutable),
    knob("daemonize", "", "no", Text, Immutable),
    knob("databases", "", "1", Text, Immutable),
    knob("disable-thp", "", "yes", Text, Immutable),
    knob("enable-debug-command", "", "no", Text, Immutable),
    knob("enable-module-command", "", "no", Text, Immutable),
    knob("enable-protected-configs", "", "no", Text, Immutable),
    knob("io-threads", "", "1", Text, Immutable),
    knob("io-threads-do-reads", "", "no", Text, Immutable),
    knob("logfile", "", "", Text, Immutable),
    knob("pidfile", "", "", Text, Immutable),
    knob("rdbchecksum", "", "yes", Text, Immutable),
    knob("replicaof", "slaveof", "", Text, Immutable),
    knob("server_cpulist", "", "", Text, Immutable),
    knob("set-proc-title", "", "yes", Text, Immutable),
    knob("socket-mark-id", "", "0", Text, Immutable),
    knob("supervised", "", "no", Text, Immutable),
    knob("syslog-enabled", "", "no", Text, Immutable),
    knob("syslog-facility", "", "local0", Text, Immutable),
    knob("syslog-ident", "", "redis", Text, Immutable),
    knob("tcp-backlog", "", "511", Text, Immutable),
    knob("unixsocket", "", "", Text, Immutable),
    knob("unixsocketperm", "", "0", Text, Immutable),
    // What only the start may change, as in Redis.
    knob("dbfilename", "", "dump.rdb", Text, Protected),
    knob("dir", "", "", Text, Protected),
    // What has no effect.
    knob("acl-pubsub-default", "", "resetchannels", Choice(&["allchannels", "resetchannels"]), Remembered),
    knob("acllog-max-len", "", "128", Integer(0, MAX), Remembered),
    knob("active-defrag-cycle-max", "", "25", Integer(1, 99), Remembered),
    knob("active-defrag-cycle-min", "", "1", Integer(1, 99), Remembered),
    knob("active-defrag-ignore-bytes", "", "104857600", Memory(1, MAX as u64), Remembered),
    knob("active-defrag-max-scan-fields", "", "1000", Integer(1, MAX), Remembered),
    knob("active-defrag-threshold-lower", "", "10", Integer(0, 1000), Remembered),
    knob("active-defrag-threshold-upper", "", "100", Integer(0, 1000), Remembered),
    knob("active-expire-effort", "", "1", Integer(1, 10), Remembered),
    knob("activerehashing", "", "yes", Flag, Remembered),
    knob("aof-disable-auto-gc", "", "no", Flag, Remembered),
    knob("aof-load-truncated", "", "yes", Flag, Remembered),
    knob("aof-rewrite-incremental-fsync", "", "yes", Flag, Remembered),
    knob("aof-timestamp-enabled", "", "no", Flag, Remembered),
    knob("aof-use-rdb-preamble", "", "yes", Flag, Remembered),
    knob("auto-aof-rewrite-min-size", "", "67108864", Memory(0, MAX as u64), Remembered),
    knob("auto-aof-rewrite-percentage", "", "100", Integer(0, INT), Remembered),
    knob("bind-source-addr", "", "", Text, Remembered),
    knob("busy-reply-threshold", "lua-time-limit", "5000", Integer(0, MAX), Remembered),
    knob("client-query-buffer-limit", "", "1073741824", Memory(1048576, MAX as u64), Remembered),
    knob("cluster-allow-pubsubshard-when-down", "", "yes", Flag, Remembered),
    knob("cluster-allow-reads-when-down", "", "no", Flag, Remembered),
    knob("cluster-allow-replica-migration", "", "yes", Flag, Remembered),
    knob("cluster-announce-bus-port", "", "0", Integer(0, 65535), Remembered),
    knob("cluster-announce-hostname", "", "", Hostname, Remembered),
    knob("cluster-announce-human-nodename", "", "", Text, Remembered),
    knob("cluster-announce-ip", "", "", Text, Remembered),
    knob("cluster-announce-port", "", "0", Integer(0, 65535), Remembered),
    knob("cluster-announce-tls-port", "", "0", Integer(0, 65535), Remembered),
    knob("cluster-link-sendbuf-limit", "", "0", Memory(0, u64::MAX), Remembered),
    knob("cluster-migration-barrier", "", "1", Integer(0, INT), Remembered),
    knob("cluster-node-timeout", "", "15000", Integer(0, MAX), Remembered),
    knob("cluster-preferred-endpoint-type", "", "ip", Choice(&["ip", "hostname", "unknown-endpoint"]), Remembered),
    knob("cluster-replica-no-failover", "cluster-slave-no-failover", "no", Flag, Remembered),
    knob("cluster-replica-validity-factor", "cluster-slave-validity-factor", "10", Integer(0, INT), Remembered),
    knob("cluster-require-full-coverage", "", "yes", Flag, Remembered),
    knob("crash-log-enabled", "", "yes", Flag, Remembered),
    knob("crash-memcheck-enabled", "", "yes", Flag, Remembered),
    knob("dynamic-hz", "", "yes", Flag, Remembered),
    knob("hash-max-listpack-entries", "hash-max-ziplist-entries", "512", Integer(0, MAX), Remembered),
    knob("hash-max-listpack-value", "hash-max-ziplist-value", "64", Memory(0, MAX as u64), Remembered),
    knob("hll-sparse-max-bytes", "", "3000", Memory(0, MAX as u64), Remembered),
    knob("hz", "", "10", Integer(0, INT), Remembered),
    knob("ignore-warnings", "", "", Text, Remembered),
    knob("jemalloc-bg-thread", "", "yes", Flag, Remembered),
    knob("lazyfree-lazy-eviction", "", "no", Flag, Remembered),
    knob("lazyfree-lazy-expire", "", "no", Flag, Remembered),
    knob("lazyfree-lazy-server-del", "", "no", Flag, Remembered),
    knob("lazyfree-lazy-user-del", "", "no", Flag, Remembered),
    knob("lazyfree-lazy-user-flush", "", "no", Flag, Remembered),
    knob("lfu-decay-time", "", "1", Integer(0, INT), Remembered),
    knob("lfu-log-factor", "", "10", Integer(0, INT), Remembered),
    knob("list-compress-depth", "", "0", Integer(0, INT), Remembered),
    knob("list-max-listpack-size", "list-max-ziplist-size", "-2", Integer(-INT - 1, INT), Remembered),
    knob("locale-collate", "", "", Text, Remembered),
    knob("maxmemory-clients", "", "0", MemoryOrPercent, Real),
    knob("maxmemory-eviction-tenacity", "", "10", Integer(0, 100), Remembered),
    knob("maxmemory-samples", "", "5", Integer(1, INT), Remembered),
    knob("min-replicas-max-lag", "min-slaves-max-lag", "10", Integer(0, INT), Remembered),
    knob("no-appendfsync-on-rewrite", "", "no", Flag, Remembered),
    knob("notify-keyspace-events", "", "", Events, Remembered),
    knob("oom-score-adj", "", "no", Choice(&["no", "yes", "relative", "absolute"]), Remembered),
    knob("oom-score-adj-values", "", "0 200 800", OomScores, Remembered),
    knob("proc-title-template", "", "{title} {listen-addr} {server-mode}", Title, Remembered),
    knob("propagation-error-behavior", "", "ignore", Choice(&["ignore", "panic", "panic-on-replicas"]), Remembered),
    knob("rdb-del-sync-files", "", "no", Flag, Remembered),
    knob("rdb-save-incremental-fsync", "", "yes", Flag, Remembered),
    knob("rdbcompression", "", "yes", Flag, Remembered),
    knob("repl-backlog-size", "", "1048576", Memory(1, MAX as u64), Remembered),
    knob("repl-backlog-ttl", "", "3600", Integer(0, MAX), Remembered),
    knob("repl-disable-tcp-nodelay", "", "no", Flag, Remembered),
    knob("repl-diskless-load", "", "disabled", Choice(&["disabled", "on-empty-db", "swapdb"]), Remembered),
    knob("repl-diskless-sync", "", "yes", Flag, Remembered),
    knob("repl-diskless-sync-delay", "", "5", Integer(0, INT), Remembered),
    knob("repl-diskless-sync-max-replicas", "", "0", Integer(0, INT), Remembered),
    knob("repl-ping-replica-period", "repl-ping-slave-period", "10", Integer(1, INT), Remembered),
    knob("repl-timeout", "", "60", Integer(1, INT), Remembered),
    knob("replica-announce-ip", "slave-announce-ip", "", Text, Remembered),
    knob("replica-announce-port", "slave-announce-port", "0", Integer(0, 65535), Remembered),
    knob("replica-announced", "", "yes", Flag, Remembered),
    knob("replica-ignore-disk-write-errors", "", "no", Flag, Remembered),
    knob("replica-ignore-maxmemory", "slave-ignore-maxmemory", "yes", Flag, Remembered),
    knob("replica-lazy-flush", "slave-lazy-flush", "no", Flag, Remembered),
    knob("replica-priority", "slave-priority", "100", Integer(0, INT), Remembered),
    knob("replica-serve-stale-data", "slave-serve-stale-data", "yes", Flag, Remembered),
    knob("sanitize-dump-payload", "", "no", Choice(&["no", "yes", "clients"]), Remembered),
    knob("set-max-intset-entries", "", "512", Integer(0, MAX), Remembered),
    knob("set-max-listpack-entries", "", "128", Integer(0, MAX), Remembered),
    knob("set-max-listpack-value", "", "64", Memory(0, MAX as u64), Remembered),
    knob("shutdown-on-sigint", "", "default", Choices(&["default", "save", "nosave", "now", "force"]), Remembered),
    knob("shutdown-on-sigterm", "", "default", Choices(&["default", "save", "nosave", "now", "force"]), Remembered),
    knob("stop-writes-on-bgsave-error", "", "yes", Flag, Remembered),
    knob("stream-node-max-bytes", "", "4096", Memory(0, MAX as u64), Remembered),
    knob("stream-node-max-entries", "", "100", Integer(0, MAX), Remembered),
    knob("tracking-table-max-keys", "", "1000000", Integer(0, MAX), Remembered),
    knob("zset-max-listpack-entries", "zset-max-ziplist-entries", "128", Integer(0, MAX), Remembered),
    knob("zset-max-listpack-value", "zset-max-ziplist-value", "64", Memory(0, MAX as u64), Remembered),
    // What has no effect and is not shown.
    knob("key-load-delay", "", "0", Integer(-INT - 1, INT), Hidden),
    knob("loading-process-events-interval-bytes", "", "2097152", Integer(1024, INT), Hidden),
    knob("rdb-key-save-delay", "", "0", Integer(-INT - 1, INT), Hidden),
    knob("use-exit-on-panic", "", "no", Flag, Hidden),
    knob("watchdog-period", "", "0", Integer(0, INT), Hidden),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_defaults_are_values() {
        let mut names = HashSet::new();
        for knob in KNOBS {
            assert!(names.insert(knob.name), "{}", knob.name);
            assert!(knob.alias.is_empty() || names.insert(knob.alias), "{}", knob.alias);
            if matches!(knob.meaning, Remembered | Hidden | Real) {
                assert_eq!(knob.kind.read(knob.default).as_deref(), Ok(knob.default), "{}", knob.name);
            }
        }
        assert!(names.contains("slave-priority") && find("SLAVE-Priority").is_some() && find("").is_none());
    }
}
