//! Durations and sizes as people write them: `20s`, `64KiB`.

use std::time::Duration;

use serde::Deserialize;

/// A length of time with its unit, such as `20s`, `5m` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text).map(Self).map_err(|_| {
            "this is no duration; write a number and its unit, such as 20s, 5m or 24h".to_owned()
        })
    }
}

/// A number of bytes with its unit, such as `64KiB` or `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ByteSize(pub u64);

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "B" => Some(0),
            "KiB" => Some(10),
            "MiB" => Some(20),
            "GiB" => Some(30),
            _ => None,
        };
        shift.and_then(|shift| number.parse::<u64>().ok()?.checked_mul(1 << shift)).map(Self).ok_or_else(
            || "this is no size; write a number and its unit, such as 64KiB, 16MiB or 1GiB".to_owned(),
        )
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
    }
}
