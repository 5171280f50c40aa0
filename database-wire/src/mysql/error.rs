//! Writes and reads the ERR packet, which is what a client of MySQL shows to a person.

use plain_text::one_line;

use super::packet::packet;
use crate::{
    explanation::{Explanation, Reason},
    reader::Reader,
    step::Outgoing,
};

/// The longest text of a server that is kept for our own messages, in characters.
const LONGEST_TEXT: usize = 300;

/// The ERR packet with this number: in answer to a command, 1. Clients take an error without a command before
/// it for a lost connection, and print one in the place of the greeting as a failure of TLS.
#[must_use]
pub fn explain(explanation: &Explanation, sequence: u8) -> Outgoing {
    packet(sequence, &payload(explanation))
}

/// Numbers of MySQL's and MariaDB's "Server Error Message Reference".
fn payload(explanation: &Explanation) -> Vec<u8> {
    let (code, state): (u16, _) = match explanation.reason() {
        // ER_ACCESS_DENIED_ERROR
        Reason::Refused => (1045, "28000"),
        // ER_CONNECT_TO_FOREIGN_DATA_SOURCE
        Reason::NotReached => (1429, "HY000"),
        // ER_CONNECTION_KILLED
        Reason::Ended => (1927, "70100"),
        // ER_HANDSHAKE_ERROR
        Reason::Protocol => (1043, "08S01"),
        // ER_NOT_SUPPORTED_AUTH_MODE
        Reason::Unsupported => (1251, "08004"),
    };
    let remedy = explanation.remedy().map(|remedy| format!(". {remedy}")).unwrap_or_default();
    let text = format!("#{state}{}{remedy}", explanation.sentence());
    [&[0xff], &code.to_le_bytes()[..], text.as_bytes()].concat()
}

/// An error of the server. Its text is escaped, and a client can be given the whole of it unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    code: u16,
    state: Option<String>,
    message: String,
    payload: Vec<u8>,
}

impl ServerError {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        reader.u8().filter(|kind| *kind == 0xff)?;
        let code = reader.u16_le()?;
        let mut rest = reader.rest();
        let text = |bytes: &[u8]| one_line(&String::from_utf8_lossy(bytes), LONGEST_TEXT);
        // A server that has not greeted yet leaves the state out.
        let mut state = None;
        if let Some((marked, after)) = rest.split_at_checked(6).filter(|(marked, _)| marked.starts_with(b"#"))
        {
            state = Some(text(marked.get(1..)?));
            rest = after;
        }
        Some(Self { code, state, message: text(rest), payload: payload.to_vec() })
    }

    /// The number, such as 1045 for a wrong password or 1040 for too many connections.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The SQLSTATE.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The server's sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The packet as the server sent it, with this number. A client that has logged in expects a state.
    pub(crate) fn to_packet(&self, sequence: u8) -> Outgoing {
        match self.state {
            Some(_) => packet(sequence, &self.payload),
            None => {
                let text = self.payload.get(3..).unwrap_or_default();
                let payload = [&[0xff], &self.code.to_le_bytes()[..], b"#08004", text].concat();
                packet(sequence, &payload)
            }
        }
    }
}
