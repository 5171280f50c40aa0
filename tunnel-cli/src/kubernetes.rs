//! Reads what a cluster publishes about its bastion, with the user's own kubeconfig. The only module that knows kube.
//!
//! It is used as kubectl uses it: the same files, the same contexts, the same plugins. One object is read, once, and
//! cached for when the API server does not answer.

mod cache;
mod error;
mod kubeconfig;
mod plugin;
mod proxy;

use std::{collections::BTreeMap, time::Duration};

use http_body_util::{BodyExt, Limited};
use kube::{
    Config,
    client::{Body, Client},
    core::{Request, Status, params::GetParams},
};
use serde::Deserialize;
use tokio::time::timeout;

use crate::failure::Failure;
use cache::Cache;
use error::ReadError;

/// How long the API server may take for an answer, its connection included.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes. A ConfigMap holds at most 1 MiB, and this one a few hundred bytes.
const LONGEST_ANSWER: usize = 256 * 1024;

/// A ConfigMap, and the context of the kubeconfig that leads to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// `None`: the kubeconfig's current one.
    pub context: Option<String>,
    /// The bastion's namespace.
    pub namespace: ObjectName,
    /// The ConfigMap.
    pub config_map: ObjectName,
}

/// A name that can stand in a path of the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ObjectName(String);

/// Not an [`ObjectName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name in Kubernetes; one has lower case letters, digits, - and . only")]
pub(crate) struct BadObjectName;

impl ObjectName {
    /// Where the chart is usually installed.
    pub(crate) fn usual_namespace() -> Self {
        Self("bastion".to_owned())
    }

    /// What the chart's ConfigMap is usually called.
    pub(crate) fn usual_config_map() -> Self {
        Self("bastion-connection-info".to_owned())
    }
}

impl std::str::FromStr for ObjectName {
    type Err = BadObjectName;

    fn from_str(text: &str) -> Result<Self, BadObjectName> {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let bytes = text.as_bytes();
        let good =
            bytes.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && text.bytes().all(inside);
        if good { Ok(Self(text.to_owned())) } else { Err(BadObjectName) }
    }
}

impl TryFrom<String> for ObjectName {
    type Error = BadObjectName;

    fn try_from(text: String) -> Result<Self, BadObjectName> {
        text.parse()
    }
}

impl ObjectRef {
    /// As a person reads it, with the context that was used.
    pub(crate) fn described(&self, context: &str) -> String {
        format!("ConfigMap {}/{} of context {context}", self.namespace, self.config_map)
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The texts of a ConfigMap, and the context that it was read in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The name of the context.
    pub context: String,
    /// The ConfigMap's `data`.
    pub data: BTreeMap<String, String>,
    /// If it is what was read before: how long before, and why it was not read again.
    pub stale: Option<(Duration, Failure)>,
}

/// Reads the ConfigMap, or what the cache has of it if the API server does not answer.
///
/// # Errors
/// What is in the way, and what to do about it.
pub(crate) async fn read(
    object: &ObjectRef,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Found, Failure> {
    let (context, config) = kubeconfig::load(object.context.as_deref(), &variable).await?;
    let cache = Cache::of(object, &context, &config.cluster_url.to_string(), variable);
    match ask(config, object, &context).await {
        Ok(data) => {
            if let Some(cache) = &cache {
                cache.store(&data);
            }
            Ok(Found { context, data, stale: None })
        }
        Err(failure) => match cache.filter(|_| failure.is_transient()).and_then(|cache| cache.load()) {
            Some((data, age)) => Ok(Found { context, data, stale: Some((age, failure)) }),
            None => Err(failure),
        },
    }
}

async fn ask(
    mut config: Config,
    object: &ObjectRef,
    context: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    plugin::log_in(&mut config.auth_info, context).await?;
    let answer = timeout(PATIENCE, get(config, object)).await.unwrap_or(Err(ReadError::Silent(PATIENCE)));
    answer.map_err(|why| why.explain(object, context))
}

async fn get(config: Config, object: &ObjectRef) -> Result<BTreeMap<String, String>, ReadError> {
    #[derive(Deserialize)]
    struct ConfigMap {
        #[serde(default)]
        data: BTreeMap<String, String>,
    }
    let client = Client::try_from(config).map_err(|error| ReadError::setup(&error))?;
    let path = format!("/api/v1/namespaces/{}/configmaps", object.namespace);
    let request = Request::new(path)
        .get(&object.config_map.0, &GetParams::default())
        .map_err(|_| ReadError::Unexpected)?;
    let answer = client.send(request.map(Body::from)).await.map_err(|error| ReadError::on_the_way(&error))?;
    let code = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| ReadError::on_the_way(error.as_ref()))?
        .to_bytes();
    if code == 200 {
        return serde_json::from_slice(&body)
            .map(|found: ConfigMap| found.data)
            .map_err(|_| ReadError::Unexpected);
    }
    // A proxy in between may answer with anything.
    let status: Status = serde_json::from_slice(&body).unwrap_or_default();
    Err(ReadError::Refused { code, message: status.message, reason: status.reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for text in ["", "a/b", "..", ".", "-a", "a-", "A", "a b", "a?b", "a%2f", "ä"] {
            assert_eq!(text.parse::<ObjectName>(), Err(BadObjectName), "{text}");
        }
        for text in ["bastion", "bastion-connection-info", "a.b", "0"] {
            assert_eq!(text.parse::<ObjectName>().unwrap().to_string(), text);
        }
    }
}
