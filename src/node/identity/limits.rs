//! Limits that all replicas of a partition share: what one of them takes, each of them has to take.
//!
//! They are recorded in the identity and no settings: were they a node's own, a setting could make a replica refuse, or cut
//! off, what the others applied. Invariant: what is recorded never changes. So it leaves a part of what the log takes
//! unused, lest a later version, whose log takes a little less, had to refuse the folder; settings that take less than what
//! is recorded refuse the start, and settings that would take more are announced as having no effect.
//!
//! A folder of an earlier format has no limits, and always opens. It gets those of the settings at the first start whose
//! settings take all that its log may hold; until then, and where they cannot be written, it stays without, and the settings
//! limit it as they did.

use std::path::Path;

use corduroy_shards::ShardId;
pub use corduroy_shards::net::SharedLimits;

use super::folders::shards_there;
use super::{Identity, IdentityError, entries};
use crate::config::Config;
use crate::config::bounds::{argument_limit_bytes, op_limit_bytes};
use crate::store::MAX_VALUE_BYTES;

/// The first format that records limits.
const RECORDED: u32 = 3;
/// What is left of the longest operation that a log takes: for what frames and records of later versions may need.
const HEADROOM_BYTES: u64 = 64 << 10;

/// The limits of a folder that is formatted with this configuration.
#[must_use]
pub fn limits_of(config: &Config) -> SharedLimits {
    let taken_bytes = config.largest_op_bytes() as u64;
    // What somebody asks for by name is in.
    let operation_bytes = (taken_bytes - HEADROOM_BYTES).max(config.asked_op_bytes());
    SharedLimits { operation_bytes, value_bytes: MAX_VALUE_BYTES as u64 }
}

/// The longest argument of a request that keeps to limits, bytes: a value with the longest key still fits into an entry.
#[must_use]
pub fn argument_bytes(limits: SharedLimits) -> u64 {
    argument_limit_bytes(limits.operation_bytes).min(limits.value_bytes)
}

/// Refuses settings, or a version, that take less than these limits or ask for more.
fn check_settings(limits: SharedLimits, config: &Config) -> Result<(), IdentityError> {
    let (taken_bytes, folder) = (config.largest_op_bytes() as u64, || config.data_dir.clone());
    let less = [
        ("wal.segment_bytes", taken_bytes, limits.operation_bytes),
        ("this version", MAX_VALUE_BYTES as u64, limits.value_bytes),
    ];
    if let Some((key, found, limit)) = less.into_iter().find(|(_, found, limit)| found < limit) {
        return Err(IdentityError::TakesLess { folder: folder(), key, found, limit });
    }
    let (found, limit) = (config.max_bulk_bytes.0, argument_bytes(limits));
    if found > limit {
        return Err(IdentityError::AsksForMore { folder: folder(), found, limit });
    }
    if limits_of(config).operation_bytes > limits.operation_bytes {
        tracing::info!(
            "wal.segment_bytes has room for longer requests than the cluster allows: arguments of more than {limit} \
             bytes are refused, as all replicas of this cluster do"
        );
    }
    Ok(())
}

impl Identity {
    /// Whether the format records limits.
    pub(super) const fn has_limits(format: u32) -> bool {
        format >= RECORDED
    }

    /// Whether the folder's format records none.
    #[must_use]
    pub const fn lacks_limits(&self) -> bool {
        !Self::has_limits(self.format)
    }

    /// The identity, if this node's settings let it keep to the limits. A folder of an earlier format gets some, in memory;
    /// [`super::Bound::renew`] records them.
    ///
    /// # Errors
    /// [`IdentityError::TakesLess`], [`IdentityError::AsksForMore`], [`IdentityError::Io`].
    pub(super) fn with_limits(mut self, config: &Config) -> Result<Self, IdentityError> {
        match self.limits {
            Some(limits) => check_settings(limits, config)?,
            None => self.limits = adopted(config)?,
        }
        Ok(self)
    }

    /// What this node keeps to: the recorded limits, or what its settings come to.
    #[must_use]
    pub fn limits_with(&self, config: &Config) -> SharedLimits {
        self.limits.unwrap_or_else(|| limits_of(config))
    }
}

/// The limits that a folder without any gets from this configuration; `None`: its log may hold what a log of these settings
/// does not take, so that limits of theirs would be too low, and limits of its own would refuse the start.
pub(super) fn adopted(config: &Config) -> Result<Option<SharedLimits>, IdentityError> {
    let data_dir = &config.data_dir;
    let segment_bytes = largest_segment_bytes(data_dir)?;
    if op_limit_bytes(segment_bytes) <= config.largest_op_bytes() {
        return Ok(Some(limits_of(config)));
    }
    tracing::warn!(
        "the log of {} has segments of {segment_bytes} bytes, and wal.segment_bytes is {}: the limits that replicas share are \
         not recorded as long as there are larger segments; raise the setting to have them recorded",
        data_dir.display(),
        config.wal_segment_bytes.0
    );
    Ok(None)
}

/// The largest file of the shards' logs, bytes; 0 if there is none.
fn largest_segment_bytes(data_dir: &Path) -> Result<u64, IdentityError> {
    let mut largest = 0;
    for shard in shards_there(data_dir)? {
        let log = Identity::shard_folder(data_dir, ShardId(shard)).join("wal");
        // One that is missed is reported when it is opened.
        if !log.is_dir() {
            continue;
        }
        for name in entries(&log)?.into_iter().filter(|name| name.starts_with("slot-")) {
            let path = log.join(name);
            match std::fs::metadata(&path) {
                Ok(file) => largest = largest.max(file.len()),
                Err(source) => return Err(IdentityError::Io { what: "looking at", path, source }),
            }
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::text::UNLIMITED;
    use super::super::{COPIES, check, format, open};
    use super::*;

    fn config(folder: &Path, segment_mib: u64) -> Config {
        let mut config = Config { data_dir: folder.into(), shards: 2, ..Config::default() };
        config.wal_segment_bytes.0 = segment_mib << 20;
        config
    }

    /// A folder that was formatted with segments of so many MiB, as the version before limits left it.
    fn unlimited(segment_mib: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = format(&config(dir.path(), segment_mib), false, |_| false).expect("formatted");
        Identity { format: UNLIMITED, limits: None, ..made }.write(dir.path()).expect("written");
        dir
    }

    fn started(config: &Config) -> Identity {
        let identity = open(config, |_| true).expect("opens");
        let bound = check(&identity, &config.data_dir, 2).expect("its own");
        bound.renew(&identity).expect("written")
    }

    #[test]
    fn the_folder_of_an_unused_shard_may_be_missing() {
        let dir = unlimited(8);
        fs::remove_dir_all(Identity::shard_folder(dir.path(), ShardId(1))).expect("removed");
        let config = config(dir.path(), 8);
        let opened = open(&config, |_| true).expect("nobody misses it");
        assert_eq!(opened.limits, Some(limits_of(&config)));
    }

    #[test]
    fn settings_that_contradict_the_limits_refuse_the_start() {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = format(&config(dir.path(), 8), false, |_| false).expect("formatted");
        let limits = limits_of(&config(dir.path(), 8));
        assert_eq!(made.limits, Some(limits));
        for mib in [8, 64] {
            let opened = open(&config(dir.path(), mib), |_| true).expect("a log that takes as much, or more");
            assert_eq!(opened, made, "and keeps to the limit");
        }
        let refused = open(&config(dir.path(), 4), |_| true).expect_err("its log would not take every entry");
        let text = refused.to_string();
        assert!(matches!(refused, IdentityError::TakesLess { key: "wal.segment_bytes", .. }), "{text}");
        assert!(text.contains(&limits.operation_bytes.to_string()), "{text}");
        let large = SharedLimits { value_bytes: u64::MAX, ..limits };
        let large = Identity { limits: Some(large), ..made }.with_limits(&config(dir.path(), 8));
        assert!(matches!(large, Err(IdentityError::TakesLess { key: "this version", limit: u64::MAX, .. })));
    }

    #[test]
    fn a_setting_that_asks_for_more_than_the_limits_is_not_cut_down_in_silence() {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = format(&config(dir.path(), 8), false, |_| false).expect("formatted");
        let most = argument_bytes(made.limits.expect("it has some"));
        let mut larger = config(dir.path(), 64);
        larger.max_bulk_bytes.0 = most;
        open(&larger, |_| true).expect("as much as is allowed");
        larger.max_bulk_bytes.0 = most + 1;
        assert_eq!(larger.contradictions(), [], "the log would take it");
        let refused = open(&larger, |_| true).expect_err("other replicas do not take it");
        assert!(matches!(refused, IdentityError::AsksForMore { limit, .. } if limit == most), "{refused}");
    }

    #[test]
    fn limits_leave_room_for_logs_that_take_a_little_less() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut config = config(dir.path(), 8);
        let taken_bytes = config.largest_op_bytes() as u64;
        assert_eq!(limits_of(&config).operation_bytes, taken_bytes - (64 << 10));
        // But for what somebody asks for, down to the last byte.
        config.max_bulk_bytes.0 = config.largest_argument_bytes();
        assert_eq!(argument_bytes(limits_of(&config)), config.max_bulk_bytes.0);
        assert!(limits_of(&config).operation_bytes <= taken_bytes);
    }

    #[test]
    fn a_folder_without_limits_gets_those_of_its_first_start() {
        let dir = unlimited(4);
        let config = config(dir.path(), 16);
        let opened = open(&config, |_| true).expect("opens");
        assert_eq!((opened.format, opened.limits), (UNLIMITED, Some(limits_of(&config))));
        assert_eq!(
            Identity::read(dir.path()).expect("good").expect("one").limits,
            None,
            "not before it is renewed"
        );
        let renewed = started(&config);
        assert_eq!(renewed.format, RECORDED);
        assert_eq!(Identity::read(dir.path()).expect("good"), Some(renewed));
    }

    /// Segments as large as a setting once allowed may hold entries that a log of today's settings does not take.
    #[test]
    fn larger_segments_than_the_settings_keep_limits_from_being_recorded_and_nothing_else() {
        let dir = unlimited(4);
        let slot = Identity::shard_folder(dir.path(), ShardId(1)).join("wal/slot-000009.wal");
        fs::File::create(&slot).and_then(|file| file.set_len(16 << 20)).expect("a larger segment");
        for starts in 1..=2 {
            let renewed = started(&config(dir.path(), 8));
            assert_eq!((renewed.format, renewed.limits, renewed.starts), (UNLIMITED, None, starts));
            assert_eq!(Identity::read(dir.path()).expect("good"), Some(renewed));
        }
        let larger = config(dir.path(), 16);
        assert_eq!(started(&larger).limits, Some(limits_of(&larger)));
    }

    #[test]
    fn copies_of_different_limits_are_of_no_one_cluster() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = config(dir.path(), 8);
        let made = format(&config, false, |_| false).expect("formatted");
        let limits = made.limits.map(|limits| SharedLimits { operation_bytes: 1 << 20, ..limits });
        let other = Identity { generation: 2, limits, ..made };
        other.write_copy(dir.path(), COPIES[1]).expect("written");
        assert!(matches!(open(&config, |_| true), Err(IdentityError::TwoOwners { .. })));
    }

    #[test]
    fn a_recovered_identity_has_limits_that_its_log_keeps_to() {
        for (segment_mib, is_said, is_limited) in [(8, true, true), (16, true, false), (8, false, false)] {
            let dir = tempfile::tempdir().expect("tempdir");
            let config = config(dir.path(), 8);
            format(&config, false, |_| false).expect("formatted");
            let slot = Identity::shard_folder(dir.path(), ShardId(0)).join("wal/slot-000009.wal");
            fs::File::create(&slot).and_then(|file| file.set_len(segment_mib << 20)).expect("a segment");
            COPIES.iter().for_each(|name| fs::remove_file(dir.path().join(name)).expect("removed"));
            let recovered = format(&config, true, |_| is_said).expect("recovered");
            let limits = is_limited.then(|| limits_of(&config));
            let format = if is_limited { RECORDED } else { UNLIMITED };
            assert_eq!((recovered.format, recovered.limits), (format, limits));
            open(&config, |_| true).expect("it opens with the same settings");
        }
    }

    /// A folder in which a copy cannot be written: its new form has no place.
    fn obstructed(dir: &Path, name: &str) -> std::path::PathBuf {
        let obstacle = dir.join(format!("{name}.new"));
        fs::create_dir(&obstacle).expect("made");
        obstacle
    }

    #[test]
    fn a_folder_whose_limits_cannot_be_recorded_stays_of_its_form_and_opens() {
        let dir = unlimited(8);
        let config = config(dir.path(), 8);
        let before = COPIES.map(|name| fs::read(dir.path().join(name)).expect("a copy"));
        let obstacle = obstructed(dir.path(), COPIES[0]);
        for _start in 0..2 {
            let opened = open(&config, |_| true).expect("opens all the same");
            assert_eq!(opened.limits, Some(limits_of(&config)));
            let bound = check(&opened, dir.path(), 2).expect("its own");
            assert!(matches!(bound.renew(&opened), Err(IdentityError::Io { .. })));
            let after = COPIES.map(|name| fs::read(dir.path().join(name)).expect("a copy"));
            assert_eq!(after, before);
        }
        fs::remove_dir(obstacle).expect("removed");
        assert_eq!(started(&config).format, RECORDED);
    }

    #[test]
    fn one_copy_that_was_renewed_is_as_good_as_two() {
        let dir = unlimited(8);
        let config = config(dir.path(), 8);
        let obstacle = obstructed(dir.path(), COPIES[1]);
        for starts in 1..=2 {
            let renewed = started(&config);
            assert_eq!((renewed.format, renewed.starts), (RECORDED, starts));
            assert_eq!(Identity::read(dir.path()).expect("the other copy is old"), Some(renewed));
        }
        fs::remove_dir(obstacle).expect("removed");
        let renewed = started(&config);
        for name in COPIES {
            assert_eq!(fs::read(dir.path().join(name)).expect("a copy"), renewed.encode().as_bytes());
        }
    }
}
