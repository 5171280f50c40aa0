//! A real Redis on a free loopback port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use crate::{
    ports,
    process::{Process, Program, installed},
    scratch::Scratch,
};

/// The user of its ACL who may log in, who may do everything.
pub const USER: &str = "v-lease";

/// A running server. A client that does not log in may do nothing.
#[derive(Debug)]
pub struct Redis {
    _process: Process,
    address: SocketAddr,
    tls_address: SocketAddr,
    scratch: Scratch,
}

impl Redis {
    /// Starts it, with and without TLS, with this password.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(password: &str) -> Self {
        let scratch = Scratch::new("redis");
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, tls_address) = (local(ports::free()), local(ports::free()));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = scratch.write("server.crt", made.cert.pem());
        let key = scratch.write("server.key", made.signing_key.serialize_pem());
        let (port, tls_port) = (address.port(), tls_address.port());
        let (certificate, key) = (certificate.display(), key.display());
        let settings = scratch.write(
            "redis.conf",
            format!(
                "bind 127.0.0.1\nport {port}\ntls-port {tls_port}\ntls-auth-clients no\n\
                 tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {certificate}\n\
                 save \"\"\nappendonly no\nuser default off\nuser {USER} on >{password} ~* &* +@all\n"
            ),
        );
        let mut process =
            Program::new(installed("redis-server")).arg(settings).folder(scratch.path()).start();
        process.wait_until_up(|| ports::answers(address) && ports::answers(tls_address));
        Self { _process: process, address, tls_address, scratch }
    }

    /// Where it listens without TLS.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with TLS.
    #[must_use]
    pub fn tls_address(&self) -> SocketAddr {
        self.tls_address
    }

    /// The authority of its certificate, which is for `localhost`.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.scratch.join("server.crt")
    }
}

/// `redis-cli` at any address, with these words before the command's.
#[must_use]
pub fn redis_cli(address: SocketAddr, words: &[&str], command: &[&str]) -> Program {
    Program::new(installed("redis-cli"))
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        .args(words)
        .args(command)
}
