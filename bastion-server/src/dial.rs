//! Connects to a destination: finds its addresses, has every address checked, and connects to the one that
//! answers first.
//!
//! No code here runs in a session's own task, so a name that resolves slowly delays one channel alone.

pub(crate) mod endpoints;
pub(crate) mod resolver;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ssh_transport::race::{by_turns, race};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    access::{AddressSource, Candidate, Denied, Forbidden, Permit},
    dial::{
        endpoints::Endpoints,
        resolver::{ResolveError, Resolver},
    },
    process::own_addresses,
};

/// Finds and reaches targets.
#[derive(Debug)]
pub(crate) struct Dialler {
    /// Resolves the names of hosts.
    pub resolver: Resolver,
    /// The endpoints of Services at this moment.
    pub endpoints: Arc<ArcSwap<Endpoints>>,
    /// The longest time for connecting to all of a target's addresses together.
    pub connect: Duration,
}

/// A connected target, and the permit to relay to it.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub socket: TcpStream,
    /// The address of the connection, which is one of the permit's.
    pub address: SocketAddr,
    /// The permit that allows the relay.
    pub permit: Permit,
}

/// Why a target cannot be reached.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// The policy denies the destination.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The name has no usable address.
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
    /// The Service has no ready endpoints.
    #[error("the Service has no ready endpoint")]
    NoEndpoints,
    /// The target refused the connection.
    #[error("the target refused the connection")]
    Refused,
    /// None of the addresses answered in time.
    #[error("the target does not answer")]
    ConnectTimeout,
    /// The target is unreachable, or this machine has no socket left.
    #[error("the target cannot be reached: {0}")]
    Unreachable(io::ErrorKind),
}

impl DialError {
    /// The reason code in logs, metrics and messages to clients.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Unresolved(error) => error.code(),
            Self::NoEndpoints => "no_endpoints",
            Self::Refused => "connection_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

impl Dialler {
    /// Resolves the name, checks the addresses and connects.
    ///
    /// # Errors
    /// When the policy denies the addresses, or none answers; of several addresses the last one's error.
    pub(crate) async fn dial(&self, candidate: Candidate) -> Result<Dialled, DialError> {
        let found = self.find(&candidate).await?;
        let floor = Arc::clone(candidate.floor());
        let permit = permit(candidate, &found)?;
        let order = by_turns(permit.addresses());
        let (address, socket) = timeout(self.connect, race(&order, connect))
            .await
            .map_err(|_| DialError::ConnectTimeout)?
            .map_err(|last| last.unwrap_or(DialError::ConnectTimeout))?;
        // The kernel has the last word: the machine's own addresses may have changed since, and not every one
        // of them is on an interface.
        let [local, peer] = [socket.local_addr(), socket.peer_addr()].map(|end| end.map_err(unreachable));
        match floor.forbids_ends(local?.ip(), peer?.ip()) {
            Some(reason) => Err(Denied::ForbiddenAddress(reason).into()),
            None => Ok(Dialled { socket, address, permit }),
        }
    }

    /// Finds the addresses of a destination, at least one.
    ///
    /// # Errors
    /// When there is none, or too many, or it takes too long.
    pub(crate) async fn find(&self, candidate: &Candidate) -> Result<Vec<SocketAddr>, DialError> {
        match candidate.address_source() {
            AddressSource::Host(host) => {
                let port = candidate.destination().port();
                let addresses = self.resolver.addresses(host).await?;
                Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
            }
            AddressSource::Endpoints(backend) => match self.endpoints.load().of(backend) {
                none if none.is_empty() => Err(DialError::NoEndpoints),
                addresses => Ok(addresses),
            },
        }
    }
}

/// Checks every address that was found, against the machine's own addresses of this moment too.
///
/// # Errors
/// When the policy denies them, or the machine's own addresses cannot be listed.
pub(crate) fn permit(candidate: Candidate, found: &[SocketAddr]) -> Result<Permit, Denied> {
    let own = own_addresses::interfaces().map_err(|_| Denied::FloorUnknown(Forbidden::OwnAddresses))?;
    candidate.permit(found, &own)
}

async fn connect(address: SocketAddr, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    let connected = TcpStream::connect(address);
    let outcome = match limit {
        Some(limit) => timeout(limit, connected).await.map_err(|_| DialError::ConnectTimeout)?,
        None => connected.await,
    };
    let socket = outcome.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::ConnectTimeout,
        _ => unreachable(error),
    })?;
    socket.set_nodelay(true).map_err(unreachable)?;
    Ok(socket)
}

fn unreachable(error: io::Error) -> DialError {
    DialError::Unreachable(error.kind())
}
