//! Makes the login to Vault that the settings mean. Its secrets come from files, the environment or the terminal, and never
//! from a command line.

mod prompt;

use std::{fs::File, io::Read, path::Path};

use secrecy::SecretString;
use vault_signer::{
    Server,
    login::{AppRole, GivenToken, Kubernetes, Login, Method, Source, Userpass},
    server::Ca,
};
use zeroize::Zeroizing;

use crate::{
    config::{Settings, Sourced},
    credential::SignIn,
    failure::{Failure, Stage, missing},
};
use prompt::PromptedUserpass;
pub(crate) use prompt::restore_terminal;

/// The longest secret that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The login that `settings` mean.
pub(crate) fn of(
    settings: &Settings,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Box<dyn Login>, Failure> {
    let auth = &settings.auth;
    let mount = auth.mount.value.clone();
    let secret = |name: &str| variable(name).filter(|secret| !secret.is_empty()).map(SecretString::from);
    match auth.method.value {
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
                    return Err(missing(
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
                None => Ok(Box::new(PromptedUserpass::new(mount, username))),
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
pub(crate) fn sign_in(
    settings: &Settings,
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
        .ok_or_else(|| missing(what, &format!("Give it with {cure}")))
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
    Failure::permanent(Stage::Configuration, format!("a secret cannot be read from {name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PartialAuth, PartialSettings, Source as From};

    fn settings(method: Method, auth: PartialAuth) -> Settings {
        let method = Some(Sourced::new(method, From::Default));
        let auth = PartialAuth { method, ..auth };
        PartialSettings { auth, ..PartialSettings::default() }.resolve().0
    }

    #[test]
    fn what_is_missing_is_named() {
        for (method, words) in [
            (Method::AppRole, "--role-id"),
            (Method::Userpass, "--username"),
            (Method::Kubernetes, "--auth-role"),
        ] {
            let failure = of(&settings(method, PartialAuth::default()), |_| None).unwrap_err();
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
        let from_file = settings(
            Method::AppRole,
            PartialAuth { role_id: role_id(), secret_id_file: file, ..PartialAuth::default() },
        );
        let from_environment =
            settings(Method::AppRole, PartialAuth { role_id: role_id(), ..PartialAuth::default() });
        let variable = |name: &str| (name == "PF_TUNNEL_SECRET_ID").then(|| "hunter2".to_owned());
        for login in [of(&from_file, |_| None).unwrap(), of(&from_environment, variable).unwrap()] {
            assert_eq!(login.name(), "approle");
            assert!(!format!("{login:?}").contains("hunter2"));
        }
    }
}
