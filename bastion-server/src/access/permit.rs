//! Who may reach what, at which addresses, until when, by which rule: the one thing that opens a relay.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::identity::Identity;

use super::policy::Rule;
use super::service::Backend;
use crate::destination::Destination;

/// A yes. Made by [`Candidate::permit`](super::Candidate::permit) and by nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    pub(super) identity: Arc<Identity>,
    pub(super) destination: Destination,
    pub(super) backend: Option<Backend>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) rule: Arc<Rule>,
}

impl Permit {
    /// Who.
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The addresses that were checked, of which one is to be connected to. Never empty. The port is another than the
    /// destination's where they are endpoints of a Service.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The rule that says so.
    pub(crate) fn rule(&self) -> &str {
        &self.rule.name
    }
}
