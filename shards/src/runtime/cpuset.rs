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

    /// Has this thread run on these CPUs only.
    ///
    /// # Errors
    /// What the system says: none of them is there, or a filter forbids the call.
    pub fn pin_this_thread(&self) -> std::io::Result<()> {
        let mut set = rustix::thread::CpuSet::new();
        for &cpu in self.0.iter().filter(|&&cpu| cpu < rustix::thread::CpuSet::MAX_CPU) {
            set.set(cpu);
        }
        Ok(rustix::thread::sched_setaffinity(None, &set)?)
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

/// Version 1 writes "no limit" as the largest number of whole pages.
const NO_V1_LIMIT_BYTES: u64 = 1 << 62;

/// What the cgroup of a process allows. `None`: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CgroupLimits {
    /// `cpu.max` (`cpu.cfs_quota_us` in version 1) as whole CPUs, rounded up.
    pub cpus: Option<usize>,
    /// `memory.max` (`memory.limit_in_bytes` in version 1), bytes.
    pub memory_bytes: Option<u64>,
}

impl CgroupLimits {
    /// The limits of this process: the tightest of its cgroups and all above them, of either version of cgroups.
    #[must_use]
    pub fn of_this_process() -> Self {
        let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else { return Self::default() };
        Self::read(Path::new("/sys/fs/cgroup"), &text)
    }

    /// Walks from the cgroups named in `proc_cgroup` (the text of `/proc/self/cgroup`) up to `root`. A container that does
    /// not see where it stands in its host's tree finds its own limits at the root.
    fn read(root: &Path, proc_cgroup: &str) -> Self {
        let mut limits = Self::default();
        for line in proc_cgroup.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                limits.walk(root, path, Self::look_v2);
                // Beside the controllers of version 1, version 2 stands in a folder of its own.
                limits.walk(&root.join("unified"), path, Self::look_v2);
            }
            for controller in controllers.split(',') {
                match controller {
                    "memory" => limits.walk(&root.join("memory"), path, Self::look_v1_memory),
                    "cpu" => {
                        limits.walk(&root.join("cpu"), path, Self::look_v1_cpu);
                        limits.walk(&root.join(controllers), path, Self::look_v1_cpu);
                    }
                    _ => {}
                }
            }
        }
        limits
    }

    /// Looks at a cgroup and all above it.
    fn walk(&mut self, root: &Path, path: &str, look: fn(&mut Self, &Path)) {
        let mut at = Some(Path::new(path.trim_start_matches('/')));
        while let Some(here) = at {
            look(self, &root.join(here));
            at = here.parent();
        }
    }

    fn look_v2(&mut self, folder: &Path) {
        if let Ok(text) = std::fs::read_to_string(folder.join("cpu.max")) {
            self.cpus = tighter(self.cpus, parse_cpu_max(&text));
        }
        if let Ok(text) = std::fs::read_to_string(folder.join("memory.max")) {
            self.memory_bytes = tighter(self.memory_bytes, text.trim().parse().ok());
        }
    }

    fn look_v1_memory(&mut self, folder: &Path) {
        if let Ok(text) = std::fs::read_to_string(folder.join("memory.limit_in_bytes")) {
            let bytes = text.trim().parse().ok().filter(|bytes| *bytes < NO_V1_LIMIT_BYTES);
            self.memory_bytes = tighter(self.memory_bytes, bytes);
        }
    }

    fn look_v1_cpu(&mut self, folder: &Path) {
        let read = |name: &str| std::fs::read_to_string(folder.join(name));
        if let (Ok(quota), Ok(period)) = (read("cpu.cfs_quota_us"), read("cpu.cfs_period_us")) {
            // -1: no quota, which is no number of that kind.
            self.cpus = tighter(self.cpus, parse_cpu_max(&format!("{} {}", quota.trim(), period.trim())));
        }
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

    #[test]
    fn limits_of_version_1_count_as_those_of_version_2() {
        let root = tempfile::tempdir().expect("tempdir");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::fs::write(path, text).expect("write");
        };
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/memory.limit_in_bytes", "268435456\n");
        write("memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n");
        write("cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "250000\n");
        write("cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
        write("cpu,cpuacct/docker/cpu.cfs_quota_us", "-1\n");
        write("cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n");
        let text = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/system\n";
        let limits = CgroupLimits::read(root.path(), text);
        assert_eq!(limits, CgroupLimits { cpus: Some(3), memory_bytes: Some(256 << 20) });
        // What the container cannot see of its host's tree is left out; its own limits stand at the root.
        let inside = CgroupLimits::read(root.path(), "12:memory:/elsewhere\n");
        assert_eq!(inside, CgroupLimits::default());
        write("memory/memory.limit_in_bytes", "536870912\n");
        let inside = CgroupLimits::read(root.path(), "12:memory:/elsewhere\n");
        assert_eq!(inside.memory_bytes, Some(512 << 20));
    }
}
