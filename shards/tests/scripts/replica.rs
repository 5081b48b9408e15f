//! A play of one replica: its Raft group or its own log, over a disk that does what the script says.
//!
//! The play is what a shard is otherwise: it writes the records that the replica hands out, says which of them are durable,
//! and applies what is committed.

use corduroy_shards::raft::group::{GroupOptions, Proposed};
use corduroy_shards::raft::guard::Fault;
use corduroy_shards::raft::history::TermRuns;
use corduroy_shards::raft::log_store::LogStore;
use corduroy_shards::raft::membership::{Membership, StorageId};
use corduroy_shards::raft::reads::Gate;
use corduroy_shards::raft::ready::Persist;
use corduroy_shards::raft::replica::{Found, Origin, Replica, Replication, StartOptions};
use corduroy_shards::{PartitionId, Role};
use corduroy_wal::{HardState, LogState, Lsn, OwnedEntry, Term};
use raft::eraftpb::ConfState;

use crate::Lines;
use crate::words::Words;

/// A record that was written.
struct Record {
    number: u64,
    from: Lsn,
    entries: Vec<OwnedEntry>,
    hard_state: Option<HardState>,
    conf: Option<Vec<u8>>,
}

#[derive(Default)]
pub struct Play {
    replica: Option<Replica>,
    /// What is durable, all entries from the first on.
    log: Vec<OwnedEntry>,
    hard_state: Option<HardState>,
    conf: Option<Vec<u8>>,
    /// On their way to the disk.
    records: Vec<Record>,
    now_ns: u64,
}

impl Play {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn run(&mut self, command: &str) -> Lines {
        let mut words = Words::of(command);
        let of = &mut words;
        let printed = match of.name.as_str() {
            "start" => self.start(of),
            "members" => self.members(of),
            "cut-log" => self.cut_log(of),
            "begin" => self.begin(),
            "propose" => self.propose(of),
            "take" => self.take(),
            "durable" => self.durable(of),
            "apply" => self.apply(of),
            "tick" => self.tick(of),
            "wait" => self.wait(of),
            "crash" => self.crash(),
            "stop" => self.stop(),
            "state" => self.state(),
            other => Err(format!("there is no command {other:?}")),
        };
        let lines = printed?;
        self.replica.iter().for_each(Replica::check);
        words.end()?;
        Ok(lines)
    }

    fn replica(&mut self) -> Result<&mut Replica, String> {
        self.replica.as_mut().ok_or_else(|| "no replica was started".to_owned())
    }

    /// `start [without-raft] [applied=N] [inside-entry]`: a process starts on what is durable; the state has entries up to N,
    /// and some operations of the one behind.
    fn start(&mut self, of: &mut Words) -> Lines {
        let is_solo = of.flag("without-raft")?;
        let applied = Lsn(of.number_if_any("applied")?.unwrap_or(0));
        let found = Found { is_inside_entry: of.flag("inside-entry")?, ..self.found(applied) };
        let group = GroupOptions::default();
        let replication = if is_solo { Replication::Off } else { Replication::On };
        let (storage, reaches_peers) = (StorageId::UNKNOWN, false);
        let origin = Origin::alone(storage);
        let options =
            StartOptions { replication, group: &group, seed: 1, storage, reaches_peers, origin: &origin };
        let replica = Replica::start(PartitionId(2), found, options);
        let started = match replica.ready_error() {
            Some(error) => error.to_string(),
            None => format!("started: {:?}, term {}", replica.started_as(), replica.term()),
        };
        self.replica = Some(replica);
        Ok(vec![started])
    }

    fn found(&self, applied: Lsn) -> Found {
        let is_new = self.log.is_empty() && self.hard_state.is_none();
        let last = self.log.last().map_or(Lsn::ZERO, |entry| entry.lsn);
        let state = LogState {
            first: Lsn(1),
            last,
            prev_term: Term::ZERO,
            hard_state: self.hard_state,
            conf: self.conf.clone(),
        };
        let term_of = |lsn| self.log.iter().find(|entry| entry.lsn == lsn).map(|entry| entry.term);
        Found {
            log: (!is_new).then_some(state),
            tail: self.log.iter().filter(|entry| entry.lsn > applied).cloned().collect(),
            applied,
            is_inside_entry: false,
            applied_term: term_of(applied).unwrap_or_default(),
            terms: TermRuns::default(),
        }
    }

    /// `members voters=1..=N`: as if a later release had written that the group has these.
    fn members(&mut self, of: &mut Words) -> Lines {
        let (first, last) = of.range("voters")?;
        let conf = ConfState { voters: (first..=last).collect(), ..ConfState::default() };
        self.conf = Some(Membership::of(Lsn::ZERO, &conf, |_| StorageId::UNKNOWN).encode());
        Ok(Vec::new())
    }

    /// `cut-log last=N`: entries behind N are lost on the disk.
    fn cut_log(&mut self, of: &mut Words) -> Lines {
        let last = Lsn(of.number("last")?);
        self.log.retain(|entry| entry.lsn <= last);
        Ok(Vec::new())
    }

    /// The first election.
    fn begin(&mut self) -> Lines {
        let now_ns = self.now_ns;
        self.replica()?.arm(now_ns);
        let begun = self.replica()?.begin(now_ns);
        ended(begun, |()| Vec::new())
    }

    /// `propose bytes=N`.
    fn propose(&mut self, of: &mut Words) -> Lines {
        let bytes = of.number("bytes")? as usize;
        let proposed = self.replica()?.propose(vec![7; bytes].into());
        ended(proposed, |proposed| {
            vec![match proposed {
                Proposed::At(lsn, term) => format!("entry {lsn} of term {term}"),
                Proposed::Dropped => "not now".to_owned(),
            }]
        })
    }

    /// Takes what is to be written.
    fn take(&mut self) -> Lines {
        let (now_ns, before) = (self.now_ns, self.replica()?.committed());
        let persist = match self.replica()?.take(now_ns) {
            Ok(persist) => persist,
            Err(Fault(why)) => return Ok(vec![why]),
        };
        let mut lines: Vec<_> = persist.into_iter().map(|persist| self.write(persist)).collect();
        lines.extend(self.committed_since(before)?);
        if lines.is_empty() {
            lines.push("nothing to write".to_owned());
        }
        Ok(lines)
    }

    /// What may be applied that could not be before.
    fn committed_since(&mut self, before: Lsn) -> Result<Option<String>, String> {
        let committed = self.replica()?.committed();
        Ok((committed > before).then(|| format!("entries up to {committed} may be applied")))
    }

    fn write(&mut self, persist: Persist) -> String {
        let Persist { number, from, to, hard_state, conf, reset } = persist;
        assert_eq!(reset, None, "no image comes in a script");
        let store = self.replica.as_ref().and_then(Replica::store).expect("it has a record, so it runs");
        let owned = |store: &LogStore| {
            let records = store.records(from, to);
            let entry = |entry: corduroy_wal::EntryRef<'_>| OwnedEntry {
                lsn: entry.lsn,
                term: entry.term,
                kind: entry.kind,
                data: entry.data.to_vec(),
            };
            records.map(entry).collect::<Vec<_>>()
        };
        let entries = if from > to { Vec::new() } else { owned(store) };
        let mut parts: Vec<_> = entries
            .iter()
            .map(|entry| format!("entry {} of term {}, {} bytes", entry.lsn, entry.term, entry.data.len()))
            .collect();
        if let Some(HardState { term, vote, commit }) = hard_state {
            parts.push(format!("hard state of term {term}, vote {vote}, commit {commit}"));
        }
        parts.extend(conf.is_some().then(|| "the configuration".to_owned()));
        self.records.push(Record { number, from, entries, hard_state, conf });
        format!("record {}: {}", self.records.len(), parts.join("; "))
    }

    /// `durable records=N`: the first N records under way are on the disk now.
    fn durable(&mut self, of: &mut Words) -> Lines {
        let records = of.number("records")? as usize;
        if records == 0 || records > self.records.len() {
            return Err(format!("{} records are under way", self.records.len()));
        }
        let (mut number, before) = (0, self.replica()?.committed());
        for record in self.records.drain(..records) {
            number = record.number;
            if !record.entries.is_empty() {
                self.log.retain(|entry| entry.lsn < record.from);
            }
            self.log.extend(record.entries);
            self.hard_state = record.hard_state.or(self.hard_state);
            self.conf = record.conf.or_else(|| self.conf.take());
        }
        match self.replica()?.persisted(number) {
            Ok(()) => Ok(self.committed_since(before)?.into_iter().collect()),
            Err(Fault(why)) => Ok(vec![why]),
        }
    }

    /// `apply upto=N`.
    fn apply(&mut self, of: &mut Words) -> Lines {
        let (upto, now_ns) = (Lsn(of.number("upto")?), self.now_ns);
        if upto > self.replica()?.committed() {
            return Err(format!("entry {} is the last that is committed", self.replica()?.committed()));
        }
        let applied = self.replica()?.applied_to(upto, now_ns);
        ended(applied, |()| Vec::new())
    }

    /// `tick times=N`.
    fn tick(&mut self, of: &mut Words) -> Lines {
        for _ in 0..of.number("times")? {
            self.now_ns += 100_000_000;
            let now_ns = self.now_ns;
            if let Err(Fault(why)) = self.replica()?.tick((true, false), now_ns, |_| true) {
                return Ok(vec![why]);
            }
        }
        Ok(Vec::new())
    }

    /// `wait ms=N`: time passes; a replica that does not lead within 5 seconds is reported, once.
    fn wait(&mut self, of: &mut Words) -> Lines {
        self.now_ns += of.number("ms")? * 1_000_000;
        let now_ns = self.now_ns;
        let late = self.replica()?.check_ready(now_ns, 5000);
        Ok(late.map(|error| error.to_string()).into_iter().collect())
    }

    /// The process dies; records under way do not arrive.
    fn crash(&mut self) -> Lines {
        self.replica()?;
        self.replica = None;
        let lost = std::mem::take(&mut self.records).len();
        Ok(vec![format!("records lost: {lost}")])
    }

    /// It is fenced.
    fn stop(&mut self) -> Lines {
        self.replica()?.stop("the script says so".to_owned());
        Ok(Vec::new())
    }

    fn state(&mut self) -> Lines {
        let replica = self.replica()?;
        let role = match (replica.role(), replica.leadership().leader()) {
            (Role::Leader, _) => "leads".to_owned(),
            (role, None) => format!("{role:?}, knows no leader"),
            (role, Some(leader)) => format!("{role:?}, member {leader} leads"),
        };
        let reads = match replica.gate() {
            Gate::Open => "are answered".to_owned(),
            Gate::UntilApplied(lsn) => format!("wait until entry {lsn} is applied"),
            Gate::NoLeader => "wait for a leader".to_owned(),
        };
        let mut lines = vec![
            format!("{role}; term {}; reads {reads}", replica.term()),
            format!(
                "entries: last {}, durable {}, committed {}, applied {}",
                replica.last(),
                replica.durable(),
                replica.committed(),
                replica.applied()
            ),
        ];
        lines.extend(replica.needs_ticks().then(|| "it has to be ticked".to_owned()));
        lines.extend(replica.ready_error().map(|error| error.to_string()));
        Ok(lines)
    }
}

/// What a call printed, or the fault that it ended in.
fn ended<T>(result: Result<T, Fault>, lines: impl FnOnce(T) -> Vec<String>) -> Lines {
    Ok(match result {
        Ok(value) => lines(value),
        Err(Fault(why)) => vec![why],
    })
}
