//! Recognizes commands by their first bytes: `AUTH` and `HELLO`, and all others.

use zeroize::Zeroizing;

use super::{LONGEST_ARGUMENT, LONGEST_HELLO, LONGEST_INLINE, LONGEST_NUMBER, MOST_ARGUMENTS, MOST_OF_HELLO};

/// Why bytes of a client are no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The number of arguments is none.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// The length of an argument is none.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// An argument does not begin with its length.
    #[error("Protocol error: expected '$', got {:?}", char::from(*.0))]
    Argument(u8),
    /// An inline command is too long.
    #[error("Protocol error: too big inline request")]
    Inline,
    /// A quote of an inline command does not end.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// `HELLO` has more than it can have.
    #[error("Protocol error: HELLO is too long")]
    Hello,
}

/// The arguments of a command. A password may be among them.
pub(crate) type Words = Vec<Zeroizing<Vec<u8>>>;

/// What begins a command, and the number of bytes that it has until there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// It is not told yet.
    More,
    /// No command: an empty line, or an array without elements.
    Nothing { length: usize },
    /// `AUTH`, of which this many arguments are still to come.
    Auth { length: usize, left: u64 },
    /// The whole of a `HELLO` or of an inline command.
    Whole { length: usize, words: Words },
    /// Another command: bytes of its first argument and other arguments are still to come.
    Other { length: usize, skip: u64, left: u64 },
}

/// A line that ends in CRLF, without that.
fn line(bytes: &[u8], too_long: Malformed) -> Result<Option<&[u8]>, Malformed> {
    let within = bytes.get(..LONGEST_NUMBER).unwrap_or(bytes);
    match within.windows(2).position(|two| two == b"\r\n") {
        Some(end) => Ok(bytes.get(..end)),
        None if bytes.len() >= LONGEST_NUMBER => Err(too_long),
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(digits).ok()?;
    (!text.starts_with('+')).then(|| text.parse().ok()).flatten()
}

/// The length in the line before an argument, without its CRLF.
pub(crate) fn argument_length(line: &[u8]) -> Result<u64, Malformed> {
    let digits = match line.split_first() {
        Some((b'$', digits)) => digits,
        Some((other, _)) => return Err(Malformed::Argument(*other)),
        None => return Err(Malformed::Argument(b'\r')),
    };
    let length = number(digits).and_then(|length| u64::try_from(length).ok());
    length.filter(|length| *length <= LONGEST_ARGUMENT).ok_or(Malformed::Length)
}

/// One argument, its end, and nothing where it is not complete. Longer ones than the bound have only a
/// length.
enum Argument<'a> {
    More,
    Whole { text: &'a [u8], rest: &'a [u8] },
    Long { length: u64, rest: &'a [u8] },
}

fn argument(bytes: &[u8], longest: usize) -> Result<Argument<'_>, Malformed> {
    match bytes.first() {
        Some(b'$') => {}
        Some(other) => return Err(Malformed::Argument(*other)),
        None => return Ok(Argument::More),
    }
    let Some(head) = line(bytes, Malformed::Length)? else { return Ok(Argument::More) };
    let length = argument_length(head)?;
    let rest = bytes.get(head.len() + 2..).unwrap_or_default();
    match usize::try_from(length).ok().filter(|length| *length <= longest) {
        None => Ok(Argument::Long { length, rest }),
        // As Redis, which takes any two bytes for the end.
        Some(length) => match (rest.get(..length), rest.get(length + 2..)) {
            (Some(text), Some(rest)) => Ok(Argument::Whole { text, rest }),
            _ => Ok(Argument::More),
        },
    }
}

/// Recognizes the command that begins here.
pub(crate) fn head(bytes: &[u8]) -> Result<Head, Malformed> {
    match bytes.first() {
        None => Ok(Head::More),
        Some(b'*') => array(bytes),
        Some(_) => inline(bytes),
    }
}

fn array(bytes: &[u8]) -> Result<Head, Malformed> {
    let Some(head) = line(bytes, Malformed::Count)? else { return Ok(Head::More) };
    let rest = bytes.get(head.len() + 2..).unwrap_or_default();
    let count = head.get(1..).and_then(number).ok_or(Malformed::Count)?;
    let until = |rest: &[u8]| bytes.len() - rest.len();
    let count = match u64::try_from(count) {
        Ok(0) | Err(_) => return Ok(Head::Nothing { length: until(rest) }),
        Ok(count) if count > MOST_ARGUMENTS => return Err(Malformed::Count),
        Ok(count) => count,
    };
    match argument(rest, b"HELLO".len())? {
        Argument::More => Ok(Head::More),
        Argument::Long { length, rest } => {
            Ok(Head::Other { length: until(rest), skip: length + 2, left: count - 1 })
        }
        Argument::Whole { text, rest } if text.eq_ignore_ascii_case(b"AUTH") && (2..=3).contains(&count) => {
            Ok(Head::Auth { length: until(rest), left: count - 1 })
        }
        Argument::Whole { text, rest } if text.eq_ignore_ascii_case(b"HELLO") && count > 1 => {
            hello(bytes, rest, count)
        }
        Argument::Whole { rest, .. } => Ok(Head::Other { length: until(rest), skip: 0, left: count - 1 }),
    }
}

/// The other arguments of a `HELLO`.
fn hello(bytes: &[u8], mut rest: &[u8], count: u64) -> Result<Head, Malformed> {
    if count > MOST_OF_HELLO {
        return Err(Malformed::Hello);
    }
    let mut words: Words = vec![Zeroizing::new(b"HELLO".to_vec())];
    for _ in 1..count {
        let until = bytes.len() - rest.len();
        match argument(rest, LONGEST_HELLO.checked_sub(until).ok_or(Malformed::Hello)?)? {
            Argument::More => return Ok(Head::More),
            Argument::Long { .. } => return Err(Malformed::Hello),
            Argument::Whole { text, rest: after } => {
                words.push(Zeroizing::new(text.to_vec()));
                rest = after;
            }
        }
    }
    Ok(Head::Whole { length: bytes.len() - rest.len(), words })
}

fn inline(bytes: &[u8]) -> Result<Head, Malformed> {
    let within = bytes.get(..LONGEST_INLINE).unwrap_or(bytes);
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LONGEST_INLINE { Err(Malformed::Inline) } else { Ok(Head::More) };
    };
    let line = within.get(..end).unwrap_or_default();
    let words = words(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(Malformed::Quotes)?;
    let length = end + 1;
    if words.is_empty() { Ok(Head::Nothing { length }) } else { Ok(Head::Whole { length, words }) }
}

/// Splits an inline command as Redis does (`sdssplitargs`): at blanks, with both kinds of quotes.
fn words(line: &[u8]) -> Option<Words> {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let (mut words, mut rest) = (Words::new(), line);
    loop {
        rest = rest.get(rest.iter().position(|byte| !is_blank(byte)).unwrap_or(rest.len())..)?;
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Zeroizing::new(Vec::with_capacity(rest.len()));
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'"' | b'\'' => {
                    rest = quoted(*first, rest, &mut word)?;
                    // What follows a quote's end is another word.
                    if !rest.first().is_none_or(is_blank) {
                        return None;
                    }
                    break;
                }
                blank if is_blank(blank) => break,
                // Redis ends a line at its first zero byte.
                0 => {
                    rest = &[];
                    break;
                }
                other => word.push(*other),
            }
        }
        words.push(word);
    }
}

/// Reads up to the end of a quote, and returns what follows.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (first, after) = rest.split_first()?;
        rest = after;
        match (first, quote) {
            (end, _) if *end == quote => return Some(rest),
            (b'\\', b'"') => {
                let hex = after.get(..3).filter(|three| three.first() == Some(&b'x'));
                let hex = hex.and_then(|three| std::str::from_utf8(three.get(1..)?).ok());
                let byte = hex.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
                if let Some(byte) = byte.and_then(|two| u8::from_str_radix(two, 16).ok()) {
                    word.push(byte);
                    rest = after.get(3..)?;
                    continue;
                }
                let (escaped, after) = after.split_first()?;
                rest = after;
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
            }
            (b'\\', _) if after.first() == Some(&b'\'') => {
                word.push(b'\'');
                rest = after.get(1..)?;
            }
            (other, _) => word.push(*other),
        }
    }
}

/// Writes a command.
pub(crate) fn written(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + words.iter().map(|word| word.len() + 32).sum::<usize>());
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}
