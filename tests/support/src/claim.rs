//! Claims names that tests in other processes respect: each test of a run has a process of its own.
//!
//! A claim is an abstract Unix socket (unix(7)) of that name. The kernel gives a name to one process of a
//! network namespace, which is where ports are counted too, and takes it back when that process ends, however
//! it ends.

use std::{
    io::ErrorKind,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::Mutex,
};

/// A name that is this process's until the value is dropped.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

/// Claims a name, unless another claim has it.
///
/// # Panics
/// When the kernel has no such sockets.
#[must_use]
pub fn claim(name: &str) -> Option<Claim> {
    let address = SocketAddr::from_abstract_name(format!("tunnel-suite {name}")).unwrap();
    match UnixListener::bind_addr(&address) {
        Ok(socket) => Some(Claim { _socket: socket }),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => panic!("{name} cannot be claimed: {error}"),
    }
}

/// Claims a name for as long as this process lives; says whether it got it.
///
/// # Panics
/// When the kernel has no such sockets.
#[must_use]
pub fn until_the_end(name: &str) -> bool {
    static KEPT: Mutex<Vec<Claim>> = Mutex::new(Vec::new());
    let claimed = claim(name);
    let got = claimed.is_some();
    KEPT.lock().unwrap().extend(claimed);
    got
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Program;

    #[test]
    fn a_name_has_one_claim_until_that_is_dropped() {
        let name = format!("a test {:x}", rand::random::<u64>());
        let first = claim(&name);
        assert!(first.is_some());
        assert!(claim(&name).is_none());
        drop(first);
        assert!(claim(&name).is_some());
    }

    /// Names the claim that another process has, in the process in which the test runs again.
    const CLAIMED: &str = "CLAIMED_BY_ANOTHER";

    #[test]
    fn another_process_respects_a_claim() {
        if let Ok(name) = std::env::var(CLAIMED) {
            return assert!(claim(&name).is_none(), "two processes have {name}");
        }
        let name = format!("a test {:x}", rand::random::<u64>());
        let kept = claim(&name);
        assert!(kept.is_some());
        let words = ["--exact", "claim::tests::another_process_respects_a_claim"];
        Program::new(std::env::current_exe().unwrap()).args(words).env(CLAIMED, name).succeed();
    }
}
