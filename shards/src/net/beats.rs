//! Beats of several shards that go in one frame are one message: the process that sends them stands in it once, and of each shard
//! what is its own.
//!
//! Invariant: what is put together comes apart as what it was, in the same order, and each goes its own way from there: neither
//! who sends beats nor who hears them has to know. A beat that goes alone has the form that it always had.

use bytes::Bytes;
use corduroy_wal::fields::Fields;
use raft::eraftpb::Message;

use super::kind::Kind;
use super::message::Outgoing;
use super::parcel::Parcel;
use crate::ids::PartitionId;

/// The first version of frames that has beats put together.
pub(super) const SINCE: u8 = 4;
/// The most further beats of a message: what taking it apart takes is bounded beside its bytes.
pub(super) const OTHERS_MAX: usize = 63;
/// Bytes of each: partition, epoch and number.
pub(super) const OTHER_BYTES: usize = 3 * 8;

/// Whether bytes are further beats, as many as a message has, and one at least.
pub(super) const fn are_others(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len().is_multiple_of(OTHER_BYTES) && bytes.len() / OTHER_BYTES <= OTHERS_MAX
}

/// Whether two beats are of one process, to one storage.
fn are_alike(one: &Message, other: &Message) -> bool {
    let of = |message: &Message| (message.from, message.to, message.term, message.index);
    of(one) == of(other)
}

/// Puts the beats among the messages of a frame together, as far as they are alike, in the stead of the first of each.
pub(super) fn join(messages: &mut Vec<Parcel>) {
    let is_beat =
        |parcel: &Parcel| matches!(parcel, Parcel::Replica(message) if message.kind() == Kind::Beat);
    if messages.iter().filter(|parcel| is_beat(parcel)).count() < 2 {
        return;
    }
    let mut joined: Vec<(usize, Message, PartitionId, Vec<u8>)> = Vec::new();
    let mut kept = Vec::with_capacity(messages.len());
    for parcel in messages.drain(..) {
        let beat = match parcel {
            Parcel::Replica(beat) if beat.kind() == Kind::Beat => beat,
            other @ (Parcel::Replica(_) | Parcel::Forwarded(_)) => {
                kept.push(other);
                continue;
            }
        };
        let (partition, message) = (beat.partition(), beat.message());
        let found = joined.iter_mut().find(|(_, first, _, others)| {
            are_alike(first, message) && others.len() < OTHERS_MAX * OTHER_BYTES
        });
        match found {
            Some((.., others)) => {
                for field in [partition.0, message.commit, message.commit_term] {
                    others.extend_from_slice(&field.to_le_bytes());
                }
            }
            None => {
                joined.push((kept.len(), message.clone(), partition, Vec::new()));
                kept.push(Parcel::Replica(beat));
            }
        }
    }
    for (at, first, partition, others) in joined {
        let all = Outgoing::new(partition, Message { context: others.into(), ..first });
        let stead = kept.get_mut(at).expect("the first of them keeps its index");
        *stead = Parcel::Replica(all.expect("beats that may be sent may be sent together"));
    }
    *messages = kept;
}

/// What came as one message, beat by beat; any other message as it is.
pub fn apart(partition: PartitionId, mut message: Message) -> impl Iterator<Item = (PartitionId, Message)> {
    let is_beat = Kind::of(message.msg_type) == Some(Kind::Beat);
    let others = if is_beat { std::mem::take(&mut message.context) } else { Bytes::new() };
    let first = (!others.is_empty()).then(|| message.clone());
    let others = (0..others.len() / OTHER_BYTES).map_while(move |at| {
        let (first, mut fields) = (first.as_ref()?, Fields::new(others.get(at * OTHER_BYTES..)?));
        let partition = PartitionId(fields.u64()?);
        let (commit, commit_term) = (fields.u64()?, fields.u64()?);
        Some((partition, Message { commit, commit_term, ..first.clone() }))
    });
    std::iter::once((partition, message)).chain(others)
}
