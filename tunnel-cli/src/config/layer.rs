//! All settings as one source has them, and how sources are laid over each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config_file::Spanned;
use vault_signer::login::Method;

use super::file::{BastionAddress, Database, File, OneOrMany, Origin, Period};
use super::{Source, Sourced};
use crate::endpoint::Endpoint;
use crate::failure::{Failure, Stage};
use crate::kubernetes::{ObjectName, Place};
use crate::ssh::Trust;

/// Every setting; `None` where this source says nothing.
#[derive(Debug, Default)]
pub struct Layer {
    /// Where the bastion is.
    pub bastion: Option<Sourced<Vec<Endpoint>>>,
    /// The login name there.
    pub user: Option<Sourced<String>>,
    /// How the bastion proves who it is.
    pub trust: Option<Sourced<Trust>>,
    /// Vault's address.
    pub address: Option<Sourced<String>>,
    /// Vault's namespace.
    pub namespace: Option<Sourced<String>>,
    /// The certificates that Vault's has to be signed by.
    pub ca_cert: Option<Sourced<PathBuf>>,
    /// Those certificates themselves, in PEM, if a cluster publishes them.
    pub ca: Option<Sourced<String>>,
    /// Where the SSH engine is mounted.
    pub mount: Option<Sourced<String>>,
    /// The role of the SSH engine.
    pub role: Option<Sourced<String>>,
    /// Whom the certificate is to name; the login name unless set.
    pub principals: Option<Sourced<Vec<String>>>,
    /// How long a certificate is to live.
    pub ttl: Option<Sourced<Period>>,
    /// How to log in to Vault.
    pub auth: Auth,
    /// How long a local connection waits for the bastion.
    pub hold: Option<Sourced<Period>>,
    /// Databases by name.
    pub databases: BTreeMap<String, Sourced<Database>>,
    /// Where a cluster publishes what nobody says; `None` if no cluster is to be asked.
    pub kube: Option<Kube>,
}

/// Where a cluster publishes its bastion's connection info.
#[derive(Debug, Default)]
pub struct Kube {
    /// The kubeconfig's current one unless set.
    pub context: Option<Sourced<String>>,
    /// `bastion` unless set.
    pub namespace: Option<Sourced<ObjectName>>,
    /// `bastion-connection-info` unless set.
    pub config_map: Option<Sourced<ObjectName>>,
}

/// How to log in to Vault.
#[derive(Debug, Default)]
pub struct Auth {
    /// The method.
    pub method: Option<Sourced<Method>>,
    /// Where the method is mounted; its own name unless set.
    pub mount: Option<Sourced<String>>,
    /// For userpass.
    pub username: Option<Sourced<String>>,
    /// For AppRole.
    pub role_id: Option<Sourced<String>>,
    /// For AppRole.
    pub secret_id_file: Option<Sourced<PathBuf>>,
    /// For Kubernetes.
    pub role: Option<Sourced<String>>,
    /// For token, in place of the file that `vault login` writes; for Kubernetes, the ServiceAccount's.
    pub token_file: Option<Sourced<PathBuf>>,
}

/// One line of `pf-tunnel config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
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

impl Layer {
    /// `self` where it says something, `below` where it does not.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let mut databases = below.databases;
        databases.extend(self.databases);
        let kube = match (self.kube, below.kube) {
            (Some(kube), Some(below)) => Some(Kube {
                context: kube.context.or(below.context),
                namespace: kube.namespace.or(below.namespace),
                config_map: kube.config_map.or(below.config_map),
            }),
            (kube, below) => kube.or(below),
        };
        Self {
            bastion: self.bastion.or(below.bastion),
            user: self.user.or(below.user),
            trust: self.trust.or(below.trust),
            address: self.address.or(below.address),
            namespace: self.namespace.or(below.namespace),
            ca_cert: self.ca_cert.or(below.ca_cert),
            ca: self.ca.or(below.ca),
            mount: self.mount.or(below.mount),
            role: self.role.or(below.role),
            principals: self.principals.or(below.principals),
            ttl: self.ttl.or(below.ttl),
            auth: Auth {
                method: self.auth.method.or(below.auth.method),
                mount: self.auth.mount.or(below.auth.mount),
                role: self.auth.role.or(below.auth.role),
                username: self.auth.username.or(below.auth.username),
                role_id: self.auth.role_id.or(below.auth.role_id),
                secret_id_file: self.auth.secret_id_file.or(below.auth.secret_id_file),
                token_file: self.auth.token_file.or(below.auth.token_file),
            },
            hold: self.hold.or(below.hold),
            databases,
            kube,
        }
    }

    /// What holds when nobody says anything.
    pub fn defaults() -> Self {
        fn default<T>(value: T) -> Option<Sourced<T>> {
            Some(Sourced::new(value, Source::Default))
        }
        Self {
            user: default("tunnel".to_owned()),
            mount: default("ssh".to_owned()),
            role: default("forward".to_owned()),
            ttl: default(TTL),
            hold: default(HOLD),
            auth: Auth { method: default(Method::Token), ..Auth::default() },
            ..Self::default()
        }
    }

    /// What the environment says. Variables of the vault and bao commands mean what they mean there.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let set = |name: &'static str| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            Some(Sourced::new(value, Source::Environment(name)))
        };
        // As the bao command does: a BAO_ variable that is present wins, even an empty one.
        let either = |bao: &'static str, vault: &'static str| match variable(bao) {
            Some(_) => set(bao),
            None => set(vault),
        };
        let trust = match (set("PF_TUNNEL_HOST_AUTHORITY"), set("PF_TUNNEL_HOST_KEY")) {
            (None, None) => None,
            (Some(authority), None) => {
                Some(parsed(authority, |text| Trust::authorities(&[text], Path::new("")))?)
            }
            (None, Some(key)) => Some(parsed(key, |text| Trust::keys(&[text], Path::new("")))?),
            (Some(_), Some(_)) => {
                let what = "PF_TUNNEL_HOST_AUTHORITY and PF_TUNNEL_HOST_KEY are both set";
                return Err(Failure::lasting(Stage::Configuration, what).advise("Unset one of them."));
            }
        };
        let bastion = set("PF_TUNNEL_BASTION")
            .map(|text| {
                parsed(text, |text| text.split(',').map(super::bastion).collect::<Result<Vec<_>, _>>())
            })
            .transpose()?;
        let kube = Kube {
            context: set("PF_TUNNEL_KUBE_CONTEXT"),
            namespace: set("PF_TUNNEL_KUBE_NAMESPACE").map(|text| parsed(text, str::parse)).transpose()?,
            config_map: set("PF_TUNNEL_KUBE_CONFIG_MAP").map(|text| parsed(text, str::parse)).transpose()?,
        };
        Ok(Self {
            bastion,
            user: set("PF_TUNNEL_USER"),
            trust,
            address: either("BAO_ADDR", "VAULT_ADDR"),
            namespace: either("BAO_NAMESPACE", "VAULT_NAMESPACE"),
            ca_cert: either("BAO_CACERT", "VAULT_CACERT").map(|path| path.map(PathBuf::from)),
            mount: set("PF_TUNNEL_MOUNT"),
            role: set("PF_TUNNEL_ROLE"),
            principals: set("PF_TUNNEL_PRINCIPALS")
                .map(|list| list.map(|list| list.split(',').map(str::to_owned).collect())),
            ttl: set("PF_TUNNEL_TTL").map(|text| parsed(text, str::parse)).transpose()?,
            auth: Auth {
                method: set("PF_TUNNEL_AUTH").map(|text| parsed(text, str::parse)).transpose()?,
                role: set("PF_TUNNEL_AUTH_ROLE"),
                username: set("PF_TUNNEL_USERNAME"),
                role_id: set("PF_TUNNEL_ROLE_ID"),
                ..Auth::default()
            },
            hold: set("PF_TUNNEL_HOLD").map(|text| parsed(text, str::parse)).transpose()?,
            databases: BTreeMap::new(),
            kube: kube.if_said(),
            ca: None,
        })
    }

    /// What a file says. Paths in it are relative to it.
    pub(super) fn from_file(file: File, origin: &Origin) -> Result<Self, Failure> {
        let path = origin.path();
        let folder = path.parent().unwrap_or(Path::new(""));
        let File { bastion, vault, databases, kube, hold } = file;
        let auth = vault.auth;
        for secret in [&auth.token_file, &auth.secret_id_file].into_iter().flatten() {
            if !origin.may_name_secrets() {
                let what = "only the user's own file may say which local file holds a secret";
                return Err(refused(path, secret, what));
            }
        }
        Ok(Self {
            bastion: of(bastion.address, path).map(|list| {
                list.map(|OneOrMany(list)| list.into_iter().map(|BastionAddress(one)| one).collect())
            }),
            user: of(bastion.user, path),
            trust: trust(bastion.host_authority, bastion.host_key, path, folder)?,
            address: of(vault.address, path),
            namespace: of(vault.namespace, path),
            ca_cert: of(vault.ca_cert, path).map(|file| file.map(|file| folder.join(file))),
            mount: of(vault.mount, path),
            role: of(vault.role, path),
            principals: of(vault.principals, path).map(|list| list.map(|OneOrMany(list)| list)),
            ttl: of(vault.ttl, path),
            auth: Auth {
                method: of(auth.method, path),
                mount: of(auth.mount, path),
                role: of(auth.role, path),
                username: of(auth.username, path),
                role_id: of(auth.role_id, path),
                secret_id_file: of(auth.secret_id_file, path).map(|file| file.map(|file| folder.join(file))),
                token_file: of(auth.token_file, path).map(|file| file.map(|file| folder.join(file))),
            },
            hold: of(hold, path),
            kube: kube.map(|kube| Kube {
                context: of(kube.context, path),
                namespace: of(kube.namespace, path),
                config_map: of(kube.config_map, path),
            }),
            ca: None,
            databases: databases
                .into_iter()
                .map(|(name, database)| (name, Sourced::of_file(database, path)))
                .collect(),
        })
    }

    /// Every setting, for `pf-tunnel config`.
    pub fn rows(&self) -> Vec<Row> {
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
            row("bastion.user", self.user.as_ref(), String::clone),
            row(
                trust.map_or("bastion.host_authority", |trust| trust.value.setting()),
                trust,
                ToString::to_string,
            ),
            row("vault.address", self.address.as_ref(), String::clone),
            row("vault.namespace", self.namespace.as_ref(), String::clone),
            match (&self.ca_cert, &self.ca) {
                (None, Some(ca)) => row("vault.ca", Some(ca), |_| "given itself".to_owned()),
                (path, _) => row("vault.ca_cert", path.as_ref(), |path| path.display().to_string()),
            },
            row("vault.mount", self.mount.as_ref(), String::clone),
            row("vault.role", self.role.as_ref(), String::clone),
            row("vault.principals", self.principals.as_ref(), |principals| list(principals)),
            row("vault.ttl", self.ttl.as_ref(), ToString::to_string),
            row("vault.auth.method", auth.method.as_ref(), ToString::to_string),
            row("vault.auth.mount", auth.mount.as_ref(), String::clone),
            row("vault.auth.role", auth.role.as_ref(), String::clone),
            row("vault.auth.username", auth.username.as_ref(), String::clone),
            row("vault.auth.role_id", auth.role_id.as_ref(), String::clone),
            row("vault.auth.secret_id_file", auth.secret_id_file.as_ref(), |path| path.display().to_string()),
            row("vault.auth.token_file", auth.token_file.as_ref(), |path| path.display().to_string()),
            row("hold", self.hold.as_ref(), ToString::to_string),
        ];
        if let Some(kube) = &self.kube {
            let Place { context: _, namespace, config_map } = kube.place();
            let or = |set: Option<&Sourced<ObjectName>>, usual: ObjectName| match set {
                Some(set) => set.clone(),
                None => Sourced::new(usual, Source::Default),
            };
            let namespace = or(kube.namespace.as_ref(), namespace);
            let config_map = or(kube.config_map.as_ref(), config_map);
            rows.push(row("kube.context", kube.context.as_ref(), String::clone));
            rows.push(row("kube.namespace", Some(&namespace), ToString::to_string));
            rows.push(row("kube.config_map", Some(&config_map), ToString::to_string));
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

impl Kube {
    /// `None` if nothing is said.
    pub(crate) fn if_said(self) -> Option<Self> {
        let said = self.context.is_some() || self.namespace.is_some() || self.config_map.is_some();
        said.then_some(self)
    }

    /// The place that is meant.
    pub fn place(&self) -> Place {
        let plain = |name: &Option<Sourced<ObjectName>>| name.as_ref().map(|name| name.value.clone());
        Place {
            context: self.context.as_ref().map(|context| context.value.clone()),
            namespace: plain(&self.namespace).unwrap_or_else(ObjectName::usual_namespace),
            config_map: plain(&self.config_map).unwrap_or_else(ObjectName::usual_config_map),
        }
    }
}

fn of<T>(value: Option<Spanned<T>>, path: &Path) -> Option<Sourced<T>> {
    value.map(|spanned| Sourced::of_file(spanned, path))
}

fn refused<T>(path: &Path, at: &Spanned<T>, what: impl ToString) -> Failure {
    config_file::Error::at(path, at.defined.line(), at.defined.column(), what.to_string()).into()
}

fn trust(
    authority: Option<Spanned<OneOrMany<String>>>,
    key: Option<Spanned<OneOrMany<String>>>,
    path: &Path,
    folder: &Path,
) -> Result<Option<Sourced<Trust>>, Failure> {
    let (spanned, trust) = match (authority, key) {
        (None, None) => return Ok(None),
        (Some(_), Some(key)) => {
            return Err(refused(path, &key, "only one of host_authority and host_key can hold"));
        }
        (Some(texts), None) => {
            let trust = Trust::authorities(&texts.value.0, folder);
            (texts, trust)
        }
        (None, Some(texts)) => {
            let trust = Trust::keys(&texts.value.0, folder);
            (texts, trust)
        }
    };
    let trust = trust.map_err(|why| refused(path, &spanned, why))?;
    Ok(Some(Sourced::new(trust, Source::File(path.to_owned(), spanned.defined.line()))))
}

/// A variable's value as another type, or a failure that names the variable.
fn parsed<T, E: ToString>(
    text: Sourced<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Sourced<T>, Failure> {
    match parse(&text.value) {
        Ok(value) => Ok(Sourced::new(value, text.source)),
        Err(why) => {
            Err(Failure::lasting(Stage::Configuration, format!("{}: {}", text.source, why.to_string())))
        }
    }
}
