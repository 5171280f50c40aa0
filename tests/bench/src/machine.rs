//! The machine that was measured on, without which no figure means anything.

use std::{fmt, fs::read_to_string, process::Command, thread::available_parallelism};

use harness::process::{installed, workspace};
use serde::Serialize;

use crate::network::Congestion;

/// What a reader must know of the machine, and of the programs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    date: String,
    commit: String,
    processor: String,
    processors: usize,
    memory_gib: u64,
    kernel: String,
    congestion: Congestion,
    openssh: String,
    iperf3: String,
    rustc: String,
    /// Of the last minute before the first measurement: what else it had to do.
    load: String,
}

impl Machine {
    /// Looks around.
    pub(crate) fn look(congestion: Congestion) -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        let ssh = installed("ssh");
        let iperf3 = installed("iperf3");
        Self {
            date: said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
            commit: said("git", &["-C", &workspace().to_string_lossy(), "describe", "--always", "--dirty"]),
            processor: after(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: available_parallelism().map_or(0, usize::from),
            memory_gib: after(&meminfo, "MemTotal").as_deref().map_or(0, gib),
            kernel: said("uname", &["-sr"]),
            congestion,
            openssh: said(&ssh.to_string_lossy(), &["-V"]),
            iperf3: said(&iperf3.to_string_lossy(), &["--version"]),
            rustc: said("rustc", &["--version"]),
            load: read_to_string("/proc/loadavg")
                .map(|text| text.split(' ').next().unwrap_or_default().to_owned())
                .unwrap_or_default(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, commit, processor, processors, memory_gib, kernel, .. } = self;
        let pinned = if self.congestion.pinned { "pinned" } else { "the machine's default, not pinned" };
        writeln!(f, "{date}, commit {commit}")?;
        writeln!(f, "{processors} × {processor}, {memory_gib} GiB, {kernel}, load {} before", self.load)?;
        writeln!(f, "TCP congestion control: {} ({pinned})", self.congestion.name)?;
        write!(f, "{}; {}; {}", self.openssh, self.iperf3, self.rustc)
    }
}

/// The first line of what a program says of itself, to whichever output.
fn said(program: &str, words: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(words).output() else { return "unknown".to_owned() };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = if out.trim().is_empty() { err } else { out };
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// The value of the first `name: value`.
fn after(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gib(kib: &str) -> u64 {
    kib.trim_end_matches(" kB").parse::<u64>().unwrap_or(0).div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let text = "processor\t: 0\nmodel name\t: Some: Processor\nmodel name\t: Other\n";
        assert_eq!(after(text, "model name").as_deref(), Some("Some: Processor"));
        assert_eq!(after(text, "flags"), None);
        assert_eq!(gib("24689356 kB"), 24);
        assert_eq!(gib("nonsense"), 0);
    }
}
