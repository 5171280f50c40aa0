//! A real OpenBao, in its development mode: unsealed, in memory, on a free loopback port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde_json::{Value, json};

use crate::{
    http, ports,
    postgres::{Postgres, SUPERUSER},
    process::{Process, Program, workspace},
    wait,
};

/// A running server.
#[derive(Debug)]
pub struct OpenBao {
    process: Process,
    address: SocketAddr,
    token: String,
}

impl OpenBao {
    /// Starts a server, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let token = format!("root-{:032x}", rand::random::<u128>());
        let process = Program::new(program())
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={token}"))
            .arg(format!("-dev-listen-address={address}"))
            .start();
        let mut server = Self { process, address, token };
        server.process.wait_until_up(|| health(address) == Some(200));
        server
    }

    /// Its address as `VAULT_ADDR` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token that may do everything.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.token
    }

    /// What it logged until now.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// The status of `/v1/sys/health`: 200 when unsealed, 503 when sealed; `None` when no server answers.
    #[must_use]
    pub fn health(&self) -> Option<u16> {
        health(self.address)
    }

    /// Runs its own command as root, and returns what that printed.
    ///
    /// # Panics
    /// When the command fails.
    pub fn run(&self, words: &[&str]) -> String {
        self.command(words).succeed()
    }

    /// Its own command as root, not yet started.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Program {
        Program::new(program()).args(words).env("BAO_ADDR", self.url()).env("BAO_TOKEN", &self.token)
    }

    /// `vault-signer` as root, not yet started.
    #[must_use]
    pub fn vault_signer(&self, words: &[&str]) -> Program {
        Program::ours("vault-signer").args(words).env("BAO_ADDR", self.url()).env("BAO_TOKEN", &self.token)
    }

    /// Has `vault-signer` set it up for bastions of this domain, and returns its report.
    ///
    /// # Panics
    /// When that fails.
    pub fn bootstrap(&self, domain: &str, more: &[&str]) -> Value {
        let words = ["bootstrap", "--json", "--domain", domain];
        serde_json::from_str(&self.vault_signer(&[&words, more].concat()).succeed()).unwrap()
    }

    /// One request of its API as root.
    ///
    /// # Panics
    /// When the answer is not a success.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let response = self.request(&self.token, method, path, body);
        assert!((200..300).contains(&response.status), "{method} {path}: {response:?}");
        if response.body.is_empty() { Value::Null } else { response.json() }
    }

    /// One request of its API with any token, and any answer.
    ///
    /// # Panics
    /// When no server answers.
    #[must_use]
    pub fn request(&self, token: &str, method: &str, path: &str, body: &Value) -> http::Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        http::request(method, self.address, &format!("/v1/{path}"), &[("X-Vault-Token", token)], &body)
            .unwrap()
    }

    /// A new token with these policies and this life, such as `20s`.
    #[must_use]
    pub fn token(&self, policies: &[&str], life: &str) -> String {
        let asked = json!({"policies": policies, "ttl": life, "no_default_policy": false});
        let answer = self.api("POST", "auth/token/create", &asked);
        answer["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// Sets the database engine up for a PostgreSQL: a role `reader`, whose credentials live for `life`
    /// unless they are renewed, and a policy `orders-reader` for those who may have some.
    pub fn connect_database(&self, postgres: &Postgres, life: &str) {
        self.run(&["secrets", "enable", "database"]);
        let url = format!("postgresql://{{{{username}}}}:{{{{password}}}}@{}/orders", postgres.address());
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": url,
            "allowed_roles": "reader",
            "username": SUPERUSER,
            "password": postgres.password(),
        });
        self.api("POST", "database/config/orders", &connection);
        let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
        let role = json!({
            "db_name": "orders",
            "creation_statements": create,
            "default_ttl": life,
            "max_ttl": "2h",
        });
        self.api("POST", "database/roles/reader", &role);
        let policy = "path \"database/creds/reader\" { capabilities = [\"read\"] }\n\
                      path \"sys/leases/renew\" { capabilities = [\"update\"] }\n\
                      path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n";
        self.api("PUT", "sys/policies/acl/orders-reader", &json!({"policy": policy}));
    }

    /// Seals it: from now on it answers 503.
    pub fn seal(&self) {
        self.api("PUT", "sys/seal", &Value::Null);
        wait::until_true("a sealed OpenBao", wait::START, || self.health() == Some(503));
    }

    /// Unseals it with the key that it printed when it started.
    pub fn unseal(&self) {
        let log = self.log();
        let key =
            log.lines().find_map(|line| line.trim().strip_prefix("Unseal Key: ")).expect("an unseal key");
        self.api("PUT", "sys/unseal", &json!({"key": key.trim()}));
        wait::until_true("an unsealed OpenBao", wait::START, || self.health() == Some(200));
    }
}

fn health(address: SocketAddr) -> Option<u16> {
    http::get(address, "/v1/sys/health").ok().map(|response| response.status)
}

/// The path of its program.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn program() -> PathBuf {
    let path = workspace().join(".peers/bao");
    assert!(path.is_file(), "OpenBao is not installed: run tests/install first");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_seals_and_unseals() {
        let bao = OpenBao::start();
        assert!(bao.run(&["status"]).contains("Sealed"));
        let token = bao.token(&["default"], "60s");
        assert_eq!(bao.request(&token, "GET", "auth/token/lookup-self", &Value::Null).status, 200);
        bao.seal();
        assert_eq!(bao.request(&token, "GET", "auth/token/lookup-self", &Value::Null).status, 503);
        bao.unseal();
        assert_eq!(bao.request(&token, "GET", "auth/token/lookup-self", &Value::Null).status, 200);
    }
}
