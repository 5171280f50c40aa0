//! Types what can go wrong between us and Vault.

use std::{fmt, time::Duration};

use super::{LARGEST_REPLY, TIME_LIMIT, VaultPath};
use crate::text::shown;

/// Why Vault did not do what it was asked for: what failed, what it means, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection.
    #[error(
        "{server} does not answer: {reason}\n  Check the address (VAULT_ADDR), and that this computer can reach it"
    )]
    Unreachable {
        /// The server's name.
        server: String,
        /// What the system says.
        reason: String,
    },
    /// A connection, and no reply within ten seconds.
    #[error("{server} did not answer within {} s", TIME_LIMIT.as_secs())]
    TimedOut {
        /// The server's name.
        server: String,
    },
    /// The server could not be verified. Nothing was sent.
    #[error(
        "{server} could not be verified: {reason}\n  Nothing was sent. If its certificate is signed by an authority of your own, name that in VAULT_CACERT"
    )]
    Tls {
        /// The server's name.
        server: String,
        /// What the TLS library says.
        reason: String,
    },
    /// The server points elsewhere. The token goes nowhere that the configuration does not name.
    #[error(
        "{server} points to {to} instead of answering\n  Redirects are not followed, since the token would go with them. If that is the right server, use it as the address"
    )]
    Redirected {
        /// The server's name.
        server: String,
        /// Where it points, escaped.
        to: String,
    },
    /// The server is sealed.
    #[error("{server} is sealed\n  Its operator must unseal it; nothing can be read or signed until then")]
    Sealed {
        /// The server's name.
        server: String,
    },
    /// The server has never been initialized.
    #[error("{server} is not initialized\n  Run `bao operator init` or `vault operator init` first")]
    Uninitialized {
        /// The server's name.
        server: String,
    },
    /// The server is a standby that knows no active one to forward to.
    #[error(
        "{server} is a standby and has no active server to ask\n  That passes by itself after a fail-over"
    )]
    Standby {
        /// The server's name.
        server: String,
    },
    /// 400: the request makes no sense to the server.
    #[error("Vault cannot do what `{path}` was asked for: {errors}")]
    BadRequest {
        /// The path in Vault.
        path: String,
        /// Vault's words.
        errors: Errors,
    },
    /// 403: the token is wrong, has expired, or its policies do not allow this.
    #[error(
        "Vault refuses `{path}`: {errors}\n  Either the token is not valid any more, or none of its policies allows this path"
    )]
    Denied {
        /// The path in Vault.
        path: String,
        /// Vault's words.
        errors: Errors,
    },
    /// 404: nothing is there.
    #[error("Vault has nothing at `{path}`{}\n  Check the mount, the role and the namespace", errors.after_colon())]
    NotFound {
        /// The path in Vault.
        path: String,
        /// Vault's words.
        errors: Errors,
    },
    /// 429: a quota is used up.
    #[error("Vault is asked too often{}", .retry_after.map(|wait| format!("; it asks to wait {} s", wait.as_secs())).unwrap_or_default())]
    RateLimited {
        /// How long the server asks to wait, at most an hour.
        retry_after: Option<Duration>,
    },
    /// 5xx: the server's own failure.
    #[error("Vault failed at `{path}` ({status}){}", errors.after_colon())]
    ServerError {
        /// The path in Vault.
        path: String,
        /// The HTTP status.
        status: u16,
        /// Vault's words.
        errors: Errors,
    },
    /// A status that Vault does not use here.
    #[error(
        "{server} answered `{path}` with status {status}, which Vault does not\n  Something else may be listening at that address"
    )]
    Status {
        /// The server's name.
        server: String,
        /// The path in Vault.
        path: String,
        /// The HTTP status.
        status: u16,
    },
    /// A reply that is not JSON: a login page, a proxy's error, another program.
    #[error(
        "{server} answered `{path}` with something that is not Vault's ({what}{})\n  {}",
        told(*.status), meaning(*.status)
    )]
    NotJson {
        /// The server's name.
        server: String,
        /// The path in Vault.
        path: Box<str>,
        /// The HTTP status.
        status: u16,
        /// What it looks like.
        what: String,
    },
    /// A reply that ends too early.
    #[error("{server}: the connection was lost while it answered")]
    Broken {
        /// The server's name.
        server: String,
    },
    /// A reply over 1 MiB.
    #[error("{server} answered `{path}` with more than {} KiB\n  Vault does not; something else may be listening at that address", LARGEST_REPLY / 1024)]
    TooLarge {
        /// The server's name.
        server: String,
        /// The path in Vault.
        path: String,
    },
    /// JSON, but without what Vault puts there.
    #[error("Vault's answer at `{path}` cannot be used: {what}")]
    Unexpected {
        /// The path in Vault.
        path: String,
        /// What is missing or wrong.
        what: String,
    },
}

impl plain_text::Hint for Error {}

fn told(status: u16) -> String {
    if status == 200 { String::new() } else { format!(", status {status}") }
}

/// What such an answer means, by its status.
fn meaning(status: u16) -> &'static str {
    match status {
        // RFC 6585 §6.
        511 => {
            "This network wants you to sign in to it first, as in a hotel or a train. Open any page in a browser"
        }
        _ => "A proxy, a network's sign-in page or another program may be listening at that address",
    }
}

impl Error {
    /// Whether the same request may succeed later with nothing changed by a person.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Sealed { .. }
            | Self::Standby { .. }
            | Self::RateLimited { .. }
            | Self::ServerError { .. }
            | Self::Broken { .. } => true,
            Self::Tls { .. }
            | Self::Redirected { .. }
            | Self::Uninitialized { .. }
            | Self::BadRequest { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Status { .. }
            | Self::NotJson { .. }
            | Self::TooLarge { .. }
            | Self::Unexpected { .. } => false,
        }
    }

    pub(crate) fn unexpected(path: &VaultPath, what: impl Into<String>) -> Self {
        Self::Unexpected { path: path.to_string(), what: what.into() }
    }
}

/// What Vault says in `errors`: escaped, and cut to a few lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(Vec<String>);

impl Errors {
    /// The most of Vault's errors that one message shows.
    const MOST: usize = 3;

    pub(super) fn new(errors: &[String]) -> Self {
        Self(errors.iter().take(Self::MOST).map(|error| shown(error)).collect())
    }

    /// Whether Vault's words have `text` in them.
    #[must_use]
    pub fn mention(&self, text: &str) -> bool {
        self.0.iter().any(|error| error.contains(text))
    }

    fn after_colon(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!(": {self}") }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("it gives no reason") } else { f.write_str(&self.0.join("; ")) }
    }
}
