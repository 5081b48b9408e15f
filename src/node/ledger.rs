//! The node's ledger: what it holds for its clients, all connections of all cores together, and who goes when that is more
//! than it may be.
//!
//! Each core counts its own connections and adds the difference here now and then, so that no request pays for it.
//! Invariant: after a core has counted, all clients together are within the limit, but for what connections hold that are
//! being closed and for the steps in which cores publish. The connection that holds the most goes first.
//!
//! A large value that connections of a core hold together counts once there, as long as one of them holds it; beside its row,
//! which may have another one by now, and once more on each other core. For whoever looks for room each holder has its part.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};

use super::core::{Core, core_of_conn};
use super::front::conn::{self as connection, Conn};
use crate::resp::Backend;
use crate::resp::output::SharesMark;

/// A core adds what it has counted to the node's sum when it differs by so much.
const STEP_BYTES: usize = 64 << 10;
/// Outcomes from this size on are counted while they are under way to another core.
pub const COUNTED_OUTCOME_BYTES: usize = 4 << 10;

/// When too much is held, this part of the limit is freed beyond that.
const ROOM_PART: usize = 32;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Ledger {
    /// As published by the cores; one may take back what another has not added yet.
    total: AtomicIsize,
    /// Of that, what connections hold that are marked for closing.
    leaving: AtomicUsize,
    /// What all may hold.
    limit: AtomicUsize,
    /// Connections closed for want of room.
    evicted: AtomicU64,
    /// Large outcomes on their way from the core that made them to their connection's.
    under_way: AtomicUsize,
}

impl Ledger {
    /// Sets what all clients together may hold.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// What they may hold.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// What they hold, as published.
    pub fn total(&self) -> usize {
        usize::try_from(self.total.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Connections closed because all together held too much.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How much too much is held, beside what is about to be freed.
    fn excess(&self) -> usize {
        self.total().saturating_sub(self.leaving.load(Ordering::Relaxed)).saturating_sub(self.limit())
    }

    /// What has to be freed: if anything has, then somewhat more, since whoever frees looks at all connections first.
    fn wanted_room(&self) -> usize {
        match self.excess() {
            0 => 0,
            excess => excess + self.limit() / ROOM_PART,
        }
    }

    /// Counts an outcome that leaves its core.
    pub fn send_outcome(&self, bytes: usize) {
        self.under_way.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Counts an outcome that has come to its core. Returns whether cores that waited for it may go on.
    pub fn take_outcome(&self, bytes: usize) -> bool {
        let before = self.under_way.fetch_sub(bytes, Ordering::SeqCst);
        let limit = self.under_way_limit();
        before >= limit && before - bytes < limit
    }

    /// Whether so much is under way between cores that no more is to be made of it.
    pub fn is_full(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) >= self.under_way_limit()
    }

    fn under_way_limit(&self) -> usize {
        (self.limit() / 4).max(1)
    }
}

/// What a core has counted.
#[derive(Debug, Default)]
pub struct Count {
    now: Cell<usize>,
    published: Cell<usize>,
    /// How much too much was left when it last looked for room, and found that no connection could give more.
    unmet: Cell<usize>,
}

/// What was counted of a connection.
#[derive(Debug, Default)]
pub struct Counted {
    bytes: Cell<usize>,
    /// Stands for the large values that it holds.
    mark: Cell<SharesMark>,
    /// These, each once.
    values: RefCell<Vec<(usize, usize)>>,
    /// What they take, each as often as the connection has it.
    all_bytes: Cell<usize>,
}

impl Count {
    fn replace(&self, before: usize, after: usize) {
        self.now.set(self.now.get() + after - before);
    }

    /// Whether to look for room, since so much too much is held, beyond what looks have left already: until there is more of
    /// that, or somebody has gone, another one would find as little.
    fn may_make_room(&self, excess: usize) -> bool {
        self.unmet.set(self.unmet.get().min(excess));
        excess > self.unmet.get()
    }

    fn publish(&self, ledger: &Ledger) {
        let difference = self.now.get().cast_signed() - self.published.replace(self.now.get()).cast_signed();
        ledger.total.fetch_add(difference, Ordering::Relaxed);
    }
}

/// A large value that connections hold.
#[derive(Debug, Default)]
struct Pin {
    holders: usize,
    bytes: usize,
}

/// The large values that the connections of a core hold, by the whole that each is a part of.
#[derive(Debug, Default)]
pub struct Pins {
    all: RefCell<HashMap<usize, Pin>>,
    bytes: Cell<usize>,
}

impl Pins {
    /// A connection holds these values now, instead of those.
    fn replace(&self, before: &[(usize, usize)], after: &[(usize, usize)]) {
        let mut all = self.all.borrow_mut();
        let mut bytes = self.bytes.get();
        for (whole, _) in before {
            let pin = all.get_mut(whole).expect("it was counted when it was taken up");
            pin.holders -= 1;
            if pin.holders == 0 {
                bytes -= all.remove(whole).map_or(0, |pin| pin.bytes);
            }
        }
        for (whole, len) in after {
            let pin = all.entry(*whole).or_default();
            pin.holders += 1;
            // Where one that is freed lay, another may lie before the last holder of the old one was counted again.
            bytes += len.saturating_sub(pin.bytes);
            pin.bytes = pin.bytes.max(*len);
        }
        self.bytes.set(bytes);
    }

    /// A holder's part of these values: each is shared by all its holders.
    fn part_bytes(&self, values: &[(usize, usize)]) -> usize {
        let all = self.all.borrow();
        let part = |(whole, len): &(usize, usize)| len / all.get(whole).map_or(1, |pin| pin.holders);
        values.iter().map(part).sum()
    }
}

/// Counts what a connection holds, and makes room if all of them hold too much.
pub fn count(core: &Rc<Core>, conn: &Conn) {
    let ledger = &core.shared.ledger;
    let mark = conn.shares_mark();
    if conn.counted.mark.replace(mark) != mark {
        count_values(core, conn, conn.large_values());
    }
    let bytes = conn.held_bytes() - conn.counted.all_bytes.get();
    core.count.replace(conn.counted.bytes.replace(bytes), bytes);
    // Who was closed may have left values to others, and no room.
    let is_short = || core.pins.bytes.get() > 0 && core.count.may_make_room(ledger.excess());
    if core.count.now.get().abs_diff(core.count.published.get()) >= STEP_BYTES || is_short() {
        core.count.publish(ledger);
        make_room(core);
        core.count.unmet.set(ledger.excess());
    }
}

/// Counts the large values that a connection holds, each once.
fn count_values(core: &Core, conn: &Conn, mut values: Vec<(usize, usize)>) {
    let all_bytes: usize = values.iter().map(|(_, bytes)| bytes).sum();
    values.sort_unstable();
    values.dedup_by_key(|(whole, _)| *whole);
    let before = core.pins.bytes.get();
    core.pins.replace(&conn.counted.values.borrow(), &values);
    core.count.replace(before, core.pins.bytes.get());
    conn.counted.all_bytes.set(all_bytes);
    *conn.counted.values.borrow_mut() = values;
    share_out(core, conn);
}

/// Notes a connection's part of the large values that it holds, by how many hold each now.
fn share_out(core: &Core, conn: &Conn) {
    let part_bytes = core.pins.part_bytes(&conn.counted.values.borrow());
    conn.session.borrow().client().leave_to_others(conn.counted.all_bytes.get() - part_bytes);
}

/// A connection is closed: it holds nothing any more.
pub fn leave(core: &Core, conn: &Conn) {
    core.count.replace(conn.counted.bytes.take(), 0);
    if conn.counted.mark.take() != SharesMark::default() {
        count_values(core, conn, Vec::new());
    }
    // Others may be all that is left that holds its large values: they can give more than they could.
    core.count.unmet.set(0);
    core.count.publish(&core.shared.ledger);
    let promised = conn.session.borrow().client().end();
    core.shared.ledger.leaving.fetch_sub(promised, Ordering::Relaxed);
}

/// Closes the connections that hold the most, until the others are within the limit.
fn make_room(core: &Rc<Core>) {
    let ledger = &core.shared.ledger;
    let wanted = ledger.wanted_room();
    if wanted == 0 {
        return;
    }
    // Holders have come and gone since the others were counted.
    let conns = core.conns.borrow().all();
    conns.iter().filter(|conn| conn.counted.all_bytes.get() > 0).for_each(|conn| share_out(core, conn));
    for (client, bytes) in core.shared.hub.clients.largest(wanted) {
        let bytes = bytes.max(1);
        // Before the promise, for its end may come at once.
        ledger.leaving.fetch_add(bytes, Ordering::Relaxed);
        if !client.promise(bytes) {
            ledger.leaving.fetch_sub(bytes, Ordering::Relaxed);
            continue;
        }
        ledger.evicted.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            id = client.id,
            addr = client.addr,
            bytes,
            limit = ledger.limit(),
            "closing a connection: it holds the most, and all clients together hold more than memory.clients_bytes"
        );
        let here = (core_of_conn(client.conn) == core.index).then(|| core.conns.borrow().get(client.conn));
        match here.flatten() {
            Some(conn) => connection::close(core, &conn),
            None => core.wake_connection(client.conn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_hold_together_counts_once_until_the_last_lets_it_go() {
        let pins = Pins::default();
        let replace = |before: &[(usize, usize)], after: &[(usize, usize)]| {
            pins.replace(before, after);
            (pins.part_bytes(after), pins.bytes.get())
        };
        let (one, other) = ((8, 1000), (16, 500));
        assert_eq!(replace(&[], &[one]), (1000, 1000));
        assert_eq!(replace(&[], &[one, other]), (1000, 1500));
        assert_eq!(pins.part_bytes(&[one]), 500, "of the first one too");
        assert_eq!(replace(&[one], &[]), (0, 1500), "the second one holds it");
        assert_eq!(pins.part_bytes(&[one, other]), 1500, "alone");
        // The same place, and another value, before the last holder of the old one has been counted again.
        assert_eq!(replace(&[], &[(8, 3000)]), (1500, 3500));
        assert_eq!(replace(&[one, other], &[]), (0, 3000));
        assert_eq!(replace(&[(8, 3000)], &[]), (0, 0));
        assert!(pins.all.borrow().is_empty());
    }

    #[test]
    fn a_look_for_room_that_left_too_much_is_not_repeated_for_the_same() {
        let count = Count::default();
        assert!(!count.may_make_room(0) && count.may_make_room(50));
        count.unmet.set(50);
        assert!(!count.may_make_room(50) && count.may_make_room(51) && !count.may_make_room(20));
        assert!(count.may_make_room(21), "there was less meanwhile");
    }

    #[test]
    fn what_is_about_to_be_freed_is_no_excess() {
        let ledger = Ledger::default();
        ledger.set_limit(100);
        let (one, other) = (Count::default(), Count::default());
        one.replace(0, 90);
        other.replace(0, 60);
        assert_eq!(ledger.total(), 0, "nothing is published");
        one.publish(&ledger);
        other.publish(&ledger);
        assert_eq!((ledger.total(), ledger.excess()), (150, 50));
        assert_eq!(ledger.wanted_room(), 50 + 100 / ROOM_PART);
        ledger.leaving.fetch_add(60, Ordering::Relaxed);
        assert_eq!((ledger.excess(), ledger.wanted_room()), (0, 0));
        other.replace(60, 0);
        other.publish(&ledger);
        ledger.leaving.fetch_sub(60, Ordering::Relaxed);
        assert_eq!((ledger.total(), ledger.excess()), (90, 0));
    }

    #[test]
    fn outcomes_under_way_stop_and_free_those_who_make_them() {
        let ledger = Ledger::default();
        ledger.set_limit(400);
        ledger.send_outcome(60);
        assert!(!ledger.is_full());
        ledger.send_outcome(60);
        assert!(ledger.is_full());
        assert!(ledger.take_outcome(60), "the waiting ones are to be woken");
        assert!(!ledger.is_full());
        assert!(!ledger.take_outcome(60), "and only then");
    }
}
