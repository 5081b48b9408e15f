//! What a run is to do, checked and complete. Made from the command line by `cli.rs`; everything else only reads it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::keys::Distribution;

/// A kind of request, as figures are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Op {
    Set,
    Get,
    Incr,
    Mset,
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
}

impl Op {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Set => "set",
            Op::Get => "get",
            Op::Incr => "incr",
            Op::Mset => "mset",
            Op::Read => "read",
            Op::Update => "update",
            Op::Insert => "insert",
            Op::Scan => "scan",
            Op::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// A mix of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Workload {
    /// SET.
    Set,
    /// GET.
    Get,
    /// INCR.
    Incr,
    /// MSET of ten keys (--mset-keys).
    Mset,
    /// 50% reads, 50% updates, Zipf.
    YcsbA,
    /// 95% reads, 5% updates, Zipf.
    YcsbB,
    /// Reads only, Zipf.
    YcsbC,
    /// 95% reads of what was inserted last, 5% inserts.
    YcsbD,
    /// 95% ranges, 5% inserts. Redis strings have no order: a range is an MGET of 1 to 100 consecutive key numbers.
    YcsbE,
    /// 50% reads, 50% GET and then SET of the same key, Zipf.
    YcsbF,
}

impl Workload {
    /// The mix, in percent.
    #[must_use]
    pub fn mix(self) -> &'static [(Op, u64)] {
        match self {
            Workload::Set => &[(Op::Set, 100)],
            Workload::Get => &[(Op::Get, 100)],
            Workload::Incr => &[(Op::Incr, 100)],
            Workload::Mset => &[(Op::Mset, 100)],
            Workload::YcsbA => &[(Op::Read, 50), (Op::Update, 50)],
            Workload::YcsbB => &[(Op::Read, 95), (Op::Update, 5)],
            Workload::YcsbC => &[(Op::Read, 100)],
            Workload::YcsbD => &[(Op::Read, 95), (Op::Insert, 5)],
            Workload::YcsbE => &[(Op::Scan, 95), (Op::Insert, 5)],
            Workload::YcsbF => &[(Op::Read, 50), (Op::ReadModifyWrite, 50)],
        }
    }

    /// Whether it is one of YCSB's, which start from a full key space.
    #[must_use]
    pub fn is_ycsb(self) -> bool {
        !matches!(self, Workload::Set | Workload::Get | Workload::Incr | Workload::Mset)
    }

    /// Whether its writes can be tracked: each key must have one writer, and there must be writes.
    #[must_use]
    pub fn is_trackable(self) -> bool {
        !matches!(self, Workload::Get | Workload::YcsbC | Workload::YcsbD | Workload::YcsbE)
    }

    /// How YCSB chooses its keys.
    #[must_use]
    pub fn usual_distribution(self) -> Distribution {
        match self {
            Workload::YcsbD => Distribution::Latest(0.99),
            workload if workload.is_ycsb() => Distribution::Zipf(0.99),
            _ => Distribution::Uniform,
        }
    }
}

/// When requests are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Closed loop: each connection keeps its pipeline full. Latency counts from sending.
    Closed,
    /// Open loop: this many a second in all, whatever the server does. Latency counts from the time at which a request
    /// was due, so a stall is paid by all that fell due in it.
    Open {
        /// Requests a second.
        rate_per_s: f64,
        /// Random (Poisson) gaps instead of equal ones.
        poisson: bool,
    },
}

/// When to stop sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// After this many requests, over all connections.
    Requests(u64),
    /// After this long, warm-up not counted.
    After(Duration),
}

/// A run.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The server as it was named: host and port.
    pub server: String,
    /// The server.
    pub addr: SocketAddr,
    /// For AUTH.
    pub password: Option<String>,
    /// Threads that drive the connections.
    pub threads: usize,
    /// Connections, over all threads.
    pub connections: usize,
    /// Most unanswered requests of a connection.
    pub pipeline: usize,
    /// What is asked.
    pub workload: Workload,
    /// Which keys.
    pub distribution: Distribution,
    /// How many keys.
    pub keyspace: u64,
    /// What all key names start with.
    pub prefix: String,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Keys of an MSET.
    pub mset_keys: usize,
    /// When requests are sent.
    pub pace: Pace,
    /// When to stop.
    pub stop: Stop,
    /// Time at the start that does not count.
    pub warmup: Duration,
    /// How long to wait for answers after the last request.
    pub drain: Duration,
    /// Fill the key space first.
    pub preload: bool,
    /// Check every acknowledged write at the end.
    pub verify: bool,
    /// Write down what was acknowledged.
    pub journal: Option<PathBuf>,
    /// End well when the server goes away.
    pub until_disconnect: bool,
    /// For the random choices.
    pub seed: u64,
}

impl Plan {
    /// The workload's name, as on the command line.
    #[must_use]
    pub fn workload_name(&self) -> &'static str {
        match self.workload {
            Workload::Set => "set",
            Workload::Get => "get",
            Workload::Incr => "incr",
            Workload::Mset => "mset",
            Workload::YcsbA => "ycsb-a",
            Workload::YcsbB => "ycsb-b",
            Workload::YcsbC => "ycsb-c",
            Workload::YcsbD => "ycsb-d",
            Workload::YcsbE => "ycsb-e",
            Workload::YcsbF => "ycsb-f",
        }
    }

    /// Whether each key has one writer, and values are versioned.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.verify || self.journal.is_some()
    }
}
