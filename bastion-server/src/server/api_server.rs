//! Keeps the addresses of the cluster's API server on the floor, where the pod is given its name instead of
//! an address.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    access::{Forbidden, KubernetesApi},
    config::Config,
    destination::Host,
    dial::resolver::Resolver,
    ssh::Service,
};

/// How often the name is resolved again, and how often until it resolves for the first time.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_SOON: Duration = Duration::from_secs(1);
/// The most addresses that are remembered of a name whose answers change: each answer may be one of many.
const MOST_REMEMBERED: usize = 256;

/// The API server as the pod's environment names it, and the addresses that the name has had.
#[derive(Debug)]
pub(crate) struct ApiServer {
    told: Option<Host>,
    known: Vec<IpAddr>,
}

impl ApiServer {
    /// The API server at this host, or none outside a cluster.
    pub(crate) fn new(told: Option<Host>) -> Self {
        let known = match &told {
            Some(Host::Address(address)) => vec![*address],
            Some(Host::Name(_)) | None => Vec::new(),
        };
        Self { told, known }
    }

    /// The addresses for the floor.
    pub(crate) fn known(&self) -> KubernetesApi {
        match (&self.told, self.known.as_slice()) {
            (None, _) => KubernetesApi::Nowhere,
            (Some(_), []) => KubernetesApi::Unknown,
            (Some(_), known) => KubernetesApi::At(known.to_vec()),
        }
    }

    /// Logs which addresses of the API server the bastion cannot know.
    pub(crate) fn tell(&self, config: &Config) {
        if self.told.is_none() || config.open_networks.contains(&Forbidden::KubernetesApi) {
            return;
        }
        if let Some(Host::Name(name)) = &self.told {
            tracing::warn!(
                %name,
                "KUBERNETES_SERVICE_HOST is a name; until it resolves, any address could be the API server, and the bastion refuses every forward"
            );
        }
        if !config.follows_namespace("default") {
            tracing::warn!(
                "the floor holds the API server's Service address only; the addresses of its nodes are known only where \
                 kubernetes.policies.namespaces has `default`. Deny them by a rule, or permit no network that contains them"
            );
        }
    }

    /// Resolves the name once, and returns whether there is a new address.
    pub(crate) async fn look(&mut self, resolver: &Resolver) -> bool {
        let Some(name @ Host::Name(_)) = &self.told else { return false };
        // Earlier addresses stay known: a new address is one more, and no answer adds none.
        let Ok(found) = resolver.addresses(name).await else { return false };
        let before = self.known.len();
        for address in found {
            if !self.known.contains(&address) {
                self.known.push(address);
            }
        }
        let news = self.known.len() != before;
        let too_many = self.known.len().saturating_sub(MOST_REMEMBERED);
        self.known.drain(..too_many);
        news
    }

    /// Resolves the name again and again, and puts new addresses on the floor.
    pub(crate) async fn follow(mut self, service: Arc<Service>) {
        if !matches!(self.told, Some(Host::Name(_))) {
            return;
        }
        loop {
            let dialler = service.dialler.load_full();
            if self.look(&dialler.resolver).await {
                tracing::info!(addresses = ?self.known, "addresses of the API server added to the floor");
                service.policy.send_modify(|held| {
                    let floor = held.floor.with_api(self.known());
                    Arc::make_mut(held).floor = Arc::new(floor);
                });
            }
            sleep(if self.known.is_empty() { LOOK_SOON } else { LOOK_EVERY }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::dial::resolver::Settings;

    fn told(host: &str) -> ApiServer {
        ApiServer::new(Some(Host::parse(host).unwrap()))
    }

    fn at(addresses: &[&str]) -> KubernetesApi {
        KubernetesApi::At(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    /// Resolves the name to these addresses, and every other name to none.
    fn resolver(addresses: &[&str]) -> Resolver {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let hosts = HashMap::from([("api.test".to_owned(), addresses)]);
        let silent = vec!["127.0.0.1:9".parse().unwrap()];
        Resolver::new(Settings { hosts, servers: silent, patience: Duration::from_secs(5) }).unwrap()
    }

    #[tokio::test]
    async fn a_name_is_unknown_until_it_leads_somewhere_and_then_wherever_it_ever_led() {
        assert_eq!(ApiServer::new(None).known(), KubernetesApi::Nowhere);
        assert_eq!(told("10.96.0.1").known(), at(&["10.96.0.1"]));
        let mut api = told("api.test");
        assert_eq!(api.known(), KubernetesApi::Unknown);
        assert!(api.look(&resolver(&["192.0.2.1"])).await);
        assert!(!api.look(&resolver(&["192.0.2.1"])).await, "that is known");
        assert!(api.look(&resolver(&["192.0.2.2", "192.0.2.1"])).await);
        assert_eq!(api.known(), at(&["192.0.2.1", "192.0.2.2"]));
        let mut elsewhere = told("other.test");
        assert!(!elsewhere.look(&resolver(&[])).await);
        assert_eq!(elsewhere.known(), KubernetesApi::Unknown);
    }
}
