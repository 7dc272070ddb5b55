//! A control group of a test's own, in either version of the kernel's interface; gone when dropped.

use crate::wait;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Memory, in bytes.
    Memory(u64),
    /// Processor time, in hundredths of a core.
    Processor(u64),
    /// Processes and threads.
    Tasks(u64),
}

/// A group with one limit.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// A group that none is in yet.
    ///
    /// # Errors
    /// What making it met: no control groups, or no right to make one.
    pub fn new(name: &str, limit: Limit) -> std::io::Result<Group> {
        let name = format!("enclave-bridge-{name}-{}", std::process::id());
        let (controller, older, newer) = match limit {
            Limit::Memory(bytes) => {
                ("memory", ("memory.limit_in_bytes", bytes.to_string()), ("memory.max", bytes.to_string()))
            }
            Limit::Processor(share) => (
                "cpu",
                ("cpu.cfs_quota_us", (share * 1000).to_string()),
                ("cpu.max", format!("{} 100000", share * 1000)),
            ),
            Limit::Tasks(most) => ("pids", ("pids.max", most.to_string()), ("pids.max", most.to_string())),
        };
        let root = Path::new("/sys/fs/cgroup");
        let (folder, (file, value)) = if root.join("cgroup.controllers").exists() {
            // It may be there already.
            let _ = std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
            (root.join(name), newer)
        } else {
            (root.join(controller).join(name), older)
        };
        std::fs::create_dir(&folder)?;
        let group = Group(folder);
        std::fs::write(group.0.join(file), value)?;
        Ok(group)
    }

    /// The words of a shell by which a process enters it.
    #[must_use]
    pub fn enter(&self) -> String {
        format!("echo $$ >{}", self.0.join("cgroup.procs").display())
    }

    /// Processes that were killed for want of memory.
    #[must_use]
    pub fn killed(&self) -> u64 {
        let told = ["memory.oom_control", "memory.events"]
            .iter()
            .find_map(|file| std::fs::read_to_string(self.0.join(file)).ok());
        let told = told.expect("a group of memory");
        let killed = told.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        killed.expect("a count of those that were killed")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            wait::until("an empty group", Duration::from_secs(10), || std::fs::remove_dir(&self.0).is_ok());
        }
    }
}
