//! The properties of policy objects that the bastion depends on, as it read them.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::DeserializeGuard};

use super::crd::{ClusterTunnelPolicy, Spec, Status, TunnelPolicy};

/// The properties of a policy object that the bastion depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObservedPolicy {
    /// Identifies the object: a name may be used again.
    pub uid: String,
    /// The generation of its specification.
    pub generation: i64,
    /// The parsed specification, or why it does not parse.
    pub spec: Result<Spec, String>,
    pub status: Status,
}

pub(super) fn policy(object: DeserializeGuard<TunnelPolicy>) -> Arc<ObservedPolicy> {
    let meta = object.meta().clone();
    observed(meta, object.0.map(|policy| (policy.spec.0, policy.status)).map_err(|error| error.error))
}

pub(super) fn cluster_policy(object: DeserializeGuard<ClusterTunnelPolicy>) -> Arc<ObservedPolicy> {
    let meta = object.meta().clone();
    observed(meta, object.0.map(|policy| (policy.spec.0, policy.status)).map_err(|error| error.error))
}

fn observed(meta: ObjectMeta, said: Result<(Spec, Option<Status>), String>) -> Arc<ObservedPolicy> {
    let (spec, status) = match said {
        Ok((spec, status)) => (Ok(spec), status),
        Err(problem) => (Err(problem), None),
    };
    Arc::new(ObservedPolicy {
        uid: meta.uid.unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        spec,
        status: status.unwrap_or_default(),
    })
}
