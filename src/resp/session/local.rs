//! Requests answered on the spot: by the session itself, or from the memory of the core.

use super::{Backend, Call, Entry, PartitionId, Session, Writer, take};

impl Session {
    /// Answers GET from memory, if the node can.
    pub(super) fn get_now(
        &mut self,
        entry: &Entry,
        partition: PartitionId,
        key: &[u8],
        backend: &dyn Backend,
    ) -> bool {
        let mut out = take(&mut self.out);
        let before = out.len();
        let mut hit = false;
        let mut writer = Writer::new(&mut out, self.resp3);
        let answered = backend.get_now(partition, key, &mut |value| match value {
            Some(value) => {
                hit = true;
                writer.bulk(value);
            }
            None => writer.nil(),
        });
        if self.muted {
            out.truncate(before);
        }
        self.out = out;
        if answered {
            self.stats().count_lookup(hit);
            self.count_local(entry.index, backend);
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
        self.emit(Some(entry.index), |session, out| {
            let out = Writer::new(out.out, out.resp3);
            function(&mut Call { session, backend, args, out, entry });
        });
        self.count_local(entry.index, backend);
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
            self.stats().command(index).add(calls, now.saturating_sub(self.clock_ns));
            self.stats().count_commands(calls);
            self.clock_ns = now;
        }
    }
}
