//! Parses durations and sizes with their units: `20s`, `64KiB`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// The longest duration that a setting accepts: far beyond any sensible one, and safe to add to any clock.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The pattern of a duration in the JSON schema, as exact as a pattern can be.
const DURATION: &str = r"^(\d+(\.\d+)? ?[A-Za-z]+ ?)+$";
const SIZE: &str = r"^\d+ *([KMG]i)?B$";

/// A duration above zero, with its unit: `20s`, `5m` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = DURATION, "not" = {"pattern": "^[^1-9]*$"}))]
pub struct Period(pub Duration);

impl TryFrom<String> for Period {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match Delay::try_from(text)?.0 {
            Duration::ZERO => Err("this must be longer than nothing"),
            period => Ok(Self(period)),
        }
    }
}

/// A duration with its unit, such as `20s`; `0s` is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = DURATION))]
pub struct Delay(pub Duration);

impl TryFrom<String> for Delay {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match humantime::parse_duration(&text) {
            Ok(period) if period <= LONGEST => Ok(Self(period)),
            Ok(_) => Err("this is longer than ten years"),
            Err(_) => Err("this is no duration; write a number and its unit, such as 20s, 5m or 24h"),
        }
    }
}

/// A number of bytes with its unit: `64KiB`, `16MiB` or `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = SIZE))]
pub struct ByteSize(pub u64);

impl TryFrom<String> for ByteSize {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "B" => Some(0),
            "KiB" => Some(10),
            "MiB" => Some(20),
            "GiB" => Some(30),
            _ => None,
        };
        shift
            .and_then(|shift| number.parse::<u64>().ok()?.checked_mul(1 << shift))
            .map(Self)
            .ok_or("this is no size; write a number and its unit, such as 64KiB, 16MiB or 1GiB")
    }
}

/// A bound on the bytes that wait in memory, at least `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "ByteSize")]
#[schemars(with = "ByteSize")]
pub struct BufferSize(pub ByteSize);

impl TryFrom<ByteSize> for BufferSize {
    type Error = &'static str;

    fn try_from(bytes: ByteSize) -> Result<Self, Self::Error> {
        if bytes.0 < 1 << 20 {
            return Err("a single connection would spend it; write 1MiB or more");
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_number_and_a_unit() {
        for (text, bytes) in [
            ("0B", Some(0)),
            ("64KiB", Some(65536)),
            ("16 MiB", Some(16 << 20)),
            ("1GiB", Some(1 << 30)),
            ("64", None),
            ("64kb", None),
            ("KiB", None),
            ("-1KiB", None),
            ("1.5MiB", None),
            ("99999999999999999999B", None),
            ("18446744073709551615KiB", None),
            ("", None),
        ] {
            assert_eq!(ByteSize::try_from(text.to_owned()).ok().map(|size| size.0), bytes, "{text:?}");
        }
    }

    #[test]
    fn periods_need_a_unit() {
        assert_eq!(Period::try_from("20s".to_owned()), Ok(Period(Duration::from_secs(20))));
        assert_eq!(Period::try_from("1h 30m".to_owned()), Ok(Period(Duration::from_secs(5400))));
        assert!(Period::try_from("20".to_owned()).is_err());
        assert!(Period::try_from("-1s".to_owned()).is_err());
        assert!(Period::try_from("0s".to_owned()).is_err());
        assert!(Period::try_from("11y".to_owned()).is_err());
        assert_eq!(Delay::try_from("0s".to_owned()), Ok(Delay(Duration::ZERO)));
    }
}
