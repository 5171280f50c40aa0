//! How often a client may say what it has, and what it gets to read when nothing of that was enough.

use crate::identity::certificate::Refused;

/// Keys and certificates that one client may offer; an agent may hold many. An offer is a question (RFC 4252 §7), or a
/// signature that was not asked about before.
pub(super) const MOST: usize = 20;
/// Offers that were found good enough to sign with, and were not signed with. A person may decline to, or have no PIN.
const UNSIGNED: usize = 3;
/// Reasons that are told at once. One stands for each certificate, and hardly a client has more than two.
const TOLD: usize = 4;

/// What a client offered.
#[derive(Debug, Default)]
pub(super) struct Offers {
    made: usize,
    signed: usize,
}

impl Offers {
    /// One more. Whether it may still be looked at.
    pub(super) fn offer(&mut self) -> Result<(), TooMany> {
        self.made += 1;
        self.check()
    }

    /// Whether what was offered may still be looked at.
    pub(super) fn check(&self) -> Result<(), TooMany> {
        if self.made > MOST { Err(TooMany) } else { Ok(()) }
    }

    /// The client has what it offered.
    pub(super) fn sign(&mut self) {
        self.signed += 1;
    }

    /// Whether the client only wants to know which keys would do.
    pub(super) fn are_probes(&self) -> bool {
        self.made.saturating_sub(self.signed) > UNSIGNED
    }
}

/// A client offered more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MOST} keys and certificates were offered; offer the right one only (for ssh: IdentitiesOnly=yes, and \
     -i with its key)"
)]
pub(super) struct TooMany;

impl TooMany {
    /// The stable name of this reason in metrics, logs and messages.
    pub(super) fn code(self) -> &'static str {
        "too_many_offers"
    }
}

/// Why a client has not been let in yet, in words for whoever sits there.
#[derive(Debug, Default)]
pub(super) struct Reasons(Vec<String>);

impl Reasons {
    /// A certificate was refused.
    pub(super) fn refused(&mut self, refused: &Refused) {
        self.add(refused_text(refused));
    }

    /// A plain key was shown, which is nobody's.
    pub(super) fn plain_key(&mut self) {
        if self.0.is_empty() {
            self.add(
                "no_valid_certificate: a key alone lets nobody in here. A certificate does; if one was offered, its time is \
                 over or has not come, or its signature does not hold (ssh-keygen -L -f shows it)"
                    .to_owned(),
            );
        }
    }

    fn add(&mut self, reason: String) {
        if self.0.len() < TOLD && !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }

    /// All of them, a line each; nothing if there is nothing to say.
    pub(super) fn text(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("\r\n"))
    }
}

/// What is said about a refused certificate, wherever it is said.
pub(super) fn refused_text(refused: &Refused) -> String {
    format!("certificate refused: {}: {refused}", refused.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_have_an_end_and_those_that_are_signed_are_no_probes() {
        let mut offers = Offers::default();
        for _ in 0..MOST {
            assert_eq!(offers.offer(), Ok(()));
            offers.sign();
        }
        assert!(!offers.are_probes());
        assert_eq!(offers.offer(), Err(TooMany));
        assert_eq!(offers.check(), Err(TooMany));
        let mut declined = Offers::default();
        for _ in 0..UNSIGNED {
            declined.offer().unwrap();
        }
        assert!(!declined.are_probes(), "a person may decline");
        declined.offer().unwrap();
        assert!(declined.are_probes());
    }

    #[test]
    fn each_reason_is_told_once_and_few_at_all() {
        let mut reasons = Reasons::default();
        assert_eq!(reasons.text(), None);
        reasons.plain_key();
        reasons.plain_key();
        assert!(reasons.text().unwrap().starts_with("no_valid_certificate: "));
        let mut reasons = Reasons::default();
        reasons.refused(&Refused::UnknownAuthority);
        reasons.refused(&Refused::UnknownAuthority);
        reasons.plain_key();
        let text = reasons.text().unwrap();
        assert!(
            text.starts_with("certificate refused: unknown_authority: ") && !text.contains('\n'),
            "{text}"
        );
    }
}
