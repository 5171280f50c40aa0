//! Which login to Vault the settings mean, and where its secrets come from. None comes from a command line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;
use tokio::sync::OnceCell;
use vault_signer::login::{AppRole, GivenToken, Kubernetes, Login, LoginError, Method, Source, Userpass};
use vault_signer::server::Ca;
use vault_signer::{BoxFuture, Server, Token};
use zeroize::Zeroizing;

use crate::config::{Layer, Sourced};
use crate::credential::SignIn;
use crate::failure::{Failure, Stage};
use crate::output::clean;

/// The longest secret that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The login that `settings` mean.
pub(super) fn of(
    settings: &Layer,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Box<dyn Login>, Failure> {
    let auth = &settings.auth;
    let method = auth.method.as_ref().map(|method| method.value).unwrap_or_default();
    let mount = auth.mount.as_ref().map_or_else(|| method.name().to_owned(), |mount| mount.value.clone());
    let secret = |name: &str| variable(name).filter(|secret| !secret.is_empty()).map(SecretString::from);
    match method {
        Method::Token => Ok(Box::new(match &auth.token_file {
            Some(Sourced { value: path, .. }) if path.as_os_str() == "-" => {
                GivenToken::find(Some(read(&mut std::io::stdin().lock(), "standard input")?), variable)
            }
            Some(Sourced { value: path, .. }) => GivenToken::new(Source::File(path.clone())),
            None => GivenToken::find(None, variable),
        })),
        Method::AppRole => {
            let role_id =
                needed(&auth.role_id, "AppRole needs a role id", "--role-id or vault.auth.role_id")?;
            let secret_id = match (&auth.secret_id_file, secret("PF_TUNNEL_SECRET_ID")) {
                (Some(Sourced { value: path, .. }), _) => read_file(path)?,
                (None, Some(secret)) => secret,
                (None, None) => {
                    return Err(super::missing(
                        "AppRole needs a secret id",
                        "Name a file with --secret-id-file, or set PF_TUNNEL_SECRET_ID",
                    ));
                }
            };
            Ok(Box::new(AppRole::new(mount, role_id, secret_id)))
        }
        Method::Userpass => {
            let username =
                needed(&auth.username, "userpass needs a user name", "--username or vault.auth.username")?;
            match secret("PF_TUNNEL_PASSWORD") {
                Some(password) => Ok(Box::new(Userpass::new(mount, username, password))),
                None => Ok(Box::new(Asked { mount, username, answered: OnceCell::new() })),
            }
        }
        Method::Kubernetes => {
            let role =
                needed(&auth.role, "the kubernetes login needs a role", "--auth-role or vault.auth.role")?;
            let file = needed(
                &auth.token_file,
                "the kubernetes login needs a token whose audience is Vault",
                "--token-file or vault.auth.token_file",
            )?;
            Ok(Box::new(Kubernetes::new(mount, role, file)))
        }
    }
}

/// What a person types to get a new token, for a login that needs one.
pub(super) fn sign_in(
    settings: &Layer,
    server: &Server,
    variable: impl Fn(&str) -> Option<String>,
) -> SignIn {
    let either = |name: &str| {
        let set = |prefix: &str| variable(&format!("{prefix}_{name}")).filter(|value| !value.is_empty());
        set("BAO").or_else(|| set("VAULT"))
    };
    let plain = |value: &Option<Sourced<String>>| value.as_ref().map(|sourced| sourced.value.clone());
    let file = settings.auth.token_file.as_ref().map(|file| file.value.clone());
    SignIn {
        program: SignIn::program(variable("PATH").as_deref()),
        address: server.address().to_owned(),
        namespace: plain(&settings.namespace).or_else(|| either("NAMESPACE")),
        ca_cert: match settings.ca.as_ref().map(|ca| &ca.value) {
            Some(Ca::File(path)) => Some(path.clone()),
            Some(_) => None,
            None => either("CACERT").map(Into::into),
        },
        token_file: file.filter(|path| path.as_os_str() != "-"),
    }
}

fn needed<T: Clone>(setting: &Option<Sourced<T>>, what: &str, cure: &str) -> Result<T, Failure> {
    setting
        .as_ref()
        .map(|sourced| sourced.value.clone())
        .ok_or_else(|| super::missing(what, &format!("Give it with {cure}")))
}

fn read_file(path: &Path) -> Result<SecretString, Failure> {
    let name = path.display().to_string();
    let mut file = File::open(path).map_err(|error| unreadable(&name, &error.to_string()))?;
    read(&mut file, &name)
}

/// The trimmed text of a secret. What it is never gets into an error.
fn read(from: &mut impl Read, name: &str) -> Result<SecretString, Failure> {
    let mut text = Zeroizing::new(String::new());
    from.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(name, &error.kind().to_string()))?;
    match text.trim() {
        "" => Err(unreadable(name, "it is empty")),
        secret => Ok(secret.into()),
    }
}

fn unreadable(name: &str, why: &str) -> Failure {
    Failure::lasting(Stage::Configuration, format!("a secret cannot be read from {name}: {why}"))
}

/// A person who is asked for a password once, at the first login.
#[derive(Debug)]
struct Asked {
    mount: String,
    username: String,
    answered: OnceCell<Userpass>,
}

impl Login for Asked {
    fn name(&self) -> &'static str {
        "userpass"
    }

    fn login<'a>(&'a self, server: &'a Server) -> BoxFuture<'a, Result<Token, LoginError>> {
        Box::pin(async move {
            let question = format!("Password of {} for {}: ", self.username, server.name());
            let userpass = self
                .answered
                .get_or_try_init(async || {
                    let password = tokio::task::spawn_blocking(move || ask(&question)).await.ok().flatten();
                    let password = password.ok_or(NOBODY_TO_ASK)?;
                    Ok::<_, &'static str>(Userpass::new(self.mount.clone(), self.username.clone(), password))
                })
                .await
                .map_err(|reason| LoginError::TokenFile {
                    path: "/dev/tty".into(),
                    reason: reason.to_owned(),
                })?;
            userpass.login(server).await
        })
    }

    fn unattended(&self) -> bool {
        self.answered.initialized()
    }
}

const NOBODY_TO_ASK: &str = "there is no terminal to ask for the password; set PF_TUNNEL_PASSWORD";

/// The terminal as it was before a question, for whoever ends the program in the middle of one.
static BEFORE: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Gives the terminal its echo back, if a question took it.
pub(super) fn restore_terminal() {
    if let Some((terminal, before)) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(&terminal, SetArg::TCSANOW, &before);
    }
}

/// Asks on the terminal, whatever standard input and output are, without an echo.
fn ask(question: &str) -> Option<SecretString> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    let before = tcgetattr(&terminal).ok()?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    silent.local_flags.insert(LocalFlags::ECHONL);
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal.try_clone().ok()?, before));
    let line = (|| {
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent).ok()?;
        write!(&terminal, "{}", clean(question, 200)).ok()?;
        let mut line = Zeroizing::new(String::new());
        BufReader::new(&terminal).take(LONGEST).read_line(&mut line).ok()?;
        Some(line)
    })();
    restore_terminal();
    match line?.trim_end_matches(['\r', '\n']) {
        "" => None,
        password => Some(password.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auth, Source as From};

    fn layer(method: Method, auth: Auth) -> Layer {
        let method = Some(Sourced::new(method, From::Default));
        Layer { auth: Auth { method, ..auth }, ..Layer::default() }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (method, words) in [
            (Method::AppRole, "--role-id"),
            (Method::Userpass, "--username"),
            (Method::Kubernetes, "--auth-role"),
        ] {
            let failure = of(&layer(method, Auth::default()), |_| None).unwrap_err();
            assert_eq!(failure.stage(), Stage::Configuration);
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }

    #[test]
    fn a_secret_comes_from_a_file_or_the_environment_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        let role_id = || Some(Sourced::new("role".to_owned(), From::Default));
        let file = Some(Sourced::new(path, From::Default));
        let from_file =
            layer(Method::AppRole, Auth { role_id: role_id(), secret_id_file: file, ..Auth::default() });
        let from_environment = layer(Method::AppRole, Auth { role_id: role_id(), ..Auth::default() });
        let variable = |name: &str| (name == "PF_TUNNEL_SECRET_ID").then(|| "hunter2".to_owned());
        for login in [of(&from_file, |_| None).unwrap(), of(&from_environment, variable).unwrap()] {
            assert_eq!(login.name(), "approle");
            assert!(!format!("{login:?}").contains("hunter2"));
        }
    }
}
