//! Runs a test in a network and with files of its own, where it may add addresses and replace
//! `/etc/resolv.conf` for itself alone.

use std::{path::Path, process::Command};

use crate::process::{Program, installed, is_root};

/// Set for the process in which the test runs again.
const INSIDE: &str = "TESTS_INSIDE";

/// Runs the test of this name again, in a process that has a network with nothing but the loopback interface,
/// and mounts of its own; or, there, runs `body`. Who is not root becomes it there.
///
/// # Panics
/// When it fails there, or the system makes no namespaces.
pub fn inside(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        ip(&["link", "set", "lo", "up"]);
        return body();
    }
    let as_root: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    Program::new(installed("unshare"))
        .args(as_root)
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "yes")
        .succeed();
}

/// `ip(8)`.
///
/// # Panics
/// When it does not do it.
pub fn ip(words: &[&str]) {
    run(Command::new(installed("ip")).args(words));
}

/// Puts a file of the test in the place of one of the system's.
///
/// # Panics
/// When it cannot be put there.
pub fn put(file: &Path, place: &str) {
    run(Command::new(installed("mount")).arg("--bind").arg(file).arg(place));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
