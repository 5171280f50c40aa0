//! The shape of `pf-tunnel.yaml` and of the user's own file.

use std::{
    borrow::Cow, collections::BTreeMap, fmt, num::NonZeroU16, path::PathBuf, str::FromStr, time::Duration,
};

use config_file::Spanned;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use vault_signer::{KeyType, login::Method};

use crate::{
    endpoint::{Endpoint, Host},
    kubernetes::ObjectName,
};

/// Settings of `pf-tunnel` and `pf-db-tunnel`.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "pf-tunnel.yaml")]
pub(super) struct File {
    /// The bastion, and how it proves that it is the one that is meant.
    pub(super) bastion: Bastion,
    /// Vault or OpenBao, and how to log in to it.
    pub(super) vault: Vault,
    /// Databases that `pf-db-tunnel` opens, by the name that it is given.
    #[schemars(with = "BTreeMap<String, Database>")]
    pub(super) databases: BTreeMap<String, Spanned<Database>>,
    /// A cluster that publishes its bastion's settings: they hold where nothing else is said. An empty section suffices.
    #[serde(deserialize_with = "config_file::section")]
    pub(super) kube: Option<Kube>,
    /// How long a local connection waits for the bastion.
    #[schemars(with = "Option<Period>", extend("default" = "30s"))]
    pub(super) hold: Option<Spanned<Period>>,
}

#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bastion {
    /// Addresses, each `host` or `host:port`, of which the first that lets the user in is used. The port is 22 unless one is
    /// named.
    #[schemars(with = "Option<OneOrMany<String>>", extend("examples" = ["bastion.example.com:2222"]))]
    pub(super) address: Option<Spanned<List<BastionAddress>>>,
    /// Login name at the bastion.
    #[schemars(with = "Option<String>", extend("default" = "tunnel"))]
    pub(super) user: Option<Spanned<String>>,
    /// Public keys that sign the bastion's host certificate: each a key, or a file of them. Excludes `host_key`.
    #[schemars(with = "Option<OneOrMany<String>>", extend("examples" = ["ssh-ed25519 AAAA…"]))]
    pub(super) host_authority: Option<Spanned<OneOrMany<String>>>,
    /// The bastion's own host keys: each a key, or a file of them. Excludes `host_authority`.
    #[schemars(with = "Option<OneOrMany<String>>", extend("examples" = ["ssh-ed25519 AAAA…"]))]
    pub(super) host_key: Option<Spanned<OneOrMany<String>>>,
}

#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Vault {
    /// Address of the server. `VAULT_ADDR` and `BAO_ADDR` mean the same.
    #[schemars(with = "Option<String>", extend("examples" = ["https://vault.example.com:8200"]))]
    pub(super) address: Option<Spanned<String>>,
    /// Namespace in Vault.
    #[schemars(with = "Option<String>")]
    pub(super) namespace: Option<Spanned<String>>,
    /// File of the authorities that the server's certificate has to be signed by. Without it, those of the system are trusted.
    #[schemars(with = "Option<String>")]
    pub(super) ca_cert: Option<Spanned<PathBuf>>,
    /// Sends tokens in clear to a Vault that is not on this computer, and trusts what answers there.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub(super) dangerously_allow_plain_http: Option<Spanned<bool>>,
    /// Path where the SSH engine is mounted.
    #[schemars(with = "Option<String>", extend("default" = "ssh"))]
    pub(super) mount: Option<Spanned<String>>,
    /// Role of the SSH engine.
    #[schemars(with = "Option<String>", extend("default" = "forward"))]
    pub(super) role: Option<Spanned<String>>,
    /// Principals to ask for. Without them, the login name at the bastion is asked for.
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub(super) principals: Option<Spanned<List<String>>>,
    /// How long a certificate is to live. It is renewed in time.
    #[schemars(with = "Option<Period>", extend("default" = "1h"))]
    pub(super) ttl: Option<Spanned<Period>>,
    /// Type of key to have signed: `ed25519`, `ecdsa-256`, `ecdsa-384`, `ecdsa-521`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
    #[schemars(with = "Option<String>", extend("default" = "ed25519"))]
    pub(super) key_type: Option<Spanned<KeyType>>,
    /// How to log in.
    pub(super) auth: Auth,
}

#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Auth {
    /// Login method: `token`, `approle`, `userpass` or `kubernetes`.
    #[schemars(with = "Option<String>", extend("default" = "token"))]
    pub(super) method: Option<Spanned<Method>>,
    /// Path where the method is mounted. Without it, the method's own name is taken.
    #[schemars(with = "Option<String>")]
    pub(super) mount: Option<Spanned<String>>,
    /// Role of the `kubernetes` login.
    #[schemars(with = "Option<String>")]
    pub(super) role: Option<Spanned<String>>,
    /// User name of the `userpass` login. Its password is asked for, or comes from `PF_TUNNEL_PASSWORD`.
    #[schemars(with = "Option<String>")]
    pub(super) username: Option<Spanned<String>>,
    /// Role id of the `approle` login.
    #[schemars(with = "Option<String>")]
    pub(super) role_id: Option<Spanned<String>>,
    /// File with the secret id of the `approle` login. Not taken from a project's file.
    #[schemars(with = "Option<String>")]
    pub(super) secret_id_file: Option<Spanned<PathBuf>>,
    /// File with the token, or with the ServiceAccount's for the `kubernetes` login. Not taken from a project's file.
    #[schemars(with = "Option<String>")]
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

/// Even an empty one asks for what the cluster publishes.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Kube {
    /// Context of the kubeconfig. Without it, the current one is taken.
    #[schemars(with = "Option<String>")]
    pub(super) context: Option<Spanned<String>>,
    /// Namespace of the bastion.
    #[schemars(with = "Option<String>", extend("default" = "bastion"))]
    pub(super) namespace: Option<Spanned<ObjectName>>,
    /// ConfigMap with the bastion's connection info.
    #[schemars(with = "Option<String>", extend("default" = "bastion-connection-info"))]
    pub(super) config_map: Option<Spanned<ObjectName>>,
}

/// A database that can be named on the command line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Database {
    /// Kind of database.
    pub kind: DatabaseKind,
    /// Host of the database, as the bastion sees it.
    host: DatabaseHost,
    /// Port of the database.
    port: NonZeroU16,
    /// Name of the database on its server.
    pub database: String,
    /// Path in Vault that gives credentials, for each role by the name that `--role` takes.
    pub roles: BTreeMap<String, String>,
}

/// The kinds of database that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
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

#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
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

/// As far as a pattern can tell.
const DURATION: &str = r"^(\d+(\.\d+)? ?[A-Za-z]+ ?)+$";

/// A duration as people write it, more than nothing and at most a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = DURATION))]
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

impl<T> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" }, "minItems": 1 })
    }
}

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
