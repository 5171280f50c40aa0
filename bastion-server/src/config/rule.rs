//! Who may log in, and who may reach what, as it is written down.

use serde::Deserialize;

use crate::{
    access::{self, pattern::DestinationPattern},
    identity::{LoginName, Principal},
};

/// What clients may call themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Each must also be among the certificate's principals, as for sshd.
    users: NonEmpty<Name>,
}

impl Login {
    /// The names.
    pub fn users(&self) -> Vec<LoginName> {
        self.users.0.iter().map(|name| LoginName::new(name.0.as_str())).collect()
    }
}

/// One sentence of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called in logs and audit records.
    name: String,
    /// Whom it is for.
    who: Who,
    /// Where to: `host:port`, `*.example.com:5432`, `10.0.0.0/16:1024-65535`.
    to: NonEmpty<DestinationPattern>,
}

impl From<Rule> for access::Rule {
    fn from(rule: Rule) -> Self {
        Self { name: rule.name, who: rule.who.0, to: rule.to.0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenWho")]
struct Who(access::Who);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenWho {
    principals: Option<NonEmpty<Name>>,
    #[serde(default)]
    everybody: bool,
}

impl TryFrom<WrittenWho> for Who {
    type Error = &'static str;

    fn try_from(written: WrittenWho) -> Result<Self, Self::Error> {
        match written {
            WrittenWho { principals: Some(names), everybody: false } => {
                Ok(Self(access::Who::AnyOf(names.0.into_iter().map(|name| name.0).collect())))
            }
            WrittenWho { principals: None, everybody: true } => Ok(Self(access::Who::Everybody)),
            _ => Err("write either {principals: [NAME, …]} or {everybody: true}"),
        }
    }
}

/// A list that would mean nothing if it were empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<T>")]
struct NonEmpty<T>(Vec<T>);

impl<T> TryFrom<Vec<T>> for NonEmpty<T> {
    type Error = &'static str;

    fn try_from(list: Vec<T>) -> Result<Self, Self::Error> {
        if list.is_empty() { Err("this list is empty; write at least one into it") } else { Ok(Self(list)) }
    }
}

/// A name that a certificate can have as a principal; a login name is one of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Name(Principal);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Principal::parse(&text)
            .map(Self)
            .ok_or("this is no principal; one has 1 to 64 characters out of A-Z a-z 0-9 . _ @ -")
    }
}
