//! Decides how long something that expires may be used, also when the clock is set.

use std::time::{Duration, SystemTime};

use crate::suspend::Clocks;

/// A certificate that ends sooner than this is not worth a login.
const TOO_SHORT: Duration = Duration::from_secs(3);

/// From when until when something that expires is ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    /// When we got it. Not when it begins to be valid: authorities date that back.
    from: Clocks,
    /// How long it lives from then on.
    whole: Duration,
    /// The first moment at which it is worth nothing, by the clock of its issuer.
    pub until: SystemTime,
}

impl Validity {
    /// Something that was got at `from` and ends at `until`, and does not live for longer than `longest`, whatever the clock
    /// here says: that may be behind.
    pub(crate) fn of(from: Clocks, until: SystemTime, longest: Duration) -> Self {
        let whole = until.duration_since(from.wall()).unwrap_or_default().min(longest);
        Self { from, whole, until }
    }

    /// How long until a successor is due: at two thirds.
    pub(crate) fn due_in(&self, now: &Clocks) -> Duration {
        (self.whole / 3 * 2).saturating_sub(now.since(&self.from))
    }

    /// Whether a successor is due. A clock that runs before the beginning makes one due as well.
    pub(crate) fn is_due(&self, now: &Clocks) -> bool {
        self.due_in(now).is_zero() || now.wall() < self.from.wall()
    }

    /// Whether it may still be used for something new.
    pub(crate) fn is_usable(&self, now: &Clocks) -> bool {
        self.left(now) > TOO_SHORT
    }

    /// How long it lives.
    pub(crate) fn left(&self, now: &Clocks) -> Duration {
        self.whole.saturating_sub(now.since(&self.from))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_is_due_at_two_thirds() {
        let from = Clocks::at(Instant::now(), SystemTime::UNIX_EPOCH + seconds(1_800_000_000));
        let validity = Validity::of(from, from.wall() + seconds(3600), seconds(3600));
        assert_eq!(validity.due_in(&from), seconds(2400));
        for (after, due, usable) in [
            (0, false, true),
            (2399, false, true),
            (2400, true, true),
            (3596, true, true),
            (3597, true, false),
            (9999, true, false),
        ] {
            let now = from.later(seconds(after), i64::try_from(after).unwrap());
            assert_eq!((validity.is_due(&now), validity.is_usable(&now)), (due, usable), "after {after} s");
        }
        assert!(validity.is_due(&from.later(seconds(0), -1)), "the clock was set back");
    }

    /// What has ended has ended, whatever the clock on the wall says by then.
    #[test]
    fn a_clock_that_is_set_back_makes_nothing_live_longer() {
        let from = Clocks::now();
        let validity = Validity::of(from, from.wall() + seconds(3600), seconds(3600));
        for (passed, wall, left) in [(10, -7200, 3590), (3599, -3601, 1), (3600, -3600, 0), (5, 3600, 0)] {
            let now = from.later(seconds(passed), wall);
            assert_eq!(validity.left(&now), seconds(left), "after {passed} s, {wall} s on the wall");
            assert_eq!(validity.is_usable(&now), left > 3);
        }
    }

    #[test]
    fn a_clock_that_is_behind_makes_nothing_live_longer_than_was_asked_for() {
        let from = Clocks::now();
        let validity = Validity::of(from, from.wall() + seconds(3645), seconds(3600));
        assert_eq!(validity.left(&from), seconds(3600));
    }

    #[test]
    fn a_life_that_never_was_is_due() {
        let now = Clocks::now();
        let validity = Validity::of(now, now.wall() - seconds(5), seconds(60));
        assert!(validity.is_due(&now) && !validity.is_usable(&now));
    }
}
