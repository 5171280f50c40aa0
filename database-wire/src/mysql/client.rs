//! Is the client of the real server, up to the moment at which that has taken our password.

use super::{
    LONGEST_PACKET,
    error::ServerError,
    greeting::{Greeting, Malformed},
    packet::{BadPacket, Framer},
    plugin,
    response::{ForLogin, Response},
    scramble::{self, ServerKey},
};
use crate::{
    inbox::Unasked,
    link::{ClearPassword, Link, TlsFacts, TlsMode},
    password::Password,
    reader::Reader,
    step::{Machine, Outgoing, Step},
};

/// The bytes of a scramble, for `client_ed25519`.
const ED25519_SCRAMBLE: usize = 32;

/// What a login needs besides what the client wants.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The user.
    pub user: String,
    /// The password, if there is one.
    pub password: Option<Password>,
    /// The database where the client wants none in particular.
    pub database: Option<String>,
    /// What TLS has to be.
    pub tls: TlsMode,
    /// When the password may be sent as it is, to a server that has to see it once.
    pub clear: ClearPassword,
    /// The server's key, with which the password is encrypted where it must not be sent as it is.
    pub key: Option<ServerKey>,
}

/// A session with a server that has taken the password.
#[derive(Debug)]
pub struct Session {
    pub(super) ok: Vec<u8>,
}

impl Session {
    pub(crate) fn ok(&self) -> &[u8] {
        &self.ok
    }
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The greeting makes no sense.
    #[error("the server's greeting makes no sense: {0}")]
    Greeting(#[from] Malformed),
    /// The server has no TLS.
    #[error("the server offers no TLS, and a login without it is not allowed")]
    NoTls,
    /// The certificate was not verified, and had to be.
    #[error("the server's certificate was not verified")]
    NotVerified,
    /// The server has to see the password once, and the connection is not safe enough for that.
    #[error(
        "the server has to see the password once (caching_sha2_password), which needs TLS with a verified \
         certificate, or the server's public key known beforehand"
    )]
    FullAuthentication,
    /// The password does not fit into the server's key.
    #[error("the password is too long for the server's public key")]
    TooLongForKey,
    /// The server asks for a plugin that is not supported. Its name is escaped.
    #[error("the server asks for the authentication plugin {0:?}, which is not supported")]
    Plugin(String),
    /// The server refuses.
    #[error("the server refuses: {} ({})", .0.message(), .0.code())]
    Server(ServerError),
    /// A packet that has no place here.
    #[error("the server sends a packet that begins with {0:#04x} in the middle of the login")]
    Unexpected(u8),
    /// A packet whose fields make no sense.
    #[error("the server's packet that begins with {0:#04x} is malformed")]
    Malformed(u8),
    /// A packet is none of a login.
    #[error("{0}")]
    Packet(#[from] BadPacket),
    /// The caller gave more than was asked for.
    #[error("{0}")]
    Unasked(#[from] Unasked),
    /// The machine was asked for more after its end.
    #[error("the login is over")]
    Over,
}

/// Reads the greeting of a server.
#[derive(Debug)]
pub struct Greeter(Framer);

impl Greeter {
    /// A connection on which nothing came yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a connection is begun, and not one of several defaults")]
    pub fn new() -> Self {
        Self(Framer::new())
    }
}

impl Machine for Greeter {
    type Answer = Greeted;
    type Refusal = Refused;

    /// The next thing to do: to read, until there is a greeting.
    ///
    /// # Errors
    /// When there is none, as where a server has too many connections.
    fn step(&mut self) -> Result<Step<Greeted>, Refused> {
        match self.0.poll(LONGEST_PACKET)? {
            None => Ok(Step::Read(self.0.missing())),
            Some(payload) if payload.first() == Some(&0xff) => Err(server_error(&payload)),
            Some(payload) => {
                let greeting = Greeting::parse(&payload)?;
                Ok(Step::Ready(Greeted { greeting, sequence: self.0.sequence() }))
            }
        }
    }

    /// Takes bytes that were asked for.
    ///
    /// # Errors
    /// When they are more.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        Ok(self.0.feed(bytes)?)
    }
}

/// A server that has greeted, and waits for a response.
#[derive(Debug)]
pub struct Greeted {
    greeting: Greeting,
    sequence: u8,
}

impl Greeted {
    /// What the server said.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Logs in, with the flags, collation and attributes of a client, and in its database if it named one.
    #[must_use]
    pub fn log_in(self, client: &Response, settings: Settings) -> Client {
        let database = client.database().or(settings.database.as_deref().map(str::as_bytes));
        Client {
            database: database.map(<[u8]>::to_vec),
            client: client.clone(),
            settings,
            link: Link::Plain,
            framer: Framer::after(self.sequence),
            state: State::Begin,
            greeting: self.greeting,
        }
    }
}

#[derive(Debug)]
enum State {
    Begin,
    InTls,
    Response,
    /// The server is to answer, to our answer for this plugin and scramble.
    Answer {
        plugin: Plugin,
        scramble: Vec<u8>,
        progress: Progress,
    },
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    Native,
    Caching,
    Ed25519,
}

impl Plugin {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            plugin::NATIVE => Some(Self::Native),
            plugin::CACHING => Some(Self::Caching),
            plugin::ED25519 => Some(Self::Ed25519),
            _ => None,
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Native => plugin::NATIVE,
            Self::Caching => plugin::CACHING,
            Self::Ed25519 => plugin::ED25519,
        }
    }
}

/// What the server may still ask for. Each question is asked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    First,
    Switched,
    /// The password is known to be right, or was sent.
    Decided,
}

/// The client of one server. It is driven by its steps until there is a [`Session`].
#[derive(Debug)]
pub struct Client {
    greeting: Greeting,
    client: Response,
    settings: Settings,
    database: Option<Vec<u8>>,
    link: Link,
    framer: Framer,
    state: State,
}

impl Client {
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.framer.held()
    }

    fn flags(&self) -> u32 {
        self.client.flags_for(self.settings.tls != TlsMode::Disable, self.database.is_some())
    }

    fn answer(&self, plugin: Plugin, scramble: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
        match (&self.settings.password, plugin) {
            (None, _) => zeroize::Zeroizing::new(Vec::new()),
            (Some(password), Plugin::Native) => scramble::native(password, scramble),
            (Some(password), Plugin::Caching) => scramble::caching(password, scramble),
            (Some(password), Plugin::Ed25519) => scramble::ed25519(password, scramble),
        }
    }

    /// Our response to the greeting. Where its plugin is not for us, the server asks again.
    fn respond(&mut self) -> Outgoing {
        let plugin = match Plugin::of(self.greeting.plugin()) {
            Some(Plugin::Caching) => Plugin::Caching,
            Some(Plugin::Native | Plugin::Ed25519) | None => Plugin::Native,
        };
        let scramble = self.greeting.scramble().to_vec();
        let response = self.client.for_login(&ForLogin {
            flags: self.flags(),
            user: self.settings.user.as_bytes(),
            answer: &self.answer(plugin, &scramble),
            database: self.database.as_deref(),
            plugin: plugin.name(),
        });
        self.state = State::Answer { plugin, scramble, progress: Progress::First };
        self.framer.packet(&response)
    }

    /// `AuthSwitchRequest`: the name of a plugin, and a scramble for it.
    fn switch(&mut self, payload: &[u8]) -> Result<Outgoing, Refused> {
        let mut reader = Reader(payload);
        reader.u8();
        // The password of a time before 4.1 is asked for without a name.
        let name = if reader.is_empty() { &b"mysql_old_password"[..] } else { reader.until_zero_or_end() };
        let unsupported = || Refused::Plugin(plain_text::one_line(&String::from_utf8_lossy(name), 64));
        let plugin = Plugin::of(name).ok_or_else(unsupported)?;
        let length = match plugin {
            Plugin::Native | Plugin::Caching => 20,
            Plugin::Ed25519 => ED25519_SCRAMBLE,
        };
        let scramble = reader.take(length).ok_or(Refused::Malformed(0xfe))?.to_vec();
        if !matches!(reader.rest(), [] | [0]) {
            return Err(Refused::Malformed(0xfe));
        }
        let answer = self.answer(plugin, &scramble);
        self.state = State::Answer { plugin, scramble, progress: Progress::Switched };
        Ok(self.framer.packet(&answer))
    }

    /// `AuthMoreData` of `caching_sha2_password`: the server knows the password by its hash, or must see it.
    fn more(&mut self, payload: &[u8], scramble: &[u8]) -> Result<Option<Outgoing>, Refused> {
        match payload {
            [1, 3] => Ok(None),
            [1, 4] => {
                let password = self.settings.password.as_ref().ok_or(Refused::Unexpected(1))?;
                let answer = if self.settings.clear.is_safe(self.link) {
                    scramble::clear(password)
                } else {
                    let key = self.settings.key.as_ref().ok_or(Refused::FullAuthentication)?;
                    key.encrypt(password, scramble).ok_or(Refused::TooLongForKey)?
                };
                Ok(Some(self.framer.packet(&answer)))
            }
            _ => Err(Refused::Malformed(1)),
        }
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
                State::Begin if self.settings.tls == TlsMode::Disable => self.state = State::Response,
                State::Begin if !self.greeting.offers_tls() => return Err(Refused::NoTls),
                State::Begin => {
                    self.state = State::InTls;
                    let request = self.client.fixed(self.flags());
                    return Ok(Step::Write(self.framer.packet(&request)));
                }
                State::InTls => {
                    self.state = State::InTls;
                    return Ok(Step::StartTls);
                }
                State::Response => return Ok(Step::Write(self.respond())),
                State::Answer { plugin, scramble, progress } => match self.framer.poll(LONGEST_PACKET)? {
                    None => {
                        self.state = State::Answer { plugin, scramble, progress };
                        return Ok(Step::Read(self.framer.missing()));
                    }
                    Some(payload) => match payload.first() {
                        Some(0) => return Ok(Step::Ready(Session { ok: payload.to_vec() })),
                        Some(0xff) => return Err(server_error(&payload)),
                        Some(0xfe) if progress == Progress::First => {
                            return Ok(Step::Write(self.switch(&payload)?));
                        }
                        Some(1) if plugin == Plugin::Caching && progress != Progress::Decided => {
                            let answer = self.more(&payload, &scramble)?;
                            self.state = State::Answer { plugin, scramble, progress: Progress::Decided };
                            if let Some(answer) = answer {
                                return Ok(Step::Write(answer));
                            }
                        }
                        Some(other) => return Err(Refused::Unexpected(*other)),
                        None => return Err(Refused::Malformed(0)),
                    },
                },
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
            self.link = Link::after_tls(self.settings.tls, facts).ok_or(Refused::NotVerified)?;
            self.state = State::Response;
        }
        Ok(())
    }
}

fn server_error(payload: &[u8]) -> Refused {
    ServerError::parse(payload).map_or(Refused::Malformed(0xff), Refused::Server)
}
