//! Bounds that follow from settings: what the log can take decides how large a request and a value may be.

use corduroy_shards::ShardOptions;
use corduroy_wal::Options as WalOptions;

use super::{Config, MIB};
use crate::store::MAX_KEY_BYTES;

/// What an operation takes beside its key and its value.
const OP_SLACK_BYTES: usize = 1 << 10;

impl Config {
    /// The longest operation that one entry of the log takes, bytes.
    #[must_use]
    pub fn largest_op_bytes(&self) -> usize {
        let segment = self.wal_segment_bytes.0.clamp(4 * MIB, 1024 * MIB);
        let wal = WalOptions {
            segment_bytes: u32::try_from(segment).expect("it is 1 GiB at most"),
            ..WalOptions::default()
        };
        ShardOptions::default().op_limit_bytes(wal.record_limit_bytes())
    }

    /// The longest argument that a request may have whatever is configured: a value with the longest key still fits into
    /// an entry.
    #[must_use]
    pub fn largest_argument_bytes(&self) -> u64 {
        (self.largest_op_bytes() - MAX_KEY_BYTES - OP_SLACK_BYTES) as u64
    }

    /// The longest argument that a request may have, bytes.
    #[must_use]
    pub fn argument_bytes(&self) -> u64 {
        match self.max_bulk_bytes.0 {
            0 => self.largest_argument_bytes(),
            configured => configured,
        }
    }
}
