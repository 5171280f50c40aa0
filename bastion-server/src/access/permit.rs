//! The permit: an identity, the checked addresses, an end and a rule. Only a permit opens a relay.

use std::{net::SocketAddr, sync::Arc};

use crate::identity::Identity;

use super::{policy::Rule, service::Backend};
use crate::destination::Destination;

/// A positive decision. Only [`Candidate::permit`](super::Candidate::permit) makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    pub(super) identity: Arc<Identity>,
    pub(super) destination: Destination,
    pub(super) backend: Option<Backend>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) rule: Arc<Rule>,
}

impl Permit {
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The checked addresses, of which the bastion connects to one. Never empty. For endpoints of a Service
    /// the port may differ from the destination's.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The name of the rule that permits the forward.
    pub(crate) fn rule(&self) -> &str {
        &self.rule.name
    }
}
