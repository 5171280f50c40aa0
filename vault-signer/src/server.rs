//! Where Vault is and how it is reached: address, namespace and trusted certificates.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Method, Url};
use serde::Deserialize;
use ssh_key::PublicKey;

use crate::http::{Door, Error, VaultPath};
use crate::text::shown;

/// The largest bundle of trusted certificates that is read, in bytes.
const LARGEST_BUNDLE: u64 = 1024 * 1024;

/// The most public keys that one mount may publish.
const MOST_AUTHORITIES: usize = 16;

/// What flags and configuration say about the server; the environment fills in the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// As in `VAULT_ADDR`, for example `https://vault.example.com:8200`.
    pub address: Option<String>,
    /// As in `VAULT_NAMESPACE`.
    pub namespace: Option<String>,
    /// As in `VAULT_CACERT`: a PEM file; only the certificates in it are trusted.
    pub ca_file: Option<PathBuf>,
    /// The same certificates themselves, in PEM. A file goes before.
    pub ca: Option<String>,
}

impl Settings {
    /// Fills what is not set from `BAO_ADDR` or `VAULT_ADDR`, and so on, as the `bao` command does: a `BAO_`
    /// variable that is present wins, even an empty one.
    ///
    /// # Errors
    /// [`SettingsError::SkipVerify`] if the environment asks not to verify the server.
    pub fn or_environment(self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        for prefix in ["BAO_", "VAULT_"] {
            let name = format!("{prefix}SKIP_VERIFY");
            let asked = variable(&name).unwrap_or_default();
            if !matches!(asked.as_str(), "" | "0" | "f" | "F" | "false" | "FALSE" | "False") {
                return Err(SettingsError::SkipVerify { name });
            }
        }
        Ok(Self {
            address: self.address.or_else(|| environment(&variable, "ADDR")),
            namespace: self.namespace.or_else(|| environment(&variable, "NAMESPACE")),
            ca_file: self.ca_file.or_else(|| environment(&variable, "CACERT").map(PathBuf::from)),
            ca: self.ca,
        })
    }
}

/// The value of `BAO_name`, or else of `VAULT_name`; an empty one is none.
pub(crate) fn environment(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(&format!("BAO_{name}"))
        .or_else(|| variable(&format!("VAULT_{name}")))
        .filter(|value| !value.is_empty())
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
        /// As given, escaped.
        address: String,
        /// Which part is wrong.
        reason: &'static str,
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

/// A Vault or OpenBao server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Server {
    door: Door,
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
        let base = address(settings.address.as_deref().ok_or(SettingsError::NoAddress)?)?;
        let namespace = settings
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
            .map(|namespace| {
                namespace.parse().map_err(|_| SettingsError::Namespace { namespace: shown(namespace) })
            })
            .transpose()?;
        let trusted = match (&settings.ca_file, &settings.ca) {
            (Some(path), _) => Some(bundle(path)?),
            (None, Some(text)) => {
                Some(certificates(text.as_bytes()).map_err(|reason| SettingsError::CaText { reason })?)
            }
            (None, None) => None,
        };
        let door = Door::new(base, namespace, trusted)
            .map_err(|error| SettingsError::Tls { reason: crate::http::innermost(&error) })?;
        Ok(Self { door })
    }

    /// The address, as it was understood.
    #[must_use]
    pub fn address(&self) -> &str {
        self.door.address()
    }

    /// Host, and port unless it is the usual one: what a person calls the server.
    #[must_use]
    pub fn name(&self) -> String {
        self.door.name()
    }

    /// The public keys of the SSH authority at `mount`, which Vault shows to everybody: no token is sent.
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
        let text = self.door.text(path).await?;
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
        self.door.call(Method::GET, &VaultPath::new("sys/health"), None, None).await
    }

    pub(crate) fn door(&self) -> &Door {
        &self.door
    }
}

/// What a server in good health says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// As the server has it, not escaped.
    #[serde(default)]
    pub version: String,
    /// Set by `vault-signer dev` alone.
    #[serde(default)]
    pub development: bool,
}

fn address(text: &str) -> Result<Url, SettingsError> {
    let wrong = |reason| SettingsError::Address { address: shown(text), reason };
    let url = Url::parse(text.trim()).map_err(|_| wrong("it is not a URL"))?;
    // First, since the message would show the password otherwise.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SettingsError::Address {
            address: url.host_str().map(shown).unwrap_or_default(),
            reason: "it has a user name or password in it",
        });
    }
    match url.scheme() {
        "https" | "http" => {}
        "unix" => return Err(wrong("unix sockets are not supported")),
        _ => return Err(wrong("it begins with neither https:// nor http://")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it has no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a `?` or `#` in it"));
    }
    Ok(url)
}

/// Reads trusted certificates. No error shows what the file holds: somebody may have named a private key.
fn bundle(path: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let wrong = |reason: String| SettingsError::CaFile { path: path.to_owned(), reason };
    let unreadable = |error: std::io::Error| wrong(format!("cannot be read: {error}"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(wrong("is not a regular file".into()));
    }
    let mut pem = zeroize::Zeroizing::new(Vec::new());
    File::open(path)
        .map_err(unreadable)?
        .take(LARGEST_BUNDLE + 1)
        .read_to_end(&mut pem)
        .map_err(unreadable)?;
    if pem.len() as u64 > LARGEST_BUNDLE {
        return Err(wrong("is larger than 1 MiB".into()));
    }
    certificates(&pem).map_err(|reason| wrong(reason.into()))
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, &'static str> {
    if pem.windows(11).any(|part| part == b"PRIVATE KEY") {
        return Err("holds a private key, and nothing that only verifies needs one");
    }
    let certificates = Certificate::from_pem_bundle(pem).map_err(|_| "is not a PEM file of certificates")?;
    if certificates.is_empty() { Err("has no certificate in it") } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn from(set: &[(&str, &str)]) -> Settings {
        Settings::default().or_environment(variables(set)).unwrap()
    }

    #[test]
    fn the_environment_means_what_it_means_to_the_command() {
        let vault = [("VAULT_ADDR", "a"), ("VAULT_NAMESPACE", "b"), ("VAULT_CACERT", "c")];
        let expected = Settings {
            address: Some("a".into()),
            namespace: Some("b".into()),
            ca_file: Some("c".into()),
            ca: None,
        };
        assert_eq!(from(&vault), expected);
        assert_eq!(from(&[("VAULT_ADDR", "a"), ("BAO_ADDR", "b")]).address.as_deref(), Some("b"));
        assert_eq!(from(&[("VAULT_ADDR", "a"), ("BAO_ADDR", "")]).address, None);
        assert_eq!(from(&[]), Settings::default());
        let flag = Settings { address: Some("flag".into()), ..Settings::default() };
        assert_eq!(flag.or_environment(variables(&vault)).unwrap().address.as_deref(), Some("flag"));
    }

    #[test]
    fn a_wish_not_to_verify_is_refused_and_names_what_to_do() {
        for name in ["VAULT_SKIP_VERIFY", "BAO_SKIP_VERIFY"] {
            for value in ["1", "true", "t", "yes"] {
                let error = Settings::default().or_environment(variables(&[(name, value)])).unwrap_err();
                assert!(error.to_string().contains("VAULT_CACERT"), "{error}");
            }
            for value in ["", "0", "false"] {
                assert_eq!(from(&[(name, value)]), Settings::default());
            }
        }
    }

    fn server(address: &str) -> Result<Server, SettingsError> {
        Server::new(&Settings { address: Some(address.to_owned()), ..Settings::default() })
    }

    #[test]
    fn an_address_is_a_url_with_a_host_and_nothing_secret() {
        for (address, name) in [
            ("https://vault.example.com", "vault.example.com"),
            ("https://vault.example.com:8200/", "vault.example.com:8200"),
            ("http://[::1]:8200", "[::1]:8200"),
            ("https://example.com/vault", "example.com"),
        ] {
            assert_eq!(server(address).unwrap().name(), name);
        }
        for address in [
            "",
            "vault.example.com",
            "vault.example.com:8200",
            "ftp://x",
            "unix:///run/vault.sock",
            "https://",
            "https://x?y",
            "https://x#y",
            "https://\u{1b}[2J",
        ] {
            let error = server(address).unwrap_err();
            assert!(matches!(error, SettingsError::Address { .. }), "{address}: {error:?}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        let error = server("https://me:canary@vault.example.com").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        assert!(matches!(Server::new(&Settings::default()), Err(SettingsError::NoAddress)));
    }

    #[test]
    fn a_bundle_that_cannot_be_trusted_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let large = vec![b'a'; 2 * 1024 * 1024];
        let pem = "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n";
        for (path, reason) in [
            (folder.path().join("missing"), "cannot be read"),
            (folder.path().to_owned(), "not a regular file"),
            (file("empty", b""), "no certificate"),
            (file("text", b"canary"), "no certificate"),
            (file("large", &large), "larger than 1 MiB"),
            (file("key", b"-----BEGIN EC PRIVATE KEY-----\ncanary\n"), "private key"),
            (file("both", format!("{pem}-----BEGIN PRIVATE KEY-----\n").as_bytes()), "private key"),
        ] {
            let settings = Settings {
                address: Some("https://vault.example.com".into()),
                ca_file: Some(path.clone()),
                ..Settings::default()
            };
            let error = Server::new(&settings).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
            assert!(!error.contains("canary") && !error.contains("Y2FuYXJ5"), "{error}");
        }
        for text in ["", "canary", "-----BEGIN PRIVATE KEY-----\ncanary\n"] {
            let settings = Settings {
                address: Some("https://vault.example.com".into()),
                ca: Some(text.into()),
                ..Settings::default()
            };
            let error = Server::new(&settings).unwrap_err();
            assert!(
                matches!(error, SettingsError::CaText { .. }) && !format!("{error:?}").contains("canary"),
                "{error}"
            );
        }
    }
}
