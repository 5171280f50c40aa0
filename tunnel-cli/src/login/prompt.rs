//! Asks for a password on the terminal, once, and without an echo.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    sync::{Mutex, PoisonError},
};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use plain_text::escaped;
use secrecy::SecretString;
use tokio::sync::OnceCell;
use vault_signer::{
    BoxFuture, Server, Token,
    login::{Login, LoginError, Userpass},
};
use zeroize::Zeroizing;

use super::LONGEST;

/// A login by user name whose password is asked for at the first one.
#[derive(Debug)]
pub(super) struct PromptedUserpass {
    mount: String,
    username: String,
    answered: OnceCell<Userpass>,
}

impl PromptedUserpass {
    pub(super) fn new(mount: String, username: String) -> Self {
        Self { mount, username, answered: OnceCell::new() }
    }
}

impl Login for PromptedUserpass {
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
                    let password = password.ok_or(NO_TERMINAL)?;
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

const NO_TERMINAL: &str = "there is no terminal to ask for the password; set PF_TUNNEL_PASSWORD";

/// The terminal as it was before a question, for an end of the program in the middle of one.
static SAVED_TERMINAL: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Gives the terminal its echo back, if a question took it.
pub(crate) fn restore_terminal() {
    if let Some((terminal, before)) = SAVED_TERMINAL.lock().unwrap_or_else(PoisonError::into_inner).take() {
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
    *SAVED_TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((terminal.try_clone().ok()?, before));
    let line = (|| {
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent).ok()?;
        write!(&terminal, "{}", escaped(question, 200)).ok()?;
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
