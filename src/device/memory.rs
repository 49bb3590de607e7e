//! How much memory this process took, and how much it may take.

use std::path::Path;

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The most that was ever resident.
    pub peak: u64,
    /// Resident now and not backed by a file.
    pub anonymous: u64,
}

/// What Linux says of this process; none where it does not.
pub fn usage() -> Option<Usage> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(Usage { peak: kibibytes(&status, "VmHWM:")?, anonymous: kibibytes(&status, "RssAnon:")? })
}

/// What can be taken without swapping: of the machine, or of the control group where that allows less.
pub fn available() -> Option<u64> {
    let machine = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(control_group().map_or(machine, |group| group.min(machine)))
}

/// What is left under the limit of a container, whose cached files do not count: they are dropped when room is needed.
fn control_group() -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let cached: u64 = (read("memory.stat")?.lines())
        .filter_map(|line| line.strip_prefix("active_file ").or(line.strip_prefix("inactive_file ")))
        .filter_map(|bytes| bytes.parse::<u64>().ok())
        .sum();
    let used = number("memory.current")?.saturating_sub(cached);
    Some(number("memory.max")?.saturating_sub(used))
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|n| n << 10)
}

/// For people: GiB, MiB or KiB.
pub fn format_bytes(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib @ 0..1024 => format!("{mib} MiB"),
        _ => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
    }
}
