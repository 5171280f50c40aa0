//! Runs the subcommands, which share how they reach Vault, log in and print.

pub(crate) mod bootstrap;
pub(crate) mod dev;
pub(crate) mod sign;

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
};

use secrecy::SecretString;
use vault_signer::{
    Server, Settings, Token,
    login::{AppRole, GivenToken, Kubernetes, Login, Method, Source, Userpass},
    server::{Ca, not_obeyed},
};
use zeroize::Zeroizing;

use crate::{cli::Connection, failure::Failure};

/// The longest key or secret that is read from a file, in bytes.
const LONGEST_FILE: u64 = 64 * 1024;

/// Prints for people, to standard error. Where that is closed, nothing is lost that could be told elsewhere.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints the result, to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()).map_err(Failure::Output)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Finds the server and logs in to it.
async fn connect(connection: Connection) -> Result<(Server, Token), Failure> {
    let settings = Settings {
        address: connection.address.clone(),
        namespace: connection.namespace.clone(),
        ca: connection.ca_cert.clone().map(Ca::File),
        dangerously_allow_plain_http: connection.dangerously_allow_plain_http,
        ..Settings::default()
    };
    for sentence in not_obeyed(variable) {
        tell(&format!("warning: {sentence}"));
    }
    let server = Server::new(&settings.or_environment(variable)?)?;
    let token = login(connection)?.login(&server).await?;
    Ok((server, token))
}

fn login(connection: Connection) -> Result<Box<dyn Login>, Failure> {
    let mount = connection.auth_mount.unwrap_or_else(|| connection.auth.name().to_owned());
    let missing = |flag: &str| Failure::Arguments(format!("{} needs {flag}", connection.auth));
    Ok(match connection.auth {
        Method::Token => match connection.token_file {
            Some(path) => Box::new(GivenToken::new(Source::File(path))),
            None => Box::new(GivenToken::find(None, variable)),
        },
        Method::AppRole => {
            let role_id =
                connection.role_id.filter(|id| !id.is_empty()).ok_or_else(|| missing("--role-id"))?;
            let file = connection.secret_id_file.ok_or_else(|| missing("--secret-id-file"))?;
            Box::new(AppRole::new(mount, role_id, secret(&file)?))
        }
        Method::Userpass => {
            let username = connection.username.ok_or_else(|| missing("--username"))?;
            let file = connection.password_file.ok_or_else(|| missing("--password-file"))?;
            Box::new(Userpass::new(mount, username, secret(&file)?))
        }
        Method::Kubernetes => {
            let role = connection.auth_role.ok_or_else(|| missing("--auth-role"))?;
            let file = connection.token_file.ok_or_else(|| missing("--token-file"))?;
            Box::new(Kubernetes::new(mount, role, file))
        }
    })
}

/// The first line of a file. Its content is in no error.
fn secret(path: &Path) -> Result<SecretString, Failure> {
    match read(path)?.lines().next() {
        None | Some("") => Err(unusable(path, "is empty")),
        Some(line) => Ok(line.into()),
    }
}

/// A short text file.
fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_all(path, File::open(path).map_err(|error| unusable(path, &error.to_string()))?)
}

/// A short text. `path` is its name.
fn read_all(path: &Path, from: impl std::io::Read) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    from.take(LONGEST_FILE).read_to_string(&mut text).map_err(|_| unusable(path, "is not a text file"))?;
    Ok(text)
}

fn unusable(path: &Path, reason: &str) -> Failure {
    Failure::Arguments(format!("{}: {reason}", path.display()))
}
