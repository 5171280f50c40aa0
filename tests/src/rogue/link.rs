//! Raw bytes to and from a server.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use thiserror::Error;

/// How long we wait for a server's word unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Gone {
    /// The server said goodbye.
    #[error("disconnected ({code}): {text}")]
    Disconnected {
        /// The reason code of RFC 4253 §11.1.
        code: u32,
        /// The description.
        text: String,
    },
    /// The server closed the connection.
    #[error("closed")]
    Closed,
    /// The server reset the connection.
    #[error("reset")]
    Reset,
    /// Nothing came in time.
    #[error("silent")]
    Silent,
    /// What came is not SSH.
    #[error("not understood: {0}")]
    Garbled(&'static str),
    /// Something else.
    #[error("failed: {0:?}")]
    Failed(ErrorKind),
}

impl From<std::io::Error> for Gone {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => Self::Closed,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Self::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent,
            kind => Self::Failed(kind),
        }
    }
}

/// A TCP connection to a server, before any SSH.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// Our identification line without its end, once sent.
    pub client_id: Vec<u8>,
    /// The server's, once read.
    pub server_id: Vec<u8>,
}

impl Link {
    /// Connects.
    pub fn connect(server: SocketAddr) -> Result<Self, Gone> {
        Self::over(TcpStream::connect_timeout(&server, PATIENCE)?)
    }

    /// Connects from a given address: all of 127.0.0.0/8 is ours.
    pub fn connect_from(source: IpAddr, server: SocketAddr) -> Result<Self, Gone> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(server), socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect(&server.into())?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Result<Self, Gone> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, client_id: Vec::new(), server_id: Vec::new() })
    }

    /// Changes how long reads wait.
    pub fn patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// The socket itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads exactly this many bytes.
    pub fn receive(&mut self, length: usize) -> Result<Vec<u8>, Gone> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads to the end, and says what the end was.
    pub fn receive_to_end(&mut self) -> (Vec<u8>, Gone) {
        let mut bytes = Vec::new();
        let end = match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Gone::Closed,
            Err(error) => error.into(),
        };
        (bytes, end)
    }

    /// Exchanges identification lines (RFC 4253 §4.2).
    pub fn identify(&mut self, line: &str) -> Result<(), Gone> {
        self.client_id = line.as_bytes().to_vec();
        self.send(format!("{line}\r\n").as_bytes())?;
        loop {
            let line = self.line()?;
            if line.starts_with(b"SSH-") {
                self.server_id = line;
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, Gone> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if line.len() > 8192 {
                return Err(Gone::Garbled("a line without end"));
            }
            line.extend(self.receive(1)?);
        }
        while line.ends_with(b"\n") || line.ends_with(b"\r") {
            line.pop();
        }
        Ok(line)
    }
}
