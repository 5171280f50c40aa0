//! Compiles a policy object to rules for the policy and a verdict for its author. No IO.
//!
//! In the bastion's own namespace, and for the whole cluster, an object may name any destination. Elsewhere
//! it opens and denies Services of its own namespace and nothing else, so that the owner of a namespace gives
//! access to its own Services.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

use ssh_key::Fingerprint;

use super::crd;
use crate::{
    access::{
        self, Condition, Effect, ServiceName, Services,
        service::{LabelRequirement, LabelWanted, Missing, ServicePattern, ServicePort, Which},
    },
    destination::pattern::{DestinationPattern, HostPattern, PatternError, PortRange},
    identity::{Principal, key_id::KeyIdPattern},
};

/// The name of a policy object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PolicyName {
    /// The namespace; `None` for a ClusterTunnelPolicy.
    pub namespace: Option<String>,
    pub name: String,
}

/// The name of the rule in audit records: `databases/orders`, or `*/orders` for the whole cluster.
impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace.as_deref().unwrap_or("*"), self.name)
    }
}

/// The namespaces whose objects and Services are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Namespaces(BTreeSet<String>),
}

impl Scope {
    pub(crate) fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}

/// The facts on which the meaning of an object depends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The bastion's own namespace.
    pub own: &'a str,
    /// The namespaces whose Services are followed.
    pub scope: &'a Scope,
    /// The Services that exist.
    pub services: &'a Services,
    /// Services of type ExternalName, which have no endpoints that could be checked.
    pub external: &'a HashSet<ServiceName>,
}

/// Why an object is refused: the first fault that is found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The object does not parse.
    #[error("{0}")]
    Malformed(String),
    /// A part of the object is missing, or two parts exclude each other.
    #[error("{place}: write {wanted}")]
    Shape {
        place: String,
        /// The alternatives that the field must have.
        wanted: &'static str,
    },
    /// A value has no meaning.
    #[error("{place}: {problem}")]
    Value { place: String, problem: String },
    /// The object names a destination that objects of its namespace may not name.
    #[error(
        "{place}: a TunnelPolicy outside the bastion's namespace ({own}) is about Services of its own namespace; write this one there, or as a ClusterTunnelPolicy"
    )]
    NotAllowedHere {
        place: String,
        /// The bastion's own namespace.
        own: String,
    },
    /// The object names a Service in a namespace that the bastion does not follow.
    #[error(
        "{place}: this bastion does not follow Services of the namespace {namespace} (kubernetes.policies)"
    )]
    NotWatched { place: String, namespace: String },
    /// The object names a Service without endpoints.
    #[error(
        "{place}: {service} is of type ExternalName, which has no endpoints; write the host that it names"
    )]
    ExternalName { place: String, service: ServiceName },
}

impl Refused {
    /// The reason of the condition in the object's status.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Shape { .. } | Self::Value { .. } => "Invalid",
            Self::NotAllowedHere { .. } => "NotAllowedHere",
            Self::NotWatched { .. } => "NotWatched",
            Self::ExternalName { .. } => "ExternalName",
        }
    }
}

/// A reference of an object to something that does not exist yet. The object applies to it as soon as it
/// exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    /// The field of the reference.
    pub place: String,
    pub pattern: ServicePattern,
    pub missing: Missing,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, pattern, missing } = self;
        let namespace = pattern.namespace.escape_debug();
        write!(f, "{place}: ")?;
        match (&pattern.which, missing) {
            (Which::Named(name), Missing::Service) => {
                write!(f, "there is no Service {namespace}/{}", name.escape_debug())
            }
            (Which::Labelled(_), Missing::Service) => {
                write!(f, "no Service of the namespace {namespace} has these labels")
            }
            (Which::Named(name), Missing::Ports(ports)) => {
                write!(f, "Service {namespace}/{} has no TCP port {}", name.escape_debug(), listed(ports))
            }
            (Which::Labelled(_), Missing::Ports(ports)) => write!(
                f,
                "no Service of the namespace {namespace} with these labels has the TCP port {}",
                listed(ports)
            ),
        }
    }
}

/// The result for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// The rules that the object adds to the policy.
    pub rules: Vec<access::Rule>,
    /// Whether the object is accepted.
    pub verdict: Result<(), Refused>,
    /// The references to something that does not exist.
    pub unresolved: Vec<Unresolved>,
}

/// Compiles an object. A refused object opens nothing, but its valid denials apply all the same.
pub(crate) fn compile(name: &PolicyName, spec: &crd::Spec, context: Context<'_>) -> Compiled {
    let who = match who(&spec.who) {
        Ok(who) => who,
        Err(refused) => return Compiled::nothing(refused),
    };
    let author = Author { name, context };
    let (mut to, mut deny) = (author.all("to", spec.to.as_deref()), author.all("deny", spec.deny.as_deref()));
    let unresolved = to.unresolved.drain(..).chain(deny.unresolved.drain(..)).collect();
    let empty = |part: &Part| part.destinations.is_empty() && part.services.is_empty();
    let nothing = (spec.to.is_none() && spec.deny.is_none())
        .then(|| Refused::Shape { place: "spec".to_owned(), wanted: "`to` or `deny`" });
    let refused = nothing.or(to.refused.clone()).or(deny.refused.clone());
    let rule = |effect, part: Part| access::Rule {
        name: name.to_string(),
        who: who.clone(),
        effect,
        destinations: part.destinations,
        services: part.services,
        closed: access::EndpointAddresses::default(),
    };
    let mut rules = Vec::new();
    if refused.is_none() && !empty(&to) {
        rules.push(rule(Effect::Permit, to));
    }
    if !empty(&deny) {
        rules.push(rule(Effect::Deny, deny));
    }
    Compiled { rules, verdict: refused.map_or(Ok(()), Err), unresolved }
}

impl Compiled {
    /// The result for an object that does not parse.
    pub(crate) fn nothing(refused: Refused) -> Self {
        Self { rules: Vec::new(), verdict: Err(refused), unresolved: Vec::new() }
    }
}

fn listed(ports: &[ServicePort]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn who(who: &crd::Who) -> Result<access::Who, Refused> {
    let mut conditions = Vec::new();
    if let Some(names) = &who.principals {
        let parse = |name: &String| {
            Principal::parse(name)
                .ok_or("this is no principal; one has 1 to 1024 bytes, and no comma, NUL, `*` or `?`")
        };
        conditions.push(Condition::Principals(each("who.principals", names, parse)?));
    }
    if let Some(patterns) = &who.key_ids {
        let parse = |pattern: &String| KeyIdPattern::try_from(pattern.clone());
        conditions.push(Condition::KeyIds(each("who.keyIds", patterns, parse)?));
    }
    if let Some(keys) = &who.authorities {
        let parse = |key: &String| match key.parse() {
            Ok(fingerprint @ Fingerprint::Sha256(_)) => Ok(fingerprint),
            _ => Err("this is no fingerprint; write SHA256:… as `ssh-keygen -l -f FILE` prints it"),
        };
        conditions.push(Condition::Authorities(each("who.authorities", keys, parse)?));
    }
    match (who.everybody.unwrap_or_default(), conditions.is_empty()) {
        (true, true) => Ok(access::Who::Everybody),
        (false, false) => Ok(access::Who::AllOf(conditions)),
        (true, false) | (false, true) => Err(Refused::Shape {
            place: "who".to_owned(),
            wanted: "`everybody: true`, or one or more of principals, keyIds and authorities",
        }),
    }
}

/// Parses every value of a list that must not be empty.
fn each<T, U, E: ToString>(
    place: &str,
    values: &[T],
    parse: impl Fn(&T) -> Result<U, E>,
) -> Result<Vec<U>, Refused> {
    if values.is_empty() {
        return Err(Refused::Shape { place: place.to_owned(), wanted: "at least one" });
    }
    let parse = |(index, value)| {
        let wrong =
            |error: E| Refused::Value { place: format!("{place}[{index}]"), problem: error.to_string() };
        parse(value).map_err(wrong)
    };
    values.iter().enumerate().map(parse).collect()
}

/// The valid parts of `to` or `deny`.
#[derive(Default)]
struct Part {
    destinations: Vec<DestinationPattern>,
    services: Vec<ServicePattern>,
    unresolved: Vec<Unresolved>,
    refused: Option<Refused>,
}

/// The result for one destination.
enum Destinations {
    Hosts(Vec<DestinationPattern>),
    Service(ServicePattern),
}

struct Author<'a> {
    name: &'a PolicyName,
    context: Context<'a>,
}

impl Author<'_> {
    fn all(&self, field: &str, written: Option<&[crd::Destination]>) -> Part {
        let mut part = Part::default();
        for (index, destination) in written.unwrap_or_default().iter().enumerate() {
            let place = format!("{field}[{index}]");
            match self.one(&place, destination) {
                Ok(Destinations::Hosts(patterns)) => part.destinations.extend(patterns),
                Ok(Destinations::Service(pattern)) => {
                    // The Service opens nothing, but a denial closes its names.
                    if let Some(refused) = self.external(&place, &pattern) {
                        part.refused = part.refused.or(Some(refused));
                    } else if let Some(missing) = self.context.services.missing(&pattern) {
                        let place = format!("{place}.service");
                        part.unresolved.push(Unresolved { place, pattern: pattern.clone(), missing });
                    }
                    part.services.push(pattern);
                }
                Err(refused) => part.refused = part.refused.or(Some(refused)),
            }
        }
        part
    }

    fn one(&self, place: &str, written: &crd::Destination) -> Result<Destinations, Refused> {
        let within = |field: &str| format!("{place}.{field}");
        match (&written.service, &written.host, &written.network, &written.ports) {
            (Some(service), None, None, None) => {
                self.service(&within("service"), service).map(Destinations::Service)
            }
            (None, Some(host), None, Some(ports)) => {
                self.any_destination(&within("host"))?;
                hosts(&within("host"), host, &within("ports"), ports, |_| true)
            }
            (None, None, Some(network), Some(ports)) => {
                self.any_destination(&within("network"))?;
                let network_only = |hosts: &HostPattern| matches!(hosts, HostPattern::Network(_));
                hosts(&within("network"), network, &within("ports"), ports, network_only)
            }
            _ => Err(Refused::Shape {
                place: place.to_owned(),
                wanted: "a service, a host with ports, or a network with ports",
            }),
        }
    }

    /// Checks that the object may name any destination.
    fn any_destination(&self, place: &str) -> Result<(), Refused> {
        match self.name.namespace.as_deref() {
            Some(namespace) if namespace != self.context.own => {
                Err(Refused::NotAllowedHere { place: place.to_owned(), own: self.context.own.to_owned() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a Service of type ExternalName.
    fn external(&self, place: &str, pattern: &ServicePattern) -> Option<Refused> {
        let Which::Named(name) = &pattern.which else { return None };
        let service = ServiceName { namespace: pattern.namespace.clone(), name: name.clone() };
        let place = format!("{place}.service.name");
        self.context.external.contains(&service).then_some(Refused::ExternalName { place, service })
    }

    fn service(&self, place: &str, written: &crd::Service) -> Result<ServicePattern, Refused> {
        let within = |field: &str| format!("{place}.{field}");
        let namespace = match (&written.namespace, &self.name.namespace) {
            (None, Some(own)) => own,
            (Some(other), Some(own)) if other == own => own,
            (Some(other), _) => {
                self.any_destination(&within("namespace"))?;
                other
            }
            (None, None) => {
                return Err(Refused::Shape {
                    place: within("namespace"),
                    wanted: "the namespace of the Service: this object has none",
                });
            }
        };
        if !self.context.scope.includes(namespace) {
            return Err(Refused::NotWatched { place: within("namespace"), namespace: namespace.clone() });
        }
        let which = match (&written.name, &written.selector) {
            (Some(name), None) => Which::Named(name.clone()),
            (None, Some(selector)) => Which::Labelled(labels(&within("selector"), selector)?),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Refused::Shape { place: place.to_owned(), wanted: "either name or selector" });
            }
        };
        let port = |port: &crd::ServicePort| match &port.0 {
            crd::NumberOrText::Number(0) => Err("a port is a number from 1 to 65535, or a name"),
            crd::NumberOrText::Number(number) => Ok(ServicePort::Number(*number)),
            crd::NumberOrText::Text(name) => Ok(ServicePort::Name(name.clone())),
        };
        let ports = match &written.ports {
            Some(ports) => each(&within("ports"), ports, port)?,
            None => Vec::new(),
        };
        Ok(ServicePattern { namespace: namespace.clone(), which, ports })
    }
}

/// Every pair of a host and ports.
fn hosts(
    place: &str,
    host: &str,
    ports_place: &str,
    ports: &[crd::Ports],
    fits: impl Fn(&HostPattern) -> bool,
) -> Result<Destinations, Refused> {
    let value =
        |problem: PatternError| Refused::Value { place: place.to_owned(), problem: problem.to_string() };
    let pattern: HostPattern = host.parse().map_err(value)?;
    if !fits(&pattern) {
        let problem = "this is no address and no network".to_owned();
        return Err(Refused::Value { place: place.to_owned(), problem });
    }
    let ports = each(ports_place, ports, |ports| match &ports.0 {
        crd::NumberOrText::Number(number) => number.to_string().parse::<PortRange>(),
        crd::NumberOrText::Text(text) => text.parse(),
    })?;
    let with = |ports| DestinationPattern { hosts: pattern.clone(), ports };
    Ok(Destinations::Hosts(ports.into_iter().map(with).collect()))
}

fn labels(place: &str, selector: &crd::Selector) -> Result<Vec<LabelRequirement>, Refused> {
    let equal = |(key, value): (&String, &String)| LabelRequirement {
        key: key.clone(),
        wanted: LabelWanted::In(BTreeSet::from([value.clone()])),
    };
    let expression = |written: &crd::Requirement| {
        let values = || written.values.iter().flatten().cloned().collect();
        let has_values = written.values.as_ref().is_some_and(|values| !values.is_empty());
        let wanted = match (written.operator, has_values) {
            (crd::Operator::In, true) => LabelWanted::In(values()),
            (crd::Operator::NotIn, true) => LabelWanted::NotIn(values()),
            (crd::Operator::Exists, false) => LabelWanted::Exists,
            (crd::Operator::DoesNotExist, false) => LabelWanted::DoesNotExist,
            (crd::Operator::In | crd::Operator::NotIn, false) => return Err("In and NotIn need values"),
            (crd::Operator::Exists | crd::Operator::DoesNotExist, true) => {
                return Err("Exists and DoesNotExist take no values");
            }
        };
        Ok(LabelRequirement { key: written.key.clone(), wanted })
    };
    let mut requirements: Vec<_> = selector.match_labels.iter().flatten().map(equal).collect();
    if let Some(expressions) = &selector.match_expressions {
        requirements.extend(each(&format!("{place}.matchExpressions"), expressions, expression)?);
    }
    if requirements.is_empty() {
        return Err(Refused::Shape { place: place.to_owned(), wanted: "matchLabels or matchExpressions" });
    }
    Ok(requirements)
}

#[cfg(test)]
mod tests;
