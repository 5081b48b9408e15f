//! Conversations: bytes in, bytes out.

use super::*;
use crate::resp::fake::Talk;

mod bounds;
mod conversations;
mod guesses;
mod latency;
mod ordering;
mod plans;
mod prefetch;
mod splitting;

fn done(outcome: Outcome) -> SessionReply {
    Reply::Done { lsn: corduroy_shards::wal::Lsn(1), outcome }
}
