//! Sets of CPUs: the notation "0-3,8", what the process may run on, and what its cgroup allows.
//!
//! Invariant: the numbers are sorted and none is there twice.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The largest CPU number that is believed; the kernel's own limit is 8192.
const MAX_CPU: usize = 8191;

/// A set of CPU numbers, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(Vec<usize>);

/// Why a CPU list could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CpuSetError {
    /// Nothing between two commas, or nothing at all.
    #[error("an empty item in the CPU list; write it like 0-3,8")]
    Empty,
    /// Not a number, or too large.
    #[error("`{0}` is not a CPU number (0 to {MAX_CPU}); write the list like 0-3,8")]
    Number(String),
    /// `7-3`.
    #[error("the range {0}-{1} runs backwards")]
    Backwards(usize, usize),
}

impl CpuSet {
    /// The set of these numbers.
    #[must_use]
    pub fn new(cpus: impl IntoIterator<Item = usize>) -> Self {
        let mut cpus: Vec<usize> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        Self(cpus)
    }

    /// The CPUs that this thread may run on now.
    ///
    /// # Errors
    /// What the system says.
    pub fn of_this_thread() -> std::io::Result<Self> {
        let set = rustix::thread::sched_getaffinity(None)?;
        Ok(Self::new((0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu))))
    }

    /// The numbers, ascending.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    #[must_use]
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// Those of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().copied().filter(|&cpu| !other.contains(cpu)).collect())
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self(self.0.iter().copied().take(count).collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let number = |text: &str| {
            let text = text.trim();
            text.parse::<usize>()
                .ok()
                .filter(|&cpu| cpu <= MAX_CPU)
                .ok_or_else(|| CpuSetError::Number(text.to_owned()))
        };
        let mut cpus = Vec::new();
        for item in text.trim().split(',') {
            if item.trim().is_empty() {
                return Err(CpuSetError::Empty);
            }
            if let Some((from, to)) = item.split_once('-') {
                let (from, to) = (number(from)?, number(to)?);
                if from > to {
                    return Err(CpuSetError::Backwards(from, to));
                }
                cpus.extend(from..=to);
            } else {
                cpus.push(number(item)?);
            }
        }
        Ok(Self::new(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut rest = self.0.iter().copied().peekable();
        while let Some(from) = rest.next() {
            let mut to = from;
            while let Some(next) = rest.next_if_eq(&(to + 1)) {
                to = next;
            }
            if !first {
                f.write_str(",")?;
            }
            first = false;
            match to - from {
                0 => write!(f, "{from}")?,
                1 => write!(f, "{from},{to}")?,
                _ => write!(f, "{from}-{to}")?,
            }
        }
        Ok(())
    }
}

/// What the cgroup of a process allows. `None`: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CgroupLimits {
    /// `cpu.max` as whole CPUs, rounded up.
    pub cpus: Option<usize>,
    /// `memory.max`, bytes.
    pub memory_bytes: Option<u64>,
}

impl CgroupLimits {
    /// The limits of this process: the tightest of its cgroup and all above it. A system without cgroup v2 has none.
    #[must_use]
    pub fn of_this_process() -> Self {
        let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else { return Self::default() };
        Self::read(Path::new("/sys/fs/cgroup"), &text)
    }

    /// Walks from the cgroup named in `proc_cgroup` (the text of `/proc/self/cgroup`) up to `root`.
    fn read(root: &Path, proc_cgroup: &str) -> Self {
        let mut limits = Self::default();
        let Some(path) = proc_cgroup.lines().find_map(|line| line.strip_prefix("0::")) else { return limits };
        let mut at = Some(Path::new(path.trim_start_matches('/')));
        while let Some(here) = at {
            let folder = root.join(here);
            if let Ok(text) = std::fs::read_to_string(folder.join("cpu.max")) {
                limits.cpus = tighter(limits.cpus, parse_cpu_max(&text));
            }
            if let Ok(text) = std::fs::read_to_string(folder.join("memory.max")) {
                limits.memory_bytes = tighter(limits.memory_bytes, text.trim().parse().ok());
            }
            at = here.parent();
        }
        limits
    }
}

/// The smaller of two limits, where there are any.
fn tighter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// `cpu.max`: "quota period" or "max period".
fn parse_cpu_max(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let quota: u64 = words.next()?.parse().ok()?;
    let period: u64 = words.next()?.parse().ok()?;
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, cpus, shown) in [
            ("0", vec![0], "0"),
            ("0-3,8", vec![0, 1, 2, 3, 8], "0-3,8"),
            (" 8 , 0-1 ", vec![0, 1, 8], "0,1,8"),
            ("3,3,2-4", vec![2, 3, 4], "2-4"),
        ] {
            let set: CpuSet = text.parse().expect(text);
            assert_eq!(set.cpus(), cpus.as_slice(), "{text}");
            assert_eq!(set.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<CpuSet>(), Ok(set));
        }
    }

    #[test]
    fn bad_lists_are_refused() {
        assert_eq!("".parse::<CpuSet>(), Err(CpuSetError::Empty));
        assert_eq!("1,,2".parse::<CpuSet>(), Err(CpuSetError::Empty));
        assert_eq!("3-1".parse::<CpuSet>(), Err(CpuSetError::Backwards(3, 1)));
        assert_eq!("a".parse::<CpuSet>(), Err(CpuSetError::Number("a".into())));
        assert_eq!("-1".parse::<CpuSet>(), Err(CpuSetError::Number(String::new())));
        assert_eq!("0-99999".parse::<CpuSet>(), Err(CpuSetError::Number("99999".into())));
    }

    #[test]
    fn this_thread_may_run_somewhere() {
        assert!(!CpuSet::of_this_thread().expect("affinity").is_empty());
    }

    #[test]
    fn the_tightest_cgroup_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().expect("tempdir");
        let inner = root.path().join("outer/inner");
        std::fs::create_dir_all(&inner).expect("folders");
        std::fs::write(root.path().join("outer/cpu.max"), "150000 100000\n").expect("write");
        std::fs::write(inner.join("cpu.max"), "max 100000\n").expect("write");
        std::fs::write(root.path().join("outer/memory.max"), "4096\n").expect("write");
        std::fs::write(inner.join("memory.max"), "8192\n").expect("write");
        let limits = CgroupLimits::read(root.path(), "0::/outer/inner\n");
        assert_eq!(limits, CgroupLimits { cpus: Some(2), memory_bytes: Some(4096) });
        assert_eq!(CgroupLimits::read(root.path(), "1:cpu:/x\n"), CgroupLimits::default());
    }
}
