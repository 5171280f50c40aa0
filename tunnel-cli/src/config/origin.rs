//! Finds the files with settings, and says whose each of them is.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use config_file::{Links, Opened, Problem};
use nix::unistd::{Gid, Group, Uid, User};

use super::{PROJECT_FILE, Party, Source};
use crate::failure::{Failure, Stage};

/// A file that was found, and how far it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Named on the command line.
    Named(PathBuf),
    /// The user's own.
    User(PathBuf),
    /// Found on the way up from the working directory; the authors of the code wrote it.
    Project(PathBuf),
}

impl Origin {
    /// The file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Named(path) | Self::User(path) | Self::Project(path) => path,
        }
    }

    /// On whose word its settings hold.
    pub(super) fn party(&self) -> Party {
        match self {
            Self::Named(_) | Self::User(_) => Party::Person,
            Self::Project(_) => Party::Project,
        }
    }

    /// The source of a value on this line.
    pub(super) fn line(&self, line: u64) -> Source {
        match self {
            Self::Named(path) | Self::User(path) => Source::File(path.clone(), line),
            Self::Project(path) => Source::Project(path.clone(), line),
        }
    }

    /// Whether it may say which local file holds a secret. A project's file may not: it also says who that secret is
    /// sent to.
    pub(super) fn may_name_secrets(&self) -> bool {
        self.party() == Party::Person
    }
}

/// The files that are there, open, the one that beats the other first.
///
/// # Errors
/// When one that is there cannot be opened, or is not to be trusted. What cannot be told is not trusted.
pub(super) fn find(
    explicit: Option<&Path>,
    working_directory: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(Origin, Opened)>, Failure> {
    if let Some(path) = explicit {
        return Ok(vec![(Origin::Named(path.to_owned()), Opened::open(path, Links::Follow)?)]);
    }
    let mut all = Vec::new();
    if let Some(folder) = users_folder(variable) {
        let path = folder.join("pf-tunnel").join("config.yaml");
        all.extend(if_there(&path, Links::Follow)?.map(|opened| (Origin::User(path), opened)));
    }
    for folder in working_directory.ancestors() {
        let path = folder.join(PROJECT_FILE);
        if let Some(opened) = if_there(&path, Links::Refuse).map_err(named_instead)? {
            let about = opened.metadata();
            let facts = Facts { owner: about.uid(), group: about.gid(), mode: about.mode() };
            judge(facts, &Reader::current()).map_err(|distrust| distrust.about(&path))?;
            all.push((Origin::Project(path), opened));
            break;
        }
    }
    Ok(all)
}

fn users_folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))
}

fn if_there(path: &Path, links: Links) -> Result<Option<Opened>, Failure> {
    match Opened::open(path, links) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if *error.problem() == Problem::Missing => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn named_instead(failure: Failure) -> Failure {
    failure.advise("It could send your Vault token anywhere. If you trust it, name it: --config FILE")
}

/// What the system says about a file.
#[derive(Debug, Clone, Copy)]
struct Facts {
    owner: u32,
    group: u32,
    mode: u32,
}

/// Who reads it.
#[derive(Debug, Clone, Copy)]
struct Reader {
    user: u32,
    /// The group that has no other member, as many systems give one to each user.
    own_group: Option<u32>,
}

impl Reader {
    fn current() -> Self {
        let (user, group) = (Uid::effective(), Gid::effective());
        let own_group = || {
            let (user, group) = (User::from_uid(user).ok()??, Group::from_gid(group).ok()??);
            let alone = group.mem.iter().all(|member| *member == user.name);
            (group.name == user.name && alone).then_some(group.gid.as_raw())
        };
        Self { user: user.as_raw(), own_group: own_group() }
    }
}

/// Why a file that merely lies above the working directory is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Distrust {
    #[error("belongs to another user of this computer")]
    AnotherUsers,
    #[error("can be changed by other users of this computer (chmod go-w)")]
    OthersWrite,
}

impl Distrust {
    fn about(self, path: &Path) -> Failure {
        named_instead(Failure::permanent(Stage::Configuration, format!("{} {self}", path.display())))
    }
}

/// A file that decides where the Vault token goes has to be the reader's, or the system's, and no other user's to change.
fn judge(file: Facts, reader: &Reader) -> Result<(), Distrust> {
    const GROUP_WRITES: u32 = 0o020;
    const OTHERS_WRITE: u32 = 0o002;
    if file.owner != 0 && file.owner != reader.user {
        return Err(Distrust::AnotherUsers);
    }
    let by_group = file.mode & GROUP_WRITES != 0 && file.group != 0 && reader.own_group != Some(file.group);
    if file.mode & OTHERS_WRITE != 0 || by_group { Err(Distrust::OthersWrite) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projects_file_is_the_readers_and_nobody_elses_to_change() {
        let reader = Reader { user: 1000, own_group: Some(1000) };
        for (owner, group, mode, answer) in [
            (1000, 1000, 0o644, Ok(())),
            (1000, 1000, 0o664, Ok(())),
            (0, 0, 0o644, Ok(())),
            (0, 0, 0o664, Ok(())),
            (1000, 100, 0o644, Ok(())),
            (1000, 100, 0o664, Err(Distrust::OthersWrite)),
            (1000, 1000, 0o666, Err(Distrust::OthersWrite)),
            (0, 0, 0o646, Err(Distrust::OthersWrite)),
            (1001, 1000, 0o600, Err(Distrust::AnotherUsers)),
        ] {
            assert_eq!(judge(Facts { owner, group, mode }, &reader), answer, "{owner}:{group} {mode:o}");
        }
        let shared = Reader { own_group: None, ..reader };
        let facts = Facts { owner: 1000, group: 1000, mode: 0o664 };
        assert_eq!(judge(facts, &shared), Err(Distrust::OthersWrite));
    }

    #[test]
    fn what_is_there_and_cannot_be_told_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, path) = (folder.path().join("a/b"), folder.path().join(PROJECT_FILE));
        std::fs::create_dir_all(&inside).unwrap();
        let refused = || find(None, &inside, |_| None).unwrap_err().to_string();
        assert!(find(None, &inside, |_| None).unwrap().is_empty());
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "hold: 1s\n").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(refused().contains("a link") && refused().contains("--config"), "{}", refused());
        std::fs::remove_file(&elsewhere).unwrap();
        assert!(refused().contains("a link"), "one that leads nowhere: {}", refused());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(refused().contains("not a regular file"), "{}", refused());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(refused().contains("not a regular file"), "{}", refused());
    }
}
