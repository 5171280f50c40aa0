//! Memory: how much of it a process takes, and a limit that the kernel holds it to, as that of a pod.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A control group with a limit of memory; removed when dropped, which its process must not outlive.
#[derive(Debug)]
pub struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// Puts a process under a limit of so many bytes. None where this user, or this machine, cannot.
    #[must_use]
    pub fn on(process: u32, bytes: u64) -> Option<Self> {
        let mounted = Path::new("/sys/fs/cgroup");
        let name = format!("tunnel-memory-{process}");
        let (folder, limit) = if mounted.join("cgroup.controllers").exists() {
            let _ = fs::write(mounted.join("cgroup.subtree_control"), "+memory");
            (mounted.join(name), "memory.max")
        } else {
            (mounted.join("memory").join(name), "memory.limit_in_bytes")
        };
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        fs::write(group.0.join("cgroup.procs"), process.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Fails only while a process is in it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The most memory that a process ever had, in KiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
