//! Listens on a local port, which stays bound whatever happens to the bastion, and serves each connection to it.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use backoff::between;
use futures_util::future::join_all;
use socket2::SockRef;
use ssh_transport::relay::End;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use super::{port_owner, state::TunnelState};
use crate::{
    endpoint::{Endpoint, Forward, Local, On},
    failure::{Failure, Stage},
    output::{Event, Output},
    ssh::NotOpened,
};

/// How many connections of one forward are served or held at a time; more wait in the kernel's queue.
const MOST: usize = 1000;
/// That queue.
const BACKLOG: u32 = 1024;
/// How long the bastion may take to reach a destination. It has a limit of its own, which is shorter.
const LONGEST_OPEN: Duration = Duration::from_secs(60);
/// How long a connection may be held back because there are too many, or they come too fast.
const LONGEST_HELD_BACK: Duration = Duration::from_secs(120);
/// How soon a stream that the bastion had no room for is asked for again, at first and later on.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long to wait when the kernel has no descriptor for one more connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How often another free port is tried, when the one that the kernel chose for one address is taken on another.
const PORTS: u32 = 32;

/// A bound local port, on each address that it was asked for, and where it leads.
pub(crate) struct Listener {
    sockets: Vec<TcpListener>,
    bound: Bound,
}

/// A forward, with what was really bound.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// The address that is shown.
    pub listen: SocketAddr,
    /// All of them, that one first.
    pub addresses: Vec<SocketAddr>,
    /// Where the bastion connects to.
    pub destination: Endpoint,
}

impl Listener {
    /// Binds the port that `forward` asks for, on each of its addresses that this computer has. `command` is what to type for
    /// another port.
    ///
    /// # Errors
    /// When it is taken on one of them or may not be bound; names who has it. A port that is ours on one loopback address
    /// only would leave a program that takes `localhost` for the other one with a stranger.
    pub(crate) fn bind(forward: &Forward, command: impl Fn(u16) -> String) -> Result<Self, Failure> {
        let wanted = forward.listen;
        let sockets = bind_all(wanted).map_err(|(address, error)| {
            let example = command(another_port(&wanted.on.addresses(), wanted.port));
            bind_failed(wanted.on, address, &error).advise(format!("  {example}"))
        })?;
        let (addresses, sockets): (Vec<SocketAddr>, _) = sockets.into_iter().unzip();
        let listen = addresses.first().copied().ok_or_else(|| {
            Failure::permanent(Stage::LocalPort, format!("{wanted} is on no address of this computer"))
        })?;
        Ok(Self { sockets, bound: Bound { listen, addresses, destination: forward.destination.clone() } })
    }

    /// The forward, with the port that was really bound.
    pub(crate) fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Accepts for ever.
    pub(super) async fn serve(self, state: Arc<TunnelState>, output: Arc<Output>, hold: Duration) {
        let acceptor =
            Acceptor { bound: self.bound, state, output, hold, room: Arc::new(Semaphore::new(MOST)) };
        join_all(self.sockets.into_iter().map(|socket| acceptor.serve(socket))).await;
    }
}

/// What the sockets of one forward share.
struct Acceptor {
    bound: Bound,
    state: Arc<TunnelState>,
    output: Arc<Output>,
    hold: Duration,
    room: Arc<Semaphore>,
}

impl Acceptor {
    async fn serve(&self, socket: TcpListener) {
        let Self { bound, state, output, room, .. } = self;
        let hold = self.hold;
        loop {
            if room.available_permits() == 0 {
                let reason =
                    format!("{MOST} connections are open; the next one waits for one of them to end");
                if state.is_news(&bound.destination, &reason) {
                    output.say(&Event::Warning(&format!("{}: {reason}", bound.listen)));
                }
            }
            // Never closed, so there is always a permit some time.
            let Ok(permit) = Arc::clone(room).acquire_owned().await else { return };
            let (accepted, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    output.say(&Event::Warning(&format!("{}: {error}", bound.listen)));
                    sleep(OUT_OF_DESCRIPTORS).await;
                    continue;
                }
            };
            let connection = Connection {
                peer,
                destination: bound.destination.clone(),
                state: Arc::clone(state),
                output: Arc::clone(output),
            };
            tokio::spawn(async move {
                connection.run(accepted, hold).await;
                drop(permit);
            });
        }
    }
}

/// One accepted connection.
struct Connection {
    peer: SocketAddr,
    destination: Endpoint,
    state: Arc<TunnelState>,
    output: Arc<Output>,
}

impl Connection {
    /// Waits for a carrier if there is none, opens a stream and relays. Every end but a clean one is a reset.
    async fn run(self, socket: TcpStream, hold: Duration) {
        let _ = socket.set_nodelay(true);
        let deadline = Instant::now() + hold;
        let held_back = Instant::now() + LONGEST_HELD_BACK;
        let mut ask_again = ASK_AGAIN.0;
        let (carrier, stream) = loop {
            let Some(carrier) = self.state.carrier(deadline).await else {
                if self.state.has_stopped() {
                    return reset(&socket);
                }
                let reason = format!("no connection to the bastion within {} s", hold.as_secs());
                return self.refuse(&socket, "bastion", &reason);
            };
            let left = held_back.saturating_duration_since(Instant::now());
            match carrier.turn(left) {
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    self.hold_back(
                        "connections begin faster than the bastion lets them; each waits for its turn",
                    );
                    if self.pause(wait).await.is_none() {
                        return reset(&socket);
                    }
                }
                None => return self.refuse(&socket, "limit", "too many connections wait for their turn"),
            }
            match timeout(LONGEST_OPEN, carrier.open(&self.destination, self.peer)).await {
                Ok(Ok(stream)) => break (carrier, stream),
                Ok(Err(NotOpened::Lost)) => self.state.pause_after_loss(deadline).await,
                Ok(Err(NotOpened::Policy(reason))) => return self.refuse(&socket, "policy", &reason),
                Ok(Err(NotOpened::Target(reason))) => return self.refuse(&socket, "target", &reason),
                // Room may come. Meanwhile the carrier may be another one.
                Ok(Err(NotOpened::Limit(reason))) if Instant::now() + ask_again < held_back => {
                    self.hold_back(&reason);
                    let wait = between(ask_again / 2, ask_again, &mut rand::rng());
                    if self.pause(wait).await.is_none() {
                        return reset(&socket);
                    }
                    ask_again = (2 * ask_again).min(ASK_AGAIN.1);
                }
                Ok(Err(NotOpened::Limit(reason))) => return self.refuse(&socket, "limit", &reason),
                Err(_) => return self.refuse(&socket, "target", "no answer"),
            }
        };
        self.output.say(&Event::Opened { peer: self.peer, destination: &self.destination });
        let open = self.state.opened();
        // A carrier lives as long as a stream that needs it.
        let carrier = stream.needs_its_session().then_some(carrier);
        let (end, told) = stream.relay(socket, self.state.account(), self.state.stopped()).await;
        drop(open);
        drop(carrier);
        self.output.say(&Event::Closed {
            peer: self.peer,
            destination: &self.destination,
            reason: told.as_deref().unwrap_or_else(|| words(end)),
        });
    }

    /// Says that connections are held back, once until they no longer are.
    fn hold_back(&self, reason: &str) {
        if self.state.holds_back() {
            self.output.say(&Event::HeldBack { destination: &self.destination, reason });
        }
    }

    /// Waits, unless the tunnel ends first.
    async fn pause(&self, wait: Duration) -> Option<()> {
        tokio::select! {
            () = sleep(wait) => Some(()),
            () = self.state.stopped() => None,
        }
    }

    fn refuse(&self, socket: &TcpStream, cause: &str, reason: &str) {
        if self.state.is_news(&self.destination, reason) {
            self.output.say(&Event::NotOpened { destination: &self.destination, cause, reason });
        }
        reset(socket);
    }
}

/// What follows is a reset, not an end in order.
fn reset(socket: &TcpStream) {
    // Fails only on a socket that is closed already.
    let _ = socket.set_zero_linger();
}

fn words(end: End) -> &'static str {
    match end {
        End::Finished => "finished",
        End::Socket(_) => "reset by the local program",
        End::Closed => "closed by the destination before the end",
        End::Lost => "lost with the connection to the bastion",
        End::Evicted(_) => "ended: the local program took nothing for too long",
        End::Stopped => "ended with the tunnel",
    }
}

/// One socket for each address that this computer has, all with the same port; or the address that cannot be bound.
fn bind_all(wanted: Local) -> Result<Vec<(SocketAddr, TcpListener)>, (SocketAddr, std::io::Error)> {
    let mut last = Ok(Vec::new());
    for _ in 0..PORTS {
        last = bind_once(wanted);
        let taken = matches!(&last, Err((_, error)) if error.kind() == ErrorKind::AddrInUse);
        if wanted.port != 0 || !taken {
            break;
        }
    }
    last
}

fn bind_once(wanted: Local) -> Result<Vec<(SocketAddr, TcpListener)>, (SocketAddr, std::io::Error)> {
    let mut bound: Vec<(SocketAddr, TcpListener)> = Vec::new();
    let mut absent = None;
    for ip in wanted.on.addresses() {
        let port = bound.first().map_or(wanted.port, |(address, _)| address.port());
        let address = SocketAddr::new(ip, port);
        match bind(address) {
            Ok(one) => bound.push(one),
            Err(error) if is_absent(&error) => absent = Some((address, error)),
            Err(error) => return Err((address, error)),
        }
    }
    match absent {
        Some(absent) if bound.is_empty() => Err(absent),
        Some(_) | None => Ok(bound),
    }
}

fn bind(address: SocketAddr) -> std::io::Result<(SocketAddr, TcpListener)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        // Its own family only, as ssh has it: the other has a socket of its own, or was not asked for.
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let socket = socket.listen(BACKLOG)?;
    Ok((socket.local_addr()?, socket))
}

/// A computer without this family of addresses, or without this one.
fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

/// What failed; an example follows it.
fn bind_failed(on: On, listen: SocketAddr, error: &std::io::Error) -> Failure {
    let (what, advice) = match error.kind() {
        ErrorKind::AddrInUse if on == On::Loopback && listen.is_ipv6() => (
            match port_owner::of(listen) {
                Some(owner) => format!("{listen} is in use by {owner}"),
                None => format!("{listen} is in use by another program"),
            },
            "A program that takes localhost for ::1 would reach that one instead of the tunnel. To listen on 127.0.0.1 \
             alone, write 127.0.0.1 before the local port; or choose another port, for example:",
        ),
        ErrorKind::AddrInUse => (
            match port_owner::of(listen) {
                Some(owner) => format!("{listen} is in use by {owner}"),
                None => format!("{listen} is in use by another program"),
            },
            "A tunnel cannot listen there. Choose another port, for example:",
        ),
        ErrorKind::PermissionDenied => (
            format!("{listen} may not be used by you"),
            "Ports below 1024 are for root. Choose another, for example:",
        ),
        ErrorKind::AddrNotAvailable => (
            format!("{} is not an address of this computer", listen.ip()),
            "Leave it out to listen on 127.0.0.1, for example:",
        ),
        _ => (format!("cannot listen on {listen}: {error}"), "Choose another port, for example:"),
    };
    Failure::permanent(Stage::LocalPort, what).advise(advice)
}

/// A port near `taken` that is free on all `addresses` at this moment, or 0 for any.
fn another_port(addresses: &[IpAddr], taken: u16) -> u16 {
    let is_free = |port: &u16| {
        addresses.iter().all(|address| match std::net::TcpListener::bind((*address, *port)) {
            Ok(_) => true,
            Err(error) => is_absent(&error),
        })
    };
    let base = if taken < 1024 { taken.saturating_add(8000) } else { taken };
    (1..=20).filter_map(|step| base.checked_add(step)).find(is_free).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_port_names_its_holder_and_another_port_at_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let destination: Endpoint = "demo.internal:80".parse().unwrap();
        let forward =
            |on| Forward { listen: Local { on, port: listen.port() }, destination: destination.clone() };
        let forward = forward(On::Loopback);
        let attempt = || {
            let start = std::time::Instant::now();
            let Err(failure) = Listener::bind(&forward, |port| format!("x {port}")) else {
                panic!("bound twice")
            };
            (start.elapsed(), failure)
        };
        // A busy machine may hold up one of them, or two.
        let (took, failure) =
            [attempt(), attempt(), attempt()].into_iter().min_by_key(|(took, _)| *took).unwrap();
        assert!(took < Duration::from_millis(200), "{took:?}");
        assert_eq!(failure.stage(), Stage::LocalPort);
        let text = failure.to_string();
        #[cfg(target_os = "linux")]
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        assert!(text.starts_with(&format!("{listen} is in use by ")), "{text}");
        let suggested: u16 = text.rsplit(' ').next().unwrap().parse().unwrap();
        assert_ne!(suggested, listen.port());
    }

    #[tokio::test]
    async fn port_0_becomes_a_real_one() {
        let forward = "0:demo.internal:80".parse().unwrap();
        let listener = Listener::bind(&forward, |port| port.to_string()).unwrap();
        assert_ne!(listener.bound().listen.port(), 0);
        let addresses: Vec<String> =
            listener.bound().addresses.iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1", "::1"]);
        assert!(listener.bound().addresses.iter().all(|one| one.port() == listener.bound().listen.port()));
    }

    #[tokio::test]
    async fn another_program_on_one_of_the_loopback_addresses_is_named() {
        let taken = std::net::TcpListener::bind("[::1]:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let bind = |text: String| Listener::bind(&text.parse().unwrap(), |port| format!("x {port}"));
        for text in [format!("{}:db:1", listen.port()), format!("localhost:{}:db:1", listen.port())] {
            let failure = bind(text).err().unwrap();
            assert_eq!(failure.stage(), Stage::LocalPort);
            let text = failure.to_string();
            assert!(text.starts_with(&format!("{listen} is in use by ")), "{text}");
            assert!(text.contains("write 127.0.0.1 before"), "{text}");
        }
        let alone = bind(format!("127.0.0.1:{}:db:1", listen.port())).unwrap();
        assert_eq!(alone.bound().addresses, [SocketAddr::new([127, 0, 0, 1].into(), listen.port())]);
    }
}
