//! Notices that the machine slept, or that we were stopped: what was known about the network is then worth nothing.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

/// How often the clocks are to be read.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// More than this between two ticks, or between the two clocks, is no scheduling delay.
const JUMP: Duration = Duration::from_secs(5);

/// Two clocks at one moment. The monotonic one stands still while the machine sleeps, the wall clock does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    monotonic: Instant,
    wall: SystemTime,
}

impl Clocks {
    /// Both at `monotonic` and `wall`.
    pub(crate) fn at(monotonic: Instant, wall: SystemTime) -> Self {
        Self { monotonic, wall }
    }

    /// Both now.
    pub(crate) fn now() -> Self {
        Self::at(Instant::now(), SystemTime::now())
    }

    /// `passed` later, when the wall clock shows `wall` seconds more.
    #[cfg(test)]
    pub(crate) fn later(&self, passed: Duration, wall: i64) -> Self {
        let by = Duration::from_secs(wall.unsigned_abs());
        Self::at(self.monotonic + passed, if wall < 0 { self.wall - by } else { self.wall + by })
    }

    /// The wall clock.
    pub(crate) fn wall(&self) -> SystemTime {
        self.wall
    }

    /// How much time has passed since `earlier`: at least what either clock says. One stands still while the machine sleeps,
    /// the other may be set back.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        wall.max(self.monotonic.saturating_duration_since(earlier.monotonic))
    }

    /// Whether we were away between `self`, the last tick, and `now`. A clock that was set counts as well: looking
    /// once too often costs one packet.
    pub(crate) fn slept_until(&self, now: &Self) -> bool {
        let monotonic = now.monotonic.saturating_duration_since(self.monotonic);
        let apart = match now.wall.duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(monotonic),
            Err(backwards) => backwards.duration().saturating_add(monotonic),
        };
        monotonic > TICK + JUMP || apart > JUMP
    }
}

/// Waits until this computer wakes from sleep, or its clock is set.
pub(crate) async fn woken() {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clocks = Clocks::now();
    loop {
        ticks.tick().await;
        let now = Clocks::now();
        if clocks.slept_until(&now) {
            return;
        }
        clocks = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_noticed_and_a_slow_scheduler_is_not() {
        let start = Clocks::now();
        let later =
            |monotonic: u64, wall: i64| start.slept_until(&start.later(Duration::from_secs(monotonic), wall));
        assert!(!later(1, 1), "an ordinary tick");
        assert!(!later(4, 4), "a busy machine");
        assert!(later(1, 600), "the machine slept");
        assert!(later(60, 60), "the process was stopped");
        assert!(later(1, -7200), "the clock was set back");
        let passed = |monotonic: u64, wall: i64| {
            start.later(Duration::from_secs(monotonic), wall).since(&start).as_secs()
        };
        assert_eq!([passed(7, 7), passed(7, 600), passed(7, -7200)], [7, 600, 7]);
    }
}
