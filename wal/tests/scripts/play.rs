//! A play: one log over one disk in memory, and the commands that a script gives it.
//!
//! The disk does nothing by itself: `sync` lets it end all it was given, `complete` one write, and `power-cut` says which
//! sectors of what was under way arrive.

use corduroy_wal::device::mem::{MemDisk, WriteFault};
use corduroy_wal::{
    BatchSeq, HardState, LogId, Lsn, Options, OwnedEntry, RecordHead, Space, Term, Wal, WalError, WalEvent,
};

use crate::disk;
use crate::support::{MemWal, append_owned, entry, options, payload, read_all};
use crate::words::Words;

/// What a command prints; an error is one of the script.
type Lines = Result<Vec<String>, String>;

/// Polls without work after which nothing more comes by itself.
const QUIET_POLLS: usize = 4;

pub struct Play {
    disk: MemDisk,
    wal: Option<MemWal>,
    options: Options,
    slots_max: Option<usize>,
    openings: u64,
    /// The disk before the last damage.
    undamaged: Option<MemDisk>,
}

impl Play {
    pub fn new() -> Self {
        let mut play = Self {
            disk: MemDisk::new(1),
            wal: None,
            options: options(0),
            slots_max: None,
            openings: 0,
            undamaged: None,
        };
        play.take(MemDisk::new(1));
        play
    }

    /// Goes on with this disk.
    fn take(&mut self, disk: MemDisk) {
        disk.set_manual(true);
        disk.set_max_slots(self.slots_max);
        self.disk = disk;
    }

    pub fn run(&mut self, command: &str) -> Lines {
        let mut words = Words::of(command);
        let of = &mut words;
        let printed = match of.name.as_str() {
            "disk" => self.limit(of),
            "open" => self.open(of),
            "append" => self.append(of),
            "hard-state" => self.hard_state(of),
            "release" => self.release(of),
            "reset" => self.reset(of),
            "remove" => self.remove(of),
            "submit" => self.submit(),
            "complete" => self.complete(of),
            "fail-next-write" => self.fail_next_write(of),
            "sync" => self.sync(),
            "commit" => self.submit().and_then(|_| self.sync()),
            "mark-end" => self.mark_end(),
            "kill" => self.kill(),
            "power-cut" => self.power_cut(of),
            "zero" => self.zero(of),
            "flip" => self.flip(of),
            "delete" => self.delete(of),
            "undo" => self.undo(),
            "logs" => self.logs(),
            "room" => self.room(),
            "files" => Ok(disk::files(&self.disk)),
            other => Err(format!("there is no command {other:?}")),
        };
        let lines = printed?;
        self.wal.iter().for_each(Wal::check);
        words.end()?;
        Ok(lines)
    }

    fn wal(&mut self) -> Result<&mut MemWal, String> {
        self.wal.as_mut().ok_or_else(|| "the log is not open".to_owned())
    }

    fn must_be_closed(&self) -> Result<(), String> {
        if self.wal.is_some() { Err("the log is open".to_owned()) } else { Ok(()) }
    }

    /// `disk slots=N`: it has room for so many files of segments.
    fn limit(&mut self, of: &mut Words) -> Lines {
        self.slots_max = Some(of.number("slots")? as usize);
        self.disk.set_max_slots(self.slots_max);
        Ok(Vec::new())
    }

    /// `open [spares=N] [bound]`: a process starts; all that the disk is asked for at a start is done. `bound`: the folder
    /// must have a manifest.
    fn open(&mut self, of: &mut Words) -> Lines {
        self.must_be_closed()?;
        self.openings += 1;
        self.options.seed = self.openings;
        if let Some(spares) = of.number_if_any("spares")? {
            self.options.spare_segments = spares as usize;
        }
        self.options.binding.may_adopt = !of.flag("bound")?;
        let (wal, found) = match Wal::open(self.disk.device(), self.options) {
            Ok(opened) => opened,
            Err(error) => return Ok(vec![format!("refused: {error}")]),
        };
        let mut lines = vec![match wal.durable() {
            BatchSeq::ZERO => "open: an empty log".to_owned(),
            last => format!("open: the last batch is {last}"),
        }];
        if found.by_footer > 0 {
            lines.push(format!("segments read by footer: {}", found.by_footer));
        }
        if found.scanned > 0 {
            lines.push(format!("segments read frame by frame: {}", found.scanned));
        }
        if let Some(position) = found.torn_tail {
            lines.push(format!("a torn tail was cut off at segment {position}"));
        }
        let is_empty = wal.logs().is_empty();
        self.wal = Some(wal);
        lines.extend(self.run_dry());
        if !is_empty {
            lines.extend(self.logs()?);
        }
        Ok(lines)
    }

    /// `append log=N entries=A..=B term=N bytes=N [vote=N commit=N]`: entries, and a hard state in the same record.
    fn append(&mut self, of: &mut Words) -> Lines {
        let (log, (first, last)) = (of.number("log")?, of.range("entries")?);
        let (term, bytes) = (of.number("term")?, of.number("bytes")? as usize);
        let entries: Vec<_> = (first..=last).map(|lsn| entry(log, lsn, term, bytes)).collect();
        let hard_state = match of.number_if_any("vote")? {
            Some(vote) => Some(HardState { term: Term(term), vote, commit: Lsn(of.number("commit")?) }),
            None => None,
        };
        let head = RecordHead { log: LogId(log), hard_state, conf: None };
        Ok(in_batch(append_owned(self.wal()?, head, &entries)))
    }

    /// `hard-state log=N term=N vote=N commit=N`.
    fn hard_state(&mut self, of: &mut Words) -> Lines {
        let log = LogId(of.number("log")?);
        let (term, vote) = (Term(of.number("term")?), of.number("vote")?);
        let hard_state = Some(HardState { term, vote, commit: Lsn(of.number("commit")?) });
        Ok(in_batch(append_owned(self.wal()?, RecordHead { log, hard_state, conf: None }, &[])))
    }

    /// `release log=N upto=N`: nobody needs these entries any more.
    fn release(&mut self, of: &mut Words) -> Lines {
        let (log, upto) = (LogId(of.number("log")?), Lsn(of.number("upto")?));
        self.wal()?.release(log, upto);
        self.logs()
    }

    /// `reset log=N prev=N term=N`: a snapshot up to entry `prev` of `term` stands for all entries.
    fn reset(&mut self, of: &mut Words) -> Lines {
        let (log, prev, term) = (of.number("log")?, of.number("prev")?, of.number("term")?);
        let head = RecordHead { log: LogId(log), ..RecordHead::default() };
        Ok(in_batch(self.wal()?.reset(head, Lsn(prev), Term(term))))
    }

    /// `remove log=N`.
    fn remove(&mut self, of: &mut Words) -> Lines {
        let log = LogId(of.number("log")?);
        Ok(in_batch(self.wal()?.remove(log)))
    }

    /// What was appended goes to the disk as one frame.
    fn submit(&mut self) -> Lines {
        let submitted = self.wal()?.submit();
        let under_way = self.disk.pending_writes();
        Ok(vec![match submitted {
            Ok(Some(batch)) => format!("batch {batch} is submitted; writes under way: {under_way}"),
            Ok(None) => "there is nothing to submit".to_owned(),
            Err(error) => format!("refused: {error}"),
        }])
    }

    /// `complete write=N`: the disk ends the N-th of the writes under way, and nothing else.
    fn complete(&mut self, of: &mut Words) -> Lines {
        let number = of.number("write")? as usize;
        let writes = self.disk.writes_under_way();
        let found = number.checked_sub(1).and_then(|at| writes.get(at));
        let (at, _) = found.ok_or_else(|| format!("{} writes are under way", writes.len()))?;
        assert!(self.disk.complete(*at), "it is under way");
        let mut lines = Vec::new();
        self.wal()?;
        self.poll(&mut lines);
        Ok(or_nothing(lines))
    }

    /// `fail-next-write how=error|flush|short`: it is not written, or written and not flushed, or in part.
    fn fail_next_write(&mut self, of: &mut Words) -> Lines {
        let how = of.value("how")?.unwrap_or_default();
        self.disk.fail_next_write(match how.as_str() {
            "error" => WriteFault::Eio,
            "flush" => WriteFault::FlushEio,
            "short" => WriteFault::Short,
            other => return Err(format!("how={other} is not error, flush or short")),
        });
        Ok(Vec::new())
    }

    /// The disk ends all it was given, and the log does all that follows from that.
    fn sync(&mut self) -> Lines {
        self.wal()?;
        Ok(or_nothing(self.run_dry()))
    }

    fn run_dry(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut quiet = 0;
        while quiet < QUIET_POLLS {
            quiet = if self.disk.pending() == 0 { quiet + 1 } else { 0 };
            self.disk.complete_all();
            if !self.poll(&mut lines) {
                break;
            }
        }
        lines
    }

    /// False once the log is poisoned.
    fn poll(&mut self, lines: &mut Vec<String>) -> bool {
        let Some(wal) = self.wal.as_mut() else { return false };
        let mut events = Vec::new();
        let polled = wal.poll(&mut events);
        lines.extend(events.iter().map(|event| match event {
            WalEvent::Durable(batch) => format!("durable up to batch {batch}"),
            WalEvent::Read { token, .. } => format!("read {} has ended", token.0),
            WalEvent::Space(Space::Ok) => "there is room".to_owned(),
            WalEvent::Space(Space::Full) => "there is no room but the reserve".to_owned(),
        }));
        match polled {
            Ok(()) => true,
            Err(error) => {
                lines.push(error.to_string());
                false
            }
        }
    }

    /// The manifest says which batch is the last.
    fn mark_end(&mut self) -> Lines {
        self.wal()?.mark_end().map_err(|error| error.to_string())?;
        let mut lines = self.run_dry();
        let wal = self.wal()?;
        lines.push(if wal.is_end_marked() {
            format!("batch {} is marked as the last", wal.durable())
        } else {
            "the end is not marked".to_owned()
        });
        Ok(lines)
    }

    /// The process ends without a word; the machine goes on, and with it every write that the disk was given.
    fn kill(&mut self) -> Lines {
        self.wal()?;
        self.wal = None;
        self.disk.kill();
        Ok(Vec::new())
    }

    /// `power-cut [arrives=none|all|first:N|last:N|all-but:N]`: which sectors of the writes under way arrive.
    fn power_cut(&mut self, of: &mut Words) -> Lines {
        self.wal()?;
        let arrives = of.value("arrives")?.unwrap_or_else(|| "none".to_owned());
        let (how, number) = arrives.split_once(':').unwrap_or((&arrives, "0"));
        let number: usize = number.parse().map_err(|error| format!("arrives={arrives}: {error}"))?;
        self.wal = None;
        let durable = self.disk.fork();
        self.disk.kill();
        let under_way = disk::differing_sectors(&self.disk, &durable);
        let (all, mut arrived) = (under_way.len(), 0);
        for (at, (slot, offset)) in under_way.into_iter().enumerate() {
            let does = match how {
                "none" => false,
                "all" => true,
                "first" => at < number,
                "last" => at + number >= all,
                "all-but" => at + 1 != number,
                other => return Err(format!("arrives={other} is not understood")),
            };
            if does {
                let sector = &self.disk.bytes(slot)[offset..][..512];
                durable.overwrite(slot, offset, sector);
                arrived += 1;
            }
        }
        self.take(durable);
        Ok(vec![format!("sectors under way: {all}; arrived: {arrived}")])
    }

    /// Keeps the disk as it is for `undo`.
    fn before_damage(&mut self) -> Result<(), String> {
        self.must_be_closed()?;
        self.undamaged = Some(self.disk.fork());
        Ok(())
    }

    /// `zero PLACE`: zeros stand there now. For PLACE see `disk::place`.
    fn zero(&mut self, of: &mut Words) -> Lines {
        self.before_damage()?;
        let (slot, place) = disk::place(&self.disk, of)?;
        self.disk.overwrite(slot, place.start, &vec![0; place.len()]);
        let (file, last) = (disk::file_name(slot), place.end - 1);
        Ok(vec![format!("{file}: bytes {} to {last} are zero now", place.start)])
    }

    /// `flip PLACE byte=N`: one bit of the N-th byte of that place is another one now.
    fn flip(&mut self, of: &mut Words) -> Lines {
        self.before_damage()?;
        let byte = of.number("byte")? as usize;
        let (slot, place) = disk::place(&self.disk, of)?;
        if byte >= place.len() {
            return Err(format!("it has {} bytes", place.len()));
        }
        self.disk.flip(slot, place.start + byte, 1);
        Ok(vec![format!("{}: a bit of byte {} is flipped now", disk::file_name(slot), place.start + byte)])
    }

    /// `delete segment=N|spare|manifest`: the file is not there any more.
    fn delete(&mut self, of: &mut Words) -> Lines {
        self.before_damage()?;
        let slot = disk::file(&self.disk, of)?;
        self.disk.delete(slot);
        Ok(vec![format!("{} is deleted", disk::file_name(slot))])
    }

    /// Takes the last damage back.
    fn undo(&mut self) -> Lines {
        self.must_be_closed()?;
        let disk = self.undamaged.take().ok_or("there is no damage to undo")?;
        self.take(disk);
        Ok(Vec::new())
    }

    /// The longest record that the owner may append now.
    fn room(&mut self) -> Lines {
        let bytes = self.wal()?.ready_record_bytes();
        Ok(vec![format!("there is room for a record of {bytes} bytes")])
    }

    /// What each log holds, all entries read and compared with what was appended.
    fn logs(&mut self) -> Lines {
        let wal = self.wal()?;
        let logs = wal.logs();
        let mut lines: Vec<_> = logs.iter().map(|log| log_in_words(wal, *log)).collect();
        if lines.is_empty() {
            lines.push("there are no logs".to_owned());
        }
        Ok(lines)
    }
}

fn or_nothing(lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() { vec!["nothing new is durable".to_owned()] } else { lines }
}

fn in_batch(appended: Result<BatchSeq, WalError>) -> Vec<String> {
    vec![match appended {
        Ok(batch) => format!("in batch {batch}"),
        Err(error) => format!("refused: {error}"),
    }]
}

fn log_in_words(wal: &mut MemWal, log: LogId) -> String {
    let Some(state) = wal.log_state(log) else { return format!("log {log}: none") };
    let mut parts = vec![match read_all(wal, log.0) {
        Ok(entries) if entries.is_empty() => format!("no entries, the next is {}", state.first),
        Ok(entries) => entries_in_words(log, &entries),
        Err(error) => error.to_string(),
    }];
    if let Some(HardState { term, vote, commit }) = state.hard_state {
        parts.push(format!("hard state of term {term}, vote {vote}, commit {commit}"));
    }
    format!("log {log}: {}", parts.join("; "))
}

/// Entries of one term and length together.
fn entries_in_words(log: LogId, entries: &[OwnedEntry]) -> String {
    let alike =
        |one: &OwnedEntry, next: &OwnedEntry| (one.term, one.data.len()) == (next.term, next.data.len());
    let group = |entries: &[OwnedEntry]| {
        let (first, last) = (&entries[0], &entries[entries.len() - 1]);
        for held in entries {
            let wanted = payload(log.0, held.lsn.0, held.term.0, held.data.len());
            assert!(held.data == wanted, "log {log}: entry {} has other bytes than were appended", held.lsn);
        }
        let (term, bytes) = (first.term, first.data.len());
        if first.lsn == last.lsn {
            format!("entry {} of term {term}, {bytes} bytes", first.lsn)
        } else {
            format!("entries {}..={} of term {term}, {bytes} bytes each", first.lsn, last.lsn)
        }
    };
    entries.chunk_by(alike).map(group).collect::<Vec<_>>().join(", ")
}
