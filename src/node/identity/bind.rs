//! At each start: are the folders of the shards this node's own, each at its path, and as the last stop left them?
//!
//! The walk of a start: `check` reads the cards; the shards are opened; `Bound::renew` writes the cards with one start
//! more, then the identity. A crash between the two leaves cards that are one ahead, which the next start takes as they
//! are. Invariant: an identity of the second format or a later one exists only where every shard's folders say whose they
//! are.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use corduroy_shards::ShardId;
use corduroy_wal::device::folder::MANIFEST_FILE;
use corduroy_wal::device::{DirectIo, FileDevice};
use corduroy_wal::{Options, Wal};

use super::folders::shards_there;
use super::owner::{CARD, Card, Found};
use super::{
    COPIES, FOUNDED, Identity, IdentityError, Owner, SHARD_PARTS, UNBOUND, entries, of_state, remove_if_there,
};
use crate::store::{Binding, LsmLevel, OWNER_BYTES};

/// A folder whose cards were checked.
#[derive(Debug)]
pub struct Bound {
    data_dir: PathBuf,
    used_shards: u32,
}

/// The folders of a shard's log and state.
fn parts(data_dir: &Path, shard: u32) -> [PathBuf; 2] {
    let folder = Identity::shard_folder(data_dir, ShardId(shard));
    SHARD_PARTS.map(|part| folder.join(part))
}

/// Compares the cards of the first `used_shards` shards with the identity. A folder that is not there is not spoken of:
/// opening it says more.
///
/// # Errors
/// [`IdentityError::Foreign`] naming the folder, whose it is and what to do; [`IdentityError::Io`].
pub fn check(identity: &Identity, data_dir: &Path, used_shards: u32) -> Result<Bound, IdentityError> {
    for shard in 0..used_shards {
        let owner = Owner::of(identity, shard);
        for folder in parts(data_dir, shard).into_iter().filter(|folder| folder.is_dir()) {
            let found = Card::read(&folder).map_err(|source| IdentityError::Io {
                what: "reading",
                path: folder.join(CARD),
                source,
            })?;
            match found {
                Found::Card(card) => {
                    let why =
                        owner.mistaken(&card.owner).or_else(|| other_time(card.starts, identity.starts));
                    if let Some(why) = why {
                        return Err(IdentityError::Foreign { folder, why });
                    }
                }
                Found::Absent if identity.format == UNBOUND => {}
                Found::Absent if is_bare(&folder)? => {
                    let why = "is empty, and was not when the node last ran: mount the volume that holds it, or restore \
                               it from a backup";
                    return Err(IdentityError::Foreign { folder, why: why.into() });
                }
                Found::Absent | Found::Damaged => tracing::warn!(
                    "{} is missing or damaged, so that it is not known from when the folder is; it is written anew",
                    folder.join(CARD).display()
                ),
            }
        }
    }
    Ok(Bound { data_dir: data_dir.to_owned(), used_shards })
}

/// Whether there is nothing in a folder but what the system and a lock leave.
fn is_bare(folder: &Path) -> Result<bool, IdentityError> {
    Ok(entries(folder)?.iter().all(|name| name == "LOCK"))
}

/// What is wrong with a folder that was last used at the start `found`, if the identity has seen `starts`.
pub(super) fn other_time(found: u64, starts: u64) -> Option<String> {
    if found < starts {
        return Some(format!(
            "is a copy from another time: it was last used at start {found} of the node, which has started {starts} times \
             since it was formatted; put the newest copy back, or restore the whole data folder from one backup"
        ));
    }
    (found > starts + 1).then(|| {
        format!(
            "is newer than the identity: it was last used at start {found}, and the identity knows of {starts}; put the \
             newest identity.0 and identity.1 back, or restore the whole data folder from one backup"
        )
    })
}

/// What the log and the state of a shard have to say of whose they are.
#[must_use]
pub fn binding_of(identity: &Identity, shard: ShardId) -> Binding {
    let owner = Owner::of(identity, shard.0).encode();
    Binding { owner, may_adopt: identity.format == UNBOUND }
}

/// Undoes the taking over of a shard's folders that proved to be another's. Folders of later formats keep what they say.
pub fn unbind(identity: &Identity, data_dir: &Path, shard: ShardId) {
    if identity.format != UNBOUND {
        return;
    }
    let [log, state] = parts(data_dir, shard.0);
    for manifest in LsmLevel::manifests(&state).into_iter().chain([log.join(MANIFEST_FILE)]) {
        match std::fs::remove_file(&manifest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} names the wrong shard and cannot be removed: {error}", manifest.display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Bound {
    /// Counts this start: in the cards, then in the identity, which becomes one of the current format, or of the one before
    /// if it has no limits. Called when all shards have been opened.
    ///
    /// # Errors
    /// [`IdentityError::Io`]: both copies are as they were, and the next start finds what this one did; it is not counted.
    pub fn renew(&self, identity: &Identity) -> Result<Identity, IdentityError> {
        let starts = identity.starts + 1;
        for shard in 0..self.used_shards {
            self.name_parts(identity, shard)?;
            self.write_cards(identity, shard, starts)?;
        }
        if identity.founders.is_empty() {
            self.forget_founding()?;
        }
        if identity.format == UNBOUND {
            for shard in self.used_shards..identity.shards {
                let [log, state] = parts(&self.data_dir, shard);
                // A shard that nobody used may be removed without anybody missing it.
                if log.is_dir() && state.is_dir() {
                    self.name_parts(identity, shard)?;
                    if !log.join(MANIFEST_FILE).exists() {
                        create_log(&log, Owner::of(identity, shard).encode())?;
                    }
                    self.write_cards(identity, shard, 0)?;
                }
            }
        }
        let generation = identity.generation + 1;
        let format = identity.newest_format();
        let renewed = Identity { format, generation, starts, ..identity.clone() };
        let [first, second] = COPIES;
        renewed.write_copy(&self.data_dir, first)?;
        // The start is counted: the next one makes the second copy from the first.
        if let Err(error) = renewed.write_copy(&self.data_dir, second) {
            tracing::warn!("a copy of the identity is old, and stays so until the next start: {error}");
        }
        Ok(renewed)
    }

    /// Removes what a founding has left that was cut short, from all shards of a node that is alone: it wrote into those without
    /// partitions, too.
    fn forget_founding(&self) -> Result<(), IdentityError> {
        let shards = shards_there(&self.data_dir)?.into_iter();
        let folders = shards.flat_map(|shard| parts(&self.data_dir, shard));
        for folder in folders.filter(|folder| folder.join(FOUNDED).symlink_metadata().is_ok()) {
            let path = folder.join(FOUNDED);
            let removed = remove_if_there(&path).and_then(|()| File::open(&folder)?.sync_all());
            removed.map_err(|source| IdentityError::Io { what: "removing", path, source })?;
        }
        Ok(())
    }

    /// Writes whose a shard's state is, if it does not say yet.
    fn name_parts(&self, identity: &Identity, shard: u32) -> Result<(), IdentityError> {
        let [_, state] = parts(&self.data_dir, shard);
        let failed = |error| of_state(&state, error);
        match LsmLevel::owner(&state).map_err(failed)? {
            Some(_) => Ok(()),
            None => LsmLevel::format(&state, Owner::of(identity, shard).encode()).map_err(failed),
        }
    }

    fn write_cards(&self, identity: &Identity, shard: u32, starts: u64) -> Result<(), IdentityError> {
        let card = Card { owner: Owner::of(identity, shard).encode(), starts };
        for folder in parts(&self.data_dir, shard) {
            let written: io::Result<()> = card.write(&folder);
            written.map_err(|source| IdentityError::Io {
                what: "writing",
                path: folder.join(CARD),
                source,
            })?;
        }
        Ok(())
    }
}

/// Makes an empty log, or looks whether the one that is there is this owner's.
///
/// # Errors
/// [`IdentityError::Io`].
pub(super) fn create_log(log: &Path, owner: [u8; OWNER_BYTES]) -> Result<(), IdentityError> {
    let failed = |error: &dyn std::error::Error| IdentityError::Io {
        what: "formatting",
        path: log.to_owned(),
        source: io::Error::other(error.to_string()),
    };
    let mut device = FileDevice::open(log, DirectIo::Preferred).map_err(|error| failed(&error))?;
    let options = Options {
        binding: Binding { owner, may_adopt: false },
        seed: random_seed(&owner),
        ..Options::default()
    };
    Wal::create(&mut device, &options).map_err(|error| failed(&error))
}

/// A seed for the log's id: the owner holds random numbers of the node's and the shard's own.
fn random_seed(owner: &[u8; OWNER_BYTES]) -> u64 {
    owner.chunks_exact(8).fold(0, |seed: u64, word| {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight bytes"));
        (seed ^ word).rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;
    use crate::node::identity::{COPIES, LOST_AND_FOUND, format, open};

    fn config(folder: &Path) -> Config {
        Config { data_dir: folder.into(), shards: 3, partitions: 2, ..Config::default() }
    }

    /// A folder that was started so often.
    fn started(times: u64) -> (tempfile::TempDir, Identity) {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut identity = open(&config(dir.path()), |_| false).expect("formatted");
        for _ in 0..times {
            identity =
                check(&identity, dir.path(), 2).and_then(|bound| bound.renew(&identity)).expect("good");
        }
        assert_eq!(identity.starts, times);
        assert_eq!(Identity::read(dir.path()).expect("good").as_ref(), Some(&identity));
        (dir, identity)
    }

    #[test]
    fn a_shard_without_partitions_is_of_no_other_time() {
        let (dir, identity) = started(3);
        for shard in 0..identity.shards {
            let [_, state] = parts(dir.path(), shard);
            let owner = LsmLevel::owner(&state).expect("reads");
            let found = crate::node::identity::ownership(&state, owner.as_ref());
            assert_eq!(found.faults, [], "shard {shard}");
        }
        // One that has some is.
        let [_, state] = parts(dir.path(), 1);
        let card = Card { owner: Owner::of(&identity, 1).encode(), starts: 1 };
        card.write(&state).expect("writes");
        let owner = LsmLevel::owner(&state).expect("reads");
        let found = crate::node::identity::ownership(&state, owner.as_ref());
        assert!(found.faults.iter().any(|fault| fault.what.contains("another time")), "{found:?}");
    }

    fn refusal(dir: &Path, identity: &Identity) -> String {
        check(identity, dir, 2).expect_err("not its own").to_string()
    }

    fn exchange(one: &Path, other: &Path) {
        let aside = one.with_extension("aside");
        fs::rename(one, &aside).expect("rename");
        fs::rename(other, one).expect("rename");
        fs::rename(aside, other).expect("rename");
    }

    #[test]
    fn exchanged_folders_are_refused_by_name() {
        let (dir, identity) = started(2);
        let (other, _) = started(2);
        let at = |path: &str| dir.path().join(path);
        for (one, two, words) in [
            ("shard-0000", "shard-0001", "shard-0000/wal belongs to shard 1 of this node, not to shard 0"),
            ("shard-0000/wal", "shard-0001/wal", "shard-0000/wal belongs to shard 1 of this node"),
            ("shard-0000/state", "shard-0001/state", "shard-0000/state belongs to shard 1 of this node"),
            ("shard-0001", "shard-0002", "shard-0001/wal belongs to shard 2 of this node, not to shard 1"),
        ] {
            exchange(&at(one), &at(two));
            let text = refusal(dir.path(), &identity);
            assert!(text.contains(words), "{text}");
            exchange(&at(one), &at(two));
            check(&identity, dir.path(), 2).expect("in order again");
        }
        for part in ["shard-0000", "shard-0001/wal", "shard-0001/state"] {
            exchange(&at(part), &other.path().join(part));
            let text = refusal(dir.path(), &identity);
            assert!(text.contains("belongs to another node") && text.contains(part), "{text}");
            exchange(&at(part), &other.path().join(part));
        }
    }

    #[test]
    fn a_folder_of_another_time_is_refused() {
        let (dir, mut identity) = started(2);
        let part = dir.path().join("shard-0001/wal");
        let old = fs::read(part.join(CARD)).expect("a card");
        let copies = COPIES.map(|name| fs::read(dir.path().join(name)).expect("a copy"));
        for _ in 0..2 {
            identity =
                check(&identity, dir.path(), 2).and_then(|bound| bound.renew(&identity)).expect("good");
        }
        let new = fs::read(part.join(CARD)).expect("a card");
        fs::write(part.join(CARD), old).expect("write");
        let text = refusal(dir.path(), &identity);
        assert!(
            text.contains("shard-0001/wal is a copy from another time") && text.contains("start 2"),
            "{text}"
        );
        fs::write(part.join(CARD), new).expect("write");
        for (name, copy) in COPIES.iter().zip(copies) {
            fs::write(dir.path().join(name), copy).expect("write");
        }
        let text = refusal(dir.path(), &Identity::read(dir.path()).expect("good").expect("one"));
        assert!(text.contains("is newer than the identity"), "{text}");
    }

    #[test]
    fn an_emptied_folder_is_refused_and_a_lost_card_is_not() {
        let (dir, identity) = started(1);
        let part = dir.path().join("shard-0000/wal");
        for file in entries(&part).expect("listed") {
            fs::remove_file(part.join(file)).expect("remove");
        }
        let text = refusal(dir.path(), &identity);
        assert!(text.contains("shard-0000/wal is empty") && text.contains("mount the volume"), "{text}");
        fs::write(part.join("slot-000000.wal"), b"x").expect("write");
        let bound = check(&identity, dir.path(), 2).expect("its age is not known, that is all");
        let identity = bound.renew(&identity).expect("written anew");
        assert!(matches!(Card::read(&part), Ok(Found::Card(card)) if card.starts == 2));
        fs::write(part.join(CARD), b"rubbish").expect("write");
        check(&identity, dir.path(), 2).expect("its age is not known, that is all");
    }

    #[test]
    fn what_a_file_system_makes_where_it_is_mounted_is_no_data() {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = |shard: &Path| {
            let mounts = [dir.path().to_owned(), shard.to_owned(), shard.join("wal"), shard.join("state")];
            mounts.iter().for_each(|mount| fs::create_dir_all(mount.join(LOST_AND_FOUND)).expect("made"));
        };
        (0..3).for_each(|shard| made(&Identity::shard_folder(dir.path(), ShardId(shard))));
        let identity = open(&config(dir.path()), |_| false).expect("formatted");
        let identity =
            check(&identity, dir.path(), 2).and_then(|bound| bound.renew(&identity)).expect("good");
        let part = dir.path().join("shard-0000/wal");
        for file in entries(&part).expect("listed") {
            fs::remove_file(part.join(file)).expect("remove");
        }
        let text = refusal(dir.path(), &identity);
        assert!(text.contains("shard-0000/wal is empty"), "{text}");
        for (other, at) in [("lost+found2", "shard-0001/wal"), ("lost", "shard-0001"), ("Lost+Found", ".")] {
            COPIES.iter().for_each(|name| drop(fs::remove_file(dir.path().join(name))));
            let shards = (0..3).map(|shard| Identity::shard_folder(dir.path(), ShardId(shard)));
            shards.for_each(|shard| fs::remove_dir_all(shard).expect("remove"));
            made(&Identity::shard_folder(dir.path(), ShardId(1)));
            fs::create_dir(dir.path().join(at).join(other)).expect("made");
            assert!(open(&config(dir.path()), |_| false).is_err(), "{at}/{other} is somebody's");
            fs::remove_dir(dir.path().join(at).join(other)).expect("remove");
            open(&config(dir.path()), |_| false).expect("formatted");
        }
    }

    #[test]
    fn a_crash_between_the_cards_and_the_identity_is_no_fault() {
        let (dir, identity) = started(3);
        let card = Card { owner: Owner::of(&identity, 0).encode(), starts: 4 };
        card.write(&dir.path().join("shard-0000/wal")).expect("written");
        let bound = check(&identity, dir.path(), 2).expect("one ahead");
        assert_eq!(bound.renew(&identity).expect("written").starts, 4);
        for name in COPIES {
            fs::write(dir.path().join(name), b"rubbish").expect("write");
        }
        card.write(&dir.path().join("shard-0000/wal")).expect("written");
        let five = Card { starts: 5, ..card };
        five.write(&dir.path().join("shard-0000/state")).expect("written");
        let recovered = format(&config(dir.path()), true, |_| false).expect("recovered");
        assert_eq!(recovered.starts, 4);
        check(&recovered, dir.path(), 2).expect("none is older");
    }

    #[test]
    fn a_folder_of_the_first_format_is_upgraded_when_it_was_opened() {
        let (dir, identity) = started(0);
        for shard in 0..3 {
            for part in parts(dir.path(), shard) {
                fs::remove_file(part.join(CARD)).expect("remove");
            }
        }
        let old = identity.unbound();
        old.write(dir.path()).expect("written");
        let read = Identity::read(dir.path()).expect("good").expect("one");
        assert_eq!(read, old);
        let read = read.with_limits(&config(dir.path())).expect("it records none");
        assert!(binding_of(&read, ShardId(0)).may_adopt);
        let new = check(&read, dir.path(), 2).and_then(|bound| bound.renew(&read)).expect("upgraded");
        assert_eq!((new.format, new.generation, new.starts), (3, old.generation + 1, 1));
        assert_eq!((new.node, new.shards, new.pair), (old.node, old.shards, old.pair));
        for shard in 0..3 {
            for part in parts(dir.path(), shard) {
                assert!(matches!(Card::read(&part), Ok(Found::Card(_))), "{}", part.display());
            }
        }
        assert!(!binding_of(&new, ShardId(0)).may_adopt);
        check(&new, dir.path(), 2).expect("good");
    }

    #[test]
    fn what_contradicts_itself_is_not_recovered() {
        let (dir, _) = started(1);
        for name in COPIES {
            fs::write(dir.path().join(name), b"rubbish").expect("write");
        }
        exchange(&dir.path().join("shard-0000/wal"), &dir.path().join("shard-0001/wal"));
        let error = format(&config(dir.path()), true, |_| false).expect_err("exchanged");
        assert!(matches!(error, IdentityError::Contradiction { .. }), "{error}");
        assert!(error.to_string().contains("belongs to shard"), "{error}");
    }
}
