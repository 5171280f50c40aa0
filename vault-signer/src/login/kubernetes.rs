//! Kubernetes: a pod logs in with a token of its ServiceAccount, which the API server vouches for.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Login, LoginError, send};
use crate::{
    BoxFuture, Server, Token,
    http::{Error, VaultPath},
    text::shown,
};

/// The longest token that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// A role, and the file that the kubelet keeps a token in.
#[derive(Debug)]
pub struct Kubernetes {
    mount: String,
    role: String,
    token_file: PathBuf,
}

impl Kubernetes {
    /// `mount` is where the method is enabled, usually `kubernetes`. The file is that of a projected volume, with an
    /// audience of its own: the token that a pod has for the API server is not for Vault to see.
    #[must_use]
    pub fn new(mount: impl Into<String>, role: impl Into<String>, token_file: impl Into<PathBuf>) -> Self {
        Self { mount: mount.into(), role: role.into(), token_file: token_file.into() }
    }
}

impl Login for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn login<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Token, LoginError>> {
        Box::pin(async move {
            // Read each time: the kubelet replaces it long before it expires.
            let jwt = read(&self.token_file)?;
            let body = json!({ "role": self.role, "jwt": jwt.expose_secret() });
            let path = VaultPath::new("auth").join(&self.mount).join("login");
            send(server, self.name(), &path, body, &self.role).await.map_err(|error| match error {
                LoginError::Refused { method, reason: _, source: source @ Error::Denied { .. } } => {
                    let reason = format!(
                        "`{path}` does not take this token\n  Its role `{}` names a ServiceAccount, a namespace and an audience: are they this pod's, and its token's? Vault's log says more",
                        shown(&self.role)
                    );
                    LoginError::Refused { method, reason, source }
                }
                error => error,
            })
        })
    }

    fn unattended(&self) -> bool {
        true
    }
}

fn read(path: &Path) -> Result<SecretString, LoginError> {
    let wrong = |reason: String| LoginError::ServiceAccountToken { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(|_| wrong("is no token".into()))?;
    match text.trim() {
        "" => Err(wrong("is empty".into())),
        token => Ok(token.into()),
    }
}
