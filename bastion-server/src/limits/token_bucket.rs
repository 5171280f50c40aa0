//! A token bucket: so many at once, and so many more each second.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// The size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// What a full one holds.
    pub burst: NonZeroU32,
    /// What it gets back each second.
    pub rate: NonZeroU32,
}

/// Tokens, of which each deed takes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    tokens: u32,
    refilled: Instant,
}

impl TokenBucket {
    /// A full one.
    pub(crate) fn full(size: Size, now: Instant) -> Self {
        Self { tokens: size.burst.get(), refilled: now }
    }

    /// Gives back the tokens of the whole seconds that passed; the rest of a second goes on counting.
    fn refill(&mut self, size: Size, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        let earned = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(size.rate.get());
        self.tokens = self.tokens.saturating_add(earned).min(size.burst.get());
        self.refilled += Duration::from_secs(seconds);
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, size: Size, now: Instant) -> Option<()> {
        self.refill(size, now);
        self.tokens = self.tokens.checked_sub(1)?;
        Some(())
    }

    /// Whether there is a token to take.
    pub(crate) fn has_one(&mut self, size: Size, now: Instant) -> bool {
        self.refill(size, now);
        self.tokens > 0
    }

    /// Puts a token back.
    pub(crate) fn put_back(&mut self, size: Size) {
        self.tokens = self.tokens.saturating_add(1).min(size.burst.get());
    }

    /// Whether it is as a new one would be.
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
