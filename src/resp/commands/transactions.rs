//! Rows of the commands that [`crate::resp::session`] carries out as part of its own state.

use super::{Flow, ROW, Row, Run, key_range};

const TRANSACTION: Row =
    Row { acl: "transaction", group: "transactions", flags: "noscript loading stale fast allow_busy", ..ROW };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "multi", arity: 1, since: "1.2.0",
        summary: "Starts a transaction: the commands that follow are queued until EXEC.", run: Run::Flow(Flow::Multi), ..TRANSACTION },
    Row { name: "exec", arity: 1, flags: "noscript loading stale skip_slowlog", since: "1.2.0", complexity: "Depends on commands in the transaction",
        summary: "Executes the queued commands as one.", run: Run::Flow(Flow::Exec), ..TRANSACTION },
    Row { name: "discard", arity: 1, since: "2.0.0", complexity: "O(N) with N queued commands",
        summary: "Discards a transaction: the queued commands are not executed.", run: Run::Flow(Flow::Discard), ..TRANSACTION },
    Row { name: "watch", arity: -2, keys: key_range(1, -1, 1, "RO"), since: "2.2.0", complexity: "O(1) for every key.",
        summary: "Monitors keys: the next EXEC does nothing if one of them has changed.", syntax: "key [key ...]", run: Run::Flow(Flow::Watch), ..TRANSACTION },
    Row { name: "unwatch", arity: 1, since: "2.2.0",
        summary: "Forgets the watched keys.", run: Run::Flow(Flow::Unwatch), ..TRANSACTION },
    Row { name: "wait", arity: 3, flags: "noscript", acl: "connection", group: "generic", since: "3.0.0",
        tips: "request_policy:all_shards response_policy:agg_min",
        summary: "Blocks until the connection's writes are acknowledged, and returns how many other nodes have them for certain.",
        syntax: "numreplicas timeout", run: Run::Flow(Flow::Wait), ..TRANSACTION },
];
