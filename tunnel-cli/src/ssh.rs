//! The russh edge: one authenticated connection, and streams on it. Nothing outside this module knows what a channel is.

mod own_key;
mod refusal_text;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use russh::client::{self, AuthResult, DisconnectReason, KeyboardInteractiveAuthResponse};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, SshId};
use ssh_transport::budget::{self, Budget};
use ssh_transport::key_exchange::{self, Rekey, UNREACHED_WINDOW};
use ssh_transport::preamble::Preamble;
use ssh_transport::relay::{Account, End, PATIENCE, SPILL};
use ssh_transport::socket::{CarrierSocket, Cutter};
use ssh_transport::turns::{Rate, Turns};
use ssh_transport::{CHANNEL_PACKET, CHANNEL_WINDOW, algorithms, channel, relay};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use vault_signer::Credential;

use crate::endpoint::{Endpoint, Host};
use crate::output::clean;
use crate::trust::{HostKeyMismatch, Trust};
use crate::verdict;
use own_key::{OwnKey, Unsigned};
use refusal_text::RefusalTexts;

/// How long a server may take for the handshake and the login together.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long it may take to say good-bye.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long the reason for a refusal may take to follow it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What is said of an end of which nothing else is known.
const ENDED: &str = "the connection ended";
/// How much of what the server says before login is kept, in bytes.
const LONGEST_BANNER: usize = 2048;
/// How much of any reason of the server's is shown, in characters.
const LONGEST_REASON: usize = 300;
/// How this client introduces itself (RFC 4253 §4.2).
const IDENTIFICATION: &str = concat!("SSH-2.0-pf-tunnel_", env!("CARGO_PKG_VERSION"));
/// With these words the bastion begins the reason for which it refused a certificate.
const CERTIFICATE_REFUSED: &str = "certificate refused:";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not the bastion.
    #[error("{0}")]
    HostKey(HostKeyMismatch),
    /// A server, or somebody in between, that would let packets be dropped unseen (CVE-2023-48795).
    #[error("no strict key exchange")]
    NotStrict,
    /// Nothing in common.
    #[error("no {0} algorithm in common")]
    Algorithms(String),
    /// Login refused, with the server's reason if it gave one.
    #[error("login refused")]
    Certificate(Option<String>),
    /// The connection ended first.
    #[error("{0}")]
    Lost(String),
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// Policy forbids it.
    Policy(String),
    /// The bastion did not reach the destination.
    Target(String),
    /// Too many.
    Limit(String),
    /// The connection to the bastion is gone; another may do.
    Lost,
}

/// One authenticated connection.
pub struct Session {
    handle: client::Handle<Handler>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<String>>,
    cutter: Cutter,
    turns: Option<Paced>,
    memory: Arc<budget::Carrier>,
}

/// How fast the bastion wants streams to be opened, and those that were.
struct Paced {
    rate: Rate,
    turns: Mutex<Turns>,
}

/// One stream on it.
pub struct Stream {
    channel: Channel<client::Msg>,
    carrier: Cutter,
    budget: budget::Stream,
}

/// What the session's task and its owner both need.
struct Shared {
    /// Key exchanges that are done.
    exchanges: AtomicU64,
    banner: Mutex<String>,
    /// The description in the server's SSH_MSG_DISCONNECT (RFC 4253 §11.1).
    farewell: Mutex<Option<String>>,
    ended: watch::Sender<Option<String>>,
    refusal_texts: RefusalTexts,
}

impl Shared {
    /// The first reason stays: it is the cause of those that follow.
    fn end(&self, reason: &str) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(clean(reason, LONGEST_REASON));
            }
            first
        });
    }

    fn reason(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    fn farewell(&self) -> Option<String> {
        self.farewell
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .filter(|told| !told.trim().is_empty())
    }

    fn banner(&self) -> String {
        self.banner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Session {
    /// Handshake, verification of the server, login.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing secret has been sent to a server that is not the bastion.
    pub async fn connect(
        socket: TcpStream,
        trust: &Trust,
        host: &Host,
        login: &str,
        credential: &Credential,
    ) -> Result<Self, Refusal> {
        let (mut socket, cutter) = CarrierSocket::new(Preamble::new(socket));
        // The user's own programs may take what memory there is; what one of them does not take holds up its carrier.
        let memory = Budget::start(budget::Limits::of_streams(SPILL, PATIENCE)).carrier("");
        cutter.charge_to(Arc::clone(&memory));
        // russh runs a session in a task of its own, which only the end of its socket ends.
        let guard = CutOnDrop { cutter, armed: true };
        let (ended_sender, ended) = watch::channel(None);
        let shared = Arc::new(Shared {
            exchanges: AtomicU64::new(0),
            banner: Mutex::default(),
            farewell: Mutex::default(),
            ended: ended_sender,
            refusal_texts: RefusalTexts::default(),
        });
        let handler = Handler {
            shared: Arc::clone(&shared),
            trust: trust.clone(),
            host: host.clone(),
            at: SystemTime::now,
        };
        let connecting = async {
            let server =
                socket.introduce(IDENTIFICATION).await.map_err(|error| Refusal::Lost(lost(&error.into())))?;
            let rekey = server.as_deref().and_then(Rekey::announced);
            let mut handle = client::connect_stream(config(trust, rekey), socket, handler)
                .await
                .map_err(|error| refusal(error, &shared))?;
            let key = Arc::new(credential.private_key().clone());
            let certificate = credential.certificate().clone();
            let answer = if key.algorithm().is_rsa() {
                handle
                    .authenticate_certificate_with(
                        login,
                        certificate,
                        Some(HashAlg::Sha512),
                        &mut OwnKey(key),
                    )
                    .await
                    .map_err(|Unsigned| refusal(russh::Error::SendError.into(), &shared))?
            } else {
                handle
                    .authenticate_openssh_cert(login, key, certificate)
                    .await
                    .map_err(|error| refusal(error.into(), &shared))?
            };
            let told = match &answer {
                AuthResult::Success => None,
                AuthResult::Failure { .. } if reason_in(&shared.banner()).is_some() => None,
                AuthResult::Failure { remaining_methods, .. } => {
                    reason_of(&mut handle, login, remaining_methods, ended.clone()).await
                }
            };
            let turns = server
                .as_deref()
                .and_then(Rate::announced)
                .map(|rate| Paced { rate, turns: Mutex::new(Turns::new(std::time::Instant::now())) });
            admitted(&answer, told, &shared).map(|()| (handle, turns))
        };
        let (handle, turns) = timeout(HANDSHAKE, connecting)
            .await
            .map_err(|_| Refusal::Lost(format!("no login within {} s", HANDSHAKE.as_secs())))??;
        Ok(Self { handle, shared, ended, cutter: guard.disarm(), turns, memory })
    }

    /// How long to wait before the next [`Self::open`], so that the bastion need not refuse it. `None` where that is longer than
    /// `longest`.
    pub fn turn(&self, longest: Duration) -> Option<Duration> {
        let Some(paced) = &self.turns else { return Some(Duration::ZERO) };
        let mut turns = paced.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.take(paced.rate, longest, std::time::Instant::now())
    }

    /// Asks the bastion to connect to `destination`, on behalf of the local program at `peer`.
    ///
    /// # Errors
    /// See [`NotOpened`]. A stream that opens after the caller has gone is closed again.
    pub async fn open(
        self: &Arc<Self>,
        destination: &Endpoint,
        peer: SocketAddr,
    ) -> Result<Stream, NotOpened> {
        let session = Arc::clone(self);
        let (host, port) = (destination.host().bare(), u32::from(destination.port()));
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let opening = session.handle.channel_open_direct_tcpip(
                host,
                port,
                peer.ip().to_string(),
                u32::from(peer.port()),
            );
            // Unconstrained, so that the first poll always reaches russh's queue: `refusal_texts` counts on its order.
            let mut opening = Box::pin(tokio::task::unconstrained(opening));
            let (claim, early) = session.shared.refusal_texts.next(|| (&mut opening).now_or_never());
            let opened = match early {
                Some(opened) => opened,
                None => opening.await,
            };
            let answer = match opened {
                Ok(channel) => Ok(channel),
                Err(russh::Error::ChannelOpenFailure(reason)) => {
                    Err(not_opened(&reason, claim.reason().await))
                }
                Err(_) => Err(NotOpened::Lost),
            };
            if let Err(Ok(abandoned)) = sender.send(answer) {
                let _ = abandoned.close().await;
            }
        });
        let channel = receiver.await.unwrap_or(Err(NotOpened::Lost))?;
        Ok(Stream { channel, carrier: self.cutter.clone(), budget: self.memory.stream() })
    }

    /// One question and its answer, whatever that is.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn ping(&self) -> Result<(), NotOpened> {
        self.handle.send_ping().await.map_err(|_| NotOpened::Lost)
    }

    /// Waits for the end of the connection, and says why.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// How often keys were exchanged, the first time included.
    pub fn exchanges(&self) -> u64 {
        self.shared.exchanges.load(Ordering::Relaxed)
    }

    /// When the server was last heard.
    pub fn last_heard(&self) -> Instant {
        self.cutter.last_heard()
    }

    /// How many bytes went out.
    pub fn sent(&self) -> u64 {
        self.cutter.sent()
    }

    /// Ends it at once: the server does not answer.
    pub fn cut(&self, reason: &str) {
        self.shared.end(reason);
        self.cutter.cut();
    }

    /// Ends it in order, within a moment.
    pub async fn close(&self) {
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "the user ended the tunnel", "en");
        let _ = timeout(GOODBYE, async {
            if goodbye.await.is_ok() {
                self.ended().await;
            }
        })
        .await;
        self.cut("ended by the user");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cutter.cut();
    }
}

impl Stream {
    /// Copies between `socket` and the stream until one ends or `stop` is ready.
    pub async fn relay(
        self,
        socket: TcpStream,
        account: &Account,
        stop: impl Future<Output = ()> + Send,
    ) -> End {
        let (source, sink) = channel::split(self.channel, self.carrier);
        relay::relay(socket, source, sink, account, &self.budget, stop).await
    }

    /// Ends a stream that nobody needs.
    pub async fn close(self) {
        let _ = self.channel.close().await;
    }
}

/// Cuts the socket of an attempt that is given up half-way.
struct CutOnDrop {
    cutter: Cutter,
    armed: bool,
}

impl CutOnDrop {
    fn disarm(mut self) -> Cutter {
        self.armed = false;
        self.cutter.clone()
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.cutter.cut();
        }
    }
}

/// russh's settings, for a server that announced when it wants keys replaced, or did not.
fn config(trust: &Trust, rekey: Option<Rekey>) -> Arc<client::Config> {
    let preferred = match trust {
        Trust::Authorities(_) => algorithms::with_host_certificates(),
        Trust::Keys(keys) => {
            let kinds: Vec<_> = keys.iter().map(PublicKey::algorithm).collect();
            algorithms::with_pinned_keys(&kinds)
        }
    };
    let (limits, window_size) = match rekey {
        Some(rekey) => (rekey.limits(), UNREACHED_WINDOW),
        None => (key_exchange::left_to_the_peer(), CHANNEL_WINDOW),
    };
    Arc::new(client::Config {
        client_id: SshId::Standard(IDENTIFICATION.into()),
        limits,
        window_size,
        maximum_packet_size: CHANNEL_PACKET,
        preferred,
        // Who is dead is decided in `tunnel/liveness.rs`: russh takes a line that is busy sending for a dead one.
        keepalive_interval: None,
        inactivity_timeout: None,
        nodelay: true,
        ..client::Config::default()
    })
}

/// What russh calls while the session runs. Whatever the server asks of us is refused.
struct Handler {
    shared: Arc<Shared>,
    trust: Trust,
    host: Host,
    at: fn() -> SystemTime,
}

/// How a session ends in the handler's eyes.
#[derive(Debug)]
enum Ended {
    HostKey(HostKeyMismatch),
    NotStrict,
    Russh(russh::Error),
}

impl From<russh::Error> for Ended {
    fn from(error: russh::Error) -> Self {
        Self::Russh(error)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.shared.end(ENDED);
    }
}

impl client::Handler for Handler {
    type Error = Ended;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, Ended> {
        self.trust.verify(presented, &self.host, (self.at)()).map_err(Ended::HostKey)?;
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &russh::Names,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        self.shared.exchanges.fetch_add(1, Ordering::Relaxed);
        if names.strict_kex() { Ok(()) } else { Err(Ended::NotStrict) }
    }

    async fn auth_banner(&mut self, banner: &str, _session: &mut client::Session) -> Result<(), Ended> {
        let mut kept = self.shared.banner.lock().unwrap_or_else(PoisonError::into_inner);
        for character in banner.chars().chain(['\n']) {
            if kept.len() >= LONGEST_BANNER {
                break;
            }
            kept.push(character);
        }
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        channel: ChannelId,
        _reason: ChannelOpenFailure,
        description: &str,
        _language: &str,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        self.shared.refusal_texts.tell(channel.into(), clean(description, LONGEST_REASON));
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Ended>) -> Result<(), Ended> {
        match reason {
            DisconnectReason::ReceivedDisconnect(told) => {
                *self.shared.farewell.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(told.message.clone());
                self.shared.end(&format!("it said: {}", told.message));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                match &error {
                    Ended::Russh(error) => self.shared.end(&lost(error)),
                    Ended::HostKey(_) | Ended::NotStrict => {}
                }
                Err(error)
            }
        }
    }

    // What a server may open on a client is refused by dropping the reply; russh's own answer to a channel of an
    // unknown kind is no.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<client::Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<client::Msg>,
        _socket_path: &str,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    fn should_accept_unknown_server_channel(
        &mut self,
        _id: ChannelId,
        _channel_type: &str,
    ) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<client::Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<client::Msg>,
        _socket_path: &str,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<client::Msg>,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }
}

fn refusal(error: Ended, shared: &Shared) -> Refusal {
    match error {
        Ended::HostKey(mismatch) => Refusal::HostKey(mismatch),
        Ended::NotStrict => Refusal::NotStrict,
        Ended::Russh(russh::Error::NoCommonAlgo { kind, .. }) => {
            Refusal::Algorithms(format!("{kind:?}").to_lowercase())
        }
        Ended::Russh(error) => {
            let reason = shared.reason().filter(|reason| reason != ENDED);
            Refusal::Lost(reason.unwrap_or_else(|| clean(&lost(&error), LONGEST_REASON)))
        }
    }
}

/// Hears why the bastion refused. It says so in the message that ends the connection, right behind the refusal; or, to who
/// may go on, as a question without a question (RFC 4256 §3.2), since SSH has no other way to say it.
async fn reason_of(
    handle: &mut client::Handle<Handler>,
    login: &str,
    remaining: &MethodSet,
    mut ended: watch::Receiver<Option<String>>,
) -> Option<String> {
    if remaining.contains(&MethodKind::KeyboardInteractive) {
        let asked = handle.authenticate_keyboard_interactive_start(login, None);
        if let Ok(Ok(KeyboardInteractiveAuthResponse::InfoRequest { instructions, prompts, .. })) =
            timeout(LAST_WORDS, asked).await
            && prompts.is_empty()
            && !instructions.trim().is_empty()
        {
            return Some(instructions);
        }
    }
    let _ = timeout(LAST_WORDS, ended.wait_for(Option::is_some)).await;
    None
}

fn admitted(answer: &AuthResult, told: Option<String>, shared: &Shared) -> Result<(), Refusal> {
    let AuthResult::Failure { remaining_methods, .. } = answer else { return Ok(()) };
    let farewell = shared.farewell();
    let told = told
        .as_deref()
        .map(whole_reason)
        .or_else(|| reason_in(&shared.banner()))
        .or_else(|| farewell.as_deref().map(whole_reason));
    match (told, shared.reason()) {
        (Some(why), _) => Err(Refusal::Certificate(Some(why))),
        // russh answers "refused, nothing else to try" for a connection that ended as well.
        (None, Some(reason)) if remaining_methods.is_empty() => Err(Refusal::Lost(reason)),
        (None, _) => Err(Refusal::Certificate(None)),
    }
}

/// The bastion's reason, in what it said before the end: a line that says so, or one that begins with a code of ours. Other
/// servers greet with whatever they like.
fn reason_in(said: &str) -> Option<String> {
    said.lines()
        .find_map(|line| match line.split_once(CERTIFICATE_REFUSED) {
            Some((_, why)) => Some(why),
            None => verdict::is_for_now(verdict::code(line)).then_some(line),
        })
        .map(|why| clean(why.trim(), LONGEST_REASON))
}

/// The reason that a server gives as it ends the connection right behind a refusal: all of it, if it does not mark one.
fn whole_reason(farewell: &str) -> String {
    let lines = || farewell.lines().map(str::trim).filter(|line| !line.is_empty());
    reason_in(farewell).unwrap_or_else(|| clean(&lines().collect::<Vec<_>>().join(" "), LONGEST_REASON))
}

fn not_opened(reason: &ChannelOpenFailure, told: Option<String>) -> NotOpened {
    let told = told.filter(|told| !told.is_empty()).unwrap_or_else(|| reason.description().to_owned());
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited | ChannelOpenFailure::UnknownChannelType => {
            NotOpened::Policy(told)
        }
        ChannelOpenFailure::ConnectFailed | ChannelOpenFailure::Other { .. } => NotOpened::Target(told),
        ChannelOpenFailure::ResourceShortage => NotOpened::Limit(told),
    }
}

/// What the end of a connection means to a person.
fn lost(error: &russh::Error) -> String {
    match error {
        russh::Error::IO(error) => match error.kind() {
            std::io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
            std::io::ErrorKind::TimedOut => "it does not answer".to_owned(),
            std::io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        },
        russh::Error::HUP | russh::Error::Disconnect => "it closed the connection".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bastions_reason_is_found_and_cannot_hurt() {
        assert_eq!(
            reason_in("Welcome\ncertificate refused: expired: it ended 3 s ago\nmore\n").as_deref(),
            Some("expired: it ended 3 s ago")
        );
        assert_eq!(reason_in("it said: certificate refused: \u{1b}[2Jx").as_deref(), Some("\\u{1b}[2Jx"));
        assert_eq!(reason_in("Welcome"), None);
        assert_eq!(reason_in("Rules: be kind"), None);
        for (farewell, expected) in [
            ("too_many_connections: close one", "too_many_connections: close one"),
            ("certificate refused: expired: it ended", "expired: it ended"),
            ("Too many authentication failures", "Too many authentication failures"),
        ] {
            assert_eq!(whole_reason(farewell), expected);
        }
        let banner = "Welcome\naudit_stopped: it grants nothing new\n";
        assert_eq!(reason_in(banner).as_deref(), Some("audit_stopped: it grants nothing new"));
    }

    /// A bastion that admits everybody and refuses every stream with the port in its words, the later the earlier.
    struct Refusing;

    impl russh::server::Handler for Refusing {
        type Error = russh::Error;

        async fn auth_openssh_certificate(
            &mut self,
            _user: &str,
            _certificate: &russh::keys::Certificate,
        ) -> Result<russh::server::Auth, russh::Error> {
            Ok(russh::server::Auth::Accept)
        }

        async fn channel_open_direct_tcpip(
            &mut self,
            _channel: Channel<russh::server::Msg>,
            _host: &str,
            port: u32,
            _originator: &str,
            _originator_port: u32,
            reply: russh::server::ChannelOpenHandle,
            _session: &mut russh::server::Session,
        ) -> Result<(), russh::Error> {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(u64::from(200 - port))).await;
                reply.reject(ChannelOpenFailure::Other { code: 1, reason: format!("port {port}") }).await;
            });
            Ok(())
        }
    }

    async fn credential() -> Credential {
        let signer = vault_signer::Local::generate(vault_signer::signer::local::Role {
            name: "any".into(),
            kind: vault_signer::Kind::User,
            principals: vec!["tunnel".into()],
            ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(60),
        })
        .unwrap();
        let request =
            vault_signer::Request::forwarding("any", vec!["tunnel".into()], Duration::from_secs(60));
        Credential::generate(&signer, &request).await.unwrap()
    }

    /// A bastion that refuses every certificate, and tells when it has.
    struct TurningAway {
        refused: Arc<tokio::sync::Notify>,
        banner: Option<&'static str>,
        instructions: Option<&'static str>,
    }

    impl russh::server::Handler for TurningAway {
        type Error = russh::Error;

        async fn auth_openssh_certificate(
            &mut self,
            _user: &str,
            _certificate: &russh::keys::Certificate,
        ) -> Result<russh::server::Auth, russh::Error> {
            self.refused.notify_one();
            Ok(russh::server::Auth::reject())
        }

        async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
            Ok(self.banner.map(str::to_owned))
        }

        async fn auth_keyboard_interactive<'a>(
            &'a mut self,
            _user: &str,
            _submethods: &str,
            _response: Option<russh::server::Response<'a>>,
        ) -> Result<russh::server::Auth, russh::Error> {
            Ok(match self.instructions {
                None => russh::server::Auth::reject(),
                Some(instructions) => russh::server::Auth::Partial {
                    name: "".into(),
                    instructions: instructions.into(),
                    prompts: (&[]).into(),
                },
            })
        }
    }

    /// Why a login is refused by a bastion that greets with `banner`, answers who asks on with `instructions`, and ends the
    /// connection with `farewell`.
    async fn turned_away(
        banner: Option<&'static str>,
        instructions: Option<&'static str>,
        farewell: Option<&'static str>,
    ) -> Refusal {
        let host_key =
            russh::keys::PrivateKey::random(&mut rand::rng(), russh::keys::Algorithm::Ed25519).unwrap();
        let trust = Trust::Keys(vec![host_key.public_key().clone()]);
        let config = russh::server::Config {
            keys: vec![host_key],
            auth_rejection_time: Duration::ZERO,
            ..Default::default()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refused = Arc::new(tokio::sync::Notify::new());
        let handler = TurningAway { refused: Arc::clone(&refused), banner, instructions };
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let running = russh::server::run_stream(Arc::new(config), socket, handler).await.unwrap();
            let handle = running.handle();
            tokio::spawn(async move {
                refused.notified().await;
                if let Some(farewell) = farewell {
                    let reason = Disconnect::NoMoreAuthMethodsAvailable;
                    handle.disconnect(reason, farewell.to_owned(), "en".to_owned()).await.unwrap();
                }
            });
            let _ = running.await;
        });
        let socket = TcpStream::connect(address).await.unwrap();
        let host = "127.0.0.1".parse().unwrap();
        let credential = credential().await;
        Session::connect(socket, &trust, &host, "tunnel", &credential).await.err().unwrap()
    }

    #[tokio::test]
    async fn what_a_bastion_says_as_it_refuses_is_heard() {
        let many = "too_many_connections: this key has as many connections as it may have";
        let expired = "certificate refused: expired: it ended";
        for (banner, instructions, farewell, expected) in [
            (None, None, Some(many), Some(many)),
            (None, None, Some(expired), Some("expired: it ended")),
            (Some("Welcome"), None, Some("Too many failures"), Some("Too many failures")),
            (Some("Welcome\ncertificate refused: expired: it ended"), None, None, Some("expired: it ended")),
            (Some("Welcome"), Some(expired), None, Some("expired: it ended")),
            (
                None,
                Some("no_valid_certificate: a key\r\nalone"),
                None,
                Some("no_valid_certificate: a key alone"),
            ),
            (Some("Welcome"), None, None, None),
        ] {
            let refusal = turned_away(banner, instructions, farewell).await;
            assert!(
                matches!(&refusal, Refusal::Certificate(why) if why.as_deref() == expected),
                "{banner:?} {instructions:?} {farewell:?}: {refusal:?}"
            );
        }
    }

    /// A session with a server of russh's.
    async fn connected(
        config: russh::server::Config,
        handler: impl russh::server::Handler<Error = russh::Error> + Send + 'static,
    ) -> Arc<Session> {
        let key =
            || russh::keys::PrivateKey::random(&mut rand::rng(), russh::keys::Algorithm::Ed25519).unwrap();
        let host_key = key();
        let trust = Trust::Keys(vec![host_key.public_key().clone()]);
        let config = russh::server::Config { keys: vec![host_key], ..config };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            russh::server::run_stream(Arc::new(config), socket, handler).await.unwrap().await
        });

        let credential = credential().await;
        let socket = TcpStream::connect(address).await.unwrap();
        let host = "127.0.0.1".parse().unwrap();
        Arc::new(Session::connect(socket, &trust, &host, "tunnel", &credential).await.unwrap())
    }

    /// A bastion that admits everybody and takes what comes on a stream.
    struct Taking;

    impl russh::server::Handler for Taking {
        type Error = russh::Error;

        async fn auth_openssh_certificate(
            &mut self,
            _user: &str,
            _certificate: &russh::keys::Certificate,
        ) -> Result<russh::server::Auth, russh::Error> {
            Ok(russh::server::Auth::Accept)
        }

        async fn channel_open_direct_tcpip(
            &mut self,
            mut channel: Channel<russh::server::Msg>,
            _host: &str,
            _port: u32,
            _originator: &str,
            _originator_port: u32,
            reply: russh::server::ChannelOpenHandle,
            _session: &mut russh::server::Session,
        ) -> Result<(), russh::Error> {
            tokio::spawn(async move {
                reply.accept().await;
                while !matches!(channel.wait().await, Some(russh::ChannelMsg::Eof) | None) {}
                let _ = channel.eof().await;
                let _ = channel.close().await;
            });
            Ok(())
        }
    }

    #[tokio::test]
    async fn keys_are_replaced_and_streams_opened_as_the_bastion_announces() {
        use tokio::io::AsyncWriteExt;
        let megabytes = 8_u64;
        let server = |said: &str| russh::server::Config {
            server_id: SshId::Standard(format!("SSH-2.0-x {said}").into()),
            limits: key_exchange::left_to_the_peer(),
            ..russh::server::Config::default()
        };
        for (said, least, paced) in
            [("rekey=1048576,3600 opens=1,1", megabytes / 2, true), ("as others do", 1, false)]
        {
            let session = connected(server(said), Taking).await;
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stream = session.open(&"demo.internal:1".parse().unwrap(), address).await.unwrap();
            let mut program = TcpStream::connect(address).await.unwrap();
            let (local, _) = listener.accept().await.unwrap();
            let account = Account::default();
            let (written, end) = tokio::join!(
                async {
                    program.write_all(&vec![7; usize::try_from(megabytes << 20).unwrap()]).await.unwrap();
                    program.shutdown().await
                },
                stream.relay(local, &account, std::future::pending()),
            );
            written.unwrap();
            assert_eq!(end, End::Finished, "{said}");
            let exchanges = session.exchanges();
            assert!(if least > 1 { exchanges >= least } else { exchanges == 1 }, "{said}: {exchanges}");
            let longest = Duration::from_secs(9);
            assert_eq!(session.turn(longest), Some(Duration::ZERO), "{said}");
            assert_eq!(session.turn(longest) > Some(Duration::ZERO), paced, "{said}");
            session.close().await;
        }
    }

    #[tokio::test]
    async fn each_of_many_refusals_has_its_own_words() {
        let session = connected(russh::server::Config::default(), Refusing).await;
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let opens = (1..=100_u16).map(|port| {
            let session = Arc::clone(&session);
            async move {
                let destination = format!("demo.internal:{port}").parse().unwrap();
                let refused = session.open(&destination, address).await.err();
                assert_eq!(refused, Some(NotOpened::Policy(format!("port {port}"))));
            }
        });
        futures_util::future::join_all(opens).await;
        session.close().await;
        assert!(session.has_ended());
    }

    #[test]
    fn a_foreign_server_starts_the_key_exchanges_and_gets_a_plain_window() {
        let trust = Trust::Keys(Vec::new());
        let foreign = config(&trust, None);
        assert_eq!(foreign.window_size, CHANNEL_WINDOW);
        assert_eq!(foreign.limits.rekey_read_limit as u64, key_exchange::BACKSTOP);
        assert_eq!(foreign.limits.rekey_write_limit as u64, key_exchange::BACKSTOP);
        assert_eq!(foreign.limits.rekey_time_limit, Duration::MAX);
        let bastion = config(&trust, Some(Rekey { bytes: 1 << 20, time: Duration::from_secs(60) }));
        assert_eq!(
            bastion.window_size, UNREACHED_WINDOW,
            "whoever goes first must hold all that is under way"
        );
        assert_eq!(bastion.limits.rekey_read_limit, 1 << 20);
    }

    #[test]
    fn refusals_of_a_stream_are_told_apart() {
        let told = |text: &str| Some(text.to_owned());
        assert_eq!(
            not_opened(&ChannelOpenFailure::AdministrativelyProhibited, told("no-rule: no rule allows it")),
            NotOpened::Policy("no-rule: no rule allows it".into())
        );
        assert_eq!(
            not_opened(&ChannelOpenFailure::ConnectFailed, None),
            NotOpened::Target("Connect failed".into())
        );
        assert_eq!(
            not_opened(&ChannelOpenFailure::ResourceShortage, told("")),
            NotOpened::Limit("Resource shortage".into())
        );
    }
}
