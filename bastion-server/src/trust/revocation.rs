//! Keeps the revocation lists fresh, from files, Secrets and ConfigMaps.
//!
//! A source that disappears keeps its last good content: revocation never fails open. The bastion begins to
//! serve when every source has been read once.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    common::{text::one_line, watched_file::WatchedFile},
    config::Revocation,
    identity::revocation::{self, Malformed, RevocationList, Revocations},
    kubernetes::entry::{Entry, Look, Missing, ObjectRef},
    telemetry::{
        metrics::Metrics,
        repeated_failure::RepeatedFailure,
        warnings::{Reason, Warnings},
    },
    trust::Upstreams,
};

/// The interval at which files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a source has no revocation list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read.
    #[error("{}: {source}\n  It is to hold a revocation list (revocation.files); to revoke nothing, take its name out", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// An entry of a Secret or ConfigMap is missing.
    #[error(
        "{place}: {source}\n  It is to hold a revocation list (revocation); to revoke nothing, take its name out"
    )]
    Missing { place: ObjectRef, source: Missing },
    /// The content is not a revocation list.
    #[error(
        "{source_name}: {source}\n  Make a list with `ssh-keygen -k -s CA.pub -f LIST …`, or write one public key a line (revocation.files)"
    )]
    Corrupt { source_name: String, source: Malformed },
    /// A list is in a Secret or ConfigMap, and there is no cluster.
    #[error("a revocation list is in a Secret or ConfigMap, and there is no cluster to ask")]
    NoCluster,
}

/// Reads every file once.
///
/// # Errors
/// The first file that cannot be used.
pub(crate) fn check(config: &Revocation) -> Result<(), Error> {
    config.files.iter().try_for_each(|path| Source::file(path, &Warnings::default()).map(drop))
}

/// The current revocation lists; `None` until every source was good once.
pub(crate) type Current = watch::Receiver<Option<RevocationList>>;

/// Keeps the revocation lists fresh for as long as a receiver of the result is held. Files are read before it
/// returns.
///
/// # Errors
/// The first file that cannot be used: at the start it has no last good content to keep.
pub(crate) fn follow(config: &Revocation, upstreams: Upstreams<'_>) -> Result<Current, Error> {
    let Upstreams { cluster, metrics, warnings, .. } = upstreams;
    let mut sources =
        config.files.iter().map(|path| Source::file(path, &warnings)).collect::<Result<Vec<_>, _>>()?;
    let secrets = config.secrets.iter().cloned().map(ObjectRef::Secret);
    for place in secrets.chain(config.config_maps.iter().cloned().map(ObjectRef::ConfigMap)) {
        sources.push(Source::entry(Entry::follow(cluster.ok_or(Error::NoCluster)?, place), &warnings));
    }
    let (publish, current) = watch::channel(list(&sources));
    if sources.is_empty() {
        return Ok(current);
    }
    confirm(&publish, &metrics);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = publish.closed() => return,
            }
            let (mut changed, mut heard) = (false, true);
            for source in &mut sources {
                let looked = source.look(&metrics).await;
                changed |= looked == Looked::Changed;
                heard &= looked != Looked::Nothing;
            }
            if changed && let Some(list) = list(&sources) {
                publish.send_replace(Some(list));
            }
            if heard && sources.iter().all(|source| !source.failure.lasts()) {
                confirm(&publish, &metrics);
            }
        }
    });
    Ok(current)
}

fn confirm(publish: &watch::Sender<Option<RevocationList>>, metrics: &Metrics) {
    if let Some(list) = publish.borrow().as_ref() {
        metrics.revocations_read(list.entries(), SystemTime::now());
    }
}

fn failure(warnings: &Warnings) -> RepeatedFailure {
    RepeatedFailure::of_a_source(
        Reason::RevocationUnreadable,
        "cannot use a revocation list; its last good content stays in force",
        warnings.clone(),
    )
}

/// All lists, once every source was good.
fn list(sources: &[Source]) -> Option<RevocationList> {
    sources.iter().map(|source| source.known.clone()).collect()
}

/// One file or entry, and its last good content.
#[derive(Debug)]
struct Source {
    origin: Origin,
    known: Option<Arc<Revocations>>,
    failure: RepeatedFailure,
}

#[derive(Debug)]
enum Origin {
    File(WatchedFile),
    Entry(Entry),
}

/// The result of a look at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// The content has changed.
    Changed,
    /// The content is unchanged, or not good.
    Unchanged,
    /// The API server has not answered since.
    Nothing,
}

impl Source {
    fn file(path: &PathBuf, warnings: &Warnings) -> Result<Self, Error> {
        let failure = failure(warnings);
        let mut file = WatchedFile::new(path);
        let bytes = changed(&mut file)?.unwrap_or_default();
        let known = parsed(&path.display().to_string(), Revocations::parse(&bytes))?;
        Ok(Self { origin: Origin::File(file), known: Some(known), failure })
    }

    fn entry(entry: Entry, warnings: &Warnings) -> Self {
        Self { origin: Origin::Entry(entry), known: None, failure: failure(warnings) }
    }

    /// Reads the source if it changed.
    async fn look(&mut self, metrics: &Metrics) -> Looked {
        let looked = match self.changed() {
            // Unchanged content is as good or as corrupt as it was.
            Ok(Look::Unchanged) => return Looked::Unchanged,
            Ok(Look::Nothing) => return Looked::Nothing,
            Ok(Look::Content(bytes)) => self.parse(bytes).await,
            Err(error) => Err(one_line(&error)),
        };
        match looked {
            Ok(known) => {
                let (source, entries) = (self.name(), known.entries());
                tracing::info!(source, entries, "revocation list loaded");
                self.known = Some(known);
                self.failure.over();
                Looked::Changed
            }
            Err(failed) => {
                if self.failure.met(&failed) {
                    metrics.revocations_failed();
                }
                Looked::Unchanged
            }
        }
    }

    fn name(&self) -> String {
        match &self.origin {
            Origin::File(file) => file.path().display().to_string(),
            Origin::Entry(entry) => entry.place().to_string(),
        }
    }

    fn changed(&mut self) -> Result<Look, Error> {
        match &mut self.origin {
            Origin::File(file) => changed(file).map(|bytes| bytes.map_or(Look::Unchanged, Look::Content)),
            Origin::Entry(entry) => {
                entry.look().map_err(|source| Error::Missing { place: entry.place().clone(), source })
            }
        }
    }

    /// Parses on a blocking thread: a long list takes a while.
    async fn parse(&self, bytes: Vec<u8>) -> Result<Arc<Revocations>, String> {
        match spawn_blocking(move || Revocations::parse(&bytes)).await {
            Ok(result) => parsed(&self.name(), result).map_err(|error| one_line(&error)),
            Err(defect) => Err(one_line(&defect)),
        }
    }
}

fn changed(file: &mut WatchedFile) -> Result<Option<Vec<u8>>, Error> {
    file.changed_bytes(revocation::LARGEST)
        .map_err(|source| Error::Unreadable { path: file.path().to_owned(), source })
}

fn parsed(source_name: &str, result: Result<Revocations, Malformed>) -> Result<Arc<Revocations>, Error> {
    result.map(Arc::new).map_err(|source| Error::Corrupt { source_name: source_name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use ssh_key::{Algorithm, PrivateKey};
    use tokio::time::timeout;

    use super::*;

    /// A plain list of this many keys.
    fn keys(count: usize) -> String {
        let line = |_| {
            let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
            key.public_key().to_openssh().unwrap() + "\n"
        };
        (0..count).map(line).collect()
    }

    /// Replaces a list by renaming, as an operator must, so that no reader sees a part of it.
    fn replace(path: &Path, text: &str) {
        let next = path.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, path).unwrap();
    }

    fn follow_files(files: &[PathBuf], metrics: Arc<Metrics>) -> Result<Current, Error> {
        let config = Revocation { files: files.to_vec(), ..Revocation::default() };
        follow(&config, Upstreams { metrics, ..Upstreams::default() })
    }

    async fn until(what: impl Fn() -> bool) {
        let until = async {
            while !what() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), until).await.expect("in time");
    }

    #[tokio::test]
    async fn whatever_becomes_of_a_file_it_goes_on_revoking() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, keys(1)).unwrap();
        fs::write(&two, keys(2)).unwrap();
        let metrics = Arc::new(Metrics::new());
        let current = follow_files(&[one.clone(), two.clone()], Arc::clone(&metrics)).unwrap();
        let entries = || current.borrow().as_ref().unwrap().entries();
        let failures = |count: u32| {
            metrics.render().contains(&format!("bastion_revocation_refresh_failures_total {count}\n"))
        };
        assert_eq!(entries(), 3);

        replace(&one, &keys(5));
        until(|| entries() == 7).await;
        for (count, bad) in (1..).zip(["broken", "", "SSHKRL\n\0"]) {
            replace(&one, bad);
            until(|| failures(count)).await;
            assert_eq!(entries(), 7, "{bad:?}");
        }
        fs::rename(&one, folder.path().join("away")).unwrap();
        until(|| failures(4)).await;
        replace(&two, &keys(1));
        until(|| entries() == 6).await;
        replace(&one, "# none\n");
        until(|| entries() == 1).await;
        assert!(failures(4) && metrics.render().contains("bastion_revocation_entries 1\n"));
    }

    #[tokio::test]
    async fn a_start_without_a_good_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked");
        for (content, expected) in [
            (None, "No such file"),
            (Some(""), "the file is empty"),
            (Some("# ours\nhunter2\n"), "byte 7: line 2 is no public key"),
            (Some("SSHKRL\n\0\0\0"), "byte 8: it is cut short"),
        ] {
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let config = Revocation { files: vec![path.clone()], ..Revocation::default() };
            let error = check(&config).unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()) && error.contains(expected), "{error}");
            assert!(error.contains("revocation.files") && !error.contains("hunter2"), "{error}");
            assert!(follow_files(&config.files, Arc::default()).is_err());
        }
        assert_eq!(follow_files(&[], Arc::default()).unwrap().borrow().as_ref().unwrap().entries(), 0);
    }
}
