//! Reads a file again when it has changed.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The largest text file that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// A file, and the state of it that was read last.
///
/// Changes are found by comparing metadata, not by notification: that works the same for a mounted ConfigMap,
/// where a symbolic link above the file changes, for network file systems, and for an editor that replaces
/// the file.
#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    seen: Option<State>,
}

/// The metadata that tells one state of a file from the next.
#[derive(Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl From<Metadata> for State {
    fn from(metadata: Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        }
    }
}

impl WatchedFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the text, unless the file is in the state that was read last.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than 1 MiB, or is not UTF-8; the next call tries again.
    pub(crate) fn changed(&mut self) -> io::Result<Option<String>> {
        self.changed_by(read)
    }

    /// Returns the bytes, unless the file is in the state that was read last.
    ///
    /// # Errors
    /// When the file cannot be read or is larger than `largest` bytes; the next call tries again.
    pub(crate) fn changed_bytes(&mut self, largest: u64) -> io::Result<Option<Vec<u8>>> {
        self.changed_by(|path| read_bytes(path, largest))
    }

    /// Makes the next call read the file, changed or not.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
    }

    fn changed_by<T>(&mut self, read: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<Option<T>> {
        let seen = self.seen.take();
        let state = State::from(std::fs::metadata(&self.path)?);
        let content = if seen.as_ref() == Some(&state) { None } else { Some(read(&self.path)?) };
        self.seen = Some(state);
        Ok(content)
    }
}

/// The files of a folder with one file name extension, and the state of them that was read last.
#[derive(Debug)]
pub(crate) struct WatchedFolder {
    path: PathBuf,
    ending: &'static str,
    seen: Option<Vec<(PathBuf, State)>>,
}

/// The largest number of files that are read from a folder.
const MOST_FILES: usize = 256;

impl WatchedFolder {
    pub(crate) fn new(path: impl Into<PathBuf>, ending: &'static str) -> Self {
        Self { path: path.into(), ending, seen: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files with their texts, sorted by name, unless all of them are in the state that was read
    /// last.
    ///
    /// # Errors
    /// When the folder or a file cannot be read, or there are more than 256 files; the next call tries again.
    pub(crate) fn changed(&mut self) -> io::Result<Option<Vec<(PathBuf, String)>>> {
        // After a failure the caller needs the files again, even if they are the same as before it.
        let seen = self.seen.take();
        let mut states = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || !name.ends_with(self.ending) {
                continue;
            }
            if states.len() == MOST_FILES {
                return Err(io::Error::other("more than 256 files"));
            }
            let state = State::from(std::fs::metadata(&path)?);
            states.push((path, state));
        }
        states.sort_by(|(one, _), (other, _)| one.cmp(other));
        let texts = if seen.as_ref() == Some(&states) {
            None
        } else {
            Some(states.iter().map(|(path, _)| Ok((path.clone(), read(path)?))).collect::<io::Result<_>>()?)
        };
        self.seen = Some(states);
        Ok(texts)
    }
}

/// Reads a regular text file, within bounds.
///
/// # Errors
/// When the file cannot be read, is not a regular file, is larger than 1 MiB, or is not UTF-8.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    String::from_utf8(read_bytes(path, LARGEST)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

/// Reads a regular file, within bounds.
///
/// # Errors
/// When the file cannot be read, is not a regular file, or is larger than `largest` bytes.
pub(crate) fn read_bytes(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(largest + 1).read_to_end(&mut bytes)?;
    if read as u64 > largest {
        return Err(io::Error::other(format!("larger than {} MiB", largest >> 20)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_once_and_a_failure_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = WatchedFile::new(&path);
        assert_eq!(file.changed().unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "one").unwrap();
        assert_eq!(file.changed().unwrap().as_deref(), Some("one"));
        assert_eq!(file.changed().unwrap(), None);
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        assert!(file.changed().is_err());
        std::fs::rename(folder.path().join("away"), &path).unwrap();
        assert_eq!(file.changed().unwrap().as_deref(), Some("one"), "it was gone, and is there again");
        std::fs::remove_file(&path).unwrap();
        assert!(file.changed().is_err());
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file.changed().unwrap().as_deref(), Some("two"));
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("file"), text).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("data")).unwrap();
        let mut file = WatchedFile::new(at("data").join("file"));
        assert_eq!(file.changed().unwrap().as_deref(), Some("one"));
        std::os::unix::fs::symlink("v2", at("next")).unwrap();
        std::fs::rename(at("next"), at("data")).unwrap();
        assert_eq!(file.changed().unwrap().as_deref(), Some("two"));
    }

    #[test]
    fn a_folder_changes_with_each_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut watched = WatchedFolder::new(folder.path(), ".pub");
        let texts = |changed: Option<Vec<(PathBuf, String)>>| {
            changed.map(|files| files.into_iter().map(|(_, text)| text).collect::<Vec<_>>())
        };
        assert_eq!(texts(watched.changed().unwrap()), Some(vec![]));
        for (name, text) in [("b.pub", "two"), ("a.pub", "one"), (".hidden.pub", "no"), ("a.txt", "no")] {
            std::fs::write(at(name), text).unwrap();
        }
        assert_eq!(texts(watched.changed().unwrap()), Some(vec!["one".to_owned(), "two".to_owned()]));
        assert_eq!(texts(watched.changed().unwrap()), None);
        std::fs::remove_file(at("a.pub")).unwrap();
        assert_eq!(texts(watched.changed().unwrap()), Some(vec!["two".to_owned()]));
        assert!(WatchedFolder::new(at("none"), ".pub").changed().is_err());
    }

    #[test]
    fn a_folder_that_was_away_is_read_again() {
        let above = tempfile::tempdir().unwrap();
        let (here, away) = (above.path().join("here"), above.path().join("away"));
        std::fs::create_dir(&here).unwrap();
        std::fs::write(here.join("a.pub"), "one").unwrap();
        let mut watched = WatchedFolder::new(&here, ".pub");
        assert_eq!(watched.changed().unwrap().map(|files| files.len()), Some(1));
        assert!(watched.changed().unwrap().is_none());
        std::fs::rename(&here, &away).unwrap();
        assert!(watched.changed().is_err());
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(
            watched.changed().unwrap().map(|files| files.len()),
            Some(1),
            "it was gone, and is there again"
        );
        // One file of the folder cannot be read for a while.
        std::fs::write(here.join("b.pub"), [0xff]).unwrap();
        assert!(watched.changed().is_err());
        std::fs::remove_file(here.join("b.pub")).unwrap();
        assert_eq!(watched.changed().unwrap().map(|files| files.len()), Some(1));
    }

    #[test]
    fn what_is_no_small_text_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_err());
        let big = folder.path().join("big");
        File::create(&big).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&big).unwrap_err().to_string().contains("1 MiB"));
    }
}
