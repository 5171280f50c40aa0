//! Is the client of the real server, up to the moment at which that has taken our credentials.

use super::{LONGEST_ANSWER, command::written, error::ServerError};
use crate::{
    inbox::{Inbox, Unasked},
    link::{Link, TlsFacts, TlsMode},
    password::Password,
    step::{Machine, Outgoing, Step},
};

/// A user and a password.
#[derive(Clone, Debug)]
pub struct Credentials {
    user: Option<String>,
    password: Password,
}

impl Credentials {
    /// Of a user of the server's ACL; or, without a user, the one password that older servers have.
    #[must_use]
    pub fn new(user: Option<&str>, password: Password) -> Self {
        Self { user: user.map(str::to_owned), password }
    }

    /// The command `AUTH`.
    pub(crate) fn auth(&self) -> Outgoing {
        let words = [Some(&b"AUTH"[..]), self.user.as_deref().map(str::as_bytes), Some(self.password())];
        Outgoing::new(written(&words.into_iter().flatten().collect::<Vec<_>>()))
    }

    /// The user as `HELLO` wants it.
    pub(crate) fn user(&self) -> &[u8] {
        self.user.as_deref().unwrap_or("default").as_bytes()
    }

    pub(crate) fn password(&self) -> &[u8] {
        self.password.expose().as_bytes()
    }
}

/// Why there is no login.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The certificate was not verified, and had to be.
    #[error("the server's certificate was not verified")]
    NotVerified,
    /// The server refuses.
    #[error("the server refuses: {} ({})", .0.message(), .0.code())]
    Server(ServerError),
    /// The answer is neither yes nor no.
    #[error("the server answers AUTH with {:?}, which is not Redis'", char::from(*.0))]
    Unexpected(u8),
    /// The answer does not end.
    #[error("the server's answer to AUTH is longer than {LONGEST_ANSWER} bytes")]
    TooLong,
    /// The caller gave more than was asked for.
    #[error("{0}")]
    Unasked(#[from] Unasked),
    /// The machine was asked for more after its end.
    #[error("the login is over")]
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    InTls,
    Login,
    Answer,
    Over,
}

/// The client of one server. It is driven by its steps until it is ready.
#[derive(Debug)]
pub struct Client {
    credentials: Credentials,
    tls: TlsMode,
    inbox: Inbox,
    state: State,
}

impl Client {
    /// A connection on which nothing was sent. Redis is sent the password itself: without TLS, all who see
    /// the connection see it.
    #[must_use]
    pub fn new(credentials: Credentials, tls: TlsMode) -> Self {
        Self { credentials, tls, inbox: Inbox::new(), state: State::Begin }
    }

    fn log_in(&mut self) -> Result<Step<()>, Refused> {
        self.state = State::Answer;
        Ok(Step::Write(self.credentials.auth()))
    }

    /// Reads a line, and not a byte more than it certainly has.
    fn answer(&mut self) -> Result<Step<()>, Refused> {
        let held = self.inbox.held();
        match held.first() {
            None | Some(b'+' | b'-') => {}
            Some(other) => return Err(Refused::Unexpected(*other)),
        }
        if held.ends_with(b"\r\n") {
            let line = self.inbox.take();
            return match line.first() {
                Some(b'+') => Ok(Step::Ready(())),
                _ => Err(Refused::Server(ServerError::new(&line))),
            };
        }
        let length = held.len();
        let missing = match held.last() {
            None => 3,
            Some(b'\r') => 1,
            Some(_) => 2,
        };
        if length + missing > LONGEST_ANSWER {
            return Err(Refused::TooLong);
        }
        if self.inbox.missing() == 0 {
            self.inbox.want(length + missing);
        }
        self.state = State::Answer;
        Ok(Step::Read(self.inbox.missing()))
    }
}

impl Machine for Client {
    type Answer = ();
    type Refusal = Refused;

    /// The next thing to do.
    ///
    /// # Errors
    /// When there will be no login.
    fn step(&mut self) -> Result<Step<()>, Refused> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Begin if self.tls == TlsMode::Disable => self.log_in(),
            State::Begin | State::InTls => {
                self.state = State::InTls;
                Ok(Step::StartTls)
            }
            State::Login => self.log_in(),
            State::Answer => self.answer(),
            State::Over => Err(Refused::Over),
        }
    }

    /// Takes bytes that were asked for.
    ///
    /// # Errors
    /// When they are more.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        Ok(self.inbox.feed(bytes)?)
    }

    /// TLS has begun.
    ///
    /// # Errors
    /// When the certificate had to be verified, and was not.
    fn tls_started(&mut self, facts: TlsFacts<'_>) -> Result<(), Refused> {
        if self.state == State::InTls {
            self.state = State::Over;
            Link::after_tls(self.tls, facts).ok_or(Refused::NotVerified)?;
            self.state = State::Login;
        }
        Ok(())
    }
}
