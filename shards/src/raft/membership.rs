//! Who belongs to a group: the saved form of the configuration.
//!
//! Invariant: a configuration is written in the same record as the entries and the hard state it belongs to, so a
//! group can never come back without voters.

use raft::eraftpb::ConfState;

pub use crate::ids::MemberId;

/// A saved configuration that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the saved configuration of {bytes} bytes cannot be read: {why}")]
pub struct MembershipDamage {
    bytes: usize,
    why: &'static str,
}

const VERSION: u8 = 1;

/// The configuration of a new group: its founder alone.
#[must_use]
pub fn founding(member: MemberId) -> ConfState {
    ConfState { voters: vec![member.0], ..ConfState::default() }
}

/// Whether `member` is the whole group.
#[must_use]
pub fn is_alone(conf: &ConfState, member: MemberId) -> bool {
    conf.voters == [member.0]
        && conf.learners.is_empty()
        && conf.voters_outgoing.is_empty()
        && conf.learners_next.is_empty()
}

/// The saved form: version, auto-leave, then four lists (voters, learners, outgoing voters, next learners), each a
/// count (u32) and its ids (u64), little-endian.
#[must_use]
pub fn encode(conf: &ConfState) -> Vec<u8> {
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    let ids: usize = lists.iter().map(|list| list.len()).sum();
    let mut bytes = Vec::with_capacity(2 + 4 * lists.len() + 8 * ids);
    bytes.push(VERSION);
    bytes.push(u8::from(conf.auto_leave));
    for list in lists {
        let count = u32::try_from(list.len()).expect("a group has a handful of members");
        bytes.extend_from_slice(&count.to_le_bytes());
        for id in list {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
    }
    bytes
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`MembershipDamage`] if it is anything else.
pub fn decode(bytes: &[u8]) -> Result<ConfState, MembershipDamage> {
    let damage = |why| MembershipDamage { bytes: bytes.len(), why };
    let ([version, auto_leave], mut rest) =
        bytes.split_first_chunk::<2>().ok_or_else(|| damage("too short"))?;
    if *version != VERSION {
        return Err(damage("unknown version"));
    }
    let mut conf = ConfState { auto_leave: *auto_leave == 1, ..ConfState::default() };
    let lists = [&mut conf.voters, &mut conf.learners, &mut conf.voters_outgoing, &mut conf.learners_next];
    for list in lists {
        let (count, after) = rest.split_first_chunk::<4>().ok_or_else(|| damage("a list is cut off"))?;
        rest = after;
        for _ in 0..u32::from_le_bytes(*count) {
            let (id, after) = rest.split_first_chunk::<8>().ok_or_else(|| damage("a list is cut off"))?;
            list.push(u64::from_le_bytes(*id));
            rest = after;
        }
    }
    if !rest.is_empty() {
        return Err(damage("bytes are left over"));
    }
    if conf.voters.is_empty() {
        return Err(damage("it has no voter"));
    }
    Ok(conf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_these_bytes() {
        let conf = ConfState {
            voters: vec![1, 9],
            learners: vec![12],
            voters_outgoing: vec![1],
            learners_next: vec![9],
            auto_leave: true,
            ..ConfState::default()
        };
        let hex: String = encode(&conf).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "01010200000001000000000000000900000000000000010000000c0000000000000001\
             0000000100000000000000010000000900000000000000",
        );
        assert_eq!(decode(&encode(&conf)), Ok(conf));
        let founder = encode(&founding(MemberId::FIRST));
        assert_eq!(founder, [&[1, 0, 1][..], &[0, 0, 0, 1], &[0; 7], &[0; 12]].concat());
        assert_eq!(decode(&founder), Ok(founding(MemberId::FIRST)));
    }

    #[test]
    fn every_truncation_is_damage_and_so_is_a_group_without_voters() {
        let bytes = encode(&founding(MemberId::FIRST));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(decode(&encode(&ConfState::default())).is_err());
    }

    #[test]
    fn alone_means_no_other_of_any_kind() {
        assert!(is_alone(&founding(MemberId::FIRST), MemberId::FIRST));
        let mut conf = founding(MemberId::FIRST);
        conf.learners.push(4);
        assert!(!is_alone(&conf, MemberId::FIRST));
        assert!(!is_alone(&founding(MemberId(3)), MemberId::FIRST));
    }
}
