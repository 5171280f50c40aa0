//! Settings of the host key: a file, a Secret, Vault, or a new key at each start.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ObjectName, Period};

/// The bastion's host key, by which clients recognize it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
#[schemars(with = "Written")]
pub enum HostKey {
    /// A private key in OpenSSH's format, optionally with its certificate.
    File {
        key: PathBuf,
        /// The host certificate, as in a `-cert.pub` file.
        certificate: Option<PathBuf>,
    },
    /// A key made in memory at each start, which no client can know beforehand: for development.
    Generate,
    /// A key made in memory at each start, with a certificate that Vault signs and the bastion renews.
    Vault(VaultHostKey),
    /// A key in a Secret of the bastion's own namespace.
    Secret(SecretHostKey),
}

/// A Secret that holds a host key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretHostKey {
    /// The name of the Secret. Its entry is `ssh_host_ed25519_key`.
    pub name: ObjectName,
    /// Whether a bastion that does not find the Secret creates it with a new key. Default: false.
    #[serde(default)]
    pub generate: bool,
}

/// How the bastion asks Vault for a host certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultHostKey {
    /// The mount of the SSH secrets engine that signs host certificates, for example `ssh-host`.
    pub mount: String,
    /// The engine's role, for example `bastion`.
    pub role: String,
    /// The host names by which clients reach this bastion, for example `[bastion.example.com]`. Default:
    /// those that the role allows by default.
    #[serde(default)]
    pub principals: Vec<String>,
    /// The lifetime of a certificate; the bastion renews it after two thirds of it. Default: `24h`.
    #[serde(default = "day")]
    pub ttl: Period,
}

fn day() -> Period {
    super::seconds(24 * 3600)
}

/// The host key as it is written in the file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["file"]},
    {"required": ["generate"], "properties": {"generate": {"const": true}, "certificate": false}},
    {"required": ["vault"], "properties": {"certificate": false}},
    {"required": ["secret"], "properties": {"certificate": false}},
]))]
struct Written {
    /// The file of a private key in OpenSSH's format.
    file: Option<PathBuf>,
    /// The file of the key's host certificate, as in a `-cert.pub` file. Default: none.
    certificate: Option<PathBuf>,
    /// Whether to make a key in memory at each start, which no client can know beforehand: for development.
    /// Default: false.
    #[serde(default)]
    generate: bool,
    /// A key made in memory at each start, with a certificate that Vault signs and the bastion renews.
    vault: Option<VaultHostKey>,
    /// A key in a Secret of the bastion's own namespace.
    secret: Option<SecretHostKey>,
}

impl TryFrom<Written> for HostKey {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { file, certificate, generate, vault, secret } = written;
        match (file, certificate, generate, vault, secret) {
            (Some(key), certificate, false, None, None) => Ok(Self::File { key, certificate }),
            (None, None, true, None, None) => Ok(Self::Generate),
            (None, None, false, Some(vault), None) => Ok(Self::Vault(vault)),
            (None, None, false, None, Some(secret)) => Ok(Self::Secret(secret)),
            _ => Err(
                "write exactly one of {file: …}, {file: …, certificate: …}, {secret: …}, {vault: …} and {generate: true}",
            ),
        }
    }
}
