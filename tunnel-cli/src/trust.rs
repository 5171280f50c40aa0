//! Judges whether a server is the bastion, from what the configuration trusts and what the server presented. Pure.
//!
//! russh verifies that the server holds the key it presents, and nothing else: whether that key, or the authority
//! behind its certificate, is one of ours is decided here. There is no third answer, such as asking the user.

mod key_lines;
pub(crate) mod known_hosts;

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use russh::keys::{
    Algorithm, Certificate, HashAlg, PublicKey, PublicKeyOrCertificate,
    ssh_key::{certificate::CertType, public::KeyData},
};

use crate::endpoint::Host;
use key_lines::Wanted;

/// The longest file of keys that is read, in bytes.
const LONGEST_FILE: u64 = 64 * 1024;

/// What the configuration trusts. There is no value for "any host".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Host certificates that one of these keys signed.
    Authorities(Vec<PublicKey>),
    /// Exactly these keys.
    Keys(Vec<PublicKey>),
}

/// Why a configured key cannot be used. Never repeats the text, which may be a secret put in the wrong place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTrust {
    /// Looks like a key and is none.
    #[error("this is not a public key; one looks like ssh-ed25519 AAAA…")]
    NotAKey,
    /// A file that cannot be read.
    #[error("this is neither a public key nor a file of them: the file cannot be read ({0})")]
    Unreadable(std::io::ErrorKind),
    /// A file of something else.
    #[error("{}: line {line} is not a public key; one looks like ssh-ed25519 AAAA…", .path.display())]
    NotAKeyInFile {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A line of a file that is of another kind.
    #[error("{}: line {line}: {why}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: Box<BadTrust>,
    },
    /// `@cert-authority` where a host's own key is meant.
    #[error("this is an authority's line (@cert-authority); write it under host_authority")]
    IsAnAuthoritysLine,
    /// A host's own line where an authority is meant.
    #[error(
        "this is the line of one host's own key; write it under host_key, or the key alone if it is an authority's"
    )]
    IsAHostsLine,
    /// `@revoked`, or one that is not known.
    #[error("this marker is not supported; only @cert-authority is")]
    Marker,
    /// A whole `known_hosts`.
    #[error("there are lines for several hosts; write the bastion's own")]
    SeveralHosts,
    /// A private key.
    #[error("the file holds a private key, and nothing here needs one; name the .pub file beside it")]
    Private,
    /// Nothing in it.
    #[error("there is no key in it")]
    Empty,
    /// A directory or a device, or larger than any list of keys.
    #[error("this is not a file of public keys")]
    NotAFile,
}

/// Why this is not the bastion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostKeyMismatch {
    /// A bare key where an authority is configured: what an attacker without a certificate has.
    #[error("it presented a bare key ({presented}) and no certificate of your host authority")]
    BareKey {
        /// Its fingerprint.
        presented: String,
    },
    /// A key that is not one of the pinned ones.
    #[error("it presented the key {presented}, which is not the pinned one")]
    OtherKey {
        /// Its fingerprint.
        presented: String,
    },
    /// A certificate that another authority signed.
    #[error("its host certificate is signed by {presented}, which is not your host authority")]
    OtherAuthority {
        /// The fingerprint of that authority.
        presented: String,
    },
    /// A certificate for users.
    #[error("it presented a certificate that is not a host's")]
    NotAHost,
    /// A certificate for another name, or for none.
    #[error("its host certificate is for {names}, not for {wanted}")]
    OtherName {
        /// Escaped and cut.
        names: String,
        /// The name that was connected to.
        wanted: String,
    },
    /// A certificate whose time is over.
    #[error("its host certificate has expired")]
    Expired,
    /// A certificate whose time has not begun, by this computer's clock.
    #[error(
        "its host certificate is valid only in {}; this computer's clock is that much behind, or the bastion's ahead",
        humantime::format_duration(*.wait)
    )]
    NotYet {
        /// How far off, in whole seconds.
        wait: Duration,
    },
    /// A certificate with conditions that cannot be checked here.
    #[error("its host certificate has a critical option, which no host certificate needs")]
    CriticalOption,
    /// SHA-1, DSA, or RSA below 2048 bits.
    #[error("its host certificate is signed with an algorithm that is too weak")]
    Weak,
    /// The signature does not fit.
    #[error("the signature of its host certificate is wrong")]
    Signature,
}

impl Trust {
    /// Each text is a public key, or names a file of them relative to `folder`.
    ///
    /// # Errors
    /// When one is neither.
    pub(crate) fn authorities(texts: &[impl AsRef<str>], folder: &Path) -> Result<Self, BadTrust> {
        keys(texts, folder, Wanted::Authorities).map(Self::Authorities)
    }

    /// The same, for pinned keys.
    ///
    /// # Errors
    /// When one is neither.
    pub(crate) fn keys(texts: &[impl AsRef<str>], folder: &Path) -> Result<Self, BadTrust> {
        keys(texts, folder, Wanted::HostKeys).map(Self::Keys)
    }

    /// The keys that these texts are. No file is looked for: their author does not know this computer.
    ///
    /// # Errors
    /// When one is not a public key.
    pub(crate) fn stated(texts: &[impl AsRef<str>]) -> Result<Vec<PublicKey>, BadTrust> {
        let key = |text: &str| PublicKey::from_openssh(text.trim()).map_err(|_| BadTrust::NotAKey);
        texts.iter().map(|text| key(text.as_ref())).collect()
    }

    /// The setting that says this.
    pub(crate) fn setting(&self) -> &'static str {
        match self {
            Self::Authorities(_) => "bastion.host_authority",
            Self::Keys(_) => "bastion.host_key",
        }
    }

    /// Whether `presented` proves that the server is `host`, at `now`.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn verify(
        &self,
        presented: &PublicKeyOrCertificate,
        host: &Host,
        now: SystemTime,
    ) -> Result<(), HostKeyMismatch> {
        match (self, presented) {
            (Self::Authorities(authorities), PublicKeyOrCertificate::Certificate(certificate)) => {
                verify_certificate(certificate, authorities, host, now)
            }
            (Self::Authorities(_), PublicKeyOrCertificate::PublicKey { key, .. }) => {
                Err(HostKeyMismatch::BareKey { presented: fingerprint(key.key_data()) })
            }
            (Self::Keys(keys), presented) => {
                let key = presented.public_key();
                if keys.iter().any(|known| known.key_data() == key.key_data()) {
                    return Ok(());
                }
                Err(HostKeyMismatch::OtherKey { presented: fingerprint(key.key_data()) })
            }
        }
    }
}

/// The fingerprints, which are what people compare.
impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Authorities(keys) | Self::Keys(keys)) = self;
        let prints: Vec<String> = keys.iter().map(|key| fingerprint(key.key_data())).collect();
        f.write_str(&prints.join(", "))
    }
}

fn verify_certificate(
    certificate: &Certificate,
    authorities: &[PublicKey],
    host: &Host,
    now: SystemTime,
) -> Result<(), HostKeyMismatch> {
    let authority = certificate.signature_key();
    if !authorities.iter().any(|known| known.key_data() == authority) {
        return Err(HostKeyMismatch::OtherAuthority { presented: fingerprint(authority) });
    }
    match certificate.cert_type() {
        CertType::Host => {}
        CertType::User => return Err(HostKeyMismatch::NotAHost),
    }
    if !is_strong(authority, &certificate.signature().algorithm()) {
        return Err(HostKeyMismatch::Weak);
    }
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The name of the function warns that it does not say who signed; that was asked above.
    certificate.verify_signature().map_err(|_| HostKeyMismatch::Signature)?;
    if now < certificate.valid_after() {
        return Err(HostKeyMismatch::NotYet { wait: Duration::from_secs(certificate.valid_after() - now) });
    }
    if now >= certificate.valid_before() {
        return Err(HostKeyMismatch::Expired);
    }
    if !certificate.critical_options().is_empty() {
        return Err(HostKeyMismatch::CriticalOption);
    }
    let wanted = host.bare();
    let names = certificate.valid_principals();
    // A certificate for no name is one for every name, to OpenSSH. Here it is one for none.
    if !names.iter().any(|name| name.eq_ignore_ascii_case(&wanted)) {
        return Err(HostKeyMismatch::OtherName { names: listed(names), wanted });
    }
    Ok(())
}

/// Whether no attacker can forge what this key signs with this algorithm.
fn is_strong(key: &KeyData, algorithm: &Algorithm) -> bool {
    match (key, algorithm) {
        (KeyData::Rsa(key), Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) }) => {
            key.n().as_bytes().len() >= 2048 / 8
        }
        (KeyData::Ed25519(_), Algorithm::Ed25519)
        | (KeyData::SkEd25519(_), Algorithm::SkEd25519)
        | (KeyData::SkEcdsaSha2NistP256(_), Algorithm::SkEcdsaSha2NistP256) => true,
        (KeyData::Ecdsa(key), Algorithm::Ecdsa { curve }) => key.curve() == *curve,
        _ => false,
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "no name".to_owned();
    }
    let mut text =
        names.iter().take(4).map(|name| plain_text::escaped(name, 80)).collect::<Vec<_>>().join(", ");
    if names.len() > 4 {
        text.push_str(", …");
    }
    text
}

fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn keys(texts: &[impl AsRef<str>], folder: &Path, wanted: Wanted) -> Result<Vec<PublicKey>, BadTrust> {
    let mut all = Vec::new();
    for text in texts {
        let text = text.as_ref().trim();
        if key_lines::is_text(text) {
            all.extend(key_lines::keys(text, wanted).map_err(|(_, why)| why)?);
        } else {
            all.extend(file_of_keys(&folder.join(text), wanted)?);
        }
    }
    Ok(all)
}

fn file_of_keys(path: &Path, wanted: Wanted) -> Result<Vec<PublicKey>, BadTrust> {
    let unreadable = |error: std::io::Error| BadTrust::Unreadable(error.kind());
    let file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(BadTrust::NotAFile);
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(LONGEST_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST_FILE) {
        return Err(BadTrust::NotAFile);
    }
    if text.contains("PRIVATE KEY") {
        return Err(BadTrust::Private);
    }
    key_lines::keys(&text, wanted).map_err(|(line, why)| match why {
        BadTrust::Empty => BadTrust::Empty,
        BadTrust::NotAKey => BadTrust::NotAKeyInFile { path: path.to_owned(), line },
        why => BadTrust::Line { path: path.to_owned(), line, why: Box::new(why) },
    })
}

#[cfg(test)]
mod tests {
    use russh::keys::{EcdsaCurve, PrivateKey, ssh_key::certificate::Builder};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCXIPaa7qgzgIfeTEjSKQY1pvhVdwcYCmSH0hMCfjCxegyYat/Puy4yc1yVVeToJmOCaQ9VJApK3QyeN3UhayM0OWew7oS/JVGFVoEBDH3W2XnE3iQ5yRA9kjU6VAWCW0g/FpXHPoP3ZFBAh6cZXBDTyrZ2VpW8c+ecT4S/y+vpUw==";

    struct Forge {
        authority: PrivateKey,
        host: PrivateKey,
    }

    impl Forge {
        fn new() -> Self {
            let key = || PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
            Self { authority: key(), host: key() }
        }

        /// A good certificate for bastion.example.com, but for what `change` makes of it.
        fn certificate(&self, change: impl FnOnce(&mut Builder)) -> PublicKeyOrCertificate {
            self.signed(&self.authority, CertType::Host, change)
        }

        fn signed(
            &self,
            authority: &PrivateKey,
            kind: CertType,
            change: impl FnOnce(&mut Builder),
        ) -> PublicKeyOrCertificate {
            let mut builder =
                Builder::new_with_random_nonce(&mut rand::rng(), self.host.public_key(), NOW - 60, NOW + 60)
                    .unwrap();
            builder.cert_type(kind).unwrap();
            change(&mut builder);
            builder.sign(authority).unwrap().into()
        }

        fn named(&self, name: &str) -> PublicKeyOrCertificate {
            self.certificate(|builder| _ = builder.valid_principal(name).unwrap())
        }

        fn trust(&self) -> Trust {
            Trust::Authorities(vec![self.authority.public_key().clone()])
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn bastion() -> Host {
        "bastion.example.com".parse().unwrap()
    }

    #[test]
    fn a_certificate_of_the_authority_for_this_name_and_time_is_the_bastion() {
        let forge = Forge::new();
        let trust = forge.trust();
        for name in ["bastion.example.com", "BASTION.example.com"] {
            assert_eq!(trust.verify(&forge.named(name), &bastion(), at(NOW)), Ok(()));
        }
        let two = forge.certificate(|builder| {
            builder.valid_principal("other").unwrap();
            builder.valid_principal("bastion.example.com").unwrap();
        });
        assert_eq!(trust.verify(&two, &bastion(), at(NOW)), Ok(()));
        let address = forge.named("2001:db8::1");
        assert_eq!(trust.verify(&address, &"[2001:db8::1]".parse().unwrap(), at(NOW)), Ok(()));
    }

    #[test]
    fn everything_else_is_not() {
        let forge = Forge::new();
        let other = Forge::new();
        let good = |builder: &mut Builder| _ = builder.valid_principal("bastion.example.com").unwrap();
        let of_other = other.authority.public_key().fingerprint(HashAlg::Sha256).to_string();
        let host = forge.host.public_key().fingerprint(HashAlg::Sha256).to_string();
        let other_name = |names: &str| HostKeyMismatch::OtherName {
            names: names.to_owned(),
            wanted: "bastion.example.com".to_owned(),
        };
        for (what, presented, seconds, expected) in [
            ("wrong name", forge.named("evil.example.com"), NOW, other_name("evil.example.com")),
            ("suffix", forge.named("bastion.example.com.evil"), NOW, other_name("bastion.example.com.evil")),
            ("wildcard", forge.named("*"), NOW, other_name("*")),
            (
                "no name",
                forge.certificate(|builder| _ = builder.all_principals_valid().unwrap()),
                NOW,
                other_name("no name"),
            ),
            ("escape codes", forge.named("\u{1b}[31mx"), NOW, other_name("\\u{1b}[31mx")),
            (
                "a user's",
                forge.signed(&forge.authority, CertType::User, good),
                NOW,
                HostKeyMismatch::NotAHost,
            ),
            ("at its last second", forge.certificate(good), NOW + 60, HostKeyMismatch::Expired),
            (
                "before its first",
                forge.certificate(good),
                NOW - 61,
                HostKeyMismatch::NotYet { wait: Duration::from_secs(1) },
            ),
            (
                "critical option",
                forge.certificate(|builder| {
                    good(builder);
                    builder.critical_option("source-address", "127.0.0.1").unwrap();
                }),
                NOW,
                HostKeyMismatch::CriticalOption,
            ),
            (
                "another authority's",
                forge.signed(&other.authority, CertType::Host, good),
                NOW,
                HostKeyMismatch::OtherAuthority { presented: of_other },
            ),
            (
                "the authority's bare key",
                forge.authority.public_key().clone().into(),
                NOW,
                HostKeyMismatch::BareKey {
                    presented: forge.authority.public_key().fingerprint(HashAlg::Sha256).to_string(),
                },
            ),
            (
                "a bare key",
                forge.host.public_key().clone().into(),
                NOW,
                HostKeyMismatch::BareKey { presented: host },
            ),
        ] {
            assert_eq!(forge.trust().verify(&presented, &bastion(), at(seconds)), Err(expected), "{what}");
        }
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let forge = Forge::new();
        let PublicKeyOrCertificate::Certificate(good) = forge.named("bastion.example.com") else {
            unreachable!()
        };
        let mut bytes = good.to_bytes().unwrap();
        let at_serial = bytes.windows(19).position(|window| window == b"bastion.example.com").unwrap();
        bytes[at_serial] ^= 1;
        let forged = PublicKeyOrCertificate::Certificate(Certificate::from_bytes(&bytes).unwrap());
        assert_eq!(forge.trust().verify(&forged, &bastion(), at(NOW)), Err(HostKeyMismatch::Signature));
    }

    #[test]
    fn weak_algorithms_are_weak() {
        let ecdsa = |curve| PrivateKey::random(&mut rand::rng(), Algorithm::Ecdsa { curve }).unwrap();
        let p256 = ecdsa(EcdsaCurve::NistP256);
        let data = p256.public_key().key_data();
        assert!(is_strong(data, &Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }));
        assert!(!is_strong(data, &Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 }));
        let rsa = PublicKey::from_openssh(RSA_1024).unwrap();
        let data = rsa.key_data();
        assert!(!is_strong(data, &Algorithm::Rsa { hash: None }));
        assert!(!is_strong(data, &Algorithm::Rsa { hash: Some(HashAlg::Sha512) }));
    }

    /// The strength of a signature is looked at before the signature is.
    #[test]
    fn a_weakly_signed_certificate_is_not_believed() {
        let forge = Forge::new();
        let PublicKeyOrCertificate::Certificate(good) = forge.named("bastion.example.com") else {
            unreachable!()
        };
        let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let bytes = good.to_bytes().unwrap();
        let authority = string(&forge.authority.public_key().to_bytes().unwrap());
        let end = bytes.windows(authority.len()).position(|window| window == authority).unwrap();
        let weak = PublicKey::from_openssh(RSA_1024).unwrap();
        let signature = [string(b"rsa-sha2-512"), string(&[1; 128])].concat();
        let forged = [&bytes[..end], &string(&weak.to_bytes().unwrap()), &string(&signature)].concat();
        let forged = PublicKeyOrCertificate::Certificate(Certificate::from_bytes(&forged).unwrap());
        let trust = Trust::Authorities(vec![weak]);
        assert_eq!(trust.verify(&forged, &bastion(), at(NOW)), Err(HostKeyMismatch::Weak));
    }

    #[test]
    fn a_pinned_key_is_that_key() {
        let forge = Forge::new();
        let pinned = Trust::Keys(vec![forge.host.public_key().clone()]);
        let key = |key: &PrivateKey| PublicKeyOrCertificate::from(key.public_key().clone());
        assert_eq!(pinned.verify(&key(&forge.host), &bastion(), at(NOW)), Ok(()));
        assert!(matches!(
            pinned.verify(&key(&forge.authority), &bastion(), at(NOW)),
            Err(HostKeyMismatch::OtherKey { .. })
        ));
    }

    #[test]
    fn keys_are_read_from_text_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let forge = Forge::new();
        let line = forge.authority.public_key().to_openssh().unwrap();
        std::fs::write(folder.path().join("ca.pub"), format!("# ours\n{line} a comment\n\n{line}\n"))
            .unwrap();
        std::fs::write(folder.path().join("bad.pub"), format!("{line}\nhunter2\n")).unwrap();
        let read = |text: &str| Trust::authorities(&[text], folder.path());
        assert_eq!(read(&line).unwrap(), forge.trust());
        assert!(matches!(read("ca.pub").unwrap(), Trust::Authorities(keys) if keys.len() == 2));
        assert!(matches!(read("bad.pub"), Err(BadTrust::NotAKeyInFile { line: 2, .. })));
        assert!(matches!(read("."), Err(BadTrust::NotAFile)));
        assert!(matches!(read("ssh-ed25519 AAAA"), Err(BadTrust::NotAKey)));
    }
}
