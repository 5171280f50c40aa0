//! Is the server for the local client, up to the moment at which its login is granted or refused.

use super::{
    LONGEST_ANSWER, LONGEST_STARTUP,
    certificate::end_point_hash,
    error::{ServerError, explain, fatal},
    message::{Framer, Length, Message, Shape, Writer},
    scram::{self, Nonce, OwedProof, ScramError, ServerExchange},
    startup::{self, CancelKey, First, MalformedStartup, Startup, Version},
};
use crate::{
    explanation::{Explanation, Reason},
    hash::md5_hex,
    inbox::Unasked,
    link::{LocalTls, TlsFacts},
    password::Password,
    reader::Reader,
    step::{Machine, Outgoing, Step},
};

/// How a client is asked for a password.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// In clear.
    Cleartext,
    /// Hashed with MD5 and this salt.
    Md5([u8; 4]),
    /// By SCRAM-SHA-256, bound to TLS where the client can.
    Scram(Nonce),
}

/// What the client has to know.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Nothing: a password is not asked for, whatever the client has.
    Nothing,
    /// This password.
    Password {
        /// The password.
        password: Password,
        /// How it is asked for.
        method: Method,
    },
}

/// What the client wants.
#[derive(Debug)]
pub enum Opening {
    /// A session.
    Login(Login),
    /// The end of another session's statement. There is no answer to it but the end of the connection.
    Cancel(CancelKey),
}

/// A client that waits for its login to be granted.
#[derive(Debug)]
pub struct Login {
    startup: Startup,
}

impl Login {
    /// What the client began with.
    #[must_use]
    pub fn startup(&self) -> &Startup {
        &self.startup
    }

    /// Grants the login: what the server has negotiated of the protocol, our permission, and what the server
    /// said until it was ready. After these bytes the relay copies.
    #[must_use]
    pub fn accept(self, session: &super::Session) -> Outgoing {
        let writer = Writer::new().raw(session.negotiation());
        writer.message(b'R', &[&0_u32.to_be_bytes()]).raw(session.greeting()).finish()
    }

    /// Refuses the login in our words. The connection ends after these bytes.
    #[must_use]
    pub fn refuse(self, explanation: &Explanation) -> Outgoing {
        explain(explanation)
    }

    /// Refuses the login with the server's own error.
    #[must_use]
    pub fn pass_on(self, error: &ServerError) -> Outgoing {
        error.to_message()
    }
}

/// Why a client is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerRefused {
    /// The first message is none.
    #[error("{0}")]
    Startup(#[from] MalformedStartup),
    /// The length of a message cannot be.
    #[error("invalid length of startup packet or answer: {0}")]
    Length(#[from] Length),
    /// The client speaks another protocol, or asks twice for the same encryption.
    #[error("unsupported frontend protocol {0}: server supports 3.0 to 3.2")]
    Version(Version),
    /// The client sent something else than the answer about its password.
    #[error("expected password response, got message type {0}")]
    Unexpected(u8),
    /// The password is wrong.
    #[error("the password is wrong")]
    WrongPassword,
    /// The exchange about the password broke.
    #[error("{0}")]
    Scram(#[from] ScramError),
    /// The caller gave more than was asked for.
    #[error("{0}")]
    Unasked(#[from] Unasked),
    /// The machine was asked for more after its end.
    #[error("the login is over")]
    Over,
}

impl ServerRefused {
    /// What the client is told before the connection ends.
    #[must_use]
    pub fn to_message(&self) -> Outgoing {
        let sentence = self.to_string();
        match self {
            Self::Version(_) => explain(&Explanation::new(Reason::Unsupported, &sentence)),
            Self::WrongPassword | Self::Scram(ScramError::ClientProof) => fatal("28P01", &sentence, None),
            Self::Startup(_)
            | Self::Length(_)
            | Self::Unexpected(_)
            | Self::Scram(_)
            | Self::Unasked(_)
            | Self::Over => explain(&Explanation::new(Reason::Protocol, &sentence)),
        }
    }
}

/// The two requests that a client may make once each, before it begins.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    tls: bool,
    gss: bool,
}

#[derive(Debug)]
enum State {
    /// A first message is to come.
    First(Answered),
    /// Bytes are to be written, and then there is another state.
    Write(Outgoing, Box<State>),
    /// The caller begins TLS.
    InTls,
    /// The client is to answer a question about its password.
    Question(Startup, Question),
    Done(Opening),
    Over,
}

#[derive(Debug)]
enum Question {
    Cleartext(Password),
    Md5(Password, [u8; 4]),
    ScramFirst(ServerExchange),
    ScramFinal(OwedProof),
}

/// The server for one client. It is driven by its steps until there is an [`Opening`].
#[derive(Debug)]
pub struct Server {
    tls: LocalTls,
    ask: Ask,
    end_point: Option<Vec<u8>>,
    framer: Framer,
    state: State,
}

impl Server {
    /// A client that has sent nothing.
    #[must_use]
    pub fn new(tls: LocalTls, ask: Ask) -> Self {
        Self { tls, ask, end_point: None, framer: Framer::new(), state: State::First(Answered::default()) }
    }

    /// A client that began with TLS instead of asking for it. The certificate in DER is ours. PostgreSQL's
    /// clients want both ends to have agreed on the application protocol `postgresql` (ALPN).
    #[must_use]
    pub fn over_tls(ask: Ask, certificate: Option<&[u8]>) -> Self {
        let mut server = Self::new(LocalTls::Offered, ask);
        server.begin_in_tls(certificate);
        server
    }

    fn begin_in_tls(&mut self, certificate: Option<&[u8]>) {
        self.end_point = certificate.and_then(end_point_hash);
        self.state = State::First(Answered { tls: true, gss: true });
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.framer.held()
    }

    fn read(&mut self, state: State) -> Step<Opening> {
        self.state = state;
        Step::Read(self.framer.missing())
    }

    /// As PostgreSQL, which answers each request for encryption once, and takes a second one for a version of
    /// the protocol that it does not know.
    fn first(&self, message: &Message, answered: Answered) -> Result<State, ServerRefused> {
        let again = |minor| Err(ServerRefused::Version(Version::new(1234, minor)));
        match startup::parse(message.body())? {
            First::Ssl if answered.tls => again(5679),
            First::Gss if answered.gss => again(5680),
            First::Ssl => Ok(match self.tls {
                LocalTls::Offered => write(b"S", State::InTls),
                LocalTls::Absent => write(b"N", State::First(Answered { tls: true, ..answered })),
            }),
            First::Gss => Ok(write(b"N", State::First(Answered { gss: true, ..answered }))),
            First::Cancel(key) => Ok(State::Done(Opening::Cancel(key))),
            First::Startup(startup) => Ok(self.question(startup)),
            First::Other(version) => Err(ServerRefused::Version(version)),
        }
    }

    fn question(&self, startup: Startup) -> State {
        let Ask::Password { password, method } = &self.ask else {
            return State::Done(Opening::Login(Login { startup }));
        };
        let password = password.clone();
        let (request, question) = match method {
            Method::Cleartext => (request(3, &[]), Question::Cleartext(password)),
            Method::Md5(salt) => (request(5, salt), Question::Md5(password, *salt)),
            Method::Scram(nonce) => {
                let end_point = self.end_point.clone();
                let mut mechanisms = Vec::new();
                for offered in end_point.iter().map(|_| scram::PLUS).chain([scram::PLAIN]) {
                    mechanisms.extend_from_slice(offered.as_bytes());
                    mechanisms.push(0);
                }
                mechanisms.push(0);
                let exchange = ServerExchange { password, nonce: *nonce, end_point };
                (request(10, &mechanisms), Question::ScramFirst(exchange))
            }
        };
        State::Write(request, Box::new(State::Question(startup, question)))
    }
}

impl Machine for Server {
    type Answer = Opening;
    type Refusal = ServerRefused;

    /// The next thing to do.
    ///
    /// # Errors
    /// When the client is refused. Its answer is [`ServerRefused::to_message`].
    fn step(&mut self) -> Result<Step<Opening>, ServerRefused> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::First(answered) => match self.framer.poll(Shape::Untyped, LONGEST_STARTUP)? {
                    Some(message) => self.state = self.first(&message, answered)?,
                    None => return Ok(self.read(State::First(answered))),
                },
                State::Question(startup, question) => match self.framer.poll(Shape::Typed, LONGEST_ANSWER)? {
                    Some(message) => self.state = answer(&message, startup, question)?,
                    None => return Ok(self.read(State::Question(startup, question))),
                },
                State::Write(bytes, next) => {
                    self.state = *next;
                    return Ok(Step::Write(bytes));
                }
                // Again, while the caller has not said that it began.
                State::InTls => {
                    self.state = State::InTls;
                    return Ok(Step::StartTls);
                }
                State::Done(opening) => return Ok(Step::Ready(opening)),
                State::Over => return Err(ServerRefused::Over),
            }
        }
    }

    /// Takes bytes that were asked for.
    ///
    /// # Errors
    /// When they are more.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), ServerRefused> {
        Ok(self.framer.feed(bytes)?)
    }

    /// TLS has begun. The certificate in DER is ours: a client that is asked for a password can bind to it.
    fn tls_started(&mut self, facts: TlsFacts<'_>) -> Result<(), ServerRefused> {
        if matches!(self.state, State::InTls) {
            self.begin_in_tls(facts.certificate);
        }
        Ok(())
    }
}

fn write(bytes: &[u8], next: State) -> State {
    State::Write(Outgoing::new(bytes.to_vec()), Box::new(next))
}

/// An `Authentication…` message.
fn request(code: u32, rest: &[u8]) -> Outgoing {
    Writer::new().message(b'R', &[&code.to_be_bytes(), rest]).finish()
}

/// The client's answer about its password.
fn answer(message: &Message, startup: Startup, question: Question) -> Result<State, ServerRefused> {
    if message.kind() != b'p' {
        return Err(ServerRefused::Unexpected(message.kind()));
    }
    let mut reader = Reader(message.body());
    let malformed = ServerRefused::Scram(ScramError::Malformed);
    let is_right = match question {
        Question::Cleartext(password) => {
            reader.until_zero().is_some_and(|guess| password.is(guess)) && reader.is_empty()
        }
        Question::Md5(password, salt) => {
            let hashed = md5_answer(&password, startup.user().unwrap_or_default(), salt);
            reader.until_zero().is_some_and(|guess| hashed.is(guess)) && reader.is_empty()
        }
        Question::ScramFirst(exchange) => {
            // `SASLInitialResponse`: the mechanism, and the length of what follows.
            let mechanism = reader.until_zero().and_then(|name| std::str::from_utf8(name).ok());
            let length = reader.u32_be().and_then(|length| usize::try_from(length).ok());
            let (Some(mechanism), Some(length)) = (mechanism, length) else { return Err(malformed) };
            let first = reader.take(length).filter(|_| reader.is_empty()).ok_or(malformed)?;
            let (answer, owed) = exchange.first(mechanism, first)?;
            let next = State::Question(startup, Question::ScramFinal(owed));
            return Ok(State::Write(request(11, answer.as_bytes()), Box::new(next)));
        }
        Question::ScramFinal(owed) => {
            let last = owed.finish(reader.rest())?;
            let next = State::Done(Opening::Login(Login { startup }));
            return Ok(State::Write(request(12, last.as_bytes()), Box::new(next)));
        }
    };
    if is_right {
        Ok(State::Done(Opening::Login(Login { startup })))
    } else {
        Err(ServerRefused::WrongPassword)
    }
}

/// `md5`, and the hash of the salt and of what the server stores.
pub(crate) fn md5_answer(password: &Password, user: &[u8], salt: [u8; 4]) -> Password {
    let stored = md5_hex(&[password.expose().as_bytes(), user]);
    let hashed = md5_hex(&[stored.as_bytes(), &salt]);
    Password::from_hash(format!("md5{}", &*hashed))
}
