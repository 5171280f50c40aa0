//! Stands between a database's client and the database with the machines of `database-wire`: the client needs
//! no password, and the database gets the one that the proxy has. It is a pump and nothing more: what is
//! decided is decided in the machines.

use std::{
    fmt::Debug,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
};

use database_wire::{Machine, Outgoing, Step, TlsFacts, TlsMode};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

mod mysql;
mod postgres;
mod redis;

pub use mysql::Mysql;
pub use postgres::Postgres;
pub use redis::Redis;

use crate::web::Anyone;

/// A connection, in TLS or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type Connection = Box<dyn Stream>;

/// How a login ended that did not succeed.
#[derive(Debug)]
enum Failure<R> {
    /// The machine refuses, and its connection is still there to say so.
    Refused(R),
    /// The other side is gone.
    Gone(io::Error),
}

impl<R> From<io::Error> for Failure<R> {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// Drives a machine to its end.
async fn drive<M: Machine>(
    machine: &mut M,
    connection: &mut Connection,
    tls: &Tls,
) -> Result<M::Answer, Failure<M::Refusal>> {
    loop {
        match machine.step().map_err(Failure::Refused)? {
            Step::Read(most) => {
                let mut bytes = vec![0; most];
                let length = connection.read(&mut bytes).await?;
                if length == 0 {
                    return Err(Failure::Gone(io::ErrorKind::UnexpectedEof.into()));
                }
                machine.feed(&bytes[..length]).map_err(Failure::Refused)?;
            }
            Step::Write(bytes) => connection.write_all(bytes.as_ref()).await?,
            Step::StartTls => {
                let plain = std::mem::replace(connection, Box::new(tokio::io::empty()));
                let (encrypted, certificate) = tls.start(plain).await?;
                *connection = encrypted;
                let facts = TlsFacts { verified: tls.verifies(), certificate: certificate.as_deref() };
                machine.tls_started(facts).map_err(Failure::Refused)?;
            }
            Step::Ready(answer) => return Ok(answer),
        }
    }
}

/// What begins TLS, as either side.
enum Tls {
    Server(TlsAcceptor, Vec<u8>),
    Client { connector: TlsConnector, verifies: bool, shown: Option<Vec<u8>> },
}

impl Tls {
    /// Our side of the local client, with a certificate of its own.
    fn local() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let certificate = made.cert.der().clone();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.clone()], key).unwrap();
        Self::Server(TlsAcceptor::from(Arc::new(config)), certificate.to_vec())
    }

    /// The side of a server whose certificate is signed by this authority, or is not verified.
    fn upstream(upstream: &Upstream) -> Self {
        let config = ClientConfig::builder();
        let config = match &upstream.authority {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone()).unwrap();
                config.with_root_certificates(roots)
            }
            None => config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone::new())),
        };
        let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
        Self::Client { connector, verifies: upstream.authority.is_some(), shown: upstream.shown.clone() }
    }

    fn verifies(&self) -> bool {
        matches!(self, Self::Client { verifies: true, .. })
    }

    /// The connection in TLS, and the server's certificate.
    async fn start(&self, plain: Connection) -> io::Result<(Connection, Option<Vec<u8>>)> {
        match self {
            Self::Server(acceptor, certificate) => {
                Ok((Box::new(acceptor.accept(plain).await?), Some(certificate.clone())))
            }
            Self::Client { connector, shown, .. } => {
                let name = ServerName::try_from("localhost").unwrap();
                let stream = connector.connect(name, plain).await?;
                let seen = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let seen = shown.clone().or_else(|| seen.map(|certificate| certificate.to_vec()));
                Ok((Box::new(stream), seen))
            }
        }
    }
}

/// The database, and our credentials for it.
#[derive(Clone, Debug)]
pub struct Upstream {
    address: SocketAddr,
    user: String,
    password: Option<String>,
    tls: TlsMode,
    authority: Option<CertificateDer<'static>>,
    /// A certificate that the machine is shown in the place of the server's.
    shown: Option<Vec<u8>>,
    /// A sentence with which every client is refused.
    refusal: Option<database_wire::Explanation>,
}

impl Upstream {
    /// Without TLS.
    #[must_use]
    pub fn new(address: SocketAddr, user: &str, password: Option<&str>) -> Self {
        Self {
            address,
            user: user.to_owned(),
            password: password.map(str::to_owned),
            tls: TlsMode::Disable,
            authority: None,
            shown: None,
            refusal: None,
        }
    }

    /// With TLS that is not verified.
    #[must_use]
    pub fn encrypted(mut self) -> Self {
        self.tls = TlsMode::Require;
        self
    }

    /// With TLS, verified with the certificate in this file.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn verified(mut self, authority: &Path) -> Self {
        self.tls = TlsMode::Verify;
        self.authority = Some(CertificateDer::from_pem_file(authority).unwrap());
        self
    }

    /// Has the machine see this certificate in the place of the server's, as if an attacker stood between.
    #[must_use]
    pub fn seen_as(mut self, certificate: Vec<u8>) -> Self {
        self.shown = Some(certificate);
        self
    }

    /// Refuses every client with this sentence.
    #[must_use]
    pub fn refusing(mut self, explanation: database_wire::Explanation) -> Self {
        self.refusal = Some(explanation);
        self
    }

    fn password(&self) -> Option<database_wire::Password> {
        let password = self.password.as_deref()?;
        Some(database_wire::Password::new(password.into()).unwrap())
    }

    async fn connect(&self) -> io::Result<Connection> {
        Ok(Box::new(TcpStream::connect(self.address).await?))
    }
}

/// A protocol: what becomes of a connection.
pub trait Protocol: Send + Sync + Sized + 'static {
    /// Serves one client to its end.
    fn serve(
        self: Arc<Self>,
        client: TcpStream,
        upstream: Arc<Upstream>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// A running proxy, on a free loopback port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    failures: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(protocol: impl Protocol, upstream: Upstream) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let failures = Arc::new(Mutex::new(Vec::new()));
        let (protocol, upstream, told) = (Arc::new(protocol), Arc::new(upstream), Arc::clone(&failures));
        runtime.spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let (protocol, upstream, told) =
                    (Arc::clone(&protocol), Arc::clone(&upstream), Arc::clone(&told));
                tokio::spawn(async move {
                    if let Err(error) = protocol.serve(client, upstream).await {
                        told.lock().unwrap().push(error.to_string());
                    }
                });
            }
        });
        Self { address, failures, _runtime: runtime }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why connections ended that did not end well.
    ///
    /// # Panics
    /// When a connection panicked.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
}

/// Copies until one side ends. How a session ends is for its two ends: a reset is one of the ways.
async fn relay(mut client: Connection, mut server: Connection) {
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

/// Says the last words, and lets the client read them: a close with unread bytes would be a reset.
async fn farewell(connection: &mut Connection, words: &Outgoing) -> io::Result<()> {
    connection.write_all(words.as_ref()).await?;
    connection.shutdown().await?;
    let mut rest = [0; 4096];
    while connection.read(&mut rest).await.is_ok_and(|length| length > 0) {}
    Ok(())
}

fn other(error: impl Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}
