//! A client of web servers that says what it is told to: from which address, announced by which proxy, over
//! TLS by which name.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use socket2::{Domain, Socket, Type};

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(100);
/// From which length on a client asks first whether the server takes a body: one that does not may hang up
/// before it has read it.
const ASKS_FIRST: usize = 64 * 1024;

/// What came back.
#[derive(Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, in lower case and in their order; those behind the body too.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The server's certificate, where there was TLS.
    pub certificate: Vec<u8>,
    /// How long it took from the answer's head to its end.
    pub took: Duration,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(1000)];
        write!(formatter, "{} {:?} {:?}", self.status, self.headers, String::from_utf8_lossy(body))
    }
}

impl Answer {
    /// A header's value; of the first one of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What the server saw, where that is an [`crate::echo`].
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn seen(&self) -> crate::echo::Seen {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A request that is put together.
#[derive(Clone)]
pub struct Request {
    server: SocketAddr,
    from: Option<IpAddr>,
    announced: Option<IpAddr>,
    tls: bool,
    host: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, host, path, headers, body, .. } = self;
        write!(formatter, "{method} {host}{path} {headers:?}, {} bytes", body.len())
    }
}

impl Request {
    /// `GET` of a path, which may have a query, from a host at this server.
    #[must_use]
    pub fn new(server: SocketAddr, host: &str, path: &str) -> Self {
        Self {
            server,
            from: None,
            announced: None,
            tls: false,
            host: host.to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Over TLS, by the host's name. Any certificate is taken: what it is stands in the answer.
    #[must_use]
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// From another address of this machine.
    #[must_use]
    pub fn from(self, address: IpAddr) -> Self {
        Self { from: Some(address), ..self }
    }

    /// With the PROXY protocol's word, version 1, that it is this address's.
    #[must_use]
    pub fn announced(self, client: IpAddr) -> Self {
        Self { announced: Some(client), ..self }
    }

    /// Another method.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body, by `POST`.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self.method("POST") }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if let Some(address) = self.from {
            socket.bind(&SocketAddr::new(address, 0).into())?;
        }
        socket.connect_timeout(&self.server.into(), Duration::from_secs(5))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        if let Some(client) = self.announced {
            let (family, port) = (if client.is_ipv4() { "TCP4" } else { "TCP6" }, self.server.port());
            // In one piece, as the protocol asks for.
            let word = format!("PROXY {family} {client} {} 50000 {port}\r\n", self.server.ip());
            stream.write_all(word.as_bytes())?;
        }
        Ok(stream)
    }

    /// Sends it, and reads the answer to its end.
    ///
    /// # Errors
    /// When no server answers, or the answer is cut off.
    pub fn send(&self) -> io::Result<Answer> {
        let stream = self.connect()?;
        if !self.tls {
            return self.exchange(stream);
        }
        let mut stream = tls_session(&self.host, stream, &[])?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let certificate =
            stream.conn.peer_certificates().and_then(|all| all.first()).map(|first| first.to_vec());
        let answer = self.exchange(stream)?;
        Ok(Answer { certificate: certificate.unwrap_or_default(), ..answer })
    }

    fn exchange(&self, mut stream: impl Read + Write) -> io::Result<Answer> {
        let Self { method, path, host, .. } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        let asks = self.body.len() > ASKS_FIRST;
        if asks {
            head.push_str("Expect: 100-continue\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        let mut read = Vec::new();
        if asks {
            let (status, ..) = read_head(&mut stream, &mut read)?;
            if status == 100 {
                read.clear();
                stream.write_all(&self.body)?;
            }
        } else {
            stream.write_all(&self.body)?;
        }
        stream.flush()?;
        let (status, headers, length) = read_head(&mut stream, &mut read)?;
        let start = Instant::now();
        let ended = stream.read_to_end(&mut read);
        let took = start.elapsed();
        // A server that refused a body may reset the connection behind the answer; a close without TLS's word
        // for it is one too.
        if let Err(error) = ended
            && ![io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof].contains(&error.kind())
        {
            return Err(error);
        }
        let mut answer =
            Answer { status, headers, body: read.split_off(length), certificate: Vec::new(), took };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunk(&answer.body)?;
        }
        Ok(answer)
    }

    /// Asks for a WebSocket, says something there, and returns what came back: the answer, and the text.
    ///
    /// # Errors
    /// When it does not come about.
    pub fn websocket(&self, text: &str) -> io::Result<(Answer, String)> {
        let mut stream = self.connect()?;
        let (host, path) = (&self.host, &self.path);
        // The key and its answer are those of RFC 6455, section 1.3.
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        let mut read = Vec::new();
        let (status, headers, _) = read_head(&mut stream, &mut read)?;
        let answer =
            Answer { status, headers, body: Vec::new(), certificate: Vec::new(), took: Duration::ZERO };
        if status != 101 {
            return Ok((answer, String::new()));
        }
        let mask = [1, 2, 3, 4];
        let length = u8::try_from(text.len()).unwrap();
        let masked = text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> = [0x81, 0x80 | length].into_iter().chain(mask).chain(masked).collect();
        stream.write_all(&frame)?;
        let mut frame = vec![0; 2 + text.len()];
        stream.read_exact(&mut frame)?;
        Ok((answer, String::from_utf8_lossy(&frame[2..]).into_owned()))
    }

    /// Calls a method of gRPC by HTTP/2 over TLS: the answer, whose headers have the trailers behind them.
    ///
    /// # Errors
    /// When no answer comes, or it is cut off.
    pub fn grpc(&self, message: &[u8]) -> io::Result<Answer> {
        let stream = self.connect()?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let call = tokio::time::timeout(PATIENCE, self.call(stream, message));
            call.await.map_err(io::Error::from)?.map_err(io::Error::other)
        })
    }

    async fn call(
        &self,
        stream: TcpStream,
        message: &[u8],
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&[b"h2"])));
        let stream = connector.connect(ServerName::try_from(self.host.clone())?, stream).await?;
        let (client, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("https://{}{}", self.host, self.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = client.ready().await?.send_request(request, false)?;
        // A frame of gRPC: whether it is compressed, and its length.
        let length = u32::try_from(message.len())?.to_be_bytes();
        let frame: Vec<u8> = [0].into_iter().chain(length).chain(message.iter().copied()).collect();
        body.send_data(Bytes::from(frame), true)?;
        let (parts, mut incoming) = response.await?.into_parts();
        let mut answer = Answer {
            status: parts.status.as_u16(),
            headers: Vec::new(),
            body: Vec::new(),
            certificate: Vec::new(),
            took: Duration::ZERO,
        };
        while let Some(data) = incoming.data().await {
            answer.body.extend(data?);
        }
        let trailers = incoming.trailers().await?.unwrap_or_default();
        for (name, value) in parts.headers.iter().chain(&trailers) {
            answer.headers.push((name.to_string(), value.to_str()?.to_owned()));
        }
        Ok(answer)
    }
}

/// Status, headers, and where the body starts in what was read.
type Head = (u16, Vec<(String, String)>, usize);

fn read_head(stream: &mut impl Read, read: &mut Vec<u8>) -> io::Result<Head> {
    let mut byte = [0];
    let length = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        stream.read_exact(&mut byte)?;
        read.push(byte[0]);
    };
    let text = String::from_utf8_lossy(&read[..length]).into_owned();
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, headers.collect(), length))
}

fn unchunk(mut body: &[u8]) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16);
        let size = size.map_err(io::Error::other)?;
        if size == 0 {
            return Ok(whole);
        }
        let chunk = body.get(end + 2..end + 2 + size).ok_or(io::ErrorKind::UnexpectedEof)?;
        whole.extend_from_slice(chunk);
        body = body.get(end + 4 + size..).ok_or(io::ErrorKind::UnexpectedEof)?;
    }
}

fn tls_session(
    host: &str,
    stream: TcpStream,
    protocols: &[&[u8]],
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let session =
        ClientConnection::new(Arc::new(client_config(protocols)), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(session, stream))
}

fn client_config(protocols: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Anyone(Arc::clone(&provider)));
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
pub(crate) struct Anyone(Arc<CryptoProvider>);

impl Anyone {
    /// By the algorithms of the provider that all of us use.
    pub(crate) fn new() -> Self {
        Self(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
