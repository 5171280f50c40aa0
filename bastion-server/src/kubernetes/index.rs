//! Reduces Services and EndpointSlices to what rules and dialling need. No IO.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec, ServiceStatus},
    discovery::v1::{EndpointPort, EndpointSlice},
};

use crate::{
    access::{self, Backend, Behind, ServiceName, Services},
    dial::endpoints::Endpoints,
};

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The only protocol that is forwarded, and the default where none is given.
const TCP: &str = "TCP";

/// A Service, by whether it has endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A Service with endpoints.
    Service(access::Service),
    /// A Service of type ExternalName, which is another name for a host.
    External,
}

/// Extracts the properties of a Service that rules depend on.
pub(crate) fn service(object: Service) -> Known {
    let spec = object.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Known::External;
    }
    let addresses = addresses(&spec, object.status.unwrap_or_default());
    let ports = spec.ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let ports = ports.filter_map(|port| Some((number(port.port)?, port.name.unwrap_or_default()))).collect();
    Known::Service(access::Service { labels: object.metadata.labels.unwrap_or_default(), ports, addresses })
}

/// The properties of an EndpointSlice that dialling depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slice {
    service: Option<String>,
    /// The ports by the name that the Service gives them. A port without a number stands for all ports.
    ports: Vec<(String, Option<u16>)>,
    endpoints: Vec<Endpoint>,
}

/// Extracts the properties of an EndpointSlice that dialling depends on.
pub(crate) fn slice(object: EndpointSlice) -> Slice {
    let labels = object.metadata.labels.unwrap_or_default();
    let mut ports = object.ports.unwrap_or_default();
    if ports.is_empty() {
        // The ports of a Service without a list of ports, as a headless Service may be.
        ports.push(EndpointPort::default());
    }
    let ports = ports.into_iter().filter(|port| is_tcp(port.protocol.as_deref())).filter_map(|port| {
        let number = match port.port {
            Some(written) => Some(number(written)?),
            None => None,
        };
        Some((port.name.unwrap_or_default(), number))
    });
    let endpoints = object.endpoints.into_iter().flat_map(|endpoint| {
        // A missing `ready` means yes, a missing `terminating` no.
        let ready = endpoint.conditions.is_none_or(|conditions| {
            conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or_default()
        });
        // A slice of address type FQDN has names instead of addresses; they are skipped.
        let addresses = endpoint.addresses.into_iter().filter_map(|text| text.parse().ok());
        addresses.map(move |address| Endpoint { address, ready })
    });
    Slice {
        service: labels.get(SERVICE_NAME).cloned(),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    }
}

/// Every Service with endpoints, and those of type ExternalName.
pub(crate) fn services<'a>(
    domain: &str,
    known: impl Iterator<Item = (ServiceName, &'a Known)>,
) -> (Services, HashSet<ServiceName>) {
    let (mut services, mut external) = (BTreeMap::new(), HashSet::new());
    for (name, known) in known {
        match known {
            Known::Service(service) => drop(services.insert(name, service.clone())),
            Known::External => drop(external.insert(name)),
        }
    }
    (Services::new(domain, services), external)
}

/// Every ready endpoint, by the Service's port that leads to it. Slices are given with their namespaces.
pub(crate) fn endpoints<'a>(slices: impl Iterator<Item = (&'a str, &'a Slice)>) -> Endpoints {
    let mut found: HashMap<Backend, Vec<SocketAddr>> = HashMap::new();
    for (backend, port, slice) in slices.flat_map(|(namespace, slice)| slice.backends(namespace)) {
        let Some(port) = port else { continue };
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        let addresses = ready.map(|endpoint| SocketAddr::new(endpoint.address, port));
        found.entry(backend).or_default().extend(addresses);
    }
    for addresses in found.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    found.retain(|_, addresses| !addresses.is_empty());
    Endpoints::new(found)
}

/// Every endpoint, ready or not: it may become ready before the bastion hears of it.
pub(crate) fn behind<'a>(slices: impl Iterator<Item = (&'a str, &'a Slice)>) -> Behind {
    let mut found = Behind::new();
    for (backend, port, slice) in slices.flat_map(|(namespace, slice)| slice.backends(namespace)) {
        let places = slice.endpoints.iter().map(|endpoint| (endpoint.address, port));
        found.entry(backend).or_default().extend(places);
    }
    found
}

impl Slice {
    /// The Service ports that the slice belongs to, each with its port at the endpoints.
    fn backends(&self, namespace: &str) -> impl Iterator<Item = (Backend, Option<u16>, &Self)> {
        self.service.iter().flat_map(move |name| {
            let service = ServiceName { namespace: namespace.to_owned(), name: name.clone() };
            self.ports.iter().map(move |(name, port)| {
                (Backend { service: service.clone(), port: name.clone() }, *port, self)
            })
        })
    }
}

/// An address of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    /// Whether it takes new connections.
    ready: bool,
}

/// The addresses that the cluster assigned to a Service. Its external addresses are left out: its author may
/// write any address there, and could deny access to targets of others with them.
fn addresses(spec: &ServiceSpec, status: ServiceStatus) -> Vec<IpAddr> {
    let balancers = status.load_balancer.and_then(|balancer| balancer.ingress).into_iter().flatten();
    let texts = spec.cluster_ips.iter().flatten().cloned().chain(balancers.filter_map(|ingress| ingress.ip));
    // A headless Service has the address `None`.
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == TCP)
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
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
            "metadata": {"name": "orphan"}, "addressType": "IPv4", "ports": [{"port": 80}],
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
    fn what_is_behind_a_service_need_not_take_connections() {
        let ports = |ports: Value| {
            let slice = slice_of(json!({
                "metadata": {"name": "orders-1", "labels": {SERVICE_NAME: "orders"}},
                "addressType": "IPv4", "ports": ports,
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "terminating": true}},
                ],
            }));
            assert_eq!(endpoints([("databases", &slice)].into_iter()).len(), 0);
            let behind = behind([("databases", &slice)].into_iter());
            let printed = behind.into_iter().map(|(backend, places)| {
                assert_eq!(backend.service, name("orders"));
                let places = places.into_iter().map(|(address, port)| (address.to_string(), port));
                (backend.port, places.collect::<Vec<_>>())
            });
            printed.collect::<Vec<_>>()
        };
        let at = |port: Option<u16>| vec![("10.0.0.1".to_owned(), port), ("10.0.0.2".to_owned(), port)];
        let named =
            json!([{"name": "postgres", "port": 5433}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        assert_eq!(ports(named), [("postgres".to_owned(), at(Some(5433)))]);
        assert_eq!(ports(json!([{"name": "any"}])), [("any".to_owned(), at(None))]);
        assert_eq!(ports(Value::Null), [(String::new(), at(None))], "a headless Service without ports");
    }

    #[test]
    fn a_service_has_tcp_ports_or_is_another_name() {
        let known = |value: Value| service(serde_json::from_value(value).unwrap());
        let orders = known(json!({
            "metadata": {"name": "orders", "labels": {"tier": "db"}},
            "spec": {"clusterIPs": ["10.96.0.9"], "externalIPs": ["10.0.0.1"],
                "ports": [{"name": "postgres", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"hostname": "lb.example.com"}]}},
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
            addresses: vec!["10.96.0.9".parse().unwrap(), "192.0.2.7".parse().unwrap()],
        };
        let only = access::Services::new("cluster.local", BTreeMap::from([(name("orders"), expected)]));
        assert_eq!((services, external), (only, HashSet::from([name("wiki")])));
    }
}
