//! Decides when a silent peer is dead, without mistaking a slow line that is busy sending for one.

use std::time::Duration;

use tokio::time::Instant;

/// A peer that has not been heard for this long is dead.
pub(super) const SILENCE: Duration = Duration::from_secs(13);
/// A peer that has not been heard for this long, though it was asked, may be: where another connection to it can be had, it
/// is the better one.
pub(super) const SUSPICION: Duration = Duration::from_secs(5);
/// A line that took this many bytes from us in the meantime is busy, not dead: the answer to our keepalive is behind
/// them. Keepalives alone stay far below it. (A vanished peer is noticed by `TCP_USER_TIMEOUT` even then.)
const BUSY: u64 = 16 * 1024;

/// What was last seen of the peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    alive: Instant,
    sent: u64,
}

impl Liveness {
    /// A peer that has just been heard, to whom `sent` bytes have gone.
    pub(super) fn new(now: Instant, sent: u64) -> Self {
        Self { alive: now, sent }
    }

    /// How long a peer has been silent that was last `heard` then, and to whom `sent` bytes have gone by now.
    pub(super) fn silence(&mut self, now: Instant, heard: Instant, sent: u64) -> Duration {
        if sent.saturating_sub(self.sent) >= BUSY {
            *self = Self { alive: now, sent };
        }
        if heard > self.alive {
            *self = Self { alive: heard, sent };
        }
        now.saturating_duration_since(self.alive)
    }

    #[cfg(test)]
    fn is_dead(&mut self, now: Instant, heard: Instant, sent: u64) -> bool {
        self.silence(now, heard, sent) >= SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_kills() {
        let start = Instant::now();
        let second = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start, 0);
        assert!(!liveness.is_dead(second(12), start, 300));
        assert!(liveness.is_dead(second(13), start, 400), "keepalives into the void");

        let mut liveness = Liveness::new(start, 0);
        assert!(!liveness.is_dead(second(12), second(11), 0));
        assert!(!liveness.is_dead(second(23), second(11), 0));
        assert!(liveness.is_dead(second(24), second(11), 0));
    }

    #[test]
    fn a_busy_line_is_not_dead() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, 0);
        for second in 0..600 {
            assert!(!liveness.is_dead(start + Duration::from_secs(second), start, second * 8 * 1024));
        }
    }
}
