//! Attempts at the password.

use std::sync::Arc;

use super::*;
use crate::resp::fake::Fake;
use crate::resp::guesses::{BURST, PER_SECOND};
use crate::resp::{Hub, Wish};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.~";

fn talk(hub: &Arc<Hub>, conn: u64) -> Talk {
    let fake = Fake::new(1);
    *fake.password.borrow_mut() = Some("secret".to_owned());
    Talk::with(fake, Arc::clone(hub), conn)
}

/// How many wrong passwords a wish tells of.
fn wrong(wish: &Wish) -> u64 {
    match wish {
        Wish::ReportGuesses(report) => report.wrong,
        Wish::Look { .. } | Wish::ShutDown => panic!("{wish:?}"),
    }
}

/// What comes when the time is over that it waits for.
fn after_its_pause(talk: &mut Talk) -> String {
    let until_ns = talk.session.waits_until_ns().expect("it is paused");
    talk.fake.clock_ns.set(until_ns);
    talk.session.end_wait(until_ns, &talk.fake);
    String::from_utf8_lossy(&talk.output()).replace("\r\n", "~")
}

#[test]
fn wrong_passwords_are_answered_at_a_rate_over_all_connections_of_an_address() {
    let hub = crate::resp::hub(1);
    let mut talks: Vec<Talk> = (0..200).map(|conn| talk(&hub, conn)).collect();
    let mut answered = 0;
    // Ten seconds, in which each that is answered or refused tries again at once.
    for ms in 0..10_000 {
        for (conn, talk) in talks.iter_mut().enumerate() {
            let now_ns = ms * 1_000_000;
            talk.fake.clock_ns.set(now_ns);
            talk.session.end_wait(now_ns, &talk.fake);
            let line = if conn % 2 == 0 { "AUTH wrong" } else { "HELLO 3 AUTH default wrong" };
            if talk.session.waits_until_ns().is_none() && !talk.session.should_close() {
                answered += talk.say(line).matches("WRONGPASS").count() as u64;
            } else {
                answered += String::from_utf8_lossy(&talk.output()).matches("WRONGPASS").count() as u64;
            }
            if talk.session.should_close() {
                *talk = self::talk(&hub, conn as u64);
            }
        }
    }
    assert_eq!(answered, hub.guesses.denied());
    let permitted = BURST + 10 * PER_SECOND;
    assert!((permitted - 2..=permitted).contains(&answered), "{answered}");
}

#[test]
fn a_right_password_waits_as_a_wrong_one_does_and_what_came_behind_it_follows() {
    let hub = crate::resp::hub(1);
    let mut attacker = talk(&hub, 1);
    (0..BURST).for_each(|_| attacker.check("AUTH wrong", WRONG));
    let reported: Vec<u64> = attacker.session.take_wishes().iter().map(wrong).collect();
    assert_eq!(reported, [1, 10]);
    let mut client = talk(&hub, 2);
    client.check("PING\nAUTH secret\nPING", "-NOAUTH Authentication required.~");
    assert!(client.session.waits_until_ns().is_some() && client.hub.blocked() == 0);
    attacker.check("AUTH wrong", "");
    assert!(attacker.session.waits_until_ns() > client.session.waits_until_ns(), "as they came");
    assert_eq!(after_its_pause(&mut client), "+OK~+PONG~");
    assert_eq!(after_its_pause(&mut attacker), WRONG);
    assert_eq!(hub.guesses.denied(), BURST + 1);
}

#[test]
fn a_password_that_changes_meanwhile_is_the_one_that_counts() {
    let hub = crate::resp::hub(1);
    let mut talk = talk(&hub, 1);
    (0..BURST).for_each(|_| talk.check("AUTH wrong", WRONG));
    talk.check("AUTH later", "");
    *talk.fake.password.borrow_mut() = Some("later".to_owned());
    assert_eq!(after_its_pause(&mut talk), "+OK~");
}

#[test]
fn who_does_not_wait_is_refused_without_a_look_at_the_password() {
    let hub = crate::resp::hub(1);
    let refused = "-OVERLOADED too many wrong passwords came from this address; this one was not looked at, retry after a pause~";
    let mut talks: Vec<Talk> = (0..1000).map(|conn| talk(&hub, conn)).collect();
    let replies: Vec<String> =
        talks.iter_mut().map(|talk| talk.say("AUTH wrong").replace("\r\n", "~")).collect();
    assert_eq!(replies.iter().filter(|reply| *reply == WRONG).count() as u64, BURST);
    let last = talks.last_mut().expect("there are some");
    assert_eq!(replies.last().map(String::as_str), Some(refused));
    assert!(last.session.should_close());
    assert_eq!(hub.guesses.denied(), BURST);
    talk(&hub, 1000).check("AUTH secret", refused);
}

#[test]
fn without_a_password_nothing_is_slowed() {
    let hub = crate::resp::hub(1);
    let mut talk = Talk::with(Fake::new(1), hub, 1);
    talk.check(&"AUTH joe x\n".repeat(1000), &WRONG.repeat(1000));
    assert_eq!(talk.hub.guesses.denied(), 1000);
    assert_eq!(talk.session.take_wishes(), [], "nobody is reported");
    talk.check("CONFIG RESETSTAT", "+OK~");
    assert_eq!(talk.hub.guesses.denied(), 0);
}

#[test]
fn a_password_of_one_blank_is_one() {
    let hub = crate::resp::hub(1);
    let mut talk = talk(&hub, 1);
    *talk.fake.password.borrow_mut() = Some(" ".to_owned());
    talk.check("AUTH \"\"\nAUTH \"  \"\nAUTH \" \"", &format!("{WRONG}{WRONG}+OK~"));
}
