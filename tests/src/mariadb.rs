//! A real MariaDB in a folder of its own, on a free loopback port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use crate::{
    ports,
    process::{Process, Program, installed, is_root},
    scratch::Scratch,
};

/// A running server with a database `orders`, and with TLS under a certificate for `localhost`.
#[derive(Debug)]
pub struct MariaDb {
    process: Option<Process>,
    address: SocketAddr,
    scratch: Scratch,
}

impl MariaDb {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = Scratch::new("mariadb");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = scratch.write("server.crt", made.cert.pem());
        let key = scratch.write("server.key", made.signing_key.serialize_pem());
        // MariaDB refuses to run as root.
        if is_root() {
            let user = nix::unistd::User::from_name("mysql").unwrap().expect("the package's user");
            for path in [scratch.path(), &certificate, &key] {
                nix::unistd::chown(path, Some(user.uid), Some(user.gid)).unwrap();
            }
        }
        let mut server = Self { process: None, address, scratch };
        // Temporary tables are in the server's own folder too: one that starts removes those of the others.
        server
            .program("mariadb-install-db")
            .arg("--no-defaults")
            .arg(format!("--datadir={}", server.scratch.join("data").display()))
            .arg(format!("--tmpdir={}", server.scratch.path().display()))
            // Forced, where this machine's name does not resolve.
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--force", "--verbose"])
            .succeed();
        let mut process = server
            .program("mariadbd")
            .arg("--no-defaults")
            .arg(format!("--datadir={}", server.scratch.join("data").display()))
            .arg(format!("--tmpdir={}", server.scratch.path().display()))
            .arg(format!("--socket={}", server.socket().display()))
            .arg(format!("--pid-file={}", server.scratch.join("pid").display()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--ssl-cert={}", certificate.display()))
            .arg(format!("--ssl-key={}", key.display()))
            .args(["--bind-address=127.0.0.1", "--plugin-load-add=auth_ed25519", "--skip-log-bin"])
            // The attributes of connections are there.
            .arg("--performance-schema=on")
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"])
            .start();
        process.wait_until_up(|| server.root("select 1").output().status.success());
        server.process = Some(process);
        let _ = server.query("create database orders");
        server
    }

    fn program(&self, name: &str) -> Program {
        let program = Program::new(installed(name)).folder(self.scratch.path());
        if is_root() { program.as_user("mysql") } else { program }
    }

    fn socket(&self) -> PathBuf {
        self.scratch.join("socket")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority of its certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.scratch.join("server.crt")
    }

    fn root(&self, statement: &str) -> Program {
        Program::new(installed("mariadb"))
            .args(["--no-defaults", "--batch", "--skip-column-names", "--user=root"])
            .arg(format!("--socket={}", self.socket().display()))
            .args(["--execute", statement])
    }

    /// Runs a statement as the superuser, over the server's socket.
    ///
    /// # Panics
    /// When the statement fails.
    pub fn query(&self, statement: &str) -> String {
        self.root(statement).succeed().trim().to_owned()
    }

    /// MariaDB's own client, at any address.
    #[must_use]
    pub fn client(address: SocketAddr, words: &[&str], statement: &str) -> Program {
        Program::new(installed("mariadb"))
            .args(["--no-defaults", "--batch", "--skip-column-names", "--protocol=tcp"])
            .arg(format!("--host={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .args(words)
            .args(["--execute", statement])
    }
}
