//! The ways to have a host key: a file, Vault, or a new one each time.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Period;

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
}

impl TryFrom<Written> for HostKey {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written { file: Some(key), certificate, generate: false, vault: None } => {
                Ok(Self::File { key, certificate })
            }
            Written { file: None, certificate: None, generate: true, vault: None } => Ok(Self::Generate),
            Written { file: None, certificate: None, generate: false, vault: Some(vault) } => {
                Ok(Self::Vault(vault))
            }
            _ => Err(
                "write exactly one of {file: …}, {file: …, certificate: …}, {vault: …} and {generate: true}",
            ),
        }
    }
}
