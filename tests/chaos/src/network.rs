//! Makes the network of one case: a client's host and a server's, joined by one wire that can be cut.
//!
//! The server's host is the network namespace that the process runs in, which [`crate::isolated`] made; the
//! client's is one more. Nothing outside of them is reached or changed.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use nix::sched::{CloneFlags, setns, unshare};
use tests::process::{Program, installed};

/// The client's address, until it changes.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The address that the client gets when it changes.
pub const CLIENT_LATER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The address to which the server moves when its name does.
pub const SERVER_LATER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// The name of the wire's end, on either host.
pub const WIRE: &str = "wire";

/// Drops whatever arrives by the wire, without a word to its sender.
const BLACK_HOLE: &str = "table inet black_hole { chain arrives { \
    type filter hook prerouting priority raw; iifname wire drop; }; }";

/// A network namespace.
#[derive(Debug)]
pub struct Host {
    namespace: File,
    /// Whether it is that of the whole process: to enter it again would need a privilege.
    here: bool,
}

impl Host {
    /// The one that this process is in.
    #[must_use]
    pub fn here() -> Self {
        Self { namespace: File::open("/proc/self/ns/net").unwrap(), here: true }
    }

    /// A new one, that has nothing but a loopback interface.
    ///
    /// # Panics
    /// When the kernel makes none: that needs root, or a user namespace.
    #[must_use]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let host = Self { namespace: made.join().unwrap(), here: false };
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// The same host, for another thread.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { namespace: self.namespace.try_clone().unwrap(), here: self.here }
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// Runs code whose sockets are this host's. It starts no program: those keep to the namespace of the
    /// thread that first started one.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if self.here {
            return work();
        }
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Has a program run on this host.
    #[must_use]
    pub fn program(&self, program: Program) -> Program {
        let enter = installed("nsenter");
        program.under(&[enter.to_str().unwrap(), &format!("--net={}", self.path()), "--"])
    }

    /// Runs a command of the system on this host, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn command(&self, name: &str, words: &[&str]) -> String {
        let mut command = Command::new(installed("nsenter"));
        command.arg(format!("--net={}", self.path())).arg("--").arg(installed(name)).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `ip(8)`.
    pub fn ip(&self, words: &[&str]) {
        let _ = self.command("ip", words);
    }

    /// Writes a setting of this host's kernel, by its file.
    ///
    /// # Panics
    /// When there is none.
    pub fn set(&self, file: &str, value: &str) {
        let _ = self.command("sysctl", &["-q", "-w", &format!("{file}={value}")]);
    }

    /// `nft(8)`.
    pub fn nft(&self, rules: &str) {
        let _ = self.command("nft", &[rules]);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// Two hosts and the wire between them.
#[derive(Debug)]
pub struct Network {
    /// The laptop.
    pub client: Host,
    /// The bastion, its targets and Vault.
    pub server: Host,
}

impl Network {
    /// Lays the wire.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        let network = Self::of_two_hosts();
        network.lay();
        network
    }

    fn of_two_hosts() -> Self {
        let routes = std::fs::read_to_string("/proc/net/route").unwrap();
        assert!(routes.lines().count() < 2, "this is not a network of its own: {routes}");
        Self { client: Host::new(), server: Host::here() }
    }

    fn lay(&self) {
        self.server.ip(&["link", "set", "lo", "up"]);
        let peer = self.client.path();
        self.server.ip(&["link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", &peer]);
        for (host, address) in [(&self.server, SERVER), (&self.client, CLIENT)] {
            host.ip(&["address", "add", &format!("{address}/24"), "dev", WIRE]);
            host.ip(&["link", "set", WIRE, "up"]);
        }
    }

    /// Has packets vanish, in both directions, from now on.
    pub fn black_hole(&self) -> Instant {
        self.client.nft(BLACK_HOLE);
        self.server.nft(BLACK_HOLE);
        Instant::now()
    }

    /// Has them arrive again.
    pub fn heal(&self) -> Instant {
        self.server.nft("delete table inet black_hole");
        self.client.nft("delete table inet black_hole");
        Instant::now()
    }

    /// Resets the client's connections to a server, as `ss -K` does: both ends learn of it.
    ///
    /// # Panics
    /// When there is none.
    pub fn reset(&self, server: SocketAddr) -> Instant {
        let port = format!(":{}", server.port());
        let words = ["--kill", "--no-header", "--tcp", "dport", "=", &port];
        let killed = self.client.command("ss", &words);
        assert!(!killed.trim().is_empty(), "ss found no connection to {server}");
        Instant::now()
    }

    /// Takes the server's address away, and gives it another.
    pub fn move_server(&self) -> Instant {
        self.server.ip(&["address", "del", &format!("{SERVER}/24"), "dev", WIRE]);
        self.server.ip(&["address", "add", &format!("{SERVER_LATER}/24"), "dev", WIRE]);
        Instant::now()
    }

    /// Takes the client's address away, and gives it another, as another network does.
    pub fn move_client(&self) -> Instant {
        self.client.ip(&["address", "del", &format!("{CLIENT}/24"), "dev", WIRE]);
        self.client.ip(&["address", "add", &format!("{CLIENT_LATER}/24"), "dev", WIRE]);
        Instant::now()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The client's namespace, and the wire with it, would stay for as long as a socket there does.
        let mut delete = Command::new(installed("ip"));
        let _ = delete.args(["link", "del", WIRE]).stderr(Stdio::null()).status();
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}
