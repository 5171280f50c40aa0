//! Keeps a host key in a Secret, and publishes its public half in a ConfigMap.

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
use tokio::{sync::watch, time::sleep};
use zeroize::Zeroizing;

use super::{Cluster, MANAGER};
use crate::common::text::one_line;

/// The entry of the Secret with the private key.
const PRIVATE_KEY: &str = "ssh_host_ed25519_key";
/// The entry of the ConfigMap with the public identity.
const KNOWN_HOSTS: &str = "known_hosts";
/// The waits before a failed request to the API server is repeated.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Why a host key cannot be read from a Secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The Secret does not exist.
    #[error(
        "Secret {0}: there is none in the bastion's namespace\n  Make one with the entry {PRIVATE_KEY}, or set host_key.secret.generate"
    )]
    NoSecret(String),
    /// The Secret lacks the entry.
    #[error(
        "Secret {0}: it has no entry {PRIVATE_KEY}\n  Add a private key in OpenSSH's format, or let the bastion create another Secret"
    )]
    NoEntry(String),
    /// The API server failed.
    #[error("Secret {name}: {source}")]
    Api {
        /// The name of the Secret.
        name: String,
        source: kube::Error,
    },
}

impl Cluster {
    /// Reads the text of the private key in a Secret. If the Secret does not exist and `fresh` makes a key,
    /// the first bastion creates the Secret, and all others read that.
    ///
    /// # Errors
    /// When the Secret cannot be read or created.
    pub(crate) async fn private_key(
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
                        tracing::info!(secret = name, "host key created in a Secret");
                        secret
                    }
                    // Another replica created it first.
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

    /// Keeps the entry `known_hosts` of a ConfigMap equal to what `lines` makes of the newest host key, until
    /// no newer one can come. The ConfigMap must exist; its other entries are not touched.
    pub(crate) async fn publish<K>(
        self,
        config_map: &str,
        mut host_key: watch::Receiver<K>,
        lines: impl Fn(&K) -> Option<String>,
    ) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let (mut published, mut backoff) = (None, RETRY);
        loop {
            let current = lines(&host_key.borrow_and_update());
            let mut next = None;
            if current.is_some() && current != published {
                let body = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config_map}, "data": {KNOWN_HOSTS: current},
                });
                match api.patch(config_map, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await {
                    Ok(_) => {
                        tracing::info!(config_map, "host identity published");
                        backoff.worked();
                        published = current;
                    }
                    Err(error) => {
                        tracing::warn!(
                            config_map,
                            error = one_line(&error),
                            "cannot publish the host identity; retrying"
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
