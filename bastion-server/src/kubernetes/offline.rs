//! Reads policies, Services and EndpointSlices from files, for `explain` without a cluster or before objects
//! are applied to one.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kube::core::DeserializeGuard;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    compile::PolicyName,
    index::{self, Known, Slice},
    observed::{self, ObservedPolicy},
    policies::WatchScope,
    status::Aspect,
};
use crate::{
    access::{Objects, ServiceName},
    common::watched_file,
    config,
    dial::endpoints::Endpoints,
};

/// The result of reading the files.
#[derive(Debug, Default)]
pub(crate) struct Offline {
    pub objects: Objects,
    pub endpoints: Endpoints,
    /// One line about each object that is ignored.
    pub passed_over: Vec<String>,
    /// One line about each object with references to something that does not exist.
    pub unresolved: Vec<String>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read.
    #[error("{}: {source}\n  --objects names it", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A file does not hold what kubectl prints.
    #[error("{}: {problem}\n  Write objects into it as `kubectl get tunnelpolicies,services,endpointslices -A -o yaml` does", .path.display())]
    Malformed { path: PathBuf, problem: String },
}

/// Reads policies, Services and EndpointSlices. `own` is the bastion's namespace.
///
/// # Errors
/// When a file cannot be read, or holds no objects.
pub(crate) fn read(files: &[PathBuf], own: &str, config: &config::Kubernetes) -> Result<Offline, Error> {
    let outlook = WatchScope::new(own, config);
    let mut found = Found::default();
    for path in files {
        let text =
            watched_file::read(path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
        let malformed = |problem: String| Error::Malformed { path: path.clone(), problem };
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|error| malformed(error.to_string()))?;
        for mut document in documents {
            match document.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) => {
                    for item in items {
                        found.take(path, own, item)?;
                    }
                }
                Some(_) | None => found.take(path, own, document)?,
            }
        }
    }
    let Found { policies, services, slices, mut passed_over } = found;
    let followed = |name: &PolicyName| match &name.namespace {
        Some(namespace) => outlook.scope.includes(namespace),
        None => config.policies.cluster,
    };
    let (policies, others): (Vec<_>, Vec<_>) = policies.into_iter().partition(|(name, _)| followed(name));
    passed_over.extend(
        others
            .iter()
            .map(|(name, _)| format!("{name}: this bastion does not follow it (kubernetes.policies)")),
    );
    let known = services.iter().map(|(name, known)| (name.clone(), known));
    let slices = || slices.iter().map(|(namespace, slice)| (namespace.as_str(), slice));
    let (objects, reports) = outlook.compile(policies, known, || index::behind(slices()));
    let mut unresolved = Vec::new();
    for report in &reports {
        for finding in report.complaints() {
            let line = format!("{}: {}: {}", report.name, finding.reason, finding.message);
            match finding.about {
                Aspect::Accepted => passed_over.push(line),
                Aspect::ResolvedRefs => unresolved.push(line),
            }
        }
    }
    let endpoints = index::endpoints(slices());
    Ok(Offline { objects, endpoints, passed_over, unresolved })
}

#[derive(Default)]
struct Found {
    policies: Vec<(PolicyName, Arc<ObservedPolicy>)>,
    services: BTreeMap<ServiceName, Known>,
    slices: Vec<(String, Slice)>,
    passed_over: Vec<String>,
}

impl Found {
    fn take(&mut self, path: &Path, own: &str, object: Value) -> Result<(), Error> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let kind = text("/kind").unwrap_or_default();
        let (name, namespace) = (text("/metadata/name").unwrap_or_default(), text("/metadata/namespace"));
        // The namespace that kubectl would use, if the author's context is the bastion's namespace.
        let within = namespace.unwrap_or_else(|| own.to_owned());
        match kind.as_str() {
            "TunnelPolicy" => {
                let seen = observed::policy(DeserializeGuard(Ok(typed(path, object)?)));
                self.policies.push((PolicyName { namespace: Some(within), name }, seen));
            }
            "ClusterTunnelPolicy" => {
                let seen = observed::cluster_policy(DeserializeGuard(Ok(typed(path, object)?)));
                self.policies.push((PolicyName { namespace: None, name }, seen));
            }
            "Service" => {
                let service = ServiceName { namespace: within, name };
                self.services.insert(service, index::service(typed(path, object)?));
            }
            "EndpointSlice" => self.slices.push((within, index::slice(typed(path, object)?))),
            other => self.passed_over.push(format!(
                "{}: {} {name}: not about access",
                path.display(),
                other.escape_debug()
            )),
        }
        Ok(())
    }
}

fn typed<T: DeserializeOwned>(path: &Path, object: Value) -> Result<T, Error> {
    serde_json::from_value(object)
        .map_err(|error| Error::Malformed { path: path.to_owned(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Backend;

    #[test]
    fn what_kubectl_prints_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("objects.yaml");
        std::fs::write(&path, "apiVersion: v1
kind: List
items:
- {kind: Service, metadata: {name: orders, namespace: databases}, spec: {ports: [{name: postgres, port: 5432}]}}
- kind: EndpointSlice
  addressType: IPv4
  metadata: {name: orders-1, namespace: databases, labels: {kubernetes.io/service-name: orders}}
  ports: [{name: postgres, port: 5433}]
  endpoints: [{addresses: [10.244.0.7]}]
- {kind: TunnelPolicy, metadata: {name: x, namespace: unseen}, spec: {who: {everybody: true}, to: [{service: {name: a}}]}}
---
kind: TunnelPolicy
metadata: {name: orders, namespace: databases}
spec: {who: {principals: [dev]}, to: [{service: {name: orders}}, {service: {name: users}}]}
---
{kind: TunnelPolicy, metadata: {name: bad, namespace: databases}, spec: {who: {everybody: true}, to: [{host: a, ports: [1]}]}}
").unwrap();
        let config: config::Kubernetes =
            config_file::parse("b.yaml".as_ref(), "policies: {namespaces: [databases]}").unwrap();
        let Offline { objects, endpoints, passed_over, unresolved } =
            read(std::slice::from_ref(&path), "bastion", &config).unwrap();
        let names: Vec<_> = objects.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!((names, objects.services.len()), (vec!["databases/orders"], 1));
        let service = ServiceName { namespace: "databases".to_owned(), name: "orders".to_owned() };
        let backend = Backend { service, port: "postgres".to_owned() };
        assert_eq!(endpoints.of(&backend), ["10.244.0.7:5433".parse().unwrap()]);
        assert!(passed_over[0].starts_with("unseen/x: this bastion does not follow it"), "{passed_over:?}");
        assert!(passed_over[1].starts_with("databases/bad: NotAllowedHere: to[0].host: "), "{passed_over:?}");
        let missing = "databases/orders: BackendNotFound: to[1].service: there is no Service databases/users";
        assert_eq!(unresolved, [missing]);

        std::fs::write(&path, "kind: TunnelPolicy\nspec: {whom: {}}\n").unwrap();
        let error = read(std::slice::from_ref(&path), "bastion", &config).unwrap_err().to_string();
        assert!(error.contains("unknown field `whom`"), "{error}");
    }
}
