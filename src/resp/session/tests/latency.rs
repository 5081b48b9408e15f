//! LATENCY.

use super::*;

/// Carries out a SET that takes so long from its bytes to its reply.
fn slow_set(talk: &mut Talk, ms: u64) {
    talk.session.input(b"SET key value\r\n", &talk.fake);
    talk.fake.clock_ns.set(talk.fake.clock_ns.get() + ms * 1_000_000);
    talk.answer(false);
    assert_eq!(talk.output(), b"+OK\r\n");
}

#[test]
fn what_took_longer_than_the_threshold_is_kept_and_shown() {
    let mut talk = Talk::new(1);
    slow_set(&mut talk, 500);
    talk.check("LATENCY LATEST\nLATENCY HISTORY command", "*0~*0~");
    assert!(talk.say("LATENCY DOCTOR").contains("Latency monitoring is disabled"));
    talk.hub.latency.set_threshold_ms(100);
    slow_set(&mut talk, 99);
    assert!(talk.say("LATENCY DOCTOR").contains("no latency spike was observed"));
    slow_set(&mut talk, 250);
    slow_set(&mut talk, 100);
    let at_s = crate::resp::fake::NOW_MS / 1000;
    talk.check("LATENCY LATEST", &format!("*1~*4~$7~command~:{at_s}~:250~:250~"));
    talk.check("LATENCY HISTORY command", &format!("*1~*2~:{at_s}~:250~"));
    talk.check("LATENCY HISTORY COMMAND\nLATENCY HISTORY fast-command", "*0~*0~");
    assert!(
        talk.say("LATENCY GRAPH command")
            .contains("command - high 250 ms, low 250 ms (all time high 250 ms)\n")
    );
    talk.check("LATENCY GRAPH no\0such", "-ERR No samples available for event 'no'~");
    let doctor = talk.say("LATENCY DOCTOR");
    for needle in
        ["1. command: 1 latency spike (average 250ms", "Worst all time event 250ms", "SLOWLOG STAGES"]
    {
        assert!(doctor.contains(needle), "{needle} in {doctor}");
    }
    talk.check("LATENCY RESET fast-command nosuch\nLATENCY RESET command\nLATENCY RESET", ":0~:1~:0~");
    talk.check("LATENCY LATEST", "*0~");
}

#[test]
fn histograms_have_what_redis_writes() {
    let mut talk = Talk::new(1);
    let append = &talk.hub.stats(0);
    let index = commands::table().find(b"append").expect("a command").index;
    // 1 µs, 8 µs and 33 µs are the buckets of Redis for these.
    for ns in [500, 700, 8_200, 30_000, 30_000] {
        append.command(index).keep_times(1, ns, ns);
    }
    let expected = "*2~$6~append~*4~$5~calls~:5~$14~histogram_usec~*6~:1~:2~:8~:3~:33~:5~";
    talk.check("LATENCY HISTOGRAM append", expected);
    talk.check("LATENCY HISTOGRAM nosuch append APPEND|x", expected);
    talk.check("CONFIG SET latency-tracking yes", "+OK~");
    for name in ["CONFIG", "config|set"] {
        let said = talk.say(&format!("LATENCY HISTOGRAM {name}"));
        assert!(said.starts_with("*2\r\n$10\r\nconfig|set\r\n"), "{said}");
    }
    assert!(talk.say("LATENCY HISTOGRAM").contains("latency|histogram"));
    assert!(talk.say("HELLO 3\nLATENCY HISTOGRAM append").ends_with("%1\r\n$6\r\nappend\r\n%2\r\n$5\r\ncalls\r\n:5\r\n$14\r\nhistogram_usec\r\n%3\r\n:1\r\n:2\r\n:8\r\n:3\r\n:33\r\n:5\r\n"));
}
