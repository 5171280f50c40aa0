//! The policy: which identities reach which destinations, independent of the format in which it was written.

use std::{net::SocketAddr, sync::Arc};

use ssh_key::Fingerprint;

use super::{
    embedded::spellings,
    floor::Floor,
    service::{Asked, ServicePattern, Services},
    service_addresses::{Behind, EndpointAddresses, Map},
};
use crate::{
    destination::{
        Destination,
        pattern::{DestinationPattern, Match},
    },
    identity::{Identity, Principal, key_id::KeyIdPattern},
};

/// Rules above a floor that none of them opens. A rule that denies beats every rule that permits; among those
/// that permit the first decides. The empty policy permits nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// The rules of the configuration, which come first.
    pub rules: Vec<Arc<Rule>>,
    /// The rules and Services of the cluster.
    pub objects: Arc<Objects>,
    /// The networks that no rule opens.
    pub floor: Arc<Floor>,
}

/// Rules from the cluster's policy objects, and the Services that they name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub rules: Vec<Arc<Rule>>,
    pub services: Services,
    /// The endpoints of the cluster's API behind its Service, as far as they are known. They are on the
    /// floor, as the Service's own address is.
    pub api: EndpointAddresses,
}

/// A rule that permits or denies some destinations to some identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The name in every audit record that the rule decides.
    pub name: String,
    /// The identities that the rule applies to.
    pub who: Who,
    pub effect: Effect,
    pub destinations: Vec<DestinationPattern>,
    pub services: Vec<ServicePattern>,
    /// The addresses of the Services that the rule denies, beside their names; filled in by [`Objects::new`].
    pub closed: EndpointAddresses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Permit,
    /// Denies, even if another rule permits.
    Deny,
}

/// A set of identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// Every identity that was admitted.
    Everybody,
    /// Every identity that meets all conditions; with no condition, none.
    AllOf(Vec<Condition>),
}

/// A condition on an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The identity has one of these principals.
    Principals(Vec<Principal>),
    /// The identity's key id matches one of these.
    KeyIds(Vec<KeyIdPattern>),
    /// One of these authorities signed the identity's certificate.
    Authorities(Vec<Fingerprint>),
}

impl Objects {
    /// Collects rules about these Services. `behind` is called only if a rule denies a Service, or the
    /// cluster's API is one of them.
    pub(crate) fn new(mut rules: Vec<Rule>, services: Services, behind: impl FnOnce() -> Behind) -> Self {
        let denying = |rule: &Rule| rule.effect == Effect::Deny && !rule.services.is_empty();
        let api = ServicePattern::kubernetes_api();
        let api_is_known = services.missing(&api).is_none();
        let mut api_places = EndpointAddresses::default();
        if api_is_known || rules.iter().any(denying) {
            let behind = behind();
            let map = Map::new(&services, &behind);
            for rule in rules.iter_mut().filter(|rule| denying(rule)) {
                rule.closed = map.of(&rule.services);
            }
            api_places = map.of(&[api]);
        }
        Self { rules: rules.into_iter().map(Arc::new).collect(), services, api: api_places }
    }

    /// Whether the address, in any of its spellings, is an endpoint of the cluster's API.
    pub(super) fn is_api(&self, address: SocketAddr) -> bool {
        spellings(address.ip()).any(|ip| self.api.include(SocketAddr::new(ip, address.port())))
    }
}

impl Policy {
    /// Every rule, in the order in which they decide.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().chain(&self.objects.rules)
    }

    /// Whether the rule applies to the destination, by name, as a Service, or at one of these addresses.
    pub(crate) fn is_about(&self, rule: &Rule, destination: &Destination, addresses: &[SocketAddr]) -> bool {
        rule.covers(destination, self.objects.services.asked(destination).as_ref()) == Match::Yes
            || addresses.iter().any(|address| rule.is_about_address(destination, *address))
    }
}

impl Rule {
    /// Whether the rule applies to the destination, as far as its name tells.
    pub(super) fn covers(&self, destination: &Destination, asked: Option<&Asked<'_>>) -> Match {
        if asked.is_some_and(|asked| self.is_about_service(asked)) {
            Match::Yes
        } else {
            covers(&self.destinations, destination)
        }
    }

    /// Whether the rule applies to this destination by its absolute name and by no other pattern.
    pub(super) fn is_absolute(&self, destination: &Destination) -> bool {
        only_absolute(&self.destinations, destination)
    }

    /// Whether the rule applies to this Service. A Service that does not exist can be denied but not opened.
    pub(super) fn is_about_service(&self, asked: &Asked<'_>) -> bool {
        self.services.iter().any(|pattern| match self.effect {
            Effect::Permit => pattern.opens(asked),
            Effect::Deny => pattern.names(asked),
        })
    }

    /// Whether the rule applies to the destination at this address. A denial is checked against every
    /// spelling of the address and against its own port too, which differs from the requested port where the
    /// address is an endpoint.
    pub(super) fn is_about_address(&self, destination: &Destination, address: SocketAddr) -> bool {
        match self.effect {
            Effect::Permit => covers_at(&self.destinations, destination, address),
            Effect::Deny => spellings(address.ip()).any(|ip| {
                let [asked, there] =
                    [destination.port(), address.port()].map(|port| SocketAddr::new(ip, port));
                covers_at(&self.destinations, destination, asked)
                    || covers_at(&self.destinations, destination, there)
                    || self.closed.include(there)
            }),
        }
    }
}

impl Who {
    pub(crate) fn includes(&self, identity: &Identity) -> bool {
        match self {
            Self::Everybody => true,
            Self::AllOf(conditions) => {
                !conditions.is_empty() && conditions.iter().all(|condition| condition.holds(identity))
            }
        }
    }
}

impl Condition {
    fn holds(&self, identity: &Identity) -> bool {
        match self {
            Self::Principals(names) => names.iter().any(|name| identity.has(name)),
            Self::KeyIds(patterns) => patterns.iter().any(|pattern| pattern.matches(identity.key_id())),
            Self::Authorities(keys) => keys.contains(&identity.authority()),
        }
    }
}

/// Whether one of `patterns` matches the destination, as far as its name tells.
pub(super) fn covers(patterns: &[DestinationPattern], destination: &Destination) -> Match {
    let answers = patterns.iter().map(|pattern| pattern.matches_name(destination.host(), destination.port()));
    answers.max().unwrap_or(Match::No)
}

/// Whether every one of `patterns` that certainly matches the destination names it with a final dot.
pub(super) fn only_absolute(patterns: &[DestinationPattern], destination: &Destination) -> bool {
    let certain = |pattern: &&DestinationPattern| {
        pattern.matches_name(destination.host(), destination.port()) == Match::Yes
    };
    let mut named = patterns.iter().filter(certain).peekable();
    named.peek().is_some() && named.all(|pattern| pattern.hosts.is_absolute())
}

/// Whether one of `patterns` matches the destination at this address, whose port differs from the requested
/// one where the address is an endpoint.
pub(super) fn covers_at(
    patterns: &[DestinationPattern],
    destination: &Destination,
    address: SocketAddr,
) -> bool {
    covers(patterns, destination) == Match::Yes
        || patterns.iter().any(|pattern| pattern.matches_address(address))
}
