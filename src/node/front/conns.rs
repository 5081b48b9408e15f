//! The table of a core's connections, by number.
//!
//! Invariant: a number names one connection for ever; its index in the table is used again with another number.

use std::rc::Rc;

use super::conn::Conn;

/// Bits of a connection's number for its index in the table; those above, up to the core's, count reuses of the index.
const INDEX_BITS: u32 = 16;

/// The connections of a core, by number.
pub struct Conns {
    core: usize,
    entries: Vec<(u32, Option<Rc<Conn>>)>,
    free: Vec<usize>,
    count: usize,
}

impl Conns {
    /// None yet.
    pub fn new(core: usize) -> Self {
        Self { core, entries: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// A number for a new connection; `None` if the core's table is full.
    pub fn reserve(&mut self) -> Option<u64> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < 1 << INDEX_BITS => {
                self.entries.push((0, None));
                self.entries.len() - 1
            }
            None => return None,
        };
        let (uses, _) = self.entries.get_mut(index)?;
        *uses = uses.wrapping_add(1);
        Some((self.core as u64) << 48 | u64::from(*uses) << INDEX_BITS | index as u64)
    }

    /// Gives a number back that was never used.
    pub fn release(&mut self, id: u64) {
        self.free.push(index_of(id));
    }

    pub fn insert(&mut self, conn: Rc<Conn>) {
        let (_, slot) = self.entries.get_mut(index_of(conn.id)).expect("it was reserved");
        *slot = Some(conn);
        self.count += 1;
    }

    /// The connection of this number, if it is still open.
    pub fn get(&self, id: u64) -> Option<Rc<Conn>> {
        let (_, conn) = self.entries.get(index_of(id))?;
        conn.as_ref().filter(|conn| conn.id == id).cloned()
    }

    pub fn remove(&mut self, id: u64) {
        if let Some((_, slot)) = self.entries.get_mut(index_of(id))
            && slot.as_ref().is_some_and(|conn| conn.id == id)
        {
            *slot = None;
            self.free.push(index_of(id));
            self.count -= 1;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<Conn>> {
        self.entries.iter().filter_map(|(_, conn)| conn.clone()).collect()
    }
}

fn index_of(id: u64) -> usize {
    (id & ((1 << INDEX_BITS) - 1)) as usize
}
