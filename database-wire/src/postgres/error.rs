//! Writes and reads `ErrorResponse`: the error as a person sees it, and its SQLSTATE.

use plain_text::one_line;

use super::message::{Message, Writer};
use crate::{
    explanation::{Explanation, Reason},
    reader::Reader,
    step::Outgoing,
};

/// The longest text of a server that is kept for our own messages, in characters.
const LONGEST_TEXT: usize = 300;

/// An error that ends the connection. `psql` and other clients print the sentence, and the remedy as a hint.
#[must_use]
pub fn explain(explanation: &Explanation) -> Outgoing {
    let code = match explanation.reason() {
        Reason::Refused => "28000",
        Reason::NotReached => "08006",
        Reason::Ended => "57P01",
        Reason::Protocol => "08P01",
        Reason::Unsupported => "0A000",
    };
    fatal(code, explanation.sentence(), explanation.remedy())
}

pub(crate) fn fatal(code: &str, sentence: &str, remedy: Option<&str>) -> Outgoing {
    let mut body = Vec::new();
    let fields = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', sentence)];
    for (field, text) in fields.into_iter().chain(remedy.map(|remedy| (b'H', remedy))) {
        body.push(field);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    Writer::new().message(b'E', &[&body]).finish()
}

/// An error of the server. Its texts are escaped, and a client can be given the whole of it unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    code: String,
    message: String,
    hint: Option<String>,
    whole: Vec<u8>,
}

impl ServerError {
    pub(crate) fn parse(message: &Message) -> Option<Self> {
        let mut reader = Reader(message.body());
        let (mut code, mut text, mut hint) = (None, None, None);
        loop {
            let field = match reader.u8()? {
                0 => break,
                b'C' => &mut code,
                b'M' => &mut text,
                b'H' => &mut hint,
                _ => &mut None,
            };
            *field = Some(one_line(&String::from_utf8_lossy(reader.until_zero()?), LONGEST_TEXT));
        }
        let (code, text) = (code.unwrap_or_default(), text.unwrap_or_default());
        reader.is_empty().then(|| Self { code, message: text, hint, whole: message.whole().to_vec() })
    }

    /// The SQLSTATE, such as `28P01` for a wrong password or `53300` for too many connections.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The server's sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The server's remedy.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message as the server sent it.
    #[must_use]
    pub fn to_message(&self) -> Outgoing {
        Outgoing::new(self.whole.clone())
    }
}
