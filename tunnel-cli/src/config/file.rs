//! The shape of `pf-tunnel.yaml` and of the user's own file.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use config_file::Spanned;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use vault_signer::KeyType;
use vault_signer::login::Method;

use crate::endpoint::{Endpoint, Host};
use crate::kubernetes::ObjectName;

/// The whole file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) bastion: Bastion,
    pub(super) vault: Vault,
    pub(super) databases: BTreeMap<String, Spanned<Database>>,
    #[serde(deserialize_with = "config_file::section")]
    pub(super) kube: Option<Kube>,
    pub(super) hold: Option<Spanned<Period>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bastion {
    pub(super) address: Option<Spanned<List<BastionAddress>>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) host_authority: Option<Spanned<OneOrMany<String>>>,
    pub(super) host_key: Option<Spanned<OneOrMany<String>>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Vault {
    pub(super) address: Option<Spanned<String>>,
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) ca_cert: Option<Spanned<PathBuf>>,
    pub(super) dangerously_allow_plain_http: Option<Spanned<bool>>,
    pub(super) mount: Option<Spanned<String>>,
    pub(super) role: Option<Spanned<String>>,
    pub(super) principals: Option<Spanned<List<String>>>,
    pub(super) ttl: Option<Spanned<Period>>,
    pub(super) key_type: Option<Spanned<KeyType>>,
    pub(super) auth: Auth,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Auth {
    pub(super) method: Option<Spanned<Method>>,
    pub(super) mount: Option<Spanned<String>>,
    pub(super) role: Option<Spanned<String>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) role_id: Option<Spanned<String>>,
    pub(super) secret_id_file: Option<Spanned<PathBuf>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

/// Even an empty one asks for what the cluster publishes.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Kube {
    pub(super) context: Option<Spanned<String>>,
    pub(super) namespace: Option<Spanned<ObjectName>>,
    pub(super) config_map: Option<Spanned<ObjectName>>,
}

/// A database that can be named on the command line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Database {
    /// What speaks there.
    pub kind: DatabaseKind,
    host: DatabaseHost,
    port: NonZeroU16,
    /// The database's own name for itself.
    pub database: String,
    /// Names that people use, and the path in Vault that gives credentials for each.
    pub roles: BTreeMap<String, String>,
}

/// The kinds of database that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DatabaseKind {
    /// PostgreSQL.
    Postgres,
}

impl FromStr for DatabaseKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "postgres" => Ok(Self::Postgres),
            _ => Err(UnknownKind),
        }
    }
}

/// Not a [`DatabaseKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of database that is known here")]
pub(crate) struct UnknownKind;

/// A database as a cluster lists it, which may be of a kind that only newer programs know.
#[derive(Debug, serde::Deserialize)]
pub(super) struct ListedDatabase {
    pub(super) kind: String,
    host: DatabaseHost,
    port: NonZeroU16,
    database: String,
    roles: BTreeMap<String, String>,
}

impl Database {
    pub(super) fn of(listed: ListedDatabase, kind: DatabaseKind) -> Self {
        let ListedDatabase { kind: _, host, port, database, roles } = listed;
        Self { kind, host, port, database, roles }
    }

    /// Where it is, as seen from the bastion.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.host.0.clone(), self.port)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
struct DatabaseHost(Host);

impl TryFrom<String> for DatabaseHost {
    type Error = crate::endpoint::BadEndpoint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

/// `host` or `host:port`; port 22 unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BastionAddress(pub(crate) Endpoint);

impl FromStr for BastionAddress {
    type Err = crate::endpoint::BadEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SSH: NonZeroU16 = NonZeroU16::new(22).unwrap();
        Endpoint::with_default_port(text, SSH).map(Self)
    }
}

/// A duration as people write it, more than nothing and at most a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Period(Duration);

/// Not a [`Period`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration; write one such as 30s or 1h")]
pub(crate) struct BadPeriod;

impl Period {
    /// The duration.
    pub(crate) fn duration(self) -> Duration {
        self.0
    }

    pub(crate) const fn new(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(text: &str) -> Result<Self, BadPeriod> {
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
        match humantime::parse_duration(text) {
            Ok(duration) if duration >= Duration::from_millis(1) && duration <= LONGEST => Ok(Self(duration)),
            _ => Err(BadPeriod),
        }
    }
}

impl TryFrom<String> for Period {
    type Error = BadPeriod;

    fn try_from(text: String) -> Result<Self, BadPeriod> {
        text.parse()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// `a` or `[a, b]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Texts::new(|text| vec![text.to_owned()])).map(Self)
    }
}

/// The same, of texts that have no comma in them: `a, b` is two of them, as in a flag or a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Texts::new(|text| vault_signer::list(text).collect())).map(Self)
    }
}

/// Reads one text or several, each of which may have parts.
struct Texts<T> {
    parts: fn(&str) -> Vec<String>,
    of: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err: fmt::Display>> Texts<T> {
    fn new(parts: fn(&str) -> Vec<String>) -> Self {
        Self { parts, of: std::marker::PhantomData }
    }

    fn read<E: serde::de::Error>(&self, text: &str, all: &mut Vec<T>) -> Result<(), E> {
        for part in (self.parts)(text) {
            all.push(part.parse().map_err(E::custom)?);
        }
        Ok(())
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for Texts<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        let mut all = Vec::new();
        self.read(text, &mut all)?;
        if all.is_empty() { Err(E::custom("the list is empty")) } else { Ok(all) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            self.read(&text, &mut all)?;
        }
        if all.is_empty() { Err(serde::de::Error::custom("the list is empty")) } else { Ok(all) }
    }
}
