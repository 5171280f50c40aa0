//! Is the client of the real server, up to the moment at which that is ready for a statement.

use std::fmt;

use zeroize::Zeroizing;

use super::{
    LONGEST_GREETING, LONGEST_MESSAGE,
    certificate::end_point_hash,
    error::ServerError,
    message::{Framer, Length, Message, Shape, Writer},
    scram::{self, Binding, ClientExchange, Nonce, ScramError, ServerProof},
    server::md5_answer,
    startup::{self, CancelKey, Startup},
};
use crate::{
    inbox::Unasked,
    link::{ClearPassword, Link, TlsFacts, TlsMode},
    password::Password,
    reader::Reader,
    step::{Machine, Outgoing, Step},
};

/// What a login needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first message: user, database, and all that the client wants.
    pub startup: Startup,
    /// The password; a server that asks for one when there is none is refused.
    pub password: Option<Password>,
    /// What TLS has to be.
    pub tls: TlsMode,
    /// When the password may be sent as it is.
    pub clear: ClearPassword,
    /// What makes the exchange unlike every other.
    pub nonce: Nonce,
}

/// A session with a server that is ready.
pub struct Session {
    negotiation: Vec<u8>,
    greeting: Zeroizing<Vec<u8>>,
    key: Option<CancelKey>,
}

impl Session {
    /// The server's `NegotiateProtocolVersion`, if there was one.
    pub(crate) fn negotiation(&self) -> &[u8] {
        &self.negotiation
    }

    /// All that the server said from its permission until it was ready: `ParameterStatus`, `BackendKeyData`
    /// and notices, as they came.
    #[must_use]
    pub fn greeting(&self) -> &[u8] {
        &self.greeting
    }

    /// The key with which the session's statements are cancelled, which the greeting has too.
    #[must_use]
    pub fn key(&self) -> Option<&CancelKey> {
        self.key.as_ref()
    }
}

/// The greeting has the key, and is not printed.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} bytes of greeting, {:?})", self.greeting.len(), self.key)
    }
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The server has no TLS.
    #[error("the server offers no TLS, and a login without it is not allowed")]
    NoTls,
    /// The server answers the request for TLS with something else than yes or no.
    #[error("the server answers the request for TLS with a byte {0:#04x}, which is not PostgreSQL's")]
    TlsAnswer(u8),
    /// The certificate was not verified, and had to be.
    #[error("the server's certificate was not verified")]
    NotVerified,
    /// The server asks for a password, and there is none.
    #[error("the server asks for a password, and there is none")]
    NoPassword,
    /// The server asks for the password itself, where it could be overheard.
    #[error("the server asks for the password in clear, which the connection is not safe enough for")]
    ClearPassword,
    /// The server asks for a login that is not supported.
    #[error("the server asks for the authentication method {0}, which is not supported")]
    Method(u32),
    /// The server offers SASL, but no mechanism that is known here.
    #[error("the server offers no SCRAM-SHA-256")]
    Mechanism,
    /// The exchange about the password broke.
    #[error("{0}")]
    Scram(#[from] ScramError),
    /// The server permits the login in the middle of the exchange, without its own proof.
    #[error("the server permits the login without having proven that it knows the password")]
    Unproven,
    /// The server refuses.
    #[error("the server refuses: {} ({})", .0.message(), .0.code())]
    Server(ServerError),
    /// A message that has no place here.
    #[error("the server sends a message {:?} in the middle of the login", char::from(*.0))]
    Unexpected(u8),
    /// A message whose fields make no sense.
    #[error("the server's message {:?} is malformed", char::from(*.0))]
    Malformed(u8),
    /// The length of a message cannot be.
    #[error("{0}")]
    Length(#[from] Length),
    /// The server says more than a login needs.
    #[error("the server says more than {LONGEST_GREETING} bytes before it is ready")]
    Greeting,
    /// The caller gave more than was asked for.
    #[error("{0}")]
    Unasked(#[from] Unasked),
    /// The machine was asked for more after its end.
    #[error("the login is over")]
    Over,
}

/// Where the login is.
#[derive(Debug)]
enum State {
    /// Nothing was sent yet.
    Begin,
    /// The server is to answer the request for TLS.
    TlsAnswer,
    /// The caller begins TLS.
    InTls,
    /// The first message is to be sent.
    Startup,
    /// The server is to permit the login, or to ask.
    Authentication(Progress),
    /// The server permitted the login, and is to be ready.
    Greeting,
    /// A request to cancel was sent.
    Cancelled,
    Over,
}

#[derive(Debug)]
enum Progress {
    /// The server has not asked yet.
    Unasked,
    /// The password was sent, or a hash of it.
    Answered,
    /// The server is to answer the first message of SCRAM.
    First(ClientExchange),
    /// The server is to prove itself.
    Final(ServerProof),
    /// It has.
    Proven,
}

#[derive(Debug)]
enum Purpose {
    Login(Box<Settings>),
    Cancel(CancelKey),
}

/// The client of one server. It is driven by its steps until there is a [`Session`], or, for a request to
/// cancel, nothing left to do.
#[derive(Debug)]
pub struct Client {
    purpose: Purpose,
    tls: TlsMode,
    link: Link,
    end_point: Option<Vec<u8>>,
    framer: Framer,
    state: State,
    negotiation: Vec<u8>,
    greeting: Zeroizing<Vec<u8>>,
    key: Option<CancelKey>,
}

impl Client {
    /// Logs in.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let tls = settings.tls;
        Self::of(Purpose::Login(Box::new(settings)), tls)
    }

    /// Cancels the statement of another session. The machine is ready, with an empty session, when the
    /// request is sent; the server answers with the end of the connection.
    #[must_use]
    pub fn cancel(key: CancelKey, tls: TlsMode) -> Self {
        Self::of(Purpose::Cancel(key), tls)
    }

    fn of(purpose: Purpose, tls: TlsMode) -> Self {
        Self {
            purpose,
            tls,
            link: Link::Plain,
            end_point: None,
            framer: Framer::new(),
            state: State::Begin,
            negotiation: Vec::new(),
            greeting: Zeroizing::new(Vec::new()),
            key: None,
        }
    }

    /// Whether the login is bound to the server's certificate if the server offers it.
    #[must_use]
    pub fn can_bind(&self) -> bool {
        self.end_point.is_some()
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.framer.held() + self.greeting.capacity() + self.negotiation.capacity()
    }

    fn read(&mut self, state: State) -> Step<Session> {
        self.state = state;
        Step::Read(self.framer.missing())
    }

    fn session(&mut self) -> Session {
        Session {
            negotiation: std::mem::take(&mut self.negotiation),
            greeting: std::mem::take(&mut self.greeting),
            key: self.key.take(),
        }
    }

    /// A message before the server has permitted the login.
    fn authentication(
        &mut self,
        message: &Message,
        progress: Progress,
    ) -> Result<(State, Option<Outgoing>), Refused> {
        match message.kind() {
            b'R' => self.request(message, progress),
            b'E' => Err(server_error(message)),
            // A client that is told of it later is told in time: a notice may come at any time.
            b'N' => self.keep(message).map(|()| (State::Authentication(progress), None)),
            b'v' if self.negotiation.is_empty() => {
                self.negotiation = message.whole().to_vec();
                Ok((State::Authentication(progress), None))
            }
            other => Err(Refused::Unexpected(other)),
        }
    }

    /// An `Authentication…` message.
    fn request(&self, message: &Message, progress: Progress) -> Result<(State, Option<Outgoing>), Refused> {
        let Purpose::Login(login) = &self.purpose else { return Err(Refused::Unexpected(b'R')) };
        let mut reader = Reader(message.body());
        let code = reader.u32_be().ok_or(Refused::Malformed(b'R'))?;
        let password = || login.password.clone().ok_or(Refused::NoPassword);
        match (code, progress) {
            (0, Progress::Unasked | Progress::Answered | Progress::Proven) => Ok((State::Greeting, None)),
            (0, Progress::First(_) | Progress::Final(_)) => Err(Refused::Unproven),
            (3, Progress::Unasked) => {
                let password = password()?;
                let is_safe = login.clear.is_safe(self.link);
                let answer = is_safe.then(|| answer(&[password.expose().as_bytes(), &[0]]));
                answer.ok_or(Refused::ClearPassword).map(|answer| after(Progress::Answered, answer))
            }
            (5, Progress::Unasked) => {
                let salt = reader.rest().try_into().map_err(|_| Refused::Malformed(b'R'))?;
                let user = login.startup.user().unwrap_or_default();
                let hashed = md5_answer(&password()?, user, salt);
                Ok(after(Progress::Answered, answer(&[hashed.expose().as_bytes(), &[0]])))
            }
            (10, Progress::Unasked) => {
                let binding = self.binding(reader)?;
                let exchange = ClientExchange::new(password()?, binding, login.nonce);
                let first = exchange.first();
                let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
                let answer = answer(&[exchange.mechanism().as_bytes(), &[0], &length, first.as_bytes()]);
                Ok(after(Progress::First(exchange), answer))
            }
            (11, Progress::First(exchange)) => {
                let (last, owed) = exchange.finish(reader.rest())?;
                Ok(after(Progress::Final(owed), answer(&[last.as_bytes()])))
            }
            (12, Progress::Final(owed)) => {
                owed.verify(reader.rest())?;
                Ok((State::Authentication(Progress::Proven), None))
            }
            (3 | 5 | 10 | 11 | 12, _) => Err(Refused::Unexpected(b'R')),
            (other, _) => Err(Refused::Method(other)),
        }
    }

    /// Of the mechanisms that the server offers, the one that is bound, if we can bind.
    fn binding(&self, mut reader: Reader<'_>) -> Result<Binding, Refused> {
        let (mut plain, mut plus) = (false, false);
        loop {
            let offered = reader.until_zero().ok_or(Refused::Malformed(b'R'))?;
            if offered.is_empty() {
                break;
            }
            plain |= offered == scram::PLAIN.as_bytes();
            plus |= offered == scram::PLUS.as_bytes();
        }
        match &self.end_point {
            Some(hash) if plus => Ok(Binding::EndPoint(hash.clone())),
            Some(_) if plain => Ok(Binding::NotOffered),
            None if plain => Ok(Binding::Impossible),
            Some(_) | None => Err(Refused::Mechanism),
        }
    }

    /// A message between the permission and `ReadyForQuery`.
    fn greeted(&mut self, message: &Message) -> Result<(), Refused> {
        match message.kind() {
            b'K' => {
                let key = CancelKey::parse(message.body()).ok_or(Refused::Malformed(b'K'))?;
                self.key = Some(key);
                self.keep(message)
            }
            b'S' | b'N' | b'Z' => self.keep(message),
            b'E' => Err(server_error(message)),
            other => Err(Refused::Unexpected(other)),
        }
    }

    fn keep(&mut self, message: &Message) -> Result<(), Refused> {
        if self.greeting.len() + message.whole().len() > LONGEST_GREETING {
            return Err(Refused::Greeting);
        }
        if self.greeting.capacity() == 0 {
            // It holds the key that cancels, of which growing would leave copies: this is enough for a server
            // that says nothing unusual.
            self.greeting.reserve(4096);
        }
        self.greeting.extend_from_slice(message.whole());
        Ok(())
    }
}

impl Machine for Client {
    type Answer = Session;
    type Refusal = Refused;

    /// The next thing to do.
    ///
    /// # Errors
    /// When there will be no session.
    fn step(&mut self) -> Result<Step<Session>, Refused> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Begin if self.tls == TlsMode::Disable => self.state = State::Startup,
                State::Begin => {
                    self.state = State::TlsAnswer;
                    return Ok(Step::Write(startup::ssl_request()));
                }
                // Not a byte more is read before TLS: what an attacker puts behind the answer is not taken
                // for the server's.
                State::TlsAnswer => match self.framer.poll(Shape::Byte, 1)?.map(|message| message.kind()) {
                    None => return Ok(self.read(State::TlsAnswer)),
                    Some(b'S') => self.state = State::InTls,
                    Some(b'N') => return Err(Refused::NoTls),
                    Some(other) => return Err(Refused::TlsAnswer(other)),
                },
                State::InTls => {
                    self.state = State::InTls;
                    return Ok(Step::StartTls);
                }
                State::Startup => {
                    let (message, next) = match &self.purpose {
                        Purpose::Login(login) => {
                            (login.startup.to_message(), State::Authentication(Progress::Unasked))
                        }
                        Purpose::Cancel(key) => (key.to_message(), State::Cancelled),
                    };
                    self.state = next;
                    return Ok(Step::Write(message));
                }
                State::Authentication(progress) => match self.framer.poll(Shape::Typed, LONGEST_MESSAGE)? {
                    None => return Ok(self.read(State::Authentication(progress))),
                    Some(message) => {
                        let (next, answer) = self.authentication(&message, progress)?;
                        self.state = next;
                        if let Some(answer) = answer {
                            return Ok(Step::Write(answer));
                        }
                    }
                },
                State::Greeting => match self.framer.poll(Shape::Typed, LONGEST_MESSAGE)? {
                    None => return Ok(self.read(State::Greeting)),
                    Some(message) => {
                        self.greeted(&message)?;
                        if message.kind() == b'Z' {
                            return Ok(Step::Ready(self.session()));
                        }
                        self.state = State::Greeting;
                    }
                },
                State::Cancelled => return Ok(Step::Ready(self.session())),
                State::Over => return Err(Refused::Over),
            }
        }
    }

    /// Takes bytes that were asked for.
    ///
    /// # Errors
    /// When they are more.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        Ok(self.framer.feed(bytes)?)
    }

    /// TLS has begun.
    ///
    /// # Errors
    /// When the certificate had to be verified, and was not.
    fn tls_started(&mut self, facts: TlsFacts<'_>) -> Result<(), Refused> {
        if matches!(self.state, State::InTls) {
            self.state = State::Over;
            self.link = Link::after_tls(self.tls, facts).ok_or(Refused::NotVerified)?;
            self.end_point = facts.certificate.and_then(end_point_hash);
            self.state = State::Startup;
        }
        Ok(())
    }
}

fn server_error(message: &Message) -> Refused {
    ServerError::parse(message).map_or(Refused::Malformed(b'E'), Refused::Server)
}

/// A `PasswordMessage`, `SASLInitialResponse` or `SASLResponse`.
fn answer(pieces: &[&[u8]]) -> Outgoing {
    Writer::new().message(b'p', pieces).finish()
}

fn after(progress: Progress, answer: Outgoing) -> (State, Option<Outgoing>) {
    (State::Authentication(progress), Some(answer))
}
