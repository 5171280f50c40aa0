//! Answers with what it was asked: over HTTP/1.1 and 2, with and without TLS, by WebSocket and by gRPC.
//!
//! The query of a request steers the answer: `delay` seconds pass before it, its status is `status`, `size`
//! more bytes come behind it, and over HTTP/1.1 `pause` seconds pass before its last byte. At `/verify` a
//! proxy asks about another client's request: those with the cookie `session=yes` are Alice's.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

/// What every connection of HTTP/2 starts with.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// RFC 6455, section 1.3.
const WEBSOCKET: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request was, as its server saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The server: a pod's name.
    pub server: String,
    /// Its method.
    pub method: String,
    /// Its path and query, as they were written.
    pub path: String,
    /// Whom it was for.
    pub host: String,
    /// Its headers, in lower case.
    pub headers: BTreeMap<String, String>,
    /// By which name TLS asked for the server, where there was TLS.
    pub sni: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// How many bytes its body had.
    pub length: usize,
}

/// One in this process, which ends when it is dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    _stop: watch::Sender<()>,
}

impl Echo {
    /// One on a free port of an address of this machine.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(address: IpAddr, tls: Option<ServerConfig>) -> Self {
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, stop) = watch::channel(());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                serve(listener, tls, "outside".to_owned(), stop).await;
            });
        });
        Self { address, _stop: sender }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A server's side of TLS that speaks both versions of HTTP.
///
/// # Panics
/// When certificate and key are none.
#[must_use]
pub fn tls(certificate: Vec<u8>, key: Vec<u8>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key);
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![certificate.into()], key.into()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Serves until it is told to stop, and then what it has begun.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ServerConfig>,
    server: String,
    mut stop: watch::Receiver<()>,
) {
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let server: Arc<str> = server.into();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            _ = stop.changed() => break,
        };
        let (acceptor, server, stop) = (acceptor.clone(), Arc::clone(&server), stop.clone());
        // A client may hang up.
        connections.spawn(async move {
            let _ = connection(stream, acceptor, server, stop).await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    server: Arc<str>,
    stop: watch::Receiver<()>,
) -> io::Result<()> {
    let Some(acceptor) = acceptor else {
        let mut start = [0; HTTP2.len()];
        let mut length = 0;
        // Until it is said which version this is; a shorter request than this word is none.
        while length < start.len() && start[..length] == HTTP2[..length] {
            let now = stream.peek(&mut start).await?;
            if now == 0 {
                return Ok(());
            }
            if now == length {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            length = now;
        }
        return speak(stream, start == HTTP2, Connection { server, sni: None }, stop).await;
    };
    let stream = acceptor.accept(stream).await?;
    let session = stream.get_ref().1;
    let is_2 = session.alpn_protocol() == Some(b"h2");
    let sni = Some(session.server_name().unwrap_or_default().to_owned());
    speak(stream, is_2, Connection { server, sni }, stop).await
}

/// What all requests of a connection have in common.
#[derive(Clone)]
struct Connection {
    server: Arc<str>,
    sni: Option<String>,
}

impl Connection {
    fn saw<Body>(&self, request: &Request<Body>, length: usize) -> Seen {
        let uri = request.uri();
        let host = request.headers().get("host").and_then(|value| value.to_str().ok());
        let host = host.or(uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned();
        let headers = request.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        Seen {
            server: self.server.to_string(),
            method: request.method().to_string(),
            path: uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned(),
            host,
            headers: headers.collect(),
            sni: self.sni.clone(),
            version: format!("{:?}", request.version()),
            length,
        }
    }
}

async fn speak<Io>(
    io: Io,
    is_2: bool,
    connection: Connection,
    mut stop: watch::Receiver<()>,
) -> io::Result<()>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if is_2 {
        return speak_2(io, connection, stop).await.map_err(io::Error::other);
    }
    let service = hyper::service::service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(answer(request, &connection).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    let mut served = std::pin::pin!(served.with_upgrades());
    tokio::select! {
        done = served.as_mut() => return done.map_err(io::Error::other),
        _ = stop.changed() => served.as_mut().graceful_shutdown(),
    }
    served.await.map_err(io::Error::other)
}

/// One answer over HTTP/1.1.
async fn answer(mut request: Request<Incoming>, connection: &Connection) -> Response<Paused> {
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) {
        let accepted = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), WEBSOCKET.as_bytes()].concat());
        let accept = HeaderValue::from_str(&STANDARD.encode(accepted)).unwrap();
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgraded.await {
                let _ = frames(TokioIo::new(upgraded)).await;
            }
        });
        let mut response = Response::new(Paused::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        return response;
    }
    let (parts, body) = request.into_parts();
    let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let request = Request::from_parts(parts, ());
    let (status, headers, mut body) = say(&request, connection, length).await;
    let pause =
        number(&request, "pause").map(|seconds| Box::pin(tokio::time::sleep(Duration::from_secs(seconds))));
    let last = if pause.is_some() { body.split_off(body.len() - 1) } else { Bytes::new() };
    let mut response = Response::new(Paused { first: body, pause, last });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A body that takes its time before its end.
#[derive(Default)]
struct Paused {
    first: Bytes,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    last: Bytes,
}

impl Body for Paused {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let last = std::mem::take(&mut self.last);
        Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))))
    }
}

/// A number in a request's query.
fn number(request: &Request<()>, name: &str) -> Option<u64> {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// What is answered to a request, whatever it came by.
async fn say(
    request: &Request<()>,
    connection: &Connection,
    length: usize,
) -> (StatusCode, HeaderMap, Bytes) {
    let number = |name: &str| number(request, name);
    let seen = connection.saw(request, length);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut status = StatusCode::OK;
    if request.uri().path() == "/verify" {
        let cookies = request.headers().get_all(COOKIE).iter();
        let signed_in = cookies.filter_map(|value| value.to_str().ok()).any(|text| text == "session=yes");
        let method = HeaderValue::from_str(&seen.method).unwrap();
        headers.insert(HeaderName::from_static("asked-by"), method);
        headers.insert(HeaderName::from_static("remote-user"), HeaderValue::from_static("alice"));
        if !signed_in {
            status = StatusCode::UNAUTHORIZED;
        }
    }
    if let Some(said) = number("status") {
        status = u16::try_from(said).ok().and_then(|code| StatusCode::from_u16(code).ok()).unwrap();
    }
    if let Some(seconds) = number("delay") {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    let mut body = serde_json::to_vec(&seen).unwrap();
    let more = usize::try_from(number("size").unwrap_or(0)).unwrap();
    body.extend(std::iter::repeat_n(b' ', more));
    (status, headers, body.into())
}

/// Sends back what it gets by WebSocket: short frames, RFC 6455, section 5.2.
async fn frames(mut io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let [kind, length] = [io.read_u8().await?, io.read_u8().await?];
        let length = usize::from(length & 0x7f);
        assert!(length < 126, "a longer frame than tests send");
        let mut mask = [0; 4];
        io.read_exact(&mut mask).await?;
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await?;
        let plain = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> = [kind, length as u8].into_iter().chain(plain).collect();
        io.write_all(&frame).await?;
    }
}

/// HTTP/2: the same answers, and gRPC, which sends back what it gets and ends with trailers.
async fn speak_2<Io>(io: Io, connection: Connection, mut stop: watch::Receiver<()>) -> Result<(), h2::Error>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut session = h2::server::handshake(io).await?;
    loop {
        let accepted = tokio::select! {
            accepted = session.accept() => accepted,
            _ = stop.changed() => {
                session.graceful_shutdown();
                session.accept().await
            }
        };
        let Some(accepted) = accepted else { return Ok(()) };
        let (request, reply) = accepted?;
        let connection = connection.clone();
        tokio::spawn(async move {
            let _ = answer_2(request, reply, &connection).await;
        });
    }
}

async fn answer_2(
    request: Request<h2::RecvStream>,
    mut reply: h2::server::SendResponse<Bytes>,
    connection: &Connection,
) -> Result<(), h2::Error> {
    let (parts, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data?;
        incoming.flow_control().release_capacity(data.len())?;
        body.extend(data);
    }
    let request = Request::from_parts(parts, ());
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    let (status, mut headers, answer) = say(&request, connection, body.len()).await;
    if is_grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let path = HeaderValue::from_str(request.uri().path()).unwrap();
        headers.insert(HeaderName::from_static("called"), path);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let mut stream = reply.send_response(response, false)?;
    stream.send_data(if is_grpc { body.into() } else { answer }, !is_grpc)?;
    if is_grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
