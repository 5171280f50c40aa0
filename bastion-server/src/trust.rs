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

/// Shared handles for the tasks that refresh authorities, revocation lists and the host certificate. Empty by
/// default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams<'a> {
    /// Vault, with the bastion's login.
    pub vault: Option<&'a Vault>,
    /// The Kubernetes cluster.
    pub cluster: Option<&'a Cluster>,
    /// Makes the tasks ask Vault immediately.
    pub reload: Arc<Notify>,
    pub metrics: Arc<Metrics>,
    /// Warnings to an operator.
    pub warnings: Warnings,
}
