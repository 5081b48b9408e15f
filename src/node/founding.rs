//! Reports that a core is ready once the groups that it founds are on the disk: nothing of them may be heard of before.

use corduroy_shards::PartitionId;
use corduroy_shards::raft::membership::Membership;
use corduroy_wal::Wal;
use corduroy_wal::device::Device;

use super::error::StartError;

/// How long the groups of a cluster may take to be founded.
const FOUNDING_S: u64 = 30;

/// Who belongs to the group of a partition, as its log has it saved.
pub fn saved_members<D: Device>(wal: &Wal<D>, partition: PartitionId) -> Option<Membership> {
    let saved = wal.log_state(partition.log()).and_then(|state| state.conf);
    saved.and_then(|saved| Membership::decode(&saved).ok())
}

type Report = Box<dyn FnOnce(Result<(), StartError>)>;

/// See the file's head.
pub struct Founding {
    report: Option<Report>,
    until_ns: u64,
}

impl Founding {
    /// Of a core whose shards are open; `report` is called once.
    pub fn new(report: impl FnOnce(Result<(), StartError>) + 'static, now_ns: u64) -> Self {
        Self { report: Some(Box::new(report)), until_ns: now_ns + FOUNDING_S * 1_000_000_000 }
    }

    /// Looks whether it is done, or takes too long.
    pub fn look(&mut self, now_ns: u64, is_founded: impl Fn() -> bool) {
        if self.report.is_none() {
            return;
        }
        let is_founded = is_founded();
        if (is_founded || now_ns >= self.until_ns)
            && let Some(report) = self.report.take()
        {
            let late = StartError::NotFounded { waited_s: FOUNDING_S };
            report(if is_founded { Ok(()) } else { Err(late) });
        }
    }

    /// When it is too late, if it is not done.
    pub fn late_ns(&self) -> Option<u64> {
        self.report.is_some().then_some(self.until_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn it_is_reported_once_when_it_is_done_or_too_late() {
        let last_ns = FOUNDING_S * 1_000_000_000;
        for (done_at_ns, is_done) in [(0, true), (5, true), (last_ns, true), (last_ns + 1, false)] {
            let reports: Rc<Cell<Vec<bool>>> = Rc::default();
            let theirs = Rc::clone(&reports);
            let mut founding = Founding::new(
                move |founded| {
                    assert!(matches!(founded, Ok(()) | Err(StartError::NotFounded { .. })));
                    let mut all = theirs.take();
                    all.push(founded.is_ok());
                    theirs.set(all);
                },
                0,
            );
            for now_ns in [0, 5, last_ns, last_ns + 1, last_ns + 2] {
                let before = founding.late_ns().is_some();
                founding.look(now_ns, || now_ns >= done_at_ns);
                let is_over = now_ns >= done_at_ns.min(last_ns);
                assert_eq!(founding.late_ns().is_none(), is_over, "at {now_ns}, and before {before}");
            }
            assert_eq!(reports.take(), [is_done]);
        }
    }
}
