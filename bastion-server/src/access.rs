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
pub use policy::{Condition, Effect, Policy, Rule, Who};

use pattern::{DestinationPattern, Match};
use policy::{covers, covers_at};

/// Why a forward is not permitted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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
    /// The certificate confines itself to other destinations.
    #[error("the certificate is confined to other destinations (permit-open)")]
    Confined,
    /// A rule says no.
    #[error("a rule denies this destination: {}", .0.name.escape_debug())]
    ByRule(Arc<Rule>),
    /// No rule says yes.
    #[error("no rule lets any of your principals reach this destination")]
    NoRule,
    /// One of the addresses is on the floor.
    #[error("this destination is at a forbidden address ({0})")]
    ForbiddenAddress(Forbidden),
}

impl Denied {
    /// The reason as logs, metrics and clients know it.
    pub fn code(&self) -> &'static str {
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
        }
    }

    /// The rule that says so, if one does.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::ByRule(rule) => Some(&rule.name),
            Self::NoPortForwarding
            | Self::Expired
            | Self::Destination(_)
            | Self::Confined
            | Self::NoRule
            | Self::ForbiddenAddress(_) => None,
        }
    }
}

/// Not yet a no: some rule may permit the destination, depending on its address.
#[derive(Debug)]
pub struct Prospect {
    identity: Arc<Identity>,
    destination: Destination,
    permitting: Vec<Arc<Rule>>,
    denying: Vec<Arc<Rule>>,
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
    if identity.confined_to().is_some_and(|patterns| covers(patterns, &destination) == Match::No) {
        return Err(Denied::Confined);
    }
    let about = |effect| {
        let concerns = |rule: &&Arc<Rule>| rule.effect == effect && rule.who.includes(identity);
        policy
            .rules
            .iter()
            .filter(concerns)
            .filter(|rule| covers(&rule.destinations, &destination) != Match::No)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (permitting, denying) = (about(Effect::Permit), about(Effect::Deny));
    if let Some(rule) = denying.iter().find(|rule| covers(&rule.destinations, &destination) == Match::Yes) {
        return Err(Denied::ByRule(Arc::clone(rule)));
    }
    if permitting.is_empty() {
        return Err(Denied::NoRule);
    }
    let floor = Arc::clone(&policy.floor);
    Ok(Prospect { identity: Arc::clone(identity), destination, permitting, denying, floor })
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
    /// When an address is on the floor or is denied, or no rule permits any of them.
    pub fn permit(self, addresses: &[IpAddr]) -> Result<Permit, Denied> {
        let Self { identity, destination, permitting, denying, floor } = self;
        let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        if let Some(forbidden) = addresses.iter().find_map(|address| floor.forbids(*address)) {
            return Err(Denied::ForbiddenAddress(forbidden));
        }
        let reached = |patterns: &[DestinationPattern]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|address| covers_at(patterns, &destination, *address)).collect()
        };
        if let Some(rule) = denying.into_iter().find(|rule| !reached(&rule.destinations).is_empty()) {
            return Err(Denied::ByRule(rule));
        }
        let confined = identity.confined_to().map(reached);
        if confined.as_ref().is_some_and(Vec::is_empty) {
            return Err(Denied::Confined);
        }
        for rule in permitting {
            let mut addresses = reached(&rule.destinations);
            if let Some(confined) = &confined {
                addresses.retain(|address| confined.contains(address));
            }
            if !addresses.is_empty() {
                return Ok(Permit { identity, destination, addresses, rule });
            }
        }
        Err(Denied::NoRule)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::access::pattern::KeyIdPattern;
    use crate::identity::Principal;
    use crate::identity::certificate::tests::{admitted, confined};

    fn rule(effect: Effect, name: &str, who: Who, destinations: &[&str]) -> Arc<Rule> {
        let destinations = destinations.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Rule { name: name.to_owned(), who, effect, destinations })
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
    fn a_rule_that_denies_beats_every_other_one() {
        let denied = |answer: Result<_, Denied>| match answer {
            Err(denied @ Denied::ByRule(_)) => denied.rule().map(str::to_owned),
            other => panic!("{other:?}"),
        };
        assert_eq!(denied(ask(&["dba"], "payroll.db.internal", 5432, &["10.9.0.1"])).unwrap(), "payroll");
        assert_eq!(denied(ask(&["dba"], "10.66.0.1", 80, &["10.66.0.1"])).unwrap(), "payroll");
        assert_eq!(denied(ask(&["dba"], "alias.internal", 80, &["10.66.0.1"])).unwrap(), "payroll");
        assert_eq!(
            denied(ask(&["dba"], "alias.internal", 80, &["10.9.0.1", "10.66.0.1"])).unwrap(),
            "payroll"
        );
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
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            authorize(&policy(), &identity, Destination::parse(host, port)?, UNIX_EPOCH)?
                .permit(&addresses)
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
