//! The ways to have a host key: a file, a Secret, Vault, or a new one each time.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ObjectName, Period};

/// Who the bastion is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
#[schemars(with = "Written")]
pub enum HostKey {
    /// A private key in OpenSSH's format, and perhaps the certificate for it.
    File {
        /// The private key.
        key: PathBuf,
        /// Its host certificate, as in a `-cert.pub` file.
        certificate: Option<PathBuf>,
    },
    /// A key made in memory at each start, which no client can know beforehand: for development.
    Generate,
    /// A key made in memory at each start, with a certificate that Vault signs and that is renewed in time.
    Vault(VaultHostKey),
    /// A key in a Secret of the bastion's own namespace.
    Secret(SecretHostKey),
}

/// A Secret with a host key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretHostKey {
    /// Its name. The entry is `ssh_host_ed25519_key`.
    pub name: ObjectName,
    /// Whether the first bastion that misses the Secret makes it.
    #[serde(default)]
    pub generate: bool,
}

/// How Vault is asked for a host certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultHostKey {
    /// The mount of the SSH engine that signs hosts.
    pub mount: String,
    /// Its role.
    pub role: String,
    /// The names that clients use for this bastion; none leaves them to the role.
    #[serde(default)]
    pub principals: Vec<String>,
    /// How long a certificate is valid. It is renewed at two thirds of that.
    #[serde(default = "day")]
    pub ttl: Period,
}

fn day() -> Period {
    super::seconds(24 * 3600)
}

/// As it stands in the file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["file"]},
    {"required": ["generate"], "properties": {"generate": {"const": true}, "certificate": false}},
    {"required": ["vault"], "properties": {"certificate": false}},
    {"required": ["secret"], "properties": {"certificate": false}},
]))]
struct Written {
    /// A private key in OpenSSH's format.
    file: Option<PathBuf>,
    /// Its host certificate, as in a `-cert.pub` file.
    certificate: Option<PathBuf>,
    /// A key made in memory at each start, for development.
    #[serde(default)]
    generate: bool,
    /// A key made in memory at each start, with a certificate that Vault signs and that is renewed in time.
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
