//! The socket under an SSH session: reads ahead while a write is pending, is cut from outside, and knows when it last
//! heard from its peer.
//!
//! russh's session loop does not read while it writes. When both ends send in bulk, both wait for room in the other's
//! kernel buffer, for ever. So while a write is pending this socket reads into memory, which lets the peer finish its
//! own write. Reads are also served from 64 KiB at a time, since russh reads four bytes and then a packet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

/// How much one system call reads, in bytes.
const READ: usize = 64 * 1024;

/// How far a session may read ahead of itself, in bytes. It has to cover what the peer may send while both ends write:
/// the windows of all channels in bulk use at the same moment.
const READ_AHEAD: usize = 64 * 1024 * 1024;

/// How long a write may wait for a peer that does not read.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// A byte stream that an SSH session runs on.
#[derive(Debug)]
pub struct CarrierSocket<S> {
    inner: S,
    ahead: BytesMut,
    /// What a read has to report once `ahead` is empty.
    read_end: Option<io::Result<()>>,
    reader: Option<Waker>,
    pending_since: Option<Instant>,
    write_patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cut: AtomicBool,
    read_waker: AtomicWaker,
    write_waker: AtomicWaker,
    started: Instant,
    /// Milliseconds after `started`.
    heard: AtomicU64,
    sent: AtomicU64,
}

/// Looks at a [`CarrierSocket`] that a session owns, and ends it.
#[derive(Debug, Clone)]
pub struct Cutter(Arc<Shared>);

impl Cutter {
    /// Fails every read and write from now on, which ends the session that runs on the socket. A session that is
    /// dropped goes on by itself, and one that waits inside a callback does not hear its own timers: this it hears.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.read_waker.wake();
        self.0.write_waker.wake();
    }

    /// When bytes last came from the peer, or the socket was made.
    pub fn last_heard(&self) -> Instant {
        self.0.started + Duration::from_millis(self.0.heard.load(Ordering::Relaxed))
    }

    /// How many bytes the kernel took from us. A line that still takes them is busy, however silent its peer is.
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }
}

impl<S> CarrierSocket<S> {
    /// Wraps `inner`, and hands out the means to end it.
    pub fn new(inner: S) -> (Self, Cutter) {
        let shared = Arc::new(Shared {
            cut: AtomicBool::new(false),
            read_waker: AtomicWaker::new(),
            write_waker: AtomicWaker::new(),
            started: Instant::now(),
            heard: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let socket = Self {
            inner,
            ahead: BytesMut::new(),
            read_end: None,
            reader: None,
            pending_since: None,
            write_patience: WRITE_PATIENCE,
            timer: None,
            shared: Arc::clone(&shared),
        };
        (socket, Cutter(shared))
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.shared.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"));
        }
        Ok(())
    }

    fn note_heard(&self) {
        let since = self.shared.started.elapsed().as_millis();
        self.shared.heard.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn note_sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = result {
            self.shared.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> CarrierSocket<S> {
    /// One read from below into `ahead`. Ready with the number of bytes, 0 at the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.ahead.reserve(READ);
        let count = ready!(poll_read_buf(Pin::new(&mut self.inner), cx, &mut self.ahead))?;
        if count > 0 {
            self.note_heard();
        }
        Poll::Ready(Ok(count))
    }

    /// Reads all that is there, while a write waits.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while self.read_end.is_none() && self.ahead.len() < READ_AHEAD {
            match self.fill(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => self.read_end = Some(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => self.read_end = Some(Err(error)),
            }
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// After a write that had to wait: is it still worth waiting?
    ///
    /// The timer runs on its own and is only looked at again when it fires, so that a write that waits a microsecond
    /// does not pay for a timer.
    fn out_of_patience(&mut self, cx: &mut Context<'_>) -> bool {
        let since = *self.pending_since.get_or_insert_with(Instant::now);
        let until = since + self.write_patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return true;
            }
            timer.as_mut().reset(until);
        }
        false
    }

    /// What every kind of write does around the write itself.
    fn writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.check_cut()?;
        if let Poll::Ready(result) = write(Pin::new(&mut self.inner), cx) {
            self.pending_since = None;
            return Poll::Ready(result);
        }
        self.read_ahead(cx);
        if self.out_of_patience(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")));
        }
        self.shared.write_waker.register(cx.waker());
        self.check_cut()?;
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for CarrierSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check_cut()?;
        if this.ahead.is_empty() {
            if let Some(end) = this.read_end.take() {
                this.read_end = Some(Ok(()));
                return Poll::Ready(end);
            }
            match this.fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // An idle connection keeps no buffer.
                    this.ahead = BytesMut::new();
                    this.reader = Some(cx.waker().clone());
                    this.shared.read_waker.register(cx.waker());
                    this.check_cut()?;
                    return Poll::Pending;
                }
            }
        }
        let count = buf.remaining().min(this.ahead.len());
        buf.put_slice(this.ahead.get(..count).unwrap_or_default());
        this.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CarrierSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = self.writing(cx, |inner, cx| inner.poll_write(cx, buf));
        self.note_sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.writing(cx, |inner, cx| inner.poll_write_vectored(cx, bufs));
        self.note_sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_pending_write_reads_ahead() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (mut socket, _) = CarrierSocket::new(ours);
        // The peer writes 1 MiB before it reads a byte, and so do we: with plain sockets neither would ever end.
        let block = vec![7_u8; 1 << 20];
        let peer = tokio::spawn(async move {
            theirs.write_all(&vec![9_u8; 1 << 20]).await.unwrap();
            let mut got = vec![0; 1 << 20];
            theirs.read_exact(&mut got).await.unwrap();
            got
        });
        socket.write_all(&block).await.unwrap();
        let mut got = vec![0; 1 << 20];
        socket.read_exact(&mut got).await.unwrap();
        assert!(got.iter().all(|byte| *byte == 9));
        assert_eq!(peer.await.unwrap(), block);
    }

    #[tokio::test]
    async fn bytes_and_then_the_end_arrive_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut socket, _) = CarrierSocket::new(ours);
        let peer = tokio::spawn(async move {
            theirs.write_all(b"all of it, and then the end").await.unwrap();
            theirs.shutdown().await.unwrap();
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            got
        });
        socket.write_all(&[1; 100]).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut got = String::new();
        socket.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "all of it, and then the end");
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0, "the end stays the end");
        assert_eq!(peer.await.unwrap().len(), 100);
    }

    #[tokio::test]
    async fn a_cut_ends_a_read_and_a_write_that_wait() {
        let (ours, theirs) = tokio::io::duplex(16);
        let (socket, cutter) = CarrierSocket::new(ours);
        let (mut reading, mut writing) = tokio::io::split(socket);
        let read = tokio::spawn(async move { reading.read(&mut [0; 1]).await.unwrap_err().kind() });
        let write = tokio::spawn(async move { writing.write_all(&[0; 64]).await.unwrap_err().kind() });
        tokio::task::yield_now().await;
        cutter.cut();
        assert_eq!(read.await.unwrap(), io::ErrorKind::ConnectionAborted);
        assert_eq!(write.await.unwrap(), io::ErrorKind::ConnectionAborted);
        drop(theirs);
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut socket, _) = CarrierSocket::new(ours);
        socket.write_patience = Duration::from_millis(20);
        assert_eq!(socket.write_all(&[0; 64]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_starts_anew_with_each_wait() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut socket, _) = CarrierSocket::new(ours);
        socket.write_patience = Duration::from_millis(200);
        let slow = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                theirs.read_exact(&mut [0; 16]).await.unwrap();
            }
        });
        socket.write_all(&[0; 160]).await.unwrap();
        slow.await.unwrap();
    }

    #[tokio::test]
    async fn it_knows_when_it_last_heard() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut socket, cutter) = CarrierSocket::new(ours);
        let made = cutter.last_heard();
        tokio::time::sleep(Duration::from_millis(20)).await;
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(cutter.last_heard(), made, "not yet read");
        socket.read_u8().await.unwrap();
        assert!(cutter.last_heard() >= made + Duration::from_millis(20));
    }
}
