//! Reads one YAML file into one typed value, or into an error that names file, line, column and remedy.
//!
//! The types do the checking (`#[serde(deny_unknown_fields)]`, `#[serde(try_from = "String")]`); this crate
//! bounds what is read and turns what serde says into something a person can act on, for several sections
//! together. A section with nothing under it is an empty one. An error never repeats a value of the file,
//! since people do point such a flag at a private key.
//!
//! ```
//! # use serde::Deserialize;
//! #[derive(Deserialize, Debug)]
//! #[serde(deny_unknown_fields)]
//! struct Who {
//!     principals: Vec<String>,
//! }
//! let error = config_file::parse::<Who>("who.yaml".as_ref(), "principal: [dev]\n").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "who.yaml:1:1: `principal` is not a key here\n  Did you mean `principals`?"
//! );
//! ```

mod error;
mod mistakes;
mod sections;

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{errno::Errno, fcntl::OFlag};
use serde::de::DeserializeOwned;

use sections::Sections;

pub use error::{Error, Problem};
pub use sections::section;
pub use serde_saphyr::Spanned;

/// The largest file that is read, in bytes. A configuration is text that people write.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// Reads and parses the file at `path`.
///
/// # Errors
/// When there is no such file, it is not a regular file, is larger than [`MAX_BYTES`], is not UTF-8, is not
/// YAML, or says something that `T` does not accept.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    Opened::open(path, Links::Follow)?.parse()
}

/// What becomes of a path whose last part is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The file that it leads to is opened.
    Follow,
    /// It is refused.
    Refuse,
}

/// A regular file that is open: who owns it is asked of the same descriptor that is read, so that no other
/// file can be put in its place in between.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: File,
    metadata: Metadata,
}

impl Opened {
    /// Opens it without waiting for a writer: a pipe is refused.
    ///
    /// # Errors
    /// When there is no such file, it cannot be opened, is not a regular file, or is a link that is not to be
    /// followed.
    pub fn open(path: &Path, links: Links) -> Result<Self, Error> {
        let flags = match links {
            Links::Follow => OFlag::O_NONBLOCK,
            Links::Refuse => OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW,
        };
        let wrong = |problem| Error::whole_file(path, problem);
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| {
            wrong(match error.kind() {
                ErrorKind::NotFound => Problem::Missing,
                _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => Problem::Link,
                _ => Problem::Unreadable(error.to_string()),
            })
        })?;
        let metadata = file.metadata().map_err(|error| wrong(Problem::Unreadable(error.to_string())))?;
        if !metadata.is_file() {
            return Err(wrong(Problem::NotAFile));
        }
        Ok(Self { path: path.to_owned(), file, metadata })
    }

    /// Its name, as it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system says about the open file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads and parses it.
    ///
    /// # Errors
    /// As for [`read`].
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, Error> {
        let text = text(self.file).map_err(|problem| Error::whole_file(&self.path, problem))?;
        parse(&self.path, &text)
    }
}

/// Parses `text` as if it had been read from `name`, which only serves the error.
///
/// # Errors
/// When the text is not YAML, or says something that `T` does not accept.
pub fn parse<T: DeserializeOwned>(name: &Path, text: &str) -> Result<T, Error> {
    if is_blank(text) {
        return Err(Error::whole_file(name, Problem::Empty));
    }
    typed(text).map_err(|first| mistakes::all::<T>(name, text, &first))
}

/// Nothing but white space and comments.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty())
}

fn typed<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        T::deserialize(Sections(deserializer))
    })
}

/// Strict YAML 1.2 as people mean it: `no` is a word, a key stands once.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    }
}

fn text(file: File) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::Unreadable(error.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(Problem::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| Problem::NotText)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code)]
        listen: std::net::SocketAddr,
        #[serde(default)]
        #[allow(dead_code)]
        count: u16,
        #[serde(default)]
        rules: Vec<Rule>,
        #[serde(default)]
        #[allow(dead_code)]
        level: Option<Level>,
        #[serde(default)]
        #[allow(dead_code)]
        enabled: bool,
        #[serde(default)]
        limits: Limits,
        #[serde(default)]
        hosts: BTreeMap<String, Vec<u8>>,
        #[serde(default, deserialize_with = "section")]
        extra: Option<Limits>,
    }

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        most: u16,
        names: Vec<String>,
        each: Option<Spanned<Vec<String>>>,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        name: Spanned<String>,
        #[allow(dead_code)]
        to: Vec<ipnet::IpNet>,
    }

    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "lowercase")]
    enum Level {
        Info,
        Debug,
    }

    fn error(text: &str) -> String {
        parse::<Sample>("bastion.yaml".as_ref(), text).unwrap_err().to_string()
    }

    #[test]
    fn a_good_file_is_read_with_its_lines() {
        let sample: Sample =
            parse("b.yaml".as_ref(), "listen: 127.0.0.1:0\nrules:\n  - name: one\n    to: [10.0.0.0/8]\n")
                .unwrap();
        assert_eq!(sample.rules[0].name.value, "one");
        assert_eq!(sample.rules[0].name.defined.line(), 3);
    }

    #[test]
    fn every_mistake_has_its_place_and_remedy() {
        for (text, expected) in [
            (
                "listen: 127.0.0.1:0\nruels: []\n",
                "bastion.yaml:2:1: `ruels` is not a key here\n  Did you mean `rules`?",
            ),
            (
                "listen: 127.0.0.1:0\nxyzzy: 1\n",
                "bastion.yaml:2:1: `xyzzy` is not a key here\n  Known keys are `listen`, `count`, `rules`, `level`, `enabled`, `limits`, `hosts`, `extra`.",
            ),
            (
                "listen: 127.0.0.1:0\nlevel: dbug\n",
                "bastion.yaml:2:8: this is none of the values that are known here\n  Known values are `info`, `debug`.",
            ),
            ("count: 1\n", "bastion.yaml:1:1: `listen` is missing\n  Add it; there is no default."),
            (
                "listen: [a]\n",
                "bastion.yaml:1:9: a value of another type is needed here\n  Needed: string scalar.",
            ),
            (
                "listen: 127.0.0.1:0\nlisten: 127.0.0.1:0\n",
                "bastion.yaml:2:1: `listen` stands here a second time\n  Remove one of the two.",
            ),
            (
                "listen: 127.0.0.1:0\nenabled: yes\n",
                "bastion.yaml:2:10: a word stands here, and true or false is needed\n  \
                 Write true or false; yes, no, on and off are words like any other.",
            ),
            (" # nothing\n", "bastion.yaml: the file is empty\n  Write the settings into it."),
        ] {
            assert_eq!(error(text), expected, "for {text:?}");
        }
    }

    #[test]
    fn an_empty_section_is_an_empty_section() {
        let read = |text: &str| {
            parse::<Sample>("b.yaml".as_ref(), text).unwrap_or_else(|error| panic!("{text}{error}"))
        };
        let written = "listen: 127.0.0.1:0\nrules: []\nlimits: {names: []}\nhosts: {a: []}\nextra: {}\n";
        for empty in [
            "listen: 127.0.0.1:0\nrules:\n  # - name: one\nlimits:\n  names:\nhosts:\n  a:\nextra:\n",
            "listen: 127.0.0.1:0\nrules: ~\nlimits: {names: null}\nhosts: {a: null}\nextra: null\n",
        ] {
            let (empty, written) = (read(empty), read(written));
            assert!(empty.rules.is_empty() && written.rules.is_empty());
            assert_eq!(
                (empty.limits, empty.hosts, &empty.extra),
                (written.limits, written.hosts, &written.extra)
            );
            assert_eq!(empty.extra, Some(Limits::default()));
        }
        let sample = read("listen: 127.0.0.1:0\nlimits:\nhosts:\n");
        assert_eq!((sample.limits, sample.hosts.len(), sample.extra), (Limits::default(), 0, None));
        // Nothing is no number, no name and no rule, and still has its place.
        for (text, place) in [
            ("listen:\n", "1:"),
            ("listen: 127.0.0.1:0\nrules:\n  -\n", "3:"),
            ("listen: 127.0.0.1:0\nlimits:\n  most:\n", "3:"),
            ("listen: 127.0.0.1:0\nlimits:\n  names: [~]\n", "3:"),
        ] {
            assert!(error(text).starts_with(&format!("bastion.yaml:{place}")), "{}", error(text));
        }
    }

    #[test]
    fn the_mistakes_of_several_sections_are_told_together() {
        let text =
            "ruels: []\nlisten: 127.0.0.1:0\ncount: many\nrules:\n- nam: one\n  to: []\nlevel: dbug\n# end\n";
        assert_eq!(
            error(text),
            "bastion.yaml:1:1: `ruels` is not a key here\n  Did you mean `rules`?\n\
             bastion.yaml:3:8: a value of another type is needed here\n  Needed: u16.\n\
             bastion.yaml:5:3: `nam` is not a key here\n  Did you mean `name`?\n\
             bastion.yaml:7:8: this is none of the values that are known here\n  Known values are `info`, `debug`."
        );
        let missing = error("count: many\nlevel: dbug\n");
        assert_eq!(missing.matches("bastion.yaml:").count(), 3, "{missing}");
        assert!(missing.ends_with("`listen` is missing\n  Add it; there is no default."), "{missing}");
        // What was taken away to go on is not missing.
        let taken = error("listen: nowhere\ncount: many\n");
        assert_eq!(taken.matches("bastion.yaml:").count(), 2, "{taken}");
        // Bounded, and nothing is made up about what is no YAML, or one line.
        let many: String = (0..50).map(|key| format!("key{key}: 1\n")).collect();
        assert_eq!(error(&many).matches("is not a key here").count(), 10);
        for one in
            ["listen: 127.0.0.1:0\nruels: 1\nrules: [\n", "{listen: 127.0.0.1:0, ruels: 1,\n count: many}\n"]
        {
            assert_eq!(error(one).matches("bastion.yaml:").count(), 1, "{}", error(one));
        }
    }

    #[test]
    fn a_nested_mistake_is_found_where_it_is() {
        let text = "listen: 127.0.0.1:0\nrules:\n  - nam: one\n    to: []\n";
        assert!(
            error(text).starts_with("bastion.yaml:3:5: `nam` is not a key here\n  Did you mean `name`?"),
            "{}",
            error(text)
        );
        let text = "listen: 127.0.0.1:0\nrules:\n  - name: one\n    to: [10.0.0.0/33]\n";
        assert!(error(text).starts_with("bastion.yaml:4:10: "), "{}", error(text));
    }

    #[test]
    fn a_value_is_never_repeated() {
        for text in [
            "listen: hunter2\n",
            "listen: 127.0.0.1:0\ncount: hunter2\n",
            "listen: 127.0.0.1:0\nlevel: hunter2\n",
            "hunter2 hunter2\n",
            "-----BEGIN hunter2-----\nhunter2: [\n",
            "listen: 127.0.0.1:0\nrules: {hunter2: hunter2}\n",
        ] {
            assert!(!error(text).contains("hunter2"), "{}", error(text));
        }
    }

    #[test]
    fn what_is_not_a_configuration_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let big = folder.path().join("big.yaml");
        File::create(&big).unwrap().set_len(100 << 20).unwrap();
        let bytes = folder.path().join("bytes.yaml");
        std::fs::write(&bytes, [0xff, 0xfe, 0]).unwrap();
        for (path, expected) in [
            (folder.path().to_path_buf(), "not a regular file"),
            (folder.path().join("none.yaml"), "no such file"),
            (big, "larger than 1 MiB"),
            (bytes, "not UTF-8"),
        ] {
            let error = read::<BTreeMap<String, String>>(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
        }
    }

    #[test]
    fn what_is_opened_is_what_is_read_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, "count: mine\n").unwrap();
        let opened = Opened::open(&path, Links::Refuse).unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        std::fs::write(&path, "count: theirs\n").unwrap();
        assert_eq!(opened.parse::<BTreeMap<String, String>>().unwrap()["count"], "mine");

        let link = folder.path().join("link.yaml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Opened::open(&link, Links::Follow).is_ok());
        assert_eq!(Opened::open(&link, Links::Refuse).unwrap_err().problem(), &Problem::Link);
        let pipe = folder.path().join("pipe.yaml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(Opened::open(&pipe, Links::Follow).unwrap_err().problem(), &Problem::NotAFile);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..30 {
            let below = level - 1;
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{below}"); 10].join(",")));
        }
        assert!(parse::<BTreeMap<String, serde_saphyr::Spanned<Vec<String>>>>("b".as_ref(), &text).is_err());
    }
}
