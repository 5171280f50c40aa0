//! The socket under an SSH session: reads ahead while a write is pending, stops reading while its part of the memory is
//! spent, is cut from outside, and knows when it last heard from its peer.
//!
//! russh's session loop does not read while it writes. When both ends send in bulk, both wait for room in the other's
//! kernel buffer, for ever. So while a write is pending this socket reads into memory, which lets the peer finish its
//! own write. Reads are also served from 64 KiB at a time, since russh reads four bytes and then a packet.
//!
//! russh prefers writing: for each packet that it reads it may write megabytes. So a task that feeds a session asks
//! [`Cutter::caught_up`] first, and is held back while much of what has arrived is unread. With that at both ends, one of
//! them always reads: of two, the one that falls behind last has got no more from the other since than a full queue.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Notify,
    task::coop,
    time::{Instant, Sleep},
};
use tokio_util::io::poll_read_buf;

use crate::budget::Carrier;

/// How much one system call reads, in bytes.
const READ: usize = 64 * 1024;

/// How far a session may read ahead of itself, in bytes. It has to cover what the peer may send while both ends write:
/// [`UNREAD`], what waits in the peer's queue when it is held back, and the kernels' buffers. Where a budget is smaller,
/// that holds.
const READ_AHEAD: usize = 64 * 1024 * 1024;

/// How much may have arrived and not been read by the session before those who feed it wait, in bytes.
const UNREAD: usize = 4 * 1024 * 1024;

/// How much of what a server says is searched for its identification line, in bytes.
const LONGEST_INTRODUCTION: usize = 64 * 1024;

/// How long a write may wait for a peer that does not read.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// A byte stream that an SSH session runs on.
#[derive(Debug)]
pub struct CarrierSocket<S> {
    inner: S,
    /// What was read and not yet taken, in pieces of [`READ`] bytes.
    ahead: VecDeque<BytesMut>,
    /// How many bytes that are.
    unread: usize,
    /// How much of it stands in the budget: all but one piece.
    charged: u64,
    /// How much the session wants to write and cannot.
    pending: u64,
    /// What a read has to report once `ahead` is empty.
    read_end: Option<io::Result<()>>,
    reader: Option<Waker>,
    pending_since: Option<Instant>,
    write_patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// How many bytes of what the session writes first have been sent already.
    introduced: usize,
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
    /// Whether more than [`UNREAD`] bytes wait.
    behind: AtomicBool,
    caught_up: Notify,
    /// Whether the session writes no more.
    finished: AtomicBool,
    finishes: Notify,
    carrier: OnceLock<Arc<Carrier>>,
}

impl Shared {
    fn note_heard(&self) {
        let since = self.started.elapsed().as_millis();
        self.heard.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
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
        self.0.catch_up();
    }

    /// Waits while the session has much to read. Ask before it is given more to write.
    pub async fn caught_up(&self) {
        until(&self.0.behind, false, &self.0.caught_up).await;
    }

    /// Waits until the session writes no more, and only waits for its peer to close the connection.
    pub async fn finished(&self) {
        until(&self.0.finished, true, &self.0.finishes).await;
    }

    /// From now on what is held for this connection is charged to a budget. Only the first call counts.
    pub fn charge_to(&self, carrier: Arc<Carrier>) {
        let _ = self.0.carrier.set(carrier);
    }

    /// Whether nothing is read at present, because of us.
    pub fn is_held_up(&self) -> bool {
        self.0.carrier.get().is_some_and(|carrier| carrier.is_held_up())
    }

    /// When bytes last came from the peer, or the socket was made. While nothing is read because of us, a peer is not
    /// silent: this moment.
    pub fn last_heard(&self) -> Instant {
        if self.is_held_up() {
            self.0.note_heard();
        }
        self.0.started + Duration::from_millis(self.0.heard.load(Ordering::Relaxed))
    }

    /// How many bytes the kernel took from us. A line that still takes them is busy, however silent its peer is.
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }
}

/// Waits until `flag` is `wanted`; `changes` tells when it may be.
async fn until(flag: &AtomicBool, wanted: bool, changes: &Notify) {
    while flag.load(Ordering::Acquire) != wanted {
        let mut told = pin!(changes.notified());
        // Listens before it looks again, so that nothing falls in between.
        told.as_mut().enable();
        if flag.load(Ordering::Acquire) != wanted {
            told.await;
        }
    }
}

impl Shared {
    fn catch_up(&self) {
        if self.behind.swap(false, Ordering::AcqRel) {
            self.caught_up.notify_waiters();
        }
    }
}

impl<S> Drop for CarrierSocket<S> {
    /// A task that waits to feed the session finds out that it is gone, and what it held is given back.
    fn drop(&mut self) {
        self.shared.catch_up();
        self.ahead.clear();
        self.account();
        self.note_pending(0);
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
            behind: AtomicBool::new(false),
            caught_up: Notify::new(),
            finished: AtomicBool::new(false),
            finishes: Notify::new(),
            carrier: OnceLock::new(),
        });
        let socket = Self {
            inner,
            ahead: VecDeque::new(),
            unread: 0,
            charged: 0,
            pending: 0,
            read_end: None,
            reader: None,
            pending_since: None,
            write_patience: WRITE_PATIENCE,
            timer: None,
            introduced: 0,
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

    fn note_sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = result {
            self.shared.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
        result
    }
}

impl<S> CarrierSocket<S> {
    fn carrier(&self) -> Option<&Arc<Carrier>> {
        self.shared.carrier.get()
    }

    /// Brings the budget up to date with what was read ahead.
    fn account(&mut self) {
        let held = (self.ahead.len().saturating_sub(1) * READ) as u64;
        let Some(carrier) = self.shared.carrier.get() else { return };
        if held > self.charged {
            carrier.charge(held - self.charged);
        } else if held < self.charged {
            carrier.release(self.charged - held);
        }
        self.charged = held;
    }

    /// Writes down that so much waits to be written, or nothing any more.
    fn note_pending(&mut self, bytes: u64) {
        let Some(carrier) = self.shared.carrier.get() else { return };
        if bytes > self.pending {
            carrier.charge(bytes - self.pending);
        } else if bytes < self.pending {
            carrier.release(self.pending - bytes);
        }
        self.pending = bytes;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> CarrierSocket<S> {
    /// Sends `ours`, an identification line (RFC 4253 §4.2), which the session must then write as its first bytes, and
    /// waits for that of the peer, which the session reads all the same. `None` where there is none: what that means is
    /// left to the session.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn introduce(&mut self, ours: &str) -> io::Result<Option<String>> {
        let line = format!("{ours}\r\n");
        self.inner.write_all(line.as_bytes()).await?;
        self.inner.flush().await?;
        self.introduced = line.len();
        loop {
            // All of it is in the first piece, which is as long.
            if let Some(theirs) = self.ahead.front().and_then(|first| identification(first)) {
                return Ok(Some(theirs));
            }
            if self.unread >= LONGEST_INTRODUCTION {
                return Ok(None);
            }
            let more = poll_fn(|cx| {
                self.shared.read_waker.register(cx.waker());
                self.check_cut()?;
                self.fill(cx)
            });
            if more.await? == 0 {
                return Ok(None);
            }
        }
    }

    /// How much of a write of `length` bytes has been sent by [`Self::introduce`].
    fn was_introduced(&mut self, length: usize) -> Option<usize> {
        let count = length.min(self.introduced);
        self.introduced -= count;
        (count > 0).then_some(count)
    }

    /// One read from below into `ahead`. Ready with the number of bytes, 0 at the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let has_room = |piece: &BytesMut| piece.capacity() > piece.len();
        if !self.ahead.back().is_some_and(has_room) {
            self.ahead.push_back(BytesMut::with_capacity(READ));
        }
        let Some(piece) = self.ahead.back_mut() else { return Poll::Pending };
        let room = piece.capacity() - piece.len();
        // The limit keeps the piece from growing.
        let read = poll_read_buf(Pin::new(&mut self.inner), cx, &mut piece.limit(room));
        if self.ahead.back().is_some_and(BytesMut::is_empty) {
            // An idle connection keeps no buffer.
            self.ahead.pop_back();
        }
        let count = ready!(read)?;
        if count > 0 {
            self.unread += count;
            self.shared.note_heard();
            self.account();
        }
        Poll::Ready(Ok(count))
    }

    /// Reads all that is there, while a write waits.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while self.read_end.is_none() && self.ahead.len() < READ_AHEAD / READ {
            if !self.carrier().is_none_or(|carrier| carrier.poll_read_ahead(cx)) {
                return;
            }
            match self.fill(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => self.read_end = Some(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => self.read_end = Some(Err(error)),
            }
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            if self.unread > UNREAD {
                self.shared.behind.store(true, Ordering::Release);
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

    /// What every kind of write does around the write itself, of so many bytes.
    fn writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.check_cut()?;
        if let Poll::Ready(result) = write(Pin::new(&mut self.inner), cx) {
            if self.pending_since.take().is_some() {
                self.note_pending(0);
                if let Some(carrier) = self.carrier() {
                    carrier.progress();
                }
            }
            return Poll::Ready(result);
        }
        if self.pending_since.is_none()
            && let Some(carrier) = self.carrier()
        {
            carrier.stall();
        }
        self.note_pending(bytes as u64);
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
        // What was read ahead is there immediately: without this, a session with much of it would let no other go on.
        let progress = ready!(coop::poll_proceed(cx));
        if this.ahead.is_empty() {
            if let Some(end) = this.read_end.take() {
                this.read_end = Some(Ok(()));
                return Poll::Ready(end);
            }
            let may_read = this.carrier().is_none_or(|carrier| carrier.poll_read(cx));
            match if may_read { this.fill(cx) } else { Poll::Pending } {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.reader = Some(cx.waker().clone());
                    this.shared.read_waker.register(cx.waker());
                    this.check_cut()?;
                    return Poll::Pending;
                }
            }
        }
        if let Some(piece) = this.ahead.front_mut() {
            let count = buf.remaining().min(piece.len());
            buf.put_slice(piece.get(..count).unwrap_or_default());
            piece.advance(count);
            this.unread -= count;
            if piece.is_empty() {
                this.ahead.pop_front();
                this.account();
            }
        }
        if this.unread <= UNREAD {
            this.shared.catch_up();
        }
        progress.made_progress();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CarrierSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(count) = self.was_introduced(buf.len()) {
            return Poll::Ready(Ok(count));
        }
        let result = self.writing(cx, buf.len(), |inner, cx| inner.poll_write(cx, buf));
        self.note_sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if let Some(count) = self.was_introduced(bytes) {
            return Poll::Ready(Ok(count));
        }
        let result = self.writing(cx, bytes, |inner, cx| inner.poll_write_vectored(cx, bufs));
        self.note_sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx, 0, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.finished.swap(true, Ordering::AcqRel) {
            self.shared.finishes.notify_waiters();
        }
        self.writing(cx, 0, AsyncWrite::poll_shutdown)
    }
}

/// The first whole line that begins as an identification does. Others may come before it (RFC 4253 §4.2).
fn identification(said: &[u8]) -> Option<String> {
    let whole = said.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let line = whole.into_iter().find(|line| line.starts_with(b"SSH-"))?;
    Some(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

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
    async fn an_introduction_is_sent_once_and_can_be_read_again() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (mut socket, _) = CarrierSocket::new(ours);
        theirs.write_all(b"welcome\r\nSSH-2.0-x rekey=1,2\r\nmore").await.unwrap();
        assert_eq!(socket.introduce("SSH-2.0-me").await.unwrap().as_deref(), Some("SSH-2.0-x rekey=1,2"));
        // What russh does next.
        socket.write_all(b"SSH-2.0-me\r\n").await.unwrap();
        socket.write_all(b"KEXINIT").await.unwrap();
        let mut sent = [0; 19];
        theirs.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"SSH-2.0-me\r\nKEXINIT");
        let mut read = [0; 34];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"welcome\r\nSSH-2.0-x rekey=1,2\r\nmore");
        drop(theirs);
        assert_eq!(socket.introduce("SSH-2.0-me").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn who_feeds_a_session_waits_until_it_has_read() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (mut socket, cutter) = CarrierSocket::new(ours);
        cutter.caught_up().await;
        // The peer takes what is written only after it has sent more than the session may leave unread.
        let peer = tokio::spawn(async move {
            theirs.write_all(&vec![9; UNREAD + 2048]).await.unwrap();
            theirs.read_exact(&mut [0; 4096]).await.unwrap();
            theirs
        });
        socket.write_all(&[7; 4096]).await.unwrap();
        let mut caught_up = pin!(cutter.caught_up());
        assert!(poll_fn(|cx| Poll::Ready(caught_up.as_mut().poll(cx))).await.is_pending());
        let mut rest = vec![0; UNREAD + 2048];
        let (read, ()) = tokio::join!(socket.read_exact(&mut rest), caught_up);
        read.unwrap();
        drop(peer.await.unwrap());
        for end in [|_: CarrierSocket<_>, cutter: &Cutter| cutter.cut(), |socket, _: &Cutter| drop(socket)] {
            let (ours, theirs) = tokio::io::duplex(16);
            let (socket, cutter) = CarrierSocket::new(ours);
            cutter.0.behind.store(true, Ordering::Release);
            let waiting = tokio::spawn({
                let cutter = cutter.clone();
                async move { cutter.caught_up().await }
            });
            tokio::task::yield_now().await;
            end(socket, &cutter);
            waiting.await.unwrap();
            drop(theirs);
        }
    }

    #[tokio::test]
    async fn bytes_and_then_the_end_arrive_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut socket, cutter) = CarrierSocket::new(ours);
        let peer = tokio::spawn(async move {
            theirs.write_all(b"all of it, and then the end").await.unwrap();
            theirs.shutdown().await.unwrap();
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            got
        });
        socket.write_all(&[1; 100]).await.unwrap();
        let mut finished = pin!(cutter.finished());
        assert!(poll_fn(|cx| Poll::Ready(finished.as_mut().poll(cx))).await.is_pending());
        socket.shutdown().await.unwrap();
        finished.await;
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
    async fn a_session_with_much_to_read_lets_others_go_on() {
        let (ours, mut theirs) = tokio::io::duplex(READ);
        let (mut socket, _) = CarrierSocket::new(ours);
        theirs.write_all(&[7; READ]).await.unwrap();
        let other = tokio::spawn(async {});
        let mut read = 0;
        while !other.is_finished() {
            socket.read_exact(&mut [0; 4]).await.unwrap();
            read += 1;
        }
        assert!(read < 1000, "{read}");
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
