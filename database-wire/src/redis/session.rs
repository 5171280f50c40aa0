//! Passes a client's commands on, with our credentials in the place of its own; or refuses each of them.

use zeroize::Zeroizing;

use super::{
    LONGEST_NUMBER, MOST_REFUSALS,
    client::Credentials,
    command::{Head, Malformed, Words, argument_length, head, written},
    error::explain,
};
use crate::{explanation::Explanation, step::Outgoing};

/// A piece of what is to be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the client, to the server, as they came.
    Pass(&'a [u8]),
    /// Bytes to the server, in the place of bytes of the client.
    Instead(Outgoing),
}

/// Where in its commands a client is.
#[derive(Debug)]
enum State {
    /// Before a command, or in its first bytes.
    Head,
    /// In the arguments of one: bytes of an argument, and whole arguments, that are still to come.
    Arguments { skip: u64, left: u64, line: Line },
}

/// The line with the length of an argument, as far as it has come.
#[derive(Debug, Default)]
struct Line {
    bytes: [u8; LONGEST_NUMBER],
    length: usize,
}

impl Line {
    /// Adds a byte. A whole line is returned, without its end.
    fn push(&mut self, byte: u8) -> Result<Option<&[u8]>, Malformed> {
        *self.bytes.get_mut(self.length).ok_or(Malformed::Length)? = byte;
        self.length += 1;
        Ok(self.bytes.get(..self.length).and_then(|line| line.strip_suffix(b"\r\n")))
    }
}

/// Follows the commands of a client.
#[derive(Debug)]
struct Commands {
    state: State,
    /// The first bytes of a command, while they do not tell which it is.
    held: Zeroizing<Vec<u8>>,
}

impl Commands {
    fn new() -> Self {
        Self { state: State::Head, held: Zeroizing::new(Vec::new()) }
    }

    /// Follows the arguments of a command, and returns the bytes that belong to them. At their end the state
    /// is that before a command.
    fn arguments(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let State::Arguments { skip, left, line } = &mut self.state else { return Ok(0) };
        let mut at = 0;
        loop {
            let there = input.len() - at;
            let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(there);
            at += skipped;
            *skip -= skipped as u64;
            if *skip == 0 && *left == 0 {
                self.state = State::Head;
                return Ok(at);
            }
            let Some(byte) = input.get(at) else { return Ok(at) };
            at += 1;
            if let Some(whole) = line.push(*byte)? {
                *skip = argument_length(whole)? + 2;
                *left -= 1;
                line.length = 0;
            }
        }
    }

    fn expect(&mut self, skip: u64, left: u64) {
        self.state = State::Arguments { skip, left, line: Line::default() };
    }

    /// Collects the first bytes of a command that came in pieces. Afterwards they tell which it is, or the
    /// input is used up.
    fn collect(&mut self, input: &mut &[u8]) -> Result<Head, Malformed> {
        let is_inline = |held: &[u8]| held.first() != Some(&b'*');
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            if self.held.len() == self.held.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity((2 * self.held.len()).max(64)));
                larger.extend_from_slice(&self.held);
                self.held = larger;
            }
            self.held.push(*byte);
            // An inline command has one end: to look for it at each byte would take a long line's square.
            if is_inline(&self.held) && *byte != b'\n' && self.held.len() < super::LONGEST_INLINE {
                continue;
            }
            match head(&self.held)? {
                Head::More => {}
                told => return Ok(told),
            }
        }
        Ok(Head::More)
    }
}

/// A client's session: its bytes go in, and what the server is to get comes out.
#[derive(Debug)]
pub struct Session {
    commands: Commands,
    credentials: Credentials,
    /// Whether the arguments that follow are those of a client's own credentials.
    drops: bool,
    /// Why the client's bytes are no commands, once what came before has been passed on.
    broken: Option<Malformed>,
}

impl Session {
    /// A client that has sent nothing, of a server where [`Client`](super::Client) has logged in with these
    /// credentials.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self { commands: Commands::new(), credentials, drops: false, broken: None }
    }

    /// Takes a piece off the front of the client's bytes, and returns what the server gets for it. A caller
    /// asks until there is nothing: then the input is used up.
    ///
    /// # Errors
    /// When the client's bytes are no commands. The connection cannot go on, and the client is told with
    /// [`explain`].
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Malformed> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let piece = self.piece(input);
        self.broken = self.broken.or(piece.as_ref().err().copied());
        piece
    }

    fn piece<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Malformed> {
        if self.drops {
            let dropped = self.commands.arguments(input)?;
            *input = input.get(dropped..).unwrap_or_default();
            if !matches!(self.commands.state, State::Head) {
                return Ok(None);
            }
            self.drops = false;
        }
        let all: &'a [u8] = input;
        if self.commands.held.is_empty() {
            let passed = self.unchanged(all)?;
            if let Some((passed, rest)) = all.split_at_checked(passed).filter(|_| passed > 0) {
                *input = rest;
                return Ok(Some(Piece::Pass(passed)));
            }
        }
        let told = self.commands.collect(input)?;
        if told == Head::More {
            return Ok(None);
        }
        let mut held = std::mem::replace(&mut self.commands.held, Zeroizing::new(Vec::new()));
        let mut as_it_came = || Outgoing::new(std::mem::take(&mut held));
        Ok(Some(Piece::Instead(match told {
            Head::Auth { left, .. } => {
                self.commands.expect(0, left);
                self.drops = true;
                self.credentials.auth()
            }
            Head::Whole { words, .. } => self.replaced(&words).unwrap_or_else(as_it_came),
            Head::Other { skip, left, .. } => {
                self.commands.expect(skip, left);
                as_it_came()
            }
            Head::More | Head::Nothing { .. } => as_it_came(),
        })))
    }

    /// How many of these bytes the server gets as they are. They end before a command that is not told yet,
    /// or is not passed on.
    fn unchanged(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            match self.commands.arguments(rest) {
                Ok(more) => at += more,
                Err(malformed) if at > 0 => {
                    self.broken = Some(malformed);
                    return Ok(at);
                }
                Err(malformed) => return Err(malformed),
            }
            let State::Head = self.commands.state else { return Ok(at) };
            let rest = input.get(at..).unwrap_or_default();
            match head(rest) {
                Ok(Head::Nothing { length }) => at += length,
                Ok(Head::Whole { length, words }) if self.replaced(&words).is_none() => at += length,
                Ok(Head::Other { length, skip, left }) => {
                    at += length;
                    self.commands.expect(skip, left);
                }
                Ok(Head::More | Head::Auth { .. } | Head::Whole { .. }) => return Ok(at),
                // What came before is passed on, and then this is found again.
                Err(_) if at > 0 => return Ok(at),
                Err(malformed) => return Err(malformed),
            }
        }
    }

    /// The command with our credentials in the place of the client's, if it has any.
    fn replaced(&self, words: &Words) -> Option<Outgoing> {
        let is = |word: Option<&Zeroizing<Vec<u8>>>, name: &[u8]| {
            word.is_some_and(|word| word.eq_ignore_ascii_case(name))
        };
        if is(words.first(), b"AUTH") && (2..=3).contains(&words.len()) {
            return Some(self.credentials.auth());
        }
        if !is(words.first(), b"HELLO") {
            return None;
        }
        let mut ours: Vec<&[u8]> = words.iter().map(|word| word.as_slice()).collect();
        let mut at = 2;
        let mut is_replaced = false;
        while at < words.len() {
            let replace = is(words.get(at), b"AUTH");
            if let (true, Some([user, password])) = (replace, ours.get_mut(at + 1..at + 3)) {
                (*user, *password) = (self.credentials.user(), self.credentials.password());
                is_replaced = true;
            }
            at += if replace {
                3
            } else if is(words.get(at), b"SETNAME") {
                2
            } else {
                1
            };
        }
        is_replaced.then(|| Outgoing::new(written(&ours)))
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.commands.held.capacity()
    }
}

/// Answers each command of a client with the reason for which it is not served.
///
/// One error is not enough: drivers ignore the answers to the first commands that they send by themselves.
#[derive(Debug)]
pub struct Refusing {
    commands: Commands,
    explanation: Explanation,
    left: u32,
}

impl Refusing {
    /// A client that has sent nothing, or whose bytes so far were whole commands.
    #[must_use]
    pub fn new(explanation: Explanation) -> Self {
        Self { commands: Commands::new(), explanation, left: MOST_REFUSALS }
    }

    /// Takes bytes of the client, and returns the answers to the commands that begin in them. There is
    /// nothing when the connection has to end: after a hundred commands, and after what is none.
    #[must_use]
    pub fn answers(&mut self, mut input: &[u8]) -> Option<Outgoing> {
        if self.left == 0 {
            return None;
        }
        let mut answers = Vec::new();
        while self.left > 0 && !input.is_empty() {
            match self.begins(&mut input) {
                Ok(true) => {
                    self.left -= 1;
                    answers.extend_from_slice(explain(&self.explanation).as_ref());
                }
                Ok(false) => {}
                Err(_) => self.left = 0,
            }
        }
        Some(Outgoing::new(answers))
    }

    /// Takes bytes off the front, up to the beginning of a command, and tells whether there is one.
    fn begins(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        let passed = self.commands.arguments(input)?;
        *input = input.get(passed..).unwrap_or_default();
        if !matches!(self.commands.state, State::Head) {
            return Ok(false);
        }
        let told = self.commands.collect(input)?;
        if told != Head::More {
            self.commands.held = Zeroizing::new(Vec::new());
        }
        match told {
            Head::More | Head::Nothing { .. } => return Ok(false),
            Head::Auth { left, .. } => self.commands.expect(0, left),
            Head::Other { skip, left, .. } => self.commands.expect(skip, left),
            Head::Whole { .. } => {}
        }
        Ok(true)
    }
}
