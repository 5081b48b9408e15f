//! Whose a state folder is, compared with what lies around it, for the offline tools. Nothing is changed.

use std::fs;
use std::path::Path;

use super::folders;
use super::owner::{CARD, Card, Found, Unread};
use super::text::Unreadable;
use super::{COPIES, Identity, Owner, bind};
use crate::store::{Finding, OWNER_BYTES};

/// What was found out about an owner.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// The owner, in words.
    pub owner: Option<String>,
    /// What a start would refuse.
    pub faults: Vec<Finding>,
    /// What it would not.
    pub notes: Vec<Finding>,
}

/// Compares what the manifest of a shard's state says of its owner with the card beside it, with the shard's folder, and
/// with the identity of the data folder, as far as they are there.
#[must_use]
pub fn ownership(state: &Path, owner: Option<&[u8; OWNER_BYTES]>) -> Ownership {
    let mut found = Ownership::default();
    let identity = read_identity(state, &mut found);
    let card = read_card(state, &mut found);
    let Some(bytes) = owner else { return found };
    let owner = match Owner::decode(bytes) {
        Ok(owner) => owner,
        Err(Unread::Damaged) => {
            found.faults.push(Finding::new(state, "its owner is damaged; restore the folder from a backup"));
            return found;
        }
        Err(Unread::Newer(version)) => {
            let what = format!("its owner has format {version}, of a newer version; run that version");
            found.faults.push(Finding::new(state, what));
            return found;
        }
    };
    let Owner { shard, shards, partitions, storage, node, .. } = owner;
    found.owner = Some(format!(
        "shard {shard} of {shards}, {partitions} partitions, storage {storage:016x} of node {node:016x}"
    ));
    if let Some(why) = card.as_ref().and_then(|card| owner.mistaken(&card.owner)) {
        found.faults.push(Finding::new(state.join(CARD), why));
    }
    if let Some(identity) = identity {
        let whose = Owner::of(&identity, number_of(state).unwrap_or(shard)).mistaken(bytes);
        // A shard without partitions is not started with the others.
        let is_used = shard < identity.layout(1).used_shards();
        let card = card.filter(|_| is_used);
        let time = card.and_then(|card| bind::other_time(card.starts, identity.starts));
        found.faults.extend(whose.or(time).map(|why| Finding::new(state, why)));
    } else if let Some(number) = number_of(state).filter(|number| *number != shard) {
        let what = format!("belongs to shard {shard}, and lies in the folder of shard {number}");
        found.faults.push(Finding::new(state, what));
    }
    found
}

fn read_card(state: &Path, found: &mut Ownership) -> Option<Card> {
    let (file, again) = (state.join(CARD), "so that it is not known from when the folder is; the next start");
    match Card::read(state) {
        Ok(Found::Card(card)) => Some(card),
        Ok(Found::Damaged) => {
            found.notes.push(Finding::new(file, format!("it is damaged, {again} writes it anew")));
            None
        }
        Ok(Found::Absent) => {
            found.notes.push(Finding::new(file, format!("it is missing, {again} writes it")));
            None
        }
        Err(error) => {
            found.faults.push(Finding::new(file, format!("it cannot be read: {error}")));
            None
        }
    }
}

/// The number in the name of the shard's folder.
fn number_of(state: &Path) -> Option<u32> {
    folders::number_of(state.parent()?.file_name()?.to_str()?)
}

/// The better copy of the identity of the data folder, if the state lies in one.
fn read_identity(state: &Path, found: &mut Ownership) -> Option<Identity> {
    let data_dir = state.parent()?.parent()?;
    number_of(state)?;
    let mut best: Option<Identity> = None;
    for file in COPIES.map(|name| data_dir.join(name)) {
        let copy = match fs::read(&file) {
            Ok(bytes) => Identity::decode(&bytes),
            Err(error) => Err(Unreadable::Damaged(error.to_string())),
        };
        match copy {
            Ok(copy) if best.as_ref().is_some_and(|best| best.generation >= copy.generation) => {}
            Ok(copy) => best = Some(copy),
            Err(Unreadable::Damaged(why)) => found.notes.push(Finding::new(file, why)),
            Err(Unreadable::Newer(format)) => {
                found.notes.push(Finding::new(file, format!("format {format} is of a newer version")));
            }
        }
    }
    best
}
