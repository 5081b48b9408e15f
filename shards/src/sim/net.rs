//! The network between simulated nodes: a directed link from each node to each other one.
//!
//! Invariant: what arrives over a link was sent over it earlier, by whichever process, and is what was sent unless a byte
//! of it was flipped. Each link draws from a stream of its own, so what one carries does not shift what befalls another.

use crate::sim::rng::Rng;

/// What a link carries.
pub trait Parcel: Clone {
    /// A byte of it is changed on the way.
    fn flip(&mut self, rng: &mut Rng);
}

impl Parcel for Vec<u8> {
    fn flip(&mut self, rng: &mut Rng) {
        let at = rng.below(self.len() as u64);
        let mask = 1 << rng.below(8);
        if let Some(byte) = usize::try_from(at).ok().and_then(|at| self.get_mut(at)) {
            *byte ^= mask;
        }
    }
}

/// Which links carry nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Those between two nodes, both ways.
    Between(usize, usize),
    /// The one from the first node to the second.
    OneWay(usize, usize),
    /// All from and to a node.
    Around(usize),
    /// Those between nodes whose bit is set and nodes whose bit is not.
    Split(u32),
}

impl Cut {
    fn severs(self, from: usize, to: usize) -> bool {
        let side = |mask: u32, node: usize| {
            mask.checked_shr(u32::try_from(node).unwrap_or(u32::MAX)).unwrap_or(0) & 1
        };
        match self {
            Self::Between(a, b) => (a, b) == (from, to) || (b, a) == (from, to),
            Self::OneWay(a, b) => (a, b) == (from, to),
            Self::Around(node) => node == from || node == to,
            Self::Split(mask) => side(mask, from) != side(mask, to),
        }
    }
}

struct Link<P> {
    rng: Rng,
    /// What a parcel takes, ns (typical).
    delay_ns: u64,
    /// When the last parcel that kept its order arrives.
    last_ns: u64,
    /// One of those that it carried.
    earlier: Option<P>,
}

/// How links are: what a parcel takes, and how often something befalls one, in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Links {
    /// What a parcel takes, ns (typical); a quarter of the links takes four times as long.
    pub delay_ns: u64,
    /// It never arrives.
    pub loss_per_mille: u64,
    /// It arrives twice.
    pub duplicate_per_mille: u64,
    /// It takes many times as long, and those behind it overtake it.
    pub late_per_mille: u64,
    /// One that was carried before arrives once more behind it.
    pub replay_per_mille: u64,
    /// A byte of it is changed.
    pub flip_per_mille: u64,
}

/// See the file's head.
pub struct Net<P> {
    nodes: usize,
    /// From each node to each node; those to themselves are not used.
    links: Vec<Link<P>>,
    faults: Links,
    /// What takes longer to a node, until when and by how much, in ns.
    delayed: Vec<(usize, u64, u64)>,
    /// Whether all faults are over.
    is_healed: bool,
    /// The cuts in force, each with its number.
    cuts: Vec<(u64, Cut)>,
    cuts_made: u64,
}

/// What became of a parcel on its way.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fared {
    /// It never arrives.
    pub is_lost: bool,
    /// It arrives twice.
    pub is_doubled: bool,
    /// It may be overtaken.
    pub is_late: bool,
    /// An earlier one arrives once more behind it.
    pub is_replayed: bool,
    /// A byte of it was changed.
    pub is_flipped: bool,
}

/// A parcel that is late takes so many times as long.
const LATE: u64 = 16;

impl<P: Parcel> Net<P> {
    /// The network of a seed's nodes.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, faults: Links) -> Self {
        let links = (0..nodes * nodes).map(|at| {
            let mut rng = Rng::new(seed, &format!("link from {} to {}", at / nodes, at % nodes));
            let delay_ns = faults.delay_ns * rng.pick(&[1, 1, 1, 4]);
            Link { rng, delay_ns, last_ns: 0, earlier: None }
        });
        Self {
            nodes,
            links: links.collect(),
            faults,
            delayed: Vec::new(),
            is_healed: false,
            cuts: Vec::new(),
            cuts_made: 0,
        }
    }

    /// A node sends a parcel to another one. `arrive` gets what arrives, and when.
    pub fn send(
        &mut self,
        (from, to): (usize, usize),
        now_ns: u64,
        mut parcel: P,
        mut arrive: impl FnMut(u64, P),
    ) -> Fared {
        let mut fared = Fared::default();
        let faults = self.faults;
        let Some(link) = self.links.get_mut(from * self.nodes + to) else { return fared };
        let rng = &mut link.rng;
        let mut meets = |per_mille: u64| rng.chance(per_mille);
        fared = Fared {
            is_lost: meets(faults.loss_per_mille),
            is_doubled: meets(faults.duplicate_per_mille),
            is_late: meets(faults.late_per_mille),
            is_replayed: meets(faults.replay_per_mille) && link.earlier.is_some(),
            is_flipped: meets(faults.flip_per_mille),
        };
        let earlier = link.earlier.clone().filter(|_| fared.is_replayed);
        if link.earlier.is_none() || meets(100) {
            link.earlier = Some(parcel.clone());
        }
        let delay_ns = match self.is_healed {
            true => link.delay_ns + rng.below(link.delay_ns.max(1)),
            false => rng.heavy(link.delay_ns),
        };
        let delayed = self.delayed.iter().filter(|(node, until_ns, _)| *node == to && now_ns < *until_ns);
        let delay_ns = delay_ns + delayed.map(|(_, _, by_ns)| by_ns).sum::<u64>();
        let at_ns = if fared.is_late {
            now_ns + delay_ns * LATE
        } else {
            link.last_ns = (now_ns + delay_ns).max(link.last_ns + 1);
            link.last_ns
        };
        if fared.is_flipped {
            parcel.flip(rng);
        }
        if fared.is_doubled {
            arrive(at_ns + rng.heavy(link.delay_ns), parcel.clone());
        }
        if let Some(earlier) = earlier {
            arrive(at_ns + rng.heavy(link.delay_ns), earlier);
        }
        if !fared.is_lost {
            arrive(at_ns, parcel);
        }
        fared
    }

    /// Whether what arrives now over a link gets through: a cut takes what is on its way, too.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.cuts.iter().any(|(_, cut)| cut.severs(from, to))
    }

    /// Links are cut. Returns the number by which they are mended.
    pub fn cut(&mut self, cut: Cut) -> u64 {
        self.cuts_made += 1;
        self.cuts.push((self.cuts_made, cut));
        self.cuts_made
    }

    /// What this cut had severed is whole again, unless another cut severs it.
    pub fn mend(&mut self, number: u64) {
        self.cuts.retain(|(cut, _)| *cut != number);
    }

    /// What is sent to a node until then takes longer by so much.
    pub fn delay_to(&mut self, node: usize, until_ns: u64, by_ns: u64) {
        self.delayed.push((node, until_ns, by_ns));
    }

    /// Ends all faults: from now on everything arrives, once, whole, in order, and in less than twice the typical time, since a
    /// group whose messages take longer than its elections has no leader for long.
    pub fn heal(&mut self) {
        self.is_healed = true;
        self.cuts.clear();
        self.delayed.clear();
        self.faults = Links::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERFECT: Links = Links {
        delay_ns: 1000,
        loss_per_mille: 0,
        duplicate_per_mille: 0,
        late_per_mille: 0,
        replay_per_mille: 0,
        flip_per_mille: 0,
    };

    /// Every fault, so often.
    const fn faulty(per_mille: u64) -> Links {
        Links {
            loss_per_mille: per_mille,
            duplicate_per_mille: per_mille,
            late_per_mille: per_mille,
            replay_per_mille: per_mille,
            flip_per_mille: per_mille,
            ..PERFECT
        }
    }

    /// The network of four nodes.
    fn net(faults: Links) -> Net<Vec<u8>> {
        Net::new(3, 4, faults)
    }

    /// Sends the numbers from 0 to 999 over a link, one each 100 ns, and returns what arrives, in its order.
    fn carried(net: &mut Net<Vec<u8>>, from: usize, to: usize) -> Vec<(u64, u32)> {
        let mut arrived = Vec::new();
        for number in 0..1000_u32 {
            let parcel = number.to_le_bytes().to_vec();
            net.send((from, to), u64::from(number) * 100, parcel, |at_ns, parcel| {
                arrived.push((at_ns, u32::from_le_bytes(parcel.try_into().unwrap())));
            });
        }
        arrived.sort_by_key(|(at_ns, _)| *at_ns);
        arrived
    }

    fn numbers(arrived: &[(u64, u32)]) -> Vec<u32> {
        arrived.iter().map(|(_, number)| *number).collect()
    }

    #[test]
    fn without_faults_everything_arrives_once_and_in_order() {
        let arrived = carried(&mut net(PERFECT), 0, 1);
        assert_eq!(numbers(&arrived), (0..1000).collect::<Vec<_>>());
        assert!(arrived.iter().all(|(at_ns, number)| *at_ns >= u64::from(*number) * 100 + 1000));
    }

    #[test]
    fn equal_seeds_carry_alike_and_what_one_link_carries_shifts_no_other() {
        let alone = carried(&mut net(faulty(100)), 0, 1);
        let mut beside = net(faulty(100));
        let back = carried(&mut beside, 1, 0);
        assert_eq!(carried(&mut beside, 0, 1), alone);
        assert_ne!(back, alone, "each link has a stream of its own");
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let all = (0..1000).collect::<Vec<_>>();
        let sorted = |arrived: &[(u64, u32)]| {
            let mut numbers = numbers(arrived);
            numbers.sort_unstable();
            numbers
        };
        let lost = carried(&mut net(Links { loss_per_mille: 200, ..PERFECT }), 0, 1);
        assert!((700..900).contains(&lost.len()) && numbers(&lost).is_sorted(), "{}", lost.len());

        let doubled = carried(&mut net(Links { duplicate_per_mille: 200, ..PERFECT }), 0, 1);
        assert!((1100..1300).contains(&doubled.len()), "{}", doubled.len());
        let mut once = sorted(&doubled);
        once.dedup();
        assert_eq!(once, all);

        let late = carried(&mut net(Links { late_per_mille: 200, ..PERFECT }), 0, 1);
        assert!(sorted(&late) == all && !numbers(&late).is_sorted());

        let replayed = carried(&mut net(Links { replay_per_mille: 200, ..PERFECT }), 0, 1);
        assert!((1100..1300).contains(&replayed.len()), "{}", replayed.len());
        let again = numbers(&replayed).windows(2).filter(|pair| pair[1] + 20 < pair[0]).count();
        assert!(again > 10, "{again} came long after they had been sent first");

        let flipped = carried(&mut net(Links { flip_per_mille: 200, ..PERFECT }), 0, 1);
        let changed = numbers(&flipped).iter().zip(&all).filter(|(got, sent)| got != sent).count();
        assert!(flipped.len() == 1000 && (100..300).contains(&changed), "{changed}");
        let is_one_bit = |(got, sent): (&u32, &u32)| (got ^ sent).count_ones() <= 1;
        assert!(numbers(&flipped).iter().zip(&all).all(is_one_bit));
    }

    #[test]
    fn a_cut_severs_its_links_and_no_others_until_it_is_mended() {
        let mut net = net(PERFECT);
        let severed = |net: &Net<Vec<u8>>| {
            let pairs =
                (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to);
            pairs.filter(|(from, to)| !net.passes(*from, *to)).collect::<Vec<_>>()
        };
        let between = net.cut(Cut::Between(0, 2));
        assert_eq!(severed(&net), [(0, 2), (2, 0)]);
        let one_way = net.cut(Cut::OneWay(0, 2));
        net.mend(between);
        assert_eq!(severed(&net), [(0, 2)]);
        net.mend(one_way);
        let around = net.cut(Cut::Around(3));
        assert_eq!(severed(&net), [(0, 3), (1, 3), (2, 3), (3, 0), (3, 1), (3, 2)]);
        net.mend(around);
        net.cut(Cut::Split(0b0011));
        assert_eq!(severed(&net), [(0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)]);
        net.heal();
        assert_eq!(severed(&net), []);
    }

    #[test]
    fn after_it_is_healed_everything_arrives_once_whole_and_in_order() {
        let mut net = net(faulty(300));
        assert_ne!(numbers(&carried(&mut net, 2, 3)), (0..1000).collect::<Vec<_>>());
        let at_most_ns = |arrived: &[(u64, u32)]| {
            arrived.iter().map(|(at_ns, number)| at_ns - u64::from(*number) * 100).max().unwrap()
        };
        // A slow link takes four times as long, typically.
        assert!(at_most_ns(&carried(&mut self::net(PERFECT), 0, 1)) > 8 * PERFECT.delay_ns);
        net.heal();
        assert_eq!(numbers(&carried(&mut net, 2, 3)), (0..1000).collect::<Vec<_>>());
        assert!(at_most_ns(&carried(&mut net, 0, 1)) <= 8 * PERFECT.delay_ns);
    }
}
