//! CLUSTER: which node leads what, for clients that look for it. A node that is alone answers as a Redis outside of a cluster
//! does; what only an operator of a Redis Cluster asks for is refused in both.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use corduroy_shards::routing::slot_of;

use super::{Call, ROW, Row, Run};
use crate::resp::backend::{ClientNode, Topology};
use crate::resp::reply::Writer;

const LOOK: Row = Row {
    flags: "stale",
    group: "cluster",
    since: "3.0.0",
    summary: "Returns an error: the nodes of a cluster are those of a file.",
    run: Run::Local(refuse),
    ..ROW
};
const ADMIN: Row = Row { flags: "admin stale", ..LOOK };
const CHANGE: Row = Row { flags: "admin stale no_async_loading", ..LOOK };
const SHOW: Row = Row {
    summary: "Returns a description of the cluster, or an error where there is none.",
    run: Run::Local(show),
    ..LOOK
};
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
    Row { name: "info", arity: 2, tips: RANDOM, ..SHOW },
    Row { name: "keyslot", arity: 3, ..SHOW },
    Row { name: "links", arity: 2, tips: RANDOM, since: "7.0.0", ..LOOK },
    Row { name: "meet", arity: -4, ..CHANGE },
    Row { name: "myid", arity: 2, ..SHOW },
    Row { name: "nodes", arity: 2, tips: RANDOM, ..SHOW },
    Row { name: "replicas", arity: 3, tips: RANDOM, since: "5.0.0", ..ADMIN },
    Row { name: "replicate", arity: 3, ..CHANGE },
    Row { name: "reset", arity: -2, flags: "admin noscript stale", ..LOOK },
    Row { name: "saveconfig", arity: 2, ..CHANGE },
    Row { name: "set-config-epoch", arity: 3, ..CHANGE },
    Row { name: "setslot", arity: -4, ..CHANGE },
    Row { name: "shards", arity: 2, tips: RANDOM, since: "7.0.0", ..SHOW },
    Row { name: "slaves", arity: 3, tips: RANDOM, ..ADMIN },
    Row { name: "slots", arity: 2, tips: RANDOM, ..SHOW },
];

/// Answers as Redis does outside of a cluster.
pub fn refuse(call: &mut Call<'_>) {
    call.out.error("ERR This instance has cluster support disabled");
}

/// Answers what clients ask of the cluster, if there is one.
fn show(call: &mut Call<'_>) {
    let Some(topology) = call.backend.topology() else { return refuse(call) };
    call.conn.knows_nodes |= matches!(call.entry.row.name, "nodes" | "shards" | "slots");
    let (name, key) = (call.entry.row.name, call.args.get(2).copied().unwrap_or_default());
    let out = &mut call.out;
    match name {
        "info" => out.bulk(info(topology)),
        "keyslot" => out.int(slot_of(key).into()),
        "myid" => out.bulk(id(topology.id())),
        "nodes" => out.bulk(nodes(topology)),
        "shards" => shards(topology, out),
        "slots" => slots(topology, out),
        other => unreachable!("CLUSTER {other} does not describe the cluster"),
    }
}

/// A node's id, as long as clients expect it.
fn id(node: u64) -> String {
    format!("{node:040x}")
}

/// All partitions whose leader is known: the slots, the leader, and the other nodes, which have replicas.
fn led(topology: &dyn Topology) -> Vec<((u16, u16), ClientNode, Vec<ClientNode>)> {
    let all = topology.nodes();
    let mut led = Vec::new();
    for (slots, leader) in topology.slots() {
        let (leaders, others): (Vec<_>, Vec<_>) =
            all.iter().cloned().partition(|node| Some(node.id) == leader);
        if let Some(leader) = leaders.into_iter().next() {
            led.push(((slots.start, slots.end - 1), leader, others));
        }
    }
    led
}

fn slots(topology: &dyn Topology, out: &mut Writer<'_>) {
    let led = led(topology);
    out.array(led.len());
    for ((first, last), leader, others) in led {
        out.array(3 + others.len());
        out.int(first.into());
        out.int(last.into());
        for node in std::iter::once(leader).chain(others) {
            out.array(4);
            out.bulk(&node.host);
            out.int(node.port.into());
            out.bulk(id(node.id));
            out.array(0);
        }
    }
}

fn shards(topology: &dyn Topology, out: &mut Writer<'_>) {
    let led = led(topology);
    out.array(led.len());
    for ((first, last), leader, others) in led {
        out.map(2);
        out.bulk("slots");
        out.array(2);
        out.int(first.into());
        out.int(last.into());
        out.bulk("nodes");
        out.array(1 + others.len());
        let roles = std::iter::once("master").chain(std::iter::repeat("replica"));
        for (node, role) in std::iter::once(leader).chain(others).zip(roles) {
            out.map(7);
            for (name, text) in [("id", &*id(node.id)), ("endpoint", &node.host), ("ip", &node.host)] {
                out.bulk(name);
                out.bulk(text);
            }
            out.bulk("port");
            out.int(node.port.into());
            out.bulk("role");
            out.bulk(role);
            out.bulk("replication-offset");
            out.int(0);
            out.bulk("health");
            out.bulk("online");
        }
    }
}

/// As Redis writes them: a node that leads nothing is a replica of the first leader.
fn nodes(topology: &dyn Topology) -> String {
    let mut slots: BTreeMap<u64, String> = BTreeMap::new();
    let led = led(topology);
    for ((first, last), leader, _) in &led {
        write!(slots.entry(leader.id).or_default(), " {first}-{last}")
            .expect("writing to a string cannot fail");
    }
    let first = led.first().map(|(_, leader, _)| id(leader.id));
    let mut text = String::new();
    for ClientNode { id: node, host, port } in topology.nodes() {
        let myself = if node == topology.id() { "myself," } else { "" };
        let (role, of) = match (slots.get(&node), &first) {
            (None, Some(first)) => ("slave", first.as_str()),
            (Some(_), _) | (None, None) => ("master", "-"),
        };
        let slots = slots.get(&node).map_or("", String::as_str);
        writeln!(text, "{} {host}:{port}@0 {myself}{role} {of} 0 0 0 connected{slots}", id(node))
            .expect("writing to a string cannot fail");
    }
    text
}

fn info(topology: &dyn Topology) -> String {
    let led = led(topology);
    let assigned: u32 = topology.slots().iter().map(|(slots, _)| slots.len() as u32).sum();
    let served: u32 = led.iter().map(|((first, last), ..)| u32::from(last - first) + 1).sum();
    let leaders: std::collections::BTreeSet<_> = led.iter().map(|(_, leader, _)| leader.id).collect();
    let state = if served == assigned { "ok" } else { "fail" };
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{served}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:{}\r\n",
        assigned - served,
        topology.nodes().len(),
        leaders.len()
    )
}
