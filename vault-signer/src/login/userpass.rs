//! Userpass: a user name and a password that Vault keeps.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{Login, LoginError, send};
use crate::{BoxFuture, Server, Token, http::VaultPath};

/// A user name and password.
#[derive(Debug)]
pub struct Userpass {
    mount: String,
    username: String,
    password: SecretString,
}

impl Userpass {
    /// `mount` is where the method is enabled, usually `userpass`.
    #[must_use]
    pub fn new(mount: impl Into<String>, username: impl Into<String>, password: SecretString) -> Self {
        Self { mount: mount.into(), username: username.into(), password }
    }
}

impl Login for Userpass {
    fn name(&self) -> &'static str {
        "userpass"
    }

    fn login<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Token, LoginError>> {
        Box::pin(async move {
            let body = json!({ "password": self.password.expose_secret() });
            let path = VaultPath::new("auth").join(&self.mount).join("login").name(&self.username);
            send(server, self.name(), &path, body, &self.username).await
        })
    }

    fn unattended(&self) -> bool {
        true
    }
}
