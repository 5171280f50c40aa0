//! Keeps what a cluster published the last time, for when its API server cannot be reached: many are behind a VPN, and some
//! behind the very bastion that they tell about.
//!
//! It is public, and in a folder of the user's own. It is used for a week, and only while the API server does not answer: one
//! that says no is believed.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{LONGEST_ANSWER, ObjectRef};

/// How long it is used.
const USED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// The file for one ConfigMap of one cluster.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    about: About,
}

/// Everything that tells one ConfigMap from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct About {
    server: String,
    context: String,
    namespace: String,
    config_map: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    about: About,
    data: BTreeMap<String, String>,
}

impl Cache {
    /// `None` without a home.
    pub(super) fn of(
        object: &ObjectRef,
        context: &str,
        server: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches =
            absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        let about = About {
            server: server.to_owned(),
            context: context.to_owned(),
            namespace: object.namespace.to_string(),
            config_map: object.config_map.to_string(),
        };
        Some(Self { folder: caches.join("pf-tunnel"), about })
    }

    fn file(&self) -> PathBuf {
        // Two with the same number only forget each other.
        let mut hasher = DefaultHasher::new();
        self.about.hash(&mut hasher);
        self.folder.join(format!("{:016x}.json", hasher.finish()))
    }

    /// Keeps what was read. Where nothing can be written, nothing is lost.
    pub(super) fn store(&self, data: &BTreeMap<String, String>) {
        let entry = Entry { about: self.about.clone(), data: data.clone() };
        if let Ok(text) = serde_json::to_vec(&entry) {
            let _ = self.write(&text);
        }
    }

    fn write(&self, text: &[u8]) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let file = self.file();
        // Another pf-tunnel that starts now writes the same, and neither is seen half written.
        let new = file.with_extension(format!("{}.new", std::process::id()));
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        out.write_all(text).and_then(|()| fs::rename(&new, &file)).inspect_err(|_| _ = fs::remove_file(&new))
    }

    /// What was stored, and how long ago.
    pub(super) fn load(&self) -> Option<(BTreeMap<String, String>, Duration)> {
        let (text, age) = read(&self.file())?;
        let entry: Entry = serde_json::from_str(&text).ok()?;
        (entry.about == self.about && age <= USED_FOR).then_some((entry.data, age))
    }
}

fn read(path: &Path) -> Option<(String, Duration)> {
    let file = File::open(path).ok()?;
    let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
    let mut text = String::new();
    let longest = 2 * u64::try_from(LONGEST_ANSWER).ok()?;
    file.take(longest).read_to_string(&mut text).ok()?;
    Some((text, age))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn it_is_of_one_config_map_of_one_cluster_and_a_week_old_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let cache = |namespace: &str, context: &str, server: &str| {
            let object = ObjectRef {
                context: None,
                namespace: namespace.parse().unwrap(),
                config_map: "info".parse().unwrap(),
            };
            let cache = folder.path().display().to_string();
            Cache::of(&object, context, server, |name| (name == "XDG_CACHE_HOME").then(|| cache.clone()))
                .unwrap()
        };
        let one = cache("a", "prod", "https://one");
        assert_eq!(one.load(), None);
        let data = BTreeMap::from([("known_hosts".to_owned(), "x".to_owned())]);
        one.store(&data);
        assert_eq!(one.load().unwrap().0, data);
        for other in [
            cache("b", "prod", "https://one"),
            cache("a", "test", "https://one"),
            cache("a", "prod", "https://two"),
        ] {
            assert_eq!(other.load(), None);
            fs::copy(one.file(), other.file()).unwrap();
            assert_eq!(other.load(), None, "a file that was moved");
        }
        let file = File::options().write(true).open(one.file()).unwrap();
        file.set_modified(SystemTime::now() - USED_FOR - Duration::from_secs(60)).unwrap();
        assert_eq!(one.load(), None);
        fs::write(one.file(), "half").unwrap();
        assert_eq!(one.load(), None);
    }

    #[test]
    fn without_a_home_nothing_is_kept() {
        let object =
            ObjectRef { context: None, namespace: "a".parse().unwrap(), config_map: "b".parse().unwrap() };
        assert!(Cache::of(&object, "c", "d", |_| None).is_none());
        assert!(Cache::of(&object, "c", "d", |_| Some("relative".to_owned())).is_none());
    }
}
