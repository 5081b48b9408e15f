//! The bytes of a request's outcome on its way from the node that leads its partition to the one that has its client.
//!
//! Invariant: what is written comes back as the client is to see it; other bytes are none, and never a panic.
//!
//! ```text
//! answer    version u8, 1 | 1 done: LSN u64, outcome (src/store/op/outcomes.rs) | 2 not known
//!           | 3 not done: why u8, of which partition u64, two numbers u64, text
//! ```

use corduroy_shards::wal::Lsn;
use corduroy_shards::{PartitionId, Rejection, Reply, StorageId};
use corduroy_wal::fields::Fields;

use crate::resp::SessionReply;
use crate::store::Outcome;

const VERSION: u8 = 1;
const DONE: u8 = 1;
const UNKNOWN: u8 = 2;
const NOT_DONE: u8 = 3;

/// What a shard may have too much of, as [`Rejection::Overloaded`] names it.
const OVERLOADED: [&str; 10] = [
    "requests of the partition",
    "bytes of the partition",
    "requests of the shard",
    "bytes of the shard",
    "heavy requests of the shard",
    "it was not done in time",
    MANY_REQUESTS,
    MANY_ANSWERS,
    UNKNOWN_OPERATION,
    OTHER_OVERLOAD,
];
/// Why a node that leads refuses what another one has sent.
pub const MANY_REQUESTS: &str = "requests that another node has sent";
/// The same.
pub const MANY_ANSWERS: &str = "answers that another node has not taken";
/// The same.
pub const UNKNOWN_OPERATION: &str = "operations that this release does not know as reads";
/// Another bound of a node of another release.
const OTHER_OVERLOAD: &str = "requests at the node that leads";

/// A rejection as its fields: code, partition, two numbers, text.
fn fields_of(why: &Rejection) -> (u8, u64, [u64; 2], &str) {
    match why {
        Rejection::NoPartition(partition) => (1, partition.0, [0; 2], ""),
        Rejection::Overloaded(what) => (2, 0, [0; 2], what),
        Rejection::DiskFull => (3, 0, [0; 2], ""),
        Rejection::NoLeader(partition) => (4, partition.0, [0; 2], ""),
        Rejection::NotLeader(partition, storage) => (5, partition.0, [storage.0, 0], ""),
        Rejection::Obsoleted => (6, 0, [0; 2], ""),
        Rejection::ReplicaStopped(partition, what) => (7, partition.0, [0; 2], what),
        Rejection::Damaged(partition, what) => (8, partition.0, [0; 2], what),
        Rejection::Unreadable(partition, what) => (9, partition.0, [0; 2], what),
        Rejection::TooLarge { bytes, limit } => (10, 0, [*bytes as u64, *limit as u64], ""),
        Rejection::Refused(partition, what) => (11, partition.0, [0; 2], what),
    }
}

fn rejection(code: u8, partition: u64, numbers: [u64; 2], text: &str) -> Option<Rejection> {
    let (partition, [one, two]) = (PartitionId(partition), numbers);
    let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
    Some(match code {
        1 => Rejection::NoPartition(partition),
        2 => {
            let known = OVERLOADED.into_iter().find(|known| *known == text);
            Rejection::Overloaded(known.unwrap_or(OTHER_OVERLOAD))
        }
        3 => Rejection::DiskFull,
        4 => Rejection::NoLeader(partition),
        5 => Rejection::NotLeader(partition, StorageId(one)),
        6 => Rejection::Obsoleted,
        7 => Rejection::ReplicaStopped(partition, text.to_owned()),
        8 => Rejection::Damaged(partition, text.to_owned()),
        9 => Rejection::Unreadable(partition, text.to_owned()),
        10 => Rejection::TooLarge { bytes: size(one), limit: size(two) },
        11 => Rejection::Refused(partition, text.to_owned()),
        _ => return None,
    })
}

/// The bytes of an outcome.
pub fn encode(reply: &SessionReply) -> Vec<u8> {
    let mut out = vec![VERSION];
    match reply {
        Reply::Done { lsn, outcome } => {
            out.push(DONE);
            out.extend_from_slice(&lsn.get().to_le_bytes());
            outcome.encode(&mut out);
        }
        Reply::Unknown => out.push(UNKNOWN),
        Reply::Rejected(why) => {
            let (code, partition, [one, two], text) = fields_of(why);
            out.extend_from_slice(&[NOT_DONE, code]);
            [partition, one, two].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The outcome of these bytes; `None` if they are none's.
pub fn decode(bytes: &[u8]) -> Option<SessionReply> {
    let mut fields = Fields::new(bytes);
    let [VERSION, kind] = fields.array()? else { return None };
    let reply = match kind {
        DONE => {
            let lsn = Lsn(fields.u64()?);
            Reply::Done { lsn, outcome: Outcome::decode(&mut fields).ok()? }
        }
        UNKNOWN => Reply::Unknown,
        NOT_DONE => {
            let (code, partition) = (fields.byte()?, fields.u64()?);
            let numbers = [fields.u64()?, fields.u64()?];
            let text = std::str::from_utf8(std::mem::take(&mut fields.rest)).ok()?;
            Reply::Rejected(rejection(code, partition, numbers, text)?)
        }
        _ => return None,
    };
    fields.is_empty().then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejections() -> Vec<Rejection> {
        let partition = PartitionId(0x0102);
        let mut all = vec![
            Rejection::NoPartition(partition),
            Rejection::DiskFull,
            Rejection::NoLeader(partition),
            Rejection::NotLeader(partition, StorageId(3)),
            Rejection::Obsoleted,
            Rejection::ReplicaStopped(partition, "fenced".into()),
            Rejection::Damaged(partition, "table 3".into()),
            Rejection::Unreadable(partition, "table 4".into()),
            Rejection::Refused(partition, "member 5 leads".into()),
            Rejection::TooLarge { bytes: 9, limit: 8 },
        ];
        all.extend(OVERLOADED.map(Rejection::Overloaded));
        all
    }

    #[test]
    fn each_outcome_comes_back() {
        for why in rejections() {
            let bytes = encode(&Reply::Rejected(why.clone()));
            assert!(matches!(decode(&bytes), Some(Reply::Rejected(back)) if back == why), "{why:?}");
        }
        assert!(matches!(decode(&encode(&Reply::Unknown)), Some(Reply::Unknown)));
        let done = encode(&Reply::Done { lsn: Lsn(7), outcome: Outcome::Int(5) });
        let back = decode(&done);
        assert!(matches!(back, Some(Reply::Done { lsn: Lsn(7), outcome: Outcome::Int(5) })), "{back:?}");
        let other = encode(&Reply::Rejected(Rejection::Overloaded("something of a later release")));
        let back = decode(&other);
        assert!(matches!(back, Some(Reply::Rejected(Rejection::Overloaded(OTHER_OVERLOAD)))), "{back:?}");
    }

    #[test]
    fn other_bytes_are_no_answer() {
        let done = encode(&Reply::Done { lsn: Lsn(7), outcome: Outcome::Int(5) });
        for end in 0..done.len() {
            assert!(decode(&done[..end]).is_none(), "cut at {end}");
        }
        assert!(decode(&[done.as_slice(), &[0]].concat()).is_none());
        for bytes in [&[2, UNKNOWN][..], &[VERSION, 0], &[VERSION, 4], &[VERSION, UNKNOWN, 0]] {
            assert!(decode(bytes).is_none(), "{bytes:?}");
        }
        assert!(decode(&[&[VERSION, NOT_DONE, 12][..], &[0; 24]].concat()).is_none());
    }
}
