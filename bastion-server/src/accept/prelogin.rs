//! Bounds what a client may send before its login: an identification line immediately, and then a limited
//! number of bytes.
//!
//! This socket stands between the network and SSH. The SSH library bounds each packet and the identification
//! line, but not the number of packets; and the socket above reads ahead while a write waits, which only
//! clients that have logged in may cause.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    accept::proxy::header,
    limits::startups::{Outcome, Progress, Stage},
};

/// The longest identification line, line end included (RFC 4253 §4.2).
const LONGEST_LINE: usize = 255;
/// The most bytes that a client may send before its login. Each certificate comes twice, with the question
/// whether it would be accepted and with the signature: this suffices for as many as a client may offer, of
/// RSA keys of 4096 bits by an authority with such a key (some 90,000 bytes), or for three of the largest
/// size that is parsed.
const BEFORE_LOGIN: usize = 128 * 1024;

/// A violation of the protocol, which no SSH client commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// The first line is not that of an SSH client.
    #[error("it does not speak SSH")]
    NotSsh,
    /// The first line is a PROXY header, although the peer is not a trusted proxy.
    #[error("it sent a PROXY header, and is no proxy that is trusted (proxy_protocol)")]
    UntrustedHeader,
    /// The client sent too many bytes before its login.
    #[error("it sent too much without logging in")]
    TooMuch,
    /// The client announced a packet that is larger than any packet before a login.
    #[error("it began a packet that is too large before a login")]
    TooLarge,
    /// The client's packets took too much processor time.
    #[error("what it sent before a login took too long to look at")]
    TooCostly,
    /// The client went on sending messages that have no answer.
    #[error("it sent too many messages that mean nothing before a login")]
    Unanswered,
    /// The client sent a key, certificate or signature in a form that the SSH library cannot parse. Another
    /// server might accept it.
    #[error(
        "it showed a certificate, a key or a name that the SSH library cannot read (options out of order, text that is \
         not UTF-8); have it show none but the right one (IdentitiesOnly)"
    )]
    Unreadable,
    /// The SSH library ended the connection.
    #[error("it broke the SSH protocol")]
    Protocol,
}

impl Violation {
    /// The reason code in metrics and logs.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::NotSsh => "not_ssh",
            Self::UntrustedHeader => "proxy_untrusted",
            Self::TooMuch => "too_much_before_login",
            Self::TooLarge => "too_large_before_login",
            Self::TooCostly => "too_costly_before_login",
            Self::Unanswered => "unanswered_before_login",
            Self::Unreadable => "unreadable_certificate",
            Self::Protocol => "protocol",
        }
    }
}

/// The state of a client, as seen from outside its SSH session.
#[derive(Debug, Default)]
pub(crate) struct PreloginState {
    logged_in: AtomicBool,
    spoke: AtomicBool,
    left: AtomicBool,
    refused: AtomicBool,
    violation: OnceLock<Violation>,
    /// The stage that the client has reached, and since when.
    stage: Mutex<Option<(Stage, Instant)>>,
}

impl Progress for Arc<PreloginState> {
    fn progress(&self) -> (Stage, Option<Instant>) {
        let stage = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        stage.map_or((Stage::Connected, None), |(stage, since)| (stage, Some(since)))
    }
}

impl PreloginState {
    /// Lifts the bounds after the login.
    pub(crate) fn log_in(&self) {
        self.logged_in.store(true, Ordering::Relaxed);
    }

    /// Whether the bounds are lifted.
    pub(crate) fn is_logged_in(&self) -> bool {
        self.logged_in.load(Ordering::Relaxed)
    }

    /// Records that the client has reached this stage, if it had not before.
    pub(crate) fn reach(&self, stage: Stage) {
        let mut reached = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.is_none_or(|(before, _)| before < stage) {
            *reached = Some((stage, Instant::now()));
        }
    }

    /// Records that a login was refused.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Records a violation, and returns the error that ends the connection.
    pub(crate) fn violate(&self, violation: Violation) -> io::Error {
        let violation = *self.violation.get_or_init(|| violation);
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }

    /// Records that the SSH library ended the connection by an error, which is the client's fault unless the
    /// client has left.
    pub(crate) fn fail(&self) {
        if !self.left.load(Ordering::Relaxed) {
            let _ = self.violation.set(Violation::Protocol);
        }
    }

    /// Records that the SSH library ended the connection because it could not parse what the client sent.
    pub(crate) fn not_read(&self) {
        let _ = self.violation.set(Violation::Unreadable);
    }

    /// The violation that was recorded, if any.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.violation.get().copied()
    }

    /// The outcome of the connection, if it has ended by itself.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.logged_in.load(Ordering::Relaxed) {
            Outcome::LoggedIn
        } else if let Some(violation) = self.violation() {
            match violation {
                Violation::NotSsh
                | Violation::UntrustedHeader
                | Violation::TooMuch
                | Violation::TooLarge
                | Violation::TooCostly
                | Violation::Unanswered
                | Violation::Protocol => Outcome::Violation,
                Violation::Unreadable => Outcome::Unreadable,
            }
        } else if self.refused.load(Ordering::Relaxed) {
            Outcome::Refused
        } else if self.spoke.load(Ordering::Relaxed) {
            Outcome::Left
        } else {
            Outcome::Silent
        }
    }
}

/// A byte stream whose client has not logged in yet.
#[derive(Debug)]
pub(crate) struct PreloginSocket<S> {
    inner: S,
    seen: Arc<PreloginState>,
    /// The first line, until it is complete.
    line: Option<Vec<u8>>,
    received: usize,
}

impl<S> PreloginSocket<S> {
    /// Watches `inner`, and records in `seen`.
    pub(crate) fn new(inner: S, seen: Arc<PreloginState>) -> Self {
        Self { inner, seen, line: Some(Vec::new()), received: 0 }
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.received = self.received.saturating_add(bytes.len());
        if self.received > BEFORE_LOGIN {
            return Err(Violation::TooMuch);
        }
        let Some(line) = &mut self.line else { return Ok(()) };
        let room = LONGEST_LINE - line.len();
        line.extend(bytes.iter().take(room));
        match line.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let refused = not_ssh(line);
                line.truncate(end);
                let whole = line.strip_suffix(b"\r").unwrap_or(line);
                let printable = whole.iter().all(|byte| matches!(byte, b' '..=b'~'));
                let known = whole.starts_with(b"SSH-2.0-") || whole.starts_with(b"SSH-1.99-");
                self.line = None;
                if printable && known { Ok(()) } else { Err(refused) }
            }
            None if line.len() >= LONGEST_LINE || !may_begin(line) => Err(not_ssh(line)),
            None => Ok(()),
        }
    }
}

/// Whether an incomplete line may still become an SSH client's.
fn may_begin(line: &[u8]) -> bool {
    let begins = |known: &[u8]| line.iter().zip(known).all(|(one, other)| one == other);
    begins(b"SSH-2.0-") || begins(b"SSH-1.99-")
}

fn not_ssh(line: &[u8]) -> Violation {
    // Fewer bytes could begin anything.
    if line.len() > 4 && header::may_begin(line) { Violation::UntrustedHeader } else { Violation::NotSsh }
}

impl<S: AsyncRead + Unpin> AsyncRead for PreloginSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let outcome = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        let bytes = buf.filled().get(before..).unwrap_or_default();
        if outcome.is_err() || bytes.is_empty() {
            this.seen.left.store(true, Ordering::Relaxed);
        } else if !this.seen.logged_in.load(Ordering::Relaxed) {
            this.seen.spoke.store(true, Ordering::Relaxed);
            this.seen.reach(Stage::Spoke);
            if let Err(violation) = this.check(bytes) {
                buf.set_filled(before);
                return Poll::Ready(Err(this.seen.violate(violation)));
            }
        }
        Poll::Ready(outcome)
    }
}

impl<S> PreloginSocket<S> {
    /// A client that cannot be written to has left.
    fn written(&self, outcome: io::Result<usize>) -> io::Result<usize> {
        if outcome.is_err() {
            self.seen.left.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PreloginSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        Poll::Ready(self.written(outcome))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        Poll::Ready(self.written(outcome))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream};

    use super::*;

    /// Reads bytes that arrive in pieces of the given size.
    async fn arrive(bytes: &[u8], piece: usize) -> Result<Vec<u8>, Violation> {
        let (mut client, server) = tokio::io::duplex(piece);
        let seen = Arc::new(PreloginState::default());
        let mut server = PreloginSocket::new(server, Arc::clone(&seen));
        let bytes = bytes.to_vec();
        tokio::spawn(async move { client.write_all(&bytes).await });
        let mut got = Vec::new();
        match server.read_to_end(&mut got).await {
            Ok(_) => Ok(got),
            Err(_) => Err(seen.violation().unwrap()),
        }
    }

    #[tokio::test]
    async fn only_what_may_be_ssh_gets_through() {
        let long = |length: usize| format!("SSH-2.0-{:x<1$}\r\n", "", length - 10).into_bytes();
        for (bytes, expected) in [
            (b"SSH-2.0-x\r\nmore\0".to_vec(), Ok(())),
            (b"SSH-1.99-x\n".to_vec(), Ok(())),
            (b"SSH-2.0-x y (comment)\r\n\r\n".to_vec(), Ok(())),
            (long(LONGEST_LINE), Ok(())),
            (long(LONGEST_LINE + 1), Err(Violation::NotSsh)),
            (b"SSH-1.5-x\r\n".to_vec(), Err(Violation::NotSsh)),
            (b"SSH-2.0-x\0y\r\n".to_vec(), Err(Violation::NotSsh)),
            (b"SSH-2.0-x\x1b[2J\r\n".to_vec(), Err(Violation::NotSsh)),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Err(Violation::NotSsh)),
            (b"\r\n".to_vec(), Err(Violation::NotSsh)),
            (b"POST /\r\n".to_vec(), Err(Violation::NotSsh)),
            // Nothing is waited for that cannot become right.
            (b"GET".to_vec(), Err(Violation::NotSsh)),
            (b"PROX".to_vec(), Err(Violation::NotSsh)),
            ([b"SSH-2.0-x\r\n".to_vec(), vec![0; BEFORE_LOGIN - 11]].concat(), Ok(())),
            ([b"SSH-2.0-x\r\n".to_vec(), vec![0; BEFORE_LOGIN - 10]].concat(), Err(Violation::TooMuch)),
        ] {
            for piece in [1, 7, 1 << 20] {
                let outcome = arrive(&bytes, piece).await;
                assert_eq!(outcome.map(|got| assert_eq!(got, bytes)), expected, "{}", bytes.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn a_header_that_is_not_expected_is_called_by_its_name() {
        for bytes in
            [&b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 22\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]
        {
            assert_eq!(arrive(bytes, 1 << 10).await, Err(Violation::UntrustedHeader));
        }
    }

    #[tokio::test]
    async fn a_client_that_cannot_be_written_to_has_left_however_it_is_written() {
        for vectored in [false, true] {
            let (client, server) = tokio::io::duplex(64);
            let seen = Arc::new(PreloginState::default());
            let mut server = PreloginSocket::new(server, Arc::clone(&seen));
            drop(client);
            let outcome = match vectored {
                false => server.write(b"x").await,
                true => server.write_vectored(&[io::IoSlice::new(b"x")]).await,
            };
            assert!(outcome.is_err());
            seen.fail();
            assert_eq!(seen.violation(), None, "vectored: {vectored}");
        }
    }

    #[tokio::test]
    async fn what_became_of_a_connection_is_what_its_client_did() {
        let (mut client, server) = tokio::io::duplex(1024);
        let seen = Arc::new(PreloginState::default());
        let mut server = PreloginSocket::new(server, Arc::clone(&seen));
        assert_eq!((seen.outcome(), seen.progress()), (Outcome::Silent, (Stage::Connected, None)));
        client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        server.read_exact(&mut [0; 11]).await.unwrap();
        assert_eq!((seen.outcome(), seen.progress().0), (Outcome::Left, Stage::Spoke));
        seen.refuse();
        assert_eq!(seen.outcome(), Outcome::Refused);
        drop(client);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        seen.fail();
        assert_eq!(
            (seen.outcome(), seen.violation()),
            (Outcome::Refused, None),
            "a client that has left broke nothing"
        );
        seen.log_in();
        assert_eq!(seen.outcome(), Outcome::LoggedIn);

        let broken = PreloginState::default();
        broken.refuse();
        broken.fail();
        assert_eq!((broken.outcome(), broken.violation()), (Outcome::Violation, Some(Violation::Protocol)));
        let unreadable = PreloginState::default();
        unreadable.refuse();
        unreadable.not_read();
        unreadable.fail();
        assert_eq!(unreadable.outcome(), Outcome::Unreadable, "the first reason stays");
    }

    #[test]
    fn a_stage_is_reached_once() {
        let seen = Arc::new(PreloginState::default());
        seen.reach(Stage::Encrypted);
        let reached = seen.progress();
        let (Stage::Encrypted, Some(since)) = reached else { panic!("{reached:?}") };
        while Instant::now() == since {}
        seen.reach(Stage::Encrypted);
        seen.reach(Stage::Spoke);
        assert_eq!(seen.progress(), reached, "as long as it has been there");
        seen.reach(Stage::Signing);
        assert_eq!(seen.progress().0, Stage::Signing);
    }

    /// Whatever is written to `socket` arrives at its client, in whatever way it is written.
    pub(in crate::accept) async fn passes_on<S: AsyncRead + AsyncWrite + Unpin>(
        wrap: impl FnOnce(BufWriter<DuplexStream>) -> S,
    ) {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut socket = wrap(BufWriter::new(server));
        socket.write_all(b"one ").await.unwrap();
        assert!(socket.is_write_vectored());
        let pieces = [b"two ", b"more"].map(|piece| io::IoSlice::new(piece));
        assert_eq!(socket.write_vectored(&pieces).await.unwrap(), 8);
        socket.flush().await.unwrap();
        let mut arrived = [0; 12];
        let arrives = client.read_exact(&mut arrived);
        tokio::time::timeout(Duration::from_secs(30), arrives).await.expect("flushed").unwrap();
        assert_eq!(&arrived, b"one two more");
        socket.shutdown().await.unwrap();
        let ends = client.read(&mut arrived);
        assert_eq!(tokio::time::timeout(Duration::from_secs(30), ends).await.expect("shut down").unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_written_passes() {
        passes_on(|inner| PreloginSocket::new(inner, Arc::default())).await;
    }

    #[tokio::test]
    async fn who_is_logged_in_may_send_more() {
        let (mut client, server) = tokio::io::duplex(1024);
        let seen = Arc::new(PreloginState::default());
        let mut server = PreloginSocket::new(server, Arc::clone(&seen));
        client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        server.read_exact(&mut [0; 11]).await.unwrap();
        seen.log_in();
        tokio::spawn(async move { client.write_all(&vec![7; 2 * BEFORE_LOGIN]).await });
        server.read_exact(&mut vec![0; 2 * BEFORE_LOGIN]).await.unwrap();
    }
}
