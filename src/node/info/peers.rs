//! INFO's figures of the other nodes: what this one is to them, and its connections.

use corduroy_shards::forward::ForwardCounters;
use corduroy_shards::net::{Dropped, FrameError, Kind, PeerCounters, RefusalKind};

use super::{Lines, line};
use crate::node::shared::{Shared, lock};
use crate::resp::backend::Topology;

/// Whether the node leads anything, and if not, where the leader of the first partition is.
pub fn role(shared: &Shared) -> Lines {
    let leaders: Vec<Option<u64>> = shared.slots().into_iter().map(|(_, leader)| leader).collect();
    let leads = shared.peers().is_none() || leaders.contains(&Some(shared.identity.node));
    if leads {
        return vec![line("role", "master"), line("connected_slaves", 0)];
    }
    let leader = leaders.first().copied().flatten();
    let leader = shared.nodes().into_iter().find(|node| Some(node.id) == leader);
    let host = leader.as_ref().map(|node| node.host.clone()).unwrap_or_default();
    vec![
        line("role", "slave"),
        line("master_host", host),
        line("master_port", leader.as_ref().map_or(0, |node| node.port)),
        line("master_link_status", if leader.is_some() { "up" } else { "down" }),
        line("connected_slaves", 0),
    ]
}

/// Connections that ended by a frame which was wrong in that way.
fn bad_frames(cores: &[(PeerCounters, usize)], kind: &str) -> u64 {
    cores
        .iter()
        .flat_map(|(counters, _)| counters.bad_frames())
        .filter(|(of, _)| *of == kind)
        .map(|(_, n)| n)
        .sum()
}

/// What became of clients' requests for partitions that other nodes lead, and how many of others' came.
fn forwarded(shared: &Shared) -> Lines {
    let cores: Vec<ForwardCounters> = shared.facts.iter().map(|core| *lock(&core.forwarded)).collect();
    let sum = |of: fn(&ForwardCounters) -> u64| cores.iter().map(of).sum::<u64>();
    vec![
        line("forwarded_requests", sum(|of| of.taken)),
        line("forwarded_sent", sum(|of| of.sent)),
        line("forwarded_answered", sum(|of| of.answered)),
        line("forwarded_not_led", sum(|of| of.not_led)),
        line("forwarded_redirected", sum(|of| of.redirected)),
        line("forwarded_rejected", sum(|of| of.rejected)),
        line("forwarded_unknown", sum(|of| of.unknown)),
        line("forwarded_late_answers", sum(|of| of.late)),
    ]
}

/// What the connections to other nodes did, all cores together; nothing of a node that is alone.
pub fn peers(shared: &Shared) -> Lines {
    if shared.peers().is_none() {
        return Vec::new();
    }
    let cores: Vec<(PeerCounters, usize)> =
        shared.facts.iter().filter_map(|core| lock(&core.peers).clone()).collect();
    let sum = |of: fn(&PeerCounters) -> u64| cores.iter().map(|(counters, _)| of(counters)).sum::<u64>();
    let mut lines = vec![
        line("peer_connections", cores.iter().map(|(_, connections)| connections).sum::<usize>()),
        line("peer_dials", sum(|of| of.dials)),
        line("peer_accepted", sum(|of| of.accepted)),
        line("peer_not_accepted", sum(|of| of.not_accepted)),
        line("peer_handshakes", sum(|of| of.handshakes)),
        line("peer_connections_lost", sum(|of| of.lost)),
        line("peer_connections_closed", sum(|of| of.closed)),
        line("peer_frames_sent", sum(|of| of.frames_sent)),
        line("peer_frames_received", sum(|of| of.frames_received)),
        line("peer_bytes_sent", sum(|of| of.bytes_sent)),
        line("peer_bytes_received", sum(|of| of.bytes_received)),
        line("peer_messages_sent", sum(|of| of.messages_sent)),
        line("peer_messages_received", sum(|of| of.messages_received)),
    ];
    lines.extend(forwarded(shared));
    for kind in Kind::ALL {
        let all = cores.iter().flat_map(|(counters, _)| counters.kinds()).filter(|(of, ..)| *of == kind);
        let (queued, came) = all.fold((0, 0), |sum, (_, queued, came)| (sum.0 + queued, sum.1 + came));
        lines.push((format!("peer_{}", kind.name()).into(), format!("queued={queued},received={came}")));
    }
    let refused = |kind| cores.iter().map(|(counters, _)| counters.refused(kind)).sum::<u64>();
    let refusals = RefusalKind::ALL.map(|kind| (format!("peer_refused_{}", kind.name()), refused(kind)));
    let dropped = |why| cores.iter().map(|(counters, _)| counters.dropped(why)).sum::<u64>();
    let drops = Dropped::ALL.map(|why| (format!("peer_dropped_{}", why.name()), dropped(why)));
    let bad = FrameError::KINDS.map(|kind| (format!("peer_bad_frames_{kind}"), bad_frames(&cores, kind)));
    let more = refusals.into_iter().chain(drops).chain(bad).filter(|(_, count)| *count > 0);
    lines.extend(more.map(|(name, count)| (name.into(), count.to_string())));
    lines
}
