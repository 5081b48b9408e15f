//! Rows of the commands that [`crate::resp::session`] carries out as part of its own state.

use super::{Flow, ROW, Row, Run, key_range};

const TRANSACTION: Row =
    Row { acl: "transaction", group: "transactions", flags: "noscript loading stale fast allow_busy", ..ROW };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "multi", arity: 1, since: "1.2.0",
        summary: "Begins a transaction: the commands that follow are queued until EXEC.", run: Run::Flow(Flow::Multi), ..TRANSACTION },
    Row { name: "exec", arity: 1, flags: "noscript loading stale skip_slowlog", since: "1.2.0", complexity: "Depends on commands in the transaction",
        summary: "Carries out the queued commands as one.", run: Run::Flow(Flow::Exec), ..TRANSACTION },
    Row { name: "discard", arity: 1, since: "2.0.0", complexity: "O(N) with N queued commands",
        summary: "Drops the queued commands.", run: Run::Flow(Flow::Discard), ..TRANSACTION },
    Row { name: "watch", arity: -2, keys: key_range(1, -1, 1, "RO"), since: "2.2.0", complexity: "O(1) for every key.",
        summary: "Makes the next EXEC do nothing if one of the keys changes until then.", syntax: "key [key ...]", run: Run::Flow(Flow::Watch), ..TRANSACTION },
    Row { name: "unwatch", arity: 1, since: "2.2.0",
        summary: "Forgets the watched keys.", run: Run::Flow(Flow::Unwatch), ..TRANSACTION },
    Row { name: "wait", arity: 3, flags: "noscript", acl: "connection", group: "generic", since: "3.0.0",
        tips: "request_policy:all_shards response_policy:agg_min",
        summary: "Waits until the connection's writes are acknowledged; answers the number of additional asynchronous copies.",
        syntax: "numreplicas timeout", run: Run::Flow(Flow::Wait), ..TRANSACTION },
];
