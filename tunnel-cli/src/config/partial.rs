//! Reads the settings of one source, of which most may be missing, and lays sources over each other.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use config_file::Spanned;
use vault_signer::{KeyType, login::Method, server::Ca};

use super::{
    Party, Source, Sourced,
    file::{BastionAddress, Database, File, List, OneOrMany, Period},
    origin::Origin,
    settings::Kube,
};
use crate::{
    endpoint::Endpoint,
    failure::{Failure, Stage},
    kubernetes::ObjectName,
    trust::Trust,
};

/// What one source says, laid over what a weaker one says.
pub(super) trait Combine {
    /// `self` where it says something, `below` where it does not.
    #[must_use]
    fn over(self, below: Self) -> Self;
}

impl<T> Combine for Option<Sourced<T>> {
    fn over(self, below: Self) -> Self {
        self.or(below)
    }
}

impl<K: Ord, V> Combine for BTreeMap<K, V> {
    fn over(self, mut below: Self) -> Self {
        below.extend(self);
        below
    }
}

/// Declares a struct of settings that combines field by field.
macro_rules! combined {
    ($(#[$about:meta])* $vis:vis struct $name:ident {
        $($(#[$field_about:meta])* $field_vis:vis $field:ident: $type:ty,)*
    }) => {
        $(#[$about])* $vis struct $name {
            $($(#[$field_about])* $field_vis $field: $type,)*
        }

        impl Combine for $name {
            fn over(self, below: Self) -> Self {
                Self { $($field: self.$field.over(below.$field),)* }
            }
        }
    };
}

combined! {
/// Every setting; `None` where this source says nothing.
#[derive(Debug, Default)]
pub(crate) struct PartialSettings {
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
    /// The authorities that Vault's certificate has to be signed by.
    pub ca: Option<Sourced<Ca>>,
    /// Reach a Vault that is not on this computer without TLS.
    pub dangerously_allow_plain_http: Option<Sourced<bool>>,
    /// Where the SSH engine is mounted.
    pub mount: Option<Sourced<String>>,
    /// The role of the SSH engine.
    pub role: Option<Sourced<String>>,
    /// Whom the certificate is to name; the login name unless set.
    pub principals: Option<Sourced<Vec<String>>>,
    /// How long a certificate is to live.
    pub ttl: Option<Sourced<Period>>,
    /// The type of the key that is made.
    pub key_type: Option<Sourced<KeyType>>,
    /// How to log in to Vault.
    pub auth: PartialAuth,
    /// How long a local connection waits for the bastion.
    pub hold: Option<Sourced<Period>>,
    /// Databases by name.
    pub databases: BTreeMap<String, Sourced<Database>>,
    /// Where a cluster publishes settings that are not given; `None` if no cluster is to be asked.
    pub kube: Option<PartialKube>,
}
}

/// Where a cluster publishes its bastion's connection info.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartialKube {
    /// The kubeconfig's current one unless set.
    pub context: Option<Sourced<String>>,
    /// `bastion` unless set.
    pub namespace: Option<Sourced<ObjectName>>,
    /// `bastion-connection-info` unless set.
    pub config_map: Option<Sourced<ObjectName>>,
    /// Who chose the cluster.
    pub chosen_by: Party,
}

impl Combine for Option<PartialKube> {
    fn over(self, below: Self) -> Self {
        match (self, below) {
            (Some(kube), Some(below)) => Some(PartialKube {
                chosen_by: match (&kube.context, &below.context) {
                    (None, Some(_)) => below.chosen_by,
                    (_, _) => kube.chosen_by,
                },
                context: kube.context.or(below.context),
                namespace: kube.namespace.or(below.namespace),
                config_map: kube.config_map.or(below.config_map),
            }),
            (kube, below) => kube.or(below),
        }
    }
}

combined! {
/// How to log in to Vault.
#[derive(Debug, Default)]
pub(crate) struct PartialAuth {
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
}

impl PartialSettings {
    /// `self` where it says something, `below` where it does not.
    #[must_use]
    pub(crate) fn over(self, below: Self) -> Self {
        Combine::over(self, below)
    }

    /// An address and what vouches for it come from one source: what a project's file says about trust counts for the
    /// addresses in that file, and not for one that the person who runs this chose. Says what is left out.
    #[must_use]
    pub(super) fn vouched(mut self) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let address = self.address.as_ref().map(|address| &address.source);
        notes.extend(left_out("vault.ca_cert", &mut self.ca, "vault.address", address));
        let (setting, plain) = ("vault.dangerously_allow_plain_http", &mut self.dangerously_allow_plain_http);
        notes.extend(left_out(setting, plain, "vault.address", address));
        let setting = self.trust.as_ref().map_or("", |trust| trust.value.setting());
        let bastion = self.bastion.as_ref().map(|bastion| &bastion.source);
        notes.extend(left_out(setting, &mut self.trust, "bastion.address", bastion));
        (self, notes)
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
        let file = |bao, vault| either(bao, vault).map(|path| path.map(PathBuf::from));
        let home = home(&variable);
        let trust = match (set("PF_TUNNEL_HOST_AUTHORITY"), set("PF_TUNNEL_HOST_KEY")) {
            (None, None) => None,
            (Some(authority), None) => {
                Some(parsed(authority, |text| Trust::authorities(&[at_home(text, &home)], Path::new("")))?)
            }
            (None, Some(key)) => {
                Some(parsed(key, |text| Trust::keys(&[at_home(text, &home)], Path::new("")))?)
            }
            (Some(_), Some(_)) => {
                let what = "PF_TUNNEL_HOST_AUTHORITY and PF_TUNNEL_HOST_KEY are both set";
                return Err(Failure::permanent(Stage::Configuration, what).advise("Unset one of them."));
            }
        };
        let bastion = set("PF_TUNNEL_BASTION").map(|text| parsed(text, super::bastions)).transpose()?;
        let kube = PartialKube {
            context: set("PF_TUNNEL_KUBE_CONTEXT"),
            namespace: set("PF_TUNNEL_KUBE_NAMESPACE").map(|text| parsed(text, str::parse)).transpose()?,
            config_map: set("PF_TUNNEL_KUBE_CONFIG_MAP").map(|text| parsed(text, str::parse)).transpose()?,
            chosen_by: Party::Person,
        };
        Ok(Self {
            bastion,
            user: set("PF_TUNNEL_USER"),
            trust,
            address: either("BAO_AGENT_ADDR", "VAULT_AGENT_ADDR")
                .or_else(|| either("BAO_ADDR", "VAULT_ADDR")),
            namespace: either("BAO_NAMESPACE", "VAULT_NAMESPACE"),
            ca: file("BAO_CACERT", "VAULT_CACERT")
                .map(|path| path.map(Ca::File))
                .or_else(|| either("BAO_CACERT_BYTES", "VAULT_CACERT_BYTES").map(|text| text.map(Ca::Text)))
                .or_else(|| file("BAO_CAPATH", "VAULT_CAPATH").map(|path| path.map(Ca::Folder))),
            dangerously_allow_plain_http: set("PF_TUNNEL_DANGEROUSLY_ALLOW_PLAIN_HTTP")
                .map(|text| parsed(text, yes_or_no))
                .transpose()?,
            mount: set("PF_TUNNEL_MOUNT"),
            role: set("PF_TUNNEL_ROLE"),
            principals: set("PF_TUNNEL_PRINCIPALS")
                .map(|names| names.map(|names| vault_signer::list(&names).collect())),
            ttl: set("PF_TUNNEL_TTL").map(|text| parsed(text, str::parse)).transpose()?,
            key_type: set("PF_TUNNEL_KEY_TYPE").map(|text| parsed(text, str::parse)).transpose()?,
            auth: PartialAuth {
                method: set("PF_TUNNEL_AUTH").map(|text| parsed(text, str::parse)).transpose()?,
                role: set("PF_TUNNEL_AUTH_ROLE"),
                username: set("PF_TUNNEL_USERNAME"),
                role_id: set("PF_TUNNEL_ROLE_ID"),
                ..PartialAuth::default()
            },
            hold: set("PF_TUNNEL_HOLD").map(|text| parsed(text, str::parse)).transpose()?,
            databases: BTreeMap::new(),
            kube: kube.if_said(),
        })
    }

    /// What a file says. Paths in it are relative to it, or begin with `~/`.
    pub(super) fn from_file(
        file: File,
        origin: &Origin,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let home = home(variable);
        let path = origin.path();
        let folder = path.parent().unwrap_or(Path::new(""));
        let beside = |file: &Path| folder.join(path_at_home(file, &home));
        let File { bastion, vault, databases, kube, hold } = file;
        let auth = vault.auth;
        for secret in [&auth.token_file, &auth.secret_id_file].into_iter().flatten() {
            if !origin.may_name_secrets() {
                let what = "only the user's own file may say which local file holds a secret";
                return Err(refused(path, secret, what));
            }
        }
        Ok(Self {
            bastion: of(bastion.address, origin)
                .map(|list| list.map(|List(list)| list.into_iter().map(|BastionAddress(one)| one).collect())),
            user: of(bastion.user, origin),
            trust: trust(bastion.host_authority, bastion.host_key, origin, folder, &home)?,
            address: of(vault.address, origin),
            namespace: of(vault.namespace, origin),
            ca: of(vault.ca_cert, origin).map(|file| file.map(|file| Ca::File(beside(&file)))),
            dangerously_allow_plain_http: of(vault.dangerously_allow_plain_http, origin),
            mount: of(vault.mount, origin),
            role: of(vault.role, origin),
            principals: of(vault.principals, origin).map(|list| list.map(|List(list)| list)),
            ttl: of(vault.ttl, origin),
            key_type: of(vault.key_type, origin),
            auth: PartialAuth {
                method: of(auth.method, origin),
                mount: of(auth.mount, origin),
                role: of(auth.role, origin),
                username: of(auth.username, origin),
                role_id: of(auth.role_id, origin),
                secret_id_file: of(auth.secret_id_file, origin).map(|file| file.map(|file| beside(&file))),
                token_file: of(auth.token_file, origin).map(|file| file.map(|file| beside(&file))),
            },
            hold: of(hold, origin),
            kube: kube.map(|kube| PartialKube {
                context: of(kube.context, origin),
                namespace: of(kube.namespace, origin),
                config_map: of(kube.config_map, origin),
                chosen_by: origin.party(),
            }),
            databases: databases
                .into_iter()
                .map(|(name, database)| (name, Sourced::of_file(database, origin)))
                .collect(),
        })
    }
}

impl PartialKube {
    /// `None` if nothing is said.
    pub(crate) fn if_said(self) -> Option<Self> {
        let said = self.context.is_some() || self.namespace.is_some() || self.config_map.is_some();
        said.then_some(self)
    }

    /// The same, with the usual names where none are said.
    pub(crate) fn resolve(self) -> Kube {
        fn usual<T>(said: Option<Sourced<T>>, usual: T) -> Sourced<T> {
            said.unwrap_or_else(|| Sourced::new(usual, Source::Default))
        }
        Kube {
            context: self.context,
            namespace: usual(self.namespace, ObjectName::usual_namespace()),
            config_map: usual(self.config_map, ObjectName::usual_config_map()),
        }
    }
}

fn of<T>(value: Option<Spanned<T>>, origin: &Origin) -> Option<Sourced<T>> {
    value.map(|spanned| Sourced::of_file(spanned, origin))
}

/// Takes away what vouches for an address that a stronger party chose, and says so.
fn left_out<T>(
    setting: &str,
    voucher: &mut Option<Sourced<T>>,
    of: &str,
    address: Option<&Source>,
) -> Option<String> {
    let (address, source) = (address?, &voucher.as_ref()?.source);
    if source.party() >= address.party() {
        return None;
    }
    let note = format!("{setting} of {source} is not used: it cannot vouch for the {of} of {address}");
    *voucher = None;
    Some(note)
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("neither true nor false"),
    }
}

/// Where `~/` is.
pub(crate) fn home(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

/// A path that begins with `~/`, as a shell would have it; any other text as it is.
pub(crate) fn at_home(text: &str, home: &Option<PathBuf>) -> String {
    path_at_home(Path::new(text.trim()), home).to_str().map_or_else(|| text.to_owned(), ToOwned::to_owned)
}

pub(crate) fn path_at_home(path: &Path, home: &Option<PathBuf>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn refused<T>(path: &Path, at: &Spanned<T>, what: impl ToString) -> Failure {
    config_file::Error::at(path, at.defined.line(), at.defined.column(), what.to_string()).into()
}

fn trust(
    authority: Option<Spanned<OneOrMany<String>>>,
    key: Option<Spanned<OneOrMany<String>>>,
    origin: &Origin,
    folder: &Path,
    home: &Option<PathBuf>,
) -> Result<Option<Sourced<Trust>>, Failure> {
    let path = origin.path();
    let texts = |OneOrMany(texts): &OneOrMany<String>| -> Vec<String> {
        texts.iter().map(|text| at_home(text, home)).collect()
    };
    let (spanned, trust) = match (authority, key) {
        (None, None) => return Ok(None),
        (Some(_), Some(key)) => {
            return Err(refused(path, &key, "only one of host_authority and host_key can hold"));
        }
        (Some(authority), None) => {
            let trust = Trust::authorities(&texts(&authority.value), folder);
            (authority, trust)
        }
        (None, Some(key)) => {
            let trust = Trust::keys(&texts(&key.value), folder);
            (key, trust)
        }
    };
    let trust = trust.map_err(|why| refused(path, &spanned, why))?;
    Ok(Some(Sourced::new(trust, origin.line(spanned.defined.line()))))
}

/// A variable's value as another type, or a failure that names the variable.
fn parsed<T, E: ToString>(
    text: Sourced<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Sourced<T>, Failure> {
    match parse(&text.value) {
        Ok(value) => Ok(Sourced::new(value, text.source)),
        Err(why) => {
            Err(Failure::permanent(Stage::Configuration, format!("{}: {}", text.source, why.to_string())))
        }
    }
}
