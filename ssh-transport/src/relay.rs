//! Copies bytes between a TCP socket and a stream on a carrier until one of them ends, and says why.
//!
//! The relay does not know what carries the stream. A stream that ended in order closes its socket in order (FIN); any
//! other end is a reset (RST), since a clean end would make half a `pg_dump` look whole.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;

/// How much one read from the socket takes, in bytes.
const READ: usize = 64 * 1024;

/// A smaller read is copied, so that it does not keep a whole buffer alive while it waits in a queue.
const SMALL: usize = 4 * 1024;

/// How much may wait for a socket that does not take it, in bytes. The carrier goes on delivering meanwhile.
const SPILL: usize = 16 * 1024 * 1024;

/// How long a socket may refuse to take anything once [`SPILL`] bytes wait for it. From then on it would hold up every
/// other stream of its carrier, because russh stops reading when one channel's reader does.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many pieces one write hands to the kernel.
const BATCH: usize = 64;

/// What comes from a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes.
    Data(Bytes),
    /// The far end will send nothing more, and still reads (TCP FIN).
    Eof,
    /// The far end is done with the stream, whether or not it had said so in order.
    Closed,
    /// The carrier is gone.
    Lost,
}

/// The carrier is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// The receiving end of a stream.
pub trait Source: Send {
    /// The next piece. Must lose nothing when it is dropped before it is ready.
    fn next(&mut self) -> impl Future<Output = Incoming> + Send;
}

/// The sending end of a stream.
pub trait Sink: Send {
    /// Sends bytes; waits for as long as the far end has no room.
    fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), Lost>> + Send;
    /// Says that nothing more will be sent.
    fn finish(&mut self) -> impl Future<Output = Result<(), Lost>> + Send;
    /// Ends the stream, in both directions.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// Holds back a relay that moves more than it may.
pub trait Pace: fmt::Debug + Send + Sync {
    /// How long to wait, after `bytes` were moved, before any more are.
    fn moved(&self, bytes: u64) -> Duration;
}

/// Bytes relayed so far. Others may read it while the relay runs.
#[derive(Debug, Default)]
pub struct Account {
    to_socket: AtomicU64,
    from_socket: AtomicU64,
    pace: Option<Arc<dyn Pace>>,
}

impl Account {
    /// An account of a relay that is held back.
    pub fn paced(pace: Arc<dyn Pace>) -> Self {
        Self { pace: Some(pace), ..Self::default() }
    }

    /// Writes down what was moved, and waits if that was too fast.
    async fn moved(&self, direction: &AtomicU64, bytes: u64) {
        direction.fetch_add(bytes, Ordering::Relaxed);
        let wait = self.pace.as_ref().map_or(Duration::ZERO, |pace| pace.moved(bytes));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Bytes written to the TCP socket.
    pub fn to_socket(&self) -> u64 {
        self.to_socket.load(Ordering::Relaxed)
    }

    /// Bytes read from the TCP socket.
    pub fn from_socket(&self) -> u64 {
        self.from_socket.load(Ordering::Relaxed)
    }
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions ended in order.
    Finished,
    /// The TCP socket failed, most often because its peer reset it.
    Socket(io::ErrorKind),
    /// The far end of the stream closed it before it was finished.
    Closed,
    /// The carrier was lost.
    Lost,
    /// The socket took nothing for too long, and others waited behind it.
    Stalled,
    /// Somebody who may ended it.
    Stopped,
}

/// Relays until the stream ends or `stop` is ready.
pub async fn relay(
    mut socket: TcpStream,
    mut source: impl Source,
    mut sink: impl Sink,
    account: &Account,
    stop: impl Future<Output = ()> + Send,
) -> End {
    let sent_all = Notify::new();
    let (mut read, mut write) = socket.split();
    let both = async {
        tokio::try_join!(
            deliver(&mut source, &mut write, account, &sent_all),
            collect(&mut read, &mut sink, account, &sent_all),
        )
    };
    let end = tokio::select! {
        biased;
        () = stop => End::Stopped,
        result = both => result.err().unwrap_or(End::Finished),
    };
    if end != End::Finished {
        // Fails only on a socket that is closed already.
        let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
    drop(socket);
    sink.close().await;
    end
}

/// From the stream to the socket, until the stream's end.
async fn deliver(
    source: &mut impl Source,
    socket: &mut WriteHalf<'_>,
    account: &Account,
    sent_all: &Notify,
) -> Result<(), End> {
    let mut spill = Spill::default();
    loop {
        spill.take_what_is_there(source).await?;
        if spill.is_empty() {
            break;
        }
        match spill.write_to(socket) {
            Ok(count) => account.moved(&account.to_socket, count).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => spill.wait_for(socket, source).await?,
            Err(error) => return Err(End::Socket(error.kind())),
        }
    }
    shut_down(socket).await?;
    // The other direction may go on for hours; the far end can still give up on it.
    tokio::select! {
        biased;
        () = sent_all.notified() => Ok(()),
        end = abandoned(source) => Err(end),
    }
}

/// From the socket to the stream, until the socket's end.
async fn collect(
    socket: &mut ReadHalf<'_>,
    sink: &mut impl Sink,
    account: &Account,
    sent_all: &Notify,
) -> Result<(), End> {
    let mut buffer = BytesMut::new();
    loop {
        // An idle stream keeps no buffer.
        socket.readable().await.map_err(|error| End::Socket(error.kind()))?;
        buffer.reserve(READ);
        let count = match socket.try_read_buf(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                buffer = BytesMut::new();
                continue;
            }
            Err(error) => return Err(End::Socket(error.kind())),
        };
        let data = if count < SMALL {
            let copy = Bytes::copy_from_slice(&buffer);
            buffer.clear();
            copy
        } else {
            buffer.split().freeze()
        };
        sink.data(data).await.map_err(|Lost| End::Lost)?;
        account.moved(&account.from_socket, count as u64).await;
    }
    sink.finish().await.map_err(|Lost| End::Lost)?;
    sent_all.notify_one();
    Ok(())
}

async fn shut_down(socket: &mut WriteHalf<'_>) -> Result<(), End> {
    use tokio::io::AsyncWriteExt;
    match socket.shutdown().await {
        // A peer that reset the connection after it had everything is found by the reading side.
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        Err(error) => Err(End::Socket(error.kind())),
    }
}

/// Waits until the far end closes a stream that it had finished sending on.
async fn abandoned(source: &mut impl Source) -> End {
    loop {
        match source.next().await {
            Incoming::Data(_) | Incoming::Eof => {}
            Incoming::Closed => return End::Closed,
            Incoming::Lost => return End::Lost,
        }
    }
}

/// What waits for the socket.
#[derive(Default)]
struct Spill {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    eof: bool,
}

impl Spill {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes >= SPILL
    }

    fn push(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            // Data after EOF is against the protocol (RFC 4254 §5.3) and goes nowhere.
            Incoming::Data(data) if !self.eof && !data.is_empty() => {
                self.bytes += data.len();
                self.pieces.push_back(data);
            }
            Incoming::Data(_) => {}
            Incoming::Eof => self.eof = true,
            Incoming::Closed => return Err(End::Closed),
            Incoming::Lost => return Err(End::Lost),
        }
        Ok(())
    }

    /// Takes every piece that has arrived. Waits for one only if none waits already; then an empty spill means the end.
    async fn take_what_is_there(&mut self, source: &mut impl Source) -> Result<(), End> {
        while self.is_empty() && !self.eof {
            let incoming = source.next().await;
            self.push(incoming)?;
        }
        while !self.eof && !self.is_full() {
            match source.next().now_or_never() {
                Some(incoming) => self.push(incoming)?,
                None => break,
            }
        }
        Ok(())
    }

    /// One write of as many pieces as the kernel takes.
    fn write_to(&mut self, socket: &WriteHalf<'_>) -> io::Result<u64> {
        let mut slices = [IoSlice::new(&[]); BATCH];
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        let mut count = socket.try_write_vectored(slices.get(..used).unwrap_or_default())?;
        let written = count as u64;
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > count {
                piece.advance(count);
                break;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        Ok(written)
    }

    /// Waits for room in the socket, and takes in what the carrier brings meanwhile, within bounds. After EOF nothing
    /// else matters than that all of it is delivered.
    async fn wait_for(&mut self, socket: &WriteHalf<'_>, source: &mut impl Source) -> Result<(), End> {
        loop {
            if self.is_full() || self.eof {
                return match tokio::time::timeout(PATIENCE, socket.writable()).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(End::Socket(error.kind())),
                    Err(_) => Err(End::Stalled),
                };
            }
            tokio::select! {
                ready = socket.writable() => return ready.map_err(|error| End::Socket(error.kind())),
                incoming = source.next() => self.push(incoming)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// The far end of a stream that is carried by nothing but memory.
    struct Far {
        send: Option<mpsc::Sender<Incoming>>,
        receive: mpsc::Receiver<Option<Bytes>>,
    }

    struct MemorySource(mpsc::Receiver<Incoming>);
    struct MemorySink(mpsc::Sender<Option<Bytes>>);

    impl Source for MemorySource {
        async fn next(&mut self) -> Incoming {
            self.0.recv().await.unwrap_or(Incoming::Lost)
        }
    }

    impl Sink for MemorySink {
        async fn data(&mut self, data: Bytes) -> Result<(), Lost> {
            self.0.send(Some(data)).await.map_err(|_| Lost)
        }
        async fn finish(&mut self) -> Result<(), Lost> {
            self.0.send(None).await.map_err(|_| Lost)
        }
        async fn close(&mut self) {}
    }

    impl Far {
        async fn send(&self, incoming: Incoming) {
            self.send.as_ref().unwrap().send(incoming).await.unwrap();
        }

        /// All data up to the end of the sending direction.
        async fn read_to_end(&mut self) -> Vec<u8> {
            let mut all = Vec::new();
            while let Some(Some(data)) = self.receive.recv().await {
                all.extend_from_slice(&data);
            }
            all
        }
    }

    /// A relay between the far end of a stream and a TCP peer.
    async fn start() -> (Far, TcpStream, Arc<Account>, tokio::task::JoinHandle<End>, Arc<Notify>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let (send, incoming) = mpsc::channel(8);
        let (outgoing, receive) = mpsc::channel(8);
        let account = Arc::new(Account::default());
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn({
            let (account, stop) = (Arc::clone(&account), Arc::clone(&stop));
            async move {
                relay(socket, MemorySource(incoming), MemorySink(outgoing), &account, stop.notified()).await
            }
        });
        (Far { send: Some(send), receive }, peer, account, task, stop)
    }

    #[tokio::test]
    async fn both_directions_end_in_order() {
        let (mut far, mut peer, account, task, _stop) = start().await;
        far.send(Incoming::Data(Bytes::from_static(b"question"))).await;
        far.send(Incoming::Eof).await;
        let mut question = String::new();
        peer.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        peer.write_all(&vec![5; 300_000]).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(far.read_to_end().await, vec![5; 300_000]);
        assert_eq!(task.await.unwrap(), End::Finished);
        assert_eq!((account.to_socket(), account.from_socket()), (8, 300_000));
    }

    #[tokio::test]
    async fn the_socket_may_finish_first() {
        let (mut far, mut peer, _, task, _stop) = start().await;
        peer.shutdown().await.unwrap();
        assert_eq!(far.read_to_end().await, Vec::<u8>::new());
        far.send(Incoming::Data(Bytes::from(vec![1; 10_000_000]))).await;
        far.send(Incoming::Eof).await;
        far.send(Incoming::Closed).await;
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        assert_eq!(
            all.len(),
            10_000_000,
            "what was sent before the end arrives, though the close came at once"
        );
        assert_eq!(task.await.unwrap(), End::Finished);
    }

    #[tokio::test]
    async fn every_other_end_is_a_reset() {
        for (last, expected) in [(Some(Incoming::Closed), End::Closed), (None, End::Lost)] {
            let (mut far, mut peer, _, task, _stop) = start().await;
            far.send(Incoming::Data(Bytes::from_static(b"half a dump"))).await;
            peer.read_exact(&mut [0; 11]).await.unwrap();
            match last {
                Some(incoming) => far.send(incoming).await,
                None => far.send = None,
            }
            assert_eq!(peer.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(task.await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_reset_socket_ends_the_stream_without_eof() {
        let (mut far, peer, _, task, _stop) = start().await;
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(task.await.unwrap(), End::Socket(io::ErrorKind::ConnectionReset));
        assert_eq!(far.receive.recv().await, None, "closed, and no end of data before");
    }

    #[tokio::test]
    async fn it_stops_when_told() {
        let (_far, mut peer, _, task, stop) = start().await;
        stop.notify_one();
        assert_eq!(task.await.unwrap(), End::Stopped);
        assert_eq!(peer.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_slow_socket_is_fed_from_the_spill_and_nothing_is_lost() {
        let (far, mut peer, _, task, _stop) = start().await;
        let total: usize = 40 << 20;
        let sender = tokio::spawn(async move {
            for number in 0..total / 32_768 {
                far.send(Incoming::Data(Bytes::from(vec![u8::try_from(number % 251).unwrap(); 32_768])))
                    .await;
            }
            far.send(Incoming::Eof).await;
            far
        });
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), total);
        assert!(
            all.chunks(32_768).enumerate().all(|(n, chunk)| chunk.iter().all(|b| usize::from(*b) == n % 251))
        );
        drop(peer);
        let _far = sender.await.unwrap();
        assert_eq!(task.await.unwrap(), End::Finished);
    }
}
