//! Decides whether a certificate may log in: certificate, authorities, client and time in, [`Identity`] or
//! the reason for the refusal out. No IO, no clock.
//!
//! This module is the whole admission. The format is OpenSSH's PROTOCOL.certkeys. The order of the checks is
//! part of the contract, because the first failed check is the reason that is reported.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use ssh_key::{Algorithm, Certificate, HashAlg, certificate::CertType, public::KeyData};
use thiserror::Error;
use vault_signer::certificate::HonouredOption;

use super::{
    Identity, LoginName, MAX_BLOB, Principal,
    authorities::{self, AuthoritySet, Unfit},
    fingerprint,
    revocation::{RevocationList, Revoked},
};
use crate::destination::pattern::DestinationPattern;

/// How much longer than [`Requirements::max_lifetime`] a certificate may live. The setting is the lifetime
/// that a client asks the authority for, and authorities backdate `valid after` for clients whose clocks are
/// behind: Vault and OpenBao by 30 s, `ssh-keygen -V +1d` to the beginning of the minute before the last, so
/// by up to 118 s.
pub const BACKDATING: Duration = Duration::from_secs(120);
/// The most principals that a certificate may carry.
pub const MAX_PRINCIPALS: usize = 256;
/// The longest key id, in bytes.
pub const MAX_KEY_ID: usize = 1024;
/// The most networks in `source-address`.
const MAX_SOURCES: usize = 64;
/// The most destinations in `permit-open`.
const MAX_DESTINATIONS: usize = 64;

/// The extension without which the bastion does not forward.
const PERMIT_PORT_FORWARDING: &str = "permit-port-forwarding";
/// Our own critical option, by which an authority limits a certificate to some destinations.
pub const PERMIT_OPEN: &str = HonouredOption::PermitOpen.name();

/// The operator's requirements of certificates.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// The authorities that may sign.
    pub authorities: AuthoritySet,
    /// The names that may log in. The name must also be among the certificate's principals, as for sshd.
    pub users: Vec<LoginName>,
    /// The longest time from `valid after` to `valid before`, to which [`BACKDATING`] is added.
    pub max_lifetime: Duration,
    /// The revocation lists, which refuse a certificate that is otherwise good.
    pub revoked: RevocationList,
    /// Whether live sessions end when their authority is no longer trusted.
    pub removed_authority: RemovedAuthority,
}

/// Whether sessions end when their authority is no longer trusted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovedAuthority {
    /// The sessions end within seconds.
    #[default]
    EndSessions,
    /// The sessions run until their certificates expire: for a planned rotation, in which the old authority's
    /// key is not compromised.
    LetRunOut,
}

/// What the client claims beside its certificate.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The login name that the client sent.
    pub login: &'a LoginName,
    /// The client's address.
    pub client: IpAddr,
}

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// The certificate is larger than [`MAX_BLOB`].
    #[error("the certificate is larger than {MAX_BLOB} bytes")]
    TooLarge,
    /// The certificate does not parse, or bytes follow it.
    #[error("the certificate is malformed")]
    Malformed,
    /// The certificate is a host certificate, or of a type that does not exist.
    #[error("it is not a user certificate")]
    NotForUsers,
    /// The certificate is signed by another certificate instead of a key.
    #[error("its authority is itself a certificate; chains are not accepted")]
    Chained,
    /// The certificate is signed by a key that the bastion does not trust.
    #[error("its authority is not trusted here")]
    UnknownAuthority,
    /// The trusted key that signed is too weak for an authority.
    #[error("its authority's key is not accepted: {0}")]
    WeakAuthority(Unfit),
    /// The certified key is too weak.
    #[error("the user's key is not accepted: {0}")]
    WeakKey(Unfit),
    /// The signature uses SHA-1, or an algorithm that does not fit the authority's key.
    #[error("its authority signed with an algorithm that is not accepted (SHA-1, or not the key's own)")]
    SignatureAlgorithm,
    /// The signature does not verify with the authority's key.
    #[error("its signature is wrong")]
    Signature,
    /// `valid after` is in the future.
    #[error("it is not valid yet; compare the clocks")]
    NotYetValid,
    /// `valid before` has passed.
    #[error("it has expired")]
    Expired,
    /// The validity ends before it begins, or at a time that no clock shows.
    #[error("its validity makes no sense")]
    Validity,
    /// The certificate lives longer than `max_lifetime` and [`BACKDATING`] allow.
    #[error(
        "it is valid for longer than {}, which is the most here (limits.max_certificate_lifetime)",
        humantime::format_duration(*.0)
    )]
    TooLongLived(Duration),
    /// The certificate has no principals, and so would be valid for every user.
    #[error("it names no principal, which would make it valid for every user")]
    NoPrincipals,
    /// The certificate has more than [`MAX_PRINCIPALS`] principals.
    #[error("it names more than {MAX_PRINCIPALS} principals")]
    TooManyPrincipals,
    /// A principal is longer than [`Principal::MAX`]; holds its beginning, escaped.
    #[error("its principal `{0}` is longer than {most} bytes", most = Principal::MAX)]
    PrincipalTooLong(String),
    /// The login name is among the principals but is not a plain name; escaped.
    #[error(
        "its principal `{0}` is no name to log in by: that has 1 to 64 characters out of A-Z a-z 0-9 . _ @ -"
    )]
    BadPrincipal(String),
    /// The login name is not among the principals.
    #[error("the login name `{login}` is not among its principals, {principals}")]
    NotAPrincipal {
        /// The login name, escaped.
        login: String,
        /// The principals, or the first few of them, escaped.
        principals: String,
    },
    /// The login name is not in `login.users`; escaped.
    #[error("no client may log in as `{0}` here (login.users)")]
    UnknownUser(String),
    /// The key id is longer than [`MAX_KEY_ID`].
    #[error("its key id is longer than {MAX_KEY_ID} bytes")]
    KeyIdTooLong,
    /// The certificate has a critical option that the bastion does not know and so cannot enforce.
    #[error("it carries a critical option that is not known here")]
    UnknownCriticalOption,
    /// The certificate is limited to one command, and the bastion runs no commands.
    #[error("it carries force-command, and no command runs here")]
    ForceCommand,
    /// The certificate demands user verification by the authenticator, which the bastion cannot check.
    #[error("it carries verify-required, which cannot be checked here")]
    VerifyRequired,
    /// The client's address is not in the certificate's `source-address`.
    #[error("it may not be used from this address")]
    SourceAddress,
    /// `source-address` is not a list of addresses and networks.
    #[error("its source-address is malformed")]
    MalformedSourceAddress,
    /// `permit-open` is not a list of destinations.
    #[error("its permit-open is malformed")]
    MalformedPermitOpen,
    /// A revocation list names the certificate, its key or its authority.
    #[error(transparent)]
    Revoked(#[from] Revoked),
}

impl Refused {
    /// The reason code in logs, metrics and messages to clients.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "certificate_too_large",
            Self::Malformed => "certificate_malformed",
            Self::NotForUsers => "not_a_user_certificate",
            Self::Chained => "certificate_chain",
            Self::UnknownAuthority => "unknown_authority",
            Self::WeakAuthority(_) => "weak_authority",
            Self::WeakKey(_) => "weak_key",
            Self::SignatureAlgorithm => "signature_algorithm",
            Self::Signature => "signature_invalid",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::Validity => "validity_malformed",
            Self::TooLongLived(_) => "lifetime_too_long",
            Self::NoPrincipals => "no_principals",
            Self::TooManyPrincipals => "too_many_principals",
            Self::PrincipalTooLong(_) => "principal_too_long",
            Self::BadPrincipal(_) => "bad_principal",
            Self::NotAPrincipal { .. } => "not_a_principal",
            Self::UnknownUser(_) => "unknown_user",
            Self::KeyIdTooLong => "key_id_too_long",
            Self::UnknownCriticalOption => "unknown_critical_option",
            Self::ForceCommand => "force_command",
            Self::VerifyRequired => "verify_required",
            Self::SourceAddress => "source_address",
            Self::MalformedSourceAddress => "source_address_malformed",
            Self::MalformedPermitOpen => "permit_open_malformed",
            Self::Revoked(revoked) => revoked.code(),
        }
    }
}

/// Parses exactly one certificate.
///
/// # Errors
/// [`Refused::TooLarge`] before anything is parsed, [`Refused::NotForUsers`] for a type that does not exist,
/// [`Refused::Malformed`] for everything else that is not exactly one certificate.
pub fn decode(blob: &[u8]) -> Result<Certificate, Refused> {
    if blob.len() > MAX_BLOB {
        return Err(Refused::TooLarge);
    }
    let certificate = Certificate::from_bytes(blob).map_err(|_| Refused::Malformed)?;
    // The parser ignores bytes at the end of some fields and drops them, signed or not.
    match certificate.to_bytes() {
        Ok(written) if written == blob => Ok(certificate),
        Ok(_) | Err(_) => Err(Refused::Malformed),
    }
}

/// Decides whether the holder of `certificate` may log in. The caller has verified that the client holds the
/// key.
///
/// # Errors
/// The first failed check, in the order of this function.
pub fn admit(
    certificate: &Certificate,
    claim: Claim<'_>,
    requirements: &Requirements,
    now: SystemTime,
) -> Result<Identity, Refused> {
    sizes(certificate)?;
    match certificate.cert_type() {
        CertType::User => {}
        CertType::Host => return Err(Refused::NotForUsers),
    }
    let authority = trusted_authority(certificate, &requirements.authorities)?;
    authorities::check(certificate.public_key()).map_err(Refused::WeakKey)?;
    if !accepted_signature(authority, &certificate.signature().algorithm()) {
        return Err(Refused::SignatureAlgorithm);
    }
    certificate.verify_signature().map_err(|_| Refused::Signature)?;
    let valid_before = validity(certificate, requirements.max_lifetime, now)?;
    let principals = principals(certificate, claim.login)?;
    if !requirements.users.contains(claim.login) {
        return Err(Refused::UnknownUser(shown(claim.login.as_str())));
    }
    if certificate.key_id().len() > MAX_KEY_ID {
        return Err(Refused::KeyIdTooLong);
    }
    let confined_to = critical_options(certificate, claim.client)?;
    if let Some(revoked) = requirements.revoked.revoked(certificate) {
        return Err(Refused::Revoked(revoked));
    }
    Ok(Identity {
        login: claim.login.clone(),
        principals: principals.to_vec(),
        key_id: certificate.key_id().to_owned(),
        serial: certificate.serial(),
        authority: fingerprint(authority),
        key: fingerprint(certificate.public_key()),
        valid_before,
        // Every other extension grants something that the bastion does not have.
        may_forward: certificate.extensions().contains_key(PERMIT_PORT_FORWARDING),
        confined_to,
    })
}

/// Decides about the certificate of a live session after the authorities, lists or settings changed.
///
/// # Errors
/// As for [`admit`], except for an authority whose sessions may run out.
pub fn admit_again(
    certificate: &Certificate,
    claim: Claim<'_>,
    requirements: &Requirements,
    now: SystemTime,
) -> Result<Identity, Refused> {
    match requirements.removed_authority {
        RemovedAuthority::EndSessions => admit(certificate, claim, requirements, now),
        RemovedAuthority::LetRunOut => {
            let authorities = requirements.authorities.with(certificate.signature_key());
            admit(certificate, claim, &Requirements { authorities, ..requirements.clone() }, now)
        }
    }
}

/// Whether a signature by `key` with this algorithm is accepted, an authority's or a user's. An RSA key can
/// sign with SHA-1 under another name, so the algorithm's name is checked (RFC 8332).
pub fn accepted_signature(key: &KeyData, algorithm: &Algorithm) -> bool {
    match algorithm {
        Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) } => matches!(key, KeyData::Rsa(_)),
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => key.algorithm() == *algorithm,
        // The library's enum may gain variants; unknown algorithms are refused.
        Algorithm::Rsa { .. } | Algorithm::Dsa | Algorithm::Other(_) | _ => false,
    }
}

fn sizes(certificate: &Certificate) -> Result<(), Refused> {
    let blob = certificate.to_bytes().map_err(|_| Refused::Malformed)?;
    if blob.len() > MAX_BLOB { Err(Refused::TooLarge) } else { Ok(()) }
}

fn trusted_authority<'a>(
    certificate: &'a Certificate,
    trusted: &AuthoritySet,
) -> Result<&'a KeyData, Refused> {
    let authority = certificate.signature_key();
    if let KeyData::Certificate(_) = authority {
        return Err(Refused::Chained);
    }
    if !trusted.contains(authority) {
        return Err(Refused::UnknownAuthority);
    }
    authorities::check(authority).map_err(Refused::WeakAuthority)?;
    Ok(authority)
}

/// Checks the validity in whole seconds: `valid after` is the first valid second, `valid before` one past the
/// last.
fn validity(
    certificate: &Certificate,
    max_lifetime: Duration,
    now: SystemTime,
) -> Result<SystemTime, Refused> {
    let (after, before) = (certificate.valid_after(), certificate.valid_before());
    let now = now.duration_since(UNIX_EPOCH).map_err(|_| Refused::NotYetValid)?.as_secs();
    if after >= before {
        return Err(Refused::Validity);
    }
    if now < after {
        return Err(Refused::NotYetValid);
    }
    if now >= before {
        return Err(Refused::Expired);
    }
    if Duration::from_secs(before - after) > max_lifetime.saturating_add(BACKDATING) {
        return Err(Refused::TooLongLived(max_lifetime));
    }
    UNIX_EPOCH.checked_add(Duration::from_secs(before)).ok_or(Refused::Validity)
}

/// Checks that the login name is, byte for byte, one of the principals, and returns them all. The other
/// principals may have any name: they matter to their authority and to the rules that name them.
fn principals<'a>(certificate: &'a Certificate, login: &LoginName) -> Result<&'a [String], Refused> {
    let names = certificate.valid_principals();
    if names.is_empty() {
        return Err(Refused::NoPrincipals);
    }
    if names.len() > MAX_PRINCIPALS {
        return Err(Refused::TooManyPrincipals);
    }
    if let Some(long) = names.iter().find(|name| name.len() > Principal::MAX) {
        return Err(Refused::PrincipalTooLong(shown(long)));
    }
    if !names.iter().any(|name| name == login.as_str()) {
        return Err(Refused::NotAPrincipal { login: shown(login.as_str()), principals: some(names) });
    }
    if !login.is_plain() {
        return Err(Refused::BadPrincipal(shown(login.as_str())));
    }
    Ok(names)
}

/// Escapes a name that the client chose, and cuts a long one.
fn shown(name: &str) -> String {
    const MOST: usize = 64;
    let mut chars = name.chars();
    let start: String = chars.by_ref().take(MOST).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { start + "…" } else { start }
}

/// Lists several names, or the first few.
fn some(names: &[String]) -> String {
    const MOST: usize = 4;
    let first: Vec<_> = names.iter().take(MOST).map(|name| format!("`{}`", shown(name))).collect();
    match names.len().saturating_sub(MOST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Checks the critical options; an unknown one makes the certificate invalid (PROTOCOL.certkeys). Returns the
/// destinations of `permit-open`.
fn critical_options(
    certificate: &Certificate,
    client: IpAddr,
) -> Result<Option<Vec<DestinationPattern>>, Refused> {
    let mut confined_to = None;
    for (name, value) in certificate.critical_options().iter() {
        match (HonouredOption::of(name), name.as_str()) {
            (Some(HonouredOption::SourceAddress), _) => source_address(value, client)?,
            // Under both of its names, neither list could be taken for the other.
            (Some(HonouredOption::PermitOpen), _) if confined_to.is_some() => {
                return Err(Refused::MalformedPermitOpen);
            }
            (Some(HonouredOption::PermitOpen), _) => confined_to = Some(permit_open(value)?),
            (None, "force-command") => return Err(Refused::ForceCommand),
            (None, "verify-required") => return Err(Refused::VerifyRequired),
            (None, _) => return Err(Refused::UnknownCriticalOption),
        }
    }
    Ok(confined_to)
}

/// Parses a list of destination patterns, separated by commas.
fn permit_open(list: &str) -> Result<Vec<DestinationPattern>, Refused> {
    if list.split(',').count() > MAX_DESTINATIONS {
        return Err(Refused::MalformedPermitOpen);
    }
    list.split(',').map(|text| text.parse().map_err(|_| Refused::MalformedPermitOpen)).collect()
}

/// Checks the client against a list of addresses and networks, separated by commas, as in `sshd_config`'s
/// `Match address`, without negation.
fn source_address(list: &str, client: IpAddr) -> Result<(), Refused> {
    if list.split(',').count() > MAX_SOURCES {
        return Err(Refused::MalformedSourceAddress);
    }
    let networks: Vec<IpNet> =
        list.split(',').map(network).collect::<Option<_>>().ok_or(Refused::MalformedSourceAddress)?;
    let client = client.to_canonical();
    if networks.iter().any(|network| network.contains(&client)) {
        Ok(())
    } else {
        Err(Refused::SourceAddress)
    }
}

/// Parses one address, or one network without host bits.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    (network.trunc() == network).then_some(network)
}

#[cfg(test)]
pub(crate) mod tests;
