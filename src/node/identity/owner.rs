//! Whose a shard's log or state is: 64 bytes that both carry, and a card of a file in the folder of each.
//!
//! The bytes are the same as long as the folder belongs to the shard; the card adds how often the node had started when
//! the folder was last used, so that a copy from another time is seen. Invariant: a card is never ahead of the identity by
//! more than one start, nor behind it.
//!
//! ```text
//! owner:  0  4  "CRDO"
//!         4  1  version: 1
//!         5  3  zeros
//!         8 16  cluster
//!        24  8  node
//!        32  8  storage
//!        40  4  shard
//!        44  4  shards of the storage
//!        48  4  partitions of the default keyspace
//!        52  8  pair number: that of the storage and the shard's number, added
//!        60  4  crc32 of all before
//! card:   0 64  owner
//!        64  8  starts
//!        72  4  crc32 of all before
//! ```
//! Numbers are little endian.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use corduroy_shards::routing::Layout;
use corduroy_wal::device::folder::PRIVATE_FILE;
use corduroy_wal::fields::Fields;

use super::Identity;
use crate::store::OWNER_BYTES;

const MAGIC: &[u8; 4] = b"CRDO";
const VERSION: u8 = 1;
/// The card's name in the folders of logs and states.
pub const CARD: &str = "owner";
const CARD_BYTES: usize = OWNER_BYTES + 12;

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: u128,
    /// The node.
    pub node: u64,
    /// The storage.
    pub storage: u64,
    /// The shard.
    pub shard: u32,
    /// How many shards the storage has.
    pub shards: u32,
    /// How many partitions the default keyspace has.
    pub partitions: u32,
    /// Ties a shard's log to its state.
    pub pair: u64,
}

/// Why bytes are no owner that can be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// They are not as they were written.
    Damaged,
    /// A later release wrote them.
    Newer(u8),
}

impl Identity {
    /// Which core has which shard, and which shard which partition, with so many cores.
    #[must_use]
    pub fn layout(&self, cores: usize) -> Layout {
        Layout::new(self.partitions, self.shards, cores)
    }
}

impl Owner {
    /// The owner of a shard's folders: of a node that was alone before, by what it was called then.
    #[must_use]
    pub fn of(identity: &Identity, shard: u32) -> Self {
        let Identity { cluster, shards, partitions, pair, .. } = *identity;
        let own = (identity.node, identity.storage);
        let (node, storage) = identity.former.map_or(own, |former| (former.node, former.storage));
        let pair = pair.wrapping_add(u64::from(shard));
        Self { cluster, node, storage, shard, shards, partitions, pair }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; OWNER_BYTES] {
        let mut out = Vec::with_capacity(OWNER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.storage.to_le_bytes());
        for number in [self.shard, self.shards, self.partitions] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.pair.to_le_bytes());
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.try_into().expect("the fields are 64 bytes")
    }

    /// Reads its bytes.
    ///
    /// # Errors
    /// `Unread`.
    pub fn decode(bytes: &[u8; OWNER_BYTES]) -> Result<Self, Unread> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(Unread::Damaged)?;
        if !body.starts_with(MAGIC) || u32::from_le_bytes(*checksum) != crc32fast::hash(body) {
            return Err(Unread::Damaged);
        }
        let mut fields = Fields::new(body.get(MAGIC.len()..).unwrap_or_default());
        match fields.array() {
            Some([VERSION, 0, 0, 0]) => read_owner(fields).ok_or(Unread::Damaged),
            Some([version, ..]) if version > VERSION => Err(Unread::Newer(version)),
            Some(_) | None => Err(Unread::Damaged),
        }
    }

    /// The owner that a folder of a log or a state names; `None` if it names none that can be read. Changes nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        Ok(match Card::read(folder)? {
            Found::Card(card) => Self::decode(&card.owner).ok(),
            Found::Damaged | Found::Absent => None,
        })
    }

    /// Whose a folder is instead of this owner's, and what to do; `None` if it is this owner's.
    #[must_use]
    pub fn mistaken(&self, found: &[u8; OWNER_BYTES]) -> Option<String> {
        let found = match Self::decode(found) {
            Ok(found) => found,
            Err(Unread::Newer(version)) => {
                return Some(format!(
                    "was written by a newer version (owner format {version}); run that version"
                ));
            }
            Err(Unread::Damaged) => {
                return Some(
                    "belongs to an unknown owner: what names it is damaged; restore it from a backup".into(),
                );
            }
        };
        if found == *self {
            return None;
        }
        let id = |id: u64| format!("{id:016x}");
        Some(if (found.cluster, found.node) != (self.cluster, self.node) {
            format!(
                "belongs to another node ({}, this one is {}); put this node's own folder back, or restore it from a \
                 backup of this node",
                id(found.node),
                id(self.node)
            )
        } else if found.storage != self.storage {
            format!(
                "belongs to another storage of this node ({}, this one is {}); put the folder back that was here",
                id(found.storage),
                id(self.storage)
            )
        } else if found.shard != self.shard {
            format!(
                "belongs to shard {} of this node, not to shard {}; put it back into {}, and shard {}'s own folder here",
                found.shard,
                self.shard,
                Identity::shard_name(found.shard),
                self.shard
            )
        } else if (found.shards, found.partitions) != (self.shards, self.partitions) {
            format!(
                "was made for {} shards and {} partitions, and the identity says {} and {}; restore the identity that \
                 belongs to it from a backup, or remove identity.0 and identity.1 and run `corduroy format --recover`, \
                 which reads the numbers from what is there",
                found.shards, found.partitions, self.shards, self.partitions
            )
        } else {
            format!(
                "has pair number {}, and {} belongs here: log and state do not belong together; restore both from the \
                 same backup",
                id(found.pair),
                id(self.pair)
            )
        })
    }
}

/// The fields of an owner behind its version.
fn read_owner(mut fields: Fields<'_>) -> Option<Owner> {
    let owner = Owner {
        cluster: fields.u128()?,
        node: fields.u64()?,
        storage: fields.u64()?,
        shard: fields.u32()?,
        shards: fields.u32()?,
        partitions: fields.u32()?,
        pair: fields.u64()?,
    };
    fields.is_empty().then_some(owner)
}

/// The file in a folder that says whose it is, and since when it was not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Card {
    /// The folder's owner.
    pub owner: [u8; OWNER_BYTES],
    /// How often the node had started, this start included.
    pub starts: u64,
}

/// What there is of a card.
#[derive(Debug)]
pub enum Found {
    /// A whole one.
    Card(Card),
    /// A file that is not as it was written.
    Damaged,
    /// No file.
    Absent,
}

impl Card {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CARD_BYTES);
        out.extend_from_slice(&self.owner);
        out.extend_from_slice(&self.starts.to_le_bytes());
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let (owner, starts) = body.split_first_chunk::<OWNER_BYTES>()?;
        (u32::from_le_bytes(*checksum) == crc32fast::hash(body)).then_some(())?;
        Some(Self { owner: *owner, starts: u64::from_le_bytes(starts.try_into().ok()?) })
    }

    /// Reads the card of a folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(folder: &Path) -> io::Result<Found> {
        match std::fs::read(folder.join(CARD)) {
            Ok(bytes) => Ok(Self::decode(&bytes).map_or(Found::Damaged, Found::Card)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Absent),
            Err(error) => Err(error),
        }
    }

    /// Writes the card of a folder, durably; over the one that is there, so that no room is needed for it: it lies in
    /// one sector, and one that was torn all the same only means that the folder's age is not known.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(CARD);
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path)?;
        file.write_all_at(&self.encode(), 0)?;
        file.set_len(CARD_BYTES as u64)?;
        file.sync_all()?;
        if is_new { File::open(folder)?.sync_all() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner {
            cluster: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            node: 0x8899_aabb_ccdd_eeff,
            storage: 0x0102_0304_0506_0708,
            shard: 1,
            shards: 8,
            partitions: 4,
            pair: 0x1122_3344_5566_7788,
        }
    }

    #[test]
    fn format_1_is_these_bytes() {
        let hex: String = owner().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "4352444f010000007766554433221100efcdab8967452301ffeeddccbbaa9988\
             08070605040302010100000008000000040000008877665544332211fa066d21",
        );
        assert_eq!(Owner::decode(&owner().encode()), Ok(owner()));
        let card = Card { owner: owner().encode(), starts: 0x0807 };
        let hex: String = card.encode().iter().skip(OWNER_BYTES).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "07080000000000001181ff42");
        assert_eq!(Card::decode(&card.encode()), Some(card));
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let card = Card { owner: owner().encode(), starts: 7 };
        let bytes = card.encode();
        assert_eq!(Card::decode(&bytes), Some(card));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Card::decode(&flipped), None, "bit {bit}");
        }
        for bit in 0..OWNER_BYTES * 8 {
            let mut flipped = card.owner;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Owner::decode(&flipped), Err(Unread::Damaged), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Card::decode(&bytes[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn who_else_owns_a_folder_is_told_with_the_remedy() {
        let own = owner();
        assert_eq!(own.mistaken(&own.encode()), None);
        let shard = Owner { shard: 2, pair: own.pair + 1, ..own };
        for (other, words) in [
            (Owner { node: 5, ..own }, "another node (0000000000000005, this one is 8899aabbccddeeff); put"),
            (Owner { cluster: 5, ..own }, "another node"),
            (Owner { storage: 5, ..own }, "another storage of this node (0000000000000005"),
            (shard, "belongs to shard 2 of this node, not to shard 1; put it back into shard-0002"),
            (
                Owner { partitions: 8, ..own },
                "made for 8 shards and 8 partitions, and the identity says 8 and 4",
            ),
            (Owner { pair: 1, ..own }, "log and state do not belong together; restore both"),
        ] {
            let text = own.mistaken(&other.encode()).expect("not its own");
            assert!(text.contains(words), "{text}");
        }
        assert!(own.mistaken(&[0; OWNER_BYTES]).expect("nobody's").contains("restore it from a backup"));
        let mut newer = own.encode();
        newer[4] = 2;
        let checksum = crc32fast::hash(&newer[..60]).to_le_bytes();
        newer[60..].copy_from_slice(&checksum);
        assert_eq!(Owner::decode(&newer), Err(Unread::Newer(2)));
        assert!(own.mistaken(&newer).expect("not its own").contains("run that version"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(card) = Card::decode(&bytes) {
                prop_assert_eq!(card.encode(), bytes);
            }
        }
    }
}
