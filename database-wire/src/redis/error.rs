//! Writes and reads the error of a command, which is what a client of Redis shows to a person.

use plain_text::one_line;

use crate::{explanation::Explanation, step::Outgoing};

/// The longest text of a server that is kept for our own messages, in characters.
const LONGEST_TEXT: usize = 300;

/// The error, in one line with its remedy. Its code is `ERR`, which all clients show: they take some of the
/// others, such as `NOAUTH`, for a wrong password of their own.
#[must_use]
pub fn explain(explanation: &Explanation) -> Outgoing {
    let remedy = explanation.remedy().map(|remedy| format!(". {remedy}")).unwrap_or_default();
    Outgoing::new(format!("-ERR {}{remedy}\r\n", explanation.sentence()).into_bytes())
}

/// An error of the server. Its text is escaped, and a client can be given the whole of it unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    code: String,
    message: String,
    whole: Vec<u8>,
}

impl ServerError {
    /// `line` is the whole one.
    pub(crate) fn new(line: &[u8]) -> Self {
        let text = one_line(&String::from_utf8_lossy(line.get(1..).unwrap_or_default()), LONGEST_TEXT);
        let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
        Self { code: code.to_owned(), message: message.to_owned(), whole: line.to_vec() }
    }

    /// The code, such as `WRONGPASS`, `NOAUTH` or `ERR`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The server's sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line as the server sent it.
    #[must_use]
    pub fn to_message(&self) -> Outgoing {
        Outgoing::new(self.whole.clone())
    }
}
