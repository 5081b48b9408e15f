//! What the disks hold, apart from every process: copies of all logs are opened as after a power cut, and compared with what
//! was acknowledged and with each other.
//!
//! Invariant: it looks at copies; nothing that a process sees is changed by it.

use corduroy_wal::{Lsn, OwnedEntry, Term, Wal, WalError};

use crate::ids::{MemberId, PartitionId};
use crate::raft::membership::Membership;
use crate::sim::disk::SimDevice;
use crate::sim::history::Broken;
use crate::sim::mail::node_of;
use crate::sim::node::SimNode;
use crate::sim::options::wal_options;
use crate::sim::workload::Subject;
use crate::sim::world::{Common, World};

/// What one node's disks hold of a partition.
#[derive(Clone, Default, Debug)]
struct Image {
    /// The highest entry whose effects are in the state.
    persisted: Lsn,
    /// Whether the member has a vote.
    votes: bool,
    /// The entries that the log has, in order.
    entries: Vec<OwnedEntry>,
}

impl Image {
    fn entry(&self, lsn: Lsn) -> Option<&OwnedEntry> {
        let first = self.entries.first()?.lsn;
        let index = lsn.get().checked_sub(first.get())?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    fn last(&self) -> Lsn {
        self.entries.last().map_or(Lsn::ZERO, |entry| entry.lsn)
    }
}

/// Whether everything up to `shown` is on the disks of a majority, with the terms that it was applied with.
fn judge_durable(
    partition: PartitionId,
    (images, is_changed): (&[Image], bool),
    shown: Lsn,
    term_of: impl Fn(Lsn) -> Option<Term>,
) -> Result<(), Broken> {
    let images = images.iter().filter(|image| image.votes).collect::<Vec<_>>();
    // Behind a change, what was there before is on so many disks that no majority is without it.
    let majority = if is_changed { images.len().div_ceil(2) } else { images.len() / 2 + 1 };
    let mut persisted = images.iter().map(|image| image.persisted).collect::<Vec<_>>();
    persisted.sort_unstable_by(|a, b| b.cmp(a));
    let mut lsn = persisted.get(majority - 1).copied().unwrap_or_default();
    while lsn < shown {
        lsn = lsn.next();
        let Some(term) = term_of(lsn) else { continue };
        let holds = |image: &&&Image| {
            lsn <= image.persisted || image.entry(lsn).is_some_and(|entry| entry.term == term)
        };
        let copies = images.iter().filter(holds).count();
        if copies < majority {
            let what = format!(
                "partition {partition}: entry {lsn} of term {term} was acknowledged, {copies} of {} disks have it",
                images.len()
            );
            return Err(("acknowledged means durable on a majority", what));
        }
    }
    Ok(())
}

/// Whether two logs that have an entry of one term at one LSN have equal entries up to it.
fn judge_match(partition: PartitionId, one: &Image, other: &Image) -> Result<(), Broken> {
    let mut matched = None;
    let mut lsn = one.last().min(other.last());
    while let (Some(here), Some(there)) = (one.entry(lsn), other.entry(lsn)) {
        if here.term == there.term {
            matched = matched.or(Some(lsn));
        }
        if matched.is_some() && here != there {
            let what = format!(
                "partition {partition}: entry {lsn} has terms {} and {}, though the logs match at {matched:?}",
                here.term, there.term
            );
            return Err(("logs that match at an entry match below it", what));
        }
        let Some(before) = lsn.get().checked_sub(1) else { break };
        lsn = Lsn(before);
    }
    Ok(())
}

/// Whether all of these logs match.
fn judge_matches(partition: PartitionId, images: &[Image]) -> Result<(), Broken> {
    for (at, one) in images.iter().enumerate() {
        for other in images.iter().skip(at + 1) {
            judge_match(partition, one, other)?;
        }
    }
    Ok(())
}

impl<S: Subject> World<S> {
    /// Judges what the disks of all nodes hold: a copy of each log is opened, as after a power cut now.
    pub(super) fn judge_images(&mut self) {
        if self.common.may_refuse {
            return;
        }
        self.common.probe("disk images judged");
        for shard in 0..self.common.plan.knobs.shards as usize {
            let logs = self.nodes.iter().map(|node| node.copy_of_log(&self.common, shard));
            match logs.collect::<Result<Vec<_>, _>>() {
                Ok(logs) => self.judge_logs(shard, logs),
                Err(why) => {
                    let what = format!("a copy of shard {shard}: {why}");
                    return self.common.broken("an undamaged log opens", what);
                }
            }
        }
    }

    fn judge_logs(&self, shard: usize, mut logs: Vec<Wal<SimDevice>>) {
        let books = self.common.books.borrow();
        let mut judged = Ok(());
        for partition in self.common.partitions_of(shard) {
            let (voters, founders) = (voters(&logs, partition), self.common.plan.knobs.founders());
            let images = logs.iter_mut().enumerate().map(|(node, log)| {
                let entries = entries(log, partition).map_err(|why| ("an undamaged log opens", why))?;
                let votes = voters.as_ref().map_or(node < founders, |voters| voters.contains(&node));
                Ok(Image { persisted: books.persisted_of(node, partition), votes, entries })
            });
            judged = judged.and_then(|()| {
                let images = images.collect::<Result<Vec<_>, Broken>>()?;
                let shown = books.shown(partition).lsn;
                judge_durable(partition, (&images, voters.is_some()), shown, |lsn| {
                    books.term_of(partition, lsn)
                })?;
                judge_matches(partition, &images)
            });
        }
        drop(books);
        if let Err((invariant, what)) = judged {
            self.common.broken(invariant, what);
        }
    }
}

/// The nodes whose members of a partition have a vote by the latest change that any of these logs has; `None`: none was made.
/// While several changes are under way, those before them: they all have to agree until then.
fn voters(logs: &[Wal<SimDevice>], partition: PartitionId) -> Option<Vec<usize>> {
    let confs = logs.iter().filter_map(|log| log.log_state(partition.log())?.conf);
    let members = confs.filter_map(|conf| Membership::decode(&conf).ok());
    let latest = members.max_by_key(|members| members.as_of).filter(|latest| latest.as_of > Lsn::ZERO)?;
    let conf = latest.conf_state();
    let voters = if conf.voters_outgoing.is_empty() { conf.voters } else { conf.voters_outgoing };
    Some(voters.into_iter().filter_map(|id| node_of(latest.storage(MemberId(id))?)).collect())
}

/// All entries that a log has of a partition.
fn entries(log: &mut Wal<SimDevice>, partition: PartitionId) -> Result<Vec<OwnedEntry>, String> {
    match log.log_state(partition.log()) {
        Some(state) if state.first <= state.last => {
            let entries = log.read_blocking(partition.log(), state.first, state.last);
            entries.map_err(|error| format!("partition {partition} in a copy: {error}"))
        }
        _ => Ok(Vec::new()),
    }
}

impl<S: Subject> SimNode<S> {
    /// A shard's log as a process would find it after a power cut now.
    fn copy_of_log(&self, world: &Common<S>, shard: usize) -> Result<Wal<SimDevice>, WalError> {
        let disk = self.disks.get(shard).expect("one a shard");
        let options = wal_options(&world.plan.knobs, world.plan.seed);
        Wal::open(disk.copy(), options).map(|(wal, _)| wal)
    }
}

#[cfg(test)]
mod tests {
    use corduroy_wal::EntryKind;

    use super::*;

    const P: PartitionId = PartitionId(3);

    /// An image whose entries have these terms, from `first` on.
    fn image(persisted: u64, first: u64, terms: &[u64]) -> Image {
        let entry = |(lsn, &term): (u64, &u64)| OwnedEntry {
            lsn: Lsn(lsn),
            term: Term(term),
            kind: EntryKind::Normal,
            data: vec![u8::try_from(lsn).unwrap()],
        };
        Image { persisted: Lsn(persisted), votes: true, entries: (first..).zip(terms).map(entry).collect() }
    }

    /// What is wrong with these images, where entries 1 and 2 have term 1 and all others term 2.
    fn undurable(images: &[Image], shown: u64) -> Option<&'static str> {
        let term = |lsn: Lsn| Some(if lsn < Lsn(3) { Term(1) } else { Term(2) });
        judge_durable(P, (images, false), Lsn(shown), term).err().map(|(invariant, _)| invariant)
    }

    #[test]
    fn what_was_acknowledged_is_on_most_disks_in_the_log_or_in_the_state() {
        let wrong = Some("acknowledged means durable on a majority");
        assert_eq!(undurable(&[image(0, 1, &[1, 1, 2])], 3), None);
        assert_eq!(undurable(&[image(0, 1, &[1, 1, 2])], 4), wrong);
        let (whole, short) = (image(0, 1, &[1, 1, 2, 2]), image(0, 1, &[1, 1]));
        assert_eq!(undurable(&[whole.clone(), short.clone(), whole.clone()], 4), None);
        assert_eq!(undurable(&[whole.clone(), short.clone(), short.clone()], 2), None);
        assert_eq!(undurable(&[whole.clone(), short.clone(), short.clone()], 3), wrong);
        // Dropped from the log: the state must have it.
        assert_eq!(undurable(&[whole.clone(), image(3, 4, &[2]), short.clone()], 4), None);
        assert_eq!(undurable(&[whole.clone(), image(2, 4, &[2]), short.clone()], 4), wrong);
        // Another entry in its place.
        assert_eq!(undurable(&[whole, image(0, 1, &[1, 1, 2, 3]), short], 4), wrong);
    }

    #[test]
    fn behind_a_change_no_majority_of_those_who_vote_lacks_what_was_acknowledged() {
        let (whole, short) = (image(0, 1, &[1, 1, 2, 2]), image(0, 1, &[1, 1]));
        let learner = Image { votes: false, ..whole.clone() };
        let is_durable = |images: &[Image]| {
            let term = |lsn: Lsn| Some(if lsn < Lsn(3) { Term(1) } else { Term(2) });
            judge_durable(P, (images, true), Lsn(4), term).is_ok()
        };
        assert!(is_durable(&[whole.clone(), short.clone()]));
        assert!(!is_durable(&[learner.clone(), short.clone()]));
        assert!(!is_durable(&[whole.clone(), short.clone(), short.clone(), learner]));
        assert!(is_durable(&[whole.clone(), short.clone(), short, whole]));
    }

    #[test]
    fn logs_that_match_somewhere_match_below() {
        let wrong = Err("logs that match at an entry match below it");
        let matches = |one: &Image, other: &Image| {
            judge_matches(P, &[one.clone(), other.clone()]).map_err(|(invariant, _)| invariant)
        };
        let log = image(0, 1, &[1, 1, 2, 3]);
        assert_eq!(matches(&log, &image(0, 1, &[1, 1, 2])), Ok(()));
        assert_eq!(matches(&log, &image(0, 1, &[1, 1, 4, 4, 4])), Ok(()), "they part after entry 2");
        assert_eq!(matches(&log, &image(0, 1, &[1, 2, 2])), wrong);
        assert_eq!(matches(&log, &image(9, 4, &[3, 3])), Ok(()));
        let mut other = log.clone();
        other.entries[1].data = vec![77];
        assert_eq!(matches(&log, &other), wrong, "one term, other bytes");
    }
}
