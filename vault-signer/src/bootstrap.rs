//! Sets up the SSH engine of a real server, and the login of a bastion in Kubernetes, repeatably: reads what is there, and writes only what differs.

mod kubernetes;
mod wanted;

use std::fmt;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use ssh_key::{Algorithm, PublicKey};

pub use kubernetes::Kubernetes;
pub use wanted::{Change, Wanted};

use crate::{
    Server, Token,
    http::{Error, VaultPath},
    text::shown,
    token::Data,
};

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// These fields differed.
    Changed(Vec<Change>),
    /// It was as wanted.
    Unchanged,
    /// It is not as wanted and was left alone all the same, for this reason.
    Kept(String),
}

/// One thing in Vault, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For example `role ssh/roles/forward`.
    pub what: String,
    /// What became of it, or would have in a dry run.
    pub outcome: Outcome,
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order in which it was done.
    pub steps: Vec<Step>,
    /// The authority for users; none in a dry run that would make it.
    pub users: Option<PublicKey>,
    /// The authority for hosts; none in a dry run that would make it.
    pub hosts: Option<PublicKey>,
}

impl Report {
    /// Whether anything was changed, or would be.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.steps.iter().any(|step| match step.outcome {
            Outcome::Created | Outcome::Changed(_) => true,
            Outcome::Unchanged | Outcome::Kept(_) => false,
        })
    }
}

/// Why the server is not set up. What was done before stays, and a second run goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The mount is another engine's.
    #[error(
        "`{mount}` is a `{engine}` engine, not an SSH engine\n  It was left alone. Choose another mount with --mount or --host-mount"
    )]
    OtherEngine {
        /// The mount.
        mount: String,
        /// The engine that is there, escaped.
        engine: String,
    },
    /// The mount is another login method's.
    #[error(
        "`auth/{mount}` is the login method `{method}`, not kubernetes\n  It was left alone. Choose another mount with --kubernetes-mount"
    )]
    OtherMethod {
        /// The mount.
        mount: String,
        /// The method that is there, escaped.
        method: String,
    },
    /// The server is `vault-signer dev`.
    #[error("this server is `vault-signer dev`, which is set up already")]
    Development,
    /// The token may not do this.
    #[error("{0}\n  Setting a server up needs a token that may administer mounts and policies")]
    Denied(Error),
    /// Something on the way to Vault.
    #[error(transparent)]
    Server(Error),
}

impl From<Error> for BootstrapError {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied { .. } => Self::Denied(error),
            error => Self::Server(error),
        }
    }
}

/// Makes the server as `wanted`. In a dry run nothing is written, and the report says what would be.
///
/// # Errors
/// See [`BootstrapError`].
pub async fn run(
    server: &Server,
    token: &Token,
    wanted: &Wanted,
    dry_run: bool,
) -> Result<Report, BootstrapError> {
    match server.health().await {
        Ok(health) if health.development => return Err(BootstrapError::Development),
        // A standby passes on what it is asked.
        Ok(_) | Err(Error::Standby { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut work = Work { server, token, dry_run, steps: Vec::new() };
    let users = work.engine(&wanted.mount, &wanted.role, wanted.user_role()).await?;
    work.policy(&wanted.policy, &wanted.user_policy()).await?;
    let hosts = work.engine(&wanted.host_mount, &wanted.host_role, wanted.bastion_role()).await?;
    work.policy(&wanted.host_policy, &wanted.bastion_policy()).await?;
    if let Some(kubernetes) = &wanted.kubernetes {
        work.kubernetes(kubernetes, &wanted.host_policy).await?;
    }
    Ok(Report { steps: work.steps, users, hosts })
}

struct Work<'a> {
    server: &'a Server,
    token: &'a Token,
    dry_run: bool,
    steps: Vec<Step>,
}

impl Work<'_> {
    /// A mount, its authority and one role.
    async fn engine(
        &mut self,
        mount: &str,
        role: &str,
        wanted: Map<String, Value>,
    ) -> Result<Option<PublicKey>, BootstrapError> {
        let mounted = self.mount(mount).await?;
        let authority = self.authority(mount, mounted).await?;
        let path = VaultPath::new(mount).join("roles").name(role);
        let found: Option<Map<String, Value>> = if mounted { self.read(&path).await? } else { None };
        let outcome = match &found {
            None => Outcome::Created,
            Some(found) => changed(wanted::differences(found, &wanted)),
        };
        // A write resets every field that it leaves out, also those that an operator has set.
        let mut whole = found.unwrap_or_default();
        whole.extend(wanted);
        self.write_unless_same(format!("role {path}"), &outcome, &path, whole.into()).await?;
        Ok(authority)
    }

    /// Whether the mount was there before.
    async fn mount(&mut self, mount: &str) -> Result<bool, BootstrapError> {
        let found: Option<Map<String, Value>> = self.read(&VaultPath::new("sys/mounts")).await?;
        let name = format!("{}/", mount.trim_matches('/'));
        let engine = found.as_ref().and_then(|mounts| mounts.get(&name)?.get("type")?.as_str());
        let outcome = match engine {
            Some("ssh") => Outcome::Unchanged,
            Some(engine) => {
                return Err(BootstrapError::OtherEngine { mount: shown(mount), engine: shown(engine) });
            }
            None => Outcome::Created,
        };
        let body = json!({ "type": "ssh", "description": "Short-lived SSH certificates for tunnels" });
        let path = VaultPath::new("sys/mounts").join(mount);
        self.write_unless_same(format!("SSH engine at {name}"), &outcome, &path, body).await?;
        Ok(outcome == Outcome::Unchanged)
    }

    /// Makes an ed25519 authority where there is none. One that is there is trusted by some server, and stays.
    async fn authority(&mut self, mount: &str, mounted: bool) -> Result<Option<PublicKey>, BootstrapError> {
        let path = VaultPath::new(mount).join("config/ca");
        let found = if mounted { self.present_authority(mount).await? } else { None };
        let outcome = match &found {
            None => Outcome::Created,
            Some(key) if key.algorithm() == Algorithm::Ed25519 => Outcome::Unchanged,
            Some(key) => Outcome::Kept(format!(
                "it is {}, larger and slower than ed25519; for an ed25519 authority choose another mount",
                shown(key.algorithm().as_str())
            )),
        };
        let body = json!({ "generate_signing_key": true, "key_type": "ed25519" });
        self.write_unless_same(format!("authority {path}"), &outcome, &path, body).await?;
        match found {
            None if !self.dry_run => Ok(self.present_authority(mount).await?),
            found => Ok(found),
        }
    }

    async fn present_authority(&self, mount: &str) -> Result<Option<PublicKey>, BootstrapError> {
        match self.server.authorities(mount).await {
            Ok(keys) => Ok(keys.into_iter().next()),
            // A mount that has no authority yet: Vault says that nothing is there, OpenBao has its own words.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(Error::BadRequest { errors, .. }) if errors.mention("no default issuer") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn policy(&mut self, name: &str, text: &str) -> Result<(), BootstrapError> {
        #[derive(Deserialize)]
        struct Policy {
            policy: String,
        }
        let path = VaultPath::new("sys/policies/acl").name(name);
        let outcome = match self.read::<Policy>(&path).await? {
            None => Outcome::Created,
            Some(found) if found.policy.trim() == text.trim() => Outcome::Unchanged,
            Some(found) => Outcome::Changed(vec![Change {
                field: "policy".to_owned(),
                from: shown(&found.policy),
                to: shown(text),
            }]),
        };
        self.write_unless_same(format!("policy {}", shown(name)), &outcome, &path, json!({ "policy": text }))
            .await
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        path: &VaultPath,
    ) -> Result<Option<T>, BootstrapError> {
        let token = Some(self.token.secret());
        match self.server.http().call::<Data<T>>(Method::GET, path, token, None).await {
            Ok(reply) => Ok(Some(reply.data)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_unless_same(
        &mut self,
        what: String,
        outcome: &Outcome,
        path: &VaultPath,
        body: Value,
    ) -> Result<(), BootstrapError> {
        match outcome {
            Outcome::Created | Outcome::Changed(_) if !self.dry_run => {
                self.server.http().tell(Method::POST, path, Some(self.token.secret()), Some(body)).await?;
            }
            Outcome::Created | Outcome::Changed(_) | Outcome::Unchanged | Outcome::Kept(_) => {}
        }
        self.steps.push(Step { what, outcome: outcome.clone() });
        Ok(())
    }
}

fn changed(changes: Vec<Change>) -> Outcome {
    if changes.is_empty() { Outcome::Unchanged } else { Outcome::Changed(changes) }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Created => write!(f, "created    {}", self.what),
            Outcome::Unchanged => write!(f, "unchanged  {}", self.what),
            Outcome::Kept(why) => write!(f, "kept       {}: {why}", self.what),
            Outcome::Changed(changes) => {
                write!(f, "changed    {}", self.what)?;
                for Change { field, from, to } in changes {
                    write!(f, "\n             {field}: {from} → {to}")?;
                }
                Ok(())
            }
        }
    }
}
