//! Which CPUs the cores are pinned to, which shards each core owns, and where the disk's interrupts arrive.
//!
//! Invariant: every shard is dealt to exactly one core, and the loads of two cores differ by one shard at most.

use std::fmt;

use super::cpuset::{CgroupLimits, CpuSet};

/// Where the choice of cores comes from; shown at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoresFrom {
    /// `--cores`.
    Setting,
    /// All CPUs that the process may run on.
    Affinity,
    /// Fewer than that, because of the cgroup's CPU quota.
    CgroupQuota,
}

impl fmt::Display for CoresFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setting => "as configured",
            Self::Affinity => "all that the process may use",
            Self::CgroupQuota => "as many as the cgroup's CPU quota covers",
        })
    }
}

/// The cores of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// One core a CPU, in this order.
    pub cpus: CpuSet,
    /// Who said so.
    pub from: CoresFrom,
    /// CPUs beside the cores, for work that may block; empty if the cores take all.
    pub spare: CpuSet,
}

/// The cores asked for cannot be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "CPUs {missing} are not available to this process, which may use {allowed}; change `cores` or the cpuset"
)]
pub struct NotAllowed {
    /// What was asked for in vain.
    pub missing: CpuSet,
    /// What there is.
    pub allowed: CpuSet,
}

impl Topology {
    /// Chooses cores. `wanted` wins over everything; else all of `allowed`, but no more than the cgroup pays for.
    ///
    /// # Errors
    /// [`NotAllowed`] if `wanted` names a CPU outside `allowed`.
    pub fn choose(
        wanted: Option<&CpuSet>,
        allowed: &CpuSet,
        limits: CgroupLimits,
    ) -> Result<Self, NotAllowed> {
        let (cpus, from) = match wanted {
            Some(wanted) => {
                let missing = wanted.without(allowed);
                if !missing.is_empty() {
                    return Err(NotAllowed { missing, allowed: allowed.clone() });
                }
                (wanted.clone(), CoresFrom::Setting)
            }
            None => match limits.cpus {
                Some(quota) if quota < allowed.len() => (allowed.first(quota), CoresFrom::CgroupQuota),
                _ => (allowed.clone(), CoresFrom::Affinity),
            },
        };
        let spare = allowed.without(&cpus);
        Ok(Self { cpus, from, spare })
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cpus.len()
    }
}

/// The CPUs on which interrupts of disks have arrived, from the text of `/proc/interrupts`.
///
/// CPU-heavy work on them delays the completion of flushes, so background work stays off them where it can.
#[must_use]
pub fn disk_interrupt_cpus(proc_interrupts: &str) -> CpuSet {
    let mut lines = proc_interrupts.lines();
    let cpus: Vec<usize> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
        .collect();
    let is_disk = |name: &str| {
        (name.starts_with("virtio") && name.contains("req"))
            || name.starts_with("nvme")
            || name.starts_with("ahci")
    };
    CpuSet::new(lines.filter(|line| line.split_whitespace().any(is_disk)).flat_map(|line| {
        let counts = line.split_whitespace().skip(1);
        cpus.iter()
            .copied()
            .zip(counts)
            .filter(|(_, count)| count.parse::<u64>().is_ok_and(|n| n > 0))
            .map(|(cpu, _)| cpu)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().expect(text)
    }

    #[test]
    fn cores_are_chosen() {
        let none = CgroupLimits::default();
        let all = Topology::choose(None, &set("0-3"), none).expect("cores");
        assert_eq!((all.cpus, all.from, all.spare), (set("0-3"), CoresFrom::Affinity, CpuSet::default()));

        let quota = CgroupLimits { cpus: Some(2), ..none };
        let some = Topology::choose(None, &set("0-3"), quota).expect("cores");
        assert_eq!((some.cpus, some.from, some.spare), (set("0,1"), CoresFrom::CgroupQuota, set("2,3")));

        let mine = Topology::choose(Some(&set("1,3")), &set("0-3"), quota).expect("cores");
        assert_eq!((mine.cpus, mine.from, mine.spare), (set("1,3"), CoresFrom::Setting, set("0,2")));

        let refused =
            Topology::choose(Some(&set("2-5")), &set("0-3"), none).expect_err("4 and 5 are not there");
        assert_eq!(refused.missing, set("4,5"));
    }

    #[test]
    fn disk_interrupts_are_found() {
        let text = "           CPU0       CPU1       \n  1:          9          0   IO-APIC  1-edge  i8042\n \
                    24:          0       5678  PCI-MSIX-0000:00:03.0  1-edge      virtio1-req.0\n \
                    25:         12          0  PCI-MSIX-0000:00:04.0  0-edge      virtio2-input.0\n";
        assert_eq!(disk_interrupt_cpus(text), set("1"));
        assert_eq!(disk_interrupt_cpus(""), CpuSet::default());
    }
}
