//! Limits the keys and certificates that a client may offer, and collects the reasons for which each was
//! refused.

use crate::identity::certificate::Refused;

/// The most keys and certificates that one client may offer; an agent may hold many. An offer is a question
/// (RFC 4252 §7), or a signature without a question before it.
pub(super) const MOST: usize = 20;
/// The most reasons that are reported together. Each certificate has one, and hardly a client has more than
/// two.
const TOLD: usize = 4;

/// The offers of a client.
#[derive(Debug, Default)]
pub(super) struct Offers {
    made: usize,
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
    fn offers_have_an_end() {
        let mut offers = Offers::default();
        for _ in 0..MOST {
            assert_eq!(offers.offer(), Ok(()));
        }
        assert_eq!((offers.check(), offers.offer()), (Ok(()), Err(TooMany)));
        assert_eq!(offers.check(), Err(TooMany));
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
