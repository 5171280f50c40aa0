//! Follows failures in a row: how long to wait before the next try, and which of them is worth a line.
//!
//! A wait is up to twice as long after each failure, and drawn at random from all of that time.
//! Clients and replicas that lose a server lose it at the same moment. With the same waits they would all be
//! back at the same moment too, again and again, and might well take down what has just come up. So a wait is
//! any part of its bound ("full jitter"): the tries of many are spread evenly, and a lone one is back sooner.

mod trouble;

use std::time::Duration;

use rand::RngExt;
pub use trouble::{Again, Trouble};

/// Counts the failures in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is at most `first`; the bound doubles with each failure, and ends at `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The bound of the first wait.
    #[must_use]
    pub const fn first(&self) -> Duration {
        self.first
    }

    /// How many failures there were in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait after one more failure.
    pub fn failed(&mut self, random: &mut impl RngExt) -> Duration {
        between(Duration::ZERO, self.paced(), random)
    }

    /// The bound itself after one more failure: for a pause that no other client makes at the same moment.
    pub fn paced(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        bound
    }

    /// It worked: the next failure is a first one.
    pub fn worked(&mut self) {
        self.failures = 0;
    }
}

/// Any duration from `least` to `most`.
#[must_use]
pub fn between(least: Duration, most: Duration, random: &mut impl RngExt) -> Duration {
    least + most.saturating_sub(least).mul_f64(random.random())
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const FIRST: Duration = Duration::from_millis(300);
    const LONGEST: Duration = Duration::from_secs(15);

    /// The waits of one client that fails `count` times.
    fn waits(count: usize, random: &mut StdRng) -> Vec<Duration> {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        (0..count).map(|_| backoff.failed(random)).collect()
    }

    #[test]
    fn bounds_grow_to_the_longest_and_stay_there() {
        let mut random = StdRng::seed_from_u64(1);
        let many: Vec<Vec<Duration>> = (0..2000).map(|_| waits(12, &mut random)).collect();
        for (failure, bound) in [(0, 300), (1, 600), (2, 1200), (5, 9600), (6, 15_000), (11, 15_000)] {
            let bound = Duration::from_millis(bound);
            let longest = many.iter().map(|waits| waits[failure]).max().unwrap();
            assert!(longest <= bound, "{failure}: {longest:?}");
            assert!(longest > bound.mul_f64(0.98), "{failure}: {longest:?}");
        }
    }

    /// Each tenth of the time gets its share of those who failed at the same moment: they do not ask
    /// together, not after the first failure and not after the tenth.
    #[test]
    fn those_who_fail_together_are_spread_over_the_whole_wait() {
        let mut random = StdRng::seed_from_u64(2);
        let replicas: Vec<Vec<Duration>> = (0..1000).map(|_| waits(10, &mut random)).collect();
        for failure in 0..10 {
            let bound = FIRST.saturating_mul(1 << failure).min(LONGEST);
            let mut shares = [0_u32; 10];
            for waits in &replicas {
                let share = waits[failure].as_micros() * 10 / bound.as_micros();
                shares[usize::try_from(share).unwrap().min(9)] += 1;
            }
            assert!(shares.iter().all(|share| (60..=140).contains(share)), "failure {failure}: {shares:?}");
        }
    }

    #[test]
    fn a_pause_of_ones_own_is_the_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<_> = (0..5).map(|_| backoff.paced().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.worked();
        assert_eq!(backoff.paced().as_secs(), 1);
    }

    #[test]
    fn a_success_starts_over() {
        let mut random = StdRng::seed_from_u64(3);
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for _ in 0..100 {
            backoff.failed(&mut random);
        }
        assert_eq!(backoff.failures(), 100);
        backoff.worked();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.failed(&mut random) <= FIRST);
    }
}
