//! Which identities reach which destinations, as we mean it, free of where it was written down.

use std::sync::Arc;

use crate::identity::{Identity, Principal};

use super::destination::Destination;
use super::floor::Floor;
use super::pattern::DestinationPattern;

/// Rules, tried in their order, above a floor that none of them opens. The empty policy permits nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Arc<Rule>>,
    /// What no rule opens.
    pub floor: Arc<Floor>,
}

/// One sentence of a policy: these may reach those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What people call it; stands in every audit record that it decides.
    pub name: String,
    /// Whom it is about.
    pub who: Who,
    /// Where they may go.
    pub to: Vec<DestinationPattern>,
}

/// A set of identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Whoever was admitted.
    Everybody,
    /// Whoever has one of these principals in the certificate.
    AnyOf(Vec<Principal>),
}

impl Who {
    /// Whether `identity` is one of them.
    pub fn includes(&self, identity: &Identity) -> bool {
        match self {
            Self::Everybody => true,
            Self::AnyOf(principals) => principals.iter().any(|one| identity.principals().contains(one)),
        }
    }
}

impl Rule {
    /// Whether an address to be found behind the destination's name could still make this rule say yes.
    pub(super) fn may_reach(&self, destination: &Destination) -> bool {
        self.to.iter().any(|to| to.matches_name(destination.host(), destination.port()) != Some(false))
    }

    /// Whether this rule says yes to the destination at this address.
    pub(super) fn reaches(&self, destination: &Destination, address: std::net::IpAddr) -> bool {
        self.to.iter().any(|to| {
            to.matches_name(destination.host(), destination.port()) == Some(true)
                || to.matches_address(address, destination.port())
        })
    }
}
