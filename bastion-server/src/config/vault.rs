//! Where Vault or OpenBao is, and how the bastion logs in to it.

use std::path::PathBuf;

use serde::Deserialize;
use vault_signer::login::Method;

/// Where Vault is. What is not set comes from `VAULT_ADDR`, `VAULT_NAMESPACE` and `VAULT_CACERT`, or their `BAO_`
/// twins, as for the vault command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vault {
    /// Such as `https://vault.example.com:8200`.
    pub address: Option<String>,
    /// Of Vault Enterprise or OpenBao.
    pub namespace: Option<String>,
    /// A PEM file with the authorities of Vault's own certificate.
    pub ca_cert: Option<PathBuf>,
    /// Who the bastion is to Vault. Only a host key that Vault signs needs it; public keys are public.
    pub auth: Auth,
}

/// A login to Vault. Secrets stand in files of their own, read at each login.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum Auth {
    /// A token from a file, or from where the vault command looks for it.
    Token {
        /// The file; without it `VAULT_TOKEN`, `BAO_TOKEN` or `~/.vault-token`.
        file: Option<PathBuf>,
    },
    /// A role id, and a secret id in a file.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// Not secret.
        role_id: String,
        /// Holds the secret id.
        secret_id_file: PathBuf,
    },
    /// A user, and a password in a file.
    Userpass {
        /// Where the method is mounted.
        mount: String,
        /// The user.
        username: String,
        /// Holds the password.
        password_file: PathBuf,
    },
}

impl Auth {
    /// The file with the secret.
    pub fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Token { file } => file.as_ref(),
            Self::AppRole { secret_id_file, .. } => Some(secret_id_file),
            Self::Userpass { password_file, .. } => Some(password_file),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::Token { file: None }
    }
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    method: Method,
    mount: Option<String>,
    token_file: Option<PathBuf>,
    role_id: Option<String>,
    secret_id_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
}

impl TryFrom<Written> for Auth {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { method, mount, token_file, role_id, secret_id_file, username, password_file } = written;
        let mount = |usual: Method| mount.clone().unwrap_or_else(|| usual.name().to_owned());
        match method {
            Method::Token => match (role_id, secret_id_file, username, password_file) {
                (None, None, None, None) => Ok(Self::Token { file: token_file }),
                _ => Err("the method token takes token_file and nothing else"),
            },
            Method::AppRole => match (role_id, secret_id_file, token_file, username, password_file) {
                (Some(role_id), Some(secret_id_file), None, None, None) => {
                    Ok(Self::AppRole { mount: mount(method), role_id, secret_id_file })
                }
                _ => Err(
                    "the method approle takes role_id and secret_id_file, and mount if it is not `approle`",
                ),
            },
            Method::Userpass => match (username, password_file, token_file, role_id, secret_id_file) {
                (Some(username), Some(password_file), None, None, None) => {
                    Ok(Self::Userpass { mount: mount(method), username, password_file })
                }
                _ => Err(
                    "the method userpass takes username and password_file, and mount if it is not `userpass`",
                ),
            },
        }
    }
}
