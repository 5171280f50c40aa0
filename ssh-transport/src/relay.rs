//! Copies bytes between a TCP socket and a stream on a carrier until one of them ends, and says why.
//!
//! The relay does not know what carries the stream. A stream that ended in order closes its socket in order (FIN); any
//! other end is a reset (RST), since a clean end would make half a `pg_dump` look whole. Whichever peer ends it, all that
//! it sent before goes to the other first.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::{
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use crate::budget::{Reason, Stream};

/// How much one read from the socket takes at most, in bytes.
const READ: usize = 64 * 1024;

/// How much is read while the far end has no room: enough to notice the end, and little to keep.
const PROBE: usize = 1024;

/// A smaller read is copied, so that it does not keep a whole buffer alive while it waits in a queue.
const SMALL: usize = 4 * 1024;

/// How much may wait for a socket that does not take it before the carrier is held up, in bytes.
pub const SPILL: u64 = 16 * 1024 * 1024;

/// How long a socket that holds up its carrier may take nothing: other streams wait behind it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much the kernel may keep of what it cannot send, in bytes: it would take megabytes for a peer that does not read.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 256 * 1024;

/// What a piece in a queue costs beside its bytes.
const PIECE: u64 = 160;

/// How often a socket is asked that says nothing: the kernel tells of room only when there is a lot.
const ASK: Duration = Duration::from_secs(1);

/// How long what was written is waited for to leave before a reset, and how often it is looked at.
const LEAVE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

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
    /// The socket took so many bytes of what came.
    fn took(&mut self, _bytes: u64) {}
    /// The socket took all, and was told that nothing follows.
    fn took_end(&mut self) {}
}

/// The sending end of a stream.
pub trait Sink: Send {
    /// How many bytes are kept free before the data, for what goes before it.
    const HEADROOM: usize = 0;
    /// How much one read from the socket takes at most, in bytes.
    const MOST: usize = READ;
    /// How much can be sent at this moment without waiting for the far end, in bytes.
    fn room(&self) -> impl Future<Output = usize> + Send;
    /// Sends the bytes behind the first [`Sink::HEADROOM`], and charges them; waits for as long as the far end has no room.
    fn data(&mut self, data: BytesMut, budget: &Stream) -> impl Future<Output = Result<(), Lost>> + Send;
    /// Says that nothing more will be sent.
    fn finish(&mut self) -> impl Future<Output = Result<(), Lost>> + Send;
    /// The relay has ended so: ends the stream, in both directions.
    fn close(&mut self, end: End) -> impl Future<Output = ()> + Send;
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

    /// Writes down what was moved, and says how long to wait if that was too fast.
    fn moved(&self, direction: &AtomicU64, bytes: u64) -> Duration {
        direction.fetch_add(bytes, Ordering::Relaxed);
        self.pace.as_ref().map_or(Duration::ZERO, |pace| pace.moved(bytes))
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
    /// The socket took nothing, and others needed what it held up.
    Evicted(Reason),
    /// Its owner ended it.
    Stopped,
}

/// Relays until the stream ends or `stop` is ready. What waits on the way is charged to `budget`.
pub async fn relay(
    mut socket: TcpStream,
    mut source: impl Source,
    mut sink: impl Sink,
    account: &Account,
    budget: &Stream,
    stop: impl Future<Output = ()> + Send,
) -> End {
    // Fails only on a socket that is closed already.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
    let between = Between::default();
    let (mut read, mut write) = socket.split();
    let both = async {
        tokio::try_join!(
            deliver_or_listen(&mut source, &mut write, account, budget, &between),
            collect(&mut read, &mut sink, account, budget, &between),
        )
    };
    let end = tokio::select! {
        biased;
        () = stop => End::Stopped,
        reason = budget.evicted() => End::Evicted(reason),
        result = both => result.err().unwrap_or(End::Finished),
    };
    if end != End::Finished {
        // Fails only on a socket that is closed already.
        let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
    drop(socket);
    sink.close(end).await;
    end
}

/// What one direction must know of the other.
#[derive(Default)]
struct Between {
    /// All that comes from the socket was sent.
    sent_all: Notify,
    /// The socket takes nothing more. What was received before can still be read, and then ends like an end in order.
    broken: OnceLock<io::ErrorKind>,
}

/// From the stream to the socket. A socket that takes nothing more may still have said something.
async fn deliver_or_listen(
    source: &mut impl Source,
    socket: &mut WriteHalf<'_>,
    account: &Account,
    budget: &Stream,
    between: &Between,
) -> Result<(), End> {
    let end = match deliver(source, socket, account, budget, between).await {
        Err(End::Socket(kind)) => End::Socket(*between.broken.get_or_init(|| kind)),
        other => return other,
    };
    tokio::select! {
        biased;
        () = between.sent_all.notified() => Err(end),
        end = abandoned(source) => Err(end),
    }
}

/// From the stream to the socket, until the stream's end.
async fn deliver(
    source: &mut impl Source,
    socket: &mut WriteHalf<'_>,
    account: &Account,
    budget: &Stream,
    between: &Between,
) -> Result<(), End> {
    let mut spill = Spill::new(budget);
    loop {
        spill.take_what_is_there(source).await?;
        if spill.pieces.is_empty() {
            break;
        }
        match spill.write_to(socket) {
            Ok(count) => spill.moved(account, count, source).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let count = spill.wait_for(socket, source).await?;
                spill.moved(account, count, source).await?;
            }
            Err(error) => return Err(End::Socket(error.kind())),
        }
    }
    if spill.end == Some(Last::Closed) {
        leave(socket).await;
        return Err(End::Closed);
    }
    shut_down(socket).await?;
    source.took_end();
    // The other direction may go on for hours; the far end can still give up on it.
    tokio::select! {
        biased;
        () = between.sent_all.notified() => Ok(()),
        end = abandoned(source) => {
            leave(socket).await;
            Err(end)
        }
    }
}

/// From the socket to the stream, until the socket's end.
async fn collect<S: Sink>(
    socket: &mut ReadHalf<'_>,
    sink: &mut S,
    account: &Account,
    budget: &Stream,
    between: &Between,
) -> Result<(), End> {
    let mut buffer = BytesMut::new();
    loop {
        // An idle stream keeps no buffer.
        socket.readable().await.map_err(|error| End::Socket(error.kind()))?;
        // A peer that made us hold too much waits here, where it holds up no other peer.
        budget.carrier().room().await;
        let most = match sink.room().await {
            0 => PROBE,
            room => room.min(S::MOST),
        };
        buffer.reserve(S::HEADROOM + most);
        buffer.resize(S::HEADROOM, 0);
        let count = match socket.try_read_buf(&mut (&mut buffer).limit(most)) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                buffer = BytesMut::new();
                continue;
            }
            Err(error) => return Err(End::Socket(error.kind())),
        };
        let data = if count < SMALL {
            let copy = BytesMut::from(buffer.as_ref());
            buffer.clear();
            copy
        } else {
            buffer.split()
        };
        sink.data(data, budget).await.map_err(|Lost| End::Lost)?;
        let wait = account.moved(&account.from_socket, count as u64);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
    if let Some(kind) = between.broken.get() {
        // The error was told to the writer, and this is no end in order.
        return Err(End::Socket(*kind));
    }
    sink.finish().await.map_err(|Lost| End::Lost)?;
    between.sent_all.notify_one();
    Ok(())
}

/// Waits until the kernel has sent what was written, for a while: a reset throws away what it has not.
async fn leave(socket: &WriteHalf<'_>) {
    let until = Instant::now() + LEAVE;
    while !has_left(socket.as_ref()) && Instant::now() < until {
        sleep(LOOK).await;
    }
}

#[cfg(target_os = "linux")]
fn has_left(socket: &TcpStream) -> bool {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // From now on the kernel calls the socket writable once nothing is left to send.
    if SockRef::from(socket).set_tcp_notsent_lowat(1).is_err() {
        return true;
    }
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO) != Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn has_left(_socket: &TcpStream) -> bool {
    true
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

/// Why nothing more comes from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The far end sent all that it wanted.
    Eof,
    /// The far end is done with it. What it had sent before is delivered all the same.
    Closed,
}

/// What waits for the socket.
struct Spill<'a> {
    pieces: VecDeque<Bytes>,
    end: Option<Last>,
    budget: &'a Stream,
    charged: u64,
}

impl Drop for Spill<'_> {
    fn drop(&mut self) {
        self.budget.release(self.charged);
    }
}

impl<'a> Spill<'a> {
    fn new(budget: &'a Stream) -> Self {
        Self { pieces: VecDeque::new(), end: None, budget, charged: 0 }
    }

    fn push(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            Incoming::Data(data) if !data.is_empty() => {
                let cost = data.len() as u64 + PIECE;
                self.charged += cost;
                self.budget.charge(cost);
                self.pieces.push_back(data);
            }
            Incoming::Data(_) => {}
            Incoming::Eof => self.finish(Last::Eof),
            Incoming::Closed => self.finish(Last::Closed),
            Incoming::Lost => return Err(End::Lost),
        }
        Ok(())
    }

    fn finish(&mut self, last: Last) {
        self.end = Some(last);
        self.budget.finish();
    }

    /// Takes every piece that has arrived. Waits for one only if none waits already; then an empty spill means the end.
    ///
    /// Data after EOF is against the protocol (RFC 4254 §5.3) and goes nowhere.
    async fn take_what_is_there(&mut self, source: &mut impl Source) -> Result<(), End> {
        while self.pieces.is_empty() && self.end.is_none() {
            let incoming = source.next().await;
            self.push(incoming)?;
        }
        while self.end.is_none() {
            match source.next().now_or_never() {
                Some(incoming) => self.push(incoming)?,
                None => break,
            }
        }
        Ok(())
    }

    /// One write of as many pieces as the kernel takes.
    fn write_to(&mut self, socket: &WriteHalf<'_>) -> io::Result<u64> {
        self.write(|slices| socket.try_write_vectored(slices))
    }

    /// [`Spill::write_to`] without regard to what the kernel has told us of its room.
    fn ask(&mut self, socket: &WriteHalf<'_>) -> io::Result<u64> {
        let socket = SockRef::from(socket.as_ref());
        self.write(|slices| socket.send_vectored(slices))
    }

    fn write(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<u64> {
        let mut slices = [IoSlice::new(&[]); BATCH];
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        let mut count = write(slices.get(..used).unwrap_or_default())?;
        let written = count as u64;
        let mut given = written;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > count {
                piece.advance(count);
                break;
            }
            count -= piece.len();
            given += PIECE;
            self.pieces.pop_front();
        }
        self.charged -= given;
        self.budget.release(given);
        Ok(written)
    }

    /// Writes down what was moved. If that was too fast, moves nothing for a while, and takes in what the carrier brings
    /// meanwhile.
    async fn moved(&mut self, account: &Account, bytes: u64, source: &mut impl Source) -> Result<(), End> {
        source.took(bytes);
        let wait = account.moved(&account.to_socket, bytes);
        if wait.is_zero() {
            return Ok(());
        }
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                incoming = source.next(), if self.end.is_none() => self.push(incoming)?,
            }
        }
    }

    /// Waits for room in the socket, and takes in what the carrier brings meanwhile; how much, and for how long, is the
    /// budget's to decide. Says how many bytes the socket took already.
    async fn wait_for(&mut self, socket: &WriteHalf<'_>, source: &mut impl Source) -> Result<u64, End> {
        self.budget.stall();
        let began = Instant::now();
        let mut ask = pin!(sleep(ASK));
        loop {
            tokio::select! {
                ready = socket.writable() => {
                    return ready.map(|()| 0).map_err(|error| End::Socket(error.kind()));
                }
                incoming = source.next(), if self.end.is_none() => self.push(incoming)?,
                () = &mut ask => {
                    match self.ask(socket) {
                        Ok(count) => return Ok(count),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(End::Socket(error.kind())),
                    }
                    // The far end is done, and the socket takes nothing: no party is left that would end this.
                    if self.end == Some(Last::Closed) && began.elapsed() >= PATIENCE {
                        return Err(End::Closed);
                    }
                    ask.as_mut().reset(Instant::now() + ASK);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::budget::{Budget, Carrier, Limits};

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
        async fn room(&self) -> usize {
            READ
        }
        async fn data(&mut self, data: BytesMut, budget: &Stream) -> Result<(), Lost> {
            self.0.send(Some(budget.carrier().lend(data.freeze()))).await.map_err(|_| Lost)
        }
        async fn finish(&mut self) -> Result<(), Lost> {
            self.0.send(None).await.map_err(|_| Lost)
        }
        async fn close(&mut self, _end: End) {}
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
        let budget = Budget::start(Limits::of_streams(SPILL, PATIENCE));
        start_on(&budget.carrier("me")).await
    }

    async fn start_on(
        carrier: &Arc<Carrier>,
    ) -> (Far, TcpStream, Arc<Account>, tokio::task::JoinHandle<End>, Arc<Notify>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let (send, incoming) = mpsc::channel(8);
        let (outgoing, receive) = mpsc::channel(8);
        let account = Arc::new(Account::default());
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn({
            let (account, stop, stream) = (Arc::clone(&account), Arc::clone(&stop), carrier.stream());
            async move {
                let (source, sink) = (MemorySource(incoming), MemorySink(outgoing));
                relay(socket, source, sink, &account, &stream, stop.notified()).await
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
            "what was sent before the end arrives, though the close came immediately"
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

    /// A peer that answers, and is gone while it is still being talked to: the kernel resets, and has the answer.
    #[tokio::test]
    async fn what_a_peer_said_before_it_reset_arrives() {
        // As much as certainly fits into the kernel while it is not read.
        let answer = vec![7; 50_000];
        let budget = Budget::start(Limits { owner: 1000, ..Limits::of_streams(SPILL, PATIENCE) });
        let carrier = budget.carrier("me");
        // Nothing is read from the peer before it is gone.
        carrier.charge(1000);
        let (mut far, mut peer, _, task, _stop) = start_on(&carrier).await;
        peer.write_all(&answer).await.unwrap();
        far.send(Incoming::Data(Bytes::from_static(b"a question that is not read"))).await;
        peer.readable().await.unwrap();
        drop(peer);
        // Until the kernel has told the writer.
        let sending = async {
            while far.send.as_ref().unwrap().send(Incoming::Data(Bytes::from_static(b"more"))).await.is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let reading = async {
            sleep(Duration::from_millis(20)).await;
            carrier.release(1000);
            let mut all = Vec::new();
            while let Some(Some(data)) = far.receive.recv().await {
                all.extend_from_slice(&data);
            }
            all
        };
        let (got, ()) = tokio::join!(reading, sending);
        assert_eq!(got.len(), answer.len());
        assert!(matches!(task.await.unwrap(), End::Socket(_)), "and it is no end in order");
    }

    /// A far end that sends and is gone: the local peer gets all of it, however slowly it reads, and then a reset.
    #[tokio::test]
    async fn what_the_far_end_sent_before_it_closed_arrives_before_the_reset() {
        let (far, mut peer, _, task, _stop) = start().await;
        let total: usize = 12 << 20;
        for _ in 0..total / 32_768 {
            far.send(Incoming::Data(Bytes::from(vec![3; 32_768]))).await;
        }
        far.send(Incoming::Closed).await;
        let mut got = 0;
        let mut block = vec![0; 1 << 20];
        let error = loop {
            match peer.read(&mut block).await {
                Ok(0) => panic!("an end in order after {got} bytes"),
                Ok(count) => got += count,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!((got, error), (total, io::ErrorKind::ConnectionReset));
        assert_eq!(task.await.unwrap(), End::Closed);
    }

    /// The spill takes what comes, holds up the carrier when it is full, and gives back what its socket took.
    #[tokio::test]
    async fn a_socket_that_takes_nothing_holds_up_its_carrier_until_patience_ends() {
        const BOUND: u64 = 1 << 20;
        let budget = Budget::start(Limits::of_streams(BOUND, Duration::from_millis(300)));
        let carrier = budget.carrier("me");
        let (far, _peer, _, task, _stop) = start_on(&carrier).await;
        let (_other, _, _, other, _stop_other) = start_on(&carrier).await;
        while !carrier.is_held_up() {
            far.send(Incoming::Data(Bytes::from(vec![0; 32_768]))).await;
        }
        assert!(budget.held() >= BOUND);
        assert_eq!(task.await.unwrap(), End::Evicted(Reason::Stalled));
        assert!(!carrier.is_held_up());
        assert_eq!(budget.held(), 0);
        assert!(!other.is_finished());
    }

    /// After EOF nothing waits behind a stream, so its peer may take its time.
    #[tokio::test]
    async fn a_pause_after_the_end_is_nobodys_loss() {
        let budget = Budget::start(Limits::of_streams(1 << 20, Duration::from_millis(100)));
        let carrier = budget.carrier("me");
        let (far, mut peer, _, task, _stop) = start_on(&carrier).await;
        let total: usize = 24 << 20;
        // At once, so that the patience does not begin before the end is known.
        far.send(Incoming::Data(Bytes::from(vec![1; total]))).await;
        far.send(Incoming::Eof).await;
        sleep(Duration::from_millis(1500)).await;
        assert!(!carrier.is_held_up() && budget.held() > 1 << 20);
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), total);
        peer.shutdown().await.unwrap();
        assert_eq!(task.await.unwrap(), End::Finished);
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
