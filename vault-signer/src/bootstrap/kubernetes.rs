//! The login of the bastion's pods: the auth method kubernetes, how it asks the cluster, and the role that pods log in to.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::{
    BootstrapError, Change, Outcome, Work, changed,
    wanted::{differences, object},
};
use crate::{http::VaultPath, text::shown};

/// The field that Vault takes and never gives back.
const REVIEWER: &str = "token_reviewer_jwt";

/// What the login of the bastion's pods should look like.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Where the method is enabled.
    pub mount: String,
    /// The API server as Vault reaches it.
    pub host: String,
    /// The certificates that the API server's is signed by, in PEM. Without them: those of the pod that Vault is, or
    /// those of its system.
    pub ca_cert: Option<String>,
    /// The token with which Vault asks the API server whose a pod's token is. Without it: that of the pod that Vault is.
    pub reviewer: Option<SecretString>,
    /// The role.
    pub role: String,
    /// The ServiceAccount that may have it.
    pub service_account: String,
    /// Its namespace.
    pub namespace: String,
    /// The audience that its token must be for.
    pub audience: String,
    /// How long Vault's own token lives. The bastion logs in for each signature.
    pub ttl: Duration,
}

impl Kubernetes {
    /// How Vault asks the cluster.
    fn config(&self) -> Map<String, Value> {
        object(json!({
            "kubernetes_host": self.host,
            "kubernetes_ca_cert": self.ca_cert.as_deref().unwrap_or_default(),
            // Whose token it is, is for the API server to say, which issued it. The issuer's name is a setting of the
            // cluster, and pods' tokens carry it.
            "disable_iss_validation": true,
            "issuer": "",
            "pem_keys": [],
            "disable_local_ca_jwt": self.reviewer.is_some(),
        }))
    }

    /// What pods log in to.
    fn role(&self, policy: &str) -> Map<String, Value> {
        object(json!({
            "bound_service_account_names": [self.service_account],
            "bound_service_account_namespaces": [self.namespace],
            "audience": self.audience,
            "alias_name_source": "serviceaccount_uid",
            "token_policies": [policy],
            "token_no_default_policy": true,
            "token_ttl": self.ttl.as_secs(),
            "token_max_ttl": self.ttl.as_secs(),
            "token_period": 0,
        }))
    }
}

impl Work<'_> {
    /// The method, its configuration and the role, which gets `policy` and nothing else.
    pub(super) async fn kubernetes(
        &mut self,
        wanted: &Kubernetes,
        policy: &str,
    ) -> Result<(), BootstrapError> {
        let enabled = self.method(&wanted.mount).await?;
        let at = VaultPath::new("auth").join(&wanted.mount);
        self.config(&at.clone().join("config"), wanted, enabled).await?;
        let path = at.join("role").name(&wanted.role);
        let role = wanted.role(policy);
        let found: Option<Map<String, Value>> = if enabled { self.read(&path).await? } else { None };
        let outcome = found.map_or(Outcome::Created, |found| changed(differences(&found, &role)));
        self.write_unless_same(format!("role {path}"), &outcome, &path, role.into()).await
    }

    /// Whether the method was enabled before.
    async fn method(&mut self, mount: &str) -> Result<bool, BootstrapError> {
        let found: Option<Map<String, Value>> = self.read(&VaultPath::new("sys/auth")).await?;
        let name = format!("{}/", mount.trim_matches('/'));
        let method = found.as_ref().and_then(|mounts| mounts.get(&name)?.get("type")?.as_str());
        let outcome = match method {
            Some("kubernetes") => Outcome::Unchanged,
            Some(method) => {
                return Err(BootstrapError::OtherMethod { mount: shown(mount), method: shown(method) });
            }
            None => Outcome::Created,
        };
        let body =
            json!({ "type": "kubernetes", "description": "Pods log in with tokens of their ServiceAccount" });
        let path = VaultPath::new("sys/auth").join(mount);
        self.write_unless_same(format!("auth method kubernetes at {name}"), &outcome, &path, body).await?;
        Ok(outcome == Outcome::Unchanged)
    }

    /// A write resets what it leaves out, the reviewer's token too, so it says everything.
    async fn config(
        &mut self,
        path: &VaultPath,
        wanted: &Kubernetes,
        enabled: bool,
    ) -> Result<(), BootstrapError> {
        let mut whole = wanted.config();
        let found: Option<Map<String, Value>> = if enabled { self.read(path).await? } else { None };
        let outcome = found.map_or(Outcome::Created, |found| {
            let mut changes = differences(&found, &whole);
            // It cannot be read back, so it cannot be compared.
            changes.extend(wanted.reviewer.is_some().then(|| Change {
                field: REVIEWER.to_owned(),
                from: "not shown".to_owned(),
                to: "as given".to_owned(),
            }));
            changed(changes)
        });
        if let Some(reviewer) = &wanted.reviewer {
            whole.insert(REVIEWER.to_owned(), reviewer.expose_secret().into());
        }
        self.write_unless_same(format!("config {path}"), &outcome, path, whole.into()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(reviewer: Option<&str>) -> Kubernetes {
        Kubernetes {
            mount: "kubernetes".into(),
            host: "https://kubernetes.default.svc".into(),
            ca_cert: None,
            reviewer: reviewer.map(Into::into),
            role: "bastion".into(),
            service_account: "bastion".into(),
            namespace: "bastion".into(),
            audience: "vault".into(),
            ttl: Duration::from_secs(300),
        }
    }

    #[test]
    fn one_service_account_for_one_audience_gets_one_policy() {
        let role = wanted(None).role("tunnel-bastion");
        assert_eq!(role["bound_service_account_names"], json!(["bastion"]));
        assert_eq!(role["bound_service_account_namespaces"], json!(["bastion"]));
        assert_eq!(role["audience"], "vault");
        assert_eq!(role["token_policies"], json!(["tunnel-bastion"]));
        assert_eq!(role["token_no_default_policy"], true);
        assert_eq!(role["token_max_ttl"], 300);
    }

    #[test]
    fn the_pods_own_token_reviews_unless_another_is_given() {
        assert_eq!(wanted(None).config()["disable_local_ca_jwt"], false);
        let given = wanted(Some("canary"));
        assert_eq!(given.config()["disable_local_ca_jwt"], true);
        assert!(!format!("{given:?} {:?}", given.config()).contains("canary"));
    }
}
