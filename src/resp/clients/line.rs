//! A connection's line of CLIENT LIST.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Client, lock};

impl Client {
    /// Writes its line of CLIENT LIST, as Redis 7.2 does, without a line end, to the end of a text. `last`: the name of the
    /// command that it sent last.
    pub fn describe_to(&self, line: &mut String, last: &str, now_ms: u64) {
        let names = lock(&self.names);
        let queued = self.queued.load(Relaxed);
        let mut flags = String::new();
        for (flag, set) in [
            ('b', self.blocked.load(Relaxed)),
            // Both ends of a Unix socket bear its path; no other connection has one address twice.
            ('U', self.addr == self.local),
            ('x', queued != u64::MAX),
            ('e', self.no_evict.load(Relaxed)),
            ('T', self.no_touch.load(Relaxed)),
            ('A', self.is_killed()),
        ] {
            if set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        write!(
            line,
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi={}",
            self.id,
            self.addr,
            self.local,
            self.fd,
            names.name,
            self.age_ms(now_ms) / 1000,
            now_ms.saturating_sub(self.last_ms()) / 1000,
            queued as i64,
        )
        .expect("writing to a string cannot fail");
        let of = |figure: &AtomicUsize| figure.load(Relaxed);
        let memory = &self.memory;
        let is_behind = of(&memory.unsent) > 0;
        write!(
            line,
            " qbuf={} qbuf-free={} argv-mem={} multi-mem={} rbs={} rbp={} obl={} oll={} omem={} tot-mem={} events={} \
             cmd={last} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            of(&memory.input),
            of(&memory.input_free),
            of(&memory.arguments),
            of(&memory.queued),
            of(&memory.output_reserved),
            of(&memory.output_peak),
            of(&memory.output),
            u8::from(is_behind),
            of(&memory.unsent),
            of(&memory.total),
            if is_behind { "rw" } else { "r" },
            if self.resp3.load(Relaxed) { 3 } else { 2 },
            names.lib_name,
            names.lib_ver,
        )
        .expect("writing to a string cannot fail");
    }
}
