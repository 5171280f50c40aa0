//! The SSH engine of Vault or OpenBao as a signer.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use ssh_key::{Certificate, PublicKey};

use super::{SignError, Signer};
use crate::{
    BoxFuture, Server,
    certificate::{self, LeftToTheRole, Mismatch},
    http::{Error, VaultPath},
    request::{Kind, Request},
    text::shown,
    token::{Data, Token},
};

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

    /// Asks for all that is wanted, and for less where the role or a policy does not want to be asked: what the role gives
    /// of itself may be what is needed. The first refusal is the one that is told.
    async fn ask(
        &self,
        key: &PublicKey,
        request: &Request,
    ) -> Result<(Signed, Said, Option<SignError>), SignError> {
        let mut said = Said::all(request);
        let mut first = None;
        loop {
            let error = match self.send(key, request, said).await {
                Ok(signed) => return Ok((signed, said, first.map(|error| refused(error, request)))),
                Err(error) => error,
            };
            let less = said.less(&error, request);
            let told = first.get_or_insert(error);
            match less {
                Some(less) => said = less,
                None => return Err(refused(told.clone(), request)),
            }
        }
    }

    async fn send(&self, key: &PublicKey, request: &Request, said: Said) -> Result<Signed, Failed> {
        let path = VaultPath::new(&self.mount).join("sign").name(&request.role);
        let mut body = Map::new();
        body.insert("public_key".into(), key.to_openssh().map_err(Failed::Key)?.into());
        if said.kind {
            body.insert("cert_type".into(), request.kind.name().into());
        }
        if let Some(ttl) = said.ttl {
            body.insert("ttl".into(), ttl.as_secs().into());
        }
        if said.principals {
            body.insert("valid_principals".into(), request.principals.join(",").into());
        }
        if said.extensions {
            let extensions: Map<String, Value> =
                request.extensions.iter().map(|name| (name.clone(), "".into())).collect();
            body.insert("extensions".into(), extensions.into());
        }
        let secret = Some(self.token.secret());
        let reply: Data<Signed> = self
            .server
            .http()
            .call(Method::POST, &path, secret, Some(body.into()))
            .await
            .map_err(Failed::Server)?;
        Ok(reply.data)
    }
}

/// Why nothing was signed.
#[derive(Clone, Debug)]
enum Failed {
    Server(Error),
    Key(ssh_key::Error),
}

fn refused(failed: Failed, request: &Request) -> SignError {
    match failed {
        Failed::Server(Error::BadRequest { errors, .. }) => {
            SignError::Refused { role: shown(&request.role), reason: remedy(&errors.to_string()) }
        }
        Failed::Server(error) => SignError::Server(error),
        Failed::Key(error) => SignError::Key(error),
    }
}

/// What of a request is said; the role decides about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    kind: bool,
    ttl: Option<Duration>,
    principals: bool,
    extensions: bool,
}

impl Said {
    fn all(request: &Request) -> Self {
        Self {
            kind: true,
            ttl: Some(request.ttl),
            principals: !request.principals.is_empty(),
            extensions: !request.extensions.is_empty(),
        }
    }

    /// What to say instead, if that may help: always less, so this ends.
    fn less(self, failed: &Failed, request: &Request) -> Option<Self> {
        let less = match failed {
            Failed::Server(Error::BadRequest { errors, .. }) if errors.mention("not on allowed list") => {
                Self { extensions: false, ..self }
            }
            Failed::Server(Error::BadRequest { errors, .. })
                if errors.mention("larger than maximum allowed") =>
            {
                match self.ttl {
                    Some(ttl) if request.ttl_is_a_guess => {
                        Self { ttl: largest(&errors.to_string()).filter(|most| *most < ttl), ..self }
                    }
                    _ => self,
                }
            }
            // A policy may name the parameters that it allows (`allowed_parameters`).
            Failed::Server(Error::Denied { .. }) => {
                let kind = self.kind && request.kind == Kind::Host;
                let sparse = Self { kind, extensions: false, ..self };
                if sparse != self {
                    sparse
                } else if self.ttl.is_some() {
                    Self { ttl: None, ..self }
                } else {
                    Self { principals: false, ..self }
                }
            }
            Failed::Server(_) | Failed::Key(_) => self,
        };
        (less != self).then_some(less)
    }

    fn left(self, request: &Request) -> LeftToTheRole {
        LeftToTheRole { ttl: request.ttl_is_a_guess && self.ttl.is_none(), principals: !self.principals }
    }
}

/// The number of seconds in Vault's words.
fn largest(words: &str) -> Option<Duration> {
    let (_, after) = words.split_once("larger than maximum allowed ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
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
            let ((signed, said, told), authorities) = (signed?, authorities?);
            let left = said.left(request);
            let text = signed.signed_key;
            let check = |now| certificate::check_but_for(left, &text, key, request, Some(&authorities), now);
            match certificate::once_valid(check).await {
                Ok(certificate) => Ok(certificate),
                // What was left out because it was refused is what is missing: the refusal says more.
                Err(mismatch @ Mismatch::MissingExtension { .. }) => Err(told
                    .filter(|told| matches!(told, SignError::Refused { .. }))
                    .unwrap_or(mismatch.into())),
                Err(mismatch) => Err(mismatch.into()),
            }
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
    } else if words.contains("key requirements") {
        "Ask with a key of another type: --key-type or vault.key_type, for example rsa-3072 or ecdsa-256"
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
