//! Which identities reach which destinations, as we mean it, free of where it was written down.

use std::net::IpAddr;
use std::sync::Arc;

use russh::keys::ssh_key::Fingerprint;

use super::destination::Destination;
use super::floor::Floor;
use super::pattern::{DestinationPattern, KeyIdPattern, Match};
use crate::identity::{Identity, Principal};

/// Rules above a floor that none of them opens. A rule that denies beats every rule that permits; among those that
/// permit the first decides. The empty policy permits nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Arc<Rule>>,
    /// What no rule opens.
    pub floor: Arc<Floor>,
}

/// One sentence of a policy: these may, or may not, reach those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What people call it; stands in every audit record that it decides.
    pub name: String,
    /// Whom it is about.
    pub who: Who,
    /// What it says about them.
    pub effect: Effect,
    /// Where.
    pub destinations: Vec<DestinationPattern>,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// They may.
    Permit,
    /// They may not, whatever another rule says.
    Deny,
}

/// A set of identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Whoever was admitted.
    Everybody,
    /// Whoever meets all of these; nobody, if there are none.
    AllOf(Vec<Condition>),
}

/// Something that is true of an identity or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It has one of these principals.
    Principals(Vec<Principal>),
    /// Its key id matches one of these.
    KeyIds(Vec<KeyIdPattern>),
    /// One of these authorities signed it.
    Authorities(Vec<Fingerprint>),
}

impl Rule {
    /// Whether it is about the destination, by name or at one of these addresses.
    pub fn is_about(&self, destination: &Destination, addresses: &[IpAddr]) -> bool {
        covers(&self.destinations, destination) == Match::Yes
            || addresses.iter().any(|address| covers_at(&self.destinations, destination, *address))
    }
}

impl Who {
    /// Whether `identity` is one of them.
    pub fn includes(&self, identity: &Identity) -> bool {
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
            Self::Principals(names) => names.iter().any(|name| identity.principals().contains(name)),
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

/// Whether one of `patterns` is about the destination at this address.
pub(super) fn covers_at(patterns: &[DestinationPattern], destination: &Destination, address: IpAddr) -> bool {
    covers(patterns, destination) == Match::Yes
        || patterns.iter().any(|pattern| pattern.matches_address(address, destination.port()))
}
