//! Logs in to Vault, one way in each module.

mod approle;
mod kubernetes;
mod token;
mod userpass;

use std::{fmt, path::PathBuf, str::FromStr, time::SystemTime};

use reqwest::Method as Verb;
use serde_json::Value;

pub use approle::AppRole;
pub use kubernetes::Kubernetes;
pub use token::{GivenToken, Source};
pub use userpass::Userpass;

use crate::{
    BoxFuture, Server, Token,
    http::{Error, VaultPath},
    token::Reply,
};

/// Turns what a person or a machine holds into a token.
pub trait Login: fmt::Debug + Send + Sync {
    /// The method's name in Vault, for messages.
    fn name(&self) -> &'static str;

    /// Logs in.
    ///
    /// # Errors
    /// See [`LoginError`]; [`LoginError::is_transient`] says whether trying again makes sense.
    fn login<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Token, LoginError>>;

    /// Changes when what the login is made of may have changed: a person signed in again, so that another try makes sense.
    fn mark(&self) -> Mark {
        Mark::default()
    }

    /// Whether it can log in again, after the token has ended, with no person there.
    fn unattended(&self) -> bool;
}

/// When the files of a login were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark(Vec<Option<SystemTime>>);

impl Mark {
    /// Of these files, of which some may not be there.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a std::path::Path>) -> Self {
        let written = |file: &std::path::Path| file.metadata().ok()?.modified().ok();
        Self(files.into_iter().map(written).collect())
    }
}

/// The method's name as configuration has it, spelt as in Vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A token that the user already has.
    #[default]
    Token,
    /// A machine's role id and secret id.
    AppRole,
    /// A user name and password kept by Vault.
    Userpass,
    /// A pod's ServiceAccount.
    Kubernetes,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Token, Self::AppRole, Self::Userpass, Self::Kubernetes];

    /// Its name, which is also its usual mount.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AppRole => "approle",
            Self::Userpass => "userpass",
            Self::Kubernetes => "kubernetes",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|method| method.name() == text).ok_or(UnknownMethod)
    }
}

/// A name that is no login method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a login method here; there are token, approle, userpass and kubernetes")]
pub struct UnknownMethod;

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// There is no token to be found.
    #[error(
        "not signed in to Vault: no token in VAULT_TOKEN, and none in {file}\n  Sign in with `vault login` or `bao login`, or set VAULT_TOKEN"
    )]
    NoToken {
        /// The token file that was looked for.
        file: String,
    },
    /// The token file is there but cannot be used. Its content is never shown.
    #[error("{}: {reason}", .path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The token of a ServiceAccount cannot be read. Its content is never shown.
    #[error(
        "the ServiceAccount's token {} {reason}\n  In a pod, a projected volume puts it there: `serviceAccountToken` with the audience that Vault's role asks for",
        .path.display()
    )]
    ServiceAccountToken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Vault does not accept the token.
    #[error(
        "Vault does not accept the token from {origin}\n  It has expired, was revoked, or belongs to another server or namespace. Sign in again with `vault login` or `bao login`"
    )]
    TokenRefused {
        /// Where the token came from.
        origin: String,
        /// Vault's answer.
        source: Error,
    },
    /// Vault does not accept what was sent.
    #[error("Vault refuses the {method} login: {reason}")]
    Refused {
        /// The login method.
        method: &'static str,
        /// Vault's words, and what to do.
        reason: String,
        /// Vault's answer.
        source: Error,
    },
    /// A second factor is wanted, and there is no way to give it.
    #[error(
        "Vault wants a second factor for the {method} login, which is not supported\n  Sign in with `vault login -method={method}`, and use the token that it stores"
    )]
    SecondFactor {
        /// The login method.
        method: &'static str,
    },
    /// Something on the way to Vault.
    #[error(transparent)]
    Server(#[from] Error),
}

impl plain_text::Hint for LoginError {}

impl LoginError {
    /// Whether the same login may succeed later with nothing changed by a person.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Server(error) => error.is_transient(),
            Self::NoToken { .. }
            | Self::TokenFile { .. }
            | Self::ServiceAccountToken { .. }
            | Self::TokenRefused { .. }
            | Self::Refused { .. }
            | Self::SecondFactor { .. } => false,
        }
    }
}

/// Sends a login and makes a token of the answer.
async fn send(
    server: &Server,
    method: &'static str,
    path: &VaultPath,
    body: Value,
    who: &str,
) -> Result<Token, LoginError> {
    let asked = SystemTime::now();
    let reply: Reply = match server.http().call(Verb::POST, path, None, Some(body)).await {
        Ok(reply) => reply,
        Err(source @ (Error::BadRequest { .. } | Error::Denied { .. } | Error::NotFound { .. })) => {
            let reason = match &source {
                Error::BadRequest { errors, .. } => errors.to_string(),
                _ => {
                    format!("`{path}` does not take it\n  Is {method} enabled there, and in this namespace?")
                }
            };
            return Err(LoginError::Refused { method, reason, source });
        }
        Err(error) => return Err(error.into()),
    };
    let auth = reply.auth.ok_or_else(|| Error::unexpected(path, "there is no `auth` in it"))?;
    if auth.wants_second_factor() {
        return Err(LoginError::SecondFactor { method });
    }
    if auth.is_without_token() {
        return Err(Error::unexpected(path, "there is no token in it").into());
    }
    Ok(Token::from_login(auth, who, asked))
}

#[cfg(test)]
mod tests;
