//! A stock OpenSSH server on a free loopback port: the oracle for what a bastion should admit, and a peer for
//! our client.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use crate::{
    forge,
    key::Key,
    ports,
    process::{Process, Program, installed, is_root, user},
    scratch::Scratch,
};

/// What to start.
#[derive(Debug)]
pub struct Setup {
    listen: IpAddr,
    authorities: Vec<String>,
    host_key: Key,
    host_certificate: Option<Vec<u8>>,
    more: String,
}

/// A running server.
#[derive(Debug)]
pub struct Sshd {
    process: Process,
    address: SocketAddr,
    host_key: Key,
    /// The server's configuration and keys.
    scratch: Scratch,
}

impl Setup {
    /// A server that trusts no key yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            authorities: Vec::new(),
            host_key: Key::ed25519(),
            host_certificate: None,
            more: String::new(),
        }
    }

    /// Listens on another address of this machine than that of the loopback interface.
    #[must_use]
    pub fn listen(self, address: IpAddr) -> Self {
        Self { listen: address, ..self }
    }

    /// Presents this host key instead of a new one.
    #[must_use]
    pub fn host_key(self, key: Key) -> Self {
        Self { host_key: key, ..self }
    }

    /// Trusts the certificates of an authority.
    #[must_use]
    pub fn trust(self, authority: &Key) -> Self {
        self.trust_line(&authority.public_line())
    }

    /// [`Setup::trust`], by the authority's public key as one line.
    #[must_use]
    pub fn trust_line(mut self, line: &str) -> Self {
        self.authorities.push(line.trim().to_owned());
        self
    }

    /// Presents a host certificate for `name`, signed by `authority`.
    #[must_use]
    pub fn certify(mut self, authority: &Key, name: &str) -> Self {
        self.host_certificate = Some(forge::Forge::host(&self.host_key, name).sign(authority));
        self
    }

    /// One more line of `sshd_config`; sshd takes the first of two that say the same.
    #[must_use]
    pub fn option(mut self, line: &str) -> Self {
        writeln!(self.more, "{line}").unwrap();
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(self) -> Sshd {
        let scratch = Scratch::new("sshd");
        let address = SocketAddr::from((self.listen, ports::free()));
        let host_key = scratch.write("host_key", self.host_key.private_pem());
        let authorities = scratch.write("authorities", self.authorities.join("\n") + "\n");
        let mut config = self.more;
        // The first word on a matter holds, so what a test asked for stands before our defaults.
        write!(
            config,
            "ListenAddress {address}\n\
             HostKey {host_key}\n\
             TrustedUserCAKeys {authorities}\n\
             PidFile none\n\
             AuthorizedKeysFile none\n\
             StrictModes no\n\
             UsePAM no\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n\
             AllowTcpForwarding yes\n\
             MaxAuthTries 100\n\
             MaxStartups 1000\n\
             LogLevel VERBOSE\n",
            host_key = host_key.display(),
            authorities = authorities.display(),
        )
        .unwrap();
        if let Some(certificate) = &self.host_certificate {
            let path = scratch.write("host_key-cert.pub", forge::line(certificate));
            writeln!(config, "HostCertificate {}", path.display()).unwrap();
        }
        scratch.write("sshd_config", config);
        if is_root() {
            // Its service would have made it.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        Sshd { process: run(address, &scratch), address, host_key: self.host_key, scratch }
    }
}

fn run(address: SocketAddr, scratch: &Scratch) -> Process {
    let mut process = Program::new(sshd()).args(["-D", "-e", "-f"]).arg(scratch.join("sshd_config")).start();
    process.wait_until_up(|| ports::answers(address));
    process
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Sshd {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Starts it at the same address, with the same keys, once it has ended.
    pub fn start_again(&mut self) {
        self.process = run(self.address, &self.scratch);
    }

    /// The process id of the server that listens; each connection has a child of it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The only name that can log in: that of the user who runs the tests.
    #[must_use]
    pub fn login(&self) -> String {
        user()
    }

    /// Its host key.
    #[must_use]
    pub fn host_key(&self) -> &Key {
        &self.host_key
    }

    /// What it logged until now.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}

/// sshd insists on being called by its full path.
fn sshd() -> PathBuf {
    installed("sshd")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forge::Forge,
        rogue::{Attempt, Client},
        target::Target,
    };

    #[test]
    fn an_honest_rogue_gets_in_and_forwards() {
        let (authority, key) = (Key::ed25519(), Key::ed25519());
        let sshd = Setup::new().trust(&authority).start();
        let target = Target::echo();
        let certificate = Forge::user(&key, &sshd.login()).sign(&authority);
        let mut client = Client::login(sshd.address(), &sshd.login(), &key, certificate);
        let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
        client.write(channel, b"hello").unwrap();
        assert_eq!(client.read(channel, 5).unwrap(), b"hello");
        client.packets.exchange_keys(&crate::rogue::Algorithms::default()).unwrap();
        client.write(channel, b"again").unwrap();
        assert_eq!(client.read(channel, 5).unwrap(), b"again");
        let refused = client.forward("127.0.0.1", ports::free().into()).unwrap().unwrap_err();
        assert_eq!(refused.reason, 2, "{refused:?}");
        assert!(!client.global_request("no-such-request@example.com", b"").unwrap());
    }

    #[test]
    fn a_dishonest_rogue_is_refused() {
        let (authority, key) = (Key::ed25519(), Key::ed25519());
        let sshd = Setup::new().trust(&authority).start();
        let certificate = Forge::user(&key, "another-user").sign(&authority);
        let mut client = Client::connect(sshd.address()).unwrap();
        let honest = Attempt::certificate(sshd.login(), &key, certificate);
        assert!(!client.attempt(&honest).accepted);
        let flipped = Forge::user(&key, &sshd.login()).sign(&authority);
        let attempt = Attempt::certificate(sshd.login(), &key, flipped).with(|attempt| attempt.flip = true);
        let verdict = client.attempt(&attempt);
        assert!(!verdict.accepted && verdict.gone.is_none(), "{verdict:?}");
        assert!(sshd.log().contains("another-user") || sshd.log().contains("principal"), "{}", sshd.log());
    }
}
