//! What the machine, or the part of it that this process may use, has.

use corduroy_shards::runtime::cpuset::CgroupLimits;

use super::value::Bytes;

/// The memory there is, and who has it: the machine, or the cgroup where that has less.
#[must_use]
pub fn memory() -> (Bytes, &'static str) {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram as u64 * u64::from(machine.mem_unit);
    match CgroupLimits::of_this_process().memory_bytes {
        Some(limit) if limit < machine => (Bytes(limit), "the cgroup"),
        _ => (Bytes(machine), "the machine"),
    }
}
