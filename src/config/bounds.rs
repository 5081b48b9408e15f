//! Bounds that follow from settings: what the log can take decides how large a request and a value may be.

use corduroy_shards::ShardOptions;
use corduroy_wal::Options as WalOptions;

use super::redis::Live;
use super::{Config, MIB};
use crate::store::MAX_KEY_BYTES;

/// What an operation takes beside its key and its value.
const OP_SLACK_BYTES: usize = 1 << 10;

/// The longest operation that one entry of a log of such segments takes, bytes.
#[must_use]
pub fn op_limit_bytes(segment_bytes: u64) -> usize {
    let segment = segment_bytes.clamp(4 * MIB, 1024 * MIB);
    let wal = WalOptions {
        segment_bytes: u32::try_from(segment).expect("it is 1 GiB at most"),
        ..WalOptions::default()
    };
    ShardOptions::default().op_limit_bytes(wal.record_limit_bytes())
}

/// The longest argument of a request where operations may have so many bytes: with the longest key it still fits.
#[must_use]
pub const fn argument_limit_bytes(op_bytes: u64) -> u64 {
    op_bytes.saturating_sub((MAX_KEY_BYTES + OP_SLACK_BYTES) as u64)
}

impl Config {
    /// The longest operation that one entry of the log takes, bytes.
    #[must_use]
    pub fn largest_op_bytes(&self) -> usize {
        op_limit_bytes(self.wal_segment_bytes.0)
    }

    /// The longest operation that the longest argument makes, where that is set; else 0.
    #[must_use]
    pub const fn asked_op_bytes(&self) -> u64 {
        match self.max_bulk_bytes.0 {
            0 => 0,
            configured => configured + (MAX_KEY_BYTES + OP_SLACK_BYTES) as u64,
        }
    }

    /// The longest argument that a request may have whatever is configured: a value with the longest key still fits into
    /// an entry.
    #[must_use]
    pub fn largest_argument_bytes(&self) -> u64 {
        argument_limit_bytes(self.largest_op_bytes() as u64)
    }
}

impl Live {
    /// The same in a cluster that takes no longer arguments than this, in bytes.
    #[must_use]
    pub fn limited_to(mut self, argument_bytes: u64) -> Self {
        self.largest_argument_bytes = self.largest_argument_bytes.min(argument_bytes);
        self
    }

    /// The longest argument that a request may have, bytes.
    #[must_use]
    pub const fn argument_bytes(&self) -> u64 {
        match self.config.max_bulk_bytes.0 {
            0 => self.largest_argument_bytes,
            configured => configured,
        }
    }

    /// What of the configuration the cluster does not take.
    pub(super) fn beyond_limits(&self) -> Option<(&'static str, String)> {
        let (bytes, most) = (self.config.max_bulk_bytes.0, self.largest_argument_bytes);
        let why = || {
            format!(
                "{bytes} is more than {most}, the longest argument of this cluster; `max_bulk_bytes` 0 takes the most"
            )
        };
        (bytes > most).then(|| ("max_bulk_bytes", why()))
    }
}
