//! A core without shards, beside another one: rings that run full, sockets that run full, and what wakes a sleeper.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use corduroy_shards::forward::End;
use corduroy_shards::runtime::{Doorbell, Endpoint, Listener, Mesh};
use corduroy_shards::{Kind, PartitionId, Reply, StateMachine, Ticket, wal::Lsn};
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::*;
use crate::config::Config;
use crate::config::value::Bytes;
use crate::node::address::{Address, Ends};
use crate::node::message::Message;
use crate::node::shared::Shared;
use crate::store::{Binding, HashSeed, LsmLevel, LsmShared, OWNER_BYTES, Options, Outcome, Store};

mod greedy;

/// The last of two cores or more, whose shards are all on core 0; that one is played by the test.
struct World {
    other: Endpoint<Message>,
    /// Cores between the two.
    third: Vec<Endpoint<Message>>,
    driver: Driver,
    listener: Listener,
    _bells: Vec<Arc<Doorbell>>,
}

/// Tells a test that waits in vain from one whose machine is slow.
struct Hang(Instant);

fn founded() -> Founding {
    let mut founding = Founding::new(drop, 0);
    founding.look(0, || true);
    founding
}

impl Hang {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn is_one(&self) -> bool {
        self.0.elapsed() > Duration::from_secs(20)
    }
}

impl World {
    fn new(ring: usize) -> Self {
        Self::with(ring, Config::default())
    }

    fn with(ring: usize, config: Config) -> Self {
        Self::among(2, ring, config)
    }

    fn among(cores: usize, ring: usize, config: Config) -> Self {
        let shared = Shared::of_test(cores, config);
        let bells = shared.bells.clone();
        let mut ends = Mesh::endpoints(&bells, ring);
        let (mine, other) = (ends.pop().expect("two"), ends.remove(0));
        shared.begin_serving();
        let core = Core::new(shared, mine.core()).expect("a core");
        let hosts = Rc::new(Hosts::new(Rc::clone(&core), mine, Vec::new()));
        let front = Front::new(Rc::clone(&core), Rc::clone(&hosts), Vec::new());
        // Nothing listens: the test brings the connections.
        let driver = Driver { phase: Phase::Serving, ..Driver::new(core, hosts, front, None, founded()) };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        Self { other, third: ends, driver, listener, _bells: bells }
    }

    /// A client's end of a new connection whose sockets hold little.
    fn connect(&self) -> TcpStream {
        self.connect_with(Some(8 << 10))
    }

    /// The same, whose sending socket holds so much; `None`: as much as the system lets it.
    fn connect_with(&self, send_buffer: Option<usize>) -> TcpStream {
        let address = self.listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).expect("connect");
        let (socket, peer) = loop {
            match self.listener.try_accept() {
                Ok(accepted) => break accepted,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        };
        if let Some(bytes) = send_buffer {
            set_socket_send_buffer_size(socket.as_fd(), bytes).expect("set");
        }
        self.driver.core.shared.connections.fetch_add(1, Ordering::Relaxed);
        let ends = Ends { peer: peer.map(Address::Tcp), local: None };
        self.driver.front.open(socket, &ends);
        client.set_nonblocking(true).expect("set");
        client
    }

    fn pass(&mut self) {
        let again = self.driver.pass();
        // Never sleeps: the test looks at what would have ended the sleep by itself.
        let _ = again;
        self.driver.wait(true).expect("epoll");
    }

    /// What core 0 has received, by request number or connection.
    fn received(&mut self, max: usize) -> Vec<u64> {
        let mut got = Vec::new();
        self.other.drain(max, |message| match message {
            Message::Request { ticket, .. } => got.push(ticket.seq),
            Message::Look { conn } | Message::Ended { conn, .. } => got.push(conn),
            Message::Peer(_) | Message::PeerSeen { .. } => unreachable!("the node is alone"),
            Message::Reply { ticket, .. } => got.push(ticket.seq),
        });
        got
    }
}

#[test]
fn messages_keep_their_order_when_a_ring_runs_full() {
    let mut world = World::new(4);
    (0..7).for_each(|conn| world.driver.hosts.links.post(0, Message::Look { conn }));
    assert!(world.driver.hosts.links.is_congested());
    assert_eq!(world.received(2), [0, 1]);
    // There is room in the ring now, and others wait for it already.
    (7..9).for_each(|conn| world.driver.hosts.links.post(0, Message::Look { conn }));
    let mut got = Vec::new();
    for _ in 0..9 {
        world.driver.hosts.links.flush();
        got.extend(world.received(1));
    }
    assert_eq!(got, [2, 3, 4, 5, 6, 7, 8], "in order, and none twice or never");
    assert!(!world.driver.hosts.links.is_congested());
}

#[test]
fn connections_are_read_again_when_a_full_ring_has_room() {
    const REQUESTS: usize = 100;
    let mut world = World::new(4);
    let mut client = world.connect();
    client.write_all(&b"SET k v\r\n".repeat(REQUESTS)).expect("sent");
    while !world.driver.hosts.links.is_congested() {
        world.pass();
    }
    // It comes while nothing is read, and no other event will tell of it.
    client.write_all(&b"SET k v\r\n".repeat(REQUESTS)).expect("sent");
    (0..50).for_each(|_| world.pass());
    let mut got = Vec::new();
    for _ in 0..20 * REQUESTS {
        got.extend(world.received(3));
        world.pass();
    }
    assert_eq!(got.len(), 2 * REQUESTS);
    assert!(got.is_sorted(), "{got:?}");
}

#[test]
fn what_is_posted_outside_of_a_pass_is_sent_by_the_next_one_which_comes_at_once() {
    let mut world = World::new(4);
    world.driver.core.take_woken();
    world.driver.hosts.links.post(0, Message::Look { conn: 7 });
    assert!(world.driver.core.take_woken(), "or it would lie there until something else happens");
    world.other.bell().prepare_sleep();
    let before = world.other.bell().wakes();
    world.driver.pass();
    assert_eq!(world.other.bell().wakes(), before + 1, "a pass wakes who was sent something");
    assert_eq!(world.received(9), [7]);
}

#[test]
fn a_core_does_not_sleep_beside_work() {
    let mut world = World::new(4);
    let bell = Arc::clone(world.driver.hosts.links.bell());
    let before = bell.wakes();
    assert!(world.driver.hosts.may_sleep());
    world.other.send(1, Message::Look { conn: 1 }).expect("room");
    world.other.flush();
    assert_eq!(bell.wakes(), before + 1, "whoever is about to sleep is rung");
    // Rung or not: what came before it said so is found by the second look.
    bell.awake();
    assert!(!world.driver.hosts.may_sleep(), "a message is there");
    bell.awake();
    world.driver.take_messages();
    assert!(world.driver.hosts.may_sleep());
    // The same for outcomes that others have yet to take.
    world.driver.hosts.is_held_back.set(true);
    assert!(!world.driver.hosts.may_sleep(), "there is room for outcomes again");
    world.driver.core.shared.ledger.send_outcome(world.driver.core.shared.ledger.limit());
    assert!(world.driver.hosts.may_sleep(), "there is none");
    let limit = world.driver.core.shared.ledger.limit();
    world.driver.receive(reply(NOBODY, limit));
    assert_eq!(bell.wakes(), before + 2, "the last one that was in the way has rung all sleepers");
}

#[test]
fn a_job_that_ends_while_a_core_goes_to_sleep_is_seen() {
    let world = World::new(4);
    let hosts = &world.driver.hosts;
    let folder = tempfile::tempdir().expect("a folder");
    let binding = Binding { owner: [0; OWNER_BYTES], may_adopt: true };
    let disk = LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 32), &binding).expect("opens");
    let mut store = Store::open(disk, Options::with_memory(1 << 20, HashSeed([1, 2])), &[]).expect("opens");
    let mut jobs = Vec::new();
    store.retry();
    store.take_jobs(&mut jobs);
    hosts.add_job(0, jobs.pop().expect("a look at the room"));
    let mut taken = None;
    hosts.jobs.start(|_, task| {
        taken = Some(task);
        Ok(())
    });
    let bell = Arc::clone(hosts.links.bell());
    let before = bell.wakes();
    assert!(hosts.may_sleep());
    taken.expect("it was handed over")();
    assert_eq!(bell.wakes(), before + 1, "its end wakes a sleeper");
    // Had it ended a moment before, nobody would have been rung: the second look finds it.
    bell.awake();
    assert!(!hosts.may_sleep(), "a result is there");
    bell.awake();
    hosts.take_jobs_done();
    assert!(hosts.may_sleep() && !hosts.jobs.has_done());
    assert_eq!(bell.wakes(), before + 1);
}

const NOBODY: u64 = 1 << 48 | 0xffff;

fn reply(conn: u64, bytes: usize) -> Message {
    let reply = Reply::Done { lsn: Lsn(1), outcome: Outcome::Ok };
    Message::Reply { ticket: Ticket { conn, seq: 0 }, reply, ran_ns: 0, stages: None, bytes }
}

#[test]
fn a_session_goes_on_when_a_full_socket_has_room() {
    // More than a session may have unread, and than both sockets hold.
    const MESSAGE_BYTES: usize = 8 << 10;
    const REQUESTS: usize = 400;
    let mut world = World::new(4);
    let client = world.connect();
    let request = [b"ECHO ".as_slice(), &vec![b'x'; MESSAGE_BYTES], b"\r\n"].concat();
    let (batch, mut sent) = (request.repeat(REQUESTS), 0);
    while sent < batch.len() {
        match (&client).write(&batch[sent..]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        world.pass();
    }
    (0..50).for_each(|_| world.pass());
    let wanted = REQUESTS * (MESSAGE_BYTES + "$8192\r\n\r\n".len());
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    let hang = Hang::new();
    while got < wanted && !hang.is_one() {
        match (&client).read(&mut buffer) {
            Ok(count) => got += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        world.pass();
    }
    assert_eq!(got, wanted, "every reply comes, however slowly they are read");
}

#[test]
fn one_clients_work_is_shared_out_over_passes() {
    const REQUESTS: usize = 3000;
    let mut world = World::new(4);
    let (mut greedy, mut good) = (world.connect(), world.connect());
    greedy.write_all(&b"CLIENT ID\r\n".repeat(REQUESTS)).expect("sent");
    let done = |world: &World| world.driver.core.shared.hub.totals().processed;
    while done(&world) == 0 {
        world.pass();
    }
    let first = done(&world);
    assert!(first <= 64, "{first} requests that may take long in one pass");
    // The good client is served by the passes in between, one request each.
    let mut passes = 0;
    for n in 1..=20 {
        good.write_all(b"PING\r\n").expect("sent");
        let mut reply = [0; 7];
        let mut got = 0;
        while got < reply.len() {
            world.pass();
            passes += 1;
            if let Ok(count) = good.read(&mut reply) {
                got += count;
            }
            assert!(passes <= 4 * n, "{passes} passes for {n} requests");
        }
    }
    // Its end of sending is no end of what it has sent.
    greedy.shutdown(std::net::Shutdown::Write).expect("shut");
    let last = done(&world) - 20;
    assert!(last < REQUESTS as u64, "the greedy one was not done before");
    let (mut got, mut buffer) = (0, [0; 4096]);
    while got < REQUESTS * 4 {
        world.pass();
        got += (&greedy).read(&mut buffer).unwrap_or(0);
    }
    assert_eq!(done(&world), 20 + REQUESTS as u64);
}

#[test]
fn before_the_password_a_connection_holds_little() {
    let mut config = Config::default();
    config.requirepass.0 = "secret".into();
    let mut world = World::with(4, config);
    let client = world.connect();
    // Far more than sockets hold; no reply is read.
    let batch = b"GET a\r\n".repeat(1 << 20);
    let (mut sent, mut blocked) = (0, 0);
    while sent < batch.len() && blocked < 200 {
        match (&client).write(&batch[sent..]) {
            Ok(count) => (sent, blocked) = (sent + count, 0),
            Err(_) => blocked += 1,
        }
        world.pass();
        let held =
            world.driver.front.conns.borrow().all().iter().map(|conn| conn.held_bytes()).sum::<usize>();
        assert!(held < 64 << 10, "{held} bytes held");
    }
    assert!(blocked > 0, "it is not read on");
}

#[test]
fn the_connection_that_holds_the_most_is_closed_when_all_hold_too_much() {
    let config = Config { clients_bytes: Bytes(4 << 20), ..Config::default() };
    let mut world = World::with(4, config);
    let clients: Vec<_> = (0..6).map(|_| world.connect()).collect();
    let half = |bytes: usize| {
        [format!("*2\r\n$4\r\nECHO\r\n${}\r\n", 2 * bytes).into_bytes(), vec![b'x'; bytes]].concat()
    };
    // Requests that never end, of one MiB but for one of two.
    for (n, client) in clients.iter().enumerate() {
        let bytes = half(if n == 3 { 2 << 20 } else { 1 << 20 });
        let (mut sent, hang) = (0, Hang::new());
        while sent < bytes.len() {
            match (&*client).write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => assert!(!hang.is_one()),
                // It is the one that was closed.
                Err(_) => break,
            }
            world.pass();
            let total = world.driver.core.shared.ledger.total();
            assert!(total <= (4 << 20) + (128 << 10), "{total} bytes held");
        }
        (0..50).for_each(|_| world.pass());
    }
    let evicted = world.driver.core.shared.ledger.evicted();
    assert!((2..6).contains(&evicted), "{evicted} closed");
    let mut byte = [0];
    let is_closed = |client: &TcpStream, byte: &mut [u8; 1]| {
        (&*client).read(byte).map_err(|e| e.kind()) != Err(ErrorKind::WouldBlock)
    };
    assert!(is_closed(&clients[3], &mut byte), "the largest went first");
    let open = clients.iter().filter(|client| !is_closed(client, &mut [0])).count();
    assert_eq!(open as u64, 6 - evicted);
}

#[test]
fn heavy_requests_are_told_by_their_session_and_others_come_between() {
    let mut world = World::new(64);
    let (mut evil, mut good) = (world.connect(), world.connect());
    evil.write_all(&b"KEYS *\r\n".repeat(5)).expect("sent");
    let mut requests = Vec::new();
    while requests.is_empty() {
        world.pass();
        world.other.drain(9, |message| requests.push(message));
    }
    good.write_all(&b"SET k v\r\n".repeat(3)).expect("sent");
    while requests.len() < 4 {
        world.pass();
        world.other.drain(9, |message| requests.push(message));
    }
    (0..20).for_each(|_| world.pass());
    world.other.drain(9, |message| requests.push(message));
    let kinds: Vec<Kind> = requests
        .iter()
        .map(|message| match message {
            Message::Request { kind, partition, .. } => {
                assert_eq!(*partition, PartitionId(2));
                *kind
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [Kind::Read, Kind::Write, Kind::Write, Kind::Write], "one heavy request a connection");
}

#[test]
fn what_waits_of_a_closed_connection_is_forgotten_wherever_it_may() {
    let mut world = World::among(3, 64, Config::default());
    let (mut heavy, mut light, mut idle) = (world.connect(), world.connect(), world.connect());
    heavy.write_all(b"KEYS *\r\n").expect("sent");
    light.write_all(b"SET k v\r\n").expect("sent");
    idle.write_all(b"WAIT 1 3600000\r\n").expect("sent");
    let mut requests = Vec::new();
    while requests.len() < 2 || world.driver.front.waits.next_ns().is_none() {
        world.pass();
        world.other.drain(9, |message| requests.push(message));
    }
    let asker = requests.iter().find_map(|message| match message {
        Message::Request { ticket, kind: Kind::Read, .. } => Some(ticket.conn),
        _ => None,
    });
    let mut told = Vec::new();
    let conns = world.driver.front.conns.borrow().all();
    conns.iter().for_each(|conn| world.driver.front.close(conn));
    world.pass();
    world.other.drain(9, |message| told.push(message));
    let closed: Vec<_> = told
        .iter()
        .map(|message| match message {
            Message::Ended { conn, end: End::Closed } => Some(*conn),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(closed, [asker], "the other core is told, of a heavy request alone");
    assert_eq!(world.driver.front.waits.next_ns(), None, "nothing is waited for");
    // Whether a copy is heavy, only the other core knows.
    let mut copier = world.connect();
    copier.write_all(b"COPY a b\r\n").expect("sent");
    let mut messages = Vec::new();
    while messages.is_empty() {
        world.pass();
        world.other.drain(9, |message| messages.push(message));
    }
    let conns = world.driver.front.conns.borrow().all();
    conns.iter().for_each(|conn| world.driver.front.close(conn));
    world.pass();
    world.other.drain(9, |message| messages.push(message));
    assert!(
        matches!(messages[..], [Message::Request { .. }, Message::Ended { end: End::Closed, .. }]),
        "{messages:?}"
    );
    world.third.iter_mut().for_each(|end| {
        end.drain(9, |message| panic!("a core that was asked for nothing got {message:?}"));
    });
}

#[test]
fn a_core_whose_bit_is_that_of_another_tells_itself_nothing() {
    let mut world = World::among(65, 64, Config::default());
    let mut heavy = world.connect();
    heavy.write_all(b"KEYS *\r\n").expect("sent");
    let mut messages = Vec::new();
    while messages.is_empty() {
        world.pass();
        world.other.drain(9, |message| messages.push(message));
    }
    let conns = world.driver.front.conns.borrow().all();
    conns.iter().for_each(|conn| world.driver.front.close(conn));
    world.pass();
    world.other.drain(9, |message| messages.push(message));
    assert!(
        matches!(messages[..], [Message::Request { .. }, Message::Ended { end: End::Closed, .. }]),
        "{messages:?}"
    );
}

#[test]
fn whole_requests_that_wait_for_a_slow_reader_are_not_half_sent() {
    const REQUESTS: usize = 400;
    let mut world = World::new(4);
    let client = world.connect();
    let batch = [b"ECHO ".as_slice(), &vec![b'x'; 8 << 10], b"\r\n"].concat().repeat(REQUESTS);
    let (mut sent, mut blocked) = (0, 0);
    while sent < batch.len() && blocked < 200 {
        match (&client).write(&batch[sent..]) {
            Ok(count) => (sent, blocked) = (sent + count, 0),
            Err(_) => blocked += 1,
        }
        world.pass();
    }
    (0..50).for_each(|_| world.pass());
    let conns = world.driver.front.conns.borrow().all();
    let conn = conns.first().expect("one");
    assert!(conn.unsent_bytes() > 0 && conn.session.borrow().held_input_bytes() > 0, "it is a slow reader");
    assert_eq!(conn.partial.get(), None, "no time limit runs");
}
