//! How a world comes to its end, and what has to be true then.

use super::*;

impl World {
    /// The network is whole again, somebody leads, and everybody knows.
    pub(super) fn calm(&mut self) {
        if self.leader.is_none() {
            self.move_lead(Some(NodeId(3)));
            self.leader = Some(NodeId(3));
        }
        let given_back = self.stuck.drain(..).collect();
        self.give_back(given_back);
        self.known = match self.leader {
            Some(ME) => Lead::Here,
            Some(node) => Lead::There(node),
            None => Lead::Nobody,
        };
        for _ in 0..4_000 {
            for node in [NodeId(2), NodeId(3)] {
                while let Some(next) = self.remote(node).to.pop_front() {
                    self.arrive(node, next);
                }
                while let Some(next) = self.remote(node).from.pop_front() {
                    self.hear(next);
                }
            }
            let leader = self.leader.unwrap();
            (0..10).for_each(|_| self.carry_out(leader));
            self.now_ns += 5 * MS;
            self.act();
            self.step();
            if self.asked.values().all(|(_, ended)| ended.is_some()) {
                return;
            }
        }
        panic!("not everything has ended: {:?}", self.forwarder);
    }

    pub(super) fn judge(&self) {
        let at = |name| self.log.iter().position(|other| *other == name);
        for (name, (kind, ended)) in &self.asked {
            match (kind, ended.expect("it has ended")) {
                (Kind::Write, Ended::Answered(found)) => assert_eq!(at(*name), Some(found), "{name:?}"),
                (_, Ended::Rejected) => assert_eq!(at(*name), None, "{name:?} was refused, and is done"),
                (Kind::Read | Kind::ReadAnywhere, Ended::Answered(_)) | (_, Ended::Unknown) => {}
            }
            let Ended::Answered(found) = ended.unwrap() else { continue };
            // The others of its connection, as far as they were answered: before and behind it.
            for (other, (of, ended)) in self.asked.range((name.0, 0)..(name.0 + 1, 0)) {
                if let (Kind::Write, Some(Ended::Answered(at))) = (of, ended)
                    && other != name
                {
                    let is_before = if *kind == Kind::Read { *at < found } else { *at <= found };
                    assert_eq!(is_before, other.1 < name.1, "{other:?} at {at}, {name:?} at {found}");
                }
            }
        }
    }
}
