//! What a connection may make the node hold and do: before the password, in MULTI, by heavy requests, in a turn.

use super::*;
use crate::resp::commands::client::describe;
use crate::resp::fake::TIMING;
use crate::resp::{Opening, hub};

#[test]
fn before_the_password_output_and_input_stay_small() {
    let fake = crate::resp::fake::Fake::new(1);
    *fake.password.borrow_mut() = Some("secret".to_owned());
    let mut talk = Talk::with(fake, hub(1), 1);
    let flood = b"GET a\r\n".repeat(10_000);
    let mut fed = 0;
    while talk.session.wants_read() || talk.session.holds_more_input() {
        let piece = talk.session.read_max_bytes().min(flood.len());
        talk.session.input(&flood[..piece], &talk.fake);
        fed += piece;
        assert!(fed < 100_000, "it is not read on");
    }
    assert!(talk.session.output().len() < 1200, "{} bytes to send", talk.session.output().len());
    assert!(talk.session.buffered_bytes() < 48 << 10, "{} bytes held", talk.session.buffered_bytes());
    // Once it is read, it goes on.
    assert!(talk.output().starts_with(b"-NOAUTH"));
    assert!(!talk.session.output().is_empty());
}

#[test]
fn before_the_password_a_request_is_small() {
    let fake = crate::resp::fake::Fake::new(1);
    *fake.password.borrow_mut() = Some("secret".to_owned());
    let mut talk = Talk::with(fake, hub(1), 1);
    let argument = format!("$10000\r\n{}\r\n", "x".repeat(10_000));
    let reply = talk.say_bytes(format!("*3\r\n$4\r\nAUTH\r\n{argument}{argument}").as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&reply),
        "-ERR Protocol error: request exceeds the limit of 17408 bytes\r\n"
    );
    assert!(talk.session.should_close());
}

#[test]
fn too_long_an_argument_is_refused_and_the_connection_goes_on() {
    let mut talk = Talk::new(1);
    talk.hub.set_max_bulk_bytes(1 << 20);
    talk.session.input(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$40000000\r\n", &talk.fake);
    let piece = vec![b'x'; 1 << 20];
    let mut left = 40_000_000;
    while left > 0 {
        let here = left.min(piece.len());
        talk.session.input(&piece[..here], &talk.fake);
        assert!(talk.session.buffered_bytes() < 100_000, "nothing of it is kept");
        assert!(talk.session.is_midway(), "its time limit holds");
        left -= here;
    }
    let reply = talk.say_bytes(b"\r\nPING\r\n");
    assert_eq!(
        String::from_utf8_lossy(&reply),
        "-ERR an argument of 40000000 bytes exceeds the limit of 1048576 (max_bulk_bytes, proto-max-bulk-len); nothing was \
         done\r\n+PONG\r\n"
    );
    // In a transaction it spoils it.
    talk.check("MULTI", "+OK~");
    talk.say_bytes(format!("*2\r\n$4\r\nECHO\r\n$2000000\r\n{}\r\n", "x".repeat(2_000_000)).as_bytes());
    talk.check("EXEC", "-EXECABORT Transaction discarded because of previous errors.~");
}

#[test]
fn what_a_connection_holds_is_told_by_kind() {
    let field = |list: &str, name: &str| -> usize {
        let found = list.split(' ').find_map(|field| field.strip_prefix(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("{name} in {list}")).parse().expect("a number")
    };
    let mut talk = Talk::new(1);
    let idle = talk.say("CLIENT INFO");
    assert_eq!(field(&idle, "qbuf"), "CLIENT INFO\r\n".len());
    assert_eq!(field(&idle, "argv-mem"), "CLIENT INFO\r\n".len());
    assert_eq!((field(&idle, "multi-mem"), field(&idle, "oll"), field(&idle, "omem")), (0, 0, 0));
    let all = field(&idle, "tot-mem");
    assert!(all > 1000, "a connection is not for nothing: {idle}");
    // Half a request.
    talk.say_bytes(&[b"*2\r\n$4\r\nECHO\r\n$500000\r\n".as_slice(), &vec![b'x'; 300_000]].concat());
    let me = talk.session.client().clone();
    talk.session.publish_footprint(0);
    let half = describe(&me, 0);
    assert_eq!(field(&half, "qbuf"), 300_023);
    assert!(field(&half, "qbuf-free") <= 300_023 && field(&half, "tot-mem") >= all + 300_023, "{half}");
    talk.say_bytes(&[vec![b'x'; 200_000], b"\r\n".to_vec()].concat());
    assert_eq!(field(&describe(&me, 0), "qbuf"), 0);
    // Queued commands.
    talk.say("MULTI");
    talk.say_bytes(format!("*2\r\n$4\r\nECHO\r\n$100000\r\n{}\r\n", "x".repeat(100_000)).as_bytes());
    talk.session.publish_footprint(0);
    let queued = describe(&me, 0);
    assert!((100_000..110_000).contains(&field(&queued, "multi-mem")), "{queued}");
    talk.say("DISCARD");
    // Requests under way, and replies.
    talk.session.input(
        format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$70000\r\n{}\r\n", "x".repeat(70_000)).as_bytes(),
        &talk.fake,
    );
    talk.session.publish_footprint(0);
    assert!((70_000..71_000).contains(&field(&describe(&me, 0), "argv-mem")));
    talk.answer(false);
    talk.output();
    talk.session.input(b"GET k\r\n", &talk.fake);
    talk.session.publish_footprint(123);
    let replied = describe(&me, 0);
    assert_eq!(field(&replied, "obl"), 70_010);
    assert!(field(&replied, "rbs") >= 70_010 && field(&replied, "rbp") >= 70_010, "{replied}");
    assert_eq!((field(&replied, "oll"), field(&replied, "omem"), field(&replied, "argv-mem")), (1, 123, 0));
    talk.output();
    talk.session.publish_footprint(0);
    let read = describe(&me, 0);
    assert_eq!((field(&read, "obl"), field(&read, "oll")), (0, 0));
    assert!(field(&read, "rbs") < 10_000 && field(&read, "tot-mem") < field(&replied, "tot-mem"), "{read}");
}

#[test]
fn names_are_bounded() {
    let mut talk = Talk::new(1);
    let name = "n".repeat(1024);
    talk.check(&format!("CLIENT SETNAME {name}"), "+OK~");
    talk.check(&format!("CLIENT SETNAME {name}x"), "-ERR Client names cannot be longer than 1024 bytes~");
    talk.check(&format!("HELLO 3 SETNAME {name}x"), "-ERR Client names cannot be longer than 1024 bytes~");
    talk.check(
        &format!("CLIENT SETINFO LIB-NAME {name}x"),
        "-ERR lib-name cannot be longer than 1024 bytes~",
    );
    assert!(talk.session.footprint().names >= 1024);
}

#[test]
fn a_heavy_request_is_the_only_one_of_its_connection_under_way() {
    let mut talk = Talk::new(1);
    talk.fake.in_memory.set(false);
    let submitted = |talk: &Talk| talk.fake.submitted.borrow().len();
    talk.session.input(b"SET a 1\r\nKEYS *\r\nSET b 1\r\nGET a\r\n", &talk.fake);
    assert_eq!(submitted(&talk), 1, "it waits for those before it");
    let next = |talk: &mut Talk| {
        let (ticket, reply) = talk.fake.carry_out(false).expect("one is under way");
        talk.session.reply(ticket, reply, &TIMING, &talk.fake);
    };
    next(&mut talk);
    assert_eq!(submitted(&talk), 1, "those behind it wait for it");
    next(&mut talk);
    assert_eq!(submitted(&talk), 2);
    talk.answer(false);
    assert_eq!(talk.output(), b"+OK\r\n*1\r\n$1\r\na\r\n+OK\r\n$1\r\n1\r\n");
    // CLIENT REPLY SKIP stays with the request that it was said for, however often that one is looked at.
    talk.session.input(b"SET a 1\r\nCLIENT REPLY SKIP\r\nKEYS *\r\nPING\r\n", &talk.fake);
    talk.answer(false);
    assert_eq!(talk.output(), b"+OK\r\n+PONG\r\n");
    // A long range and a long value are heavy as well.
    for request in [
        b"SETRANGE k 30000000 x\r\n".to_vec(),
        [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000000\r\n".as_slice(), &vec![b'x'; 2_000_000], b"\r\n"].concat(),
    ] {
        talk.session.input(&request.repeat(3), &talk.fake);
        assert_eq!(submitted(&talk), 1);
        talk.answer(false);
        talk.output();
    }
}

#[test]
fn a_request_that_waits_for_its_turn_is_not_overtaken() {
    let set = |bytes: usize| {
        [format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${bytes}\r\n").as_bytes(), &vec![b'x'; bytes], b"\r\n"]
            .concat()
    };
    let mut judged = [0, 0];
    for bytes in (1 << 20) - 60..=1 << 20 {
        for (before, after) in [("", ""), ("MULTI\r\n", "EXEC\r\n")] {
            let mut talk = Talk::new(1);
            let requests = [before.as_bytes(), &set(bytes), after.as_bytes(), b"EXISTS k\r\n"].concat();
            talk.session.input(&requests, &talk.fake);
            let heavy = Op::is_heavy_bytes(&talk.fake.submitted.borrow()[0].op);
            assert_eq!(talk.fake.submitted.borrow().len(), if heavy { 1 } else { 2 }, "{before:?} {bytes}");
            talk.answer(false);
            let reply = String::from_utf8(talk.output()).expect("text");
            assert!(reply.ends_with("OK\r\n:1\r\n"), "{reply}");
            judged[usize::from(heavy)] += 1;
        }
    }
    assert!(judged.iter().all(|count| *count > 0), "on both sides of the limit: {judged:?}");
}

#[test]
fn a_write_waits_for_reads_that_may_bring_much() {
    let mut talk = Talk::new(1);
    talk.fake.in_memory.set(false);
    talk.session.input(b"GET a\r\nSET a 1\r\nMULTI\r\nSET a 2\r\nEXEC\r\n", &talk.fake);
    assert_eq!(talk.fake.submitted.borrow().len(), 1, "what a read brings is not known at first");
    talk.answer(false);
    assert_eq!(talk.output(), b"$-1\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    // Replies were small for a while.
    for _ in 0..100 {
        talk.say("GET b");
    }
    talk.session.input(b"GET a\r\nSET a 1\r\nGET a\r\nSET a 3\r\n", &talk.fake);
    assert_eq!(talk.fake.submitted.borrow().len(), 4);
    talk.answer(false);
}

#[test]
fn many_connections_are_listed_and_closed_in_several_turns() {
    const MANY: u64 = 5_000;
    let mut talk = Talk::new(1);
    let (hub, fake) = (talk.hub.clone(), crate::resp::fake::Fake::new(1));
    let add = |conn| {
        let address = format!("10.0.{}.{}:{conn}", conn % 2, conn % 200);
        let opening = Opening { conn, core: 0, peer: address, local: String::new(), fd: 9 };
        Session::new(&hub, opening, &fake)
    };
    let mut others: Vec<Session> = (2..2 + MANY).map(add).collect();
    // Turns until the reply is there; what is kept behind it waits.
    let turns = |talk: &mut Talk, line: &str| {
        talk.session.begin_turn(8192);
        talk.session.input(format!("{line}\r\nPING\r\n").as_bytes(), &talk.fake);
        let mut turns = 1;
        while talk.session.output().is_empty() {
            assert!(talk.session.is_unfinished() && !talk.session.wants_read());
            talk.session.begin_turn(8192);
            talk.session.resume(&talk.fake);
            turns += 1;
        }
        assert!(turns < 100);
        talk.session.begin_turn(8192);
        talk.session.resume(&talk.fake);
        // What comes behind a long reply waits until that is taken.
        let replies = [talk.output(), talk.output()].concat();
        (turns, String::from_utf8(replies).unwrap())
    };
    let (taken, reply) = turns(&mut talk, "CLIENT LIST");
    assert!(taken > 1, "it was done in one turn");
    assert_eq!(reply.lines().filter(|line| line.starts_with("id=")).count() as u64, MANY + 1);
    assert!(reply.ends_with("\r\n+PONG\r\n"));
    // Few are found at once, and a transaction is one step.
    assert_eq!(turns(&mut talk, "CLIENT LIST ID 7 3 99999").1.matches("id=").count(), 2);
    assert_eq!(turns(&mut talk, "CLIENT LIST TYPE pubsub").1, "$0\r\n\r\n+PONG\r\n");
    let (_, reply) = turns(&mut talk, "MULTI\r\nCLIENT LIST\r\nEXEC");
    assert!(reply.starts_with("+OK\r\n+QUEUED\r\n*1\r\n$"), "{}", reply.get(..40).unwrap_or_default());
    // Some come and go meanwhile; all that are there from the beginning to the end are seen.
    talk.session.begin_turn(2048);
    talk.session.input(b"CLIENT KILL SKIPME yes\r\n", &talk.fake);
    let gone = others.pop().expect("many");
    drop(gone);
    let late = add(9_999);
    let mut more = 0;
    while talk.session.output().is_empty() {
        more += 1;
        talk.session.begin_turn(2048);
        talk.session.resume(&talk.fake);
    }
    assert!(more > 1);
    assert_eq!(talk.output(), format!(":{}\r\n", MANY - 1).into_bytes());
    assert!(others.iter().all(Session::is_aborted) && !late.is_aborted());
}

/// A long list of names, with one that has expired.
fn names(count: usize) -> Outcome {
    let key = |n: usize| (n as u64 / 2, format!("key:{n}").into_bytes());
    let found: std::collections::BTreeMap<_, _> = (0..count).map(|n| (key(n), u64::MAX)).collect();
    let bytes = found.keys().map(|(_, key)| key.len() + 32).sum();
    let expired = std::iter::once(((0, b"expired".to_vec()), 5));
    Outcome::Names(crate::store::Names::new(found.into_iter().chain(expired).collect(), 5, bytes))
}

#[test]
fn long_lists_of_names_are_written_in_several_turns() {
    const MANY: usize = 50_000;
    let mut talk = Talk::new(2);
    let few = Outcome::Array(vec![Outcome::Bulk(b"other".to_vec())]);
    talk.fake.scripted.borrow_mut().extend([done(names(MANY)), done(few)]);
    talk.session.begin_turn(2048);
    talk.session.input(b"KEYS *\r\nPING\r\n", &talk.fake);
    talk.answer(false);
    let mut turns = 1;
    while talk.session.output().is_empty() {
        assert!(talk.session.is_unfinished() && !talk.session.wants_read(), "it waits for nothing");
        assert!(talk.session.worked() < 2048 + 256, "{} units in one turn", talk.session.worked());
        assert!(talk.session.footprint().total() > MANY * 32, "what is held is counted");
        talk.session.begin_turn(2048);
        talk.session.resume(&talk.fake);
        turns += 1;
    }
    assert!((5..100).contains(&turns), "{turns} turns");
    let mut reply = talk.output();
    talk.session.begin_turn(2048);
    talk.session.resume(&talk.fake);
    reply.extend(talk.output());
    let reply = String::from_utf8(reply).unwrap();
    let mut lines = reply.lines();
    assert_eq!(lines.next(), Some(format!("*{}", MANY + 1).as_str()));
    for n in 0..MANY {
        let key = format!("key:{n}");
        assert_eq!(lines.next(), Some(format!("${}", key.len()).as_str()));
        assert_eq!(lines.next(), Some(key.as_str()));
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["$5", "other", "+PONG"]);
    assert!(talk.session.footprint().total() < 1 << 20, "nothing of it is kept");
    // In a transaction it is one step; nobody waits for one whose client is closed.
    let mut talk = Talk::new(1);
    let transaction = Outcome::Array(vec![names(9), Outcome::Ok]);
    talk.fake.scripted.borrow_mut().push_back(done(transaction));
    talk.session.begin_turn(8192);
    let reply = talk.say("MULTI\nKEYS *\nSET a 1\nEXEC");
    assert!(reply.contains("*2\r\n*9\r\n$5\r\nkey:0") && reply.ends_with("key:8\r\n+OK\r\n"), "{reply}");
    talk.fake.scripted.borrow_mut().push_back(done(names(MANY)));
    talk.session.begin_turn(1);
    talk.session.input(b"KEYS *\r\n", &talk.fake);
    talk.answer(false);
    assert!(talk.session.is_unfinished());
    talk.session.abandon();
    assert!(!talk.session.is_unfinished() && talk.session.output().is_empty());
}

#[test]
fn a_list_that_is_written_in_several_turns_has_not_the_stages_of_other_requests() {
    let mut talk = Talk::new(1);
    talk.hub.slowlog.set_slower_than_us(0);
    talk.fake.scripted.borrow_mut().push_back(done(names(50_000)));
    talk.session.begin_turn(2048);
    talk.session.input(b"KEYS *\r\n", &talk.fake);
    talk.answer(false);
    let mut turns = 1;
    while talk.session.output().is_empty() {
        talk.session.begin_turn(2048);
        talk.session.resume(&talk.fake);
        turns += 1;
    }
    talk.output();
    talk.hub.slowlog.set_slower_than_us(-1);
    talk.session.begin_turn(2048);
    assert!(turns > 1 && talk.say("SLOWLOG GET").contains("KEYS"));
    let stages = talk.say("SLOWLOG STAGES");
    assert!(!stages.contains("queued_us"), "{stages}");
}

#[test]
fn a_turn_has_so_much_work_and_the_rest_waits() {
    let mut talk = Talk::new(1);
    let answered = |talk: &mut Talk| {
        let out = talk.session.take_output().to_vec();
        out.split(|byte| *byte == b'\n').count() - 1
    };
    talk.session.begin_turn(8192);
    talk.session.input(&b"PING\r\n".repeat(10_000), &talk.fake);
    assert_eq!(answered(&mut talk), 8192);
    assert!(talk.session.is_unfinished() && !talk.session.wants_read());
    talk.session.begin_turn(100);
    talk.session.resume(&talk.fake);
    assert_eq!(answered(&mut talk), 100);
    talk.session.begin_turn(8192);
    talk.session.resume(&talk.fake);
    assert_eq!(answered(&mut talk), 10_000 - 8292);
    assert!(!talk.session.is_unfinished() && talk.session.wants_read());
    // What is not known to be quick counts more, and so do long replies.
    talk.session.begin_turn(8192);
    talk.session.input(&b"CLIENT ID\r\n".repeat(100), &talk.fake);
    assert_eq!(answered(&mut talk), 32);
}

#[test]
fn a_share_of_work_that_is_used_up_exactly_stops_nothing() {
    let long = [b"*2\r\n$4\r\nECHO\r\n$4194304\r\n", vec![b'x'; 4 << 20].as_slice(), b"\r\n"].concat();
    let (short, slow) = (b"PING\r\n".to_vec(), b"CLIENT ID\r\n".to_vec());
    for units in [1_u32, 2, 256, 512, 4096, 8192] {
        for (request, cost) in [(&short, 1_u32), (&slow, 257), (&long, 8193)] {
            // As many as the last of them uses up the share.
            let count = units.div_ceil(cost) as usize;
            let mut talk = Talk::new(1);
            for turn in 0..3 {
                talk.session.begin_turn(units);
                talk.session.input(&request.repeat(count), &talk.fake);
                drop(talk.session.take_output());
                talk.session.resume(&talk.fake);
                let session = &talk.session;
                assert_eq!(session.held_input_bytes(), 0, "{count} of {cost} units are done with {units}");
                assert!(
                    session.wants_read(),
                    "turn {turn}: {count} of {cost} units of {units}, and more is read"
                );
                assert!(!session.is_unfinished() && !session.is_midway());
            }
            talk.session.begin_turn(units);
            talk.session.input(&request.repeat(count + 1), &talk.fake);
            drop(talk.session.take_output());
            talk.session.resume(&talk.fake);
            assert!(
                talk.session.is_unfinished() && !talk.session.wants_read(),
                "one more waits for its turn"
            );
            talk.session.begin_turn(1);
            talk.session.resume(&talk.fake);
            drop(talk.session.take_output());
            assert!(!talk.session.is_unfinished() && talk.session.wants_read());
        }
    }
}

#[test]
fn input_takes_no_more_memory_than_its_request_needs() {
    let mut talk = Talk::new(1);
    talk.session.input(b"*2\r\n$4\r\nECHO\r\n$20000000\r\n", &talk.fake);
    let piece = vec![b'x'; 64 << 10];
    let mut came = 0;
    while came + piece.len() < 20_000_000 {
        talk.session.input(&piece, &talk.fake);
        came += piece.len();
        let held = talk.session.buffered_bytes();
        assert!(held <= (2 * came + 1000).min(20_000_100), "{held} bytes held of {came}");
    }
}

#[test]
fn whoever_came_before_the_password_was_removed_is_let_in() {
    let fake = crate::resp::fake::Fake::new(1);
    *fake.password.borrow_mut() = Some("secret".to_owned());
    let mut talk = Talk::with(fake, hub(1), 1);
    talk.check("GET a", "-NOAUTH Authentication required.~");
    // Half a request has come that only a client with the password may send.
    let long = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$20000\r\n{}\r\n", "x".repeat(20_000));
    let (first, rest) = long.as_bytes().split_at(12);
    talk.session.input(first, &talk.fake);
    *talk.fake.password.borrow_mut() = None;
    assert_eq!(talk.say_bytes(rest), b"+OK\r\n");
    talk.check("AUTH default x\nEXISTS a", "+OK~:1~");
    // As one that came while there was none.
    *talk.fake.password.borrow_mut() = Some("other".to_owned());
    talk.check("EXISTS a", ":1~");
}
