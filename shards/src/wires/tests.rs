//! Nodes whose cores have real sockets on the loopback, one thread for all, and a clock that the test holds.

use std::io::Write as _;

use raft::eraftpb::{Entry, MessageType};

use super::*;
use crate::ids::{ShardId, StorageId};
use crate::net::refusal::Damage;
use crate::net::{
    Dropped, Ending, Founders, Founding, Handshake, Lane, Local, PeerOptions, Refusal, RefusalKind, Secret,
    ShardCore, SharedLimits, Versions,
};

const MS: u64 = 1_000_000;
const LISTENER: u64 = u64::MAX;

/// A core with what it sleeps on, and what has come to it.
struct Core {
    wires: Wires,
    poller: Poller,
    messages: Vec<(NodeId, PartitionId, Message)>,
    unreachable: Vec<(PartitionId, StorageId)>,
    forwarded: Vec<News>,
}

struct World {
    /// By their nodes, which are counted from 1, and cores.
    cores: Vec<Vec<Core>>,
    now_ns: u64,
}

fn storage(node: u64) -> StorageId {
    StorageId(100 + node)
}

/// A shard on each core.
fn local(node: u64, cores: u16, secret: &str) -> Local {
    let of = |core| ShardCore { storage: storage(node), shard: ShardId(u32::from(core)), core: CoreId(core) };
    Local {
        cluster: 7,
        node: NodeId(node),
        epoch: Epoch { incarnation: 1, starts: 1, process: node },
        versions: Versions::SPOKEN,
        limits: SharedLimits { operation_bytes: 12 << 20, value_bytes: 1 << 20 },
        founding: Founding::of(&[NodeId(1), NodeId(2)], 1, u32::from(cores)),
        cores,
        shards: (0..cores).map(of).collect(),
        founders: Founders::new(),
        secret: Some(Secret::new(secret.as_bytes().to_vec()).expect("long enough")),
    }
}

const SECRET: &str = "sixteen bytes and some";

/// A listener, and where it is.
fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

impl World {
    /// Nodes with so many cores and these secrets. Of each node only core 0 is connected to.
    fn new(cores: u16, secrets: &[&str]) -> Self {
        let doors: Vec<_> = secrets.iter().map(|_| listener()).collect();
        let addresses: HashMap<_, _> =
            (1..).map(NodeId).zip(doors.iter().map(|(_, address)| *address)).collect();
        let mut world = Self { cores: Vec::new(), now_ns: 1_000 * MS };
        for ((node, secret), (door, _)) in (1..).zip(secrets).zip(doors) {
            let mut door = Some(door);
            let own = (0..cores).map(|core| {
                let door = door.take().unwrap_or_else(|| listener().0);
                Core::new(local(node, cores, secret), core, door, addresses.clone())
            });
            world.cores.push(own.collect());
        }
        world
    }

    fn core(&mut self, node: u64, core: usize) -> &mut Core {
        &mut self.cores[usize::try_from(node).expect("small") - 1][core]
    }

    /// Sends a heartbeat with this commit to a shard of a node.
    fn send(&mut self, from: (u64, usize), to: (u64, u32), commit: u64) {
        let message = Message {
            msg_type: MessageType::MsgHeartbeat,
            from: from.0,
            to: to.0,
            term: 3,
            commit,
            ..Message::default()
        };
        self.send_message(from, to, message);
    }

    fn send_message(&mut self, from: (u64, usize), to: (u64, u32), message: Message) {
        let now_ns = self.now_ns;
        let to = To { node: NodeId(to.0), storage: storage(to.0), shard: ShardId(to.1) };
        self.core(from.0, from.1)
            .wires
            .queue(to, PartitionId(5), message, now_ns)
            .expect("a heartbeat may be sent");
    }

    /// One turn of each core, with what its poller has within a millisecond.
    fn turn(&mut self) {
        let now_ns = self.now_ns;
        for node in 0..self.cores.len() {
            for core in 0..self.cores[node].len() {
                let moved = self.cores[node][core].turn(now_ns);
                for news in moved {
                    match news {
                        News::Moved { core, moved } => {
                            let to = &mut self.cores[node][usize::from(core.0)];
                            to.wires.adopt(*moved, &to.poller, now_ns);
                        }
                        News::Seen { node: seen, epoch } => {
                            for other in (0..self.cores[node].len()).filter(|other| *other != core) {
                                let to = &mut self.cores[node][other];
                                to.wires.seen(seen, epoch, &to.poller, now_ns);
                            }
                        }
                        News::Meet { .. } => unreachable!("there are no founders"),
                        _ => unreachable!("they are kept"),
                    }
                }
                self.cores[node][core].wires.check();
            }
        }
    }

    /// Turns until this is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..5_000 {
            if is_so(self) {
                return;
            }
            self.turn();
        }
        panic!("{what}: it never was");
    }

    fn commits(&mut self, node: u64, core: usize) -> Vec<u64> {
        self.core(node, core).messages.iter().map(|(_, _, message)| message.commit).collect()
    }
}

impl Core {
    fn new(local: Local, core: u16, listener: Listener, addresses: HashMap<NodeId, SocketAddr>) -> Self {
        let peers = PeerOptions { seed: local.node.0, ..PeerOptions::default() };
        let options = WireOptions { local, core: CoreId(core), peers, addresses, token: |conn| conn.0 };
        let poller = Poller::new().expect("epoll");
        let mut wires = Wires::new(options, listener).expect("a source of random numbers");
        wires.listen(&poller, LISTENER).expect("watched");
        Self { wires, poller, messages: Vec::new(), unreachable: Vec::new(), forwarded: Vec::new() }
    }

    /// Returns what is for other cores.
    fn turn(&mut self, now_ns: u64) -> Vec<News> {
        let mut events = Vec::new();
        let wait = if self.wires.has_more() { Duration::ZERO } else { Duration::from_millis(1) };
        self.poller.wait(Some(wait), |token, ready| events.push((token, ready))).expect("epoll");
        for (token, ready) in events {
            match token {
                LISTENER => self.wires.notice_listener(),
                conn => self.wires.notice(ConnId(conn), ready, &self.poller, now_ns),
            }
        }
        self.wires.turn(&self.poller, now_ns);
        self.wires.flush(&self.poller, now_ns);
        let mut others = Vec::new();
        for news in self.wires.take_news() {
            match news {
                News::Message { node, partition, message } => self.messages.push((node, partition, *message)),
                News::Unreachable { partition, to } => self.unreachable.push((partition, to)),
                moved @ (News::Moved { .. } | News::Seen { .. } | News::Meet { .. }) => others.push(moved),
                forwarded => self.forwarded.push(forwarded),
            }
        }
        others
    }
}

/// An append from node 1 to node 2 of one entry, with so many bytes.
fn append(index: u64, bytes: usize) -> Message {
    let log_term = if index == 1 { 0 } else { 3 };
    let (index_before, term) = (index - 1, 3);
    let mut message = Message {
        msg_type: MessageType::MsgAppend,
        from: 1,
        to: 2,
        term,
        index: index_before,
        log_term,
        ..Message::default()
    };
    let data = vec![index as u8; bytes].into();
    message.set_entries(vec![Entry { index, term, data, ..Entry::default() }].into());
    message
}

#[test]
fn messages_go_both_ways_in_their_order() {
    let mut world = World::new(1, &[SECRET, SECRET]);
    for commit in 1..=100 {
        world.send((1, 0), (2, 0), commit);
    }
    world.until("all have come", |world| world.commits(2, 0).len() == 100);
    assert_eq!(world.commits(2, 0), (1..=100).collect::<Vec<u64>>());
    let (node, partition, _) = &world.core(2, 0).messages[0];
    assert_eq!((*node, *partition), (NodeId(1), PartitionId(5)));
    world.send((2, 0), (1, 0), 7);
    world.until("the answer has come", |world| world.commits(1, 0) == [7]);
    let counters = world.core(2, 0).wires.counters().clone();
    assert_eq!(
        (counters.dials, counters.accepted, counters.messages_sent),
        (0, 1, 1),
        "on the same connection"
    );
    assert!(world.core(1, 0).unreachable.is_empty());
}

#[test]
fn what_sockets_do_not_take_at_once_waits_for_them() {
    let mut world = World::new(1, &[SECRET, SECRET]);
    for index in 1..=3 {
        world.send_message((1, 0), (2, 0), append(index, 9 << 20));
        // It has a connection of its own.
        world.send((1, 0), (2, 0), index);
    }
    world.until("all have come", |world| world.core(2, 0).messages.len() == 6);
    let messages = std::mem::take(&mut world.core(2, 0).messages);
    let appends = messages.iter().filter(|(_, _, message)| !message.get_entries().is_empty());
    let indexes: Vec<u64> = appends
        .map(|(_, _, message)| {
            let entry = &message.get_entries()[0];
            assert!(entry.data.len() == 9 << 20 && entry.data.iter().all(|byte| *byte == entry.index as u8));
            entry.index
        })
        .collect();
    assert_eq!(indexes, [1, 2, 3]);
}

#[test]
fn a_connection_is_handed_to_the_core_that_is_wanted() {
    let mut world = World::new(2, &[SECRET, SECRET]);
    world.send((1, 1), (2, 1), 4);
    world.until("it has come there", |world| world.commits(2, 1) == [4]);
    assert!(world.commits(2, 0).is_empty());
    // Back on the connection that core 0 has accepted and core 1 has.
    world.send((2, 1), (1, 1), 5);
    world.until("it has come there", |world| world.commits(1, 1) == [5]);
    assert_eq!(world.core(2, 1).wires.counters().dials, 0);
    let key = |node| LinkKey { node: NodeId(node), core: CoreId(1), lane: Lane::Liveness, is_theirs: false };
    assert!(matches!(world.core(2, 1).wires.link(key(1)), LinkState::Up(_)));
}

#[test]
fn where_nobody_listens_is_reported_and_tried_again() {
    let mut world = World::new(1, &[SECRET, SECRET]);
    let address = world.core(1, 0).wires.addresses[&NodeId(2)];
    let second = world.cores.pop().expect("node 2");
    drop(second);
    world.send((1, 0), (2, 0), 1);
    world.until("it is reported", |world| !world.core(1, 0).unreachable.is_empty());
    assert_eq!(world.core(1, 0).unreachable, [(PartitionId(5), storage(2))]);
    world.send((1, 0), (2, 0), 2);
    world.turn();
    assert_eq!(world.core(1, 0).wires.counters().dropped(Dropped::BackingOff), 1, "not at once");
    let listener = Listener::bind(address).expect("the address is free");
    let addresses = HashMap::new();
    world.cores.push(vec![Core::new(local(2, 1, SECRET), 0, listener, addresses)]);
    let next_ns = world.core(1, 0).wires.next_ns().expect("a wait");
    assert!(next_ns > world.now_ns && next_ns <= world.now_ns + 50 * MS);
    world.now_ns = next_ns;
    world.turn();
    world.send((1, 0), (2, 0), 3);
    world.until("it has come", |world| world.commits(2, 0) == [3]);
}

#[test]
fn a_refusal_is_known_on_both_sides() {
    let mut world = World::new(1, &[SECRET, "another secret of them"]);
    world.send((1, 0), (2, 0), 1);
    world.until("it is reported", |world| !world.core(1, 0).unreachable.is_empty());
    let refused = |world: &mut World, node| {
        let counters = world.core(node, 0).wires.counters();
        RefusalKind::ALL.map(|kind| counters.refused(kind)).iter().sum::<u64>()
    };
    // Whoever sees it first says so, and the other hears of it.
    world.until("both know", |world| refused(world, 1) == 1 && refused(world, 2) == 1);
    assert_eq!(world.core(1, 0).wires.counters().refused(RefusalKind::OtherSecret), 1);
    world.until("nothing is left", |world| {
        world.core(1, 0).wires.connections() + world.core(2, 0).wires.connections() == 0
    });
}

#[test]
fn a_process_that_ends_is_noticed_and_its_next_one_found() {
    let mut world = World::new(1, &[SECRET, SECRET]);
    let address = world.core(1, 0).wires.addresses[&NodeId(2)];
    world.send((1, 0), (2, 0), 1);
    world.until("it has come", |world| world.commits(2, 0) == [1]);
    drop(world.cores.pop());
    world.until("it is noticed", |world| world.core(1, 0).wires.counters().lost == 1);
    let mut next = local(2, 1, SECRET);
    next.epoch.starts = 2;
    let listener = Listener::bind(address).expect("the address is free");
    world.cores.push(vec![Core::new(next, 0, listener, HashMap::new())]);
    world.now_ns += 100 * MS;
    world.turn();
    world.send((1, 0), (2, 0), 2);
    world.until("it has come", |world| world.commits(2, 0) == [2]);
}

#[test]
fn who_says_nothing_or_nonsense_is_closed() {
    let mut world = World::new(1, &[SECRET]);
    let address = world.core(1, 0).wires.addresses[&NodeId(1)];
    let silent = std::net::TcpStream::connect(address).expect("it listens");
    let mut noisy = std::net::TcpStream::connect(address).expect("it listens");
    noisy.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("room");
    world.until("nonsense is refused", |world| {
        world.core(1, 0).wires.counters().refused(RefusalKind::Damage) == 1
    });
    world.until("one is left", |world| world.core(1, 0).wires.connections() == 1);
    let late_ns = world.core(1, 0).wires.next_ns().expect("a handshake has its time");
    assert_eq!(late_ns, world.now_ns + 2_000 * MS);
    world.now_ns = late_ns;
    world.until("silence is, too", |world| world.core(1, 0).wires.connections() == 0);
    drop(silent);
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let mut world = World::new(1, &[SECRET, SECRET]);
    world.send((1, 0), (2, 0), 1);
    world.until("it has come", |world| world.commits(2, 0) == [1]);
    // Node 2 takes no more turns, and what is sent to it fills the sockets.
    let mut second = world.cores.pop().expect("node 2");
    for index in 1..=16 {
        world.send_message((1, 0), (2, 0), append(index, 1 << 20));
        world.turn();
    }
    let late_ns = world.core(1, 0).wires.next_ns().expect("a frame has its time");
    assert_eq!(late_ns, world.now_ns + 2_000 * MS);
    world.now_ns = late_ns;
    world.until("it is given up", |world| !world.core(1, 0).unreachable.is_empty());
    assert_eq!(world.core(1, 0).wires.counters().closed, 1);
    let later_ns = world.now_ns + 2_000 * MS;
    world.now_ns = later_ns;
    world.until("only that for heartbeats is left", |world| world.core(1, 0).wires.connections() == 1);
    second[0].wires.close();
    assert_eq!((second[0].wires.connections(), second[0].wires.next_ns()), (0, None));
}

#[test]
fn a_peer_that_takes_a_frame_slowly_is_waited_for() {
    let mut world = World::new(1, &[SECRET, SECRET]);
    world.send_message((1, 0), (2, 0), append(1, 11 << 20));
    for _ in 0..200 {
        world.turn();
        // Node 2 reads at most 1 MiB a turn.
        world.now_ns += 400 * MS;
        if !world.core(2, 0).messages.is_empty() {
            break;
        }
    }
    assert_eq!(world.core(2, 0).messages.len(), 1, "{:?}", world.core(1, 0).wires.counters());
    assert!(world.core(1, 0).unreachable.is_empty());
}

#[test]
fn the_kernel_gives_up_a_machine_that_acknowledges_nothing() {
    use rustix::net::sockopt::{socket_keepalive, tcp_keepidle, tcp_keepintvl, tcp_user_timeout};
    let mut world = World::new(2, &[SECRET, SECRET]);
    world.send((1, 1), (2, 1), 4);
    world.until("it has come there", |world| world.commits(2, 1) == [4]);
    for node in [1, 2] {
        let wires = &world.core(node, 1).wires.wires;
        assert!(!wires.is_empty(), "dialled on one side, accepted and handed on on the other");
        for wire in wires.values() {
            let second = Duration::from_secs(1);
            assert_eq!(tcp_user_timeout(&wire.socket), Ok(2_000));
            assert_eq!((tcp_keepidle(&wire.socket), tcp_keepintvl(&wire.socket)), (Ok(second), Ok(second)));
            assert_eq!(socket_keepalive(&wire.socket), Ok(true));
        }
    }
}

/// Counts warnings of this thread.
struct Warnings(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_strangers_write_makes_one_line_a_kind() {
    let count = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let mut complaints = Complaints::default();
    tracing::subscriber::with_default(Warnings(count.clone()), || {
        for stranger in 0..10_000 {
            let found = 0x9e37_79b9_u32.wrapping_mul(stranger);
            let magic = Ending::Refused(Damage::Magic { found }.into());
            complaints.ended(ConnId(u64::from(stranger)), None, None, &magic, 1);
            let theirs = u128::from(found);
            let cluster = Ending::Refused(Refusal::Cluster { ours: 1, theirs });
            complaints.ended(ConnId(u64::from(stranger)), None, None, &cluster, 1);
        }
    });
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn a_stranger_is_called_by_no_nodes_name() {
    let mut peers = Peers::new(local(1, 1, SECRET), CoreId(0), PeerOptions::default());
    let mut other = local(2, 1, SECRET);
    other.cluster = 8;
    let (_, hello) = Handshake::dial(&other, CoreId(0), (NodeId(1), CoreId::ANY), Lane::Log, [1; 32], 0);
    let conn = peers.accepted([2; 32], 0).expect("room");
    peers.received(conn, hello.into(), 0);
    let last = std::iter::from_fn(|| peers.next_output()).last();
    assert!(matches!(last, Some(Output::Close { node: None, .. })), "{last:?}");
}
