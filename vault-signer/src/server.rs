//! Reaches Vault: by its address, its namespace, and the authorities that vouch for it.

mod address;
mod ca;
mod environment;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use reqwest::{Method, Proxy};
use serde::Deserialize;
use ssh_key::PublicKey;
use zeroize::Zeroizing;

pub use address::without_secrets;
pub use ca::{Ca, Pem};
pub(crate) use environment::environment;
pub use environment::{Treatment, VARIABLES, not_obeyed};

use crate::{
    clock::Offset,
    http::{Error, HttpClient, Tls, VaultPath},
    text::{absent, shown},
};

/// The most public keys that one mount may publish.
const MOST_AUTHORITIES: usize = 16;

/// What flags and configuration say about the server; the environment fills in the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// As in `VAULT_ADDR`, for example `https://vault.example.com:8200`.
    pub address: Option<String>,
    /// As in `VAULT_NAMESPACE`.
    pub namespace: Option<String>,
    /// The only authorities that are trusted; those of the system if not set.
    pub ca: Option<Ca>,
    /// As in `VAULT_TLS_SERVER_NAME`: the name that the server's certificate is for, if that is not the address'.
    pub tls_server_name: Option<String>,
    /// As in `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY`: what proves to the server who connects.
    pub client: Option<ClientCertificate>,
    /// As in `VAULT_PROXY_ADDR`: through which proxy everything goes.
    pub proxy: Option<Hidden>,
    /// Send tokens in clear to a server that is not on this computer, and trust whatever answers.
    pub dangerously_allow_plain_http: bool,
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate: Pem,
    /// Its key.
    pub key: Pem,
}

/// A text that may hold a secret, and does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Zeroizing<String>);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What is wrong with where Vault is said to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Neither a flag, nor the configuration, nor the environment has an address.
    #[error(
        "no Vault address is set\n  Set VAULT_ADDR, for example: export VAULT_ADDR=https://vault.example.com:8200"
    )]
    NoAddress,
    /// The address cannot be used.
    #[error("`{address}` is not a Vault address: {reason}\n  One looks like https://vault.example.com:8200")]
    Address {
        /// Without what may be secret in it, escaped.
        address: String,
        /// Which part is wrong.
        reason: &'static str,
    },
    /// The address has no TLS and leaves this computer.
    #[error(
        "`{address}` is reached without TLS: the token would cross the network in clear, and an attacker on the way could answer in Vault's place\n  Use https://. Where that cannot be, `dangerously_allow_plain_http` says that you accept it"
    )]
    PlainHttp {
        /// The address, escaped.
        address: String,
    },
    /// The namespace cannot be sent.
    #[error("`{namespace}` is not a namespace: it has characters that an HTTP header cannot carry")]
    Namespace {
        /// As given, escaped.
        namespace: String,
    },
    /// The file of trusted certificates cannot be used. Its content is never shown.
    #[error("{}: {reason}\n  VAULT_CACERT names a PEM file with the certificates of the authority that signed Vault's", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The text of trusted certificates cannot be used. It is never shown.
    #[error("the certificates that Vault's is to be signed by cannot be used: the text {reason}")]
    CaText {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The name that the server's certificate is to have.
    #[error(
        "`{name}` is not a name that a server's certificate can be asked for\n  VAULT_TLS_SERVER_NAME is a DNS name, such as vault.example.com"
    )]
    ServerName {
        /// As given, escaped.
        name: String,
    },
    /// The certificate that proves who connects. What it holds is never shown.
    #[error(
        "the client certificate for Vault cannot be used: {reason}\n  VAULT_CLIENT_CERT and VAULT_CLIENT_KEY name PEM files of a certificate and its private key, both or neither"
    )]
    Client {
        /// What is wrong with it.
        reason: String,
    },
    /// The proxy. It may have a password in it, and is never shown.
    #[error(
        "the proxy for Vault is not a URL such as http://proxy.example.com:3128\n  VAULT_PROXY_ADDR and VAULT_HTTP_PROXY say it"
    )]
    Proxy,
    /// The environment asks not to verify the server's certificate.
    #[error(
        "{name} is set, and a server that is not verified could sign anything and keep the token\n  Unset it, and name the authority that signed Vault's certificate in VAULT_CACERT instead"
    )]
    SkipVerify {
        /// The variable.
        name: String,
    },
    /// The TLS client could not be made.
    #[error(
        "cannot set up TLS: {reason}\n  If this system has no trusted certificates, name a file of them in VAULT_CACERT"
    )]
    Tls {
        /// What the TLS library says.
        reason: String,
    },
}

impl plain_text::Hint for SettingsError {}

/// A Vault or OpenBao server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Server {
    http: HttpClient,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Server {
    /// Connects nothing yet.
    ///
    /// # Errors
    /// What is wrong with the settings; the file of trusted certificates is read here.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let text = settings.address.as_deref().ok_or(SettingsError::NoAddress)?;
        let base = address::parse(text, settings.dangerously_allow_plain_http)?;
        let namespace = settings
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
            .map(|namespace| {
                namespace.parse().map_err(|_| SettingsError::Namespace { namespace: shown(namespace) })
            })
            .transpose()?;
        let server_name = settings.tls_server_name.as_deref().map(address::server_name).transpose()?;
        let proxy = settings
            .proxy
            .as_ref()
            .map(|Hidden(url)| Proxy::all(url.as_str()).map_err(|_| SettingsError::Proxy))
            .transpose()?;
        let tls = Tls {
            trusted: settings.ca.as_ref().map(Ca::certificates).transpose()?,
            identity: settings.client.as_ref().map(ca::identity).transpose()?,
            server_name,
        };
        let http = HttpClient::new(base, namespace, tls, proxy)
            .map_err(|error| SettingsError::Tls { reason: crate::http::innermost(&error) })?;
        Ok(Self { http })
    }

    /// The address, as it was understood.
    #[must_use]
    pub fn address(&self) -> &str {
        self.http.address()
    }

    /// Host, and port unless it is the usual one: what a person calls the server.
    #[must_use]
    pub fn name(&self) -> String {
        self.http.name()
    }

    /// How far this computer's clock is from the server's, by its last good answer; none if they agree, or before the first answer.
    #[must_use]
    pub fn clock(&self) -> Option<Offset> {
        self.http.clock()
    }

    /// The public keys of the SSH authority at `mount`, which Vault shows without a login: no token is sent.
    ///
    /// # Errors
    /// What went wrong on the way, or [`Error::Unexpected`] if it is not a list of SSH public keys.
    pub async fn authorities(&self, mount: &str) -> Result<Vec<PublicKey>, Error> {
        self.public_keys(&VaultPath::new(mount).join("public_key")).await
    }

    /// The public key of one issuer of the SSH authority at `mount`, by its name or id: OpenBao can have several, and shows
    /// only the default one otherwise.
    ///
    /// # Errors
    /// As for [`Self::authorities`].
    pub async fn issuer(&self, mount: &str, issuer: &str) -> Result<Vec<PublicKey>, Error> {
        self.public_keys(&VaultPath::new(mount).join("issuer").join(issuer).join("public_key")).await
    }

    async fn public_keys(&self, path: &VaultPath) -> Result<Vec<PublicKey>, Error> {
        let text = self.http.text(path).await?;
        let keys: Vec<PublicKey> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .take(MOST_AUTHORITIES)
            .map(|line| PublicKey::from_openssh(line.trim()))
            .collect::<Result<_, _>>()
            .map_err(|_| Error::unexpected(path, "what it holds is not an SSH public key"))?;
        if keys.is_empty() {
            return Err(Error::unexpected(path, "it is empty: this mount has no authority yet"));
        }
        Ok(keys)
    }

    /// Whether the server answers, is unsealed and is active.
    ///
    /// # Errors
    /// [`Error::Sealed`], [`Error::Standby`] and the like, or that it does not answer.
    pub async fn health(&self) -> Result<Health, Error> {
        self.http.call(Method::GET, &VaultPath::new("sys/health"), None, None).await
    }

    pub(crate) fn http(&self) -> &HttpClient {
        &self.http
    }
}

/// What a server in good health says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// As the server has it, not escaped.
    #[serde(default, deserialize_with = "absent")]
    pub version: String,
    /// Set by `vault-signer dev` alone.
    #[serde(default, deserialize_with = "absent")]
    pub development: bool,
}
