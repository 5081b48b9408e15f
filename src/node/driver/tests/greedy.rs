//! What greedy clients take from the others: a pass has a bounded part for them.

use super::*;
use crate::node::front::conn::Conn;
use crate::store::SharedBytes;

#[test]
fn what_clients_do_not_read_is_neither_copied_nor_sent_all_at_once() {
    const CLIENTS: usize = 24;
    let mut world = World::with(256, Config { clients_bytes: Bytes(4 << 30), ..Config::default() });
    let value = Arc::new(vec![b'v'; 29 << 20]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| world.connect_with(None)).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"GET large\r\n").expect("sent"));
    let mut tickets = Vec::new();
    while tickets.len() < CLIENTS {
        world.pass();
        world.other.drain(99, |message| match message {
            Message::Request { ticket, .. } => tickets.push(ticket),
            other => panic!("{other:?}"),
        });
    }
    for ticket in tickets {
        let outcome = Outcome::Shared(SharedBytes::new(Arc::clone(&value), 0..value.len()));
        let reply = Reply::Done { lsn: Lsn(1), outcome };
        world.driver.receive(Message::Reply { ticket, reply, ran_ns: 0, stages: None, bytes: 0 });
    }
    let mut good = world.connect();
    let (mut sent, mut passes, mut is_done) = (0, 0, false);
    while !is_done || passes < 20 {
        good.write_all(b"PING\r\n").expect("sent");
        let (mut reply, mut got, before) = ([0; 7], 0, passes);
        while got < reply.len() {
            world.pass();
            passes += 1;
            let in_pass = world.driver.front.sent_bytes.get();
            assert!(in_pass < 2 << 20, "{in_pass} bytes sent in one pass");
            (sent, is_done) = (sent + in_pass, in_pass <= reply.len());
            got += good.read(&mut reply[got..]).unwrap_or(0);
            assert!(passes - before < 8, "the good client waits");
        }
    }
    assert!(sent > 2 << 20, "the sockets took more than a pass sends: {sent}");
    assert_eq!(Arc::strong_count(&value), CLIENTS + 1, "each holds a share, and nobody a copy");
    let copied = |conn: &Rc<Conn>| conn.copied_bytes();
    assert!(world.driver.front.conns.borrow().all().iter().map(copied).sum::<usize>() < CLIENTS * 64);
    // Those that read get all of it.
    let (mut client, mut got, mut buffer) = (clients.remove(0), 0, vec![0; 1 << 20]);
    let wanted = "$30408704\r\n\r\n".len() + value.len();
    let hang = Hang::new();
    while got < wanted && !hang.is_one() {
        got += client.read(&mut buffer).unwrap_or(0);
        world.pass();
    }
    assert_eq!(got, wanted);
}

#[test]
fn clients_that_read_much_take_turns() {
    const CLIENTS: usize = 12;
    let mut world = World::with(256, Config { clients_bytes: Bytes(4 << 30), ..Config::default() });
    let value = Arc::new(vec![b'v'; 24 << 20]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| (world.connect_with(None), 0)).collect();
    clients.iter_mut().for_each(|(client, _)| client.write_all(b"GET large\r\n").expect("sent"));
    let mut tickets = Vec::new();
    while tickets.len() < CLIENTS {
        world.pass();
        world.other.drain(99, |message| match message {
            Message::Request { ticket, .. } => tickets.push(ticket),
            other => panic!("{other:?}"),
        });
    }
    for ticket in tickets {
        let outcome = Outcome::Shared(SharedBytes::new(Arc::clone(&value), 0..value.len()));
        let reply = Reply::Done { lsn: Lsn(1), outcome };
        world.driver.receive(Message::Reply { ticket, reply, ran_ns: 0, stages: None, bytes: 0 });
    }
    // Each takes all that comes, at once: whoever sends first could go on for ever.
    let (mut buffer, hang) = (vec![0; 1 << 20], Hang::new());
    let all = CLIENTS * value.len() / 2;
    while clients.iter().map(|(_, got)| got).sum::<usize>() < all && !hang.is_one() {
        world.pass();
        for (client, got) in &mut clients {
            while let Ok(count) = client.read(&mut buffer) {
                *got += count;
            }
        }
    }
    let got = || clients.iter().map(|(_, got)| *got);
    let (least, most) = (got().min().expect("some"), got().max().expect("some"));
    assert!(least > 0 && most - least <= 2 << 20, "one has {least} bytes, another one {most}");
}

#[test]
fn clients_whose_requests_take_long_share_what_a_pass_has_for_them() {
    const CLIENTS: usize = 60;
    let mut world = World::new(4);
    let mut evil: Vec<_> = (0..CLIENTS).map(|_| world.connect_with(None)).collect();
    let mut good = world.connect();
    evil.iter_mut().for_each(|client| client.write_all(&b"COMMAND DOCS\r\n".repeat(20)).expect("sent"));
    let done = |world: &World| world.driver.core.shared.hub.totals().processed;
    while done(&world) == 0 {
        world.pass();
    }
    // Nobody knew what they were up to; from here on it is known.
    let mut buffer = vec![0; 1 << 20];
    let (mut before, mut most) = (done(&world), 0);
    for n in 0..40 {
        good.write_all(b"PING\r\n").expect("sent");
        let (mut reply, mut got, mut passes) = ([0; 7], 0, 0);
        while got < reply.len() {
            for client in &mut evil {
                while client.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
            world.pass();
            most = most.max(done(&world) - before);
            before = done(&world);
            passes += 1;
            got += good.read(&mut reply[got..]).unwrap_or(0);
            assert!(passes < 8, "request {n} of the good client waits");
        }
    }
    assert!((1..40).contains(&most), "{most} long requests in one pass");
}

#[test]
fn many_connections_are_closed_over_several_passes() {
    const CLIENTS: usize = 300;
    let mut world = World::new(4);
    let mut evil: Vec<_> = (0..CLIENTS).map(|_| world.connect()).collect();
    let mut good = world.connect();
    (0..3).for_each(|_| world.pass());
    let victims = world.driver.core.shared.hub.clients.some_from(1, CLIENTS as u64, CLIENTS);
    let before = world.driver.core.shared.hub.totals().processed;
    for client in &mut evil {
        client.write_all(b"PING\r\n").expect("sent");
    }
    for client in &victims {
        client.kill();
        world.driver.front.look(client.conn);
    }
    good.write_all(b"PING\r\n").expect("sent");
    // Its request is noticed at the end of this pass, and answered in the next.
    world.pass();
    let left = world.driver.front.conns.borrow().len() - 1;
    assert!(left > 0 && left < CLIENTS, "{left} are left after a pass");
    world.pass();
    let mut reply = [0; 7];
    assert_eq!(good.read(&mut reply).expect("answered"), 7);
    (0..3).for_each(|_| world.pass());
    assert_eq!(world.driver.front.conns.borrow().len(), 1);
    let done = world.driver.core.shared.hub.totals().processed - before;
    assert_eq!(done, 1, "what the closed ones sent since was not done");
}

/// Has clients that read nothing be answered with these values.
fn answer_with(world: &mut World, clients: &mut [TcpStream], values: &[Arc<Vec<u8>>]) {
    clients.iter_mut().for_each(|client| client.write_all(b"GET large\r\n").expect("sent"));
    let (mut tickets, hang) = (Vec::new(), Hang::new());
    while tickets.len() < clients.len() && !hang.is_one() {
        world.pass();
        world.other.drain(99, |message| match message {
            Message::Request { ticket, .. } => tickets.push(ticket),
            Message::Ended { .. } => {}
            other => panic!("{other:?}"),
        });
    }
    for (ticket, value) in tickets.into_iter().zip(values.iter().cycle()) {
        let outcome = Outcome::Shared(SharedBytes::new(Arc::clone(value), 0..value.len()));
        let reply = Reply::Done { lsn: Lsn(1), outcome };
        world.driver.receive(Message::Reply { ticket, reply, ran_ns: 0, stages: None, bytes: 0 });
    }
    (0..5).for_each(|_| world.pass());
}

#[test]
fn a_value_that_many_are_sent_counts_once() {
    const LIMIT: usize = 64 << 20;
    let value = || Arc::new(vec![b'v'; 29 << 20]);
    let mut world = World::with(256, Config { clients_bytes: Bytes(LIMIT as u64), ..Config::default() });
    let mut clients: Vec<_> = (0..6).map(|_| world.connect_with(None)).collect();
    let one = value();
    answer_with(&mut world, &mut clients, std::slice::from_ref(&one));
    let ledger = &world.driver.core.shared.ledger;
    assert_eq!((world.driver.front.conns.borrow().len(), ledger.evicted()), (6, 0), "nobody was closed");
    assert!(Arc::strong_count(&one) > 6, "all of them hold it");
    let held = world.driver.front.conns.borrow().all().iter().map(|conn| conn.held_bytes()).sum::<usize>();
    assert!(held > 6 * (29 << 20), "and each is shown with what it holds: {held}");
    assert!((29 << 20..40 << 20).contains(&ledger.total()), "{} bytes", ledger.total());
    // Values of their own are another matter.
    let mut others: Vec<_> = (0..4).map(|_| world.connect_with(None)).collect();
    let (two, three) = (value(), value());
    answer_with(&mut world, &mut others, &[Arc::clone(&two), Arc::clone(&three)]);
    let ledger = &world.driver.core.shared.ledger;
    assert!(ledger.evicted() > 0 && ledger.total() <= LIMIT, "{} bytes", ledger.total());
    let pinned = [&one, &two, &three].into_iter().filter(|value| Arc::strong_count(value) > 1).count();
    assert!((1..=2).contains(&pinned), "{pinned} of three values of 29 MiB are held");
    // All of it is given back.
    drop((clients, others));
    (0..20).for_each(|_| world.pass());
    assert_eq!((world.driver.front.conns.borrow().len(), world.driver.core.shared.ledger.total()), (0, 0));
}

#[test]
fn who_has_come_to_share_what_it_holds_is_not_closed_for_all_of_it() {
    const LIMIT: usize = 64 << 20;
    let value = |bytes| Arc::new(vec![b'v'; bytes]);
    let mut world = World::with(256, Config { clients_bytes: Bytes(LIMIT as u64), ..Config::default() });
    let mut sharers: Vec<_> = (0..6).map(|_| world.connect_with(None)).collect();
    let shared = value(29 << 20);
    // The first one holds it alone when it is counted.
    for sharer in sharers.chunks_mut(1) {
        answer_with(&mut world, sharer, std::slice::from_ref(&shared));
    }
    let mut others: Vec<_> = (0..2).map(|_| world.connect_with(None)).collect();
    answer_with(&mut world, &mut others, &[value(20 << 20), value(20 << 20)]);
    let ledger = &world.driver.core.shared.ledger;
    assert_eq!((ledger.evicted(), world.driver.front.conns.borrow().len()), (1, 7));
    assert!(ledger.total() <= LIMIT, "{} bytes", ledger.total());
    let sharing = Arc::strong_count(&shared) - 1;
    assert_eq!(sharing, 6, "each of them alone would have left it to the others");
}
