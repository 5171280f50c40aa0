//! Reads what a cluster may say about its bastion: the words of `pf-tunnel.yaml` that are public and name nothing on this
//! computer, and OpenSSH's lines for its host identity.
//!
//! A key that is not known here is passed over, and named with `-v`: the cluster's chart may be newer than this program.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use config_file::Spanned;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use vault_signer::{login::Method, server::Ca};

use super::{
    PartialAuth, PartialSettings, Party, Source, Sourced,
    file::{BastionAddress, Database, DatabaseKind, List, ListedDatabase, OneOrMany, Period},
};
use crate::{
    endpoint::Endpoint,
    failure::{Failure, Stage},
    trust::{Trust, known_hosts},
};

/// The key of the ConfigMap that holds the settings.
const SETTINGS: &str = "pf-tunnel.yaml";
/// The key that holds the host identity, written by the bastion itself.
const KNOWN_HOSTS: &str = "known_hosts";

/// Every key that is taken. What stands below `databases` is theirs.
const KNOWN: [&str; 18] = [
    "bastion",
    "bastion.address",
    "bastion.user",
    "bastion.host_authority",
    "bastion.host_key",
    "vault",
    "vault.address",
    "vault.namespace",
    "vault.ca",
    "vault.mount",
    "vault.role",
    "vault.principals",
    "vault.ttl",
    "vault.auth",
    "vault.auth.method",
    "vault.auth.mount",
    "vault.auth.role",
    "databases",
];

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Words {
    bastion: Bastion,
    vault: Vault,
    databases: BTreeMap<String, ListedDatabase>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Bastion {
    address: Option<List<BastionAddress>>,
    user: Option<String>,
    host_authority: Option<Spanned<OneOrMany<String>>>,
    host_key: Option<Spanned<OneOrMany<String>>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Vault {
    address: Option<String>,
    namespace: Option<String>,
    ca: Option<String>,
    mount: Option<String>,
    role: Option<String>,
    principals: Option<List<String>>,
    ttl: Option<Period>,
    auth: VaultAuth,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct VaultAuth {
    method: Option<Method>,
    mount: Option<String>,
    role: Option<String>,
}

/// What was published, as a layer, and what was passed over.
#[derive(Debug)]
pub(crate) struct Published {
    /// The lowest layer but for the defaults.
    pub layer: PartialSettings,
    /// Each names a key or a database, and why it is not taken.
    pub notes: Vec<String>,
}

/// Reads the `data` of the ConfigMap that is called `place`, in a cluster that `chosen_by` chose. `bastion` is where the bastion
/// is, if a stronger source says so.
///
/// # Errors
/// When it holds what cannot be used; names the line.
pub(crate) fn read(
    data: &BTreeMap<String, String>,
    place: &str,
    chosen_by: Party,
    bastion: Option<&[Endpoint]>,
) -> Result<Published, Failure> {
    let name = format!("{place}, {SETTINGS}");
    let file = Path::new(&name);
    let text = data.get(SETTINGS).ok_or_else(|| {
        Failure::permanent(Stage::Configuration, format!("{place} has no {SETTINGS} in it"))
            .advise("Is it the bastion's? The chart writes one that has.")
    })?;
    let keys: Keys = config_file::parse(file, text)?;
    let words: Words = config_file::parse(file, text)?;
    let mut notes: Vec<String> = keys
        .unknown("")
        .into_iter()
        .map(|key| format!("{place}: `{key}` is not taken from there, or not known to this version"))
        .collect();

    let source = Source::Published(Arc::from(place), chosen_by);
    let sourced = |text: Option<String>| text.map(|text| Sourced::new(text, source.clone()));
    let Words { bastion: said, vault, databases } = words;
    let address: Option<Vec<Endpoint>> =
        said.address.map(|List(list)| list.into_iter().map(|BastionAddress(one)| one).collect());
    let trust = match stated(said.host_authority, said.host_key, file)? {
        Some(trust) => Some(trust),
        None => match data.get(KNOWN_HOSTS) {
            Some(lines) => known_hosts::trust(lines, bastion.or(address.as_deref()).unwrap_or_default())
                .map_err(|bad| {
                    let file = format!("{place}, {KNOWN_HOSTS}");
                    Failure::from(config_file::Error::at(file.as_ref(), bad.line, 1, bad.why.to_string()))
                })?,
            None => None,
        },
    };
    let mut listed = BTreeMap::new();
    for (name, database) in databases {
        match database.kind.parse::<DatabaseKind>() {
            Ok(kind) => _ = listed.insert(name, Sourced::new(Database::of(database, kind), source.clone())),
            Err(_) => notes
                .push(format!("{place}: the database {name} is of a kind that this version does not know")),
        }
    }
    let layer = PartialSettings {
        bastion: address.map(|address| Sourced::new(address, source.clone())),
        user: sourced(said.user),
        trust: trust.map(|trust| Sourced::new(trust, source.clone())),
        address: sourced(vault.address),
        namespace: sourced(vault.namespace),
        ca: sourced(vault.ca).map(|text| text.map(Ca::Text)),
        mount: sourced(vault.mount),
        role: sourced(vault.role),
        principals: vault.principals.map(|List(list)| Sourced::new(list, source.clone())),
        ttl: vault.ttl.map(|ttl| Sourced::new(ttl, source.clone())),
        auth: PartialAuth {
            method: vault.auth.method.map(|method| Sourced::new(method, source.clone())),
            mount: sourced(vault.auth.mount),
            role: sourced(vault.auth.role),
            ..PartialAuth::default()
        },
        databases: listed,
        ..PartialSettings::default()
    };
    Ok(Published { layer, notes })
}

/// The host identity as the settings have it: keys themselves, never files.
fn stated(
    authority: Option<Spanned<OneOrMany<String>>>,
    key: Option<Spanned<OneOrMany<String>>>,
    file: &Path,
) -> Result<Option<Trust>, Failure> {
    let refused = |at: &Spanned<OneOrMany<String>>, what: String| -> Failure {
        config_file::Error::at(file, at.defined.line(), at.defined.column(), what).into()
    };
    match (authority, key) {
        (None, None) => Ok(None),
        (Some(_), Some(key)) => Err(refused(&key, "only one of host_authority and host_key can hold".into())),
        (Some(texts), None) => Trust::stated(&texts.value.0)
            .map(|keys| Some(Trust::Authorities(keys)))
            .map_err(|why| refused(&texts, why.to_string())),
        (None, Some(texts)) => Trust::stated(&texts.value.0)
            .map(|keys| Some(Trust::Keys(keys)))
            .map_err(|why| refused(&texts, why.to_string())),
    }
}

/// The keys of a document, and nothing of its values.
#[derive(Default)]
struct Keys(BTreeMap<String, Keys>);

impl Keys {
    /// The topmost keys that are not [`KNOWN`], each with its path.
    fn unknown(&self, above: &str) -> Vec<String> {
        let mut all = Vec::new();
        for (key, below) in &self.0 {
            let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
            if !KNOWN.contains(&path.as_str()) {
                all.push(path);
            } else if path != "databases" {
                all.extend(below.unknown(&path));
            }
        }
        all
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = BTreeMap::new();
                while let Some((key, below)) = map.next_entry()? {
                    keys.insert(key, below);
                }
                Ok(Keys(keys))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Keys, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Keys::default())
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Keys, E> {
                Ok(Keys::default())
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Keys, E> {
                Ok(Keys::default())
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Keys, E> {
                Ok(Keys::default())
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Keys, E> {
                Ok(Keys::default())
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Keys, E> {
                Ok(Keys::default())
            }

            fn visit_unit<E: Error>(self) -> Result<Keys, E> {
                Ok(Keys::default())
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const PLACE: &str = "ConfigMap bastion/bastion-connection-info of context prod";

    fn published(settings: &str, known_hosts: Option<&str>) -> Result<Published, String> {
        let mut data = BTreeMap::from([(SETTINGS.to_owned(), settings.replace("KEY", KEY))]);
        data.extend(known_hosts.map(|lines| (KNOWN_HOSTS.to_owned(), lines.replace("KEY", KEY))));
        read(&data, PLACE, Party::Person, None).map_err(|failure| {
            assert_eq!(failure.stage(), Stage::Configuration);
            failure.to_string()
        })
    }

    #[test]
    fn every_word_that_is_taken_says_where_it_came_from() {
        let settings = "bastion: {address: [bastion.example.com, '192.0.2.1:2222'], user: me}\n\
                        vault: {address: https://vault, namespace: team, mount: m, role: r, principals: [a, b], ttl: 5m,\n\
                                ca: PEM, auth: {method: userpass, mount: people, role: dev}}\n\
                        databases: {orders: {kind: postgres, host: orders.svc, port: 5432, database: o, roles: {reader: p}}}\n";
        let found = published(settings, Some("@cert-authority bastion.example.com KEY a comment\n")).unwrap();
        assert_eq!(found.notes, [] as [&str; 0]);
        let rows: BTreeMap<String, (String, String)> = found
            .layer
            .resolve()
            .0
            .rows()
            .into_iter()
            .map(|row| (row.name, (row.value, row.source)))
            .collect();
        for (name, value) in [
            ("bastion.address", "bastion.example.com:22, 192.0.2.1:2222"),
            ("bastion.user", "me"),
            ("vault.address", "https://vault"),
            ("vault.namespace", "team"),
            ("vault.ca", "given itself"),
            ("vault.mount", "m"),
            ("vault.role", "r"),
            ("vault.principals", "a, b"),
            ("vault.ttl", "5m"),
            ("vault.auth.method", "userpass"),
            ("vault.auth.mount", "people"),
            ("vault.auth.role", "dev"),
            ("databases.orders", "orders.svc:5432 (roles: reader)"),
        ] {
            assert_eq!(rows[name], (value.to_owned(), PLACE.to_owned()), "{name}");
        }
        assert!(rows["bastion.host_authority"].0.starts_with("SHA256:"));
    }

    #[test]
    fn what_names_something_here_or_is_not_known_is_passed_over_and_named() {
        let settings = "bastion: {address: b, proxy_command: 'rm -rf /'}\n\
                        vault: {ca_cert: /etc/passwd, auth: {token_file: /home/me/.ssh/id, secret_id_file: x, username: me}}\n\
                        hold: 1s\nkube: {context: other}\ncommand: [sh]\n\
                        databases: {new: {kind: oracle, host: x, port: 1, database: o, roles: {}, more: 1}}\n";
        let found = published(settings, None).unwrap();
        let told = found.notes.join("\n");
        for key in [
            "`bastion.proxy_command`",
            "`vault.ca_cert`",
            "`vault.auth.token_file`",
            "`vault.auth.secret_id_file`",
            "`vault.auth.username`",
            "`hold`",
            "`kube`",
            "`command`",
            "database new",
        ] {
            assert!(told.contains(key), "{key} in {told}");
        }
        assert_eq!(found.notes.len(), 9, "{told}");
        let set: Vec<String> = found
            .layer
            .resolve()
            .0
            .rows()
            .into_iter()
            .filter(|row| row.source == PLACE)
            .map(|row| row.name)
            .collect();
        assert_eq!(set, ["bastion.address"]);
    }

    #[test]
    fn a_mistake_has_its_line_and_no_file_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pub");
        std::fs::write(&file, KEY).unwrap();
        let named = format!("bastion:\n  address: b\n  host_authority: {}\n", file.display());
        for (settings, lines, place, words) in [
            (named.as_str(), None, ", pf-tunnel.yaml:3:19: ", "not a public key"),
            ("bastion:\n  address: b@c\n", None, ", pf-tunnel.yaml:2:12: ", "--user"),
            ("bastion:\n  host_key: KEY\n  host_authority: KEY\n", None, ", pf-tunnel.yaml:2", "only one of"),
            ("vault: {auth: {method: magic}}\n", None, ", pf-tunnel.yaml:1:", "`approle`"),
            ("- a\n", None, ", pf-tunnel.yaml:1", "another type"),
            ("", None, ", pf-tunnel.yaml: ", "empty"),
            (
                "bastion: {address: b}\n",
                Some("b KEY\nb ssh-ed25519 AAAA\n"),
                ", known_hosts:2:1: ",
                "not a public key",
            ),
        ] {
            let told = published(settings, lines).unwrap_err();
            assert!(
                told.starts_with(&format!("{PLACE}{place}")) && told.contains(words),
                "{settings}: {told}"
            );
        }
        assert!(
            read(&BTreeMap::new(), PLACE, Party::Person, None)
                .unwrap_err()
                .to_string()
                .contains("has no pf-tunnel.yaml")
        );
    }

    #[test]
    fn a_key_is_the_bastions_under_the_name_that_is_used() {
        let settings = "bastion: {address: b}\n";
        let trust =
            |lines: &str| published(settings, Some(lines)).unwrap().layer.trust.map(|trust| trust.value);
        assert!(matches!(trust("b KEY\n"), Some(Trust::Keys(_))));
        assert_eq!(trust("c KEY\n"), None);
        let stated = "bastion: {address: b, host_authority: KEY}\n";
        let trust = published(stated, Some("b KEY\n")).unwrap().layer.trust.unwrap().value;
        assert!(matches!(trust, Trust::Authorities(_)), "what the operator wrote goes before");

        let data = BTreeMap::from([
            (SETTINGS.to_owned(), settings.to_owned()),
            (KNOWN_HOSTS.to_owned(), format!("c {KEY}\n")),
        ]);
        let said = ["c:2222".parse().unwrap()];
        assert!(read(&data, PLACE, Party::Person, Some(&said)).unwrap().layer.trust.is_some());
    }
}
