//! A real PostgreSQL in a folder of its own, on a free loopback port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Output,
};

use crate::{
    ports,
    process::{Process, Program, is_root, postgres_programs},
    scratch::Scratch,
    wait,
};

/// The superuser that a test uses to look behind the scenes.
pub const SUPERUSER: &str = "admin";

/// A running server with a database `orders`.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    address: SocketAddr,
    password: String,
    scratch: Scratch,
}

impl Postgres {
    /// Starts a server. Every client needs a password over TCP.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = Scratch::new("postgres");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let password = format!("{:032x}", rand::random::<u128>());
        // PostgreSQL refuses to run as root.
        if let Some(server_user) = server_user() {
            let user = nix::unistd::User::from_name(server_user).unwrap().expect("the package's user");
            nix::unistd::chown(scratch.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let password_file = scratch.join("password");
        std::fs::write(&password_file, &password).unwrap();
        let mut server = Self { process: None, address, password, scratch };
        server
            .program("initdb")
            .args(["--no-sync", "--username", SUPERUSER, "--auth-local=trust", "--auth-host=scram-sha-256"])
            .args(["--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("-D")
            .arg(server.data())
            .succeed();
        let mut process = server
            .program("postgres")
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"])
            .arg("-c")
            .arg(format!("port={}", address.port()))
            .arg("-k")
            .arg(server.scratch.path())
            .arg("-D")
            .arg(server.data())
            .start();
        let ask = || server.psql_at(address, SUPERUSER, &server.password, "postgres", "select 1").output();
        process.wait_until_up(|| ask().status.success());
        server.process = Some(process);
        let _ = server
            .psql_at(address, SUPERUSER, &server.password, "postgres", "create database orders")
            .succeed();
        server
    }

    fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    fn program(&self, name: &str) -> Program {
        let program = Program::new(postgres_programs().join(name)).folder(self.scratch.path());
        match server_user() {
            Some(user) => program.as_user(user),
            None => program,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Puts lines at the head of `pg_hba.conf`, and has them read.
    ///
    /// # Panics
    /// When the server does not take them.
    pub fn admit(&self, lines: &[&str]) {
        let file = self.data().join("pg_hba.conf");
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, lines.join("\n") + "\n" + &before).unwrap();
        let errors = self.query("select count(error) from pg_hba_file_rules");
        assert_eq!(errors, "0", "{lines:?}");
        let _ = self.query("select pg_reload_conf()");
    }

    /// Has it speak TLS, with a certificate for this name, and returns the file of the authority that signed
    /// that.
    ///
    /// # Panics
    /// When it does not.
    pub fn with_tls(&self, name: &str) -> PathBuf {
        self.with_tls_of(name, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same, with a key and a signature of this algorithm.
    ///
    /// # Panics
    /// When it does not.
    pub fn with_tls_of(&self, name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> PathBuf {
        let signing_key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let cert =
            rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&signing_key).unwrap();
        let made = rcgen::CertifiedKey { cert, signing_key };
        let (certificate, key) = (self.scratch.join("server.crt"), self.scratch.join("server.key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(server_user) = server_user() {
            let user = nix::unistd::User::from_name(server_user).unwrap().expect("the package's user");
            nix::unistd::chown(&key, Some(user.uid), Some(user.gid)).unwrap();
        }
        for (setting, value) in [("ssl_cert_file", &certificate), ("ssl_key_file", &key)] {
            let _ = self.query(&format!("alter system set {setting} = '{}'", value.display()));
        }
        let _ = self.query("alter system set ssl = on");
        let _ = self.query("select pg_reload_conf()");
        wait::until_true("PostgreSQL with TLS", wait::START, || self.query("show ssl") == "on");
        certificate
    }

    /// Runs a statement as the superuser in `orders`, without any tunnel, and returns the rows.
    ///
    /// # Panics
    /// When the statement fails.
    pub fn query(&self, statement: &str) -> String {
        let rows = self.psql_at(self.address, SUPERUSER, &self.password, "orders", statement).succeed();
        rows.trim().to_owned()
    }

    /// `psql` through any address.
    #[must_use]
    pub fn psql_at(
        &self,
        address: SocketAddr,
        user: &str,
        password: &str,
        database: &str,
        statement: &str,
    ) -> Program {
        Program::new(postgres_programs().join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .env("PGHOST", address.ip().to_string())
            .env("PGPORT", address.port().to_string())
            .env("PGUSER", user)
            .env("PGPASSWORD", password)
            .env("PGDATABASE", database)
            .env("PGCONNECT_TIMEOUT", "60")
    }

    /// `pgbench` as the superuser, through any address.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    #[must_use]
    pub fn pgbench_at(&self, address: SocketAddr, words: &[&str]) -> Output {
        Program::new(postgres_programs().join("pgbench"))
            .args(words)
            .env("PGHOST", address.ip().to_string())
            .env("PGPORT", address.port().to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", "orders")
            .output()
    }

    /// The login roles that were made, apart from the superuser.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        let rows = self
            .query("select rolname from pg_roles where rolcanlogin and rolname <> current_user order by 1");
        rows.lines().map(str::to_owned).collect()
    }
}

/// Who runs the server, when the tests run as root.
fn server_user() -> Option<&'static str> {
    is_root().then_some("postgres")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_and_wants_a_password() {
        let postgres = Postgres::start();
        assert_eq!(postgres.query("select current_user"), SUPERUSER);
        assert!(postgres.roles().is_empty());
        let wrong = postgres.psql_at(postgres.address(), SUPERUSER, "wrong", "orders", "select 1").output();
        assert!(!wrong.status.success());
    }
}
