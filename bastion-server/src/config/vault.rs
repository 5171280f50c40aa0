//! Where Vault or OpenBao is, and how the bastion logs in to it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use vault_signer::login::Method;

/// Where Vault is. What is not set comes from `VAULT_ADDR`, `VAULT_NAMESPACE` and `VAULT_CACERT`, or their `BAO_`
/// twins, as for the vault command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vault {
    /// Such as `https://vault.example.com:8200`.
    pub address: Option<String>,
    /// Of Vault Enterprise or OpenBao.
    pub namespace: Option<String>,
    /// A PEM file with the authorities of Vault's own certificate.
    pub ca_cert: Option<PathBuf>,
    /// Reach a Vault that is not on this machine without TLS. Anybody on the way can then read the bastion's token, and
    /// say whose certificates it believes.
    pub dangerously_allow_plain_http: bool,
    /// Who the bastion is to Vault. Only a host key that Vault signs needs it; public keys are public.
    pub auth: Auth,
}

/// A login to Vault. Secrets stand in files of their own, read at each login.
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
    /// The pod's ServiceAccount, by a token in a file that the kubelet replaces.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// The role there.
        role: String,
        /// Holds the token, whose audience is Vault. There is no default: what lies at the usual place is for the API
        /// server.
        token_file: PathBuf,
    },
}

impl Auth {
    /// The file with the secret.
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

/// As it stands in the file.
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
    /// How: `token`, `approle`, `userpass` or `kubernetes`.
    #[schemars(with = "String")]
    method: Method,
    /// Where the method is mounted, if that is not its name.
    mount: Option<String>,
    /// For token and kubernetes: holds the token.
    token_file: Option<PathBuf>,
    /// For approle.
    role_id: Option<String>,
    /// For approle: holds the secret id.
    secret_id_file: Option<PathBuf>,
    /// For userpass.
    username: Option<String>,
    /// For userpass: holds the password.
    password_file: Option<PathBuf>,
    /// For kubernetes.
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
