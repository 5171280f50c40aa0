//! Who the bastion is, as far as the cluster keeps or tells it: a host key in a Secret, and its public half in a ConfigMap.

use std::{collections::BTreeMap, time::Duration};

use backoff::Backoff;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{Cluster, MANAGER};
use crate::{
    config,
    host_key::{self, HostKey},
    telemetry::one_line,
};

/// The entry of the Secret with the private key.
const PRIVATE_KEY: &str = "ssh_host_ed25519_key";
/// The entry of the ConfigMap with the public identity.
const KNOWN_HOSTS: &str = "known_hosts";
/// The waits before the API server is asked again after it failed.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Why there is no key to be had from a Secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody made it.
    #[error(
        "Secret {0}: there is none in the bastion's namespace\n  Make one with the entry {PRIVATE_KEY}, or set host_key.secret.generate"
    )]
    NoSecret(String),
    /// It is for something else.
    #[error(
        "Secret {0}: it has no entry {PRIVATE_KEY}\n  Add a private key in OpenSSH's format, or let another one be made"
    )]
    NoEntry(String),
    /// The API server.
    #[error("Secret {name}: {source}")]
    Api {
        /// Which one.
        name: String,
        /// What it says.
        source: kube::Error,
    },
}

impl Cluster {
    /// The text of the private key in a Secret. Where there is no such Secret, the first bastion that misses it makes one of
    /// `fresh`, if there is one, and all others find that.
    ///
    /// # Errors
    /// When there is none, and none can be made.
    pub async fn private_key(
        &self,
        name: &str,
        fresh: Option<&Zeroizing<String>>,
    ) -> Result<Zeroizing<String>, Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let failed = |source| Error::Api { name: name.to_owned(), source };
        let secret = match (api.get_opt(name).await.map_err(failed)?, fresh) {
            (Some(secret), _) => secret,
            (None, None) => return Err(Error::NoSecret(name.to_owned())),
            (None, Some(fresh)) => {
                let text = ByteString(fresh.as_bytes().to_vec());
                let labels =
                    BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())]);
                let metadata =
                    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
                let data = Some(BTreeMap::from([(PRIVATE_KEY.to_owned(), text)]));
                let secret = Secret { metadata, data, immutable: Some(true), ..Secret::default() };
                match api
                    .create(
                        &PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() },
                        &secret,
                    )
                    .await
                {
                    Ok(secret) => {
                        tracing::info!(secret = name, "made a host key");
                        secret
                    }
                    // Another replica was faster.
                    Err(kube::Error::Api(status)) if status.is_already_exists() => {
                        api.get(name).await.map_err(failed)?
                    }
                    Err(source) => return Err(failed(source)),
                }
            }
        };
        let text = secret.data.and_then(|mut data| data.remove(PRIVATE_KEY));
        let text = text.and_then(|text| String::from_utf8(text.0).ok());
        text.map(Zeroizing::new).ok_or_else(|| Error::NoEntry(name.to_owned()))
    }

    /// Tells who the bastion is, now and whenever that changes, for as long as it is somebody. The ConfigMap must be there;
    /// its other entries are left alone.
    pub async fn publish(self, wanted: config::Publish, mut host_key: host_key::Current) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = wanted.config_map.as_str();
        let (mut published, mut backoff) = (None, RETRY);
        loop {
            let lines =
                host_key.borrow_and_update().as_deref().and_then(|key| known_hosts(key, &wanted.names));
            let mut next = None;
            if lines.is_some() && lines != published {
                let body = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {KNOWN_HOSTS: lines},
                });
                match api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await {
                    Ok(_) => {
                        tracing::info!(config_map = name, "the host identity is published");
                        backoff.worked();
                        published = lines;
                    }
                    Err(error) => {
                        tracing::error!(
                            config_map = name,
                            error = one_line(&error),
                            "the host identity is not published; trying again"
                        );
                        next = Some(backoff.failed(&mut rand::rng()));
                    }
                }
            }
            let changed = host_key.changed();
            match next {
                Some(next) => tokio::select! {
                    () = sleep(next) => {}
                    changed = changed => if changed.is_err() { return },
                },
                None => {
                    if changed.await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The lines by which OpenSSH knows the bastion (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): by the authority that signed its
/// certificate, or by the key itself. Without a name of its own it is known by any.
fn known_hosts(host_key: &HostKey, names: &[config::PublicName]) -> Option<String> {
    let said = names.iter().map(config::PublicName::as_str).collect::<Vec<_>>().join(",");
    let line = match host_key.certificate() {
        Some(certificate) => {
            let names = if said.is_empty() { certificate.valid_principals().join(",") } else { said };
            let key = ssh_key::PublicKey::from(certificate.signature_key().clone()).to_openssh().ok()?;
            format!("@cert-authority {names} {key}\n")
        }
        None => {
            let names = if said.is_empty() { "*" } else { said.as_str() };
            let public = ssh_key::PublicKey::from(host_key.key().public_key().key_data().clone());
            format!("{names} {}\n", public.to_openssh().ok()?)
        }
    };
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_key::tests::{certified, plain};

    #[test]
    fn openssh_knows_it_by_its_authority_or_by_its_key() {
        let name = |name: &str| config::PublicName::try_from(name.to_owned()).unwrap();
        let key = plain();
        let public = key.key().public_key().key_data().clone();
        let public = ssh_key::PublicKey::from(public).to_openssh().unwrap();
        assert_eq!(known_hosts(&key, &[]), Some(format!("* {public}\n")));
        let names = [name("bastion.example.com"), name("[10.0.0.1]:2222")];
        assert_eq!(
            known_hosts(&key, &names),
            Some(format!("bastion.example.com,[10.0.0.1]:2222 {public}\n"))
        );

        let (certified, authority) = certified();
        let authority = authority.to_openssh().unwrap();
        assert_eq!(known_hosts(&certified, &[]), Some(format!("@cert-authority bastion {authority}\n")));
        assert_eq!(
            known_hosts(&certified, &names[..1]),
            Some(format!("@cert-authority bastion.example.com {authority}\n"))
        );
    }
}
