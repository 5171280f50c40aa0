//! Escapes text that others chose, so that no terminal obeys it and no log is forged with it.

/// Escapes what a terminal would obey or hide, and cuts the text to `longest` characters.
pub fn escaped(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    for (count, character) in text.chars().enumerate() {
        if count == longest {
            out.push('…');
            break;
        }
        if is_printed(character) {
            out.push(character);
        } else {
            out.extend(character.escape_debug());
        }
    }
    out
}

/// Whether a terminal shows the character as it is. Quotes and backslashes are the only ones that
/// `escape_debug` escapes and a terminal does not mind.
pub fn is_printed(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().eq([character])
}

/// The same for a text of several lines, which become one.
pub fn one_line(text: &str, longest: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().take(longest.saturating_add(1)).collect();
    escaped(&words.join(" "), longest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_others_wrote() {
        assert_eq!(
            escaped("a\u{1b}[31mb\u{7}\r\u{202e}\u{200b}", 80),
            "a\\u{1b}[31mb\\u{7}\\r\\u{202e}\\u{200b}"
        );
        assert_eq!(escaped("it's \"ü → ✓\" \\", 80), "it's \"ü → ✓\" \\");
        assert_eq!(escaped("abcdef", 3), "abc…");
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(
            one_line("1 error occurred:\n\t* permission denied\n\n", 300),
            "1 error occurred: * permission denied"
        );
        assert_eq!(one_line("a\u{202e}b\0", 300), "a\\u{202e}b\\0");
        assert_eq!(one_line(&"x ".repeat(1_000_000), 300).chars().count(), 301);
    }

    proptest! {
        #[test]
        fn nothing_escaped_holds_a_control_character(text in any::<String>()) {
            prop_assert!(escaped(&text, 1000).chars().all(is_printed));
            prop_assert!(one_line(&text, 1000).chars().all(is_printed));
        }
    }
}
