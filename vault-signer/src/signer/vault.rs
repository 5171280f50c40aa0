//! The SSH engine of Vault or OpenBao as a signer.

use std::time::SystemTime;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use ssh_key::{Certificate, PublicKey};

use super::{Request, SignError, Signer};
use crate::http::{Error, VaultPath};
use crate::text::shown;
use crate::token::{Data, Token};
use crate::{BoxFuture, Server, certificate};

/// The SSH engine at one mount, and the token to ask it with.
#[derive(Clone, Debug)]
pub struct Vault {
    server: Server,
    token: Token,
    mount: String,
}

impl Vault {
    /// `mount` is where the SSH engine is enabled, usually `ssh`.
    #[must_use]
    pub fn new(server: Server, token: Token, mount: impl Into<String>) -> Self {
        Self { server, token, mount: mount.into() }
    }

    async fn ask(&self, key: &PublicKey, request: &Request) -> Result<Signed, SignError> {
        let path = VaultPath::new(&self.mount).join("sign").name(&request.role);
        let mut body = Map::new();
        body.insert("public_key".into(), key.to_openssh().map_err(SignError::Key)?.into());
        body.insert("cert_type".into(), request.kind.name().into());
        body.insert("ttl".into(), request.ttl.as_secs().into());
        if !request.principals.is_empty() {
            body.insert("valid_principals".into(), request.principals.join(",").into());
        }
        if !request.extensions.is_empty() {
            let extensions: Map<String, Value> =
                request.extensions.iter().map(|name| (name.clone(), "".into())).collect();
            body.insert("extensions".into(), extensions.into());
        }
        let secret = Some(self.token.secret());
        let reply: Data<Signed> =
            self.server.door().call(Method::POST, &path, secret, Some(body.into())).await.map_err(
                |error| match &error {
                    Error::BadRequest { errors, .. } => {
                        SignError::Refused { role: shown(&request.role), reason: remedy(&errors.to_string()) }
                    }
                    _ => SignError::Server(error),
                },
            )?;
        Ok(reply.data)
    }
}

impl Signer for Vault {
    fn sign<'a>(
        &'a self,
        key: &'a PublicKey,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Certificate, SignError>> {
        Box::pin(async move {
            // Read each time, and together: an authority that was just replaced is no mismatch.
            let (signed, authorities) = tokio::join!(self.ask(key, request), self.authorities());
            let text = signed?.signed_key;
            let certificate =
                certificate::check(&text, key, request, Some(&authorities?), SystemTime::now())?;
            Ok(certificate)
        })
    }

    fn authorities(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, SignError>> {
        Box::pin(async move { Ok(self.server.authorities(&self.mount).await?) })
    }
}

/// Vault's words, and what would help.
fn remedy(words: &str) -> String {
    let hint = if words.contains("Unknown role") {
        "Check the role's name, and that `vault-signer bootstrap` was run against this mount"
    } else if words.contains("is larger than maximum allowed") {
        "Ask for a shorter ttl, or raise max_ttl of the role"
    } else if words.contains("not a valid value for valid_principals") {
        "Ask for principals that allowed_users of the role has"
    } else if words.contains("extensions") {
        "Add the extension to allowed_extensions of the role"
    } else {
        "Compare what is asked for with what the role allows: `vault read MOUNT/roles/ROLE`"
    };
    format!("{words}\n  {hint}")
}

#[derive(Deserialize)]
struct Signed {
    signed_key: String,
}

#[cfg(test)]
mod tests;
