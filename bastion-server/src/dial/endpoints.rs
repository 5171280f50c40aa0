//! Keeps the addresses behind the ports of the cluster's Services.

use std::{collections::HashMap, net::SocketAddr};

use rand::seq::SliceRandom;

use crate::access::Backend;

/// The most endpoints that one connection tries; the next connection draws others.
const MOST_OFFERED: usize = 16;

/// Every endpoint that is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoints(HashMap<Backend, Vec<SocketAddr>>);

impl Endpoints {
    pub(crate) fn new(known: HashMap<Backend, Vec<SocketAddr>>) -> Self {
        Self(known)
    }

    /// The number of addresses.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Returns some endpoints of a port in random order, so that all of them share the load.
    pub(crate) fn of(&self, backend: &Backend) -> Vec<SocketAddr> {
        let mut addresses = self.0.get(backend).cloned().unwrap_or_default();
        addresses.shuffle(&mut rand::rng());
        addresses.truncate(MOST_OFFERED);
        addresses
    }
}
