//! Checks that a certificate is what was asked for. One that is not is not used.

use crate::domain::PERMIT_OPEN;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::{Algorithm, Certificate, HashAlg, PublicKey, certificate::CertType, public::KeyData};
use tokio::time::{Instant, sleep};

use crate::{
    request::{Kind, Request},
    text::shown,
};

/// The largest certificate that is parsed, in bytes of its text: 16 KiB in base64, and some for the comment.
const LARGEST: usize = 16 * 1024 / 3 * 4 + 512;

/// By how much a certificate may outlive what was asked for, since two clocks never agree.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// How long it is waited for that a certificate begins to be valid by the clock here.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The smallest RSA key whose signature is believed, in bits.
const SMALLEST_RSA: u32 = 2048;

/// In what the certificate differs from what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Longer than any certificate.
    #[error("it is larger than 16 KiB")]
    TooLarge,
    /// Not an OpenSSH certificate.
    #[error("it is not an OpenSSH certificate")]
    Malformed,
    /// It certifies another key.
    #[error("it is for another key: {got} instead of {asked}")]
    Key {
        /// Fingerprint of the key that was sent.
        asked: String,
        /// Fingerprint of the key in the certificate.
        got: String,
    },
    /// A host's certificate for a user, or the other way round.
    #[error("it is a {got} certificate instead of a {asked} certificate")]
    Kind {
        /// What was asked for.
        asked: &'static str,
        /// What came.
        got: &'static str,
    },
    /// It names no principal, so a careless server lets it log in as any user.
    #[error("it has no principals, so it could be used as any user")]
    NoPrincipals,
    /// A principal that was asked for is missing.
    #[error("it does not have the principal `{name}`")]
    MissingPrincipal {
        /// Who, escaped.
        name: String,
    },
    /// A principal that was not asked for is there.
    #[error("it has the principal `{name}`, which was not asked for")]
    ExtraPrincipal {
        /// Who, escaped.
        name: String,
    },
    /// A template that Vault did not fill in, as for a root token, which has no entity.
    #[error("its principal is the template `{name}`, which Vault could not fill in for this token")]
    Template {
        /// The template, escaped.
        name: String,
    },
    /// Not valid yet, by this computer's clock.
    #[error("it is valid only in {}; this computer's clock is that much behind, or the server's ahead", humantime::format_duration(*.wait))]
    NotYetValid {
        /// How far off, in whole seconds.
        wait: Duration,
    },
    /// Not valid any more, by this computer's clock.
    #[error("it ended {} ago; this computer's clock is ahead, or the server's behind", humantime::format_duration(*.ago))]
    Expired {
        /// How far off, in whole seconds.
        ago: Duration,
    },
    /// Times that contradict each other.
    #[error("it ends before it begins")]
    Backwards,
    /// It lives longer than was asked for.
    #[error("it lives {} longer than the {} that were asked for, or this computer's clock is that much behind", humantime::format_duration(*.excess), humantime::format_duration(*.asked))]
    TooLong {
        /// The time to live that was asked for.
        asked: Duration,
        /// By how much it lives longer.
        excess: Duration,
    },
    /// It never ends.
    #[error("it never ends")]
    Endless,
    /// An extension that was asked for is missing.
    #[error("it does not have the extension `{name}`")]
    MissingExtension {
        /// Which.
        name: String,
    },
    /// A condition that we cannot promise to keep, so that the server would refuse us.
    #[error("it has the critical option `{name}`, which cannot be honoured here")]
    CriticalOption {
        /// Which, escaped.
        name: String,
    },
    /// Signed by a key that is not among the authorities.
    #[error("it is signed by {got}, which is not the authority")]
    Authority {
        /// Fingerprint of the key that signed.
        got: String,
    },
    /// A kind of signature that is not to be believed: SHA-1, DSA, a short RSA key, or a certificate as a key.
    #[error("it is signed with {algorithm}, which is not secure")]
    WeakSignature {
        /// Which, escaped.
        algorithm: String,
    },
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
}

/// The name of [`HonouredOption::PermitOpen`] before the first release, which roles of a Vault may still write.
const FORMER_PERMIT_OPEN: &str = "permit-open@tunnel-suite.invalid";

/// A critical option of a user's certificate that the bastion honours, and that the client therefore takes. This is the
/// one list of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HonouredOption {
    /// Binds the certificate to networks.
    SourceAddress,
    /// Our own, by which a certificate confines itself to destinations. Critical, so that every other server refuses it.
    PermitOpen,
}

impl HonouredOption {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::SourceAddress, Self::PermitOpen];

    /// Its name in a certificate.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceAddress => "source-address",
            Self::PermitOpen => PERMIT_OPEN,
        }
    }

    /// The option of this name, or of the one that it had before.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let former = (name == FORMER_PERMIT_OPEN).then_some(Self::PermitOpen);
        Self::ALL.into_iter().find(|option| option.name() == name).or(former)
    }
}

/// What of a certificate was left to the role that signed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftToTheRole {
    /// How long it lives.
    pub(crate) ttl: bool,
    /// Whom else it names.
    pub(crate) principals: bool,
}

/// Compares a certificate with what was asked for: same key, type, principals and dates; signed by one of
/// `authorities`, when those are known.
///
/// # Errors
/// The first [`Mismatch`].
pub fn check(
    text: &str,
    key: &PublicKey,
    request: &Request,
    authorities: Option<&[PublicKey]>,
    now: SystemTime,
) -> Result<Certificate, Mismatch> {
    check_but_for(LeftToTheRole::default(), text, key, request, authorities, now)
}

pub(crate) fn check_but_for(
    left: LeftToTheRole,
    text: &str,
    key: &PublicKey,
    request: &Request,
    authorities: Option<&[PublicKey]>,
    now: SystemTime,
) -> Result<Certificate, Mismatch> {
    let text = text.trim();
    if text.len() > LARGEST {
        return Err(Mismatch::TooLarge);
    }
    let certificate = Certificate::from_openssh(text).map_err(|_| Mismatch::Malformed)?;
    same_key(&certificate, key)?;
    same_kind(&certificate, request.kind)?;
    same_principals(&certificate, &request.principals, left.principals)?;
    let asked = (!left.ttl).then_some(request.ttl);
    dates(certificate.valid_after(), certificate.valid_before(), asked, now)?;
    options(&certificate, request)?;
    signature(&certificate, authorities)?;
    Ok(certificate)
}

/// What `check` says, once the certificate is valid by the clock here: one that is a little behind would refuse every
/// certificate that there is, since a later one begins later.
pub(crate) async fn once_valid<T>(check: impl Fn(SystemTime) -> Result<T, Mismatch>) -> Result<T, Mismatch> {
    let deadline = Instant::now() + LONGEST_WAIT;
    loop {
        match check(SystemTime::now()) {
            Err(Mismatch::NotYetValid { wait }) if Instant::now() + wait <= deadline => sleep(wait).await,
            checked => return checked,
        }
    }
}

fn same_key(certificate: &Certificate, key: &PublicKey) -> Result<(), Mismatch> {
    if certificate.public_key() == key.key_data() {
        return Ok(());
    }
    Err(Mismatch::Key {
        asked: key.fingerprint(HashAlg::Sha256).to_string(),
        got: certificate.public_key().fingerprint(HashAlg::Sha256).to_string(),
    })
}

fn same_kind(certificate: &Certificate, asked: Kind) -> Result<(), Mismatch> {
    let got = match certificate.cert_type() {
        CertType::User => Kind::User,
        CertType::Host => Kind::Host,
    };
    if got == asked { Ok(()) } else { Err(Mismatch::Kind { asked: asked.name(), got: got.name() }) }
}

fn same_principals(certificate: &Certificate, asked: &[String], others_too: bool) -> Result<(), Mismatch> {
    let got = certificate.valid_principals();
    if got.is_empty() {
        return Err(Mismatch::NoPrincipals);
    }
    if let Some(name) = got.iter().find(|name| name.contains("{{")) {
        return Err(Mismatch::Template { name: shown(name) });
    }
    if let Some(name) = asked.iter().find(|name| !got.contains(name)) {
        return Err(Mismatch::MissingPrincipal { name: shown(name) });
    }
    match got.iter().find(|name| !asked.contains(name)) {
        Some(name) if !asked.is_empty() && !others_too => Err(Mismatch::ExtraPrincipal { name: shown(name) }),
        Some(_) | None => Ok(()),
    }
}

fn dates(after: u64, before: u64, asked: Option<Duration>, now: SystemTime) -> Result<(), Mismatch> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // PROTOCOL.certkeys has no other way to say "for ever" than times that no clock reaches.
    if i64::try_from(before).is_err() {
        return Err(Mismatch::Endless);
    }
    if before <= after {
        return Err(Mismatch::Backwards);
    }
    if now < after {
        return Err(Mismatch::NotYetValid { wait: Duration::from_secs(after - now) });
    }
    if before <= now {
        return Err(Mismatch::Expired { ago: Duration::from_secs(now - before) });
    }
    let Some(asked) = asked else { return Ok(()) };
    let excess = Duration::from_secs(before - now).saturating_sub(asked);
    if excess > ALLOWANCE { Err(Mismatch::TooLong { asked, excess }) } else { Ok(()) }
}

fn options(certificate: &Certificate, request: &Request) -> Result<(), Mismatch> {
    let extensions = certificate.extensions();
    if let Some(name) = request.extensions.iter().find(|name| !extensions.contains_key(*name)) {
        return Err(Mismatch::MissingExtension { name: shown(name) });
    }
    // The server applies them; a host certificate has no options at all.
    let honoured = |name: &str| request.kind == Kind::User && HonouredOption::of(name).is_some();
    match certificate.critical_options().keys().find(|name| !honoured(name)) {
        Some(name) => Err(Mismatch::CriticalOption { name: shown(name) }),
        None => Ok(()),
    }
}

fn signature(certificate: &Certificate, authorities: Option<&[PublicKey]>) -> Result<(), Mismatch> {
    let signer = certificate.signature_key();
    if authorities.is_some_and(|known| !known.iter().any(|key| key.key_data() == signer)) {
        return Err(Mismatch::Authority { got: signer.fingerprint(HashAlg::Sha256).to_string() });
    }
    let algorithm = certificate.signature().algorithm();
    let strong = match signer {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
            true
        }
        KeyData::Rsa(key) => {
            key.key_size() >= SMALLEST_RSA
                && matches!(algorithm, Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) })
        }
        KeyData::Dsa(_) | KeyData::Certificate(_) | KeyData::Other(_) => false,
        // The enum is another crate's and may grow; a new one is not accepted before it has a rule here.
        _ => false,
    };
    if !strong {
        return Err(Mismatch::WeakSignature { algorithm: shown(algorithm.as_str()) });
    }
    certificate.verify_signature().map_err(|_| Mismatch::Signature)
}

#[cfg(test)]
mod tests;
