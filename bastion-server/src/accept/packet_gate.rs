//! Hands the packets of a client that has not logged in to SSH, one at a time and in turn.
//!
//! The gate stands right below the SSH library, which reads the head of a packet and then exactly the rest of
//! it. So the gate knows the size of each packet, though the packet is encrypted: it refuses a packet that is
//! larger than any before a login before its bytes arrive, and counts packets that get no answer. After the
//! login it passes everything through.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::accept::{
    fair_queue::{Queue, Turn},
    prelogin::{PreloginState, Violation},
};

/// The most bytes that are read of a packet before its length is known. A packet that fits into them costs
/// nothing.
const HEAD: usize = 16;
/// The largest packet that must be accepted (RFC 4253 §6.1), which is twice the largest certificate that is
/// parsed.
const LARGEST_PACKET: usize = 35_000;
/// The most packets in a row that get no answer: those that carry no information, which some clients send
/// while their user types a passphrase, and those that have no meaning before a login.
const UNANSWERED: usize = 64;
/// The most processor time that the packets of one connection may cost: ten times that of the most expensive
/// login.
const MOST_WORK: Duration = Duration::from_millis(500);
/// A packet that costs this much makes its connection wait for others.
const NOTICEABLE: Duration = Duration::from_micros(100);

/// A byte stream for SSH, whose client has not logged in yet.
pub(crate) struct PacketGate<S> {
    inner: S,
    seen: Arc<PreloginState>,
    queue: Queue,
    place: TurnState,
    /// Bytes that have arrived and wait for a turn.
    held: Vec<u8>,
    work: Duration,
    unanswered: usize,
    /// Whether other connections go first.
    yields: bool,
}

impl<S: fmt::Debug> fmt::Debug for PacketGate<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PacketGate").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S> PacketGate<S> {
    /// Puts `inner` into a queue.
    pub(crate) fn new(inner: S, seen: Arc<PreloginState>, queue: Queue) -> Self {
        Self {
            inner,
            seen,
            queue,
            place: TurnState::Idle,
            held: Vec::new(),
            work: Duration::ZERO,
            unanswered: 0,
            yields: false,
        }
    }

    /// Ends the turn: SSH reads again, so it has processed the last packet.
    fn end_turn(&mut self) {
        if let TurnState::Working(turn) = &self.place {
            let cost = turn.cost();
            self.work = self.work.saturating_add(cost);
            self.yields = cost >= NOTICEABLE;
            self.place = TurnState::Idle;
        }
    }

    fn check(&self, room: usize) -> Result<(), Violation> {
        if self.work > MOST_WORK {
            return Err(Violation::TooCostly);
        }
        if self.unanswered > UNANSWERED {
            return Err(Violation::Unanswered);
        }
        if room > LARGEST_PACKET {
            return Err(Violation::TooLarge);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> PacketGate<S> {
    /// Reads a packet, or a part of it, in this connection's turn.
    fn poll_in_turn(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.end_turn();
        if let Err(violation) = self.check(buf.remaining()) {
            return Poll::Ready(Err(self.seen.violate(violation)));
        }
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if buf.remaining() <= HEAD && self.held.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        if self.held.is_empty() {
            let mut held = vec![0; buf.remaining()];
            let mut read = ReadBuf::new(&mut held);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            let count = read.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            held.truncate(count);
            self.held = held;
        }
        if matches!(self.place, TurnState::Idle) {
            self.place = TurnState::Waiting(Box::pin(self.queue.clone().turn()));
        }
        if let TurnState::Waiting(turn) = &mut self.place {
            let Some(turn) = ready!(turn.as_mut().poll(cx)) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            };
            self.place = TurnState::Working(turn);
        }
        if let TurnState::Working(turn) = &mut self.place {
            turn.begin();
        }
        let room = buf.remaining();
        let count = room.min(self.held.len());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.drain(..count);
        if count == room {
            self.unanswered += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacketGate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_logged_in() && self.held.is_empty() {
            self.place = TurnState::Idle;
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        self.poll_in_turn(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacketGate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.end_turn();
        let outcome = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        if outcome.is_ok() {
            self.unanswered = 0;
        }
        Poll::Ready(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.end_turn();
        let outcome = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        if outcome.is_ok() {
            self.unanswered = 0;
        }
        Poll::Ready(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_turn();
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_turn();
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

type Waiting = Pin<Box<dyn Future<Output = Option<Turn>> + Send>>;

/// The state of a turn.
enum TurnState {
    /// The connection has no packet to process.
    Idle,
    /// The connection waits for its turn.
    Waiting(Waiting),
    /// SSH processes the connection's packet.
    Working(Turn),
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::accept::{
        fair_queue::{FairQueue, tests::work},
        prelogin::tests::passes_on,
    };

    /// What is refused is not waited for.
    async fn in_time<T>(reading: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the gate waits for more")
    }

    fn gate() -> (DuplexStream, PacketGate<DuplexStream>, Arc<PreloginState>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let seen = Arc::new(PreloginState::default());
        let queue = Arc::new(FairQueue::new(2)).queue(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        let gate = PacketGate::new(server, Arc::clone(&seen), queue);
        (client, gate, seen)
    }

    #[tokio::test]
    async fn what_is_announced_larger_than_a_packet_may_be_is_not_waited_for() {
        let (mut client, mut gate, seen) = gate();
        client.write_all(&vec![7; LARGEST_PACKET]).await.unwrap();
        gate.read_exact(&mut vec![0; LARGEST_PACKET]).await.unwrap();
        let mut larger = vec![0; LARGEST_PACKET + 1];
        assert!(in_time(gate.read_exact(&mut larger)).await.is_err());
        assert_eq!(seen.violation(), Some(Violation::TooLarge));
    }

    #[tokio::test]
    async fn packets_without_an_answer_have_an_end_and_an_answer_begins_anew() {
        let (mut client, mut gate, seen) = gate();
        client.write_all(&[7; 3 * (UNANSWERED + 1) * 32]).await.unwrap();
        for _ in 0..2 {
            for _ in 0..=UNANSWERED {
                gate.read_exact(&mut [0; 32]).await.unwrap();
            }
            gate.write_all(b"an answer").await.unwrap();
        }
        for _ in 0..=UNANSWERED {
            gate.read_exact(&mut [0; 32]).await.unwrap();
        }
        assert!(in_time(gate.read_exact(&mut [0; 32])).await.is_err());
        assert_eq!(seen.violation(), Some(Violation::Unanswered));
    }

    #[tokio::test]
    async fn a_connection_that_costs_too_much_ends() {
        let (mut client, mut gate, seen) = gate();
        client.write_all(&[7; 320]).await.unwrap();
        let mut read = 0;
        while in_time(gate.read_exact(&mut [0; 32])).await.is_ok() {
            read += 1;
            // Measured in processor time, since a busy machine takes longer.
            work(MOST_WORK);
        }
        assert_eq!(seen.violation(), Some(Violation::TooCostly));
        assert_eq!(read, 1);
    }

    #[tokio::test]
    async fn after_a_packet_that_was_dear_others_go_first() {
        let (mut client, mut gate, _) = gate();
        client.write_all(&[7; 64]).await.unwrap();
        gate.read_exact(&mut [0; 32]).await.unwrap();
        work(NOTICEABLE);
        let mut packet = [0; 32];
        let mut next = std::pin::pin!(gate.read_exact(&mut packet));
        assert!(next.as_mut().now_or_never().is_none());
        in_time(next).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_passes_and_is_an_answer() {
        let queue = || Arc::new(FairQueue::new(2)).queue(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        passes_on(|inner| PacketGate::new(inner, Arc::default(), queue())).await;
        let (_client, mut gate, _) = gate();
        gate.unanswered = UNANSWERED;
        assert_eq!(gate.write_vectored(&[io::IoSlice::new(b"an answer")]).await.unwrap(), 9);
        assert_eq!(gate.unanswered, 0);
    }

    #[tokio::test]
    async fn who_is_logged_in_needs_no_turn() {
        let (mut client, mut gate, seen) = gate();
        client.write_all(&[7; 128]).await.unwrap();
        gate.read_exact(&mut [0; 32]).await.unwrap();
        seen.log_in();
        gate.read_exact(&mut [0; 32]).await.unwrap();
        assert!(matches!(gate.place, TurnState::Idle));
        client.write_all(&vec![7; 2 * LARGEST_PACKET]).await.unwrap();
        gate.read_exact(&mut vec![0; 2 * LARGEST_PACKET]).await.unwrap();
    }
}
