//! A play of one shard: its replicas over a log in memory, with a small key-value state machine (`tests/common/mod.rs`).
//!
//! Nothing happens by itself: `turn` is one turn of the shard, `settle` as many as bring something. The disk ends what it is
//! given at once, unless it is told to hold.

use corduroy_shards::{Kind, Limits, Origin, PartitionId, ShardOptions};

use crate::Lines;
use crate::common::{Got, World, small_wal};
use crate::words::Words;

#[derive(Default)]
pub struct Play {
    world: Option<World>,
    /// Outcomes that were printed.
    printed: usize,
    reported: usize,
}

impl Play {
    pub fn new() -> Self {
        Self::default()
    }

    /// What stands behind a colon is the operation, as the state machine reads it.
    pub fn run(&mut self, command: &str) -> Lines {
        let (command, op) = command.split_once(" : ").unwrap_or((command, ""));
        let mut words = Words::of(command);
        let of = &mut words;
        let printed = match of.name.as_str() {
            "open" => self.open(of),
            "turn" => self.turns(1),
            "settle" => self.settle(),
            "write" => self.request(of, Kind::Write, op),
            "read" => self.request(of, Kind::Read, op),
            "read-now" => self.read_now(of, op),
            "disk" => self.disk(of),
            "jobs" => self.jobs(),
            "flush" => self.flush(),
            "alarm" => self.alarm(of),
            "advance" => self.advance(of),
            "set-clock-back" => self.set_clock_back(of),
            "remove" => self.remove(of),
            "add" => self.add(of),
            "restart" => self.restart(of),
            "log" => self.log(of),
            "state" => self.state(of),
            other => Err(format!("there is no command {other:?}")),
        };
        let lines = printed?;
        words.end()?;
        Ok(lines)
    }

    fn world(&mut self) -> Result<&mut World, String> {
        self.world.as_mut().ok_or_else(|| "no shard is open".to_owned())
    }

    /// `open partitions=2..=3 [requests=N] [apply=N]`: of a partition so many requests may wait, in a turn so many operations
    /// are applied. A second frame starts beside one under way, however small.
    fn open(&mut self, of: &mut Words) -> Lines {
        let (first, last) = of.range("partitions")?;
        let partitions: Vec<_> = (first..=last).map(PartitionId).collect();
        let mut limits = Limits { second_frame_bytes: 0, ..Limits::default() };
        if let Some(requests) = of.number_if_any("requests")? {
            limits.partition_requests = requests as usize;
        }
        if let Some(ops) = of.number_if_any("apply")? {
            (limits.apply_ops, limits.apply_slice_ops) = (ops as usize, ops as usize);
        }
        let options = ShardOptions { limits, ..ShardOptions::default() };
        self.world = Some(World::with(options, small_wal(), &partitions));
        Ok(Vec::new())
    }

    fn turns(&mut self, count: usize) -> Lines {
        self.world()?.turns(count);
        Ok(self.news())
    }

    fn settle(&mut self) -> Lines {
        let world = self.world()?;
        let holds = world.disk.pending() > 0;
        if holds {
            world.turns(20)
        } else {
            world.settle()
        }
        Ok(self.news())
    }

    /// What came out since it was printed last.
    fn news(&mut self) -> Vec<String> {
        let Some(world) = &self.world else { return Vec::new() };
        let mut lines = Vec::new();
        for (conn, seq) in world.order.get(self.printed..).unwrap_or_default() {
            let outcome = match world.got(*conn, *seq) {
                Some(Got::Done(lsn, value)) => format!("{value} (entry {lsn})"),
                Some(Got::Rejected(why)) => format!("rejected: {why}"),
                Some(Got::Unknown) => "unknown".to_owned(),
                None => unreachable!("it is among the outcomes"),
            };
            lines.push(format!("{conn}/{seq}: {outcome}"));
        }
        let fenced = world.fenced.get(self.reported..).unwrap_or_default();
        lines.extend(fenced.iter().map(|(partition, why)| format!("partition {partition} is fenced: {why}")));
        (self.printed, self.reported) = (world.order.len(), world.fenced.len());
        let (writes, jobs) = (world.disk.pending_writes(), world.jobs.len());
        lines.extend((writes > 0).then(|| format!("writes under way: {writes}")));
        lines.extend((jobs > 0).then(|| format!("jobs to do: {jobs}")));
        lines
    }

    /// `write partition=N conn=N seq=N : OPERATION`.
    fn request(&mut self, of: &mut Words, kind: Kind, op: &str) -> Lines {
        let (partition, conn, seq) =
            (PartitionId(of.number("partition")?), of.number("conn")?, of.number("seq"));
        if op.is_empty() {
            return Err("no operation follows, behind a colon".to_owned());
        }
        self.world()?.request(partition, conn, seq?, kind, op);
        Ok(Vec::new())
    }

    /// `read-now partition=N conn=N : OPERATION`: without a turn, if that can be.
    fn read_now(&mut self, of: &mut Words, op: &str) -> Lines {
        let (partition, conn) = (PartitionId(of.number("partition")?), of.number("conn")?);
        let answer = self.world()?.read_now(partition, conn, op);
        Ok(vec![answer.unwrap_or_else(|| "not now".to_owned())])
    }

    /// `disk holds`, `disk ends-one`, `disk ends-all`.
    fn disk(&mut self, of: &mut Words) -> Lines {
        let disk = &self.world()?.disk;
        if of.flag("holds")? {
            disk.set_manual(true);
        } else if of.flag("ends-one")? {
            assert!(disk.complete_next(), "a write is under way");
        } else if of.flag("ends-all")? {
            disk.set_manual(false);
            disk.complete_all();
        } else {
            return Err("the disk holds, ends-one or ends-all".to_owned());
        }
        Ok(Vec::new())
    }

    /// The jobs of the state machine are done, and it is told.
    fn jobs(&mut self) -> Lines {
        self.world()?.run_jobs();
        Ok(Vec::new())
    }

    /// The state machine writes its state by a job; what it has is persisted then.
    fn flush(&mut self) -> Lines {
        self.world()?.shard.machine_mut().flush();
        Ok(Vec::new())
    }

    /// `alarm partition=N in-ms=N`: the state machine wants an entry then.
    fn alarm(&mut self, of: &mut Words) -> Lines {
        let (partition, in_ms) = (PartitionId(of.number("partition")?), of.number("in-ms")?);
        let world = self.world()?;
        let at_ms = world.now.wall_ms + in_ms;
        let machine = world.shard.machine_mut();
        machine.alarms.insert(partition.0, at_ms);
        machine.announced.push(partition);
        Ok(Vec::new())
    }

    /// `advance seconds=N`.
    fn advance(&mut self, of: &mut Words) -> Lines {
        let seconds = of.number("seconds")?;
        self.world()?.at(seconds);
        Ok(Vec::new())
    }

    /// `set-clock-back seconds=N`: the wall clock alone.
    fn set_clock_back(&mut self, of: &mut Words) -> Lines {
        let seconds = of.number("seconds")?;
        self.world()?.now.wall_ms -= seconds * 1000;
        Ok(Vec::new())
    }

    /// `remove partition=N`: its replica is taken off.
    fn remove(&mut self, of: &mut Words) -> Lines {
        let partition = PartitionId(of.number("partition")?);
        let was_there = self.world()?.shard.remove(partition);
        Ok(if was_there { Vec::new() } else { vec!["it is not on this shard".to_owned()] })
    }

    /// `add partition=N`: its replica is opened.
    fn add(&mut self, of: &mut Words) -> Lines {
        let partition = PartitionId(of.number("partition")?);
        Ok(match self.world()?.shard.add(partition, &Origin::Restart, 9) {
            Ok(true) => Vec::new(),
            Ok(false) => vec!["not yet: a record of the one before is not durable".to_owned()],
            Err(error) => vec![error.to_string()],
        })
    }

    /// `restart after=kill|power-cut`: what the disk holds then is all that is left.
    fn restart(&mut self, of: &mut Words) -> Lines {
        let after = of.value("after")?.unwrap_or_default();
        let is_power_cut = match after.as_str() {
            "kill" => false,
            "power-cut" => true,
            other => return Err(format!("after={other} is not understood")),
        };
        self.world()?.restart(is_power_cut);
        Ok(Vec::new())
    }

    /// `log partition=N`: what the log holds of it.
    fn log(&mut self, of: &mut Words) -> Lines {
        let partition = PartitionId(of.number("partition")?);
        let state = self.world()?.shard.wal().log_state(partition.log());
        Ok(vec![state.map_or_else(
            || "nothing".to_owned(),
            |state| format!("entries {}..={}", state.first, state.last),
        )])
    }

    /// `state partition=N`: the replica's, and all that was ever applied.
    fn state(&mut self, of: &mut Words) -> Lines {
        let partition = PartitionId(of.number("partition")?);
        let world = self.world()?;
        let mut lines = Vec::new();
        match world.shard.replicas().find(|replica| replica.partition == partition) {
            None => lines.push("no replica".to_owned()),
            Some(replica) => lines.push(format!(
                "term {}, last {}, committed {}, applied {}; {} requests wait",
                replica.term, replica.last, replica.committed, replica.applied, replica.pending_requests
            )),
        }
        let part = world.shard.machine().parts.get(&partition.0).cloned().unwrap_or_default();
        lines.extend(part.history.iter().map(|(lsn, op)| format!("entry {lsn}: {op}")));
        Ok(lines)
    }
}
