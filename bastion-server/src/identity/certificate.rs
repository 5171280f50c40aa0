//! Certificate, authorities, client and time in; [`Identity`] or the reason why not out. No IO, no clock.
//!
//! This is the whole admission. The format is OpenSSH's PROTOCOL.certkeys; the order of the checks is part of the
//! contract, since the first reason found is the one that is told.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use ssh_key::{Algorithm, Certificate, HashAlg, certificate::CertType, public::KeyData};
use thiserror::Error;
use vault_signer::certificate::HonouredOption;

use super::authorities::{self, AuthoritySet, Unfit};
use super::revocation::{RevocationList, Revoked};
use super::{Identity, LoginName, MAX_BLOB, Principal, fingerprint};
use crate::destination::pattern::DestinationPattern;

/// By how much a certificate may live longer than [`Requirements::max_lifetime`], which is meant as the time that an authority
/// is asked for: they put the start back, for clocks that are behind. Vault and OpenBao do so by 30 s, and `ssh-keygen -V +1d` to
/// the beginning of the minute before the last: by up to 118 s.
pub const BACKDATING: Duration = Duration::from_secs(120);
/// The most principals one certificate may carry.
pub const MAX_PRINCIPALS: usize = 256;
/// The longest key id, in bytes.
pub const MAX_KEY_ID: usize = 1024;
/// The most networks in `source-address`.
const MAX_SOURCES: usize = 64;
/// The most destinations in `permit-open`.
const MAX_DESTINATIONS: usize = 64;

/// The extension without which nothing is forwarded.
const PERMIT_PORT_FORWARDING: &str = "permit-port-forwarding";
/// Our own critical option, by which a certificate confines itself to destinations.
pub const PERMIT_OPEN: &str = HonouredOption::PermitOpen.name();

/// What the operator decided about certificates.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// Who may sign.
    pub authorities: AuthoritySet,
    /// Who may log in. The name must also be among the certificate's principals, as for sshd.
    pub users: Vec<LoginName>,
    /// The longest time from `valid after` to `valid before`, but for [`BACKDATING`].
    pub max_lifetime: Duration,
    /// What is not accepted any more, although everything else about it is right.
    pub revoked: RevocationList,
    /// What becomes of live sessions whose authority is trusted no more.
    pub removed_authority: RemovedAuthority,
}

/// What becomes of live sessions whose authority is trusted no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovedAuthority {
    /// They end.
    #[default]
    EndSessions,
    /// They run until their certificates end: for a planned rotation, where the authority is no danger.
    LetRunOut,
}

/// What a client claims, next to its certificate.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The name it logs in as.
    pub login: &'a LoginName,
    /// The address it comes from.
    pub client: IpAddr,
}

/// Why a certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// More than [`MAX_BLOB`].
    #[error("the certificate is larger than {MAX_BLOB} bytes")]
    TooLarge,
    /// It does not parse, or something stands after it.
    #[error("the certificate is malformed")]
    Malformed,
    /// A host certificate, or a type that does not exist.
    #[error("it is not a user certificate")]
    NotForUsers,
    /// Signed by a certificate in place of a key.
    #[error("its authority is itself a certificate; chains are not accepted")]
    Chained,
    /// Signed by a key that is not trusted here.
    #[error("its authority is not trusted here")]
    UnknownAuthority,
    /// A trusted authority that is not fit to be one.
    #[error("its authority's key is not accepted: {0}")]
    WeakAuthority(Unfit),
    /// The certified key is not strong enough.
    #[error("the user's key is not accepted: {0}")]
    WeakKey(Unfit),
    /// SHA-1, or an algorithm that does not fit the authority's key.
    #[error("its authority signed with an algorithm that is not accepted (SHA-1, or not the key's own)")]
    SignatureAlgorithm,
    /// The signature is not over this certificate by this authority.
    #[error("its signature is wrong")]
    Signature,
    /// Its time has not come.
    #[error("it is not valid yet; compare the clocks")]
    NotYetValid,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// It ends before it begins, or at a time that no clock shows.
    #[error("its validity makes no sense")]
    Validity,
    /// It lives for longer than is accepted, [`BACKDATING`] included.
    #[error(
        "it is valid for longer than {}, which is the most here (limits.max_certificate_lifetime)",
        humantime::format_duration(*.0)
    )]
    TooLongLived(Duration),
    /// No principals: a certificate for anybody.
    #[error("it names no principal, which would make it valid for anybody")]
    NoPrincipals,
    /// More than [`MAX_PRINCIPALS`].
    #[error("it names more than {MAX_PRINCIPALS} principals")]
    TooManyPrincipals,
    /// A principal longer than [`Principal::MAX`]; holds its beginning, escaped.
    #[error("its principal `{0}` is longer than {most} bytes", most = Principal::MAX)]
    PrincipalTooLong(String),
    /// A login name that is no plain one, though it is among the principals; escaped.
    #[error(
        "its principal `{0}` is no name to log in by: that has 1 to 64 characters out of A-Z a-z 0-9 . _ @ -"
    )]
    BadPrincipal(String),
    /// The login name is not one of the principals.
    #[error("the login name `{login}` is not among its principals, {principals}")]
    NotAPrincipal {
        /// The login name, escaped.
        login: String,
        /// The principals, escaped, or the first of them.
        principals: String,
    },
    /// The login name is not one that anybody may use here; escaped.
    #[error("nobody logs in as `{0}` here (login.users)")]
    UnknownUser(String),
    /// A key id longer than [`MAX_KEY_ID`].
    #[error("its key id is longer than {MAX_KEY_ID} bytes")]
    KeyIdTooLong,
    /// A restriction that is not known here, so it cannot be honoured.
    #[error("it carries a critical option that is not known here")]
    UnknownCriticalOption,
    /// A restriction to one command, and commands are not what this host is for.
    #[error("it carries force-command, and no command runs here")]
    ForceCommand,
    /// A demand for a verified user that cannot be checked here.
    #[error("it carries verify-required, which cannot be checked here")]
    VerifyRequired,
    /// The client is not where the certificate may be used.
    #[error("it may not be used from this address")]
    SourceAddress,
    /// The list of addresses is not one.
    #[error("its source-address is malformed")]
    MalformedSourceAddress,
    /// The list of destinations is not one.
    #[error("its permit-open is malformed")]
    MalformedPermitOpen,
    /// It, its key or its authority is on a list.
    #[error(transparent)]
    Revoked(#[from] Revoked),
}

impl Refused {
    /// The reason as logs, metrics and clients know it.
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

/// Parses one certificate and nothing else.
///
/// # Errors
/// [`Refused::TooLarge`] before anything is looked at, [`Refused::NotForUsers`] for a type that does not exist,
/// [`Refused::Malformed`] for everything that is not exactly one certificate.
pub fn decode(blob: &[u8]) -> Result<Certificate, Refused> {
    if blob.len() > MAX_BLOB {
        return Err(Refused::TooLarge);
    }
    let certificate = Certificate::from_bytes(blob).map_err(|_| Refused::Malformed)?;
    // The parser overlooks bytes at the end of some fields, and forgets them, signed or not.
    match certificate.to_bytes() {
        Ok(written) if written == blob => Ok(certificate),
        Ok(_) | Err(_) => Err(Refused::Malformed),
    }
}

/// Decides whether the holder of `certificate` may log in. That it holds the key is for the caller to have verified.
///
/// # Errors
/// The first reason against it, in the order of this function.
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
        // Every other extension grants something that does not exist here.
        may_forward: certificate.extensions().contains_key(PERMIT_PORT_FORWARDING),
        confined_to,
    })
}

/// Decides about the certificate of a live session, after something changed.
///
/// # Errors
/// As for [`admit`], but for an authority whose sessions may run out.
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

/// Whether such a signature by `key` is believed, be it an authority's or a user's own. An RSA key can sign with SHA-1
/// under another name, so the name is what is checked (RFC 8332).
pub fn accepted_signature(key: &KeyData, algorithm: &Algorithm) -> bool {
    match algorithm {
        Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) } => matches!(key, KeyData::Rsa(_)),
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => key.algorithm() == *algorithm,
        // The library's enum may grow; what is not known here is not accepted.
        Algorithm::Rsa { .. } | Algorithm::Dsa | Algorithm::Other(_) | _ => false,
    }
}

/// Both ends count in whole seconds: `valid after` is the first, `valid before` is one past the last.
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

/// The principals, of which the login name is one, byte for byte. What the others are called is the affair of their authority
/// and of the rules that name them.
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

/// A name that others chose, for a sentence: escaped, and not all of a long one.
fn shown(name: &str) -> String {
    const MOST: usize = 64;
    let mut chars = name.chars();
    let start: String = chars.by_ref().take(MOST).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { start + "…" } else { start }
}

/// Several of them, or the first few.
fn some(names: &[String]) -> String {
    const MOST: usize = 4;
    let first: Vec<_> = names.iter().take(MOST).map(|name| format!("`{}`", shown(name))).collect();
    match names.len().saturating_sub(MOST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// A critical option that is not honoured makes the certificate void (PROTOCOL.certkeys). Returns the destinations that
/// the certificate confines itself to.
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

/// A list of destinations as in a rule, separated by commas.
fn permit_open(list: &str) -> Result<Vec<DestinationPattern>, Refused> {
    if list.split(',').count() > MAX_DESTINATIONS {
        return Err(Refused::MalformedPermitOpen);
    }
    list.split(',').map(|text| text.parse().map_err(|_| Refused::MalformedPermitOpen)).collect()
}

/// A list of addresses and networks, separated by commas, as in `sshd_config`'s `Match address`, without negation.
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

/// One address, or a network without host bits.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    (network.trunc() == network).then_some(network)
}

#[cfg(test)]
pub(crate) mod tests;
