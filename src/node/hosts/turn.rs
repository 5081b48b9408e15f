//! The turns of a core's shards, and what comes of them: outcomes, jobs, alarms, the end of the log written down.

use corduroy_shards::{ClockReport, Now, Outputs, PeerMessage, ShardError};

use super::Hosts;
use super::host::{Host, Machine};
use crate::node::error::EXIT_IO;
use crate::node::log;
use crate::node::message::Answer;
use crate::resp::Timing;
use crate::resp::latency::SlowEvent;

/// See the file's head.
#[derive(Default)]
pub struct Turns {
    out: Outputs<Machine>,
    /// What the turns took that have brought no outcome yet.
    ran_ns: u64,
}

impl Turns {
    /// Turns the shards that have something to do, unless other cores have yet to take too much of what they have made.
    /// Hands each outcome to `bring`. Returns whether another turn is due at once.
    pub fn turn_all(&mut self, hosts: &Hosts, now: Now, mut bring: impl FnMut(Answer)) -> bool {
        let mut again = false;
        hosts.is_held_back.set(false);
        for (index, host) in hosts.all.iter().enumerate() {
            if !is_due(host, now) {
                continue;
            }
            if hosts.core.shared.ledger.is_full() {
                hosts.is_held_back.set(true);
                return false;
            }
            again |= self.turn(hosts, index, host, now, &mut bring);
        }
        again
    }

    /// What the shards have for members of their groups on other nodes.
    pub fn take_messages(&mut self) -> impl Iterator<Item = PeerMessage> + use<'_> {
        self.out.messages.drain(..)
    }

    /// Turns one shard and carries out what comes of it.
    fn turn(
        &mut self,
        hosts: &Hosts,
        index: usize,
        host: &Host,
        now: Now,
        bring: &mut impl FnMut(Answer),
    ) -> bool {
        host.dirty.set(false);
        let began_ns = hosts.core.mono_ns();
        let result = host.shard.borrow_mut().turn(now, &mut self.out);
        if let Err(error) = result {
            end_process(host, &error);
        }
        hosts.unpublished.set(true);
        host.wake_at_ns.set(self.out.wake_at_ns.take());
        let (durable, is_marked) = {
            let shard = host.shard.borrow();
            (shard.wal().durable(), shard.wal().is_end_marked())
        };
        host.rest.follow(durable, is_marked, now.mono_ns);
        for (partition, why) in self.out.fenced.drain(..) {
            tracing::error!(shard = host.id.0, partition = partition.0, "partition fenced: {why}");
        }
        self.out.leads.drain(..).for_each(|change| hosts.leads.note(change, now.mono_ns));
        for (ticket, outcome) in self.out.members.drain(..) {
            hosts.transfers.take(ticket, outcome);
            hosts.members_outcome(ticket, outcome).into_iter().for_each(&mut *bring);
        }
        for (partition, entry) in self.out.removed.drain(..) {
            tracing::warn!(
                shard = host.id.0,
                partition = partition.0,
                "entry {entry} has removed the partition's replica from its group; what it has left here is deleted in {} s, or once this \
                 node is to have another member of the group",
                hosts.core.config().removed_keep_s
            );
            hosts.left.note(index, partition, now);
        }
        if let Some(report) = self.out.clock.take() {
            log_clock(host, report);
        }
        self.out.jobs.drain(..).for_each(|job| hosts.add_job(index, job));
        // What the turns since the last outcomes took is shared by those that they brought.
        let turn_ns = hosts.core.mono_ns() - began_ns;
        let latency = &hosts.core.shared.hub.latency;
        latency.note(SlowEvent::ShardTurn, turn_ns, now.wall_ms);
        if let Some(waited_ns) = host.end_of_flush_wait(began_ns + turn_ns) {
            latency.note(SlowEvent::FlushWait, waited_ns, now.wall_ms);
        }
        self.ran_ns += turn_ns;
        let mut ran_ns = 0;
        if !self.out.replies.is_empty() {
            ran_ns = std::mem::take(&mut self.ran_ns) / self.out.replies.len() as u64;
        }
        for (ticket, reply, stages) in self.out.take_replies() {
            host.end(ticket);
            if let Some(stages) = &stages {
                let write_ns = stages.durable_ns.saturating_sub(stages.proposed_ns);
                latency.note(SlowEvent::LogWrite, write_ns, now.wall_ms);
            }
            bring(Answer { ticket, reply, timing: Timing { ran_ns, stages } });
        }
        let again = std::mem::take(&mut self.out.again) || host.dirty.get();
        if again {
            host.dirty.set(true);
        }
        again
    }
}

impl Hosts {
    /// Has the logs that are at rest write down where they end.
    pub fn mark_rests(&self, now: Now) {
        self.all.iter().filter(|host| host.rest.take_due(now.mono_ns)).for_each(|host| {
            // What is under way makes itself heard when it ends.
            if host.shard.borrow().wal().in_flight() == 0 {
                mark_end(host);
            }
        });
    }

    /// Closes the shards, as far as they are; to be called until it returns that all are.
    pub fn close(&self) -> bool {
        for host in &self.all {
            host.shard.borrow_mut().close();
            host.dirty.set(true);
            if host.shard.borrow().is_idle() {
                mark_end(host);
            }
        }
        self.all.iter().all(|host| host.shard.borrow().is_closed())
    }
}

/// Has a shard's log write down how far it is durable, if it has not yet.
fn mark_end(host: &Host) {
    let mut shard = host.shard.borrow_mut();
    if shard.wal().is_end_marked() {
        return;
    }
    if let Err(error) = shard.mark_end() {
        end_process(host, &error);
    }
    host.dirty.set(true);
}

/// Whether a shard has anything to do: a request or completion came, a timer is due, or a write is under way whose
/// completion may lie in the ring already.
fn is_due(host: &Host, now: Now) -> bool {
    host.dirty.get()
        || host.wake_at_ns.get().is_some_and(|at| at <= now.mono_ns)
        || host.shard.borrow().wal().in_flight() > 0
}

/// Says that the wall clock is behind what was written, or that it has caught up.
fn log_clock(host: &Host, report: ClockReport) {
    match report {
        ClockReport::Ahead { by_ms } => tracing::warn!(
            shard = host.id.0,
            "the wall clock is {by_ms} ms behind the times that the log holds: it was set back, or was wrong before. \
             Times to live last as long as they should; EXPIREAT, PEXPIREAT and EXPIRETIME are off by as much until the \
             clocks have come together (INFO: clock_ahead_ms)"
        ),
        ClockReport::Together => {
            tracing::info!(shard = host.id.0, "the wall clock has caught up with the log's times")
        }
    }
}

/// The log or the state is not to be trusted any more: only a restart reads back what the disk holds.
pub(super) fn end_process(host: &Host, error: &ShardError) -> ! {
    tracing::error!(
        shard = host.id.0,
        "{error}; ending the process, a restart reads back what the disk holds"
    );
    log::flush();
    std::process::exit(i32::from(EXIT_IO));
}
