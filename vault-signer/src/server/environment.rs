//! Reads what the `bao` and `vault` commands take from their environment, and what becomes of each of it here.

use std::path::PathBuf;

use super::{Ca, ClientCertificate, Hidden, Pem, Settings, SettingsError};

/// What becomes of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It means what it means to the command.
    Obeyed,
    /// Nothing is done while it is set.
    Refused,
    /// It is passed over; says why, for a warning.
    NotObeyed(&'static str),
    /// It is passed over silently: what it asks for is always so here, or is about what is printed.
    NoMatter,
}

/// Every variable of the commands, without the `BAO_` or `VAULT_` before it.
pub const VARIABLES: [(&str, Treatment); 27] = [
    ("ADDR", Treatment::Obeyed),
    ("AGENT_ADDR", Treatment::Obeyed),
    ("CACERT", Treatment::Obeyed),
    ("CACERT_BYTES", Treatment::Obeyed),
    ("CAPATH", Treatment::Obeyed),
    ("CLIENT_CERT", Treatment::Obeyed),
    ("CLIENT_CERT_BYTES", Treatment::Obeyed),
    ("CLIENT_KEY", Treatment::Obeyed),
    ("CLIENT_KEY_BYTES", Treatment::Obeyed),
    ("HTTP_PROXY", Treatment::Obeyed),
    ("NAMESPACE", Treatment::Obeyed),
    ("PROXY_ADDR", Treatment::Obeyed),
    ("TLS_SERVER_NAME", Treatment::Obeyed),
    ("TOKEN", Treatment::Obeyed),
    ("TOKEN_PATH", Treatment::Obeyed),
    ("SKIP_VERIFY", Treatment::Refused),
    ("CLIENT_TIMEOUT", Treatment::NotObeyed("an answer is waited for ten seconds")),
    ("CONFIG_PATH", Treatment::NotObeyed("the command's own file, and a token helper in it, are not used")),
    ("HEADERS", Treatment::NotObeyed("no headers of your own are sent")),
    ("MAX_RETRIES", Treatment::NotObeyed("what may pass is tried again in our own way")),
    ("MFA", Treatment::NotObeyed("a second factor is not supported; sign in with the command first")),
    ("RATE_LIMIT", Treatment::NotObeyed("there are only a few requests")),
    ("SRV_LOOKUP", Treatment::NotObeyed("the address is used as it is, without asking for SRV records")),
    ("WRAP_TTL", Treatment::NotObeyed("answers are not wrapped")),
    ("CLI_NO_COLOR", Treatment::NoMatter),
    ("DISABLE_REDIRECTS", Treatment::NoMatter),
    ("FORMAT", Treatment::NoMatter),
];

/// The value of `BAO_name`, or else of `VAULT_name`, as the `bao` command reads it: a `BAO_` variable that is present
/// wins, even an empty one; an empty one is none.
pub(crate) fn environment(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let (_, value) = environment_named(variable, name)?;
    Some(value)
}

fn environment_named(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<(String, String)> {
    let (bao, vault) = (format!("BAO_{name}"), format!("VAULT_{name}"));
    variable(&bao)
        .map(|value| (bao, value))
        .or_else(|| variable(&vault).map(|value| (vault, value)))
        .filter(|(_, value)| !value.is_empty())
}

/// A sentence for each variable that is set and is not obeyed, and for a token helper. Values are not repeated.
#[must_use]
pub fn not_obeyed(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut sentences: Vec<String> = VARIABLES
        .into_iter()
        .filter_map(|(name, treatment)| match treatment {
            Treatment::NotObeyed(why) => {
                let (name, _) = environment_named(&variable, name)?;
                Some(format!("{name} is set, and not obeyed: {why}"))
            }
            Treatment::Obeyed | Treatment::Refused | Treatment::NoMatter => None,
        })
        .collect();
    let has_token = ["TOKEN", "TOKEN_PATH"].iter().any(|name| environment(&variable, name).is_some());
    if !has_token && let Some(file) = token_helper(&variable) {
        sentences.push(format!(
            "{} names a token helper, and that is not asked: set VAULT_TOKEN, for example to what `vault print token` prints",
            file.display()
        ));
    }
    sentences
}

/// The command's own file, if it names a program that keeps the token.
fn token_helper(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = PathBuf::from(variable("HOME").filter(|home| !home.is_empty())?);
    [".bao", ".vault"].into_iter().map(|name| home.join(name)).find(|path| {
        let is_file = path.metadata().is_ok_and(|about| about.is_file() && about.len() <= 64 * 1024);
        let text = if is_file { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        text.lines().any(|line| line.trim_start().trim_start_matches('"').starts_with("token_helper"))
    })
}

impl Settings {
    /// Fills what is not set from `BAO_ADDR` or `VAULT_ADDR`, and so on, as the `bao` command does.
    ///
    /// # Errors
    /// [`SettingsError::SkipVerify`] if the environment asks not to verify the server, [`SettingsError::Client`] if it
    /// has one half of a client certificate.
    pub fn or_environment(self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        for prefix in ["BAO_", "VAULT_"] {
            let name = format!("{prefix}SKIP_VERIFY");
            let asked = variable(&name).unwrap_or_default();
            if !matches!(asked.as_str(), "" | "0" | "f" | "F" | "false" | "FALSE" | "False") {
                return Err(SettingsError::SkipVerify { name });
            }
        }
        let said = |name: &str| environment(&variable, name);
        Ok(Self {
            address: self.address.or_else(|| said("AGENT_ADDR")).or_else(|| said("ADDR")),
            namespace: self.namespace.or_else(|| said("NAMESPACE")),
            ca: self.ca.or_else(|| Ca::of_environment(&variable)),
            tls_server_name: self.tls_server_name.or_else(|| said("TLS_SERVER_NAME")),
            client: match self.client {
                Some(client) => Some(client),
                None => client(&said)?,
            },
            proxy: self.proxy.or_else(|| said("PROXY_ADDR").or_else(|| said("HTTP_PROXY")).map(Hidden::from)),
            dangerously_allow_plain_http: self.dangerously_allow_plain_http,
        })
    }
}

impl Ca {
    /// What the environment says, in the order in which the `bao` command looks.
    #[must_use]
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let said = |name: &str| environment(&variable, name);
        said("CACERT")
            .map(|path| Self::File(path.into()))
            .or_else(|| said("CACERT_BYTES").map(Self::Text))
            .or_else(|| said("CAPATH").map(|path| Self::Folder(path.into())))
    }
}

fn client(said: &impl Fn(&str) -> Option<String>) -> Result<Option<ClientCertificate>, SettingsError> {
    let files = (said("CLIENT_CERT"), said("CLIENT_KEY"));
    let texts = (said("CLIENT_CERT_BYTES"), said("CLIENT_KEY_BYTES"));
    match (files, texts) {
        ((Some(certificate), Some(key)), _) => Ok(Some(ClientCertificate {
            certificate: Pem::File(certificate.into()),
            key: Pem::File(key.into()),
        })),
        (_, (Some(certificate), Some(key))) => Ok(Some(ClientCertificate {
            certificate: Pem::Text(certificate.into()),
            key: Pem::Text(key.into()),
        })),
        ((None, None), (None, None)) => Ok(None),
        _ => Err(SettingsError::Client { reason: "one half of it is not set".into() }),
    }
}
