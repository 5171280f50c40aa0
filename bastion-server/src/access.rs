//! Decides whether an identity may reach a destination: policy in, a [`Permit`] or the reason for the refusal
//! out. No IO, no clock.
//!
//! The decision has two steps, with name resolution between them. [`authorize`] checks whether any rule could
//! permit the destination, before the bastion resolves a name for a client. [`Candidate::permit`] decides
//! about the addresses that were found. [`reauthorize`] checks an existing forward again.

mod embedded;
pub(crate) mod floor;
pub(crate) mod permit;
pub(crate) mod policy;
pub(crate) mod service;
pub(crate) mod service_addresses;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use thiserror::Error;

use crate::{
    destination::{BadDestination, Destination, Host},
    identity::Identity,
};

pub(crate) use floor::{Floor, Forbidden, KubernetesApi};
pub(crate) use permit::Permit;
pub(crate) use policy::{Condition, Effect, Objects, Policy, Rule, Who};
pub(crate) use service::{Backend, Service, ServiceName, Services};
pub(crate) use service_addresses::{Behind, EndpointAddresses};

use crate::destination::pattern::{DestinationPattern, Match};
use policy::{covers, covers_at, only_absolute};

/// Why a forward is denied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Denied {
    /// The certificate lacks `permit-port-forwarding`.
    #[error("the certificate does not carry permit-port-forwarding")]
    NoPortForwarding,
    /// The certificate has expired; the session is about to end as well.
    #[error("the certificate has expired")]
    Expired,
    /// The request does not name a destination.
    #[error("{0}")]
    Destination(#[from] BadDestination),
    /// The certificate's `permit-open` option does not include the destination.
    #[error("the certificate is confined to other destinations (permit-open)")]
    Confined,
    /// A rule denies the destination.
    #[error("a rule denies this destination: {}", .0.name.escape_debug())]
    ByRule(Arc<Rule>),
    /// No rule permits the destination.
    #[error("no rule lets any of your principals reach this destination")]
    NoRule,
    /// One of the addresses is on the floor.
    #[error("this destination is at a forbidden address ({0})")]
    ForbiddenAddress(Forbidden),
    /// Addresses of this kind are not known yet, so any address could be one of them.
    #[error("it is not known yet which addresses are forbidden ({0}); try again in a moment")]
    FloorUnknown(Forbidden),
}

impl Denied {
    /// The reason code in logs, metrics and messages to clients.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoPortForwarding => "no_permit_port_forwarding",
            Self::Expired => "expired",
            Self::Destination(BadDestination::Port) => "bad_port",
            Self::Destination(BadDestination::Host) => "bad_host",
            Self::Destination(BadDestination::Spelling) => "address_spelling",
            Self::Confined => "confined_by_certificate",
            Self::ByRule(_) => "denied_by_rule",
            Self::NoRule => "no_rule",
            Self::ForbiddenAddress(_) => "forbidden_address",
            Self::FloorUnknown(_) => "floor_unknown",
        }
    }

    /// The name of the rule that denies, if one does.
    pub(crate) fn rule(&self) -> Option<&str> {
        match self {
            Self::ByRule(rule) => Some(&rule.name),
            Self::NoPortForwarding
            | Self::Expired
            | Self::Destination(_)
            | Self::Confined
            | Self::NoRule
            | Self::ForbiddenAddress(_)
            | Self::FloorUnknown(_) => None,
        }
    }
}

/// A destination that some rule may permit, depending on its addresses.
#[derive(Debug)]
pub(crate) struct Candidate {
    identity: Arc<Identity>,
    destination: Destination,
    backend: Option<Backend>,
    permitting: Vec<Arc<Rule>>,
    denying: Vec<Arc<Rule>>,
    floor: Arc<Floor>,
    objects: Arc<Objects>,
}

/// The source of a destination's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressSource<'a> {
    /// The host, which has to be resolved.
    Host(&'a Host),
    /// The endpoints of a Service: the rule that decides names the Service, not a host.
    Endpoints(&'a Backend),
}

/// Checks the policy for a destination whose addresses are not known yet.
///
/// # Errors
/// When no address could be permitted.
pub(crate) fn authorize(
    policy: &Policy,
    identity: &Arc<Identity>,
    destination: Destination,
    now: SystemTime,
) -> Result<Candidate, Denied> {
    if !identity.may_forward() {
        return Err(Denied::NoPortForwarding);
    }
    if now >= identity.valid_before() {
        return Err(Denied::Expired);
    }
    if identity.confined_to().is_some_and(|patterns| covers(patterns, &destination) == Match::No) {
        return Err(Denied::Confined);
    }
    let asked = policy.objects.services.asked(&destination);
    let of = |effect| {
        let concerns = move |rule: &&Arc<Rule>| rule.effect == effect && rule.who.includes(identity);
        policy.rules().filter(concerns).cloned()
    };
    let certain = |rule: &&Arc<Rule>| rule.covers(&destination, asked.as_ref()) == Match::Yes;
    let covered = |rule: &Arc<Rule>| rule.covers(&destination, asked.as_ref()) != Match::No;
    let mut permitting: Vec<_> = of(Effect::Permit).filter(covered).collect();
    // Rules with networks count whatever their ports: an endpoint may have another port than the client asked
    // for, and a denied Service may be at the address.
    let denying: Vec<_> = of(Effect::Deny).collect();
    if let Some(rule) = denying.iter().find(certain) {
        return Err(Denied::ByRule(Arc::clone(rule)));
    }
    if permitting.is_empty() {
        return Err(Denied::NoRule);
    }
    // The first rule that certainly applies says how to get there: an operator's rule about a name is never
    // answered with endpoints that a namespace's owner chose.
    let by_service = |rule: &Arc<Rule>| asked.as_ref().is_some_and(|asked| rule.is_about_service(asked));
    let decisive = permitting.iter().find(certain);
    let backend = match (&asked, decisive) {
        (Some(asked), Some(rule)) if by_service(rule) => asked.backend(),
        _ => None,
    };
    // A rule about the complete name leads there, and so does a certificate that is limited to it.
    let absolute = decisive.is_some_and(|rule| rule.is_absolute(&destination))
        || identity.confined_to().is_some_and(|patterns| only_absolute(patterns, &destination));
    if backend.is_some() {
        permitting.retain(by_service);
    }
    let destination = if absolute && backend.is_none() { destination.absolute() } else { destination };
    let (floor, objects) = (Arc::clone(&policy.floor), Arc::clone(&policy.objects));
    Ok(Candidate {
        identity: Arc::clone(identity),
        destination,
        backend,
        permitting,
        denying,
        floor,
        objects,
    })
}

/// Checks an existing forward against the current policy, at the address that it is connected to.
///
/// # Errors
/// When the policy no longer permits the forward.
pub(crate) fn reauthorize(
    policy: &Policy,
    permit: &Permit,
    address: SocketAddr,
    now: SystemTime,
) -> Result<Permit, Denied> {
    reauthorize_for(policy, permit, &permit.identity, address, now)
}

/// [`reauthorize`], for the identity of a new login by the forward's owner.
///
/// # Errors
/// When the policy does not permit the forward to that identity.
pub(crate) fn reauthorize_for(
    policy: &Policy,
    permit: &Permit,
    identity: &Arc<Identity>,
    address: SocketAddr,
    now: SystemTime,
) -> Result<Permit, Denied> {
    let candidate = authorize(policy, identity, permit.destination.clone(), now)?;
    // The address behind a name says nothing about the endpoints of a Service that has that name now.
    let is_endpoint = candidate.backend.is_some() && candidate.backend != permit.backend;
    // Nor does an address that was found below a domain of the search list say anything about the complete
    // name.
    if is_endpoint || candidate.destination != permit.destination {
        return Err(Denied::NoRule);
    }
    // The kernel said of this connection that it leads elsewhere. Addresses that the machine has gained or
    // lost since do not change that.
    candidate.permit(&[address], &[])
}

impl Candidate {
    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    pub(crate) fn floor(&self) -> &Arc<Floor> {
        &self.floor
    }

    pub(crate) fn address_source(&self) -> AddressSource<'_> {
        match &self.backend {
            Some(backend) => AddressSource::Endpoints(backend),
            None => AddressSource::Host(self.destination.host()),
        }
    }

    /// Decides about all addresses of the destination. For a host, one forbidden address refuses all of them:
    /// a name that mixes them may be an attack. Endpoints cannot be mixed like this, so denied endpoints are
    /// only left out. `own` are the addresses of the machine at this moment.
    ///
    /// # Errors
    /// When an address is on the floor or is denied, or no rule permits any of them.
    pub(crate) fn permit(self, addresses: &[SocketAddr], own: &[IpAddr]) -> Result<Permit, Denied> {
        let Self { identity, destination, backend, permitting, denying, floor, objects } = self;
        let canonical = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut addresses: Vec<SocketAddr> = addresses.iter().map(canonical).collect();
        if let Some(kind) = floor.unknown() {
            return Err(Denied::FloorUnknown(kind));
        }
        let forbids = |address: &SocketAddr| {
            let api = || floor.forbids_api().filter(|_| objects.is_api(*address));
            floor.forbids(address.ip(), own).or_else(api)
        };
        if let Some(forbidden) = addresses.iter().find_map(forbids) {
            return Err(Denied::ForbiddenAddress(forbidden));
        }
        let denial =
            |found: &SocketAddr| denying.iter().find(|rule| rule.is_about_address(&destination, *found));
        if let Some(rule) = addresses.iter().find_map(denial) {
            addresses.retain(|found| backend.is_some() && denial(found).is_none());
            if addresses.is_empty() {
                return Err(Denied::ByRule(Arc::clone(rule)));
            }
        }
        let reached = |patterns: &[DestinationPattern], port: Option<u16>| -> Vec<SocketAddr> {
            let at = |found: &SocketAddr| SocketAddr::new(found.ip(), port.unwrap_or(found.port()));
            addresses.iter().copied().filter(|found| covers_at(patterns, &destination, at(found))).collect()
        };
        // `permit-open` compares the port that the client asks for, a rule about a network the port that is
        // connected to.
        let confined = identity.confined_to().map(|patterns| reached(patterns, Some(destination.port())));
        if confined.as_ref().is_some_and(Vec::is_empty) {
            return Err(Denied::Confined);
        }
        for rule in permitting {
            let mut addresses = match backend {
                Some(_) => addresses.clone(),
                None => reached(&rule.destinations, None),
            };
            if let Some(confined) = &confined {
                addresses.retain(|address| confined.contains(address));
            }
            if !addresses.is_empty() {
                return Ok(Permit { identity, destination, backend, addresses, rule });
            }
        }
        Err(Denied::NoRule)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;
    use crate::{
        access::service::{ServicePattern, Which},
        identity::{
            Principal,
            certificate::tests::{admitted, confined},
            key_id::KeyIdPattern,
        },
    };

    fn rule(effect: Effect, name: &str, who: Who, destinations: &[&str]) -> Arc<Rule> {
        let destinations = destinations.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Rule {
            name: name.to_owned(),
            who,
            effect,
            destinations,
            services: vec![],
            closed: EndpointAddresses::default(),
        })
    }

    fn with_principal(names: &[&str]) -> Who {
        Who::AllOf(vec![Condition::Principals(
            names.iter().map(|name| Principal::parse(name).unwrap()).collect(),
        )])
    }

    fn policy() -> Policy {
        Policy {
            rules: vec![
                rule(
                    Effect::Permit,
                    "databases",
                    with_principal(&["dev", "dba"]),
                    &["*.db.internal:5432", "10.20.0.0/16:1024-65535"],
                ),
                rule(Effect::Permit, "everything", with_principal(&["dba"]), &["*:*"]),
                rule(Effect::Deny, "payroll", Who::Everybody, &["payroll.db.internal:*", "10.66.0.0/16:*"]),
            ],
            floor: Arc::new(Floor::default()),
            objects: Arc::default(),
        }
    }

    fn at(addresses: &[&str], port: u16) -> Vec<SocketAddr> {
        addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect()
    }

    /// The decision about `host:port` when the host has these `addresses`.
    fn ask(
        principals: &[&str],
        host: &str,
        port: u32,
        addresses: &[&str],
    ) -> Result<(String, Vec<String>), Denied> {
        let identity = Arc::new(admitted(principals, true));
        let now = identity.valid_before() - Duration::from_secs(1);
        let destination = Destination::parse(host, port)?;
        let addresses = at(addresses, destination.port());
        let permit = authorize(&policy(), &identity, destination, now)?.permit(&addresses, &[])?;
        let addresses = permit.addresses().iter().map(SocketAddr::ip);
        Ok((permit.rule().to_owned(), addresses.map(|address| address.to_string()).collect()))
    }

    fn yes(rule: &str, addresses: &[&str]) -> Result<(String, Vec<String>), Denied> {
        Ok((rule.to_owned(), addresses.iter().map(|&address| address.to_owned()).collect()))
    }

    #[test]
    fn rules_decide_in_their_order() {
        assert_eq!(ask(&["dev"], "orders.db.internal", 5432, &["10.9.0.1"]), yes("databases", &["10.9.0.1"]));
        assert_eq!(ask(&["dba"], "orders.db.internal", 5432, &["10.9.0.1"]), yes("databases", &["10.9.0.1"]));
        assert_eq!(ask(&["dba"], "elsewhere", 80, &["10.9.0.1"]), yes("everything", &["10.9.0.1"]));
        assert_eq!(ask(&["dev"], "elsewhere", 80, &["10.9.0.1"]), Err(Denied::NoRule));
        assert_eq!(ask(&[], "orders.db.internal", 5432, &["10.9.0.1"]), Err(Denied::NoRule));
    }

    #[test]
    fn networks_are_about_where_a_name_leads() {
        assert_eq!(ask(&["dev"], "10.20.1.1", 8080, &["10.20.1.1"]), yes("databases", &["10.20.1.1"]));
        assert_eq!(ask(&["dev"], "some.name", 8080, &["10.20.1.1"]), yes("databases", &["10.20.1.1"]));
        assert_eq!(ask(&["dev"], "some.name", 8080, &["10.21.1.1"]), Err(Denied::NoRule));
        assert_eq!(ask(&["dev"], "some.name", 80, &["10.20.1.1"]), Err(Denied::NoRule), "not even resolved");
        assert_eq!(
            ask(&["dev"], "some.name", 8080, &["10.21.1.1", "10.20.1.1"]),
            yes("databases", &["10.20.1.1"]),
            "only what the rule permits is connected to"
        );
    }

    #[test]
    fn no_rule_reaches_below_the_floor() {
        for address in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe"] {
            let answer = ask(&["dba"], "innocent.example", 80, &[address]);
            assert!(matches!(answer, Err(Denied::ForbiddenAddress(_))), "{address}: {answer:?}");
            let mixed = ask(&["dba"], "innocent.example", 80, &["10.9.0.1", address]);
            assert!(matches!(mixed, Err(Denied::ForbiddenAddress(_))), "{address} beside another: {mixed:?}");
        }
    }

    #[test]
    fn a_rule_that_denies_beats_every_other_one() {
        fn denied<T: std::fmt::Debug>(answer: Result<T, Denied>) -> Option<String> {
            match answer {
                Err(denied @ Denied::ByRule(_)) => denied.rule().map(str::to_owned),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(denied(ask(&["dba"], "payroll.db.internal", 5432, &["10.9.0.1"])).unwrap(), "payroll");
        assert_eq!(denied(ask(&["dba"], "10.66.0.1", 80, &["10.66.0.1"])).unwrap(), "payroll");
        assert_eq!(denied(ask(&["dba"], "alias.internal", 80, &["10.66.0.1"])).unwrap(), "payroll");
        assert_eq!(denied(ask(&["dba"], "alias.internal", 80, &["64:ff9b::a42:1"])).unwrap(), "payroll");
        assert_eq!(
            denied(ask(&["dba"], "alias.internal", 80, &["10.9.0.1", "10.66.0.1"])).unwrap(),
            "payroll"
        );
        // What is denied by its name is denied before a name server is asked where it is.
        let identity = Arc::new(admitted(&["dba"], true));
        let destination = Destination::parse("payroll.db.internal", 5432).unwrap();
        let candidate = authorize(&policy(), &identity, destination, UNIX_EPOCH);
        assert_eq!(denied(candidate).unwrap(), "payroll");
    }

    #[test]
    fn a_condition_without_which_a_rule_says_nothing() {
        let identity = admitted(&["dev"], true);
        let key_ids =
            |pattern: &str| Condition::KeyIds(vec![KeyIdPattern::try_from(pattern.to_owned()).unwrap()]);
        let authorities = |key| Condition::Authorities(vec![key]);
        for (who, expected) in [
            (Who::Everybody, true),
            (Who::AllOf(vec![]), false),
            (with_principal(&["dev"]), true),
            (with_principal(&["dba"]), false),
            (Who::AllOf(vec![key_ids("me@*")]), true),
            (Who::AllOf(vec![key_ids("you@*")]), false),
            (Who::AllOf(vec![authorities(identity.authority())]), true),
            (Who::AllOf(vec![authorities(identity.key())]), false),
            (Who::AllOf(vec![key_ids("me@*"), authorities(identity.key())]), false),
        ] {
            assert_eq!(who.includes(&identity), expected, "{who:?}");
        }
    }

    #[test]
    fn a_certificate_may_confine_itself() {
        let identity = Arc::new(confined("orders.db.internal:5432,10.20.0.0/16:8080"));
        let ask = |host: &str, port, addresses: &[&str]| {
            let destination = Destination::parse(host, port)?;
            let addresses = at(addresses, destination.port());
            authorize(&policy(), &identity, destination, UNIX_EPOCH)?
                .permit(&addresses, &[])
                .map(|permit| permit.addresses().len())
        };
        assert_eq!(ask("orders.db.internal", 5432, &["10.9.0.1"]), Ok(1));
        assert_eq!(ask("users.db.internal", 5432, &["10.9.0.1"]), Err(Denied::Confined));
        assert_eq!(
            ask("some.name", 8080, &["10.20.0.1", "10.21.0.1"]),
            Ok(1),
            "the rule and the certificate agree on one"
        );
        assert_eq!(ask("some.name", 8080, &["10.21.0.1"]), Err(Denied::Confined));
        assert_eq!(ask("payroll.db.internal", 8080, &["10.20.0.1"]).unwrap_err().rule(), Some("payroll"));
        assert_eq!(ask("10.20.0.1", 8081, &["10.20.0.1"]), Err(Denied::Confined), "it never widens");
    }

    /// A cluster with one Service, `orders` in `databases`, and a policy with rules of the file and of
    /// objects.
    fn in_cluster(rules: Vec<Arc<Rule>>, objects: Vec<Arc<Rule>>) -> Policy {
        with_services(rules, objects, &[("orders", 5432, "10.96.0.9", "10.244.0.7:5433")])
    }

    /// The same with these Services: the name, the port, the ClusterIP and the one endpoint.
    fn with_services(
        rules: Vec<Arc<Rule>>,
        objects: Vec<Arc<Rule>>,
        services: &[(&str, u16, &str, &str)],
    ) -> Policy {
        let (mut known, mut behind) = (BTreeMap::new(), Behind::new());
        for (name, port, address, endpoint) in services {
            let service = ServiceName { namespace: "databases".to_owned(), name: (*name).to_owned() };
            let ports = BTreeMap::from([(*port, "postgres".to_owned())]);
            let addresses = vec![address.parse().unwrap()];
            known.insert(service.clone(), Service { ports, addresses, ..Service::default() });
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            behind.insert(
                Backend { service, port: "postgres".to_owned() },
                vec![(endpoint.ip(), Some(endpoint.port()))],
            );
        }
        let objects = objects.iter().map(|rule| Rule::clone(rule)).collect();
        let services = Services::new("cluster.local", known);
        Policy { rules, objects: Arc::new(Objects::new(objects, services, || behind)), floor: Arc::default() }
    }

    fn about_service(effect: Effect, namespace: &str, name: &str) -> Arc<Rule> {
        let pattern = ServicePattern {
            namespace: namespace.to_owned(),
            which: Which::Named(name.to_owned()),
            ports: vec![],
        };
        let name = format!("{namespace}/{name}");
        let (destinations, closed) = (vec![], EndpointAddresses::default());
        Arc::new(Rule { name, who: Who::Everybody, effect, destinations, services: vec![pattern], closed })
    }

    fn orders(effect: Effect) -> Arc<Rule> {
        about_service(effect, "databases", "orders")
    }

    fn candidate(policy: &Policy, host: &str, port: u32) -> Result<Candidate, Denied> {
        let identity = Arc::new(admitted(&["dev"], true));
        authorize(policy, &identity, Destination::parse(host, port)?, UNIX_EPOCH)
    }

    const SERVICE: &str = "orders.databases.svc";

    #[test]
    fn a_rule_about_a_service_leads_to_its_endpoints() {
        let policy = in_cluster(vec![], vec![orders(Effect::Permit)]);
        let candidate = candidate(&policy, SERVICE, 5432).unwrap();
        let AddressSource::Endpoints(backend) = candidate.address_source() else { panic!("{candidate:?}") };
        assert_eq!(
            (backend.service.to_string().as_str(), backend.port.as_str()),
            ("databases/orders", "postgres")
        );
        let permit = candidate.permit(&at(&["10.244.0.7", "10.244.0.8"], 5433), &[]).unwrap();
        assert_eq!(permit.rule(), "databases/orders");
        assert_eq!(permit.addresses(), at(&["10.244.0.7", "10.244.0.8"], 5433));
    }

    #[test]
    fn only_what_a_service_has_is_opened() {
        let policy = in_cluster(
            vec![],
            vec![orders(Effect::Permit), about_service(Effect::Permit, "databases", "gone")],
        );
        for (host, port) in
            [(SERVICE, 5433), ("gone.databases.svc", 5432), ("orders.other.svc", 5432), ("10.96.0.9", 5432)]
        {
            assert_eq!(candidate(&policy, host, port).unwrap_err(), Denied::NoRule, "{host}:{port}");
        }
    }

    #[test]
    fn endpoints_stand_above_the_floor_too() {
        let policy = in_cluster(vec![], vec![orders(Effect::Permit)]);
        let answer = candidate(&policy, SERVICE, 5432)
            .unwrap()
            .permit(&at(&["10.244.0.7", "169.254.169.254"], 80), &[]);
        assert_eq!(answer.unwrap_err(), Denied::ForbiddenAddress(Forbidden::CloudMetadata));
    }

    #[test]
    fn a_denial_beats_a_service_by_its_name_and_by_its_endpoints() {
        let cases = [
            orders(Effect::Deny),
            rule(Effect::Deny, "no", Who::Everybody, &["*.databases.svc:*"]),
            rule(Effect::Deny, "no", Who::Everybody, &["10.244.0.0/16:5432"]),
            rule(Effect::Deny, "no", Who::Everybody, &["10.244.0.0/16:5433"]),
        ];
        for deny in cases {
            let name = deny.name.clone();
            let policy = in_cluster(vec![deny], vec![orders(Effect::Permit)]);
            let answer = candidate(&policy, SERVICE, 5432)
                .and_then(|candidate| candidate.permit(&at(&["10.244.0.7"], 5433), &[]));
            assert_eq!(answer.unwrap_err().rule(), Some(name.as_str()));
        }
        let everything = rule(Effect::Permit, "everything", Who::Everybody, &["*:*"]);
        let gone = about_service(Effect::Deny, "databases", "gone");
        let answer = candidate(&in_cluster(vec![everything], vec![gone]), "gone.databases", 80);
        assert_eq!(answer.unwrap_err().rule(), Some("databases/gone"), "whatever else has that name");
    }

    #[test]
    fn a_denied_service_is_denied_however_it_is_reached() {
        let everything = || rule(Effect::Permit, "everything", Who::Everybody, &["*:*"]);
        let services = [
            ("orders", 5432, "10.96.0.9", "10.244.0.7:5433"),
            ("shares-its-pod", 6432, "10.96.0.10", "10.244.0.7:5433"),
            ("shares-another-port", 80, "10.96.0.11", "10.244.0.7:8080"),
            ("another", 5432, "10.96.0.12", "10.244.0.8:5433"),
        ];
        let permitted = services.map(|(name, ..)| about_service(Effect::Permit, "databases", name));
        let policy_with = |denials: &[Arc<Rule>]| {
            with_services(vec![everything()], [&permitted, denials].concat(), &services)
        };
        let by_object = with_services(vec![], [&permitted[..], &[orders(Effect::Deny)]].concat(), &services);
        let closed = policy_with(&[orders(Effect::Deny)]);
        for (host, port, found, expected) in [
            ("orders.databases", 5432, "10.96.0.9:5432", false),
            ("10.96.0.9", 5432, "10.96.0.9:5432", false),
            ("alias.example", 5432, "10.96.0.9:5432", false),
            ("10.244.0.7", 5433, "10.244.0.7:5433", false),
            ("::ffff:10.244.0.7", 5433, "[::ffff:10.244.0.7]:5433", false),
            ("64:ff9b::af4:7", 5433, "[64:ff9b::af4:7]:5433", false),
            ("10-244-0-7.databases.pod", 5433, "10.244.0.7:5433", false),
            ("shares-its-pod.databases", 6432, "10.96.0.10:6432", false),
            ("10.96.0.10", 6432, "10.96.0.10:6432", false),
            ("shares-another-port.databases", 80, "10.96.0.11:80", true),
            ("10.244.0.7", 8080, "10.244.0.7:8080", true),
            ("10.244.0.7", 5432, "10.244.0.7:5432", true),
            ("another.databases", 5432, "10.96.0.12:5432", true),
            ("10.244.0.8", 5433, "10.244.0.8:5433", true),
        ] {
            let found = [found.parse().unwrap()];
            let answer = candidate(&closed, host, port).and_then(|candidate| candidate.permit(&found, &[]));
            let rule = answer.as_ref().map(Permit::rule).map_err(|denied| (denied.code(), denied.rule()));
            let denied = ("denied_by_rule", Some("databases/orders"));
            assert_eq!(rule, if expected { Ok("everything") } else { Err(denied) }, "{host}:{port}");
            let destination = Destination::parse(host, port).unwrap();
            let deny = closed.rules().last().unwrap();
            assert_eq!(closed.is_about(deny, &destination, &found), !expected, "explain {host}:{port}");
        }
        let shared = candidate(&by_object, "shares-its-pod.databases", 6432).unwrap();
        assert!(matches!(shared.address_source(), AddressSource::Endpoints(_)));
        let answer = shared.permit(&at(&["10.244.0.7"], 5433), &[]).unwrap_err();
        assert_eq!(answer.rule(), Some("databases/orders"), "by another Service's rule");
        let shared = candidate(&by_object, "shares-its-pod.databases", 6432).unwrap();
        let others = shared.permit(&at(&["10.244.0.9", "10.244.0.7"], 5433), &[]).unwrap();
        assert_eq!(others.addresses(), at(&["10.244.0.9"], 5433), "its other endpoints are open");
        let named = candidate(&closed, "several.example", 5433).unwrap();
        let answer = named.permit(&at(&["10.244.0.9", "10.244.0.7"], 5433), &[]).unwrap_err();
        assert_eq!(answer.rule(), Some("databases/orders"), "a name that leads there among others is not");

        let of_others =
            Arc::new(Rule { who: with_principal(&["dba"]), ..Rule::clone(&orders(Effect::Deny)) });
        let open = policy_with(&[of_others]);
        let permit =
            candidate(&open, "10.244.0.7", 5433).unwrap().permit(&at(&["10.244.0.7"], 5433), &[]).unwrap();
        assert_eq!(permit.rule(), "everything", "it is about others");
        let again = reauthorize(&closed, &permit, permit.addresses()[0], UNIX_EPOCH);
        assert_eq!(again.unwrap_err().rule(), Some("databases/orders"), "what is open is asked about again");
    }

    #[test]
    fn a_name_of_the_operator_is_not_answered_with_a_tenants_endpoints() {
        let named = rule(Effect::Permit, "operator", Who::Everybody, &["orders.databases:5432"]);
        let network = rule(Effect::Permit, "network", Who::Everybody, &["10.0.0.0/8:5432"]);
        let policy = in_cluster(vec![named], vec![orders(Effect::Permit)]);
        assert!(matches!(
            candidate(&policy, "orders.databases", 5432).unwrap().address_source(),
            AddressSource::Host(_)
        ));
        let policy = in_cluster(vec![network], vec![orders(Effect::Permit)]);
        let candidate = candidate(&policy, SERVICE, 5432).unwrap();
        assert!(matches!(candidate.address_source(), AddressSource::Endpoints(_)));
        assert_eq!(candidate.permit(&at(&["10.244.0.7"], 5432), &[]).unwrap().rule(), "databases/orders");
    }

    #[test]
    fn what_was_permitted_is_asked_for_again() {
        let named = || rule(Effect::Permit, "operator", Who::Everybody, &["*.databases.svc:5432"]);
        let (by_service, by_name) =
            (in_cluster(vec![], vec![orders(Effect::Permit)]), in_cluster(vec![named()], vec![]));
        let endpoint = at(&["10.244.0.7"], 5433);
        let permit = candidate(&by_service, SERVICE, 5432).unwrap().permit(&endpoint, &[]).unwrap();
        let rule_of = |policy: &Policy, permit: &Permit| {
            reauthorize(policy, permit, permit.addresses()[0], UNIX_EPOCH)
                .map(|permit| permit.rule().to_owned())
        };
        assert_eq!(rule_of(&by_service, &permit), Ok("databases/orders".to_owned()));
        assert_eq!(rule_of(&by_name, &permit), Ok("operator".to_owned()));
        assert_eq!(rule_of(&Policy::default(), &permit), Err(Denied::NoRule));
        let network = || rule(Effect::Permit, "network", Who::Everybody, &["10.244.0.0/16:5432"]);
        let by_network = in_cluster(vec![network()], vec![]);
        assert_eq!(rule_of(&by_network, &permit), Err(Denied::NoRule), "the endpoint has another port");
        let denied = in_cluster(vec![], vec![orders(Effect::Permit), orders(Effect::Deny)]);
        assert!(matches!(rule_of(&denied, &permit), Err(Denied::ByRule(_))));

        let elsewhere =
            candidate(&by_name, SERVICE, 5432).unwrap().permit(&at(&["192.0.2.1"], 5432), &[]).unwrap();
        assert_eq!(rule_of(&by_service, &elsewhere), Err(Denied::NoRule), "that was no endpoint");
    }

    #[test]
    fn the_api_of_the_cluster_is_on_the_floor_where_its_service_leads() {
        let name = |name: &str| ServiceName { namespace: "default".to_owned(), name: name.to_owned() };
        let service = |address: &str, port| Service {
            ports: BTreeMap::from([(port, "https".to_owned())]),
            addresses: vec![address.parse().unwrap()],
            ..Service::default()
        };
        let known = BTreeMap::from([
            (name("kubernetes"), service("10.96.0.1", 443)),
            (name("mirror"), service("10.96.0.2", 1)),
        ]);
        let node = vec![("192.0.2.7".parse().unwrap(), Some(6443))];
        let behind: Behind = ["kubernetes", "mirror"]
            .map(|service| (Backend { service: name(service), port: "https".to_owned() }, node.clone()))
            .into();
        let rules =
            ["kubernetes", "mirror"].map(|name| Rule::clone(&about_service(Effect::Permit, "default", name)));
        let objects = Objects::new(rules.into(), Services::new("cluster.local", known), || behind);
        let anywhere = rule(Effect::Permit, "everything", Who::Everybody, &["*:*"]);
        let mut policy = Policy { rules: vec![anywhere], objects: Arc::new(objects), floor: Arc::default() };
        for (host, port, found) in [
            ("kubernetes.default.svc", 443, "192.0.2.7:6443"),
            ("mirror.default.svc", 1, "192.0.2.7:6443"),
            ("192.0.2.7", 6443, "192.0.2.7:6443"),
            ("some.name", 6443, "[64:ff9b::c000:207]:6443"),
            ("10.96.0.2", 1, "10.96.0.2:1"),
        ] {
            let ask = |policy: &Policy| {
                candidate(policy, host, port).unwrap().permit(&[found.parse().unwrap()], &[])
            };
            let forbidden = Denied::ForbiddenAddress(Forbidden::KubernetesApi);
            assert_eq!(ask(&policy).unwrap_err(), forbidden, "{host}:{port}");
            policy.floor = Arc::new(Floor::new(vec![Forbidden::KubernetesApi], KubernetesApi::Nowhere));
            assert!(ask(&policy).is_ok(), "{host}:{port}");
            policy.floor = Arc::default();
        }
        assert!(candidate(&policy, "192.0.2.7", 22).unwrap().permit(&at(&["192.0.2.7"], 22), &[]).is_ok());
    }

    #[test]
    fn a_confined_certificate_reaches_a_service_only_by_a_name_that_it_has() {
        let policy = in_cluster(vec![], vec![orders(Effect::Permit)]);
        for (confined_to, expected) in [
            ("orders.databases.svc:5432", true),
            ("*.svc:5432", true),
            ("10.244.0.0/16:5432", true),
            ("10.244.0.0/16:5433", false),
            ("elsewhere:5432", false),
        ] {
            let identity = Arc::new(confined(confined_to));
            let answer =
                authorize(&policy, &identity, Destination::parse(SERVICE, 5432).unwrap(), UNIX_EPOCH)
                    .and_then(|candidate| candidate.permit(&at(&["10.244.0.7"], 5433), &[]));
            assert_eq!(answer.is_ok(), expected, "{confined_to}: {answer:?}");
        }
    }

    #[test]
    fn the_empty_policy_permits_nothing() {
        let identity = Arc::new(admitted(&["dba"], true));
        let destination = Destination::parse("db.internal", 5432).unwrap();
        assert_eq!(
            authorize(&Policy::default(), &identity, destination, UNIX_EPOCH).unwrap_err(),
            Denied::NoRule
        );
    }

    #[test]
    fn the_certificate_has_the_first_word() {
        let destination = || Destination::parse("orders.db.internal", 5432).unwrap();
        let login_only = Arc::new(admitted(&["dba"], false));
        assert_eq!(
            authorize(&policy(), &login_only, destination(), UNIX_EPOCH).unwrap_err(),
            Denied::NoPortForwarding
        );
        let identity = Arc::new(admitted(&["dba"], true));
        assert_eq!(
            authorize(&policy(), &identity, destination(), identity.valid_before()).unwrap_err(),
            Denied::Expired
        );
    }

    #[test]
    fn a_final_dot_is_the_end_of_a_name() {
        let policy = |to: &[&str]| Policy {
            rules: vec![rule(Effect::Permit, "named", Who::Everybody, to)],
            ..Policy::default()
        };
        let looked_for = |policy: &Policy, host: &str| {
            candidate(policy, host, 5432).map(|candidate| match candidate.address_source() {
                AddressSource::Host(host) => host.to_string(),
                AddressSource::Endpoints(backend) => backend.service.to_string(),
            })
        };
        for (to, asked, expected) in [
            ("db.example.com:5432", "db.example.com", Ok("db.example.com")),
            ("db.example.com:5432", "db.example.com.", Ok("db.example.com.")),
            ("db.example.com.:5432", "db.example.com", Ok("db.example.com.")),
            ("db.example.com.:5432", "DB.example.com.", Ok("db.example.com.")),
            ("*.example.com.:5432", "db.example.com", Ok("db.example.com.")),
            ("db.example.com.:5432", "db.example", Err(Denied::NoRule)),
            ("*:5432", "db.example.com", Ok("db.example.com")),
        ] {
            assert_eq!(looked_for(&policy(&[to]), asked), expected.map(str::to_owned), "{to} {asked}");
        }
        let both = policy(&["db.example.com.:5432", "db.example.com:5432"]);
        assert_eq!(looked_for(&both, "db.example.com").unwrap(), "db.example.com", "one of them says so");
        let mut denied = policy(&["*:*"]);
        denied.rules.push(rule(Effect::Deny, "no", Who::Everybody, &["db.example.com.:*"]));
        for asked in ["db.example.com", "db.example.com."] {
            assert_eq!(looked_for(&denied, asked).unwrap_err().rule(), Some("no"), "{asked}");
        }

        let identity = Arc::new(confined("db.example.com.:5432"));
        let asked = Destination::parse("db.example.com", 5432).unwrap();
        let candidate_of = authorize(&policy(&["*:*"]), &identity, asked, UNIX_EPOCH).unwrap();
        assert_eq!(candidate_of.destination().to_string(), "db.example.com.:5432", "by the certificate");

        let found_by_search = candidate(&policy(&["db.example.com:5432"]), "db.example.com", 5432).unwrap();
        let permit = found_by_search.permit(&at(&["192.0.2.1"], 5432), &[]).unwrap();
        let stricter =
            reauthorize(&policy(&["db.example.com.:5432"]), &permit, permit.addresses()[0], UNIX_EPOCH);
        assert_eq!(stricter.unwrap_err(), Denied::NoRule, "that may have been another host");
    }

    #[test]
    fn a_complete_name_is_a_service_only_in_the_domain_of_the_cluster() {
        let everything = rule(Effect::Permit, "everything", Who::Everybody, &["*:*"]);
        let by_object = in_cluster(vec![], vec![orders(Effect::Permit)]);
        let denied = in_cluster(vec![everything], vec![orders(Effect::Deny)]);
        for (host, is_service) in [
            ("orders.databases", true),
            ("orders.databases.svc", true),
            ("orders.databases.svc.cluster.local", true),
            ("orders.databases.svc.cluster.local.", true),
            ("orders.databases.", false),
            ("orders.databases.svc.", false),
        ] {
            assert_eq!(candidate(&by_object, host, 5432).is_ok(), is_service, "{host}");
            assert_eq!(candidate(&denied, host, 5432).is_err(), is_service, "{host}");
        }
    }

    #[test]
    fn what_the_machine_has_at_the_moment_is_on_the_floor() {
        let everything = rule(Effect::Permit, "everything", Who::Everybody, &["*:*"]);
        let policy = Policy { rules: vec![everything], ..Policy::default() };
        let found = at(&["10.123.45.67"], 80);
        let ask = |own: &[IpAddr]| candidate(&policy, "10.123.45.67", 80).unwrap().permit(&found, own);
        let permit = ask(&[]).unwrap();
        let added = ask(&["10.1.1.1".parse().unwrap(), "10.123.45.67".parse().unwrap()]);
        assert_eq!(added.unwrap_err(), Denied::ForbiddenAddress(Forbidden::OwnAddresses));
        assert!(
            reauthorize(&policy, &permit, found[0], UNIX_EPOCH).is_ok(),
            "that connection leads elsewhere"
        );

        let floor = Arc::new(Floor::new(vec![], KubernetesApi::Unknown));
        let unknown = candidate(&Policy { floor, ..policy.clone() }, "10.9.9.9", 80).unwrap();
        let answer = unknown.permit(&at(&["10.9.9.9"], 80), &[]).unwrap_err();
        assert_eq!(answer.code(), "floor_unknown");
    }
}
