//! Runs each parser of foreign text and bytes, and asserts what must be true of its answer.
//!
//! Coverage-guided runs (`make fuzz`) and the ordinary tests call the same functions. What they find once is
//! kept in `tests/fuzz/corpus`, and tried at every run of the tests.

pub mod streams;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bastion_server::{
    AuthoritySet, Config, Destination, DestinationPattern, Host, Identity, LoginName, MAX_BLOB, MOST_ENTRIES,
    Principal, ProxyHeaderStep as Step, RevocationList, Revocations,
    certificate::{BACKDATING, Claim, MAX_PRINCIPALS, RemovedAuthority, Requirements, admit, decode},
    read_proxy_header as step,
};
use ssh_key::Certificate;

use crate::{forge::USER, key::Key, process::workspace, scratch::Scratch, wire::Writer};

pub mod logins;

/// A parser by its name, which is also that of its corpus.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// Takes anything, and panics when the answer is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 15] = [
    Target { name: "certificate", run: certificate },
    Target { name: "certificate_fields", run: certificate_fields },
    Target { name: "bastion_config", run: bastion_config },
    Target { name: "tunnel_config", run: tunnel_config },
    Target { name: "pattern", run: pattern },
    Target { name: "destination", run: destination },
    Target { name: "revocation", run: revocation },
    Target { name: "proxy_header", run: proxy_header },
    Target { name: "postgres_server", run: logins::postgres_server },
    Target { name: "postgres_client", run: logins::postgres_client },
    Target { name: "mysql_server", run: logins::mysql_server },
    Target { name: "mysql_client", run: logins::mysql_client },
    Target { name: "redis_session", run: logins::redis_session },
    Target { name: "redis_client", run: logins::redis_client },
    Target { name: "streams", run: streams::streams },
];

/// The moment at which everything happens: the certificates of the corpus are valid then.
const NOW: u64 = 1_800_000_000;
/// The longest header of the protocol that the bastion takes.
const LONGEST_HEADER: usize = 536;
const LOGIN: &str = "tunnel";
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The folder of the inputs that are known.
#[must_use]
pub fn corpus(name: &str) -> PathBuf {
    workspace().join("tests/fuzz/corpus").join(name)
}

static AUTHORITY: LazyLock<Key> = LazyLock::new(|| Key::from_seed([1; 32]));
static USERS_KEY: LazyLock<Key> = LazyLock::new(|| Key::from_seed([2; 32]));
static REQUIREMENTS: LazyLock<Requirements> = LazyLock::new(|| Requirements {
    authorities: AuthoritySet::new([AUTHORITY.private().public_key().clone()]).unwrap(),
    users: vec![LoginName::new(LOGIN)],
    max_lifetime: LONGEST,
    revoked: RevocationList::default(),
    removed_authority: RemovedAuthority::EndSessions,
});

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// Decodes, and asks for admission.
fn admitted(blob: &[u8]) -> Option<(Certificate, Identity)> {
    let certificate = decode(blob).ok()?;
    let claim = Claim { login: &LoginName::new(LOGIN), client: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let identity = admit(&certificate, claim, &REQUIREMENTS, now()).ok()?;
    Some((certificate, identity))
}

/// A client that is admitted has a certificate of the authority, for this name and this time, and its bytes
/// say nothing else.
fn holds(blob: &[u8], certificate: &Certificate, identity: &Identity) {
    assert!(blob.len() <= MAX_BLOB);
    assert_eq!(certificate.to_bytes().unwrap(), blob, "there is one way to write it");
    assert!(certificate.cert_type().is_user());
    assert_eq!(certificate.signature_key(), AUTHORITY.private().public_key().key_data());
    certificate.verify_signature().unwrap();
    let principals = certificate.valid_principals();
    assert!(principals.len() <= MAX_PRINCIPALS && principals.iter().any(|name| name == LOGIN));
    assert!(principals.iter().all(|name| name.len() <= Principal::MAX));
    assert!(certificate.valid_after() <= NOW && NOW < certificate.valid_before());
    assert!(certificate.valid_before() - certificate.valid_after() <= (LONGEST + BACKDATING).as_secs());
    assert!(
        certificate.critical_options().iter().all(|(name, _)| name == "source-address" || name.contains('@'))
    );
    assert_eq!(identity.login().as_str(), LOGIN);
}

/// Bytes in place of a certificate.
pub fn certificate(bytes: &[u8]) {
    if let Some((certificate, identity)) = admitted(bytes) {
        holds(bytes, &certificate, &identity);
    }
}

/// A trusted authority signs anything: everything between the user's key and the authority's.
pub fn certificate_fields(fields: &[u8]) {
    certificate(&sign_fields(fields));
}

/// Whether a certificate is admitted.
#[must_use]
pub fn admits(blob: &[u8]) -> bool {
    admitted(blob).is_some()
}

/// A certificate with these fields, from the serial number to the reserved one.
#[must_use]
pub fn sign_fields(fields: &[u8]) -> Vec<u8> {
    let body = Writer::new()
        .string("ssh-ed25519-cert-v01@openssh.com")
        .string([7; 32])
        .raw(&USERS_KEY.fields())
        .raw(fields)
        .string(AUTHORITY.blob())
        .0;
    let signature = AUTHORITY.sign("ssh-ed25519", &body);
    Writer(body).string(signature).0
}

/// The fields of an honest certificate, for the corpus.
#[must_use]
pub fn honest_fields() -> Vec<u8> {
    Writer::new()
        .u64(1)
        .u32(USER)
        .string("key-id")
        .string(Writer::new().string(LOGIN).0)
        .u64(NOW - 60)
        .u64(NOW + 3600)
        .string(Writer::new().string("source-address").string(Writer::new().string("127.0.0.1/32").0).0)
        .string(Writer::new().string("permit-port-forwarding").string("").0)
        .string("")
        .0
}

/// A configuration of the bastion. What is wrong with it is said in a few lines.
pub fn bastion_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config_file::parse::<Config>(Path::new("bastion.yaml"), text) {
        Ok(config) => assert!(!config.authorities.sources().is_empty()),
        Err(error) => is_short(&error.to_string()),
    }
}

/// A configuration of the client, as it stands in a file.
pub fn tunnel_config(bytes: &[u8]) {
    thread_local! {
        static FOLDER: Scratch = Scratch::new("fuzz");
    }
    FOLDER.with(|folder| {
        let path = folder.write("pf-tunnel.yaml", bytes);
        if let Err(error) = tunnel_cli::check_file(&path) {
            is_short(&error);
        }
    });
}

fn is_short(error: &str) {
    assert!(error.len() < 4096, "{} bytes: {}", error.len(), error.chars().take(200).collect::<String>());
    assert!(!error.contains(['\x1b', '\0', '\r']), "{error:?}");
}

/// A destination in a rule. It is printed as what it is read as.
pub fn pattern(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(pattern) = text.parse::<DestinationPattern>() {
        assert_eq!(pattern.to_string().parse::<DestinationPattern>().as_ref(), Ok(&pattern), "{text:?}");
    }
}

/// What a client wants to reach: four bytes of port, and a host.
pub fn destination(bytes: &[u8]) {
    let Some((port, host)) = bytes.split_first_chunk() else { return };
    let Ok(host) = std::str::from_utf8(host) else { return };
    let Ok(destination) = Destination::parse(host, u32::from_be_bytes(*port)) else { return };
    assert_ne!(destination.port(), 0);
    match destination.host() {
        Host::Address(address) => assert_eq!(*address, address.to_canonical()),
        Host::Name(name) => {
            let name = name.as_str();
            assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            assert!(name.bytes().all(plain), "{name:?}");
            assert!(name.parse::<IpAddr>().is_err(), "{name:?}");
        }
    }
}

/// A list of what is revoked, binary or plain.
pub fn revocation(bytes: &[u8]) {
    if let Ok(list) = Revocations::parse(bytes) {
        assert!(list.entries() <= MOST_ENTRIES);
        // To ask is safe too.
        let honest = key_certificate();
        let _ = RevocationList::from_iter([std::sync::Arc::new(list)]).revoked(honest);
    }
}

/// The first bytes of a connection, told one after the other. What decides is bounded, and what follows
/// changes nothing.
pub fn proxy_header(bytes: &[u8]) {
    for length in 0..=bytes.len() {
        let so_far = step(&bytes[..length]);
        if let Ok(Step::More(more)) = so_far {
            assert!(more > 0 && length + more <= LONGEST_HEADER, "{more} more after {length}");
            continue;
        }
        assert!(length <= LONGEST_HEADER);
        assert_eq!(step(bytes), so_far, "{length} bytes decided already");
        return;
    }
}

fn key_certificate() -> &'static Certificate {
    static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| {
        let blob = honest_certificate();
        Certificate::from_bytes(&blob).unwrap()
    });
    &CERTIFICATE
}

/// A certificate that is admitted, for the corpus.
#[must_use]
pub fn honest_certificate() -> Vec<u8> {
    let mut forge = crate::forge::Forge::user(&USERS_KEY, LOGIN);
    (forge.valid_after, forge.valid_before) = (NOW - 60, NOW + 3600);
    forge.sign(&AUTHORITY)
}
