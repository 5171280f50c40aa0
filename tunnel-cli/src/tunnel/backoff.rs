//! How long to wait before the next try: longer each time, and never the same for two clients.

use std::time::Duration;

use rand::RngExt;

/// Counts the failures in a row.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first delay is at most `first`, every later one at most `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The delay before the next try, with jitter over its upper half.
    pub fn next(&mut self, random: &mut impl RngExt) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        // The first delay may be none at all, so that a lone client is back at once.
        let least = if self.failures == 0 { Duration::ZERO } else { bound / 2 };
        self.failures = self.failures.saturating_add(1);
        between(least, bound, random)
    }

    /// How many failures there were in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// To be called after a success that lasted: one that does not is one more failure.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Any duration from `least` to `most`.
pub fn between(least: Duration, most: Duration, random: &mut impl RngExt) -> Duration {
    least + most.saturating_sub(least).mul_f64(random.random())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(300);
    const LONGEST: Duration = Duration::from_secs(15);

    fn delays(count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut random = rand::rng();
        (0..count).map(|_| backoff.next(&mut random)).collect()
    }

    #[test]
    fn delays_grow_to_the_longest_and_stay_there() {
        for _ in 0..100 {
            let delays = delays(40);
            assert!(delays[0] <= FIRST);
            assert!(delays.iter().all(|delay| *delay <= LONGEST));
            assert!(delays[6..].iter().all(|delay| *delay >= LONGEST / 2));
        }
    }

    #[test]
    fn two_clients_do_not_come_back_together() {
        assert_ne!(delays(10), delays(10));
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut random = rand::rng();
        for _ in 0..100 {
            backoff.next(&mut random);
        }
        assert_eq!(backoff.failures(), 100);
        backoff.reset();
        assert!(backoff.next(&mut random) <= FIRST);
    }
}
