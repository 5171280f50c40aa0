//! Database credentials that live as long as their lease.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Server, Token,
    http::{Error, VaultPath},
    text::{absent, shown},
};

/// A user name and password that Vault made, and made for this lease alone.
pub struct Credentials {
    username: String,
    password: SecretString,
    lease: Lease,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// The user name, not escaped.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &SecretString {
        &self.password
    }

    /// The lease, which [`renew`] and [`revoke`] need.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

/// Vault's promise to keep something until a time. Its id is worth nothing without a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    id: String,
    duration: Duration,
    expires_at: SystemTime,
    renewable: bool,
}

impl Lease {
    /// Its id in Vault, escaped.
    #[must_use]
    pub fn id(&self) -> String {
        shown(&self.id)
    }

    /// How long Vault granted, last time it was asked.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// When it ends by this computer's clock.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// Whether [`renew`] may make it live longer.
    #[must_use]
    pub fn renewable(&self) -> bool {
        self.renewable
    }

    fn new(reply: Reply, path: &VaultPath, asked: SystemTime) -> Result<Self, Error> {
        if reply.lease_id.is_empty() {
            return Err(Error::unexpected(path, "there is no `lease_id` in it; is that a database role?"));
        }
        let duration = Duration::from_secs(reply.lease_duration);
        let expires_at = asked
            .checked_add(duration)
            .ok_or_else(|| Error::unexpected(path, "its `lease_duration` is beyond all times"))?;
        Ok(Self { id: reply.lease_id, duration, expires_at, renewable: reply.renewable })
    }
}

/// Asks a database role for credentials, for example at `database/creds/orders-reader`.
///
/// # Errors
/// [`Error::Denied`], [`Error::BadRequest`] for an unknown role, and what can happen on the way.
pub async fn credentials(server: &Server, token: &Token, path: &str) -> Result<Credentials, Error> {
    let path = VaultPath::new(path);
    let asked = SystemTime::now();
    let mut reply: Reply = server.http().call(Method::GET, &path, Some(token.secret()), None).await?;
    let secret = reply
        .data
        .take()
        .ok_or_else(|| Error::unexpected(&path, "there is no user name and password in it"))?;
    let lease = Lease::new(reply, &path, asked)?;
    Ok(Credentials { username: secret.username, password: secret.password, lease })
}

/// Asks for the lease to last `increment` from now. Vault may grant less.
///
/// # Errors
/// [`Error::BadRequest`] if the lease has ended or is not renewable, and what can happen on the way.
pub async fn renew(
    server: &Server,
    token: &Token,
    lease: &Lease,
    increment: Duration,
) -> Result<Lease, Error> {
    let path = VaultPath::new("sys/leases/renew");
    let body = json!({ "lease_id": lease.id, "increment": increment.as_secs() });
    let asked = SystemTime::now();
    let reply = server.http().call(Method::POST, &path, Some(token.secret()), Some(body)).await?;
    Lease::new(reply, &path, asked)
}

/// Ends the lease. When this returns, the user is gone from the database.
///
/// # Errors
/// What can happen on the way, or what the database said, as [`Error::ServerError`].
pub async fn revoke(server: &Server, token: &Token, lease: &Lease) -> Result<(), Error> {
    let path = VaultPath::new("sys/leases/revoke");
    let body = json!({ "lease_id": lease.id, "sync": true });
    server.http().tell(Method::POST, &path, Some(token.secret()), Some(body)).await
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default, deserialize_with = "absent")]
    lease_id: String,
    #[serde(default, deserialize_with = "absent")]
    lease_duration: u64,
    #[serde(default, deserialize_with = "absent")]
    renewable: bool,
    #[serde(default)]
    data: Option<Made>,
}

#[derive(Deserialize)]
struct Made {
    username: String,
    password: SecretString,
}

#[cfg(test)]
mod tests;
