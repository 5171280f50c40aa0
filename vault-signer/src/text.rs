//! Makes text that others chose fit for a terminal or a log, and reads fields that others left out.

use serde::{Deserialize, Deserializer};

/// The longest text of another's choosing that one message shows, in characters.
const LONGEST: usize = 300;

/// Escapes what a terminal would obey or hide, makes one line of it, and cuts it.
pub(crate) fn shown(text: &str) -> String {
    plain_text::one_line(text, LONGEST)
}

/// The parts of a list as people type it, `a,b` or `a, b`: trimmed, and without the empty ones.
pub fn list(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned)
}

/// A field that is `null` is one that is not there: Vault and OpenBao, which are written in Go, write an empty list so.
pub(crate) fn absent<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(
            shown("1 error occurred:\n\t* permission denied\n\n"),
            "1 error occurred: * permission denied"
        );
        assert_eq!(shown("\u{1b}[31mred\u{7}"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(shown("a\u{202e}b\0"), "a\\u{202e}b\\0");
        assert_eq!(shown("it's \"here\""), "it's \"here\"");
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(shown(&"x".repeat(1_000_000)).chars().count(), LONGEST + 1);
    }
}
