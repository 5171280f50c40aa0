//! A network of the benchmark's own, in which the congestion control of TCP is pinned.
//!
//! A machine's default may be any, and two of them differ by more than what is measured. The kernel lets a
//! network namespace choose for all connections of a route what a socket would have to ask for by itself, and
//! OpenSSH's do not ask.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use harness::process::is_root;
use serde::Serialize;
use socket2::SockRef;

/// What is measured with, where the kernel has it.
const WANTED: &str = "cubic";

/// The congestion control of all connections.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Congestion {
    /// As a connection says it.
    pub(crate) name: String,
    /// Whether it was chosen, and is not the machine's default.
    pub(crate) pinned: bool,
}

/// Becomes this program in a network namespace, unless it is that already or the machine does not let it.
pub(crate) fn enter(inside: bool) -> Result<()> {
    if inside {
        return run("ip", &["link", "set", "lo", "up"]);
    }
    let mut words = vec!["--net"];
    if !is_root() {
        // Its own namespace of users too, in which it may set up the network, and is who it was.
        words.extend(["--user", "--map-current-user", "--keep-caps"]);
    }
    words.push("--");
    let mut probe = Command::new("unshare");
    probe.args(&words).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        eprintln!("note: no network namespace can be made here, so the congestion control is the machine's");
        return Ok(());
    }
    let mut again = Command::new("unshare");
    again.args(&words).arg(std::env::current_exe()?).arg("--inside").args(std::env::args_os().skip(1));
    Err(again.exec()).context("cannot enter a network namespace")
}

/// Pins it for the loopback address, and says what came of it.
pub(crate) fn pin() -> Result<Congestion> {
    let route = ["route", "change", "local", "127.0.0.1", "dev", "lo", "table", "local"];
    let stays = ["proto", "kernel", "scope", "host", "src", "127.0.0.1"];
    let words: Vec<_> = route.iter().chain(&stays).chain(&["congctl", WANTED]).copied().collect();
    // In the machine's own network nothing is changed: it has other users.
    let in_own_network = std::env::args().any(|word| word == "--inside");
    let pinned = in_own_network && run("ip", &words).is_ok();
    let name = in_use()?;
    Ok(Congestion { pinned: pinned && name == WANTED, name })
}

/// What a connection over the loopback interface has.
fn in_use() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let name = SockRef::from(&stream).tcp_congestion()?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output =
        Command::new(program).args(words).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {}: {}", words.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_says_what_it_has() {
        let name = in_use().unwrap();
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric()), "{name:?}");
    }
}
