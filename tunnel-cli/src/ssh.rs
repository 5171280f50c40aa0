//! One authenticated connection to the bastion, and streams on it. The only module that knows russh: nothing outside it
//! knows what a channel is.

mod handler;
mod own_key;
mod refusal;
mod refusal_text;
mod stream;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use russh::{
    Disconnect, SshId,
    client::{self, AuthResult},
    keys::{HashAlg, PublicKey},
};
use ssh_transport::{
    BASTION_PACKET, CHANNEL_PACKET, CHANNEL_WINDOW, algorithms,
    budget::{self, Budget},
    key_exchange::{self, Rekey, UNREACHED_WINDOW},
    preamble::Preamble,
    relay::{PATIENCE, SPILL},
    socket::{CarrierSocket, Cutter},
    turns::{Rate, Turns},
};
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::{Instant, timeout},
};
use vault_signer::Credential;

use crate::{
    endpoint::{Endpoint, Host},
    trust::Trust,
};
use handler::{Handler, Shared};
use own_key::{OwnKey, Unsigned};
pub(crate) use refusal::{NotOpened, Refusal, code, is_for_now};
use refusal::{admitted, lost, not_opened, reason_in, reason_of, refusal};
use refusal_text::RefusalTexts;
use stream::OwnChannel;
pub(crate) use stream::Stream;
pub(crate) use streams::{Carried, NotCarried, Streams};

/// How long a server may take for the handshake and the login together.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long it may take to say good-bye.
const GOODBYE: Duration = Duration::from_millis(500);
/// How this client introduces itself (RFC 4253 §4.2).
const IDENTIFICATION: &str = concat!("SSH-2.0-pf-tunnel_", env!("CARGO_PKG_VERSION"));

/// One authenticated connection.
pub(crate) struct Session {
    handle: client::Handle<Handler>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<String>>,
    cutter: Cutter,
    turns: Option<Paced>,
    memory: Arc<budget::Carrier>,
    /// Whether the server announces streams that outlive a session.
    knows_streams: bool,
}

/// How fast the bastion wants streams to be opened, and those that were.
struct Paced {
    rate: Rate,
    turns: Mutex<Turns>,
}

impl Session {
    /// Handshake, verification of the server, login.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing secret has been sent to a server that is not the bastion.
    pub(crate) async fn connect(
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
            let knows_streams = server.as_deref().is_some_and(tunnel_stream::is_announced);
            admitted(&answer, told, &shared).map(|()| (handle, turns, knows_streams))
        };
        let (handle, turns, knows_streams) = timeout(HANDSHAKE, connecting)
            .await
            .map_err(|_| Refusal::Lost(format!("no login within {} s", HANDSHAKE.as_secs())))??;
        Ok(Self { handle, shared, ended, cutter: guard.disarm(), turns, memory, knows_streams })
    }

    /// How long to wait before the next [`Self::open`], so that the bastion need not refuse it. `None` where that is longer than
    /// `longest`.
    pub(crate) fn turn(&self, longest: Duration) -> Option<Duration> {
        let Some(paced) = &self.turns else { return Some(Duration::ZERO) };
        let mut turns = paced.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.take(paced.rate, longest, std::time::Instant::now())
    }

    /// Asks the bastion to connect to `destination`, on behalf of the local program at `peer`: as one of `streams`, or by a
    /// channel.
    ///
    /// # Errors
    /// See [`NotOpened`]. A stream that opens after the caller has gone is closed again.
    pub(crate) async fn open(
        self: &Arc<Self>,
        streams: Option<&Streams>,
        destination: &Endpoint,
        peer: SocketAddr,
    ) -> Result<Stream, NotOpened> {
        match streams {
            Some(streams) => streams.open(destination).await.map(Stream::Resumable),
            None => self.open_channel(destination, peer).await.map(Stream::Channel),
        }
    }

    /// A `direct-tcpip` channel (RFC 4254 §7.2).
    async fn open_channel(
        self: &Arc<Self>,
        destination: &Endpoint,
        peer: SocketAddr,
    ) -> Result<OwnChannel, NotOpened> {
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
        Ok(OwnChannel { channel, carrier: self.cutter.clone(), budget: self.memory.stream() })
    }

    /// One question and its answer, whatever that is.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn ping(&self) -> Result<(), NotOpened> {
        self.handle.send_ping().await.map_err(|_| NotOpened::Lost)
    }

    /// Waits for the end of the connection, and says why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// How often keys were exchanged, the first time included.
    #[cfg(test)]
    pub(crate) fn exchanges(&self) -> u64 {
        self.shared.exchanges.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// When the server was last heard.
    pub(crate) fn last_heard(&self) -> Instant {
        self.cutter.last_heard()
    }

    /// How many bytes went out.
    pub(crate) fn sent(&self) -> u64 {
        self.cutter.sent()
    }

    /// Ends it immediately: the server does not answer.
    pub(crate) fn cut(&self, reason: &str) {
        self.shared.end(reason);
        self.cutter.cut();
    }

    /// Ends it in order, within a moment.
    pub(crate) async fn close(&self) {
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
    let (limits, window_size, maximum_packet_size) = match rekey {
        Some(rekey) => (rekey.limits(), UNREACHED_WINDOW, BASTION_PACKET),
        None => (key_exchange::left_to_the_peer(), CHANNEL_WINDOW, CHANNEL_PACKET),
    };
    Arc::new(client::Config {
        client_id: SshId::Standard(IDENTIFICATION.into()),
        limits,
        window_size,
        maximum_packet_size,
        preferred,
        // Who is dead is decided in `tunnel/liveness.rs`: russh takes a line that is busy sending for a dead one.
        keepalive_interval: None,
        inactivity_timeout: None,
        nodelay: true,
        ..client::Config::default()
    })
}
