//! What a core's connections hold, counted: a core's share of the node's ledger.
//!
//! A large value that connections of a core hold together counts once there, as long as one of them holds it; beside its row,
//! which may have another one by now, and once more on each other core. For whoever looks for room each holder has its part.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::node::ledger::Ledger;
use crate::resp::output::SharesMark;

/// A core adds what it has counted to the node's sum when it differs by so much.
const STEP_BYTES: usize = 64 << 10;

/// What a core has counted.
#[derive(Debug, Default)]
pub struct Accounts {
    now: Cell<usize>,
    published: Cell<usize>,
    /// How much too much was left when it last looked for room, and found that no connection could give more.
    unmet: Cell<usize>,
    /// The large values that its connections hold.
    pins: Pins,
}

/// What was counted of a connection.
#[derive(Debug, Default)]
pub struct Account {
    bytes: Cell<usize>,
    /// Stands for the large values that it holds.
    mark: Cell<SharesMark>,
    /// These, each once.
    values: RefCell<Vec<(usize, usize)>>,
    /// What they take, each as often as the connection has it.
    all_bytes: Cell<usize>,
}

impl Account {
    /// Takes note of what stands for its large values now. Returns whether they are others than those that were counted.
    pub fn follow(&self, mark: SharesMark) -> bool {
        self.mark.replace(mark) != mark
    }

    /// Whether large values were counted.
    pub fn holds_values(&self) -> bool {
        self.all_bytes.get() > 0
    }
}

impl Accounts {
    /// Counts what a connection holds, its large values included.
    pub fn count(&self, account: &Account, held_bytes: usize) {
        let bytes = held_bytes - account.all_bytes.get();
        self.replace(account.bytes.replace(bytes), bytes);
    }

    /// Counts the large values that a connection holds, each once.
    pub fn count_values(&self, account: &Account, mut values: Vec<(usize, usize)>) {
        let all_bytes: usize = values.iter().map(|(_, bytes)| bytes).sum();
        values.sort_unstable();
        values.dedup_by_key(|(whole, _)| *whole);
        let before = self.pins.bytes.get();
        self.pins.replace(&account.values.borrow(), &values);
        self.replace(before, self.pins.bytes.get());
        account.all_bytes.set(all_bytes);
        *account.values.borrow_mut() = values;
    }

    /// What others would go on holding of a connection's large values: theirs is the rest of those that it shares.
    pub fn others_bytes(&self, account: &Account) -> usize {
        account.all_bytes.get() - self.pins.part_bytes(&account.values.borrow())
    }

    /// A connection is closed: it holds nothing any more.
    pub fn close(&self, account: &Account) {
        self.replace(account.bytes.take(), 0);
        if account.follow(SharesMark::default()) {
            self.count_values(account, Vec::new());
        }
        // Others may be all that is left that holds its large values: they can give more than they could.
        self.unmet.set(0);
    }

    /// Whether the node's sum is to follow, and room to be looked for if need be.
    pub fn is_to_publish(&self, ledger: &Ledger) -> bool {
        // Who was closed may have left values to others, and no room.
        let is_short = || self.pins.bytes.get() > 0 && self.may_make_room(ledger.excess());
        self.now.get().abs_diff(self.published.get()) >= STEP_BYTES || is_short()
    }

    /// Has the node's sum follow.
    pub fn publish(&self, ledger: &Ledger) {
        let now = self.now.get();
        ledger.add(now.cast_signed() - self.published.replace(now).cast_signed());
    }

    /// Room was looked for: what is too much now is not to be had.
    pub fn note_unmet(&self, ledger: &Ledger) {
        self.unmet.set(ledger.excess());
    }

    fn replace(&self, before: usize, after: usize) {
        self.now.set(self.now.get() + after - before);
    }

    /// Whether to look for room, since so much too much is held, beyond what looks have left already: until there is more of
    /// that, or a client has left, another one would find as little.
    fn may_make_room(&self, excess: usize) -> bool {
        self.unmet.set(self.unmet.get().min(excess));
        excess > self.unmet.get()
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
struct Pins {
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
        // The same address, and another value, before the last holder of the old one has been counted again.
        assert_eq!(replace(&[], &[(8, 3000)]), (1500, 3500));
        assert_eq!(replace(&[one, other], &[]), (0, 3000));
        assert_eq!(replace(&[(8, 3000)], &[]), (0, 0));
        assert!(pins.all.borrow().is_empty());
    }

    #[test]
    fn a_look_for_room_that_left_too_much_is_not_repeated_for_the_same() {
        let accounts = Accounts::default();
        assert!(!accounts.may_make_room(0) && accounts.may_make_room(50));
        accounts.unmet.set(50);
        assert!(!accounts.may_make_room(50) && accounts.may_make_room(51) && !accounts.may_make_room(20));
        assert!(accounts.may_make_room(21), "there was less meanwhile");
    }

    #[test]
    fn the_node_s_sum_follows_in_steps() {
        let (ledger, accounts, account) = (Ledger::default(), Accounts::default(), Account::default());
        accounts.count(&account, STEP_BYTES - 1);
        assert!(!accounts.is_to_publish(&ledger));
        accounts.count(&account, STEP_BYTES);
        assert!(accounts.is_to_publish(&ledger));
        assert_eq!(ledger.total(), 0, "nothing is published");
        accounts.publish(&ledger);
        assert_eq!((ledger.total(), accounts.is_to_publish(&ledger)), (STEP_BYTES, false));
        accounts.close(&account);
        accounts.publish(&ledger);
        assert_eq!(ledger.total(), 0);
    }
}
