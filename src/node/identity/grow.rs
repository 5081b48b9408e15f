//! A folder whose node was alone so far becomes that of a cluster's only founder, with all its data.
//!
//! Nothing of it is written anew but the identity, which keeps what the node was called: so the owner that logs and states name stays
//! theirs. The cluster has the id that the folder was formatted with, by which its keys are ordered; nodes that join have it from
//! the description.
//!
//! Invariant: the first copy of the identity that is written makes the folder the cluster's. A crash before leaves it the node's that
//! is alone, and one behind it the cluster's; whichever it is, `format` may be asked again.

use corduroy_shards::ShardId;

use super::cluster::new_incarnation;
use super::folders::shards_there;
use super::text::{ALONE, FORMAT_VERSION};
use super::{FOUNDED, Former, Identity, IdentityError, Owner, SHARD_PARTS, bind};
use crate::config::Config;
use crate::config::peers::Peers;
use crate::store::{Binding, DiskError, HashSeed, LsmLevel, LsmShared, hash_seed};

/// For a look at a row of each state.
const LOOK_BYTES: u64 = 8 << 20;
const LOOK_FILES: usize = 32;

impl Identity {
    /// What keys are ordered by, on all nodes of the cluster.
    #[must_use]
    pub const fn hash_seed(&self) -> HashSeed {
        HashSeed([self.cluster as u64, (self.cluster >> 64) as u64])
    }
}

/// Has the node of a folder that is formatted found the cluster that is described, if it was alone. One that has done so is left
/// as it is.
///
/// # Errors
/// [`IdentityError::Formatted`] if it is of this cluster otherwise, and others.
pub(super) fn found_by(
    identity: Identity,
    config: &Config,
    peers: &Peers,
) -> Result<Identity, IdentityError> {
    if !identity.founders.is_empty() {
        identity.check_cluster(config, peers)?;
        let has_grown = identity.former.is_some();
        return if has_grown { Ok(identity) } else { Err(IdentityError::Formatted(config.data_dir.clone())) };
    }
    check(&identity, config, peers)?;
    let id = peers.node.id;
    let Identity { node, storage, starts, .. } = identity;
    let grown = Identity {
        format: FORMAT_VERSION,
        generation: identity.generation + 1,
        node: id,
        storage: id,
        storage_name: Identity::name_of_storage(id),
        incarnation: new_incarnation().max(identity.incarnation + 1),
        founders: vec![id],
        former: Some(Former { node, storage, starts }),
        ..identity
    };
    for shard in shards_there(&config.data_dir)? {
        let folder = Identity::shard_folder(&config.data_dir, ShardId(shard));
        for part in SHARD_PARTS.map(|part| folder.join(part)).iter().filter(|part| part.is_dir()) {
            grown.write_copy(part, FOUNDED)?;
        }
    }
    grown.write(&config.data_dir)?;
    Ok(grown)
}

/// Refuses what a node that was alone cannot found.
fn check(identity: &Identity, config: &Config, peers: &Peers) -> Result<(), IdentityError> {
    let folder = || config.data_dir.clone();
    let founders = peers.description.founders();
    if peers.node.joins {
        return Err(IdentityError::AloneJoins(folder()));
    }
    if founders != [peers.node.id] {
        return Err(IdentityError::AloneAmongFounders { folder: folder(), node: peers.node.id, founders });
    }
    let (found, wanted) = (identity.cluster, peers.description.cluster);
    if found != wanted {
        return Err(IdentityError::AloneInOther { folder: folder(), found, wanted });
    }
    if identity.format != ALONE {
        return Err(IdentityError::AloneBefore { folder: folder(), found: identity.format });
    }
    identity.check_layout(config, |_| true)?;
    identity.clone().with_limits(config)?;
    let used_shards = identity.layout(1).used_shards();
    bind::check(identity, &config.data_dir, used_shards)?;
    (0..used_shards).try_for_each(|shard| check_order(identity, config, shard))
}

/// Refuses a state whose keys others would look for elsewhere.
fn check_order(identity: &Identity, config: &Config, shard: u32) -> Result<(), IdentityError> {
    let [_, state] =
        SHARD_PARTS.map(|part| Identity::shard_folder(&config.data_dir, ShardId(shard)).join(part));
    let binding = Binding { owner: Owner::of(identity, shard).encode(), may_adopt: false };
    let looked = LsmLevel::open(&state, &LsmShared::new(LOOK_BYTES, LOOK_FILES), &binding)
        .and_then(|level| hash_seed(&level));
    match looked {
        Ok(seed) if seed.is_none_or(|seed| seed == identity.hash_seed()) => Ok(()),
        Ok(_) => Err(IdentityError::AloneInOtherOrder { folder: state }),
        Err(error) => Err(unreadable(state, error)),
    }
}

fn unreadable(path: std::path::PathBuf, error: DiskError) -> IdentityError {
    IdentityError::Io { what: "reading", path, source: std::io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::super::example::{config, peers, started};
    use super::super::{COPIES, check, format, found, open, open_in};
    use super::*;
    use crate::store::DiskLevel as _;

    /// A folder of a node that is alone and has started twice, and its identity.
    fn alone() -> (tempfile::TempDir, Config, Identity) {
        alone_with(2)
    }

    /// The same with so many shards, of which two have partitions.
    fn alone_with(shards: u32) -> (tempfile::TempDir, Config, Identity) {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = Config { shards, ..config(dir.path()) };
        let mut identity = open(&config, |_| true).expect("formatted");
        for _ in 0..2 {
            identity = started(&config, &identity);
        }
        (dir, config, identity)
    }

    /// The description of a cluster of this id, founded by node 5.
    fn founded_by_five(cluster: u128) -> Peers {
        let mut us = peers(7, &[5], 5);
        us.description.cluster = cluster;
        us
    }

    #[test]
    fn a_node_that_was_alone_founds_the_cluster_of_its_own_id() {
        let (_dir, config, before) = alone();
        let us = founded_by_five(before.cluster);
        let grown = found(&config, false, &us).expect("it founds");
        assert_eq!((grown.format, grown.cluster, grown.node, grown.storage), (6, before.cluster, 5, 5));
        assert_eq!((grown.pair, grown.starts, grown.limits), (before.pair, 2, before.limits));
        assert_eq!(grown.hash_seed(), before.hash_seed());
        assert!(grown.incarnation > before.incarnation && !grown.is_founded());
        assert_eq!(found(&config, false, &us).expect("once more"), grown);
        let opened = open_in(&config, &us).expect("its own");
        assert_eq!(opened, grown);
        assert!(matches!(open(&config, |_| false), Err(IdentityError::OfCluster { node: 5, .. })));
        let again = started(&config, &opened);
        assert_eq!((again.format, again.starts, again.is_founded()), (6, 3, true));
        assert_eq!(found(&config, false, &us).expect("it has, and serves"), again);
        for shard in 0..2 {
            let state = Identity::shard_folder(&config.data_dir, ShardId(shard)).join("state");
            let owner = LsmLevel::owner(&state).expect("reads");
            let looked = super::super::ownership(&state, owner.as_ref());
            assert_eq!(looked.faults, [], "the offline tools take it for its own");
        }
        let other = found(&config, false, &founded_by_five(9)).expect_err("another cluster").to_string();
        assert!(other.contains(&format!("{:032x}", before.cluster)) && other.contains("09"), "{other}");
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let (dir, config, before) = alone();
        let refused = |config: &Config, us: &Peers| {
            let error = found(config, false, us).expect_err("refused");
            assert_eq!(Identity::read(dir.path()).expect("good").as_ref(), Some(&before), "{error}");
            assert!(written(dir.path()).iter().take(4).all(|file| !file.exists()), "{error}");
            error
        };
        let us = founded_by_five(before.cluster);
        let other = refused(&config, &founded_by_five(9)).to_string();
        assert!(other.contains(&format!("write cluster = \"{:032x}\"", before.cluster)), "{other}");
        let mut several = peers(7, &[1, 5], 5);
        several.description.cluster = before.cluster;
        let among = refused(&config, &several);
        assert!(matches!(&among, IdentityError::AloneAmongFounders { founders, .. } if *founders == [1, 5]));
        several.description.nodes.iter_mut().filter(|node| node.id == 5).for_each(|node| node.joins = true);
        several.node.joins = true;
        assert!(matches!(refused(&config, &several), IdentityError::AloneJoins(_)));
        let more = Config { shards: 3, ..config.clone() };
        assert!(matches!(refused(&more, &us), IdentityError::Differs { key: "shards", found: 2, .. }));
        let mut less = config.clone();
        less.wal_segment_bytes.0 = 4 << 20;
        assert!(matches!(refused(&less, &us), IdentityError::TakesLess { .. }));
        let lock = corduroy_wal::device::lock::FolderLock::acquire(dir.path()).expect("free");
        assert!(matches!(refused(&config, &us), IdentityError::Lock(_)));
        drop(lock);
        let old = before.clone().unbound();
        old.write(dir.path()).expect("written");
        assert!(matches!(found(&config, false, &us), Err(IdentityError::AloneBefore { found: 1, .. })));
    }

    #[test]
    fn a_state_in_another_order_founds_nothing() {
        let (dir, config, before) = alone();
        let state = Identity::shard_folder(dir.path(), ShardId(0)).join("state");
        let binding = Binding { owner: Owner::of(&before, 0).encode(), may_adopt: false };
        for (order, is_ours) in [(HashSeed([1, 2]), false), (before.hash_seed(), true)] {
            // The store's own row: the layout, and the seed.
            let row = [&[1][..], order.0.map(u64::to_le_bytes).as_flattened()].concat();
            let level = LsmLevel::open(&state, &LsmShared::new(LOOK_BYTES, LOOK_FILES), &binding);
            let level = level.expect("opens");
            level.ingest(64, false, &mut std::iter::once((vec![0], Some(row)))).expect("written");
            drop(level);
            let founded = found(&config, false, &founded_by_five(before.cluster));
            assert_eq!(founded.is_ok(), is_ours, "{founded:?}");
        }
    }

    /// The files that a founding writes, in its order.
    fn written(folder: &Path) -> Vec<PathBuf> {
        let shards = (0..2).map(|shard| Identity::shard_folder(folder, ShardId(shard)));
        let parts = shards.flat_map(|shard| SHARD_PARTS.map(|part| shard.join(part).join(FOUNDED)));
        parts.chain(COPIES.map(|copy| folder.join(copy))).collect()
    }

    #[test]
    fn one_that_was_cut_short_is_done_or_not_and_may_be_asked_again() {
        for steps in 0..=6 {
            let (dir, config, before) = alone();
            let us = founded_by_five(before.cluster);
            let files = written(dir.path());
            let old: Vec<_> = files.iter().map(|file| fs::read(file).ok()).collect();
            let grown = found(&config, false, &us).expect("it founds");
            for (file, old) in files.iter().zip(old).skip(steps) {
                match old {
                    Some(old) => fs::write(file, old).expect("written"),
                    None => fs::remove_file(file).expect("removed"),
                }
            }
            let is_done = steps > 4;
            if is_done {
                assert!(matches!(open(&config, |_| true), Err(IdentityError::OfCluster { .. })), "{steps}");
                assert_eq!(open_in(&config, &us).expect("its own"), grown, "{steps}");
            } else {
                assert!(matches!(open_in(&config, &us), Err(IdentityError::Alone(_))), "{steps}");
                assert_eq!(open(&config, |_| true).expect("its own"), before, "{steps}");
            }
            let again = found(&config, false, &us).expect("it founds");
            assert_eq!((again.generation, again.former), (grown.generation, grown.former), "{steps}");
            assert_eq!(open_in(&config, &us).expect("its own"), again);
            // All say the same, also when the identity is lost.
            for copy in COPIES {
                fs::write(dir.path().join(copy), "x").expect("written");
            }
            assert_eq!(found(&config, true, &us).expect("recovered"), again, "{steps}");
        }
    }

    #[test]
    fn a_start_alone_removes_what_a_founding_has_left_from_every_shard() {
        let (dir, config, before) = alone_with(3);
        let left = || {
            let parts = (0..3).flat_map(|shard| {
                let folder = Identity::shard_folder(dir.path(), ShardId(shard));
                SHARD_PARTS.map(|part| folder.join(part).join(FOUNDED))
            });
            parts.filter(|file| file.exists()).count()
        };
        found(&config, false, &founded_by_five(before.cluster)).expect("it founds");
        assert_eq!(left(), 6, "a shard without partitions says it, too");
        before.write(dir.path()).expect("written");
        let started = started(&config, &open(&config, |_| true).expect("alone"));
        assert_eq!(left(), 0);
        COPIES.iter().for_each(|copy| fs::write(dir.path().join(copy), "x").expect("written"));
        let recovered = format(&config, true, |_| true).expect("it is alone");
        assert_eq!((recovered.starts, recovered.cluster), (started.starts, started.cluster));
    }

    #[test]
    fn a_lost_identity_is_recovered_with_what_the_node_was_called() {
        let (dir, config, before) = alone();
        let us = founded_by_five(before.cluster);
        let mut grown = found(&config, false, &us).expect("it founds");
        for is_founded in [false, true] {
            COPIES.iter().for_each(|copy| fs::write(dir.path().join(copy), "x").expect("written"));
            let recovered = found(&config, true, &us).expect("recovered");
            assert_eq!((recovered.former, recovered.incarnation), (grown.former, grown.incarnation));
            assert_eq!((recovered.is_founded(), recovered.starts), (is_founded, grown.starts));
            check(&recovered, dir.path(), 2).expect("its own");
            grown = started(&config, &recovered);
        }
        // Where nothing says how often it has started, it may have been heard.
        for file in ["shard-0000/wal", "shard-0000/state", "shard-0001/wal", "shard-0001/state"] {
            fs::write(dir.path().join(file).join("owner"), "x").expect("written");
        }
        COPIES.iter().for_each(|copy| fs::write(dir.path().join(copy), "x").expect("written"));
        assert!(found(&config, true, &us).expect("recovered").is_founded());
    }
}
