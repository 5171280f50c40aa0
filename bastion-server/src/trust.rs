//! Fetches and keeps fresh what logins are judged by: authorities, revocation lists, the host key.

pub(crate) mod authorities;
pub(crate) mod host_key;
pub(crate) mod revocation;
pub(crate) mod vault;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    kubernetes::Cluster,
    telemetry::{metrics::Metrics, warnings::Warnings},
    trust::vault::Vault,
};

/// Shared handles for the tasks that refresh keys, revocation lists and the host certificate. Empty by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams<'a> {
    /// Vault, and the bastion's login there.
    pub vault: Option<&'a Vault>,
    /// The Kubernetes cluster.
    pub cluster: Option<&'a Cluster>,
    /// Has Vault asked immediately.
    pub reload: Arc<Notify>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Where an operator is warned.
    pub warnings: Warnings,
}
