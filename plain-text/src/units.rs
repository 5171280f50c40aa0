//! Prints durations, sizes and ranks as people write them.

use std::time::Duration;

/// A number of bytes in whole units: `14 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = (count, "B");
    for unit in UNITS {
        if scaled.0 < 1024 {
            break;
        }
        scaled = (scaled.0 / 1024, unit);
    }
    format!("{} {}", scaled.0, scaled.1)
}

/// A duration in one or two units: `59 s`, `41 min`, `7 h 59 min`, `3 d`.
pub fn rough(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    if seconds > 90 {
        // To the nearest minute: an hour that has just begun is an hour.
        seconds += 30;
    }
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) if minutes % 60 == 0 => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, ..) => format!("{days} d"),
    }
}

/// A number as a rank: `3rd`.
pub fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_rough() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (28_740, "7 h 59 min"),
            (900_000, "10 d"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (u64::MAX, "15 EiB")] {
            assert_eq!(bytes(count), text);
        }
        let ordinals: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 111].map(ordinal).into();
        assert_eq!(ordinals.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 111th");
    }
}
