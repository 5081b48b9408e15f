//! The one table of commands: dispatch, COMMAND, HELP and the README's list all come from these rows.
//!
//! Invariant: a command exists if and only if it has a row; its arity and its key positions are checked from the row
//! before its function runs.

use super::backend::Backend;
use super::conn::ConnState;
use super::errors::Refusal;
use super::reply::Writer;
use crate::store::Op;

pub mod args;
pub mod census;
pub mod client;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod docs;
pub mod introspection;
pub mod keys;
mod latency;
pub mod memory;
pub mod replica;
mod secrets;
pub mod server;
pub mod strings;
mod table;
pub mod transactions;

pub use secrets::without_secrets;
pub use table::{Entry, Table, Traits, table};

/// Where a command's keys stand among its arguments (the name is argument 0). `first` 0: no keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// The first key.
    pub first: usize,
    /// The last key; negative counts from the end, -1 being the last argument.
    pub last: isize,
    /// From one key to the next.
    pub step: usize,
    /// How the keys are used, in the words of COMMAND's key specifications.
    pub access: &'static str,
}

const fn key_range(first: usize, last: isize, step: usize, access: &'static str) -> KeyRange {
    KeyRange { first, last, step, access }
}

const NO_KEYS: KeyRange = key_range(0, 0, 0, "");

/// How an op's command spreads over partitions when there are several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All its keys must live in one.
    OnePartition,
    /// Each partition gets its own keys; the parts' numbers are added up.
    SplitSum,
    /// Each partition gets its own keys; the parts' values are put in the order of the request.
    SplitValues,
    /// All partitions; numbers are added up.
    WholeSum,
    /// All partitions; lists are joined.
    WholeJoined,
    /// All partitions; OK when all are.
    WholeOk,
    /// All partitions; one of the answers.
    WholeOne,
    /// One partition after another, as the cursor says.
    Scan,
}

/// What the session itself does at a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// MULTI.
    Multi,
    /// EXEC.
    Exec,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// WAIT.
    Wait,
    /// REPLICA.
    Members,
    /// QUIT.
    Quit,
    /// RESET.
    Reset,
}

/// A request on its way to an op.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The command's name in lower case.
    pub name: &'static str,
    /// The arguments, the name first. Their number fits the row's arity.
    pub args: &'a [&'a [u8]],
    /// The node.
    pub backend: &'a dyn Backend,
}

impl<'a> Request<'a> {
    /// Argument `at`, empty if there is none (the arity check has been made).
    #[must_use]
    #[inline]
    pub fn arg(&self, at: usize) -> &'a [u8] {
        self.args.get(at).copied().unwrap_or_default()
    }

    /// The arguments from `at` on.
    #[must_use]
    #[inline]
    pub fn from(&self, at: usize) -> &'a [&'a [u8]] {
        self.args.get(at..).unwrap_or_default()
    }
}

/// A command that the session answers by itself, under way.
pub struct Call<'c> {
    /// The connection.
    pub conn: &'c mut ConnState,
    /// The node.
    pub backend: &'c dyn Backend,
    /// The arguments, the name first (for a subcommand: the container's name, then its own).
    pub args: &'c [&'c [u8]],
    /// Where the reply goes.
    pub out: Writer<'c>,
    /// The row.
    pub entry: &'static Entry,
    /// Where a visit to many connections is put that is to go on in later turns; its reply comes when it is over, and what
    /// comes behind it waits until then. `None` inside a transaction, where nothing may wait.
    pub visits: Option<&'c mut Option<Box<census::Census>>>,
}

impl<'c> Call<'c> {
    /// Argument `at`, empty if there is none (the arity check has been made).
    #[must_use]
    pub fn arg(&self, at: usize) -> &'c [u8] {
        self.args.get(at).copied().unwrap_or_default()
    }

    /// The arguments from `at` on.
    #[must_use]
    pub fn from(&self, at: usize) -> &'c [&'c [u8]] {
        self.args.get(at..).unwrap_or_default()
    }

    /// Answers with an error.
    pub fn refuse(&mut self, refusal: &Refusal) {
        self.out.error(&refusal.0);
    }
}

/// How a command is carried out.
#[derive(Clone, Copy)]
pub enum Run {
    /// As an op of the state machine.
    Op(for<'a> fn(&Request<'a>) -> Result<Op<'a>, Refusal>, Scope),
    /// By the session alone.
    Local(fn(&mut Call<'_>)),
    /// By the session, as part of its own state.
    Flow(Flow),
    /// By its subcommands.
    Subcommands(&'static [Row]),
    /// Not at all, with this reason; not listed by COMMAND.
    Refused(&'static str),
}

/// One command.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its name in lower case; a subcommand's own name.
    pub name: &'static str,
    /// Number of arguments with the name(s); negative: at least so many.
    pub arity: isize,
    /// Redis's flags, separated by spaces.
    pub flags: &'static str,
    /// Where its keys are.
    pub keys: KeyRange,
    /// ACL categories besides those that follow from the flags.
    pub acl: &'static str,
    /// Redis's documentation group.
    pub group: &'static str,
    /// The Redis version that it first appeared in.
    pub since: &'static str,
    /// Cost.
    pub complexity: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// Its arguments, in the notation that [`docs`] reads: `key value [NX|XX] [EX seconds] [more ...]`.
    pub syntax: &'static str,
    /// Redis's hints for clients that spread commands, separated by spaces.
    pub tips: &'static str,
    /// How it is carried out.
    pub run: Run,
}

/// What most rows have in common.
const ROW: Row = Row {
    name: "",
    arity: 0,
    flags: "",
    keys: NO_KEYS,
    acl: "",
    group: "server",
    since: "1.0.0",
    complexity: "O(1)",
    summary: "",
    syntax: "",
    tips: "",
    run: Run::Refused(""),
};

const REFUSED: &[Row] = &[
    refused(
        "replicaof",
        "ERR replication is by Raft: members are added and removed by the cluster's own commands",
    ),
    refused(
        "slaveof",
        "ERR replication is by Raft: members are added and removed by the cluster's own commands",
    ),
    refused(
        "sync",
        "ERR replication is by Raft: Redis replicas cannot be attached, and RDB files are not served",
    ),
    refused(
        "psync",
        "ERR replication is by Raft: Redis replicas cannot be attached, and RDB files are not served",
    ),
    refused(
        "replconf",
        "ERR replication is by Raft: Redis replicas cannot be attached, and RDB files are not served",
    ),
    refused("failover", "ERR replication is by Raft: leadership moves by itself"),
    refused("migrate", "ERR MIGRATE is not supported: copy keys with a client"),
    refused("swapdb", "ERR SWAPDB is not supported: there is one database, number 0"),
    refused("move", "ERR MOVE is not supported: there is one database, number 0"),
    refused("module", "ERR modules are not supported"),
    refused("debug", "ERR DEBUG is not supported: it would break the promises that this server makes"),
    Row { flags: "loading stale no_auth closes", ..refused("post", CROSS_PROTOCOL) },
    Row { flags: "loading stale no_auth closes", ..refused("host:", CROSS_PROTOCOL) },
    refused("monitor", "ERR MONITOR is not supported: see SLOWLOG and INFO commandstats"),
];

/// A web page that makes a browser send requests here must not get any of them carried out.
const CROSS_PROTOCOL: &str = "ERR this is not an HTTP server: the connection is closed";

const fn refused(name: &'static str, reason: &'static str) -> Row {
    Row { name, arity: -1, flags: "loading stale", run: Run::Refused(reason), ..ROW }
}
