//! One entry of one Secret or ConfigMap in the bastion's own namespace, looked at as a file is.

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use tokio::sync::Notify;

use super::{
    Cluster,
    watch::{Current, Wanted, follow},
};
use crate::{config::ObjectKey, telemetry::metrics::Moment};

/// Where an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ObjectRef {
    /// In a Secret.
    Secret(ObjectKey),
    /// In a ConfigMap.
    ConfigMap(ObjectKey),
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(key) => write!(f, "Secret {key}"),
            Self::ConfigMap(key) => write!(f, "ConfigMap {key}"),
        }
    }
}

/// Why there is nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// The object.
    #[error("there is no such object in the bastion's namespace")]
    Object,
    /// Its entry.
    #[error("the object has no such entry")]
    Key,
}

/// What one look brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing was heard since the last one.
    Nothing,
    /// The API server was heard, and nothing has changed.
    Unchanged,
    /// Something else is in it.
    Content(Vec<u8>),
}

/// An entry that is followed for as long as this is held.
#[derive(Debug)]
pub(crate) struct Entry {
    place: ObjectRef,
    current: Current<Option<Vec<u8>>>,
    contact: Moment,
    heard: i64,
}

impl Entry {
    /// Begins to follow it.
    pub(crate) fn follow(cluster: &Cluster, place: ObjectRef) -> Self {
        let (resource, key) = match &place {
            ObjectRef::Secret(key) => ("secrets", key),
            ObjectRef::ConfigMap(key) => ("configmaps", key),
        };
        let namespace = cluster.namespace().to_owned();
        let name = key.name.as_str().to_owned();
        let wanted = Wanted { resource, namespace: Some(namespace.clone()), name: Some(name) };
        let contact = cluster.metrics.watch_contact(&wanted.labels());
        let (key, nobody) = (key.key.clone(), Arc::<Notify>::default());
        let current = match &place {
            ObjectRef::Secret(_) => {
                let api = |client| Api::<Secret>::namespaced(client, &namespace);
                let value = move |object: Secret| object.data?.remove(&key).map(|bytes| bytes.0);
                follow(cluster, wanted, api, value, nobody)
            }
            ObjectRef::ConfigMap(_) => {
                let api = |client| Api::<ConfigMap>::namespaced(client, &namespace);
                let value = move |object: ConfigMap| {
                    let text = object.data.and_then(|mut data| data.remove(&key)).map(String::into_bytes);
                    text.or_else(|| object.binary_data?.remove(&key).map(|bytes| bytes.0))
                };
                follow(cluster, wanted, api, value, nobody)
            }
        };
        Self { place, current, contact, heard: 0 }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &ObjectRef {
        &self.place
    }

    /// What is in it, if that is news.
    ///
    /// # Errors
    /// When nothing is in it, for as long as that is so.
    pub(crate) fn look(&mut self) -> Result<Look, Missing> {
        let current = self.current.borrow_and_update();
        // Asked of what is looked at: what comes between two questions would never be news.
        let changed = current.has_changed();
        let Some(known) = &*current else { return Ok(Look::Nothing) };
        let content = known.values().next().ok_or(Missing::Object)?.as_ref().ok_or(Missing::Key)?;
        let heard = self.contact.seconds();
        let since = std::mem::replace(&mut self.heard, heard);
        Ok(match (changed, heard > since) {
            (true, _) => Look::Content(content.clone()),
            (false, true) => Look::Unchanged,
            (false, false) => Look::Nothing,
        })
    }
}
