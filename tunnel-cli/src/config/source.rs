//! Where a value came from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config_file::Spanned;

/// The place a person would have to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag, with its dashes.
    Flag(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// A line of a file.
    File(PathBuf, u64),
    /// A ConfigMap of a cluster, with the context that leads there.
    Published(Arc<str>),
    /// The kubeconfig's current context.
    CurrentContext,
    /// Nobody said anything.
    Default,
}

/// A value and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

impl<T> Sourced<T> {
    /// Both.
    pub fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }

    /// A value of the file at `path`.
    pub(crate) fn of_file(spanned: Spanned<T>, path: &Path) -> Self {
        Self::new(spanned.value, Source::File(path.to_owned(), spanned.defined.line()))
    }

    /// The same source, another value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Sourced<U> {
        Sourced::new(change(self.value), self.source)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Published(place) => f.write_str(place),
            Self::CurrentContext => f.write_str("current context of the kubeconfig"),
            Self::Default => f.write_str("default"),
        }
    }
}
