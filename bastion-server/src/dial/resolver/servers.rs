//! Asks name servers in turn for complete names.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Resolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::{RuntimeProvider, TokioRuntimeProvider},
    },
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::timeout};

/// The longest time for which an answer is cached, whatever its TTL. A name that moves is found soon, and
/// stays checked: only addresses of the same answer are connected to.
const LONGEST_KEPT: Duration = Duration::from_secs(30);

/// How long a server that did not answer is asked last.
const AVOIDED: Duration = Duration::from_secs(30);

/// The answer for a complete name. Where neither the A nor the AAAA query found an address, the greater
/// answer holds.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    /// The name does not exist, or has no address.
    Missing,
    /// The server failed (SERVFAIL).
    ServerFailed,
    /// The server refused the query or sent a malformed answer.
    Refused,
    /// The server did not answer.
    Silent,
    /// These addresses, at least one.
    Found(Vec<IpAddr>),
}

/// Name servers in the order in which they are asked; the next is asked only if one does not answer.
pub(super) struct Servers {
    servers: Vec<Resolver<Connected>>,
    /// How long to wait for one server while there is another.
    turn: Duration,
    /// The servers that did not answer, and when.
    silent: Mutex<HashMap<usize, Instant>>,
}

impl Servers {
    pub(super) fn new(
        servers: Vec<NameServerConfig>,
        options: &ResolverOpts,
        patience: Duration,
    ) -> Result<Self, NetError> {
        let turn = patience / (u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_add(1));
        let servers = servers.into_iter().map(|server| {
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let mut builder = Resolver::builder_with_config(config, Connected::default());
            let set = builder.options_mut();
            *set = options.clone();
            set.use_hosts_file = ResolveHosts::Never;
            set.positive_max_ttl = Some(LONGEST_KEPT);
            set.negative_max_ttl = Some(LONGEST_KEPT);
            builder.build()
        });
        Ok(Self { servers: servers.collect::<Result<_, _>>()?, turn, silent: Mutex::default() })
    }

    /// Asks for the addresses of a complete name.
    pub(super) async fn ask(&self, name: &str) -> Answer {
        let Ok(mut name) = Name::from_ascii(name) else { return Answer::Missing };
        name.set_fqdn(true);
        let mut said = Answer::Silent;
        let order = self.order();
        let last = order.last().map(|(number, _)| *number);
        for (number, avoided) in order {
            // A server that does not answer must not hold up the answer of another.
            if avoided && said != Answer::Silent {
                break;
            }
            let Some(server) = self.servers.get(number) else { continue };
            let asked = ask(server, &name);
            let answer = match Some(number) == last {
                true => asked.await,
                false => timeout(self.turn, asked).await.unwrap_or(Answer::Silent),
            };
            match answer {
                Answer::Found(_) | Answer::Missing => return answer,
                Answer::Silent => drop(self.silent().insert(number, Instant::now())),
                Answer::ServerFailed | Answer::Refused => said = said.min(answer),
            }
        }
        said
    }

    /// The order in which the servers are asked: as configured, but those that did not answer recently come
    /// last.
    fn order(&self) -> Vec<(usize, bool)> {
        let mut silent = self.silent();
        silent.retain(|_, since| since.elapsed() < AVOIDED);
        let mut order: Vec<_> =
            (0..self.servers.len()).map(|number| (number, silent.contains_key(&number))).collect();
        order.sort_by_key(|(_, avoided)| *avoided);
        order
    }

    fn silent(&self) -> MutexGuard<'_, HashMap<usize, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks one server for both kinds of address.
async fn ask(server: &Resolver<Connected>, name: &Name) -> Answer {
    let (v4, v6) =
        tokio::join!(addresses(server, name, RecordType::A), addresses(server, name, RecordType::AAAA));
    match (v4, v6) {
        (Answer::Found(mut found), Answer::Found(more)) => {
            found.extend(more);
            Answer::Found(found)
        }
        (one, other) => one.max(other),
    }
}

async fn addresses(server: &Resolver<Connected>, name: &Name, kind: RecordType) -> Answer {
    match server.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let found: Vec<IpAddr> =
                lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            if found.is_empty() { Answer::Missing } else { Answer::Found(found) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => judge(none.response_code),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => judge(code),
        Err(NetError::Timeout) => Answer::Silent,
        Err(error) => {
            tracing::debug!(%name, %error, "a name server sent a malformed answer, or cannot be reached");
            Answer::Refused
        }
    }
}

fn judge(code: ResponseCode) -> Answer {
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => Answer::Missing,
        ResponseCode::ServFail => Answer::ServerFailed,
        _ => Answer::Refused,
    }
}

/// Makes UDP sockets that are connected to their server and not bound. The fence forbids `bind`, and the
/// kernel drops what others send to a connected socket.
#[derive(Clone, Default)]
struct Connected(TokioRuntimeProvider);

type Made<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Connected {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = UdpSocket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Made<Self::Tcp> {
        self.0.connect_tcp(server, bind, limit)
    }

    fn bind_udp(&self, _bind: SocketAddr, server: SocketAddr) -> Made<Self::Udp> {
        Box::pin(async move {
            let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            socket.connect(&server.into())?;
            UdpSocket::from_std(socket.into())
        })
    }
}
