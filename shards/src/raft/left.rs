//! What a storage has left of a replica that does not belong to its group any more: when it may be deleted, and what the log begins
//! anew with then.
//!
//! Invariant: nothing is deleted that the group may need: either the log says that the member was removed, or a later member is
//! to be on the same storage, which is added only once the one before it is removed. And the log says of which member that was
//! for as long as there is anything of it, so a deletion that was cut off is begun again.

use corduroy_wal::device::Device;
use corduroy_wal::{HardState, LogState, Lsn, RecordHead, Term, Wal, WalError};

use super::membership::{MemberId, Membership, StorageId};
use super::start::Origin;
use crate::ids::PartitionId;

/// How far a deletion has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletion {
    /// Nothing is deleted: its group may need it.
    Refused,
    /// It goes on: turn the shard, and ask again.
    UnderWay,
    /// Nothing is left, but for the note of which member was here.
    Done,
}

impl Membership {
    /// Whether it is one without a member on a storage that has its log: that was removed.
    #[must_use]
    pub fn has_removed(&self, storage: StorageId) -> bool {
        self.as_of > Lsn::ZERO && self.member_on(storage).is_none() && storage != StorageId::UNKNOWN
    }

    /// Whether nobody can agree upon anything without this member.
    fn needs(&self, member: MemberId) -> bool {
        !self.is_joint() && self.voters().eq([member])
    }
}

/// The configuration that removed a log's member, if one did, be it that nothing else is left of that.
#[must_use]
pub fn removed_by(log: &LogState, storage: StorageId) -> Option<Membership> {
    let saved = Membership::decode(log.conf.as_deref()?).ok()?;
    saved.has_removed(storage).then_some(saved)
}

/// Whether nothing is left but the note that the log's member was removed, and no other one joins. `state`: how far the state is
/// applied, and whether that is inside an entry.
#[must_use]
pub fn is_note(state: (Lsn, bool), log: Option<&LogState>, (storage, next): (StorageId, &Origin)) -> bool {
    let log = log.filter(|log| log.last == Lsn::ZERO && !matches!(next, Origin::Join { .. }));
    state == (Lsn::ZERO, false) && log.is_some_and(|log| removed_by(log, storage).is_some())
}

/// The configuration with which a log begins anew once what is left is deleted; `None`: that may be needed. `next`: where the
/// storage's next replica comes from; one that joins has to be a later member than any that the log speaks of.
#[must_use]
pub fn configuration_behind(log: &LogState, storage: StorageId, next: &Origin) -> Option<Membership> {
    let Some(saved) = log.conf.as_deref() else {
        // An empty log of nobody, where somebody is to join.
        let (Origin::Join { member, leader }, Lsn::ZERO, None) = (next, log.last, log.hard_state) else {
            return None;
        };
        return Some(Membership::joining((*member, storage), *leader));
    };
    let saved = Membership::decode(saved).ok()?;
    let here = saved.member_on(storage);
    match next {
        Origin::Join { member, leader } => {
            let is_later = member.0 > saved.as_of.get() && here.is_none_or(|here| *member > here);
            let is_there = here == Some(*member) && saved.is_joining(*member) && log.last == Lsn::ZERO;
            let is_needed = here.is_some_and(|here| saved.needs(here));
            let joins = || Membership::joining((*member, storage), *leader);
            (is_there || is_later && !is_needed).then(joins)
        }
        Origin::Restart => saved.has_removed(storage).then_some(saved),
        Origin::Found(_) | Origin::AloneOn(_) => None,
    }
}

/// Has a partition's log begin anew, in one record. Who was voted for in which term is not forgotten.
///
/// # Errors
/// [`WalError`] if the log has failed.
pub fn begin_anew<D: Device>(
    wal: &mut Wal<D>,
    partition: PartitionId,
    members: &Membership,
) -> Result<(), WalError> {
    let log = partition.log();
    let (conf, state) = (members.encode(), wal.log_state(log).unwrap_or_default());
    if state.last == Lsn::ZERO && state.conf.as_deref() == Some(&conf[..]) {
        return Ok(());
    }
    let voted = state.hard_state.map(|voted| HardState { commit: Lsn::ZERO, ..voted });
    let head = RecordHead { log, hard_state: voted, conf: Some(&conf) };
    wal.reset(head, Lsn::ZERO, Term::ZERO).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: StorageId = StorageId(7);

    fn log(members: &Membership, last: u64) -> LogState {
        LogState { first: Lsn(1), last: Lsn(last), conf: Some(members.encode()), ..LogState::default() }
    }

    fn founded(ids: &[(u64, u64)]) -> Membership {
        let of = |(member, storage): &(u64, u64)| (MemberId(*member), StorageId(*storage));
        Membership::founded_by(&ids.iter().map(of).collect::<Vec<_>>())
    }

    fn joins(member: u64) -> Origin {
        Origin::Join { member: MemberId(member), leader: (MemberId(2), StorageId(8)) }
    }

    fn may_go(log: &LogState, next: &Origin) -> bool {
        configuration_behind(log, HERE, next).is_some()
    }

    #[test]
    fn who_was_removed_is_deleted_and_who_is_a_member_is_not() {
        let gone = founded(&[(2, 8), (3, 9)]).made_by(Lsn(40));
        assert_eq!(configuration_behind(&log(&gone, 44), HERE, &Origin::Restart), Some(gone.clone()));
        assert_eq!(removed_by(&log(&gone, 44), HERE), Some(gone.clone()));
        assert_eq!(removed_by(&log(&gone, 0), StorageId(8)), None);
        assert_eq!(removed_by(&LogState::default(), HERE), None);
        let nothing = (Lsn::ZERO, false);
        let is = |state, last, next: &Origin| is_note(state, Some(&log(&gone, last)), (HERE, next));
        assert!(is(nothing, 0, &Origin::Restart) && !is(nothing, 0, &joins(60)));
        assert!(!is(nothing, 44, &Origin::Restart) && !is((Lsn(1), false), 0, &Origin::Restart));
        assert!(!is_note(nothing, None, (HERE, &Origin::Restart)));
        let all = founded(&[(1, 7), (2, 8), (3, 9)]);
        for members in [all.clone(), all.made_by(Lsn(40)), founded(&[(2, 8)])] {
            assert!(!may_go(&log(&members, 44), &Origin::Restart), "{members:?}");
        }
        let founders = Origin::Found(vec![(MemberId(1), HERE)]);
        assert!(!may_go(&log(&gone, 44), &founders) && !may_go(&log(&gone, 44), &Origin::AloneOn(HERE)));
    }

    #[test]
    fn only_a_later_member_takes_over_from_one_that_may_not_have_heard() {
        let all = founded(&[(1, 7), (2, 8), (3, 9)]).made_by(Lsn(40));
        let next = configuration_behind(&log(&all, 44), HERE, &joins(60)).expect("it is later");
        assert_eq!((next.member_on(HERE), next.as_of), (Some(MemberId(60)), Lsn::ZERO));
        assert!(!may_go(&log(&all, 44), &joins(40)) && !may_go(&log(&all, 44), &joins(1)));
        let added = founded(&[(2, 8), (3, 9), (60, 7)]);
        assert!(!may_go(&log(&added, 44), &joins(60)), "it is the very member");
        assert!(may_go(&log(&added, 44), &joins(61)));
    }

    #[test]
    fn one_that_the_group_cannot_do_without_is_not_deleted() {
        let alone = founded(&[(1, 7)]).made_by(Lsn(40));
        assert!(!may_go(&log(&alone, 44), &joins(60)));
        assert!(!may_go(&LogState { last: Lsn(44), ..LogState::default() }, &joins(60)), "kept without Raft");
        let damaged = LogState { conf: Some(vec![9; 9]), ..log(&alone, 44) };
        assert!(!may_go(&damaged, &joins(60)));
    }

    #[test]
    fn what_was_deleted_already_is_not_in_the_way() {
        assert!(may_go(&LogState::default(), &joins(60)));
        let joining = Membership::joining((MemberId(60), HERE), (MemberId(2), StorageId(8)));
        assert!(may_go(&log(&joining, 0), &joins(60)));
        assert!(!may_go(&log(&joining, 70), &joins(60)));
        assert!(may_go(&log(&joining, 0), &joins(61)), "it never got an image, and was removed again");
    }
}
