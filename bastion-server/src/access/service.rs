//! The cluster's Services as rules see them, independent of where the list of Services comes from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::destination::{Destination, Host};

/// The name and namespace of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service, to which endpoints belong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub service: ServiceName,
    /// The port's name; empty if the Service has a single unnamed port.
    pub port: String,
}

/// The properties of a Service that rules depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    pub labels: BTreeMap<String, String>,
    /// The names of its TCP ports, by number.
    pub ports: BTreeMap<u16, String>,
    /// The addresses whose ports belong to the Service, such as its ClusterIPs.
    pub addresses: Vec<IpAddr>,
}

/// Every Service that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Services {
    domain: String,
    known: BTreeMap<ServiceName, Service>,
}

/// A Service and one of its ports, either of them known or not.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    name: ServiceName,
    service: Option<&'a Service>,
    /// The port number that clients use, if it is known.
    number: Option<u16>,
    /// The port's name in the Service, if it is known.
    port: Option<&'a str>,
}

impl Services {
    /// Collects Services of a cluster with this DNS domain, such as `cluster.local`.
    pub(crate) fn new(domain: impl Into<String>, known: BTreeMap<ServiceName, Service>) -> Self {
        Self { domain: domain.into(), known }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns the Service that a destination names: `NAME.NAMESPACE`, `NAME.NAMESPACE.svc` or
    /// `NAME.NAMESPACE.svc.DOMAIN`. With a final dot only the last form names a Service, since the others are
    /// then complete names of something else.
    pub(super) fn asked(&self, destination: &Destination) -> Option<Asked<'_>> {
        let Host::Name(host) = destination.host() else { return None };
        let (name, rest) = host.as_str().split_once('.')?;
        let namespace = match rest.split_once('.') {
            None if !host.is_absolute() => rest,
            Some((namespace, "svc")) if !host.is_absolute() => namespace,
            Some((namespace, more)) if more.strip_prefix("svc.") == Some(&self.domain) => namespace,
            None | Some(_) => return None,
        };
        let name = ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
        Some(self.at_number(name, destination.port()))
    }

    /// Returns the Service and port that an EndpointSlice belongs to.
    pub(super) fn behind<'a>(&'a self, backend: &'a Backend) -> Asked<'a> {
        let service = self.known.get(&backend.service);
        let number = service.and_then(|service| service.number(&backend.port));
        Asked { name: backend.service.clone(), service, number, port: Some(&backend.port) }
    }

    fn at_number(&self, name: ServiceName, number: u16) -> Asked<'_> {
        let service = self.known.get(&name);
        let port = service.and_then(|service| service.ports.get(&number)).map(String::as_str);
        Asked { name, service, number: Some(number), port }
    }

    /// The Services of one namespace.
    fn within(&self, namespace: &str) -> impl Iterator<Item = (&ServiceName, &Service)> {
        let first = ServiceName { namespace: namespace.to_owned(), name: String::new() };
        self.known.range(first..).take_while(move |(name, _)| name.namespace == namespace)
    }

    /// The addresses and ports at which a pattern's Services take connections themselves.
    pub(super) fn fronts(&self, pattern: &ServicePattern) -> impl Iterator<Item = (IpAddr, u16)> {
        self.within(&pattern.namespace).flat_map(move |(name, service)| {
            let named = |number: &u16| pattern.names(&self.at_number(name.clone(), *number));
            service.ports.keys().copied().filter(named).flat_map(|number| service.at(number))
        })
    }

    /// The addresses and ports at which one port's Service takes connections itself.
    pub(super) fn fronts_of(&self, backend: &Backend) -> impl Iterator<Item = (IpAddr, u16)> {
        let service = self.known.get(&backend.service);
        let number = service.and_then(|service| service.number(&backend.port));
        service.zip(number).into_iter().flat_map(|(service, number)| service.at(number))
    }

    /// Returns the Service or ports of a pattern that do not exist.
    pub(crate) fn missing(&self, pattern: &ServicePattern) -> Option<Missing> {
        let meant: Vec<&Service> = match &pattern.which {
            Which::Named(name) => {
                let name = ServiceName { namespace: pattern.namespace.clone(), name: name.clone() };
                self.known.get(&name).into_iter().collect()
            }
            Which::Labelled(requirements) => self
                .within(&pattern.namespace)
                .filter(|(_, service)| hold(requirements, &service.labels))
                .map(|(_, service)| service)
                .collect(),
        };
        if meant.is_empty() {
            return Some(Missing::Service);
        }
        let there = |port: &ServicePort| {
            meant.iter().any(|service| match port {
                ServicePort::Number(number) => service.ports.contains_key(number),
                ServicePort::Name(name) => service.number(name).is_some(),
            })
        };
        let missing: Vec<_> = pattern.ports.iter().filter(|port| !there(port)).cloned().collect();
        (!missing.is_empty()).then_some(Missing::Ports(missing))
    }
}

impl Service {
    /// The number of the port with this name.
    fn number(&self, port: &str) -> Option<u16> {
        self.ports.iter().find_map(|(number, name)| (name == port).then_some(*number))
    }

    fn at(&self, number: u16) -> impl Iterator<Item = (IpAddr, u16)> {
        self.addresses.iter().map(move |address| (*address, number))
    }
}

impl Asked<'_> {
    /// The port whose endpoints are to be dialled, if the Service exists and has the port.
    pub(super) fn backend(&self) -> Option<Backend> {
        let port = self.service.and(self.port)?.to_owned();
        Some(Backend { service: self.name.clone(), port })
    }
}

/// Matches Services of one namespace, and some of their ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePattern {
    pub namespace: String,
    pub which: Which,
    /// The ports; an empty list stands for all ports of the Service.
    pub ports: Vec<ServicePort>,
}

/// Selects Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// The Service with this name.
    Named(String),
    /// Every Service whose labels meet all requirements.
    Labelled(Vec<LabelRequirement>),
}

/// A requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelRequirement {
    pub key: String,
    pub wanted: LabelWanted,
}

/// A requirement on one label, with the meaning of a Kubernetes label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelWanted {
    /// The label has one of these values.
    In(BTreeSet<String>),
    /// The label is missing or has another value.
    NotIn(BTreeSet<String>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

/// A port of a Service, as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServicePort {
    /// The port number that clients use.
    Number(u16),
    /// The port's name in the Service.
    Name(String),
}

/// The part of a pattern that does not exist in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The Service, or any Service with these labels.
    Service,
    /// Ports that none of the pattern's Services has.
    Ports(Vec<ServicePort>),
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => write!(f, "{}", name.escape_debug()),
        }
    }
}

impl ServicePattern {
    /// The cluster's API, by the name that it has in every cluster.
    pub(super) fn kubernetes_api() -> Self {
        Self {
            namespace: "default".to_owned(),
            which: Which::Named("kubernetes".to_owned()),
            ports: Vec::new(),
        }
    }

    /// Whether a rule with this pattern opens these endpoints: the Service exists and has the port.
    pub(super) fn opens(&self, asked: &Asked<'_>) -> bool {
        asked.backend().is_some() && self.names(asked)
    }

    /// Whether the pattern applies to what the client asked for. A Service that does not exist can match by
    /// its name.
    pub(super) fn names(&self, asked: &Asked<'_>) -> bool {
        let labels = asked.service.map(|service| &service.labels);
        let which = match &self.which {
            Which::Named(name) => *name == asked.name.name,
            Which::Labelled(requirements) => labels.is_some_and(|labels| hold(requirements, labels)),
        };
        let port = |port: &ServicePort| match port {
            ServicePort::Number(number) => asked.number == Some(*number),
            ServicePort::Name(name) => asked.port == Some(name),
        };
        which
            && self.namespace == asked.name.namespace
            && (self.ports.is_empty() || self.ports.iter().any(port))
    }
}

fn hold(requirements: &[LabelRequirement], labels: &BTreeMap<String, String>) -> bool {
    requirements.iter().all(|requirement| requirement.holds(labels))
}

impl LabelRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.wanted {
            LabelWanted::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelWanted::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelWanted::Exists => value.is_some(),
            LabelWanted::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        let service = Service {
            labels: BTreeMap::from([("tier".to_owned(), "db".to_owned())]),
            ports: BTreeMap::from([(5432, "postgres".to_owned()), (9187, "metrics".to_owned())]),
            addresses: vec![],
        };
        let name = ServiceName { namespace: "databases".to_owned(), name: "orders".to_owned() };
        Services::new("cluster.local", BTreeMap::from([(name, service)]))
    }

    fn pattern(which: Which, ports: &[ServicePort]) -> ServicePattern {
        ServicePattern { namespace: "databases".to_owned(), which, ports: ports.to_vec() }
    }

    fn named(name: &str) -> Which {
        Which::Named(name.to_owned())
    }

    fn labelled(key: &str, wanted: LabelWanted) -> Which {
        Which::Labelled(vec![LabelRequirement { key: key.to_owned(), wanted }])
    }

    #[test]
    fn a_service_has_three_names() {
        let services = services();
        for (host, expected) in [
            ("orders.databases", Some("databases/orders")),
            ("orders.databases.svc", Some("databases/orders")),
            ("Orders.Databases.svc.cluster.local.", Some("databases/orders")),
            ("users.databases.svc", None),
            ("orders", None),
            ("orders.databases.svc.cluster.remote", None),
            ("orders.databases.svc.cluster", None),
            ("orders.databases.pod", None),
            ("orders-0.orders.databases.svc", None),
            ("10.96.0.1", None),
        ] {
            let destination = Destination::parse(host, 5432).unwrap();
            let backend = services.asked(&destination).and_then(|asked| asked.backend());
            assert_eq!(backend.map(|found| found.service.to_string()).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn what_a_pattern_names_that_is_not_there() {
        use ServicePort::{Name, Number};
        let services = services();
        assert_eq!((services.len(), Services::default().len()), (1, 0));
        let ports = [Number(5432), Number(80), Name("metrics".to_owned()), Name("web\n".to_owned())];
        let [http, web] = [&ports[1], &ports[3]].map(ServicePort::clone);
        assert_eq!([&http, &web].map(ToString::to_string), ["80", "web\\n"]);
        for (pattern, missing) in [
            (pattern(named("orders"), &[]), None),
            (pattern(named("orders"), &ports), Some(Missing::Ports(vec![http.clone(), web.clone()]))),
            (pattern(named("orders"), &[ports[0].clone(), ports[2].clone()]), None),
            (pattern(named("users"), &ports), Some(Missing::Service)),
            (pattern(labelled("tier", LabelWanted::Exists), &ports), Some(Missing::Ports(vec![http, web]))),
            (pattern(labelled("gone", LabelWanted::Exists), &[]), Some(Missing::Service)),
        ] {
            assert_eq!(services.missing(&pattern), missing, "{pattern:?}");
        }
    }

    #[test]
    fn what_a_pattern_opens_and_what_it_names() {
        use ServicePort::{Name, Number};
        let services = services();
        let values = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<BTreeSet<_>>();
        let metrics = || Name("metrics".to_owned());
        for (pattern, host, port, opens, names) in [
            (pattern(named("orders"), &[]), "orders.databases", 5432, true, true),
            (pattern(named("orders"), &[]), "orders.databases", 80, false, true),
            (pattern(named("orders"), &[Number(5432)]), "orders.databases", 5432, true, true),
            (pattern(named("orders"), &[Number(5432)]), "orders.databases", 9187, false, false),
            (pattern(named("orders"), &[metrics()]), "orders.databases", 9187, true, true),
            (pattern(named("orders"), &[metrics()]), "orders.databases", 5432, false, false),
            (pattern(named("orders"), &[Number(80), metrics()]), "orders.databases", 9187, true, true),
            (pattern(named("orders"), &[Number(80)]), "orders.databases", 80, false, true),
            (pattern(named("orders"), &[]), "orders.elsewhere", 5432, false, false),
            (pattern(named("users"), &[]), "users.databases", 5432, false, true),
            (
                pattern(labelled("tier", LabelWanted::In(values(&["db"]))), &[]),
                "orders.databases",
                5432,
                true,
                true,
            ),
            (
                pattern(labelled("tier", LabelWanted::In(values(&["web"]))), &[]),
                "orders.databases",
                5432,
                false,
                false,
            ),
            (
                pattern(labelled("tier", LabelWanted::NotIn(values(&["web"]))), &[]),
                "orders.databases",
                5432,
                true,
                true,
            ),
            (
                pattern(labelled("tier", LabelWanted::NotIn(values(&["db"]))), &[]),
                "orders.databases",
                5432,
                false,
                false,
            ),
            (
                pattern(labelled("gone", LabelWanted::NotIn(values(&["db"]))), &[]),
                "orders.databases",
                5432,
                true,
                true,
            ),
            (pattern(labelled("tier", LabelWanted::Exists), &[]), "orders.databases", 5432, true, true),
            (pattern(labelled("gone", LabelWanted::Exists), &[]), "orders.databases", 5432, false, false),
            (pattern(labelled("gone", LabelWanted::DoesNotExist), &[]), "orders.databases", 5432, true, true),
            (
                pattern(labelled("gone", LabelWanted::DoesNotExist), &[]),
                "users.databases",
                5432,
                false,
                false,
            ),
        ] {
            let destination = Destination::parse(host, port).unwrap();
            let asked = services.asked(&destination).unwrap();
            assert_eq!(
                (pattern.opens(&asked), pattern.names(&asked)),
                (opens, names),
                "{pattern:?} {destination}"
            );
        }
    }
}
