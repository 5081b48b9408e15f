//! Replies in request order, back-pressure, endings.

use super::*;
use crate::resp::fake::{Fake, TIMING, rejected};
use crate::resp::hub;
use corduroy_shards::{Rejection, StorageId};

#[test]
fn replies_keep_the_order_of_requests_whatever_the_order_of_outcomes() {
    for newest_first in [false, true] {
        let mut talk = Talk::new(4);
        talk.fake.in_memory.set(false);
        // Replies were small so far: writes go out beside reads.
        talk.session.reply_size_hint = 64;
        let lines =
            b"SET a 1\r\nPING\r\nPING x\r\nGET a\r\nSET b 2\r\nNOSUCH\r\nGET b\r\nMGET a b\r\nPING y\r\n";
        talk.session.input(lines, &talk.fake);
        assert!(talk.session.output().is_empty());
        assert!(talk.session.in_flight() > 4);
        // Each partition keeps its own order; between them any order may come.
        let mut rest: Vec<_> = talk.fake.submitted.borrow_mut().drain(..).collect();
        rest.sort_by_key(
            |submitted| if newest_first { u64::MAX - submitted.partition.0 } else { submitted.partition.0 },
        );
        talk.fake.submitted.borrow_mut().extend(rest);
        talk.answer(false);
        let text = String::from_utf8(talk.output()).unwrap().replace("\r\n", "~");
        assert_eq!(
            text,
            "+OK~+PONG~$1~x~$1~1~+OK~-ERR unknown command 'NOSUCH', with args beginning with: ~$1~2~*2~$1~1~$1~2~$1~y~"
        );
        assert_eq!(talk.session.in_flight(), 0);
    }
}

#[test]
fn what_another_node_leads_is_sent_there_and_only_what_was_not_done() {
    let not_leader = |storage| rejected(Rejection::NotLeader(PartitionId(2), StorageId(storage)));
    let clustered = |replies: Vec<SessionReply>| {
        let mut talk = Talk::with(Fake::clustered(2), hub(1), 1);
        talk.fake.in_memory.set(false);
        // Only who knows the nodes is sent from one to another.
        talk.say("CLUSTER NODES");
        talk.fake.scripted.borrow_mut().extend(replies);
        talk
    };
    // Slots of the keys themselves, as clients compute them.
    let mut talk = clustered((0..3).map(|_| not_leader(2)).collect());
    talk.check(
        "SET foo 1\nGET bar\nDEL foo",
        "-MOVED 12182 10.0.0.2:7379~-MOVED 5061 10.0.0.2:7379~-MOVED 12182 10.0.0.2:7379~",
    );
    // EXEC names no key: any slot of the partition leads there.
    let mut talk = clustered(vec![not_leader(3)]);
    talk.check("MULTI\nSET bar 1\nEXEC", "+OK~+QUEUED~-MOVED 0 10.0.0.3:7379~");
    // Nobody knows where that storage is; and what may have been logged goes nowhere.
    let mut talk = clustered(vec![not_leader(9), Reply::Unknown]);
    let text = talk.say("SET foo 1\nSET foo 2");
    assert!(text.starts_with("-CLUSTERDOWN partition 2 is led on storage"), "{text}");
    assert!(text.contains("\r\n-UNKNOWNRESULT"), "{text}");
    // A node that is alone has nobody to send them to.
    let mut talk = Talk::new(1);
    talk.fake.scripted.borrow_mut().push_back(not_leader(2));
    assert!(talk.say("SET foo 1").starts_with("-CLUSTERDOWN"));
}

#[test]
fn a_read_behind_own_requests_does_not_take_the_short_way() {
    let mut talk = Talk::new(1);
    talk.check("SET a 1\nGET a\nGET a", "+OK~$1~1~$1~1~");
    assert_eq!(talk.fake.short_ways.get(), 0);
    talk.check("GET a\nGET b", "$1~1~$-1~");
    assert_eq!(talk.fake.short_ways.get(), 2);
}

#[test]
fn every_split_of_the_bytes_gives_the_same_replies() {
    let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n\r\n\r\nGET a\r\n*1\r\n$4\r\nPING\r\nMULTI\r\nINCR n\r\nEXEC\r\nMGET a n\r\nHELLO 3\r\nGET z\r\n*1\r\n$3\r\nfoo!";
    let whole = Talk::new(1).say_bytes(bytes);
    assert!(
        whole.ends_with(b"_\r\n-ERR Protocol error: bulk string is not terminated by CRLF\r\n"),
        "{whole:?}"
    );
    for split in 0..bytes.len() {
        let mut talk = Talk::new(1);
        let mut out = talk.say_bytes(&bytes[..split]);
        out.extend(talk.say_bytes(&bytes[split..]));
        assert_eq!(out, whole, "split at {split}");
        assert!(talk.session.should_close());
    }
    let mut talk = Talk::new(1);
    let mut out = Vec::new();
    bytes.iter().for_each(|byte| out.extend(talk.say_bytes(&[*byte])));
    assert_eq!(out, whole);
}

#[test]
fn parsing_stops_while_too_much_is_in_flight_and_goes_on_after() {
    let mut talk = Talk::new(1);
    let one = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
    let both = [one.as_slice(), b"GETDEL k\r\n"].concat();
    talk.session.input(&both.repeat(500), &talk.fake);
    let window = talk.hub.shares.expected_output() / UNKNOWN_REPLY_BYTES;
    assert_eq!(talk.session.in_flight(), 2 * window, "every second reply may be large");
    talk.answer(false);
    talk.output();
    talk.session.input(&both.repeat(500), &talk.fake);
    assert!(talk.session.in_flight() > 500, "{}: replies have been small", talk.session.in_flight());
    talk.answer(false);
    talk.output();
    talk.session.input(&one.repeat(4000), &talk.fake);
    assert_eq!(talk.session.in_flight(), MAX_IN_FLIGHT, "replies have been small");
    assert!(!talk.session.wants_read());
    talk.answer(false);
    assert!(talk.session.wants_read());
    let out = talk.output();
    let expected: String = (1001..=5000).map(|number| format!(":{number}\r\n")).collect();
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn parsing_stops_while_output_is_unread() {
    let mut talk = Talk::new(1);
    talk.say(&format!("SET big {}", "x".repeat(60_000)));
    talk.session.input(&b"GET big\r\n".repeat(1000), &talk.fake);
    assert!(!talk.session.wants_read());
    assert!(talk.session.output().len() < 2 * OUTPUT_PAUSE_BYTES);
    let mut total = 0;
    while !talk.session.output().is_empty() {
        let half = talk.session.output().len().div_ceil(2);
        talk.session.output_mut().advance(half);
        total += half;
        talk.session.resume(&talk.fake);
    }
    assert_eq!(total, 1000 * (60_000 + "$60000\r\n\r\n".len()));
    assert!(talk.session.wants_read());
}

#[test]
fn parsing_stops_while_replies_wait_behind_another() {
    let mut talk = Talk::new(1);
    let one = talk.say("COMMAND DOCS").len();
    let requests = [b"SET a 1\r\n".to_vec(), b"COMMAND DOCS\r\n".repeat(1000)].concat();
    talk.session.input(&requests, &talk.fake);
    assert!(!talk.session.wants_read());
    assert!(talk.session.output().is_empty());
    let held = talk.session.held.bytes;
    assert!((OUTPUT_PAUSE_BYTES..2 * OUTPUT_PAUSE_BYTES).contains(&held), "{held} bytes");
    // All is answered in the end.
    talk.answer(false);
    let (mut taken, mut total) = (talk.session.output().len(), 0);
    while taken > 0 {
        assert!(taken < 3 * OUTPUT_PAUSE_BYTES);
        total += taken;
        talk.session.output_mut().advance(taken);
        talk.session.resume(&talk.fake);
        taken = talk.session.output().len();
    }
    assert_eq!((total, talk.session.held.bytes), (1000 * one + "+OK\r\n".len(), 0));
    assert!(talk.session.wants_read());
}

#[test]
fn large_replies_narrow_the_window() {
    let mut talk = Talk::new(1);
    talk.fake.in_memory.set(false);
    talk.fake.scripted.borrow_mut().push_back(done(Outcome::Bulk(vec![0; 8 << 20])));
    talk.say_bytes(b"GET big\r\n");
    talk.session.input(&b"GET big\r\n".repeat(100), &talk.fake);
    assert!((1..=4).contains(&talk.session.in_flight()), "{}", talk.session.in_flight());
}

#[test]
fn quit_answers_what_came_before_and_nothing_after() {
    let mut talk = Talk::new(1);
    talk.session.input(b"SET a 1\r\nQUIT\r\nSET a 2\r\n", &talk.fake);
    assert!(!talk.session.should_close());
    talk.answer(false);
    assert!(talk.session.should_close());
    assert_eq!(talk.output(), b"+OK\r\n+OK\r\n");
}

#[test]
fn a_browser_gets_nothing_done() {
    let mut talk = Talk::new(1);
    let out = talk.say("POST / HTTP/1.1\nHost: localhost\n\nSET a 1");
    assert_eq!(out, "-ERR this is not an HTTP server: the connection is closed\r\n");
    assert!(talk.session.should_close() && talk.session.in_flight() == 0);
}

#[test]
fn local_commands_take_a_bounded_number_of_arguments() {
    let mut talk = Talk::new(1);
    let many = " set".repeat(1100);
    talk.check(
        &format!("COMMAND DOCS{many}"),
        "-ERR too many arguments for 'command|docs': the limit is 1024~",
    );
    talk.check(&format!("WATCH{many}"), "-ERR too many watched keys: the limit is 1024~");
    assert!(talk.say(&format!("EXISTS{many}")).starts_with(':'));
}

#[test]
fn refused_and_unknown_requests() {
    let mut talk = Talk::new(1);
    let script = |talk: &Talk, reply| talk.fake.scripted.borrow_mut().push_back(reply);
    script(&talk, rejected(Rejection::DiskFull));
    script(&talk, Reply::Unknown);
    talk.check(
        "SET a 1\nINCR a",
        "-DISKFULL no space left; nothing was written; delete keys or free space on the disk~\
         -UNKNOWNRESULT the request was logged but its result is not known; it may or may not take effect~",
    );
    assert_eq!(talk.hub.totals().errors.len(), 2);
}

#[test]
fn wait_answers_after_the_writes_before_it() {
    let mut talk = Talk::new(1);
    talk.session.input(b"SET a 1\r\nWAIT 0 0\r\nPING\r\n", &talk.fake);
    assert_eq!(talk.session.in_flight(), 1);
    assert!(!talk.session.wants_read());
    talk.answer(false);
    assert_eq!(talk.output(), b"+OK\r\n:0\r\n+PONG\r\n");
    talk.check("WAIT x 0", "-ERR value is not an integer or out of range~");
    talk.check("WAIT 0 -1", "-ERR timeout is negative~");
    talk.check("WAIT 2 9223372036854775807", "-ERR timeout is out of range~");
    talk.check("MULTI\nSET a 1\nWAIT 0 0\nEXEC", "+OK~+QUEUED~+QUEUED~*2~+OK~:0~");
}

#[test]
fn a_wait_for_the_copies_that_a_majority_has_ends_at_once() {
    let mut talk = Talk::with(Fake::clustered(1), hub(1), 1);
    talk.check("SET a 1\nWAIT 0 0\nWAIT 1 0", "+OK~:1~:1~");
    talk.check("MULTI\nWAIT 1 0\nEXEC", "+OK~+QUEUED~*1~:1~");
    talk.check("WAIT 2 1000", "");
    talk.session.end_wait(1_000_000_000, &talk.fake);
    assert_eq!(talk.output(), b":1\r\n", "of more nothing is certain");
}

#[test]
fn a_wait_for_copies_ends_with_its_time() {
    let mut talk = Talk::new(1);
    talk.check("WAIT 1 1000\nPING", "");
    assert_eq!(talk.session.waits_until_ns(), Some(1_000_000_000));
    assert!(!talk.session.wants_read() && talk.hub.blocked() == 1);
    talk.session.end_wait(999_999_999, &talk.fake);
    assert!(talk.session.output().is_empty());
    talk.session.end_wait(1_000_000_000, &talk.fake);
    assert_eq!(talk.output(), b":0\r\n+PONG\r\n");
    assert_eq!(talk.hub.blocked(), 0);
    talk.check(
        "MULTI\nWAIT 1 0\nWAIT x 0\nEXEC",
        "+OK~+QUEUED~+QUEUED~*2~:0~-ERR value is not an integer or out of range~",
    );
    talk.check("WAIT 1 0", "");
    assert_eq!(talk.session.waits_until_ns(), Some(u64::MAX));
    drop(talk.session);
    assert_eq!(talk.hub.blocked(), 0, "its client has left");
}

#[test]
fn slow_commands_are_logged_with_their_stages() {
    let mut talk = Talk::new(1);
    talk.hub.slowlog.set_slower_than_us(100);
    talk.say("CLIENT SETNAME me");
    talk.session.input(b"SET key value\r\n", &talk.fake);
    talk.fake.clock_ns.set(250_000);
    talk.answer(false);
    talk.output();
    talk.check("SLOWLOG LEN", ":1~");
    talk.check(
        "SLOWLOG GET\nSLOWLOG STAGES",
        "*1~*6~:0~:1700000000~:250~*3~$3~SET~$3~key~$5~value~$11~127.0.0.1:1~$2~me~*1~*2~:0~\
         *10~$9~queued_us~:1~$11~proposed_us~:2~$10~durable_us~:200~$10~applied_us~:10~$10~replied_us~:37~",
    );
    talk.check("SLOWLOG RESET\nSLOWLOG LEN\nSLOWLOG GET -1", "+OK~:0~*0~");
    talk.check("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1~");
}

#[test]
fn what_is_answered_on_the_spot_is_logged_where_everything_is() {
    let mut talk = Talk::new(1);
    talk.say("SET key value");
    talk.hub.slowlog.set_slower_than_us(0);
    talk.say("PING\nGET key\nAUTH secret\nCONFIG SET slowlog-max-len 9");
    talk.hub.slowlog.set_slower_than_us(-1);
    let logged = talk.say("SLOWLOG GET").replace("\r\n", "~");
    for words in
        ["$4~PING~", "$3~GET~$3~key~", "$4~AUTH~$10~(redacted)~", "$6~CONFIG~$3~SET~$15~slowlog-max-len~"]
    {
        assert!(logged.contains(words), "{words}: {logged}");
    }
    assert!(!logged.contains("secret"), "{logged}");
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_hold_no_memory(pieces in proptest::collection::vec(
        proptest::collection::vec(proptest::sample::select(
            b"*123$\r\n\r\nGETSMULIXC \"\\\0\xff".to_vec()), 0..200), 1..8)) {
        let mut talk = Talk::new(2);
        let fed: usize = pieces.iter().map(Vec::len).sum();
        for piece in &pieces {
            talk.say_bytes(piece);
        }
        proptest::prop_assert!(talk.session.buffered_bytes() <= 8 * fed + 4096);
    }

    #[test]
    fn arbitrary_requests_never_panic(requests in proptest::collection::vec(
        (0usize..200, proptest::collection::vec("[a-z0-9*{}]{0,6}|GET|NX|EX|COUNT|MATCH|10|-1|ID|DB|SAMPLES", 0..5)), 1..12)) {
        let table = commands::table();
        let mut talk = Talk::new(3);
        for (at, args) in requests {
            let name = table.entries[at % table.entries.len()].full_name.replace('|', " ");
            let line = format!("{name} {}\r\n", args.join(" "));
            let out = talk.say_bytes(line.as_bytes());
            let closes = talk.session.should_close() || talk.session.waits_until_ns().is_some() || talk.session.state.reply_mode != ReplyMode::On || talk.session.state.muted;
            proptest::prop_assert!(closes || !out.is_empty(), "{} got no reply", line);
            proptest::prop_assert_eq!(talk.session.in_flight(), 0);
        }
    }
}

#[test]
fn replies_that_wait_count_with_all_that_they_keep_in_memory() {
    let mut talk = Talk::new(1);
    talk.fake.in_memory.set(false);
    let whole = std::sync::Arc::new(vec![b'v'; 1 << 20]);
    let share = crate::store::SharedBytes::new(std::sync::Arc::clone(&whole), 0..600_000);
    talk.session.input(b"GET a\r\nGET b\r\nGET c\r\n", &talk.fake);
    let tickets: Vec<_> = talk.fake.submitted.borrow_mut().drain(..).map(|sent| sent.ticket).collect();
    let before = talk.session.footprint().total();
    for (n, ticket) in tickets.iter().enumerate().rev() {
        let outcome = if n == 0 { Outcome::Nil } else { Outcome::Shared(share.clone()) };
        talk.session.reply(*ticket, done(outcome), &TIMING, &talk.fake);
        let footprint = talk.session.footprint();
        let kept = (3 - n.max(1)) << 20;
        assert!((kept..kept + 9000).contains(&(footprint.total() - before)), "{footprint:?}");
        assert_eq!(talk.session.shares().count(), 3 - n.max(1));
        assert!(talk.session.shares().all(|share| share.held_len() == 1 << 20));
    }
    assert_eq!(talk.session.held.bytes + talk.session.held.memory, 0);
    assert_eq!(
        talk.session.shares_mark(),
        talk.session.output().shares_mark(),
        "none but what is to be sent"
    );
    talk.output();
    assert_eq!((std::sync::Arc::strong_count(&whole), talk.session.shares().count()), (2, 0));
}
