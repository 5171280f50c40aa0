//! Decides which of many failures in a row is worth a line: the first one, and the first of another cause.

use std::time::{Duration, Instant};

/// How much time is left of a credential or lease, when it is worth another line that it has not been
/// renewed.
const MILESTONES: [Duration; 3] = [Duration::from_secs(600), Duration::from_secs(60), Duration::ZERO];

/// The failures of one task that retries, and the cause that was last said.
#[derive(Debug, Default)]
pub struct Trouble {
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    what: String,
    at: Instant,
    left: Duration,
}

/// When the same cause is worth another line.
#[derive(Debug, Clone, Copy)]
pub enum Again {
    /// After the task has worked again.
    Never,
    /// This long after it was said.
    After(Duration),
    /// This long after it was last met.
    AfterQuiet(Duration),
}

impl Trouble {
    /// Records a failure by this cause, and returns whether it is worth a line. It counts as said then.
    pub fn raise(&mut self, what: &str, again: Again, now: Instant) -> bool {
        let since = |said: &Said| now.saturating_duration_since(said.at);
        let is_old = self.said.as_ref().is_some_and(|said| {
            said.what == what
                && match again {
                    Again::Never => true,
                    Again::After(time) => since(said) < time,
                    Again::AfterQuiet(time) => since(said) <= time,
                }
        });
        match (&mut self.said, again) {
            (Some(said), Again::AfterQuiet(_)) if is_old => said.at = now,
            (Some(_), _) if is_old => {}
            (said, _) => *said = Some(Said { what: what.to_owned(), at: now, left: Duration::MAX }),
        }
        !is_old
    }

    /// Records that a renewal failed with this much time left: it is worth a line at first and at each
    /// milestone, and whenever it is another failure that does not pass by waiting.
    pub fn raise_renewal(&mut self, what: &str, passes: bool, left: Duration, now: Instant) -> bool {
        let is_news = self.said.as_ref().is_none_or(|said| {
            let reached = |mark: &Duration| said.left > *mark && left <= *mark;
            MILESTONES.iter().any(reached) || (!passes && said.what != what)
        });
        if is_news {
            self.said = Some(Said { what: what.to_owned(), at: now, left });
        }
        is_news
    }

    /// Whether the task failed when it was last tried.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.said.is_some()
    }

    /// Records that the task worked, and returns whether it had failed before. The next failure is worth a
    /// line.
    pub fn clear(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_is_said_once_until_it_changes_or_has_passed() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let mut raise = |what| trouble.raise(what, Again::Never, now);
        assert_eq!([raise("a"), raise("a"), raise("b"), raise("a")], [true, false, true, true]);
        assert!(trouble.lasts() && trouble.clear() && !trouble.clear() && !trouble.lasts());
        assert!(trouble.raise("a", Again::Never, now));
    }

    #[test]
    fn what_goes_on_is_said_now_and_then_and_what_was_quiet_anew() {
        let (mut often, mut quiet, start) = (Trouble::default(), Trouble::default(), Instant::now());
        for (second, said_often, said_quiet) in [
            (0, true, true),
            (5, false, false),
            (9, false, false),
            (10, true, false),
            (19, false, false),
            (40, true, true),
        ] {
            let now = start + seconds(second);
            assert_eq!(often.raise("x", Again::After(seconds(10)), now), said_often, "{second}");
            assert_eq!(quiet.raise("x", Again::AfterQuiet(seconds(10)), now), said_quiet, "{second}");
        }
    }

    #[test]
    fn a_failing_renewal_is_said_thrice_and_not_each_time() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let all = (0..1200).rev().map(seconds);
        let said: Vec<_> = all.filter(|left| trouble.raise_renewal("away", true, *left, now)).collect();
        assert_eq!(said, [seconds(1199), seconds(600), seconds(60), seconds(0)]);
        let mut other = |what, passes| trouble.raise_renewal(what, passes, seconds(0), now);
        assert_eq!(
            [other("gone", true), other("denied", false), other("denied", false)],
            [false, true, false]
        );
    }
}
