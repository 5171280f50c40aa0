//! Paths in Vault, in segments.

use std::fmt;

use crate::text::shown;

/// A path below `/v1/`, in segments, so that no name can climb out of its place.
#[derive(Clone, Debug)]
pub(crate) struct VaultPath(Vec<String>);

impl VaultPath {
    /// A path of any number of segments, for example a mount.
    pub(crate) fn new(path: &str) -> Self {
        Self(Vec::new()).join(path)
    }

    /// The path `rest` below this one.
    pub(crate) fn join(mut self, rest: &str) -> Self {
        self.0.extend(rest.split('/').filter(|part| !part.is_empty()).map(str::to_owned));
        self
    }

    /// Whether this is the path `other`.
    pub(super) fn is(&self, other: &str) -> bool {
        self.0 == Self::new(other).0
    }

    /// Its segments. None if one of them is a step and not a name: a URL would leave it out, and so be another path.
    pub(super) fn parts(&self) -> Option<&[String]> {
        let is_step = |part: &String| matches!(part.as_str(), "" | "." | "..");
        if self.0.iter().any(is_step) { None } else { Some(&self.0) }
    }

    /// One segment more, whatever is in it.
    pub(crate) fn name(mut self, name: &str) -> Self {
        self.0.push(name.to_owned());
        self
    }
}

impl fmt::Display for VaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0.join("/")))
    }
}
