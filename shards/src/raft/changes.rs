//! What may be changed about who belongs to a group, and the entry that does it.
//!
//! Invariant: an entry that changes members names everything that apply needs, so all replicas make the same of it; and it is
//! read only if writing it again gives the same bytes, so nothing of a peer's is ever parsed.

use corduroy_wal::Lsn;
use corduroy_wal::fields::Fields;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use super::contact::Contact;
use crate::ids::{MemberId, StorageId};
use crate::planted::{self, PlantedBug};

/// One change of a group's members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// A new member without a vote, on this storage. It gets the LSN of the entry as its id.
    AddLearner(StorageId),
    /// The same, on a node that founded nothing: the others learn from the entry how it is reached.
    AddLearnerAt(StorageId, Contact),
    /// A learner gets a vote.
    Promote(MemberId),
    /// A voter becomes a learner.
    Demote(MemberId),
    /// A learner leaves.
    Remove(MemberId),
}

impl Change {
    /// Of one that adds a member its storage, and how that is reached if the others do not know it.
    #[must_use]
    pub const fn added(self) -> Option<(StorageId, Option<Contact>)> {
        match self {
            Self::AddLearner(storage) => Some((storage, None)),
            Self::AddLearnerAt(storage, contact) => Some((storage, Some(contact))),
            Self::Promote(_) | Self::Demote(_) | Self::Remove(_) => None,
        }
    }

    /// Whether it gives a member a vote, or takes it; `None`: neither.
    #[must_use]
    pub fn vote_of(self, member: MemberId) -> Option<bool> {
        match self {
            Self::Promote(of) => (of == member).then_some(true),
            Self::Demote(of) => (of == member).then_some(false),
            Self::AddLearner(_) | Self::AddLearnerAt(..) | Self::Remove(_) => None,
        }
    }
}

/// Changes in one entry at most: more than a group has members.
pub const CHANGES_MAX: usize = 16;

/// A change as an entry has it: its kind, whom it is about, and for a new member the storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is done.
    pub change: Change,
    /// With whom; of a new member the LSN of the entry.
    pub member: MemberId,
}

/// An entry that changes members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeEntry {
    /// These changes; several of them by joint consensus, which the leader leaves by itself.
    Steps(Vec<Step>),
    /// The end of a joint configuration.
    Leave,
}

/// A configuration entry that is not as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a configuration entry of {bytes} bytes cannot be read: {why}")]
pub struct ChangeDamage {
    bytes: usize,
    why: &'static str,
}

/// Why a change of members, or a transfer of the lead, was not made: certainly not, and it may be asked for again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ChangeRefusal {
    /// There is no such group on this shard.
    #[error("the partition is not on this shard")]
    NoPartition,
    /// The replica is stopped, or its log is kept without Raft.
    #[error("no Raft group runs here")]
    NoGroup,
    /// Too many wait for their outcome.
    #[error("too many changes are under way on this shard")]
    Overloaded,
    /// Another member leads, or nobody.
    #[error("the replica does not lead its group: ask the one that does")]
    NotLeader,
    /// It has just been elected.
    #[error("the leader has not applied the first entry of its term: ask again")]
    TooEarly,
    /// One change at a time.
    #[error("another change of the members is under way, or may be: ask again when it is done")]
    UnderWay,
    /// The lead is on its way to another member.
    #[error("the lead is being handed to another member")]
    Transferring,
    /// No change, too many, more than one new member, or one member twice.
    #[error("it names no change, too many, two new members, or a member twice")]
    Unclear,
    /// The storage has a member of the group, or names none.
    #[error("storage {0} has a member of the group already, or is no storage")]
    Storage(StorageId),
    /// There is no such member.
    #[error("member {0} does not belong to the group")]
    Member(MemberId),
    /// It has a vote already, or still, or none to lose or to lead with.
    #[error(
        "member {0} has a vote where it must have none, or the other way round; who leaves is demoted before"
    )]
    Vote(MemberId),
    /// No voter would be left.
    #[error("nobody with a vote would be left")]
    LastVoter,
    /// It leads.
    #[error("member {0} leads: hand the lead to another one first")]
    Leads(MemberId),
    /// It has not got, or not applied, enough of the log.
    #[error("member {member} is {entries} entries behind")]
    Behind {
        /// Who.
        member: MemberId,
        /// By how much.
        entries: u64,
    },
    /// Those who would have a vote behind it could not agree on anything: too many of them say nothing, or need an image of the
    /// state first.
    #[error(
        "of {voters} voters that there would be, only {answered} have answered within an election timeout and are in reach of \
         the log"
    )]
    Silent {
        /// Who has, the leader included.
        answered: usize,
        /// Who would have a vote.
        voters: usize,
    },
    /// The raft crate did not take the entry.
    #[error("Raft did not take the entry: the lead is being lost")]
    Dropped,
    /// The raft crate has made an empty entry of it.
    #[error("Raft has made an empty entry of the change, which changes nothing")]
    Emptied,
    /// The entry has another LSN than the one that the new member would be named by.
    #[error("the entry has become {found} instead of {wanted}, and changes nothing")]
    OtherLsn {
        /// As computed.
        wanted: Lsn,
        /// As assigned.
        found: Lsn,
    },
    /// Another leader's entry was committed instead, or it had no effect any more when it was.
    #[error("the change was replaced by another leader's entry, or came too late to have an effect")]
    Obsoleted,
    /// A third member got the lead.
    #[error("the lead was not handed over: another member has got it")]
    NotHandedOver,
}

impl ChangeRefusal {
    /// The reasons, by name.
    pub const REASONS: [&str; 20] = [
        "no partition",
        "no group",
        "overloaded",
        "not leader",
        "too early",
        "under way",
        "transferring",
        "unclear",
        "storage",
        "member",
        "vote",
        "last voter",
        "leads",
        "behind",
        "dropped",
        "emptied",
        "other LSN",
        "obsoleted",
        "not handed over",
        "silent",
    ];

    /// Its index among [`ChangeRefusal::REASONS`].
    #[must_use]
    pub const fn reason(&self) -> usize {
        match self {
            Self::NoPartition => 0,
            Self::NoGroup => 1,
            Self::Overloaded => 2,
            Self::NotLeader => 3,
            Self::TooEarly => 4,
            Self::UnderWay => 5,
            Self::Transferring => 6,
            Self::Unclear => 7,
            Self::Storage(_) => 8,
            Self::Member(_) => 9,
            Self::Vote(_) => 10,
            Self::LastVoter => 11,
            Self::Leads(_) => 12,
            Self::Behind { .. } => 13,
            Self::Dropped => 14,
            Self::Emptied => 15,
            Self::OtherLsn { .. } => 16,
            Self::Obsoleted => 17,
            Self::NotHandedOver => 18,
            Self::Silent { .. } => 19,
        }
    }
}

/// The version of what we add to the raft crate's own bytes.
const VERSION: u8 = 1;
/// That of an entry which says how a new member is reached.
const VERSION_2: u8 = 2;
/// Version, and how long it is.
const FRAME_BYTES: usize = 3;
/// A change in it.
const STEP_BYTES: usize = 17;

const ADD_LEARNER: u8 = 1;
const PROMOTE: u8 = 2;
const DEMOTE: u8 = 3;
const REMOVE: u8 = 4;
/// In version 2.
const ADD_LEARNER_AT: u8 = 5;

impl Step {
    /// A change in the entry `lsn`.
    #[must_use]
    pub const fn of(change: Change, lsn: Lsn) -> Self {
        let member = match change {
            Change::AddLearner(_) | Change::AddLearnerAt(..) => MemberId(lsn.get()),
            Change::Promote(member) | Change::Demote(member) | Change::Remove(member) => member,
        };
        Self { change, member }
    }

    const fn in_raft(self) -> ConfChangeType {
        match self.change {
            Change::AddLearner(_) | Change::AddLearnerAt(..) | Change::Demote(_) => {
                ConfChangeType::AddLearnerNode
            }
            Change::Promote(_) => ConfChangeType::AddNode,
            Change::Remove(_) => ConfChangeType::RemoveNode,
        }
    }

    fn encode(self, bytes: &mut Vec<u8>) {
        let (kind, storage) = match self.change {
            Change::AddLearner(storage) => (ADD_LEARNER, storage),
            Change::AddLearnerAt(storage, _) => (ADD_LEARNER_AT, storage),
            Change::Promote(_) => (PROMOTE, StorageId::UNKNOWN),
            Change::Demote(_) => (DEMOTE, StorageId::UNKNOWN),
            Change::Remove(_) => (REMOVE, StorageId::UNKNOWN),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&self.member.0.to_le_bytes());
        bytes.extend_from_slice(&storage.0.to_le_bytes());
        if let Change::AddLearnerAt(_, contact) = self.change {
            contact.encode(bytes);
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (kind, member, storage) = (fields.byte()?, MemberId(fields.u64()?), StorageId(fields.u64()?));
        let change = match kind {
            ADD_LEARNER => Change::AddLearner(storage),
            ADD_LEARNER_AT => Change::AddLearnerAt(storage, Contact::decode(fields)?),
            PROMOTE => Change::Promote(member),
            DEMOTE => Change::Demote(member),
            REMOVE => Change::Remove(member),
            _ => return None,
        };
        Some(Self { change, member })
    }
}

impl ChangeEntry {
    /// The entry `lsn` with these changes.
    #[must_use]
    pub fn of(changes: &[Change], lsn: Lsn) -> Self {
        Self::Steps(changes.iter().map(|change| Step::of(*change, lsn)).collect())
    }

    /// The same in the raft crate's words.
    #[must_use]
    pub fn in_raft(&self) -> ConfChangeV2 {
        let mut change = ConfChangeV2::default();
        let Self::Steps(steps) = self else { return change };
        if planted::is(PlantedBug::JointNeverLeft) {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        for step in steps {
            let mut single = ConfChangeSingle { node_id: step.member.0, ..ConfChangeSingle::default() };
            single.set_change_type(step.in_raft());
            change.mut_changes().push(single);
        }
        change
    }

    /// Its bytes: those of the raft crate's message (protobuf; changes as field 2, each with its kind as 1 and the member as
    /// 2), whose context (field 3) has what the crate knows nothing of: version, changes (kind u8, member u64, storage u64),
    /// and its own length (u16), little-endian. Version 2, of an entry that says how a new member is reached, has the number of
    /// changes (u8) behind the version, and that behind the member's storage. Nothing: the end of a joint configuration, as the
    /// crate writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self::Steps(steps) = self else { return Vec::new() };
        assert!((1..=CHANGES_MAX).contains(&steps.len()), "{} changes in one entry", steps.len());
        let mut bytes = Vec::new();
        for step in steps {
            let mut single = Vec::new();
            match step.in_raft() {
                // The default is not written.
                ConfChangeType::AddNode => {}
                ConfChangeType::RemoveNode => single.extend([0x08, 1]),
                ConfChangeType::AddLearnerNode => single.extend([0x08, 2]),
            }
            single.push(0x10);
            put_varint(&mut single, step.member.0);
            bytes.push(0x12);
            put_varint(&mut bytes, single.len() as u64);
            bytes.extend_from_slice(&single);
        }
        let has_contact = steps.iter().any(|step| matches!(step.change, Change::AddLearnerAt(..)));
        let count = u8::try_from(steps.len()).expect("a few changes");
        let mut context = if has_contact { vec![VERSION_2, count] } else { vec![VERSION] };
        steps.iter().for_each(|step| step.encode(&mut context));
        let length = u16::try_from(context.len() + 2).expect("a few changes");
        context.extend_from_slice(&length.to_le_bytes());
        bytes.push(0x1a);
        put_varint(&mut bytes, context.len() as u64);
        bytes.extend_from_slice(&context);
        bytes
    }

    /// Reads what [`ChangeEntry::encode`] wrote.
    ///
    /// # Errors
    /// [`ChangeDamage`] if it is anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChangeDamage> {
        if bytes.is_empty() {
            return Ok(Self::Leave);
        }
        let damage = |why| ChangeDamage { bytes: bytes.len(), why };
        let steps = read_steps(bytes).ok_or_else(|| damage("it has no context, or an unknown one"))?;
        let entry = Self::Steps(steps);
        if entry.encode() == bytes { Ok(entry) } else { Err(damage("it is written in another way")) }
    }

    /// Whether the entry `lsn` may be like this: a new member has its LSN as id, and nobody is in it twice.
    #[must_use]
    pub fn fits(&self, lsn: Lsn) -> bool {
        let Self::Steps(steps) = self else { return true };
        let is_own = |step: &Step| *step == Step::of(step.change, lsn) && step.member.0 > 0;
        let is_twice =
            |(at, step): (usize, &Step)| steps.iter().skip(at + 1).any(|other| other.member == step.member);
        steps.iter().all(is_own) && !steps.iter().enumerate().any(is_twice)
    }
}

/// The changes in the context of an entry, which its last bytes give the length of.
fn read_steps(bytes: &[u8]) -> Option<Vec<Step>> {
    let length = usize::from(u16::from_le_bytes(*bytes.last_chunk()?));
    let context = bytes.get(bytes.len().checked_sub(length)?..)?;
    let mut fields = Fields::new(context);
    let count = match fields.byte()? {
        VERSION => length.checked_sub(FRAME_BYTES)? / STEP_BYTES,
        VERSION_2 => fields.byte()?.into(),
        _ => return None,
    };
    (1..=CHANGES_MAX).contains(&count).then_some(())?;
    (0..count).map(|_| Step::decode(&mut fields)).collect()
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use super::super::contact::{self, tests::contact};
    use super::*;

    fn all() -> Vec<Change> {
        let (two, three, four) = (MemberId(2), MemberId(3), MemberId(400));
        vec![
            Change::AddLearner(StorageId(0x0a0b)),
            Change::Promote(two),
            Change::Demote(three),
            Change::Remove(four),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn version_1_is_these_bytes() {
        let entry = ChangeEntry::of(&all(), Lsn(300));
        let bytes = entry.encode();
        let expected = "1205080210ac02\
                        12021002\
                        120408021003\
                        12050801109003\
                        1a4701\
                        012c010000000000000b0a000000000000\
                        0202000000000000000000000000000000\
                        0303000000000000000000000000000000\
                        0490010000000000000000000000000000\
                        4700";
        assert_eq!(hex(&bytes), expected);
        assert_eq!(ChangeEntry::decode(&bytes), Ok(entry));
        assert_eq!((ChangeEntry::Leave.encode(), ChangeEntry::decode(&[])), (vec![], Ok(ChangeEntry::Leave)));
    }

    #[test]
    fn version_2_is_these_bytes() {
        let changes = [Change::AddLearnerAt(StorageId(4), contact()), Change::Demote(MemberId(3))];
        let entry = ChangeEntry::of(&changes, Lsn(300));
        let bytes = entry.encode();
        let begin = "1205080210ac02\
                     120408021003\
                     1a500202\
                     052c010000000000000400000000000000";
        let end = "03030000000000000000000000000000005000";
        assert_eq!(hex(&bytes), [begin, contact::tests::HEX, end].concat());
        assert_eq!(ChangeEntry::decode(&bytes), Ok(entry.clone()));
        assert!(entry.fits(Lsn(300)) && !entry.fits(Lsn(301)));
        for end in 1..bytes.len() {
            assert!(ChangeEntry::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn several_changes_are_left_by_the_leader() {
        let several = ChangeEntry::of(&all(), Lsn(300)).in_raft();
        assert_eq!((several.enter_joint(), several.leave_joint()), (Some(true), false));
        let one = ChangeEntry::of(&[Change::Promote(MemberId(9))], Lsn(10)).in_raft();
        assert_eq!((one.enter_joint(), one.leave_joint()), (None, false));
        assert!(ChangeEntry::Leave.in_raft().leave_joint());
    }

    #[test]
    fn nothing_else_is_read() {
        let bytes = ChangeEntry::of(&all(), Lsn(300)).encode();
        for end in 1..bytes.len() {
            assert!(ChangeEntry::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let read = ChangeEntry::decode(&flipped).ok().filter(|entry| entry.fits(Lsn(300)));
                // A storage is a number like any other.
                let is_storage = (36..44).contains(&at);
                assert_eq!(read.is_some(), is_storage, "bit {bit} of byte {at}: {read:?}");
            }
        }
    }

    #[test]
    fn a_new_member_has_the_entrys_number_and_nobody_is_changed_twice() {
        assert!(ChangeEntry::of(&all(), Lsn(300)).fits(Lsn(300)));
        assert!(!ChangeEntry::of(&all(), Lsn(300)).fits(Lsn(301)));
        let twice = [Change::Promote(MemberId(2)), Change::Remove(MemberId(2))];
        assert!(!ChangeEntry::of(&twice, Lsn(300)).fits(Lsn(300)));
        let clash = [Change::AddLearner(StorageId(1)), Change::Remove(MemberId(300))];
        assert!(!ChangeEntry::of(&clash, Lsn(300)).fits(Lsn(300)));
        assert!(!ChangeEntry::of(&[Change::Promote(MemberId(0))], Lsn(3)).fits(Lsn(3)));
        assert!(ChangeEntry::Leave.fits(Lsn(3)));
    }
}
