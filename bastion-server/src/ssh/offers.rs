//! Limits the keys and certificates that a client may offer, and collects the reasons for which each was
//! refused.

use crate::identity::certificate::Refused;

/// The most keys and certificates that one client may offer; an agent may hold many. An offer is a question
/// (RFC 4252 §7), or a signature without a question before it.
pub(super) const MOST: usize = 20;
/// The most offers that the bastion accepted and the client did not sign. A user may decline to sign, or have
/// no PIN.
const UNSIGNED: usize = 3;
/// The most reasons that are reported together. Each certificate has one, and hardly a client has more than
/// two.
const TOLD: usize = 4;

/// The offers of a client.
#[derive(Debug, Default)]
pub(super) struct Offers {
    made: usize,
    signed: usize,
}

impl Offers {
    /// Counts one more offer, unless the client has made too many.
    pub(super) fn offer(&mut self) -> Result<(), TooMany> {
        self.made += 1;
        self.check()
    }

    /// Checks that the client has not made too many offers.
    pub(super) fn check(&self) -> Result<(), TooMany> {
        if self.made > MOST { Err(TooMany) } else { Ok(()) }
    }

    /// Records that the client signed with an offered key.
    pub(super) fn sign(&mut self) {
        self.signed += 1;
    }

    /// Whether the client only asks which keys would be accepted.
    pub(super) fn are_probes(&self) -> bool {
        self.made.saturating_sub(self.signed) > UNSIGNED
    }
}

/// The client made too many offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MOST} keys and certificates were offered; offer the right one only (for ssh: IdentitiesOnly=yes, and \
     -i with its key)"
)]
pub(super) struct TooMany;

impl TooMany {
    /// The reason code in metrics, logs and messages.
    pub(super) fn code(self) -> &'static str {
        "too_many_offers"
    }
}

/// Why a client has not been let in yet, in sentences for its user.
#[derive(Debug, Default)]
pub(super) struct Reasons(Vec<String>);

impl Reasons {
    /// Adds a refused certificate.
    pub(super) fn refused(&mut self, refused: &Refused) {
        self.add(refused_text(refused));
    }

    /// Adds a plain key, which proves no identity here.
    pub(super) fn plain_key(&mut self) {
        if self.0.is_empty() {
            self.add(
                "no_valid_certificate: this host accepts no key without a certificate. If a certificate was offered, it has \
                 expired, is not valid yet, or its signature does not verify (ssh-keygen -L -f shows it)"
                    .to_owned(),
            );
        }
    }

    fn add(&mut self, reason: String) {
        if self.0.len() < TOLD && !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }

    /// All reasons, a line each; `None` if there are none.
    pub(super) fn text(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("\r\n"))
    }
}

/// The sentence about a refused certificate.
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
