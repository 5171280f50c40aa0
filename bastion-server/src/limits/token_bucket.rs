//! A token bucket: a burst, and a rate at which it refills.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// The size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// The tokens that a full bucket holds.
    pub burst: NonZeroU32,
    /// The tokens that come back each second.
    pub rate: NonZeroU32,
}

/// The tokens that are left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    tokens: u32,
    refilled: Instant,
}

impl TokenBucket {
    pub(crate) fn full(size: Size, now: Instant) -> Self {
        Self { tokens: size.burst.get(), refilled: now }
    }

    /// Returns the tokens of the whole seconds that passed; the fraction of a second carries over.
    fn refill(&mut self, size: Size, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        let earned = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(size.rate.get());
        self.tokens = self.tokens.saturating_add(earned).min(size.burst.get());
        self.refilled += Duration::from_secs(seconds);
    }

    /// Takes a token, if one is left.
    pub(crate) fn take(&mut self, size: Size, now: Instant) -> Option<()> {
        self.refill(size, now);
        self.tokens = self.tokens.checked_sub(1)?;
        Some(())
    }

    /// Whether a token is left.
    pub(crate) fn has_one(&mut self, size: Size, now: Instant) -> bool {
        self.refill(size, now);
        self.tokens > 0
    }

    pub(crate) fn put_back(&mut self, size: Size) {
        self.tokens = self.tokens.saturating_add(1).min(size.burst.get());
    }

    /// Whether the bucket equals a new one, so that it need not be remembered.
    pub(crate) fn is_full(&mut self, size: Size, now: Instant) -> bool {
        self.refill(size, now);
        self.tokens == size.burst.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_by_the_whole_second_and_never_more_than_there_is_room_for() {
        let [burst, rate] = [5, 2].map(|number| NonZeroU32::new(number).unwrap());
        let (size, start) = (Size { burst, rate }, Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        let mut bucket = TokenBucket::full(size, start);
        assert!(bucket.is_full(size, start));
        for _ in 0..5 {
            assert_eq!(bucket.take(size, start), Some(()));
            assert!(!bucket.is_full(size, start));
        }
        assert!(!bucket.has_one(size, start) && bucket.take(size, start).is_none());
        assert!(!bucket.has_one(size, after(999)));
        // Two in the first second; the half one after it counts in the next.
        for _ in 0..2 {
            assert!(bucket.has_one(size, after(1500)));
            assert_eq!(bucket.take(size, after(1500)), Some(()));
        }
        assert!(!bucket.has_one(size, after(1999)));
        assert!(bucket.has_one(size, after(2000)) && !bucket.is_full(size, after(2000)));
        bucket.put_back(size);
        bucket.put_back(size);
        assert!(!bucket.is_full(size, after(2000)));
        bucket.put_back(size);
        bucket.put_back(size);
        assert!(bucket.is_full(size, after(2000)) && bucket.is_full(size, after(3_600_000)));
    }
}
