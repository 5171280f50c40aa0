//! Finds a token that the user already has: in a flag, the environment, or the file that `vault login` writes.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{Login, LoginError, Mark};
use crate::{
    BoxFuture, Server, Token,
    http::{Error, Errors},
    server::environment,
};

/// The longest token file that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Where a token comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A flag of the command line, or its like.
    Given(SecretString),
    /// `BAO_TOKEN` or `VAULT_TOKEN`.
    Environment(SecretString),
    /// A file, read at each login: after another sign-in the tunnel need not be started again.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("the command line"),
            Self::Environment(_) => f.write_str("VAULT_TOKEN or BAO_TOKEN"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A token that the user already has.
#[derive(Debug)]
pub struct GivenToken {
    source: Source,
    later: Option<Later>,
}

/// The file to which a person signs in anew when a token that cannot change has ended: an environment is fixed once a
/// program runs. What was in it before means nothing.
#[derive(Debug)]
struct Later {
    file: PathBuf,
    at_start: Mark,
}

impl Later {
    fn new(file: PathBuf) -> Self {
        let at_start = Mark::of([file.as_path()]);
        Self { file, at_start }
    }

    fn is_written(&self) -> bool {
        Mark::of([self.file.as_path()]) != self.at_start
    }
}

impl GivenToken {
    /// A token from a known place.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, later: None }
    }

    /// Looks where the bao command looks: `given`, then `BAO_TOKEN` or `VAULT_TOKEN`, then the file of `BAO_TOKEN_PATH`,
    /// then `~/.vault-token`.
    #[must_use]
    pub fn find(given: Option<SecretString>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let source = if let Some(token) = given {
            Source::Given(token)
        } else if let Some(token) = environment(&variable, "TOKEN") {
            Source::Environment(token.into())
        } else {
            Source::File(token_file(&variable))
        };
        let later = match source {
            Source::Given(_) | Source::Environment(_) => Some(Later::new(token_file(&variable))),
            Source::File(_) => None,
        };
        Self { source, later }
    }

    /// Where the token comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }
}

impl Login for GivenToken {
    fn name(&self) -> &'static str {
        "token"
    }

    fn login<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Token, LoginError>> {
        Box::pin(async move {
            let secret = match &self.source {
                Source::Given(token) | Source::Environment(token) => token.clone(),
                Source::File(path) => read(path)?,
            };
            let refused = match look_up(server, secret, self.source.to_string()).await {
                Err(refused @ LoginError::TokenRefused { .. }) => refused,
                answered => return answered,
            };
            match &self.later {
                Some(later) if later.is_written() => {
                    look_up(server, read(&later.file)?, later.file.display().to_string()).await
                }
                Some(_) | None => Err(refused),
            }
        })
    }

    fn mark(&self) -> Mark {
        let own = match &self.source {
            Source::File(path) => Some(path.as_path()),
            Source::Given(_) | Source::Environment(_) => None,
        };
        Mark::of(own.into_iter().chain(self.later.as_ref().map(|later| later.file.as_path())))
    }

    fn unattended(&self) -> bool {
        false
    }
}

async fn look_up(server: &Server, secret: SecretString, origin: String) -> Result<Token, LoginError> {
    match Token::look_up(server, secret.clone()).await {
        Ok(token) => Ok(token),
        Err(Error::Denied { errors, .. }) if is_about_policies(&errors) => Ok(Token::unnamed(secret)),
        Err(source @ Error::Denied { .. }) => Err(LoginError::TokenRefused { origin, source }),
        Err(error) => Err(error.into()),
    }
}

/// The file that `vault login` and `bao login` write.
fn token_file(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(path) = environment(&variable, "TOKEN_PATH") {
        return path.into();
    }
    let home = variable("HOME").unwrap_or_default();
    // Without a home, never the working directory: another user may have written what lies there.
    Path::new("/").join(home).join(".vault-token")
}

/// Whether Vault knows the token, and only its policies do not allow what was asked: for a token without the policy
/// `default`, to look itself up. Vault lists such reasons; of a token that it does not know it says "permission denied"
/// alone, or that it is invalid. What the token may do shows when it is used.
fn is_about_policies(errors: &Errors) -> bool {
    errors.mention("error occurred") && !errors.mention("invalid token") && !errors.mention("bad token")
}

fn read(path: &Path) -> Result<SecretString, LoginError> {
    let wrong = |reason: String| LoginError::TokenFile { path: path.to_owned(), reason };
    let missing = || LoginError::NoToken { file: path.display().to_string() };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(wrong(format!("the token file cannot be read: {error}"))),
    };
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(|_| wrong("is not a token file".into()))?;
    match text.trim() {
        "" => Err(missing()),
        token => Ok(token.into()),
    }
}
