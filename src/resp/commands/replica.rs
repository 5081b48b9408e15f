//! REPLICA: who belongs to the groups of partitions, for whoever runs the cluster. No command of Redis.

use super::{Flow, ROW, Row, Run};

const REPLICA: Row = Row {
    flags: "admin noscript stale no_multi",
    group: "cluster",
    since: "8.0.0",
    complexity: "O(N) with N partitions",
    run: Run::Flow(Flow::Members),
    ..ROW
};

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "list", arity: 3, summary: "Returns the members of a partition's group, as its leader has them.", syntax: "partition", ..REPLICA },
    Row { name: "add", arity: 6, summary: "Instructs the leader to add a member without a vote on a node that runs: where other nodes connect to, and where clients do.",
        syntax: "partition node peer-address client-address", ..REPLICA },
    Row { name: "promote", arity: 4, summary: "Instructs the leader to give a node's member a vote, once it has nearly all of the log.", syntax: "partition node", ..REPLICA },
    Row { name: "remove", arity: 4, summary: "Removes a node's member from its group; one that leads hands the lead on before.", syntax: "partition node", ..REPLICA },
    Row { name: "transfer", arity: 4, summary: "Instructs the leader to transfer the lead to a node's member.", syntax: "partition node", ..REPLICA },
    Row { since: "8.0.0", group: "cluster", ..super::server::HELP },
];
