//! Leases of leaders, judged over all nodes: while one holds by its leader's clock, nobody leads in a later term.
//!
//! Invariant: what is remembered is what each replica of a running process has shown after its last turn.

use std::collections::HashMap;

use corduroy_wal::Term;

use crate::ids::PartitionId;
use crate::sim::history::Broken;

/// See the file's head.
#[derive(Default, Debug)]
pub(super) struct Leases {
    /// The leader's term, and when its lease ends by its clock, in ns of the world's time.
    held: HashMap<(usize, PartitionId), (Term, u64)>,
}

impl Leases {
    /// A node's replica has ended.
    pub(super) fn ended(&mut self, node: usize, partition: PartitionId) {
        self.held.remove(&(node, partition));
    }

    /// The process of a node has died.
    pub(super) fn crashed(&mut self, node: usize) {
        self.held.retain(|(of, _), _| *of != node);
    }

    /// A replica of a term has a lease that ends then, or has none. Returns whether it has one.
    pub(super) fn shows(
        &mut self,
        (node, partition): (usize, PartitionId),
        term: Term,
        until_ns: Option<u64>,
    ) -> bool {
        match until_ns {
            Some(until_ns) => drop(self.held.insert((node, partition), (term, until_ns))),
            None => self.ended(node, partition),
        }
        until_ns.is_some()
    }

    /// A node's replica has been elected.
    pub(super) fn elected(
        &self,
        (node, partition): (usize, PartitionId),
        term: Term,
        now_ns: u64,
    ) -> Result<(), Broken> {
        let holds = |(other, held): (&(usize, PartitionId), &(Term, u64))| {
            other.1 == partition && other.0 != node && held.0 < term && held.1 > now_ns
        };
        match self.held.iter().find(|(other, held)| holds((other, held))) {
            Some(((other, _), (earlier, until_ns))) => Err((
                "nobody else leads while a lease holds",
                format!(
                    "partition {partition}: node {node} is elected in term {term} at {now_ns}; node {other} has a lease of term \
                     {earlier} until {until_ns}"
                ),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_within_the_lease_of_another_leader_is_found() {
        const P: PartitionId = PartitionId(4);
        let mut leases = Leases::default();
        assert!(leases.shows((0, P), Term(3), Some(100)));
        let judged = |leases: &Leases, node, partition, term, now_ns| {
            leases.elected((node, partition), Term(term), now_ns).is_ok()
        };
        assert!(!judged(&leases, 1, P, 4, 99));
        assert!(judged(&leases, 1, P, 4, 100), "it is over");
        assert!(judged(&leases, 1, P, 2, 99), "an election of an earlier term, of which a node hears late");
        assert!(judged(&leases, 0, P, 4, 99) && judged(&leases, 1, PartitionId(5), 4, 99));
        assert!(!leases.shows((0, P), Term(4), None));
        assert!(judged(&leases, 1, P, 4, 99));
        leases.shows((0, P), Term(5), Some(200));
        leases.crashed(0);
        assert!(judged(&leases, 1, P, 6, 99));
    }
}
