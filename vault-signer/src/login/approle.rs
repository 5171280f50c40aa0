//! AppRole: a machine logs in with its role id and secret id.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{Login, LoginError, send};
use crate::{BoxFuture, Server, Token, http::VaultPath};

/// A role id and its secret id.
#[derive(Debug)]
pub struct AppRole {
    mount: String,
    role_id: String,
    secret_id: SecretString,
}

impl AppRole {
    /// `mount` is where the method is enabled, usually `approle`.
    #[must_use]
    pub fn new(mount: impl Into<String>, role_id: impl Into<String>, secret_id: SecretString) -> Self {
        Self { mount: mount.into(), role_id: role_id.into(), secret_id }
    }
}

impl Login for AppRole {
    fn name(&self) -> &'static str {
        "approle"
    }

    fn login<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Token, LoginError>> {
        Box::pin(async move {
            let body = json!({ "role_id": self.role_id, "secret_id": self.secret_id.expose_secret() });
            let path = VaultPath::new("auth").join(&self.mount).join("login");
            send(server, self.name(), &path, body, "approle").await
        })
    }

    fn unattended(&self) -> bool {
        true
    }
}
