//! Services of a cluster as rules speak of them, whatever told us which there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::destination::{Destination, Host};

/// A Service by its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    /// The namespace that it is in.
    pub namespace: String,
    /// Its own name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service, behind which there are endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Backend {
    /// The Service.
    pub service: ServiceName,
    /// The port's name; empty if the Service has only one.
    pub port: String,
}

/// A Service, as far as rules look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The names of its TCP ports, by number.
    pub ports: BTreeMap<u16, String>,
    /// Addresses at which these ports are its own, such as its ClusterIPs.
    pub addresses: Vec<IpAddr>,
}

/// Every Service that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Services {
    domain: String,
    known: BTreeMap<ServiceName, Service>,
}

/// One port of a Service, either of them known or not.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    name: ServiceName,
    service: Option<&'a Service>,
    /// The number that clients use, if that is known.
    number: Option<u16>,
    /// The name that the Service gives it, if that is known.
    port: Option<&'a str>,
}

impl Services {
    /// These, in a cluster with this DNS domain, such as `cluster.local`.
    pub(crate) fn new(domain: impl Into<String>, known: BTreeMap<ServiceName, Service>) -> Self {
        Self { domain: domain.into(), known }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The Service that a destination means: `NAME.NAMESPACE`, with `.svc` behind it or `.svc.DOMAIN`; with a final dot only the last of
    /// these, since the others are then complete names of something else.
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

    /// The port of a Service that an EndpointSlice is about.
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

    /// Those of one namespace.
    fn within(&self, namespace: &str) -> impl Iterator<Item = (&ServiceName, &Service)> {
        let first = ServiceName { namespace: namespace.to_owned(), name: String::new() };
        self.known.range(first..).take_while(move |(name, _)| name.namespace == namespace)
    }

    /// Where the ports that a pattern names are reached at addresses of their Services.
    pub(super) fn fronts(&self, pattern: &ServicePattern) -> impl Iterator<Item = (IpAddr, u16)> {
        self.within(&pattern.namespace).flat_map(move |(name, service)| {
            let named = |number: &u16| pattern.names(&self.at_number(name.clone(), *number));
            service.ports.keys().copied().filter(named).flat_map(|number| service.at(number))
        })
    }

    /// Where one port is reached at addresses of its Service.
    pub(super) fn fronts_of(&self, backend: &Backend) -> impl Iterator<Item = (IpAddr, u16)> {
        let service = self.known.get(&backend.service);
        let number = service.and_then(|service| service.number(&backend.port));
        service.zip(number).into_iter().flat_map(|(service, number)| service.at(number))
    }

    /// What a pattern names that is not there.
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
    /// The number of the port that it calls so.
    fn number(&self, port: &str) -> Option<u16> {
        self.ports.iter().find_map(|(number, name)| (name == port).then_some(*number))
    }

    fn at(&self, number: u16) -> impl Iterator<Item = (IpAddr, u16)> {
        self.addresses.iter().map(move |address| (*address, number))
    }
}

impl Asked<'_> {
    /// Where its endpoints are to be looked for, if there is such a Service and it has such a port.
    pub(super) fn backend(&self) -> Option<Backend> {
        let port = self.service.and(self.port)?.to_owned();
        Some(Backend { service: self.name.clone(), port })
    }
}

/// Some Services, and some of their ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePattern {
    /// The namespace that they are in.
    pub namespace: String,
    /// Which of those in it.
    pub which: Which,
    /// Which of their ports; none stands for all that they have.
    pub ports: Vec<ServicePort>,
}

/// Which Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one of this name.
    Named(String),
    /// Those with labels of which all of this is true.
    Labelled(Vec<LabelRequirement>),
}

/// Something that is true of labels or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelRequirement {
    /// The label.
    pub key: String,
    /// What is wanted of it.
    pub wanted: LabelWanted,
}

/// What is wanted of a label, with the meaning that it has everywhere in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelWanted {
    /// It has one of these values.
    In(BTreeSet<String>),
    /// It is missing, or has another value.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not.
    DoesNotExist,
}

/// A port of a Service, as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServicePort {
    /// The number that clients use.
    Number(u16),
    /// The name that the Service gives it.
    Name(String),
}

/// What a pattern names that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The Service, or any with such labels.
    Service,
    /// Ports, which none of its Services has.
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
    /// The API of the cluster, under the name that every cluster has it.
    pub(super) fn kubernetes_api() -> Self {
        Self {
            namespace: "default".to_owned(),
            which: Which::Named("kubernetes".to_owned()),
            ports: Vec::new(),
        }
    }

    /// Whether these are endpoints that a rule opens: the Service is there, and has the port.
    pub(super) fn opens(&self, asked: &Asked<'_>) -> bool {
        asked.backend().is_some() && self.names(asked)
    }

    /// Whether the pattern is about what was asked for. A Service that is not known may be meant by its name all the same.
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
