//! Finds the addresses of the Services that a rule denies, so that they are denied by whatever way a client
//! reaches them.
//!
//! All addresses are found when rules, Services or endpoints change, and looked up when a client asks for a
//! forward.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use super::service::{Backend, ServiceName, ServicePattern, Services};

/// An address, with one port or, for `None`, all ports.
pub(crate) type EndpointAddress = (IpAddr, Option<u16>);

/// The endpoints behind the ports of Services, ready or not.
pub(crate) type Behind = BTreeMap<Backend, Vec<EndpointAddress>>;

/// A set of endpoint addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EndpointAddresses(HashSet<EndpointAddress>);

impl EndpointAddresses {
    /// Whether the address is in the set. An IPv4-mapped IPv6 address counts as IPv4.
    pub(super) fn include(&self, address: SocketAddr) -> bool {
        [Some(address.port()), None].iter().any(|port| self.0.contains(&(address.ip(), *port)))
    }

    fn add(&mut self, (address, port): EndpointAddress) {
        self.0.insert((address.to_canonical(), port));
    }
}

/// The addresses of Services, and the endpoints behind them.
#[derive(Debug)]
pub(super) struct Map<'a> {
    services: &'a Services,
    behind: &'a Behind,
    /// The Services that lead to each address.
    leading_to: HashMap<IpAddr, Vec<(Option<u16>, &'a Backend)>>,
}

impl<'a> Map<'a> {
    pub(super) fn new(services: &'a Services, behind: &'a Behind) -> Self {
        let mut leading_to: HashMap<_, Vec<_>> = HashMap::new();
        for (backend, endpoints) in behind {
            for (address, port) in endpoints {
                leading_to.entry(address.to_canonical()).or_default().push((*port, backend));
            }
        }
        Self { services, behind, leading_to }
    }

    /// Returns the addresses of the Services that match: their own addresses, their endpoints, and the
    /// addresses of every other Service that leads to one of these endpoints.
    pub(super) fn of(&self, patterns: &[ServicePattern]) -> EndpointAddresses {
        let mut places = EndpointAddresses::default();
        for pattern in patterns {
            let fronts = self.services.fronts(pattern);
            fronts.for_each(|(address, port)| places.add((address, Some(port))));
            let named = self.within(&pattern.namespace);
            let named = named.filter(|(backend, _)| pattern.names(&self.services.behind(backend)));
            for endpoint in named.flat_map(|(_, endpoints)| endpoints) {
                places.add(*endpoint);
                let fronts = self.leading_to(*endpoint).flat_map(|backend| self.services.fronts_of(backend));
                fronts.for_each(|(address, port)| places.add((address, Some(port))));
            }
        }
        places
    }

    fn within(&self, namespace: &str) -> impl Iterator<Item = (&'a Backend, &'a Vec<EndpointAddress>)> {
        let service = ServiceName { namespace: namespace.to_owned(), name: String::new() };
        let first = Backend { service, port: String::new() };
        self.behind.range(first..).take_while(move |(backend, _)| backend.service.namespace == namespace)
    }

    fn leading_to(&self, (address, port): EndpointAddress) -> impl Iterator<Item = &'a Backend> {
        let all = self.leading_to.get(&address.to_canonical()).into_iter().flatten();
        let same = move |other: Option<u16>| port.is_none() || other.is_none() || port == other;
        all.filter(move |(other, _)| same(*other)).map(|(_, backend)| *backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::service::{Service, ServicePort, Which};

    fn name(namespace: &str, name: &str) -> ServiceName {
        ServiceName { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn backend(namespace: &str, service: &str, port: &str) -> Backend {
        Backend { service: name(namespace, service), port: port.to_owned() }
    }

    fn pattern(service: &str, ports: &[ServicePort]) -> ServicePattern {
        let which = Which::Named(service.to_owned());
        ServicePattern { namespace: "databases".to_owned(), which, ports: ports.to_vec() }
    }

    #[test]
    fn a_service_is_at_its_addresses_and_endpoints_and_at_those_of_its_load_balancers() {
        use ServicePort::{Name, Number};
        let at = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            (address.ip(), Some(address.port()).filter(|port| *port != 0))
        };
        let service = |address: &str, ports: &[(u16, &str)]| Service {
            ports: ports.iter().map(|(number, name)| (*number, (*name).to_owned())).collect(),
            addresses: vec![address.parse().unwrap()],
            ..Service::default()
        };
        let services = Services::new(
            "cluster.local",
            BTreeMap::from([
                (name("databases", "orders"), service("10.96.0.1", &[(5432, "sql"), (80, "metrics")])),
                (name("databases", "empty"), service("10.96.0.2", &[(5432, "sql")])),
                (name("other", "orders"), service("10.96.0.3", &[(5432, "sql")])),
                (name("other", "mirror"), service("10.96.0.4", &[(1, "a"), (2, "b")])),
            ]),
        );
        let behind = Behind::from([
            (backend("databases", "orders", "sql"), vec![at("10.244.0.1:5433"), at("10.244.0.2:5433")]),
            (backend("databases", "orders", "metrics"), vec![at("10.244.0.1:9090")]),
            (backend("databases", "without-ports", ""), vec![at("10.244.0.3:0")]),
            (backend("databases", "gone", "sql"), vec![at("10.244.0.4:5433")]),
            (backend("other", "orders", "sql"), vec![at("10.244.9.1:5433")]),
            (backend("other", "mirror", "a"), vec![at("10.244.9.2:1"), at("[::ffff:10.244.0.2]:5433")]),
            (backend("other", "mirror", "b"), vec![at("10.244.0.3:7")]),
        ]);
        let map = Map::new(&services, &behind);
        let sql = ["10.244.0.1:5433", "10.244.0.2:5433", "10.96.0.1:5432", "10.96.0.4:1"];
        let metrics = ["10.244.0.1:9090", "10.96.0.1:80"];
        for (pattern, expected) in [
            (pattern("orders", &[]), [&sql[..], &metrics].concat()),
            (pattern("orders", &[Number(5432)]), sql.to_vec()),
            (pattern("orders", &[Number(5433)]), vec![]),
            (pattern("orders", &[Name("metrics".to_owned())]), metrics.to_vec()),
            (pattern("empty", &[]), vec!["10.96.0.2:5432"]),
            (pattern("without-ports", &[]), vec!["10.244.0.3:0", "10.96.0.4:2"]),
            (pattern("gone", &[]), vec!["10.244.0.4:5433"]),
            (pattern("gone", &[Name("sql".to_owned())]), vec!["10.244.0.4:5433"]),
            (pattern("gone", &[Number(5432)]), vec![]),
            (pattern("unheard-of", &[]), vec![]),
        ] {
            let expected = EndpointAddresses(expected.into_iter().map(at).collect());
            assert_eq!(map.of(std::slice::from_ref(&pattern)), expected, "{pattern:?}");
        }
        let every_port = map.of(&[pattern("without-ports", &[])]);
        assert!(every_port.include("10.244.0.3:9".parse().unwrap()));
        assert!(!every_port.include("10.244.0.4:9".parse().unwrap()));
    }
}
