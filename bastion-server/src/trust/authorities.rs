//! Keeps the trusted authorities fresh, from Vault, files, folders, Secrets and ConfigMaps.
//!
//! A source that fails, or that suddenly has no keys, keeps its last good ones: no moment is without
//! authorities, and a bad reload locks no user out. The bastion begins to serve when every source has
//! answered once.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use backoff::Backoff;
use ssh_key::PublicKey;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use vault_signer::Server;

use crate::{
    common::watched_file::{WatchedFile, WatchedFolder},
    config::{AuthoritySource, VaultAuthority},
    identity::authorities::{AuthoritySet, Unfit},
    kubernetes::{
        Cluster,
        entry::{Entry, Look, Missing, ObjectRef},
    },
    telemetry::{
        metrics::Metrics,
        repeated_failure::RepeatedFailure,
        warnings::{Reason, Warnings},
    },
    trust::Upstreams,
};

/// The interval at which files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The waits before a failed request to Vault is repeated.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// The most keys that one source may have.
const MOST_KEYS: usize = 64;

/// Why a source has no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read.
    #[error("{}: {source}\n  It was to hold keys of authorities (authorities: file, or folder)", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// An entry of a Secret or ConfigMap is missing.
    #[error("{place}: {source}\n  It was to hold keys of authorities (authorities: secret, or config_map)")]
    Missing { place: ObjectRef, source: Missing },
    /// A line is not a public key. The message never shows the line.
    #[error("{source_name}:{line}: this is no public key\n  Write one key a line, as in a .pub file")]
    NoKey {
        source_name: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// A key may not be an authority.
    #[error("{source_name}: a key cannot be an authority: {unfit}")]
    Unfit { source_name: String, unfit: Unfit },
    /// The source has no key, or implausibly many.
    #[error("{source_name}: there are {count} keys of authorities; between 1 and {MOST_KEYS} are needed")]
    Count { source_name: String, count: usize },
    /// A source is a Secret or ConfigMap, and there is no cluster.
    #[error("authorities are in a Secret or ConfigMap, and there is no cluster to ask")]
    NoCluster,
    /// A source is Vault, and its address is not set.
    #[error("authorities come from Vault, and no Vault is set\n  Set vault.address, or VAULT_ADDR")]
    NoVault,
    /// Vault failed.
    #[error("the public key of Vault's SSH engine at `{mount}`: {source}")]
    Vault {
        /// The mount, from the configuration.
        mount: String,
        source: vault_signer::Error,
    },
}

/// Reads everything that can be read without the network.
///
/// # Errors
/// The first source without usable keys.
pub(crate) fn check(sources: &[AuthoritySource]) -> Result<(), Error> {
    for source in sources {
        match source {
            AuthoritySource::Vault(_) | AuthoritySource::Secret(_) | AuthoritySource::ConfigMap(_) => {}
            AuthoritySource::File(path) => drop(look_at_file(&mut WatchedFile::new(path))?),
            AuthoritySource::Folder(path) => drop(look_at_folder(&mut folder(path))?),
            AuthoritySource::Key(key) => drop(fit("authorities: key", vec![key.0.clone()])?),
        }
    }
    Ok(())
}

/// The current set of trusted authorities; `None` until every source has answered once.
pub(crate) type Current = watch::Receiver<Option<AuthoritySet>>;

/// Keeps the set fresh for as long as a receiver of the result is held.
///
/// Sources that need no network are read before this returns.
///
/// # Errors
/// A file or key that cannot be used: at the start there is no last good one to keep.
pub(crate) fn follow(sources: &[AuthoritySource], upstreams: Upstreams<'_>) -> Result<Current, Error> {
    let Upstreams { vault, cluster, reload, metrics, warnings } = upstreams;
    let (sender, mut reports) = mpsc::channel(sources.len().max(1));
    let mut known = Known::new(sources.len());
    let now = SystemTime::now();
    for (index, source) in sources.iter().enumerate() {
        let report = Report {
            index,
            sender: sender.clone(),
            metrics: Arc::clone(&metrics),
            warnings: warnings.clone(),
        };
        let reload = Arc::clone(&reload);
        match source {
            AuthoritySource::Key(key) => {
                known.learn(index, News::Keys(fit("authorities: key", vec![key.0.clone()])?), now);
                tokio::spawn(confirm(report));
            }
            AuthoritySource::File(path) => {
                let mut file = WatchedFile::new(path);
                known.learn(index, look_at_file(&mut file)?.into(), now);
                tokio::spawn(look_again(move || look_at_file(&mut file).map(News::from), report));
            }
            AuthoritySource::Folder(path) => {
                let mut folder = folder(path);
                known.learn(index, look_at_folder(&mut folder)?.into(), now);
                tokio::spawn(look_again(move || look_at_folder(&mut folder).map(News::from), report));
            }
            AuthoritySource::Secret(key) => {
                let mut entry = entry(cluster, ObjectRef::Secret(key.clone()))?;
                tokio::spawn(look_again(move || look_at_entry(&mut entry), report));
            }
            AuthoritySource::ConfigMap(key) => {
                let mut entry = entry(cluster, ObjectRef::ConfigMap(key.clone()))?;
                tokio::spawn(look_again(move || look_at_entry(&mut entry), report));
            }
            AuthoritySource::Vault(authority) => {
                let server = vault.ok_or(Error::NoVault)?.server().clone();
                tokio::spawn(follow_vault(server, authority.clone(), reload, report));
            }
        }
    }
    let (publish, current) = watch::channel(known.all());
    tokio::spawn(async move {
        loop {
            if let (Some(confirmed), Some(set)) = (known.confirmed(), publish.borrow().as_ref()) {
                metrics.authorities_read(set.len(), confirmed);
            }
            let (index, news) = tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => report,
                    None => return,
                },
                () = publish.closed() => return,
            };
            known.learn(index, news, SystemTime::now());
            if let Some(set) = known.all() {
                publish.send_if_modified(|published| {
                    let changed = published.as_ref() != Some(&set);
                    if changed {
                        tracing::info!(keys = set.len(), "authorities loaded");
                        *published = Some(set);
                    }
                    changed
                });
            }
        }
    });
    Ok(current)
}

/// A folder of files with names that end in `.pub`.
fn folder(path: &Path) -> WatchedFolder {
    WatchedFolder::new(path, ".pub")
}

/// The keys of a file, if it changed.
fn look_at_file(file: &mut WatchedFile) -> Result<Option<Vec<PublicKey>>, Error> {
    let text = file.changed().map_err(|source| unreadable(file.path(), source))?;
    let name = file.path().display().to_string();
    text.map(|text| fit(&name, parse(&name, &text)?)).transpose()
}

/// The keys of all files of a folder, if any of them changed.
fn look_at_folder(folder: &mut WatchedFolder) -> Result<Option<Vec<PublicKey>>, Error> {
    let Some(files) = folder.changed().map_err(|source| unreadable(folder.path(), source))? else {
        return Ok(None);
    };
    let mut keys = Vec::new();
    for (path, text) in files {
        keys.extend(parse(&path.display().to_string(), &text)?);
    }
    fit(&folder.path().display().to_string(), keys).map(Some)
}

/// The keys of an entry of a Secret or ConfigMap, if it changed.
fn look_at_entry(entry: &mut Entry) -> Result<News, Error> {
    let place = entry.place().to_string();
    let looked = entry.look().map_err(|source| Error::Missing { place: entry.place().clone(), source })?;
    Ok(match looked {
        Look::Nothing => News::Nothing,
        Look::Unchanged => News::Unchanged,
        Look::Content(bytes) => News::Keys(fit(&place, parse(&place, &String::from_utf8_lossy(&bytes))?)?),
    })
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), source }
}

/// Parses a text in the format of sshd's `TrustedUserCAKeys`.
fn parse(source_name: &str, text: &str) -> Result<Vec<PublicKey>, Error> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, key)| {
            PublicKey::from_openssh(key)
                .map_err(|_| Error::NoKey { source_name: source_name.to_owned(), line })
        })
        .collect()
}

fn fit(source_name: &str, keys: Vec<PublicKey>) -> Result<Vec<PublicKey>, Error> {
    if !(1..=MOST_KEYS).contains(&keys.len()) {
        return Err(Error::Count { source_name: source_name.to_owned(), count: keys.len() });
    }
    match AuthoritySet::new(keys.iter().cloned()) {
        Ok(_) => Ok(keys),
        Err(unfit) => Err(Error::Unfit { source_name: source_name.to_owned(), unfit }),
    }
}

/// The last answer of every source, in the order of the configuration.
#[derive(Debug)]
struct Known(Vec<Option<Answer>>);

#[derive(Debug)]
struct Answer {
    keys: Vec<PublicKey>,
    confirmed: SystemTime,
}

/// The result of a look at a source.
#[derive(Debug)]
enum News {
    Keys(Vec<PublicKey>),
    Unchanged,
    /// The API server has not answered since.
    Nothing,
}

impl From<Option<Vec<PublicKey>>> for News {
    fn from(changed: Option<Vec<PublicKey>>) -> Self {
        changed.map_or(Self::Unchanged, Self::Keys)
    }
}

impl Known {
    fn new(sources: usize) -> Self {
        Self((0..sources).map(|_| None).collect())
    }

    fn learn(&mut self, source: usize, news: News, now: SystemTime) {
        match (self.0.get_mut(source), news) {
            (Some(known), News::Keys(keys)) => *known = Some(Answer { keys, confirmed: now }),
            (Some(Some(answer)), News::Unchanged) => answer.confirmed = now,
            (Some(None) | None, _) | (_, News::Nothing) => {}
        }
    }

    /// All keys, once every source has answered.
    fn all(&self) -> Option<AuthoritySet> {
        let answers: Option<Vec<_>> = self.0.iter().map(Option::as_ref).collect();
        // Every key was checked when it came, so the set can be made.
        AuthoritySet::new(answers?.into_iter().flat_map(|answer| answer.keys.iter().cloned())).ok()
    }

    /// When the source with the oldest answer answered.
    fn confirmed(&self) -> Option<SystemTime> {
        self.0.iter().map(|answer| answer.as_ref().map(|answer| answer.confirmed)).min().flatten()
    }
}

fn entry(cluster: Option<&Cluster>, place: ObjectRef) -> Result<Entry, Error> {
    Ok(Entry::follow(cluster.ok_or(Error::NoCluster)?, place))
}

/// The sending half for the news of one source.
struct Report {
    index: usize,
    sender: mpsc::Sender<(usize, News)>,
    metrics: Arc<Metrics>,
    warnings: Warnings,
}

impl Report {
    /// Sends the news, and returns whether the receiver is still there.
    async fn tell(&self, news: News) -> bool {
        self.sender.send((self.index, news)).await.is_ok()
    }
}

/// Reports a key in the configuration as always fresh.
async fn confirm(report: Report) {
    while report.tell(News::Unchanged).await {
        sleep(LOOK_EVERY).await;
    }
}

/// Checks a local source, or one that a watch keeps local, again and again.
async fn look_again(mut look: impl FnMut() -> Result<News, Error> + Send, report: Report) {
    let mut failure = RepeatedFailure::of_a_source(
        Reason::AuthorityUnreadable,
        "cannot read authorities; the last good ones stay trusted",
        report.warnings.clone(),
    );
    loop {
        let news = match look() {
            Ok(News::Keys(keys)) => {
                failure.over();
                Some(News::Keys(keys))
            }
            // The state that was found bad has not changed, so it is still bad.
            Ok(news) => (!failure.lasts()).then_some(news),
            Err(error) => {
                if failure.met(&error) {
                    report.metrics.authorities_failed();
                }
                None
            }
        };
        if let Some(news) = news
            && !report.tell(news).await
        {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Reads all trusted keys that the mount publishes.
async fn published(
    server: &Server,
    authority: &VaultAuthority,
) -> Result<Vec<PublicKey>, vault_signer::Error> {
    if authority.issuers.is_empty() {
        return server.authorities(&authority.mount).await;
    }
    let mut keys = Vec::new();
    for issuer in &authority.issuers {
        keys.extend(server.issuer(&authority.mount, issuer).await?);
    }
    Ok(keys)
}

async fn follow_vault(server: Server, authority: VaultAuthority, reload: Arc<Notify>, report: Report) {
    let mut backoff = RETRY;
    let mut failure = RepeatedFailure::retried(
        Reason::AuthorityUnreadable,
        "cannot read authorities from Vault; the last good ones stay trusted; retrying",
        report.warnings.clone(),
    );
    loop {
        let source_name = format!("Vault's SSH engine at `{}`", authority.mount);
        let asked = match published(&server, &authority).await {
            Ok(keys) => fit(&source_name, keys),
            Err(source) => Err(Error::Vault { mount: authority.mount.clone(), source }),
        };
        let next = match asked {
            Ok(keys) => {
                if failure.over() {
                    tracing::info!(mount = authority.mount, "Vault answers again");
                }
                backoff.worked();
                if !report.tell(News::Keys(keys)).await {
                    return;
                }
                authority.refresh.0
            }
            Err(error) => {
                report.metrics.authorities_failed();
                failure.met(&error);
                backoff.failed(&mut rand::rng())
            }
        };
        tokio::select! {
            () = sleep(next) => {}
            () = reload.notified() => {}
            () = report.sender.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use ssh_key::{Algorithm, PrivateKey};
    use tokio::time::timeout;

    use super::*;
    use crate::config::AuthorityKey;

    fn key() -> PublicKey {
        PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap().public_key().clone()
    }

    fn line(key: &PublicKey) -> String {
        key.to_openssh().unwrap()
    }

    #[test]
    fn a_file_has_one_key_a_line_and_comments() {
        let (one, two) = (key(), key());
        let text = format!("# ours\n\n{} first\r\n  {}\n", line(&one), line(&two));
        let keys = parse("ca.pub", &text).unwrap();
        assert_eq!(
            keys.iter().map(PublicKey::key_data).collect::<Vec<_>>(),
            [one.key_data(), two.key_data()]
        );
    }

    #[test]
    fn one_bad_line_refuses_the_file_and_is_not_repeated() {
        let text = format!("{}\nssh-ed25519 hunter2\n", line(&key()));
        let error = parse("ca.pub", &text).unwrap_err().to_string();
        assert!(error.starts_with("ca.pub:2: this is no public key"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert!(matches!(fit("ca.pub", vec![]), Err(Error::Count { count: 0, .. })));
        assert!(matches!(fit("ca.pub", vec![key(); MOST_KEYS + 1]), Err(Error::Count { .. })));
    }

    #[test]
    fn no_authority_is_trusted_until_every_source_has_answered() {
        let (one, two, three) = (key(), key(), key());
        let (now, later) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        let mut known = Known::new(2);
        known.learn(0, News::Keys(vec![one.clone()]), now);
        known.learn(1, News::Unchanged, now);
        assert_eq!((known.all(), known.confirmed()), (None, None));
        known.learn(1, News::Keys(vec![two.clone(), one.clone()]), later);
        assert_eq!(known.all().unwrap().len(), 2);
        assert_eq!(known.confirmed(), Some(now));
        known.learn(0, News::Keys(vec![three.clone()]), later);
        let all = known.all().unwrap();
        assert!(all.contains(three.key_data()) && all.contains(one.key_data()));
        assert_eq!(known.confirmed(), Some(later));
        // A source that says the same again has answered, and one that could not be asked has not.
        let last = later + Duration::from_secs(9);
        known.learn(0, News::Unchanged, last);
        known.learn(1, News::Nothing, last);
        assert_eq!(known.confirmed(), Some(later));
        known.learn(1, News::Unchanged, last);
        assert_eq!(known.confirmed(), Some(last));
    }

    async fn until(current: &mut Current, wanted: &[&PublicKey]) {
        let wanted = AuthoritySet::new(wanted.iter().copied().cloned()).unwrap();
        let same = |set: &Option<AuthoritySet>| {
            set.as_ref()
                .is_some_and(|set| set.len() == wanted.len() && wanted.iter().all(|key| set.contains(key)))
        };
        timeout(Duration::from_secs(10), current.wait_for(same)).await.expect("in time").unwrap();
    }

    #[tokio::test]
    async fn a_changed_file_is_read_and_a_broken_one_keeps_what_was() {
        let (inline, one, two) = (key(), key(), key());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pub");
        std::fs::write(&path, line(&one)).unwrap();
        let metrics = Arc::new(Metrics::new());
        let sources =
            [AuthoritySource::File(path.clone()), AuthoritySource::Key(AuthorityKey(inline.clone()))];
        let upstreams = Upstreams { metrics: Arc::clone(&metrics), ..Upstreams::default() };
        let mut current = follow(&sources, upstreams).unwrap();
        until(&mut current, &[&one, &inline]).await;

        std::fs::write(&path, "broken").unwrap();
        let failed = async {
            while !metrics.render().contains("bastion_ca_refresh_failures_total 1") {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), failed).await.unwrap();
        until(&mut current, &[&one, &inline]).await;

        std::fs::write(&path, format!("{}\n{}\n", line(&one), line(&two))).unwrap();
        until(&mut current, &[&one, &two, &inline]).await;
        assert!(metrics.render().contains("bastion_ca_keys 3\n"), "{}", metrics.render());
    }

    #[tokio::test]
    async fn what_was_away_and_came_back_is_confirmed_again() {
        let key = key();
        let above = tempfile::tempdir().unwrap();
        let at = |name: &str| above.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("folder").join("ca.pub"), line(&key)).unwrap();
        std::fs::write(at("file"), line(&key)).unwrap();
        for (name, source) in
            [("folder", AuthoritySource::Folder(at("folder"))), ("file", AuthoritySource::File(at("file")))]
        {
            let metrics = Arc::new(Metrics::new());
            let upstreams = Upstreams { metrics: Arc::clone(&metrics), ..Upstreams::default() };
            let current = follow(&[source], upstreams).unwrap();
            let confirmed = || -> u64 {
                let text = metrics.render();
                let line =
                    text.lines().find(|line| line.starts_with("bastion_ca_refresh_timestamp_seconds "));
                line.and_then(|line| line.rsplit(' ').next())
                    .and_then(|seconds| seconds.parse().ok())
                    .unwrap_or(0)
            };
            std::fs::rename(at(name), at("away")).unwrap();
            let failed = async {
                while !metrics.render().contains("bastion_ca_refresh_failures_total 1\n") {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(Duration::from_secs(10), failed).await.unwrap();
            std::fs::rename(at("away"), at(name)).unwrap();
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let again = async {
                while confirmed() <= since {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            assert!(timeout(Duration::from_secs(10), again).await.is_ok(), "the {name} stays failed");
            assert_eq!(current.borrow().as_ref().map(AuthoritySet::len), Some(1));
        }
    }

    #[tokio::test]
    async fn a_start_without_good_keys_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let sources = [AuthoritySource::File(folder.path().join("none"))];
        assert!(check(&sources).is_err());
        assert!(follow(&sources, Upstreams::default()).is_err());
    }
}
