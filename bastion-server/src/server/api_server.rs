//! Keeps the addresses of the cluster's API server on the floor, where the pod is told its name instead of one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    access::{Forbidden, KubernetesApi},
    config::Config,
    destination::Host,
    dial::resolver::Resolver,
    ssh::Service,
};

/// How often the name is looked up again, and how often while it leads nowhere yet.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_SOON: Duration = Duration::from_secs(1);
/// The most addresses that are remembered of a name that moves: each answer may be one of many.
const MOST_REMEMBERED: usize = 256;

/// The API server as its pod is told, and where that has led.
#[derive(Debug)]
pub(crate) struct ApiServer {
    told: Option<Host>,
    known: Vec<IpAddr>,
}

impl ApiServer {
    /// This host, or none outside of a cluster.
    pub(crate) fn new(told: Option<Host>) -> Self {
        let known = match &told {
            Some(Host::Address(address)) => vec![*address],
            Some(Host::Name(_)) | None => Vec::new(),
        };
        Self { told, known }
    }

    /// What the floor is made of.
    pub(crate) fn known(&self) -> KubernetesApi {
        match (&self.told, self.known.as_slice()) {
            (None, _) => KubernetesApi::Nowhere,
            (Some(_), []) => KubernetesApi::Unknown,
            (Some(_), known) => KubernetesApi::At(known.to_vec()),
        }
    }

    /// Says in the log what of it cannot be known.
    pub(crate) fn tell(&self, config: &Config) {
        if self.told.is_none() || config.open_networks.contains(&Forbidden::KubernetesApi) {
            return;
        }
        if let Some(Host::Name(name)) = &self.told {
            tracing::warn!(
                %name,
                "KUBERNETES_SERVICE_HOST is a name; until it resolves, nothing is known not to be the API server, and every forward is refused"
            );
        }
        if !config.follows_namespace("default") {
            tracing::warn!(
                "the API server is refused at the address of its Service; at the addresses of its nodes only where \
                 kubernetes.policies.namespaces has `default`. Deny these by a rule, or permit no network that holds them"
            );
        }
    }

    /// Looks the name up once. Whether that is news.
    pub(crate) async fn look(&mut self, resolver: &Resolver) -> bool {
        let Some(name @ Host::Name(_)) = &self.told else { return false };
        // What was known stays: somewhere else than where it was is one more place, and no answer is none.
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

    /// Looks the name up again and again, and puts on the floor what comes of it.
    pub(crate) async fn follow(mut self, service: Arc<Service>) {
        if !matches!(self.told, Some(Host::Name(_))) {
            return;
        }
        loop {
            let dialler = service.dialler.load_full();
            if self.look(&dialler.resolver).await {
                tracing::info!(addresses = ?self.known, "the API server is on the floor");
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

    /// For which the name leads there, and every other one nowhere.
    fn resolver(addresses: &[&str]) -> Resolver {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let hosts = HashMap::from([("api.test".to_owned(), addresses)]);
        let nobody = vec!["127.0.0.1:9".parse().unwrap()];
        Resolver::new(Settings { hosts, servers: nobody, patience: Duration::from_secs(5) }).unwrap()
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
