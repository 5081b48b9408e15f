//! The identity of a node of a cluster: founded when somebody says so, and compared with the description at each start.
//!
//! Invariant: a folder is founded once, by `corduroy format`. One that was formatted and has started knows that its groups
//! are founded: what it does not find of them is lost, and never founded again. Before its first start nothing of it has
//! left the folder, so until then its groups may be founded as often as it takes. A node that joins founds nothing: its groups
//! come with the first word of their leaders.

use std::path::Path;

use corduroy_shards::StorageId;
use corduroy_shards::ids::NodeId;
use corduroy_shards::net::{Founder, Founders, Founding};
use corduroy_shards::raft::membership::MemberId;
use corduroy_wal::device::lock::FolderLock;

use super::text::{ALONE, FOUNDING, JOINING, UNLIMITED};
use super::{
    COPIES, FORMAT_VERSION, Identity, IdentityError, check_empty, grow, limits_of, make, make_folder, recover,
};
use crate::config::Config;
use crate::config::peers::Peers;
use crate::node::clock::wall_ms;

impl Identity {
    /// The version that a folder of this identity is written in.
    pub(super) fn newest_format(&self) -> u32 {
        match (self.founders.is_empty(), self.limits.is_some()) {
            (false, _) if self.former.is_some() => FORMAT_VERSION,
            (false, _) if self.joins() => JOINING,
            (false, _) => FOUNDING,
            (true, true) => ALONE,
            (true, false) => UNLIMITED,
        }
    }

    /// Whether it has founded nothing of its cluster, and is added to groups that there are.
    #[must_use]
    pub fn joins(&self) -> bool {
        !self.founders.is_empty() && !self.founders.contains(&self.node)
    }

    /// Whether the groups of the folder were founded: the node has started on it as one of the cluster, and others may have
    /// heard of it.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.starts > self.former.map_or(0, |former| former.starts)
    }

    /// The first members of each group, and the storages that they are on: the same on all nodes. A node's storage has its
    /// number.
    #[must_use]
    pub fn founding_members(&self) -> Vec<(MemberId, StorageId)> {
        (1..).map(MemberId).zip(self.founders.iter().copied().map(StorageId)).collect()
    }

    /// How the cluster was founded: the same on all its nodes.
    #[must_use]
    pub fn founding(&self) -> Founding {
        let founders: Vec<_> = self.founders.iter().copied().map(NodeId).collect();
        Founding::of(&founders, self.partitions, self.shards)
    }

    /// The other founders, and what is known of them.
    #[must_use]
    pub fn other_founders(&self) -> Founders {
        let others = self.founders.iter().copied().filter(|id| *id != self.node);
        let known = |id| self.met.get(&id).copied().map_or(Founder::Unmet, Founder::Met);
        others.map(|id| (NodeId(id), known(id))).collect()
    }

    /// Keeps durably which incarnation of a founder was first heard of. Returns the one that is kept: it may be another one
    /// that was kept before.
    ///
    /// # Errors
    /// [`IdentityError::Io`]: nothing is kept, and the founder must not be heard.
    pub fn meet(&mut self, data_dir: &Path, founder: NodeId, incarnation: u64) -> Result<u64, IdentityError> {
        assert!(founder.0 != self.node && self.founders.contains(&founder.0), "{founder} founded nothing");
        if let Some(known) = self.met.get(&founder.0) {
            return Ok(*known);
        }
        let mut met = self.clone();
        met.generation += 1;
        met.met.insert(founder.0, incarnation);
        let [first, second] = COPIES;
        met.write_copy(data_dir, first)?;
        // The first copy is newer, and the next start makes the second from it.
        if let Err(error) = met.write_copy(data_dir, second) {
            tracing::warn!("a copy of the identity is old, and stays so until the next start: {error}");
        }
        *self = met;
        Ok(incarnation)
    }

    /// Refuses a description that is not of this folder's cluster.
    pub(super) fn check_cluster(&self, config: &Config, peers: &Peers) -> Result<(), IdentityError> {
        let folder = || config.data_dir.clone();
        if self.founders.is_empty() {
            return Err(IdentityError::Alone(folder()));
        }
        let other = |what, found: String, wanted: String| {
            let error = IdentityError::OtherCluster { folder: folder(), what, found, wanted };
            Err(error)
        };
        let described = &peers.description;
        if self.cluster != described.cluster {
            return other("cluster", format!("{:032x}", self.cluster), format!("{:032x}", described.cluster));
        }
        if self.node != peers.node.id {
            return other("node", self.node.to_string(), peers.node.id.to_string());
        }
        let wanted = described.founders();
        if self.founders != wanted {
            return Err(IdentityError::OtherFounders {
                folder: folder(),
                found: self.founders.clone(),
                wanted,
            });
        }
        self.check_layout(config, |_| true)
    }
}

/// Reads the identity of `config.data_dir`, which has to be this node's of this cluster. The folder must exist and be locked.
///
/// # Errors
/// [`IdentityError::NotFounded`] if it holds nothing, and others.
pub fn open_in(config: &Config, peers: &Peers) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    let Some(identity) = Identity::read(folder)? else {
        check_empty(folder)?;
        return Err(IdentityError::NotFounded { folder: folder.clone(), node: peers.node.id });
    };
    identity.check_cluster(config, peers)?;
    identity.with_limits(config)
}

/// Formats `config.data_dir`, which is made if it is not there, for a node of a cluster that is new. A node that was alone founds
/// it with its data (see `grow`). `recover`: makes the lost identity of a node of this cluster of what the shards' folders say,
/// and keeps the data.
///
/// # Errors
/// [`IdentityError::Formatted`] if there is a good identity, and others.
pub fn found(config: &Config, recover: bool, peers: &Peers) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    make_folder(folder)?;
    let _lock = FolderLock::acquire(folder)?;
    match Identity::read(folder) {
        Ok(Some(found)) if !recover => grow::found_by(found, config, peers),
        Ok(Some(_)) => Err(IdentityError::Formatted(folder.clone())),
        Ok(None) => {
            check_empty(folder)?;
            let new = Identity::new(config.shards, config.partitions, Some(limits_of(config)))?;
            make(config, of_node(new, peers))
        }
        Err(IdentityError::BothBad { .. }) if recover => {
            let identity = recover::of_cluster(config)?;
            identity.check_cluster(config, peers)?;
            identity.write(folder)?;
            Ok(identity)
        }
        Err(error) => Err(error),
    }
}

/// A new identity as that of a node of a cluster.
fn of_node(new: Identity, peers: &Peers) -> Identity {
    let id = peers.node.id;
    Identity {
        format: if peers.node.joins { JOINING } else { FOUNDING },
        cluster: peers.description.cluster,
        node: id,
        storage: id,
        storage_name: Identity::name_of_storage(id),
        incarnation: new_incarnation(),
        founders: peers.description.founders(),
        ..new
    }
}

/// The line of history of a folder that is formatted now: another one than all before, by which founders that have met the
/// node with the folder before know that it lost that.
pub(super) fn new_incarnation() -> u64 {
    wall_ms().max(2)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::example::{config, peers, started};
    use super::super::{COPIES, FOUNDED, SHARD_PARTS, format, open};
    use super::*;

    #[test]
    fn a_cluster_is_founded_by_format_and_never_by_a_start() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (config, us) = (config(dir.path()), peers(7, &[1, 5, 9], 5));
        assert!(matches!(open_in(&config, &us), Err(IdentityError::NotFounded { node: 5, .. })));
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing was made");
        let made = found(&config, false, &us).expect("founded");
        assert_eq!((made.format, made.cluster, made.node, made.storage), (4, 7, 5, 5));
        let members =
            [(1, 1), (2, 5), (3, 9)].map(|(member, storage)| (MemberId(member), StorageId(storage)));
        assert_eq!(made.founding_members(), members);
        let ids = [1, 5, 9].map(NodeId);
        assert_eq!(made.founding(), Founding::of(&ids, 2, 2), "and peers can compare it");
        assert!(!made.is_founded(), "nothing of it has left the folder");
        assert!(matches!(found(&config, false, &us), Err(IdentityError::Formatted(_))));
        let opened = open_in(&config, &us).expect("its own");
        assert_eq!(opened, made);
        assert!(started(&config, &opened).is_founded());
        let again = open_in(&config, &us).expect("its own");
        assert_eq!((again.format, again.starts, again.incarnation), (4, 1, made.incarnation));
    }

    #[test]
    fn who_joins_has_the_founding_of_the_others_and_founds_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (config, mut us) = (config(dir.path()), peers(7, &[1, 5, 9, 12], 12));
        us.description.nodes.iter_mut().filter(|node| node.id == 12).for_each(|node| node.joins = true);
        us.node.joins = true;
        let made = found(&config, false, &us).expect("formatted");
        assert_eq!((made.format, made.founders.clone(), made.joins()), (5, vec![1, 5, 9], true));
        assert_eq!(made.founding(), Founding::of(&[1, 5, 9].map(NodeId), 2, 2), "as the founders say");
        assert_eq!(made.other_founders().len(), 3);
        let again = started(&config, &open_in(&config, &us).expect("its own"));
        assert_eq!((again.format, again.starts), (5, 1));
        us.description.nodes.iter_mut().for_each(|node| node.joins = false);
        us.node.joins = false;
        assert!(matches!(open_in(&config, &us), Err(IdentityError::OtherFounders { .. })));
    }

    #[test]
    fn each_formatting_is_a_later_incarnation() {
        let incarnation = |wait_ms: u64| {
            std::thread::sleep(std::time::Duration::from_millis(wait_ms));
            let dir = tempfile::tempdir().expect("tempdir");
            found(&config(dir.path()), false, &peers(7, &[1], 1)).expect("founded").incarnation
        };
        assert!(incarnation(0) < incarnation(2));
    }

    #[test]
    fn a_folder_opens_in_its_cluster_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = config(dir.path());
        found(&config, false, &peers(7, &[1, 2, 3], 2)).expect("founded");
        let refused = |us: Peers| open_in(&config, &us).expect_err("refused").to_string();
        assert!(refused(peers(8, &[1, 2, 3], 2)).contains("of cluster 00000000000000000000000000000007"));
        assert!(refused(peers(7, &[1, 2, 3], 3)).contains("of node 2, and --peers and --node-id say 3"));
        assert!(
            refused(peers(7, &[1, 2], 2)).contains("founded by nodes [1, 2, 3], and --peers names [1, 2]")
        );
        let alone = open(&config, |_| true).expect_err("it has peers");
        assert!(matches!(alone, IdentityError::OfCluster { cluster: 7, node: 2, .. }), "{alone}");
        let other = Config { partitions: 3, ..config.clone() };
        let differs = open_in(&other, &peers(7, &[1, 2, 3], 2));
        assert!(matches!(differs, Err(IdentityError::Differs { key: "partitions", .. })));
    }

    #[test]
    fn a_folder_of_a_node_that_is_alone_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = config(dir.path());
        let made = open(&config, |_| true).expect("formatted");
        assert_eq!((made.format, made.founders.len()), (3, 0), "as it ever was");
        assert!(matches!(open_in(&config, &peers(7, &[1, 2, 3], 2)), Err(IdentityError::Alone(_))));
        let renewed = started(&config, &made);
        assert_eq!(open(&config, |_| true).expect("as before"), renewed);
    }

    #[test]
    fn a_lost_identity_of_a_cluster_is_recovered_as_one_that_was_founded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (config, us) = (config(dir.path()), peers(7, &[1, 2, 3], 2));
        let made = found(&config, false, &us).expect("founded");
        COPIES.iter().for_each(|name| fs::write(dir.path().join(name), "x").expect("written"));
        assert!(matches!(
            found(&config, true, &peers(8, &[1, 2, 3], 2)),
            Err(IdentityError::OtherCluster { .. })
        ));
        assert!(matches!(
            found(&config, true, &peers(7, &[1, 2, 3], 1)),
            Err(IdentityError::OtherCluster { .. })
        ));
        let alone = format(&config, true, |_| true).expect_err("it has peers");
        assert!(matches!(alone, IdentityError::OfCluster { cluster: 7, node: 2, .. }), "{alone}");
        // What was recorded counts, and not what a setting has become.
        let mut changed = config.clone();
        changed.wal_segment_bytes.0 = 64 << 20;
        let recovered = found(&changed, true, &us).expect("recovered");
        assert!(recovered.is_founded(), "and never founded again");
        assert_eq!(recovered.incarnation, made.incarnation, "its peers know it by that");
        assert_eq!(
            (recovered.pair, &recovered.founders, recovered.limits),
            (made.pair, &made.founders, made.limits)
        );
        open_in(&config, &us).expect("its own");
    }

    #[test]
    fn a_founder_that_was_met_is_known_at_the_next_start_and_is_no_other_ever_after() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (config, us) = (config(dir.path()), peers(7, &[1, 2, 3], 2));
        found(&config, false, &us).expect("founded");
        let mut identity = started(&config, &open_in(&config, &us).expect("its own"));
        let founders = |one, three| Founders::from([(NodeId(1), one), (NodeId(3), three)]);
        assert_eq!(identity.other_founders(), founders(Founder::Unmet, Founder::Unmet));
        assert_eq!(identity.meet(dir.path(), NodeId(3), 17).expect("kept"), 17);
        assert_eq!(identity.meet(dir.path(), NodeId(3), 18).expect("kept"), 17, "the first counts");
        let again = open_in(&config, &us).expect("its own");
        assert_eq!(again, identity);
        assert_eq!(again.other_founders(), founders(Founder::Unmet, Founder::Met(17)));
        assert_eq!(started(&config, &again).other_founders(), again.other_founders());
        // One copy is enough.
        fs::write(dir.path().join(COPIES[0]), "x").expect("written");
        assert_eq!(open_in(&config, &us).expect("its own").other_founders(), again.other_founders());
        // A folder that cannot be written keeps nothing.
        let nowhere = dir.path().join("nowhere");
        assert!(identity.meet(&nowhere, NodeId(1), 5).is_err());
        assert_eq!(identity.other_founders()[&NodeId(1)], Founder::Unmet);
    }

    #[test]
    fn what_the_shards_say_of_the_founding_has_to_be_one_thing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (config, us) = (config(dir.path()), peers(7, &[1, 2, 3], 2));
        let made = found(&config, false, &us).expect("founded");
        COPIES.iter().for_each(|name| fs::write(dir.path().join(name), "x").expect("written"));
        let shard = |shard| Identity::shard_folder(dir.path(), corduroy_shards::ShardId(shard));
        let [log, state] = SHARD_PARTS;
        let other = Identity { incarnation: made.incarnation + 1, ..made.clone() };
        other.write_copy(&shard(1).join(log), FOUNDED).expect("written");
        let refused = found(&config, true, &us).expect_err("which one?");
        assert!(matches!(refused, IdentityError::Contradiction { .. }), "{refused}");
        fs::write(shard(1).join(log).join(FOUNDED), "x").expect("written");
        fs::remove_file(shard(1).join(state).join(FOUNDED)).expect("removed");
        fs::remove_file(shard(0).join(state).join(FOUNDED)).expect("removed");
        assert_eq!(found(&config, true, &us).expect("one is left").incarnation, made.incarnation);
        COPIES.iter().for_each(|name| fs::write(dir.path().join(name), "x").expect("written"));
        fs::remove_file(shard(0).join(log).join(FOUNDED)).expect("removed");
        let refused = found(&config, true, &us).expect_err("nobody knows");
        assert!(matches!(refused, IdentityError::Contradiction { .. }), "{refused}");
    }
}
