//! Is the server for the local client, up to the moment at which its login is granted or refused.

use zeroize::Zeroizing;

use super::{
    LONGEST_RESPONSE,
    error::{ServerError, explain},
    greeting::{Greeting, Malformed},
    packet::{BadPacket, Framer, packet},
    plugin,
    response::{Response, asks_for_tls},
};
use crate::{
    explanation::{Explanation, Reason},
    inbox::Unasked,
    link::{LocalTls, TlsFacts},
    step::{Machine, Outgoing, Step},
};

/// A client that waits for its login to be granted.
#[derive(Debug)]
pub struct Login {
    response: Response,
    sequence: u8,
}

impl Login {
    /// What the client wants.
    #[must_use]
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// Grants the login with the server's own OK. After these bytes the relay copies.
    #[must_use]
    pub fn accept(self, session: &super::Session) -> Outgoing {
        packet(self.sequence, session.ok())
    }

    /// Refuses the login in our words. The connection ends after these bytes.
    #[must_use]
    pub fn refuse(self, explanation: &Explanation) -> Outgoing {
        explain(explanation, self.sequence)
    }

    /// Refuses the login with the server's own error.
    #[must_use]
    pub fn pass_on(self, error: &ServerError) -> Outgoing {
        error.to_packet(self.sequence)
    }
}

/// Why a client is not served, and the number of the packet that tells it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerRefused {
    /// A packet is none of a login.
    #[error("{0}")]
    Packet(#[from] BadPacket),
    /// The response makes no sense.
    #[error("the client's response to the greeting makes no sense: {0}")]
    Response(#[from] Malformed),
    /// The client begins TLS, which it was not offered.
    #[error("the client asks for TLS, which it was not offered")]
    Tls,
    /// The caller gave more than was asked for.
    #[error("{0}")]
    Unasked(#[from] Unasked),
    /// The machine was asked for more after its end.
    #[error("the login is over")]
    Over,
}

#[derive(Debug)]
enum State {
    /// The greeting is to be written.
    Greet,
    /// The response is to come, or the request for TLS, which may be made once.
    Response {
        is_tls: bool,
    },
    InTls,
    /// The client was asked to answer for this plugin.
    Switched(Response, &'static [u8]),
    /// The client is told that its password is right, and then waits.
    Confirm(Response),
    Done(Response),
    Over,
}

/// The server for one client. It is driven by its steps until there is a [`Login`].
#[derive(Debug)]
pub struct Server {
    greeting: Greeting,
    tls: LocalTls,
    framer: Framer,
    state: State,
}

impl Server {
    /// A client that waits for a greeting, which is the server's.
    #[must_use]
    pub fn new(server: &Greeting, tls: LocalTls) -> Self {
        Self { greeting: server.offered(tls), tls, framer: Framer::new(), state: State::Greet }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.framer.held()
    }

    /// What a client is told that is refused, before the connection ends.
    #[must_use]
    pub fn explain(&self, refused: &ServerRefused) -> Outgoing {
        explain(&Explanation::new(Reason::Protocol, &refused.to_string()), self.framer.sequence())
    }

    fn read(&mut self, state: State) -> Step<Login> {
        self.state = state;
        Step::Read(self.framer.missing())
    }

    /// As a real server: an answer for another plugin than the greeting's was made without our scramble, and
    /// is asked for again. The client's own plugin is taken where it tells us nothing.
    fn responded(&mut self, payload: &[u8]) -> Result<Option<Outgoing>, ServerRefused> {
        let response = Response::parse(payload, &self.greeting)?;
        let offered =
            if self.greeting.plugin() == plugin::CACHING { plugin::CACHING } else { plugin::NATIVE };
        let wanted = match response.plugin() {
            None => {
                self.state = State::Done(response);
                return Ok(None);
            }
            Some(plugin::NATIVE) => plugin::NATIVE,
            Some(plugin::CACHING) => plugin::CACHING,
            Some(_) => offered,
        };
        if response.plugin() == Some(offered) {
            let answer = Zeroizing::new(response.answer().to_vec());
            self.state = answered(response, offered, &answer);
            return Ok(None);
        }
        self.state = State::Switched(response, wanted);
        let request = [&[0xfe], wanted, &[0], self.greeting.scramble(), &[0]].concat();
        Ok(Some(self.framer.packet(&request)))
    }
}

impl Machine for Server {
    type Answer = Login;
    type Refusal = ServerRefused;

    /// The next thing to do.
    ///
    /// # Errors
    /// When the client is refused. Its answer is [`Server::explain`].
    fn step(&mut self) -> Result<Step<Login>, ServerRefused> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Greet => {
                    self.state = State::Response { is_tls: false };
                    return Ok(Step::Write(self.framer.packet(&self.greeting.to_payload())));
                }
                State::Response { is_tls } => match self.framer.poll(LONGEST_RESPONSE)? {
                    None => return Ok(self.read(State::Response { is_tls })),
                    Some(payload) if !is_tls && asks_for_tls(&payload) => match self.tls {
                        LocalTls::Offered => self.state = State::InTls,
                        LocalTls::Absent => return Err(ServerRefused::Tls),
                    },
                    Some(payload) => {
                        if let Some(question) = self.responded(&payload)? {
                            return Ok(Step::Write(question));
                        }
                    }
                },
                State::InTls => {
                    self.state = State::InTls;
                    return Ok(Step::StartTls);
                }
                State::Switched(response, plugin) => match self.framer.poll(LONGEST_RESPONSE)? {
                    None => return Ok(self.read(State::Switched(response, plugin))),
                    Some(answer) => self.state = answered(response, plugin, &answer),
                },
                State::Confirm(response) => {
                    self.state = State::Done(response);
                    // AuthMoreData, fast_auth_success.
                    return Ok(Step::Write(self.framer.packet(&[1, 3])));
                }
                State::Done(response) => {
                    return Ok(Step::Ready(Login { response, sequence: self.framer.sequence() }));
                }
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

    /// TLS has begun.
    fn tls_started(&mut self, _facts: TlsFacts<'_>) -> Result<(), ServerRefused> {
        if matches!(self.state, State::InTls) {
            self.state = State::Response { is_tls: true };
        }
        Ok(())
    }
}

/// Any answer is right. A client of `caching_sha2_password` that has a password wants to be told so, before
/// it takes an OK; one that has none sends nothing, or a zero byte.
fn answered(response: Response, plugin: &'static [u8], answer: &[u8]) -> State {
    let has_password = !matches!(answer, [] | [0]);
    if plugin == plugin::CACHING && has_password { State::Confirm(response) } else { State::Done(response) }
}
