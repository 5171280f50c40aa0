//! Where it says what is revoked, and how that is kept up to date.
//!
//! Serving begins when every file has been read. From then on a file that is gone or corrupt keeps revoking what it revoked:
//! there is no moment in which what was revoked is not, whatever becomes of the files.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    identity::revocation::{self, Malformed, RevocationList, Revocations},
    metrics::Metrics,
    telemetry::one_line,
    watched_file::WatchedFile,
};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a file does not say what is revoked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("{}: {source}\n  It was to hold what is revoked (revocation.files); to revoke nothing, take its name out", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// A file that is no list.
    #[error("{}: {source}\n  Make a list with `ssh-keygen -k -s CA.pub -f LIST …`, or write one public key a line (revocation.files)", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// Reads every file once.
///
/// # Errors
/// The first file that is no good.
pub fn load(files: &[PathBuf]) -> Result<RevocationList, Error> {
    read(files).map(|sources| list(&sources))
}

fn read(files: &[PathBuf]) -> Result<Vec<Source>, Error> {
    files.iter().map(Source::read).collect()
}

/// What is revoked as it is now.
pub type Current = watch::Receiver<RevocationList>;

/// Keeps what is revoked up to date for as long as somebody holds what this returns.
///
/// # Errors
/// The first file that is no good: at the start there is no last good one to keep.
pub fn follow(files: &[PathBuf], metrics: Arc<Metrics>) -> Result<Current, Error> {
    let mut sources = read(files)?;
    let (publish, current) = watch::channel(list(&sources));
    if sources.is_empty() {
        return Ok(current);
    }
    metrics.revocations_read(current.borrow().entries(), SystemTime::now());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = publish.closed() => return,
            }
            let mut changed = false;
            for source in &mut sources {
                changed |= source.look(&metrics).await;
            }
            if changed {
                publish.send_replace(list(&sources));
            }
            if sources.iter().all(|source| source.failed.is_none()) {
                metrics.revocations_read(publish.borrow().entries(), SystemTime::now());
            }
        }
    });
    Ok(current)
}

fn list(sources: &[Source]) -> RevocationList {
    sources.iter().map(|source| Arc::clone(&source.known)).collect()
}

/// One file, and the last good state of it.
#[derive(Debug)]
struct Source {
    file: WatchedFile,
    known: Arc<Revocations>,
    /// What is wrong with its present state, as it was logged.
    failed: Option<String>,
}

impl Source {
    fn read(path: &PathBuf) -> Result<Self, Error> {
        let mut file = WatchedFile::new(path);
        let bytes = changed(&mut file)?.unwrap_or_default();
        let known = parsed(&file, Revocations::parse(&bytes))?;
        Ok(Self { file, known, failed: None })
    }

    /// Reads the file if it changed, and says whether it now revokes something else.
    async fn look(&mut self, metrics: &Metrics) -> bool {
        let looked = match changed(&mut self.file) {
            // A corrupt state that has not changed since is as corrupt as it was, and a good one as good.
            Ok(None) => return false,
            Ok(Some(bytes)) => self.parse(bytes).await,
            Err(error) => Err(one_line(&error)),
        };
        match looked {
            Ok(known) => {
                let (file, entries) = (self.file.path().display(), known.entries());
                tracing::info!(%file, entries, "what is revoked has been read");
                (self.known, self.failed) = (known, None);
                true
            }
            Err(failed) => {
                if self.failed.as_ref() != Some(&failed) {
                    metrics.revocations_failed();
                    tracing::error!(error = failed, "still revoking what this file revoked before");
                    self.failed = Some(failed);
                }
                false
            }
        }
    }

    /// Parses away from the tasks that serve: a long list takes a while.
    async fn parse(&self, bytes: Vec<u8>) -> Result<Arc<Revocations>, String> {
        match spawn_blocking(move || Revocations::parse(&bytes)).await {
            Ok(result) => parsed(&self.file, result).map_err(|error| one_line(&error)),
            Err(defect) => Err(one_line(&defect)),
        }
    }
}

fn changed(file: &mut WatchedFile) -> Result<Option<Vec<u8>>, Error> {
    file.changed_bytes(revocation::LARGEST)
        .map_err(|source| Error::Unreadable { path: file.path().to_owned(), source })
}

fn parsed(file: &WatchedFile, result: Result<Revocations, Malformed>) -> Result<Arc<Revocations>, Error> {
    result.map(Arc::new).map_err(|source| Error::Corrupt { path: file.path().to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use ssh_key::{Algorithm, PrivateKey};
    use tokio::time::timeout;

    use super::*;

    /// A plain list of so many keys.
    fn keys(count: usize) -> String {
        let line = |_| {
            let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
            key.public_key().to_openssh().unwrap() + "\n"
        };
        (0..count).map(line).collect()
    }

    /// As whoever replaces a list must do it, so that nobody reads a part.
    fn replace(path: &Path, text: &str) {
        let next = path.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, path).unwrap();
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
        let current = follow(&[one.clone(), two.clone()], Arc::clone(&metrics)).unwrap();
        let entries = || current.borrow().entries();
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
        replace(&one, "# nobody\n");
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
            let error = load(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()) && error.contains(expected), "{error}");
            assert!(error.contains("revocation.files") && !error.contains("hunter2"), "{error}");
            assert!(follow(std::slice::from_ref(&path), Arc::default()).is_err());
        }
        assert_eq!(follow(&[], Arc::default()).unwrap().borrow().entries(), 0);
    }
}
