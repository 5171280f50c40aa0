//! Measures how far this computer's clock is from a server's, by the `Date` of its answers (RFC 9110 §6.6.1).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Less than this is no difference: a `Date` has whole seconds, and an answer takes time.
const NO_DIFFERENCE: Duration = Duration::from_secs(5);

/// By how much this computer's clock differs from a server's. Displays as `45s behind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// It is behind.
    Behind(Duration),
    /// It is ahead.
    Ahead(Duration),
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, where_to) = match self {
            Self::Behind(by) => (by, "behind"),
            Self::Ahead(by) => (by, "ahead of"),
        };
        write!(f, "{} {where_to}", humantime::format_duration(Duration::from_secs(by.as_secs())))
    }
}

impl Offset {
    /// From the `date` of an answer to what was `asked` at one moment and `answered` at another, by the clock here. None if
    /// the two clocks agree, as far as that can be told.
    #[must_use]
    pub fn of(date: SystemTime, asked: SystemTime, answered: SystemTime) -> Option<Self> {
        let behind = date.duration_since(answered).unwrap_or_default();
        // It says the second that had begun.
        let ahead = asked.duration_since(date + Duration::from_secs(1)).unwrap_or_default();
        match (behind > NO_DIFFERENCE, ahead > NO_DIFFERENCE) {
            (true, _) => Some(Self::Behind(behind)),
            (_, true) => Some(Self::Ahead(ahead)),
            (false, false) => None,
        }
    }

    pub(crate) fn of_header(date: &str, asked: SystemTime, answered: SystemTime) -> Option<Self> {
        Self::of(httpdate::parse_http_date(date).ok()?, asked, answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_from_a_slow_answer() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let at = |seconds: i64| {
            let there = httpdate::parse_http_date(date).unwrap();
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { there - by } else { there + by }
        };
        for (asked, answered, expected) in [
            (0, 0, None),
            (-5, 0, None),
            (-10, 10, None),
            (-5, -5, None),
            (6, 7, None),
            (-45, -45, Some("45s behind")),
            (-7200, -7199, Some("1h 59m 59s behind")),
            (7201, 7203, Some("2h ahead of")),
        ] {
            let offset = Offset::of_header(date, at(asked), at(answered));
            assert_eq!(offset.map(|offset| offset.to_string()).as_deref(), expected, "{asked} {answered}");
        }
        assert_eq!(Offset::of_header("yesterday", at(0), at(0)), None);
    }
}
