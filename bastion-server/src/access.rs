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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::identity::Principal;
    use crate::identity::certificate::tests::admitted;

    fn rule(name: &str, who: &[&str], to: &[&str]) -> Arc<Rule> {
        Arc::new(Rule {
            name: name.to_owned(),
            who: Who::AnyOf(who.iter().map(|name| Principal::parse(name).unwrap()).collect()),
            to: to.iter().map(|to| to.parse().unwrap()).collect(),
        })
    }

    fn policy() -> Policy {
        Policy {
            rules: vec![
                rule("databases", &["dev", "dba"], &["*.db.internal:5432", "10.20.0.0/16:1024-65535"]),
                rule("everything", &["dba"], &["*:*"]),
            ],
            floor: Arc::new(Floor::default()),
        }
    }

    /// What comes of asking for `host:port` when the host is found at `addresses`.
    fn ask(
        principals: &[&str],
        host: &str,
        port: u32,
        addresses: &[&str],
    ) -> Result<(String, Vec<String>), Denied> {
        let identity = Arc::new(admitted(principals, true));
        let now = identity.valid_before() - Duration::from_secs(1);
        let prospect = authorize(&policy(), &identity, Destination::parse(host, port)?, now)?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let permit = prospect.permit(&addresses)?;
        Ok((permit.rule().to_owned(), permit.addresses().iter().map(IpAddr::to_string).collect()))
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
}
