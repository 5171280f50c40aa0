//! May this identity reach that destination? Policy in, a [`Permit`] or the reason why not out. No IO, no clock.
//!
//! The answer takes two steps, with name resolution between them: [`authorize`] asks whether any rule could say yes,
//! before a name is looked up on somebody's behalf, and [`Prospect::permit`] decides about the addresses that were found.

pub mod destination;
pub mod floor;
pub mod pattern;
pub mod permit;
pub mod policy;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::identity::Identity;

pub use destination::{BadDestination, Destination, Host};
pub use floor::{Floor, Forbidden};
pub use permit::Permit;
pub use policy::{Policy, Rule, Who};

/// Why a forward is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denied {
    /// The certificate is for logging in only.
    #[error("the certificate does not carry permit-port-forwarding")]
    NoPortForwarding,
    /// The certificate's time is over; the session is about to end as well.
    #[error("the certificate has expired")]
    Expired,
    /// What was asked for is no destination.
    #[error("{0}")]
    Destination(#[from] BadDestination),
    /// No rule says yes.
    #[error("no rule lets any of your principals reach this destination")]
    NoRule,
    /// One of the addresses is on the floor.
    #[error("this destination is at a forbidden address ({0})")]
    ForbiddenAddress(Forbidden),
}

impl Denied {
    /// The reason as logs, metrics and clients know it.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoPortForwarding => "no_permit_port_forwarding",
            Self::Expired => "expired",
            Self::Destination(BadDestination::Port) => "bad_port",
            Self::Destination(BadDestination::Host) => "bad_host",
            Self::Destination(BadDestination::Spelling) => "address_spelling",
            Self::NoRule => "no_rule",
            Self::ForbiddenAddress(_) => "forbidden_address",
        }
    }
}

/// Not yet a no: some rule may permit the destination, depending on its address.
#[derive(Debug)]
pub struct Prospect {
    identity: Arc<Identity>,
    destination: Destination,
    rules: Vec<Arc<Rule>>,
    floor: Arc<Floor>,
}

/// Asks the policy about a destination whose address is not known yet.
///
/// # Errors
/// When no address at all could make the answer a yes.
pub fn authorize(
    policy: &Policy,
    identity: &Arc<Identity>,
    destination: Destination,
    now: SystemTime,
) -> Result<Prospect, Denied> {
    if !identity.may_forward() {
        return Err(Denied::NoPortForwarding);
    }
    if now >= identity.valid_before() {
        return Err(Denied::Expired);
    }
    let rules: Vec<Arc<Rule>> = policy
        .rules
        .iter()
        .filter(|rule| rule.who.includes(identity) && rule.may_reach(&destination))
        .cloned()
        .collect();
    if rules.is_empty() {
        return Err(Denied::NoRule);
    }
    Ok(Prospect { identity: Arc::clone(identity), destination, rules, floor: Arc::clone(&policy.floor) })
}

impl Prospect {
    /// What is to be resolved.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Decides about all the addresses that the destination has. One forbidden address among them spoils all: whoever
    /// mixes them is trying something.
    ///
    /// # Errors
    /// When an address is on the floor, or no rule permits any of them.
    pub fn permit(self, addresses: &[IpAddr]) -> Result<Permit, Denied> {
        if let Some(forbidden) = addresses.iter().find_map(|address| self.floor.forbids(*address)) {
            return Err(Denied::ForbiddenAddress(forbidden));
        }
        for rule in self.rules {
            let reached: Vec<IpAddr> = addresses
                .iter()
                .map(IpAddr::to_canonical)
                .filter(|address| rule.reaches(&self.destination, *address))
                .collect();
            if !reached.is_empty() {
                return Ok(Permit {
                    identity: self.identity,
                    destination: self.destination,
                    addresses: reached,
                    rule,
                });
            }
        }
        Err(Denied::NoRule)
    }
}
