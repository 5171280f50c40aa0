//! Settings of Vault or OpenBao: its address, and the bastion's login to it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use vault_signer::login::Method;

/// The Vault or OpenBao server. Settings that are missing come from `VAULT_ADDR`, `VAULT_NAMESPACE` and
/// `VAULT_CACERT`, or their `BAO_` equivalents, as for the vault command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vault {
    /// The server's address, for example `https://vault.example.com:8200`.
    pub address: Option<String>,
    /// The namespace of Vault Enterprise or OpenBao. Default: none.
    pub namespace: Option<String>,
    /// A PEM file with the certificate authorities of the server's TLS certificate. Default: those of the
    /// system.
    pub ca_cert: Option<PathBuf>,
    /// Permits plain HTTP to a Vault that is not on this machine. An attacker on the path can then read the
    /// bastion's token and choose which authorities it trusts. Default: false.
    pub dangerously_allow_plain_http: bool,
    /// The bastion's login to Vault. Only a host key that Vault signs needs one; public keys can be read
    /// without a login. Default: `{method: token}`.
    pub auth: Auth,
}

/// A login to Vault. Secrets are in files of their own, which are read at each login.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
#[schemars(with = "Written")]
pub enum Auth {
    /// A token from a file, or from where the vault command looks for it.
    Token {
        /// The file; without it `VAULT_TOKEN`, `BAO_TOKEN` or `~/.vault-token`.
        file: Option<PathBuf>,
    },
    /// A role id, and a secret id in a file.
    AppRole { mount: String, role_id: String, secret_id_file: PathBuf },
    /// A user name, and a password in a file.
    Userpass { mount: String, username: String, password_file: PathBuf },
    /// The pod's ServiceAccount, by a projected token in a file that the kubelet replaces.
    Kubernetes {
        mount: String,
        role: String,
        /// A token whose audience is Vault. There is no default: the token in the usual place is for the API
        /// server.
        token_file: PathBuf,
    },
}

impl Auth {
    /// The file that holds the secret.
    pub fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Token { file } => file.as_ref(),
            Self::AppRole { secret_id_file, .. } => Some(secret_id_file),
            Self::Userpass { password_file, .. } => Some(password_file),
            Self::Kubernetes { token_file, .. } => Some(token_file),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::Token { file: None }
    }
}

/// The login as it is written in the file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"properties": {"method": {"const": "token"}, "mount": true, "token_file": true}, "additionalProperties": false},
    {"properties": {"method": {"const": "approle"}, "mount": true, "role_id": true, "secret_id_file": true},
     "required": ["role_id", "secret_id_file"], "additionalProperties": false},
    {"properties": {"method": {"const": "userpass"}, "mount": true, "username": true, "password_file": true},
     "required": ["username", "password_file"], "additionalProperties": false},
    {"properties": {"method": {"const": "kubernetes"}, "mount": true, "role": true, "token_file": true},
     "required": ["role", "token_file"], "additionalProperties": false},
]))]
struct Written {
    /// The auth method: `token`, `approle`, `userpass` or `kubernetes`.
    #[schemars(with = "String")]
    method: Method,
    /// The path at which the auth method is mounted. Default: the method's name.
    mount: Option<String>,
    /// The file that holds the token; for `token` and `kubernetes`. Default for `token`: `VAULT_TOKEN`,
    /// `BAO_TOKEN` or `~/.vault-token`.
    token_file: Option<PathBuf>,
    /// The role id, which is not secret; for `approle`.
    role_id: Option<String>,
    /// The file that holds the secret id; for `approle`.
    secret_id_file: Option<PathBuf>,
    /// The user name; for `userpass`.
    username: Option<String>,
    /// The file that holds the password; for `userpass`.
    password_file: Option<PathBuf>,
    /// The role of the auth method; for `kubernetes`.
    role: Option<String>,
}

impl TryFrom<Written> for Auth {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { method, mount, role, token_file, role_id, secret_id_file, username, password_file } =
            written;
        let usual = || mount.clone().unwrap_or_else(|| method.name().to_owned());
        match (method, role, token_file, role_id, secret_id_file, username, password_file) {
            (Method::Token, None, file, None, None, None, None) => Ok(Self::Token { file }),
            (Method::AppRole, None, None, Some(role_id), Some(secret_id_file), None, None) => {
                Ok(Self::AppRole { mount: usual(), role_id, secret_id_file })
            }
            (Method::Userpass, None, None, None, None, Some(username), Some(password_file)) => {
                Ok(Self::Userpass { mount: usual(), username, password_file })
            }
            (Method::Kubernetes, Some(role), Some(token_file), None, None, None, None) => {
                Ok(Self::Kubernetes { mount: usual(), role, token_file })
            }
            (Method::Token, ..) => Err("the method token takes token_file and nothing else"),
            (Method::AppRole, ..) => {
                Err("the method approle takes role_id and secret_id_file, and mount if it is not `approle`")
            }
            (Method::Userpass, ..) => {
                Err("the method userpass takes username and password_file, and mount if it is not `userpass`")
            }
            (Method::Kubernetes, ..) => {
                Err("the method kubernetes takes role and token_file, and mount if it is not `kubernetes`")
            }
        }
    }
}
