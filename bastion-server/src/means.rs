//! What everything that is kept up to date is asked with, and who hears how it went.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    kubernetes::Cluster,
    telemetry::{metrics::Metrics, warnings::Notices},
    vault::Vault,
};

/// Nobody to ask and nobody who listens, by default.
#[derive(Clone, Debug, Default)]
pub struct Means<'a> {
    /// Where Vault is, and who we are there.
    pub vault: Option<&'a Vault>,
    /// Where the cluster is.
    pub cluster: Option<&'a Cluster>,
    /// Has Vault asked at once.
    pub reload: Arc<Notify>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Who hears of what goes wrong.
    pub notices: Notices,
}
