//! Loads or generates the host key, and renews its certificate while the bastion serves.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use backoff::Backoff;
use ssh_key::{
    Algorithm, Certificate, HashAlg, LineEnding, PrivateKey, certificate::CertType, public::KeyData,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use vault_signer::{Credential, Request};
use zeroize::Zeroizing;

use crate::{
    common::{
        text::moment,
        watched_file::{self, WatchedFile},
    },
    config,
    kubernetes::{self, Cluster},
    telemetry::{
        metrics::Metrics,
        repeated_failure::RepeatedFailure,
        warnings::{Reason, Warnings},
    },
    trust::{
        Upstreams,
        vault::{self, Vault},
    },
};

/// The interval at which the file of a certificate is checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The waits before a failed request to Vault is repeated.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The shortest time between two signatures, even for very short-lived certificates.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// The most permissive mode of a key file that causes no warning: readable by its group.
const WIDEST_MODE: u32 = 0o640;

/// A private key, and the certificate that proves it to clients.
#[derive(Clone, PartialEq)]
pub(crate) struct HostKey {
    key: PrivateKey,
    certificate: Option<Certificate>,
}

impl HostKey {
    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(crate) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKey")
            .field("key", &self.key.fingerprint(HashAlg::Sha256).to_string())
            .field("certificate", &self.certificate.as_ref().map(Certificate::key_id))
            .finish()
    }
}

/// Why there is no host key. Messages never show the content of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read.
    #[error("{}: {source}\n  host_key names it; make one with: ssh-keygen -t ed25519 -N '' -f FILE", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The text is not an OpenSSH private key.
    #[error(
        "{0}: this is no private key in OpenSSH's format\n  Make one with: ssh-keygen -t ed25519 -N '' -f FILE"
    )]
    NoKey(String),
    /// The key is encrypted with a passphrase.
    #[error(
        "{0}: the key is encrypted, and the bastion cannot ask for its passphrase\n  Remove it with: ssh-keygen -p -N '' -f FILE"
    )]
    Encrypted(String),
    /// The key is too weak for clients to trust.
    #[error(
        "{0}: a host key must be ed25519, ecdsa, or rsa of at least 2048 bits\n  Make one with: ssh-keygen -t ed25519 -N '' -f FILE"
    )]
    Weak(String),
    /// The certificate does not fit the key.
    #[error("{}: {problem}\n  host_key.certificate names it; have the public key signed with: ssh-keygen -s CA -h -I ID -n NAME FILE.pub", .path.display())]
    Certificate { path: PathBuf, problem: CertificateProblem },
    /// The system's random numbers failed.
    #[error("cannot make a key: {0}")]
    Random(ssh_key::Error),
    /// Vault should sign the host key, and its address is not set.
    #[error("the host key is signed by Vault, and no Vault is set\n  Set vault.address, or VAULT_ADDR")]
    NoVault,
    /// The host key is in a Secret, and there is no cluster.
    #[error("the host key is in a Secret, and there is no cluster to ask")]
    NoCluster,
    /// The Secret cannot be used.
    #[error(transparent)]
    Secret(#[from] kubernetes::host_key::Error),
}

/// Why a certificate cannot be presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateProblem {
    /// The text is not a certificate.
    #[error("this is no OpenSSH certificate")]
    Malformed,
    /// The certificate is a user certificate.
    #[error("this is a user certificate, and the bastion is a host")]
    User,
    /// The certificate is for another key.
    #[error("this certificate is for another key")]
    OtherKey,
    /// The certificate names no host.
    #[error("this certificate names no host, so it would pass for any")]
    NoPrincipals,
    /// The certificate is expired or not valid yet.
    #[error("this certificate is not valid now")]
    NotNow,
    /// The signature does not verify.
    #[error("the signature of this certificate is not that of its authority")]
    Signature,
}

/// Reads everything that can be read without the network.
///
/// # Errors
/// When a file cannot be used.
pub(crate) fn check(config: &config::HostKey) -> Result<(), Error> {
    match config {
        config::HostKey::File { key, certificate } => {
            let key = read_key(key)?;
            if let Some(path) = certificate {
                read_certificate(path, &key)?;
            }
            Ok(())
        }
        config::HostKey::Generate | config::HostKey::Vault(_) | config::HostKey::Secret(_) => Ok(()),
    }
}

/// The current host key; `None` until Vault has signed its first certificate, or the API server has returned
/// the Secret.
pub(crate) type Current = watch::Receiver<Option<Arc<HostKey>>>;

/// Provides a host key for as long as a receiver of the result is held, and renews its certificate in time.
///
/// # Errors
/// When a file that holds it cannot be used.
pub(crate) fn follow(config: &config::HostKey, upstreams: Upstreams<'_>) -> Result<Current, Error> {
    let Upstreams { vault, cluster, reload, metrics, warnings } = upstreams;
    match config {
        config::HostKey::Generate => {
            tracing::warn!("host key generated for this process alone; clients cannot know it beforehand");
            Ok(watch::channel(Some(Arc::new(HostKey { key: generate()?, certificate: None }))).1)
        }
        config::HostKey::File { key, certificate: None } => {
            Ok(watch::channel(Some(Arc::new(HostKey { key: read_key(key)?, certificate: None }))).1)
        }
        config::HostKey::File { key, certificate: Some(path) } => {
            let key = read_key(key)?;
            let certificate = read_certificate(path, &key)?;
            let first = publishable(key.clone(), certificate, &metrics);
            let (publish, current) = watch::channel(Some(first));
            tokio::spawn(follow_file(key, WatchedFile::new(path), publish, metrics, warnings));
            Ok(current)
        }
        config::HostKey::Vault(asked) => {
            let vault = vault.ok_or(Error::NoVault)?.clone();
            let request = Request::host(&asked.role, asked.principals.clone(), asked.ttl.0);
            let (publish, current) = watch::channel(None);
            let renewal = Renewal {
                key: generate()?,
                mount: asked.mount.clone(),
                request,
                vault,
                publish,
                reload,
                metrics,
                warnings,
            };
            tokio::spawn(renewal.run());
            Ok(current)
        }
        config::HostKey::Secret(wanted) => {
            let cluster = cluster.ok_or(Error::NoCluster)?.clone();
            let fresh = wanted.generate.then(|| written(&generate()?)).transpose()?;
            let (publish, current) = watch::channel(None);
            tokio::spawn(find_secret(cluster, wanted.name.as_str().to_owned(), fresh, publish, warnings));
            Ok(current)
        }
    }
}

/// The lines by which OpenSSH recognizes the bastion (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): by the authority
/// that signed its certificate, or by the key itself. A key without names matches any host name.
pub(crate) fn known_hosts(host_key: &HostKey, names: &[config::PublicName]) -> Option<String> {
    let said = names.iter().map(config::PublicName::as_str).collect::<Vec<_>>().join(",");
    let line = match host_key.certificate() {
        Some(certificate) => {
            let names = if said.is_empty() { certificate.valid_principals().join(",") } else { said };
            let key = ssh_key::PublicKey::from(certificate.signature_key().clone()).to_openssh().ok()?;
            format!("@cert-authority {names} {key}\n")
        }
        None => {
            let names = if said.is_empty() { "*" } else { said.as_str() };
            let public = ssh_key::PublicKey::from(host_key.key().public_key().key_data().clone());
            format!("{names} {}\n", public.to_openssh().ok()?)
        }
    };
    Some(line)
}

fn generate() -> Result<PrivateKey, Error> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(Error::Random)
}

/// The key in the format of a file.
fn written(key: &PrivateKey) -> Result<Zeroizing<String>, Error> {
    key.to_openssh(LineEnding::LF).map_err(Error::Random)
}

/// Asks until there is a key. The bastion then keeps that key: with another one, clients would take it for
/// another host.
async fn find_secret(
    cluster: Cluster,
    name: String,
    fresh: Option<Zeroizing<String>>,
    publish: watch::Sender<Option<Arc<HostKey>>>,
    warnings: Warnings,
) {
    let mut backoff = RETRY;
    let mut failure =
        RepeatedFailure::retried(Reason::HostKeyUnavailable, "no host key yet; retrying", warnings);
    loop {
        let found = match cluster.private_key(&name, fresh.as_ref()).await {
            Ok(text) => parse_key(&format!("Secret {name}"), &text),
            Err(error) => Err(error.into()),
        };
        match found {
            Ok(key) => {
                publish.send_replace(Some(Arc::new(HostKey { key, certificate: None })));
                return;
            }
            Err(error) => {
                failure.met(&error);
            }
        }
        let next = backoff.failed(&mut rand::rng());
        tokio::select! {
            () = sleep(next) => {}
            () = publish.closed() => return,
        }
    }
}

fn read_key(path: &Path) -> Result<PrivateKey, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let text = Zeroizing::new(watched_file::read(path).map_err(unreadable)?);
    let mode = std::fs::metadata(path).map_err(unreadable)?.mode();
    if mode & 0o777 & !WIDEST_MODE != 0 {
        let mode = format!("{:04o}", mode & 0o777);
        tracing::warn!(file = %path.display(), mode, "other users can read the host key; run chmod 0600 on the file");
    }
    parse_key(&path.display().to_string(), &text)
}

/// Parses a key that is strong enough for clients. `place` names its source.
fn parse_key(place: &str, text: &str) -> Result<PrivateKey, Error> {
    let key = PrivateKey::from_openssh(text.as_bytes()).map_err(|_| Error::NoKey(place.to_owned()))?;
    if key.is_encrypted() {
        return Err(Error::Encrypted(place.to_owned()));
    }
    let strong = match key.public_key().key_data() {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) => true,
        KeyData::Rsa(key) => key.key_size() >= 2048,
        _ => false,
    };
    if strong { Ok(key) } else { Err(Error::Weak(place.to_owned())) }
}

fn read_certificate(path: &Path, key: &PrivateKey) -> Result<Certificate, Error> {
    let text =
        watched_file::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    parse_certificate(&text, key, SystemTime::now())
        .map_err(|problem| Error::Certificate { path: path.to_owned(), problem })
}

/// Parses a certificate that clients will accept for this key.
fn parse_certificate(
    text: &str,
    key: &PrivateKey,
    now: SystemTime,
) -> Result<Certificate, CertificateProblem> {
    let certificate = Certificate::from_openssh(text.trim()).map_err(|_| CertificateProblem::Malformed)?;
    if certificate.cert_type() != CertType::Host {
        return Err(CertificateProblem::User);
    }
    if certificate.public_key() != key.public_key().key_data() {
        return Err(CertificateProblem::OtherKey);
    }
    if certificate.valid_principals().is_empty() {
        return Err(CertificateProblem::NoPrincipals);
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if !(certificate.valid_after()..certificate.valid_before()).contains(&now) {
        return Err(CertificateProblem::NotNow);
    }
    certificate.verify_signature().map_err(|_| CertificateProblem::Signature)?;
    Ok(certificate)
}

/// The end of a certificate's validity; for one without an end, the last moment that can be represented.
fn end(certificate: &Certificate) -> SystemTime {
    certificate
        .valid_before_time()
        .unwrap_or(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX)))
}

/// How long a newly signed certificate is used before the next is requested: two thirds of its remaining
/// life.
fn renew_in(ends: SystemTime, now: SystemTime) -> Duration {
    ends.duration_since(now).unwrap_or_default() * 2 / 3
}

fn publishable(key: PrivateKey, certificate: Certificate, metrics: &Metrics) -> Arc<HostKey> {
    let expires = end(&certificate);
    metrics.host_certificate(expires);
    tracing::info!(
        principals = certificate.valid_principals().join(","),
        serial = certificate.serial(),
        expires = moment(expires),
        "host certificate in use"
    );
    Arc::new(HostKey { key, certificate: Some(certificate) })
}

/// Presents the certificate in a file, whenever the file changes.
async fn follow_file(
    key: PrivateKey,
    mut file: WatchedFile,
    publish: watch::Sender<Option<Arc<HostKey>>>,
    metrics: Arc<Metrics>,
    warnings: Warnings,
) {
    let meanwhile = "cannot use the new host certificate; the current one stays in use";
    let mut failure = RepeatedFailure::of_a_source(Reason::HostKeyUnavailable, meanwhile, warnings);
    while !publish.is_closed() {
        let looked = file
            .changed()
            .map_err(|source| Error::Unreadable { path: file.path().to_owned(), source })
            .and_then(|text| {
                text.map(|text| parse_certificate(&text, &key, SystemTime::now()))
                    .transpose()
                    .map_err(|problem| Error::Certificate { path: file.path().to_owned(), problem })
            });
        match looked {
            Ok(None) => {}
            Ok(Some(certificate)) => {
                failure.over();
                let known =
                    publish.borrow().as_ref().is_some_and(|key| key.certificate() == Some(&certificate));
                if !known {
                    publish.send_replace(Some(publishable(key.clone(), certificate, &metrics)));
                }
            }
            Err(error) => {
                // A certificate that is not valid yet becomes valid without a change of the file.
                file.forget();
                if failure.met(&error) {
                    metrics.host_certificate_failed();
                }
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A certificate that Vault signs again and again.
struct Renewal {
    key: PrivateKey,
    mount: String,
    request: Request,
    vault: Vault,
    publish: watch::Sender<Option<Arc<HostKey>>>,
    reload: Arc<Notify>,
    metrics: Arc<Metrics>,
    warnings: Warnings,
}

/// Why Vault did not sign.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Login(#[from] vault::Error),
    #[error(transparent)]
    Sign(#[from] vault_signer::SignError),
}

impl Renewal {
    async fn run(self) {
        let mut backoff = RETRY;
        let meanwhile = "cannot renew the host certificate; retrying";
        let mut failure =
            RepeatedFailure::retried(Reason::HostKeyUnavailable, meanwhile, self.warnings.clone());
        loop {
            let next = match self.sign().await {
                Ok(certificate) => {
                    failure.over();
                    backoff.worked();
                    let next = renew_in(end(&certificate), SystemTime::now());
                    let key = publishable(self.key.clone(), certificate, &self.metrics);
                    self.publish.send_replace(Some(key));
                    next.max(RENEW_EVERY)
                }
                Err(error) => {
                    self.metrics.host_certificate_failed();
                    let in_use = self.publish.borrow().as_ref().and_then(|key| key.certificate().map(end));
                    failure.met(&match in_use.map(moment) {
                        Some(expires) => format!("{error}\nthe certificate in use expires {expires}"),
                        None => error.to_string(),
                    });
                    backoff.failed(&mut rand::rng())
                }
            };
            tokio::select! {
                () = sleep(next) => {}
                () = self.reload.notified() => {}
                () = self.publish.closed() => return,
            }
        }
    }

    async fn sign(&self) -> Result<Certificate, RenewalError> {
        let signer = self.vault.signer(&self.mount).await?;
        let credential = Credential::for_key(&signer, self.key.clone(), &self.request).await?;
        Ok(credential.certificate().clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ssh_key::certificate::Builder;

    use super::*;

    /// A key without a certificate.
    pub(crate) fn plain() -> HostKey {
        HostKey { key: generate().unwrap(), certificate: None }
    }

    /// A key with a certificate for `bastion`, and the authority that signed it.
    pub(crate) fn certified() -> (HostKey, ssh_key::PublicKey) {
        let key = generate().unwrap();
        let certificate = certificate(&key, &GOOD);
        let authority = certificate.signature_key().clone();
        (HostKey { key, certificate: Some(certificate) }, authority.into())
    }

    struct Shape {
        kind: CertType,
        principal: Option<&'static str>,
        from: u64,
        to: u64,
    }

    const GOOD: Shape = Shape { kind: CertType::Host, principal: Some("bastion"), from: 100, to: 1000 };

    fn certificate(key: &PrivateKey, shape: &Shape) -> Certificate {
        let mut builder =
            Builder::new(vec![7; 16], key.public_key().key_data().clone(), shape.from, shape.to).unwrap();
        builder.cert_type(shape.kind).unwrap();
        match shape.principal {
            Some(name) => builder.valid_principal(name).unwrap(),
            None => builder.all_principals_valid().unwrap(),
        };
        builder.sign(&generate().unwrap()).unwrap()
    }

    fn parsed(key: &PrivateKey, certificate: &Certificate, now: u64) -> Result<(), CertificateProblem> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        parse_certificate(&certificate.to_openssh().unwrap(), key, now).map(drop)
    }

    #[test]
    fn only_a_certificate_that_clients_believe_is_presented() {
        let (key, other) = (generate().unwrap(), generate().unwrap());
        assert_eq!(parsed(&key, &certificate(&key, &GOOD), 100), Ok(()));
        assert_eq!(parsed(&key, &certificate(&key, &GOOD), 99), Err(CertificateProblem::NotNow));
        assert_eq!(parsed(&key, &certificate(&key, &GOOD), 1000), Err(CertificateProblem::NotNow));
        assert_eq!(parsed(&key, &certificate(&other, &GOOD), 500), Err(CertificateProblem::OtherKey));
        let user = Shape { kind: CertType::User, ..GOOD };
        assert_eq!(parsed(&key, &certificate(&key, &user), 500), Err(CertificateProblem::User));
        let nameless = Shape { principal: None, ..GOOD };
        assert_eq!(parsed(&key, &certificate(&key, &nameless), 500), Err(CertificateProblem::NoPrincipals));
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(parse_certificate("hunter2", &key, now), Err(CertificateProblem::Malformed));
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(renew_in(now + Duration::from_secs(900), now), Duration::from_secs(600));
        assert_eq!(renew_in(now - Duration::from_secs(1), now), Duration::ZERO);
    }

    #[test]
    fn a_key_file_is_read_and_everything_else_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = generate().unwrap();
        std::fs::write(&path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_key(&path).unwrap().public_key().key_data(), key.public_key().key_data());

        std::fs::write(&path, "hunter2").unwrap();
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.contains("no private key") && !error.contains("hunter2"), "{error}");
        assert!(matches!(read_key(folder.path()), Err(Error::Unreadable { .. })));
    }

    /// A key in a file, and a certificate beside it that lasts.
    struct Files {
        key: PrivateKey,
        certificate: PathBuf,
        metrics: Arc<Metrics>,
        config: config::HostKey,
        _folder: tempfile::TempDir,
    }

    const LASTING: Shape = Shape { to: 4_000_000_000, ..GOOD };

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (key_path, path) = (folder.path().join("key"), folder.path().join("key-cert.pub"));
            let key = generate().unwrap();
            std::fs::write(&key_path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
            let files = Self {
                key,
                config: config::HostKey::File { key: key_path, certificate: Some(path.clone()) },
                certificate: path,
                metrics: Arc::new(Metrics::new()),
                _folder: folder,
            };
            files.put(&certificate(&files.key, &LASTING));
            files
        }

        fn put(&self, certificate: &Certificate) {
            std::fs::write(&self.certificate, certificate.to_openssh().unwrap()).unwrap();
        }

        fn upstreams(&self) -> Upstreams<'static> {
            Upstreams { metrics: Arc::clone(&self.metrics), ..Upstreams::default() }
        }
    }

    #[tokio::test]
    async fn a_new_certificate_in_the_file_is_presented_and_a_bad_one_is_not() {
        let files = Files::new();
        let mut current = follow(&files.config, files.upstreams()).unwrap();
        assert!(current.borrow_and_update().is_some());

        std::fs::write(&files.certificate, "broken").unwrap();
        let failed = async {
            while !files.metrics.render().contains("bastion_host_cert_renewal_failures_total 1") {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap();
        assert!(!current.has_changed().unwrap());

        let next = certificate(&files.key, &Shape { to: 4_000_000_001, ..GOOD });
        files.put(&next);
        tokio::time::timeout(Duration::from_secs(10), current.changed()).await.unwrap().unwrap();
        assert_eq!(current.borrow().as_ref().unwrap().certificate(), Some(&next));
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_valid_yet_is_presented_when_it_is() {
        let files = Files::new();
        let mut current = follow(&files.config, files.upstreams()).unwrap();
        assert!(current.borrow_and_update().is_some());

        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let soon = certificate(&files.key, &Shape { from: now + 3, ..LASTING });
        files.put(&soon);
        tokio::time::timeout(Duration::from_secs(20), current.changed()).await.unwrap().unwrap();
        assert_eq!(current.borrow().as_ref().unwrap().certificate(), Some(&soon));
        // A fault that persists was logged once.
        let failures = files.metrics.render();
        assert!(failures.contains("bastion_host_cert_renewal_failures_total 1\n"), "{failures}");
    }

    #[test]
    fn openssh_knows_it_by_its_authority_or_by_its_key() {
        let name = |name: &str| config::PublicName::try_from(name.to_owned()).unwrap();
        let key = plain();
        let public = key.key().public_key().key_data().clone();
        let public = ssh_key::PublicKey::from(public).to_openssh().unwrap();
        assert_eq!(known_hosts(&key, &[]), Some(format!("* {public}\n")));
        let names = [name("bastion.example.com"), name("[10.0.0.1]:2222")];
        assert_eq!(
            known_hosts(&key, &names),
            Some(format!("bastion.example.com,[10.0.0.1]:2222 {public}\n"))
        );

        let (certified, authority) = certified();
        let authority = authority.to_openssh().unwrap();
        assert_eq!(known_hosts(&certified, &[]), Some(format!("@cert-authority bastion {authority}\n")));
        assert_eq!(
            known_hosts(&certified, &names[..1]),
            Some(format!("@cert-authority bastion.example.com {authority}\n"))
        );
    }
}
