//! From a candidate to a connected socket: find the addresses, have every address checked, connect to whichever of them answers first.
//!
//! Nothing here runs in a session's own task, so a name that takes long to resolve holds up one channel alone.

pub(crate) mod endpoints;
pub(crate) mod resolver;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ssh_transport::race::{by_turns, race};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::access::{AddressSource, Candidate, Denied, Forbidden, Permit};
use crate::dial::endpoints::Endpoints;
use crate::dial::resolver::{ResolveError, Resolver};
use crate::process::own_addresses;

/// How targets are found and reached.
#[derive(Debug)]
pub(crate) struct Dialler {
    /// Finds their addresses.
    pub resolver: Resolver,
    /// Where Services lead, as it is now.
    pub endpoints: Arc<ArcSwap<Endpoints>>,
    /// How long connecting may take, to all of a target's addresses together.
    pub connect: Duration,
}

/// A connected target, and the permit to relay to it.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The socket.
    pub socket: TcpStream,
    /// The address it is connected to, which is one of the permit's.
    pub address: SocketAddr,
    /// What may be done with it.
    pub permit: Permit,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// The policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The name leads nowhere.
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
    /// The Service has nothing behind it.
    #[error("the Service has no endpoint that is ready")]
    NoEndpoints,
    /// Nobody listens there.
    #[error("the target refused the connection")]
    Refused,
    /// No answer from any of its addresses.
    #[error("the target does not answer")]
    ConnectTimeout,
    /// No way there, or none left on this side.
    #[error("the target cannot be reached: {0}")]
    Unreachable(io::ErrorKind),
}

impl DialError {
    /// The reason as logs, metrics and clients know it.
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
    /// Resolves, checks, connects.
    ///
    /// # Errors
    /// When the policy says no to what was found, or no address answers; of several addresses the last one's reason.
    pub(crate) async fn dial(&self, candidate: Candidate) -> Result<Dialled, DialError> {
        let found = self.find(&candidate).await?;
        let floor = Arc::clone(candidate.floor());
        let permit = permit(candidate, &found)?;
        let order = by_turns(permit.addresses());
        let (address, socket) = timeout(self.connect, race(&order, connect))
            .await
            .map_err(|_| DialError::ConnectTimeout)?
            .map_err(|last| last.unwrap_or(DialError::ConnectTimeout))?;
        // The last word is the kernel's: which addresses are its own may have changed since, and not every one is on an interface.
        let [local, peer] = [socket.local_addr(), socket.peer_addr()].map(|end| end.map_err(unreachable));
        match floor.forbids_ends(local?.ip(), peer?.ip()) {
            Some(reason) => Err(Denied::ForbiddenAddress(reason).into()),
            None => Ok(Dialled { socket, address, permit }),
        }
    }

    /// Finds the addresses of a destination, at least one.
    ///
    /// # Errors
    /// When there are none, or too many, or it takes too long.
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

/// Has every address checked that was found, beside those that the machine has at this moment.
///
/// # Errors
/// When the policy says no to them, or the machine does not tell what it has.
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
