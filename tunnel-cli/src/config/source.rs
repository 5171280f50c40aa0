//! Names the source of a value.

use std::{fmt, path::PathBuf, sync::Arc};

use config_file::Spanned;

use super::origin::Origin;

/// The place a person would have to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A flag, with its dashes.
    Flag(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// A line of a file that is the person's own, or that the person named.
    File(PathBuf, u64),
    /// A line of a project's file.
    Project(PathBuf, u64),
    /// A ConfigMap of a cluster, with the context that leads there, and who chose that cluster.
    Published(Arc<str>, Party),
    /// The kubeconfig's current context.
    CurrentContext,
    /// No source said anything.
    Default,
}

/// On whose word a value holds, the one that has less to say first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    /// The authors of the project's file.
    Project,
    /// The person who runs the program.
    #[default]
    Person,
}

/// A value and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

impl<T> Sourced<T> {
    /// Both.
    pub(crate) fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }

    /// A value of a file.
    pub(super) fn of_file(spanned: Spanned<T>, origin: &Origin) -> Self {
        let source = origin.line(spanned.defined.line());
        Self::new(spanned.value, source)
    }

    /// The same source, another value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Sourced<U> {
        Sourced::new(change(self.value), self.source)
    }
}

impl Source {
    /// On whose word the value holds.
    pub(crate) fn party(&self) -> Party {
        match self {
            Self::Flag(_) | Self::Environment(_) | Self::File(..) | Self::CurrentContext | Self::Default => {
                Party::Person
            }
            Self::Project(..) => Party::Project,
            Self::Published(_, chosen_by) => *chosen_by,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => f.write_str(name),
            Self::File(path, line) | Self::Project(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Published(place, _) => f.write_str(place),
            Self::CurrentContext => f.write_str("current context of the kubeconfig"),
            Self::Default => f.write_str("default"),
        }
    }
}
