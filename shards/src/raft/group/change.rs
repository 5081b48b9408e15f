//! Changes of a group's members, and the transfer of its lead: the calls that begin them, and what becomes of a committed one.
//!
//! Invariant: a change is taken in once, entry by entry, and nothing behind it is applied before the record with the new
//! configuration is durable; a replica that loses its vote has laid down the lead before (raft 0.7.0 unwraps its own
//! progress afterwards, which is not there any more).

use corduroy_wal::mix::scramble;
use corduroy_wal::{Lsn, Term};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::images::Notes;
use super::stall::Stall;
use super::{Group, GroupOptions};
use crate::ids::PartitionId;
use crate::planted::{self, PlantedBug};
use crate::raft::changes::{Change, ChangeEntry, ChangeRefusal};
use crate::raft::guard::Fault;
use crate::raft::history::{History, TermRuns};
use crate::raft::lease::Promise;
use crate::raft::membership::{MemberId, Membership};

/// How far a committed change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// Done, and durable: apply goes on.
    Done,
    /// Not yet: the record is on its way, or, where it takes the lead from this member, the others do not know of it.
    Waits,
}

/// The last change that was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AppliedChange {
    /// Its entry.
    pub lsn: Lsn,
    /// That entry's term.
    pub term: Term,
    /// Whether it has changed anything.
    pub has_effect: bool,
}

/// Who belongs to a group, and what was changed of that last.
#[derive(Debug)]
pub(super) struct Members {
    /// Of this partition.
    pub partition: PartitionId,
    pub now: Membership,
    pub applied: AppliedChange,
    pub answers: Answers,
    /// An election waits for the tail to be durable, and for this entry to be applied.
    pub campaign_from: Option<Lsn>,
    /// The change that gave a member company that was alone in this process; zero: there was none.
    pub grown_at: Lsn,
    /// What this one has promised its leader.
    pub promise: Promise,
    /// How long its leases are, in ns.
    pub lease_ns: u64,
    /// See [`GroupOptions`].
    pub sleep_ticks: u16,
    /// How old a state may be that reads see which need no newer one, in ns.
    pub stale_ns: u64,
    /// How long its disk has stood still.
    pub stall: Stall,
    /// What is noted of members for a while; most groups never have any of it.
    pub notes: Option<Box<Notes>>,
}

impl Members {
    /// Those that a replica starts with.
    pub fn starting(
        partition: PartitionId,
        now: Membership,
        promise: Promise,
        options: &GroupOptions,
    ) -> Self {
        Self {
            partition,
            now,
            applied: AppliedChange::default(),
            answers: Answers::default(),
            campaign_from: None,
            grown_at: Lsn::ZERO,
            promise,
            lease_ns: options.lease_ns(),
            sleep_ticks: options.sleep_ticks,
            stale_ns: options.stale_reads_ms * 1_000_000,
            stall: Stall::default(),
            notes: None,
        }
    }

    /// What is noted, whether or not anything was before.
    pub fn notes_mut(&mut self) -> &mut Notes {
        self.notes.get_or_insert_default()
    }
}

/// When the others answered last. The crate's own note of that is taken back with each check of the quorum.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Ticks of this member so far.
    pub ticks: u64,
    /// Whoever did, and in which tick.
    pub last: Vec<(MemberId, u64)>,
}

impl Answers {
    /// A member has answered the leader, which this one is.
    pub fn note(&mut self, member: MemberId) {
        match self.last.iter_mut().find(|(of, _)| *of == member) {
            Some((_, tick)) => *tick = self.ticks,
            None => self.last.push((member, self.ticks)),
        }
    }

    pub fn has_within(&self, member: MemberId, ticks: u64) -> bool {
        let mut last = self.last.iter();
        last.any(|(of, tick)| *of == member && self.ticks - tick <= ticks)
    }

    /// Those who are no members any more do not answer.
    fn forget_all_but(&mut self, members: &Membership) {
        self.last.retain(|(member, _)| members.storage(*member).is_some());
    }
}

impl Group {
    /// Proposes a change of the members. Everything that it depends on is looked at in this call, in which nothing else is
    /// appended: a new member is named by the entry's LSN.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn propose_change(
        &mut self,
        changes: &[Change],
        lag_most: u64,
    ) -> Result<Result<(Lsn, Term), ChangeRefusal>, Fault> {
        if let Err(why) = self.check_leads().and_then(|()| self.check_change(changes, lag_most)) {
            return Ok(Err(why));
        }
        let before = self.last_before_change();
        self.call(|group| {
            while group.last() < before {
                if group.append(EntryType::EntryNormal, Vec::new()).is_err() {
                    return Err(ChangeRefusal::Dropped);
                }
            }
            group.append_change(changes)
        })
    }

    /// The entry that a change comes behind. The ids of founders are no LSNs, and are not to be given again: the first change
    /// is above all of them.
    fn last_before_change(&self) -> Lsn {
        let is_first = self.members.now.as_of == Lsn::ZERO;
        let founders = self.members.now.ids().filter(|_| is_first).map(|id| Lsn(id.0));
        founders.chain([self.last()]).max().unwrap_or_default()
    }

    /// Appends the entry, and looks at what has become of it.
    fn append_change(&mut self, changes: &[Change]) -> Result<(Lsn, Term), ChangeRefusal> {
        let wanted = self.last().next();
        assert!(wanted.get() > 1, "a change follows the leader's first entry");
        let data = ChangeEntry::of(changes, wanted).encode();
        self.append(EntryType::EntryConfChangeV2, data.clone())?;
        let raft = &self.node.raft;
        let found = Lsn(raft.raft_log.last_index());
        let is_ours =
            |entry: &Entry| entry.get_entry_type() == EntryType::EntryConfChangeV2 && *entry.data == *data;
        let is_there = raft.raft_log.unstable_entries().last().is_some_and(is_ours);
        if !is_there && !planted::is(PlantedBug::EmptiedChangeDone) {
            return Err(ChangeRefusal::Emptied);
        }
        if found != wanted {
            return Err(ChangeRefusal::OtherLsn { wanted, found });
        }
        Ok((found, Term(raft.term)))
    }

    fn append(&mut self, entry_type: EntryType, data: Vec<u8>) -> Result<(), ChangeRefusal> {
        let raft = &mut self.node.raft;
        let mut message = Message { from: raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let mut entry = Entry { data: data.into(), ..Entry::default() };
        entry.set_entry_type(entry_type);
        message.set_entries(vec![entry].into());
        raft.step(message).map_err(|_dropped| ChangeRefusal::Dropped)
    }

    /// Whether this member may begin a change, or hand on the lead.
    fn check_leads(&self) -> Result<(), ChangeRefusal> {
        let raft = &self.node.raft;
        match () {
            () if !self.leads() => Err(ChangeRefusal::NotLeader),
            () if raft.lead_transferee.is_some() => Err(ChangeRefusal::Transferring),
            () if !raft.apply_to_current_term() => Err(ChangeRefusal::TooEarly),
            () => Ok(()),
        }
    }

    /// Whether a change of members is under way: proposed and not applied yet, or applied by half.
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf() || self.members.now.is_joint() || self.readies.is_saving_conf()
    }

    fn check_change(&self, changes: &[Change], lag_most: u64) -> Result<(), ChangeRefusal> {
        let raft = &self.node.raft;
        if self.is_changing() && !planted::is(PlantedBug::EmptiedChangeDone) {
            return Err(ChangeRefusal::UnderWay);
        }
        self.members.now.check(changes, MemberId(self.last_before_change().next().get()))?;
        let me = MemberId(raft.id);
        for change in changes {
            match *change {
                Change::Demote(id) if id == me => return Err(ChangeRefusal::Leads(id)),
                // What it has shown by its clock while it was alone is logged behind the change that gave it company.
                Change::Promote(_) if raft.raft_log.applied <= self.members.grown_at.get() => {
                    return Err(ChangeRefusal::TooEarly);
                }
                Change::Promote(member) => self.check_lag(member, lag_most)?,
                Change::AddLearner(_) | Change::AddLearnerAt(..) | Change::Demote(_) | Change::Remove(_) => {}
            }
        }
        self.check_answers(changes)
    }

    /// Whether most of those who would have a vote behind the changes have just answered, and need no image of the state. Without
    /// them not even what undoes the changes could be committed, or only once an image has come to its end.
    fn check_answers(&self, changes: &[Change]) -> Result<(), ChangeRefusal> {
        let raft = &self.node.raft;
        let has_vote = |id: &MemberId| {
            let of_it = changes.iter().find_map(|change| change.vote_of(*id));
            of_it.unwrap_or_else(|| self.members.now.is_voter(*id))
        };
        let timeout_ticks = raft.election_timeout() as u64;
        let answers = &self.members.answers;
        let voters = self.members.now.ids().filter(has_vote);
        let has = |id: MemberId| answers.has_within(id, timeout_ticks) && !self.needs_image(id);
        let is_there: Vec<_> = voters.map(|id| id.0 == raft.id || has(id)).collect();
        let (answered, voters) = (is_there.iter().filter(|is_there| **is_there).count(), is_there.len());
        if 2 * answered > voters { Ok(()) } else { Err(ChangeRefusal::Silent { answered, voters }) }
    }

    /// Whether a member has got and applied nearly all of the log, as far as it has said. What members say is committed is
    /// what they have applied: see [`Group::take_messages`].
    fn check_lag(&self, member: MemberId, most: u64) -> Result<(), ChangeRefusal> {
        let progress = self.node.raft.prs().get(member.0).ok_or(ChangeRefusal::Member(member))?;
        let missing = self.last().get().saturating_sub(progress.matched);
        let unapplied = self.committed().get().saturating_sub(progress.committed_index);
        let entries = missing.max(unapplied);
        let is_near = progress.matched > 0 && entries <= most;
        if is_near { Ok(()) } else { Err(ChangeRefusal::Behind { member, entries }) }
    }

    /// Up to which entry a member is known to hold the log, if this one leads.
    #[must_use]
    pub fn held_by(&self, member: MemberId) -> Option<Lsn> {
        let progress = self.node.raft.prs().get(member.0).filter(|_| self.leads())?;
        assert!(progress.matched <= self.last().get(), "member {member} holds more than its leader");
        Some(Lsn(progress.matched))
    }

    /// Hands the lead to another voter that has nearly all of the log. It is under way afterwards, for an election timeout at
    /// most.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn transfer(&mut self, to: MemberId, lag_most: u64) -> Result<Result<(), ChangeRefusal>, Fault> {
        let check = || {
            self.check_leads()?;
            match () {
                () if self.members.now.storage(to).is_none() => Err(ChangeRefusal::Member(to)),
                () if !self.members.now.is_voter(to) => Err(ChangeRefusal::Vote(to)),
                () if to.0 == self.node.raft.id => Err(ChangeRefusal::Leads(to)),
                () => self.check_lag(to, lag_most),
            }
        };
        if let Err(why) = check() {
            return Ok(Err(why));
        }
        // Whoever is asked to lead is voted for at once, whatever was promised.
        self.made_rounds().lease_mut().give_up();
        self.call(|group| group.node.transfer_leader(to.0)).map(Ok)
    }

    /// Hands the lead to the voter that is best prepared for it: one that has just answered, has nearly all of the log, and no
    /// less of it than any other; among equals another one for each group. Returns who gets it.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn transfer_away(&mut self, lag_most: u64) -> Result<Result<MemberId, ChangeRefusal>, Fault> {
        let to = match self.heir() {
            Ok(to) => to,
            Err(why) => return Ok(Err(why)),
        };
        Ok(self.transfer(to, lag_most)?.map(|()| to))
    }

    fn heir(&self) -> Result<MemberId, ChangeRefusal> {
        self.check_leads()?;
        let raft = &self.node.raft;
        let timeout_ticks = raft.election_timeout() as u64;
        let others = || self.members.now.voters().filter(|id| id.0 != raft.id);
        let answers = |id: &MemberId| self.members.answers.has_within(*id, timeout_ticks);
        let has = |id: &MemberId| raft.prs().get(id.0).map_or(0, |progress| progress.matched);
        let heir = others().filter(answers).max_by_key(|id| (has(id), scramble(self.seed ^ id.0)));
        heir.ok_or_else(|| ChangeRefusal::Silent { answered: 1, voters: 1 + others().count() })
    }

    /// Whether the lead is being handed on.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// The last change of members that was applied since the start.
    #[must_use]
    pub const fn applied_change(&self) -> AppliedChange {
        self.members.applied
    }

    /// Takes in the committed configuration entry `lsn`, behind which nothing is applied. Asked again until it is done.
    ///
    /// # Errors
    /// [`Fault`] if the entry cannot be read.
    pub fn change(&mut self, lsn: Lsn) -> Result<Changed, Fault> {
        let is_saved = lsn <= self.members.now.as_of && !planted::is(PlantedBug::ChangeMadeAgain);
        if self.members.applied.lsn == lsn || is_saved {
            return Ok(if self.readies.is_saving_conf() { Changed::Waits } else { Changed::Done });
        }
        let entry = self.store().get(lsn).expect("committed entries above the applied one are held");
        let term = Term(entry.term);
        let read = match entry.get_entry_type() {
            EntryType::EntryConfChangeV2 => ChangeEntry::decode(&entry.data).map_err(|why| why.to_string()),
            EntryType::EntryConfChange | EntryType::EntryNormal => {
                Err("it is of a kind that is never written".to_owned())
            }
        };
        let change =
            read.map_err(|why| Fault(format!("entry {lsn}: {why}; start the release that wrote it")))?;
        let mut done = AppliedChange { lsn, term, has_effect: self.members.now.takes(lsn, &change) };
        if done.has_effect {
            if self.leads() && self.takes_the_lead(lsn, &change) && !planted::is(PlantedBug::DemotedLeads) {
                if !self.is_known_to_others(lsn, &change) {
                    return Ok(Changed::Waits);
                }
                self.call(|group| group.node.raft.become_follower(group.node.raft.term, raft::INVALID_ID))?;
            }
            let applied = self.call(|group| group.node.apply_conf_change(&change.in_raft()))?;
            match applied {
                Ok(conf) => self.save_members(self.members.now.after(lsn, &change, &conf)),
                // No replica takes it in: they all have the same configuration before it.
                Err(_refused) => done.has_effect = false,
            }
        }
        self.members.applied = done;
        Ok(if self.readies.is_saving_conf() { Changed::Waits } else { Changed::Done })
    }

    pub(super) fn save_members(&mut self, members: Membership) {
        self.readies.save_conf(members.encode());
        self.members.answers.forget_all_but(&members);
        self.rounds.as_mut().into_iter().for_each(|rounds| rounds.lease_mut().forget());
        if self.is_alone() && !members.is_alone(MemberId(self.node.raft.id)) {
            self.members.grown_at = members.as_of;
        }
        if let Some(notes) = &mut self.members.notes {
            notes.met.retain(|(member, _)| *member > MemberId(members.as_of.get()));
            // Who is alone then is not ticked, and would keep the log for ever.
            notes.images.retain(|pin| members.storage(pin.member).is_some());
        }
        self.members.now = members;
        if !self.is_alone() && self.node.store().history().is_none() {
            // Whoever joins starts from an image of the state: nothing that is applied is served from the log.
            let store = self.node.mut_store();
            let (first, prev_term) = (store.first(), store.prev_term());
            store.set_history(History::new(first, prev_term, TermRuns::default()));
        }
        self.keep_the_start();
    }

    /// Members that joined do not know what the group was founded with, and never get its first entry.
    pub(super) fn keep_the_start(&mut self) {
        if self.members.now.as_of > Lsn::ZERO {
            self.node.mut_store().history_mut().into_iter().for_each(History::keep_the_start);
        }
    }

    /// Whether this member, which leads, has no vote behind the entry.
    fn takes_the_lead(&self, lsn: Lsn, change: &ChangeEntry) -> bool {
        let me = MemberId(self.node.raft.id);
        match change {
            ChangeEntry::Leave => !self.members.now.is_voter(me),
            ChangeEntry::Steps(steps) if steps.len() > 1 => false,
            ChangeEntry::Steps(steps) => {
                assert!(lsn > self.members.now.as_of, "entry {lsn} is taken in once");
                let step = steps.first().filter(|step| step.member == me);
                step.is_some_and(|step| matches!(step.change, Change::Demote(_)))
            }
        }
    }

    /// Whether most of those who have a vote behind the entry have said that they know it to be committed, or applied: they
    /// elect a leader without this one, which leaves.
    fn is_known_to_others(&self, lsn: Lsn, change: &ChangeEntry) -> bool {
        let me = MemberId(self.node.raft.id);
        let is_leaving = |id: MemberId| match change {
            ChangeEntry::Leave => false,
            ChangeEntry::Steps(steps) => steps.iter().any(|step| step.member == id),
        };
        let voters: Vec<_> = self.members.now.voters().filter(|id| *id != me && !is_leaving(*id)).collect();
        let knows = |id: &&MemberId| {
            // Their log is the leader's up to what matches, and a message with the commit index has been sent since.
            self.node.raft.prs().get(id.0).is_some_and(|progress| progress.committed_index >= lsn.get())
        };
        2 * voters.iter().filter(knows).count() > voters.len()
    }

    /// Whether this member is the whole group.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.members.now.is_alone(MemberId(self.node.raft.id))
    }

    /// Whether this member was removed from its group.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.members.now.storage(MemberId(self.node.raft.id)).is_none()
    }
}

#[cfg(test)]
mod tests {
    use corduroy_wal::HardState;

    use super::*;
    use crate::raft::group::GroupOptions;
    use crate::raft::log_store::LogStore;
    use crate::raft::membership::StorageId;

    /// A group of one that leads.
    fn lone() -> Group {
        let members = Membership::founding(MemberId::FIRST, StorageId(7));
        let store = LogStore::new(Lsn::ZERO, Term::ZERO, HardState::default(), members.conf_state());
        let options = GroupOptions::default();
        let saved = HardState::default();
        let mut group =
            Group::start(store, MemberId::FIRST, saved, (members, true), &options, (PartitionId(1), 1))
                .expect("it starts");
        group.campaign().expect("it wins");
        write(&mut group);
        group.applied(group.committed()).expect("its first entry");
        group
    }

    fn write(group: &mut Group) {
        while let Some(record) = group.take(0).expect("it has no fault") {
            group.persisted(record.number).expect("it has no fault");
        }
    }

    /// It has won another one meanwhile, and would never sleep.
    #[test]
    fn an_election_that_waits_is_not_held_once_there_is_a_leader() {
        let mut group = lone();
        group.members.campaign_from = Some(Lsn(1));
        assert!(!group.can_campaign_now());
        group.tick(true, 0).expect("it has no fault");
        assert_eq!(group.members.campaign_from, None);
    }

    /// The raft crate takes a second change for an empty entry, and says that all is well.
    #[test]
    fn a_change_that_the_crate_empties_is_an_error() {
        let mut group = lone();
        let changes = [Change::AddLearner(StorageId(8))];
        assert_eq!(group.append_change(&changes), Ok((Lsn(2), Term(1))));
        assert_eq!(group.append_change(&changes), Err(ChangeRefusal::Emptied));
        assert_eq!(group.last(), Lsn(3), "an entry it is");
        assert_eq!(group.propose_change(&changes, 0), Ok(Err(ChangeRefusal::UnderWay)));
    }

    #[test]
    fn a_change_is_taken_in_once_and_is_done_when_it_is_durable() {
        let mut group = lone();
        let proposed = group.propose_change(&[Change::AddLearner(StorageId(8))], 0);
        assert_eq!(proposed, Ok(Ok((Lsn(2), Term(1)))));
        write(&mut group);
        assert_eq!(group.committed(), Lsn(2));
        assert_eq!(group.change(Lsn(2)), Ok(Changed::Waits));
        assert_eq!(group.change(Lsn(2)), Ok(Changed::Waits), "its record is not even made");
        let record = group.take(0).expect("it has no fault").expect("a record of its own");
        assert_eq!((record.from > record.to, record.conf), (true, Some(group.members().encode())));
        assert_eq!(group.change(Lsn(2)), Ok(Changed::Waits));
        group.persisted(record.number).expect("it has no fault");
        assert_eq!(group.change(Lsn(2)), Ok(Changed::Done));
        assert_eq!(group.members().storage(MemberId(2)), Some(StorageId(8)));
        assert_eq!(group.applied_change(), AppliedChange { lsn: Lsn(2), term: Term(1), has_effect: true });
    }
}
