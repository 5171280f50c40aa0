//! Reasons for refusing or ending a stream: a code for programs and a text for people, which travel together.

use std::fmt;

/// The longest text of a reason, in bytes.
pub(crate) const LONGEST_TEXT: usize = 512;

/// A number for programs. Codes 1 to 4 are those of RFC 4254 §5.1, for streams that were never open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u16);

impl Code {
    /// The policy denies the destination (`SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`).
    pub const PROHIBITED: Self = Self(1);
    /// The target cannot be reached (`SSH_OPEN_CONNECT_FAILED`).
    pub const CONNECT_FAILED: Self = Self(2);
    /// There is no room for it now (`SSH_OPEN_RESOURCE_SHORTAGE`).
    pub const RESOURCE_SHORTAGE: Self = Self(4);
    /// The TCP connection behind the end that says so was reset.
    pub const RESET: Self = Self(16);
    /// The certificate has expired.
    pub const EXPIRED: Self = Self(17);
    /// The login would not be accepted any more.
    pub const REVOKED: Self = Self(18);
    /// A new policy denies the destination.
    pub const DENIED: Self = Self(19);
    /// Memory is spent, and this stream had stalled longest.
    pub const MEMORY: Self = Self(20);
    /// It had no carrier for too long.
    pub const DETACHED_TOO_LONG: Self = Self(21);
    /// The process that holds it ends.
    pub const SHUTDOWN: Self = Self(22);
    /// The user ended it.
    pub const STOPPED: Self = Self(23);
    /// The end that says so does not know it.
    pub const UNKNOWN: Self = Self(24);
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self(25);
    /// The proof for a resumption is wrong, or another identity has logged in.
    pub const NOT_YOURS: Self = Self(26);

    /// A word for logs, metrics and records. Codes of a newer version have none of their own.
    pub fn name(self) -> &'static str {
        match self {
            Self::PROHIBITED => "prohibited",
            Self::CONNECT_FAILED => "connect_failed",
            Self::RESOURCE_SHORTAGE => "resource_shortage",
            Self::RESET => "reset",
            Self::EXPIRED => "expired",
            Self::REVOKED => "revoked",
            Self::DENIED => "denied",
            Self::MEMORY => "memory_budget",
            Self::DETACHED_TOO_LONG => "detached_too_long",
            Self::SHUTDOWN => "shutdown",
            Self::STOPPED => "stopped",
            Self::UNKNOWN => "unknown_stream",
            Self::PROTOCOL => "protocol_error",
            Self::NOT_YOURS => "not_yours",
            Self(_) => "other",
        }
    }
}

/// A code with its text. The text is the peer's: escape it before it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    code: Code,
    text: String,
}

impl Reason {
    /// Text beyond 512 bytes is left out.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut most = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(most) {
            most -= 1;
        }
        text.truncate(most);
        Self { code, text }
    }

    /// The number.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The sentence for a person; may be empty.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<Code> for Reason {
    fn from(code: Code) -> Self {
        Self::new(code, "")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() { f.write_str(self.code.name()) } else { f.write_str(&self.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let reason = Reason::new(Code::RESET, "é".repeat(LONGEST_TEXT));
        assert_eq!(reason.text(), "é".repeat(LONGEST_TEXT / 2));
        assert_eq!(Reason::from(Code::EXPIRED).to_string(), "expired");
    }
}
