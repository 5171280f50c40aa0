//! Resolves the settings of all sources: each has a value, and where that came from.
//!
//! What always has a value is no `Option` here. An `Option` is a setting without a default.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use vault_signer::{
    KeyType,
    login::Method,
    server::{Ca, without_secrets},
};

use super::{
    Source, Sourced,
    file::{Database, Period},
    partial::{PartialAuth, PartialSettings},
};
use crate::{
    endpoint::Endpoint,
    kubernetes::{ObjectName, ObjectRef},
    trust::Trust,
};

/// Every setting, resolved.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) bastion: Option<Sourced<Vec<Endpoint>>>,
    pub(crate) user: Sourced<String>,
    pub(crate) trust: Option<Sourced<Trust>>,
    pub(crate) address: Option<Sourced<String>>,
    pub(crate) namespace: Option<Sourced<String>>,
    pub(crate) ca: Option<Sourced<Ca>>,
    pub(crate) dangerously_allow_plain_http: Sourced<bool>,
    pub(crate) mount: Sourced<String>,
    pub(crate) role: Sourced<String>,
    pub(crate) principals: Sourced<Vec<String>>,
    pub(crate) ttl: Sourced<Period>,
    pub(crate) key_type: Sourced<KeyType>,
    pub(crate) auth: Auth,
    pub(crate) hold: Sourced<Period>,
    pub(crate) databases: BTreeMap<String, Sourced<Database>>,
    pub(crate) kube: Option<Kube>,
}

/// How to log in to Vault.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) method: Sourced<Method>,
    pub(crate) mount: Sourced<String>,
    pub(crate) username: Option<Sourced<String>>,
    pub(crate) role_id: Option<Sourced<String>>,
    pub(crate) secret_id_file: Option<Sourced<PathBuf>>,
    pub(crate) role: Option<Sourced<String>>,
    pub(crate) token_file: Option<Sourced<PathBuf>>,
}

/// Where a cluster publishes its bastion's connection info.
#[derive(Debug, Clone)]
pub(crate) struct Kube {
    /// `None`: the kubeconfig's current one.
    pub(crate) context: Option<Sourced<String>>,
    pub(crate) namespace: Sourced<ObjectName>,
    pub(crate) config_map: Sourced<ObjectName>,
}

/// One line of `pf-tunnel config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The setting, as a file would have it.
    pub name: String,
    /// Its value; nothing secret is among the settings.
    pub value: String,
    /// Where it came from; empty if it is not set.
    pub source: String,
}

/// How long a certificate lives unless told otherwise.
const TTL: Period = Period::new(Duration::from_secs(3600));
/// How long a local connection waits unless told otherwise.
const HOLD: Period = Period::new(Duration::from_secs(30));

/// The login name at the bastion unless told otherwise.
const USER: &str = "tunnel";
/// Where Vault's SSH engine is mounted unless told otherwise.
const MOUNT: &str = "ssh";
/// The role of that engine unless told otherwise.
const ROLE: &str = "forward";

impl PartialSettings {
    /// What holds, and what is left out of it, in words.
    pub(crate) fn resolve(self) -> (Settings, Vec<String>) {
        let (said, notes) = self.vouched();
        let user = or(said.user, USER.to_owned());
        let settings = Settings {
            principals: or(said.principals, vec![user.value.clone()]),
            user,
            bastion: said.bastion,
            trust: said.trust,
            address: said.address,
            namespace: said.namespace,
            ca: said.ca,
            dangerously_allow_plain_http: or(said.dangerously_allow_plain_http, false),
            mount: or(said.mount, MOUNT.to_owned()),
            role: or(said.role, ROLE.to_owned()),
            ttl: or(said.ttl, TTL),
            key_type: or(said.key_type, KeyType::default()),
            auth: said.auth.resolve(),
            hold: or(said.hold, HOLD),
            databases: said.databases,
            kube: said.kube.map(super::PartialKube::resolve),
        };
        (settings, notes)
    }
}

impl PartialAuth {
    fn resolve(self) -> Auth {
        let method = or(self.method, Method::Token);
        Auth {
            mount: or(self.mount, method.value.name().to_owned()),
            method,
            username: self.username,
            role_id: self.role_id,
            secret_id_file: self.secret_id_file,
            role: self.role,
            token_file: self.token_file,
        }
    }
}

fn or<T>(said: Option<Sourced<T>>, default: T) -> Sourced<T> {
    said.unwrap_or_else(|| Sourced::new(default, Source::Default))
}

impl Kube {
    /// The object that is meant.
    pub(crate) fn object_ref(&self) -> ObjectRef {
        ObjectRef {
            context: self.context.as_ref().map(|context| context.value.clone()),
            namespace: self.namespace.value.clone(),
            config_map: self.config_map.value.clone(),
        }
    }
}

impl Settings {
    /// Every setting, for `pf-tunnel config`.
    pub(crate) fn rows(&self) -> Vec<Row> {
        fn row<T>(name: &str, value: Option<&Sourced<T>>, print: impl Fn(&T) -> String) -> Row {
            let (value, source) = match value {
                Some(sourced) => (print(&sourced.value), sourced.source.to_string()),
                None => ("not set".to_owned(), String::new()),
            };
            Row { name: name.to_owned(), value, source }
        }
        fn list<T: ToString>(list: &[T]) -> String {
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        let trust = self.trust.as_ref();
        let auth = &self.auth;
        let mut rows = vec![
            row("bastion.address", self.bastion.as_ref(), |addresses| list(addresses)),
            row("bastion.user", Some(&self.user), String::clone),
            row(
                trust.map_or("bastion.host_authority", |trust| trust.value.setting()),
                trust,
                ToString::to_string,
            ),
            row("vault.address", self.address.as_ref(), |address| without_secrets(address)),
            row("vault.namespace", self.namespace.as_ref(), String::clone),
            match &self.ca {
                Some(Sourced { value: Ca::Text(_), .. }) => {
                    row("vault.ca", self.ca.as_ref(), |_| "given itself".to_owned())
                }
                Some(Sourced { value: Ca::Folder(folder), .. }) => {
                    row("vault.ca_path", self.ca.as_ref(), |_| folder.display().to_string())
                }
                Some(Sourced { value: Ca::File(file), .. }) => {
                    row("vault.ca_cert", self.ca.as_ref(), |_| file.display().to_string())
                }
                None => row("vault.ca_cert", self.ca.as_ref(), |_| String::new()),
            },
            row("vault.mount", Some(&self.mount), String::clone),
            row("vault.role", Some(&self.role), String::clone),
            row("vault.principals", Some(&self.principals), |principals| list(principals)),
            row("vault.ttl", Some(&self.ttl), ToString::to_string),
            row("vault.key_type", Some(&self.key_type), ToString::to_string),
            row("vault.auth.method", Some(&auth.method), ToString::to_string),
            row("vault.auth.mount", Some(&auth.mount), String::clone),
            row("vault.auth.role", auth.role.as_ref(), String::clone),
            row("vault.auth.username", auth.username.as_ref(), String::clone),
            row("vault.auth.role_id", auth.role_id.as_ref(), String::clone),
            row("vault.auth.secret_id_file", auth.secret_id_file.as_ref(), |path| path.display().to_string()),
            row("vault.auth.token_file", auth.token_file.as_ref(), |path| path.display().to_string()),
            row("hold", Some(&self.hold), ToString::to_string),
        ];
        let plain = &self.dangerously_allow_plain_http;
        if plain.source != Source::Default {
            rows.push(row("vault.dangerously_allow_plain_http", Some(plain), ToString::to_string));
        }
        if let Some(kube) = &self.kube {
            rows.push(row("kube.context", kube.context.as_ref(), String::clone));
            rows.push(row("kube.namespace", Some(&kube.namespace), ToString::to_string));
            rows.push(row("kube.config_map", Some(&kube.config_map), ToString::to_string));
        }
        rows.extend(self.databases.iter().map(|(name, database)| {
            row(&format!("databases.{name}"), Some(database), |database| {
                let roles: Vec<&str> = database.roles.keys().map(String::as_str).collect();
                format!("{} (roles: {})", database.endpoint(), roles.join(", "))
            })
        }));
        rows
    }
}
