//! Says which rule decides about a certificate and a destination, and why, without connecting.
//!
//! The verdict comes from the functions that decide for real clients; the explanation adds how each rule
//! applied.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;
use ssh_key::Certificate;

use crate::{
    access::{self, Denied, Effect, Permit, Policy},
    destination::Destination,
    dial::{self, DialError, Dialler},
    identity::{
        Identity,
        certificate::{self, Claim, Refused, Requirements},
    },
};

/// The question.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// The certificate that the client would offer.
    pub certificate: &'a Certificate,
    /// The login name and address of the client.
    pub claim: Claim<'a>,
    pub destination: Destination,
}

/// The answer with its explanation. Its `Display` is for people, its serialization for scripts.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    login: String,
    /// The client's address.
    source_address: IpAddr,
    key_id: String,
    serial: u64,
    principals: Vec<String>,
    destination: String,
    /// The addresses of the destination; empty if it was not resolved.
    addresses: Vec<IpAddr>,
    /// Every rule in its order; empty if the certificate is refused.
    rules: Vec<RuleView>,
    verdict: Verdict,
}

/// How one rule applied.
#[derive(Debug, Serialize)]
struct RuleView {
    name: String,
    effect: &'static str,
    /// Whether the rule applies to this identity.
    who: bool,
    /// Whether the rule applies to this destination.
    destination: bool,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The bastion would connect.
    Permitted {
        /// The rule that permits.
        rule: String,
    },
    /// The bastion would refuse the login.
    CertificateRefused {
        /// The reason's code.
        reason: &'static str,
        message: String,
    },
    /// The bastion would admit the client and refuse the forward.
    ForwardRefused {
        /// The reason's code.
        reason: &'static str,
        message: String,
    },
}

impl Explanation {
    pub(super) fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

/// Admits, resolves and authorizes as for a real client.
pub(super) async fn explain(
    question: Question<'_>,
    requirements: &Requirements,
    policy: &Policy,
    dialler: &Dialler,
    now: SystemTime,
) -> Explanation {
    let Question { certificate, claim, destination } = question;
    let mut explanation = Explanation {
        login: claim.login.as_str().to_owned(),
        source_address: claim.client,
        key_id: certificate.key_id().to_owned(),
        serial: certificate.serial(),
        principals: certificate.valid_principals().to_vec(),
        destination: destination.to_string(),
        addresses: Vec::new(),
        rules: Vec::new(),
        verdict: Verdict::Permitted { rule: String::new() },
    };
    explanation.verdict = match certificate::admit(certificate, claim, requirements, now) {
        Err(refused) => refused.into(),
        Ok(identity) => {
            let identity = Arc::new(identity);
            let mut found = Vec::new();
            let answer = decide(policy, &identity, &destination, dialler, now, &mut found).await;
            explanation.rules = seen(policy, &identity, &destination, &found);
            explanation.addresses = found.iter().map(SocketAddr::ip).collect();
            answer.map_or_else(Verdict::from, Verdict::from)
        }
    };
    explanation
}

/// As for a real client, a name is resolved only if a rule could permit it.
async fn decide(
    policy: &Policy,
    identity: &Arc<Identity>,
    destination: &Destination,
    dialler: &Dialler,
    now: SystemTime,
    found: &mut Vec<SocketAddr>,
) -> Result<Permit, DialError> {
    let candidate = access::authorize(policy, identity, destination.clone(), now)?;
    *found = dialler.find(&candidate).await?;
    Ok(dial::permit(candidate, found)?)
}

fn seen(
    policy: &Policy,
    identity: &Identity,
    destination: &Destination,
    addresses: &[SocketAddr],
) -> Vec<RuleView> {
    policy
        .rules()
        .map(|rule| RuleView {
            name: rule.name.clone(),
            effect: match rule.effect {
                Effect::Permit => "permit",
                Effect::Deny => "deny",
            },
            who: rule.who.includes(identity),
            destination: policy.is_about(rule, destination, addresses),
        })
        .collect()
}

impl From<Refused> for Verdict {
    fn from(refused: Refused) -> Self {
        Self::CertificateRefused { reason: refused.code(), message: refused.to_string() }
    }
}

impl From<Permit> for Verdict {
    fn from(permit: Permit) -> Self {
        Self::Permitted { rule: permit.rule().to_owned() }
    }
}

impl From<DialError> for Verdict {
    fn from(error: DialError) -> Self {
        Self::ForwardRefused { reason: error.code(), message: error.to_string() }
    }
}

impl From<Denied> for Verdict {
    fn from(denied: Denied) -> Self {
        DialError::from(denied).into()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.principals.iter().map(|name| name.escape_debug().to_string()).collect();
        writeln!(
            f,
            "certificate  key id {:?}, serial {}, principals {}",
            self.key_id,
            self.serial,
            names.join(", ")
        )?;
        writeln!(f, "login        {} from {}", self.login.escape_debug(), self.source_address)?;
        write!(f, "destination  {}", self.destination)?;
        for (number, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if number == 0 { " at " } else { ", " })?;
        }
        writeln!(f)?;
        let answer = |yes: bool| if yes { "yes" } else { "no" };
        for (number, rule) in self.rules.iter().enumerate() {
            writeln!(
                f,
                "rule {:<7} {:<6} who: {:<3}  destination: {:<3}  {}",
                number + 1,
                rule.effect,
                answer(rule.who),
                answer(rule.destination),
                rule.name.escape_debug(),
            )?;
        }
        match &self.verdict {
            Verdict::Permitted { rule } => write!(f, "verdict      permitted by {rule:?}"),
            Verdict::CertificateRefused { reason, message } => {
                write!(f, "verdict      the certificate is refused: {reason}: {message}")
            }
            Verdict::ForwardRefused { reason, message } => {
                write!(f, "verdict      the forward is refused: {reason}: {message}")
            }
        }
    }
}
