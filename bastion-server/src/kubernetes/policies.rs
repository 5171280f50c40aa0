//! Compiles the cluster's objects to the policy in force, whenever one of them changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use kube::{Api, Resource};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    Cluster,
    compile::{self, Compiled, Context, PolicyName, Refused, Scope},
    index::{self, Known, Slice},
    observed::{self, ObservedPolicy},
    status::{self, Report},
    watch::{Current as Watched, Key, Wanted, follow},
};
use crate::{
    access::{Behind, Objects, ServiceName},
    common::text::one_line,
    config,
    dial::endpoints::Endpoints,
};

/// How long after a first change to wait for others: objects often change together.
const CROWD: Duration = Duration::from_millis(50);

/// The rules and Services of the cluster; `None` until every watch has listed its objects once.
pub(crate) type Current = watch::Receiver<Option<Arc<Objects>>>;

/// Follows policies, Services and EndpointSlices for as long as a receiver of the result is held.
pub(crate) fn follow_all(
    cluster: &Cluster,
    config: &config::Kubernetes,
    endpoints: Arc<ArcSwap<Endpoints>>,
) -> Current {
    let outlook = WatchScope::new(cluster.namespace(), config);
    let changed = Arc::new(Notify::new());
    let places: Vec<Option<String>> = match &outlook.scope {
        Scope::All => vec![None],
        Scope::Namespaces(names) => names.iter().cloned().map(Some).collect(),
    };
    let (mut policies, mut services, mut slices) = (Vec::new(), Vec::new(), Vec::new());
    for place in places {
        let wanted = |resource| Wanted { resource, namespace: place.clone(), name: None };
        policies.push(follow(
            cluster,
            wanted("tunnelpolicies"),
            in_place(&place),
            observed::policy,
            Arc::clone(&changed),
        ));
        services.push(follow(
            cluster,
            wanted("services"),
            in_place(&place),
            index::service,
            Arc::clone(&changed),
        ));
        slices.push(follow(
            cluster,
            wanted("endpointslices"),
            in_place(&place),
            index::slice,
            Arc::clone(&changed),
        ));
    }
    if config.policies.cluster {
        let wanted = Wanted { resource: "clustertunnelpolicies", namespace: None, name: None };
        policies.push(follow(cluster, wanted, Api::all, observed::cluster_policy, Arc::clone(&changed)));
    }
    let (publish, current) = watch::channel(None);
    let (reports, to_write) = watch::channel(Vec::new());
    tokio::spawn(status::write(cluster.clone(), config.events, to_write));
    let following = Following {
        outlook,
        policies,
        services,
        slices,
        endpoints,
        publish,
        reports,
        metrics: Arc::clone(&cluster.metrics),
    };
    tokio::spawn(following.run(changed));
    current
}

/// The objects of one namespace, or of all.
fn in_place<K>(place: &Option<String>) -> impl FnOnce(kube::Client) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    let place = place.clone();
    move |client| match place {
        Some(namespace) => Api::namespaced(client, &namespace),
        None => Api::all(client),
    }
}

/// The bastion's namespace, and the namespaces that it follows.
#[derive(Clone, Debug)]
pub(super) struct WatchScope {
    /// The bastion's own namespace.
    pub(super) own: String,
    pub(super) scope: Scope,
    /// The DNS domain of the Services.
    pub(super) domain: String,
}

impl WatchScope {
    pub(super) fn new(own: &str, config: &config::Kubernetes) -> Self {
        let scope = if config.policies.all_namespaces {
            Scope::All
        } else {
            let named = config.policies.namespaces.iter().map(|name| name.as_str().to_owned());
            Scope::Namespaces(named.chain([own.to_owned()]).collect())
        };
        Self { own: own.to_owned(), scope, domain: config.cluster_domain.clone() }
    }

    /// Compiles all objects to one policy and a report on each. Objects that may name any destination come
    /// first, so that another namespace's Service does not answer for a name that they contain. `behind` is
    /// called only if a Service is denied.
    pub(super) fn compile<'a>(
        &self,
        mut policies: Vec<(PolicyName, Arc<ObservedPolicy>)>,
        services: impl Iterator<Item = (ServiceName, &'a Known)>,
        behind: impl FnOnce() -> Behind,
    ) -> (Objects, Vec<Report>) {
        let (services, external) = index::services(&self.domain, services);
        let rank = |namespace: Option<&str>| match namespace {
            None => 0,
            Some(namespace) if namespace == self.own => 1,
            Some(_) => 2,
        };
        policies.sort_by_cached_key(|(name, _)| (rank(name.namespace.as_deref()), name.clone()));
        let context =
            Context { own: &self.own, scope: &self.scope, services: &services, external: &external };
        let (mut rules, mut reports) = (Vec::new(), Vec::new());
        for (name, seen) in policies {
            let compiled = match &seen.spec {
                Ok(spec) => compile::compile(&name, spec, context),
                Err(problem) => Compiled::nothing(Refused::Malformed(problem.escape_debug().to_string())),
            };
            rules.extend(compiled.rules);
            reports.push(Report::new(name, seen, compiled.verdict, &compiled.unresolved));
        }
        (Objects::new(rules, services, behind), reports)
    }
}

struct Following {
    outlook: WatchScope,
    policies: Vec<Watched<Arc<ObservedPolicy>>>,
    services: Vec<Watched<Known>>,
    slices: Vec<Watched<Slice>>,
    endpoints: Arc<ArcSwap<Endpoints>>,
    publish: watch::Sender<Option<Arc<Objects>>>,
    reports: watch::Sender<Vec<Report>>,
    metrics: Arc<crate::telemetry::metrics::Metrics>,
}

impl Following {
    async fn run(self, changed: Arc<Notify>) {
        loop {
            tokio::select! {
                () = changed.notified() => {}
                () = self.publish.closed() => return,
            }
            sleep(CROWD).await;
            self.look();
        }
    }

    /// Puts the policy into force, once every watch has listed its objects.
    fn look(&self) {
        let complete = self.policies.iter().all(|watched| watched.borrow().is_some())
            && self.services.iter().all(|watched| watched.borrow().is_some())
            && self.slices.iter().all(|watched| watched.borrow().is_some());
        if !complete {
            return;
        }
        let endpoints =
            with_all(&self.slices, |all| index::endpoints(all.map(|(key, slice)| (key.0.as_str(), slice))));
        self.metrics.endpoints(endpoints.len());
        if **self.endpoints.load() != endpoints {
            self.endpoints.store(Arc::new(endpoints));
        }
        let (objects, reports) = with_all(&self.services, |services| {
            let services = services.map(|((namespace, name), known)| {
                (ServiceName { namespace: namespace.clone(), name: name.clone() }, known)
            });
            let behind = || {
                with_all(&self.slices, |all| index::behind(all.map(|(key, slice)| (key.0.as_str(), slice))))
            };
            self.outlook.compile(self.all(), services, behind)
        });
        let refused = reports.iter().filter(|report| !report.is_accepted()).count();
        self.metrics.policies(reports.len() - refused, refused);
        self.tell(&reports);
        self.publish.send_if_modified(|published| {
            let same = published.as_deref() == Some(&objects);
            if !same {
                let (rules, services) = (objects.rules.len(), objects.services.len());
                tracing::info!(rules, services, "policies of the cluster loaded");
                *published = Some(Arc::new(objects));
            }
            !same
        });
        // The status must not say that a policy is in force before it is.
        self.reports.send_replace(reports);
    }

    fn all(&self) -> Vec<(PolicyName, Arc<ObservedPolicy>)> {
        let mut all = Vec::new();
        for watched in &self.policies {
            for ((namespace, name), seen) in watched.borrow().iter().flatten() {
                let namespace = Some(namespace.clone()).filter(|namespace| !namespace.is_empty());
                all.push((PolicyName { namespace, name: name.clone() }, Arc::clone(seen)));
            }
        }
        all
    }

    /// Logs each complaint once, and each policy that is new.
    fn tell(&self, reports: &[Report]) {
        let before = self.reports.borrow();
        let before: BTreeMap<_, _> = before.iter().map(|report| (&report.name, report)).collect();
        for report in reports {
            let told: Vec<_> =
                before.get(&report.name).into_iter().flat_map(|before| before.complaints()).collect();
            for finding in report.complaints().filter(|finding| !told.contains(finding)) {
                tracing::warn!(
                    policy = %report.name,
                    reason = finding.reason,
                    error = one_line(&finding.message),
                    "{}",
                    finding.about.complaint()
                );
            }
        }
    }
}

/// Looks at the objects of all watches together.
fn with_all<V, T>(watched: &[Watched<V>], look: impl FnOnce(&mut dyn Iterator<Item = (&Key, &V)>) -> T) -> T {
    let held: Vec<_> = watched.iter().map(watch::Receiver::borrow).collect();
    look(&mut held.iter().filter_map(|known| known.as_ref()).flatten())
}
