//! What the API server says of Services and EndpointSlices, reduced to what rules and dialling need. No IO.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::{
    access::{self, Backend, ServiceName, Services},
    endpoints::Endpoints,
};

/// The label by which a slice says whose endpoints it has.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The only protocol that is forwarded, and the one that is meant where none is written.
const TCP: &str = "TCP";

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// With endpoints.
    Service(access::Service),
    /// Another name for a host.
    External,
}

/// What counts of a Service.
pub fn service(object: Service) -> Known {
    let spec = object.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Known::External;
    }
    let ports = spec.ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let ports = ports.filter_map(|port| Some((number(port.port)?, port.name.unwrap_or_default()))).collect();
    Known::Service(access::Service { labels: object.metadata.labels.unwrap_or_default(), ports })
}

/// What counts of an EndpointSlice: endpoints that take new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    service: Option<String>,
    ports: Vec<(String, u16)>,
    addresses: Vec<IpAddr>,
}

/// What counts of an EndpointSlice.
pub fn slice(object: EndpointSlice) -> Slice {
    let labels = object.metadata.labels.unwrap_or_default();
    let ports = object.ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let ready = object.endpoints.into_iter().filter(|endpoint| {
        // What is not said is yes and no, in this order.
        endpoint.conditions.as_ref().is_none_or(|conditions| {
            conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or_default()
        })
    });
    Slice {
        service: labels.get(SERVICE_NAME).cloned(),
        ports: ports.filter_map(|port| Some((port.name.unwrap_or_default(), number(port.port?)?))).collect(),
        // Names, which a slice may have instead, are no addresses.
        addresses: ready
            .flat_map(|endpoint| endpoint.addresses)
            .filter_map(|text| text.parse().ok())
            .collect(),
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == TCP)
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Every Service with endpoints, and those that are only another name.
pub fn services<'a>(
    domain: &str,
    known: impl Iterator<Item = (ServiceName, &'a Known)>,
) -> (Services, HashSet<ServiceName>) {
    let (mut services, mut external) = (HashMap::new(), HashSet::new());
    for (name, known) in known {
        match known {
            Known::Service(service) => drop(services.insert(name, service.clone())),
            Known::External => drop(external.insert(name)),
        }
    }
    (Services::new(domain, services), external)
}

/// Every endpoint, by the Service's port that leads there. Slices are given with their namespace.
pub fn endpoints<'a>(slices: impl Iterator<Item = (&'a str, &'a Slice)>) -> Endpoints {
    let mut found: HashMap<Backend, Vec<SocketAddr>> = HashMap::new();
    for (namespace, slice) in slices {
        let Some(name) = &slice.service else { continue };
        let service = ServiceName { namespace: namespace.to_owned(), name: name.clone() };
        for (port_name, port) in &slice.ports {
            let backend = Backend { service: service.clone(), port: port_name.clone() };
            let addresses = slice.addresses.iter().map(|address| SocketAddr::new(*address, *port));
            found.entry(backend).or_default().extend(addresses);
        }
    }
    for addresses in found.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    found.retain(|_, addresses| !addresses.is_empty());
    Endpoints::new(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn slice_of(value: Value) -> Slice {
        slice(serde_json::from_value(value).unwrap())
    }

    fn name(name: &str) -> ServiceName {
        ServiceName { namespace: "databases".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn only_what_takes_connections_counts() {
        let slice = slice_of(json!({
            "metadata": {"name": "orders-1", "labels": {SERVICE_NAME: "orders"}},
            "addressType": "IPv4",
            "ports": [{"name": "postgres", "port": 5433}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "all"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": true, "terminating": true}},
                {"addresses": ["10.0.0.4"]},
                {"addresses": ["10.0.0.4"], "conditions": {}},
                {"addresses": ["not-an-address"]},
            ],
        }));
        let other = slice_of(json!({
            "metadata": {"name": "nobodys"}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.9"]}],
        }));
        let endpoints = endpoints([("databases", &slice), ("databases", &other)].into_iter());
        assert_eq!(endpoints.len(), 2);
        let mut found = endpoints.of(&Backend { service: name("orders"), port: "postgres".to_owned() });
        found.sort_unstable();
        assert_eq!(found, ["10.0.0.1:5433".parse().unwrap(), "10.0.0.4:5433".parse().unwrap()]);
        assert!(endpoints.of(&Backend { service: name("orders"), port: "dns".to_owned() }).is_empty());
    }

    #[test]
    fn a_service_has_tcp_ports_or_is_another_name() {
        let known = |value: Value| service(serde_json::from_value(value).unwrap());
        let orders = known(json!({
            "metadata": {"name": "orders", "labels": {"tier": "db"}},
            "spec": {"ports": [{"name": "postgres", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
        }));
        let wiki = known(json!({
            "metadata": {"name": "wiki"}, "spec": {"type": "ExternalName", "externalName": "wiki.example.com"},
        }));
        assert_eq!(wiki, Known::External);
        let (services, external) =
            services("cluster.local", [(name("orders"), &orders), (name("wiki"), &wiki)].into_iter());
        let expected = access::Service {
            labels: BTreeMap::from([("tier".to_owned(), "db".to_owned())]),
            ports: BTreeMap::from([(5432, "postgres".to_owned())]),
        };
        assert_eq!(services.get(&name("orders")), Some(&expected));
        assert_eq!((services.len(), external), (1, HashSet::from([name("wiki")])));
    }
}
