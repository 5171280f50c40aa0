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
/// The waits before the API server is asked again after it failed.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Why there is no key to be had from a Secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
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

    /// Keeps the entry `known_hosts` of a ConfigMap at what `lines` makes of the newest host key, until there will be no newer
    /// one. The ConfigMap must exist; its other entries are left alone.
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
                        tracing::info!(config_map, "the host identity is published");
                        backoff.worked();
                        published = current;
                    }
                    Err(error) => {
                        tracing::error!(
                            config_map,
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
