//! Says to a person, through the client of a database, why a connection is not served.

use plain_text::one_line;

/// The longest sentence or remedy, in characters. MySQL's clients keep 512 bytes of both together.
const LONGEST: usize = 240;

/// The kind of thing that happened. Each protocol has a code for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A policy, a certificate or Vault does not permit the connection.
    Refused,
    /// The database does not answer, or is not there.
    NotReached,
    /// A connection that was served is not served any longer.
    Ended,
    /// The client broke the protocol.
    Protocol,
    /// The client asked for what is not supported.
    Unsupported,
}

/// A refusal as a person reads it. Text of others in it is escaped, and it is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    reason: Reason,
    sentence: String,
    remedy: Option<String>,
}

impl Explanation {
    /// Explains in a sentence: what failed, and what it means.
    #[must_use]
    pub fn new(reason: Reason, sentence: &str) -> Self {
        Self { reason, sentence: one_line(sentence, LONGEST), remedy: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_remedy(mut self, remedy: &str) -> Self {
        self.remedy = Some(one_line(remedy, LONGEST));
        self
    }

    /// The kind.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What failed, and what it means.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}
