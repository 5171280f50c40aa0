//! Accepts connections, and owns each of them until it has ended.
//!
//! The loop never ends by itself: it counts an error of `accept` (too many open files, a peer that has left
//! already) and goes on. Each connection runs in a task of its own, so that a defect ends one connection
//! alone.

pub(crate) mod fair_queue;
mod guard;
pub(crate) mod packet_gate;
pub(crate) mod prelogin;
pub(crate) mod proxy;
mod refusal;

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use backoff::Backoff;
use futures_util::FutureExt;
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};
use ssh_transport::socket::{CarrierSocket, Cutter};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::sleep,
};
use tracing::Instrument;

use crate::{
    accept::{
        fair_queue::FairQueue,
        packet_gate::PacketGate,
        prelogin::{PreloginSocket, PreloginState},
    },
    limits::startups::{self, Source, Stage},
    process::drain::Drain,
    session::{Session, SessionId},
    telemetry::metrics::Metrics,
};

use crate::config::proxy_protocol::ProxyProtocol;
use guard::{Guard, Start, Startup, Throttle};
use proxy::ClientOrigin;
use refusal::{DisconnectSender, Refused};

/// The pauses of the accept loop while errors persist.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
/// The shortest time between two log lines about refused connections.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// The server's identification line (RFC 4253 §4.2).
pub(crate) const IDENTIFICATION: &str = concat!("SSH-2.0-bastion_", env!("CARGO_PKG_VERSION"));
/// The silence after which the kernel probes whether the peer's host still exists, and the interval of its
/// probes.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// The limits that the listener enforces.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// The time from accept to the end of the login.
    pub login_deadline: Duration,
    /// The most connections that may be open simultaneously, logged in or not.
    pub max_sessions: usize,
    /// Limits on connections that have not logged in yet.
    pub startups: startups::Limits,
    /// Penalties for connections that came to nothing.
    pub penalties: startups::Penalties,
    /// The load balancers that may announce a client's address.
    pub proxies: ProxyProtocol,
}

/// The socket of a connection that was let in.
pub(crate) type Socket = PacketGate<CarrierSocket<PreloginSocket<TcpStream>>>;

/// A connection that was let in and has not logged in yet.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The connection's name, and the client's address from the network or a trusted proxy; never v4-mapped.
    pub session: Session,
    pub socket: Socket,
    /// Ends the connection in any state.
    pub cutter: Cutter,
    /// To be told when the login is complete. Until then the login deadline runs.
    pub pending: PendingLogin,
    /// To be told when the client breaks the protocol.
    pub seen: Arc<PreloginState>,
    /// Announces the shutdown.
    pub drain: Drain,
}

/// A login that has not happened yet; dropping it counts as a failed one.
#[derive(Debug)]
pub(crate) struct PendingLogin {
    seen: Arc<PreloginState>,
    done: oneshot::Sender<()>,
}

impl PendingLogin {
    /// Completes the login: the deadline ends, and the place is free for another client.
    pub(crate) fn complete(self) {
        self.seen.log_in();
        // The receiver is gone only if the deadline struck at this very moment.
        let _ = self.done.send(());
    }

    /// Records a refused login. The client may have other keys to offer.
    pub(crate) fn refuse(&self) {
        self.seen.refuse();
    }

    /// Records the stage that the client has reached.
    pub(crate) fn reach(&self, stage: Stage) {
        self.seen.reach(stage);
    }
}

/// Serves `listener` until the drain begins.
pub(crate) async fn run<S, F>(
    listener: TcpListener,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    drain: Drain,
    serve: S,
) where
    S: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = Arc::new(Acceptor {
        metrics,
        throttle: Arc::new(Mutex::new(Throttle::new(bounds.startups, bounds.penalties))),
        sessions: Arc::new(Semaphore::new(bounds.max_sessions.min(Semaphore::MAX_PERMITS))),
        turns: Arc::new(FairQueue::new(available_parallelism().map_or(1, NonZeroUsize::get))),
        bounds,
        drain: drain.clone(),
        logged: Mutex::new(None),
        disconnects: DisconnectSender::default(),
        serve,
    });
    let mut reserve = ReserveFd::new(&listener);
    let mut pause = PAUSE;
    let mut failures = 0_u64;
    let begun = drain.begun();
    tokio::pin!(begun);
    loop {
        let accepted = tokio::select! {
            () = &mut begun => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if failures > 0 {
                    tracing::info!(failures, "accepting connections again");
                    failures = 0;
                    pause.worked();
                }
                acceptor.open(stream, peer);
            }
            Err(error) if is_of_one_peer(&error) => acceptor.metrics.accept_failed(),
            Err(error) => {
                acceptor.metrics.accept_failed();
                if failures == 0 {
                    tracing::error!(
                        %error,
                        "cannot accept connections; retrying (if too many files are open: raise \
                         the limit on open files, or lower limits.max_sessions)"
                    );
                }
                failures += 1;
                if is_out_of_files(&error) && reserve.shed(&listener) {
                    acceptor.metrics.connection_refused("open_files");
                }
                tokio::select! {
                    () = &mut begun => return,
                    () = sleep(pause.paced()) => {}
                }
            }
        }
    }
}

/// Whether an error of accept(2) concerns one connection rather than the listener.
fn is_of_one_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn is_out_of_files(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// A descriptor in reserve for the moment when no other can be opened: without one the bastion could not even
/// turn clients away, and they would wait forever. It duplicates the listener's, since the sandbox may forbid
/// opening files.
struct ReserveFd(Option<OwnedFd>);

impl ReserveFd {
    fn new(listener: &TcpListener) -> Self {
        Self(listener.as_fd().try_clone_to_owned().ok())
    }

    /// Turns away the first connection that waits.
    fn shed(&mut self, listener: &TcpListener) -> bool {
        let had = self.0.take().is_some();
        let shed = had && matches!(listener.accept().now_or_never(), Some(Ok(_)));
        *self = Self::new(listener);
        shed
    }
}

/// Admits or refuses every new connection.
struct Acceptor<S> {
    bounds: Bounds,
    metrics: Arc<Metrics>,
    throttle: Arc<Mutex<Throttle>>,
    sessions: Arc<Semaphore>,
    turns: Arc<FairQueue>,
    drain: Drain,
    logged: Mutex<Option<Instant>>,
    disconnects: DisconnectSender,
    serve: S,
}

impl<S, F> Acceptor<S>
where
    S: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// Lets one connection in, or refuses it with a message.
    fn open(self: &Arc<Self>, mut stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let deadline = tokio::time::Instant::now() + self.bounds.login_deadline;
        let Ok(slot) = Arc::clone(&self.sessions).try_acquire_owned() else {
            return self.refuse(stream, peer, Refused::Sessions);
        };
        let acceptor = Arc::clone(self);
        match proxy::expect(&self.bounds.proxies, peer.ip()) {
            Ok(None) => {
                let origin = ClientOrigin { client: peer, is_proxys_own: false };
                if let Some(serving) = self.admit(stream, origin, slot, deadline) {
                    self.drain.track(serving);
                }
            }
            // The throttle counts the client's address, not the proxy's, so it is asked after the header.
            Ok(Some(header)) => self.drain.track(async move {
                let origin = tokio::select! {
                    origin = header.read(&mut stream, peer) => origin,
                    () = acceptor.drain.begun() => return,
                };
                match origin {
                    Ok(Some(origin)) => {
                        if let Some(serving) = acceptor.admit(stream, origin, slot, deadline) {
                            serving.await;
                        }
                    }
                    Ok(None) => tracing::debug!(%peer, "a proxy connected and left without sending a byte"),
                    Err(refused) => acceptor.refuse(stream, peer, refused),
                }
            }),
            Err(refused) => self.refuse(stream, peer, refused),
        }
    }

    /// Asks the throttle, and begins to serve.
    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        origin: ClientOrigin,
        slot: OwnedSemaphorePermit,
        deadline: tokio::time::Instant,
    ) -> Option<impl Future<Output = ()> + Send + use<S, F>> {
        let ClientOrigin { client, is_proxys_own } = origin;
        let source = Source::from(client.ip());
        let (displace, displaced) = oneshot::channel();
        let seen = Arc::new(PreloginState::default());
        let started = self.throttle.lock().unwrap_or_else(PoisonError::into_inner).start(
            source,
            Startup { displace, seen: Arc::clone(&seen) },
            Instant::now(),
        );
        let ticket = match started {
            Ok((ticket, gives_way)) => {
                if let Some(gives_way) = gives_way {
                    // If the receiver is gone, that connection has ended already.
                    let _ = gives_way.displace.send(());
                }
                ticket
            }
            Err(busy) => {
                self.refuse(stream, client, Refused::Busy(busy));
                return None;
            }
        };
        if let Err(error) = tune(&stream) {
            tracing::debug!(%client, %error, "cannot set socket options; the peer is probably gone");
        }
        let (socket, cutter) = CarrierSocket::new(PreloginSocket::new(stream, Arc::clone(&seen)));
        let socket = PacketGate::new(socket, Arc::clone(&seen), self.turns.queue(source));
        let (done, logged_in) = oneshot::channel();
        let session = Session { id: SessionId::random(), client };
        let guard = Guard {
            cutter,
            start: Start::new(Arc::clone(&self.throttle), ticket),
            seen: Arc::clone(&seen),
            is_proxys_own,
            logged_in,
            displaced,
            deadline,
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
        };
        let serving = (self.serve)(Connection {
            session,
            socket,
            cutter: guard.cutter.clone(),
            pending: PendingLogin { seen: Arc::clone(&seen), done },
            seen,
            drain: self.drain.clone(),
        });
        let serving = async move {
            guard.watch(serving).await;
            drop(slot);
        };
        Some(serving.instrument(session.span()))
    }

    fn refuse(&self, stream: TcpStream, client: SocketAddr, refused: Refused) {
        let (reason, setting) = (refused.code(), refused.setting());
        self.metrics.connection_refused(reason);
        self.disconnects.say(stream, &refused);
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL) {
            *logged = Some(now);
            tracing::warn!(
                %client, reason, setting,
                "refusing connections: {refused}; bastion_connections_refused_total counts them all"
            );
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    struct Running {
        address: SocketAddr,
        metrics: Arc<Metrics>,
        drain: Drain,
    }

    async fn start<S, F>(change: impl FnOnce(&mut Bounds), serve: S) -> Running
    where
        S: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut bounds = Bounds {
            login_deadline: Duration::from_secs(60),
            max_sessions: 10,
            startups: startups::Limits::default(),
            penalties: startups::Penalties::default(),
            proxies: ProxyProtocol::default(),
        };
        change(&mut bounds);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let running = Running {
            address: listener.local_addr().unwrap(),
            metrics: Arc::new(Metrics::new()),
            drain: Drain::default(),
        };
        tokio::spawn(run(listener, bounds, Arc::clone(&running.metrics), running.drain.clone(), serve));
        running
    }

    async fn echo(mut connection: Connection) {
        connection.pending.complete();
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = connection.socket.read(&mut buffer).await {
            connection.socket.write_all(&buffer[..read]).await.unwrap();
        }
    }

    /// Reads to the end, which must come in time.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        // A reset is an end, too.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut text)).await.expect("closed in time");
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn echoes(stream: &mut TcpStream) {
        stream.write_all(b"hi").await.unwrap();
        let mut answer = [0; 2];
        timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"hi");
    }

    #[tokio::test]
    async fn a_peer_that_talks_but_never_logs_in_is_cut_at_the_deadline() {
        let running = start(
            |bounds| bounds.login_deadline = Duration::from_millis(300),
            |mut connection| async move {
                // Keeps its place, as a handler inside a running SSH session does.
                let _pending = connection.pending;
                let mut buffer = [0; 64];
                while let Ok(1..) = connection.socket.read(&mut buffer).await {}
            },
        )
        .await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let began = Instant::now();
        stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let ended = timeout(DEADLINE, async {
            loop {
                tokio::select! {
                    read = stream.read_u8() => return read.is_err(),
                    () = sleep(Duration::from_millis(20)) => {}
                }
                if stream.write_all(b"i").await.is_err() {
                    return true;
                }
            }
        });
        assert!(ended.await.expect("cut in time"));
        assert!(began.elapsed() >= Duration::from_millis(250));
        assert!(running.metrics.render().contains("{reason=\"login_deadline\"} 1"));
    }

    #[tokio::test]
    async fn who_logged_in_may_stay() {
        let running = start(|bounds| bounds.login_deadline = Duration::from_millis(50), echo).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        echoes(&mut stream).await;
        sleep(Duration::from_millis(150)).await;
        echoes(&mut stream).await;
        assert!(running.metrics.render().contains("bastion_sessions_active 1\n"));
    }

    #[tokio::test]
    async fn sessions_are_limited_and_the_next_is_let_in_when_one_ends() {
        let running = start(|bounds| bounds.max_sessions = 1, echo).await;
        let mut first = TcpStream::connect(running.address).await.unwrap();
        echoes(&mut first).await;
        let mut second = TcpStream::connect(running.address).await.unwrap();
        assert!(rest(&mut second).await.contains("sessions: too many"));
        drop(first);
        timeout(DEADLINE, async {
            loop {
                let mut third = TcpStream::connect(running.address).await.unwrap();
                let mut answer = [0; 2];
                if third.write_all(b"hi").await.is_ok()
                    && third.read_exact(&mut answer).await.is_ok()
                    && &answer == b"hi"
                {
                    break;
                }
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn startups_are_limited() {
        let running = start(
            |bounds| bounds.startups.total = std::num::NonZeroU32::MIN,
            |connection| async move {
                let _pending = connection;
                std::future::pending().await
            },
        )
        .await;
        let _first = TcpStream::connect(running.address).await.unwrap();
        let mut second = TcpStream::connect(running.address).await.unwrap();
        assert!(rest(&mut second).await.contains("startups_total: too many"));
        assert!(running.metrics.render().contains("{reason=\"startups_total\"} 1"));
    }

    #[tokio::test]
    async fn a_defect_ends_only_its_connection() {
        let running = start(
            |_| {},
            |mut connection| async move {
                let mut line = [0; 9];
                connection.socket.read_exact(&mut line).await.unwrap();
                if line.ends_with(b"!") {
                    panic!("met a defect");
                }
                echo(connection).await;
            },
        )
        .await;
        let mut other = TcpStream::connect(running.address).await.unwrap();
        other.write_all(b"SSH-2.0-.").await.unwrap();
        echoes(&mut other).await;
        let mut victim = TcpStream::connect(running.address).await.unwrap();
        victim.write_all(b"SSH-2.0-!").await.unwrap();
        assert_eq!(rest(&mut victim).await, "");
        echoes(&mut other).await;
    }

    #[tokio::test]
    async fn a_drain_stops_accepting_and_cuts_who_does_not_leave() {
        let running = start(|_| {}, echo).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        echoes(&mut stream).await;
        let finished = running.drain.finish(Duration::from_millis(50)).await;
        assert_eq!(finished, crate::process::drain::Finished::Cut(1));
        assert_eq!(rest(&mut stream).await, "");
        timeout(DEADLINE, async { while TcpStream::connect(running.address).await.is_ok() {} })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_drain_does_not_wait_for_who_has_not_logged_in() {
        let (began, mut begun) = tokio::sync::mpsc::channel(1);
        let running = start(
            |_| {},
            move |mut connection| {
                let began = began.clone();
                async move {
                    let _pending = connection.pending;
                    began.send(()).await.unwrap();
                    let _ = connection.socket.read_u8().await;
                }
            },
        )
        .await;
        let _silent = TcpStream::connect(running.address).await.unwrap();
        begun.recv().await.unwrap();
        assert_eq!(running.drain.finish(DEADLINE).await, crate::process::drain::Finished::Cleanly);
    }

    #[test]
    fn errors_of_one_peer_cost_no_pause() {
        assert!(is_of_one_peer(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_of_one_peer(&io::Error::from_raw_os_error(24)), "EMFILE is about us");
    }
}
