//! Whether a session still takes part, or only sits there.
//!
//! A client that begins a key exchange and never finishes it stops everything else (RFC 4253 §7.1), and as long as it
//! sends anything, the SSH library takes it for alive. Nor does the library tell that a key exchange is under way. But it
//! takes no messages meanwhile; so a message that changes nothing is put into the session's queue now and then, and tells
//! when it was taken out.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use russh::ChannelId;
use russh::keys::ssh_encoding::Decode;
use russh::server::Handle;
use ssh_transport::socket::Cutter;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The number of a channel that nobody has: they are given out one by one, from below.
const NOBODYS: [u8; 4] = u32::MAX.to_be_bytes();

/// Decides when a session has stood still for too long.
#[derive(Debug)]
struct Patience {
    most: NonZeroUsize,
    missed: usize,
    sent: u64,
}

/// Whether there is still hope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// There is.
    Waiting,
    /// There is not.
    Stalled,
}

impl Patience {
    fn new(most: NonZeroUsize, sent: u64) -> Self {
        Self { most, missed: 0, sent }
    }

    /// One more interval has passed in which the message was not taken, and so many bytes were sent until now. A line
    /// that still takes bytes is slow, and not dead.
    fn missed(&mut self, sent: u64) -> Verdict {
        self.missed = if sent == self.sent { self.missed + 1 } else { 0 };
        self.sent = sent;
        if self.missed >= self.most.get() { Verdict::Stalled } else { Verdict::Waiting }
    }
}

/// Nothing, and whoever waits hears when it is gone.
#[derive(Debug)]
struct Telltale {
    _gone: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Telltale {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

/// Waits until a session stands still: it took no message and sent no byte during `most` intervals.
pub(super) async fn stalled(handle: &Handle, cutter: &Cutter, interval: Duration, most: NonZeroUsize) {
    loop {
        tokio::time::sleep(interval).await;
        let Ok(nobody) = ChannelId::decode(&mut NOBODYS.as_slice()) else {
            return std::future::pending().await;
        };
        let (gone, taken) = oneshot::channel();
        let mut patience = Patience::new(most, cutter.sent());
        let mut passed = pin!(async {
            // A session that takes no more has ended, which others notice.
            let _ = handle.data(nobody, Bytes::from_owner(Telltale { _gone: gone })).await;
            let _ = taken.await;
        });
        while timeout(interval, &mut passed).await.is_err() {
            match patience.missed(cutter.sent()) {
                Verdict::Waiting => {}
                Verdict::Stalled => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
