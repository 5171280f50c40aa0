//! Talks to the API server of the cluster that the bastion runs in: policies, authorities, revocation lists,
//! the host key, and the published host identity.
//!
//! Only this module uses the Kubernetes client. Everything that is watched keeps its last good state, so
//! losing the API server changes nothing for clients. The pure modules [`compile`] and [`index`] decide what
//! objects mean.

mod client;
pub(crate) mod compile;
pub mod crd;
pub(crate) mod entry;
pub(crate) mod host_key;
pub(crate) mod index;
mod observed;
pub(crate) mod offline;
pub(crate) mod policies;
pub(crate) mod status;
pub(crate) mod watch;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{common::watched_file, telemetry::metrics::Metrics};

/// The bastion's name as a field manager, beside the kubelet and people.
pub(crate) const MANAGER: &str = "bastion-server";
/// The folder of a pod's ServiceAccount credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The variable that names a kubeconfig outside a pod, for development.
const KUBECONFIG: &str = "KUBECONFIG";
/// The variables that the pod's manifest sets by the downward API.
const POD_NAMESPACE: &str = "POD_NAMESPACE";
const POD_NAME: &str = "POD_NAME";
const POD_UID: &str = "POD_UID";

/// Why the API server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The bastion runs neither in a pod nor with a kubeconfig.
    #[error(
        "there is no cluster to ask: {0}\n  In a pod, mount the token of its ServiceAccount; elsewhere set KUBECONFIG. Or take `kubernetes`, and every secret and config_map, out of the configuration"
    )]
    NoCluster(#[source] InClusterError),
    /// The kubeconfig cannot be read.
    #[error(
        "KUBECONFIG: {0}\n  It names the file with the address of the cluster, and the bastion's credentials for it"
    )]
    Kubeconfig(#[source] KubeconfigError),
    /// The bastion's own namespace cannot be read.
    #[error("{SERVICE_ACCOUNT}/namespace: {0}\n  Set POD_NAMESPACE to the namespace of the bastion")]
    Namespace(#[source] io::Error),
    /// The credentials cannot be used.
    #[error("cannot use the credentials for the API server: {0}")]
    Client(#[source] kube::Error),
}

/// The pod that the bastion runs in.
#[derive(Clone, Debug)]
struct Pod {
    name: String,
    /// Without it `kubectl describe pod` does not show the Event.
    uid: Option<String>,
}

/// A cluster, and the bastion's place in it.
#[derive(Clone)]
pub(crate) struct Cluster {
    config: Config,
    client: Client,
    namespace: String,
    pod: Option<Pod>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Finds the cluster and the bastion's own namespace and pod. Does not connect.
    ///
    /// # Errors
    /// When there is no cluster, or no credentials for it.
    pub(crate) async fn find(
        variable: impl Fn(&str) -> Option<String>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let config = match variable(KUBECONFIG) {
            Some(_) => kubeconfig().await.map_err(Error::Kubeconfig)?,
            None => Config::incluster().map_err(Error::NoCluster)?,
        };
        let namespace = match variable(POD_NAMESPACE) {
            Some(namespace) => namespace,
            None if variable(KUBECONFIG).is_some() => config.default_namespace.clone(),
            None => watched_file::read(&Path::new(SERVICE_ACCOUNT).join("namespace"))
                .map(|text| text.trim().to_owned())
                .map_err(Error::Namespace)?,
        };
        let client = client::plain(&config).map_err(Error::Client)?;
        let pod = variable(POD_NAME).map(|name| Pod { name, uid: variable(POD_UID) });
        Ok(Self { config, client, namespace, pod, metrics })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The files and folders that are read while the bastion serves.
    pub(crate) fn files(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
        let Some(named) = variable(KUBECONFIG).filter(|paths| !paths.is_empty()) else {
            return vec![Path::new(SERVICE_ACCOUNT).join("token")];
        };
        let mut files: Vec<_> = std::env::split_paths(&named).collect();
        let written: Vec<_> = files.iter().filter_map(|path| Kubeconfig::read_from(path).ok()).collect();
        for Kubeconfig { clusters, auth_infos, .. } in written {
            let authorities = clusters.into_iter().filter_map(|named| named.cluster?.certificate_authority);
            let users = auth_infos.into_iter().filter_map(|named| named.auth_info);
            let credentials =
                users.flat_map(|user| [user.client_certificate, user.client_key, user.token_file]);
            files.extend(authorities.chain(credentials.flatten()).map(PathBuf::from));
        }
        files
    }

    /// A client for one watch; `heard` is called for each good answer of the API server.
    fn client_for_watch(&self, heard: impl Fn() + Clone + Send + 'static) -> Client {
        // The same configuration made the other client, so this cannot fail.
        client::for_watch(&self.config, heard).unwrap_or_else(|_| self.client.clone())
    }
}

async fn kubeconfig() -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::from_env()?.unwrap_or_default();
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}
