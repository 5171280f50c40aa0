//! Says what is wrong with a configuration file, where, and what to do about it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use plain_text::Hint;
use serde_saphyr::Error as Yaml;

use crate::MAX_BYTES;

/// A file that cannot be used. Displays as `FILE:LINE:COLUMN: what is wrong`, and the remedy on a second
/// line; then the same for what else is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    file: PathBuf,
    first: Mistake,
    others: Vec<Mistake>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    place: Option<(u64, u64)>,
    pub(crate) problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no such file.
    Missing,
    /// It is there and cannot be read; holds the operating system's words.
    Unreadable(String),
    /// A directory, a device or a pipe.
    NotAFile,
    /// A symbolic link, where none is followed.
    Link,
    /// More than [`MAX_BYTES`].
    TooLarge,
    /// Not UTF-8.
    NotText,
    /// Nothing but white space and comments.
    Empty,
    /// Not YAML.
    Syntax,
    /// A key that is not known at this place.
    UnknownKey {
        /// The key as it stands in the file; keys are words of ours or misspelt ones, never values.
        key: String,
        /// The keys that are known here.
        known: Vec<&'static str>,
    },
    /// A word that is not one of a fixed set.
    UnknownValue {
        /// The set.
        known: Vec<&'static str>,
    },
    /// A key without which the rest means nothing.
    MissingKey(String),
    /// The same key twice.
    DuplicateKey(String),
    /// `yes` where YAML 1.2 has `true`.
    NotABoolean,
    /// A list where a text is needed, and so on; holds what is needed.
    WrongType(String),
    /// The right type and not a right value; holds the words of the type that refused it.
    Refused(String),
}

impl Error {
    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, counted from 1, where one can be named.
    pub fn line(&self) -> Option<u64> {
        self.first.place.map(|(line, _)| line)
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> Option<u64> {
        self.first.place.map(|(_, column)| column)
    }

    /// What is wrong, or what of it comes first in the file.
    pub fn problem(&self) -> &Problem {
        &self.first.problem
    }

    /// An error about a value that was parsed well and is wrong all the same (a file that it names, a
    /// combination).
    pub fn at(file: &Path, line: u64, column: u64, what: impl Into<String>) -> Self {
        Self::one(file, Some((line, column)), Problem::Refused(what.into()))
    }

    pub(crate) fn whole_file(file: &Path, problem: Problem) -> Self {
        Self::one(file, None, problem)
    }

    /// `FILE:LINE:COLUMN: what is wrong`.
    fn line_of(&self, Mistake { place, problem }: &Mistake) -> String {
        let file = self.file.display();
        match place {
            Some((line, column)) => format!("{file}:{line}:{column}: {problem}"),
            None => format!("{file}: {problem}"),
        }
    }

    fn one(file: &Path, place: Option<(u64, u64)>, problem: Problem) -> Self {
        Self { file: file.to_owned(), first: Mistake { place, problem }, others: Vec::new() }
    }

    pub(crate) fn several(file: &Path, first: Mistake, others: Vec<Mistake>) -> Self {
        Self { file: file.to_owned(), first, others }
    }
}

impl Mistake {
    pub(crate) fn from_yaml(error: &Yaml) -> Self {
        let error = error.without_snippet();
        let place = error.location().map(|at| (at.line(), at.column())).filter(|(line, _)| *line > 0);
        Self { place, problem: Problem::from_yaml(error) }
    }

    /// The line of the section that it is in. What the whole file lacks is in none, and what is no YAML has
    /// none.
    pub(crate) fn inside(&self) -> Option<u64> {
        let (line, column) = self.place?;
        match self.problem {
            Problem::Syntax => None,
            Problem::MissingKey(_) if column == 1 => None,
            _ => Some(line),
        }
    }
}

impl std::error::Error for Error {}

impl Hint for Error {
    fn what(&self) -> String {
        self.line_of(&self.first)
    }

    /// The remedy, then the other mistakes, each with its own.
    fn hint(&self) -> Vec<String> {
        let others = self.others.iter().flat_map(|mistake| {
            let remedy = mistake.problem.remedy().map(|remedy| format!("  {remedy}"));
            [Some(self.line_of(mistake)), remedy].into_iter().flatten()
        });
        self.first.problem.remedy().into_iter().chain(others).collect()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in std::iter::once(&self.first).chain(&self.others).enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.line_of(mistake))?;
            if let Some(remedy) = mistake.problem.remedy() {
                write!(f, "\n  {remedy}")?;
            }
        }
        Ok(())
    }
}

impl Problem {
    /// The library's own wording is used only where it cannot hold a value of the file.
    fn from_yaml(error: &Yaml) -> Self {
        match error {
            Yaml::SerdeUnknownField { field, expected, .. } => {
                Self::UnknownKey { key: word(field), known: expected.clone() }
            }
            Yaml::SerdeUnknownVariant { expected, .. } => Self::UnknownValue { known: expected.clone() },
            Yaml::SerdeMissingField { field, .. } => Self::MissingKey((*field).to_owned()),
            Yaml::DuplicateMappingKey { key, .. } => {
                Self::DuplicateKey(word(key.as_deref().unwrap_or_default()))
            }
            Yaml::SerdeInvalidType { expected, .. } | Yaml::SerdeInvalidLength { expected, .. } => {
                Self::WrongType(expected.clone())
            }
            Yaml::InvalidBooleanStrict { .. } => Self::NotABoolean,
            Yaml::NullIntoString { .. } => Self::WrongType("a text".to_owned()),
            Yaml::Unexpected { expected, .. } => Self::WrongType((*expected).to_owned()),
            Yaml::InvalidScalar { ty, .. } => Self::WrongType((*ty).to_owned()),
            Yaml::Message { msg, .. } | Yaml::SerdeInvalidValue { expected: msg, .. } => {
                Self::Refused(msg.clone())
            }
            _ => Self::Syntax,
        }
    }

    /// The key that an unknown one was probably meant to be.
    pub(crate) fn meant(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, known } => nearest(key, known),
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Missing => "Name an existing file.".to_owned(),
            Self::Unreadable(_) => return None,
            Self::NotAFile | Self::Link => "Name the file itself.".to_owned(),
            Self::TooLarge | Self::NotText | Self::Syntax => {
                "Is this the configuration, and is it YAML? Check the indentation around this place."
                    .to_owned()
            }
            Self::Empty => "Write the settings into it.".to_owned(),
            Self::UnknownKey { known, .. } => match self.meant() {
                Some(near) => format!("Did you mean `{near}`?"),
                None => format!("Known keys are {}.", listed(known)),
            },
            Self::UnknownValue { known } => format!("Known values are {}.", listed(known)),
            Self::MissingKey(_) => "Add it; there is no default.".to_owned(),
            Self::NotABoolean => {
                "Write true or false; yes, no, on and off are words like any other.".to_owned()
            }
            Self::DuplicateKey(_) => "Remove one of the two.".to_owned(),
            Self::WrongType(needed) => format!("Needed: {needed}."),
            Self::Refused(_) => return None,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no such file"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::Link => f.write_str("a link, and none is followed here"),
            Self::TooLarge => write!(f, "larger than {} MiB", MAX_BYTES >> 20),
            Self::NotText => f.write_str("not UTF-8 text"),
            Self::Empty => f.write_str("the file is empty"),
            Self::Syntax => f.write_str("this is not YAML"),
            Self::UnknownKey { key, .. } => write!(f, "`{key}` is not a key here"),
            Self::UnknownValue { .. } => f.write_str("this is none of the values that are known here"),
            Self::MissingKey(key) => write!(f, "`{key}` is missing"),
            Self::DuplicateKey(key) => write!(f, "`{key}` stands here a second time"),
            Self::NotABoolean => f.write_str("a word stands here, and true or false is needed"),
            Self::WrongType(_) => f.write_str("a value of another type is needed here"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// A key is repeated only if it looks like one.
fn word(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=40).contains(&key.len()) && key.chars().all(plain) { key.to_owned() } else { "this".to_owned() }
}

/// The known key that was most likely meant.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
