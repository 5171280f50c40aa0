//! Follows one entry of a Secret or ConfigMap in the bastion's own namespace, with the interface of a watched
//! file.

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use tokio::sync::Notify;

use super::{
    Cluster,
    watch::{Current, Wanted, follow},
};
use crate::{config::ObjectKey, telemetry::metrics::Moment};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ObjectRef {
    Secret(ObjectKey),
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

/// Why the entry is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// The object does not exist.
    #[error("there is no such object in the bastion's namespace")]
    Object,
    /// The object does not have the entry.
    #[error("the object has no such entry")]
    Key,
}

/// The result of a look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The API server has not answered since the last look.
    Nothing,
    /// The API server has answered, and the content is unchanged.
    Unchanged,
    /// The content is new.
    Content(Vec<u8>),
}

/// An entry that is followed until this value is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    place: ObjectRef,
    current: Current<Option<Vec<u8>>>,
    contact: Moment,
    heard: i64,
}

impl Entry {
    /// Begins to follow the entry.
    pub(crate) fn follow(cluster: &Cluster, place: ObjectRef) -> Self {
        let (resource, key) = match &place {
            ObjectRef::Secret(key) => ("secrets", key),
            ObjectRef::ConfigMap(key) => ("configmaps", key),
        };
        let namespace = cluster.namespace().to_owned();
        let name = key.name.as_str().to_owned();
        let wanted = Wanted { resource, namespace: Some(namespace.clone()), name: Some(name) };
        let contact = cluster.metrics.watch_contact(&wanted.labels());
        let (key, unheard) = (key.key.clone(), Arc::<Notify>::default());
        let current = match &place {
            ObjectRef::Secret(_) => {
                let api = |client| Api::<Secret>::namespaced(client, &namespace);
                let value = move |object: Secret| object.data?.remove(&key).map(|bytes| bytes.0);
                follow(cluster, wanted, api, value, unheard)
            }
            ObjectRef::ConfigMap(_) => {
                let api = |client| Api::<ConfigMap>::namespaced(client, &namespace);
                let value = move |object: ConfigMap| {
                    let text = object.data.and_then(|mut data| data.remove(&key)).map(String::into_bytes);
                    text.or_else(|| object.binary_data?.remove(&key).map(|bytes| bytes.0))
                };
                follow(cluster, wanted, api, value, unheard)
            }
        };
        Self { place, current, contact, heard: 0 }
    }

    pub(crate) fn place(&self) -> &ObjectRef {
        &self.place
    }

    /// Returns the content of the entry, if it is new.
    ///
    /// # Errors
    /// When the entry is missing, at each look.
    pub(crate) fn look(&mut self) -> Result<Look, Missing> {
        let current = self.current.borrow_and_update();
        // The question is asked of the same state that is looked at: a change that came between two questions
        // would never be reported.
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
