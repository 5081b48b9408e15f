//! Takes a connection's answers in order, records them, and judges whether each can be right.

use crate::conn::{Conn, Health};
use crate::ledger::{self, Finding, Kind, Marks};
use crate::plan::Op;
use crate::recorder::Recorder;
use crate::resp::{self, Reply};
use crate::workload::{Expect, Generator, Pending};

/// What a round of answers came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Judged {
    /// Requests that are no longer on their way.
    pub answers: u64,
    /// The slowest of them, ns.
    pub slowest_ns: u64,
    /// A read-modify-write has its write to send.
    pub has_more_to_send: bool,
}

/// Takes all whole replies in the connection's inbox. Those of requests that started before `warmup_ns` do not count
/// as measurements, but are judged like the others.
pub fn judge_answers(
    conn: &mut Conn,
    generator: &mut Generator,
    recorder: &mut Recorder,
    now_ns: u64,
    warmup_ns: u64,
) -> Judged {
    let mut judged = Judged::default();
    let mut inbox = std::mem::take(&mut conn.inbox);
    let mut used = 0;
    loop {
        let (reply, len) = match resp::parse(inbox.get(used..).unwrap_or_default()) {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(bad) => {
                recorder.violation("not RESP2", bad.to_string());
                conn.health = Health::Closed;
                break;
            }
        };
        used += len;
        let Some(pending) = conn.pending.pop_front() else {
            recorder.violation("answer without a question", format!("{reply:?}"));
            conn.health = Health::Closed;
            break;
        };
        if let Some(second) = judge_one(conn, generator, recorder, &pending, reply) {
            conn.pending.push_back(second);
            judged.has_more_to_send = true;
            continue;
        }
        let latency_ns = now_ns.saturating_sub(pending.start_ns);
        judged.answers += 1;
        judged.slowest_ns = judged.slowest_ns.max(latency_ns);
        if pending.start_ns >= warmup_ns {
            let at_ns = now_ns - warmup_ns;
            match reply {
                Reply::Error(text) => recorder.error(at_ns, latency_ns, text),
                _ => recorder.answer(pending.op, at_ns, latency_ns),
            }
        }
    }
    if used == inbox.len() {
        inbox.clear();
    } else {
        inbox.drain(..used);
    }
    conn.inbox = inbox;
    judged
}

/// Judges one reply; what is acknowledged goes to the ledger. Gives the second half of a read-modify-write.
fn judge_one(
    conn: &mut Conn,
    generator: &mut Generator,
    recorder: &mut Recorder,
    pending: &Pending,
    reply: Reply<'_>,
) -> Option<Pending> {
    let acked = !matches!(reply, Reply::Error(_));
    if pending.op == Op::Mset {
        ack_mset(conn, generator, acked);
    }
    match (pending.expect, reply) {
        (_, Reply::Error(_)) | (Expect::Ok, Reply::Simple(b"OK")) => {}
        (Expect::Int, Reply::Int(count)) => {
            if let Some(tracker) = &mut generator.tracker
                && !tracker.ack_increment(pending.key, u64::try_from(count).unwrap_or(0))
            {
                let marks = tracker.ledger.marks(Kind::Counter, pending.key);
                let example = format!("counter {}: answered {count}, known {marks:?}", pending.key);
                recorder.violation("increment lost or doubled", example);
            }
            return None;
        }
        (Expect::Value | Expect::ValueThenWrite, Reply::Bulk(_) | Reply::Nil) => {
            judge_read(generator, recorder, pending, reply);
            if pending.expect == Expect::ValueThenWrite {
                let high = generator.put_set(&mut conn.out, pending.key);
                return Some(Pending { expect: Expect::Ok, high, ..*pending });
            }
            return None;
        }
        (Expect::Array(want), Reply::Array(got, _)) if want == got => {}
        (expect, reply) => {
            recorder.violation("reply of another type", format!("{expect:?} was answered with {reply:?}"));
            return None;
        }
    }
    if acked
        && pending.expect == Expect::Ok
        && pending.op != Op::Mset
        && let Some(tracker) = &mut generator.tracker
    {
        tracker.ack_value(pending.key, pending.high);
    }
    None
}

fn ack_mset(conn: &mut Conn, generator: &mut Generator, acked: bool) {
    let keys = generator.mset_keys();
    let Some(tracker) = &mut generator.tracker else { return };
    for (key, version) in conn.writes.drain(..keys) {
        if acked {
            tracker.ack_value(key, version);
        }
    }
}

/// A connection reads its own writes: all it had acknowledged, and nothing that it had not sent.
fn judge_read(generator: &Generator, recorder: &mut Recorder, pending: &Pending, reply: Reply<'_>) {
    if generator.tracker.is_none() {
        return;
    }
    let value = match reply {
        Reply::Bulk(value) => Some(value),
        _ => None,
    };
    let marks = Marks { acked: pending.low, sent: pending.high, waiting: 0 };
    match ledger::judge(Kind::Value, pending.key, marks, value) {
        Finding::Fine(_) => {}
        Finding::Lost { found } => recorder.violation(
            "stale read",
            format!("key {}: read version {found} after {} was acknowledged", pending.key, pending.low),
        ),
        Finding::NeverWritten => recorder.violation(
            "read of what was never written",
            format!("key {}: {:?}", pending.key, value.map(String::from_utf8_lossy)),
        ),
    }
}
