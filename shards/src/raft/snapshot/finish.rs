//! An install that a crash cut in two: the state has the image, and the log does not begin behind it.
//!
//! Invariant: the state keeps a mark of the image until an entry behind it is applied and persisted, which is after the log
//! began there. So where the mark is, the log either begins behind the image, or is made to now.

use corduroy_wal::device::Device;
use corduroy_wal::{HardState, LogState, Lsn, RecordHead, Wal, WalError};

use crate::ids::PartitionId;
use crate::image::Header;
use crate::raft::membership::Membership;

/// Whether a log is one that goes on behind the image, or leads to the entry that the image is as of, and has its configuration.
fn leads_on(image: &Header, state: &LogState, has_term: bool) -> bool {
    let as_of = |conf: &[u8]| Membership::decode(conf).ok().map(|members| members.as_of);
    let known = state.conf.as_deref().and_then(as_of);
    let is_known = as_of(&image.configuration).is_none_or(|as_of| known >= Some(as_of));
    state.first <= image.lsn.next() && state.last >= image.lsn && has_term && is_known
}

/// Begins the log of a partition behind the image that its state was installed from, unless it does already. What was voted for is
/// not forgotten.
///
/// # Errors
/// [`WalError`] if the log has failed.
pub fn finish<D: Device>(
    wal: &mut Wal<D>,
    partition: PartitionId,
    image: Option<&Header>,
) -> Result<(), WalError> {
    let Some(image) = image else { return Ok(()) };
    assert!(image.lsn > Lsn::ZERO, "partition {partition} was installed from an image of nothing");
    let log = partition.log();
    let state = wal.log_state(log).unwrap_or_default();
    let term = wal.term(log, image.lsn).or((state.first == image.lsn.next()).then_some(state.prev_term));
    if leads_on(image, &state, term == Some(image.term)) {
        return Ok(());
    }
    let before = state.hard_state.unwrap_or_default();
    let voted = if before.term >= image.term {
        before
    } else {
        HardState { term: image.term, ..HardState::default() }
    };
    let hard_state = HardState { commit: image.lsn, ..voted };
    let head = RecordHead { log, hard_state: Some(hard_state), conf: Some(&image.configuration) };
    wal.reset(head, image.lsn, image.term).map(drop)
}
