//! The addresses behind the ports of a cluster's Services, for whoever dials them.

use std::{collections::HashMap, net::SocketAddr};

use rand::seq::SliceRandom;

use crate::access::Backend;

/// The most endpoints that one connection is offered: those behind them wait for the next one.
const MOST_OFFERED: usize = 16;

/// Every endpoint that takes connections now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoints(HashMap<Backend, Vec<SocketAddr>>);

impl Endpoints {
    /// These.
    pub(crate) fn new(known: HashMap<Backend, Vec<SocketAddr>>) -> Self {
        Self(known)
    }

    /// How many addresses there are.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Some of those behind one port, in an order by chance, so that all of them get their share.
    pub(crate) fn of(&self, backend: &Backend) -> Vec<SocketAddr> {
        let mut addresses = self.0.get(backend).cloned().unwrap_or_default();
        addresses.shuffle(&mut rand::rng());
        addresses.truncate(MOST_OFFERED);
        addresses
    }
}
