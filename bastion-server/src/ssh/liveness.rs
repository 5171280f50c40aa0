//! Detects clients that are gone, and sessions that make no progress.
//!
//! A client that is silent for a while is asked for an answer. russh has a keepalive of its own, but sends it
//! before the login too, where it is an error; and sending the same request from outside needs a part of the
//! session that is not public. So the bastion sends another request, which every client answers as it answers
//! any request that it does not serve (RFC 4254 §4): to cancel a forward that it never made.
//!
//! A client that begins a key exchange and never finishes it stops everything else (RFC 4253 §7.1), and as
//! long as it sends anything, it is not silent. The library does not report that a key exchange is under way,
//! but it takes no messages meanwhile. So the bastion puts a message that changes nothing into the session's
//! queue from time to time, and watches whether it is taken.

use std::{num::NonZeroUsize, pin::pin};

use bytes::Bytes;
use futures_util::FutureExt;
use russh::{ChannelId, keys::ssh_encoding::Decode, server::Handle};
use ssh_transport::socket::Cutter;
use tokio::{
    sync::oneshot,
    task::unconstrained,
    time::{Instant, timeout},
};

use super::Liveness;

/// A channel number that no channel has: numbers are assigned one by one, from below.
const UNUSED_CHANNEL: [u8; 4] = u32::MAX.to_be_bytes();

/// Decides when a session has made no progress for too long.
#[derive(Debug)]
struct Patience {
    most: NonZeroUsize,
    missed: usize,
    sent: u64,
}

/// The decision about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The client may still answer.
    Waiting,
    /// The client is gone.
    Stalled,
}

impl Patience {
    fn new(most: NonZeroUsize, sent: u64) -> Self {
        Self { most, missed: 0, sent }
    }

    /// Records an interval in which the message was not taken, with the bytes sent until now. A connection
    /// that still takes bytes is slow, not dead.
    fn missed(&mut self, sent: u64) -> Verdict {
        self.missed = if sent == self.sent { self.missed + 1 } else { 0 };
        self.sent = sent;
        if self.missed >= self.most.get() { Verdict::Stalled } else { Verdict::Waiting }
    }
}

/// Decides when a client has been silent for too long.
#[derive(Debug, Default)]
struct Silence {
    /// When the client was last heard at the time of the last question, and the number of questions since
    /// then.
    asked: Option<(Instant, usize)>,
}

impl Silence {
    /// Records an interval of silence since `heard`: the client is asked again, or counts as gone.
    fn lasts(&mut self, heard: Instant, most: NonZeroUsize) -> Verdict {
        let times = match self.asked {
            Some((before, times)) if before == heard => times,
            Some(_) | None => 0,
        };
        self.asked = Some((heard, times + 1));
        if times >= most.get() { Verdict::Stalled } else { Verdict::Waiting }
    }
}

/// An empty message; its sender is notified when it is dropped.
#[derive(Debug)]
struct Telltale {
    _gone: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Telltale {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

/// How a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its session took no message and sent no byte during `most_missed` intervals.
    Stalled,
    /// It sent nothing, though it was asked `most_missed` times.
    Silent,
}

/// Waits until a client that has logged in is gone.
pub(super) async fn gone(handle: &Handle, cutter: &Cutter, liveness: Liveness) -> Gone {
    let mut silence = Silence::default();
    loop {
        let silent = cutter.last_heard().elapsed();
        // Looks an interval after the last bytes from the client, and as often at a client that sends.
        tokio::time::sleep(liveness.interval.checked_sub(silent).unwrap_or(liveness.interval)).await;
        if let Err(gone) = taken(handle, cutter, liveness).await {
            return gone;
        }
        let heard = cutter.last_heard();
        if heard.elapsed() >= liveness.interval {
            if silence.lasts(heard, liveness.most_missed) == Verdict::Stalled {
                return Gone::Silent;
            }
            // The content of the answer does not matter; the socket notices that it comes.
            let _ = unconstrained(handle.cancel_forward_tcpip(String::new(), 0)).now_or_never();
        }
    }
}

/// Waits until a session takes a message.
async fn taken(handle: &Handle, cutter: &Cutter, liveness: Liveness) -> Result<(), Gone> {
    let Ok(unused) = ChannelId::decode(&mut UNUSED_CHANNEL.as_slice()) else { return Ok(()) };
    let (gone, taken) = oneshot::channel();
    let mut patience = Patience::new(liveness.most_missed, cutter.sent());
    let mut passed = pin!(async {
        // A session that takes no more messages has ended, which other tasks notice.
        let _ = handle.data(unused, Bytes::from_owner(Telltale { _gone: gone })).await;
        let _ = taken.await;
    });
    while timeout(liveness.interval, &mut passed).await.is_err() {
        match patience.missed(cutter.sent()) {
            Verdict::Waiting => {}
            Verdict::Stalled => return Err(Gone::Stalled),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_who_takes_nothing_at_all_has_stalled() {
        let three = NonZeroUsize::new(3).unwrap();
        let mut patience = Patience::new(three, 10);
        assert_eq!(patience.missed(10), Verdict::Waiting);
        assert_eq!(patience.missed(10), Verdict::Waiting);
        assert_eq!(patience.missed(11), Verdict::Waiting, "a slow line");
        assert_eq!(patience.missed(11), Verdict::Waiting);
        assert_eq!(patience.missed(11), Verdict::Waiting);
        assert_eq!(patience.missed(11), Verdict::Stalled);
        assert_eq!(Patience::new(NonZeroUsize::MIN, 10).missed(10), Verdict::Stalled);
    }

    #[test]
    fn who_answers_each_question_is_never_silent() {
        let (began, two) = (Instant::now(), NonZeroUsize::new(2).unwrap());
        let mut silence = Silence::default();
        for second in 0..100 {
            let heard = began + Duration::from_secs(second);
            assert_eq!(silence.lasts(heard, two), Verdict::Waiting);
        }
        let heard = began + Duration::from_secs(99);
        assert_eq!(silence.lasts(heard, two), Verdict::Waiting, "the second question");
        assert_eq!(silence.lasts(heard, two), Verdict::Stalled, "neither has an answer");
    }

    #[tokio::test]
    async fn a_telltale_tells_when_it_is_dropped() {
        let (gone, mut taken) = oneshot::channel();
        let bytes = Bytes::from_owner(Telltale { _gone: gone });
        assert!(bytes.is_empty());
        assert_eq!(taken.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(bytes);
        assert!(taken.await.is_err());
    }
}
