//! Limits the bytes a second that all forwards of an identity move together.
//!
//! The generic cell rate algorithm: a single moment holds the state, the one at which all bytes so far would
//! have been moved at the rate. A relay that runs ahead of the clock by more than a burst waits.

use std::{
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ssh_transport::relay::Pace;

/// How much may be moved immediately after a pause, as time at the rate.
const BURST: Duration = Duration::from_secs(1);

/// A rate that several relays share.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    /// In bytes a second.
    rate: NonZeroU64,
    earned: Mutex<Instant>,
}

impl Bandwidth {
    pub(crate) fn new(rate: NonZeroU64, now: Instant) -> Self {
        Self { rate, earned: Mutex::new(now) }
    }

    /// How long a relay that has moved `bytes` must wait before it moves more.
    fn spend(&self, bytes: u64, now: Instant) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut earned = self.earned.lock().unwrap_or_else(PoisonError::into_inner);
        *earned = (*earned).max(now).checked_add(time).unwrap_or(*earned);
        earned.saturating_duration_since(now + BURST)
    }
}

impl Pace for Bandwidth {
    fn moved(&self, bytes: u64) -> Duration {
        self.spend(bytes, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_takes_its_time() {
        let start = Instant::now();
        let flow = Bandwidth::new(NonZeroU64::new(1000).unwrap(), start);
        let seconds = |count: u64| Duration::from_secs(count);
        assert_eq!(flow.spend(1000, start), seconds(0), "a second's worth immediately");
        assert_eq!(flow.spend(500, start), Duration::from_millis(500));
        assert_eq!(flow.spend(2500, start), seconds(3), "another relay that moves bytes waits behind that");
        assert_eq!(flow.spend(0, start + seconds(3)), seconds(0));
        assert_eq!(flow.spend(1000, start + seconds(60)), seconds(0), "a pause earns one burst");
        assert_eq!(flow.spend(1000, start + seconds(60)), seconds(1), "and not more");
        assert!(flow.spend(u64::MAX, start) > seconds(3600));
        let flow = Bandwidth::new(NonZeroU64::MIN, Instant::now());
        assert!(flow.moved(3600) > seconds(1800), "a relay is held back by it");
    }
}
