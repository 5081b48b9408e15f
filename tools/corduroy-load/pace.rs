//! When the requests of an open loop are due. Sans-IO: the time comes as an argument.

use crate::keys::Random;

/// The due times of one thread's requests, in order.
#[derive(Debug)]
pub struct Schedule {
    next_ns: f64,
    gap_ns: f64,
    poisson: Option<Random>,
}

impl Schedule {
    /// One request every `gap_ns` on average, the first at `first_ns`.
    #[must_use]
    pub fn new(first_ns: f64, gap_ns: f64, poisson: Option<Random>) -> Self {
        assert!(gap_ns > 0.0, "requests cannot all be due at once");
        Self { next_ns: first_ns, gap_ns, poisson }
    }

    /// When the next request is due.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Takes the next request if it is due: the time at which it was.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_ns as u64;
        if due_ns > now_ns {
            return None;
        }
        self.next_ns += match &mut self.poisson {
            None => self.gap_ns,
            Some(random) => -self.gap_ns * (1.0 - random.unit()).ln(),
        };
        Some(due_ns)
    }

    /// How many are due by `end_ns`, from now on, on average.
    #[must_use]
    pub fn due_until(&self, end_ns: u64) -> u64 {
        ((end_ns as f64 - self.next_ns) / self.gap_ns).ceil().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that was held up takes all that fell due, each with its own time: nothing is omitted.
    #[test]
    fn a_stall_is_paid_by_all_that_fell_due_in_it() {
        let mut schedule = Schedule::new(100.0, 10.0, None);
        assert_eq!(schedule.take(99), None);
        assert_eq!(schedule.take(100), Some(100));
        assert_eq!(schedule.take(105), None);
        let late: Vec<_> = std::iter::from_fn(|| schedule.take(150)).collect();
        assert_eq!(late, [110, 120, 130, 140, 150]);
        assert_eq!(schedule.due_until(200), 4);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_asked_for() {
        let mut schedule = Schedule::new(0.0, 1000.0, Some(Random::new(11)));
        let mut gaps = Vec::new();
        let mut last = 0;
        while let Some(due) = schedule.take(100_000_000) {
            gaps.push(due - last);
            last = due;
        }
        assert!((98_000..102_000).contains(&gaps.len()), "{}", gaps.len());
        let long = gaps.iter().filter(|gap| **gap > 1000).count() as f64 / gaps.len() as f64;
        assert!((long - (-1.0_f64).exp()).abs() < 0.01, "the gaps are not exponential: {long}");
    }
}
