//! Who may reach what, at which addresses, until when, by which rule: the one thing that opens a relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::Identity;

use super::policy::Rule;
use super::service::Backend;
use crate::destination::Destination;

/// A yes. Made by [`Prospect::permit`](super::Prospect::permit) and by nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    pub(super) identity: Arc<Identity>,
    pub(super) destination: Destination,
    pub(super) backend: Option<Backend>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) rule: Arc<Rule>,
}

impl Permit {
    /// Who.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Where to, as it was asked for.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The addresses that were checked, of which one is to be connected to. Never empty. The port is another than the
    /// destination's where they are endpoints of a Service.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The rule that says so.
    pub fn rule(&self) -> &str {
        &self.rule.name
    }

    /// When it ends by itself: with the certificate.
    pub fn until(&self) -> SystemTime {
        self.identity.valid_before()
    }
}
