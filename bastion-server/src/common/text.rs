//! Writes errors and moments as logs and audit records have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Writes an error and its remedy on one line, as a log wants it; a terminal gets a line for each.
pub(crate) fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" | ")
}

/// Writes [`one_line`] and the chain of causes, where the error does not name them itself: a failure alone
/// does not say
/// why it happened.
pub(crate) fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let (line, mut last) = (one_line(&error), error);
    while let Some(source) = last.source() {
        last = source;
    }
    let cause = one_line(&last);
    if line.contains(&cause) { line } else { format!("{line}: {cause}") }
}

/// Writes a moment as logs and audit records do; one past what the format can hold is written as the year
/// 2106.
pub(crate) fn moment(time: SystemTime) -> String {
    let latest = UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX));
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, latest)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_can_be_written() {
        assert_eq!(moment(UNIX_EPOCH + Duration::from_millis(1500)), "1970-01-01T00:00:01.500Z");
        assert_eq!(moment(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(UNIX_EPOCH + Duration::from_secs(1 << 60)), "2106-02-07T06:28:15.000Z");
    }
}
