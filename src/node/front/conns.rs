//! The table of a core's connections, by number.
//!
//! Invariant: a number names one connection for ever; its place in the table is used again with another number.

use std::rc::Rc;

use super::conn::Conn;

/// Bits of a connection's number for its place in the table; those above, up to the core's, count reuses of the place.
const PLACE_BITS: u32 = 16;

/// The connections of a core, by number.
pub struct Conns {
    core: usize,
    places: Vec<(u32, Option<Rc<Conn>>)>,
    free: Vec<usize>,
    count: usize,
}

impl Conns {
    /// None yet.
    pub fn new(core: usize) -> Self {
        Self { core, places: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// A number for a new connection; `None` if the core has no place left.
    pub fn reserve(&mut self) -> Option<u64> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < 1 << PLACE_BITS => {
                self.places.push((0, None));
                self.places.len() - 1
            }
            None => return None,
        };
        let (uses, _) = self.places.get_mut(place)?;
        *uses = uses.wrapping_add(1);
        Some((self.core as u64) << 48 | u64::from(*uses) << PLACE_BITS | place as u64)
    }

    /// Gives a number back that was never used.
    pub fn release(&mut self, id: u64) {
        self.free.push(place_of(id));
    }

    pub fn insert(&mut self, conn: Rc<Conn>) {
        let (_, slot) = self.places.get_mut(place_of(conn.id)).expect("it was reserved");
        *slot = Some(conn);
        self.count += 1;
    }

    /// The connection of this number, if it is still open.
    pub fn get(&self, id: u64) -> Option<Rc<Conn>> {
        let (_, conn) = self.places.get(place_of(id))?;
        conn.as_ref().filter(|conn| conn.id == id).cloned()
    }

    pub fn remove(&mut self, id: u64) {
        if let Some((_, slot)) = self.places.get_mut(place_of(id))
            && slot.as_ref().is_some_and(|conn| conn.id == id)
        {
            *slot = None;
            self.free.push(place_of(id));
            self.count -= 1;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<Conn>> {
        self.places.iter().filter_map(|(_, conn)| conn.clone()).collect()
    }
}

fn place_of(id: u64) -> usize {
    (id & ((1 << PLACE_BITS) - 1)) as usize
}
