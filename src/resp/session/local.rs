//! Requests answered on the spot: by the session itself, or from the memory of the core.

use super::{Backend, Call, Entry, PartitionId, Request, Session, Writer, take};
use crate::resp::commands::census::UNITS_A_STEP;
use crate::resp::commands::without_secrets;
use crate::resp::latency::SlowEvent;

impl Session {
    /// Answers the GET that was encoded from memory, if the node can.
    pub(super) fn get_now(&mut self, entry: &Entry, partition: PartitionId, request: &Request<'_>) -> bool {
        let backend = request.backend;
        let mut out = take(&mut self.out);
        let mark = out.mark();
        let mut hit = false;
        let mut writer = Writer::new(&mut out, self.state.resp3);
        let read = (self.read_kind(), self.scratch.as_slice());
        let answered = backend.get_now(partition, self.conn, read, &mut |value| match value {
            Some(value) => {
                hit = true;
                writer.bulk(value);
            }
            None => writer.nil(),
        });
        if self.state.muted {
            out.truncate(mark);
        }
        self.out = out;
        if answered {
            self.trim_scratch();
            self.stats().count_lookup(hit);
            self.count_local(entry.index, backend);
            // A look into memory takes no time that SLOWLOG's clock would see: it is logged where everything is.
            self.note_slow(entry, request.args, 0, backend);
        }
        answered
    }

    /// Runs a command that the session answers by itself.
    pub(super) fn local(
        &mut self,
        entry: &'static Entry,
        function: fn(&mut Call<'_>),
        args: &[&[u8]],
        backend: &dyn Backend,
    ) {
        if !entry.traits.fast {
            self.work(super::UNITS_A_SLOW_REQUEST);
            self.publish(backend);
        }
        let started_ns = (!entry.traits.fast).then(|| backend.mono_ns());
        self.emit(Some(entry.index), |session, out| {
            let out = Writer::new(out.out, out.resp3);
            let (conn, visits) = (&mut session.state, Some(&mut session.census));
            function(&mut Call { conn, backend, args, out, entry, visits });
        });
        self.go_on_census(backend);
        self.count_local(entry.index, backend);
        let took_ns = started_ns.map_or(0, |started_ns| backend.mono_ns().saturating_sub(started_ns));
        self.work(u32::try_from(took_ns / super::NS_A_UNIT).unwrap_or(u32::MAX));
        self.note_slow(entry, args, took_ns, backend);
    }

    /// Goes on with a visit to all connections, as far as the share of work goes.
    pub(super) fn go_on_census(&mut self, backend: &dyn Backend) {
        while self.units > 0
            && let Some(mut census) = self.census.take()
        {
            self.work(UNITS_A_STEP);
            if census.step(&mut self.state, backend.now_ms()) {
                self.census = Some(census);
            } else {
                self.emit(Some(census.index()), |session, out| census.answer(&mut session.state, out));
            }
        }
    }

    /// Logs a request that was answered on the spot, if it was slow.
    #[inline]
    fn note_slow(&self, entry: &Entry, args: &[&[u8]], took_ns: u64, backend: &dyn Backend) {
        self.state.hub.latency.note(SlowEvent::of(entry.traits.fast), took_ns, backend.now_ms());
        if self.state.hub.slowlog.is_slow(took_ns) {
            self.log_slow(&without_secrets(entry, args), took_ns, None, backend);
        }
    }

    /// Counts a command answered on the spot; the time is shared out when the run of its like ends.
    pub(super) fn count_local(&mut self, index: u16, backend: &dyn Backend) {
        if self.run.0 != index {
            self.end_run(backend);
            self.run.0 = index;
        }
        self.run.1 += 1;
    }

    pub(super) fn end_run(&mut self, backend: &dyn Backend) {
        let (index, calls) = take(&mut self.run);
        if calls > 0 {
            let now = backend.mono_ns();
            let took_ns = now.saturating_sub(self.clock_ns);
            self.count_calls(index, calls, took_ns, took_ns);
            self.clock_ns = now;
        }
    }
}
