//! All settings, declared once: name, type, default, whether it may change at run time, and what it does.
//!
//! From this table come the file's keys (`wal.sync`), the flags (`--wal-sync`), the environment's names
//! (`CORDUROY_WAL_SYNC`), the help, CONFIG GET and SET. Flags win over the environment, that over the file, that over the
//! defaults. A setting's value is always read from text by its type, so every source has the same rules and errors.

use std::net::SocketAddr;
use std::path::PathBuf;

use corduroy_shards::runtime::CpuSet;

pub mod bounds;
mod foreign;
pub mod knobs;
pub mod load;
pub mod machine;
pub mod peers;
pub mod redis;
pub mod value;

pub use load::{Layers, Loaded, Problem, Source};
use value::{Bytes, Cores, Millis, Mode, OptionalPath, Secret, Value};
pub use value::{LogFormat, LogLevel, Reads, Redirect, Replication, WalSync, YesNo};

/// Bytes.
const MIB: u64 = 1 << 20;
/// Log segments that a shard cannot do without, beside its spares: the one it writes, and two on their way back.
const MIN_SEGMENTS_IN_USE: usize = 3;
/// Less would close clients for ordinary requests.
const CLIENTS_MIN_BYTES: u64 = MIB;
/// SLOWLOG's entries are held in memory.
const SLOWLOG_MAX_LEN: usize = 1_000_000;

/// Whether a setting may change while the node runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heat {
    /// By CONFIG SET.
    Hot,
    /// Only by a restart.
    Cold,
    /// Fixed when the data folder is formatted.
    Format,
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its name, with its section of the file: `wal.sync`.
    pub key: &'static str,
    /// Redis's names for it, where one has the same meaning and unit.
    pub redis: &'static [&'static str],
    /// What it does, one or two sentences.
    pub doc: &'static str,
    /// The default, as text.
    pub default: &'static str,
    /// What a value looks like.
    pub form: &'static str,
    /// When it may change.
    pub heat: Heat,
    /// Reads a value from text into a configuration.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// The value in a configuration, as text.
    pub show: fn(&Config) -> String,
}

impl Setting {
    /// The command line's name, without the dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment's name.
    #[must_use]
    pub fn env(&self) -> String {
        format!("CORDUROY_{}", self.key.replace('.', "_").to_uppercase())
    }
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $default:literal, $key:literal, $heat:ident $(, $redis:literal)?;
    )*) => {
        /// The value of every setting.
        #[derive(Clone, PartialEq, Debug)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $($field: <$type as Value>::read($default).expect("defaults are valid; a test reads them all"),)*
                }
            }
        }

        /// The table.
        pub static SETTINGS: &[Setting] = &[$(
            Setting {
                key: $key,
                redis: &[$($redis)?],
                doc: concat!($($doc),+),
                default: $default,
                form: <$type as Value>::FORM,
                heat: Heat::$heat,
                set: |config, text| {
                    config.$field = <$type as Value>::read(text)?;
                    Ok(())
                },
                show: |config| config.$field.show(),
            },
        )*];
    };
}

settings! {
    /// Folder of the node's data; made if it is not there.
    data_dir: PathBuf = "data", "data_dir", Cold;
    /// Address that clients connect to.
    listen: SocketAddr = "127.0.0.1:7379", "listen", Cold;
    /// Path of a Unix socket that clients on this machine may connect to, too; empty: none.
    unix_socket: OptionalPath = "", "unix_socket", Cold, "unixsocket";
    /// Permissions of the Unix socket.
    unix_socket_mode: Mode = "600", "unix_socket_mode", Cold, "unixsocketperm";
    /// First of the ports on which each core listens for itself (core 0 on this one, core 1 on the next); 0: none.
    core_ports: u16 = "0", "core_ports", Cold;
    /// CPUs to pin one core each to, like 0-3,8; empty: all that the process may use.
    cores: Cores = "", "cores", Cold;
    /// Shards of the data folder (each with a log of its own); at most this many cores share the work on data.
    shards: u32 = "8", "shards", Format;
    /// Partitions that the keys are spread over by hash slot. Each is atomic in itself; 1: everything is, as in Redis.
    partitions: u32 = "1", "partitions", Format;
    /// Memory for the state, over all shards; 0: half of what the machine or the cgroup has.
    memory_bytes: Bytes = "0", "memory_bytes", Cold, "maxmemory";
    /// Whether the kernel is kept from giving the node huge pages: yes, as in Redis, or no. With them writes cost less, and the
    /// slowest answers take longer, since whoever needs new memory waits until all of a huge page has been cleared.
    disable_thp: YesNo = "yes", "disable_thp", Cold, "disable-thp";
    /// Memory that all clients together may make the node hold (input, queued commands, replies); above it the one that holds
    /// the most is closed. 0: half of the state's, 64 MiB to 4 GiB.
    clients_bytes: Bytes = "0", "memory.clients_bytes", Hot, "maxmemory-clients";
    /// File (TOML) that describes the nodes of a cluster; empty: the node is alone.
    peers: OptionalPath = "", "peers", Cold;
    /// Which node of the file `peers` this one is.
    node_id: u64 = "0", "node_id", Cold;
    /// What a request for keys that another node leads gets: that node's answer, which this one fetches (never), or its address,
    /// -MOVED (always); auto: its address where the connection has asked by CLUSTER SLOTS, SHARDS or NODES, else its answer.
    redirect: Redirect = "auto", "redirect", Hot;
    /// Whether writes go through Raft or only through the log; off is for data that will never be replicated.
    replication: Replication = "raft", "replication", Cold;
    /// How a leader knows that it still leads when it answers a read: most of the nodes answer it first (quorum), or an answer of
    /// less than a second ago still counts (lease). A lease assumes that the clocks of all nodes run at nine tenths to eleven
    /// tenths of the right speed, and go on while a machine is suspended; steps of the wall clock do not matter. Where that does
    /// not hold (a virtual machine that is stopped with its clock), a read may miss a write.
    reads: Reads = "quorum", "reads", Cold;
    /// How old, in ms, the state may be that a connection reads from after READONLY where its node does not lead. 0: none: the leader
    /// is asked how far it has come, and reads see everything that was acknowledged before. Else it is asked once in so long.
    stale_reads_max_ms: Millis = "0", "stale_reads_max_ms", Cold;
    /// How many seconds a node keeps what a replica has left that was removed from its group. It is deleted earlier if the node is
    /// to have another member of the group.
    removed_keep_s: u64 = "3600", "removed_keep_s", Hot;
    /// How a log write is made durable: write flagged DSYNC, write linked to a flush, or plain blocking calls.
    wal_sync: WalSync = "auto", "wal.sync", Hot;
    /// Size of one log segment; a multiple of 1 MiB. A log's first ones are smaller, unless wal.max_segments is set.
    wal_segment_bytes: Bytes = "64MiB", "wal.segment_bytes", Cold;
    /// Log writes under way at a time in each shard, 1 to 4.
    wal_max_in_flight: usize = "2", "wal.max_in_flight", Cold;
    /// Log segments of each shard kept ready for use.
    wal_spare_segments: usize = "2", "wal.spare_segments", Cold;
    /// Log segments that a shard may have at most; 0: as many as the disk takes.
    wal_max_segments: usize = "0", "wal.max_segments", Cold;
    /// Connections at a time; one more gets an error and is closed.
    max_clients: usize = "10000", "max_clients", Hot, "maxclients";
    /// Password that clients must give by AUTH; empty: none.
    requirepass: Secret = "", "requirepass", Hot, "requirepass";
    /// File that holds the password, so that neither the command line nor the environment does; a line end is not part of it.
    requirepass_file: OptionalPath = "", "requirepass_file", Cold;
    /// Close a connection that has been idle for so many seconds; 0: never.
    idle_timeout_s: u64 = "0", "timeout.idle_s", Hot, "timeout";
    /// Close a connection whose request began to arrive and did not end for so long; 0: never.
    partial_timeout_ms: Millis = "60000", "timeout.partial_ms", Hot;
    /// How long requests under way may take to end when the node is asked to stop.
    shutdown_timeout_ms: Millis = "10000", "timeout.shutdown_ms", Hot;
    /// Close a connection with so much unread output at once.
    output_hard_bytes: Bytes = "128MiB", "output.hard_bytes", Hot;
    /// Close a connection with so much unread output for `output.soft_ms`.
    output_soft_bytes: Bytes = "32MiB", "output.soft_bytes", Hot;
    /// How long output may stay above `output.soft_bytes`.
    output_soft_ms: Millis = "60000", "output.soft_ms", Hot;
    /// Largest single argument of a request, a value for example; 0: what an entry of the log takes, which is the most.
    max_bulk_bytes: Bytes = "0", "max_bulk_bytes", Hot, "proto-max-bulk-len";
    /// Log requests that take longer than this to SLOWLOG, µs; -1: none.
    slowlog_slower_than_us: i64 = "10000", "slowlog.slower_than_us", Hot, "slowlog-log-slower-than";
    /// Entries that SLOWLOG keeps.
    slowlog_max_len: usize = "128", "slowlog.max_len", Hot, "slowlog-max-len";
    /// Threads beside the cores for work that blocks (reads of what is not in memory, flushes of the state, compaction);
    /// 0: one a CPU that the node may use, two at least.
    pool_threads: usize = "0", "pool_threads", Cold;
    /// What is logged: error, warn, info, debug or trace.
    log_level: LogLevel = "info", "log.level", Hot;
    /// How logs and start errors are written: text or json.
    log_format: LogFormat = "text", "log.format", Cold;
}

impl Config {
    /// What no single setting can see: settings that do not fit together.
    #[must_use]
    pub fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut check = |holds: bool, key: &'static str, why: String| {
            if !holds {
                found.push((key, why));
            }
        };
        check(
            (1..=1024).contains(&self.shards),
            "shards",
            format!("{} is not between 1 and 1024", self.shards),
        );
        check(
            (1..=16384).contains(&self.partitions),
            "partitions",
            format!("{} is not between 1 and 16384, the number of hash slots", self.partitions),
        );
        self.check_wal(&mut check);
        self.check_memory(&mut check);
        self.check_core_ports(&mut check);
        self.check_peers(&mut check);
        let most = self.largest_argument_bytes();
        check(
            self.max_bulk_bytes.0 == 0 || (MIB..=most).contains(&self.max_bulk_bytes.0),
            "max_bulk_bytes",
            format!(
                "{} is not between 1 MiB and {most}, which is what an entry of the log takes (wal.segment_bytes); \
                 `max_bulk_bytes` 0 takes the most",
                self.max_bulk_bytes.0
            ),
        );
        check(
            self.clients_bytes.0 == 0 || self.clients_bytes.0 >= CLIENTS_MIN_BYTES,
            "memory.clients_bytes",
            format!("{} is below 1 MiB; 0 takes half of the state's memory", self.clients_bytes.0),
        );
        self.check_output(&mut check);
        check(self.pool_threads <= 64, "pool_threads", format!("{} is above 64", self.pool_threads));
        check(
            self.listen.ip().is_loopback() || !self.requirepass.0.is_empty(),
            "listen",
            format!(
                "{} can be reached from other machines and `requirepass` is empty; set a password, or listen on 127.0.0.1",
                self.listen
            ),
        );
        found
    }

    /// The state's memory has to be enough for anything.
    fn check_memory(&self, check: &mut impl FnMut(bool, &'static str, String)) {
        check(
            self.memory_bytes.0 == 0 || self.memory_bytes.0 >= MIB,
            "memory_bytes",
            format!("{} is below 1 MiB; 0 takes half of the memory there is", self.memory_bytes.0),
        );
    }

    /// What the machine does not have, when the node starts: what it has later may change, and nothing is at fault then.
    #[must_use]
    pub fn beyond_the_machine(&self) -> Option<(&'static str, String)> {
        let (there, whose) = machine::memory();
        let why =
            format!("{} is more than the {there} that {whose} has; 0 takes half of it", self.memory_bytes);
        (self.memory_bytes.0 > there.0).then_some(("memory_bytes", why))
    }

    /// The log's shape.
    fn check_wal(&self, check: &mut impl FnMut(bool, &'static str, String)) {
        check(
            (1..=4).contains(&self.wal_max_in_flight),
            "wal.max_in_flight",
            format!("{} is not between 1 and 4", self.wal_max_in_flight),
        );
        let segment = self.wal_segment_bytes.0;
        check(
            (4 * MIB..=1024 * MIB).contains(&segment) && segment.is_multiple_of(MIB),
            "wal.segment_bytes",
            format!("{segment} is not a multiple of 1 MiB between 4 MiB and 1 GiB"),
        );
        check(
            (1..=256).contains(&self.wal_spare_segments),
            "wal.spare_segments",
            format!("{} is not between 1 and 256", self.wal_spare_segments),
        );
        let least = self.wal_spare_segments.saturating_add(MIN_SEGMENTS_IN_USE);
        check(
            self.wal_max_segments == 0 || self.wal_max_segments >= least,
            "wal.max_segments",
            format!(
                "{} is below {least}: {MIN_SEGMENTS_IN_USE} in use beside those of wal.spare_segments; 0 sets no limit",
                self.wal_max_segments
            ),
        );
    }

    /// What clients may make the node hold for them.
    fn check_output(&self, check: &mut impl FnMut(bool, &'static str, String)) {
        check(
            self.output_soft_bytes.0 <= self.output_hard_bytes.0,
            "output.soft_bytes",
            format!("{} is above output.hard_bytes ({})", self.output_soft_bytes.0, self.output_hard_bytes.0),
        );
        check(self.max_clients > 0, "max_clients", "0 would let nobody connect".to_owned());
        check(
            self.slowlog_slower_than_us >= -1,
            "slowlog.slower_than_us",
            format!("{} is below -1, which means that nothing is logged", self.slowlog_slower_than_us),
        );
        check(
            self.slowlog_max_len <= SLOWLOG_MAX_LEN,
            "slowlog.max_len",
            format!("{} is above {SLOWLOG_MAX_LEN}", self.slowlog_max_len),
        );
    }

    /// What stands in the description of the cluster is checked where that is read.
    fn check_peers(&self, check: &mut impl FnMut(bool, &'static str, String)) {
        check(
            self.node_id == 0 || self.peers.0.is_some(),
            "node_id",
            "means nothing without `peers`, the file that describes the cluster".to_owned(),
        );
        check(
            self.peers.0.is_none() || self.replication == Replication::Raft,
            "replication",
            "a node with `peers` replicates by Raft; leave it out".to_owned(),
        );
    }

    /// Each core's own port has to exist, and not be the one of all.
    fn check_core_ports(&self, check: &mut impl FnMut(bool, &'static str, String)) {
        if self.core_ports == 0 {
            return;
        }
        let cores = self.cores.0.as_ref().map(CpuSet::len);
        let cores = cores.unwrap_or_else(|| CpuSet::of_this_thread().map_or(1, |all| all.len()));
        let first = usize::from(self.core_ports);
        let last = first + cores.saturating_sub(1);
        check(
            last <= usize::from(u16::MAX),
            "core_ports",
            format!("{cores} cores have the ports {first} to {last}, and there is none above {}", u16::MAX),
        );
        check(
            !(first..=last).contains(&usize::from(self.listen.port())),
            "core_ports",
            format!("{cores} cores have the ports {first} to {last}, and listen has one of them"),
        );
    }
}

/// The setting of this name.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn defaults_are_valid_and_names_are_unique() {
        let config = Config::default();
        assert!(config.contradictions().is_empty(), "{:?}", config.contradictions());
        let mut names = HashSet::new();
        for setting in SETTINGS {
            assert!(names.insert(setting.flag()), "{}", setting.key);
            assert!(!setting.doc.trim().is_empty());
            let mut copy = config.clone();
            (setting.set)(&mut copy, &(setting.show)(&config)).expect("what is shown can be read");
            if setting.key != "requirepass" {
                assert_eq!(copy, config, "{}", setting.key);
            }
        }
    }

    #[test]
    fn names_of_one_setting() {
        let sync = find("wal.sync").expect("there");
        assert_eq!((sync.flag().as_str(), sync.env().as_str()), ("wal-sync", "CORDUROY_WAL_SYNC"));
    }

    #[test]
    fn what_cannot_work_is_found_with_its_key() {
        let text = |settings: &[(&str, &str)]| {
            let mut config = Config::default();
            for (key, text) in settings {
                (find(key).expect("a setting").set)(&mut config, text).expect("a value");
            }
            let wrong = config.contradictions().into_iter().chain(config.beyond_the_machine());
            wrong.map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(text(&[("wal.max_segments", "1")]), ["wal.max_segments"]);
        assert_eq!(text(&[("wal.max_segments", "8"), ("wal.spare_segments", "6")]), ["wal.max_segments"]);
        assert!(text(&[("wal.max_segments", "5")]).is_empty());
        assert_eq!(text(&[("wal.spare_segments", "1000000")]), ["wal.spare_segments"]);
        assert_eq!(text(&[("wal.spare_segments", "0")]), ["wal.spare_segments"]);
        assert_eq!(text(&[("memory_bytes", "64")]), ["memory_bytes"]);
        assert_eq!(text(&[("memory_bytes", "4096tb")]), ["memory_bytes"], "no machine has so much");
        assert_eq!(text(&[("core_ports", "65535"), ("cores", "0-1")]), ["core_ports"]);
        assert!(text(&[("core_ports", "65534"), ("cores", "0-1")]).is_empty());
        assert_eq!(text(&[("core_ports", "7378"), ("cores", "0-1")]), ["core_ports"]);
        assert!(text(&[("core_ports", "7380"), ("cores", "0-1")]).is_empty());
        assert_eq!(text(&[("memory.clients_bytes", "1000")]), ["memory.clients_bytes"]);
        assert!(text(&[("memory.clients_bytes", "1MiB")]).is_empty());
        assert!(text(&[("max_bulk_bytes", "29MiB")]).is_empty());
        assert_eq!(text(&[("max_bulk_bytes", "30MiB")]), ["max_bulk_bytes"]);
        assert_eq!(text(&[("max_bulk_bytes", "2MiB"), ("wal.segment_bytes", "4MiB")]), ["max_bulk_bytes"]);
        assert!(text(&[("max_bulk_bytes", "1MiB"), ("wal.segment_bytes", "4MiB")]).is_empty());
    }

    #[test]
    fn contradictions_are_all_found() {
        let mut config = Config { shards: 0, wal_max_in_flight: 9, ..Config::default() };
        config.listen = "0.0.0.0:7379".parse().expect("address");
        let keys: Vec<_> = config.contradictions().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["shards", "wal.max_in_flight", "listen"]);
    }
}
