//! Who belongs to a group: the saved form of the configuration.
//!
//! Invariant: a configuration is written in the same record as the entries and the hard state it belongs to, so a
//! group can never come back without voters.

use corduroy_wal::Lsn;
use corduroy_wal::fields::Fields;
use raft::eraftpb::ConfState;
use smallvec::{SmallVec, smallvec};

use super::changes::{CHANGES_MAX, Change, ChangeEntry, ChangeRefusal, Step};
use super::contact::Contact;
pub use crate::ids::{MemberId, StorageId};
use crate::planted::{self, PlantedBug};

/// A saved configuration that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the saved configuration of {bytes} bytes cannot be read: {why}")]
pub struct MembershipDamage {
    bytes: usize,
    why: &'static str,
}

/// The version written today, unless it is to say how a member is reached.
const VERSION: u8 = 2;
/// The version that says it.
const VERSION_3: u8 = 3;
/// The version that names members only.
const VERSION_1: u8 = 1;

/// A part that a member has in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Voter,
    Learner,
    /// A voter until the change under way is complete.
    OutgoingVoter,
    /// A learner once the change under way is complete.
    NextLearner,
}

impl Part {
    /// All, in the order in which version 1 lists their members.
    const ALL: [Self; 4] = [Self::Voter, Self::Learner, Self::OutgoingVoter, Self::NextLearner];

    /// Its bit in the saved form.
    const fn bit(self) -> u8 {
        match self {
            Self::Voter => 1,
            Self::Learner => 2,
            Self::OutgoingVoter => 4,
            Self::NextLearner => 8,
        }
    }
}

/// A member: the parts that it has, and the storage that its replica is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Member {
    id: MemberId,
    storage: StorageId,
    parts: u8,
}

/// The members of a group, as of one entry of its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The entry that made it so; [`Lsn::ZERO`]: the group was founded with it.
    pub as_of: Lsn,
    auto_leave: bool,
    /// By id. A group of one, of which a node may have many thousands, has no heap memory for it.
    members: SmallVec<[Member; 1]>,
    /// How the nodes of members are reached that founded nothing, by their ids.
    contacts: Vec<(MemberId, Contact)>,
}

impl Membership {
    /// That of a new group: its founder alone.
    #[must_use]
    pub fn founding(member: MemberId, storage: StorageId) -> Self {
        let founder = Member { id: member, storage, parts: Part::Voter.bit() };
        let members = smallvec![founder];
        Self { as_of: Lsn::ZERO, auto_leave: false, members, contacts: Vec::new() }
    }

    /// That of a new group with several voters, each on its storage.
    #[must_use]
    pub fn founded_by(founders: &[(MemberId, StorageId)]) -> Self {
        let voters = founders.iter().map(|(member, _)| member.0).collect();
        let conf = ConfState { voters, ..ConfState::default() };
        let storage_of = |id| founders.iter().find(|(member, _)| *member == id).map(|(_, storage)| *storage);
        Self::of(Lsn::ZERO, &conf, |id| storage_of(id).unwrap_or_default())
    }

    /// What a member knows that joins a group: itself, without a vote, and who leads. An image of the state has the rest.
    #[must_use]
    pub fn joining((member, here): (MemberId, StorageId), (leader, there): (MemberId, StorageId)) -> Self {
        let conf = ConfState { voters: vec![leader.0], learners: vec![member.0], ..ConfState::default() };
        Self::of(Lsn::ZERO, &conf, |id| if id == member { here } else { there })
    }

    /// Whether it is what a member knows that joins: no group is founded with one that has no vote.
    #[must_use]
    pub fn is_joining(&self, member: MemberId) -> bool {
        self.as_of == Lsn::ZERO && !self.votes(member)
    }

    /// The same, as an entry made it.
    #[must_use]
    pub fn made_by(self, entry: Lsn) -> Self {
        Self { as_of: entry, ..self }
    }

    /// What the entry `as_of` made of a group, in the raft crate's words; `storage_of` says where each member is.
    #[must_use]
    pub fn of(as_of: Lsn, conf: &ConfState, storage_of: impl Fn(MemberId) -> StorageId) -> Self {
        let (auto_leave, members, contacts) = (conf.auto_leave, SmallVec::new(), Vec::new());
        let mut membership = Self { as_of, auto_leave, members, contacts };
        let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
        for (part, ids) in Part::ALL.into_iter().zip(lists) {
            for id in ids.iter().map(|id| MemberId(*id)) {
                let found = membership.members.binary_search_by_key(&id, |member| member.id);
                let at = found.unwrap_or_else(|at| {
                    membership.members.insert(at, Member { id, storage: storage_of(id), parts: 0 });
                    at
                });
                membership.members.get_mut(at).expect("it was just found").parts |= part.bit();
            }
        }
        membership
    }

    /// The same in the raft crate's words.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        let with = |part: Part| {
            let members = self.members.iter().filter(|member| member.parts & part.bit() != 0);
            members.map(|member| member.id.0).collect()
        };
        ConfState {
            voters: with(Part::Voter),
            learners: with(Part::Learner),
            voters_outgoing: with(Part::OutgoingVoter),
            learners_next: with(Part::NextLearner),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }

    /// Whether `member` is the whole group.
    #[must_use]
    pub fn is_alone(&self, member: MemberId) -> bool {
        matches!(self.members.as_slice(), [only] if only.id == member && only.parts == Part::Voter.bit())
    }

    /// The storage of a member; `None`: it is no member.
    #[must_use]
    pub fn storage(&self, id: MemberId) -> Option<StorageId> {
        self.members.iter().find(|member| member.id == id).map(|member| member.storage)
    }

    /// The entry that made it a member; the first one for those who were founded with the group, whose ids are no entries.
    #[must_use]
    pub fn since(&self, member: MemberId) -> Lsn {
        let is_founder = self.as_of == Lsn::ZERO && self.votes(member);
        if is_founder { Lsn(1) } else { Lsn(member.0) }
    }

    /// The member on a storage.
    #[must_use]
    pub fn member_on(&self, storage: StorageId) -> Option<MemberId> {
        self.members.iter().find(|member| member.storage == storage).map(|member| member.id)
    }

    /// Whether a member has this part.
    fn has(&self, id: MemberId, part: Part) -> bool {
        self.members.iter().any(|member| member.id == id && member.parts & part.bit() != 0)
    }

    /// Whether a member has a vote, now or, in a joint configuration, in the new one.
    #[must_use]
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.has(id, Part::Voter)
    }

    /// Whether a member has a vote, be it only until a joint configuration is left.
    #[must_use]
    pub fn votes(&self, id: MemberId) -> bool {
        self.is_voter(id) || self.has(id, Part::OutgoingVoter)
    }

    /// Whether several changes are under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.members.iter().any(|member| member.parts & Part::OutgoingVoter.bit() != 0)
    }

    /// Its members, by id.
    pub fn ids(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.iter().map(|member| member.id)
    }

    /// Those with a vote, as [`Membership::is_voter`] counts them.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.ids().filter(|id| self.is_voter(*id))
    }

    /// How many members beside the leader have, at least, all that was committed: of an odd number of voters a majority, less one.
    /// Of an even number one less than that: what was committed before the group grew by a vote, a majority of fewer has. While
    /// several changes are under way, as many as of the smaller side.
    #[must_use]
    pub fn copies(&self) -> usize {
        let outgoing = self.ids().filter(|id| self.has(*id, Part::OutgoingVoter)).count();
        let voters = self.voters().count();
        let fewest = if outgoing == 0 { voters } else { voters.min(outgoing) };
        fewest.saturating_sub(1) / 2
    }

    /// What the entry `lsn` makes of it, with `conf` as the raft crate has it afterwards.
    #[must_use]
    pub fn after(&self, lsn: Lsn, entry: &ChangeEntry, conf: &ConfState) -> Self {
        let steps: &[Step] = match entry {
            ChangeEntry::Steps(steps) => steps,
            ChangeEntry::Leave => &[],
        };
        let added: Vec<_> =
            steps.iter().filter_map(|step| Some((step.member, step.change.added()?))).collect();
        let storage_of =
            |id| added.iter().find(|(member, _)| *member == id).map(|(_, (storage, _))| *storage);
        let after = Self::of(lsn, conf, |id| storage_of(id).or_else(|| self.storage(id)).unwrap_or_default());
        let mut after = after.with_contacts_of(self);
        let new = added.into_iter().filter_map(|(member, (_, contact))| Some((member, contact?)));
        // Their ids are above all others.
        after.contacts.extend(new);
        assert!(
            after.contacts.is_sorted_by_key(|(member, _)| *member),
            "entry {lsn} adds members above all others"
        );
        after
    }

    /// The same, with what `other` has of how its members are reached.
    #[must_use]
    pub fn with_contacts_of(self, other: &Self) -> Self {
        let of_it = other.contacts.iter().filter(|(member, _)| self.storage(*member).is_some());
        let contacts = of_it.copied().collect();
        Self { contacts, ..self }
    }

    /// How the nodes of members are reached that founded nothing.
    pub fn contacts(&self) -> impl Iterator<Item = (MemberId, &Contact)> {
        self.contacts.iter().map(|(member, contact)| (*member, contact))
    }

    /// How the node of a member is reached, if it founded nothing.
    #[must_use]
    pub fn contact_of(&self, member: MemberId) -> Option<&Contact> {
        self.contacts.iter().find(|(of, _)| *of == member).map(|(_, contact)| contact)
    }

    /// How the node of the member on a storage is reached, if it founded nothing.
    #[must_use]
    pub fn contact_on(&self, storage: StorageId) -> Option<&Contact> {
        if self.contacts.is_empty() {
            return None;
        }
        self.contact_of(self.member_on(storage)?)
    }

    /// Whether an entry that was committed changes it: every replica decides that alike.
    #[must_use]
    pub fn takes(&self, lsn: Lsn, entry: &ChangeEntry) -> bool {
        let is_made = lsn <= self.as_of && !planted::is(PlantedBug::ChangeMadeAgain);
        if is_made || !entry.fits(lsn) {
            return false;
        }
        match entry {
            ChangeEntry::Leave => self.is_joint(),
            ChangeEntry::Steps(steps) => {
                let changes: Vec<_> = steps.iter().map(|step| step.change).collect();
                !self.is_joint() && self.check(&changes, MemberId(lsn.get())).is_ok()
            }
        }
    }

    /// Whether these changes may be made of it; a new member would be `next`.
    ///
    /// # Errors
    /// [`ChangeRefusal`]: why not.
    pub fn check(&self, changes: &[Change], next: MemberId) -> Result<(), ChangeRefusal> {
        let steps: Vec<_> = changes.iter().map(|change| Step::of(*change, Lsn(next.0))).collect();
        let is_clear =
            (1..=CHANGES_MAX).contains(&steps.len()) && ChangeEntry::Steps(steps).fits(Lsn(next.0));
        if !is_clear {
            return Err(ChangeRefusal::Unclear);
        }
        let mut voters = self.voters().count();
        for change in changes {
            match *change {
                Change::AddLearner(storage) | Change::AddLearnerAt(storage, _) => {
                    let is_taken = storage == StorageId::UNKNOWN || self.member_on(storage).is_some();
                    if is_taken {
                        return Err(ChangeRefusal::Storage(storage));
                    }
                    if self.storage(next).is_some() {
                        return Err(ChangeRefusal::Member(next));
                    }
                }
                Change::Promote(id) | Change::Demote(id) | Change::Remove(id)
                    if self.storage(id).is_none() =>
                {
                    return Err(ChangeRefusal::Member(id));
                }
                Change::Promote(id) if self.is_voter(id) => return Err(ChangeRefusal::Vote(id)),
                Change::Promote(_) => voters += 1,
                Change::Demote(id) if !self.is_voter(id) => return Err(ChangeRefusal::Vote(id)),
                Change::Demote(_) => voters -= 1,
                // It stops when it hears of that, and the others may still need its vote to learn of it.
                Change::Remove(id) if self.votes(id) => return Err(ChangeRefusal::Vote(id)),
                Change::Remove(_) => {}
            }
        }
        if voters == 0 { Err(ChangeRefusal::LastVoter) } else { Ok(()) }
    }

    /// The saved form: version, auto-leave, the entry that made it so, and the members by id, a count (u32) and each: id
    /// (u64), storage (u64), parts (a bit each), little-endian. Version 3, where members have contacts: a count (u32) of them, and
    /// each: id (u64), contact.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let version = if self.contacts.is_empty() { VERSION } else { VERSION_3 };
        let mut bytes = vec![version, u8::from(self.auto_leave)];
        bytes.extend_from_slice(&self.as_of.get().to_le_bytes());
        let count = u32::try_from(self.members.len()).expect("a group has a handful of members");
        bytes.extend_from_slice(&count.to_le_bytes());
        for Member { id, storage, parts } in &self.members {
            bytes.extend_from_slice(&id.0.to_le_bytes());
            bytes.extend_from_slice(&storage.0.to_le_bytes());
            bytes.push(*parts);
        }
        if !self.contacts.is_empty() {
            let count = u32::try_from(self.contacts.len()).expect("a group has a handful of members");
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        for (id, contact) in &self.contacts {
            bytes.extend_from_slice(&id.0.to_le_bytes());
            contact.encode(&mut bytes);
        }
        bytes
    }

    /// Reads what [`Membership::encode`] wrote, or version 1 of it: version, auto-leave, and for each part a count (u32) and
    /// ids (u64). No release that wrote that could change members, so it is what the group was founded with; which storage a
    /// member is on, it does not say.
    ///
    /// # Errors
    /// [`MembershipDamage`] if it is anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipDamage> {
        let damage = |why| MembershipDamage { bytes: bytes.len(), why };
        let mut fields = Fields::new(bytes);
        let [version, auto_leave] = fields.array().ok_or_else(|| damage("too short"))?;
        if auto_leave > 1 {
            return Err(damage("auto-leave is neither 0 nor 1"));
        }
        let read = match version {
            VERSION_1 => read_lists(&mut fields),
            VERSION => read_members(&mut fields),
            VERSION_3 => read_with_contacts(&mut fields),
            _ => return Err(damage("unknown version; start the release that wrote it")),
        };
        let mut membership = read.ok_or_else(|| damage("a list is cut off, or not as it is written"))?;
        membership.auto_leave = auto_leave == 1;
        if !fields.is_empty() {
            return Err(damage("bytes are left over"));
        }
        membership.contradiction().map_or(Ok(membership), |why| Err(damage(why)))
    }
}

impl Membership {
    /// What of it no change of members leaves behind.
    fn contradiction(&self) -> Option<&'static str> {
        let has = |part: Part| self.members.iter().any(|member| member.parts & part.bit() != 0);
        let parts_are = |parts: &[Part]| parts.iter().map(|part| part.bit()).sum::<u8>();
        // A learner is nothing else, and only a voter that leaves becomes one.
        let possible = [
            parts_are(&[Part::Voter]),
            parts_are(&[Part::Learner]),
            parts_are(&[Part::OutgoingVoter]),
            parts_are(&[Part::Voter, Part::OutgoingVoter]),
            parts_are(&[Part::OutgoingVoter, Part::NextLearner]),
        ];
        if self.members.iter().any(|member| member.id.0 == 0) {
            Some("0 is no member's id")
        } else if self.members.iter().any(|member| !possible.contains(&member.parts)) {
            Some("the parts of a member contradict each other")
        } else if !has(Part::Voter) {
            Some("it has no voter")
        } else if self.auto_leave && !has(Part::OutgoingVoter) {
            Some("auto-leave is set, and no change is under way")
        } else {
            None
        }
    }
}

/// The lists of version 1.
fn read_lists(fields: &mut Fields<'_>) -> Option<Membership> {
    let mut conf = ConfState::default();
    let lists = [&mut conf.voters, &mut conf.learners, &mut conf.voters_outgoing, &mut conf.learners_next];
    for list in lists {
        for _ in 0..fields.u32()? {
            list.push(fields.u64()?);
        }
        // A part that is named twice shows as one.
        let named = list.len();
        list.sort_unstable();
        list.dedup();
        (list.len() == named).then_some(())?;
    }
    Some(Membership::of(Lsn::ZERO, &conf, |_| StorageId::UNKNOWN))
}

/// What follows version and auto-leave from version 2 on.
fn read_members(fields: &mut Fields<'_>) -> Option<Membership> {
    let as_of = Lsn(fields.u64()?);
    let mut members: SmallVec<[Member; 1]> = SmallVec::new();
    for _ in 0..fields.u32()? {
        let id = MemberId(fields.u64()?);
        let (storage, parts) = (StorageId(fields.u64()?), fields.byte()?);
        let is_next = members.last().is_none_or(|last| last.id < id);
        is_next.then_some(())?;
        members.push(Member { id, storage, parts });
    }
    Some(Membership { as_of, auto_leave: false, members, contacts: Vec::new() })
}

/// The same, and what version 3 adds: how the nodes of some members are reached, by their ids.
fn read_with_contacts(fields: &mut Fields<'_>) -> Option<Membership> {
    let mut membership = read_members(fields)?;
    let count = fields.u32()?;
    for _ in 0..count {
        let id = MemberId(fields.u64()?);
        let is_next = membership.contacts.last().is_none_or(|(last, _)| *last < id);
        (is_next && membership.storage(id).is_some()).then_some(())?;
        membership.contacts.push((id, Contact::decode(fields)?));
    }
    (count > 0).then_some(membership)
}

#[cfg(test)]
mod tests;
