//! Judges every failure of a tunnel: of login, signing, connecting, the host's identity, the certificate and its renewal.
//!
//! There is no other place where that is decided. What may pass ends nothing; and while a carrier lives, no failure to make
//! its successor ends it. Before a tunnel was ready for the first time, the user is there to read an error, and what a
//! person has to change is one. Afterwards, perhaps at night, only what no waiting can mend ends it.

use std::time::Duration;

use vault_signer::{Error, SignError, certificate::Mismatch, login::LoginError};

use crate::{
    failure::Retry,
    ssh::{Refusal, code, is_for_now},
    trust::HostKeyMismatch,
};

/// A clock that is behind by no more than this is waited for: what it does not take as valid yet, it soon does.
const LITTLE_BEHIND: Duration = Duration::from_secs(120);

/// How a tunnel stands when something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The first failure is to be the end.
    pub once: bool,
    /// Bytes could flow at some time.
    pub was_ready: bool,
    /// Bytes can flow now.
    pub carrier_lives: bool,
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The tunnel ends with it.
    Ends,
    /// A person is told what to do, and waited for.
    AwaitsSignIn,
    /// There will be another try.
    Retries,
}

/// The rule.
pub(crate) fn judge(retry: Retry, standing: Standing) -> Verdict {
    let goes_on = match retry {
        Retry::AfterSignIn => Verdict::AwaitsSignIn,
        Retry::Soon
        | Retry::OnAnotherRoute
        | Retry::AfterClockIsSet
        | Retry::AfterOperator
        | Retry::Never => Verdict::Retries,
    };
    match (retry, standing) {
        (_, Standing { carrier_lives: true, .. }) => goes_on,
        (_, Standing { once: true, .. }) => Verdict::Ends,
        (Retry::Soon, _) => goes_on,
        (_, Standing { was_ready: false, .. }) => Verdict::Ends,
        (Retry::OnAnotherRoute | Retry::AfterClockIsSet | Retry::AfterOperator | Retry::AfterSignIn, _) => {
            goes_on
        }
        (Retry::Never, _) => Verdict::Ends,
    }
}

impl Retry {
    /// Of a failure on the way to Vault.
    pub(crate) fn of_server(error: &Error) -> Self {
        match error {
            Error::Unreachable { .. }
            | Error::TimedOut { .. }
            | Error::Sealed { .. }
            | Error::Standby { .. }
            | Error::RateLimited { .. }
            | Error::ServerError { .. }
            | Error::Broken { .. } => Self::Soon,
            Error::Tls { .. }
            | Error::Redirected { .. }
            | Error::Status { .. }
            | Error::NotJson { .. }
            | Error::TooLarge { .. }
            | Error::Unexpected { .. } => Self::OnAnotherRoute,
            Error::Uninitialized { .. }
            | Error::BadRequest { .. }
            | Error::Denied { .. }
            | Error::NotFound { .. } => Self::AfterOperator,
            // The enum is another crate's and may grow; what is new says itself whether it passes.
            other if other.is_transient() => Self::Soon,
            _ => Self::AfterOperator,
        }
    }

    /// Of a login to Vault.
    pub(crate) fn of_login(error: &LoginError) -> Self {
        match error {
            LoginError::Server(error) => Self::of_server(error),
            LoginError::NoToken { .. } | LoginError::TokenFile { .. } | LoginError::TokenRefused { .. } => {
                Self::AfterSignIn
            }
            LoginError::ServiceAccountToken { .. } => Self::AfterOperator,
            // A wrong password stays wrong, and asking with it again locks its owner out.
            LoginError::Refused { source: Error::BadRequest { .. }, .. } => Self::Never,
            LoginError::Refused { .. } => Self::AfterOperator,
            LoginError::SecondFactor { .. } => Self::Never,
            _ => Self::AfterOperator,
        }
    }

    /// Of a signature. `clock_is_off`: Vault's clock and ours are known to differ.
    pub(crate) fn of_signing(error: &SignError, clock_is_off: bool) -> Self {
        match error {
            SignError::Server(error) => Self::of_server(error),
            SignError::Mismatch(Mismatch::NotYetValid { .. } | Mismatch::Expired { .. }) => {
                Self::AfterClockIsSet
            }
            SignError::Mismatch(Mismatch::TooLong { .. }) if clock_is_off => Self::AfterClockIsSet,
            SignError::Refused { .. } | SignError::Mismatch(_) => Self::AfterOperator,
            SignError::Key(_) => Self::Never,
            _ => Self::AfterOperator,
        }
    }

    /// Of a bastion that was reached. `worked`: the same certificate has logged in before, so that another one may do.
    pub(crate) fn of_bastion(refusal: &Refusal, worked: bool) -> Self {
        match refusal {
            Refusal::Lost(_) => Self::Soon,
            Refusal::HostKey(HostKeyMismatch::NotYet { wait }) if *wait <= LITTLE_BEHIND => Self::Soon,
            Refusal::HostKey(HostKeyMismatch::NotYet { .. }) => Self::AfterClockIsSet,
            Refusal::HostKey(
                HostKeyMismatch::BareKey { .. }
                | HostKeyMismatch::OtherKey { .. }
                | HostKeyMismatch::OtherAuthority { .. }
                | HostKeyMismatch::NotAHost
                | HostKeyMismatch::OtherName { .. }
                | HostKeyMismatch::Expired
                | HostKeyMismatch::CriticalOption
                | HostKeyMismatch::Weak
                | HostKeyMismatch::Signature,
            )
            | Refusal::NotStrict
            | Refusal::Algorithms(_) => Self::OnAnotherRoute,
            Refusal::Certificate(_) if worked => Self::Soon,
            Refusal::Certificate(None) => Self::AfterOperator,
            Refusal::Certificate(Some(why)) => match code(why) {
                code if is_for_now(code) => Self::Soon,
                "not_yet_valid" => Self::AfterClockIsSet,
                // This computer is elsewhere, and may be back.
                "source_address" => Self::OnAnotherRoute,
                code if LASTING.contains(&code) => Self::Never,
                _ => Self::AfterOperator,
            },
        }
    }
}

/// What the bastion says of a certificate that no other day will make better. An authority that it does not know may be
/// one that it has not read yet, and what has ended has a successor: neither is here.
const LASTING: [&str; 25] = [
    "certificate_too_large",
    "certificate_malformed",
    "not_a_user_certificate",
    "certificate_chain",
    "weak_authority",
    "weak_key",
    "signature_algorithm",
    "signature_invalid",
    "validity_malformed",
    "lifetime_too_long",
    "no_principals",
    "too_many_principals",
    "bad_principal",
    "not_a_principal",
    "unknown_user",
    "key_id_too_long",
    "unknown_critical_option",
    "force_command",
    "verify_required",
    "source_address_malformed",
    "permit_open_malformed",
    "key_revoked",
    "key_id_revoked",
    "serial_revoked",
    "authority_revoked",
];

#[cfg(test)]
mod tests;
