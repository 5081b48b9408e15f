//! CLUSTER: there is none. The subcommands are known, so that tools get the answer that they get from a Redis outside of one.

use super::{Call, ROW, Row, Run};

const LOOK: Row = Row {
    flags: "stale",
    group: "cluster",
    since: "3.0.0",
    summary: "Returns an error: this server is not part of a cluster.",
    run: Run::Local(refuse),
    ..ROW
};
const ADMIN: Row = Row { flags: "admin stale", ..LOOK };
const CHANGE: Row = Row { flags: "admin stale no_async_loading", ..LOOK };
const RANDOM: &str = "nondeterministic_output";

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "addslots", arity: -3, ..CHANGE },
    Row { name: "addslotsrange", arity: -4, since: "7.0.0", ..CHANGE },
    Row { name: "bumpepoch", arity: 2, tips: RANDOM, ..CHANGE },
    Row { name: "count-failure-reports", arity: 3, tips: RANDOM, ..ADMIN },
    Row { name: "countkeysinslot", arity: 3, ..LOOK },
    Row { name: "delslots", arity: -3, ..CHANGE },
    Row { name: "delslotsrange", arity: -4, since: "7.0.0", ..CHANGE },
    Row { name: "failover", arity: -2, ..CHANGE },
    Row { name: "flushslots", arity: 2, ..CHANGE },
    Row { name: "forget", arity: 3, ..CHANGE },
    Row { name: "getkeysinslot", arity: 4, tips: RANDOM, ..LOOK },
    Row { name: "help", arity: 2, flags: "loading stale", since: "5.0.0", ..LOOK },
    Row { name: "info", arity: 2, tips: RANDOM, ..LOOK },
    Row { name: "keyslot", arity: 3, ..LOOK },
    Row { name: "links", arity: 2, tips: RANDOM, since: "7.0.0", ..LOOK },
    Row { name: "meet", arity: -4, ..CHANGE },
    Row { name: "myid", arity: 2, ..LOOK },
    Row { name: "nodes", arity: 2, tips: RANDOM, ..LOOK },
    Row { name: "replicas", arity: 3, tips: RANDOM, since: "5.0.0", ..ADMIN },
    Row { name: "replicate", arity: 3, ..CHANGE },
    Row { name: "reset", arity: -2, flags: "admin noscript stale", ..LOOK },
    Row { name: "saveconfig", arity: 2, ..CHANGE },
    Row { name: "set-config-epoch", arity: 3, ..CHANGE },
    Row { name: "setslot", arity: -4, ..CHANGE },
    Row { name: "shards", arity: 2, tips: RANDOM, since: "7.0.0", ..LOOK },
    Row { name: "slaves", arity: 3, tips: RANDOM, ..ADMIN },
    Row { name: "slots", arity: 2, tips: RANDOM, ..LOOK },
];

/// Answers as Redis does outside of a cluster.
pub fn refuse(call: &mut Call<'_>) {
    call.out.error("ERR This instance has cluster support disabled");
}
