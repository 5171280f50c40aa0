//! One row for each way in which a certificate can be another than the one asked for.

use ssh_key::{PrivateKey, Signature, certificate::Builder, encoding::Encode as _, private::RsaKeypair};

use super::*;
use crate::request::PERMIT_PORT_FORWARDING;

const NOW: u64 = 1_800_000_000;
const TTL: u64 = 1800;

fn ed25519() -> PrivateKey {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap()
}

fn rsa(bits: usize) -> PrivateKey {
    RsaKeypair::random(&mut rand::rng(), bits).unwrap().into()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn request() -> Request {
    Request::forwarding("forward", vec!["tunnel".into(), "dev".into()], Duration::from_secs(TTL))
}

/// What an honest signer puts into a certificate, until a row changes it.
struct Made {
    key: PublicKey,
    kind: CertType,
    principals: Vec<&'static str>,
    after: u64,
    before: u64,
    extensions: Vec<&'static str>,
    critical: Vec<(&'static str, &'static str)>,
}

impl Made {
    fn honest(key: &PrivateKey) -> Self {
        Self {
            key: key.public_key().clone(),
            kind: CertType::User,
            principals: vec!["tunnel", "dev"],
            after: NOW - 30,
            before: NOW + TTL,
            extensions: vec![PERMIT_PORT_FORWARDING],
            critical: vec![],
        }
    }

    fn sign(self, authority: &PrivateKey) -> Certificate {
        let mut builder = Builder::new([7; 16], self.key, self.after, self.before).unwrap();
        builder.cert_type(self.kind).unwrap().key_id("test").unwrap();
        builder.all_principals_valid().unwrap();
        for name in self.principals {
            builder.valid_principal(name).unwrap();
        }
        for name in self.extensions {
            builder.extension(name, "").unwrap();
        }
        for (name, value) in self.critical {
            builder.critical_option(name, value).unwrap();
        }
        builder.sign(authority).unwrap()
    }
}

type Row = (&'static str, fn(&mut Made), Result<(), Mismatch>);

#[test]
fn each_mutation_is_found() {
    let name = |name: &str| name.to_owned();
    let seconds = Duration::from_secs;
    let rows: Vec<Row> = vec![
        ("nothing", |_| {}, Ok(())),
        ("principals in another order", |made| made.principals.reverse(), Ok(())),
        ("one extension more", |made| made.extensions.push("permit-pty"), Ok(())),
        ("an option that the server applies", |made| made.critical.push(("source-address", "::1")), Ok(())),
        (
            "our own option",
            |made| made.critical.push(("permit-open@tunnel-suite.internal", "db:5432")),
            Ok(()),
        ),
        (
            "our own option by its former name",
            |made| made.critical.push(("permit-open@tunnel-suite.invalid", "db:5432")),
            Ok(()),
        ),
        ("valid for one second more", |made| made.before = NOW + 1, Ok(())),
        ("valid since this second", |made| made.after = NOW, Ok(())),
        ("as long as the allowance has it", |made| made.before += ALLOWANCE.as_secs(), Ok(())),
        (
            "host certificate",
            |made| made.kind = CertType::Host,
            Err(Mismatch::Kind { asked: "user", got: "host" }),
        ),
        ("no principals", |made| made.principals.clear(), Err(Mismatch::NoPrincipals)),
        (
            "a principal less",
            |made| made.principals = vec!["tunnel"],
            Err(Mismatch::MissingPrincipal { name: name("dev") }),
        ),
        (
            "a principal more",
            |made| made.principals.push("root\u{1b}[2J"),
            Err(Mismatch::ExtraPrincipal { name: name("root\\u{1b}[2J") }),
        ),
        (
            "a principal in other case",
            |made| made.principals = vec!["tunnel", "Dev"],
            Err(Mismatch::MissingPrincipal { name: name("dev") }),
        ),
        (
            "a template that was not filled in",
            |made| made.principals.push("{{identity.entity.name}}"),
            Err(Mismatch::Template { name: name("{{identity.entity.name}}") }),
        ),
        ("from the future", |made| made.after = NOW + 90, Err(Mismatch::NotYetValid { wait: seconds(90) })),
        ("ended this second", |made| made.before = NOW, Err(Mismatch::Expired { ago: seconds(0) })),
        (
            "ended an hour ago",
            |made| (made.after, made.before) = (NOW - 7200, NOW - 3600),
            Err(Mismatch::Expired { ago: seconds(3600) }),
        ),
        (
            "one second longer than the allowance has it",
            |made| made.before += ALLOWANCE.as_secs() + 1,
            Err(Mismatch::TooLong { asked: seconds(TTL), excess: seconds(61) }),
        ),
        ("for ever", |made| made.before = u64::MAX, Err(Mismatch::Endless)),
        (
            "no port forwarding",
            |made| made.extensions = vec!["permit-pty"],
            Err(Mismatch::MissingExtension { name: name(PERMIT_PORT_FORWARDING) }),
        ),
        (
            "a forced command",
            |made| made.critical.push(("force-command", "reboot")),
            Err(Mismatch::CriticalOption { name: name("force-command") }),
        ),
        (
            "an unknown condition",
            |made| made.critical.push(("x@example.com", "")),
            Err(Mismatch::CriticalOption { name: name("x@example.com") }),
        ),
    ];
    let (key, authority) = (ed25519(), ed25519());
    let known = [ed25519().public_key().clone(), authority.public_key().clone()];
    for (row, change, expected) in rows {
        let mut made = Made::honest(&key);
        change(&mut made);
        let text = made.sign(&authority).to_openssh().unwrap();
        let answer = check(&text, key.public_key(), &request(), Some(&known), at(NOW));
        assert_eq!(answer.map(drop), expected, "{row}");
    }
}

#[test]
fn another_key_is_found() {
    let (key, other, authority) = (ed25519(), ed25519(), ed25519());
    let text = Made::honest(&other).sign(&authority).to_openssh().unwrap();
    let answer = check(&text, key.public_key(), &request(), None, at(NOW));
    assert_eq!(
        answer,
        Err(Mismatch::Key {
            asked: key.fingerprint(HashAlg::Sha256).to_string(),
            got: other.fingerprint(HashAlg::Sha256).to_string(),
        })
    );
}

#[test]
fn another_authority_is_found_when_the_right_one_is_known() {
    let (key, authority, other) = (ed25519(), ed25519(), ed25519());
    let text = Made::honest(&key).sign(&other).to_openssh().unwrap();
    let answer =
        |known: Option<&[PublicKey]>| check(&text, key.public_key(), &request(), known, at(NOW)).map(drop);
    let got = other.fingerprint(HashAlg::Sha256).to_string();
    assert_eq!(
        answer(Some(&[authority.public_key().clone()])),
        Err(Mismatch::Authority { got: got.clone() })
    );
    assert_eq!(answer(Some(&[])), Err(Mismatch::Authority { got }));
    assert_eq!(answer(None), Ok(()));
}

#[test]
fn who_asks_for_nobody_gets_the_choice_of_the_role_but_not_everybody() {
    let (key, authority) = (ed25519(), ed25519());
    let request = Request { principals: vec![], ..request() };
    let answer = |principals| {
        let made = Made { principals, ..Made::honest(&key) };
        let text = made.sign(&authority).to_openssh().unwrap();
        check(&text, key.public_key(), &request, None, at(NOW)).map(drop)
    };
    assert_eq!(answer(vec!["whoever"]), Ok(()));
    assert_eq!(answer(vec![]), Err(Mismatch::NoPrincipals));
}

#[test]
fn a_host_certificate_has_no_options() {
    let (key, authority) = (ed25519(), ed25519());
    let request = Request::host("bastion", vec!["bastion.example.com".into()], Duration::from_secs(TTL));
    let answer = |critical, kind| {
        let made = Made {
            kind,
            principals: vec!["bastion.example.com"],
            extensions: vec![],
            critical,
            ..Made::honest(&key)
        };
        let text = made.sign(&authority).to_openssh().unwrap();
        check(&text, key.public_key(), &request, None, at(NOW)).map(drop)
    };
    assert_eq!(answer(vec![], CertType::Host), Ok(()));
    assert_eq!(answer(vec![], CertType::User), Err(Mismatch::Kind { asked: "host", got: "user" }));
    assert_eq!(
        answer(vec![("source-address", "::1")], CertType::Host),
        Err(Mismatch::CriticalOption { name: "source-address".into() })
    );
}

/// The certificate with one number of its dates replaced, which its signature does not cover any more.
fn replaced(certificate: &Certificate, from: u64, to: u64) -> String {
    let mut bytes = certificate.to_bytes().unwrap();
    let position = bytes.windows(8).position(|part| part == from.to_be_bytes()).unwrap();
    bytes[position..position + 8].copy_from_slice(&to.to_be_bytes());
    Certificate::from_bytes(&bytes).unwrap().to_openssh().unwrap()
}

#[test]
fn what_was_changed_after_signing_is_found() {
    let (key, authority) = (ed25519(), ed25519());
    let honest = Made::honest(&key).sign(&authority);
    let answer = |text: &str| check(text, key.public_key(), &request(), None, at(NOW)).map(drop);
    assert_eq!(answer(&replaced(&honest, NOW + TTL, NOW + TTL - 1)), Err(Mismatch::Signature));
    assert_eq!(answer(&replaced(&honest, NOW + TTL, NOW - 30)), Err(Mismatch::Backwards));
    assert_eq!(answer(&replaced(&honest, NOW + TTL, NOW - 31)), Err(Mismatch::Backwards));
}

#[test]
fn weak_signatures_are_found() {
    let key = ed25519();
    let answer = |text: &str| check(text, key.public_key(), &request(), None, at(NOW)).map(drop);
    let strong = rsa(2048);
    let certificate = Made::honest(&key).sign(&strong);
    assert_eq!(answer(&certificate.to_openssh().unwrap()), Ok(()));

    let weak = Made::honest(&key).sign(&rsa(1024)).to_openssh().unwrap();
    assert_eq!(answer(&weak), Err(Mismatch::WeakSignature { algorithm: "rsa-sha2-512".into() }));

    // The same bytes, said to be made with SHA-1.
    let sha1 = Signature::new(Algorithm::Rsa { hash: None }, certificate.signature().as_bytes()).unwrap();
    let mut bytes = certificate.to_bytes().unwrap();
    bytes.truncate(bytes.len() - certificate.signature().encoded_len_prefixed().unwrap());
    sha1.encode_prefixed(&mut bytes).unwrap();
    let text = Certificate::from_bytes(&bytes).unwrap().to_openssh().unwrap();
    assert_eq!(answer(&text), Err(Mismatch::WeakSignature { algorithm: "ssh-rsa".into() }));
}

#[test]
fn what_is_no_certificate_is_refused_unread() {
    let (key, authority) = (ed25519(), ed25519());
    let answer = |text: &str| check(text, key.public_key(), &request(), None, at(NOW)).map(drop);
    let honest = Made::honest(&key).sign(&authority).to_openssh().unwrap();
    assert_eq!(answer(&format!("\n{honest}\n")), Ok(()));
    for text in [
        "",
        "ssh-ed25519",
        "-----BEGIN CERTIFICATE-----",
        &key.public_key().to_openssh().unwrap(),
        &honest[..300],
    ] {
        assert_eq!(answer(text), Err(Mismatch::Malformed), "{text}");
    }
    assert_eq!(answer(&"A".repeat(200_000)), Err(Mismatch::TooLarge));
    assert_eq!(answer(&format!("{honest} {}", "A".repeat(LARGEST))), Err(Mismatch::TooLarge));
}
