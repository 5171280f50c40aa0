//! Which identities reach which destinations, as we mean it, free of where it was written down.

use std::net::SocketAddr;
use std::sync::Arc;

use ssh_key::Fingerprint;

use super::embedded::spellings;
use super::floor::Floor;
use super::service::{Asked, ServicePattern, Services};
use super::service_addresses::{Behind, EndpointAddresses, Map};
use crate::destination::Destination;
use crate::identity::{Identity, Principal};
use crate::{
    destination::pattern::{DestinationPattern, Match},
    identity::key_id::KeyIdPattern,
};

/// Rules above a floor that none of them opens. A rule that denies beats every rule that permits; among those that
/// permit the first decides. The empty policy permits nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// The rules of the configuration, which come first.
    pub rules: Vec<Arc<Rule>>,
    /// What a cluster says.
    pub objects: Arc<Objects>,
    /// What no rule opens.
    pub floor: Arc<Floor>,
}

/// What the objects of a cluster say: more rules, and the Services that they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    /// The rules.
    pub rules: Vec<Arc<Rule>>,
    /// The Services.
    pub services: Services,
    /// Where the cluster's API is behind its Service, as far as that is known: on the floor, as the Service's own address is.
    pub api: EndpointAddresses,
}

/// One sentence of a policy: these may, or may not, reach those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What people call it; stands in every audit record that it decides.
    pub name: String,
    /// Whom it is about.
    pub who: Who,
    /// What it says about them.
    pub effect: Effect,
    /// Where.
    pub destinations: Vec<DestinationPattern>,
    /// And which Services.
    pub services: Vec<ServicePattern>,
    /// Where the Services that it denies are, beside their names; filled in by [`Objects::new`].
    pub closed: EndpointAddresses,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// They may.
    Permit,
    /// They may not, whatever another rule says.
    Deny,
}

/// A set of identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever was admitted.
    Everybody,
    /// Whoever meets all of these; nobody, if there are none.
    AllOf(Vec<Condition>),
}

/// Something that is true of an identity or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It has one of these principals.
    Principals(Vec<Principal>),
    /// Its key id matches one of these.
    KeyIds(Vec<KeyIdPattern>),
    /// One of these authorities signed it.
    Authorities(Vec<Fingerprint>),
}

impl Objects {
    /// These rules about these Services. `behind` is asked only if a rule denies some, or the cluster's API is among them.
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

    /// Whether the cluster's API is at this address, or at what may be made of it on its way.
    pub(super) fn is_api(&self, address: SocketAddr) -> bool {
        spellings(address.ip()).any(|ip| self.api.include(SocketAddr::new(ip, address.port())))
    }
}

impl Policy {
    /// Every rule, in the order in which they decide.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().chain(&self.objects.rules)
    }

    /// Whether one of its rules is about the destination, by name, as a Service, or at one of these addresses.
    pub(crate) fn is_about(&self, rule: &Rule, destination: &Destination, addresses: &[SocketAddr]) -> bool {
        rule.covers(destination, self.objects.services.asked(destination).as_ref()) == Match::Yes
            || addresses.iter().any(|address| rule.is_about_address(destination, *address))
    }
}

impl Rule {
    /// Whether it is about the destination, as far as its name tells.
    pub(super) fn covers(&self, destination: &Destination, asked: Option<&Asked<'_>>) -> Match {
        if asked.is_some_and(|asked| self.is_about_service(asked)) {
            Match::Yes
        } else {
            covers(&self.destinations, destination)
        }
    }

    /// Whether it is about this destination by its absolute name and by nothing else.
    pub(super) fn is_absolute(&self, destination: &Destination) -> bool {
        only_absolute(&self.destinations, destination)
    }

    /// Whether it is about this Service. One that is not there can be denied, and not be opened.
    pub(super) fn is_about_service(&self, asked: &Asked<'_>) -> bool {
        self.services.iter().any(|pattern| match self.effect {
            Effect::Permit => pattern.opens(asked),
            Effect::Deny => pattern.names(asked),
        })
    }

    /// Whether it is about the destination at this address. A denial looks at every address that may be made of it on its
    /// way, and at the port that it has there too, which is another one than was asked for where it is an endpoint.
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
    /// Whether `identity` is one of them.
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

/// Whether one of `patterns` is about the destination, as far as its name tells.
pub(super) fn covers(patterns: &[DestinationPattern], destination: &Destination) -> Match {
    let answers = patterns.iter().map(|pattern| pattern.matches_name(destination.host(), destination.port()));
    answers.max().unwrap_or(Match::No)
}

/// Whether those of `patterns` that are certainly about the destination all name it with a final dot.
pub(super) fn only_absolute(patterns: &[DestinationPattern], destination: &Destination) -> bool {
    let certain = |pattern: &&DestinationPattern| {
        pattern.matches_name(destination.host(), destination.port()) == Match::Yes
    };
    let mut named = patterns.iter().filter(certain).peekable();
    named.peek().is_some() && named.all(|pattern| pattern.hosts.is_absolute())
}

/// Whether one of `patterns` is about the destination at this address, whose port is another one than was asked for where it is an endpoint.
pub(super) fn covers_at(
    patterns: &[DestinationPattern],
    destination: &Destination,
    address: SocketAddr,
) -> bool {
    covers(patterns, destination) == Match::Yes
        || patterns.iter().any(|pattern| pattern.matches_address(address))
}
