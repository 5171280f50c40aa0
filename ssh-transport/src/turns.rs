//! Gives turns: so many immediately, and so many more each second. A request that comes too early is told how long to wait.
//!
//! The generic cell rate algorithm: one moment in time says all, the one at which everything granted so far would have
//! been granted at the rate. Turns are granted in the order in which they are asked for, and need no queue.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// What introduces a rate in an identification line.
const WORD: &str = "opens=";

/// How fast turns come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once, after a pause.
    pub burst: NonZeroU32,
    /// Each second.
    pub per_second: NonZeroU32,
}

impl Rate {
    /// What the bastion's identification line says of channels that may be opened.
    pub fn announcement(self) -> String {
        format!("{WORD}{},{}", self.burst, self.per_second)
    }

    /// What a server's identification line announces.
    pub fn announced(identification: &str) -> Option<Self> {
        let said = identification.split(' ').skip(1).find_map(|word| word.strip_prefix(WORD))?;
        let (burst, per_second) = said.split_once(',')?;
        Some(Self { burst: burst.parse().ok()?, per_second: per_second.parse().ok()? })
    }

    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }
}

/// The turns that were granted at one rate.
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    earned: Instant,
}

impl Turns {
    /// None was granted before `now`.
    pub fn new(now: Instant) -> Self {
        Self { earned: now }
    }

    /// Grants a turn, and says in how long it comes; `None` if that is longer than `longest`, and then nothing is granted.
    pub fn take(&mut self, rate: Rate, longest: Duration, now: Instant) -> Option<Duration> {
        let earned = self.earned.max(now).checked_add(rate.interval())?;
        let wait = earned.saturating_duration_since(now).saturating_sub(rate.interval() * rate.burst.get());
        (wait <= longest).then(|| {
            self.earned = earned;
            wait
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(burst: u32, per_second: u32) -> Rate {
        Rate { burst: NonZeroU32::new(burst).unwrap(), per_second: NonZeroU32::new(per_second).unwrap() }
    }

    #[test]
    fn a_burst_comes_at_once_and_the_rest_in_order_until_the_wait_is_too_long() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (rate, longest) = (rate(3, 2), 2 * second);
        let mut turns = Turns::new(now);
        for expected in [0, 0, 0, 500, 1000, 1500, 2000] {
            assert_eq!(turns.take(rate, longest, now), Some(Duration::from_millis(expected)));
        }
        assert_eq!(turns.take(rate, longest, now), None);
        assert_eq!(turns.take(rate, longest, now), None, "what is refused costs nothing");
        assert_eq!(turns.take(rate, longest, now + second / 2), Some(longest));
        assert_eq!(turns.take(rate, longest, now + 60 * second), Some(Duration::ZERO));
        assert_eq!(turns.take(rate, longest, now + 60 * second), Some(Duration::ZERO));
        assert_eq!(turns.take(rate, longest, now + 60 * second), Some(Duration::ZERO));
        assert_eq!(turns.take(rate, Duration::ZERO, now + 60 * second), None, "a pause earns one burst");
    }

    #[test]
    fn what_is_announced_is_understood() {
        let rate = rate(2000, 500);
        let line = format!("SSH-2.0-bastion_0.1.0 rekey=1,1 {}", rate.announcement());
        assert_eq!(Rate::announced(&line), Some(rate));
        for nothing in [
            "SSH-2.0-x",
            "SSH-2.0-opens=1,1",
            "SSH-2.0-x opens=0,1",
            "SSH-2.0-x opens=1",
            "SSH-2.0-x opens=-1,1",
        ] {
            assert_eq!(Rate::announced(nothing), None, "{nothing}");
        }
    }
}
