//! Connects to Vault or OpenBao, and logs in when something must be signed.

use std::{io::Read, path::Path, path::PathBuf};

use secrecy::SecretString;
use vault_signer::{
    Server, Settings,
    login::{AppRole, GivenToken, Kubernetes, Login, LoginError, Source, Userpass},
    server::{Ca, SettingsError, not_obeyed},
};

use crate::config::{self, Auth};

/// The largest file with a secret that is read, in bytes.
const LONGEST_SECRET: u64 = 64 * 1024;

/// A Vault server, and the bastion's login to it. Nothing is sent before it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    server: Server,
    auth: Auth,
}

/// Why the bastion is not logged in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file with a secret cannot be used. The message never shows its content.
    #[error("{}: {reason}\n  vault.auth names it; write the secret into it, readable for the bastion alone", .path.display())]
    Secret { path: PathBuf, reason: String },
    /// Vault refused the login.
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl Vault {
    /// Reads the configuration, and settings that it leaves out from the environment.
    ///
    /// # Errors
    /// When the address, or the file of trusted certificates, cannot be used.
    pub(crate) fn new(
        config: &config::Vault,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let settings = Settings {
            address: config.address.clone(),
            namespace: config.namespace.clone(),
            ca: config.ca_cert.clone().map(Ca::File),
            dangerously_allow_plain_http: config.dangerously_allow_plain_http,
            ..Settings::default()
        };
        for sentence in not_obeyed(&variable) {
            tracing::warn!("{sentence}");
        }
        let server = Server::new(&settings.or_environment(variable)?)?;
        Ok(Self { server, auth: config.auth.clone() })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Logs in, and returns a signer with the engine at `mount`. Secrets are read each time, so that they may
    /// change.
    ///
    /// # Errors
    /// When a secret cannot be read, or Vault refuses.
    pub(crate) async fn signer(&self, mount: &str) -> Result<vault_signer::Vault, Error> {
        let token = self.login()?.login(&self.server).await?;
        Ok(vault_signer::Vault::new(self.server.clone(), token, mount))
    }

    /// Reads the secrets, without using them.
    ///
    /// # Errors
    /// When a secret cannot be read.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(file) = self.auth.file() {
            secret(file)?;
        }
        self.login().map(drop)
    }

    fn login(&self) -> Result<Box<dyn Login>, Error> {
        Ok(match &self.auth {
            Auth::Token { file: Some(file) } => Box::new(GivenToken::new(Source::File(file.clone()))),
            Auth::Token { file: None } => Box::new(GivenToken::find(None, |name| std::env::var(name).ok())),
            Auth::AppRole { mount, role_id, secret_id_file } => {
                Box::new(AppRole::new(mount, role_id, secret(secret_id_file)?))
            }
            Auth::Userpass { mount, username, password_file } => {
                Box::new(Userpass::new(mount, username, secret(password_file)?))
            }
            Auth::Kubernetes { mount, role, token_file } => {
                Box::new(Kubernetes::new(mount, role, token_file))
            }
        })
    }
}

/// Reads the single line of a file with a secret.
fn secret(path: &Path) -> Result<SecretString, Error> {
    let wrong = |reason: String| Error::Secret { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(LONGEST_SECRET).read_to_string(&mut text).map_err(|_| wrong("this is not text".to_owned()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(wrong("it is empty".to_owned())),
        text => Ok(text.into()),
    }
}
