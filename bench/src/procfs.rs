//! What `/proc` says: processor time, memory and descriptors of a tree of processes, and how busy the machine is.
//!
//! A socat that forks looks free unless its dead children are counted, and ticks of 10 ms are coarse for rounds of 250 ms:
//! so living threads are read from `schedstat` (nanoseconds), ended children from the times their parent reaped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Of `utime` and its like. Linux shows them in 100ths of a second on every architecture that this runs on.
const TICK_NS: u64 = 10_000_000;

/// A line of `/proc/PID/stat`, as far as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The parent's id.
    pub(crate) parent: u32,
    /// Own time in user space and kernel, in ns.
    pub(crate) own_ns: u64,
    /// That of children that were waited for, in ns.
    pub(crate) reaped_ns: u64,
}

/// Reads such a line. The name in it is in brackets and may hold anything, brackets and spaces too.
pub(crate) fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // Fields are counted from 1 with the id; the first behind the name is the third.
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ns: (number(11)? + number(12)?) * TICK_NS,
        reaped_ns: (number(13)? + number(14)?) * TICK_NS,
    })
}

/// The first number of a `schedstat`: time on a processor, in ns.
pub(crate) fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// A value in kB of `smaps_rollup`, `status` and `meminfo`, in bytes.
pub(crate) fn parse_kb(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Busy and all ticks since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    busy: u64,
    all: u64,
}

/// The first line of `/proc/stat`.
pub(crate) fn parse_machine(text: &str) -> Option<Machine> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // Guests' time is in that of the user already: eight fields count, the fourth and fifth of them are idle.
    let all = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some(Machine { busy: all - idle, all })
}

impl Machine {
    /// Now.
    pub(crate) fn now() -> Option<Machine> {
        parse_machine(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The share of the machine that was busy since `earlier`, from 0 to 1.
    pub(crate) fn busy_since(self, earlier: Machine) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 / all as f64
    }
}

/// The load average of the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// The processes of `roots` and all below them that live.
pub(crate) fn tree(roots: &[u32]) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for id in numbers(Path::new("/proc")) {
        if let Some(stat) = stat(id) {
            parents.insert(id, stat.parent);
        }
    }
    let mut found: Vec<u32> = roots.iter().copied().filter(|root| parents.contains_key(root)).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(id, _)| *id));
        next += 1;
    }
    found
}

/// Processor time of the tree so far, in ns: every living thread, and every child that was reaped.
pub(crate) fn cpu_ns(roots: &[u32]) -> u64 {
    tree(roots).into_iter().map(process_cpu_ns).sum()
}

fn process_cpu_ns(id: u32) -> u64 {
    let Some(stat) = stat(id) else { return 0 };
    let tasks = format!("/proc/{id}/task");
    let threads = numbers(Path::new(&tasks)).into_iter();
    let living: u64 = threads
        .filter_map(|thread| parse_schedstat(&fs::read_to_string(format!("{tasks}/{thread}/schedstat")).ok()?))
        .sum();
    // Threads that have ended are in the process's own time only, and so is everything where there is no schedstat.
    living.max(stat.own_ns) + stat.reaped_ns
}

/// Memory of the tree in bytes: resident, pages that several processes share counted once (their proportional share).
pub(crate) fn memory(roots: &[u32]) -> u64 {
    tree(roots).into_iter().filter_map(process_memory).sum()
}

fn process_memory(id: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok();
    let shared = rollup.and_then(|text| parse_kb(&text, "Pss"));
    shared.or_else(|| parse_kb(&fs::read_to_string(format!("/proc/{id}/status")).ok()?, "VmRSS"))
}

/// Open descriptors of the tree.
pub(crate) fn descriptors(roots: &[u32]) -> usize {
    tree(roots).into_iter().map(|id| numbers(Path::new(&format!("/proc/{id}/fd"))).len()).sum()
}

/// Whether something traces the process, or it is no more.
pub(crate) fn is_traced_or_gone(id: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{id}/status")) else { return true };
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

fn stat(id: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

fn numbers(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "307 (a) b (c) S 305 305 24381 0 -1 4194304 93 0 1 0 26 4 700 30 20 0 1 0 1222494 2654208 373";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat, Stat { parent: 305, own_ns: 300_000_000, reaped_ns: 7_300_000_000 });
        assert_eq!(parse_stat("307 (cut) S 305"), None);
    }

    #[test]
    fn schedstat_begins_with_the_time_on_a_processor() {
        assert_eq!(parse_schedstat("268353722 4203410 26\n"), Some(268_353_722));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn kilobytes_are_found_by_their_whole_key() {
        let text = "Rss:                1812 kB\nPss_Dirty:           100 kB\nPss:                 512 kB\n";
        assert_eq!(parse_kb(text, "Pss"), Some(512 * 1024));
        assert_eq!(parse_kb(text, "Shared"), None);
    }

    #[test]
    fn the_machines_busy_share_leaves_waiting_out_and_guests_in_once() {
        let before = parse_machine("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n").unwrap();
        let after = parse_machine("cpu  150 0 130 790 110 10 10 0 90 0\n").unwrap();
        assert_eq!(before, Machine { busy: 200, all: 1000 });
        assert!((after.busy_since(before) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn own_processor_time_grows_with_work_and_the_tree_holds_children() {
        let own = std::process::id();
        let before = cpu_ns(&[own]);
        let mut sum = 0_u64;
        while cpu_ns(&[own]) < before + 20_000_000 {
            sum = sum.wrapping_add((0..100_000_u64).fold(0, |a, b| a ^ b.wrapping_mul(sum | 1)));
        }
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tree = tree(&[own]);
        let shared = memory(&[child.id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(tree.contains(&own) && tree.contains(&child.id()), "{tree:?}");
        assert!(shared > 0);
        assert!(memory(&[own]) > shared && descriptors(&[own]) > 0);
    }
}
